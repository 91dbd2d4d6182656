// How a tile of a product reads an operand from global memory: float32, rows of any length and alignment.
//
// A thread reads pieces of four neighbours of a row: as one LDG.128 where the operand's rows are aligned to 16 bytes, else one by
// one. What does not change along k is computed once: where the rows of the thread's pieces lie, in floats from the operand's
// start (an operand has fewer than 2^32 floats), and whether they lie in it at all. What lies outside is zero and is not read.
#pragma once

#include "batch.cuh"

// How an operand lies in memory, by the index that runs along a row.
enum class Rows { OfK, Across };

// An operand of a tile: element (i, k), where i is a row of C for A and a column of C for B.
template <Rows ROWS> struct Operand {
    const float *data;
    unsigned stride;        // between rows, in floats
    const unsigned *index;  // which rows, or null for all in order; NONE is a row of zeros
    const float *scale;     // by k: what rows are multiplied with (Rows::Across), or null
    unsigned split;         // from this k on ..
    long long beyond;       // .. rows lie so many floats further (Rows::Across, without an index)
    bool ones;              // behind its columns is one more, of ones (Rows::Across)
};

// Reads a tile of WIDTH i by DEPTH k, step by step along k.
template <Rows ROWS, int WIDTH, int DEPTH, int THREADS> struct Reader {
    // Pieces in a row of the tile, pieces of a thread, and rows from one of its pieces to the next.
    static constexpr int ALONG = (ROWS == Rows::OfK ? DEPTH : WIDTH) / 4;
    static constexpr int PIECES = WIDTH * DEPTH / 4 / THREADS;
    static constexpr int APART = THREADS / ALONG;
    static_assert(THREADS % ALONG == 0 && WIDTH * DEPTH % (4 * THREADS) == 0, "pieces fall to the threads alike");
    static constexpr bool SHORT = ALONG <= 8;
    static_assert(!SHORT || APART % 8 == 0, "the order of short rows is one of eight");

    float next[PIECES][4];

    // A thread's row and column in the tile. Consecutive threads read along a row. Short rows are taken in the order 0, 4, 1, 5, 2,
    // 6, 3, 7: two of them that half a warp stores to an f16 tile then fall into different banks.
    static __device__ __forceinline__ unsigned row(int piece) {
        const unsigned line = threadIdx.x / ALONG;
        return piece * APART + (SHORT ? (line & ~7u) | (line & 1) << 2 | (line & 6) >> 1 : line);
    }
    static __device__ __forceinline__ unsigned column() { return threadIdx.x % ALONG * 4; }

    // `first` and `all`: the tile's first i, and how many the operand has.
    __device__ __forceinline__ Reader(const Operand<ROWS> &read, unsigned first, unsigned all, unsigned k_begin, unsigned k_end_)
        : operand(read), k(k_begin), k_end(k_end_), columns(all - read.ones) {
        const unsigned ends = ROWS == Rows::OfK ? k_begin | k_end : columns;
        const unsigned beyond = static_cast<unsigned>(operand.beyond), start = reinterpret_cast<size_t>(operand.data) / 4;
        aligned = (start | operand.stride | beyond | ends) % 4 == 0;
        if (ROWS == Rows::OfK) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                const unsigned i = first + row(piece);
                const unsigned line = i < columns ? (operand.index ? operand.index[i] : i) : NONE;
                from[piece] = line == NONE ? NONE : line * operand.stride + column();
            }
        } else {
            i = first + column();
            left = i < columns ? columns - i : 0;
        }
        look_up();
    }

    // Reads the next tile along k.
    __device__ __forceinline__ void fetch() {
        if (ROWS == Rows::OfK) left = k + column() < k_end ? k_end - k - column() : 0;
        if (aligned) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (left && is_row(piece)) four = *reinterpret_cast<const float4 *>(place(piece));
                next[piece][0] = four.x, next[piece][1] = four.y, next[piece][2] = four.z, next[piece][3] = four.w;
            }
        } else {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                const unsigned count = is_row(piece) ? left : 0;
                const float *neighbours = place(piece);
#pragma unroll
                for (int e = 0; e < 4; e++) next[piece][e] = e < count ? neighbours[e] : 0.0f;
            }
        }
        if (operand.scale) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) factor[piece] = is_row(piece) ? operand.scale[k + row(piece)] : 0.0f;
        }
        k += DEPTH;
        look_up();
    }

    // Multiplies what `fetch` read by its rows' factors, and puts the ones beside it: not before it is needed, so that nothing waits
    // for the reads.
    __device__ __forceinline__ void finish() {
        if (operand.scale) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
#pragma unroll
                for (int e = 0; e < 4; e++) next[piece][e] *= factor[piece];
            }
        }
        if (ROWS == Rows::Across && operand.ones && i <= columns && columns - i < 4) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                const float one = k - DEPTH + row(piece) < k_end ? 1.0f : 0.0f;
#pragma unroll
                for (int e = 0; e < 4; e++) next[piece][e] = columns - i == e ? one : next[piece][e];
            }
        }
    }

  private:
    const Operand<ROWS> operand;
    unsigned k;  // that `fetch` reads from
    const unsigned k_end;
    const unsigned columns;  // that lie in memory
    bool aligned;
    unsigned i;             // the thread's column (Rows::Across)
    unsigned left;          // how many elements there are from the thread's column on
    unsigned from[PIECES];  // where the pieces' rows begin (Rows::OfK), or which they are (Rows::Across); NONE for zeros
    float factor[PIECES];

    // Rows of the next step: by an index they are read a step ahead, as the addresses of the operand's own reads wait for them.
    __device__ __forceinline__ void look_up() {
        if (ROWS == Rows::Across) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                const unsigned at = k + row(piece);
                from[piece] = at < k_end ? (operand.index ? operand.index[at] : at) : NONE;
            }
        }
    }

    __device__ __forceinline__ bool is_row(int piece) const { return from[piece] != NONE; }

    __device__ __forceinline__ const float *place(int piece) const {
        if (ROWS == Rows::OfK) return operand.data + (from[piece] + k);
        const float *found = operand.data + (from[piece] * operand.stride + i);
        return operand.beyond && from[piece] >= operand.split ? found + operand.beyond : found;
    }
};

// W neighbours of a row of the result, of which `count` are in it; `aligned` where all rows are, and are multiples of W long.
template <int W> __device__ __forceinline__ void read_strip(float (&strip)[W], const float *from, unsigned count, bool aligned) {
    struct alignas(4 * W) Wide {
        float x[W];
    };
    if (aligned) {
        const Wide wide = *reinterpret_cast<const Wide *>(from);
#pragma unroll
        for (int e = 0; e < W; e++) strip[e] = wide.x[e];
    } else {
#pragma unroll
        for (int e = 0; e < W; e++) strip[e] = e < count ? from[e] : 0.0f;
    }
}

template <int W> __device__ __forceinline__ void write_strip(float *to, const float (&strip)[W], unsigned count, bool aligned) {
    struct alignas(4 * W) Wide {
        float x[W];
    };
    if (aligned) {
        Wide wide;
#pragma unroll
        for (int e = 0; e < W; e++) wide.x[e] = strip[e];
        *reinterpret_cast<Wide *>(to) = wide;
    } else {
#pragma unroll
        for (int e = 0; e < W; e++) {
            if (e < count) to[e] = strip[e];
        }
    }
}

__device__ __forceinline__ bool is_aligned(const float *data, unsigned stride, unsigned columns, unsigned width) {
    return ((reinterpret_cast<size_t>(data) / 4 | stride | columns) & (width - 1)) == 0;
}
