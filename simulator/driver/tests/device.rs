//! Memory, modules, launches and faults: what the simulated card itself does.

mod common;

use std::ffi::c_void;

use common::*;
use simulated_cuda::*;

const KERNELS: &str = include_str!("kernels/kernels.ptx");

/// A kernel of `kernels.cu` in a module of its own.
fn kernel(name: &str) -> CUfunction {
    function(module(KERNELS), name)
}

fn attribute(function: CUfunction, attribute: i32) -> i32 {
    let mut value = -99;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuFuncGetAttribute(Out::from(&mut value), attribute, function) }, CUresult::SUCCESS);
    value
}

#[test]
fn memory_is_copied_and_filled() {
    context();
    let values: Vec<u32> = (0..1000).collect();
    let (first, second) = (allocate(4000), allocate(4000));
    assert_eq!(first % 512, 0);
    write(first, &values);
    assert_eq!(cuMemcpyDtoD_v2(second, first, 4000), CUresult::SUCCESS);
    assert_eq!(read(second, 1000), values);
    assert_eq!(cuMemsetD8_v2(second, 0x11, 4), CUresult::SUCCESS);
    assert_eq!(cuMemsetD16_v2(second + 4, 0x2222, 2), CUresult::SUCCESS);
    assert_eq!(cuMemsetD32_v2(second + 8, 0x3333_3333, 1), CUresult::SUCCESS);
    assert_eq!(read(second, 4), [0x1111_1111, 0x2222_2222, 0x3333_3333, 3]);
    assert_eq!(cuMemsetD32Async(second, 7, 1000, CUstream::NULL), CUresult::SUCCESS);
    assert_eq!(read(second + 3996, 1), [7]);

    // Addresses that say by themselves whose they are.
    let mut back = [0_u32; 4];
    let host = back.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the array has 16 bytes.
    unsafe {
        assert_eq!(cuMemcpy(host, first + 40, 16), CUresult::SUCCESS);
        assert_eq!(cuMemcpyAsync(second, host, 16, CU_STREAM_PER_THREAD), CUresult::SUCCESS);
    }
    assert_eq!(back, [10, 11, 12, 13]);
    assert_eq!(read(second, 4), back);
    assert_eq!(cuMemFree_v2(first), CUresult::SUCCESS);
    assert_eq!(cuMemFree_v2(first), CUresult::INVALID_VALUE);
    assert_eq!(cuMemFree_v2(second + 512), CUresult::INVALID_VALUE);
    assert_eq!(cuMemFree_v2(second), CUresult::SUCCESS);
}

#[test]
fn ranges_that_leave_their_allocation_are_refused() {
    context();
    let memory = allocate(1000);
    let mut bytes = [0_u8; 2000];
    let host = bytes.as_mut_ptr();
    // SAFETY: the array has as many bytes as are asked for.
    unsafe {
        assert_eq!(cuMemcpyHtoD_v2(memory, host.cast(), 1001), CUresult::INVALID_VALUE);
        assert_eq!(cuMemcpyDtoH_v2(host.cast(), memory + 999, 2), CUresult::INVALID_VALUE);
        assert_eq!(cuMemcpyDtoH_v2(host.cast(), 4096, 2), CUresult::INVALID_VALUE);
        assert_eq!(cuMemcpyHtoD_v2(memory, std::ptr::null(), 4), CUresult::INVALID_VALUE);
        assert_eq!(cuMemcpyHtoD_v2(memory, std::ptr::null(), 0), CUresult::SUCCESS);
    }
    assert_eq!(cuMemsetD8_v2(memory + 500, 0, 501), CUresult::INVALID_VALUE);
    assert_eq!(cuMemsetD32_v2(memory + 2, 0, 1), CUresult::INVALID_VALUE);
    // The context is none the worse.
    assert_eq!(cuCtxSynchronize(), CUresult::SUCCESS);
    assert_eq!(cuMemFree_v2(memory), CUresult::SUCCESS);
}

#[test]
fn rectangles_are_copied_row_by_row() {
    context();
    let (mut address, mut pitch) = (0, 0);
    // SAFETY: the pointers are locals'.
    let code = unsafe { cuMemAllocPitch_v2(Out::from(&mut address), Out::from(&mut pitch), 12, 3, 4) };
    assert_eq!((code, pitch), (CUresult::SUCCESS, 512));
    let source: Vec<u32> = (0..12).collect();
    let mut copy = CUDA_MEMCPY2D {
        srcXInBytes: 4,
        srcY: 1,
        srcMemoryType: MEMORY_HOST,
        srcHost: source.as_ptr().cast(),
        srcDevice: 0,
        srcArray: 0,
        srcPitch: 16,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: MEMORY_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: address,
        dstArray: 0,
        dstPitch: pitch,
        WidthInBytes: 12,
        Height: 2,
    };
    // SAFETY: the vector has 3 rows of 16 bytes.
    unsafe {
        assert_eq!(cuMemcpy2D_v2(&copy), CUresult::SUCCESS);
        assert_eq!(read(address, 3), [5, 6, 7]);
        assert_eq!(read(address + 512, 3), [9, 10, 11]);
        copy.srcPitch = 12;
        assert_eq!(cuMemcpy2D_v2(&copy), CUresult::INVALID_VALUE);
        copy.srcPitch = 16;
        copy.srcMemoryType = 3;
        assert_eq!(cuMemcpy2D_v2(&copy), CUresult::NOT_SUPPORTED);
    }
    assert_eq!(cuMemFree_v2(address), CUresult::SUCCESS);
}

#[test]
fn the_driver_knows_what_is_allocated() {
    let context = context();
    let memory = allocate(1000);
    let (mut base, mut bytes) = (0, 0);
    let (mut kind, mut owner, mut number) = (0_u32, 0_usize, 0_u64);
    let (mut free, mut total) = (0, 0);
    // SAFETY: the pointers are locals' of the attributes' types.
    unsafe {
        let code = cuMemGetAddressRange_v2(Out::from(&mut base), Out::from(&mut bytes), memory + 999);
        assert_eq!((code, base, bytes), (CUresult::SUCCESS, memory, 1000));
        let code = cuMemGetAddressRange_v2(Out::from(&mut base), Out::from(&mut bytes), memory + 1000);
        assert_eq!(code, CUresult::NOT_FOUND);
        assert_eq!(cuPointerGetAttribute((&raw mut kind).cast(), 2, memory + 4), CUresult::SUCCESS);
        assert_eq!(cuPointerGetAttribute((&raw mut owner).cast(), 1, memory + 4), CUresult::SUCCESS);
        assert_eq!(cuPointerGetAttribute((&raw mut number).cast(), 11, memory + 4), CUresult::SUCCESS);
        assert_eq!((kind, owner, number), (MEMORY_DEVICE, context.0, memory));
        assert_eq!(cuPointerGetAttribute((&raw mut kind).cast(), 4, memory), CUresult::INVALID_VALUE);
        let attributes = [2, 12];
        let places = [(&raw mut kind).cast::<c_void>(), (&raw mut number).cast()];
        let stack = (&raw const attributes).addr() as u64;
        let code = cuPointerGetAttributes(2, attributes.as_ptr(), places.as_ptr(), stack);
        assert_eq!((code, kind, number), (CUresult::SUCCESS, 0, 0));
        assert_eq!(cuMemGetInfo_v2(Out::from(&mut free), Out::from(&mut total)), CUresult::SUCCESS);
    }
    assert_eq!(total, 11 << 30);
    assert!(free <= total - 1000);
    assert_eq!(cuMemFree_v2(memory), CUresult::SUCCESS);
    let mut address = 0;
    // SAFETY: the pointer is a local's.
    unsafe {
        assert_eq!(cuMemAlloc_v2(Out::from(&mut address), 0), CUresult::INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(Out::from(&mut address), 12 << 30), CUresult::OUT_OF_MEMORY);
    }
    assert_eq!(cuCtxSynchronize(), CUresult::SUCCESS);
}

#[test]
fn kernels_compute() {
    context();
    let add = kernel("add");
    let stream = stream(STREAM_NON_BLOCKING);
    let count = 1000_u32;
    let numbers = |scale: f32| (0..count).map(|index| (index as f32 * scale).to_bits()).collect::<Vec<_>>();
    let (left, right, sum) = (allocate(4000), allocate(4000), allocate(4000));
    write(left, &numbers(1.0));
    write(right, &numbers(0.5));
    let values = [value(&left), value(&right), value(&sum), value(&count)];
    assert_eq!(launch(add, 8, 128, 0, stream, &values), CUresult::SUCCESS);
    assert_eq!(cuStreamSynchronize(stream), CUresult::SUCCESS);
    assert_eq!(read(sum, 1000), numbers(1.5));

    // The same by a buffer of parameters, and by a structure.
    assert_eq!(cuMemsetD8_v2(sum, 0, 4000), CUresult::SUCCESS);
    let buffer = [left, right, sum, u64::from(count)];
    let bytes = 28_usize;
    let extra = [
        std::ptr::without_provenance(LAUNCH_BUFFER_POINTER),
        buffer.as_ptr().cast(),
        std::ptr::without_provenance(LAUNCH_BUFFER_SIZE),
        (&raw const bytes).cast(),
        std::ptr::null(),
    ];
    let mut attribute = CUlaunchAttribute { id: 8, pad: [0; 4], value: [0; 16] };
    let config = CUlaunchConfig {
        gridDimX: 8,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 128,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream,
        attrs: &raw mut attribute,
        numAttrs: 1,
    };
    // SAFETY: the buffer has its 28 bytes, the list its end, and the structure its attribute.
    unsafe {
        assert_eq!(cuLaunchKernelEx(&config, add, std::ptr::null(), extra.as_ptr()), CUresult::SUCCESS);
        assert_eq!(read(sum, 1000), numbers(1.5));
        (&raw mut attribute.id).write(4);
        assert_eq!(cuLaunchKernelEx(&config, add, std::ptr::null(), extra.as_ptr()), CUresult::NOT_SUPPORTED);
        let cooperative = cuLaunchCooperativeKernel(add, 1, 1, 1, 1, 1, 1, 0, stream, values.as_ptr());
        assert_eq!(cooperative, CUresult::NOT_SUPPORTED);
    }
}

#[test]
fn variables_are_found_and_parameters_keep_their_places() {
    context();
    let module = module(KERNELS);
    let (mut factors, mut counter, mut bytes) = (0, 0, 0);
    // SAFETY: the pointers are locals'.
    unsafe {
        let code =
            cuModuleGetGlobal_v2(Out::from(&mut factors), Out::from(&mut bytes), module, c"factors".as_ptr());
        assert_eq!((code, bytes), (CUresult::SUCCESS, 16));
        let code = cuModuleGetGlobal_v2(Out::from(&mut counter), Out::null(), module, c"counter".as_ptr());
        assert_eq!(code, CUresult::SUCCESS);
        let code = cuModuleGetGlobal_v2(Out::null(), Out::null(), module, c"nothing".as_ptr());
        assert_eq!(code, CUresult::NOT_FOUND);
    }
    write(factors, &[1, 10, 100, 1000]);
    let memory = allocate(64);
    write(memory, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    let (which, offset) = (2_u8, 4_u64);
    let values = [value(&memory), value(&which), value(&offset)];
    assert_eq!(launch(function(module, "scale"), 1, 4, 0, CUstream::NULL, &values), CUresult::SUCCESS);
    assert_eq!(read(memory, 9), [0, 1, 2, 3, 400, 500, 600, 700, 8]);

    assert_eq!(launch(function(module, "count"), 3, 40, 0, CUstream::NULL, &[]), CUresult::SUCCESS);
    assert_eq!(read(counter, 1), [120]);

    let scale = function(module, "scale");
    let (mut at, mut size) = (0, 0);
    // SAFETY: the pointers are locals'.
    unsafe {
        let code = cuFuncGetParamInfo(scale, 1, Out::from(&mut at), Out::from(&mut size));
        assert_eq!((code, at, size), (CUresult::SUCCESS, 8, 1));
        let code = cuFuncGetParamInfo(scale, 2, Out::from(&mut at), Out::from(&mut size));
        assert_eq!((code, at, size), (CUresult::SUCCESS, 16, 8));
        let code = cuFuncGetParamInfo(scale, 3, Out::from(&mut at), Out::from(&mut size));
        assert_eq!(code, CUresult::INVALID_VALUE);
    }
}

#[test]
fn kernels_describe_themselves() {
    context();
    let module = module(KERNELS);
    let bounded = function(module, "bounded");
    assert_eq!(bounded, function(module, "bounded"));
    assert_eq!(attribute(bounded, 0), 128);
    assert_eq!(attribute(bounded, 1), 1024);
    assert_eq!(attribute(bounded, 5), 75);
    assert_eq!(attribute(bounded, 8), 48 * 1024 - 1024);
    let (mut name, mut owner, mut missing, mut count) =
        (std::ptr::null(), CUmodule::NULL, CUfunction::NULL, 0);
    // SAFETY: the pointers are locals'; the name lives as long as the module.
    unsafe {
        assert_eq!(cuFuncGetName(Out::from(&mut name), bounded), CUresult::SUCCESS);
        assert_eq!(std::ffi::CStr::from_ptr(name), c"bounded");
        assert_eq!(cuFuncGetModule(Out::from(&mut owner), bounded), CUresult::SUCCESS);
        assert_eq!(owner, module);
        let code = cuModuleGetFunction(Out::from(&mut missing), module, c"nothing".as_ptr());
        assert_eq!(code, CUresult::NOT_FOUND);
        assert_eq!(cuModuleGetFunctionCount(Out::from(&mut count), module), CUresult::SUCCESS);
        assert_eq!(count, 8);
    }
    assert_eq!(cuModuleUnload(module), CUresult::SUCCESS);
    assert_eq!(cuFuncSetAttribute(bounded, 8, 0), CUresult::INVALID_HANDLE);
    assert_eq!(cuModuleUnload(module), CUresult::INVALID_HANDLE);
}

#[test]
fn launches_that_the_card_cannot_do_are_refused() {
    context();
    let module = module(KERNELS);
    let (rotate, bounded) = (function(module, "rotate"), function(module, "bounded"));
    let memory = allocate(4096);
    let values = [value(&memory)];
    let at = |grid, block| {
        let [x, y, z]: [u32; 3] = block;
        let [columns, rows, layers]: [u32; 3] = grid;
        // SAFETY: the kernel has one parameter.
        unsafe {
            let parameters = values.as_ptr();
            cuLaunchKernel(
                rotate,
                columns,
                rows,
                layers,
                x,
                y,
                z,
                4096,
                CUstream::NULL,
                parameters,
                std::ptr::null(),
            )
        }
    };
    for (grid, block) in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [1, 0, 1]),
        ([1, 65536, 1], [1, 1, 1]),
        ([1, 1, 65536], [1, 1, 1]),
        ([1 << 31, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [1025, 1, 1]),
        ([1, 1, 1], [32, 33, 1]),
        ([1, 1, 1], [1, 1, 65]),
    ] {
        assert_eq!(at(grid, block), CUresult::INVALID_VALUE);
    }
    assert_eq!(at([1, 1, 1], [1024, 1, 1]), CUresult::SUCCESS);
    assert_eq!(launch(bounded, 1, 129, 0, CUstream::NULL, &values), CUresult::INVALID_VALUE);
    assert_eq!(launch(bounded, 1, 128, 0, CUstream::NULL, &values), CUresult::SUCCESS);
    assert_eq!(read(memory, 2), [127, 126]);
    // No parameters at all.
    // SAFETY: null for the parameters is refused.
    let code = unsafe {
        cuLaunchKernel(bounded, 1, 1, 1, 1, 1, 1, 0, CUstream::NULL, std::ptr::null(), std::ptr::null())
    };
    assert_eq!(code, CUresult::INVALID_VALUE);
    assert_eq!(cuCtxSynchronize(), CUresult::SUCCESS);
    assert_eq!(cuMemFree_v2(memory), CUresult::SUCCESS);
}

#[test]
fn more_shared_memory_has_to_be_asked_for() {
    context();
    let rotate = kernel("rotate");
    let bounded = kernel("bounded");
    let memory = allocate(4096);
    let run = |shared| launch(rotate, 1, 64, shared, CUstream::NULL, &[value(&memory)]);
    assert_eq!(run(48 * 1024), CUresult::SUCCESS);
    assert_eq!(run(48 * 1024 + 4), CUresult::INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(rotate, 8, 65537), CUresult::INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(rotate, 8, -1), CUresult::INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(rotate, 8, 65536), CUresult::SUCCESS);
    assert_eq!(attribute(rotate, 8), 65536);
    assert_eq!(run(65536), CUresult::SUCCESS);
    assert_eq!(read(memory, 64)[62..], [63, 0]);
    // 1 KiB is taken by the kernel itself.
    assert_eq!(cuFuncSetAttribute(bounded, 8, 65536), CUresult::INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(bounded, 8, 64512), CUresult::SUCCESS);
    assert_eq!(cuFuncSetAttribute(bounded, 1, 0), CUresult::INVALID_VALUE);
    let mut blocks = 0;
    let mut bytes = 0;
    // SAFETY: the pointers are locals'.
    unsafe {
        let code = cuOccupancyMaxActiveBlocksPerMultiprocessor(Out::from(&mut blocks), bounded, 128, 0);
        assert_eq!((code, blocks), (CUresult::SUCCESS, 8));
        let code = cuOccupancyAvailableDynamicSMemPerBlock(Out::from(&mut bytes), bounded, 2, 128);
        assert_eq!((code, bytes), (CUresult::SUCCESS, 32768 - 1024));
        let (mut grid, mut block) = (0, 0);
        let code = cuOccupancyMaxPotentialBlockSize(
            Out::from(&mut grid),
            Out::from(&mut block),
            bounded,
            None,
            0,
            0,
        );
        assert_eq!((code, grid, block), (CUresult::SUCCESS, 8 * 68, 128));
    }
    assert_eq!(cuMemFree_v2(memory), CUresult::SUCCESS);
}

#[test]
fn modules_come_from_fat_binaries_and_files() {
    context();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/lz4.fatbin");
    let file = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    let (mut module, mut library, mut twice) = (CUmodule::NULL, CUlibrary::NULL, CUkernel::NULL);
    let image = include_bytes!("images/zstd.fatbin").as_ptr().cast();
    let memory = allocate(16);
    let count = 4_u32;
    // SAFETY: the images are whole, the names end with a zero byte.
    unsafe {
        assert_eq!(cuModuleLoadData(Out::from(&mut module), image), CUresult::SUCCESS);
        assert_eq!(cuModuleUnload(module), CUresult::SUCCESS);
        assert_eq!(cuModuleLoad(Out::from(&mut module), c"/nothing/here".as_ptr()), CUresult::FILE_NOT_FOUND);
        assert_eq!(cuModuleLoad(Out::from(&mut module), file.as_ptr()), CUresult::SUCCESS);
        let (none, nowhere) = (std::ptr::null_mut(), std::ptr::null_mut());
        let code = cuLibraryLoadData(Out::from(&mut library), image, none, nowhere, 0, none, nowhere, 0);
        assert_eq!(code, CUresult::SUCCESS);
        let code = cuLibraryGetKernel(Out::from(&mut twice), library, c"twice".as_ptr());
        assert_eq!(code, CUresult::SUCCESS);
    }
    for (function, result) in [(function(module, "twice"), 3.0_f32), (CUfunction(twice.0), 6.0)] {
        if result == 3.0 {
            write(memory, &[1.5_f32.to_bits(); 4]);
        }
        let code = launch(function, 1, 32, 0, CUstream::NULL, &[value(&memory), value(&count)]);
        assert_eq!(code, CUresult::SUCCESS);
        assert_eq!(read(memory, 4), [result.to_bits(); 4]);
    }
    assert_eq!(cuLibraryUnload(library), CUresult::SUCCESS);
    assert_eq!(cuMemFree_v2(memory), CUresult::SUCCESS);
}

#[test]
fn what_is_no_ptx_is_told_in_the_log() {
    context();
    let mut module = CUmodule::NULL;
    let mut log = [1_i8; 200];
    let options = [5, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    // SAFETY: the log has as many bytes as the option says.
    let code = unsafe {
        let text = c".version 8.0\n.target sm_75\nnonsense".as_ptr().cast();
        cuModuleLoadDataEx(Out::from(&mut module), text, 2, options.as_ptr(), values.as_mut_ptr())
    };
    assert_eq!(code, CUresult::INVALID_PTX);
    let written = values[1].addr();
    assert!(written > 0 && written < log.len());
    assert_eq!(log[written], 0);
    assert!(log[..written].iter().all(|byte| *byte != 0));
}

/// Runs a kernel that goes wrong and checks that its context is broken until it is gone.
fn breaks(name: &str, block: u32, shared: u32, values: &[*const c_void], code: CUresult) {
    let broken = context();
    let function = kernel(name);
    let memory = allocate(16);
    assert_eq!(launch(function, 1, block, shared, CUstream::NULL, values), code);
    assert_eq!(cuCtxSynchronize(), code);
    assert_eq!(cuMemFree_v2(memory), code);
    assert_eq!(launch(function, 1, block, shared, CUstream::NULL, values), code);
    let mut address = 0;
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuMemAlloc_v2(Out::from(&mut address), 16) }, code);
    assert_eq!(cuCtxDestroy_v2(broken), CUresult::SUCCESS);
    // Others have nothing to do with it.
    let other = context();
    let memory = allocate(16);
    assert_eq!(cuMemFree_v2(memory), CUresult::SUCCESS);
    assert_eq!(cuCtxDestroy_v2(other), CUresult::SUCCESS);
}

#[test]
fn a_fault_breaks_its_context() {
    let holder = context();
    let memory = allocate(4096);
    let (inside, beyond) = (2_u64, 4096_u64);
    let store = |offset| [value(&memory), value(offset)];
    breaks("store", 1, 0, &store(&beyond), CUresult::ILLEGAL_ADDRESS);
    breaks("store", 1, 0, &store(&inside), CUresult::MISALIGNED_ADDRESS);
    let when = 3_u32;
    breaks("stop", 4, 0, &[value(&when)], CUresult::ASSERT);
    breaks("race", 128, 512, &[value(&memory)], CUresult::LAUNCH_FAILED);
    assert_eq!(cuCtxSetCurrent(holder), CUresult::SUCCESS);
    // A use after the free is found, too.
    assert_eq!(cuMemFree_v2(memory), CUresult::SUCCESS);
    let start = 0_u64;
    breaks("store", 1, 0, &store(&start), CUresult::ILLEGAL_ADDRESS);
}

#[test]
fn graphs_launch_kernels_with_the_parameters_of_their_capture() {
    context();
    let (add, stream) = (kernel("add"), stream(STREAM_NON_BLOCKING));
    let count = 4_u32;
    let (left, sum) = (allocate(16), allocate(16));
    let mut input = [1.0_f32, 2.0, 3.0, 4.0];
    let mut output = [0.0_f32; 4];
    assert_eq!(cuStreamBeginCapture_v2(stream, CAPTURE_THREAD_LOCAL), CUresult::SUCCESS);
    // SAFETY: the arrays outlive the graph.
    unsafe {
        let from = input.as_ptr().cast();
        assert_eq!(cuMemcpyHtoDAsync_v2(left, from, 16, stream), CUresult::SUCCESS);
        {
            let (first, second, third) = (left, left, sum);
            let values = [value(&first), value(&second), value(&third), value(&count)];
            assert_eq!(launch(add, 1, 32, 0, stream, &values), CUresult::SUCCESS);
        }
        let to = output.as_mut_ptr().cast();
        assert_eq!(cuMemcpyDtoHAsync_v2(to, sum, 16, stream), CUresult::SUCCESS);
    }
    let (code, graph) = end_capture(stream);
    assert_eq!((code, nodes(graph).len(), output), (CUresult::SUCCESS, 3, [0.0; 4]));
    let executable = instantiate(graph, 0);
    assert_eq!(cuGraphLaunch(executable, stream), CUresult::SUCCESS);
    // SAFETY: reads and writes of the arrays that the launches do through pointers.
    unsafe {
        assert_eq!((&raw const output).read_volatile(), [2.0, 4.0, 6.0, 8.0]);
        (&raw mut input).write_volatile([10.0; 4]);
        assert_eq!(cuGraphLaunch(executable, stream), CUresult::SUCCESS);
        assert_eq!((&raw const output).read_volatile(), [20.0; 4]);
    }
}

#[test]
fn calls_that_a_capture_cannot_hold_invalidate_it() {
    // The mode is the thread's own: other tests run beside this one.
    context();
    let stream = stream(STREAM_NON_BLOCKING);
    let memory = allocate(16);
    let mut address = 0;
    let calls: [&dyn Fn() -> CUresult; 4] = [
        &|| {
            let mut other = 0;
            // SAFETY: the pointer is a local's.
            unsafe { cuMemAlloc_v2(Out::from(&mut other), 16) }
        },
        &|| cuMemFree_v2(memory),
        &|| cuMemsetD8_v2(memory, 0, 16),
        &|| cuCtxSynchronize(),
    ];
    for forbidden in calls {
        assert_eq!(cuStreamBeginCapture_v2(stream, CAPTURE_THREAD_LOCAL), CUresult::SUCCESS);
        assert_eq!(forbidden(), CUresult::STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end_capture(stream).0, CUresult::STREAM_CAPTURE_INVALIDATED);
    }
    // A relaxed capture allows it.
    assert_eq!(cuStreamBeginCapture_v2(stream, CAPTURE_RELAXED), CUresult::SUCCESS);
    // SAFETY: the pointer is a local's.
    assert_eq!(unsafe { cuMemAlloc_v2(Out::from(&mut address), 16) }, CUresult::SUCCESS);
    assert_eq!(end_capture(stream).0, CUresult::SUCCESS);
    assert_eq!(cuMemFree_v2(address), CUresult::SUCCESS);
    assert_eq!(cuMemFree_v2(memory), CUresult::SUCCESS);
}

#[test]
fn graphs_have_memory_of_their_own() {
    context();
    let (rotate, stream) = (kernel("rotate"), stream(STREAM_NON_BLOCKING));
    let result = allocate(128);
    let capture = |free: bool| {
        let mut inner = 0;
        assert_eq!(cuStreamBeginCapture_v2(stream, CAPTURE_THREAD_LOCAL), CUresult::SUCCESS);
        // SAFETY: the pointer is a local's.
        assert_eq!(unsafe { cuMemAllocAsync(Out::from(&mut inner), 128, stream) }, CUresult::SUCCESS);
        assert_eq!(launch(rotate, 1, 32, 128, stream, &[value(&inner)]), CUresult::SUCCESS);
        assert_eq!(cuMemcpyDtoDAsync_v2(result, inner, 128, stream), CUresult::SUCCESS);
        if free {
            assert_eq!(cuMemFreeAsync(inner, stream), CUresult::SUCCESS);
        }
        let (code, graph) = end_capture(stream);
        assert_eq!(code, CUresult::SUCCESS);
        (graph, inner)
    };
    let (graph, inner) = capture(true);
    let executable = instantiate(graph, 0);
    // Not allocated outside of a launch.
    assert_eq!(cuMemFree_v2(inner), CUresult::INVALID_VALUE);
    for _ in 0..2 {
        assert_eq!(cuGraphLaunch(executable, stream), CUresult::SUCCESS);
    }
    assert_eq!(read(result, 32)[30..], [31, 0]);
    assert_eq!(cuGraphExecDestroy(executable), CUresult::SUCCESS);
    assert_eq!(cuGraphDestroy(graph), CUresult::SUCCESS);

    // What a launch leaves allocated is the program's to free before the next one.
    let (graph, inner) = capture(false);
    let executable = instantiate(graph, 0);
    assert_eq!(cuGraphLaunch(executable, stream), CUresult::SUCCESS);
    assert_eq!(cuGraphLaunch(executable, stream), CUresult::INVALID_VALUE);
    assert_eq!(cuMemFreeAsync(inner, stream), CUresult::SUCCESS);
    assert_eq!(cuGraphLaunch(executable, stream), CUresult::SUCCESS);
    assert_eq!(cuGraphExecDestroy(executable), CUresult::SUCCESS);
    let freeing = instantiate(graph, GRAPH_AUTO_FREE_ON_LAUNCH);
    assert_eq!(cuGraphLaunch(freeing, stream), CUresult::SUCCESS);
    assert_eq!(cuGraphExecDestroy(freeing), CUresult::SUCCESS);
    assert_eq!(cuGraphDestroy(graph), CUresult::SUCCESS);
    // The graphs are gone, the memory of the last launch is not.
    assert_eq!(cuMemFree_v2(inner), CUresult::SUCCESS);
    assert_eq!(cuMemFree_v2(result), CUresult::SUCCESS);
}
