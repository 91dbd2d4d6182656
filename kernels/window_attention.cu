// Scaled dot-product attention and the readout of a window in one kernel (step 4; src/ops/attention): what product.cu, attention.cu and
// readout.cu do one after the other, for windows of up to 64 utterances in mixed precision. G, G score and the gradients come from DRAM
// once for all of it, and scores and their gradients never go there.
//
//     window_attention_f16_*             P = softmax(scale * (G score) G^T)     attended = P G
//                                        y = G w     a = softmax(P y)     p = P^T a     e = G^T p
//     window_attention_backward_f16_*    d_p = G d_e     d_b = a * (P d_p - a . P d_p)     d_y = P^T d_b
//                                        d_P = d_attended G^T + a outer d_p + d_b outer y     d_S = scale * P * (d_P - rows' P . d_P)
//                                        d_projected = d_S G     d_w = d_y G
//                                        d_g = P^T d_attended + d_S^T projected + p outer d_e + d_y outer w + d_states
//
// G, projected = G score, attended and their gradients [R, 2d] sample-major, P the n x n block of a sample, all f16; w, e, d_e, d_w [S, 2d]
// and y, a, p [R] float. attended, d_attended and d_states (the gradient of a stack that reads G itself) may be null. Products are on
// tensor cores with sums in float32, of f16 operands: P and d_S are rounded once. What is no product of matrices is float32. An empty
// window gives e = 0 and d_w = 0.
//
// A block has a sample, and two warps 16 of its rows: 16 x n scores stay in their registers from the product to the softmax, and become
// the left operand of the next product there, as FlashAttention-2 does it. Both make the same scores, which costs less than telling, and
// share out the columns of what comes of them. G is in shared memory, 104 columns at a time, beside what else the step needs of the same
// columns; the last columns of the way there are the first of the way back. P and d_S are there too where they are needed by columns. A row
// of 104 halves is an odd multiple of 16 bytes, and so is one of 16 T + 8: `ldmatrix` has no bank conflicts.
//
// Launch: grid (samples, 1, runs) of the capacity, block 64 T with T = ceil(N / 16) for windows of up to N <= 64. Dynamic shared memory in
// bytes, with M = 16 T:
//     window_attention_f16_*             2 * 208 M + 2 M (M + 8) + 4 * (104 + 5 M)
//     window_attention_backward_f16_*    2 * 208 M + 4 M (M + 8) + 4 * (208 + 5 M)
// At N = 40 that is two blocks a multiprocessor of an RTX 2080 Ti, 12 warps; of the way back with an odd d one. Registers on sm_75, where
// 2d is a multiple of 8, 4 and 2: 127, 132 and 148, backward 149, 157 and 213, no spills.
// Floor: memory. Bytes, with P values in all blocks together: 2 (3 R 2d + P) + S 16d + 12 R (attended is one of the three), backward
// 2 (5 R 2d + P) + S 24d + 12 R (d_attended is one of the five). FLOPs: 2 P 2d on tensor cores for each of two products and four; the
// readout's 4 (2 R d + P), backward 8 (2 R d + P), are few beside. G and d_attended are read again from L2 but for their last columns.

#include "operand.cuh"
#include "softmax.cuh"
#include "tensor_core.cuh"
#include "warp.cuh"
#include "window.cuh"

constexpr unsigned TILE = 16;                           // rows of two warps
constexpr unsigned TILES = 4;                           // of the longest window
constexpr unsigned CHUNK = 104;                         // columns in shared memory
constexpr unsigned PAIRS = (CHUNK / 8 + 3) / 4;         // of fragments that a warp has of its tile's results
constexpr unsigned KEYS = TILES * TILE / 8;             // fragments of a tile's scores

extern __shared__ uint4 shared_memory[];

// A matrix in shared memory.
struct Matrix {
    __half *data;
    unsigned stride;

    // The square from (row, column) on, of this matrix and of the transposed one: tensor_core.cuh.
    __device__ __forceinline__ void load(unsigned (&words)[4], unsigned row, unsigned column, bool missing = false) const {
        load_square(words, data, stride, row, column, missing);
    }
    __device__ __forceinline__ void load_transposed(unsigned (&words)[4], unsigned row, unsigned column) const {
        load_square_transposed(words, data, stride, row, column);
    }
};

// The first row of this warp's tile, and which of the tile's two warps it is.
__device__ __forceinline__ unsigned tile_row() {
    return threadIdx.x / 64 * TILE;
}

__device__ __forceinline__ unsigned side() {
    return threadIdx.x / 32 % 2;
}

// Columns of the chunk that begins there.
__device__ __forceinline__ unsigned columns_from(const Window &window, unsigned begin) {
    return min(CHUNK, window.width - begin);
}

// Rows in whole tiles.
__device__ __forceinline__ unsigned padded(const Window &window) {
    return (window.n + TILE - 1) / TILE * TILE;
}

// A thread's share of a chunk on its way from memory: fetched while something else is computed, and put into shared memory when that is
// done. By pieces as large as all rows are aligned to; what lies beyond the columns is zero. With 64 threads for 16 rows, a thread's 64
// bytes are enough.
template <class Piece> struct Fetched {
    __device__ __forceinline__ void fetch(const __half *from, const Window &window, unsigned begin) {
        const bool reads = column() < columns_from(window, begin);
        from += row(0) * window.width + begin + column();
#pragma unroll
        for (unsigned i = 0; i < COUNT; i++) {
            pieces[i] = Piece();
            if (reads && row(i) < window.n) pieces[i] = __ldg(reinterpret_cast<const Piece *>(from + i * apart() * window.width));
        }
    }

    __device__ __forceinline__ void put(Matrix to, const Window &window) const {
        if (column() >= CHUNK) return;
#pragma unroll
        for (unsigned i = 0; i < COUNT; i++) {
            if (row(i) < window.n) *reinterpret_cast<Piece *>(to.data + row(i) * CHUNK + column()) = pieces[i];
        }
    }

  private:
    // A row has 16 threads for pieces of 16 bytes, of which 13 are busy, 32 for 8 bytes or 64 for 4.
    static constexpr unsigned HALVES = sizeof(Piece) / sizeof(__half), OF_ROW = 128 / HALVES, COUNT = 64 / sizeof(Piece);
    Piece pieces[COUNT];

    static __device__ __forceinline__ unsigned column() { return threadIdx.x % OF_ROW * HALVES; }
    // Rows from one of a thread's pieces to the next.
    static __device__ __forceinline__ unsigned apart() { return blockDim.x / OF_ROW; }
    static __device__ __forceinline__ unsigned row(unsigned i) { return threadIdx.x / OF_ROW + i * apart(); }
};

// The same of a part of a vector [2d].
struct FetchedVector {
    float words[2];

    __device__ __forceinline__ void fetch(const float *from, const Window &window, unsigned begin) {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const unsigned at = threadIdx.x + i * blockDim.x;
            words[i] = at < columns_from(window, begin) ? __ldg(from + begin + at) : 0.0f;
        }
    }

    __device__ __forceinline__ void put(float *to) const {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const unsigned at = threadIdx.x + i * blockDim.x;
            if (at < CHUNK) to[at] = words[i];
        }
    }
};

// The rows that fill up the last tile, which no copy touches, and one more, into which the last pair of fragments reaches.
__device__ __forceinline__ void clear_padding(Matrix to, const Window &window) {
    constexpr unsigned OF_ROW = CHUNK / 8;
    const unsigned end = min(padded(window) + 1, blockDim.x / 4);
    uint4 *rows = reinterpret_cast<uint4 *>(to.data);
    for (unsigned item = window.n * OF_ROW + threadIdx.x; item < end * OF_ROW; item += blockDim.x) rows[item] = make_uint4(0, 0, 0, 0);
}

// The row of which a lane has a part in `dot_of_row`, as three lanes beside it do.
__device__ __forceinline__ unsigned dot_row() {
    return threadIdx.x / 4;
}

// What this chunk adds to the product of that row with a vector, in this lane, which takes every fourth pair of columns.
__device__ __forceinline__ float dot_of_row(Matrix chunk, const float *vector) {
    const unsigned *words = reinterpret_cast<const unsigned *>(chunk.data + dot_row() * CHUNK);
    float sum = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < CHUNK / 2; i += 4) {
        const unsigned at = i + threadIdx.x % 4;
        const float2 x = unpack(words[at]), y = *reinterpret_cast<const float2 *>(vector + 2 * at);
        sum += x.x * y.x + x.y * y.y;
    }
    return sum;
}

// to[column] = sum of vector[j] * chunk[j][column] over the window's rows, of which two lanes take every other one.
__device__ __forceinline__ void sum_of_rows(float *to, Matrix chunk, const float *vector, const Window &window, unsigned begin) {
    const unsigned half = threadIdx.x % 2;
    for (unsigned first = 0; first < columns_from(window, begin) / 2; first += blockDim.x / 2) {
        const unsigned i = first + threadIdx.x / 2;
        float2 sum = make_float2(0.0f, 0.0f);
        if (i < columns_from(window, begin) / 2) {
#pragma unroll 4
            for (unsigned j = half; j < window.n; j += 2) {
                const float2 x = unpack(reinterpret_cast<const unsigned *>(chunk.data + j * CHUNK)[i]);
                sum.x += vector[j] * x.x, sum.y += vector[j] * x.y;
            }
        }
        sum.x += __shfl_xor_sync(ALL_LANES, sum.x, 1), sum.y += __shfl_xor_sync(ALL_LANES, sum.y, 1);
        if (half == 0 && i < columns_from(window, begin) / 2) *reinterpret_cast<float2 *>(to + begin + 2 * i) = sum;
    }
}

// The sum of vector[i] * P[i][j] over half of the rows: two threads have a column j. Of `parts` [2, M] both have to be added.
__device__ __forceinline__ void sum_of_columns(float *parts, Matrix p, const float *vector, const Window &window) {
    const unsigned all = blockDim.x / 4, j = threadIdx.x % all, half = threadIdx.x / all;
    if (half >= 2) return;
    float sum = 0.0f;
    if (j < window.n) {
#pragma unroll 4
        for (unsigned i = half; i < window.n; i += 2) sum += vector[i] * widen(p.data[i * p.stride + j]);
    }
    parts[half * all + j] = sum;
}

// scores += rows of `a` times rows of `b`, over a chunk's columns.
__device__ __forceinline__ void add_scores(float (&scores)[KEYS][4], Matrix a, Matrix b, const Window &window, unsigned columns) {
    const unsigned row = tile_row();
    for (unsigned k = 0; k < columns; k += 16) {
        const bool missing = k + 8 >= columns;
        unsigned from_a[4];
        a.load(from_a, row, k, missing);
#pragma unroll
        for (unsigned pair = 0; pair < KEYS / 2; pair++) {
            if (pair * TILE >= window.n) break;
            unsigned from_b[4];
            b.load(from_b, pair * TILE, k, missing);
            multiply_add(scores[2 * pair], from_a[0], from_a[1], from_b[0]);
            multiply_add(scores[2 * pair + 1], from_a[0], from_a[1], from_b[1]);
            if (missing) continue;
            multiply_add(scores[2 * pair], from_a[2], from_a[3], from_b[2]);
            multiply_add(scores[2 * pair + 1], from_a[2], from_a[3], from_b[3]);
        }
    }
}

// A warp's half of its tile's results in a chunk's columns: every other pair of fragments.
using Results = float[2 * PAIRS][4];

// Where the pair's columns begin.
__device__ __forceinline__ unsigned pair_column(unsigned pair) {
    return (2 * pair + side()) * 16;
}

// results += left operand times a chunk, 16 rows of the chunk from `row` on, or 8.
__device__ __forceinline__ void add_products(Results &results, const unsigned (&from_a)[4], Matrix chunk, unsigned row, bool second,
                                             unsigned columns) {
#pragma unroll
    for (unsigned pair = 0; pair < PAIRS; pair++) {
        const unsigned column = pair_column(pair);
        if (column >= columns) break;
        // Of a last pair that is half of one, the other half is the next row's first columns, and not used.
        unsigned from_b[4];
        chunk.load_transposed(from_b, column, row);
        multiply_add(results[2 * pair], from_a[0], from_a[1], from_b[0]);
        if (second) multiply_add(results[2 * pair], from_a[2], from_a[3], from_b[2]);
        if (column + 8 >= columns) break;
        multiply_add(results[2 * pair + 1], from_a[0], from_a[1], from_b[1]);
        if (second) multiply_add(results[2 * pair + 1], from_a[2], from_a[3], from_b[3]);
    }
}

// Of a row tile's scores the keys from 16 * step on, as a left operand.
using Weights = unsigned[KEYS][2];

__device__ __forceinline__ void add_weighted(Results &results, const Weights &weights, Matrix chunk, const Window &window,
                                             unsigned columns) {
#pragma unroll
    for (unsigned step = 0; step < TILES; step++) {
        if (step * TILE >= window.n) break;
        const unsigned from_a[4] = {weights[2 * step][0], weights[2 * step][1], weights[2 * step + 1][0], weights[2 * step + 1][1]};
        add_products(results, from_a, chunk, step * TILE, step * TILE + 8 < window.n, columns);
    }
}

// results += this tile's columns of a matrix of pairs, transposed, times a chunk.
__device__ __forceinline__ void add_transposed(Results &results, Matrix pairs, Matrix chunk, const Window &window, unsigned columns) {
#pragma unroll
    for (unsigned step = 0; step < TILES; step++) {
        if (step * TILE >= window.n) break;
        unsigned from_a[4];
        pairs.load_transposed(from_a, tile_row(), step * TILE);
        add_products(results, from_a, chunk, step * TILE, step * TILE + 8 < window.n, columns);
    }
}

// Stores a warp's results, four neighbours of a row at a time. `finish` may change them: by row of the window, column of the chunk.
template <class Finish>
__device__ __forceinline__ void store(__half *to, const Results &results, const Window &window, unsigned begin, Finish finish) {
    const unsigned lane = threadIdx.x % 32, columns = columns_from(window, begin), together = neighbours_together(window.width);
    to += begin;
#pragma unroll
    for (unsigned pair = 0; pair < PAIRS; pair++) {
        if (pair_column(pair) >= columns) break;
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            float strip[STRIP];
            share_neighbours(strip, results[2 * pair], results[2 * pair + 1], half);
            const unsigned row = tile_row() + half * 8 + lane / 4, column = pair_column(pair) + strip_column();
            if (row >= window.n || column >= columns) continue;
            __half *at = to + static_cast<size_t>(row) * window.width + column;
            finish(strip, at, row, column);
            write_strip(at, strip, columns - column, together);
        }
    }
}

// A place in a row tile's scores.
struct Key {
    unsigned row, column;

    // Of element e of fragment j.
    __device__ __forceinline__ Key(unsigned j, unsigned e)
        : row(tile_row() + threadIdx.x % 32 / 4 + e / 2 * 8), column(8 * j + threadIdx.x % 4 * 2 + e % 2) {}
};

__device__ __forceinline__ unsigned &word(Matrix pairs, const Key &key) {
    return *reinterpret_cast<unsigned *>(pairs.data + key.row * pairs.stride + key.column);
}

// Does something with every fragment of scores that has keys of the window.
template <class Each> __device__ __forceinline__ void for_keys(const Window &window, Each each) {
#pragma unroll
    for (unsigned j = 0; j < KEYS; j++) {
        if (8 * j < window.n) each(j);
    }
}

// A block of pairs between global memory, where its rows have n values, and shared memory, a warp a row; words at a time where rows
// begin at such.
__device__ __forceinline__ void load_pairs(Matrix to, const __half *from, const Window &window) {
    const unsigned lane = threadIdx.x % 32;
    const bool words = (window.n | window.pairs) % 2 == 0;
#pragma unroll 4
    for (unsigned row = threadIdx.x / 32; row < padded(window); row += blockDim.x / 32) {
        const __half *line = from + row * window.n;
        unsigned both = 0;
        if (row < window.n && 2 * lane < window.n) {
            if (words) {
                both = __ldg(reinterpret_cast<const unsigned *>(line) + lane);
            } else {
                both = __half_as_ushort(__ldg(line + 2 * lane));
                if (2 * lane + 1 < window.n) both |= static_cast<unsigned>(__half_as_ushort(__ldg(line + 2 * lane + 1))) << 16;
            }
        }
        if (2 * lane < padded(window)) reinterpret_cast<unsigned *>(to.data + row * to.stride)[lane] = both;
    }
}

__device__ __forceinline__ void store_pairs(__half *to, Matrix from, const Window &window) {
    const unsigned lane = threadIdx.x % 32;
    const bool words = (window.n | window.pairs) % 2 == 0;
#pragma unroll 4
    for (unsigned row = threadIdx.x / 32; row < window.n; row += blockDim.x / 32) {
        if (2 * lane >= window.n) continue;
        __half *line = to + row * window.n;
        const unsigned both = reinterpret_cast<const unsigned *>(from.data + row * from.stride)[lane];
        if (words) {
            reinterpret_cast<unsigned *>(line)[lane] = both;
        } else {
            line[2 * lane] = __ushort_as_half(both & 0xffff);
            if (2 * lane + 1 < window.n) line[2 * lane + 1] = __ushort_as_half(both >> 16);
        }
    }
}

namespace generic {

template <class Piece>
__device__ __forceinline__ void window_attention(
    __half *__restrict__ probabilities,        // n x n by sample
    __half *__restrict__ attended,             // [R, 2d] sample-major, or null
    float *__restrict__ e,                     // [S, 2d]
    float *__restrict__ y,                     // [R]
    float *__restrict__ a,                     // [R]
    float *__restrict__ p,                     // [R]
    const float *__restrict__ w,               // [S, 2d]
    const __half *__restrict__ g,              // [R, 2d] sample-major
    const __half *__restrict__ projected,      // [R, 2d] sample-major
    const unsigned *__restrict__ pairs,        // [S + 1]
    const unsigned *__restrict__ offset,       // [S + 1]
    const Header *__restrict__ header,
    float scale,
    unsigned width,                            // 2d
    size_t run_stride) {
    if (blockIdx.x >= of_run(header, run_stride)->samples) return;
    const Window window = window_of(pairs, offset, width, run_stride);
    if (window.n == 0) return clear_sample(e, window);
    e = window.sample(e);
    const unsigned rows = blockDim.x / 4, lane = threadIdx.x % 32;
    const Matrix left = {reinterpret_cast<__half *>(shared_memory), CHUNK};      // [M, 104]: projected
    const Matrix right = {left.data + rows * CHUNK, CHUNK};                      // [M, 104]: G
    const Matrix block = {right.data + rows * CHUNK, rows + 8};                  // [M, M + 8]: P
    float *vector = reinterpret_cast<float *>(block.data + rows * (rows + 8));   // [104]: w
    float *y_here = vector + CHUNK;                                              // [M]
    float *b = y_here + rows;                                                    // [M]: P y, then p
    float *a_here = b + rows;                                                    // [M]
    float *parts = a_here + rows;                                                // [2, M]
    w = window.sample(w);
    g = window.rows(g);
    projected = window.rows(projected);
    const bool works = tile_row() < window.n;

    unsigned begin = 0;
    Fetched<Piece> next_left, next_right;
    FetchedVector next_w;
    const auto fetch = [&] {
        next_left.fetch(projected, window, begin);
        next_right.fetch(g, window, begin);
        next_w.fetch(w, window, begin);
    };
    fetch();
    clear_padding(left, window);
    clear_padding(right, window);
    float scores[KEYS][4] = {}, dot = 0.0f;
    for (;;) {
        next_left.put(left, window);
        next_right.put(right, window);
        next_w.put(vector);
        __syncthreads();
        const unsigned columns = columns_from(window, begin);
        const bool more = begin + CHUNK < width;
        if (more) {
            begin += CHUNK;
            fetch();
        }
        if (works) {
            add_scores(scores, left, right, window, columns);
            dot += dot_of_row(right, vector);
        }
        if (!more) break;
        __syncthreads();
    }
    dot = sum_of_four<1>(dot);
    if (lane % 4 == 0) y_here[dot_row()] = dot;

    // The softmax of the warp's rows.
    Weights weights = {};
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for_keys(window, [&](unsigned j) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if (Key(j, i).column < window.n) largest[i / 2] = fmaxf(largest[i / 2], scores[j][i]);
        }
    });
#pragma unroll
    for (unsigned half = 0; half < 2; half++) largest[half] = maximum_of_four<1>(largest[half]);
    for_keys(window, [&](unsigned j) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            scores[j][i] = Key(j, i).column < window.n ? held_exp((scores[j][i] - largest[i / 2]) * scale) : 0.0f;
            sum[i / 2] += scores[j][i];
        }
    });
#pragma unroll
    for (unsigned half = 0; half < 2; half++) sum[half] = 1.0f / sum_of_four<1>(sum[half]);
    for_keys(window, [&](unsigned j) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const Key key(j, 2 * half);
            weights[j][half] = key.row < window.n ? pack(scores[j][2 * half] * sum[half], scores[j][2 * half + 1] * sum[half]) : 0;
            if (j % 2 == side()) word(block, key) = weights[j][half];
        }
    });
    __syncthreads();

    // The readout. P is what it is in memory.
    store_pairs(window.block(probabilities), block, window);
    float of_rows[2] = {};
    for_keys(window, [&](unsigned j) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const float2 weight = unpack(weights[j][half]), y_two = *reinterpret_cast<const float2 *>(y_here + Key(j, 0).column);
            of_rows[half] += weight.x * y_two.x + weight.y * y_two.y;
        }
    });
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        of_rows[half] = sum_of_four<1>(of_rows[half]);
        if (lane % 4 == 0 && half == side()) b[Key(0, 2 * half).row] = of_rows[half];
    }
    __syncthreads();
    const Softmax softmax(b, window.n);
    if (threadIdx.x < window.n) a_here[threadIdx.x] = softmax[threadIdx.x];
    __syncthreads();
    sum_of_columns(parts, block, a_here, window);
    __syncthreads();
    if (threadIdx.x < window.n) {
        b[threadIdx.x] = parts[threadIdx.x] + parts[rows + threadIdx.x];
        window.values(y)[threadIdx.x] = y_here[threadIdx.x];
        window.values(a)[threadIdx.x] = a_here[threadIdx.x];
        window.values(p)[threadIdx.x] = b[threadIdx.x];
    }
    __syncthreads();

    // Back through the columns, of which the last are here.
    if (attended) attended = window.rows(attended);
    for (;;) {
        if (begin > 0) next_right.fetch(g, window, begin - CHUNK);
        sum_of_rows(e, right, b, window, begin);
        if (attended && works) {
            Results results = {};
            add_weighted(results, weights, right, window, columns_from(window, begin));
            store(attended, results, window, begin, [](float (&)[STRIP], const __half *, unsigned, unsigned) {});
        }
        if (begin == 0) break;
        begin -= CHUNK;
        __syncthreads();
        next_right.put(right, window);
        __syncthreads();
    }
}

}  // namespace generic

// For each size of a piece, DEFINE(Piece, its halves, registers). They are limited for the way back: with 168 a multiprocessor has two
// blocks for windows of up to 48 utterances, but in the narrowest pieces, of odd d, it would spill with so few.
#define FOR_PIECES(DEFINE)                                                                                                              \
    DEFINE(uint4, 8, 168)                                                                                                               \
    DEFINE(uint2, 4, 168)                                                                                                               \
    DEFINE(unsigned, 2, 255)

#define WINDOW_ATTENTION(Piece, halves, registers)                                                                                      \
    extern "C" __global__ void __maxnreg__(registers) window_attention_f16_##halves(                                                    \
        __half *__restrict__ probabilities, __half *__restrict__ attended, float *__restrict__ e, float *__restrict__ y,                \
        float *__restrict__ a, float *__restrict__ p, const float *__restrict__ w, const __half *__restrict__ g,                        \
        const __half *__restrict__ projected, const unsigned *__restrict__ pairs, const unsigned *__restrict__ offset,                  \
        const Header *__restrict__ header, float scale, unsigned width, size_t run_stride) {                                            \
        generic::window_attention<Piece>(probabilities, attended, e, y, a, p, w, g, projected, pairs, offset, header, scale, width,     \
            run_stride);                                                                                                                \
    }

FOR_PIECES(WINDOW_ATTENTION)

namespace generic {

template <class Piece>
__device__ __forceinline__ void window_attention_backward(
    __half *__restrict__ d_projected,          // [R, 2d] sample-major
    __half *__restrict__ d_g,                  // [R, 2d] sample-major
    float *__restrict__ d_w,                   // [S, 2d]
    const float *__restrict__ d_e,             // [S, 2d]
    const __half *__restrict__ d_attended,     // [R, 2d] sample-major, or null
    const __half *__restrict__ d_states,       // [R, 2d] sample-major, or null
    const float *__restrict__ y,               // [R]
    const float *__restrict__ a,               // [R]
    const float *__restrict__ p,               // [R]
    const float *__restrict__ w,               // [S, 2d]
    const __half *__restrict__ g,              // [R, 2d] sample-major
    const __half *__restrict__ projected,      // [R, 2d] sample-major
    const __half *__restrict__ probabilities,  // n x n by sample
    const unsigned *__restrict__ pairs,        // [S + 1]
    const unsigned *__restrict__ offset,       // [S + 1]
    const Header *__restrict__ header,
    float scale,
    unsigned width,                            // 2d
    size_t run_stride) {
    if (blockIdx.x >= of_run(header, run_stride)->samples) return;
    const Window window = window_of(pairs, offset, width, run_stride);
    if (window.n == 0) return clear_sample(d_w, window);
    d_w = window.sample(d_w);
    const unsigned rows = blockDim.x / 4, lane = threadIdx.x % 32;
    const Matrix left = {reinterpret_cast<__half *>(shared_memory), CHUNK};      // [M, 104]: d_attended
    const Matrix right = {left.data + rows * CHUNK, CHUNK};                      // [M, 104]: G, then projected
    const Matrix block = {right.data + rows * CHUNK, rows + 8};                  // [M, M + 8]: P
    const Matrix d_block = {block.data + rows * (rows + 8), rows + 8};           // [M, M + 8]: d_S
    float *d_e_here = reinterpret_cast<float *>(d_block.data + rows * (rows + 8));  // [104]
    float *w_here = d_e_here + CHUNK;                                            // [104]
    float *y_here = w_here + CHUNK;                                              // [M]
    float *a_here = y_here + rows;                                               // [M]
    float *d_p = a_here + rows;                                                  // [M], then d_y
    float *t = d_p + rows;                                                       // [M]: P d_p, then p
    float *d_b = t + rows;                                                       // [M]
    float *parts = y_here;                                                       // [2, M], when y and a are done with
    d_e = window.sample(d_e);
    w = window.sample(w);
    g = window.rows(g);
    projected = window.rows(projected);
    if (d_attended) d_attended = window.rows(d_attended);
    if (d_states) d_states = window.rows(d_states);
    d_projected = window.rows(d_projected);
    d_g = window.rows(d_g);
    const bool works = tile_row() < window.n;

    unsigned begin = 0;
    Fetched<Piece> next_left, next_right;
    FetchedVector next_d_e, next_w;
    // What the way there reads of a chunk; what the way back does besides is `fetch_rest`.
    const auto fetch = [&] {
        if (d_attended) next_left.fetch(d_attended, window, begin);
        next_right.fetch(g, window, begin);
        next_d_e.fetch(d_e, window, begin);
    };
    const auto put = [&] {
        if (d_attended) next_left.put(left, window);
        next_right.put(right, window);
        next_d_e.put(d_e_here);
    };
    const auto fetch_rest = [&] {
        next_right.fetch(projected, window, begin);
        next_w.fetch(w, window, begin);
    };
    fetch();
    const bool is_row = threadIdx.x < window.n;
    const float y_own = is_row ? window.values(y)[threadIdx.x] : 0.0f;
    const float a_own = is_row ? window.values(a)[threadIdx.x] : 0.0f;
    const float p_own = is_row ? window.values(p)[threadIdx.x] : 0.0f;
    load_pairs(block, window.block(probabilities), window);
    if (threadIdx.x < rows) y_here[threadIdx.x] = y_own, a_here[threadIdx.x] = a_own;
    clear_padding(left, window);
    clear_padding(right, window);
    float scores[KEYS][4] = {}, dot = 0.0f;
    for (;;) {
        put();
        __syncthreads();
        const unsigned columns = columns_from(window, begin);
        const bool more = begin + CHUNK < width;
        if (more) {
            begin += CHUNK;
            fetch();
        }
        if (works) {
            if (d_attended) add_scores(scores, left, right, window, columns);
            dot += dot_of_row(right, d_e_here);
        }
        if (!more) break;
        __syncthreads();
    }
    fetch_rest();
    dot = sum_of_four<1>(dot);
    if (lane % 4 == 0) d_p[dot_row()] = dot;
    __syncthreads();

    // Back through the readout.
    Weights weights = {};
    float of_rows[2] = {};
    for_keys(window, [&](unsigned j) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            weights[j][half] = works ? word(block, Key(j, 2 * half)) : 0;
            const float2 weight = unpack(weights[j][half]), d_p_two = *reinterpret_cast<const float2 *>(d_p + Key(j, 0).column);
            of_rows[half] += weight.x * d_p_two.x + weight.y * d_p_two.y;
        }
    });
#pragma unroll
    for (unsigned half = 0; half < 2; half++) {
        of_rows[half] = sum_of_four<1>(of_rows[half]);
        if (lane % 4 == 0 && half == side()) t[Key(0, 2 * half).row] = of_rows[half];
    }
    __syncthreads();
    float of_all = 0.0f;
    for (unsigned j = lane; j < window.n; j += 32) of_all += a_here[j] * t[j];
    of_all = warp_sum(of_all);
    if (threadIdx.x < rows) d_b[threadIdx.x] = threadIdx.x < window.n ? a_here[threadIdx.x] * (t[threadIdx.x] - of_all) : 0.0f;
    // Through the softmax of the warp's rows.
    float products[2] = {};
    const auto add_readout = [&](unsigned j, unsigned i) {
        const Key key(j, i);
        return scores[j][i] + a_here[key.row] * d_p[key.column] + a_here[key.row] * (t[key.row] - of_all) * y_here[key.column];
    };
    if (works) {
        for_keys(window, [&](unsigned j) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const float2 weight = unpack(weights[j][half]);
#pragma unroll
                for (unsigned i = 0; i < 2; i++) {
                    const Key key(j, 2 * half + i);
                    const bool is_pair = key.row < window.n && key.column < window.n;
                    scores[j][2 * half + i] = is_pair ? add_readout(j, 2 * half + i) : 0.0f;
                    products[half] += (i ? weight.y : weight.x) * scores[j][2 * half + i];
                }
            }
        });
    }
#pragma unroll
    for (unsigned half = 0; half < 2; half++) products[half] = sum_of_four<1>(products[half]);
    for_keys(window, [&](unsigned j) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const float2 weight = unpack(weights[j][half]);
            weights[j][half] = pack(scale * weight.x * (scores[j][2 * half] - products[half]),
                                    scale * weight.y * (scores[j][2 * half + 1] - products[half]));
        }
    });
    if (works) {
#pragma unroll
        for (unsigned j = 0; j < KEYS; j++) {
            if (8 * j >= padded(window)) break;
            if (j % 2 != side()) continue;
#pragma unroll
            for (unsigned half = 0; half < 2; half++) word(d_block, Key(j, 2 * half)) = weights[j][half];
        }
    }
    __syncthreads();
    sum_of_columns(parts, block, d_b, window);
    if (threadIdx.x < rows) t[threadIdx.x] = p_own;
    __syncthreads();
    float *d_y = d_p, *p_here = t;
    if (threadIdx.x < rows) d_y[threadIdx.x] = parts[threadIdx.x] + parts[rows + threadIdx.x];
    __syncthreads();

    // Back through the columns, of which the last are here.
    for (;;) {
        sum_of_rows(d_w, right, d_y, window, begin);
        if (works) {
            Results results = {};
            add_weighted(results, weights, right, window, columns_from(window, begin));
            store(d_projected, results, window, begin, [](float (&)[STRIP], const __half *, unsigned, unsigned) {});
        }
        __syncthreads();
        next_right.put(right, window);
        next_w.put(w_here);
        __syncthreads();
        if (works) {
            Results results = {};
            const unsigned together = neighbours_together(width), columns = columns_from(window, begin);
            if (d_attended) add_transposed(results, block, left, window, columns);
            add_transposed(results, d_block, right, window, columns);
            store(d_g, results, window, begin, [&](float (&strip)[STRIP], const __half *at, unsigned row, unsigned column) {
                float states[STRIP] = {};
                if (d_states) read_strip(states, d_states + (at - d_g), columns - column, together);
                const float along_e = p_here[row], along_w = d_y[row];
                const float4 d_e_four = *reinterpret_cast<const float4 *>(d_e_here + column);
                const float4 w_four = *reinterpret_cast<const float4 *>(w_here + column);
                strip[0] += along_e * d_e_four.x + along_w * w_four.x + states[0];
                strip[1] += along_e * d_e_four.y + along_w * w_four.y + states[1];
                strip[2] += along_e * d_e_four.z + along_w * w_four.z + states[2];
                strip[3] += along_e * d_e_four.w + along_w * w_four.w + states[3];
            });
        }
        if (begin == 0) break;
        begin -= CHUNK;
        // Not earlier: registers for them and for the results would be too many for two blocks.
        fetch();
        __syncthreads();
        put();
        fetch_rest();
        __syncthreads();
    }
}

}  // namespace generic

#define WINDOW_ATTENTION_BACKWARD(Piece, halves, registers)                                                                             \
    extern "C" __global__ void __maxnreg__(registers) window_attention_backward_f16_##halves(                                           \
        __half *__restrict__ d_projected, __half *__restrict__ d_g, float *__restrict__ d_w, const float *__restrict__ d_e,             \
        const __half *__restrict__ d_attended, const __half *__restrict__ d_states, const float *__restrict__ y,                        \
        const float *__restrict__ a, const float *__restrict__ p, const float *__restrict__ w, const __half *__restrict__ g,            \
        const __half *__restrict__ projected, const __half *__restrict__ probabilities, const unsigned *__restrict__ pairs,             \
        const unsigned *__restrict__ offset, const Header *__restrict__ header, float scale, unsigned width, size_t run_stride) {       \
        generic::window_attention_backward<Piece>(d_projected, d_g, d_w, d_e, d_attended, d_states, y, a, p, w, g, projected,           \
            probabilities, pairs, offset, header, scale, width, run_stride);                                                            \
    }

FOR_PIECES(WINDOW_ATTENTION_BACKWARD)
