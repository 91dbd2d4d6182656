//! Launches and occupancy.

use std::ffi::{c_int, c_uint, c_void};

use simulator::Dimensions;

use crate::device::{BLOCK, BLOCKS, GRID, MULTIPROCESSORS, REGISTERS, SHARED, THREADS};
use crate::error::{CUresult, Outcome, call, explain};
use crate::module::registers;
use crate::operation::{Operation, submit};
use crate::state::{Function, state};
use crate::types::*;

/// The kernel for a launch, after its sizes were checked.
fn prepare(
    name: &str,
    handle: CUfunction,
    grid: Dimensions,
    block: Dimensions,
    shared: u32,
) -> Outcome<simulator::Function> {
    let state = state()?;
    let context = state.current()?;
    let function = state
        .functions
        .get(&handle)
        .filter(|function| function.context == context)
        .ok_or(CUresult::INVALID_HANDLE)?;
    let refuse = |text: String| {
        explain(name, &format!("{}: {text}", function.name.to_string_lossy()));
        Err(CUresult::INVALID_VALUE)
    };
    if (0..3).any(|axis| grid[axis] == 0 || grid[axis] > GRID[axis]) {
        return refuse(format!("a grid of {grid:?} blocks; it can be 1 to {GRID:?}"));
    }
    if (0..3).any(|axis| block[axis] == 0 || block[axis] > BLOCK[axis]) {
        return refuse(format!("a block of {block:?} threads; it can be 1 to {BLOCK:?}"));
    }
    let threads: u64 = block.iter().map(|size| u64::from(*size)).product();
    let most = function.function.max_threads().min(THREADS);
    if threads > u64::from(most) {
        return refuse(format!("a block of {threads} threads; this kernel can have {most}"));
    }
    let used = function.function.static_shared();
    if shared > function.max_dynamic_shared || u64::from(shared) + u64::from(used) > u64::from(SHARED) {
        return refuse(format!(
            "{shared} bytes of dynamic shared memory beside {used} static ones; it can have {}, and up to {} when \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES says so",
            function.max_dynamic_shared,
            SHARED.saturating_sub(used),
        ));
    }
    Ok(function.function.clone())
}

/// Packs parameters as the kernel wants them.
///
/// # Safety
/// `values` is null or has a pointer for every parameter, which points to as many bytes as the parameter has; `extra` is
/// null or a list of names and pointers that ends with a null name.
unsafe fn pack(
    name: &str,
    layout: &[(u64, u64)],
    values: *const *const c_void,
    extra: *const *const c_void,
) -> Outcome<Vec<u8>> {
    let length = layout.iter().map(|(offset, bytes)| offset + bytes).max().unwrap_or(0) as usize;
    if !values.is_null() && !extra.is_null() {
        explain(name, "parameters both as pointers and as a buffer");
        return Err(CUresult::INVALID_VALUE);
    }
    let mut packed = vec![0; length];
    if !extra.is_null() {
        let (mut buffer, mut bytes) = (std::ptr::null::<u8>(), std::ptr::null::<usize>());
        let mut at = extra;
        // SAFETY: the caller promises names and pointers up to a null name.
        unsafe {
            while !(*at).is_null() {
                match (*at).addr() {
                    LAUNCH_BUFFER_POINTER => buffer = (*at.add(1)).cast(),
                    LAUNCH_BUFFER_SIZE => bytes = (*at.add(1)).cast(),
                    _ => return Err(CUresult::INVALID_VALUE),
                }
                at = at.add(2);
            }
        }
        if length == 0 {
            return Ok(packed);
        }
        // SAFETY: the caller promises that the size may be read.
        if buffer.is_null() || bytes.is_null() || unsafe { *bytes } < length {
            explain(name, &format!("a buffer of parameters that is missing or shorter than {length} bytes"));
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the buffer has as many bytes as its size says, which are enough.
        unsafe { std::ptr::copy_nonoverlapping(buffer, packed.as_mut_ptr(), length) };
        return Ok(packed);
    }
    if values.is_null() && !layout.is_empty() {
        explain(name, "no parameters, but the kernel has some");
        return Err(CUresult::INVALID_VALUE);
    }
    for (index, (offset, bytes)) in layout.iter().enumerate() {
        // SAFETY: the caller promises a pointer for every parameter.
        let value: *const u8 = unsafe { *values.add(index) }.cast();
        if value.is_null() {
            explain(name, &format!("parameter {index} is null"));
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the caller promises as many bytes as the parameter has; they end within `length`.
        unsafe {
            std::ptr::copy_nonoverlapping(value, packed.as_mut_ptr().add(*offset as usize), *bytes as usize)
        };
    }
    Ok(packed)
}

/// Launches a kernel.
///
/// # Safety
/// As for [`pack`].
#[allow(clippy::too_many_arguments)] // those of the C function
unsafe fn launch(
    name: &str,
    function: CUfunction,
    grid: Dimensions,
    block: Dimensions,
    shared: u32,
    stream: CUstream,
    values: *const *const c_void,
    extra: *const *const c_void,
) -> Outcome {
    let function = prepare(name, function, grid, block, shared)?;
    // SAFETY: as the caller promises.
    let parameters = unsafe { pack(name, function.parameters(), values, extra) }?;
    submit(name, stream, Operation::Launch { function, grid, block, dynamic_shared: shared, parameters })
}

/// Launches a kernel. What goes wrong in it is found before the call returns.
///
/// # Safety
/// `values` is null or has a pointer for every parameter, which points to as many bytes as the parameter has; `extra` is
/// null or a list of names and pointers that ends with a null name.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)] // those of the C function
pub unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: CUstream,
    values: *const *const c_void,
    extra: *const *const c_void,
) -> CUresult {
    call("cuLaunchKernel", || {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        // SAFETY: as the caller promises.
        unsafe { launch("cuLaunchKernel", function, grid, block, shared, stream, values, extra) }
    })
}

/// Checks a launch's attributes: hints are taken without effect, what would change the meaning is refused.
fn attributes(attributes: &[CUlaunchAttribute]) -> Outcome {
    let refuse = |what: &str| {
        explain("cuLaunchKernelEx", &format!("{what} is not simulated"));
        Err(CUresult::NOT_SUPPORTED)
    };
    for attribute in attributes {
        match attribute.id {
            // Nothing, access policy, synchronisation policy, priority, memory domains, carveout.
            0 | 1 | 3 | 8 | 9 | 10 | 14 => {}
            2 if attribute.value[0] != 0 => return refuse("a cooperative launch"),
            6 if attribute.value[0] != 0 => return refuse("an overlap with the launch before"),
            2 | 6 => {}
            4 | 5 | 11 => return refuse("a cluster of blocks"),
            7 | 12 => return refuse("an event within a launch"),
            13 => return refuse("a node that the device updates"),
            other => return refuse(&format!("launch attribute {other}")),
        }
    }
    Ok(())
}

/// Launches a kernel with attributes.
///
/// # Safety
/// `config` is null or may be read, with as many attributes as it says; the rest as for [`cuLaunchKernel`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const CUlaunchConfig,
    function: CUfunction,
    values: *const *const c_void,
    extra: *const *const c_void,
) -> CUresult {
    call("cuLaunchKernelEx", || {
        state()?.current()?;
        // SAFETY: the caller promises that it may be read.
        let config = unsafe { config.as_ref() }.ok_or(CUresult::INVALID_VALUE)?;
        if config.numAttrs > 0 {
            if config.attrs.is_null() {
                return Err(CUresult::INVALID_VALUE);
            }
            // SAFETY: the caller promises so many attributes.
            attributes(unsafe { std::slice::from_raw_parts(config.attrs, config.numAttrs as usize) })?;
        }
        let grid = [config.gridDimX, config.gridDimY, config.gridDimZ];
        let block = [config.blockDimX, config.blockDimY, config.blockDimZ];
        // SAFETY: as the caller promises.
        unsafe {
            launch(
                "cuLaunchKernelEx",
                function,
                grid,
                block,
                config.sharedMemBytes,
                config.hStream,
                values,
                extra,
            )
        }
    })
}

/// Blocks of the simulated card do not run at the same time, so none may wait for another.
///
/// # Safety
/// As for [`cuLaunchKernel`].
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)] // those of the C function
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: CUfunction,
    _grid_x: c_uint,
    _grid_y: c_uint,
    _grid_z: c_uint,
    _block_x: c_uint,
    _block_y: c_uint,
    _block_z: c_uint,
    _shared: c_uint,
    _stream: CUstream,
    _values: *const *const c_void,
) -> CUresult {
    call("cuLaunchCooperativeKernel", || {
        let state = state()?;
        state.current()?;
        state.functions.get(&function).ok_or(CUresult::INVALID_HANDLE)?;
        explain(
            "cuLaunchCooperativeKernel",
            "cooperative launches are not simulated: blocks run one after the other, so they cannot wait for each other",
        );
        Err(CUresult::NOT_SUPPORTED)
    })
}

// ---- occupancy ----

/// What limits how many blocks a multiprocessor has at a time.
#[derive(Debug, Clone, Copy)]
struct Needs {
    max_threads: u32,
    registers: u32,
    static_shared: u32,
    max_dynamic_shared: u32,
}

impl Needs {
    fn of(function: &Function) -> Needs {
        Needs {
            max_threads: function.function.max_threads(),
            registers: registers(&function.function),
            static_shared: function.function.static_shared(),
            max_dynamic_shared: function.max_dynamic_shared,
        }
    }

    /// Blocks of so many threads and so much dynamic shared memory that a multiprocessor of compute capability 7.5 has at
    /// a time: limited by slots, warps, registers (given to warps by 256, in four parts of the multiprocessor) and shared
    /// memory (by 256 bytes).
    fn blocks(self, threads: u32, dynamic_shared: usize) -> u32 {
        if threads == 0 || threads > self.max_threads || dynamic_shared > self.max_dynamic_shared as usize {
            return 0;
        }
        let warps = threads.div_ceil(32);
        let by_warps = (THREADS / 32) / warps;
        let for_warp = (self.registers.max(1) * 32).next_multiple_of(256);
        let by_registers = (REGISTERS / 4 / for_warp * 4) / warps;
        let shared = (self.static_shared + dynamic_shared as u32).next_multiple_of(256);
        let by_shared = SHARED.checked_div(shared).unwrap_or(BLOCKS);
        by_warps.min(by_registers).min(by_shared).min(BLOCKS)
    }
}

fn needs(function: CUfunction) -> Outcome<Needs> {
    let state = state()?;
    state.current()?;
    Ok(Needs::of(state.functions.get(&function).ok_or(CUresult::INVALID_HANDLE)?))
}

fn active_blocks(
    count: Out<c_int>,
    function: CUfunction,
    threads: c_int,
    dynamic: usize,
    flags: c_uint,
) -> Outcome {
    count.check()?;
    let needs = needs(function)?;
    let threads =
        u32::try_from(threads).ok().filter(|threads| *threads > 0).ok_or(CUresult::INVALID_VALUE)?;
    if flags > 1 {
        return Err(CUresult::INVALID_VALUE);
    }
    count.set(needs.blocks(threads, dynamic) as c_int)
}

/// Blocks that a multiprocessor has at a time.
///
/// # Safety
/// `count` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    count: Out<c_int>,
    function: CUfunction,
    threads: c_int,
    dynamic: usize,
) -> CUresult {
    call("cuOccupancyMaxActiveBlocksPerMultiprocessor", || {
        active_blocks(count, function, threads, dynamic, 0)
    })
}

/// Blocks that a multiprocessor has at a time; the flag changes nothing on this card.
///
/// # Safety
/// `count` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    count: Out<c_int>,
    function: CUfunction,
    threads: c_int,
    dynamic: usize,
    flags: c_uint,
) -> CUresult {
    call("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", || {
        active_blocks(count, function, threads, dynamic, flags)
    })
}

/// The size of a block with the most threads at a time, the largest where several have them.
fn best_block(needs: Needs, limit: c_int, dynamic: impl Fn(u32) -> usize) -> (u32, u32) {
    let limit = u32::try_from(limit)
        .ok()
        .filter(|limit| *limit > 0)
        .unwrap_or(needs.max_threads)
        .min(needs.max_threads);
    let mut best = (0, 0);
    let mut threads = limit;
    while threads > 0 {
        let blocks = needs.blocks(threads, dynamic(threads));
        if blocks * threads > best.0 * best.1 {
            best = (blocks, threads);
        }
        // Whole warps, after a limit that may be none.
        threads = (threads - 1) / 32 * 32;
    }
    best
}

/// Finds the size of a block.
///
/// # Safety
/// `dynamic_of` may be called with any size of a block.
unsafe fn potential_block(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: CUfunction,
    dynamic_of: Option<CUoccupancyB2DSize>,
    dynamic: usize,
    limit: c_int,
    flags: c_uint,
) -> Outcome {
    grid.check()?;
    block.check()?;
    let needs = needs(function)?;
    if limit < 0 || flags > 1 {
        return Err(CUresult::INVALID_VALUE);
    }
    let (blocks, threads) = best_block(needs, limit, |threads| match dynamic_of {
        // SAFETY: as the caller promises. No lock is held here.
        Some(function) => unsafe { function(threads as c_int) },
        None => dynamic,
    });
    grid.set(blocks as c_int * MULTIPROCESSORS)?;
    block.set(threads as c_int)
}

/// The size of a block that fills the card best, and the least grid that does.
///
/// # Safety
/// `grid` and `block` are null or may be written; `dynamic_of` may be called with any size of a block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: CUfunction,
    dynamic_of: Option<CUoccupancyB2DSize>,
    dynamic: usize,
    limit: c_int,
) -> CUresult {
    // SAFETY: as the caller promises.
    call("cuOccupancyMaxPotentialBlockSize", || unsafe {
        potential_block(grid, block, function, dynamic_of, dynamic, limit, 0)
    })
}

/// As [`cuOccupancyMaxPotentialBlockSize`]; the flag changes nothing on this card.
///
/// # Safety
/// As for [`cuOccupancyMaxPotentialBlockSize`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: CUfunction,
    dynamic_of: Option<CUoccupancyB2DSize>,
    dynamic: usize,
    limit: c_int,
    flags: c_uint,
) -> CUresult {
    // SAFETY: as the caller promises.
    call("cuOccupancyMaxPotentialBlockSizeWithFlags", || unsafe {
        potential_block(grid, block, function, dynamic_of, dynamic, limit, flags)
    })
}

/// Dynamic shared memory that each of so many blocks can have on a multiprocessor at a time.
///
/// # Safety
/// `bytes` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: CUfunction,
    blocks: c_int,
    threads: c_int,
) -> CUresult {
    call("cuOccupancyAvailableDynamicSMemPerBlock", || {
        bytes.check()?;
        let needs = needs(function)?;
        let (Ok(blocks), Ok(threads)) = (u32::try_from(blocks), u32::try_from(threads)) else {
            return Err(CUresult::INVALID_VALUE);
        };
        // So many blocks must fit in everything else first.
        if blocks == 0 || threads == 0 || needs.blocks(threads, 0) < blocks {
            return Err(CUresult::INVALID_VALUE);
        }
        let share = SHARED / blocks / 256 * 256;
        bytes.set(share.saturating_sub(needs.static_shared).min(needs.max_dynamic_shared) as usize)
    })
}

/// This card has no clusters of blocks.
///
/// # Safety
/// None: nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveClusters(
    _count: Out<c_int>,
    _function: CUfunction,
    _config: *const CUlaunchConfig,
) -> CUresult {
    call("cuOccupancyMaxActiveClusters", || {
        state()?.current()?;
        Err(CUresult::NOT_SUPPORTED)
    })
}

/// This card has no clusters of blocks.
///
/// # Safety
/// None: nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialClusterSize(
    _size: Out<c_int>,
    _function: CUfunction,
    _config: *const CUlaunchConfig,
) -> CUresult {
    call("cuOccupancyMaxPotentialClusterSize", || {
        state()?.current()?;
        Err(CUresult::NOT_SUPPORTED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Needs =
        Needs { max_threads: 1024, registers: 64, static_shared: 0, max_dynamic_shared: 49152 };

    /// Values of the occupancy calculator for compute capability 7.5.
    #[test]
    fn blocks_are_limited_by_each_resource() {
        assert_eq!(PLAIN.blocks(1024, 0), 1);
        assert_eq!(PLAIN.blocks(256, 0), 4);
        assert_eq!(PLAIN.blocks(32, 0), 16);
        assert_eq!(PLAIN.blocks(33, 0), 16);
        assert_eq!(PLAIN.blocks(96, 0), 10);
        assert_eq!(PLAIN.blocks(128, 16384), 4);
        assert_eq!(PLAIN.blocks(128, 16385), 3);
        assert_eq!(Needs { registers: 128, ..PLAIN }.blocks(256, 0), 2);
        assert_eq!(Needs { registers: 255, ..PLAIN }.blocks(512, 0), 0);
        assert_eq!(Needs { static_shared: 40000, ..PLAIN }.blocks(64, 0), 1);
    }

    #[test]
    fn a_block_that_cannot_be_launched_is_never_active() {
        assert_eq!(PLAIN.blocks(0, 0), 0);
        assert_eq!(PLAIN.blocks(1025, 0), 0);
        assert_eq!(PLAIN.blocks(32, 49153), 0);
    }

    #[test]
    fn the_best_block_fills_the_multiprocessor() {
        assert_eq!(best_block(PLAIN, 0, |_| 0), (1, 1024));
        assert_eq!(best_block(PLAIN, 500, |_| 0), (4, 256));
        assert_eq!(best_block(Needs { registers: 128, ..PLAIN }, 0, |_| 0), (1, 512));
        // More threads in one block would leave no shared memory for a second.
        assert_eq!(best_block(PLAIN, 0, |threads| threads as usize * 60), (2, 512));
    }

    #[test]
    fn attributes_that_change_the_meaning_are_refused() {
        let attribute = |id, value| CUlaunchAttribute { id, pad: [0; 4], value: [value; 16] };
        assert_eq!(attributes(&[attribute(0, 7), attribute(8, 1), attribute(2, 0)]), Ok(()));
        for refused in [attribute(2, 1), attribute(4, 2), attribute(6, 1), attribute(13, 1), attribute(99, 0)]
        {
            assert_eq!(attributes(&[refused]), Err(CUresult::NOT_SUPPORTED));
        }
    }

    #[test]
    fn parameters_are_packed_by_the_kernels_layout() {
        let (first, second): (u8, u64) = (7, 0x0102_0304_0506_0708);
        let values = [(&raw const first).cast(), (&raw const second).cast()];
        let layout = [(0, 1), (8, 8)];
        // SAFETY: two values of the sizes in the layout.
        let packed = unsafe { pack("test", &layout, values.as_ptr(), std::ptr::null()) }.unwrap();
        assert_eq!(packed, [7, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);

        let bytes = packed.len();
        let list = [
            std::ptr::without_provenance(LAUNCH_BUFFER_POINTER),
            packed.as_ptr().cast(),
            std::ptr::without_provenance(LAUNCH_BUFFER_SIZE),
            (&raw const bytes).cast(),
            std::ptr::null(),
        ];
        // SAFETY: the buffer and its size, and the end.
        let from_buffer = unsafe { pack("test", &layout, std::ptr::null(), list.as_ptr()) };
        assert_eq!(from_buffer, Ok(packed.clone()));
        // SAFETY: as before; too short a buffer is refused before it is read.
        let longer = unsafe { pack("test", &[(0, 17)], std::ptr::null(), list.as_ptr()) };
        assert_eq!(longer, Err(CUresult::INVALID_VALUE));
        // SAFETY: both forms at once are refused, neither is none for a kernel with parameters.
        unsafe {
            assert_eq!(pack("test", &layout, values.as_ptr(), list.as_ptr()), Err(CUresult::INVALID_VALUE));
            assert_eq!(
                pack("test", &layout, std::ptr::null(), std::ptr::null()),
                Err(CUresult::INVALID_VALUE)
            );
            assert_eq!(pack("test", &[], std::ptr::null(), std::ptr::null()), Ok(Vec::new()));
        }
    }
}
