// Products of matrices: everything of a step that is one product over all rows, and those of a sample's window.
//
//     product_nt       C = A B^T           A [m, k], B [n, k]    weights are [out, in]: inputs times weights; then, if the launch says
//                                                                so, a sigmoid, tanh or dropout's mask
//     product_nn       C = A B             A [m, k], B [k, n]    gradients times weights
//     product_tn       C = A^T B           A [k, m], B [k, n]    gradients of weights: k runs over the batch's rows, in chunks
//                      sums = A^T 1        and of their biases: B has a column of ones behind it, in a tile that is mostly there anyway
//     window_nt, window_nn, window_tn    the same for each sample's window, rows [n, width] or pairs [n, n], where windows may be too long
//                                        for window_attention.cu and window_attention_f32.cu
//
//     .._f16           on tensor cores: operands are f16 in memory, sums float32; results are f16, but for those of product_tn_f16,
//                      which are float32: gradients of weights
//     .._rounded       on tensor cores: operands are float32 in memory and rounded to f16, sums and results float32
//
// The number of rows is in the header, by `Extent`: launches are made for the capacity, and blocks beyond return at once.
// Elsewhere blockIdx.y counts products of one shape side by side (directions, roles); blockIdx.z counts runs.
//
// Results do not depend on the order of blocks: each element of C is one block's, and of a sum in chunks all are added in their order.
// Nor on the tile: k is summed in one order. A value that f16 cannot hold becomes infinite, so that what scales the loss sees it.
//
// Tiles and what lives where: product.cuh, and tensor_product.cuh for f16. A product's launch says which tile it is made for
// (`Size`): wide ones read operands less often, narrow ones are for few rows or columns. A weight's gradient has as few rows as columns:
// of two wide ones it takes that which stands over less, and in float32, where multiplications are what takes long, a square one that
// stands over little either way.
// Wide models' gradients take still larger ones, whose warps read shared memory less often for what they multiply. Products over the rows
// of f16 have larger ones too, where there are rows enough: of twice the warps, so that A is read half as often from L2.
// Chunks are as many as fill the card once, if none gets too short, and share out the rows that there are. Each block leaves its part of
// the sum in the workspace, in the order of its threads, and counts itself; the last one of a tile adds them up and stores C. A part is
// written once and read once, 4 bytes an element, mostly in L2. Products that share an operand are side by side in the grid, chunk by chunk.
// Launch: grid x the tiles of C, row-major; of window_* x the samples and y the tiles.
//                                 block   tile                            registers on sm_75 (no spills)   blocks a multiprocessor
//     product_nt, product_nn      128     128 x 64, narrow 64 x 32        155, 158                         3
//     product_tn                  64      64 x 64, small 32 x 32          163                              6
//     product_nt_f16, ..          128     128 x 64, narrow 64 x 32        128, 165, 168                    4, 3, 3
//     product_nt_rounded, ..      128     128 x 64, narrow 64 x 32        167, 168, 254                    3, 3, 2
//         product_tn_f16 and _rounded also 64 x 128
//     product_tn_f16_large        128     128 x 128                       254                              2
//     product_nt_f16_large,       256     128 x 128                       127, 128                         2
//         product_nn_f16_large
//     window_nt, _nn, _tn         64      32 x 32                         94, 104, 104                    7
//     window_nt_f16, ..           64      32 x 32                         65, 67, 80                       12
// Floor: 2 m n k FLOPs; A, B and C once, C once more where it is added to, and as much for an addend. An element is 4 bytes, in
// the kernels `_f16` 2, but 4 of what product_tn_f16 writes. An operand that the products side by side share counts once; biases, sums,
// scales and indices are not counted.
//     window_*                2 P width FLOPs, with R rows and P pairs of all windows together; R width elements for an operand of
//                             rows, P for one of pairs
#include "philox.cuh"
#include "product.cuh"
#include "tensor_product.cuh"

// Which rows a product runs over.
enum class Extent : unsigned { Fixed, Rows, Samples, Distinct, Roles };

enum class Epilogue : unsigned { None, Sigmoid, TanhOfSum, Dropout };

// Which tile a launch of product_* is made for: as the table above has them.
enum class Size : unsigned { Tall, Broad, Narrow, Square, Small, Large, LargeRows };

// What a product has of its own where another one has the same A; `Side` in src/device/cuda/product.rs has the same fields.
struct Side {
    const void *b;          // elements of the kernel's family, as A's and C's
    void *c;
    const unsigned *index;  // rows of A (nt) or of B (tn)
    float *sums;            // [m], of A's columns (tn), or null
    // Elements from one product of blockIdx.y = outer * inner + i to the next.
    long long b_inner, b_outer, c_inner, c_outer;
    long long bias_inner, bias_outer;  // of the bias, or of the sums
    long long index_inner;
    long long beyond, beyond_inner;  // from row `split` of B on (nn), or from column `split` of A on (tn), elements lie so many further
    unsigned n, b_stride, c_stride, split;

    // Columns of C, with the one that the sums are.
    __device__ __forceinline__ unsigned columns() const { return n + (sums ? 1 : 0); }
};

// `Product` in src/device/cuda/product.rs has the same fields.
struct Product {
    const void *a;
    const float *bias, *addend;
    const float *scale;     // of B's rows (tn)
    float4 *workspace;      // (tn in chunks) [product, tile, chunk, PARTS, threads]
    unsigned *arrivals;     // (tn in chunks) [product, tile], 0 between launches: chunks that are there
    long long a_inner, a_outer;
    // (Dropout, over rows) [samples], [samples + 1], [rows], and the counter's last word, as in dropout.cu
    const unsigned *target, *offset, *owner;
    unsigned long long mask;
    unsigned long long run_stride;
    Side side;
    Side second;            // (tn) of a second product in the same launch, so that A is read from DRAM once for both; n 0: there is none
    unsigned m, k;          // the one that runs over the batch's rows is its capacity
    unsigned a_stride;
    unsigned inner, outer;
    Extent extent;
    Epilogue epilogue;
    unsigned accumulate;
    unsigned chunks;          // of k, at most (tn); 0: one block sums all of k and writes to C itself
    Size size;
    unsigned exact, element;  // which kernel the host takes
};
static_assert(sizeof(Side) == 13 * 8 + 4 * 4 && sizeof(Product) == 13 * 8 + 2 * sizeof(Side) + 12 * 4, "as in src/device/cuda/product.rs");

__device__ __forceinline__ void rows_of(const Header &header, Extent extent, unsigned outer, unsigned fixed, unsigned &first,
                                        unsigned &count) {
    first = 0;
    switch (extent) {
    case Extent::Rows: count = header.rows; break;
    case Extent::Samples: count = header.samples; break;
    case Extent::Distinct: count = header.distinct; break;
    case Extent::Roles:
        first = outer == 0 ? 0 : header.rows_a;
        count = outer == 0 ? header.rows_a : header.rows - header.rows_a;
        break;
    default: count = fixed;
    }
}

// Elements and tiles of the families.
struct Single {
    using Element = float;
    using Tall = Tile<128, 64, 8, 16, 4>;
    using Square = Tile<64, 64, 8, 16, 4>;
    using Narrow = Tile<64, 32, 16, 4, 4>;
    using Small = Tile<32, 32, 16, 4, 4>;
    using Window = Tile<32, 32, 16, 4, 8>;
};
struct Rounded {
    using Element = float;
    using Tall = TensorTile<128, 64, 64, 32>;
    using Broad = TensorTile<64, 128, 32, 64>;
    using Narrow = TensorTile<64, 32, 16, 32>;
};
struct Half {
    using Element = __half;
    using Large = TensorTile<128, 128, 64, 64>;
    using LargeRows = TensorTile<128, 128, 64, 32>;
    using Tall = TensorTile<128, 64, 64, 32>;
    using Broad = TensorTile<64, 128, 32, 64>;
    using Narrow = TensorTile<64, 32, 16, 32>;
    using Window = TensorTile<32, 32, 16, 32>;
};

// Shared memory of a product whose launch says which of these tiles it is made for.
template <Rows A, Rows B, class... Tiles> struct Shared {
    template <class T> using Of = typename T::template Shared<A, B>;
    static constexpr size_t largest() {
        size_t most = 0;
        ((most = sizeof(Of<Tiles>) > most ? sizeof(Of<Tiles>) : most), ...);
        return most;
    }
    alignas(16) char bytes[largest()];

    template <class T> __device__ __forceinline__ Of<T> &of() { return reinterpret_cast<Of<T> &>(bytes); }
};

// What a product has beside its columns, where that is nothing.
struct Nothing {};

// Where a block has all of a sum.
struct Whole {
    template <int COUNT> __device__ __forceinline__ bool operator()(float (&)[COUNT], bool) const { return true; }
};

// Neighbours of a row of C as they are before a sum is added to them.
struct Before {
    float x[STRIP];
};

// What is at `at`, where the strip stored there is to be added to it.
template <class Element>
__device__ __forceinline__ Before look_before(const Element *at, unsigned count, unsigned together, bool accumulate) {
    Before before;
    if (accumulate) read_strip(before.x, at, count, together);
    return before;
}

// Stores neighbours of a row of C, or adds them to what was there.
template <class Element>
__device__ __forceinline__ void store_sum(Element *to, float (&strip)[STRIP], const Before &before, unsigned count, unsigned together,
                                          bool accumulate) {
    if (accumulate) {
#pragma unroll
        for (int e = 0; e < STRIP; e++) strip[e] += before.x[e];
    }
    write_strip(to, strip, count, together);
}

// Where the columns of a tile begin and where they end, or all of them, if that is before. If tiles share the columns out, in sixteens, none
// has much less to do than the others, and those that have more come first.
struct Columns {
    unsigned first, end;
};
template <int WIDTH, bool SHARES> __device__ __forceinline__ Columns columns_of(unsigned tile, unsigned tiles, unsigned columns) {
    if (!SHARES) return {tile * WIDTH, columns};
    const unsigned sixteens = (columns + 15) / 16;
    const auto until = [&](unsigned count) { return (count * sixteens + tiles - 1) / tiles * 16; };
    return {until(tile), min(until(tile + 1), columns)};
}

template <class Element, class T, Rows B>
__device__ __forceinline__ void product_rows(typename T::template Shared<Rows::OfK, B> &shared, const Header *header,
                                             const Product &p) {
    const Side &side = p.side;
    const unsigned tiles = (side.n + T::BN - 1) / T::BN;
    const unsigned first_row = blockIdx.x / tiles * T::BM;
    const Columns columns = columns_of<T::BN, T::SHARES_COLUMNS>(blockIdx.x % tiles, tiles, side.n);
    const unsigned inner = blockIdx.y % p.inner, outer = blockIdx.y / p.inner;
    const Header &own = *of_run(header, p.run_stride);
    unsigned first, m;
    rows_of(own, p.extent, outer, p.m, first, m);
    if (first_row >= m || is_idle(own)) return;
    const auto placed = [&](const auto *pointer, long long by_inner, long long by_outer) {
        return of_run(pointer, p.run_stride) + inner * by_inner + outer * by_outer;
    };
    const unsigned *index = side.index ? of_run(side.index, p.run_stride) + inner * side.index_inner + first : nullptr;
    const Element *a_data = placed(static_cast<const Element *>(p.a), p.a_inner, p.a_outer) +
                            (index ? 0 : static_cast<size_t>(first) * p.a_stride);
    const Operand<Rows::OfK, Element> a = {a_data, p.a_stride, index, nullptr, ~0u, 0, false};
    const Element *b_data = placed(static_cast<const Element *>(side.b), side.b_inner, side.b_outer);
    const Operand<B, Element> b = {b_data, side.b_stride, nullptr, nullptr, side.split, B == Rows::Across ? side.beyond : 0, false};
    const float *bias = p.bias ? placed(p.bias, side.bias_inner, side.bias_outer) : nullptr;
    const float *addend = p.addend ? of_run(p.addend, p.run_stride) : nullptr;
    Element *c = of_run(static_cast<Element *>(side.c), p.run_stride) + inner * side.c_inner + outer * side.c_outer +
                 static_cast<size_t>(first) * side.c_stride;
    const unsigned together = min(strips_together(c, side.c_stride, side.n), strips_together(addend, 0, 0));
    struct Bias {
        float x[STRIP];
    };
    const auto beside = [&](unsigned column) {
        Bias of;
#pragma unroll
        for (int e = 0; e < STRIP; e++) of.x[e] = bias && e < side.n - column ? __ldg(bias + column + e) : 0.0f;
        return of;
    };
    const auto look = [&](unsigned row, unsigned column) {
        return look_before(c + static_cast<size_t>(row) * side.c_stride + column, side.n - column, together, p.accumulate);
    };
    const auto out = [&](unsigned row, unsigned column, auto &strip, const Bias &of, const auto &before) {
        const size_t at = static_cast<size_t>(row) * side.c_stride + column;
        const unsigned count = side.n - column;
        if (bias) {
#pragma unroll
            for (int e = 0; e < STRIP; e++) strip[e] += of.x[e];
        }
        if (p.accumulate) {
#pragma unroll
            for (int e = 0; e < STRIP; e++) strip[e] += before.x[e];
        }
        if (p.epilogue == Epilogue::Sigmoid) {
#pragma unroll
            for (int e = 0; e < STRIP; e++) strip[e] = 1.0f / (1.0f + expf(-strip[e]));
        } else if (p.epilogue == Epilogue::TanhOfSum) {
            float more[STRIP];
            read_strip(more, addend + at, count, together);
#pragma unroll
            for (int e = 0; e < STRIP; e++) strip[e] = tanhf(strip[e] + more[e]);
        } else if (p.epilogue == Epilogue::Dropout) {
            const unsigned sample = of_run(p.owner, p.run_stride)[row];
            const unsigned of_sample = row - of_run(p.offset, p.run_stride)[sample];
            Quad quad = {strip[0], strip[1], strip[2], strip[3]};
            drop(quad, own, p.mask, of_run(p.target, p.run_stride)[sample], of_sample, quads_of(side.n), column / 4);
#pragma unroll
            for (int e = 0; e < STRIP; e++) strip[e] = quad.x[e];
        }
        write_strip(c + at, strip, count, together);
    };
    T::multiply(shared, a, b, m, columns.end, 0, p.k, first_row, columns.first, Whole{}, beside, look, out);
}

// Rows of a chunk, of k that there are: whole steps of every tile. `Product::cut` in src/device/cuda/product.rs has the same chunks. They
// depend on the batch and not on what there is room for, as then does the order of the sum.
__device__ __forceinline__ unsigned chunk_of(unsigned k, unsigned at_most) {
    const unsigned chunks = min(at_most, max(max((k + 511) / 512, min(k / 128, 4u)), 1u));
    return (k + 32 * chunks - 1) / (32 * chunks) * 32;
}

// product_tn: blockIdx.x the tile, those of a second product behind those of the first; blockIdx.y = chunk * products + product, or
// without chunks the product.
template <class Element, class T>
__device__ __forceinline__ void product_sum(typename T::template Shared<Rows::Across, Rows::Across> &shared, const Header *header,
                                            const Product &p) {
    const unsigned tiles_of_first = (p.m + T::BM - 1) / T::BM * ((p.side.columns() + T::BN - 1) / T::BN);
    const bool second = blockIdx.x >= tiles_of_first;
    const auto of = [&](auto Side::*field) { return second ? p.second.*field : p.side.*field; };
    const unsigned n = of(&Side::n);
    const unsigned all_columns = n + (of(&Side::sums) ? 1 : 0), tiles = (all_columns + T::BN - 1) / T::BN;
    const unsigned tile_of_c = blockIdx.x - (second ? tiles_of_first : 0);
    const unsigned first_row = tile_of_c / tiles * T::BM;
    const Columns columns = columns_of<T::BN, T::SHARES_COLUMNS_OF_SUMS>(tile_of_c % tiles, tiles, all_columns);
    const unsigned products = p.inner * p.outer, product = blockIdx.y % products, chunk = blockIdx.y / products;
    const unsigned inner = product % p.inner, outer = product / p.inner;
    const Header &own = *of_run(header, p.run_stride);
    unsigned first, k;
    rows_of(own, p.extent, outer, p.k, first, k);
    if (is_idle(own)) return;
    const unsigned length = p.chunks ? chunk_of(k, p.chunks) : k;
    const unsigned begin = chunk * length, end = min(begin + length, k);
    if (begin >= k && p.chunks) return;
    const unsigned *all_rows = of(&Side::index);
    const unsigned *index = all_rows ? of_run(all_rows, p.run_stride) + inner * of(&Side::index_inner) + first : nullptr;
    const float *scale = p.scale ? of_run(p.scale, p.run_stride) + first : nullptr;
    const Element *a_data = of_run(static_cast<const Element *>(p.a), p.run_stride) + inner * p.a_inner + outer * p.a_outer +
                            static_cast<size_t>(first) * p.a_stride;
    const unsigned b_stride = of(&Side::b_stride);
    const Element *b_data = of_run(static_cast<const Element *>(of(&Side::b)), p.run_stride) +
                            inner * of(&Side::b_inner) + outer * of(&Side::b_outer) +
                            (index ? 0 : static_cast<size_t>(first) * b_stride);
    const unsigned gap = static_cast<unsigned>(of(&Side::beyond) + inner * of(&Side::beyond_inner));
    const Operand<Rows::Across, Element> a = {a_data, p.a_stride, nullptr, nullptr, ~0u, 0, false, gap ? of(&Side::split) : 0, gap};
    const Operand<Rows::Across, Element> b = {b_data, b_stride, index, scale, ~0u, 0, columns.end > n};
    // What only a block's end asks for. In registers until then, it would take them from the loop.
    __shared__ struct {
        float *c, *sums;
        unsigned c_stride, together, filled, tile, arrived_before;
    } end_of_block;
    if (threadIdx.x == 0) {
        float *c = of_run(static_cast<float *>(of(&Side::c)), p.run_stride) + inner * of(&Side::c_inner) + outer * of(&Side::c_outer);
        float *sums = of(&Side::sums);
        end_of_block.c = c;
        end_of_block.sums = sums ? of_run(sums, p.run_stride) + inner * of(&Side::bias_inner) + outer * of(&Side::bias_outer) : nullptr;
        end_of_block.c_stride = of(&Side::c_stride);
        end_of_block.together = strips_together(c, of(&Side::c_stride), n);
        end_of_block.filled = p.chunks ? (k + length - 1) / length : 1;
        end_of_block.tile = product * gridDim.x + blockIdx.x;
    }
    // Leaves a chunk's results, or has the sum of all of them.
    const auto gather = [&](auto &results, bool works) {
        const unsigned filled = end_of_block.filled;
        if (filled == 1) return true;
        constexpr int PARTS = sizeof(results) / sizeof(float4);
        const unsigned tile = end_of_block.tile, room = gridDim.y / products;
        float4 *first_part = of_run(p.workspace, p.run_stride) + static_cast<size_t>(tile) * room * PARTS * T::THREADS + threadIdx.x;
        const auto part = [&](unsigned from, int i) { return first_part + (from * PARTS + i) * T::THREADS; };
        if (works) {
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                *part(chunk, i) = make_float4(results[4 * i], results[4 * i + 1], results[4 * i + 2], results[4 * i + 3]);
            }
        }
        __threadfence();
        __syncthreads();
        // The last one to arrive leaves 0 for the next launch.
        if (threadIdx.x == 0) end_of_block.arrived_before = atomicInc(of_run(p.arrivals, p.run_stride) + tile, filled - 1);
        __syncthreads();
        if (end_of_block.arrived_before != filled - 1) return false;
        __threadfence();
        if (works) {
#pragma unroll
            for (float &result : results) result = 0.0f;
            for (unsigned from = 0; from < filled; from++) {
#pragma unroll
                for (int i = 0; i < PARTS; i++) {
                    const float4 four = *part(from, i);
                    results[4 * i] += four.x, results[4 * i + 1] += four.y, results[4 * i + 2] += four.z, results[4 * i + 3] += four.w;
                }
            }
        }
        return true;
    };
    const auto at = [&](unsigned row, unsigned column) {
        return end_of_block.c + static_cast<size_t>(row) * end_of_block.c_stride + column;
    };
    const auto look = [&](unsigned row, unsigned column) {
        const bool adds = p.accumulate && column < n;
        return look_before(at(row, column), n - column, end_of_block.together, adds);
    };
    const auto out = [&](unsigned row, unsigned column, auto &strip, Nothing, const auto &before) {
        const unsigned count = n - column;
        float *sums = end_of_block.sums;
#pragma unroll
        for (int e = 0; e < STRIP; e++) {
            if (sums && count == e) sums[row] = p.accumulate ? sums[row] + strip[e] : strip[e];
        }
        if (count) store_sum(at(row, column), strip, before, count, end_of_block.together, p.accumulate);
    };
    const auto beside = [](unsigned) { return Nothing{}; };
    T::multiply(shared, a, b, p.m, columns.end, begin, end, first_row, columns.first, gather, beside, look, out);
}

// A kernel chooses its tile on lines of its own, by which profiles tell one from the other.
extern "C" __global__ void __launch_bounds__(128, 3) product_nt(const Header *header, const Product p) {
    __shared__ Shared<Rows::OfK, Rows::OfK, Single::Tall, Single::Narrow> shared;
    if (p.size == Size::Tall) {
        product_rows<Single::Element, Single::Tall, Rows::OfK>(shared.of<Single::Tall>(), header, p);
    } else {
        product_rows<Single::Element, Single::Narrow, Rows::OfK>(shared.of<Single::Narrow>(), header, p);
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) product_nn(const Header *header, const Product p) {
    __shared__ Shared<Rows::OfK, Rows::Across, Single::Tall, Single::Narrow> shared;
    if (p.size == Size::Tall) {
        product_rows<Single::Element, Single::Tall, Rows::Across>(shared.of<Single::Tall>(), header, p);
    } else {
        product_rows<Single::Element, Single::Narrow, Rows::Across>(shared.of<Single::Narrow>(), header, p);
    }
}

extern "C" __global__ void __launch_bounds__(64, 6) product_tn(const Header *header, const Product p) {
    __shared__ Shared<Rows::Across, Rows::Across, Single::Square, Single::Small> shared;
    if (p.size == Size::Square) {
        product_sum<Single::Element, Single::Square>(shared.of<Single::Square>(), header, p);
    } else {
        product_sum<Single::Element, Single::Small>(shared.of<Single::Small>(), header, p);
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) product_nt_rounded(const Header *header, const Product p) {
    __shared__ Shared<Rows::OfK, Rows::OfK, Rounded::Tall, Rounded::Narrow> shared;
    if (p.size == Size::Tall) {
        product_rows<Rounded::Element, Rounded::Tall, Rows::OfK>(shared.of<Rounded::Tall>(), header, p);
    } else {
        product_rows<Rounded::Element, Rounded::Narrow, Rows::OfK>(shared.of<Rounded::Narrow>(), header, p);
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) product_nn_rounded(const Header *header, const Product p) {
    __shared__ Shared<Rows::OfK, Rows::Across, Rounded::Tall, Rounded::Narrow> shared;
    if (p.size == Size::Tall) {
        product_rows<Rounded::Element, Rounded::Tall, Rows::Across>(shared.of<Rounded::Tall>(), header, p);
    } else {
        product_rows<Rounded::Element, Rounded::Narrow, Rows::Across>(shared.of<Rounded::Narrow>(), header, p);
    }
}

extern "C" __global__ void __launch_bounds__(128) product_tn_rounded(const Header *header, const Product p) {
    __shared__ Shared<Rows::Across, Rows::Across, Rounded::Tall, Rounded::Broad, Rounded::Narrow> shared;
    if (p.size == Size::Tall) {
        product_sum<Rounded::Element, Rounded::Tall>(shared.of<Rounded::Tall>(), header, p);
    } else if (p.size == Size::Broad) {
        product_sum<Rounded::Element, Rounded::Broad>(shared.of<Rounded::Broad>(), header, p);
    } else {
        product_sum<Rounded::Element, Rounded::Narrow>(shared.of<Rounded::Narrow>(), header, p);
    }
}

extern "C" __global__ void __launch_bounds__(128, 4) product_nt_f16(const Header *header, const Product p) {
    __shared__ Shared<Rows::OfK, Rows::OfK, Half::Tall, Half::Narrow> shared;
    if (p.size == Size::Tall) {
        product_rows<Half::Element, Half::Tall, Rows::OfK>(shared.of<Half::Tall>(), header, p);
    } else {
        product_rows<Half::Element, Half::Narrow, Rows::OfK>(shared.of<Half::Narrow>(), header, p);
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) product_nn_f16(const Header *header, const Product p) {
    __shared__ Shared<Rows::OfK, Rows::Across, Half::Tall, Half::Narrow> shared;
    if (p.size == Size::Tall) {
        product_rows<Half::Element, Half::Tall, Rows::Across>(shared.of<Half::Tall>(), header, p);
    } else {
        product_rows<Half::Element, Half::Narrow, Rows::Across>(shared.of<Half::Narrow>(), header, p);
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) product_tn_f16(const Header *header, const Product p) {
    __shared__ Shared<Rows::Across, Rows::Across, Half::Tall, Half::Broad, Half::Narrow> shared;
    if (p.size == Size::Tall) {
        product_sum<Half::Element, Half::Tall>(shared.of<Half::Tall>(), header, p);
    } else if (p.size == Size::Broad) {
        product_sum<Half::Element, Half::Broad>(shared.of<Half::Broad>(), header, p);
    } else {
        product_sum<Half::Element, Half::Narrow>(shared.of<Half::Narrow>(), header, p);
    }
}

// A is read less often from L2, where there are rows enough.
extern "C" __global__ void __launch_bounds__(256, 2) product_nt_f16_large(const Header *header, const Product p) {
    __shared__ Half::LargeRows::Shared<Rows::OfK, Rows::OfK> shared;
    product_rows<Half::Element, Half::LargeRows, Rows::OfK>(shared, header, p);
}

extern "C" __global__ void __launch_bounds__(256, 2) product_nn_f16_large(const Header *header, const Product p) {
    __shared__ Half::LargeRows::Shared<Rows::OfK, Rows::Across> shared;
    product_rows<Half::Element, Half::LargeRows, Rows::Across>(shared, header, p);
}

// For gradients of wide models' weights: operands are read less often, from L2 and from shared memory.
extern "C" __global__ void __launch_bounds__(128, 2) product_tn_f16_large(const Header *header, const Product p) {
    __shared__ Half::Large::Shared<Rows::Across, Rows::Across> shared;
    product_sum<Half::Element, Half::Large>(shared, header, p);
}

// What an operand of a window's product is: the window's rows, `width` wide, or its pairs.
enum class Shape : unsigned { Rows, Pairs };

// `WindowProduct` in src/device/cuda/product.rs has the same fields.
struct WindowProduct {
    const void *a, *b;  // elements of the kernel's family
    void *c;
    const unsigned *offset, *pairs;  // [samples + 1]
    // (tn) Where a second product's operands lie, which is added to the first: elements from `a` and `b` on; 0: there is none.
    long long a_second, b_second;
    unsigned long long run_stride;
    unsigned width;
    Shape a_shape, b_shape, c_shape;
    unsigned accumulate;
    unsigned longest;  // window that the grid is made for
};
static_assert(sizeof(WindowProduct) == 8 * 8 + 6 * 4, "as in src/device/cuda/product.rs");

template <class Family, Rows A, Rows B> __device__ __forceinline__ void window_product(const Header *header, const WindowProduct &p) {
    using Element = typename Family::Element;
    using T = typename Family::Window;
    __shared__ typename T::template Shared<A, B> shared;
    const unsigned sample = blockIdx.x;
    if (sample >= of_run(header, p.run_stride)->samples) return;
    const unsigned *offset = of_run(p.offset, p.run_stride) + sample;
    const unsigned first = offset[0], rows = offset[1] - first;
    const size_t pair = of_run(p.pairs, p.run_stride)[sample];
    const unsigned m = rows, n = p.c_shape == Shape::Pairs ? rows : p.width;
    // A's other extent: its rows are the window's in every product.
    unsigned k = p.a_shape == Shape::Pairs ? rows : p.width;
    const unsigned most = p.c_shape == Shape::Pairs ? p.longest : p.width, tiles = (most + T::BN - 1) / T::BN;
    const unsigned first_row = blockIdx.y / tiles * T::BM, first_column = blockIdx.y % tiles * T::BN;
    if (first_row >= m || first_column >= n) return;
    const auto place = [&](const void *data, Shape shape) {
        return of_run(static_cast<const Element *>(data), p.run_stride) + (shape == Shape::Pairs ? pair : static_cast<size_t>(first) * p.width);
    };
    const auto stride = [&](Shape shape) { return shape == Shape::Pairs ? rows : p.width; };
    Operand<A, Element> a = {place(p.a, p.a_shape), stride(p.a_shape), nullptr, nullptr, ~0u, 0, false};
    Operand<B, Element> b = {place(p.b, p.b_shape), stride(p.b_shape), nullptr, nullptr, ~0u, 0, false};
    if (A == Rows::Across && p.a_second) {
        // k runs on over the second product's rows.
        a.split = b.split = k;
        a.beyond = p.a_second - static_cast<long long>(k) * a.stride;
        b.beyond = p.b_second - static_cast<long long>(k) * b.stride;
        k *= 2;
    }
    Element *c = of_run(static_cast<Element *>(p.c), p.run_stride);
    c += p.c_shape == Shape::Pairs ? pair : static_cast<size_t>(first) * p.width;
    const unsigned together = strips_together(c, n, n);
    const auto look = [&](unsigned row, unsigned column) {
        return look_before(c + static_cast<size_t>(row) * n + column, n - column, together, p.accumulate);
    };
    const auto out = [&](unsigned row, unsigned column, auto &strip, Nothing, const auto &before) {
        store_sum(c + static_cast<size_t>(row) * n + column, strip, before, n - column, together, p.accumulate);
    };
    T::multiply(shared, a, b, m, n, 0, k, first_row, first_column, Whole{}, [](unsigned) { return Nothing{}; }, look, out);
}

extern "C" __global__ void __launch_bounds__(64) window_nt(const Header *header, const WindowProduct p) {
    window_product<Single, Rows::OfK, Rows::OfK>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_nn(const Header *header, const WindowProduct p) {
    window_product<Single, Rows::OfK, Rows::Across>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_tn(const Header *header, const WindowProduct p) {
    window_product<Single, Rows::Across, Rows::Across>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_nt_f16(const Header *header, const WindowProduct p) {
    window_product<Half, Rows::OfK, Rows::OfK>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_nn_f16(const Header *header, const WindowProduct p) {
    window_product<Half, Rows::OfK, Rows::Across>(header, p);
}

extern "C" __global__ void __launch_bounds__(64, 12) window_tn_f16(const Header *header, const WindowProduct p) {
    window_product<Half, Rows::Across, Rows::Across>(header, p);
}
