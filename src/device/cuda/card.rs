//! A card with the project's kernels loaded.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute_enum};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The modules that `build.rs` compiled, by name; none where it found no nvcc.
pub const MODULES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// The oldest architecture that the kernels are compiled for: Turing.
const OLDEST: (i32, i32) = (7, 5);

/// A card, its context and stream, and every kernel of the project.
pub struct Card {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    kernels: HashMap<&'static str, Kernel>,
    /// Bytes of dynamic shared memory that a block may have.
    pub shared_memory: usize,
    pub multiprocessors: u32,
    // Functions die with their modules.
    _modules: Vec<Arc<CudaModule>>,
}

struct Kernel {
    function: CudaFunction,
    /// Bytes of each parameter, as it was compiled.
    parameters: Vec<usize>,
}

/// What `coin devices` says of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub index: usize,
    pub name: String,
    pub compute_capability: (i32, i32),
    pub memory: usize,
    /// 0 where the card cannot be opened.
    pub free: usize,
    /// Why it cannot be used, if it cannot.
    pub refused: Option<String>,
}

/// Whether the program was built with its kernels; what to do if not.
pub fn built() -> Result<()> {
    if MODULES.is_empty() {
        return Err(Error::input(
            "this coin was built without nvcc, for the CPU alone: run scripts/install-nvcc and build it again",
        ));
    }
    Ok(())
}

/// The version of CUDA that the driver supports, as 1000 major + 10 minor; an error where there is no driver.
pub fn driver_version() -> Result<i32> {
    // SAFETY: it opens libraries of these names, as everything after it would.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::input(
            "there is no CUDA driver on this machine (no libcuda.so.1): install NVIDIA's driver, or use --device cpu",
        ));
    }
    result::init().map_err(|error| failed("start the driver", error))?;
    let mut version = 0;
    // SAFETY: the driver writes one int.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|error| failed("ask for the driver's version", error))?;
    Ok(version)
}

/// Refuses a driver that is older than the CUDA that the kernels were compiled with, before it is asked for what it may not have.
fn check_driver(version: i32, compiled_with: Option<&str>) -> Result<()> {
    match compiled_with.and_then(|major| major.parse().ok()) {
        Some(needed) if version / 1000 < needed => Err(Error::input(format!(
            "the driver on this machine supports CUDA {}.{}, and the kernels were compiled with CUDA {needed}: install a newer driver \
             (CUDA 13 comes with driver 580), or use --device cpu",
            version / 1000,
            version % 1000 / 10
        ))),
        _ => Ok(()),
    }
}

/// Why a card of this compute capability cannot be used, if it cannot.
fn too_old((major, minor): (i32, i32)) -> Option<String> {
    ((major, minor) < OLDEST)
        .then(|| format!("compute capability {major}.{minor}: the kernels need 7.5 (Turing) or newer"))
}

/// An error of the driver in words.
pub fn failed(doing: &str, error: DriverError) -> Error {
    let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    let (name, text) = (name.unwrap_or_else(|_| format!("{:?}", error.0)), text.unwrap_or_default());
    let message = format!("the card failed to {doing}: {name} ({text})");
    match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Error::System(format!("{message}; is another program using it?"))
        }
        _ => Error::System(message),
    }
}

/// All cards of the machine, those that cannot be used with the reason.
pub fn cards() -> Result<Vec<Description>> {
    (0..count()?).map(describe).collect()
}

/// How many cards the driver finds.
fn count() -> Result<usize> {
    check_driver(driver_version()?, option_env!("COIN_CUDA_MAJOR"))?;
    let count = CudaContext::device_count().map_err(|error| failed("count the cards", error))?;
    Ok(count as usize)
}

/// A card that another program has to itself, or that is broken, is described all the same.
fn describe(index: usize) -> Result<Description> {
    let told = |error| failed(&format!("tell of card {index}"), error);
    let device = result::device::get(index as i32).map_err(told)?;
    let capability = |attribute| {
        // SAFETY: the driver has just given this device.
        unsafe { result::device::get_attribute(device, attribute) }.map_err(told)
    };
    let compute_capability = (
        capability(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        capability(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let opened = CudaContext::new(index).and_then(|context| context.mem_get_info());
    Ok(Description {
        index,
        name: result::device::get_name(device).map_err(told)?,
        compute_capability,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.map_err(told)?,
        free: opened.as_ref().map_or(0, |(free, _)| *free),
        refused: too_old(compute_capability)
            .or_else(|| opened.err().map(|error| failed("open", error).to_string())),
    })
}

/// What a measurement says of its card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Details {
    pub name: String,
    pub compute_capability: String,
    pub multiprocessors: i32,
    /// The highest clocks, of its multiprocessors and of its memory, in MHz.
    pub clock: i32,
    pub memory_clock: i32,
    pub l2_bytes: i32,
    /// NVIDIA's version of the driver, where the system tells it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub driver: Option<String>,
    /// The CUDA that the driver supports.
    pub cuda: String,
}

/// Asks for the details of card `index`, which there is.
pub fn details(index: usize) -> Result<Details> {
    let version = driver_version()?;
    let told = |error| failed(&format!("tell of card {index}"), error);
    let context = CudaContext::new(index).map_err(|error| failed(&format!("open card {index}"), error))?;
    let (major, minor) = context.compute_capability().map_err(told)?;
    let attribute = |attribute| context.attribute(attribute).map_err(told);
    // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul ..": the first word that is a version.
    let system = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = system
        .split_whitespace()
        .find(|word| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.'))
        .map(str::to_string);
    Ok(Details {
        name: context.name().map_err(told)?,
        compute_capability: format!("{major}.{minor}"),
        multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        clock: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? / 1000,
        memory_clock: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? / 1000,
        l2_bytes: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        driver,
        cuda: format!("{}.{}", version / 1000, version % 1000 / 10),
    })
}

/// Bytes of each parameter of a kernel.
fn parameters(function: &CudaFunction) -> Vec<usize> {
    let (mut offset, mut size) = (0, 0);
    let mut sizes = Vec::new();
    // SAFETY: the function is loaded, and the driver writes two numbers. Behind the last parameter it gives an error.
    while unsafe { sys::cuFuncGetParamInfo(function.cu_function(), sizes.len(), &mut offset, &mut size) }
        .result()
        .is_ok()
    {
        sizes.push(size);
    }
    sizes
}

impl Card {
    /// Opens a card and loads every kernel in `names`, which are (module, kernels).
    pub fn open(index: usize, names: &[(&str, &[&'static str])]) -> Result<Arc<Card>> {
        built()?;
        let count = count()?;
        if index >= count {
            return Err(Error::input(match count {
                0 => "the driver finds no card on this machine: use --device cpu".to_string(),
                count => format!("there is no card {index}: the machine has {count}, numbered from 0"),
            }));
        }
        let description = describe(index)?;
        if let Some(reason) = &description.refused {
            return Err(Error::input(format!("card {index}, {}: {reason}", description.name)));
        }
        let context = CudaContext::new(index).map_err(|error| failed("open its context", error))?;
        // One stream, whose order is all that is needed; memory is not cudarc's.
        // SAFETY: nothing is shared between streams.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(|error| failed("make a stream", error))?;
        let mut modules = Vec::new();
        let mut kernels = HashMap::new();
        for (module, names) in names {
            let Some((_, fatbin)) = MODULES.iter().find(|(name, _)| name == module) else {
                return Err(Error::System(format!(
                    "kernels/{module}.cu is not in this program: build it again"
                )));
            };
            let loaded = context.load_module(Ptx::from_binary(fatbin.to_vec())).map_err(|error| match error.0 {
                sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION | sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
                    Error::input(format!(
                        "the driver cannot load kernels/{module}.cu: it is older than the CUDA 13 that the kernels were \
                         compiled with; install driver 580 or newer"
                    ))
                }
                _ => failed(&format!("load kernels/{module}.cu"), error),
            })?;
            for name in *names {
                let function = loaded.load_function(name).map_err(|_| {
                    Error::System(format!(
                        "kernels/{module}.cu has no kernel {name}: build the program again"
                    ))
                })?;
                let parameters = parameters(&function);
                kernels.insert(*name, Kernel { function, parameters });
            }
            modules.push(loaded);
        }
        let attribute = |attribute, what| {
            context.attribute(attribute).map_err(|error| failed(&format!("tell of its {what}"), error))
        };
        let shared_memory = attribute(
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            "shared memory",
        )? as usize;
        let multiprocessors =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, "multiprocessors")?
                as u32;
        Ok(Arc::new(Card { context, stream, kernels, shared_memory, multiprocessors, _modules: modules }))
    }

    /// Makes the card's context this thread's, which every call of the driver takes for granted.
    pub fn bind(&self) -> std::result::Result<(), DriverError> {
        self.context.bind_to_thread()
    }

    /// Free and total bytes of the card's memory.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(|error| failed("tell its free memory", error))
    }

    /// Lets a kernel have `bytes` of dynamic shared memory, which takes leave above 48 KiB.
    pub fn allow_shared(&self, kernel: &str, bytes: usize) -> Result<()> {
        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        if bytes <= 48 << 10 {
            return Ok(());
        }
        self.kernels[kernel]
            .function
            .set_attribute(attribute, bytes as i32)
            .map_err(|error| failed(&format!("give {kernel} {bytes} bytes of shared memory"), error))
    }

    /// Refuses arguments of a kernel that are not as many as its parameters, or not as large.
    pub fn check_arguments(&self, kernel: &str, sizes: &[usize]) -> Result<()> {
        let parameters = &self.kernels[kernel].parameters;
        if parameters == sizes {
            return Ok(());
        }
        Err(Error::System(format!(
            "{kernel} is launched with arguments of {sizes:?} bytes, and takes {parameters:?}: its launcher and its source disagree"
        )))
    }

    /// Launches a kernel on the card's stream.
    ///
    /// # Safety
    /// `arguments` point to values of the kernel's parameters, in its order and of its types, and the addresses among them
    /// to memory that the kernel may read and write as it does.
    pub unsafe fn launch(
        &self,
        kernel: &str,
        Shape { grid, block, shared }: Shape,
        arguments: &mut [*mut c_void],
    ) -> std::result::Result<(), DriverError> {
        // SAFETY: the function is loaded, the stream is the context's own; the rest is the caller's promise.
        unsafe {
            result::launch_kernel(
                self.kernels[kernel].function.cu_function(),
                (grid[0], grid[1], grid[2]),
                (block, 1, 1),
                shared,
                self.stream.cu_stream(),
                arguments,
            )
        }
    }
}

/// What is refused, of which no machine of a test has all.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_driver_is_refused() {
        let error = check_driver(12020, Some("13")).unwrap_err();
        assert!(
            error.to_string().contains("supports CUDA 12.2, and the kernels were compiled with CUDA 13"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 2);
        for (version, compiled_with) in [(13000, "13"), (13020, "13"), (14000, "13"), (12020, "12")] {
            check_driver(version, Some(compiled_with)).unwrap();
        }
        check_driver(11040, None).unwrap();
    }

    #[test]
    fn an_old_card_is_refused() {
        for old in [(5, 2), (6, 1), (7, 0), (7, 2)] {
            assert!(too_old(old).unwrap().contains("the kernels need 7.5"));
        }
        for fine in [(7, 5), (8, 0), (9, 0), (10, 0), (12, 1)] {
            assert_eq!(too_old(fine), None);
        }
    }
}

/// Blocks, threads of a block, and bytes of dynamic shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: u32,
    pub shared: u32,
}
