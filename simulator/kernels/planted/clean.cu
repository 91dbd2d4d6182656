// Right kernels that look wrong to a check that is too simple: all of them must run in silence, and with the right result.

#include <cuda_fp16.h>

// in[n], out[16]: counts of in % 16. Threads meet in atomics, first in shared memory and then in global memory.
extern "C" __global__ void histogram(const unsigned *in, unsigned n, unsigned *out) {
    __shared__ unsigned counts[16];
    if (threadIdx.x < 16) counts[threadIdx.x] = 0;
    __syncthreads();
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&counts[in[i] % 16], 1);
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&out[threadIdx.x], counts[threadIdx.x]);
}

// in[64 blocks], partial[blocks], ticket[1], out[1]: the block that takes the last ticket sees what all others wrote before they
// took theirs. Blocks of 64.
extern "C" __global__ void last_block_sums(const unsigned *in, unsigned *partial, unsigned *ticket, unsigned *out) {
    __shared__ unsigned values[64];
    __shared__ bool last;
    const unsigned i = threadIdx.x;
    values[i] = in[blockIdx.x * 64 + i];
    __syncthreads();
    for (unsigned distance = 32; distance > 0; distance /= 2) {
        if (i < distance) values[i] += values[i + distance];
        __syncthreads();
    }
    if (i == 0) {
        partial[blockIdx.x] = values[0];
        __threadfence();
        last = atomicAdd(ticket, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    unsigned sum = 0;
    for (unsigned block = i; block < gridDim.x; block += 64) sum += partial[block];
    values[i] = sum;
    __syncthreads();
    if (i == 0) {
        unsigned total = 0;
        for (unsigned j = 0; j < 64; j++) total += values[j];
        *out = total;
    }
}

// in[32], out[1]: lanes of a warp meet in shared memory, with a synchronisation of the warp between each read and write.
extern "C" __global__ void warp_sums(const unsigned *in, unsigned *out) {
    __shared__ unsigned values[32];
    const unsigned i = threadIdx.x;
    values[i] = in[i];
    __syncwarp();
    for (unsigned distance = 16; distance > 0; distance /= 2) {
        const unsigned other = values[i ^ distance];
        __syncwarp();
        values[i] += other;
        __syncwarp();
    }
    if (i == 0) *out = values[0];
}

// in[steps, 64], out[64]: two buffers make one barrier a step enough.
extern "C" __global__ void two_buffers(const unsigned *in, unsigned *out, unsigned steps) {
    __shared__ unsigned values[2][64];
    const unsigned i = threadIdx.x;
    unsigned sum = 0;
    for (unsigned step = 0; step < steps; step++) {
        values[step % 2][i] = in[step * 64 + i];
        __syncthreads();
        sum += values[step % 2][63 - i];
    }
    out[i] = sum;
}

// in[steps, 32], out[32]: the first warp fills a buffer and the second empties it. A warp that only tells the other that it is
// ready arrives at a barrier and goes on. Barrier 1: it is full. Barrier 2: it is empty.
extern "C" __global__ void producer_and_consumer(const unsigned *in, unsigned *out, unsigned steps) {
    __shared__ unsigned values[32];
    const unsigned i = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        for (unsigned step = 0; step < steps; step++) {
            if (step > 0) asm volatile("bar.sync 2, 64;" ::: "memory");
            values[i] = in[step * 32 + i];
            asm volatile("bar.arrive 1, 64;" ::: "memory");
        }
    } else {
        unsigned sum = 0;
        for (unsigned step = 0; step < steps; step++) {
            asm volatile("bar.sync 1, 64;" ::: "memory");
            sum += values[31 - i];
            if (step + 1 < steps) asm volatile("bar.arrive 2, 64;" ::: "memory");
        }
        out[i] = sum;
    }
}

// bytes[64], halves[64], out[16]: the bytes and halves of one word are written by different threads, in shared memory and in
// global memory, and read as words.
extern "C" __global__ void neighbours(unsigned char *bytes, __half *halves, unsigned *out) {
    __shared__ alignas(4) unsigned char shared_bytes[64];
    __shared__ alignas(4) __half shared_halves[64];
    const unsigned i = threadIdx.x;
    shared_bytes[i] = static_cast<unsigned char>(i);
    shared_halves[i] = __float2half(1.0f);
    bytes[i] = static_cast<unsigned char>(i);
    halves[i] = __float2half(1.0f);
    __syncthreads();
    if (i >= 16) return;
    const unsigned word = reinterpret_cast<const unsigned *>(shared_bytes)[i];
    const unsigned pair = reinterpret_cast<const unsigned *>(shared_halves)[i];
    const unsigned in_global = reinterpret_cast<const unsigned *>(bytes)[i] - word + reinterpret_cast<const unsigned *>(halves)[i] - pair;
    out[i] = word + in_global + (pair == 0x3c003c00 ? 0 : 1);
}

// in[100], out[100]: warps that have nothing to do leave, and there is no barrier for them to miss. A warp of which some lanes
// have nothing to do stays whole for its shuffles.
extern "C" __global__ void early_exit(const unsigned *in, unsigned *out, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i / 32 * 32 >= n) return;
    unsigned value = i < n ? in[i] : 0;
    for (unsigned distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    if (i < n) out[i] = value;
}

// in[32], out[32]: lanes loop differently often, and meet again.
extern "C" __global__ void unequal_loops(const unsigned *in, unsigned *out) {
    const unsigned i = threadIdx.x;
    unsigned sum = 0;
    for (unsigned j = 0; j <= i; j++) {
        if (in[j] % 3 == 1) continue;
        sum += in[j];
    }
    __syncwarp();
    out[i] = __shfl_sync(0xffffffff, sum, 31 - i);
}

struct alignas(16) Four {
    unsigned words[4];
};

// in[256], out[256]: nvcc makes one access of 16 bytes of four.
extern "C" __global__ void copies_of_four(const Four *in, Four *out) {
    const unsigned i = threadIdx.x;
    Four four = in[i];
    for (int j = 0; j < 4; j++) four.words[j] += 1;
    out[i] = four;
}

// quads[32], out[32]: two threads write the halves of one float4, in shared and in global memory, and it is read as a whole.
extern "C" __global__ void halves_of_four(uint4 *quads, unsigned *out) {
    __shared__ uint4 values[32];
    const unsigned i = threadIdx.x;
    reinterpret_cast<uint2 *>(values)[i] = make_uint2(i, 1);
    reinterpret_cast<uint2 *>(quads)[i] = make_uint2(i, 1);
    __syncthreads();
    if (i >= 32) return;
    const uint4 four = values[i], same = quads[i];
    out[i] = four.x + four.z + (four.y == 1 && four.w == 1 && same.x == four.x && same.w == four.w ? 0 : 1000);
}

// out[40]: the last warp has 8 threads, which are all that a barrier of the block and one of the warp wait for.
extern "C" __global__ void part_of_a_warp(unsigned *out) {
    __shared__ unsigned values[40];
    const unsigned i = threadIdx.x;
    values[i] = i;
    __syncthreads();
    unsigned value = values[39 - i];
    const unsigned mask = i < 32 ? 0xffffffff : 0xff;
    __syncwarp(mask);
    value += __shfl_xor_sync(mask, value, 1);
    out[i] = value;
}

// out[64]: what a barrier can compute, and votes.
extern "C" __global__ void votes(unsigned *out) {
    const unsigned i = threadIdx.x;
    const unsigned thirds = __syncthreads_count(i % 3 == 0);
    const unsigned all = __syncthreads_and(i < 64), any = __syncthreads_or(i == 40);
    const unsigned lanes = __ballot_sync(0xffffffff, i % 4 == 0);
    out[i] = thirds + (all != 0) + (any != 0) + __popc(lanes);
}

// in[256], out[1]: the warp that takes the last ticket of its block sees what the others wrote before they took theirs.
extern "C" __global__ void last_warp_sums(const unsigned *in, unsigned *out) {
    __shared__ unsigned partial[8], ticket;
    const unsigned i = threadIdx.x;
    if (i == 0) ticket = 0;
    __syncthreads();
    unsigned sum = in[i];
    for (unsigned distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (i % 32 != 0) return;
    partial[i / 32] = sum;
    __threadfence_block();
    if (atomicAdd(&ticket, 1) != 7) return;
    __threadfence_block();
    unsigned total = 0;
    for (unsigned warp = 0; warp < 8; warp++) total += partial[warp];
    *out = total;
}

// flags[3], out[3]: three lanes of a warp wait for each other in turn, each in a loop of its own.
extern "C" __global__ void lanes_that_spin(unsigned *flags, unsigned *out) {
    const unsigned i = threadIdx.x;
    if (i == 0) {
        while (atomicAdd(&flags[0], 0) == 0) {}
    } else if (i == 1) {
        atomicExch(&flags[1], 1);
        while (atomicAdd(&flags[2], 0) == 0) {}
        atomicExch(&flags[0], 1);
    } else {
        while (atomicAdd(&flags[1], 0) == 0) {}
        atomicExch(&flags[2], 1);
    }
    out[i] = i;
}

// in[32], out[32]: nvcc compares with `best` before it looks whether there is one, and makes of both a single condition.
extern "C" __global__ void found_yet(const unsigned *in, unsigned *out, unsigned n) {
    unsigned best;
    bool any = false;
    for (unsigned j = 0; j < n; j++) {
        const unsigned value = in[(threadIdx.x + j) % 32];
        if (value % 3 == 0 && (!any || value < best)) {
            best = value;
            any = true;
        }
    }
    out[threadIdx.x] = any ? best : 999;
}

// counter[1], out[20]: one lane of those that come makes room for all of them; the others have nothing before the shuffle.
extern "C" __global__ void room_for_all(unsigned *counter, unsigned *out) {
    const unsigned i = threadIdx.x;
    if (i % 5 >= 3) return;
    const unsigned here = __activemask();
    const unsigned leader = __ffs(here) - 1;
    unsigned first;
    if (i == leader) first = atomicAdd(counter, __popc(here));
    first = __shfl_sync(here, first, leader);
    out[first + __popc(here & ((1u << i) - 1))] = i;
}

// in[96], out[32], of 64 bits: nvcc widens the low byte of a register of 64 bits without making it a small one first.
extern "C" __global__ void low_byte(const unsigned long long *in, unsigned long long *out) {
    const unsigned i = threadIdx.x;
    const unsigned long long value = in[64 + i];
    out[i] = static_cast<long long>(static_cast<signed char>(value)) + value;
}
