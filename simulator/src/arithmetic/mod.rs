//! What instructions compute, value by value, as plain functions without branches where the interpreter's loops over lanes
//! are to become vector instructions.
//!
//! Results are IEEE 754's, rounded once, as the PTX ISA defines them (9.7.3 to 9.7.5). A NaN that an operation on f32 or f16
//! produces is the card's canonical one (0x7fffffff, 0x7fff); f64 keeps the host's NaN, whose payload the ISA leaves open.
//! Approximate instructions are computed in f64 and rounded, within every error that the ISA documents, and so differ from a
//! card in the last bits.

mod approximate;
mod convert;
mod half;
mod integer;
mod mma;
mod round;

pub use approximate::*;
pub use convert::*;
pub use half::*;
pub use integer::*;
pub use mma::*;
pub use round::*;

/// Rounding of a floating-point result: `.rn`, `.rz`, `.rm`, `.rp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

/// Rounding to an integer: `.rni`, `.rzi`, `.rmi`, `.rpi`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Integral {
    Nearest,
    Zero,
    Down,
    Up,
}
