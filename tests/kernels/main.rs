//! Each CUDA kernel by itself, against the same computed in float64: on the simulated GPU, with every check of it on, or with
//! `COIN_TEST_CARD=real` on this machine's card.

mod gru;
mod half;
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
mod peak;
mod projection;
mod readout;
mod standardise;
mod window_attention;
mod work;
