extern "C" __global__ void twice(float* values, unsigned count)
{
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) values[index] *= 2.0f;
}
