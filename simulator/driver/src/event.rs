//! Events. They tell the time of the simulation on the host, which says nothing about a card's.

use std::ffi::c_uint;
use std::sync::Arc;
use std::time::Instant;

use crate::capture::Place;
use crate::error::{CUresult, Outcome, call, explain};
use crate::operation::Operation;
use crate::state::{Event, Record, state, work};
use crate::types::*;

/// Makes an event that stands for no work.
///
/// # Safety
/// `event` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: Out<CUevent>, flags: c_uint) -> CUresult {
    call("cuEventCreate", || {
        event.check()?;
        let mut state = state()?;
        let context = state.current()?;
        // An event for other processes must not keep time; and there are no other processes on this card.
        if flags & !7 != 0 || flags & (EVENT_INTERPROCESS | EVENT_DISABLE_TIMING) == EVENT_INTERPROCESS {
            return Err(CUresult::INVALID_VALUE);
        }
        if flags & EVENT_INTERPROCESS != 0 {
            explain("cuEventCreate", "events between processes are not simulated");
            return Err(CUresult::NOT_SUPPORTED);
        }
        let handle = CUevent(state.fresh());
        state.events.insert(handle, Event { context, flags, record: Record::Never });
        event.set(handle)
    })
}

/// Destroys an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    call("cuEventDestroy_v2", || {
        let mut state = state()?;
        let context = state.events.get(&event).ok_or(CUresult::INVALID_HANDLE)?.context;
        state.usable(context)?;
        state.events.remove(&event);
        Ok(())
    })
}

fn record(event: CUevent, stream: CUstream, flags: c_uint) -> Outcome {
    let mut state = state()?;
    let current = state.current()?;
    let stream = state.stream(current, stream)?;
    let context = state.events.get(&event).ok_or(CUresult::INVALID_HANDLE)?.context;
    if state.streams.get(&stream).is_none_or(|stream| stream.context != context) {
        return Err(CUresult::INVALID_HANDLE);
    }
    let capturing = state.streams.get(&stream).is_some_and(|stream| stream.capture.is_some());
    if flags & !EVENT_EXTERNAL != 0 || (flags & EVENT_EXTERNAL != 0 && !capturing) {
        return Err(CUresult::INVALID_VALUE);
    }
    let record = match state.place(stream)? {
        Place::Captured(capture) if flags & EVENT_EXTERNAL != 0 => {
            state.add_node(capture, stream, Arc::new(Operation::Record(event)));
            return Ok(());
        }
        Place::Captured(capture) => state.captured_record(capture, stream),
        Place::Now => {
            drop(state);
            // The work before, which another thread may be busy with, belongs to what the event stands for.
            drop(work());
            return set_record(event, Record::At(Instant::now()));
        }
    };
    drop(state);
    set_record(event, record)
}

fn set_record(event: CUevent, record: Record) -> Outcome {
    let mut state = state()?;
    let event = state.events.get_mut(&event).ok_or(CUresult::INVALID_HANDLE)?;
    event.record = record;
    Ok(())
}

/// Lets an event stand for the stream's work so far.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    call("cuEventRecord", || record(event, stream, 0))
}

/// As `cuEventRecord`; in a capture it may add a node that records the event at every launch.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: CUevent, stream: CUstream, flags: c_uint) -> CUresult {
    call("cuEventRecordWithFlags", || record(event, stream, flags))
}

/// Checks that an event may be waited for.
fn wait_for(event: CUevent, name: &str) -> Outcome {
    let mut state = state()?;
    let event = state.events.get(&event).ok_or(CUresult::INVALID_HANDLE)?;
    state.usable(event.context)?;
    if let Record::Captured(capture, _) = event.record {
        state.invalidate(&[capture]);
        return Err(CUresult::CAPTURED_EVENT);
    }
    state.refuse_in_capture(name)
}

/// Whether the event's work is done: always.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: CUevent) -> CUresult {
    call("cuEventQuery", || wait_for(event, "cuEventQuery"))
}

/// Waits for the event's work.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: CUevent) -> CUresult {
    call("cuEventSynchronize", || wait_for(event, "cuEventSynchronize"))
}

fn elapsed(milliseconds: Out<f32>, start: CUevent, end: CUevent) -> Outcome {
    milliseconds.check()?;
    let state = state()?;
    let time = |handle: CUevent| {
        let event = state.events.get(&handle).ok_or(CUresult::INVALID_HANDLE)?;
        state.usable(event.context)?;
        match event.record {
            Record::At(time) if event.flags & EVENT_DISABLE_TIMING == 0 => Ok((time, event.context)),
            Record::Captured(..) => Err(CUresult::CAPTURED_EVENT),
            _ => Err(CUresult::INVALID_HANDLE),
        }
    };
    let ((start, first), (end, second)) = (time(start)?, time(end)?);
    if first != second {
        return Err(CUresult::INVALID_HANDLE);
    }
    // An event may have been recorded before the one that it is compared with.
    let seconds = match end.checked_duration_since(start) {
        Some(duration) => duration.as_secs_f64(),
        None => -start.duration_since(end).as_secs_f64(),
    };
    milliseconds.set((seconds * 1e3) as f32)
}

/// The host's time between two events: how long the simulation took, not how long a card would.
///
/// # Safety
/// `milliseconds` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: Out<f32>,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    call("cuEventElapsedTime", || elapsed(milliseconds, start, end))
}

/// The same; the two versions differ only for events that are still to come.
///
/// # Safety
/// `milliseconds` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: Out<f32>,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    call("cuEventElapsedTime_v2", || elapsed(milliseconds, start, end))
}
