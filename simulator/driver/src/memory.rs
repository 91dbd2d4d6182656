//! Memory of the device and pinned memory of the host.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{c_uint, c_void};

use crate::capture::Place;
use crate::error::{CUresult, Outcome, call, explain};
use crate::operation::{Operation, fail};
use crate::settings::MEMORY;
use crate::state::{Allocation, GraphMemory, HostMemory, State, state, work};
use crate::types::*;

/// Pinned memory begins on a page, as the driver's does.
const PAGE: usize = 4096;

/// Allocates on the device and enters it in the tables.
fn allocate(
    state: &mut State,
    name: &str,
    context: CUcontext,
    bytes: u64,
    pool: Option<CUmemoryPool>,
) -> Outcome<u64> {
    let device = state.device();
    let address = device.allocate(bytes).map_err(|fault| fail(state, name, context, &fault))?;
    let id = state.fresh() as u64 / 16;
    state.allocations.insert(address, Allocation { bytes, context, pool, id, graph: None });
    if let Some(pool) = pool.and_then(|pool| state.pools.get_mut(&pool)) {
        pool.used += bytes;
        pool.used_high = pool.used_high.max(pool.used);
    }
    Ok(address)
}

/// Allocates memory; what is in it is uninitialised.
///
/// # Safety
/// `address` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: Out<CUdeviceptr>, bytes: usize) -> CUresult {
    call("cuMemAlloc_v2", || {
        let mut state = state()?;
        let context = state.current()?;
        address.check()?;
        if bytes == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        state.refuse_in_capture("cuMemAlloc")?;
        let memory = allocate(&mut state, "cuMemAlloc", context, bytes as u64, None)?;
        address.set(memory)
    })
}

/// Allocates a rectangle whose rows begin at multiples of 512 bytes.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    address: Out<CUdeviceptr>,
    pitch: Out<usize>,
    width: usize,
    height: usize,
    element: c_uint,
) -> CUresult {
    call("cuMemAllocPitch_v2", || {
        let mut state = state()?;
        let context = state.current()?;
        address.check()?;
        pitch.check()?;
        let row = width.checked_next_multiple_of(512).ok_or(CUresult::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).filter(|bytes| *bytes > 0).ok_or(CUresult::INVALID_VALUE)?;
        if !matches!(element, 4 | 8 | 16) {
            return Err(CUresult::INVALID_VALUE);
        }
        state.refuse_in_capture("cuMemAllocPitch")?;
        let memory = allocate(&mut state, "cuMemAllocPitch", context, bytes as u64, None)?;
        pitch.set(row)?;
        address.set(memory)
    })
}

/// Frees memory, after all work.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    call("cuMemFree_v2", || {
        let _work = work();
        let mut state = state()?;
        state.current()?;
        state.refuse_in_capture("cuMemFree")?;
        if address == 0 {
            return Ok(());
        }
        free(&mut state, "cuMemFree", address)
    })
}

/// Frees an allocation now.
fn free(state: &mut State, name: &str, address: u64) -> Outcome {
    match state.allocations.get_mut(&address) {
        Some(allocation) if allocation.live() => {
            match &mut allocation.graph {
                Some(memory) => memory.live = false,
                None => state.release_memory(address),
            }
            Ok(())
        }
        _ => {
            explain(name, &format!("{address:#x} is not the start of a live allocation"));
            Err(CUresult::INVALID_VALUE)
        }
    }
}

/// A launch reaches the node that frees this memory.
pub(crate) fn free_in_graph(state: &mut State, address: u64) -> Outcome {
    free(state, "cuGraphLaunch", address)
}

fn allocate_async(
    name: &str,
    address: Out<CUdeviceptr>,
    bytes: usize,
    pool: Option<CUmemoryPool>,
    stream: CUstream,
) -> Outcome {
    let mut state = state()?;
    let context = state.current()?;
    address.check()?;
    let stream = state.stream(context, stream)?;
    let pool = pool.unwrap_or(state.current_pool);
    if bytes == 0 || !state.pools.contains_key(&pool) {
        return Err(CUresult::INVALID_VALUE);
    }
    match state.place(stream)? {
        Place::Now => {
            let memory = allocate(&mut state, name, context, bytes as u64, Some(pool))?;
            address.set(memory)
        }
        Place::Captured(capture) => {
            let memory = allocate(&mut state, name, context, bytes as u64, None)?;
            if let Some(allocation) = state.allocations.get_mut(&memory) {
                allocation.graph = Some(GraphMemory { owners: 1, live: false });
            }
            state.own_graph_memory(capture, memory);
            state.add_node(capture, stream, std::sync::Arc::new(Operation::Allocate(memory)));
            address.set(memory)
        }
    }
}

/// Allocates memory in the order of a stream; in a capture, for every launch of the graph.
///
/// # Safety
/// `address` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(
    address: Out<CUdeviceptr>,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemAllocAsync", || allocate_async("cuMemAllocAsync", address, bytes, None, stream))
}

/// Allocates memory of a pool in the order of a stream.
///
/// # Safety
/// `address` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocFromPoolAsync(
    address: Out<CUdeviceptr>,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> CUresult {
    call("cuMemAllocFromPoolAsync", || {
        allocate_async("cuMemAllocFromPoolAsync", address, bytes, Some(pool), stream)
    })
}

/// Frees memory in the order of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: CUdeviceptr, stream: CUstream) -> CUresult {
    call("cuMemFreeAsync", || {
        let _work = work();
        let mut state = state()?;
        let context = state.current()?;
        let stream = state.stream(context, stream)?;
        match state.place(stream)? {
            Place::Now => free(&mut state, "cuMemFreeAsync", address),
            Place::Captured(capture) => {
                if !state.allocations.contains_key(&address) {
                    return Err(CUresult::INVALID_VALUE);
                }
                state.add_node(capture, stream, std::sync::Arc::new(Operation::Free(address)));
                Ok(())
            }
        }
    })
}

/// Managed memory is not simulated.
///
/// # Safety
/// `address` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocManaged(
    _address: Out<CUdeviceptr>,
    _bytes: usize,
    _flags: c_uint,
) -> CUresult {
    call("cuMemAllocManaged", || {
        state()?.current()?;
        explain("cuMemAllocManaged", "managed memory is not simulated");
        Err(CUresult::NOT_SUPPORTED)
    })
}

/// Advice is for managed memory, which is not simulated.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAdvise_v2(
    _address: CUdeviceptr,
    _bytes: usize,
    _advice: c_uint,
    _location: CUmemLocation,
) -> CUresult {
    call("cuMemAdvise_v2", || {
        state()?.current()?;
        Err(CUresult::NOT_SUPPORTED)
    })
}

/// Prefetching is for managed memory, which is not simulated.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPrefetchAsync_v2(
    _address: CUdeviceptr,
    _bytes: usize,
    _location: CUmemLocation,
    _flags: c_uint,
    _stream: CUstream,
) -> CUresult {
    call("cuMemPrefetchAsync_v2", || {
        state()?.current()?;
        Err(CUresult::NOT_SUPPORTED)
    })
}

/// Memory of other APIs is not simulated.
///
/// # Safety
/// None: nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuImportExternalMemory(
    _memory: Out<usize>,
    _description: *const c_void,
) -> CUresult {
    call("cuImportExternalMemory", || {
        state()?.current()?;
        explain("cuImportExternalMemory", "memory of other APIs is not simulated");
        Err(CUresult::NOT_SUPPORTED)
    })
}

/// No external memory exists, so no handle of any is right.
#[unsafe(no_mangle)]
pub extern "C" fn cuDestroyExternalMemory(_memory: usize) -> CUresult {
    call("cuDestroyExternalMemory", || state()?.current().and(Err(CUresult::INVALID_HANDLE)))
}

/// No external memory exists, so no handle of any is right.
///
/// # Safety
/// None: nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuExternalMemoryGetMappedBuffer(
    _address: Out<CUdeviceptr>,
    _memory: usize,
    _description: *const c_void,
) -> CUresult {
    call("cuExternalMemoryGetMappedBuffer", || state()?.current().and(Err(CUresult::INVALID_HANDLE)))
}

/// Bytes that are free, and all bytes.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> CUresult {
    call("cuMemGetInfo_v2", || {
        let mut state = state()?;
        state.current()?;
        free.check()?;
        total.check()?;
        let used = state.device().used();
        free.set(MEMORY.saturating_sub(used) as usize)?;
        total.set(MEMORY as usize)
    })
}

/// Start and size of the memory that an address lies in: an allocation, or a module's variable.
pub(crate) fn range_at(state: &mut State, address: u64) -> Option<(u64, u64)> {
    match state.allocation_at(address) {
        Some((start, allocation)) => Some((start, allocation.bytes)),
        None => state.device().allocation(address),
    }
}

/// The allocation that an address lies in.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(
    base: Out<CUdeviceptr>,
    bytes: Out<usize>,
    address: CUdeviceptr,
) -> CUresult {
    call("cuMemGetAddressRange_v2", || {
        let mut state = state()?;
        state.current()?;
        let (start, size) = range_at(&mut state, address).ok_or(CUresult::NOT_FOUND)?;
        base.set_if_wanted(start);
        bytes.set_if_wanted(size as usize);
        Ok(())
    })
}

// ---- memory of the host ----

fn allocate_host(name: &str, pointer: Out<*mut c_void>, bytes: usize, flags: c_uint) -> Outcome {
    let mut state = state()?;
    let context = state.current()?;
    pointer.check()?;
    if bytes == 0 || flags & !7 != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    state.refuse_in_capture(name)?;
    let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| CUresult::OUT_OF_MEMORY)?;
    // SAFETY: the layout has a size.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        return Err(CUresult::OUT_OF_MEMORY);
    }
    state.host.insert(memory.expose_provenance(), HostMemory { bytes, context, flags, owned: true });
    pointer.set(memory.cast())
}

/// Gives pinned memory back, and forgets memory that was only registered.
pub(crate) fn release_host(state: &mut State, address: usize) {
    if let Some(memory) = state.host.remove(&address)
        && memory.owned
        && let Ok(layout) = Layout::from_size_align(memory.bytes, PAGE)
    {
        // SAFETY: `allocate_host` got this address for this layout, and the table had it until now, so it was not freed.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address), layout) };
    }
}

/// Allocates pinned memory.
///
/// # Safety
/// `pointer` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(pointer: Out<*mut c_void>, bytes: usize) -> CUresult {
    call("cuMemAllocHost_v2", || allocate_host("cuMemAllocHost", pointer, bytes, 0))
}

/// Allocates pinned memory. Kernels cannot reach it, also with `CU_MEMHOSTALLOC_DEVICEMAP`.
///
/// # Safety
/// `pointer` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(pointer: Out<*mut c_void>, bytes: usize, flags: c_uint) -> CUresult {
    call("cuMemHostAlloc", || allocate_host("cuMemHostAlloc", pointer, bytes, flags))
}

/// Frees pinned memory.
///
/// # Safety
/// `pointer` is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> CUresult {
    call("cuMemFreeHost", || {
        let _work = work();
        let mut state = state()?;
        state.current()?;
        state.refuse_in_capture("cuMemFreeHost")?;
        match state.host.get(&pointer.addr()) {
            Some(memory) if memory.owned => {
                release_host(&mut state, pointer.addr());
                Ok(())
            }
            _ => Err(CUresult::INVALID_VALUE),
        }
    })
}

/// Pins memory of the program's own; here it is only noted.
///
/// # Safety
/// `pointer` has `bytes` bytes until it is unregistered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: c_uint) -> CUresult {
    call("cuMemHostRegister_v2", || {
        let mut state = state()?;
        let context = state.current()?;
        if pointer.is_null() || bytes == 0 || flags & !15 != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        state.refuse_in_capture("cuMemHostRegister")?;
        let address = pointer.expose_provenance();
        let end = address.checked_add(bytes).ok_or(CUresult::INVALID_VALUE)?;
        let before = state.host.range(..end).next_back();
        if before.is_some_and(|(start, memory)| start + memory.bytes > address) {
            return Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        state.host.insert(address, HostMemory { bytes, context, flags, owned: false });
        Ok(())
    })
}

/// Ends what [`cuMemHostRegister_v2`] began.
///
/// # Safety
/// None beyond the pointer's being one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostUnregister(pointer: *mut c_void) -> CUresult {
    call("cuMemHostUnregister", || {
        let mut state = state()?;
        state.current()?;
        state.refuse_in_capture("cuMemHostUnregister")?;
        match state.host.get(&pointer.addr()) {
            Some(memory) if !memory.owned => {
                state.host.remove(&pointer.addr());
                Ok(())
            }
            Some(_) => Err(CUresult::INVALID_VALUE),
            None => Err(CUresult::HOST_MEMORY_NOT_REGISTERED),
        }
    })
}

/// Kernels cannot reach the host's memory here.
///
/// # Safety
/// `address` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    _address: Out<CUdeviceptr>,
    _pointer: *mut c_void,
    _flags: c_uint,
) -> CUresult {
    call("cuMemHostGetDevicePointer_v2", || {
        state()?.current()?;
        explain("cuMemHostGetDevicePointer", "kernels of the simulated card cannot reach the host's memory");
        Err(CUresult::NOT_SUPPORTED)
    })
}

/// The flags that pinned memory was allocated with.
///
/// # Safety
/// `flags` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetFlags(flags: Out<c_uint>, pointer: *mut c_void) -> CUresult {
    call("cuMemHostGetFlags", || {
        let state = state()?;
        state.current()?;
        let (_, memory) = state.host_at(pointer.addr()).ok_or(CUresult::INVALID_VALUE)?;
        flags.set(memory.flags)
    })
}
