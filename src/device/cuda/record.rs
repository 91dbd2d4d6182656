//! Times what is put into a card's stream, launch by launch, with the card's own events.

use std::sync::Arc;

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};

use super::card::{Card, failed};
use super::memory::Memory;
use crate::error::Result;

/// Launches between events, each with what is to be known of it.
///
/// Before each launch a buffer twice as large as the L2 cache is written, so that a launch finds none of its operands there. Writing it
/// takes longer than putting the launch into the stream: the card never waits for the host between the two events.
pub struct Recorder<T> {
    card: Arc<Card>,
    flush: Memory,
    launches: Vec<(T, CudaEvent, CudaEvent)>,
}

impl<T> Recorder<T> {
    pub fn new(card: &Arc<Card>) -> Result<Recorder<T>> {
        let flush = Memory::zeros(card, 2 * l2_bytes(card)?)?;
        Ok(Recorder { card: Arc::clone(card), flush, launches: Vec::new() })
    }

    /// Times what `launch` puts into the card's stream.
    ///
    /// # Errors
    /// When an event or the buffer's writing is refused; `launch`'s own error is its result.
    pub fn around<O>(&mut self, of: T, launch: impl FnOnce() -> O) -> Result<O> {
        let refused = |error| failed("time a launch", error);
        let event = || {
            let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
            self.card.stream.record_event(timed).map_err(refused)
        };
        self.flush.clear(self.flush.address, self.flush.bytes).map_err(refused)?;
        let begun = event()?;
        let result = launch();
        let ended = event()?;
        self.launches.push((of, begun, ended));
        Ok(result)
    }

    /// Seconds of each launch, in their order; waits for the last.
    pub fn finish(self) -> Result<Vec<(T, f64)>> {
        let mut times = Vec::with_capacity(self.launches.len());
        for (of, begun, ended) in self.launches {
            let milliseconds =
                begun.elapsed_ms(&ended).map_err(|error| failed("tell how long a launch took", error))?;
            times.push((of, f64::from(milliseconds) * 1e-3));
        }
        Ok(times)
    }
}

/// Bytes of the card's L2 cache.
pub fn l2_bytes(card: &Card) -> Result<usize> {
    let bytes = card
        .context
        .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
        .map_err(|error| failed("tell of its L2 cache", error))?;
    Ok((bytes.max(1 << 20)) as usize)
}
