// What a block that has a sample knows of its window.
#pragma once

#include "batch.cuh"

struct Window {
    unsigned first, n;  // rows of the batch
    unsigned width;     // 2d
    unsigned pairs;     // where its block of pairs begins
    size_t run_stride;

    // Where the window's part begins: of rows [R, 2d] sample-major, of what has a value a row [R], of blocks of pairs, of what has a row a
    // sample [S, 2d].
    template <class T> __device__ __forceinline__ T *rows(T *all) const {
        return of_run(all, run_stride) + static_cast<size_t>(first) * width;
    }
    template <class T> __device__ __forceinline__ T *values(T *all) const { return of_run(all, run_stride) + first; }
    template <class T> __device__ __forceinline__ T *block(T *all) const { return of_run(all, run_stride) + pairs; }
    template <class T> __device__ __forceinline__ T *sample(T *all) const {
        return of_run(all, run_stride) + static_cast<size_t>(blockIdx.x) * width;
    }
};

// This block's sample, which has to be one of the batch.
__device__ __forceinline__ Window window_of(const unsigned *pairs, const unsigned *offset, unsigned width, size_t run_stride) {
    const unsigned sample = blockIdx.x;
    offset = of_run(offset, run_stride);
    return {offset[sample], offset[sample + 1] - offset[sample], width, of_run(pairs, run_stride)[sample], run_stride};
}

// What an empty window adds up to: its row of [S, 2d].
__device__ __forceinline__ void clear_sample(float *to, const Window &window) {
    for (unsigned column = threadIdx.x; column < window.width; column += blockDim.x) window.sample(to)[column] = 0.0f;
}
