//! Finds nvcc, NVIDIA's CUDA compiler, and compiles CUDA sources with it: for build scripts.
//!
//! ```no_run
//! // build.rs
//! let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
//! match nvcc::Toolkit::find() {
//!     Ok(toolkit) => match toolkit.compile_ptx("kernels/gemm.cu".as_ref(), &nvcc::Options::new(&out)) {
//!         Ok(ptx) => toolkit.tell_cargo(&[ptx]),
//!         Err(error) => panic!("{error}"),
//!     },
//!     Err(missing) => {
//!         missing.tell_cargo();
//!         println!("cargo:warning={missing}");
//!     }
//! }
//! ```
//!
//! - [`Toolkit::find`] searches `CUDA_HOME` and `CUDA_PATH`, the `.cuda` folder that `scripts/install-nvcc` makes, virtual
//!   environments with NVIDIA's packages, `PATH`, and `/usr/local/cuda`.
//! - [`Toolkit::compile_ptx`] makes the text that a driver, or the simulator, compiles further;
//!   [`Toolkit::compile_fatbin`] makes machine code for the cards from Turing to Hopper.
//! - Cargo runs a build script as a whole. Beside each output there are therefore the command line, the compiler's version
//!   and a hash of every file that was read, and nvcc is called only where one of them has changed.
//! - Nothing is printed for cargo but by [`Toolkit::tell_cargo`] and [`NotFound::tell_cargo`].

mod compile;
mod find;

pub use compile::{CompileError, Fatbin, Options};
pub use find::{MINIMUM, NotFound, Toolkit, Version};
