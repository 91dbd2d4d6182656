//! The CUDA driver API over a simulated card: a `libcuda.so.1` for programs that know nothing of the simulation.
//!
//! The functions are those of `cuda.h` (CUDA 13.0) that ordinary programs and the crate `cudarc` use; the rest does not
//! exist. They behave as the driver's, with these differences:
//!
//! * Work is done by the call that gives it, not later: an error of a kernel is the result of its own launch, and a missing
//!   synchronisation between streams, or with the host, is not found.
//! * Times are those of the simulation. They say nothing about a card.
//! * Only PTX is run: a module needs it, and what its assembler would decide (registers) is a bound that the PTX allows.
//! * Kernels cannot reach the host's memory; managed memory, cooperative launches, textures and virtual memory are
//!   `CUDA_ERROR_NOT_SUPPORTED`, or absent.
//! * After a fault the context is broken, as on a card; a card finds fewer of them.
//!
//! What the simulation finds is printed on stderr and, see [`settings`], written to a file. The program `simulate` runs
//! another program on the simulated card.

// The exported names are those of the C API.
#![allow(non_snake_case)]

mod capture;
pub mod context;
pub mod device;
pub mod error;
pub mod event;
pub mod graph;
pub mod image;
pub mod launch;
pub mod memory;
pub mod module;
mod operation;
pub mod pointer;
pub mod pool;
pub mod procedures;
mod report;
pub mod settings;
mod state;
pub mod stream;
pub mod transfer;
pub mod types;

pub use context::*;
pub use device::*;
pub use error::*;
pub use event::*;
pub use graph::*;
pub use launch::*;
pub use memory::*;
pub use module::*;
pub use pointer::*;
pub use pool::*;
pub use procedures::*;
pub use stream::*;
pub use transfer::*;
pub use types::*;
