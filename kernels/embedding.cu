// Between the embeddings of distinct utterances and the rows that read them (step 1; src/ops/embedding).
//
//     embedding_gather    x[r] = table[embedded[r]] + displacement_x[r]       x [R, d] role-major, table [distinct, d]
//                         q[s] = targets[s] + displacement_q[s]               q, targets [S, 2d]
//     embedding_scatter   delta[u] = sum of d_x[r] + second[r] over the rows r that embed u, ascending    delta [distinct, d]
//
// Displacements and the second gradient (the adversarial pass') are left out where the pointer is null. x, displacement_x, d_x and
// second are float, or f16 in the kernels `_f16`: e bytes an element, 4 or 2. The others are float, and so are the sums.
//
// A thread has four columns of one row (quad.cuh), in registers, the scatter's sum too; nothing is in shared memory. All threads of
// a row lie side by side: loads and stores are whole sectors. The scatter is a gather too, over the rows of each utterance, so its
// order is fixed and needs no atomics.
//
// Launch: block 256, no dynamic shared memory.
//     embedding_gather:  grid (ceil(max(rows * ceil(d / 4), samples * ceil(d / 2)) / 256), 2, runs) of the capacities;
//                        blockIdx.y is 0 for x and 1 for q.
//     embedding_scatter: grid (ceil(distinct * ceil(d / 4) / 256), 1, runs) of the capacity.
// Floor: memory. Bytes: gather distinct * 4d + R * (d e + 4) + S * 16d, and R * d e + S * 8d more with displacements (a row of the table
// that more than one row reads comes from L2 again); scatter R * (d e + 4) + distinct * (4d + 4) for one buffer of gradients, R * d e
// more for two. FLOPs: gather none, with displacements R d + 2 S d; scatter R d a buffer.

#include "batch.cuh"
#include "quad.cuh"

namespace generic {

template <class Element>
__device__ __forceinline__ void embedding_gather(
    Element *__restrict__ x,                     // [R, d]
    float *__restrict__ q,                       // [S, 2d]
    const float *__restrict__ table,             // [distinct, d]
    const float *__restrict__ targets,           // [S, 2d]
    const Element *__restrict__ displacement_x,  // [R, d] or null
    const float *__restrict__ displacement_q,    // [S, 2d] or null
    const unsigned *__restrict__ embedded,       // [R]
    const Header *__restrict__ header,
    unsigned d,
    size_t run_stride) {
    header = of_run(header, run_stride);
    const bool history = blockIdx.y == 0;
    const unsigned width = history ? d : 2 * d, quads = quads_of(width);
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = item / quads, quad = item % quads;
    if (row >= (history ? header->rows : header->samples)) return;

    const float *from = history ? of_run(table, run_stride) : of_run(targets, run_stride);
    const size_t source = history ? of_run(embedded, run_stride)[row] : row;
    Quad values = load_quad(from + source * width, quad, width);
    const size_t at = static_cast<size_t>(row) * width;
    const auto finish = [&](auto *to, const auto *displacement) {
        if (displacement) add_quad(values, load_quad(of_run(displacement, run_stride) + at, quad, width));
        store_quad(of_run(to, run_stride) + at, quad, width, values);
    };
    if (history) {
        finish(x, displacement_x);
    } else {
        finish(q, displacement_q);
    }
}

}  // namespace generic

#define EMBEDDING_GATHER(Element, suffix)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) embedding_gather##suffix(                                                         \
        Element *__restrict__ x, float *__restrict__ q, const float *__restrict__ table, const float *__restrict__ targets,             \
        const Element *__restrict__ displacement_x, const float *__restrict__ displacement_q, const unsigned *__restrict__ embedded,    \
        const Header *__restrict__ header, unsigned d, size_t run_stride) {                                                             \
        generic::embedding_gather(x, q, table, targets, displacement_x, displacement_q, embedded, header, d, run_stride);               \
    }

FOR_ELEMENTS(EMBEDDING_GATHER)

namespace generic {

template <class Element>
__device__ __forceinline__ void embedding_scatter(
    float *__restrict__ delta,                     // [distinct, d]
    const Element *__restrict__ d_x,               // [R, d]
    const Element *__restrict__ second,            // [R, d] or null
    const unsigned *__restrict__ utterance_start,  // [distinct + 1]
    const unsigned *__restrict__ utterance_rows,   // [R]
    const Header *__restrict__ header,
    unsigned d,
    size_t run_stride) {
    const unsigned quads = quads_of(d);
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned utterance = item / quads, quad = item % quads;
    if (utterance >= of_run(header, run_stride)->distinct) return;

    utterance_start = of_run(utterance_start, run_stride);
    utterance_rows = of_run(utterance_rows, run_stride);
    d_x = of_run(d_x, run_stride);
    second = of_run_or_null(second, run_stride);
    const unsigned end = utterance_start[utterance + 1];
    Quad sum = {};
    // Unrolled so that the loads of several rows are under way at once.
#pragma unroll 4
    for (unsigned i = utterance_start[utterance]; i < end; i++) {
        const size_t at = static_cast<size_t>(utterance_rows[i]) * d;
        add_quad(sum, load_quad(d_x + at, quad, d));
        if (second) add_quad(sum, load_quad(second + at, quad, d));
    }
    store_quad(of_run(delta, run_stride) + static_cast<size_t>(utterance) * d, quad, d, sum);
}

}  // namespace generic

#define EMBEDDING_SCATTER(Element, suffix)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) embedding_scatter##suffix(                                                        \
        float *__restrict__ delta, const Element *__restrict__ d_x, const Element *__restrict__ second,                                 \
        const unsigned *__restrict__ utterance_start, const unsigned *__restrict__ utterance_rows, const Header *__restrict__ header,   \
        unsigned d, size_t run_stride) {                                                                                                \
        generic::embedding_scatter(delta, d_x, second, utterance_start, utterance_rows, header, d, run_stride);                         \
    }

FOR_ELEMENTS(EMBEDDING_SCATTER)
