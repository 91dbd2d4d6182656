// Sums over rows, in an order that depends on the number of rows alone.
//
//     column_sum       partials[p][column] = sum of from[row * stride + column] over the p-th 256 rows of a range
//     fold_partials    to[i] = sum over the active partials p, in order, of partials[p * size + i]; with `add` to[i] += that
//
// A column sum is both: column_sum, then fold_partials with the same range, 256 rows a partial and size = columns. Matrix products whose
// inner dimension is split over blocks end with fold_partials too.
//
// `range` says which rows, read from the header: ROWS 0..rows, ROLE_A 0..rows_a, ROLE_B rows_a..rows, SAMPLES 0..samples, DISTINCT
// 0..distinct. Partials that have no rows are neither written nor read; without any row the sum is 0. For fold_partials there is COUNT
// besides: `per_partial` is then the number of partials itself.
//
// column_sum: lanes take neighbouring columns, the eight warps of a block every eighth row, and meet in shared memory in order.
//
// Launch, no dynamic shared memory:
//     column_sum:    grid (ceil(columns / 32), ceil(capacity of rows / 256), runs), block 256; partials has room for
//                    ceil(capacity of rows / 256) * columns
//     fold_partials: grid (ceil(size / 256), 1, runs), block 256
// Bytes: column_sum rows * columns * 4; fold_partials (active + 2) * size * 4.

#include "batch.cuh"
#include "element.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned PARTIAL_ROWS = 256;

enum Range : unsigned { ROWS, ROLE_A, ROLE_B, SAMPLES, DISTINCT, COUNT };

struct Bounds {
    unsigned begin, end;
};

__device__ __forceinline__ Bounds bounds_of(const Header &header, unsigned range) {
    switch (range) {
        case ROWS: return {0, header.rows};
        case ROLE_A: return {0, header.rows_a};
        case ROLE_B: return {header.rows_a, header.rows};
        case SAMPLES: return {0, header.samples};
        default: return {0, header.distinct};
    }
}

namespace generic {

template <class Element>
__device__ __forceinline__ void column_sum(
    float *__restrict__ partials,       // [partials, columns]
    const Element *__restrict__ from,   // rows of `stride`, of which the first `columns` count
    const Header *__restrict__ header,
    unsigned range,
    unsigned columns,
    unsigned stride,
    size_t run_stride) {
    __shared__ float sums[WARPS][32];
    const Bounds bounds = bounds_of(*of_run(header, run_stride), range);
    const unsigned begin = bounds.begin + blockIdx.y * PARTIAL_ROWS;
    if (begin >= bounds.end) return;
    const unsigned end = min(begin + PARTIAL_ROWS, bounds.end);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < columns) {
        from = of_run(from, run_stride) + column;
        // Unrolled so that the loads of several rows are under way at once.
#pragma unroll 8
        for (unsigned row = begin + warp; row < end; row += WARPS) sum += widen(from[static_cast<size_t>(row) * stride]);
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= columns) return;
    sum = sums[0][lane];
#pragma unroll
    for (unsigned i = 1; i < WARPS; i++) sum += sums[i][lane];
    of_run(partials, run_stride)[static_cast<size_t>(blockIdx.y) * columns + column] = sum;
}

}  // namespace generic

#define COLUMN_SUM(Element, suffix)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(32 * WARPS) column_sum##suffix(                                                        \
        float *__restrict__ partials, const Element *__restrict__ from, const Header *__restrict__ header, unsigned range,              \
        unsigned columns, unsigned stride, size_t run_stride) {                                                                         \
        generic::column_sum(partials, from, header, range, columns, stride, run_stride);                                                \
    }

FOR_ELEMENTS(COLUMN_SUM)

extern "C" __global__ void __launch_bounds__(256)
fold_partials(
    float *__restrict__ to,                // [size]
    const float *__restrict__ partials,    // [active, size]
    const Header *__restrict__ header,
    unsigned range,
    unsigned per_partial,
    unsigned size,
    unsigned add,
    size_t run_stride) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    unsigned active = per_partial;
    if (range != COUNT) {
        const Bounds bounds = bounds_of(*of_run(header, run_stride), range);
        active = (bounds.end - bounds.begin + per_partial - 1) / per_partial;
    }
    partials = of_run(partials, run_stride) + i;
    to = of_run(to, run_stride) + i;
    float sum = 0.0f;
#pragma unroll 8
    for (unsigned p = 0; p < active; p++) sum += partials[static_cast<size_t>(p) * size];
    *to = add ? *to + sum : sum;
}
