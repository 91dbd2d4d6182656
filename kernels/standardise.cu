// Z-standardisation of the features as they were read (src/data/standardise.rs): `to = (from - mean) / deviation`, in float64, then float.
//
//     from [N, D] float64, to [N, D], mean, deviation [D] float64
//
// Of one run, whose pointers these are: once when it begins.
//
// A block has a row, its threads every 256th column; nothing is kept.
//
// Launch: grid (N, 1, 1), block 256, no dynamic shared memory. Floor: N * D * 12 bytes, mean and deviation from L2, or N * D divisions in
// float64, of which Turing makes few: the copy of the features from the host takes longer than either.

extern "C" __global__ void __launch_bounds__(256)
standardise(
    float *__restrict__ to, const double *__restrict__ from, const double *__restrict__ mean, const double *__restrict__ deviation,
    unsigned width) {
    const size_t row = static_cast<size_t>(blockIdx.x) * width;
    for (unsigned column = threadIdx.x; column < width; column += blockDim.x) {
        to[row + column] = static_cast<float>((from[row + column] - mean[column]) / deviation[column]);
    }
}
