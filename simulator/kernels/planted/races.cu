// Kernels in which two threads meet at one place without any order between them, and what they should have been.
//
// A line that ends with the marker is one that the simulator's report must name: both sides of a race have it. Which of the two
// comes first, and so what the report begins with, is a matter of chance.

// out[64]: each warp reads what the other writes, and no barrier lies between.
extern "C" __global__ void missing_barrier(unsigned *out) {
    __shared__ unsigned values[64];
    const unsigned i = threadIdx.x;
    // Without this the read would be one of memory that nothing has written, whenever it comes first.
    values[i] = 0;
    __syncthreads();
    values[i] = i;                   // BUG
    out[i] = values[(i + 32) % 64];  // BUG
}

extern "C" __global__ void missing_barrier_fixed(unsigned *out) {
    __shared__ unsigned values[64];
    const unsigned i = threadIdx.x;
    values[i] = 0;
    __syncthreads();
    values[i] = i;
    __syncthreads();
    out[i] = values[(i + 32) % 64];
}

// in[steps, 64], out[64]: the second barrier of a loop is missing, so that a fast warp writes the next step's values while a slow
// one still reads those of this step.
extern "C" __global__ void missing_second_barrier(const unsigned *in, unsigned *out, unsigned steps) {
    __shared__ unsigned values[64];
    const unsigned i = threadIdx.x;
    unsigned sum = 0;
    for (unsigned step = 0; step < steps; step++) {
        values[i] = in[step * 64 + i];   // BUG
        __syncthreads();
        sum += values[(i + 32) % 64];    // BUG
    }
    out[i] = sum;
}

extern "C" __global__ void missing_second_barrier_fixed(const unsigned *in, unsigned *out, unsigned steps) {
    __shared__ unsigned values[64];
    const unsigned i = threadIdx.x;
    unsigned sum = 0;
    for (unsigned step = 0; step < steps; step++) {
        values[i] = in[step * 64 + i];
        __syncthreads();
        sum += values[(i + 32) % 64];
        __syncthreads();
    }
    out[i] = sum;
}

// out[32]: lanes of one warp are not in step by themselves, since Volta.
extern "C" __global__ void missing_syncwarp(unsigned *out) {
    __shared__ unsigned values[32];
    const unsigned i = threadIdx.x;
    values[i] = i;           // BUG
    out[i] = values[i ^ 1];  // BUG
}

extern "C" __global__ void missing_syncwarp_fixed(unsigned *out) {
    __shared__ unsigned values[32];
    const unsigned i = threadIdx.x;
    values[i] = i;
    __syncwarp();
    out[i] = values[i ^ 1];
}

// out[64], two blocks of 32: both write the first 32 elements.
extern "C" __global__ void blocks_write_both(unsigned *out) {
    out[threadIdx.x] = blockIdx.x; // BUG
}

extern "C" __global__ void blocks_write_both_fixed(unsigned *out) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x;
}

// values[64], out[32], two blocks of 32: one block reads what the other writes.
extern "C" __global__ void blocks_write_and_read(unsigned *values, unsigned *out) {
    const unsigned i = threadIdx.x;
    if (blockIdx.x == 0) {
        values[i] = 7;       // BUG
    } else {
        out[i] = values[i];  // BUG
    }
}

extern "C" __global__ void blocks_write_and_read_fixed(unsigned *values, unsigned *out) {
    const unsigned i = threadIdx.x;
    if (blockIdx.x == 0) {
        values[i] = 7;
    } else {
        out[i] = values[32 + i];
    }
}

// counter[1], out[4], four blocks: the sum is exact, but what a plain read sees of it is anything.
extern "C" __global__ void plain_read_of_atomic(unsigned *counter, unsigned *out) {
    if (threadIdx.x != 0) return;
    atomicAdd(counter, 1);        // BUG
    out[blockIdx.x] = *counter;   // BUG
}

extern "C" __global__ void plain_read_of_atomic_fixed(unsigned *counter, unsigned *out) {
    if (threadIdx.x != 0) return;
    const unsigned before = atomicAdd(counter, 1);
    out[blockIdx.x] = before < gridDim.x;
}

// out[32]: the first warp arrives at the barrier, and then writes again what the second, which is late, reads after it.
extern "C" __global__ void write_after_arrival(unsigned *out, unsigned delay) {
    __shared__ unsigned values[32];
    const unsigned i = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        values[i] = i;
        asm volatile("bar.arrive 1, 64;" ::: "memory");
        values[i] = i + 100; // BUG
    } else {
        unsigned late = 1;
        for (unsigned k = 0; k < delay; k++) late = late * 3 + 1;
        asm volatile("bar.sync 1, 64;" ::: "memory");
        out[i] = values[i] + (late == 0); // BUG
    }
}

extern "C" __global__ void write_after_arrival_fixed(unsigned *out, unsigned delay) {
    __shared__ unsigned values[32];
    const unsigned i = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        values[i] = i;
        asm volatile("bar.arrive 1, 64;" ::: "memory");
    } else {
        unsigned late = 1;
        for (unsigned k = 0; k < delay; k++) late = late * 3 + 1;
        asm volatile("bar.sync 1, 64;" ::: "memory");
        out[i] = values[i] + (late == 0);
    }
}

// out[64]: the last thread reads the counter without waiting for those that still add to it.
extern "C" __global__ void count_too_early(unsigned *out) {
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1);                            // BUG
    if (threadIdx.x == 63) out[threadIdx.x] = count; // BUG
}

extern "C" __global__ void count_too_early_fixed(unsigned *out) {
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1);
    __syncthreads();
    out[threadIdx.x] = count;
}

// counter[1], out[64], two blocks of 32: a block reads what it and the other have added, after a barrier of its own.
extern "C" __global__ void sum_of_blocks_too_early(unsigned *counter, unsigned *out) {
    atomicAdd(counter, 1); // BUG
    __syncthreads();
    out[blockIdx.x * 32 + threadIdx.x] = *counter; // BUG
}

// counter[2], out[64], two blocks of 32: each has a counter of its own.
extern "C" __global__ void sum_of_blocks_too_early_fixed(unsigned *counter, unsigned *out) {
    atomicAdd(&counter[blockIdx.x], 1);
    __syncthreads();
    out[blockIdx.x * 32 + threadIdx.x] = counter[blockIdx.x];
}
