// What a card can compute, measured: kernels that do nothing but multiply and add, with all operands in registers. Nothing of COIN is
// in them; floors of other kernels are held against their rates (src/device/cuda/peak.rs).
//
//     peak_fma    x = x * a + b in float32, CHAINS values a thread
//     peak_mma    C += A B on tensor cores, with the instruction of tensor_core.cuh, CHAINS tiles of 16 x 8 a warp
//
// Each thread's chains do not depend on each other, which hides the units' latency. What is computed is written, so that no compiler
// takes it away: `out` has a float for each thread.
//
// Launch: grid any, block 256, no dynamic shared memory. They are the floor: FLOPs of peak_fma 2 * CHAINS * rounds a thread; peak_mma
// 2 * 16 * 8 * 8 * CHAINS * rounds a warp.

#include "tensor_core.cuh"

constexpr int CHAINS = 8;

extern "C" __global__ void __launch_bounds__(256)
peak_fma(float *__restrict__ out, unsigned rounds, float a, float b) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    float x[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) x[i] = static_cast<float>(thread + i);
    for (unsigned round = 0; round < rounds; round++) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) x[i] = fmaf(x[i], a, b);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sum += x[i];
    out[thread] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
peak_mma(float *__restrict__ out, unsigned rounds, float a, float b) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned left = pack(a, a), right = pack(b, b);
    float c[CHAINS][4];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) c[i][j] = static_cast<float>(i);
    }
    for (unsigned round = 0; round < rounds; round++) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) multiply_add(c[i], left, left, right);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
    out[thread] = sum;
}
