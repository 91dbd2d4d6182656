// What the GRU's kernels in float32 and on tensor cores share: the equations, and which sequences a block works on.
#pragma once

#include "batch.cuh"

// Offsets, in floats from the run's parameters, of W_hh [3 d, d] and b_hh [3 d] by group and direction. Rows of r, z and n.
struct GruPlaces {
    unsigned weight[2][2];
    unsigned bias[2][2];
};

// Both saturate exactly and are right to a few units in the last place everywhere else: e^-x is infinite for x below -88 and 1 / (1 +
// e^-x) then 0. `tanhf` is CUDA's own, which is not the card's approximate instruction without -use_fast_math.
__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

__device__ __forceinline__ float hyperbolic_tangent(float x) {
    return tanhf(x);
}

// Gradients of the pre-activations at one unit and step.
struct GateGradients {
    float r, z, n;  // at x W_ih + b_ih and, for r and z, at h W_hh + b_hh
    float hn;       // at h W_hn + b_hn
    float h;        // at the state before, without what goes through W_hh
};

__device__ __forceinline__ GateGradients gate_gradients(float dh, float r, float z, float n, float hn, float before) {
    const float rest = 1.0f - z;
    GateGradients gradients;
    gradients.z = dh * (before - n) * (z * rest);
    gradients.n = dh * rest * (1.0f - n * n);
    gradients.hn = gradients.n * r;
    gradients.r = gradients.n * hn * (r * (1.0f - r));
    gradients.h = dh * z;
    return gradients;
}

// What a block works on: sequences first, first + 1, ... of a group, in one direction.
struct Share {
    int direction;  // 1: from a sequence's last row to its first
    int sign;       // of a step
    int first;
    int sequences;  // of the group; a block whose first is not below it has no work
    const unsigned *start, *length;  // of the group
    const float *weight, *bias;
    size_t gates, hn, hidden;  // columns where the direction's begin

    __device__ __forceinline__ Share(const Header *header, const unsigned *all_starts, const unsigned *all_lengths,
                                     const float *parameters, const GruPlaces &places, int first_group, int capacity, int d,
                                     size_t run_stride, int tile) {
        const int group = blockIdx.y / 2;
        direction = blockIdx.y % 2;
        sign = 1 - 2 * direction;
        first = blockIdx.x * tile;
        sequences = of_run(header, run_stride)->sequences[first_group + group];
        start = of_run(all_starts, run_stride) + static_cast<size_t>(group) * capacity;
        length = of_run(all_lengths, run_stride) + static_cast<size_t>(group) * capacity;
        const float *own = of_run(parameters, run_stride);
        // Chosen, not indexed: an argument that is indexed nvcc may copy to local memory.
        const auto mine = [&](const unsigned (&of)[2][2]) {
            return group == 0 ? (direction == 0 ? of[0][0] : of[0][1]) : (direction == 0 ? of[1][0] : of[1][1]);
        };
        weight = own + mine(places.weight);
        bias = own + mine(places.bias);
        gates = direction * 3 * d;
        hn = (6 + direction) * d;
        hidden = direction * d;
    }

    // Sequences are sorted: the first one is the tile's longest.
    __device__ __forceinline__ int longest() const { return length[first]; }
};

// The rows of one sequence in the order of a direction.
struct Rows {
    int length = 0;  // 0 where the tile has no such sequence
    unsigned begin = 0;

    __device__ __forceinline__ Rows() {}
    __device__ __forceinline__ Rows(const Share &share, int sequence) {
        if (share.first + sequence >= share.sequences) return;
        length = share.length[share.first + sequence];
        begin = share.start[share.first + sequence];
        if (share.direction == 1) begin += length - 1;
    }
    __device__ __forceinline__ size_t at(const Share &share, int step) const { return begin + share.sign * step; }
};

// Asks for the sector that holds an address to be in L2 when it is read.
__device__ __forceinline__ void prefetch(const void *address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

__device__ __forceinline__ unsigned dynamic_shared_bytes() {
    unsigned bytes;
    asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
    return bytes;
}
