//! Modules and their kernels and variables; libraries, which are modules without a context of their own.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;

use crate::device::{CAPABILITY, SHARED, SHARED_DEFAULT, known};
use crate::error::{CUresult, Outcome, call, explain};
use crate::image::{ImageError, ptx_at, ptx_in};
use crate::state::{Function, Module, State, state, work};
use crate::types::*;

/// Registers a thread is taken to have where its kernel states nothing: what a block of 1024 threads leaves to each. Only
/// the assembler of a real driver knows better, and a kernel with more could not run in such a block.
const REGISTERS_UNSTATED: u32 = 64;

/// Options of `cuModuleLoadDataEx` that have a place for an answer.
const OPTION_INFO_LOG: c_uint = 3;
const OPTION_INFO_LOG_BYTES: c_uint = 4;
const OPTION_ERROR_LOG: c_uint = 5;
const OPTION_ERROR_LOG_BYTES: c_uint = 6;

/// Loads PTX that was found, or says why there is none.
fn load(name: &str, ptx: Result<String, ImageError>) -> Result<CUmodule, (CUresult, String)> {
    let bare = |code: CUresult| (code, String::new());
    let (context, device) = {
        let mut state = state().map_err(bare)?;
        let context = state.current().map_err(bare)?;
        state.refuse_in_capture(name).map_err(bare)?;
        (context, state.device())
    };
    let loaded = ptx
        .map_err(|error| (error.code, error.message))
        .and_then(|text| device.load(&text).map_err(|error| (CUresult::INVALID_PTX, error.message)));
    let module = loaded.inspect_err(|(_, message)| explain(name, message))?;
    let mut state = state().map_err(bare)?;
    let handle = CUmodule(state.fresh());
    state.modules.insert(handle, Module { context, module, functions: HashMap::new() });
    Ok(handle)
}

/// The text of a file's name.
///
/// # Safety
/// `name` is null or a C string.
unsafe fn read_file(name: Text) -> Result<Vec<u8>, (CUresult, String)> {
    if name.is_null() {
        return Err((CUresult::INVALID_VALUE, "the name is null".to_owned()));
    }
    // SAFETY: not null, so a C string.
    let path = std::path::Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    std::fs::read(path).map_err(|error| (CUresult::FILE_NOT_FOUND, format!("{}: {error}", path.display())))
}

/// A name that the caller gives.
///
/// # Safety
/// `name` is null or a C string.
unsafe fn text<'a>(name: Text) -> Outcome<&'a str> {
    if name.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null, so a C string, which lives as long as the call.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| CUresult::NOT_FOUND)
}

/// Loads a module from a file.
///
/// # Safety
/// `module` is null or may be written; `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: Out<CUmodule>, name: Text) -> CUresult {
    call("cuModuleLoad", || {
        module.check()?;
        state()?.current()?;
        // SAFETY: as the caller promises.
        let bytes = unsafe { read_file(name) }.map_err(|(code, message)| {
            explain("cuModuleLoad", &message);
            code
        })?;
        module.set(load("cuModuleLoad", ptx_in(&bytes)).map_err(|(code, _)| code)?)
    })
}

/// Loads a module from memory.
///
/// # Safety
/// `module` is null or may be written; `image` is as [`ptx_at`] wants it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: Out<CUmodule>, image: *const c_void) -> CUresult {
    call("cuModuleLoadData", || {
        module.check()?;
        state()?.current()?;
        // SAFETY: as the caller promises.
        let ptx = unsafe { ptx_at(image) };
        module.set(load("cuModuleLoadData", ptx).map_err(|(code, _)| code)?)
    })
}

/// Loads a module from a fat binary in memory.
///
/// # Safety
/// As for [`cuModuleLoadData`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadFatBinary(module: Out<CUmodule>, image: *const c_void) -> CUresult {
    call("cuModuleLoadFatBinary", || {
        module.check()?;
        state()?.current()?;
        // SAFETY: as the caller promises.
        let ptx = unsafe { ptx_at(image) };
        module.set(load("cuModuleLoadFatBinary", ptx).map_err(|(code, _)| code)?)
    })
}

/// Loads a module from memory with options. Those for the compiler have no effect; the logs are filled.
///
/// # Safety
/// As for [`cuModuleLoadData`]; `options` and `values` have `count` places, each value as its option wants it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: Out<CUmodule>,
    image: *const c_void,
    count: c_uint,
    options: *const c_uint,
    values: *mut *mut c_void,
) -> CUresult {
    call("cuModuleLoadDataEx", || {
        module.check()?;
        state()?.current()?;
        if count > 0 && (options.is_null() || values.is_null()) {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: as the caller promises.
        let loaded = load("cuModuleLoadDataEx", unsafe { ptx_at(image) });
        let message = loaded.as_ref().err().map_or("", |(_, message)| message);
        // SAFETY: as the caller promises.
        unsafe {
            fill_log(count, options, values, OPTION_ERROR_LOG, OPTION_ERROR_LOG_BYTES, message);
            fill_log(count, options, values, OPTION_INFO_LOG, OPTION_INFO_LOG_BYTES, "");
        }
        module.set(loaded.map_err(|(code, _)| code)?)
    })
}

/// Writes a message into the log that an option gives, and its length over the value of another option.
///
/// # Safety
/// `options` and `values` have `count` places; the value of `log` is null or has as many bytes as that of `bytes` says.
unsafe fn fill_log(
    count: c_uint,
    options: *const c_uint,
    values: *mut *mut c_void,
    log: c_uint,
    bytes: c_uint,
    message: &str,
) {
    // SAFETY: the index is below `count`.
    let find = |wanted| (0..count as usize).find(|index| unsafe { *options.add(*index) } == wanted);
    let (Some(log), Some(bytes)) = (find(log), find(bytes)) else { return };
    // SAFETY: both indices are below `count`; the value of a length is the number itself in the place of a pointer.
    unsafe {
        let to: *mut c_char = (*values.add(log)).cast();
        let room = (*values.add(bytes)).addr() & u32::MAX as usize;
        if to.is_null() || room == 0 {
            return;
        }
        let length = message.len().min(room - 1);
        std::ptr::copy_nonoverlapping(message.as_ptr().cast(), to, length);
        to.add(length).write(0);
        // The answer is the number of bytes that were written, in the place of the length.
        values.add(bytes).write(std::ptr::without_provenance_mut(length));
    }
}

/// Unloads a module; its kernels' handles are invalid from then on.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: CUmodule) -> CUresult {
    call("cuModuleUnload", || {
        let _work = work();
        let mut state = state()?;
        state.current()?;
        let context = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?.context;
        state.usable(context)?;
        state.refuse_in_capture("cuModuleUnload")?;
        state.unload(module);
        Ok(())
    })
}

/// Whether modules are loaded lazily: they are not.
///
/// # Safety
/// `mode` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetLoadingMode(mode: Out<c_uint>) -> CUresult {
    call("cuModuleGetLoadingMode", || {
        drop(state()?);
        // `CU_MODULE_EAGER_LOADING`
        mode.set(1)
    })
}

/// The handle of a module's kernel, the same for every question.
fn function_of(state: &mut State, module: CUmodule, name: &str) -> Outcome<CUfunction> {
    let entry = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?;
    if let Some(handle) = entry.functions.get(name) {
        return Ok(*handle);
    }
    let function = entry.module.function(name).ok_or(CUresult::NOT_FOUND)?;
    let context = entry.context;
    let text = CString::new(name).map_err(|_| CUresult::NOT_FOUND)?;
    let handle = CUfunction(state.fresh());
    let max_dynamic_shared = SHARED_DEFAULT.saturating_sub(function.static_shared());
    state
        .functions
        .insert(handle, Function { context, module, function, name: text, max_dynamic_shared, carveout: -1 });
    if let Some(entry) = state.modules.get_mut(&module) {
        entry.functions.insert(name.to_owned(), handle);
    }
    Ok(handle)
}

/// The kernel with a name.
///
/// # Safety
/// `function` is null or may be written; `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: Out<CUfunction>,
    module: CUmodule,
    name: Text,
) -> CUresult {
    call("cuModuleGetFunction", || {
        let mut state = state()?;
        state.current()?;
        function.check()?;
        // SAFETY: as the caller promises.
        let name = unsafe { text(name) }?;
        function.set(function_of(&mut state, module, name)?)
    })
}

/// The number of a module's kernels.
///
/// # Safety
/// `count` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunctionCount(count: Out<c_uint>, module: CUmodule) -> CUresult {
    call("cuModuleGetFunctionCount", || {
        let state = state()?;
        let module = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?;
        count.set(module.module.functions().len() as c_uint)
    })
}

/// A module's kernels, at most `count`.
///
/// # Safety
/// `functions` has `count` places.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleEnumerateFunctions(
    functions: *mut CUfunction,
    count: c_uint,
    module: CUmodule,
) -> CUresult {
    call("cuModuleEnumerateFunctions", || {
        let mut state = state()?;
        if functions.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let names = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?.module.functions();
        for (index, name) in names.iter().take(count as usize).enumerate() {
            let handle = function_of(&mut state, module, name)?;
            // SAFETY: the index is below `count`.
            unsafe { functions.add(index).write(handle) };
        }
        Ok(())
    })
}

fn global(
    state: &State,
    address: Out<CUdeviceptr>,
    bytes: Out<usize>,
    module: CUmodule,
    name: &str,
) -> Outcome {
    let module = state.modules.get(&module).ok_or(CUresult::INVALID_HANDLE)?;
    let (start, size) = module.module.variable(name).ok_or(CUresult::NOT_FOUND)?;
    address.set_if_wanted(start);
    bytes.set_if_wanted(size as usize);
    Ok(())
}

/// Address and size of a variable.
///
/// # Safety
/// `address` and `bytes` are null or may be written; `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: Out<CUdeviceptr>,
    bytes: Out<usize>,
    module: CUmodule,
    name: Text,
) -> CUresult {
    call("cuModuleGetGlobal_v2", || {
        let state = state()?;
        state.current()?;
        // SAFETY: as the caller promises.
        global(&state, address, bytes, module, unsafe { text(name) }?)
    })
}

// ---- kernels ----

/// Registers that a kernel's thread is taken to have.
pub(crate) fn registers(function: &simulator::Function) -> u32 {
    function.max_registers().unwrap_or(REGISTERS_UNSTATED)
}

fn attribute(function: &Function, attribute: c_int) -> Outcome<c_int> {
    let kernel = &function.function;
    Ok(match attribute {
        0 => kernel.max_threads() as c_int,
        1 => kernel.static_shared() as c_int,
        // Constants of the module's own are counted for no kernel.
        2 => 0,
        3 => kernel.local() as c_int,
        4 => registers(kernel) as c_int,
        5 | 6 => CAPABILITY,
        7 => 0,
        FUNCTION_MAX_DYNAMIC_SHARED => function.max_dynamic_shared as c_int,
        FUNCTION_CARVEOUT => function.carveout,
        // Clusters, which this card does not have.
        10..=15 => 0,
        _ => return Err(CUresult::INVALID_VALUE),
    })
}

fn set_attribute(name: &str, function: CUfunction, attribute: c_int, value: c_int) -> Outcome {
    let mut state = state()?;
    let function = state.functions.get_mut(&function).ok_or(CUresult::INVALID_HANDLE)?;
    match attribute {
        FUNCTION_MAX_DYNAMIC_SHARED => {
            let most = SHARED.saturating_sub(function.function.static_shared());
            function.max_dynamic_shared =
                u32::try_from(value).ok().filter(|value| *value <= most).ok_or_else(|| {
                    let kernel = function.name.to_string_lossy();
                    explain(
                        name,
                        &format!("{value} bytes of dynamic shared memory: {kernel} can have 0 to {most}"),
                    );
                    CUresult::INVALID_VALUE
                })?;
        }
        FUNCTION_CARVEOUT if (-1..=100).contains(&value) => function.carveout = value,
        _ => return Err(CUresult::INVALID_VALUE),
    }
    Ok(())
}

/// An attribute of a kernel. Registers are what its PTX allows, because nothing is assembled here.
///
/// # Safety
/// `value` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: Out<c_int>,
    kind: c_int,
    function: CUfunction,
) -> CUresult {
    call("cuFuncGetAttribute", || {
        let state = state()?;
        value.set(attribute(state.functions.get(&function).ok_or(CUresult::INVALID_HANDLE)?, kind)?)
    })
}

/// Sets an attribute of a kernel: the dynamic shared memory that a launch may ask for.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: CUfunction, kind: c_int, value: c_int) -> CUresult {
    call("cuFuncSetAttribute", || set_attribute("cuFuncSetAttribute", function, kind, value))
}

/// Sets a preference that has no effect.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: CUfunction, config: c_uint) -> CUresult {
    call("cuFuncSetCacheConfig", || {
        let state = state()?;
        state.functions.get(&function).ok_or(CUresult::INVALID_HANDLE)?;
        if config > 3 { Err(CUresult::INVALID_VALUE) } else { Ok(()) }
    })
}

/// A kernel's name, valid until its module is unloaded.
///
/// # Safety
/// `name` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetName(name: Out<*const c_char>, function: CUfunction) -> CUresult {
    call("cuFuncGetName", || {
        let state = state()?;
        // The string's bytes are on the heap and stay where they are when the table grows.
        name.set(state.functions.get(&function).ok_or(CUresult::INVALID_HANDLE)?.name.as_ptr())
    })
}

/// A kernel's module.
///
/// # Safety
/// `module` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetModule(module: Out<CUmodule>, function: CUfunction) -> CUresult {
    call("cuFuncGetModule", || {
        module.set(state()?.functions.get(&function).ok_or(CUresult::INVALID_HANDLE)?.module)
    })
}

fn parameter(function: CUfunction, index: usize, offset: Out<usize>, bytes: Out<usize>) -> Outcome {
    let state = state()?;
    offset.check()?;
    let function = state.functions.get(&function).ok_or(CUresult::INVALID_HANDLE)?;
    let (start, size) = *function.function.parameters().get(index).ok_or(CUresult::INVALID_VALUE)?;
    bytes.set_if_wanted(size as usize);
    offset.set(start as usize)
}

/// Place and size of a kernel's parameter.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: CUfunction,
    index: usize,
    offset: Out<usize>,
    bytes: Out<usize>,
) -> CUresult {
    call("cuFuncGetParamInfo", || parameter(function, index, offset, bytes))
}

// ---- libraries ----

/// Enters a module as a library. It belongs to the context that is current when it is loaded.
fn as_library(library: Out<CUlibrary>, loaded: Result<CUmodule, (CUresult, String)>) -> Outcome {
    let module = loaded.map_err(|(code, _)| code)?;
    let mut state = state()?;
    let handle = CUlibrary(state.fresh());
    state.libraries.insert(handle, module);
    library.set(handle)
}

/// Loads a library from memory; the options have no effect.
///
/// # Safety
/// As for [`cuModuleLoadData`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryLoadData(
    library: Out<CUlibrary>,
    image: *const c_void,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
    _count: c_uint,
    _library_options: *mut c_uint,
    _library_values: *mut *mut c_void,
    _library_count: c_uint,
) -> CUresult {
    call("cuLibraryLoadData", || {
        library.check()?;
        state()?.current()?;
        // SAFETY: as the caller promises.
        as_library(library, load("cuLibraryLoadData", unsafe { ptx_at(image) }))
    })
}

/// Loads a library from a file; the options have no effect.
///
/// # Safety
/// As for [`cuModuleLoad`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryLoadFromFile(
    library: Out<CUlibrary>,
    name: Text,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
    _count: c_uint,
    _library_options: *mut c_uint,
    _library_values: *mut *mut c_void,
    _library_count: c_uint,
) -> CUresult {
    call("cuLibraryLoadFromFile", || {
        library.check()?;
        state()?.current()?;
        // SAFETY: as the caller promises.
        let bytes = unsafe { read_file(name) }.map_err(|(code, message)| {
            explain("cuLibraryLoadFromFile", &message);
            code
        })?;
        as_library(library, load("cuLibraryLoadFromFile", ptx_in(&bytes)))
    })
}

/// Unloads a library.
#[unsafe(no_mangle)]
pub extern "C" fn cuLibraryUnload(library: CUlibrary) -> CUresult {
    call("cuLibraryUnload", || {
        let _work = work();
        let mut state = state()?;
        let module = *state.libraries.get(&library).ok_or(CUresult::INVALID_HANDLE)?;
        state.refuse_in_capture("cuLibraryUnload")?;
        state.unload(module);
        Ok(())
    })
}

/// The module that a library is.
///
/// # Safety
/// `module` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetModule(module: Out<CUmodule>, library: CUlibrary) -> CUresult {
    call("cuLibraryGetModule", || {
        module.set(*state()?.libraries.get(&library).ok_or(CUresult::INVALID_HANDLE)?)
    })
}

/// The kernel with a name; its handle may be launched like a module's.
///
/// # Safety
/// `kernel` is null or may be written; `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernel(
    kernel: Out<CUkernel>,
    library: CUlibrary,
    name: Text,
) -> CUresult {
    call("cuLibraryGetKernel", || {
        let mut state = state()?;
        kernel.check()?;
        let module = *state.libraries.get(&library).ok_or(CUresult::INVALID_HANDLE)?;
        // SAFETY: as the caller promises.
        let function = function_of(&mut state, module, unsafe { text(name) }?)?;
        kernel.set(CUkernel(function.0))
    })
}

/// Address and size of a library's variable.
///
/// # Safety
/// `address` and `bytes` are null or may be written; `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetGlobal(
    address: Out<CUdeviceptr>,
    bytes: Out<usize>,
    library: CUlibrary,
    name: Text,
) -> CUresult {
    call("cuLibraryGetGlobal", || {
        let state = state()?;
        let module = *state.libraries.get(&library).ok_or(CUresult::INVALID_HANDLE)?;
        // SAFETY: as the caller promises.
        global(&state, address, bytes, module, unsafe { text(name) }?)
    })
}

/// The function that a kernel is in the current context.
///
/// # Safety
/// `function` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetFunction(function: Out<CUfunction>, kernel: CUkernel) -> CUresult {
    call("cuKernelGetFunction", || {
        let state = state()?;
        state.current()?;
        let handle = CUfunction(kernel.0);
        state.functions.get(&handle).ok_or(CUresult::INVALID_HANDLE)?;
        function.set(handle)
    })
}

/// As `cuFuncGetAttribute`.
///
/// # Safety
/// `value` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetAttribute(
    value: Out<c_int>,
    kind: c_int,
    kernel: CUkernel,
    device: CUdevice,
) -> CUresult {
    call("cuKernelGetAttribute", || {
        let state = state()?;
        known(device)?;
        value.set(attribute(
            state.functions.get(&CUfunction(kernel.0)).ok_or(CUresult::INVALID_HANDLE)?,
            kind,
        )?)
    })
}

/// As `cuFuncSetAttribute`.
#[unsafe(no_mangle)]
pub extern "C" fn cuKernelSetAttribute(
    kind: c_int,
    value: c_int,
    kernel: CUkernel,
    device: CUdevice,
) -> CUresult {
    call("cuKernelSetAttribute", || {
        known(device)?;
        set_attribute("cuKernelSetAttribute", CUfunction(kernel.0), kind, value)
    })
}

/// As `cuFuncGetName`.
///
/// # Safety
/// `name` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetName(name: Out<*const c_char>, kernel: CUkernel) -> CUresult {
    call("cuKernelGetName", || {
        let state = state()?;
        name.set(state.functions.get(&CUfunction(kernel.0)).ok_or(CUresult::INVALID_HANDLE)?.name.as_ptr())
    })
}

/// As `cuFuncGetParamInfo`.
///
/// # Safety
/// The pointers are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuKernelGetParamInfo(
    kernel: CUkernel,
    index: usize,
    offset: Out<usize>,
    bytes: Out<usize>,
) -> CUresult {
    call("cuKernelGetParamInfo", || parameter(CUfunction(kernel.0), index, offset, bytes))
}
