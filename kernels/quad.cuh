// Four neighbouring columns of a row, read and written as widely as every row of that width is aligned: 16 bytes where the width
// is a multiple of four, 8 where it is even, 4 otherwise. A row is `base + index * width` with a base aligned to 16 bytes. All
// threads of a launch have one width, so the choice never splits a warp.
#pragma once

struct Quad {
    float x[4];
};

// Quads that cover a row; the last may be partial.
__device__ __forceinline__ unsigned quads_of(unsigned width) {
    return (width + 3) / 4;
}

// Columns 4 * quad and on; those past the width are 0.
__device__ __forceinline__ Quad load_quad(const float *row, unsigned quad, unsigned width) {
    const unsigned column = 4 * quad;
    Quad q;
    if (width % 4 == 0) {
        const float4 v = *reinterpret_cast<const float4 *>(row + column);
        q.x[0] = v.x, q.x[1] = v.y, q.x[2] = v.z, q.x[3] = v.w;
    } else if (width % 2 == 0) {
        const float2 low = *reinterpret_cast<const float2 *>(row + column);
        float2 high = make_float2(0.0f, 0.0f);
        if (column + 2 < width) high = *reinterpret_cast<const float2 *>(row + column + 2);
        q.x[0] = low.x, q.x[1] = low.y, q.x[2] = high.x, q.x[3] = high.y;
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) q.x[i] = column + i < width ? row[column + i] : 0.0f;
    }
    return q;
}

// Columns past the width are not written. By intrinsics: nvcc takes a plain store of a float4 apart, and does not always put it
// together again.
__device__ __forceinline__ void store_quad(float *row, unsigned quad, unsigned width, const Quad &q) {
    const unsigned column = 4 * quad;
    if (width % 4 == 0) {
        __stwb(reinterpret_cast<float4 *>(row + column), make_float4(q.x[0], q.x[1], q.x[2], q.x[3]));
    } else if (width % 2 == 0) {
        __stwb(reinterpret_cast<float2 *>(row + column), make_float2(q.x[0], q.x[1]));
        if (column + 2 < width) __stwb(reinterpret_cast<float2 *>(row + column + 2), make_float2(q.x[2], q.x[3]));
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if (column + i < width) row[column + i] = q.x[i];
        }
    }
}

__device__ __forceinline__ void add_quad(Quad &to, const Quad &from) {
#pragma unroll
    for (int i = 0; i < 4; i++) to.x[i] += from.x[i];
}
