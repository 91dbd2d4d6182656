//! Speaker mutual interaction (step 3, eq. 1): `m_i = h_i^P * s(h_Q W_Q + b_Q)`, and dropout on m.
//!
//! A gate depends on one state of one role alone, so all gates are one product over all states, each with its own
//! role's weights; a step then reads the gate of the other role's latest state. A role that has not spoken has the
//! state zero and the gate `s(b_Q)`. Without the interaction `m_i = h_i^P`.

mod cpu;
mod cuda;

use super::Backend;
use super::dropout::Mask;

pub trait Interaction: Backend {
    /// `hidden` `[R, 2d]` role-major to `m` `[R, 2d]` sample-major, masked at [`Site::Interaction`](super::dropout::Site);
    /// `gate` `[R, 2d]` role-major is saved.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    fn interaction(
        &mut self,
        layout: &Self::Layout,
        weights: &Self::Weights,
        mask: &Mask,
        enabled: bool,
        hidden: &Self::Buffer,
        gate: &mut Self::Buffer,
        m: &mut Self::Buffer,
    );

    /// `d_m` `[R, 2d]` sample-major, which is spent, to `d_hidden` `[R, 2d]` role-major, which is overwritten, as is `d_gate`.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    fn interaction_backward(
        &mut self,
        layout: &Self::Layout,
        weights: &Self::Weights,
        mask: &Mask,
        enabled: bool,
        hidden: &Self::Buffer,
        gate: &Self::Buffer,
        d_m: &mut Self::Buffer,
        d_gate: &mut Self::Buffer,
        d_hidden: &mut Self::Buffer,
        gradients: &mut Self::Gradients,
    );
}
