// Matrix products of a warp: PTX's `mma` and `ldmatrix` in the shapes that Turing has.
//
// A fragment is a small matrix that lies spread over a warp's registers. With group = lane / 4 and pair = lane % 4:
//
//     A  16 x 8, f16   word 0: row group,      columns 2 pair, 2 pair + 1
//                      word 1: row group + 8,  the same columns
//     B   8 x 8, f16   word 0: rows 2 pair, 2 pair + 1 of column group
//     C  16 x 8, f32   0, 1:   row group,      columns 2 pair, 2 pair + 1
//                      2, 3:   row group + 8,  the same columns
//
// `ldmatrix` fills such words from shared memory: lane l gives the address of a row of 8 halves (16 bytes, aligned so), of
// matrix l / 8 and row l % 8 of it; word m of a lane is then (row group, columns 2 pair and 2 pair + 1) of matrix m. With
// `.trans` rows and columns change places. A row's 8 addresses fall into different banks where the distance between rows is an
// odd multiple of 16 bytes: that is what the padding of the tiles is for.
#pragma once

#include "element.cuh"

// c += a b, exact products summed in f32.
__device__ __forceinline__ void multiply_add(float (&c)[4], unsigned a0, unsigned a1, unsigned b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b));
}

__device__ __forceinline__ unsigned shared_address(const __half *row) {
    return static_cast<unsigned>(__cvta_generic_to_shared(row));
}

__device__ __forceinline__ void load_four_matrices(unsigned (&words)[4], const __half *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Four matrices whose rows and columns change places.
__device__ __forceinline__ void load_four_transposed(unsigned (&words)[4], const __half *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Of a matrix in shared memory with rows `stride` apart, the 16 x 16 from (row, column) on, as left operands' fragments: words 0 and 1 are
// rows 0 to 7 and 8 to 15 of the first eight columns, words 2 and 3 of the next; which are the first again where they are `missing`.
__device__ __forceinline__ void load_square(unsigned (&words)[4], const __half *data, unsigned stride, unsigned row, unsigned column,
                                            bool missing = false) {
    const unsigned lane = threadIdx.x % 32;
    load_four_matrices(words, data + (row + lane % 16) * stride + (column + (missing ? 0 : lane / 16 * 8)));
}

// The same of the transposed matrix.
__device__ __forceinline__ void load_square_transposed(unsigned (&words)[4], const __half *data, unsigned stride, unsigned row,
                                                       unsigned column) {
    const unsigned lane = threadIdx.x % 32;
    load_four_transposed(words, data + (column + lane % 8 + lane / 16 * 8) * stride + (row + lane / 8 % 2 * 8));
}

// A lane has two neighbours of each row of a C. Lanes side by side change them between two fragments that lie side by side, so that each
// has four neighbours of one, and a row's four lanes two runs of eight: whole sectors also where they are stored as f16. These are a
// lane's four, of row group + 8 half, from column `strip_column` of both fragments on.
__device__ __forceinline__ void share_neighbours(float (&strip)[4], const float (&first)[4], const float (&second)[4], int half) {
    const bool odd = threadIdx.x % 2;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const float mine = first[half * 2 + e], next = second[half * 2 + e];
        const float other = __shfl_xor_sync(0xffffffffu, odd ? mine : next, 1);
        strip[e] = odd ? other : mine;
        strip[2 + e] = odd ? next : other;
    }
}

__device__ __forceinline__ unsigned strip_column() {
    const unsigned pair = threadIdx.x % 4;
    return pair % 2 * 8 + pair / 2 * 4;
}
