//! Contexts: the primary one, which runtimes share, and those that a program makes itself.

use std::ffi::{c_int, c_uint, c_void};

use crate::device::known;
use crate::error::{CUresult, Outcome, call, explain};
use crate::state::{State, state, thread_contexts, work};
use crate::stream::PRIORITIES;
use crate::types::*;

/// `CU_CTX_FLAGS_MASK`
const FLAGS: c_uint = 0xff;
/// The limits that a card of this sort has: stack, printf buffer, heap, L2 fetch granularity. They limit nothing here.
const LIMITS: [c_uint; 4] = [0, 1, 2, 5];

/// Retains the primary context, which is made for the first to do so.
///
/// # Safety
/// `context` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: Out<CUcontext>, device: CUdevice) -> CUresult {
    call("cuDevicePrimaryCtxRetain", || {
        let mut state = state()?;
        context.check()?;
        known(device)?;
        let (handle, flags) = (state.primary, state.primary_flags);
        if !state.contexts.contains_key(&handle) {
            state.create_context(handle, flags);
        }
        state.primary_references += 1;
        context.set(handle)
    })
}

/// Releases the primary context; the last release ends it, and tells what was left in it.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    call("cuDevicePrimaryCtxRelease_v2", || {
        let _work = work();
        let mut state = state()?;
        known(device)?;
        state.primary_references =
            state.primary_references.checked_sub(1).ok_or(CUresult::INVALID_CONTEXT)?;
        if state.primary_references == 0 {
            let handle = state.primary;
            state.destroy_context(handle, "last release of the primary context");
        }
        Ok(())
    })
}

/// Ends the primary context with all that is in it, also a broken one; those who retained it get an empty one.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: CUdevice) -> CUresult {
    call("cuDevicePrimaryCtxReset_v2", || {
        let _work = work();
        let mut state = state()?;
        known(device)?;
        let (handle, flags) = (state.primary, state.primary_flags);
        state.destroy_context(handle, "reset of the primary context");
        if state.primary_references > 0 {
            state.create_context(handle, flags);
        }
        Ok(())
    })
}

/// Sets the primary context's flags, now or for when it will be made.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint) -> CUresult {
    call("cuDevicePrimaryCtxSetFlags_v2", || {
        let mut state = state()?;
        known(device)?;
        if flags & !FLAGS != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        state.primary_flags = flags;
        let handle = state.primary;
        if let Some(context) = state.contexts.get_mut(&handle) {
            context.flags = flags;
        }
        Ok(())
    })
}

/// The primary context's flags, and whether it exists.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: CUdevice,
    flags: Out<c_uint>,
    active: Out<c_int>,
) -> CUresult {
    call("cuDevicePrimaryCtxGetState", || {
        let state = state()?;
        known(device)?;
        flags.check()?;
        active.check()?;
        flags.set(state.primary_flags)?;
        active.set(state.contexts.contains_key(&state.primary).into())
    })
}

fn create(context: Out<CUcontext>, flags: c_uint, device: CUdevice) -> Outcome {
    context.check()?;
    let mut state = state()?;
    known(device)?;
    if flags & !FLAGS != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let handle = CUcontext(state.fresh());
    state.create_context(handle, flags);
    thread_contexts(|contexts| contexts.push(handle));
    context.set(handle)
}

/// Makes a context and makes it current.
///
/// # Safety
/// `context` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(
    context: Out<CUcontext>,
    flags: c_uint,
    device: CUdevice,
) -> CUresult {
    call("cuCtxCreate_v2", || create(context, flags, device))
}

/// Makes a context; it cannot be bound to a part of the card.
///
/// # Safety
/// `context` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v3(
    context: Out<CUcontext>,
    _affinities: *mut c_void,
    count: c_int,
    flags: c_uint,
    device: CUdevice,
) -> CUresult {
    call("cuCtxCreate_v3", || {
        if count != 0 {
            return Err(CUresult::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(context, flags, device)
    })
}

/// Makes a context; it can be neither bound to a part of the card nor shared with a graphics API.
///
/// # Safety
/// `context` is null or may be written; `parameters` is null or may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(
    context: Out<CUcontext>,
    parameters: *const CUctxCreateParams,
    flags: c_uint,
    device: CUdevice,
) -> CUresult {
    call("cuCtxCreate_v4", || {
        // SAFETY: the caller promises that it is null or may be read.
        if let Some(parameters) = unsafe { parameters.as_ref() } {
            if parameters.numExecAffinityParams != 0 {
                return Err(CUresult::UNSUPPORTED_EXEC_AFFINITY);
            }
            if !parameters.cigParams.is_null() {
                explain("cuCtxCreate_v4", "contexts for graphics are not simulated");
                return Err(CUresult::NOT_SUPPORTED);
            }
        }
        create(context, flags, device)
    })
}

/// Destroys a context that a program made, with all that is in it.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: CUcontext) -> CUresult {
    call("cuCtxDestroy_v2", || {
        let _work = work();
        let mut state = state()?;
        if context == state.primary || !state.contexts.contains_key(&context) {
            return Err(CUresult::INVALID_CONTEXT);
        }
        state.destroy_context(context, "end of a context");
        // Where it is current in other threads, they will be told that it is destroyed.
        thread_contexts(|contexts| contexts.pop_if(|last| *last == context));
        Ok(())
    })
}

/// Makes a context current in place of the one that is; null only takes that one away.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    call("cuCtxSetCurrent", || {
        let state = state()?;
        if context != CUcontext::NULL && !state.contexts.contains_key(&context) {
            return Err(CUresult::INVALID_CONTEXT);
        }
        thread_contexts(|contexts| {
            contexts.pop();
            if context != CUcontext::NULL {
                contexts.push(context);
            }
        });
        Ok(())
    })
}

/// The thread's current context, or null.
///
/// # Safety
/// `context` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: Out<CUcontext>) -> CUresult {
    call("cuCtxGetCurrent", || {
        drop(state()?);
        context.set(thread_contexts(|contexts| contexts.last().copied()).unwrap_or(CUcontext::NULL))
    })
}

/// Makes a context current until it is popped.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: CUcontext) -> CUresult {
    call("cuCtxPushCurrent_v2", || {
        if !state()?.contexts.contains_key(&context) {
            return Err(CUresult::INVALID_CONTEXT);
        }
        thread_contexts(|contexts| contexts.push(context));
        Ok(())
    })
}

/// Makes the context current that was before the last push.
///
/// # Safety
/// `context` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: Out<CUcontext>) -> CUresult {
    call("cuCtxPopCurrent_v2", || {
        drop(state()?);
        let popped = thread_contexts(|contexts| contexts.pop()).ok_or(CUresult::INVALID_CONTEXT)?;
        context.set_if_wanted(popped);
        Ok(())
    })
}

/// The current context's device.
///
/// # Safety
/// `device` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: Out<CUdevice>) -> CUresult {
    call("cuCtxGetDevice", || {
        state()?.current()?;
        device.set(0)
    })
}

/// Waits for all work of the context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> CUresult {
    call("cuCtxSynchronize", || {
        {
            let mut state = state()?;
            let context = state.current()?;
            state.refuse_in_capture("cuCtxSynchronize")?;
            // Whatever the mode: a stream that only records has no work that could be waited for.
            let captured: Vec<u64> = state
                .captures
                .iter()
                .filter(|(_, capture)| capture.context == context)
                .map(|(id, _)| *id)
                .collect();
            if !captured.is_empty() {
                state.invalidate(&captured);
                return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
            }
        }
        // Another thread may be in the middle of its work, which may break the context.
        drop(work());
        state()?.current().map(drop)
    })
}

/// Reads or changes something of the current context.
fn current<T>(body: impl FnOnce(&mut crate::state::Context) -> Outcome<T>) -> Outcome<T> {
    let mut state = state()?;
    let handle = state.current()?;
    let State { contexts, .. } = &mut *state;
    body(contexts.get_mut(&handle).ok_or(CUresult::INVALID_CONTEXT)?)
}

/// The current context's flags.
///
/// # Safety
/// `flags` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetFlags(flags: Out<c_uint>) -> CUresult {
    call("cuCtxGetFlags", || flags.set(current(|context| Ok(context.flags))?))
}

/// Sets the current context's flags.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: c_uint) -> CUresult {
    call("cuCtxSetFlags", || {
        current(|context| {
            if flags & !FLAGS != 0 {
                return Err(CUresult::INVALID_VALUE);
            }
            context.flags = flags;
            Ok(())
        })
    })
}

/// A number that no other context of the process has.
///
/// # Safety
/// `id` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetId(context: CUcontext, id: Out<u64>) -> CUresult {
    call("cuCtxGetId", || {
        let state = state()?;
        let handle = if context == CUcontext::NULL { state.current()? } else { context };
        id.set(state.contexts.get(&handle).ok_or(CUresult::CONTEXT_IS_DESTROYED)?.id)
    })
}

/// The version of the API that a context was made for.
///
/// # Safety
/// `version` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetApiVersion(context: CUcontext, version: Out<c_uint>) -> CUresult {
    call("cuCtxGetApiVersion", || {
        let state = state()?;
        let handle = if context == CUcontext::NULL { state.current()? } else { context };
        if !state.contexts.contains_key(&handle) {
            return Err(CUresult::INVALID_CONTEXT);
        }
        // What the driver says for every context since CUDA 3.2.
        version.set(3020)
    })
}

/// One of the current context's limits.
///
/// # Safety
/// `value` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) -> CUresult {
    call("cuCtxGetLimit", || {
        value.set(current(|context| {
            let known = LIMITS.contains(&limit);
            let value = context.limits.get(limit as usize).filter(|_| known);
            value.copied().ok_or(CUresult::UNSUPPORTED_LIMIT)
        })?)
    })
}

/// Sets one of the current context's limits. They are kept and told, and limit nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> CUresult {
    call("cuCtxSetLimit", || {
        current(|context| {
            let known = LIMITS.contains(&limit);
            *context.limits.get_mut(limit as usize).filter(|_| known).ok_or(CUresult::UNSUPPORTED_LIMIT)? =
                value;
            Ok(())
        })
    })
}

/// The preferred split of L1 and shared memory: kept, without effect.
///
/// # Safety
/// `config` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCacheConfig(config: Out<c_uint>) -> CUresult {
    call("cuCtxGetCacheConfig", || config.set(current(|context| Ok(context.cache))?))
}

/// Sets the preferred split of L1 and shared memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(config: c_uint) -> CUresult {
    call("cuCtxSetCacheConfig", || {
        current(|context| {
            if config > 3 {
                return Err(CUresult::INVALID_VALUE);
            }
            context.cache = config;
            Ok(())
        })
    })
}

/// The range of priorities that streams may have.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) -> CUresult {
    call("cuCtxGetStreamPriorityRange", || {
        state()?.current()?;
        least.set_if_wanted(PRIORITIES.0);
        greatest.set_if_wanted(PRIORITIES.1);
        Ok(())
    })
}

/// Begins to profile: profiles are made by an environment variable, see [`crate::settings::PROFILE`].
#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> CUresult {
    call("cuProfilerStart", || state()?.current().map(drop))
}

/// Ends profiling, see [`cuProfilerStart`].
#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> CUresult {
    call("cuProfilerStop", || state()?.current().map(drop))
}

/// Whether another device's memory can be reached: there is no other.
///
/// # Safety
/// `able` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceCanAccessPeer(
    able: Out<c_int>,
    device: CUdevice,
    peer: CUdevice,
) -> CUresult {
    call("cuDeviceCanAccessPeer", || {
        drop(state()?);
        known(device)?;
        known(peer)?;
        able.set(0)
    })
}
