// One tile of a product of matrices in float32, C = A B, by the threads of a block.
//
// Tile: BM x BN of C, each thread 4 x TN of it, in steps of BK along k. What lives where: the thread's results and the next
// step's elements of A and B in registers; two tiles each of A and B in shared memory, k-major, one of which is multiplied
// while the other is filled, so that a step has one barrier. Operands are read as operand.cuh says.
//
// A warp is `LANES` threads along columns by the rest along rows. A thread's columns come in groups of four, each read by one LDS.128 without
// bank conflicts, as its rows are; a group of all threads lies side by side. Warps and groups beyond C do not multiply. Lanes n and n ^ 1
// have the same rows, n and n ^ 2 the same columns: Turing serves a load of 16 bytes that all such pairs share in two passes instead of
// four, without which shared memory would take longer than the multiplications.
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
template <int BM_, int BN_, int BK_, int TN_, int LANES> struct Tile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = 4, TN = TN_;
    static constexpr int ROW_THREADS = BM / TM, COLUMN_THREADS = BN / TN, THREADS = ROW_THREADS * COLUMN_THREADS;
    static constexpr int ROW_LANES = 32 / LANES, WARPS_ACROSS = COLUMN_THREADS / LANES;
    static_assert(COLUMN_THREADS % LANES == 0 && ROW_THREADS % ROW_LANES == 0, "a block has whole warps");
    static_assert(LANES >= 2 && ROW_LANES >= 2, "lanes have pairs");
    // Of columns of a thread, and how many columns of the tile a group has.
    static constexpr int GROUPS = TN / 4, GROUP = 4 * COLUMN_THREADS;
    static_assert(TN % 4 == 0 && (GROUPS == 1 || GROUPS == 4), "for each number of groups one case");
    // Tiles share C's columns out, of every kind of product.
    static constexpr bool SHARES_COLUMNS = GROUPS > 1, SHARES_COLUMNS_OF_SUMS = SHARES_COLUMNS;
    static_assert(!SHARES_COLUMNS || GROUP == 16, "sixteen columns are shared out");
    // Four floats of padding keep rows aligned for LDS.128 and spread stores of a column over the banks.
    template <Rows A, Rows B> struct Shared {
        alignas(16) float a[2][BK][BM + 4];
        alignas(16) float b[2][BK][BN + 4];
    };

    // Multiplies a step's rows with the first `MULTIPLIED` groups of its columns. Behind the last four of `left` along k are zeros.
    template <int MULTIPLIED>
    static __device__ __forceinline__ void multiply_groups(float (&sums)[TM][TN], const float (&a)[BK][BM + 4],
                                                           const float (&b)[BK][BN + 4], unsigned thread_row, unsigned thread_column,
                                                           unsigned left) {
#pragma unroll
        for (int k = 0; k < BK; k++) {
            if (k % 4 == 0 && k >= left) break;
            float column[4 * MULTIPLIED];
            const float4 four = *reinterpret_cast<const float4 *>(&a[k][swapped(thread_row * 4, k)]);
            const float row[TM] = {four.x, four.y, four.z, four.w};
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
        // Blocks at C's edges leave warps idle. These are spread over the sub-cores; all chunks of a tile do alike.
        const unsigned warp = (threadIdx.x / 32 + blockIdx.x) % (THREADS / 32), lane = threadIdx.x % 32;
        const unsigned warp_row = warp / WARPS_ACROSS * ROW_LANES, warp_column = warp % WARPS_ACROSS * LANES;
        const unsigned thread_row = warp_row + lane / 2 % ROW_LANES;
        const unsigned thread_column = warp_column + lane / (2 * ROW_LANES) * 2 + lane % 2;
        // Groups of the warp's columns that are within C: none if its rows are not.
        const unsigned first_of_warp = first_column + warp_column * 4;
        const bool works = first_row + warp_row * TM < m && first_of_warp < n;
        const unsigned groups = works ? (n - first_of_warp + GROUP - 1) / GROUP : 0;
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
            // Chunks of a sum are whole steps.
            const unsigned left = A == Rows::Across && SHARES_COLUMNS ? BK : k_end - k0;
            const auto &from_a = shared.a[buffer];
            const auto &from_b = shared.b[buffer];
            // On lines of their own, by which profiles tell them apart.
            if (groups >= GROUPS) {
                multiply_groups<GROUPS>(sums, from_a, from_b, thread_row, thread_column, left);
            } else if constexpr (GROUPS > 1) {
                if (groups == 3) {
                    multiply_groups<3>(sums, from_a, from_b, thread_row, thread_column, left);
                } else if (groups == 2) {
                    multiply_groups<2>(sums, from_a, from_b, thread_row, thread_column, left);
                } else if (groups == 1) {
                    multiply_groups<1>(sums, from_a, from_b, thread_row, thread_column, left);
                }
            }
            // Nobody reads the other buffer any more: the barrier of the step before has seen to that.
            buffer = 1 - buffer;
            if (more) {
                put(shared.a[buffer], next_a);
                put(shared.b[buffer], next_b);
            }
            __syncthreads();
        }
        if (!gather(reinterpret_cast<float (&)[TM * TN]>(sums), works)) return;
        const auto column_of = [&](int j) { return first_column + j * COLUMN_THREADS + thread_column * 4; };
        decltype(beside(0u)) besides[TN / 4];
#pragma unroll
        for (int j = 0; j < TN; j += 4) {
            if (column_of(j) < n) besides[j / 4] = beside(column_of(j));
        }
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const unsigned row = first_row + thread_row * 4 + i;
#pragma unroll
            for (int j = 0; j < TN; j += 4) {
                const unsigned column = column_of(j);
                float strip[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
                if (row < m && column < n) out(row, column, strip, besides[j / 4], look(row, column));
            }
        }
    }
};
