//! Scaled dot-product attention over the window (step 4): `M_att = softmax(d^(-1/2) Q K^T) V`.
//!
//! With `score = W_Q W_K^T` (made once a step by [`super::projection`]) the scores are `(G score) G^T`: one projection
//! of the rows instead of two. `M_att` itself is never formed: the next stack's gates are linear in it, so
//! its W_V is folded into their weights and only `P G` is handed on; the readout does the same.
//!
//! A sample's probabilities P are an n x n block; padding does not exist.

mod cpu;
mod cuda;

pub(super) use cpu::{Softmax, SoftmaxBackward};

use super::Backend;
use super::dropout::Mask;

pub trait Attention: Backend {
    /// `g` `[R, 2d]` to `projected` `[R, 2d]` (`G score`) and `probabilities` (a block of n x n a sample); both are
    /// saved.
    fn attention(
        &mut self,
        layout: &Self::Layout,
        stack: usize,
        weights: &Self::Weights,
        g: &Self::Buffer,
        projected: &mut Self::Buffer,
        probabilities: &mut Self::Buffer,
    );

    /// `attended` = P G, `[R, 2d]`: what the next stack reads.
    fn attend(
        &mut self,
        layout: &Self::Layout,
        probabilities: &Self::Buffer,
        g: &Self::Buffer,
        attended: &mut Self::Buffer,
    );

    /// Adds `from` to `to`, `[R, 2d]` both: where a stack reads G itself, two gradients meet at it.
    fn add_rows(&mut self, layout: &Self::Layout, from: &Self::Buffer, to: &mut Self::Buffer);

    /// Back through [`Attention::attention`], and through [`Attention::attend`] with the gradient at what the next stack reads, if it
    /// does: adds to `d_g` and masks it as dropout masked the stack's states; `d_probabilities` is spent, `d_projected` scratch.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    fn attention_backward(
        &mut self,
        layout: &Self::Layout,
        stack: usize,
        weights: &Self::Weights,
        mask: &Mask,
        g: &Self::Buffer,
        projected: &Self::Buffer,
        probabilities: &Self::Buffer,
        d_attended: Option<&Self::Buffer>,
        d_probabilities: &mut Self::Buffer,
        d_projected: &mut Self::Buffer,
        d_g: &mut Self::Buffer,
        gradients: &mut Self::Gradients,
    );
}
