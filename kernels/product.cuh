// One tile of a product of matrices in float32, C = A B, by the threads of a block.
//
// Tile: BM x BN of C, each thread TM x TN of it, in steps of BK along k. What lives where: the thread's results and the next
// step's elements of A and B in registers; two tiles each of A and B in shared memory, k-major, one of which is multiplied
// while the other is filled, so that a step has one barrier. Operands are read as operand.cuh says.
//
// A thread's rows and columns come in groups of four, each read by one LDS.128 without bank conflicts; a group of columns of all a
// warp's threads lies side by side, so that groups beyond C are left out. A warp is 8 threads by 4. Lanes n and n ^ 1 have the same
// rows, n and n ^ 2 the same columns: Turing serves a load of 16 bytes that all such pairs share in two passes instead of four, without
// which shared memory would take longer than the multiplications.
#pragma once

#include "operand.cuh"

// Where element (i, k) lies in row k of a tile: the second half of k changes places by eight, so that stores of a column of
// pieces, four of k each, fall into different banks.
__device__ __forceinline__ unsigned swapped(unsigned i, unsigned k) {
    return i ^ (k & 8);
}

// One STS.128: a float4 that is assigned the compiler may take apart again.
__device__ __forceinline__ void store_four(float *to, const float (&x)[4]) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]) : "memory");
}

template <Rows ROWS, int WIDTH, int DEPTH, int THREADS>
__device__ __forceinline__ void put(float (&tile)[DEPTH][WIDTH + 4], Reader<ROWS, float, WIDTH, DEPTH, THREADS> &reader) {
    reader.finish();
#pragma unroll
    for (int piece = 0; piece < reader.PIECES; piece++) {
        const float (&next)[4] = reader.next[piece].x;
        const unsigned row = reader.row(piece), column = reader.column();
        if (ROWS == Rows::OfK) {
#pragma unroll
            for (int e = 0; e < 4; e++) tile[column + e][swapped(row, column)] = next[e];
        } else {
            store_four(&tile[row][swapped(column, row)], next);
        }
    }
}

// The step is as short as leaves room for as many blocks as registers do.
template <int BM_, int BN_, int BK_, int TM_, int TN_> struct Tile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = TM_, TN = TN_;
    static constexpr int ROW_THREADS = BM / TM, COLUMN_THREADS = BN / TN, THREADS = ROW_THREADS * COLUMN_THREADS;
    static_assert(TM % 4 == 0 && TN % 4 == 0, "a thread's rows and columns come in fours");
    static_assert(ROW_THREADS % 8 == 0 && COLUMN_THREADS % 4 == 0, "a block has whole warps");
    static constexpr int GROUPS = TN / 4;
    static constexpr bool SHARES_COLUMNS = COLUMN_THREADS == 4, SHARES_COLUMNS_OF_SUMS = SHARES_COLUMNS;
    static_assert(!SHARES_COLUMNS || GROUPS == 4, "for each number of groups one case");
    // Four floats of padding keep rows aligned for LDS.128 and spread stores of a column over the banks.
    template <Rows A, Rows B> struct Shared {
        alignas(16) float a[2][BK][BM + 4];
        alignas(16) float b[2][BK][BN + 4];
    };

    // Multiplies a step's rows with the first `MULTIPLIED` groups of its columns.
    template <int MULTIPLIED>
    static __device__ __forceinline__ void multiply_groups(float (&sums)[TM][TN], const float (&a)[BK][BM + 4],
                                                           const float (&b)[BK][BN + 4], unsigned thread_row, unsigned thread_column) {
#pragma unroll
        for (int k = 0; k < BK; k++) {
            float row[TM], column[4 * MULTIPLIED];
#pragma unroll
            for (int i = 0; i < TM; i += 4) {
                const float4 four = *reinterpret_cast<const float4 *>(&a[k][swapped(thread_row * 4, k) + i * ROW_THREADS]);
                row[i] = four.x, row[i + 1] = four.y, row[i + 2] = four.z, row[i + 3] = four.w;
            }
#pragma unroll
            for (int j = 0; j < 4 * MULTIPLIED; j += 4) {
                const float4 four = *reinterpret_cast<const float4 *>(&b[k][swapped(thread_column * 4, k) + j * COLUMN_THREADS]);
                column[j] = four.x, column[j + 1] = four.y, column[j + 2] = four.z, column[j + 3] = four.w;
            }
#pragma unroll
            for (int i = 0; i < TM; i++) {
#pragma unroll
                for (int j = 0; j < 4 * MULTIPLIED; j++) sums[i][j] = fmaf(row[i], column[j], sums[i][j]);
            }
        }
    }

    // The block's tile of C from (first_row, first_column) on, over k from `k_begin` to `k_end`. `out(row, column, strip, beside, found)`
    // is called with neighbours of a row, of which the first is within m x n, and with what `beside(column)` has read for their columns
    // in all rows and `look(row, column)` for them alone. Before that, `gather(sums, works)` may change a thread's results, which are not
    // in C's order; if it says no, nothing more is done. `works`: whether any of them are within C.
    template <Rows A, Rows B, class Gather, class Beside, class Look, class Out>
    static __device__ __forceinline__ void multiply(Shared<A, B> &shared, const Operand<A, float> &a, const Operand<B, float> &b,
                                                    unsigned m, unsigned n, unsigned k_begin, unsigned k_end, unsigned first_row,
                                                    unsigned first_column, Gather gather, Beside beside, Look look,
                                                    Out out) {
        const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const unsigned thread_row = warp / (COLUMN_THREADS / 4) * 8 + lane / 2 % 8;
        const unsigned thread_column = warp % (COLUMN_THREADS / 4) * 4 + lane / 16 * 2 + lane % 2;
        // Groups of columns that are within C at all.
        const unsigned groups = SHARES_COLUMNS ? (n - first_column + 15) / 16 : GROUPS;
        Reader<A, float, BM, BK, THREADS> next_a(a, first_row, m, k_begin, k_end);
        Reader<B, float, BN, BK, THREADS> next_b(b, first_column, n, k_begin, k_end);
        float sums[TM][TN] = {};
        if (k_begin < k_end) {
            next_a.fetch();
            next_b.fetch();
            put(shared.a[0], next_a);
            put(shared.b[0], next_b);
        }
        __syncthreads();
        int buffer = 0;
        for (unsigned k0 = k_begin; k0 < k_end; k0 += BK) {
            const bool more = k0 + BK < k_end;
            // These reads are under way while the products below are made.
            if (more) {
                next_a.fetch();
                next_b.fetch();
            }
            const auto &from_a = shared.a[buffer];
            const auto &from_b = shared.b[buffer];
            // On lines of their own, by which profiles tell them apart.
            if (!SHARES_COLUMNS || groups >= GROUPS) {
                multiply_groups<GROUPS>(sums, from_a, from_b, thread_row, thread_column);
            } else if (groups == 3) {
                multiply_groups<SHARES_COLUMNS ? 3 : GROUPS>(sums, from_a, from_b, thread_row, thread_column);
            } else if (groups == 2) {
                multiply_groups<SHARES_COLUMNS ? 2 : GROUPS>(sums, from_a, from_b, thread_row, thread_column);
            } else {
                multiply_groups<SHARES_COLUMNS ? 1 : GROUPS>(sums, from_a, from_b, thread_row, thread_column);
            }
            // Nobody reads the other buffer any more: the barrier of the step before has seen to that.
            buffer = 1 - buffer;
            if (more) {
                put(shared.a[buffer], next_a);
                put(shared.b[buffer], next_b);
            }
            __syncthreads();
        }
        if (!gather(reinterpret_cast<float (&)[TM * TN]>(sums), true)) return;
        const auto column_of = [&](int j) { return first_column + j * COLUMN_THREADS + thread_column * 4; };
        decltype(beside(0u)) besides[TN / 4];
#pragma unroll
        for (int j = 0; j < TN; j += 4) {
            if (column_of(j) < n) besides[j / 4] = beside(column_of(j));
        }
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const unsigned row = first_row + i / 4 * 4 * ROW_THREADS + thread_row * 4 + i % 4;
#pragma unroll
            for (int j = 0; j < TN; j += 4) {
                const unsigned column = column_of(j);
                float strip[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
                if (row < m && column < n) out(row, column, strip, besides[j / 4], look(row, column));
            }
        }
    }
};
