// One tile of a product of matrices on tensor cores, C = A B, by the threads of a block: operands are f16 in memory, or float32 and
// rounded to f16 on their way; their products are exact and summed in float32. A value beyond f16's range becomes infinite.
//
// Tile: BM x BN of C, each warp WM x WN of it in fragments of 16 x 8, in steps of BK along k. What lives where: the warp's results
// and the next step's elements of A and B, as in memory, in registers; a tile each of A and B in shared memory as f16. One that is
// multiplied while another is filled would save a barrier a step, and cost a third of the blocks that a multiprocessor has at once.
// A tile lies as its operand does, and what runs across k is transposed when it is loaded. Its rows are padded to an odd multiple of
// 16 bytes: neither `ldmatrix` nor stores have bank conflicts. Operands are read as operand.cuh says.
//
// A step of 64 x 32 a warp is 64 HMMA, 1024 cycles of its tensor core, in some 430 instructions.
#pragma once

#include "operand.cuh"
#include "tensor_core.cuh"

// One STS.64: what is assigned in one the compiler may take apart again.
__device__ __forceinline__ void store_four(__half *to, uint2 words) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(shared_address(to)), "r"(words.x), "r"(words.y) : "memory");
}

// A tile of an operand: [WIDTH, DEPTH] where rows run along k, else [DEPTH, WIDTH].
template <Rows ROWS, int WIDTH, int DEPTH> struct HalfTile {
    static constexpr int LINES = ROWS == Rows::OfK ? WIDTH : DEPTH, LENGTH = ROWS == Rows::OfK ? DEPTH : WIDTH;
    static_assert(LENGTH % 16 == 0, "eight halves more are an odd multiple of 16 bytes");
    alignas(16) __half rows[LINES][LENGTH + 8];

    template <class Element, int THREADS>
    __device__ __forceinline__ void put(Reader<ROWS, Element, WIDTH, DEPTH, THREADS> &reader) {
        reader.finish();
#pragma unroll
        for (int piece = 0; piece < reader.PIECES; piece++) {
            store_four(&rows[reader.row(piece)][reader.column()], reader.next[piece].rounded());
        }
    }

    // The square from (i, k) on, i its row however the tile lies.
    __device__ __forceinline__ void load(unsigned (&words)[4], unsigned i, unsigned k) const {
        if (ROWS == Rows::OfK) {
            load_square(words, rows[0], LENGTH + 8, i, k);
        } else {
            load_square_transposed(words, rows[0], LENGTH + 8, i, k);
        }
    }
};

template <int BM_, int BN_, int WM_, int WN_> struct TensorTile {
    static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_;
    static constexpr int BK = 32;  // depth of a step
    // What is beyond C costs little there.
    static constexpr bool SHARES_COLUMNS = BN > 64, SHARES_COLUMNS_OF_SUMS = true;
    static constexpr int THREADS = (BM / WM) * (BN / WN) * 32;
    static_assert(WM % 16 == 0 && WN % 16 == 0, "fragments of A, and pairs of fragments of B");
    template <Rows A, Rows B> struct Shared {
        HalfTile<A, BM, BK> a;
        HalfTile<B, BN, BK> b;
    };

    // As that of `Tile`, of operands in either element. All lanes of a warp call `out` at once, those outside of C not.
    template <Rows A, Rows B, class Element, class Gather, class Beside, class Look, class Out>
    static __device__ __forceinline__ void multiply(Shared<A, B> &shared, const Operand<A, Element> &a, const Operand<B, Element> &b,
                                                    unsigned m, unsigned n, unsigned k_begin, unsigned k_end, unsigned first_row,
                                                    unsigned first_column, Gather gather, Beside beside, Look look,
                                                    Out out) {
        constexpr int ROW_FRAGMENTS = WM / 16, COLUMN_FRAGMENTS = WN / 8, WARPS = THREADS / 32;
        // A block's warps are spread over the sub-cores. Blocks at C's last columns leave some idle: not the same ones in every row of tiles.
        // All chunks of a tile do alike, as `gather` takes a thread's results to be of the same place in each.
        const unsigned warp = (threadIdx.x / 32 + first_row / BM) % WARPS, lane = threadIdx.x % 32;
        const unsigned warp_row = warp % (BM / WM) * WM, warp_column = warp / (BM / WM) * WN;
        // A warp whose part is outside of C only reads and stores for the others.
        const bool works = first_row + warp_row < m && first_column + warp_column < n;
        // Pairs of fragments beyond C are not multiplied where C has few columns for its tiles: in products whose A runs across k, weights'
        // gradients, and in the largest tiles.
        constexpr bool SKIPS = A == Rows::Across ? SHARES_COLUMNS_OF_SUMS : SHARES_COLUMNS;
        const unsigned pairs = works ? (n - first_column - warp_column + 15) / 16 : 0;
        // Where the warp's part of C begins: until the end not in registers, of which the loop needs all.
        __shared__ uint2 corners[WARPS];
        if (lane == 0) corners[threadIdx.x / 32] = make_uint2(first_row + warp_row, first_column + warp_column);
        Reader<A, Element, BM, BK, THREADS> next_a(a, first_row, m, k_begin, k_end);
        Reader<B, Element, BN, BK, THREADS> next_b(b, first_column, n, k_begin, k_end);
        float sums[ROW_FRAGMENTS][COLUMN_FRAGMENTS][4] = {};
        if (k_begin < k_end) {
            next_a.fetch();
            next_b.fetch();
            shared.a.put(next_a);
            shared.b.put(next_b);
        }
        __syncthreads();
        for (unsigned k0 = k_begin; k0 < k_end; k0 += BK) {
            const bool more = k0 + BK < k_end;
            // These reads are under way while the products below are made.
            if (more) {
                next_a.fetch();
                next_b.fetch();
            }
            if (works) {
#pragma unroll
                for (int k = 0; k < BK; k += 16) {
                    if (k0 + k >= k_end) break;
                    unsigned from_a[ROW_FRAGMENTS][4], from_b[COLUMN_FRAGMENTS / 2][4];
#pragma unroll
                    for (int i = 0; i < ROW_FRAGMENTS; i++) shared.a.load(from_a[i], warp_row + i * 16, k);
#pragma unroll
                    for (int j = 0; j < COLUMN_FRAGMENTS / 2; j++) {
                        if (!SKIPS || j < pairs) shared.b.load(from_b[j], warp_column + j * 16, k);
                    }
#pragma unroll
                    for (int pair = 0; pair < COLUMN_FRAGMENTS / 2; pair++) {
                        if (SKIPS && pair >= pairs) break;
#pragma unroll
                        for (int half = 0; half < 2; half++) {
#pragma unroll
                            for (int i = 0; i < ROW_FRAGMENTS; i++) {
#pragma unroll
                                for (int j = 0; j < 2; j++) {
                                    float (&sum)[4] = sums[i][pair * 2 + j];
                                    multiply_add(sum, from_a[i][half * 2], from_a[i][half * 2 + 1], from_b[pair][half * 2 + j]);
                                }
                            }
                        }
                    }
                }
            }
            if (!more) break;
            __syncthreads();
            shared.a.put(next_a);
            shared.b.put(next_b);
            __syncthreads();
        }
        if (!gather(reinterpret_cast<float (&)[ROW_FRAGMENTS * COLUMN_FRAGMENTS * 4]>(sums), works)) return;
        const unsigned group = lane / 4;
        const uint2 corner = corners[threadIdx.x / 32];
        const auto column_of = [&](int j) { return corner.y + j * 8 + strip_column(); };
        decltype(beside(0u)) besides[COLUMN_FRAGMENTS / 2];
#pragma unroll
        for (int j = 0; j < COLUMN_FRAGMENTS; j += 2) {
            if (column_of(j) < n) besides[j / 2] = beside(column_of(j));
        }
#pragma unroll
        for (int i = 0; i < ROW_FRAGMENTS; i++) {
            const auto row_of = [&](int half) { return corner.x + i * 16 + half * 8 + group; };
            // What the fragments' strips meet in memory is asked for at once.
            decltype(look(0u, 0u)) found[2][COLUMN_FRAGMENTS / 2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int j = 0; j < COLUMN_FRAGMENTS; j += 2) {
                    if (row_of(half) < m && column_of(j) < n) found[half][j / 2] = look(row_of(half), column_of(j));
                }
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const unsigned row = row_of(half);
#pragma unroll
                for (int j = 0; j < COLUMN_FRAGMENTS; j += 2) {
                    float strip[4];
                    share_neighbours(strip, sums[i][j], sums[i][j + 1], half);
                    const unsigned column = column_of(j);
                    if (row < m && column < n) out(row, column, strip, besides[j / 2], found[half][j / 2]);
                }
            }
        }
    }
};
