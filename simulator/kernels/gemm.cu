// A product of matrices on tensor cores.
//
//     C = A B          A [m, k] f16, B [k, n] f16, C [m, n] f32, all row by row; any m, n, k
//
// Tile: a block makes 64 x 64 of C in steps of 32 along k. Its 4 warps stand 2 x 2 and make 32 x 32 each: 2 x 4 fragments of
// 16 x 8, each of which takes 4 products of depth 8 a step.
//
// What lives where:
//     registers       the warp's 32 x 32 of C (32 a thread), and the next step's pieces of A and B (16)
//     shared memory   two tiles each of A [64, 32] and B [32, 64], rows padded by 8 halves against bank conflicts: 19 KiB. One
//                     is multiplied while the other is filled, so that a step has one barrier
//
// What lies outside A and B counts as zero, and what lies outside C is not written. Pieces of 8 halves are read as one where
// the rows are aligned (n and k multiples of 8, and the matrices themselves), and else one by one.
//
// Launch: grid (ceil(n / 64), ceil(m / 64)), block 128. 102 registers on sm_75 (nvcc 13.0), no spills.

#include "tensor_core.cuh"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32;
constexpr int THREADS = 128;
constexpr int PADDING = 8;
// Halves that a thread reads at once, and how many such pieces of a tile fall to it.
constexpr int PIECE = 8;
constexpr int PIECES = TILE_M * TILE_K / PIECE / THREADS;
static_assert(TILE_M * TILE_K == TILE_K * TILE_N, "A and B fall to the threads alike");

struct Tiles {
    __half a[2][TILE_M][TILE_K + PADDING];
    __half b[2][TILE_K][TILE_N + PADDING];
};

// 8 halves of `row` from `column` on, zeros where that is outside of the matrix.
__device__ __forceinline__ uint4 load_piece(const __half *matrix, int rows, int columns, int row, int column, bool aligned) {
    uint4 piece = make_uint4(0, 0, 0, 0);
    if (row >= rows || column >= columns) return piece;
    const __half *from = matrix + static_cast<size_t>(row) * columns + column;
    if (aligned) return *reinterpret_cast<const uint4 *>(from);
    const unsigned short *halves = reinterpret_cast<const unsigned short *>(from);
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned low = column + 2 * i < columns ? halves[2 * i] : 0;
        unsigned high = column + 2 * i + 1 < columns ? halves[2 * i + 1] : 0;
        words[i] = low | high << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ bool is_aligned(const __half *matrix, int columns) {
    return columns % PIECE == 0 && reinterpret_cast<size_t>(matrix) % sizeof(uint4) == 0;
}

extern "C" __global__ void __launch_bounds__(THREADS)
gemm_f16(const __half *__restrict__ a, const __half *__restrict__ b, float *__restrict__ c, int m, int n, int k) {
    __shared__ alignas(16) Tiles tiles;
    const int lane = threadIdx.x % 32;
    const int warp_row = threadIdx.x / 32 / 2 * 32, warp_column = threadIdx.x / 32 % 2 * 32;
    const int first_row = blockIdx.y * TILE_M, first_column = blockIdx.x * TILE_N;
    const bool a_aligned = is_aligned(a, k), b_aligned = is_aligned(b, n);

    uint4 next_a[PIECES], next_b[PIECES];
    const auto fetch = [&](int step) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int piece = threadIdx.x + i * THREADS;
            const int a_row = piece / (TILE_K / PIECE), a_column = piece % (TILE_K / PIECE) * PIECE;
            const int b_row = piece / (TILE_N / PIECE), b_column = piece % (TILE_N / PIECE) * PIECE;
            next_a[i] = load_piece(a, m, k, first_row + a_row, step * TILE_K + a_column, a_aligned);
            next_b[i] = load_piece(b, k, n, step * TILE_K + b_row, first_column + b_column, b_aligned);
        }
    };
    const auto put = [&](int buffer) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int piece = threadIdx.x + i * THREADS;
            const int a_row = piece / (TILE_K / PIECE), a_column = piece % (TILE_K / PIECE) * PIECE;
            const int b_row = piece / (TILE_N / PIECE), b_column = piece % (TILE_N / PIECE) * PIECE;
            *reinterpret_cast<uint4 *>(&tiles.a[buffer][a_row][a_column]) = next_a[i];
            *reinterpret_cast<uint4 *>(&tiles.b[buffer][b_row][b_column]) = next_b[i];
        }
    };

    float sums[2][4][4] = {};
    const int steps = (k + TILE_K - 1) / TILE_K;
    if (steps > 0) {
        fetch(0);
        put(0);
    }
    __syncthreads();
    for (int step = 0; step < steps; step++) {
        const int buffer = step % 2;
        // These loads are under way while the products below are made.
        if (step + 1 < steps) fetch(step + 1);
#pragma unroll
        for (int depth = 0; depth < TILE_K; depth += 16) {
            // A: 16 x 16 is two fragments of depth 8. B: 16 x 16 is two fragments of depth 8 for each of two columns.
            unsigned from_a[2][4], from_b[2][4];
            const int row = lane % 16, column = lane / 16 * 8;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                load_four_matrices(from_a[i], &tiles.a[buffer][warp_row + i * 16 + row][depth + column]);
                load_four_transposed(from_b[i], &tiles.b[buffer][depth + row][warp_column + i * 16 + column]);
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const unsigned word = from_b[j / 2][j % 2 * 2 + half];
                        multiply_add(sums[i][j], from_a[i][half * 2], from_a[i][half * 2 + 1], word);
                    }
                }
            }
        }
        // Nobody reads the other buffer any more: the barrier of the step before has seen to that.
        if (step + 1 < steps) put(1 - buffer);
        __syncthreads();
    }

    const int group = lane / 4, pair = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = first_row + warp_row + i * 16 + half * 8 + group;
                const int column = first_column + warp_column + j * 8 + pair * 2;
                if (row >= m || column >= n) continue;
                float *to = c + static_cast<size_t>(row) * n + column;
                if (n % 2 == 0) {
                    *reinterpret_cast<float2 *>(to) = make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
                } else {
                    to[0] = sums[i][j][half * 2];
                    if (column + 1 < n) to[1] = sums[i][j][half * 2 + 1];
                }
            }
        }
    }
}
