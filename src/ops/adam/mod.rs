//! Adam (Kingma & Ba, 2015), with epsilon where PyTorch has it: beside the corrected root.

mod cpu;
mod cuda;

pub use cpu::update;
pub use cuda::{Optimiser, Rates};

/// The settings of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Number of this update, from 1.
    pub number: u64,
}
