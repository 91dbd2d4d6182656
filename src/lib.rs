//! `coin`: a training engine for COIN, *Conversational Interactive Networks for Emotion Recognition in
//! Conversation* (Zhang & Chai, 2021).
//!
//! Imports run down this list only:
//!
//! | module | holds |
//! |---|---|
//! | [`commands`] | one file a command: parse, call, print |
//! | [`training`] | the loop, the schedule, early stopping, run folders, checkpoints |
//! | [`mod@bench`] | how fast steps, their parts and predictions are; comparisons |
//! | [`model`] | configuration, named parameters, the graph forward and backward, the adversarial pass |
//! | [`ops`] | one folder an operation of the paper: its contract, its CPU code |
//! | [`device`] | what holds memory and runs work |
//! | [`data`] | conversations, readers, windows, batches, the synthetic generator |
//! | [`metrics`], [`random`], [`atomic_file`], [`error`] | on the ground: they import nothing of the above |

pub mod atomic_file;
pub mod bench;
mod choice;
pub mod commands;
pub mod data;
pub mod device;
pub mod error;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod random;
pub mod training;
