//! Copies and fills. They are done when their call returns, whatever memory they are from.

use std::ffi::{c_uint, c_void};

use crate::error::{CUresult, Outcome, call, explain};
use crate::memory::range_at;
use crate::operation::{Operation, submit, submit_synchronous};
use crate::state::{State, state};
use crate::types::*;

/// The copy between two addresses, of which each says by itself whose it is.
fn unified_copy(to: u64, from: u64, bytes: usize) -> Outcome<Operation> {
    let mut state = state()?;
    state.current()?;
    let on_device = |state: &mut State, address| range_at(state, address).is_some();
    let (target, source) = (on_device(&mut state, to), on_device(&mut state, from));
    Ok(match (target, source) {
        (true, true) => Operation::Copy { to, from, bytes: bytes as u64 },
        (true, false) => Operation::Write { to, from: from as usize, bytes },
        (false, true) => Operation::Read { to: to as usize, from, bytes },
        (false, false) => Operation::HostCopy { to: to as usize, from: from as usize, bytes },
    })
}

/// Copies from the host to the device.
///
/// # Safety
/// `from` has `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize) -> CUresult {
    call("cuMemcpyHtoD_v2", || {
        submit_synchronous("cuMemcpyHtoD", Operation::Write { to, from: from.expose_provenance(), bytes })
    })
}

/// Copies from the device to the host.
///
/// # Safety
/// `to` has `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize) -> CUresult {
    call("cuMemcpyDtoH_v2", || {
        submit_synchronous("cuMemcpyDtoH", Operation::Read { to: to.expose_provenance(), from, bytes })
    })
}

/// Copies within the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    call("cuMemcpyDtoD_v2", || {
        submit_synchronous("cuMemcpyDtoD", Operation::Copy { to, from, bytes: bytes as u64 })
    })
}

/// Copies from anywhere to anywhere.
///
/// # Safety
/// An address that is not the device's is the host's, with `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    call("cuMemcpy", || submit_synchronous("cuMemcpy", unified_copy(to, from, bytes)?))
}

/// Copies from the host to the device in a stream.
///
/// # Safety
/// `from` has `bytes` bytes, in a capture also at every launch of the graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyHtoDAsync_v2", || {
        submit("cuMemcpyHtoDAsync", stream, Operation::Write { to, from: from.expose_provenance(), bytes })
    })
}

/// Copies from the device to the host in a stream.
///
/// # Safety
/// `to` has `bytes` bytes, in a capture also at every launch of the graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyDtoHAsync_v2", || {
        submit("cuMemcpyDtoHAsync", stream, Operation::Read { to: to.expose_provenance(), from, bytes })
    })
}

/// Copies within the device in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyDtoDAsync_v2", || {
        submit("cuMemcpyDtoDAsync", stream, Operation::Copy { to, from, bytes: bytes as u64 })
    })
}

/// Copies from anywhere to anywhere in a stream.
///
/// # Safety
/// An address that is not the device's is the host's, with `bytes` bytes, in a capture also at every launch of the graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAsync(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyAsync", || submit("cuMemcpyAsync", stream, unified_copy(to, from, bytes)?))
}

/// Checks the two contexts of a copy between devices.
fn peers(first: CUcontext, second: CUcontext) -> Outcome {
    let state = state()?;
    state.current()?;
    if state.contexts.contains_key(&first) && state.contexts.contains_key(&second) {
        return Ok(());
    }
    Err(CUresult::INVALID_CONTEXT)
}

/// Copies between contexts, which share the one device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeer(
    to: CUdeviceptr,
    to_context: CUcontext,
    from: CUdeviceptr,
    from_context: CUcontext,
    bytes: usize,
) -> CUresult {
    call("cuMemcpyPeer", || {
        peers(to_context, from_context)?;
        submit_synchronous("cuMemcpyPeer", Operation::Copy { to, from, bytes: bytes as u64 })
    })
}

/// Copies between contexts in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: CUdeviceptr,
    to_context: CUcontext,
    from: CUdeviceptr,
    from_context: CUcontext,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyPeerAsync", || {
        peers(to_context, from_context)?;
        submit("cuMemcpyPeerAsync", stream, Operation::Copy { to, from, bytes: bytes as u64 })
    })
}

/// One end of a rectangle's copy.
struct Side {
    kind: c_uint,
    host: usize,
    device: u64,
    pitch: usize,
    x: usize,
    y: usize,
}

impl Side {
    /// Whether rows are on the device, and the address of the first.
    fn start(&self, width: usize) -> Outcome<(bool, u64)> {
        // A pitch of 0 stands for rows without gaps in the driver's checks only where there is one row.
        if self.pitch != 0 && self.x.checked_add(width).is_none_or(|end| end > self.pitch) {
            return Err(CUresult::INVALID_VALUE);
        }
        let offset =
            (self.y as u64).checked_mul(self.pitch as u64).and_then(|start| start.checked_add(self.x as u64));
        let offset = offset.ok_or(CUresult::INVALID_VALUE)?;
        let (device, base) = match self.kind {
            MEMORY_HOST => (false, self.host as u64),
            MEMORY_DEVICE => (true, self.device),
            MEMORY_UNIFIED => (range_at(&mut *state()?, self.device).is_some(), self.device),
            _ => {
                explain("cuMemcpy2D", "arrays are not simulated");
                return Err(CUresult::NOT_SUPPORTED);
            }
        };
        Ok((device, base.checked_add(offset).ok_or(CUresult::INVALID_VALUE)?))
    }
}

/// The copies of a rectangle's rows.
///
/// # Safety
/// `copy` is null or may be read.
unsafe fn rectangle(copy: *const CUDA_MEMCPY2D) -> Outcome<Operation> {
    // SAFETY: as the caller promises.
    let copy = unsafe { copy.as_ref() }.ok_or(CUresult::INVALID_VALUE)?;
    state()?.current()?;
    let from = Side {
        kind: copy.srcMemoryType,
        host: copy.srcHost.expose_provenance(),
        device: copy.srcDevice,
        pitch: copy.srcPitch,
        x: copy.srcXInBytes,
        y: copy.srcY,
    };
    let to = Side {
        kind: copy.dstMemoryType,
        host: copy.dstHost.expose_provenance(),
        device: copy.dstDevice,
        pitch: copy.dstPitch,
        x: copy.dstXInBytes,
        y: copy.dstY,
    };
    let bytes = copy.WidthInBytes;
    let (from_device, source) = from.start(bytes)?;
    let (to_device, target) = to.start(bytes)?;
    if copy.Height > 1 && (from.pitch == 0 || to.pitch == 0) {
        return Err(CUresult::INVALID_VALUE);
    }
    let row = |index: usize| {
        let step = |start: u64, pitch: usize| {
            (index as u64)
                .checked_mul(pitch as u64)
                .and_then(|offset| start.checked_add(offset))
                .ok_or(CUresult::INVALID_VALUE)
        };
        let (to, from) = (step(target, to.pitch)?, step(source, from.pitch)?);
        Ok(match (to_device, from_device) {
            (true, true) => Operation::Copy { to, from, bytes: bytes as u64 },
            (true, false) => Operation::Write { to, from: from as usize, bytes },
            (false, true) => Operation::Read { to: to as usize, from, bytes },
            (false, false) => Operation::HostCopy { to: to as usize, from: from as usize, bytes },
        })
    };
    let rows = (0..copy.Height).map(row).collect::<Outcome<Vec<_>>>()?;
    Ok(Operation::Rows { copy: true, rows })
}

/// Copies a rectangle.
///
/// # Safety
/// `copy` is null or describes memory that the program may use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2D_v2(copy: *const CUDA_MEMCPY2D) -> CUresult {
    // SAFETY: as the caller promises.
    call("cuMemcpy2D_v2", || submit_synchronous("cuMemcpy2D", unsafe { rectangle(copy) }?))
}

/// Copies a rectangle; no pitch is too odd here for the other function either.
///
/// # Safety
/// `copy` is null or describes memory that the program may use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DUnaligned_v2(copy: *const CUDA_MEMCPY2D) -> CUresult {
    // SAFETY: as the caller promises.
    call("cuMemcpy2DUnaligned_v2", || submit_synchronous("cuMemcpy2DUnaligned", unsafe { rectangle(copy) }?))
}

/// Copies a rectangle in a stream.
///
/// # Safety
/// `copy` is null or describes memory that the program may use, in a capture also at every launch of the graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DAsync_v2(copy: *const CUDA_MEMCPY2D, stream: CUstream) -> CUresult {
    // SAFETY: as the caller promises.
    call("cuMemcpy2DAsync_v2", || submit("cuMemcpy2DAsync", stream, unsafe { rectangle(copy) }?))
}

// ---- fills ----

fn fill(to: u64, pattern: &[u8], count: usize) -> Operation {
    Operation::Fill { to, pattern: pattern.to_vec(), count: count as u64 }
}

/// The fills of a rectangle's rows.
fn fill_rows(to: u64, pitch: usize, pattern: &[u8], width: usize, height: usize) -> Outcome<Operation> {
    let bytes = width.checked_mul(pattern.len()).ok_or(CUresult::INVALID_VALUE)?;
    if height > 1 && bytes > pitch {
        return Err(CUresult::INVALID_VALUE);
    }
    let row = |index: usize| {
        let offset = (index as u64).checked_mul(pitch as u64).and_then(|offset| to.checked_add(offset));
        Ok(fill(offset.ok_or(CUresult::INVALID_VALUE)?, pattern, width))
    };
    let rows = (0..height).map(row).collect::<Outcome<Vec<_>>>()?;
    Ok(Operation::Rows { copy: false, rows })
}

/// Fills bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: CUdeviceptr, value: u8, count: usize) -> CUresult {
    call("cuMemsetD8_v2", || submit_synchronous("cuMemsetD8", fill(to, &[value], count)))
}

/// Fills numbers of 2 bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(to: CUdeviceptr, value: u16, count: usize) -> CUresult {
    call("cuMemsetD16_v2", || submit_synchronous("cuMemsetD16", fill(to, &value.to_le_bytes(), count)))
}

/// Fills numbers of 4 bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(to: CUdeviceptr, value: u32, count: usize) -> CUresult {
    call("cuMemsetD32_v2", || submit_synchronous("cuMemsetD32", fill(to, &value.to_le_bytes(), count)))
}

/// Fills bytes in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: CUdeviceptr, value: u8, count: usize, stream: CUstream) -> CUresult {
    call("cuMemsetD8Async", || submit("cuMemsetD8Async", stream, fill(to, &[value], count)))
}

/// Fills numbers of 2 bytes in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(to: CUdeviceptr, value: u16, count: usize, stream: CUstream) -> CUresult {
    call("cuMemsetD16Async", || submit("cuMemsetD16Async", stream, fill(to, &value.to_le_bytes(), count)))
}

/// Fills numbers of 4 bytes in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: CUdeviceptr, value: u32, count: usize, stream: CUstream) -> CUresult {
    call("cuMemsetD32Async", || submit("cuMemsetD32Async", stream, fill(to, &value.to_le_bytes(), count)))
}

/// Fills a rectangle of bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D8_v2(
    to: CUdeviceptr,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
) -> CUresult {
    call("cuMemsetD2D8_v2", || {
        submit_synchronous("cuMemsetD2D8", fill_rows(to, pitch, &[value], width, height)?)
    })
}

/// Fills a rectangle of numbers of 4 bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D32_v2(
    to: CUdeviceptr,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
) -> CUresult {
    call("cuMemsetD2D32_v2", || {
        submit_synchronous("cuMemsetD2D32", fill_rows(to, pitch, &value.to_le_bytes(), width, height)?)
    })
}

/// Fills a rectangle of bytes in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D8Async(
    to: CUdeviceptr,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemsetD2D8Async", || {
        submit("cuMemsetD2D8Async", stream, fill_rows(to, pitch, &[value], width, height)?)
    })
}

/// Fills a rectangle of numbers of 4 bytes in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD2D32Async(
    to: CUdeviceptr,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemsetD2D32Async", || {
        submit("cuMemsetD2D32Async", stream, fill_rows(to, pitch, &value.to_le_bytes(), width, height)?)
    })
}
