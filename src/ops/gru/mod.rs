//! Bidirectional GRU over contiguous sequences of different lengths.
//!
//! ```text
//! r = s(x Wir + bir + h Whr + bhr)      z = s(x Wiz + biz + h Whz + bhz)
//! n = tanh(x Win + bin + r * (h Whn + bhn))      h' = (1 - z) * n + z * h
//! ```
//!
//! The input products of all steps are one product of matrices; a step of the recurrence is one tile whose three
//! column vectors are the r, z and n of the same hidden units, so that the gates are finished in registers and
//! the recurrent product never goes to memory.
//!
//! Per row and direction the saved values are four blocks of d side by side, `[n, r, z, hn]` with
//! `hn = h Whn + bhn`. In this order the gradient at the input product (`n, r, z`) and the one at the recurrent
//! product (`r, z, hn`) are both contiguous, and the backward pass overwrites the values with them in place.

mod cpu;
pub(super) mod cuda;

pub use cpu::GruWeights;

use super::Backend;

/// Which of the model's recurrent layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Step 2: role-major rows, input d wide, each role with its own weights over its own turns.
    Speaker,
    /// Step 4, stack l: sample-major rows, input 2d wide.
    Context(usize),
}

pub trait Gru: Backend {
    /// `input` `[R, d or 2d]` to `hidden` `[R, 2d]`, forward direction then backward direction in a row;
    /// `saved` is `[R, 2, 4d]`.
    fn gru(
        &mut self,
        layout: &Self::Layout,
        layer: Layer,
        weights: &Self::Weights,
        input: &Self::Buffer,
        saved: &mut Self::Buffer,
        hidden: &mut Self::Buffer,
    );

    /// `d_hidden` `[R, 2d]` to `d_input`, which is overwritten; `saved` becomes the gradient of the gates.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    fn gru_backward(
        &mut self,
        layout: &Self::Layout,
        layer: Layer,
        weights: &Self::Weights,
        input: &Self::Buffer,
        hidden: &Self::Buffer,
        saved: &mut Self::Buffer,
        d_hidden: &Self::Buffer,
        d_input: &mut Self::Buffer,
        gradients: &mut Self::Gradients,
    );
}
