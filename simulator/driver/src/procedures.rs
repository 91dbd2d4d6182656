//! Finds functions of the API by name: how runtimes get at the driver.

use std::ffi::{CStr, c_int, c_void};

use crate::device::VERSION;
use crate::error::{CUresult, Outcome, call, explain};
use crate::types::*;
use crate::{context, device, error, event, graph, launch, memory, module, pointer, pool, stream, transfer};

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`
const PER_THREAD_DEFAULT_STREAM: u64 = 2;

/// `CU_GET_PROC_ADDRESS_SUCCESS`, `_SYMBOL_NOT_FOUND` and `_VERSION_NOT_SUFFICIENT`
const FOUND: c_int = 0;
const NO_SYMBOL: c_int = 1;
const OLD_VERSION: c_int = 2;

/// A function as another program finds it.
struct Procedure {
    name: &'static str,
    address: *const c_void,
}

macro_rules! procedures {
    ($($module:ident: $($name:ident)*;)*) => {
        [$($(Procedure { name: stringify!($name), address: $module::$name as *const c_void },)*)*]
    };
}

/// Every function that the library exports.
fn procedures() -> impl Iterator<Item = Procedure> {
    procedures! {
        context:
            cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxReset_v2
            cuDevicePrimaryCtxSetFlags_v2 cuDevicePrimaryCtxGetState cuCtxCreate_v2 cuCtxCreate_v3
            cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxSetCurrent cuCtxGetCurrent cuCtxPushCurrent_v2
            cuCtxPopCurrent_v2 cuCtxGetDevice cuCtxSynchronize cuCtxGetFlags cuCtxSetFlags cuCtxGetId
            cuCtxGetApiVersion cuCtxGetLimit cuCtxSetLimit cuCtxGetCacheConfig cuCtxSetCacheConfig
            cuCtxGetStreamPriorityRange cuProfilerStart cuProfilerStop cuDeviceCanAccessPeer;
        device:
            cuInit cuDriverGetVersion cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceGetUuid
            cuDeviceGetUuid_v2 cuDeviceGetPCIBusId cuDeviceGetByPCIBusId cuDeviceTotalMem_v2
            cuDeviceComputeCapability cuDeviceGetAttribute;
        error:
            cuGetErrorName cuGetErrorString;
        event:
            cuEventCreate cuEventDestroy_v2 cuEventRecord cuEventRecordWithFlags cuEventQuery
            cuEventSynchronize cuEventElapsedTime cuEventElapsedTime_v2;
        graph:
            cuGraphCreate cuGraphAddEmptyNode cuGraphDestroy cuGraphGetNodes cuGraphGetRootNodes
            cuGraphNodeGetDependencies cuGraphNodeGetType cuGraphInstantiateWithFlags cuGraphInstantiate_v2
            cuGraphInstantiateWithParams cuGraphExecGetFlags cuGraphUpload cuGraphLaunch cuGraphExecDestroy;
        launch:
            cuLaunchKernel cuLaunchKernelEx cuLaunchCooperativeKernel
            cuOccupancyMaxActiveBlocksPerMultiprocessor
            cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxPotentialBlockSize
            cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyAvailableDynamicSMemPerBlock
            cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialClusterSize;
        memory:
            cuMemAlloc_v2 cuMemAllocPitch_v2 cuMemFree_v2 cuMemAllocAsync cuMemAllocFromPoolAsync
            cuMemFreeAsync cuMemAllocManaged cuMemAdvise_v2 cuMemPrefetchAsync_v2 cuImportExternalMemory
            cuDestroyExternalMemory cuExternalMemoryGetMappedBuffer cuMemGetInfo_v2 cuMemGetAddressRange_v2
            cuMemAllocHost_v2 cuMemHostAlloc cuMemFreeHost cuMemHostRegister_v2 cuMemHostUnregister
            cuMemHostGetDevicePointer_v2 cuMemHostGetFlags;
        module:
            cuModuleLoad cuModuleLoadData cuModuleLoadFatBinary cuModuleLoadDataEx cuModuleUnload
            cuModuleGetLoadingMode cuModuleGetFunction cuModuleGetFunctionCount cuModuleEnumerateFunctions
            cuModuleGetGlobal_v2 cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuFuncGetName
            cuFuncGetModule cuFuncGetParamInfo cuLibraryLoadData cuLibraryLoadFromFile cuLibraryUnload
            cuLibraryGetModule cuLibraryGetKernel cuLibraryGetGlobal cuKernelGetFunction
            cuKernelGetAttribute cuKernelSetAttribute cuKernelGetName cuKernelGetParamInfo;
        pointer:
            cuPointerGetAttribute cuPointerGetAttributes;
        pool:
            cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool cuMemPoolCreate
            cuMemPoolDestroy cuMemPoolTrimTo cuMemPoolGetAttribute cuMemPoolSetAttribute;
        stream:
            cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamQuery cuStreamSynchronize
            cuStreamWaitEvent cuLaunchHostFunc cuStreamAddCallback cuStreamAttachMemAsync cuStreamGetFlags
            cuStreamGetPriority cuStreamGetId cuStreamGetCtx cuStreamGetDevice cuStreamBeginCapture_v2
            cuStreamEndCapture cuStreamIsCapturing cuStreamGetCaptureInfo cuStreamGetCaptureInfo_v2
            cuStreamGetCaptureInfo_v3 cuThreadExchangeStreamCaptureMode;
        transfer:
            cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemcpyDtoD_v2 cuMemcpy cuMemcpyHtoDAsync_v2
            cuMemcpyDtoHAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyAsync cuMemcpyPeer cuMemcpyPeerAsync
            cuMemcpy2D_v2 cuMemcpy2DUnaligned_v2 cuMemcpy2DAsync_v2 cuMemsetD8_v2 cuMemsetD16_v2
            cuMemsetD32_v2 cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async cuMemsetD2D8_v2
            cuMemsetD2D32_v2 cuMemsetD2D8Async cuMemsetD2D32Async;
        self:
            cuGetProcAddress cuGetProcAddress_v2;
    }
    .into_iter()
}

/// The version of CUDA from which on a base name means the function with a suffix. Suffixes that are not here are as old
/// as CUDA 4, or the only form.
fn since(name: &str) -> c_int {
    match name {
        "cuStreamBeginCapture_v2" => 10010,
        "cuDevicePrimaryCtxRelease_v2" | "cuDevicePrimaryCtxReset_v2" | "cuDevicePrimaryCtxSetFlags_v2" => {
            11000
        }
        "cuStreamGetCaptureInfo_v2" => 11030,
        "cuDeviceGetUuid_v2" | "cuCtxCreate_v3" => 11040,
        "cuGetProcAddress_v2" | "cuGraphInstantiate_v2" => 12000,
        "cuStreamGetCaptureInfo_v3" => 12030,
        "cuEventElapsedTime_v2" => 12080,
        "cuCtxCreate_v4" | "cuMemAdvise_v2" | "cuMemPrefetchAsync_v2" => 13000,
        _ => 0,
    }
}

/// The newest form of a function that a version of CUDA knows.
fn find(name: &str, version: c_int) -> Result<*const c_void, c_int> {
    let form_of = |procedure: &Procedure| {
        let suffix = procedure.name.strip_prefix(name)?;
        match suffix.strip_prefix("_v") {
            Some(number) => number.parse::<u32>().ok(),
            None => suffix.is_empty().then_some(0),
        }
    };
    let forms: Vec<(u32, Procedure)> =
        procedures().filter_map(|procedure| Some((form_of(&procedure)?, procedure))).collect();
    let known = forms.iter().filter(|(_, procedure)| since(procedure.name) <= version);
    match known.max_by_key(|(form, _)| *form) {
        Some((_, procedure)) => Ok(procedure.address),
        None if forms.is_empty() => Err(NO_SYMBOL),
        None => Err(OLD_VERSION),
    }
}

/// Finds a function.
///
/// # Safety
/// `name` is null or a C string.
unsafe fn look_up(
    name: Text,
    address: Out<*const c_void>,
    version: c_int,
    flags: u64,
    status: Out<c_int>,
) -> Outcome {
    if name.is_null() || version > VERSION {
        return Err(CUresult::INVALID_VALUE);
    }
    address.set(std::ptr::null())?;
    if flags & PER_THREAD_DEFAULT_STREAM != 0 {
        explain("cuGetProcAddress", "the forms with a default stream for each thread are not there");
        status.set_if_wanted(NO_SYMBOL);
        return Err(CUresult::NOT_SUPPORTED);
    }
    // SAFETY: not null, so a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| CUresult::NOT_FOUND)?;
    match find(name, version) {
        Ok(found) => {
            status.set_if_wanted(FOUND);
            address.set(found)
        }
        Err(reason) => {
            status.set_if_wanted(reason);
            Err(CUresult::NOT_FOUND)
        }
    }
}

/// The address of a function by its name without a suffix, in the form that a version of CUDA has.
///
/// # Safety
/// `address` and `status` are null or may be written; `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    name: Text,
    address: Out<*const c_void>,
    version: c_int,
    flags: u64,
    status: Out<c_int>,
) -> CUresult {
    // SAFETY: as the caller promises.
    call("cuGetProcAddress_v2", || unsafe { look_up(name, address, version, flags, status) })
}

/// The form before CUDA 12, without a status.
///
/// # Safety
/// As for [`cuGetProcAddress_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    name: Text,
    address: Out<*const c_void>,
    version: c_int,
    flags: u64,
) -> CUresult {
    // SAFETY: as the caller promises.
    call("cuGetProcAddress", || unsafe { look_up(name, address, version, flags, Out::null()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list is written by hand; the sources know what is missing in it.
    #[test]
    fn every_exported_function_is_listed() {
        let sources = [
            include_str!("context.rs"),
            include_str!("device.rs"),
            include_str!("error.rs"),
            include_str!("event.rs"),
            include_str!("graph.rs"),
            include_str!("launch.rs"),
            include_str!("memory.rs"),
            include_str!("module.rs"),
            include_str!("pointer.rs"),
            include_str!("pool.rs"),
            include_str!("stream.rs"),
            include_str!("transfer.rs"),
            include_str!("procedures.rs"),
        ];
        let mut exported: Vec<&str> = sources
            .iter()
            .flat_map(|source| source.lines())
            .filter_map(|line| {
                line.strip_prefix("pub unsafe extern \"C\" fn ").or(line.strip_prefix("pub extern \"C\" fn "))
            })
            .filter_map(|line| line.split('(').next())
            // What is not of CUDA's is for tests, which look it up by its own name.
            .filter(|name| name.starts_with("cu"))
            .collect();
        let mut listed: Vec<&str> = procedures().map(|procedure| procedure.name).collect();
        exported.sort_unstable();
        listed.sort_unstable();
        assert_eq!(exported, listed);
    }

    #[test]
    fn names_mean_what_the_version_knows() {
        let address =
            |name: &str| procedures().find(|procedure| procedure.name == name).map(|found| found.address);
        assert_eq!(find("cuMemAlloc", 12000).ok(), address("cuMemAlloc_v2"));
        assert_eq!(find("cuEventElapsedTime", 12000).ok(), address("cuEventElapsedTime"));
        assert_eq!(find("cuEventElapsedTime", 13000).ok(), address("cuEventElapsedTime_v2"));
        assert_eq!(find("cuStreamGetCaptureInfo", 11040).ok(), address("cuStreamGetCaptureInfo_v2"));
        assert_eq!(find("cuCtxCreate", 12000).ok(), address("cuCtxCreate_v3"));
        assert_eq!(find("cuStreamBeginCapture", 10000), Err(OLD_VERSION));
        assert_eq!(find("cuNothing", 13000), Err(NO_SYMBOL));
        // A name is no beginning of another name.
        assert_eq!(find("cuMem", 13000), Err(NO_SYMBOL));
        assert_eq!(find("cuMemcpyDtoH", 13000).ok(), address("cuMemcpyDtoH_v2"));
    }
}
