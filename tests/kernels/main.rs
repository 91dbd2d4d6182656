//! Each CUDA kernel by itself on the simulated GPU, with every check of it on, against the same computed in float64.

mod gru;
mod support;
