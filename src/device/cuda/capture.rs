//! Work that was captured once and is launched as a whole.

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::card::{Card, failed};
use crate::error::{Error, Result};

/// A captured graph of launches.
pub struct Captured(CudaGraph);

// SAFETY: a graph may be launched from any thread, one at a time: `launch` takes it exclusively, as does dropping it.
unsafe impl Send for Captured {}

impl Captured {
    /// Captures what `work` puts into the card's stream, which is not done yet.
    pub fn new(card: &Card, work: impl FnOnce() -> Result<()>) -> Result<Captured> {
        card.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(|error| failed("begin to capture a step", error))?;
        let worked = work();
        // Capturing has to end, whatever came of it.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let captured = card.stream.end_capture(flags);
        worked?;
        let captured = captured.map_err(|error| failed("capture a step", error))?;
        captured.map(Captured).ok_or_else(|| Error::System("the card captured nothing of a step".to_string()))
    }

    /// Puts all of it into the stream.
    pub fn launch(&mut self) -> Result<()> {
        self.0.launch().map_err(|error| failed("run a step", error))
    }
}
