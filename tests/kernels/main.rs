//! Each CUDA kernel by itself, against the same computed in float64: on the simulated GPU, with every check of it on, or with
//! `COIN_TEST_CARD=real` on this machine's card.

#[cfg(nvcc)]
mod gru;
#[cfg(nvcc)]
mod half;
#[cfg(nvcc)]
mod product;
#[cfg(nvcc)]
mod support;

#[cfg(nvcc)]
mod adam;
#[cfg(nvcc)]
mod adversarial;
#[cfg(nvcc)]
mod attention;
#[cfg(nvcc)]
mod batches;
#[cfg(nvcc)]
mod classifier;
#[cfg(nvcc)]
mod dropout;
#[cfg(nvcc)]
mod embedding;
#[cfg(nvcc)]
mod interaction;
#[cfg(nvcc)]
mod peak;
#[cfg(nvcc)]
mod projection;
#[cfg(nvcc)]
mod readout;
#[cfg(nvcc)]
mod standardise;
#[cfg(nvcc)]
mod work;

#[cfg(not(nvcc))]
#[test]
#[ignore = "needs nvcc: run scripts/install-nvcc"]
fn each_kernel() {
    panic!(
        "the kernels were not compiled because there was no nvcc: run scripts/install-nvcc, which needs no GPU"
    );
}
