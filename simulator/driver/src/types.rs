//! The C types of the driver API, as `cuda.h` declares them, and the attributes' numbers.
//!
//! A handle is a number: nothing is ever read through it, so a wrong one can only be refused. Enumerations are plain
//! integers, because a C program may pass any value.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::marker::PhantomData;

use crate::error::{CUresult, Outcome};

/// Ordinal of a device.
pub type CUdevice = c_int;
/// Address in the device's memory.
pub type CUdeviceptr = c_ulonglong;
/// What `cuLaunchHostFunc` calls.
pub type CUhostFn = unsafe extern "C" fn(*mut c_void);
/// What `cuStreamAddCallback` calls.
pub type CUstreamCallback = unsafe extern "C" fn(CUstream, CUresult, *mut c_void);
/// Dynamic shared memory as a function of the block's size.
pub type CUoccupancyB2DSize = unsafe extern "C" fn(c_int) -> usize;

macro_rules! handles {
    ($($(#[$text:meta])* $name:ident;)*) => {$(
        $(#[$text])*
        #[repr(transparent)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub usize);

        impl $name {
            /// The handle that names nothing (for a stream: the default stream).
            pub const NULL: $name = $name(0);
        }
    )*};
}

handles! {
    /// A context.
    CUcontext;
    /// A module.
    CUmodule;
    /// A kernel of a module.
    CUfunction;
    /// A library: a module that belongs to no context.
    CUlibrary;
    /// A kernel of a library.
    CUkernel;
    /// A stream.
    CUstream;
    /// An event.
    CUevent;
    /// A graph.
    CUgraph;
    /// A node of a graph.
    CUgraphNode;
    /// A graph that can be launched.
    CUgraphExec;
    /// A memory pool.
    CUmemoryPool;
}

/// The stream that waits for all blocking streams, by its explicit name.
pub const CU_STREAM_LEGACY: CUstream = CUstream(1);
/// The calling thread's default stream.
pub const CU_STREAM_PER_THREAD: CUstream = CUstream(2);

/// A pointer that a function writes its result through: null or valid for a write, as the API demands of its caller.
#[repr(transparent)]
pub struct Out<'a, T> {
    pointer: *mut T,
    borrow: PhantomData<&'a mut T>,
}

impl<T> Clone for Out<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<'_, T> {}

impl<'a, T> From<&'a mut T> for Out<'a, T> {
    fn from(place: &'a mut T) -> Self {
        Out { pointer: place, borrow: PhantomData }
    }
}

impl<T> Out<'_, T> {
    /// The null pointer.
    pub fn null() -> Self {
        Out { pointer: std::ptr::null_mut(), borrow: PhantomData }
    }

    /// Refuses a null pointer, before anything was done for the caller.
    pub(crate) fn check(self) -> Outcome {
        if self.pointer.is_null() { Err(CUresult::INVALID_VALUE) } else { Ok(()) }
    }

    /// Writes the result.
    pub(crate) fn set(self, value: T) -> Outcome {
        self.check()?;
        // SAFETY: an `Out` that is not null came from a `&mut T` or from the caller of an `unsafe extern "C"` function, who
        // promises that the pointer may be written.
        unsafe { self.pointer.write(value) };
        Ok(())
    }

    /// Writes the result if the caller wants it.
    pub(crate) fn set_if_wanted(self, value: T) {
        let _ = self.set(value);
    }
}

/// 16 bytes that name a device.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CUuuid {
    /// The name.
    pub bytes: [u8; 16],
}

/// A copy of a rectangle.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_snake_case, missing_docs)]
pub struct CUDA_MEMCPY2D {
    pub srcXInBytes: usize,
    pub srcY: usize,
    pub srcMemoryType: c_uint,
    pub srcHost: *const c_void,
    pub srcDevice: CUdeviceptr,
    pub srcArray: usize,
    pub srcPitch: usize,
    pub dstXInBytes: usize,
    pub dstY: usize,
    pub dstMemoryType: c_uint,
    pub dstHost: *mut c_void,
    pub dstDevice: CUdeviceptr,
    pub dstArray: usize,
    pub dstPitch: usize,
    pub WidthInBytes: usize,
    pub Height: usize,
}

/// One attribute of a launch: a number and 64 bytes whose meaning depends on it.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct CUlaunchAttribute {
    pub id: c_uint,
    pub pad: [u8; 4],
    pub value: [u32; 16],
}

/// A launch with attributes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_snake_case, missing_docs)]
pub struct CUlaunchConfig {
    pub gridDimX: c_uint,
    pub gridDimY: c_uint,
    pub gridDimZ: c_uint,
    pub blockDimX: c_uint,
    pub blockDimY: c_uint,
    pub blockDimZ: c_uint,
    pub sharedMemBytes: c_uint,
    pub hStream: CUstream,
    pub attrs: *mut CUlaunchAttribute,
    pub numAttrs: c_uint,
}

/// Where memory is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CUmemLocation {
    pub kind: c_int,
    pub id: c_int,
}

/// Properties of a memory pool.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_snake_case, missing_docs)]
pub struct CUmemPoolProps {
    pub allocType: c_int,
    pub handleTypes: c_int,
    pub location: CUmemLocation,
    pub win32SecurityAttributes: *mut c_void,
    pub maxSize: usize,
    pub usage: u16,
    pub reserved: [u8; 54],
}

/// Parameters of an instantiation.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_snake_case, missing_docs)]
pub struct CUDA_GRAPH_INSTANTIATE_PARAMS {
    pub flags: u64,
    pub hUploadStream: CUstream,
    pub hErrNode_out: CUgraphNode,
    pub result_out: c_int,
}

/// Parameters of a context; the simulated card takes none of them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_snake_case, missing_docs)]
pub struct CUctxCreateParams {
    pub execAffinityParams: *mut c_void,
    pub numExecAffinityParams: c_int,
    pub cigParams: *mut c_void,
}

/// `CU_STREAM_NON_BLOCKING`
pub const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`
pub const EVENT_DISABLE_TIMING: c_uint = 2;
/// `CU_EVENT_INTERPROCESS`
pub const EVENT_INTERPROCESS: c_uint = 4;
/// `CU_EVENT_RECORD_EXTERNAL` and `CU_EVENT_WAIT_EXTERNAL`
pub const EVENT_EXTERNAL: c_uint = 1;

/// `CU_STREAM_CAPTURE_MODE_GLOBAL`
pub const CAPTURE_GLOBAL: c_uint = 0;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`
pub const CAPTURE_THREAD_LOCAL: c_uint = 1;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`
pub const CAPTURE_RELAXED: c_uint = 2;

/// `CU_STREAM_CAPTURE_STATUS_NONE`
pub const CAPTURE_STATUS_NONE: c_uint = 0;
/// `CU_STREAM_CAPTURE_STATUS_ACTIVE`
pub const CAPTURE_STATUS_ACTIVE: c_uint = 1;
/// `CU_STREAM_CAPTURE_STATUS_INVALIDATED`
pub const CAPTURE_STATUS_INVALIDATED: c_uint = 2;

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`
pub const GRAPH_AUTO_FREE_ON_LAUNCH: u64 = 1;
/// `CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD`
pub const GRAPH_UPLOAD: u64 = 2;
/// `CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY`
pub const GRAPH_USE_NODE_PRIORITY: u64 = 8;

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
pub const FUNCTION_MAX_DYNAMIC_SHARED: c_int = 8;
/// `CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT`
pub const FUNCTION_CARVEOUT: c_int = 9;

/// `CU_MEMORYTYPE_HOST`
pub const MEMORY_HOST: c_uint = 1;
/// `CU_MEMORYTYPE_DEVICE`
pub const MEMORY_DEVICE: c_uint = 2;
/// `CU_MEMORYTYPE_UNIFIED`
pub const MEMORY_UNIFIED: c_uint = 4;

/// `CU_LAUNCH_PARAM_BUFFER_POINTER`
pub const LAUNCH_BUFFER_POINTER: usize = 1;
/// `CU_LAUNCH_PARAM_BUFFER_SIZE`
pub const LAUNCH_BUFFER_SIZE: usize = 2;

/// A C string that a function takes.
pub type Text = *const c_char;

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes and offsets that a C compiler gives for `cuda.h` of CUDA 13.0 on x86-64.
    #[test]
    fn layouts_are_those_of_c() {
        assert_eq!(size_of::<CUDA_MEMCPY2D>(), 128);
        assert_eq!(std::mem::offset_of!(CUDA_MEMCPY2D, srcHost), 24);
        assert_eq!(std::mem::offset_of!(CUDA_MEMCPY2D, dstMemoryType), 72);
        assert_eq!(std::mem::offset_of!(CUDA_MEMCPY2D, Height), 120);
        assert_eq!(size_of::<CUlaunchAttribute>(), 72);
        assert_eq!(std::mem::offset_of!(CUlaunchAttribute, value), 8);
        assert_eq!(size_of::<CUlaunchConfig>(), 56);
        assert_eq!(std::mem::offset_of!(CUlaunchConfig, hStream), 32);
        assert_eq!(size_of::<CUmemPoolProps>(), 88);
        assert_eq!(std::mem::offset_of!(CUmemPoolProps, usage), 32);
        assert_eq!(size_of::<CUDA_GRAPH_INSTANTIATE_PARAMS>(), 32);
        assert_eq!(size_of::<CUctxCreateParams>(), 24);
        assert_eq!(size_of::<Out<'_, u64>>(), size_of::<usize>());
    }
}
