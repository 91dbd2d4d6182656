// Kernels with one mistake each in their use of memory, and what they should have been.
//
// A line that ends with the marker is one that the simulator's report must name. The kernels with `_fixed` are the same
// without the mistake, and must run in silence; where only the launch is wrong, one kernel is launched both ways.
// `tests/planted/cases.rs` says how each is launched and what is expected of it.

// in[64], out[64]: the last thread reads the element after the end.
extern "C" __global__ void load_past_end(const unsigned *in, unsigned *out) {
    const unsigned i = threadIdx.x;
    out[i] = in[i + 1]; // BUG
}

extern "C" __global__ void load_past_end_fixed(const unsigned *in, unsigned *out) {
    const unsigned i = threadIdx.x;
    out[i] = i + 1 < blockDim.x ? in[i + 1] : 0;
}

// in[64], out[64]: the first thread reads the element before the beginning.
extern "C" __global__ void load_before_start(const unsigned *in, unsigned *out) {
    const int i = threadIdx.x;
    out[i] = in[i - 1]; // BUG
}

extern "C" __global__ void load_before_start_fixed(const unsigned *in, unsigned *out) {
    const int i = threadIdx.x;
    out[i] = i > 0 ? in[i - 1] : 0;
}

// out[100] and 128 threads: the guard for the last block was forgotten.
extern "C" __global__ void store_past_end(unsigned *out, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = n - i; // BUG
}

extern "C" __global__ void store_past_end_fixed(unsigned *out, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = n - i;
}

// in[64], out[64]: launched with an `in` that was freed, with a null pointer, and with one that nothing was written to.
extern "C" __global__ void doubled(const unsigned *in, unsigned *out) {
    const unsigned i = threadIdx.x;
    out[i] = in[i] * 2; // BUG
}

// in[64], out[8]: four words at once from element `first` on, which has to be a multiple of four.
extern "C" __global__ void vector_load(const unsigned *in, unsigned *out, unsigned first) {
    const unsigned i = threadIdx.x;
    const uint4 four = *reinterpret_cast<const uint4 *>(in + first + 4 * i); // BUG
    out[i] = four.x + four.y + four.z + four.w;
}

// out[64]: the last thread writes to the first element of the array that lies behind.
extern "C" __global__ void static_shared_overflow(unsigned *out) {
    __shared__ unsigned first[64];
    __shared__ unsigned second[64];
    const unsigned i = threadIdx.x;
    first[i] = 0;
    second[i] = 100;
    __syncthreads();
    first[i + 1] = i; // BUG
    __syncthreads();
    out[i] = first[i] + second[i];
}

extern "C" __global__ void static_shared_overflow_fixed(unsigned *out) {
    __shared__ unsigned first[64];
    __shared__ unsigned second[64];
    const unsigned i = threadIdx.x;
    first[i] = 0;
    second[i] = 100;
    __syncthreads();
    if (i + 1 < 64) first[i + 1] = i;
    __syncthreads();
    out[i] = first[i] + second[i];
}

// out[64]: launched with dynamic shared memory for 64 words, and for 63.
extern "C" __global__ void dynamic_shared(unsigned *out) {
    extern __shared__ unsigned values[];
    const unsigned i = threadIdx.x;
    values[i] = i; // BUG
    __syncthreads();
    out[i] = values[63 - i];
}

// in[64], out[64]: launched with a count of 8, which the array has room for, and of 9.
extern "C" __global__ void local_array(const unsigned *in, unsigned *out, unsigned count) {
    unsigned values[8];
    for (unsigned i = 0; i < count; i++) {
        values[i] = in[i]; // BUG
    }
    out[threadIdx.x] = values[threadIdx.x % 8];
}

// in[64], out[64]: as before, but a count of 7 leaves the last element as it was.
extern "C" __global__ void unwritten_local(const unsigned *in, unsigned *out, unsigned count) {
    unsigned values[8];
    for (unsigned i = 0; i < count; i++) {
        values[i] = in[i];
    }
    out[threadIdx.x] = values[threadIdx.x % 8]; // BUG
}

// out[64]: only every other element is written, and all are read.
extern "C" __global__ void unwritten_shared(unsigned *out) {
    __shared__ unsigned values[64];
    const unsigned i = threadIdx.x;
    if (i % 2 == 0) values[i] = i;
    __syncthreads();
    out[i] = values[i]; // BUG
}

extern "C" __global__ void unwritten_shared_fixed(unsigned *out) {
    __shared__ unsigned values[64];
    const unsigned i = threadIdx.x;
    values[i] = i % 2 == 0 ? i : 0;
    __syncthreads();
    out[i] = values[i];
}

// out[32]: a register that nothing was written to. In C++ nvcc would make something of it, or nothing.
extern "C" __global__ void unwritten_register(unsigned *out) {
    unsigned sum;
    asm volatile("{ .reg .b32 never; add.u32 %0, never, %1; }" : "=r"(sum) : "r"(threadIdx.x)); // BUG
    out[threadIdx.x] = sum;
}

extern "C" __global__ void unwritten_register_fixed(unsigned *out) {
    unsigned sum;
    asm volatile("{ .reg .b32 once; mov.u32 once, 7; add.u32 %0, once, %1; }" : "=r"(sum) : "r"(threadIdx.x));
    out[threadIdx.x] = sum;
}

// in[32], out[32]: only the first half has a value, and the others read from each other.
extern "C" __global__ void unwritten_shuffle(const unsigned *in, unsigned *out) {
    const unsigned i = threadIdx.x;
    unsigned value;
    if (i < 16) value = in[i];
    value = __shfl_xor_sync(0xffffffff, value, 1);
    out[i] = value; // BUG
}

extern "C" __global__ void unwritten_shuffle_fixed(const unsigned *in, unsigned *out) {
    const unsigned i = threadIdx.x;
    unsigned value;
    if (i < 16) value = in[i];
    value = __shfl_sync(0xffffffff, value, i % 16);
    out[i] = value;
}
