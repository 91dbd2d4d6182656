//! The CPU: vectors, products, elementary functions, threads.

pub mod clock;
pub mod elementary;
pub mod gemm;
pub mod peak;
pub mod pool;
pub mod simd;
