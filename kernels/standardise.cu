// Z-standardisation of the features as they were read (src/data/standardise.rs): `to = (from - mean) / deviation`, in float64, then float.
//
//     standardise_f32, standardise_f64    by the type of `from`; from, to [N, D], mean, deviation [D]
//
// Features are shared by all runs, so there is no stride between runs. Once a training run.
//
// Launch: grid (N, 1, 1), block 256, no dynamic shared memory. Bytes: N * D * 8 from f32 and 12 from f64, and mean and deviation from L2.

template <class T>
__device__ __forceinline__ void standardise_row(float *to, const T *from, const double *mean, const double *deviation, unsigned width) {
    const size_t row = static_cast<size_t>(blockIdx.x) * width;
    for (unsigned column = threadIdx.x; column < width; column += blockDim.x) {
        to[row + column] = static_cast<float>((static_cast<double>(from[row + column]) - mean[column]) / deviation[column]);
    }
}

extern "C" __global__ void __launch_bounds__(256)
standardise_f32(
    float *__restrict__ to, const float *__restrict__ from, const double *__restrict__ mean, const double *__restrict__ deviation,
    unsigned width) {
    standardise_row(to, from, mean, deviation, width);
}

extern "C" __global__ void __launch_bounds__(256)
standardise_f64(
    float *__restrict__ to, const double *__restrict__ from, const double *__restrict__ mean, const double *__restrict__ deviation,
    unsigned width) {
    standardise_row(to, from, mean, deviation, width);
}
