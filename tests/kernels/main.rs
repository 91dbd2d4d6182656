//! Each CUDA kernel by itself on the simulated GPU, with every check of it on, against the same computed in float64.

mod gru;
mod product;
mod support;

mod adam;
mod adversarial;
mod attention;
mod batches;
mod classifier;
mod dropout;
mod embedding;
mod interaction;
mod readout;
mod reduce;
mod standardise;
mod work;
