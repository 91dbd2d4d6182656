// What kernels with a softmax share.
#pragma once

#include "warp.cuh"

// e^x, held at e^-87, the smallest that is a normal number: no probability is 0 in float32, as on the CPU. (f16 ends at 2^-24.) A NaN
// stays one: fmaxf would hide it.
__device__ __forceinline__ float held_exp(float x) {
    return expf(x < -87.0f ? -87.0f : x);
}

// The softmax of n values in shared memory. Every warp finds the largest and the sum by itself, which costs less than telling.
struct Softmax {
    const float *values;
    float largest, inverse;

    __device__ __forceinline__ Softmax(const float *values, unsigned n) : values(values), largest(-INFINITY) {
        const unsigned lane = threadIdx.x % 32;
        for (unsigned j = lane; j < n; j += 32) largest = fmaxf(largest, values[j]);
        largest = warp_maximum(largest);
        float sum = 0.0f;
        for (unsigned j = lane; j < n; j += 32) sum += held_exp(values[j] - largest);
        inverse = 1.0f / warp_sum(sum);
    }

    __device__ __forceinline__ float operator[](unsigned j) const { return held_exp(values[j] - largest) * inverse; }
};
