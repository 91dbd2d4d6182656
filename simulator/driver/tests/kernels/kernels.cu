// Kernels of the driver's tests; the .ptx beside this file is what nvcc 13.0 makes of it:
//     nvcc -ptx -arch=compute_75 kernels.cu -o kernels.ptx

__constant__ unsigned factors[4];
__device__ unsigned counter;

extern "C" __global__ void add(const float* left, const float* right, float* sum, unsigned count)
{
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) sum[index] = left[index] + right[index];
}

extern "C" __global__ void scale(unsigned* values, unsigned char which, unsigned long long offset)
{
    values[offset + threadIdx.x] *= factors[which];
}

extern "C" __global__ void count()
{
    atomicAdd(&counter, 1u);
}

// Every thread writes its index and reads its neighbour's, through dynamic shared memory of 4 bytes a thread.
extern "C" __global__ void rotate(unsigned* result)
{
    extern __shared__ unsigned shared[];
    shared[threadIdx.x] = threadIdx.x;
    __syncthreads();
    result[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

// The same without the barrier.
extern "C" __global__ void race(unsigned* result)
{
    extern __shared__ unsigned shared[];
    shared[threadIdx.x] = threadIdx.x;
    result[threadIdx.x] = shared[(threadIdx.x + 32) % blockDim.x];
}

extern "C" __global__ void store(unsigned char* address, unsigned long long offset)
{
    *(unsigned*)(address + offset) = 1u;
}

extern "C" __global__ void stop(unsigned when)
{
    if (threadIdx.x == when) __trap();
}

extern "C" __global__ void __launch_bounds__(128, 2) bounded(unsigned* result)
{
    __shared__ unsigned fixed[256];
    fixed[threadIdx.x] = threadIdx.x;
    __syncthreads();
    result[threadIdx.x] = fixed[127 - threadIdx.x];
}
