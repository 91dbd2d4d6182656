//! Reading the attended history into the state (step 4): `a = softmax(M_att q)`, `c = M_att^T a`, `q' = tanh(q + c)`.
//!
//! With `M_att = P G W_V` never formed: `a = softmax(P y)` where `y = G w`, `w = W_V q`; and `c = W_V^T e` where
//! `e = G^T p`, `p = P^T a` (docs/model.md's orientation). An empty window has `c = 0`.

mod cpu;
pub(super) mod cuda;

use super::Backend;

/// What the backward pass reads.
#[derive(Debug, Default)]
pub struct Saved<B> {
    /// `[S, 2d]`: `W_V q`.
    pub w: B,
    /// `[R]`: `G w`.
    pub y: B,
    /// `[R]`: the readout's weights over the history, the paper's `a`.
    pub a: B,
    /// `[R]`: `P^T a`.
    pub p: B,
    /// `[S, 2d]`: `G^T p`.
    pub e: B,
}

/// Scratch of the backward pass.
#[derive(Debug, Default)]
pub struct Scratch<B> {
    /// `[S, 2d]`
    pub d_e: B,
    /// `[S, 2d]`
    pub d_w: B,
}

pub trait Readout: Backend {
    /// `q` `[S, 2d]` to `next` `[S, 2d]`.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    fn readout(
        &mut self,
        layout: &Self::Layout,
        stack: usize,
        weights: &Self::Weights,
        probabilities: &Self::Buffer,
        g: &Self::Buffer,
        q: &Self::Buffer,
        saved: &mut Saved<Self::Buffer>,
        next: &mut Self::Buffer,
    );

    /// `d_q` enters as the gradient at `next` and leaves as the gradient at `q`; `d_probabilities` and `d_g` are
    /// overwritten.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    fn readout_backward(
        &mut self,
        layout: &Self::Layout,
        stack: usize,
        weights: &Self::Weights,
        probabilities: &Self::Buffer,
        g: &Self::Buffer,
        q: &Self::Buffer,
        next: &Self::Buffer,
        saved: &Saved<Self::Buffer>,
        scratch: &mut Scratch<Self::Buffer>,
        d_q: &mut Self::Buffer,
        d_probabilities: &mut Self::Buffer,
        d_g: &mut Self::Buffer,
        gradients: &mut Self::Gradients,
    );
}
