// Softmax over rows of which only a beginning counts.
//
//     y[i, j] = exp(x[i, j] - max) / sum over j' < length of exp(x[i, j'] - max)      for j < length = lengths[i]
//     y[i, j] = 0                                                                     for the others
//
// x and y are [rows, width]; 0 <= length <= width. What lies after a row's length is not read. A row of length 0 gives zeros.
//
//     softmax_narrow   f32, width <= 256.  A warp takes a row: its values stay in registers, the warp's lanes meet in shuffles.
//     softmax_wide     f32, any width.     A block takes a row: its values stay in dynamic shared memory (4 bytes each), each warp
//                                          reduces by shuffles and leaves its result in static shared memory for all.
//     softmax_pairs    f16, width <= 512 and even. As softmax_narrow, with pairs of halves as the unit of access. f32 between.
//
// Launch: narrow and pairs: grid ceil(rows / 4), block 128.
//         wide: grid rows, block any multiple of 32 up to 1024, 4 * width bytes of dynamic shared memory.
// Registers on sm_75 (nvcc 13.0): 32, 18 and 48, no spills.

#include <cuda_fp16.h>

constexpr unsigned ALL = 0xffffffff;
// Rows that a block of the kernels with a warp a row takes, and values or pairs that a lane holds.
constexpr int ROWS = 4;
constexpr int HELD = 8;

// Every lane gets the result, and every lane the same one: lane i adds the same two numbers as lane i ^ distance.
__device__ __forceinline__ float warp_maximum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(ALL, value, distance));
    return value;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL, value, distance);
    return value;
}

// 1 / sum, and 0 for a row without values.
__device__ __forceinline__ float scale_of(float sum) {
    return sum > 0.0f ? 1.0f / sum : 0.0f;
}

extern "C" __global__ void __launch_bounds__(32 * ROWS)
softmax_narrow(const float *__restrict__ x, float *__restrict__ y, const int *__restrict__ lengths, int rows, int width) {
    const int lane = threadIdx.x % 32, row = blockIdx.x * ROWS + threadIdx.x / 32;
    // The whole warp leaves, and there is no barrier for it to miss.
    if (row >= rows) return;
    const int length = lengths[row];
    x += static_cast<size_t>(row) * width;
    y += static_cast<size_t>(row) * width;

    float values[HELD];
    float maximum = -INFINITY;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int column = lane + i * 32;
        values[i] = column < length ? x[column] : -INFINITY;
        maximum = fmaxf(maximum, values[i]);
    }
    maximum = warp_maximum(maximum);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        // Of a row of length 0 the difference would be NaN.
        values[i] = lane + i * 32 < length ? expf(values[i] - maximum) : 0.0f;
        sum += values[i];
    }
    const float scale = scale_of(warp_sum(sum));
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        if (lane + i * 32 < width) y[lane + i * 32] = values[i] * scale;
    }
}

extern "C" __global__ void __launch_bounds__(1024)
softmax_wide(const float *__restrict__ x, float *__restrict__ y, const int *__restrict__ lengths, int width) {
    extern __shared__ float values[];
    __shared__ float maxima[32], sums[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int length = lengths[blockIdx.x];
    x += static_cast<size_t>(blockIdx.x) * width;
    y += static_cast<size_t>(blockIdx.x) * width;

    float maximum = -INFINITY;
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        values[i] = x[i];
        maximum = fmaxf(maximum, values[i]);
    }
    maximum = warp_maximum(maximum);
    if (lane == 0) maxima[warp] = maximum;
    __syncthreads();
    maximum = warp_maximum(lane < warps ? maxima[lane] : -INFINITY);

    float sum = 0.0f;
    // Each thread meets its own values only: no barrier is needed for them.
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        values[i] = expf(values[i] - maximum);
        sum += values[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    const float scale = scale_of(warp_sum(lane < warps ? sums[lane] : 0.0f));
    for (int i = threadIdx.x; i < width; i += blockDim.x) y[i] = i < length ? values[i] * scale : 0.0f;
}

extern "C" __global__ void __launch_bounds__(32 * ROWS)
softmax_pairs(const __half *__restrict__ x, __half *__restrict__ y, const int *__restrict__ lengths, int rows, int width) {
    const int lane = threadIdx.x % 32, row = blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= rows) return;
    const int length = lengths[row];
    // The width is even: a row begins with a whole pair.
    x += static_cast<size_t>(row) * width;
    __half2 *const pairs = reinterpret_cast<__half2 *>(y + static_cast<size_t>(row) * width);

    float2 values[HELD];
    float maximum = -INFINITY;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int column = (lane + i * 32) * 2;
        values[i] = make_float2(-INFINITY, -INFINITY);
        if (column + 1 < length) {
            values[i] = __half22float2(*reinterpret_cast<const __half2 *>(x + column));
        } else if (column < length) {
            values[i].x = __half2float(x[column]);
        }
        maximum = fmaxf(maximum, fmaxf(values[i].x, values[i].y));
    }
    maximum = warp_maximum(maximum);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int column = (lane + i * 32) * 2;
        values[i].x = column < length ? expf(values[i].x - maximum) : 0.0f;
        values[i].y = column + 1 < length ? expf(values[i].y - maximum) : 0.0f;
        sum += values[i].x + values[i].y;
    }
    const float scale = scale_of(warp_sum(sum));
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        if ((lane + i * 32) * 2 < width) pairs[lane + i * 32] = __floats2half2_rn(values[i].x * scale, values[i].y * scale);
    }
}
