//! Reading the attended history into the state (step 4): `a = softmax(M_att q)`, `c = M_att^T a`, `q' = tanh(q + c)`.
//!
//! With `M_att = P G W_V` never formed: `a = softmax(P y)` where `y = G w`, `w = W_V q`; and `c = W_V^T e` where
//! `e = G^T p`, `p = P^T a` (docs/model.md's orientation). An empty window has `c = 0`.
//!
//! A part of [`super::attention`].

mod cpu;
pub(super) mod cuda;

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
