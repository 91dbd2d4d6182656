//! What holds memory and runs work.

pub mod cpu;
pub mod cuda;
pub mod work;
