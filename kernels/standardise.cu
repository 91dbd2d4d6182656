// Z-standardisation of the features as they were read (src/data/standardise.rs): `to = (from - mean) / deviation`, in float64, then float.
//
//     from [N, D] float64, to [N, D], mean, deviation [D] float64
//
// Of one run, whose pointers these are: once when it begins.
//
// Launch: grid (N, 1, 1), block 256, no dynamic shared memory. Bytes: N * D * 12, and mean and deviation from L2.

extern "C" __global__ void __launch_bounds__(256)
standardise(
    float *__restrict__ to, const double *__restrict__ from, const double *__restrict__ mean, const double *__restrict__ deviation,
    unsigned width) {
    const size_t row = static_cast<size_t>(blockIdx.x) * width;
    for (unsigned column = threadIdx.x; column < width; column += blockDim.x) {
        to[row + column] = static_cast<float>((from[row + column] - mean[column]) / deviation[column]);
    }
}
