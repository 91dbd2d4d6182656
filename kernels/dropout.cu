// Inverted dropout (src/ops/dropout): `to = from * mask / keep`, with masks of Philox (philox.cuh). The same call masks the gradient
// on the way back. `to` may be `from`.
//
//     [R, width] sample-major, rows counted within their sample, or with `by_sample` [S, width], one row a sample; of float, or of f16
//     in dropout_f16: e bytes an element, 4 or 2.
//
// A thread has the four values that one Philox block masks, in registers as the block is; nothing is in shared memory. Where
// nothing is dropped it copies, and in place leaves at once.
//
// Launch: grid (ceil(rows * ceil(width / 4) / 256), 1, runs) of the capacity of rows (or samples), block 256, no dynamic shared memory.
// Floor: memory, 2 * width * e bytes a row (nothing where it leaves at once); a multiplication an element and about 80 integer
// instructions a block of four hide behind them.

#include "batch.cuh"
#include "philox.cuh"
#include "quad.cuh"

namespace generic {

template <class Element>
__device__ __forceinline__ void dropout(
    Element *to,                          // [R, width] or [S, width]
    const Element *from,                  // as `to`
    const unsigned *__restrict__ target,  // [S]
    const unsigned *__restrict__ offset,  // [S + 1]
    const unsigned *__restrict__ owner,   // [R]
    const Header *__restrict__ header,
    unsigned word,
    unsigned by_sample,
    unsigned width,
    size_t run_stride) {
    header = of_run(header, run_stride);
    const unsigned quads = quads_of(width);
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = item / quads, quad = item % quads;
    if (row >= (by_sample ? header->samples : header->rows)) return;
    if (to == from && !drops(*header)) return;

    const unsigned sample = by_sample ? row : of_run(owner, run_stride)[row];
    const unsigned first = by_sample ? row : of_run(offset, run_stride)[sample];
    const size_t at = static_cast<size_t>(row) * width;
    Quad values = load_quad(of_run(from, run_stride) + at, quad, width);
    drop(values, *header, word, of_run(target, run_stride)[sample], row - first, quads, quad);
    store_quad(of_run(to, run_stride) + at, quad, width, values);
}

}  // namespace generic

#define DROPOUT(Element, suffix)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) dropout##suffix(                                                                  \
        Element *to, const Element *from, const unsigned *__restrict__ target, const unsigned *__restrict__ offset,                     \
        const unsigned *__restrict__ owner, const Header *__restrict__ header, unsigned word, unsigned by_sample, unsigned width,       \
        size_t run_stride) {                                                                                                            \
        generic::dropout(to, from, target, offset, owner, header, word, by_sample, width, run_stride);                                  \
    }

FOR_ELEMENTS(DROPOUT)
