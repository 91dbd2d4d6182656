//! CUDA cards: context, kernels, memory, captured work, and products of matrices. Knows nothing of COIN's
//! layers.
//!
//! The driver is loaded when a card is first asked for: a program built with CUDA starts on a machine without one.

pub mod capture;
pub mod card;
pub mod memory;
pub mod peak;
pub mod product;
pub mod record;
