// Products of matrices: everything of a step that is one product over all rows, and those of a sample's window.
//
//     product_nt       C = A B^T           A [m, k], B [n, k]    weights are [out, in]: inputs times weights
//     product_nn       C = A B             A [m, k], B [k, n]    gradients times weights
//     product_tn       C = A^T B           A [k, m], B [k, n]    gradients of weights: k runs over the batch's rows, in chunks
//                      sums = A^T 1        and of their biases: B has a column of ones behind it, in a tile that is there anyway
//     product_fold     C += sum of the chunks' partial results, in order, and sums likewise
//     window_nt, window_nn, window_tn    the same for each sample's window: rows [n, width] or pairs [n, n]
//
//     .._f16           the same on tensor cores: operands are float32 in memory and rounded to f16, sums and results float32
//
// The number of rows is in the header, by `Extent`: launches are made for the capacity, and blocks beyond return at once.
// Elsewhere blockIdx.y counts products of one shape side by side (directions, roles); blockIdx.z counts runs.
//
// Results do not depend on the order of blocks: each element of C has one block, and chunks are summed in order by one thread.
// Nor on the tile: k is summed in one order. A value that f16 cannot hold becomes infinite, so that what scales the loss sees it.
//
// Tiles and what lives where: product.cuh, and tensor_product.cuh for f16. A product's launch says which of two tiles it is made
// for (`Size`): wide ones read operands less often, narrow ones are for few rows or columns.
// Launch: grid x the tiles of C, row-major; of window_* x the samples and y the tiles.
//                                        block   tile                       registers on sm_75 (no spills)   blocks a multiprocessor
//     product_nt, _nn, _tn               128     128 x 64, narrow 64 x 32   151, 157, 161                    3
//     product_nt_f16, _nn_f16, _tn_f16   128     128 x 64, narrow 64 x 32   207, 209, 234                    2
//     window_nt, _nn, _tn                64      32 x 32                    93, 101, 98                      7
//     window_nt_f16, _nn_f16, _tn_f16    64      32 x 32                    112, 120, 124                    6
//     product_fold                       256     grid x ceil(m (n + 1) / 256) 42                               4
// Floor: 2 m n k FLOPs; A, B and C once.
#include "product.cuh"
#include "tensor_product.cuh"

// Which rows a product runs over.
enum class Extent : unsigned { Fixed, Rows, Samples, Distinct, Roles };

enum class Epilogue : unsigned { None, Sigmoid, TanhOfSum };

// Which tile a launch of product_* is made for.
enum class Size : unsigned { Wide, Narrow };

// `Product` in src/device/cuda/product.rs has the same fields.
struct Product {
    const float *a, *b, *bias, *addend;
    float *c;
    const unsigned *index;  // rows of A (nt) or of B (tn)
    const float *scale;     // of B's rows (tn)
    float *sums;            // [m], of A's columns (tn in chunks, fold), or null
    // Floats from one product of blockIdx.y = outer * inner + i to the next.
    long long a_inner, a_outer, b_inner, b_outer, c_inner, c_outer;
    long long bias_inner, bias_outer;  // of the bias, or of the sums
    long long index_inner;
    long long beyond;
    unsigned long long run_stride;
    unsigned m, n, k;  // the one that runs over the batch's rows is its capacity
    unsigned a_stride, b_stride, c_stride;
    unsigned split;
    unsigned inner, outer;
    Extent extent;
    Epilogue epilogue;
    unsigned accumulate;
    unsigned a_shared, b_shared;  // an operand that all runs share
    unsigned chunk;               // of k (tn); 0: one block sums all of k and writes to C itself
    Size size;
    unsigned exact, padding;  // which kernel the host takes
};
static_assert(sizeof(Product) == 19 * 8 + 18 * 4, "as in src/device/cuda/product.rs");

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

// Tiles of the two families.
struct Single {
    using Wide = Tile<128, 64, 8, 8, 8>;
    using Narrow = Tile<64, 32, 16, 4, 4>;
    using Window = Tile<32, 32, 16, 4, 4>;
};
struct Mixed {
    using Wide = TensorTile<128, 64, 64, 32>;
    using Narrow = TensorTile<64, 32, 16, 32>;
    using Window = TensorTile<32, 32, 16, 32>;
};

// Shared memory of a product whose launch says which tile it is made for.
template <class Family, Rows A, Rows B> union Shared {
    typename Family::Wide::template Shared<A, B> wide;
    typename Family::Narrow::template Shared<A, B> narrow;
};

// Stores neighbours of a row of C, or adds them to what is there.
template <int W>
__device__ __forceinline__ void store_sum(float *to, float (&strip)[W], unsigned count, bool aligned, bool accumulate) {
    if (accumulate) {
        float before[W];
        read_strip(before, to, count, aligned);
#pragma unroll
        for (int e = 0; e < W; e++) strip[e] += before[e];
    }
    write_strip(to, strip, count, aligned);
}

template <class T, Rows B>
__device__ __forceinline__ void product_rows(typename T::template Shared<Rows::OfK, B> &shared, const Header *header,
                                             const Product &p) {
    const unsigned tiles = (p.n + T::BN - 1) / T::BN;
    const unsigned first_row = blockIdx.x / tiles * T::BM, first_column = blockIdx.x % tiles * T::BN;
    const unsigned inner = blockIdx.y % p.inner, outer = blockIdx.y / p.inner;
    const Header &own = *of_run(header, p.run_stride);
    unsigned first, m;
    rows_of(own, p.extent, outer, p.m, first, m);
    if (first_row >= m || is_idle(own)) return;
    const auto placed = [&](const float *pointer, long long by_inner, long long by_outer, bool shared_by_runs) {
        return (shared_by_runs ? pointer : of_run(pointer, p.run_stride)) + inner * by_inner + outer * by_outer;
    };
    const unsigned *index = p.index ? of_run(p.index, p.run_stride) + inner * p.index_inner + first : nullptr;
    const float *a_data = placed(p.a, p.a_inner, p.a_outer, p.a_shared) + (index ? 0 : static_cast<size_t>(first) * p.a_stride);
    const Operand<Rows::OfK> a = {a_data, p.a_stride, index, nullptr, ~0u, 0, false};
    const float *b_data = placed(p.b, p.b_inner, p.b_outer, p.b_shared);
    const Operand<B> b = {b_data, p.b_stride, nullptr, nullptr, p.split, B == Rows::Across ? p.beyond : 0, false};
    const float *bias = p.bias ? placed(p.bias, p.bias_inner, p.bias_outer, false) : nullptr;
    const float *addend = p.addend ? of_run(p.addend, p.run_stride) : nullptr;
    float *c = of_run(p.c, p.run_stride) + inner * p.c_inner + outer * p.c_outer + static_cast<size_t>(first) * p.c_stride;
    const bool aligned = is_aligned(c, p.c_stride, p.n, T::STRIP) && is_aligned(addend, 0, 0, T::STRIP);
    T::multiply(shared, a, b, m, p.n, 0, p.k, first_row, first_column, [&](unsigned row, unsigned column, auto &strip) {
        const size_t at = static_cast<size_t>(row) * p.c_stride + column;
        const unsigned count = p.n - column;
        float more[T::STRIP];
        if (bias) {
#pragma unroll
            for (int e = 0; e < T::STRIP; e++) strip[e] += e < count ? bias[column + e] : 0.0f;
        }
        if (p.accumulate) {
            read_strip(more, c + at, count, aligned);
#pragma unroll
            for (int e = 0; e < T::STRIP; e++) strip[e] += more[e];
        }
        if (p.epilogue == Epilogue::Sigmoid) {
#pragma unroll
            for (int e = 0; e < T::STRIP; e++) strip[e] = 1.0f / (1.0f + expf(-strip[e]));
        } else if (p.epilogue == Epilogue::TanhOfSum) {
            read_strip(more, addend + at, count, aligned);
#pragma unroll
            for (int e = 0; e < T::STRIP; e++) strip[e] = tanhf(strip[e] + more[e]);
        }
        write_strip(c + at, strip, count, aligned);
    });
}

template <class Family, Rows B> __device__ __forceinline__ void product_rows(const Header *header, const Product &p) {
    __shared__ Shared<Family, Rows::OfK, B> shared;
    if (p.size == Size::Wide) {
        product_rows<typename Family::Wide, B>(shared.wide, header, p);
    } else {
        product_rows<typename Family::Narrow, B>(shared.narrow, header, p);
    }
}

// Columns of C, with the one that the sums are.
__device__ __forceinline__ unsigned columns_of(const Product &p) {
    return p.n + (p.sums ? 1 : 0);
}

// product_tn: blockIdx.y = product * chunks + chunk, with `p.c` the workspace [product, chunks]: C [m, n] of each, then its sums [m];
// without chunks blockIdx.y = product.
template <class T>
__device__ __forceinline__ void product_sum(typename T::template Shared<Rows::Across, Rows::Across> &shared, const Header *header,
                                            const Product &p) {
    const unsigned columns = columns_of(p), tiles = (columns + T::BN - 1) / T::BN;
    const unsigned first_row = blockIdx.x / tiles * T::BM, first_column = blockIdx.x % tiles * T::BN;
    const unsigned chunks = p.chunk ? (p.k + p.chunk - 1) / p.chunk : 1;
    const unsigned product = blockIdx.y / chunks, chunk = blockIdx.y % chunks;
    const unsigned inner = product % p.inner, outer = product / p.inner;
    const Header &own = *of_run(header, p.run_stride);
    unsigned first, k;
    rows_of(own, p.extent, outer, p.k, first, k);
    if (is_idle(own)) return;
    const unsigned begin = chunk * p.chunk, end = p.chunk ? min(begin + p.chunk, k) : k;
    if (begin >= k && p.chunk) return;
    const auto placed = [&](const float *pointer, long long by_inner, long long by_outer, bool shared_by_runs) {
        return (shared_by_runs ? pointer : of_run(pointer, p.run_stride)) + inner * by_inner + outer * by_outer;
    };
    const unsigned *index = p.index ? of_run(p.index, p.run_stride) + inner * p.index_inner + first : nullptr;
    const float *scale = p.scale ? of_run(p.scale, p.run_stride) + first : nullptr;
    const float *a_data = placed(p.a, p.a_inner, p.a_outer, p.a_shared) + static_cast<size_t>(first) * p.a_stride;
    const float *b_data = placed(p.b, p.b_inner, p.b_outer, p.b_shared) + (index ? 0 : static_cast<size_t>(first) * p.b_stride);
    const Operand<Rows::Across> a = {a_data, p.a_stride, nullptr, nullptr, ~0u, 0, false};
    const Operand<Rows::Across> b = {b_data, p.b_stride, index, scale, ~0u, 0, p.sums != nullptr};
    float *c = of_run(p.c, p.run_stride);
    c += p.chunk ? static_cast<size_t>(blockIdx.y) * p.m * columns : inner * p.c_inner + outer * p.c_outer;
    float *sums = c + static_cast<size_t>(p.m) * p.n;
    const unsigned stride = p.chunk ? p.n : p.c_stride;
    const bool aligned = is_aligned(c, stride, p.n, T::STRIP), accumulate = !p.chunk && p.accumulate;
    T::multiply(shared, a, b, p.m, columns, begin, end, first_row, first_column, [&](unsigned row, unsigned column, auto &strip) {
        const unsigned count = p.n - column;
#pragma unroll
        for (int e = 0; e < T::STRIP; e++) {
            if (p.sums && count == e) sums[row] = strip[e];
        }
        if (count) store_sum(c + static_cast<size_t>(row) * stride + column, strip, count, aligned, accumulate);
    });
}

template <class Family> __device__ __forceinline__ void product_sum(const Header *header, const Product &p) {
    __shared__ Shared<Family, Rows::Across, Rows::Across> shared;
    if (p.size == Size::Wide) {
        product_sum<typename Family::Wide>(shared.wide, header, p);
    } else {
        product_sum<typename Family::Narrow>(shared.narrow, header, p);
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) product_nt(const Header *header, const Product p) {
    product_rows<Single, Rows::OfK>(header, p);
}

extern "C" __global__ void __launch_bounds__(128, 3) product_nn(const Header *header, const Product p) {
    product_rows<Single, Rows::Across>(header, p);
}

extern "C" __global__ void __launch_bounds__(128, 3) product_tn(const Header *header, const Product p) {
    product_sum<Single>(header, p);
}

extern "C" __global__ void __launch_bounds__(128) product_nt_f16(const Header *header, const Product p) {
    product_rows<Mixed, Rows::OfK>(header, p);
}

extern "C" __global__ void __launch_bounds__(128) product_nn_f16(const Header *header, const Product p) {
    product_rows<Mixed, Rows::Across>(header, p);
}

extern "C" __global__ void __launch_bounds__(128) product_tn_f16(const Header *header, const Product p) {
    product_sum<Mixed>(header, p);
}

// `p` as of product_tn, but `p.a` the workspace and `p.c` the result, to which the sum is added where `p.accumulate`.
extern "C" __global__ void __launch_bounds__(256) product_fold(const Header *header, const Product p) {
    const unsigned inner = blockIdx.y % p.inner, outer = blockIdx.y / p.inner;
    const Header &own = *of_run(header, p.run_stride);
    unsigned first, k;
    rows_of(own, p.extent, outer, p.k, first, k);
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x, size = p.m * columns_of(p);
    if (at >= size || is_idle(own)) return;
    const unsigned chunks = (p.k + p.chunk - 1) / p.chunk, active = (k + p.chunk - 1) / p.chunk;
    const float *from = of_run(p.a, p.run_stride) + static_cast<size_t>(blockIdx.y) * chunks * size + at;
    float *to = at < p.m * p.n
                    ? of_run(p.c, p.run_stride) + inner * p.c_inner + outer * p.c_outer + static_cast<size_t>(at / p.n) * p.c_stride + at % p.n
                    : of_run(p.sums, p.run_stride) + inner * p.bias_inner + outer * p.bias_outer + (at - p.m * p.n);
    float sum = 0.0f;
    for (unsigned chunk = 0; chunk < active; chunk++) sum += from[static_cast<size_t>(chunk) * size];
    *to = p.accumulate ? *to + sum : sum;
}

// What an operand of a window's product is: the window's rows, `width` wide, or its pairs.
enum class Shape : unsigned { Rows, Pairs };

// `WindowProduct` in src/device/cuda/product.rs has the same fields.
struct WindowProduct {
    const float *a, *b;
    float *c;
    const unsigned *offset, *pairs;  // [samples + 1]
    unsigned long long run_stride;
    unsigned width;
    Shape a_shape, b_shape, c_shape;
    unsigned accumulate;
    unsigned longest;  // window that the grid is made for
};
static_assert(sizeof(WindowProduct) == 6 * 8 + 6 * 4, "as in src/device/cuda/product.rs");

template <class T, Rows A, Rows B> __device__ __forceinline__ void window_product(const Header *header, const WindowProduct &p) {
    __shared__ typename T::template Shared<A, B> shared;
    const unsigned sample = blockIdx.x;
    if (sample >= of_run(header, p.run_stride)->samples) return;
    const unsigned *offset = of_run(p.offset, p.run_stride) + sample;
    const unsigned first = offset[0], rows = offset[1] - first;
    const size_t pair = of_run(p.pairs, p.run_stride)[sample];
    const unsigned m = rows, n = p.c_shape == Shape::Pairs ? rows : p.width;
    // A's other extent: its rows are the window's in every product.
    const unsigned k = p.a_shape == Shape::Pairs ? rows : p.width;
    const unsigned most = p.c_shape == Shape::Pairs ? p.longest : p.width, tiles = (most + T::BN - 1) / T::BN;
    const unsigned first_row = blockIdx.y / tiles * T::BM, first_column = blockIdx.y % tiles * T::BN;
    if (first_row >= m || first_column >= n) return;
    const auto place = [&](const float *data, Shape shape) {
        return of_run(data, p.run_stride) + (shape == Shape::Pairs ? pair : static_cast<size_t>(first) * p.width);
    };
    const auto stride = [&](Shape shape) { return shape == Shape::Pairs ? rows : p.width; };
    const Operand<A> a = {place(p.a, p.a_shape), stride(p.a_shape), nullptr, nullptr, ~0u, 0, false};
    const Operand<B> b = {place(p.b, p.b_shape), stride(p.b_shape), nullptr, nullptr, ~0u, 0, false};
    float *c = of_run(p.c, p.run_stride) + (p.c_shape == Shape::Pairs ? pair : static_cast<size_t>(first) * p.width);
    const bool aligned = is_aligned(c, n, n, T::STRIP);
    T::multiply(shared, a, b, m, n, 0, k, first_row, first_column, [&](unsigned row, unsigned column, auto &strip) {
        store_sum(c + static_cast<size_t>(row) * n + column, strip, n - column, aligned, p.accumulate);
    });
}

extern "C" __global__ void __launch_bounds__(64) window_nt(const Header *header, const WindowProduct p) {
    window_product<Single::Window, Rows::OfK, Rows::OfK>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_nn(const Header *header, const WindowProduct p) {
    window_product<Single::Window, Rows::OfK, Rows::Across>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_tn(const Header *header, const WindowProduct p) {
    window_product<Single::Window, Rows::Across, Rows::Across>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_nt_f16(const Header *header, const WindowProduct p) {
    window_product<Mixed::Window, Rows::OfK, Rows::OfK>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_nn_f16(const Header *header, const WindowProduct p) {
    window_product<Mixed::Window, Rows::OfK, Rows::Across>(header, p);
}

extern "C" __global__ void __launch_bounds__(64) window_tn_f16(const Header *header, const WindowProduct p) {
    window_product<Mixed::Window, Rows::Across, Rows::Across>(header, p);
}
