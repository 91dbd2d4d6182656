//! Streams. Work is done by the call that gives it, so a stream only orders what is captured.

use std::cell::RefCell;
use std::ffi::{c_int, c_uint, c_void};
use std::mem::ManuallyDrop;

use crate::capture::Place;
use crate::error::{CUresult, Outcome, call, explain};
use crate::operation::{Operation, submit};
use crate::state::{Record, Sort, State, state, thread_capture_mode, work};
use crate::types::*;

/// The range of priorities that a 2080 Ti has; the greatest priority is the least number.
pub(crate) const PRIORITIES: (c_int, c_int) = (0, -5);

fn create(stream: Out<CUstream>, flags: c_uint, priority: c_int) -> Outcome {
    stream.check()?;
    let mut state = state()?;
    let context = state.current()?;
    if flags & !STREAM_NON_BLOCKING != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
    let handle = state.create_stream(context, Sort::Created, flags, priority);
    stream.set(handle)
}

/// Reads something of a stream.
fn inspect<T>(stream: CUstream, read: impl FnOnce(&State, CUstream) -> Outcome<T>) -> Outcome<T> {
    let mut state = state()?;
    let context = state.current()?;
    let stream = state.stream(context, stream)?;
    read(&state, stream)
}

/// Makes a stream.
///
/// # Safety
/// `stream` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: Out<CUstream>, flags: c_uint) -> CUresult {
    call("cuStreamCreate", || create(stream, flags, 0))
}

/// Makes a stream with a priority, which orders nothing here.
///
/// # Safety
/// `stream` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: Out<CUstream>,
    flags: c_uint,
    priority: c_int,
) -> CUresult {
    call("cuStreamCreateWithPriority", || create(stream, flags, priority))
}

/// Destroys a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    call("cuStreamDestroy_v2", || {
        let mut state = state()?;
        let context = state.current()?;
        // A default stream cannot be destroyed.
        if matches!(stream, CUstream::NULL | CU_STREAM_LEGACY | CU_STREAM_PER_THREAD) {
            return Err(CUresult::INVALID_HANDLE);
        }
        let stream = state.stream(context, stream)?;
        state.abandon_capture(stream);
        state.streams.remove(&stream);
        Ok(())
    })
}

/// Whether the stream's work is done: always.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: CUstream) -> CUresult {
    call("cuStreamQuery", || wait_for(stream, "cuStreamQuery"))
}

/// Waits for the stream's work.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    call("cuStreamSynchronize", || {
        wait_for(stream, "cuStreamSynchronize")?;
        // Another thread may be in the middle of the work that it gave to this stream.
        drop(work());
        inspect(stream, |_, _| Ok(()))
    })
}

/// Checks that a stream may be waited for.
fn wait_for(stream: CUstream, name: &str) -> Outcome {
    let mut state = state()?;
    let context = state.current()?;
    let stream = state.stream(context, stream)?;
    state.refuse_captured_stream(stream)?;
    state.refuse_legacy(stream, true)?;
    state.refuse_in_capture(name)
}

/// Lets the stream's later work wait for an event. In a capture this is how streams fork and join.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint) -> CUresult {
    call("cuStreamWaitEvent", || {
        let mut state = state()?;
        let context = state.current()?;
        let stream = state.stream(context, stream)?;
        let record = state.events.get(&event).ok_or(CUresult::INVALID_HANDLE)?.record.clone();
        let capture = state.streams.get(&stream).and_then(|stream| stream.capture);
        if flags & !EVENT_EXTERNAL != 0 || (flags & EVENT_EXTERNAL != 0 && capture.is_none()) {
            return Err(CUresult::INVALID_VALUE);
        }
        if flags & EVENT_EXTERNAL != 0 {
            if let Place::Captured(capture) = state.place(stream)? {
                state.add_node(capture, stream, std::sync::Arc::new(Operation::Wait));
            }
            return Ok(());
        }
        match (record, capture) {
            (Record::Captured(id, nodes), _) => state.join_capture(stream, id, &nodes),
            (Record::At(_), Some(capture)) => {
                state.place(stream)?;
                explain(
                    "cuStreamWaitEvent",
                    "a stream that is captured waits for an event from outside of the capture",
                );
                state.invalidate(&[capture]);
                Err(CUresult::STREAM_CAPTURE_ISOLATION)
            }
            // An event without a record stands for no work; one with a record has happened.
            (Record::Never, Some(_)) => state.place(stream).map(drop),
            (Record::Never | Record::At(_), None) => state.refuse_legacy(stream, true),
        }
    })
}

/// Calls a function of the host after the stream's work so far: at once, in this thread.
///
/// # Safety
/// `function` may be called with `argument` now and, in a capture, at every launch of the graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    stream: CUstream,
    function: Option<CUhostFn>,
    argument: *mut c_void,
) -> CUresult {
    call("cuLaunchHostFunc", || {
        let function = function.ok_or(CUresult::INVALID_VALUE)?;
        submit(
            "cuLaunchHostFunc",
            stream,
            Operation::Call { function, argument: argument.expose_provenance() },
        )
    })
}

/// Calls a function after the stream's work so far; not in a capture.
///
/// # Safety
/// `function` may be called with `argument`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamAddCallback(
    stream: CUstream,
    function: Option<CUstreamCallback>,
    argument: *mut c_void,
    flags: c_uint,
) -> CUresult {
    call("cuStreamAddCallback", || {
        let function = function.ok_or(CUresult::INVALID_VALUE)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        wait_for(stream, "cuStreamAddCallback")?;
        let _work = work();
        crate::error::in_host_function(|| {
            // SAFETY: the caller promises that it may be called with this argument.
            unsafe { function(stream, CUresult::SUCCESS, argument) }
        });
        Ok(())
    })
}

/// Only for managed memory, which does not exist here.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamAttachMemAsync(
    _stream: CUstream,
    _address: CUdeviceptr,
    _bytes: usize,
    _flags: c_uint,
) -> CUresult {
    call("cuStreamAttachMemAsync", || {
        state()?.current()?;
        explain("cuStreamAttachMemAsync", "managed memory is not simulated");
        Err(CUresult::NOT_SUPPORTED)
    })
}

/// The stream's flags.
///
/// # Safety
/// `flags` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetFlags(stream: CUstream, flags: Out<c_uint>) -> CUresult {
    call("cuStreamGetFlags", || {
        flags.set(inspect(stream, |state, stream| {
            state.streams.get(&stream).map(|stream| stream.flags).ok_or(CUresult::INVALID_HANDLE)
        })?)
    })
}

/// The stream's priority.
///
/// # Safety
/// `priority` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetPriority(stream: CUstream, priority: Out<c_int>) -> CUresult {
    call("cuStreamGetPriority", || {
        priority.set(inspect(stream, |state, stream| {
            state.streams.get(&stream).map(|stream| stream.priority).ok_or(CUresult::INVALID_HANDLE)
        })?)
    })
}

/// A number that no other stream of the process has.
///
/// # Safety
/// `id` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetId(stream: CUstream, id: Out<u64>) -> CUresult {
    call("cuStreamGetId", || {
        id.set(inspect(stream, |state, stream| {
            state.streams.get(&stream).map(|stream| stream.id).ok_or(CUresult::INVALID_HANDLE)
        })?)
    })
}

/// The stream's context.
///
/// # Safety
/// `context` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx(stream: CUstream, context: Out<CUcontext>) -> CUresult {
    call("cuStreamGetCtx", || {
        context.set(inspect(stream, |state, stream| {
            state.streams.get(&stream).map(|stream| stream.context).ok_or(CUresult::INVALID_HANDLE)
        })?)
    })
}

/// The stream's device: there is one.
///
/// # Safety
/// `device` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetDevice(stream: CUstream, device: Out<CUdevice>) -> CUresult {
    call("cuStreamGetDevice", || device.set(inspect(stream, |_, _| Ok(0))?))
}

/// Begins to capture a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: CUstream, mode: c_uint) -> CUresult {
    call("cuStreamBeginCapture_v2", || {
        let mut state = state()?;
        let context = state.current()?;
        let stream = state.stream(context, stream)?;
        if mode > CAPTURE_RELAXED {
            return Err(CUresult::INVALID_VALUE);
        }
        state.begin_capture(stream, mode)
    })
}

/// Ends a capture. For one that was invalidated the graph is null.
///
/// # Safety
/// `graph` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: CUstream, graph: Out<CUgraph>) -> CUresult {
    call("cuStreamEndCapture", || {
        graph.check()?;
        let _work = work();
        let mut state = state()?;
        let context = state.current()?;
        let stream = state.stream(context, stream)?;
        let result = state.end_capture(stream);
        graph.set(result.unwrap_or(CUgraph::NULL))?;
        result.map(drop)
    })
}

/// What a stream's capture is like: status, identity, graph, next dependencies.
fn capture_info(stream: CUstream) -> Outcome<(c_uint, u64, CUgraph, Vec<CUgraphNode>)> {
    let mut state = state()?;
    let context = state.current()?;
    let stream = state.stream(context, stream)?;
    let none = (CAPTURE_STATUS_NONE, 0, CUgraph::NULL, Vec::new());
    let Some(id) = state.streams.get(&stream).and_then(|stream| stream.capture) else {
        // A mere question breaks nothing, but the answer would be misleading.
        state.refuse_legacy(stream, false)?;
        return Ok(none);
    };
    Ok(match state.captures.get(&id) {
        Some(capture) if capture.invalid => (CAPTURE_STATUS_INVALIDATED, id, CUgraph::NULL, Vec::new()),
        Some(capture) => {
            let tail = capture.tails.get(&stream).cloned().unwrap_or_default();
            (CAPTURE_STATUS_ACTIVE, id, capture.graph, tail)
        }
        None => none,
    })
}

/// Whether a stream is captured.
///
/// # Safety
/// `status` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: CUstream, status: Out<c_uint>) -> CUresult {
    call("cuStreamIsCapturing", || {
        status.check()?;
        status.set(capture_info(stream)?.0)
    })
}

/// A stream's capture in its first form.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo(
    stream: CUstream,
    status: Out<c_uint>,
    id: Out<u64>,
) -> CUresult {
    call("cuStreamGetCaptureInfo", || {
        status.check()?;
        let info = capture_info(stream)?;
        id.set_if_wanted(info.1);
        status.set(info.0)
    })
}

thread_local! {
    /// The array that the last question for dependencies on this thread points into.
    static DEPENDENCIES: ManuallyDrop<RefCell<Vec<CUgraphNode>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// Fills in everything about a capture. The array of dependencies stays valid until the thread's next such question.
fn capture_info_out(
    stream: CUstream,
    status: Out<c_uint>,
    id: Out<u64>,
    graph: Out<CUgraph>,
    dependencies: Out<*const CUgraphNode>,
    count: Out<usize>,
) -> Outcome {
    status.check()?;
    let info = capture_info(stream)?;
    id.set_if_wanted(info.1);
    graph.set_if_wanted(info.2);
    count.set_if_wanted(info.3.len());
    dependencies.set_if_wanted(DEPENDENCIES.with(|kept| {
        let mut kept = kept.borrow_mut();
        *kept = info.3;
        kept.as_ptr()
    }));
    status.set(info.0)
}

/// A stream's capture with its graph and the nodes that the next one will depend on.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: CUstream,
    status: Out<c_uint>,
    id: Out<u64>,
    graph: Out<CUgraph>,
    dependencies: Out<*const CUgraphNode>,
    count: Out<usize>,
) -> CUresult {
    call("cuStreamGetCaptureInfo_v2", || capture_info_out(stream, status, id, graph, dependencies, count))
}

/// As the second form; edges have no data here, so the array for it is null.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: CUstream,
    status: Out<c_uint>,
    id: Out<u64>,
    graph: Out<CUgraph>,
    dependencies: Out<*const CUgraphNode>,
    edges: Out<*const c_void>,
    count: Out<usize>,
) -> CUresult {
    call("cuStreamGetCaptureInfo_v3", || {
        edges.set_if_wanted(std::ptr::null());
        capture_info_out(stream, status, id, graph, dependencies, count)
    })
}

/// Swaps the thread's interaction mode.
///
/// # Safety
/// `mode` is null or may be read and written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) -> CUresult {
    call("cuThreadExchangeStreamCaptureMode", || {
        drop(state()?);
        // SAFETY: the caller promises that it may be read and written.
        let mode = unsafe { mode.as_mut() }.ok_or(CUresult::INVALID_VALUE)?;
        if *mode > CAPTURE_RELAXED {
            return Err(CUresult::INVALID_VALUE);
        }
        *mode = thread_capture_mode().replace(*mode);
        Ok(())
    })
}
