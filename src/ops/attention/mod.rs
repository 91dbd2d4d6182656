//! Scaled dot-product attention over the window (step 4), and the readout of what it attends to: `M_att = softmax(d^(-1/2) Q K^T) V`,
//! then [`super::readout`].
//!
//! With `score = W_Q W_K^T` (made once a step by [`super::projection`]) the scores are `(G score) G^T`: one projection
//! of the rows instead of two. `M_att` itself is never formed: the next stack's gates are linear in it, so
//! its W_V is folded into their weights and only `P G` is handed on; the readout does the same.
//!
//! A sample's probabilities P are an n x n block; padding does not exist.

mod cpu;
pub(super) mod cuda;

pub(super) use cpu::{Softmax, SoftmaxBackward};

use super::dropout::Mask;
use super::{Backend, readout};

/// What the backward pass reads.
#[derive(Debug, Default)]
pub struct Saved<B> {
    /// `[R, 2d]`: `G score`.
    pub projected: B,
    /// P, n x n a sample.
    pub probabilities: B,
    pub readout: readout::Saved<B>,
}

/// Gradients within the operation.
#[derive(Debug, Default)]
pub struct Scratch<B> {
    /// `[R, 2d]`
    pub projected: B,
    /// n x n a sample.
    pub probabilities: B,
    pub readout: readout::Scratch<B>,
}

/// The gradient that comes back from the next stack, at what it reads.
#[derive(Debug, Clone, Copy)]
pub enum FromNext<'a, B> {
    /// There is no next stack.
    Nothing,
    /// `[R, 2d]`, at `P G`.
    Attended(&'a B),
    /// `[R, 2d]`, at G.
    States(&'a B),
}

pub trait Attention: Backend {
    /// `g` `[R, 2d]` and `q` `[S, 2d]` to `next` `[S, 2d]`, and `attended` = P G, `[R, 2d]`, where the next stack reads it.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    fn attention(
        &mut self,
        layout: &Self::Layout,
        stack: usize,
        weights: &Self::Weights,
        g: &Self::Buffer,
        q: &Self::Buffer,
        saved: &mut Saved<Self::Buffer>,
        next: &mut Self::Buffer,
        attended: Option<&mut Self::Buffer>,
    );

    /// `d_q` enters as the gradient at `next` and leaves as the gradient at `q`. `d_g` is overwritten with the gradient at `g`, masked as
    /// dropout masked the stack's states.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    fn attention_backward(
        &mut self,
        layout: &Self::Layout,
        stack: usize,
        weights: &Self::Weights,
        mask: &Mask,
        g: &Self::Buffer,
        q: &Self::Buffer,
        next: &Self::Buffer,
        saved: &Saved<Self::Buffer>,
        from_next: FromNext<Self::Buffer>,
        scratch: &mut Scratch<Self::Buffer>,
        d_q: &mut Self::Buffer,
        d_g: &mut Self::Buffer,
        gradients: &mut Self::Gradients,
    );
}
