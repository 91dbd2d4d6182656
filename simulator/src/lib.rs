//! A simulated GPU: runs the PTX that nvcc emits for `compute_75` on the CPU, and checks what a card does not.
//!
//! From text to result: [`ptx`] reads the PTX; `program` gives every instruction a meaning and a place in a flat list;
//! `machine` runs blocks, warps and lanes over memory with every check on; [`arithmetic`] has what the
//! instructions compute, bit by bit. [`Device`] is the door: memory, modules and launches of one simulated card. The driver
//! API on top of it, as a `libcuda.so.1`, is the package `simulated-driver`.

// Loops over lanes index several planes by one lane: an iterator over one of them would hide that, and vectorises worse.
#![allow(clippy::needless_range_loop)]

pub mod arithmetic;
mod device;
mod machine;
mod profile;
mod program;
pub mod ptx;

pub use device::{Device, Dimensions, Fault, FaultKind, Function, Launch, LoadError, Module, Settings};
pub use profile::{LineCost, Place, Profile, table};
pub use program::{Class, Isa, is_lanewise};
