// What kernels with a softmax share.
#pragma once

// e^x, held at e^-87, the smallest that is a normal number: no probability is 0 in float32, as on the CPU. (f16 ends at 2^-24.) A NaN
// stays one: fmaxf would hide it.
__device__ __forceinline__ float held_exp(float x) {
    return expf(x < -87.0f ? -87.0f : x);
}
