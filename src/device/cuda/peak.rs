//! What a card can do, measured: the ceilings that the time of its kernels is held against. `kernels/peak.cu`.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::CudaEvent;
use cudarc::driver::result;
use cudarc::driver::sys::CUevent_flags;

use super::card::{Card, Shape, failed};
use super::memory::Memory;
use super::record::l2_bytes;
use crate::error::Result;

/// By module, as [`Card::open`] takes them.
pub const KERNELS: &[(&str, &[&str])] = &[("peak", &["peak_fma", "peak_mma"])];

/// Independent chains of a thread, or tiles of a warp: `CHAINS` in `kernels/peak.cu`.
const CHAINS: f64 = 8.0;
const BLOCK: u32 = 256;
/// Blocks for each multiprocessor: as many threads as Turing has.
const BLOCKS: u32 = 4;

/// A measurement takes at least so long: events tell half microseconds.
const LONG_ENOUGH: f64 = 2e-3;

/// The most that a card reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// Bytes a second that a copy within its memory reads and writes, both counted.
    pub bytes: f64,
    /// Operations a second of ordinary multiply-adds in float32.
    pub fma: f64,
    /// Operations a second of tensor cores: f16 operands, float32 sums, in the shape that Turing has (m16n8k8).
    pub tensor: f64,
    /// Seconds between two events with nothing between them.
    pub event: f64,
}

/// Measures card `index`, each ceiling as the best of `rounds`.
pub fn measure(index: usize, rounds: usize) -> Result<Peak> {
    let card = Card::open(index, KERNELS)?;
    let blocks = card.multiprocessors * BLOCKS;
    let out = Memory::zeros(&card, (blocks * BLOCK) as usize * 4)?;
    let rate = |kernel: &str, of_a_round: f64| -> Result<f64> {
        let mut count = 16;
        let mut seconds = timed(&card, || multiply(&card, kernel, &out, blocks, count))?;
        while seconds < LONG_ENOUGH && count < 1 << 24 {
            count *= 2;
            seconds = timed(&card, || multiply(&card, kernel, &out, blocks, count))?;
        }
        for _ in 1..rounds {
            seconds = seconds.min(timed(&card, || multiply(&card, kernel, &out, blocks, count))?);
        }
        Ok(of_a_round * f64::from(count) * f64::from(blocks) / seconds)
    };
    let threads = f64::from(BLOCK);
    let fma = rate("peak_fma", 2.0 * CHAINS * threads)?;
    let tensor = rate("peak_mma", 2.0 * 16.0 * 8.0 * 8.0 * CHAINS * threads / 32.0)?;
    // Far more than a cache holds.
    let bytes = 8 * l2_bytes(&card)?;
    let (from, to) = (Memory::zeros(&card, bytes)?, Memory::zeros(&card, bytes)?);
    let (mut copied, mut nothing) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds.max(1) {
        copied = copied.min(timed(&card, || {
            let stream = card.stream.cu_stream();
            // SAFETY: both have so many bytes.
            unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, stream) }
                .map_err(|error| failed("copy its memory", error))
        })?);
        nothing = nothing.min(timed(&card, || Ok(()))?);
    }
    Ok(Peak { bytes: 2.0 * bytes as f64 / copied, fma, tensor, event: nothing })
}

fn multiply(card: &Card, kernel: &str, out: &Memory, blocks: u32, rounds: u32) -> Result<()> {
    let shape = Shape { grid: [blocks, 1, 1], block: BLOCK, shared: 0 };
    // The values settle at 1 and stay there, or stay small: no number is slow.
    let (mut address, mut rounds, mut a, mut b) = (out.address, rounds, 0.5f32, 0.5f32);
    let mut arguments: [*mut c_void; 4] =
        [(&raw mut address).cast(), (&raw mut rounds).cast(), (&raw mut a).cast(), (&raw mut b).cast()];
    // SAFETY: the kernels' parameters are these four; `out` has a float for each thread.
    unsafe { card.launch(kernel, shape, &mut arguments) }
        .map_err(|error| failed(&format!("launch {kernel}"), error))
}

/// Seconds between two events around what `work` puts into the stream.
fn timed(card: &Arc<Card>, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let event = || -> Result<CudaEvent> {
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        card.stream.record_event(timed).map_err(|error| failed("time its work", error))
    };
    let begun = event()?;
    work()?;
    let ended = event()?;
    let milliseconds = begun.elapsed_ms(&ended).map_err(|error| failed("tell how long it took", error))?;
    Ok((f64::from(milliseconds) * 1e-3).max(1e-9))
}
