//! What the tests share. Every test has a context of its own, so that a fault of one is none of another's.

// Not every test binary uses everything.
#![allow(dead_code)]

use std::ffi::{CString, c_void};

use simulated_cuda::*;

/// Starts the driver and makes a context current in this thread.
pub fn context() -> CUcontext {
    assert_eq!(cuInit(0), CUresult::SUCCESS);
    let mut context = CUcontext::NULL;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuCtxCreate_v2(Out::from(&mut context), 0, 0) }, CUresult::SUCCESS);
    context
}

/// Makes a stream with the given flags.
pub fn stream(flags: u32) -> CUstream {
    let mut stream = CUstream::NULL;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuStreamCreate(Out::from(&mut stream), flags) }, CUresult::SUCCESS);
    stream
}

/// Makes an event with the given flags.
pub fn event(flags: u32) -> CUevent {
    let mut event = CUevent::NULL;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuEventCreate(Out::from(&mut event), flags) }, CUresult::SUCCESS);
    event
}

/// Ends a capture: the code, and the graph.
pub fn end_capture(stream: CUstream) -> (CUresult, CUgraph) {
    let mut graph = CUgraph(1);
    // SAFETY: the pointer is a local's.
    let code = unsafe { cuStreamEndCapture(stream, Out::from(&mut graph)) };
    (code, graph)
}

/// The status of a stream's capture.
pub fn capture_status(stream: CUstream) -> u32 {
    let mut status = 99;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuStreamIsCapturing(stream, Out::from(&mut status)) }, CUresult::SUCCESS);
    status
}

/// Makes a graph executable.
pub fn instantiate(graph: CUgraph, flags: u64) -> CUgraphExec {
    let mut executable = CUgraphExec::NULL;
    // SAFETY: the pointer is a local's.
    let code = unsafe { cuGraphInstantiateWithFlags(Out::from(&mut executable), graph, flags) };
    assert_eq!(code, CUresult::SUCCESS);
    executable
}

/// The nodes of a graph.
pub fn nodes(graph: CUgraph) -> Vec<CUgraphNode> {
    let mut count = 0;
    // SAFETY: the first call only counts, the second has as many places.
    unsafe {
        assert_eq!(cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count), CUresult::SUCCESS);
        let mut nodes = vec![CUgraphNode::NULL; count];
        assert_eq!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count), CUresult::SUCCESS);
        nodes
    }
}

/// Allocates memory.
pub fn allocate(bytes: usize) -> CUdeviceptr {
    let mut address = 0;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuMemAlloc_v2(Out::from(&mut address), bytes) }, CUresult::SUCCESS);
    address
}

/// Copies numbers to the device.
pub fn write(to: CUdeviceptr, values: &[u32]) {
    // SAFETY: the slice has so many bytes.
    let code = unsafe { cuMemcpyHtoD_v2(to, values.as_ptr().cast(), size_of_val(values)) };
    assert_eq!(code, CUresult::SUCCESS);
}

/// Copies numbers from the device.
pub fn read(from: CUdeviceptr, count: usize) -> Vec<u32> {
    let mut values = vec![0_u32; count];
    // SAFETY: the vector has so many bytes.
    let code = unsafe { cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), from, 4 * count) };
    assert_eq!(code, CUresult::SUCCESS);
    values
}

/// Loads a module from PTX text.
pub fn module(ptx: &str) -> CUmodule {
    let text = CString::new(ptx).unwrap();
    let mut module = CUmodule::NULL;
    // SAFETY: the text ends with a zero byte.
    let code = unsafe { cuModuleLoadData(Out::from(&mut module), text.as_ptr().cast()) };
    assert_eq!(code, CUresult::SUCCESS);
    module
}

/// A module's kernel.
pub fn function(module: CUmodule, name: &str) -> CUfunction {
    let name = CString::new(name).unwrap();
    let mut function = CUfunction::NULL;
    // SAFETY: the name ends with a zero byte.
    let code = unsafe { cuModuleGetFunction(Out::from(&mut function), module, name.as_ptr()) };
    assert_eq!(code, CUresult::SUCCESS);
    function
}

/// Launches a kernel with one-dimensional sizes.
pub fn launch(
    function: CUfunction,
    grid: u32,
    block: u32,
    shared: u32,
    stream: CUstream,
    values: &[*const c_void],
) -> CUresult {
    // SAFETY: the tests give as many values as their kernels have parameters.
    unsafe {
        cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, values.as_ptr(), std::ptr::null())
    }
}

/// A pointer to a parameter.
pub fn value<T>(value: &T) -> *const c_void {
    std::ptr::from_ref(value).cast()
}
