//! The classifier (step 5) and its loss: `logits = q^L W_o + b_o`, cross-entropy.

mod cpu;
mod cuda;

use super::Backend;

pub trait Classifier: Backend {
    /// `q` `[S, 2d]` to `logits` `[S, C]`.
    fn classify(
        &mut self,
        layout: &Self::Layout,
        weights: &Self::Weights,
        q: &Self::Buffer,
        logits: &mut Self::Buffer,
    );

    /// From `logits` to `loss` `[S]`, the cross-entropy of each sample, and `d_logits` `[S, C]`, the gradient of the
    /// mean over `batch` samples.
    fn cross_entropy(
        &mut self,
        layout: &Self::Layout,
        batch: usize,
        logits: &Self::Buffer,
        loss: &mut Self::Wide,
        d_logits: &mut Self::Buffer,
    );

    /// `d_logits` to `d_q` `[S, 2d]`, which is overwritten.
    fn classify_backward(
        &mut self,
        layout: &Self::Layout,
        weights: &Self::Weights,
        q: &Self::Buffer,
        d_logits: &Self::Buffer,
        d_q: &mut Self::Buffer,
        gradients: &mut Self::Gradients,
    );
}
