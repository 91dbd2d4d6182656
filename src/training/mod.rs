//! Training: the loop, its schedule, when it stops, and what it leaves on disk.
//!
//! | file | holds |
//! |---|---|
//! | [`settings`] | every setting of a run, from defaults, preset, file and flags |
//! | [`sweep`] | the runs that settings ask for: seeds, and combinations of values |
//! | [`partition`] | which conversations are trained on, validated on and tested on |
//! | [`setup`] | what is fixed before the first step |
//! | [`schedule`], [`batches`], [`early_stopping`] | learning rate, order of the targets, when to stop |
//! | [`progress`] | how far a run has come: what a resumed run carries on with |
//! | [`evaluation`], [`report`] | loss and confusion of a set of targets; what a finished run reports |
//! | [`trainer`] | the loop itself |
//! | [`tensor_file`], [`checkpoint`], [`run_folder`] | what is on disk |
//! | [`display`], [`interrupt`] | the terminal: progress and Ctrl-C |

pub mod batches;
pub mod checkpoint;
pub mod display;
pub mod early_stopping;
pub mod evaluation;
pub mod interrupt;
pub mod partition;
pub mod progress;
pub mod report;
pub mod run_folder;
pub mod schedule;
pub mod settings;
pub mod setup;
pub mod sweep;
pub mod tensor_file;
pub mod trainer;
