// Kernels that cannot be launched, and kernels that end badly or not at all. Each is launched both ways.
//
// A line that ends with the marker is one that the simulator's report must name. A launch that the card refuses has no line.

#include <assert.h>

// out[64]: launched with more shared memory than a block may have.
extern "C" __global__ void much_shared(unsigned *out) {
    extern __shared__ unsigned values[];
    const unsigned i = threadIdx.x;
    values[i] = i;
    __syncthreads();
    out[i] = values[63 - i];
}

// out[1024]: launched with more threads than a block may have.
extern "C" __global__ void many_threads(unsigned *out) {
    out[threadIdx.x] = threadIdx.x;
}

// out[64]: launched with more threads than it was compiled for.
extern "C" __global__ void __launch_bounds__(64) bounded_threads(unsigned *out) {
    out[threadIdx.x] = threadIdx.x;
}

// flag[1], out[32]: waits for something that nobody does.
extern "C" __global__ void endless_loop(const volatile unsigned *flag, unsigned *out) {
    while (*flag == 0) { // BUG
    }
    out[threadIdx.x] = 1;
}

// in[32], out[32]
extern "C" __global__ void traps(const unsigned *in, unsigned *out, unsigned limit) {
    const unsigned i = threadIdx.x;
    if (in[i] >= limit) __trap(); // BUG
    out[i] = in[i];
}

// in[32], out[32]
extern "C" __global__ void asserts(const unsigned *in, unsigned *out, unsigned limit) {
    const unsigned i = threadIdx.x;
    assert(in[i] < limit); // BUG
    out[i] = in[i];
}
