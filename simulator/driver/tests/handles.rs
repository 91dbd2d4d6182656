//! Handles, null pointers and the life of contexts, streams and events: what needs no work on the device.

mod common;

use std::ffi::CStr;

use common::*;
use simulated_cuda::*;

const STRANGE: usize = 0xdead_beef;

#[test]
fn handles_that_name_nothing_are_refused() {
    context();
    let stream = CUstream(STRANGE);
    let event = CUevent(STRANGE);
    let mut name = std::ptr::null();
    let mut number = 0;
    let mut handle = CUgraphExec::NULL;
    assert_eq!(cuStreamSynchronize(stream), CUresult::INVALID_HANDLE);
    assert_eq!(cuStreamQuery(stream), CUresult::INVALID_HANDLE);
    assert_eq!(cuStreamDestroy_v2(stream), CUresult::INVALID_HANDLE);
    assert_eq!(cuStreamDestroy_v2(CUstream::NULL), CUresult::INVALID_HANDLE);
    assert_eq!(cuEventQuery(event), CUresult::INVALID_HANDLE);
    assert_eq!(cuEventDestroy_v2(event), CUresult::INVALID_HANDLE);
    assert_eq!(cuEventRecord(event, CUstream::NULL), CUresult::INVALID_HANDLE);
    assert_eq!(cuStreamWaitEvent(CUstream::NULL, event, 0), CUresult::INVALID_HANDLE);
    assert_eq!(cuModuleUnload(CUmodule(STRANGE)), CUresult::INVALID_HANDLE);
    assert_eq!(cuFuncSetAttribute(CUfunction(STRANGE), 8, 0), CUresult::INVALID_HANDLE);
    assert_eq!(cuGraphDestroy(CUgraph(STRANGE)), CUresult::INVALID_VALUE);
    assert_eq!(cuGraphExecDestroy(CUgraphExec(STRANGE)), CUresult::INVALID_VALUE);
    assert_eq!(cuGraphLaunch(CUgraphExec(STRANGE), CUstream::NULL), CUresult::INVALID_VALUE);
    assert_eq!(cuMemPoolTrimTo(CUmemoryPool(STRANGE), 0), CUresult::INVALID_VALUE);
    assert_eq!(cuCtxSetCurrent(CUcontext(STRANGE)), CUresult::INVALID_CONTEXT);
    assert_eq!(cuCtxDestroy_v2(CUcontext(STRANGE)), CUresult::INVALID_CONTEXT);
    assert_eq!(cuMemFree_v2(STRANGE as u64), CUresult::INVALID_VALUE);
    assert_eq!(cuMemFreeAsync(STRANGE as u64, CUstream::NULL), CUresult::INVALID_VALUE);
    assert_eq!(launch(CUfunction(STRANGE), 1, 1, 0, CUstream::NULL, &[]), CUresult::INVALID_HANDLE);
    // SAFETY: the pointers are locals'.
    unsafe {
        assert_eq!(cuFuncGetName(Out::from(&mut name), CUfunction(STRANGE)), CUresult::INVALID_HANDLE);
        assert_eq!(
            cuFuncGetAttribute(Out::from(&mut number), 0, CUfunction(STRANGE)),
            CUresult::INVALID_HANDLE
        );
        let code = cuGraphInstantiateWithFlags(Out::from(&mut handle), CUgraph(STRANGE), 0);
        assert_eq!(code, CUresult::INVALID_VALUE);
        assert_eq!(cuDeviceGet(Out::from(&mut number), 1), CUresult::INVALID_DEVICE);
        assert_eq!(cuDeviceGetAttribute(Out::from(&mut number), 75, 3), CUresult::INVALID_DEVICE);
        assert_eq!(cuDeviceGetAttribute(Out::from(&mut number), 4711, 0), CUresult::INVALID_VALUE);
    }
}

#[test]
fn a_handle_of_another_kind_is_refused() {
    context();
    let (stream, event) = (stream(0), event(0));
    assert_eq!(cuEventDestroy_v2(CUevent(stream.0)), CUresult::INVALID_HANDLE);
    assert_eq!(cuStreamDestroy_v2(CUstream(event.0)), CUresult::INVALID_HANDLE);
    assert_eq!(cuStreamDestroy_v2(stream), CUresult::SUCCESS);
    assert_eq!(cuEventDestroy_v2(event), CUresult::SUCCESS);
    // A second time they are stale.
    assert_eq!(cuStreamDestroy_v2(stream), CUresult::INVALID_HANDLE);
    assert_eq!(cuEventDestroy_v2(event), CUresult::INVALID_HANDLE);
}

#[test]
fn null_pointers_for_results_are_refused() {
    let context = context();
    // SAFETY: null is what the functions have to refuse.
    unsafe {
        assert_eq!(cuDeviceGet(Out::null(), 0), CUresult::INVALID_VALUE);
        assert_eq!(cuDeviceGetCount(Out::null()), CUresult::INVALID_VALUE);
        assert_eq!(cuDeviceGetName(std::ptr::null_mut(), 10, 0), CUresult::INVALID_VALUE);
        assert_eq!(cuCtxCreate_v2(Out::null(), 0, 0), CUresult::INVALID_VALUE);
        assert_eq!(cuCtxGetCurrent(Out::null()), CUresult::INVALID_VALUE);
        assert_eq!(cuStreamCreate(Out::null(), 0), CUresult::INVALID_VALUE);
        assert_eq!(cuEventCreate(Out::null(), 0), CUresult::INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(Out::null(), 16), CUresult::INVALID_VALUE);
        assert_eq!(cuMemHostAlloc(Out::null(), 16, 0), CUresult::INVALID_VALUE);
        assert_eq!(cuModuleLoadData(Out::null(), c"x".as_ptr().cast()), CUresult::INVALID_VALUE);
        assert_eq!(cuModuleLoad(Out::null(), c"x".as_ptr()), CUresult::INVALID_VALUE);
        assert_eq!(cuStreamEndCapture(CUstream::NULL, Out::null()), CUresult::INVALID_VALUE);
        assert_eq!(cuGetErrorName(CUresult::SUCCESS, Out::null()), CUresult::INVALID_VALUE);
        let launched = cuLaunchKernelEx(std::ptr::null(), CUfunction(1), std::ptr::null(), std::ptr::null());
        assert_eq!(launched, CUresult::INVALID_VALUE);
        assert_eq!(cuLaunchHostFunc(CUstream::NULL, None, std::ptr::null_mut()), CUresult::INVALID_VALUE);
    }
    assert_eq!(cuCtxDestroy_v2(context), CUresult::SUCCESS);
}

#[test]
fn contexts_form_a_stack_in_each_thread() {
    let first = context();
    let second = context();
    let current = || {
        let mut current = CUcontext::NULL;
        // SAFETY: the pointer is a local's.
        assert_eq!(unsafe { cuCtxGetCurrent(Out::from(&mut current)) }, CUresult::SUCCESS);
        current
    };
    assert_eq!(current(), second);
    let other = std::thread::spawn(move || {
        let mut none = CUcontext(1);
        // SAFETY: the pointer is a local's.
        assert_eq!(unsafe { cuCtxGetCurrent(Out::from(&mut none)) }, CUresult::SUCCESS);
        assert_eq!(none, CUcontext::NULL);
        assert_eq!(cuCtxSynchronize(), CUresult::INVALID_CONTEXT);
        assert_eq!(cuCtxSetCurrent(first), CUresult::SUCCESS);
        assert_eq!(cuCtxSynchronize(), CUresult::SUCCESS);
    });
    other.join().unwrap();
    let mut popped = CUcontext::NULL;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuCtxPopCurrent_v2(Out::from(&mut popped)) }, CUresult::SUCCESS);
    assert_eq!((popped, current()), (second, first));
    assert_eq!(cuCtxPushCurrent_v2(second), CUresult::SUCCESS);
    // Destroyed while current: it is popped. Destroyed while not: whoever has it is told.
    assert_eq!(cuCtxDestroy_v2(second), CUresult::SUCCESS);
    assert_eq!(current(), first);
    let third = context();
    assert_eq!(cuCtxDestroy_v2(first), CUresult::SUCCESS);
    assert_eq!(cuCtxDestroy_v2(third), CUresult::SUCCESS);
    assert_eq!(current(), first);
    assert_eq!(cuCtxSynchronize(), CUresult::CONTEXT_IS_DESTROYED);
    assert_eq!(cuCtxSetCurrent(CUcontext::NULL), CUresult::SUCCESS);
    assert_eq!(cuCtxSynchronize(), CUresult::INVALID_CONTEXT);
}

#[test]
fn the_primary_context_lives_while_somebody_retains_it() {
    assert_eq!(cuInit(0), CUresult::SUCCESS);
    let (mut first, mut second) = (CUcontext::NULL, CUcontext::NULL);
    let state = || {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: the pointers are locals'.
        let code = unsafe { cuDevicePrimaryCtxGetState(0, Out::from(&mut flags), Out::from(&mut active)) };
        assert_eq!(code, CUresult::SUCCESS);
        (flags, active)
    };
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), CUresult::INVALID_CONTEXT);
    assert_eq!(state().1, 0);
    assert_eq!(cuDevicePrimaryCtxSetFlags_v2(0, 4), CUresult::SUCCESS);
    // SAFETY: the pointers are locals'.
    unsafe {
        assert_eq!(cuDevicePrimaryCtxRetain(Out::from(&mut first), 0), CUresult::SUCCESS);
        assert_eq!(cuDevicePrimaryCtxRetain(Out::from(&mut second), 0), CUresult::SUCCESS);
        assert_eq!(cuDevicePrimaryCtxRetain(Out::from(&mut second), 1), CUresult::INVALID_DEVICE);
    }
    assert_eq!(first, second);
    assert_eq!(state(), (4, 1));
    assert_eq!(cuCtxSetCurrent(first), CUresult::SUCCESS);
    let stream = stream(0);
    assert_eq!(cuCtxDestroy_v2(first), CUresult::INVALID_CONTEXT);
    assert_eq!(cuDevicePrimaryCtxReset_v2(0), CUresult::SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), CUresult::INVALID_HANDLE);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), CUresult::SUCCESS);
    assert_eq!(cuCtxSynchronize(), CUresult::SUCCESS);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), CUresult::SUCCESS);
    assert_eq!(cuCtxSynchronize(), CUresult::CONTEXT_IS_DESTROYED);
    assert_eq!(state().1, 0);
}

#[test]
fn the_device_describes_itself() {
    context();
    let mut name = [1; 64];
    let mut short = [1; 7];
    let mut bytes = 0;
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: the arrays have the lengths that are given.
    unsafe {
        assert_eq!(cuDeviceGetName(name.as_mut_ptr(), 64, 0), CUresult::SUCCESS);
        assert_eq!(CStr::from_ptr(name.as_ptr()), c"NVIDIA GeForce RTX 2080 Ti (simulated)");
        assert_eq!(cuDeviceGetName(short.as_mut_ptr(), 7, 0), CUresult::SUCCESS);
        assert_eq!(CStr::from_ptr(short.as_ptr()), c"NVIDIA");
        assert_eq!(cuDeviceTotalMem_v2(Out::from(&mut bytes), 0), CUresult::SUCCESS);
        assert_eq!(bytes, 11 << 30);
        assert_eq!(cuDeviceGetUuid_v2(Out::from(&mut uuid), 0), CUresult::SUCCESS);
        assert_ne!(uuid.bytes, [0; 16]);
    }
}

#[test]
fn codes_have_names_and_sentences() {
    let text = |code: u32| {
        let (mut name, mut sentence) = (std::ptr::null(), std::ptr::null());
        // SAFETY: the pointers are locals'; what they get is a constant, or null.
        unsafe {
            let first = cuGetErrorName(CUresult(code), Out::from(&mut name));
            assert_eq!(cuGetErrorString(CUresult(code), Out::from(&mut sentence)), first);
            if first != CUresult::SUCCESS {
                assert!(name.is_null() && sentence.is_null());
                return None;
            }
            Some((CStr::from_ptr(name).to_str().unwrap(), CStr::from_ptr(sentence).to_str().unwrap()))
        }
    };
    assert_eq!(text(0), Some(("CUDA_SUCCESS", "no error")));
    assert_eq!(text(700), Some(("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered")));
    assert_eq!(text(906).unwrap().0, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT");
    assert_eq!(text(12345), None);
}

#[test]
fn events_keep_time_unless_they_are_told_not_to() {
    context();
    let (start, end, silent, unused) = (event(0), event(0), event(EVENT_DISABLE_TIMING), event(0));
    let elapsed = |from, to| {
        let mut milliseconds = -1.0;
        // SAFETY: the pointer is a local's.
        let code = unsafe { cuEventElapsedTime(Out::from(&mut milliseconds), from, to) };
        (code, milliseconds)
    };
    // Never recorded: it stands for no work, which is done.
    assert_eq!(cuEventQuery(unused), CUresult::SUCCESS);
    assert_eq!(cuEventSynchronize(unused), CUresult::SUCCESS);
    for event in [start, silent] {
        assert_eq!(cuEventRecord(event, CUstream::NULL), CUresult::SUCCESS);
    }
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(cuEventRecord(end, CU_STREAM_PER_THREAD), CUresult::SUCCESS);
    assert_eq!(cuEventSynchronize(end), CUresult::SUCCESS);
    let (code, milliseconds) = elapsed(start, end);
    assert_eq!(code, CUresult::SUCCESS);
    assert!((4.0..60_000.0).contains(&milliseconds), "{milliseconds}");
    assert!(elapsed(end, start).1 < 0.0);
    assert_eq!(elapsed(start, silent).0, CUresult::INVALID_HANDLE);
    assert_eq!(elapsed(start, unused).0, CUresult::INVALID_HANDLE);
    let mut flags = CUevent::NULL;
    // SAFETY: the pointer is a local's.
    unsafe {
        assert_eq!(cuEventCreate(Out::from(&mut flags), 8), CUresult::INVALID_VALUE);
        assert_eq!(cuEventCreate(Out::from(&mut flags), EVENT_INTERPROCESS), CUresult::INVALID_VALUE);
    }
    assert_eq!(cuEventRecordWithFlags(start, CUstream::NULL, EVENT_EXTERNAL), CUresult::INVALID_VALUE);
}

#[test]
fn an_event_belongs_to_its_context() {
    let first = context();
    let event = event(0);
    let second = context();
    assert_eq!(cuEventRecord(event, CUstream::NULL), CUresult::INVALID_HANDLE);
    assert_eq!(cuCtxDestroy_v2(second), CUresult::SUCCESS);
    assert_eq!(cuEventRecord(event, CUstream::NULL), CUresult::SUCCESS);
    assert_eq!(cuCtxDestroy_v2(first), CUresult::SUCCESS);
    assert_eq!(cuEventQuery(event), CUresult::INVALID_HANDLE);
}

#[test]
fn streams_tell_what_they_are() {
    let context = context();
    let mut stream = CUstream::NULL;
    let (mut flags, mut priority, mut owner, mut id) = (9, 9, CUcontext::NULL, 0);
    let (mut least, mut greatest) = (9, 9);
    // SAFETY: the pointers are locals'.
    unsafe {
        assert_eq!(
            cuStreamCreateWithPriority(Out::from(&mut stream), STREAM_NON_BLOCKING, -99),
            CUresult::SUCCESS
        );
        assert_eq!(cuStreamGetFlags(stream, Out::from(&mut flags)), CUresult::SUCCESS);
        assert_eq!(cuStreamGetPriority(stream, Out::from(&mut priority)), CUresult::SUCCESS);
        assert_eq!(cuStreamGetCtx(stream, Out::from(&mut owner)), CUresult::SUCCESS);
        assert_eq!(cuStreamGetId(stream, Out::from(&mut id)), CUresult::SUCCESS);
        let range = cuCtxGetStreamPriorityRange(Out::from(&mut least), Out::from(&mut greatest));
        assert_eq!(range, CUresult::SUCCESS);
        assert_eq!(cuStreamCreate(Out::from(&mut stream), 2), CUresult::INVALID_VALUE);
    }
    assert_eq!((flags, priority, owner), (1, greatest, context));
    assert_eq!((least, greatest), (0, -5));
    assert_ne!(id, 0);
}

#[test]
fn limits_are_kept() {
    context();
    let mut value = 0;
    assert_eq!(cuCtxSetLimit(0, 4096), CUresult::SUCCESS);
    assert_eq!(cuCtxSetLimit(99, 1), CUresult::UNSUPPORTED_LIMIT);
    // SAFETY: the pointer is a local's.
    unsafe {
        assert_eq!(cuCtxGetLimit(Out::from(&mut value), 0), CUresult::SUCCESS);
        assert_eq!(value, 4096);
        assert_eq!(cuCtxGetLimit(Out::from(&mut value), 3), CUresult::UNSUPPORTED_LIMIT);
    }
}

#[test]
fn pinned_memory_is_known_until_it_is_freed() {
    context();
    let mut pointer = std::ptr::null_mut();
    let mut flags = 0;
    let mut kind = 0_u32;
    let mut own = [0_u8; 64];
    // SAFETY: the pointers are locals', and the memory has the bytes that are asked for.
    unsafe {
        assert_eq!(cuMemHostAlloc(Out::from(&mut pointer), 100, 4), CUresult::SUCCESS);
        assert_eq!(pointer.addr() % 4096, 0);
        pointer.cast::<u8>().write_bytes(7, 100);
        assert_eq!(cuMemHostGetFlags(Out::from(&mut flags), pointer), CUresult::SUCCESS);
        assert_eq!(flags, 4);
        let kind_at = (&raw mut kind).cast();
        assert_eq!(cuPointerGetAttribute(kind_at, 2, pointer.addr() as u64), CUresult::SUCCESS);
        assert_eq!(kind, MEMORY_HOST);
        assert_eq!(cuMemHostUnregister(pointer), CUresult::INVALID_VALUE);
        assert_eq!(cuMemFreeHost(pointer), CUresult::SUCCESS);
        assert_eq!(cuMemFreeHost(pointer), CUresult::INVALID_VALUE);
        assert_eq!(cuMemHostAlloc(Out::from(&mut pointer), 0, 0), CUresult::INVALID_VALUE);

        let own = own.as_mut_ptr().cast();
        assert_eq!(cuMemHostUnregister(own), CUresult::HOST_MEMORY_NOT_REGISTERED);
        assert_eq!(cuMemHostRegister_v2(own, 64, 0), CUresult::SUCCESS);
        assert_eq!(cuMemHostRegister_v2(own.byte_add(8), 8, 0), CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        assert_eq!(cuMemFreeHost(own), CUresult::INVALID_VALUE);
        assert_eq!(cuMemHostUnregister(own), CUresult::SUCCESS);
        let mut address = 0;
        assert_eq!(cuMemHostGetDevicePointer_v2(Out::from(&mut address), own, 0), CUresult::NOT_SUPPORTED);
        assert_eq!(cuMemAllocManaged(Out::from(&mut address), 16, 1), CUresult::NOT_SUPPORTED);
    }
}

#[test]
fn pools_are_made_and_counted() {
    context();
    let (mut default, mut pool, mut threshold) = (CUmemoryPool::NULL, CUmemoryPool::NULL, 77_u64);
    let mut properties = CUmemPoolProps {
        allocType: 1,
        handleTypes: 0,
        location: CUmemLocation { kind: 1, id: 0 },
        win32SecurityAttributes: std::ptr::null_mut(),
        maxSize: 0,
        usage: 0,
        reserved: [0; 54],
    };
    let number = (&raw mut threshold).cast();
    // SAFETY: the pointers are locals' of the attributes' types.
    unsafe {
        assert_eq!(cuDeviceGetDefaultMemPool(Out::from(&mut default), 0), CUresult::SUCCESS);
        assert_eq!(cuMemPoolCreate(Out::from(&mut pool), &properties), CUresult::SUCCESS);
        assert_eq!(cuMemPoolSetAttribute(pool, 4, number), CUresult::SUCCESS);
        assert_eq!(cuMemPoolGetAttribute(pool, 7, number), CUresult::SUCCESS);
        assert_eq!(threshold, 0);
        assert_eq!(cuMemPoolGetAttribute(pool, 4, number), CUresult::SUCCESS);
        assert_eq!(threshold, 77);
        assert_eq!(cuMemPoolGetAttribute(pool, 99, number), CUresult::INVALID_VALUE);
        properties.location.id = 1;
        assert_eq!(cuMemPoolCreate(Out::from(&mut pool), &properties), CUresult::INVALID_VALUE);
    }
    assert_eq!(cuMemPoolDestroy(default), CUresult::INVALID_VALUE);
    assert_eq!(cuMemPoolTrimTo(pool, 0), CUresult::SUCCESS);
    assert_eq!(cuMemPoolDestroy(pool), CUresult::SUCCESS);
    assert_eq!(cuMemPoolTrimTo(pool, 0), CUresult::INVALID_VALUE);
}

unsafe extern "C" fn synchronise(result: *mut std::ffi::c_void) {
    // SAFETY: the test gives the address of a code that outlives the call.
    unsafe { result.cast::<CUresult>().write(cuCtxSynchronize()) };
}

#[test]
fn a_host_function_runs_at_once_and_may_not_use_the_api() {
    context();
    let mut result = CUresult::SUCCESS;
    // SAFETY: the code outlives the call, in which the function runs.
    let code = unsafe { cuLaunchHostFunc(CUstream::NULL, Some(synchronise), (&raw mut result).cast()) };
    assert_eq!((code, result), (CUresult::SUCCESS, CUresult::NOT_PERMITTED));
}

#[test]
fn functions_are_found_by_name() {
    let find = |name: &CStr| {
        let (mut address, mut status) = (std::ptr::null(), -1);
        // SAFETY: the pointers are locals'.
        let code = unsafe {
            cuGetProcAddress_v2(name.as_ptr(), Out::from(&mut address), 13000, 0, Out::from(&mut status))
        };
        (code, address, status)
    };
    assert_eq!(find(c"cuInit"), (CUresult::SUCCESS, cuInit as *const std::ffi::c_void, 0));
    assert_eq!(find(c"cuTexObjectCreate"), (CUresult::NOT_FOUND, std::ptr::null(), 1));
}

/// Destructors of a program's thread-local values run in any order, and may still use the driver.
#[test]
fn a_thread_that_ends_may_still_call() {
    struct Last(std::sync::mpsc::Sender<CUresult>);
    impl Drop for Last {
        fn drop(&mut self) {
            let mut context = CUcontext::NULL;
            // SAFETY: a pointer to a local variable.
            let _ = self.0.send(unsafe { cuCtxGetCurrent(Out::from(&mut context)) });
        }
    }
    thread_local!(static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) });
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Registered first, so dropped last.
        LAST.set(Some(Last(sender)));
        let mut context = CUcontext::NULL;
        // SAFETY: as above.
        let _ = unsafe { cuCtxGetCurrent(Out::from(&mut context)) };
    })
    .join()
    .unwrap();
    assert_ne!(receiver.recv().unwrap(), CUresult::UNKNOWN);
}
