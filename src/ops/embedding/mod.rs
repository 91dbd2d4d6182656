//! Embedding of the history and of the target (step 1): `x_i = u_i W_e + b_e`, `q^0 = u_t W_q + b_q`.
//!
//! The D-wide products run once for every distinct utterance of a batch ([`embed`], over the whole batch); a
//! shard gathers its rows from them. In the adversarial pass the displacement of the embedding is added, so no
//! D-wide tensor per sample exists. Backward, the gradients at the rows are summed by utterance first, and
//! the part of the weights' gradient that comes from the perturbed features follows from the Gram identity:
//! `dW_e = sum u^T delta_adv + W_e (sum (eps delta / ||g||)^T delta_adv)`.

mod cpu;
mod cuda;

pub use cpu::{embed, sum_by_utterance, weight_gradient};

use super::Backend;
use super::adversarial::Perturbation;

pub trait Embedding: Backend {
    /// `history` `[distinct, d]` and `target` `[S, 2d]` (this shard's), the embeddings of the unperturbed
    /// features, to the shard's `x` `[R, d]` role-major and `q` `[S, 2d]`, displaced by `perturbation`.
    fn gather(
        &mut self,
        layout: &Self::Layout,
        history: &Self::Buffer,
        target: &Self::Buffer,
        perturbation: Option<&Perturbation<Self::Buffer, Self::Wide>>,
        x: &mut Self::Buffer,
        q: &mut Self::Buffer,
    );

    /// Adds the part of the embeddings' weight gradients that flows through the perturbed features:
    /// `eps W (sum (delta / ||g||)^T delta_adv)`, for history and target. `clean` and `adversarial` are the gradients
    /// at `x` and `q` of the two passes.
    fn perturbed_features_gradient(
        &mut self,
        layout: &Self::Layout,
        perturbation: &Perturbation<Self::Buffer, Self::Wide>,
        clean: (&Self::Buffer, &Self::Buffer),
        adversarial: (&Self::Buffer, &Self::Buffer),
        correlation: &mut Correlation<Self::Buffer>,
    );
}

/// Sums of `(eps delta_adv^T delta / ||g||)`: what the weights are multiplied with to give their gradient through
/// the perturbed features.
#[derive(Debug, Default)]
pub struct Correlation<B> {
    /// `[d, d]`
    pub history: B,
    /// `[2d, 2d]`
    pub target: B,
}
