// Speaker mutual interaction (step 3, eq. 1; src/ops/interaction): `m_i = h_i^P * s(h_Q W_Q + b_Q)`, dropout's mask on m fused.
//
// The gates s(..) of all states come from a matrix product before; `other[direction][i]` says which state's gate step i reads, and
// NONE that the other role has been silent so far: its state is zero and its gate s(b_Q).
//
//     interaction              m[i] = drop(hidden[own[i]] * gate[other[i]])
//     interaction_backward     d_m  = drop(d_m), the same mask
//                              d_hidden[own[i]] = d_m[i] * gate[other[i]]
//                              d_gate[j] = (sum of d_m[i] * hidden[own[i]] over the readers i of j) * gate[j] * (1 - gate[j])
//     interaction_silent       silent_gradient[s] = (sum of d_m[i] * hidden[own[i]] over the silent rows i of s) * s'(b_Q)
//     interaction_silent_sum   d_bias[role][direction] += sum of silent_gradient[s] over the samples in which that role was silent
//
// m, d_m [R, 2d] sample-major; hidden, gate, d_hidden, d_gate [R, 2d] role-major: float, or f16 in the kernels `_f16`, e bytes an
// element, 4 or 2. silent_gradient [S, 2d] and biases float; what is computed is float32. Columns 0..d are the forward
// direction. With `enabled` 0 (the paper's ablation) m = drop(hidden[own]), d_hidden = drop(d_m), and d_gate is not touched.
//
// The four biases lie `bias_stride` floats apart in the order [role][direction], as the parameters lie (d * d + d); those of
// gradients too.
//
// A thread has four columns of one row (quad.cuh), or of one sample, in registers with their sums. A quad that both directions share
// (d no multiple of four) is fetched column by column.
// The readers of a state are contiguous rows, so d_gate is gathered, in order, without atomics; its mask is drawn again, which is
// cheaper than a pass that writes masked d_m. interaction_silent_sum: a block has 32 columns of one role, a lane a column, a warp every
// eighth sample; the eight warps' sums meet in shared memory (1 KiB), in order. The others have none.
//
// Launch: block 256, no dynamic shared memory; counts are capacities.
//     interaction:            grid (ceil(rows * ceil(d / 2) / 256), 1, runs)
//     interaction_backward:   grid (ceil(rows * ceil(d / 2) / 256), 2, runs); blockIdx.y is 0 for d_hidden and 1 for d_gate
//     interaction_silent:     grid (ceil(samples * ceil(d / 2) / 256), 1, runs)
//     interaction_silent_sum: grid (ceil(2d / 32), 2, runs); blockIdx.y is the role
// Floor: memory. Bytes: interaction R * 6d e, backward R * 10d e (d_m and gate, which it reads twice, count once: the second time they
// come mostly from L2), both R * 4d e with `enabled` 0; the silent ones S * 8d each. Not counted: what interaction_silent reads of d_m
// and hidden in silent rows, and indices, some words a row. FLOPs, with a mask's multiplication: interaction 4 R d, backward at most
// 16 R d, with `enabled` 0 2 R d each; interaction_silent 3 a column of a silent row and 3 a column of a sample,
// interaction_silent_sum 4 S d. With Philox, twice in the backward pass (dropout.cu), they hide behind memory.

#include "batch.cuh"
#include "philox.cuh"
#include "quad.cuh"

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// What tells a row's gates.
template <class Element> struct Gates {
    const Element *gate;       // [R, 2d]
    const float *bias;         // [2, 2] of [d], bias_stride apart
    unsigned bias_stride;
    const unsigned *other;     // [2, capacity_rows]
    unsigned capacity_rows;
    unsigned d;

    __device__ __forceinline__ float of_silent(unsigned role, unsigned direction, unsigned column) const {
        return sigmoid(bias[static_cast<size_t>(role * 2 + direction) * bias_stride + column - direction * d]);
    }

    // The gates that sample-major row `row` reads; `quiet` is the role that does not speak there.
    __device__ __forceinline__ Quad read(unsigned row, unsigned quad, unsigned quiet) const {
        const unsigned width = 2 * d, column = 4 * quad;
        const unsigned direction = column >= d;
        const unsigned state = other[direction * capacity_rows + row];
        if (direction == (min(column + 3, width - 1) >= d) && state != NONE) {
            return load_quad(gate + static_cast<size_t>(state) * width, quad, width);
        }
        Quad values = {};
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if (column + i >= width) break;
            const unsigned direction = column + i >= d;
            const unsigned state = other[direction * capacity_rows + row];
            values.x[i] = state == NONE ? of_silent(quiet, direction, column + i) : widen(gate[static_cast<size_t>(state) * width + column + i]);
        }
        return values;
    }
};

namespace generic {

template <class Element>
__device__ __forceinline__ void interaction(
    Element *__restrict__ m,              // [R, 2d] sample-major
    const Element *__restrict__ hidden,   // [R, 2d] role-major
    const Element *__restrict__ gate,     // [R, 2d] role-major
    const float *__restrict__ bias,       // [2, 2] of [d]
    const unsigned *__restrict__ other,   // [2, capacity_rows]
    const unsigned *__restrict__ own,     // [R]
    const unsigned *__restrict__ owner,   // [R]
    const unsigned *__restrict__ offset,  // [S + 1]
    const unsigned *__restrict__ target,  // [S]
    const Header *__restrict__ header,
    unsigned word,
    unsigned enabled,
    unsigned d,
    unsigned bias_stride,
    unsigned capacity_rows,
    size_t run_stride) {
    header = of_run(header, run_stride);
    const unsigned width = 2 * d, quads = quads_of(width);
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = item / quads, quad = item % quads;
    if (row >= header->rows) return;

    const unsigned state = of_run(own, run_stride)[row];
    Quad values = load_quad(of_run(hidden, run_stride) + static_cast<size_t>(state) * width, quad, width);
    if (enabled) {
        const Gates<Element> gates = {of_run(gate, run_stride), of_run(bias, run_stride), bias_stride, of_run(other, run_stride), capacity_rows, d};
        const unsigned quiet = state < header->rows_a;
        const Quad factors = gates.read(row, quad, quiet);
#pragma unroll
        for (int i = 0; i < 4; i++) values.x[i] *= factors.x[i];
    }
    if (drops(*header)) {
        const unsigned sample = of_run(owner, run_stride)[row];
        const unsigned first = of_run(offset, run_stride)[sample];
        drop(values, *header, word, of_run(target, run_stride)[sample], row - first, quads, quad);
    }
    store_quad(of_run(m, run_stride) + static_cast<size_t>(row) * width, quad, width, values);
}

}  // namespace generic

#define INTERACTION(Element, suffix)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) interaction##suffix(                                                              \
        Element *__restrict__ m, const Element *__restrict__ hidden, const Element *__restrict__ gate, const float *__restrict__ bias,  \
        const unsigned *__restrict__ other, const unsigned *__restrict__ own, const unsigned *__restrict__ owner,                       \
        const unsigned *__restrict__ offset, const unsigned *__restrict__ target, const Header *__restrict__ header, unsigned word,     \
        unsigned enabled, unsigned d, unsigned bias_stride, unsigned capacity_rows, size_t run_stride) {                                \
        generic::interaction(m, hidden, gate, bias, other, own, owner, offset, target, header, word, enabled, d, bias_stride,           \
            capacity_rows, run_stride);                                                                                                 \
    }

FOR_ELEMENTS(INTERACTION)

// d_m of one quad of a sample's row, masked.
template <class Element> struct MaskedGradient {
    const Element *d_m;  // [R, 2d] sample-major
    const Header &header;
    unsigned word, target, first, width, quads;

    __device__ __forceinline__ Quad read(unsigned row, unsigned quad) const {
        Quad values = load_quad(d_m + static_cast<size_t>(row) * width, quad, width);
        drop(values, header, word, target, row - first, quads, quad);
        return values;
    }
};

// Adds d_m * hidden of `count` rows from `begin` on, of the columns that lie in `direction` only.
template <class Element>
__device__ __forceinline__ void sum_rows(
    Quad &sum, const MaskedGradient<Element> &gradient, const Element *hidden, const unsigned *own, unsigned begin, unsigned count, unsigned quad,
    unsigned direction, unsigned d) {
    for (unsigned row = begin; row < begin + count; row++) {
        const Quad d_m = gradient.read(row, quad);
        const Quad h = load_quad(hidden + static_cast<size_t>(own[row]) * 2 * d, quad, 2 * d);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if ((4 * quad + i >= d) == direction) sum.x[i] += d_m.x[i] * h.x[i];
        }
    }
}

namespace generic {

template <class Element>
__device__ __forceinline__ void interaction_backward(
    Element *__restrict__ d_hidden,       // [R, 2d] role-major
    Element *__restrict__ d_gate,         // [R, 2d] role-major
    const Element *__restrict__ d_m,      // [R, 2d] sample-major
    const Element *__restrict__ hidden,   // [R, 2d] role-major
    const Element *__restrict__ gate,     // [R, 2d] role-major
    const float *__restrict__ bias,       // [2, 2] of [d]
    const unsigned *__restrict__ other,   // [2, capacity_rows]
    const uint2 *__restrict__ readers,    // [2, capacity_rows]: first row, count
    const unsigned *__restrict__ own,     // [R]
    const unsigned *__restrict__ owner,   // [R]
    const unsigned *__restrict__ offset,  // [S + 1]
    const unsigned *__restrict__ target,  // [S]
    const Header *__restrict__ header,
    unsigned word,
    unsigned enabled,
    unsigned d,
    unsigned bias_stride,
    unsigned capacity_rows,
    size_t run_stride) {
    header = of_run(header, run_stride);
    const unsigned width = 2 * d, quads = quads_of(width);
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = item / quads, quad = item % quads;
    if (row >= header->rows) return;
    own = of_run(own, run_stride);
    owner = of_run(owner, run_stride);
    offset = of_run(offset, run_stride);
    target = of_run(target, run_stride);
    d_m = of_run(d_m, run_stride);
    gate = of_run(gate, run_stride);

    if (blockIdx.y == 0) {
        const unsigned state = own[row], sample = owner[row];
        const MaskedGradient<Element> gradient = {d_m, *header, word, target[sample], offset[sample], width, quads};
        Quad values = gradient.read(row, quad);
        if (enabled) {
            const Gates<Element> gates = {gate, of_run(bias, run_stride), bias_stride, of_run(other, run_stride), capacity_rows, d};
            const unsigned quiet = state < header->rows_a;
            const Quad factors = gates.read(row, quad, quiet);
#pragma unroll
            for (int i = 0; i < 4; i++) values.x[i] *= factors.x[i];
        }
        store_quad(of_run(d_hidden, run_stride) + static_cast<size_t>(state) * width, quad, width, values);
        return;
    }
    if (!enabled) return;
    hidden = of_run(hidden, run_stride);
    readers = of_run(readers, run_stride);
    Quad sum = {};
    const unsigned last = min(4 * quad + 3, width - 1) >= d;
    for (unsigned direction = 4 * quad >= d; direction <= last; direction++) {
        const uint2 range = readers[direction * capacity_rows + row];
        if (range.y == 0) continue;
        // All readers of a state are of its sample.
        const unsigned sample = owner[range.x];
        const MaskedGradient<Element> gradient = {d_m, *header, word, target[sample], offset[sample], width, quads};
        sum_rows(sum, gradient, hidden, own, range.x, range.y, quad, direction, d);
    }
    const Quad s = load_quad(gate + static_cast<size_t>(row) * width, quad, width);
#pragma unroll
    for (int i = 0; i < 4; i++) sum.x[i] *= s.x[i] * (1.0f - s.x[i]);
    store_quad(of_run(d_gate, run_stride) + static_cast<size_t>(row) * width, quad, width, sum);
}

}  // namespace generic

#define INTERACTION_BACKWARD(Element, suffix)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) interaction_backward##suffix(                                                     \
        Element *__restrict__ d_hidden, Element *__restrict__ d_gate, const Element *__restrict__ d_m,                                  \
        const Element *__restrict__ hidden, const Element *__restrict__ gate, const float *__restrict__ bias,                           \
        const unsigned *__restrict__ other, const uint2 *__restrict__ readers, const unsigned *__restrict__ own,                        \
        const unsigned *__restrict__ owner, const unsigned *__restrict__ offset, const unsigned *__restrict__ target,                   \
        const Header *__restrict__ header, unsigned word, unsigned enabled, unsigned d, unsigned bias_stride, unsigned capacity_rows,   \
        size_t run_stride) {                                                                                                            \
        generic::interaction_backward(d_hidden, d_gate, d_m, hidden, gate, bias, other, readers, own, owner, offset, target, header,    \
            word, enabled, d, bias_stride, capacity_rows, run_stride);                                                                  \
    }

FOR_ELEMENTS(INTERACTION_BACKWARD)

namespace generic {

template <class Element>
__device__ __forceinline__ void interaction_silent(
    float *__restrict__ silent_gradient,  // [S, 2d]
    const Element *__restrict__ d_m,      // [R, 2d] sample-major
    const Element *__restrict__ hidden,   // [R, 2d] role-major
    const float *__restrict__ bias,       // [2, 2] of [d]
    const unsigned *__restrict__ silent,  // [2, capacity_samples, 3]: role, first row, count
    const unsigned *__restrict__ own,     // [R]
    const unsigned *__restrict__ offset,  // [S + 1]
    const unsigned *__restrict__ target,  // [S]
    const Header *__restrict__ header,
    unsigned word,
    unsigned d,
    unsigned bias_stride,
    unsigned capacity_samples,
    size_t run_stride) {
    header = of_run(header, run_stride);
    const unsigned width = 2 * d, quads = quads_of(width);
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned sample = item / quads, quad = item % quads;
    if (sample >= header->samples) return;
    bias = of_run(bias, run_stride);
    own = of_run(own, run_stride);
    hidden = of_run(hidden, run_stride);
    silent = of_run(silent, run_stride);
    const MaskedGradient<Element> gradient = {
        of_run(d_m, run_stride), *header, word, of_run(target, run_stride)[sample], of_run(offset, run_stride)[sample], width, quads};

    Quad sum = {};
    const unsigned last = min(4 * quad + 3, width - 1) >= d;
    for (unsigned direction = 4 * quad >= d; direction <= last; direction++) {
        const unsigned *range = silent + 3 * (static_cast<size_t>(direction) * capacity_samples + sample);
        const unsigned role = range[0], count = range[2];
        if (count == 0) continue;
        sum_rows(sum, gradient, hidden, own, range[1], count, quad, direction, d);
        const float *b = bias + static_cast<size_t>(role * 2 + direction) * bias_stride;
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const unsigned column = 4 * quad + i;
            if (column < width && (column >= d) == direction) {
                const float s = sigmoid(b[column - direction * d]);
                sum.x[i] *= s * (1.0f - s);
            }
        }
    }
    store_quad(of_run(silent_gradient, run_stride) + static_cast<size_t>(sample) * width, quad, width, sum);
}

}  // namespace generic

#define INTERACTION_SILENT(Element, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) interaction_silent##suffix(                                                       \
        float *__restrict__ silent_gradient, const Element *__restrict__ d_m, const Element *__restrict__ hidden,                       \
        const float *__restrict__ bias, const unsigned *__restrict__ silent, const unsigned *__restrict__ own,                          \
        const unsigned *__restrict__ offset, const unsigned *__restrict__ target, const Header *__restrict__ header, unsigned word,     \
        unsigned d, unsigned bias_stride, unsigned capacity_samples, size_t run_stride) {                                               \
        generic::interaction_silent(silent_gradient, d_m, hidden, bias, silent, own, offset, target, header, word, d, bias_stride,      \
            capacity_samples, run_stride);                                                                                              \
    }

FOR_ELEMENTS(INTERACTION_SILENT)

extern "C" __global__ void __launch_bounds__(256)
interaction_silent_sum(
    float *__restrict__ d_bias,                   // [2, 2] of [d]
    const float *__restrict__ silent_gradient,    // [S, 2d]
    const unsigned *__restrict__ silent,          // [2, capacity_samples, 3]
    const Header *__restrict__ header,
    unsigned d,
    unsigned bias_stride,
    unsigned capacity_samples,
    size_t run_stride) {
    constexpr unsigned WARPS = 8;
    __shared__ float partial[WARPS][32];
    const unsigned samples = of_run(header, run_stride)->samples;
    if (samples == 0) return;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned width = 2 * d, column = blockIdx.x * 32 + lane, role = blockIdx.y;
    const unsigned direction = column >= d;
    float sum = 0.0f;
    if (column < width) {
        const float *from = of_run(silent_gradient, run_stride) + column;
        const unsigned *roles = of_run(silent, run_stride) + 3 * static_cast<size_t>(direction) * capacity_samples;
        for (unsigned sample = warp; sample < samples; sample += WARPS) {
            // Both loads at once: to skip those of the other role would wait for the role first.
            const float value = from[static_cast<size_t>(sample) * width];
            sum += roles[3 * sample] == role ? value : 0.0f;
        }
    }
    partial[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= width) return;
    sum = partial[0][lane];
#pragma unroll
    for (unsigned i = 1; i < WARPS; i++) sum += partial[i][lane];
    of_run(d_bias, run_stride)[static_cast<size_t>(role * 2 + direction) * bias_stride + column - direction * d] += sum;
}
