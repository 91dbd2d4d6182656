// Kernels with a barrier, or an instruction of a whole warp, that not all of its threads reach, and what they should have been.
//
// A line that ends with the marker is one that the simulator's report must name.

// out[64]: the second warp does not come.
extern "C" __global__ void skipped_barrier(unsigned *out) {
    const unsigned i = threadIdx.x;
    if (i < 32) __syncthreads(); // BUG
    out[i] = i;
}

extern "C" __global__ void skipped_barrier_fixed(unsigned *out) {
    const unsigned i = threadIdx.x;
    __syncthreads();
    out[i] = i;
}

// out[32]: half of the warp comes.
extern "C" __global__ void half_warp_at_barrier(unsigned *out) {
    const unsigned i = threadIdx.x;
    if (i % 32 < 16) __syncthreads(); // BUG
    out[i] = i;
}

extern "C" __global__ void half_warp_at_barrier_fixed(unsigned *out) {
    const unsigned i = threadIdx.x;
    __syncthreads();
    out[i] = i;
}

// out[32]: the mask names lanes that are elsewhere.
extern "C" __global__ void shuffle_without_the_rest(unsigned *out) {
    const unsigned i = threadIdx.x;
    unsigned value = i;
    if (i < 16) value += __shfl_xor_sync(0xffffffff, value, 1); // BUG
    out[i] = value;
}

extern "C" __global__ void shuffle_without_the_rest_fixed(unsigned *out) {
    const unsigned i = threadIdx.x;
    unsigned value = i;
    if (i < 16) value += __shfl_xor_sync(0x0000ffff, value, 1);
    out[i] = value;
}

// out[32]: the mask is right, but the lanes read from those that it does not name.
extern "C" __global__ void shuffle_from_elsewhere(unsigned *out) {
    const unsigned i = threadIdx.x;
    unsigned value = i;
    if (i < 16) value += __shfl_xor_sync(0x0000ffff, value, 16); // BUG
    out[i] = value;
}

extern "C" __global__ void shuffle_from_elsewhere_fixed(unsigned *out) {
    const unsigned i = threadIdx.x;
    unsigned value = i + __shfl_xor_sync(0xffffffff, i, 16);
    out[i] = value;
}

// out[64]: a barrier for 64 threads, of which 32 come.
extern "C" __global__ void half_of_named_barrier(unsigned *out) {
    const unsigned i = threadIdx.x;
    if (i < 32) asm volatile("bar.sync 1, 64;" ::: "memory"); // BUG
    out[i] = i;
}

extern "C" __global__ void half_of_named_barrier_fixed(unsigned *out) {
    const unsigned i = threadIdx.x;
    if (i < 32) asm volatile("bar.sync 1, 32;" ::: "memory");
    asm volatile("bar.sync 2, 64;" ::: "memory");
    out[i] = i;
}
