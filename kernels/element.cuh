// What the values of rows and pairs (activations and their gradients) are in memory: float32, or f16 in mixed precision. Whatever is
// computed of them is computed in float32. A value that f16 cannot hold becomes infinite when it is stored, so that what scales the
// loss sees it.
//
// What heads of kernels that are for both say of bytes is of float32: rows and pairs in f16 move half of theirs.
//
// Kernels of both come as `name` and, with the same arguments, `name_f16`: FOR_ELEMENTS(DEFINE) says DEFINE(Element, suffix) for each.
#pragma once

#include <cuda_fp16.h>

#define FOR_ELEMENTS(DEFINE)                                                                                                            \
    DEFINE(float, )                                                                                                                      \
    DEFINE(__half, _f16)

__device__ __forceinline__ float widen(float x) {
    return x;
}

__device__ __forceinline__ float widen(__half x) {
    return __half2float(x);
}

template <class Element> __device__ __forceinline__ Element narrow(float x);

template <> __device__ __forceinline__ float narrow<float>(float x) {
    return x;
}

template <> __device__ __forceinline__ __half narrow<__half>(float x) {
    return __float2half(x);
}

// Two values as a word, the first in the lower half.
__device__ __forceinline__ unsigned pack(float first, float second) {
    const __half2 both = __floats2half2_rn(first, second);
    return *reinterpret_cast<const unsigned *>(&both);
}

__device__ __forceinline__ float2 unpack(unsigned both) {
    return __half22float2(*reinterpret_cast<const __half2 *>(&both));
}
