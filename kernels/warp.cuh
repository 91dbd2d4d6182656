// Reductions over a warp. Every lane gets the result, and every lane the same bits: lane i adds the same two numbers as lane
// i ^ distance.
#pragma once

constexpr unsigned ALL_LANES = 0xffffffffu;

template <class T> __device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

__device__ __forceinline__ float warp_maximum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

// The sum, or the maximum, of what four lanes have, so far apart.
template <unsigned APART> __device__ __forceinline__ float sum_of_four(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, APART);
    return value + __shfl_xor_sync(ALL_LANES, value, 2 * APART);
}

template <unsigned APART> __device__ __forceinline__ float maximum_of_four(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, APART));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2 * APART));
}

__device__ __forceinline__ double warp_maximum(double value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value = fmax(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}
