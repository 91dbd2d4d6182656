//! The one device: an RTX 2080 Ti as the driver describes it, less what the simulation cannot do.

use std::ffi::{CStr, c_char, c_int, c_uint};

use crate::error::{CUresult, Outcome, call, explain};
use crate::settings::MEMORY;
use crate::state::{initialise, state};
use crate::types::*;

/// The version of the API: CUDA 13.0.
pub(crate) const VERSION: c_int = 13000;
/// Compute capability 7.5.
pub(crate) const CAPABILITY: c_int = 75;
/// Multiprocessors of the card.
pub(crate) const MULTIPROCESSORS: c_int = 68;
/// Threads that a multiprocessor, and a block, can have.
pub(crate) const THREADS: u32 = 1024;
/// Blocks that a multiprocessor can have.
pub(crate) const BLOCKS: u32 = 16;
/// Registers of a multiprocessor.
pub(crate) const REGISTERS: u32 = 65536;
/// Shared memory of a multiprocessor, and of a block that asked for it.
pub(crate) const SHARED: u32 = 65536;
/// Shared memory of a block that did not ask for more.
pub(crate) const SHARED_DEFAULT: u32 = 49152;
/// Largest grid.
pub(crate) const GRID: [u32; 3] = [2147483647, 65535, 65535];
/// Largest block by dimension.
pub(crate) const BLOCK: [u32; 3] = [1024, 1024, 64];

const NAME: &CStr = c"NVIDIA GeForce RTX 2080 Ti (simulated)";
/// A name of its own: "simulated-2080Ti" in ASCII.
const UUID: CUuuid = CUuuid { bytes: *b"simulated-2080Ti" };
const BUS: &CStr = c"0000:01:00.0";

/// Checks an ordinal.
pub(crate) fn known(device: CUdevice) -> Outcome {
    if device == 0 { Ok(()) } else { Err(CUresult::INVALID_DEVICE) }
}

/// Starts the driver; reads the environment, see [`crate::settings`].
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> CUresult {
    call("cuInit", || {
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        initialise().map_err(|message| {
            explain("cuInit", &message);
            CUresult::INVALID_VALUE
        })
    })
}

/// The version of the API.
///
/// # Safety
/// `version` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> CUresult {
    call("cuDriverGetVersion", || version.set(VERSION))
}

/// The number of devices.
///
/// # Safety
/// `count` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: Out<c_int>) -> CUresult {
    call("cuDeviceGetCount", || {
        drop(state()?);
        count.set(1)
    })
}

/// The device with an ordinal.
///
/// # Safety
/// `device` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: Out<CUdevice>, ordinal: c_int) -> CUresult {
    call("cuDeviceGet", || {
        drop(state()?);
        device.check()?;
        known(ordinal)?;
        device.set(ordinal)
    })
}

/// Copies a text, cut to what fits, into a caller's bytes.
///
/// # Safety
/// `to` is null or has `length` bytes.
unsafe fn copy_text(text: &CStr, to: *mut c_char, length: c_int) -> Outcome {
    let length = usize::try_from(length).map_err(|_| CUresult::INVALID_VALUE)?;
    if to.is_null() || length == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let bytes = text.to_bytes();
    let count = bytes.len().min(length - 1);
    // SAFETY: `count + 1` bytes are within the `length` that the caller promises, and the text is no part of them.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, count);
        to.add(count).write(0);
    }
    Ok(())
}

/// The card's name; it says that the card is simulated.
///
/// # Safety
/// `name` is null or has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice) -> CUresult {
    call("cuDeviceGetName", || {
        drop(state()?);
        known(device)?;
        // SAFETY: as the caller promises.
        unsafe { copy_text(NAME, name, length) }
    })
}

fn uuid_of(uuid: Out<CUuuid>, device: CUdevice) -> Outcome {
    drop(state()?);
    known(device)?;
    uuid.set(UUID)
}

/// The device's identity.
///
/// # Safety
/// `uuid` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(uuid: Out<CUuuid>, device: CUdevice) -> CUresult {
    call("cuDeviceGetUuid", || uuid_of(uuid, device))
}

/// The device's identity.
///
/// # Safety
/// `uuid` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: Out<CUuuid>, device: CUdevice) -> CUresult {
    call("cuDeviceGetUuid_v2", || uuid_of(uuid, device))
}

/// The address on the PCI bus that the card pretends to be at.
///
/// # Safety
/// `text` is null or has `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(text: *mut c_char, length: c_int, device: CUdevice) -> CUresult {
    call("cuDeviceGetPCIBusId", || {
        drop(state()?);
        known(device)?;
        // SAFETY: as the caller promises.
        unsafe { copy_text(BUS, text, length) }
    })
}

/// The device at an address on the PCI bus.
///
/// # Safety
/// `device` is null or may be written; `text` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetByPCIBusId(device: Out<CUdevice>, text: Text) -> CUresult {
    call("cuDeviceGetByPCIBusId", || {
        drop(state()?);
        device.check()?;
        if text.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: not null, so a C string.
        let text = unsafe { CStr::from_ptr(text) };
        if text == BUS || text == c"01:00.0" || text == c"0000:01:00" {
            return device.set(0);
        }
        Err(CUresult::INVALID_DEVICE)
    })
}

/// Bytes of memory.
///
/// # Safety
/// `bytes` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: CUdevice) -> CUresult {
    call("cuDeviceTotalMem_v2", || {
        drop(state()?);
        known(device)?;
        bytes.set(MEMORY as usize)
    })
}

/// The compute capability.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(
    major: Out<c_int>,
    minor: Out<c_int>,
    device: CUdevice,
) -> CUresult {
    call("cuDeviceComputeCapability", || {
        drop(state()?);
        known(device)?;
        minor.check()?;
        major.set(CAPABILITY / 10)?;
        minor.set(CAPABILITY % 10)
    })
}

/// One of the device's attributes.
///
/// # Safety
/// `value` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: Out<c_int>,
    attribute: c_int,
    device: CUdevice,
) -> CUresult {
    call("cuDeviceGetAttribute", || {
        drop(state()?);
        value.check()?;
        known(device)?;
        value.set(attribute_of(attribute).ok_or(CUresult::INVALID_VALUE)?)
    })
}

/// The value of an attribute by its number in `CUdevice_attribute`.
fn attribute_of(attribute: c_int) -> Option<c_int> {
    Some(match attribute {
        1 => THREADS as c_int,        // MAX_THREADS_PER_BLOCK
        2 => BLOCK[0] as c_int,       // MAX_BLOCK_DIM_X
        3 => BLOCK[1] as c_int,       // MAX_BLOCK_DIM_Y
        4 => BLOCK[2] as c_int,       // MAX_BLOCK_DIM_Z
        5 => GRID[0] as c_int,        // MAX_GRID_DIM_X
        6 => GRID[1] as c_int,        // MAX_GRID_DIM_Y
        7 => GRID[2] as c_int,        // MAX_GRID_DIM_Z
        8 => SHARED_DEFAULT as c_int, // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 65536,                   // TOTAL_CONSTANT_MEMORY
        10 => 32,                     // WARP_SIZE
        11 => 2147483647,             // MAX_PITCH
        12 => REGISTERS as c_int,     // MAX_REGISTERS_PER_BLOCK
        13 => 1545000,                // CLOCK_RATE
        14 => 512,                    // TEXTURE_ALIGNMENT
        15 => 1,                      // GPU_OVERLAP
        16 => MULTIPROCESSORS,        // MULTIPROCESSOR_COUNT
        17 => 0,                      // KERNEL_EXEC_TIMEOUT
        18 => 0,                      // INTEGRATED
        // Kernels cannot reach the host's memory here: 0 where a card has 1.
        19 => 0,                  // CAN_MAP_HOST_MEMORY
        20 => 0,                  // COMPUTE_MODE: default
        21 => 131072,             // MAXIMUM_TEXTURE1D_WIDTH
        22 => 131072,             // MAXIMUM_TEXTURE2D_WIDTH
        23 => 65536,              // MAXIMUM_TEXTURE2D_HEIGHT
        24..=26 => 16384,         // MAXIMUM_TEXTURE3D_WIDTH, _HEIGHT, _DEPTH
        27 | 28 => 32768,         // MAXIMUM_TEXTURE2D_LAYERED_WIDTH, _HEIGHT
        29 => 2048,               // MAXIMUM_TEXTURE2D_LAYERED_LAYERS
        30 => 512,                // SURFACE_ALIGNMENT
        31 => 1,                  // CONCURRENT_KERNELS
        32 => 0,                  // ECC_ENABLED
        33 => 1,                  // PCI_BUS_ID
        34 => 0,                  // PCI_DEVICE_ID
        35 => 0,                  // TCC_DRIVER
        36 => 7000000,            // MEMORY_CLOCK_RATE
        37 => 352,                // GLOBAL_MEMORY_BUS_WIDTH
        38 => 5767168,            // L2_CACHE_SIZE
        39 => THREADS as c_int,   // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 3,                  // ASYNC_ENGINE_COUNT
        41 => 1,                  // UNIFIED_ADDRESSING
        42 => 32768,              // MAXIMUM_TEXTURE1D_LAYERED_WIDTH
        43 => 2048,               // MAXIMUM_TEXTURE1D_LAYERED_LAYERS
        44 => 1,                  // CAN_TEX2D_GATHER
        45 | 46 => 32768,         // MAXIMUM_TEXTURE2D_GATHER_WIDTH, _HEIGHT
        47 | 48 => 8192,          // MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE, _HEIGHT_ALTERNATE
        49 => 32768,              // MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE
        50 => 0,                  // PCI_DOMAIN_ID
        51 => 32,                 // TEXTURE_PITCH_ALIGNMENT
        52 | 53 => 32768,         // MAXIMUM_TEXTURECUBEMAP_WIDTH, _LAYERED_WIDTH
        54 => 2046,               // MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS
        55 => 32768,              // MAXIMUM_SURFACE1D_WIDTH
        56 => 131072,             // MAXIMUM_SURFACE2D_WIDTH
        57 => 65536,              // MAXIMUM_SURFACE2D_HEIGHT
        58..=60 => 16384,         // MAXIMUM_SURFACE3D_WIDTH, _HEIGHT, _DEPTH
        61 => 32768,              // MAXIMUM_SURFACE1D_LAYERED_WIDTH
        62 => 2048,               // MAXIMUM_SURFACE1D_LAYERED_LAYERS
        63 | 64 => 32768,         // MAXIMUM_SURFACE2D_LAYERED_WIDTH, _HEIGHT
        65 => 2048,               // MAXIMUM_SURFACE2D_LAYERED_LAYERS
        66 | 67 => 32768,         // MAXIMUM_SURFACECUBEMAP_WIDTH, _LAYERED_WIDTH
        68 => 2046,               // MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS
        69 => 268435456,          // MAXIMUM_TEXTURE1D_LINEAR_WIDTH
        70 => 131072,             // MAXIMUM_TEXTURE2D_LINEAR_WIDTH
        71 => 65000,              // MAXIMUM_TEXTURE2D_LINEAR_HEIGHT
        72 => 2097120,            // MAXIMUM_TEXTURE2D_LINEAR_PITCH
        73 | 74 => 32768,         // MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH, _HEIGHT
        75 => CAPABILITY / 10,    // COMPUTE_CAPABILITY_MAJOR
        76 => CAPABILITY % 10,    // COMPUTE_CAPABILITY_MINOR
        77 => 32768,              // MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH
        78 => 1,                  // STREAM_PRIORITIES_SUPPORTED
        79 => 1,                  // GLOBAL_L1_CACHE_SUPPORTED
        80 => 1,                  // LOCAL_L1_CACHE_SUPPORTED
        81 => SHARED as c_int,    // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        82 => REGISTERS as c_int, // MAX_REGISTERS_PER_MULTIPROCESSOR
        // Managed memory is not simulated.
        83 => 0,  // MANAGED_MEMORY
        84 => 0,  // MULTI_GPU_BOARD
        85 => 0,  // MULTI_GPU_BOARD_GROUP_ID
        86 => 0,  // HOST_NATIVE_ATOMIC_SUPPORTED
        87 => 32, // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        88 => 0,  // PAGEABLE_MEMORY_ACCESS
        89 => 0,  // CONCURRENT_MANAGED_ACCESS
        90 => 1,  // COMPUTE_PREEMPTION_SUPPORTED
        91 => 0,  // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        // Neither operations of streams on memory nor cooperative launches are simulated.
        92..=94 => 0,           // CAN_USE_STREAM_MEM_OPS_V1, _64_BIT_, _WAIT_VALUE_NOR_V1
        95 | 96 => 0,           // COOPERATIVE_LAUNCH, COOPERATIVE_MULTI_DEVICE_LAUNCH
        97 => SHARED as c_int,  // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        98 => 0,                // CAN_FLUSH_REMOTE_WRITES
        99 => 1,                // HOST_REGISTER_SUPPORTED
        100 | 101 => 0, // PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES, DIRECT_MANAGED_MEM_ACCESS_FROM_HOST
        102 => 0,       // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: not simulated
        103..=105 => 0, // HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, two of Windows
        106 => BLOCKS as c_int, // MAX_BLOCKS_PER_MULTIPROCESSOR
        107 => 0,       // GENERIC_COMPRESSION_SUPPORTED
        108 => 0,       // MAX_PERSISTING_L2_CACHE_SIZE
        109 => 0,       // MAX_ACCESS_POLICY_WINDOW_SIZE
        110 => 0,       // GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
        111 => 0,       // RESERVED_SHARED_MEMORY_PER_BLOCK
        112 => 0,       // SPARSE_CUDA_ARRAY_SUPPORTED
        113 => 0,       // READ_ONLY_HOST_REGISTER_SUPPORTED
        114 => 0,       // TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
        115 => 1,       // MEMORY_POOLS_SUPPORTED
        116..=118 => 0, // GPU_DIRECT_RDMA_SUPPORTED, _FLUSH_WRITES_OPTIONS, _WRITES_ORDERING
        119 => 0,       // MEMPOOL_SUPPORTED_HANDLE_TYPES
        120 => 0,       // CLUSTER_LAUNCH
        121 => 0,       // DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED
        122..=125 => 0, // CAN_USE_64_BIT_STREAM_MEM_OPS, _WAIT_VALUE_NOR, DMA_BUF_, IPC_EVENT_SUPPORTED
        126 => 1,       // MEM_SYNC_DOMAIN_COUNT
        127 => 0,       // TENSOR_MAP_ACCESS_SUPPORTED
        128 => 0,       // HANDLE_TYPE_FABRIC_SUPPORTED
        129 => 0,       // UNIFIED_FUNCTION_POINTERS
        130 => 0,       // NUMA_CONFIG: none
        131 => -1,      // NUMA_ID
        132 => 0,       // MULTICAST_SUPPORTED
        133 => 0,       // MPS_ENABLED
        134 => -1,      // HOST_NUMA_ID
        135..=138 => 0, // D3D12_CIG_, MEM_DECOMPRESS_ (two), VULKAN_CIG_SUPPORTED
        139 => 0x1e07_10de, // GPU_PCI_DEVICE_ID
        140 => 0x12a4_10de, // GPU_PCI_SUBSYSTEM_ID
        141..=147 => 0, // memory of the host's NUMA nodes and pools
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_of_cuda_13_is_known() {
        assert!((1..=147).all(|attribute| attribute_of(attribute).is_some()));
        assert_eq!(attribute_of(0), None);
        assert_eq!(attribute_of(148), None);
        assert_eq!(attribute_of(-1), None);
    }

    #[test]
    fn the_card_is_a_2080_ti() {
        let values =
            [(16, 68), (75, 7), (76, 5), (39, 1024), (97, 65536), (8, 49152), (37, 352), (38, 5767168)];
        assert!(values.iter().all(|(attribute, value)| attribute_of(*attribute) == Some(*value)));
    }
}
