//! Products of weights, made once a step, that save products of activations.
//!
//! The scores of a stack need only `score = W_Q W_K^T`; the next stack's gates need only `W_V W_ih`, because nothing
//! stands between a stack's `M_att = P G W_V` and the next one's input product. The gradients of `W_Q`, `W_K`,
//! `W_V` and `W_ih` follow from those of the products by the product rule. Exact in real arithmetic; in floating
//! point it is another order of the same sums.
//!
//! With `stack_input = "gru"` the next stack reads G itself and only the scores are folded.

mod cpu;
mod cuda;

pub use cpu::{Scratch, prepare, unfold};
