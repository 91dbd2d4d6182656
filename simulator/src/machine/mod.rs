//! Runs programs: blocks on the host's threads, warps in turns, 32 lanes at once, with every check on.
//!
//! [`launch`] hands blocks to workers; a [`worker::Worker`] runs one block at a time; [`warp`] steps a warp through its
//! instructions, splitting and joining its lanes; [`access`] does what touches memory; [`shadow`] remembers who touched what
//! and finds races; [`memory`] is the card's global memory.

pub mod access;
pub mod counters;
pub mod execute;
pub mod fault;
pub mod launch;
pub mod memory;
pub mod print;
pub mod registers;
pub mod shadow;
pub mod warp;
pub mod worker;

/// Source lines that a stamp of the race check can tell apart.
pub const MOST_LINES: usize = 1 << shadow::LINE_BITS;
