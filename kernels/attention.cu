// The parts of attention that are no matrix product (step 4; src/ops/attention), on the ragged n x n blocks of probabilities.
//
//     softmax_rows             p = softmax(scale * p) of every row, in place
//     softmax_rows_backward    d = scale * p * (d - p . d) of every row, in place in d
//     add_rows                 to += from, [R, width]
//
// The block of sample s begins at `pairs[s]`; its n rows of n values belong to the sample-major rows from `offset[s]` on. All values
// are float, or f16 in the kernels `_f16`: e bytes each, 4 or 2. What is computed is float32.
//
// softmax_*: a warp has a row. Up to 128 values (backward of both operands) stay in the lanes' registers, four each, so that a row is
// read once; a longer one is read again from L1. Sums and the maximum go by shuffles. add_rows: a thread has four values, in registers.
// Nothing is in shared memory.
//
// This is for windows that window_attention.cu and window_attention_f32.cu have no room for.
//
// Launch: block 256, no dynamic shared memory.
//     softmax_rows, softmax_rows_backward: grid (ceil(rows / 8), 1, runs) of the capacity
//     add_rows: grid (ceil(rows * width / 1024), 1, runs) of the capacity; both pointers aligned to 16 bytes
// Floor: memory. Bytes, with P values in all blocks together: softmax_rows 2P e, backward 3P e, add_rows 3 R width e; indices, some
// words a row, are not counted. FLOPs a value, which hide behind them: softmax_rows 4 and an exponential, backward 5, add_rows 1.

#include "batch.cuh"
#include "quad.cuh"
#include "softmax.cuh"
#include "warp.cuh"

constexpr unsigned WARPS = 8;
// Values that a lane holds of a row that stays in registers.
constexpr unsigned HELD = 4;

struct Row {
    size_t start;
    unsigned n;
};

// This warp's row; none where n is 0.
__device__ __forceinline__ Row row_of(
    const unsigned *pairs, const unsigned *offset, const unsigned *owner, const Header *header, size_t run_stride) {
    const unsigned row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= of_run(header, run_stride)->rows) return {0, 0};
    offset = of_run(offset, run_stride);
    const unsigned sample = of_run(owner, run_stride)[row], first = offset[sample], n = offset[sample + 1] - first;
    return {of_run(pairs, run_stride)[sample] + static_cast<size_t>(row - first) * n, n};
}

namespace generic {

template <class Element>
__device__ __forceinline__ void softmax_rows(
    Element *__restrict__ p,              // n x n by sample
    const unsigned *__restrict__ pairs,   // [S + 1]
    const unsigned *__restrict__ offset,  // [S + 1]
    const unsigned *__restrict__ owner,   // [R]
    const Header *__restrict__ header,
    float scale,
    size_t run_stride) {
    const Row row = row_of(pairs, offset, owner, header, run_stride);
    // The whole warp leaves, and there is no barrier for it to miss.
    if (row.n == 0) return;
    const unsigned lane = threadIdx.x % 32, n = row.n;
    p = of_run(p, run_stride) + row.start;
    float largest = -INFINITY, sum = 0.0f;
    if (n <= 32 * HELD) {
        float values[HELD];
#pragma unroll
        for (unsigned i = 0; i < HELD; i++) {
            const unsigned j = lane + 32 * i;
            values[i] = j < n ? widen(p[j]) : -INFINITY;
            largest = fmaxf(largest, values[i]);
        }
        largest = warp_maximum(largest);
#pragma unroll
        for (unsigned i = 0; i < HELD; i++) {
            if (lane + 32 * i >= n) continue;
            values[i] = held_exp((values[i] - largest) * scale);
            sum += values[i];
        }
        const float inverse = 1.0f / warp_sum(sum);
#pragma unroll
        for (unsigned i = 0; i < HELD; i++) {
            if (lane + 32 * i < n) p[lane + 32 * i] = narrow<Element>(values[i] * inverse);
        }
        return;
    }
    // Every lane comes back to its own values only.
    for (unsigned j = lane; j < n; j += 32) largest = fmaxf(largest, widen(p[j]));
    largest = warp_maximum(largest);
    for (unsigned j = lane; j < n; j += 32) sum += held_exp((widen(p[j]) - largest) * scale);
    const float inverse = 1.0f / warp_sum(sum);
    for (unsigned j = lane; j < n; j += 32) p[j] = narrow<Element>(held_exp((widen(p[j]) - largest) * scale) * inverse);
}

}  // namespace generic

#define SOFTMAX_ROWS(Element, suffix)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) softmax_rows##suffix(                                                      \
        Element *__restrict__ p, const unsigned *__restrict__ pairs, const unsigned *__restrict__ offset,                               \
        const unsigned *__restrict__ owner, const Header *__restrict__ header, float scale, size_t run_stride) {                        \
        generic::softmax_rows(p, pairs, offset, owner, header, scale, run_stride);                                                      \
    }

FOR_ELEMENTS(SOFTMAX_ROWS)

namespace generic {

template <class Element>
__device__ __forceinline__ void softmax_rows_backward(
    Element *__restrict__ d,              // n x n by sample: the gradient at the probabilities
    const Element *__restrict__ p,        // n x n by sample
    const unsigned *__restrict__ pairs,   // [S + 1]
    const unsigned *__restrict__ offset,  // [S + 1]
    const unsigned *__restrict__ owner,   // [R]
    const Header *__restrict__ header,
    float scale,
    size_t run_stride) {
    const Row row = row_of(pairs, offset, owner, header, run_stride);
    if (row.n == 0) return;
    const unsigned lane = threadIdx.x % 32, n = row.n;
    d = of_run(d, run_stride) + row.start;
    p = of_run(p, run_stride) + row.start;
    float dot = 0.0f;
    if (n <= 32 * HELD) {
        float probability[HELD], gradient[HELD];
#pragma unroll
        for (unsigned i = 0; i < HELD; i++) {
            const unsigned j = lane + 32 * i;
            probability[i] = j < n ? widen(p[j]) : 0.0f;
            gradient[i] = j < n ? widen(d[j]) : 0.0f;
            dot += probability[i] * gradient[i];
        }
        dot = warp_sum(dot);
#pragma unroll
        for (unsigned i = 0; i < HELD; i++) {
            if (lane + 32 * i < n) d[lane + 32 * i] = narrow<Element>(scale * probability[i] * (gradient[i] - dot));
        }
        return;
    }
    for (unsigned j = lane; j < n; j += 32) dot += widen(p[j]) * widen(d[j]);
    dot = warp_sum(dot);
    for (unsigned j = lane; j < n; j += 32) d[j] = narrow<Element>(scale * widen(p[j]) * (widen(d[j]) - dot));
}

}  // namespace generic

#define SOFTMAX_ROWS_BACKWARD(Element, suffix)                                                                                          \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) softmax_rows_backward##suffix(                                             \
        Element *__restrict__ d, const Element *__restrict__ p, const unsigned *__restrict__ pairs,                                     \
        const unsigned *__restrict__ offset, const unsigned *__restrict__ owner, const Header *__restrict__ header, float scale,        \
        size_t run_stride) {                                                                                                            \
        generic::softmax_rows_backward(d, p, pairs, offset, owner, header, scale, run_stride);                                          \
    }

FOR_ELEMENTS(SOFTMAX_ROWS_BACKWARD)

namespace generic {

template <class Element>
__device__ __forceinline__ void add_rows(
    Element *__restrict__ to,           // [R, width]
    const Element *__restrict__ from,   // [R, width]
    const Header *__restrict__ header,
    unsigned width,
    size_t run_stride) {
    const size_t size = static_cast<size_t>(of_run(header, run_stride)->rows) * width;
    const size_t first = 4 * (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x);
    if (first >= size) return;
    to = of_run(to, run_stride) + first;
    from = of_run(from, run_stride) + first;
    if (first + 4 <= size) {
        const float4 a = load_four(to), b = load_four(from);
        store_four(to, {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w});
    } else {
        for (size_t i = 0; i < size - first; i++) to[i] = narrow<Element>(widen(to[i]) + widen(from[i]));
    }
}

}  // namespace generic

#define ADD_ROWS(Element, suffix)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) add_rows##suffix(                                                                 \
        Element *__restrict__ to, const Element *__restrict__ from, const Header *__restrict__ header, unsigned width,                  \
        size_t run_stride) {                                                                                                            \
        generic::add_rows(to, from, header, width, run_stride);                                                                         \
    }

FOR_ELEMENTS(ADD_ROWS)
