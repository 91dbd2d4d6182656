//! The adversarial perturbation (eq. 6), without a D-wide tensor.
//!
//! The first operation on the features is linear, so with `delta` the gradient at an embedding the gradient at
//! the features is `g = delta We^T` (docs/model.md's orientation), `||g||^2 = delta (We^T We) delta^T`, and the embedding
//! of the perturbed features is `x + eps delta (We^T We) / ||g||`. With the Gram matrix of the weights computed
//! once a step, the second pass stays in the embedding space. The same holds for the target with `Wq`.

mod cpu;
mod cuda;

use super::Backend;
use crate::choice::choice;

choice! {
    /// Over what the gradient of the adversarial perturbation is normalised.
    AdversarialNorm, "adversarial_norm" {
        /// One norm over all features that a sample reads.
        Sample = "sample",
        /// One norm for each utterance that a sample reads.
        Utterance = "utterance",
        /// One norm for the whole batch.
        Batch = "batch"
    }
}

/// What the clean pass leaves for the adversarial one.
#[derive(Debug, Default)]
pub struct Perturbation<B, W> {
    /// `[R, d]` role-major: first `delta We^T We`, after [`Adversarial::perturb`] the displacement of the embedding.
    pub history: B,
    /// `[S, 2d]`: the same for the targets.
    pub target: B,
    /// `[R]`: first the norm of the gradient at the utterance's features, then `eps / norm`.
    pub history_scale: B,
    /// `[S]`: the same for the targets.
    pub target_scale: B,
    /// `[S]`: the squared norm of the gradient over all features that a sample reads, in float64.
    pub squared_norm: W,
}

pub trait Adversarial: Backend {
    /// From the gradients of the clean loss at the embeddings (`d_history` `[R, d]` role-major, `d_target` `[S, 2d]`)
    /// to the norms at the features.
    fn feature_norms(
        &mut self,
        layout: &Self::Layout,
        weights: &Self::Weights,
        d_history: &Self::Buffer,
        d_target: &Self::Buffer,
        perturbation: &mut Perturbation<Self::Buffer, Self::Wide>,
    );

    /// From norms to displacements of length `epsilon` at the features. `batch` `[1]` is the sum of all squared norms of
    /// the batch. A gradient that is zero, or too small for `eps / norm` to be finite, gives a zero displacement; on a card, whose
    /// mixed precision overflows now and then, one that is not finite too.
    fn perturb(
        &mut self,
        layout: &Self::Layout,
        norm: AdversarialNorm,
        epsilon: f64,
        batch: &Self::Wide,
        perturbation: &mut Perturbation<Self::Buffer, Self::Wide>,
    );
}
