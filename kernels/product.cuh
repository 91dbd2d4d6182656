// One tile of a product of matrices in float32, C = A B, by the threads of a block.
//
// Tile: BM x BN of C, each thread TM x TN of it, in steps of BK along k. What lives where: the thread's results and the next
// step's elements of A and B in registers; two tiles each of A and B in shared memory, k-major, one of which is multiplied
// while the other is filled, so that a step has one barrier. A thread's rows and columns come in groups of four, a quarter
// of the block's threads apart, so that reading them is one LDS.128 without bank conflicts.
//
// Nothing is assumed of sizes or of alignment: what lies outside is zero and is not read.
#pragma once

#include "batch.cuh"

// Depth of a step.
constexpr int BK = 16;

// How an operand lies in memory, by the index that runs along a row.
enum class Rows { OfK, Across };

template <int BM_, int BN_, int TM_, int TN_> struct Tile {
    static constexpr bool TENSOR = false;
    static constexpr int BM = BM_, BN = BN_, TM = TM_, TN = TN_;
    static constexpr int THREADS = (BM / TM) * (BN / TN);
    static_assert(TM % 4 == 0 && TN % 4 == 0, "a thread's rows and columns come in fours");
    static_assert(BM * BK % THREADS == 0 && BN * BK % THREADS == 0, "tiles fall to the threads alike");
    // Four floats of padding keep rows aligned for LDS.128 and spread stores of a column over the banks.
    struct Shared {
        alignas(16) float a[2][BK][BM + 4];
        alignas(16) float b[2][BK][BN + 4];
    };
};

// An operand of a tile: element (i, k), where i is a row of C for A and a column of C for B.
template <Rows ROWS> struct Operand {
    const float *data;
    unsigned stride;        // between rows, in floats
    const unsigned *index;  // which rows, or null for all in order; NONE is a row of zeros
    const float *scale;     // by k: what rows are multiplied with (Rows::Across), or null
    unsigned split;         // from this k on ..
    long long beyond;       // .. rows lie so many floats further (Rows::Across)

    __device__ __forceinline__ float at(unsigned i, unsigned k) const {
        const unsigned row = ROWS == Rows::OfK ? i : k, column = ROWS == Rows::OfK ? k : i;
        const unsigned from = index ? index[row] : row;
        if (from == NONE) return 0.0f;
        const float *place = data + static_cast<size_t>(from) * stride + column;
        if (ROWS == Rows::Across && k >= split) place += beyond;
        return scale ? *place * scale[k] : *place;
    }
};

// The block's tile of C from (first_row, first_column) on, over k from `k_begin` to `k_end`. `out(row, column, value)` is called
// for each element within m x n.
template <class T, Rows A, Rows B, class Out>
__device__ __forceinline__ void multiply_tile(typename T::Shared &shared, const Operand<A> &a, const Operand<B> &b, unsigned m,
                                              unsigned n, unsigned k_begin, unsigned k_end, unsigned first_row,
                                              unsigned first_column, Out out) {
    constexpr int A_PIECES = T::BM * BK / T::THREADS, B_PIECES = T::BN * BK / T::THREADS;
    const unsigned thread = threadIdx.x;
    float next_a[A_PIECES], next_b[B_PIECES];

    // Consecutive threads read consecutive addresses: along k where rows run along k, else along the tile.
    const auto place = [&](int piece, Rows rows, int width, unsigned &i, unsigned &k) {
        const unsigned index = thread + piece * T::THREADS;
        i = rows == Rows::OfK ? index / BK : index % width;
        k = rows == Rows::OfK ? index % BK : index / width;
    };
    const auto fetch = [&](unsigned k0) {
#pragma unroll
        for (int piece = 0; piece < A_PIECES; piece++) {
            unsigned i, k;
            place(piece, A, T::BM, i, k);
            next_a[piece] = first_row + i < m && k0 + k < k_end ? a.at(first_row + i, k0 + k) : 0.0f;
        }
#pragma unroll
        for (int piece = 0; piece < B_PIECES; piece++) {
            unsigned i, k;
            place(piece, B, T::BN, i, k);
            next_b[piece] = first_column + i < n && k0 + k < k_end ? b.at(first_column + i, k0 + k) : 0.0f;
        }
    };
    const auto put = [&](int buffer) {
#pragma unroll
        for (int piece = 0; piece < A_PIECES; piece++) {
            unsigned i, k;
            place(piece, A, T::BM, i, k);
            shared.a[buffer][k][i] = next_a[piece];
        }
#pragma unroll
        for (int piece = 0; piece < B_PIECES; piece++) {
            unsigned i, k;
            place(piece, B, T::BN, i, k);
            shared.b[buffer][k][i] = next_b[piece];
        }
    };

    constexpr int ROW_THREADS = T::BM / T::TM;
    const unsigned thread_row = thread % ROW_THREADS, thread_column = thread / ROW_THREADS;
    float sums[T::TM][T::TN] = {};
    if (k_begin < k_end) {
        fetch(k_begin);
        put(0);
    }
    __syncthreads();
    int buffer = 0;
    for (unsigned k0 = k_begin; k0 < k_end; k0 += BK) {
        const bool more = k0 + BK < k_end;
        if (more) fetch(k0 + BK);
#pragma unroll
        for (int k = 0; k < BK; k++) {
            float row[T::TM], column[T::TN];
#pragma unroll
            for (int i = 0; i < T::TM; i += 4) {
                const float4 four = *reinterpret_cast<const float4 *>(&shared.a[buffer][k][i * ROW_THREADS + thread_row * 4]);
                row[i] = four.x, row[i + 1] = four.y, row[i + 2] = four.z, row[i + 3] = four.w;
            }
#pragma unroll
            for (int j = 0; j < T::TN; j += 4) {
                const float4 four =
                    *reinterpret_cast<const float4 *>(&shared.b[buffer][k][j * (T::BN / T::TN) + thread_column * 4]);
                column[j] = four.x, column[j + 1] = four.y, column[j + 2] = four.z, column[j + 3] = four.w;
            }
#pragma unroll
            for (int i = 0; i < T::TM; i++) {
#pragma unroll
                for (int j = 0; j < T::TN; j++) sums[i][j] = fmaf(row[i], column[j], sums[i][j]);
            }
        }
        // Nobody reads the other buffer any more: the barrier of the step before has seen to that.
        if (more) put(1 - buffer);
        __syncthreads();
        buffer = 1 - buffer;
    }
#pragma unroll
    for (int i = 0; i < T::TM; i++) {
        const unsigned r = first_row + i / 4 * 4 * ROW_THREADS + thread_row * 4 + i % 4;
#pragma unroll
        for (int j = 0; j < T::TN; j++) {
            const unsigned c = first_column + j / 4 * 4 * (T::BN / T::TN) + thread_column * 4 + j % 4;
            if (r < m && c < n) out(r, c, sums[i][j]);
        }
    }
}
