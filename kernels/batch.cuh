// What every kernel of a step is told: whose run it works for, and what is in that run's batch.
//
// Several runs (models of one shape) can be trained side by side: blockIdx.z is the run, and whatever a run has of its own
// (weights, features, activations, indices, this header) lies `run_stride` bytes behind the same thing of the run before. A kernel
// calls `of_run` on each such pointer first.
//
// Rows. All windows of the batch lie one behind the other without padding, in two orders: *sample-major*, each sample's window in
// time order, samples from the longest window to the shortest; and *role-major*, first all turns of role A, sample by sample,
// then those of role B. Capacities (how much memory there is) are known when a launch is made; how much of it a batch fills is
// only in the header, so that one captured graph serves every batch: blocks without work return at once. A run that has no batch
// (`is_idle`) has no work at all: whatever it has of its own stays as it is.
#pragma once

#include <type_traits>

// Written by the host before each step; `Header` in src/ops/cuda/batch.rs has the same fields.
struct Header {
    unsigned samples;   // S
    unsigned rows;      // R, of all windows together
    unsigned rows_a;    // role-major rows of role A: the first ones
    unsigned distinct;  // utterances that stand in some window
    unsigned sequences[3];  // turns of role A, of role B, and windows that are not empty
    // Dropout: a value is kept, and multiplied by `scale` = 1 / keep, when its random word is below `threshold` = keep * 2^32.
    // With keep 1 every value stays as it is: `scale` is 1 and `threshold` 0, which no smaller keep gives (`drops`). The scale
    // alone would not tell: 1 / keep rounds to 1 for a keep that still drops one value in 2^25.
    unsigned key[2];
    unsigned step;
    unsigned threshold;
    float scale;
    // The adversarial step and Adam, by run.
    float epsilon;
    float learning_rate;
};

// No such row.
constexpr unsigned NONE = 0xffffffffu;

__device__ __forceinline__ bool drops(const Header &header) {
    return header.scale != 1.0f || header.threshold != 0;
}

// What works on weights alone asks for this; everything else runs over rows or samples, of which an idle run has none.
__device__ __forceinline__ bool is_idle(const Header &header) {
    return header.samples == 0;
}

template <class T> __device__ __forceinline__ T *of_run(T *pointer, size_t run_stride) {
    using Byte = typename std::conditional<std::is_const<T>::value, const char, char>::type;
    return reinterpret_cast<T *>(reinterpret_cast<Byte *>(pointer) + blockIdx.z * run_stride);
}

// Of what a launch may leave out: null for every run.
template <class T> __device__ __forceinline__ T *of_run_or_null(T *pointer, size_t run_stride) {
    return pointer ? of_run(pointer, run_stride) : nullptr;
}
