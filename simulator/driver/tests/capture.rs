//! Captures and graphs. The work is calls of host functions, which need no device.

mod common;

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::*;
use simulated_cuda::*;

/// Captures in the global mode forbid things to all threads: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn note(list: *mut c_void) {
    // SAFETY: the tests give the address of a list that outlives the graph.
    let list = unsafe { &*list.cast::<Mutex<Vec<u32>>>() };
    let mut list = list.lock().unwrap();
    let next = list.len() as u32;
    list.push(next);
}

/// Adds a call that lengthens the list.
fn call(stream: CUstream, list: &Mutex<Vec<u32>>) -> CUresult {
    // SAFETY: the list outlives what is made in its test.
    unsafe { cuLaunchHostFunc(stream, Some(note), std::ptr::from_ref(list).cast_mut().cast()) }
}

fn begin(stream: CUstream, mode: u32) {
    assert_eq!(cuStreamBeginCapture_v2(stream, mode), CUresult::SUCCESS);
}

/// Captures on a stream by the given steps and gives the graph.
fn captured(stream: CUstream, steps: impl FnOnce()) -> CUgraph {
    begin(stream, CAPTURE_THREAD_LOCAL);
    steps();
    let (code, graph) = end_capture(stream);
    assert_eq!(code, CUresult::SUCCESS);
    graph
}

#[test]
fn captured_work_is_done_by_every_launch_and_not_before() {
    let _alone = alone();
    context();
    let list = Mutex::new(Vec::new());
    let stream = stream(0);
    let graph = captured(stream, || {
        assert_eq!(capture_status(stream), CAPTURE_STATUS_ACTIVE);
        assert_eq!(call(stream, &list), CUresult::SUCCESS);
        assert_eq!(call(stream, &list), CUresult::SUCCESS);
    });
    assert_eq!(capture_status(stream), CAPTURE_STATUS_NONE);
    assert!(list.lock().unwrap().is_empty());
    let found = nodes(graph);
    let mut kind = 99;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuGraphNodeGetType(found[0], Out::from(&mut kind)) }, CUresult::SUCCESS);
    assert_eq!((found.len(), kind), (2, 3));

    let executable = instantiate(graph, 0);
    assert_eq!(cuGraphDestroy(graph), CUresult::SUCCESS);
    assert_eq!(cuGraphUpload(executable, stream), CUresult::SUCCESS);
    for _ in 0..3 {
        assert_eq!(cuGraphLaunch(executable, stream), CUresult::SUCCESS);
    }
    assert_eq!(list.lock().unwrap().len(), 6);

    // A launch in a capture is one node of the graph that grows.
    let outer = captured(stream, || assert_eq!(cuGraphLaunch(executable, stream), CUresult::SUCCESS));
    assert_eq!(cuGraphExecDestroy(executable), CUresult::SUCCESS);
    assert_eq!(cuGraphLaunch(executable, stream), CUresult::INVALID_VALUE);
    assert_eq!(nodes(outer).len(), 1);
    let executable = instantiate(outer, GRAPH_AUTO_FREE_ON_LAUNCH);
    assert_eq!(cuGraphLaunch(executable, CUstream::NULL), CUresult::SUCCESS);
    assert_eq!(list.lock().unwrap().len(), 8);
}

#[test]
fn beginnings_and_ends_must_match() {
    let _alone = alone();
    context();
    let (first, second) = (stream(0), stream(0));
    assert_eq!(cuStreamBeginCapture_v2(CUstream::NULL, 0), CUresult::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(cuStreamBeginCapture_v2(first, 3), CUresult::INVALID_VALUE);
    assert_eq!(end_capture(first), (CUresult::ILLEGAL_STATE, CUgraph::NULL));
    begin(first, CAPTURE_THREAD_LOCAL);
    assert_eq!(cuStreamBeginCapture_v2(first, 0), CUresult::ILLEGAL_STATE);
    assert_eq!(end_capture(second), (CUresult::ILLEGAL_STATE, CUgraph::NULL));
    assert_eq!(end_capture(first).0, CUresult::SUCCESS);
    // The default stream of a thread is no legacy stream.
    begin(CU_STREAM_PER_THREAD, CAPTURE_RELAXED);
    assert_eq!(end_capture(CU_STREAM_PER_THREAD).0, CUresult::SUCCESS);
}

#[test]
fn another_thread_may_only_end_a_relaxed_capture() {
    let _alone = alone();
    let context = context();
    let stream = stream(0);
    for (mode, code) in
        [(CAPTURE_RELAXED, CUresult::SUCCESS), (CAPTURE_THREAD_LOCAL, CUresult::STREAM_CAPTURE_WRONG_THREAD)]
    {
        begin(stream, mode);
        let ended = std::thread::spawn(move || {
            assert_eq!(cuCtxSetCurrent(context), CUresult::SUCCESS);
            end_capture(stream).0
        });
        assert_eq!(ended.join().unwrap(), code);
    }
    assert_eq!(end_capture(stream).0, CUresult::SUCCESS);
}

#[test]
fn streams_fork_and_join_by_events() {
    let _alone = alone();
    context();
    let list = Mutex::new(Vec::new());
    let (main, side, fork, join) = (stream(0), stream(STREAM_NON_BLOCKING), event(0), event(0));
    let graph = captured(main, || {
        assert_eq!(call(main, &list), CUresult::SUCCESS);
        assert_eq!(cuEventRecord(fork, main), CUresult::SUCCESS);
        assert_eq!(cuStreamWaitEvent(side, fork, 0), CUresult::SUCCESS);
        assert_eq!(capture_status(side), CAPTURE_STATUS_ACTIVE);
        assert_eq!(call(side, &list), CUresult::SUCCESS);
        assert_eq!(call(main, &list), CUresult::SUCCESS);
        assert_eq!(cuEventRecord(join, side), CUresult::SUCCESS);
        assert_eq!(cuStreamWaitEvent(main, join, 0), CUresult::SUCCESS);
        assert_eq!(call(main, &list), CUresult::SUCCESS);
    });
    assert_eq!(capture_status(side), CAPTURE_STATUS_NONE);
    let found = nodes(graph);
    let dependencies = |node| {
        let mut places = [CUgraphNode::NULL; 4];
        let mut count = places.len();
        // SAFETY: there are as many places as the count says.
        unsafe { cuGraphNodeGetDependencies(node, places.as_mut_ptr(), &mut count) };
        places[..count]
            .iter()
            .map(|node| found.iter().position(|other| other == node).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(dependencies(found[0]), [0; 0]);
    assert_eq!(dependencies(found[1]), [0]);
    assert_eq!(dependencies(found[2]), [0]);
    assert_eq!(dependencies(found[3]), [2, 1]);
    assert_eq!(cuGraphLaunch(instantiate(graph, 0), side), CUresult::SUCCESS);
    assert_eq!(list.lock().unwrap().len(), 4);
    // After the capture nobody may ask what its events stand for.
    assert_eq!(cuEventQuery(fork), CUresult::CAPTURED_EVENT);
    assert_eq!(cuStreamWaitEvent(side, fork, 0), CUresult::CAPTURED_EVENT);
    assert_eq!(cuEventRecord(fork, side), CUresult::SUCCESS);
    assert_eq!(cuEventQuery(fork), CUresult::SUCCESS);
}

#[test]
fn a_stream_that_is_not_joined_spoils_the_end() {
    let _alone = alone();
    context();
    let list = Mutex::new(Vec::new());
    let (main, side, fork) = (stream(0), stream(0), event(0));
    begin(main, CAPTURE_THREAD_LOCAL);
    assert_eq!(cuEventRecord(fork, main), CUresult::SUCCESS);
    assert_eq!(cuStreamWaitEvent(side, fork, 0), CUresult::SUCCESS);
    assert_eq!(call(side, &list), CUresult::SUCCESS);
    assert_eq!(end_capture(main), (CUresult::STREAM_CAPTURE_UNJOINED, CUgraph::NULL));
    // Both are ordinary streams again.
    assert_eq!(call(side, &list), CUresult::SUCCESS);
    assert_eq!(call(main, &list), CUresult::SUCCESS);
    assert_eq!(list.lock().unwrap().len(), 2);
}

#[test]
fn only_the_first_stream_may_end_a_capture() {
    let _alone = alone();
    context();
    let (main, side, fork) = (stream(0), stream(0), event(0));
    begin(main, CAPTURE_THREAD_LOCAL);
    assert_eq!(cuEventRecord(fork, main), CUresult::SUCCESS);
    assert_eq!(cuStreamWaitEvent(side, fork, 0), CUresult::SUCCESS);
    assert_eq!(end_capture(side), (CUresult::STREAM_CAPTURE_UNMATCHED, CUgraph::NULL));
    assert_eq!(end_capture(main), (CUresult::STREAM_CAPTURE_INVALIDATED, CUgraph::NULL));
}

#[test]
fn two_captures_do_not_merge() {
    let _alone = alone();
    context();
    let (first, second, fork) = (stream(0), stream(0), event(0));
    begin(first, CAPTURE_THREAD_LOCAL);
    begin(second, CAPTURE_THREAD_LOCAL);
    assert_eq!(cuEventRecord(fork, first), CUresult::SUCCESS);
    assert_eq!(cuStreamWaitEvent(second, fork, 0), CUresult::STREAM_CAPTURE_MERGE);
    assert_eq!(end_capture(first).0, CUresult::STREAM_CAPTURE_INVALIDATED);
    assert_eq!(end_capture(second).0, CUresult::STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn a_capture_depends_on_nothing_outside() {
    let _alone = alone();
    context();
    let (main, outside, never) = (stream(0), event(0), event(0));
    assert_eq!(cuEventRecord(outside, main), CUresult::SUCCESS);
    begin(main, CAPTURE_THREAD_LOCAL);
    assert_eq!(cuStreamWaitEvent(main, never, 0), CUresult::SUCCESS);
    assert_eq!(cuStreamWaitEvent(main, outside, EVENT_EXTERNAL), CUresult::SUCCESS);
    assert_eq!(cuStreamWaitEvent(main, outside, 0), CUresult::STREAM_CAPTURE_ISOLATION);
    assert_eq!(capture_status(main), CAPTURE_STATUS_INVALIDATED);
    let list = Mutex::new(Vec::new());
    assert_eq!(call(main, &list), CUresult::STREAM_CAPTURE_INVALIDATED);
    assert_eq!(end_capture(main), (CUresult::STREAM_CAPTURE_INVALIDATED, CUgraph::NULL));
    assert_eq!(cuStreamWaitEvent(main, outside, EVENT_EXTERNAL), CUresult::INVALID_VALUE);
}

#[test]
fn the_legacy_stream_and_a_captured_blocking_stream_exclude_each_other() {
    let _alone = alone();
    context();
    let list = Mutex::new(Vec::new());
    let (blocking, free) = (stream(0), stream(STREAM_NON_BLOCKING));
    begin(free, CAPTURE_THREAD_LOCAL);
    assert_eq!(call(CUstream::NULL, &list), CUresult::SUCCESS);
    assert_eq!(end_capture(free).0, CUresult::SUCCESS);

    begin(blocking, CAPTURE_RELAXED);
    let mut status = 0;
    // SAFETY: the pointer is a local's.
    let asked = unsafe { cuStreamIsCapturing(CUstream::NULL, Out::from(&mut status)) };
    assert_eq!(asked, CUresult::STREAM_CAPTURE_IMPLICIT);
    assert_eq!(capture_status(blocking), CAPTURE_STATUS_ACTIVE);
    assert_eq!(call(CUstream::NULL, &list), CUresult::STREAM_CAPTURE_IMPLICIT);
    assert_eq!(end_capture(blocking).0, CUresult::STREAM_CAPTURE_INVALIDATED);
    assert_eq!(list.lock().unwrap().len(), 1);
}

#[test]
fn a_captured_stream_cannot_be_waited_for() {
    let _alone = alone();
    context();
    let (stream, event) = (stream(STREAM_NON_BLOCKING), event(0));
    for wait in [cuStreamSynchronize, cuStreamQuery] {
        begin(stream, CAPTURE_RELAXED);
        assert_eq!(wait(stream), CUresult::STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end_capture(stream).0, CUresult::STREAM_CAPTURE_INVALIDATED);
    }
    begin(stream, CAPTURE_RELAXED);
    assert_eq!(cuCtxSynchronize(), CUresult::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(end_capture(stream).0, CUresult::STREAM_CAPTURE_INVALIDATED);

    begin(stream, CAPTURE_RELAXED);
    assert_eq!(cuEventRecord(event, stream), CUresult::SUCCESS);
    assert_eq!(cuEventSynchronize(event), CUresult::CAPTURED_EVENT);
    assert_eq!(end_capture(stream).0, CUresult::STREAM_CAPTURE_INVALIDATED);
}

/// A call that a capture cannot hold, without need of a device.
fn pin() -> CUresult {
    let mut pointer = std::ptr::null_mut();
    // SAFETY: the pointers are a local's and what it got.
    unsafe {
        let code = cuMemAllocHost_v2(Out::from(&mut pointer), 16);
        if code == CUresult::SUCCESS {
            assert_eq!(cuMemFreeHost(pointer), CUresult::SUCCESS);
        }
        code
    }
}

fn exchange(mut mode: u32) -> u32 {
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuThreadExchangeStreamCaptureMode(&mut mode) }, CUresult::SUCCESS);
    mode
}

#[test]
fn modes_say_which_threads_must_keep_still() {
    let _alone = alone();
    let context = context();
    let stream = stream(STREAM_NON_BLOCKING);
    let elsewhere = |own: u32| {
        let other = std::thread::spawn(move || {
            assert_eq!(cuCtxSetCurrent(context), CUresult::SUCCESS);
            exchange(own);
            pin()
        });
        other.join().unwrap()
    };
    let refused = CUresult::STREAM_CAPTURE_UNSUPPORTED;
    // Mode of the capture; own thread; other threads in the global and the thread-local mode.
    for (mode, here, global, local) in [
        (CAPTURE_GLOBAL, refused, refused, CUresult::SUCCESS),
        (CAPTURE_THREAD_LOCAL, refused, CUresult::SUCCESS, CUresult::SUCCESS),
        (CAPTURE_RELAXED, CUresult::SUCCESS, CUresult::SUCCESS, CUresult::SUCCESS),
    ] {
        for (attempt, code) in [
            (&(|| pin()) as &dyn Fn() -> CUresult, here),
            (&|| elsewhere(CAPTURE_GLOBAL), global),
            (&|| elsewhere(CAPTURE_THREAD_LOCAL), local),
            (&|| elsewhere(CAPTURE_RELAXED), CUresult::SUCCESS),
        ] {
            begin(stream, mode);
            assert_eq!(attempt(), code);
            let end = if code == refused { CUresult::STREAM_CAPTURE_INVALIDATED } else { CUresult::SUCCESS };
            assert_eq!(end_capture(stream).0, end);
        }
    }
    begin(stream, CAPTURE_GLOBAL);
    assert_eq!(exchange(CAPTURE_RELAXED), CAPTURE_GLOBAL);
    assert_eq!(pin(), CUresult::SUCCESS);
    assert_eq!(exchange(CAPTURE_GLOBAL), CAPTURE_RELAXED);
    assert_eq!(end_capture(stream).0, CUresult::SUCCESS);
}

#[test]
fn a_capture_tells_what_it_is() {
    let _alone = alone();
    context();
    let list = Mutex::new(Vec::new());
    let stream = stream(0);
    begin(stream, CAPTURE_RELAXED);
    assert_eq!(call(stream, &list), CUresult::SUCCESS);
    let (mut status, mut id, mut graph, mut array, mut count) = (0, 0, CUgraph::NULL, std::ptr::null(), 0);
    // SAFETY: the pointers are locals'; the array lives until the next question.
    unsafe {
        let code = cuStreamGetCaptureInfo_v2(
            stream,
            Out::from(&mut status),
            Out::from(&mut id),
            Out::from(&mut graph),
            Out::from(&mut array),
            Out::from(&mut count),
        );
        assert_eq!((code, status, count), (CUresult::SUCCESS, CAPTURE_STATUS_ACTIVE, 1));
        assert_eq!(*array, nodes(graph)[0]);
    }
    assert_ne!(id, 0);
    // It belongs to the capture until that ends.
    assert_eq!(cuGraphDestroy(graph), CUresult::INVALID_VALUE);
    assert_eq!(end_capture(stream), (CUresult::SUCCESS, graph));
    assert_eq!(cuGraphDestroy(graph), CUresult::SUCCESS);
}

#[test]
fn a_destroyed_stream_takes_its_capture_along() {
    let _alone = alone();
    context();
    let list = Mutex::new(Vec::new());
    let (main, side, fork) = (stream(0), stream(0), event(0));
    begin(main, CAPTURE_GLOBAL);
    assert_eq!(cuEventRecord(fork, main), CUresult::SUCCESS);
    assert_eq!(cuStreamWaitEvent(side, fork, 0), CUresult::SUCCESS);
    assert_eq!(cuStreamDestroy_v2(main), CUresult::SUCCESS);
    assert_eq!(capture_status(side), CAPTURE_STATUS_NONE);
    assert_eq!(pin(), CUresult::SUCCESS);

    // A side stream may go when it has been joined, and is missed when it has not.
    for (joined, code) in [(true, CUresult::SUCCESS), (false, CUresult::STREAM_CAPTURE_UNJOINED)] {
        let (main, side) = (stream(0), stream(0));
        begin(main, CAPTURE_RELAXED);
        assert_eq!(cuEventRecord(fork, main), CUresult::SUCCESS);
        assert_eq!(cuStreamWaitEvent(side, fork, 0), CUresult::SUCCESS);
        assert_eq!(call(side, &list), CUresult::SUCCESS);
        if joined {
            assert_eq!(cuEventRecord(fork, side), CUresult::SUCCESS);
            assert_eq!(cuStreamWaitEvent(main, fork, 0), CUresult::SUCCESS);
        }
        assert_eq!(cuStreamDestroy_v2(side), CUresult::SUCCESS);
        assert_eq!(end_capture(main).0, code);
    }
}

#[test]
fn events_recorded_by_a_graph_happen_at_its_launch() {
    let _alone = alone();
    context();
    let (stream, before, inside) = (stream(0), event(0), event(0));
    assert_eq!(cuEventRecord(before, stream), CUresult::SUCCESS);
    let graph = captured(stream, || {
        assert_eq!(cuEventRecordWithFlags(inside, stream, EVENT_EXTERNAL), CUresult::SUCCESS);
    });
    let mut milliseconds = 0.0;
    // SAFETY: the pointer is a local's.
    let elapsed =
        |milliseconds: &mut f32| unsafe { cuEventElapsedTime_v2(milliseconds.into(), before, inside) };
    assert_eq!(elapsed(&mut milliseconds), CUresult::INVALID_HANDLE);
    assert_eq!(cuGraphLaunch(instantiate(graph, 0), stream), CUresult::SUCCESS);
    assert_eq!(elapsed(&mut milliseconds), CUresult::SUCCESS);
    assert!(milliseconds > 0.0);
}

#[test]
fn instantiation_checks_its_flags() {
    let _alone = alone();
    context();
    let (mut graph, mut executable, mut node) = (CUgraph::NULL, CUgraphExec::NULL, CUgraphNode::NULL);
    // SAFETY: the pointers are locals'.
    unsafe {
        assert_eq!(cuGraphCreate(Out::from(&mut graph), 0), CUresult::SUCCESS);
        assert_eq!(cuGraphAddEmptyNode(Out::from(&mut node), graph, std::ptr::null(), 0), CUresult::SUCCESS);
        for flags in [4, 5, 16] {
            let code = cuGraphInstantiateWithFlags(Out::from(&mut executable), graph, flags);
            assert_eq!(code, CUresult::INVALID_VALUE);
        }
    }
    assert_eq!(nodes(graph), [node]);
    assert_eq!(cuGraphLaunch(instantiate(graph, 9), CUstream::NULL), CUresult::SUCCESS);
}
