// The loss of the classifier and what is counted of an epoch (step 5; src/ops/classifier, src/metrics).
//
//     cross_entropy    loss[s] = log(sum of exp(logits[s])) - logits[s][label[s]], in float64
//                      d_logits[s] = (softmax(logits[s]) - onehot(label[s])) / S * loss scale
//     metrics          loss_sum += sum of loss[s]; confusion[label[s]][prediction]++, the prediction being the first of the largest logits
//
// logits, d_logits [S, C]; loss [S] float64; loss_sum [1] float64; confusion [C, C]. A sample without a label (NONE) has no loss, no
// gradient, and is not counted. Left out where null: d_logits, the loss scale (then 1), confusion.
//
// cross_entropy: a warp has a sample, its lanes the classes. The exponentials are in float64 as on the CPU: a handful of classes, and the
// log-sum keeps every digit; its maximum and its sum are in registers, by shuffles. metrics: one block, the sum by thread in a register,
// then by a tree in shared memory (2 KiB): always the same order. Integer counts need none.
//
// Launch, no dynamic shared memory:
//     cross_entropy: grid (ceil(samples / 8), 1, runs) of the capacity, block 256
//     metrics:       grid (1, 1, runs), block 256
// Floor: a launch each. Bytes: cross_entropy S * (8C + 12), metrics S * (4C + 12): some tens of KB; 2 S C exponentials in float64.

#include "batch.cuh"
#include "warp.cuh"

extern "C" __global__ void __launch_bounds__(256)
cross_entropy(
    double *__restrict__ loss,               // [S]
    float *__restrict__ d_logits,            // [S, C] or null
    const float *__restrict__ logits,        // [S, C]
    const unsigned *__restrict__ label,      // [S]
    const float *__restrict__ loss_scale,    // [1] or null
    const Header *__restrict__ header,
    unsigned classes,
    size_t run_stride) {
    const unsigned samples = of_run(header, run_stride)->samples;
    const unsigned lane = threadIdx.x % 32, sample = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (sample >= samples) return;
    logits = of_run(logits, run_stride) + static_cast<size_t>(sample) * classes;
    const unsigned truth = of_run(label, run_stride)[sample];
    double largest = -INFINITY;
    for (unsigned c = lane; c < classes; c += 32) largest = fmax(largest, static_cast<double>(logits[c]));
    largest = warp_maximum(largest);
    double sum = 0.0;
    for (unsigned c = lane; c < classes; c += 32) sum += exp(static_cast<double>(logits[c]) - largest);
    const double log_sum = largest + log(warp_sum(sum));
    const bool labelled = truth < classes;
    if (lane == 0) of_run(loss, run_stride)[sample] = labelled ? log_sum - static_cast<double>(logits[truth]) : 0.0;
    if (!d_logits) return;
    d_logits = of_run(d_logits, run_stride) + static_cast<size_t>(sample) * classes;
    loss_scale = of_run_or_null(loss_scale, run_stride);
    const double share = (loss_scale ? static_cast<double>(*loss_scale) : 1.0) / samples;
    for (unsigned c = lane; c < classes; c += 32) {
        const double probability = exp(static_cast<double>(logits[c]) - log_sum);
        d_logits[c] = labelled ? static_cast<float>((probability - (c == truth ? 1.0 : 0.0)) * share) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(256)
metrics(
    double *__restrict__ loss_sum,           // [1]
    unsigned *__restrict__ confusion,        // [C, C] or null: by true class, then predicted
    const double *__restrict__ loss,         // [S]
    const float *__restrict__ logits,        // [S, C]
    const unsigned *__restrict__ label,      // [S]
    const Header *__restrict__ header,
    unsigned classes,
    size_t run_stride) {
    __shared__ double sums[256];
    const unsigned samples = of_run(header, run_stride)->samples, thread = threadIdx.x;
    if (samples == 0) return;
    loss = of_run(loss, run_stride);
    confusion = of_run_or_null(confusion, run_stride);
    logits = of_run(logits, run_stride);
    label = of_run(label, run_stride);
    double sum = 0.0;
    for (unsigned sample = thread; sample < samples; sample += 256) {
        sum += loss[sample];
        const unsigned truth = label[sample];
        if (!confusion || truth >= classes) continue;
        const float *row = logits + static_cast<size_t>(sample) * classes;
        unsigned best = 0;
        float largest = row[0];
        for (unsigned c = 1; c < classes; c++) {
            const float logit = row[c];
            if (logit > largest) {
                largest = logit;
                best = c;
            }
        }
        atomicAdd(&confusion[truth * classes + best], 1u);
    }
    sums[thread] = sum;
    for (unsigned half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) sums[thread] += sums[thread + half];
    }
    if (thread == 0) *of_run(loss_sum, run_stride) += sums[0];
}
