// One tile of a product of matrices on tensor cores, C = A B: operands in float32 are rounded to f16 on their way into shared
// memory, products are exact and summed in float32.
//
// Tile: BM x BN of C, each warp WM x WN of it in fragments of 16 x 8, in steps of 16 along k, which is two `mma` deep. What lives where:
// the warp's results and the next step's elements of A and B in registers; two tiles each of A and B in shared memory in the layout
// that the operand has in global memory, one of which is multiplied while the other is filled, so that a step has one barrier.
// `ldmatrix` turns what lies across. Rows are padded to an odd multiple of 16 bytes, so that the eight rows it reads at once meet
// different banks.
//
// A value beyond f16's range becomes infinity and shows in the result, where the caller's loss scaling finds it. Nothing is assumed of
// sizes or of alignment: what lies outside is zero and is not read.
#pragma once

#include "product.cuh"
#include "tensor_core.cuh"

template <int BM_, int BN_, int WM_, int WN_> struct TensorTile {
    static constexpr bool TENSOR = true;
    static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_;
    static constexpr int THREADS = 32 * (BM / WM) * (BN / WN);
    static_assert(WM % 16 == 0 && WN % 16 == 0, "whole fragments, and four matrices a load");
    // Halves from one row of shared memory to the next, by whether rows run along k or across.
    static constexpr int DEEP = BK + 8, WIDE_A = BM + 8, WIDE_B = BN + 8;
    static constexpr int SIZE_A = BM * DEEP > BK * WIDE_A ? BM * DEEP : BK * WIDE_A;
    static constexpr int SIZE_B = BN * DEEP > BK * WIDE_B ? BN * DEEP : BK * WIDE_B;
    struct Shared {
        alignas(16) __half a[2][SIZE_A];
        alignas(16) __half b[2][SIZE_B];
    };
};

// As `multiply_tile` in product.cuh.
template <class T, Rows A, Rows B, class Out>
__device__ __forceinline__ void multiply_tensor_tile(typename T::Shared &shared, const Operand<A> &a, const Operand<B> &b, unsigned m,
                                                     unsigned n, unsigned k_begin, unsigned k_end, unsigned first_row,
                                                     unsigned first_column, Out out) {
    // Pairs of neighbours in memory that fall to a thread.
    constexpr int A_PAIRS = T::BM * BK / 2 / T::THREADS, B_PAIRS = T::BN * BK / 2 / T::THREADS;
    static_assert(A_PAIRS * 2 * T::THREADS == T::BM * BK && B_PAIRS * 2 * T::THREADS == T::BN * BK, "tiles fall to the threads alike");
    constexpr int ROWS_A = 2 * (T::WM / 16), COLUMNS_B = T::WN / 8, DEPTHS = BK / 8;
    static_assert(ROWS_A * DEPTHS % 4 == 0 && COLUMNS_B * DEPTHS % 4 == 0, "four matrices a load");
    const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    float next_a[A_PAIRS][2], next_b[B_PAIRS][2];

    // Element (i, k) of the pair's first; the second is the next one in memory.
    const auto place = [&](int pair, Rows rows, int width, unsigned &i, unsigned &k) {
        const unsigned index = thread + pair * T::THREADS;
        i = rows == Rows::OfK ? index / (BK / 2) : index % (width / 2) * 2;
        k = rows == Rows::OfK ? index % (BK / 2) * 2 : index / (width / 2);
    };
    const auto fetch = [&](unsigned k0) {
#pragma unroll
        for (int pair = 0; pair < A_PAIRS; pair++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                unsigned i, k;
                place(pair, A, T::BM, i, k);
                i += first_row + (A == Rows::OfK ? 0 : half), k += k0 + (A == Rows::OfK ? half : 0);
                next_a[pair][half] = i < m && k < k_end ? a.at(i, k) : 0.0f;
            }
        }
#pragma unroll
        for (int pair = 0; pair < B_PAIRS; pair++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                unsigned i, k;
                place(pair, B, T::BN, i, k);
                i += first_column + (B == Rows::OfK ? 0 : half), k += k0 + (B == Rows::OfK ? half : 0);
                next_b[pair][half] = i < n && k < k_end ? b.at(i, k) : 0.0f;
            }
        }
    };
    // Where an element lies in shared memory.
    const auto at_a = [](unsigned i, unsigned k) { return A == Rows::OfK ? i * T::DEEP + k : k * T::WIDE_A + i; };
    const auto at_b = [](unsigned j, unsigned k) { return B == Rows::OfK ? j * T::DEEP + k : k * T::WIDE_B + j; };
    const auto put = [&](int buffer) {
#pragma unroll
        for (int pair = 0; pair < A_PAIRS; pair++) {
            unsigned i, k;
            place(pair, A, T::BM, i, k);
            *reinterpret_cast<__half2 *>(&shared.a[buffer][at_a(i, k)]) = __floats2half2_rn(next_a[pair][0], next_a[pair][1]);
        }
#pragma unroll
        for (int pair = 0; pair < B_PAIRS; pair++) {
            unsigned i, k;
            place(pair, B, T::BN, i, k);
            *reinterpret_cast<__half2 *>(&shared.b[buffer][at_b(i, k)]) = __floats2half2_rn(next_b[pair][0], next_b[pair][1]);
        }
    };

    const unsigned warp_row = warp % (T::BM / T::WM) * T::WM, warp_column = warp / (T::BM / T::WM) * T::WN;
    float sums[ROWS_A / 2][COLUMNS_B][4] = {};
    if (k_begin < k_end) {
        fetch(k_begin);
        put(0);
    }
    __syncthreads();
    int buffer = 0;
    for (unsigned k0 = k_begin; k0 < k_end; k0 += BK) {
        const bool more = k0 + BK < k_end;
        if (more) fetch(k0 + BK);
        // Matrices of 8 x 8 by depth, then by row or column; a lane gives the address of one row of one of four.
        unsigned left[DEPTHS * ROWS_A], right[DEPTHS * COLUMNS_B];
#pragma unroll
        for (int first = 0; first < DEPTHS * ROWS_A; first += 4) {
            const unsigned matrix = first + lane / 8, i = warp_row + matrix % ROWS_A * 8, k = matrix / ROWS_A * 8;
            unsigned words[4];
            if (A == Rows::OfK) {
                load_four_matrices(words, &shared.a[buffer][at_a(i + lane % 8, k)]);
            } else {
                load_four_transposed(words, &shared.a[buffer][at_a(i, k + lane % 8)]);
            }
#pragma unroll
            for (int word = 0; word < 4; word++) left[first + word] = words[word];
        }
#pragma unroll
        for (int first = 0; first < DEPTHS * COLUMNS_B; first += 4) {
            const unsigned matrix = first + lane / 8, j = warp_column + matrix % COLUMNS_B * 8, k = matrix / COLUMNS_B * 8;
            unsigned words[4];
            if (B == Rows::OfK) {
                load_four_matrices(words, &shared.b[buffer][at_b(j + lane % 8, k)]);
            } else {
                load_four_transposed(words, &shared.b[buffer][at_b(j, k + lane % 8)]);
            }
#pragma unroll
            for (int word = 0; word < 4; word++) right[first + word] = words[word];
        }
#pragma unroll
        for (int depth = 0; depth < DEPTHS; depth++) {
#pragma unroll
            for (int i = 0; i < ROWS_A / 2; i++) {
#pragma unroll
                for (int j = 0; j < COLUMNS_B; j++) {
                    multiply_add(sums[i][j], left[depth * ROWS_A + 2 * i], left[depth * ROWS_A + 2 * i + 1], right[depth * COLUMNS_B + j]);
                }
            }
        }
        // Nobody reads the other buffer any more: the barrier of the step before has seen to that.
        if (more) put(1 - buffer);
        __syncthreads();
        buffer = 1 - buffer;
    }
#pragma unroll
    for (int i = 0; i < ROWS_A / 2; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS_B; j++) {
#pragma unroll
            for (int value = 0; value < 4; value++) {
                const unsigned row = first_row + warp_row + i * 16 + value / 2 * 8 + lane / 4;
                const unsigned column = first_column + warp_column + j * 8 + lane % 4 * 2 + value % 2;
                if (row < m && column < n) out(row, column, sums[i][j][value]);
            }
        }
    }
}
