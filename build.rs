//! Compiles `kernels/*.cu` for the CUDA engine. Without nvcc the project is built for the CPU alone, and says so.
//!
//! Each source becomes a fatbin (machine code for the cards from Turing to Hopper, and PTX), which the program carries. The same
//! PTX is what the simulated GPU runs in the tests. What `ptxas` says of each kernel's registers and spills is kept beside.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use nvcc::{CompileError, Fatbin, Options, Toolkit};

fn main() -> Result<(), Box<dyn Error>> {
    // A kernel that is new is no change to any file that was compiled.
    println!("cargo:rerun-if-changed=kernels");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let package =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    let fatbins = match Toolkit::find() {
        Ok(toolkit) => {
            let sources = sources(&package.join("kernels"))?;
            let fatbins = compile(&toolkit, &sources, &Options::new(&out))?;
            let outputs: Vec<PathBuf> = fatbins.iter().map(|fatbin| fatbin.path.clone()).collect();
            toolkit.tell_cargo(&outputs);
            // A driver has to be of this generation of CUDA, or newer.
            println!("cargo:rustc-env=COIN_CUDA_MAJOR={}", toolkit.version().major);
            fatbins
        }
        Err(missing) => {
            missing.tell_cargo();
            println!("cargo:warning=coin is built for the CPU alone, without --device cuda: {missing}");
            Vec::new()
        }
    };
    // The modules by name, and what the kernels take, as the program and its tests read them.
    let mut modules = String::from("&[\n");
    let mut resources = String::new();
    for Fatbin { path, resources: printed } in &fatbins {
        let name =
            path.file_stem().and_then(|stem| stem.to_str()).ok_or("a kernel file's name is no text")?;
        writeln!(modules, "    ({name:?}, include_bytes!({path:?}) as &[u8]),")?;
        resources += printed;
    }
    modules += "]\n";
    std::fs::write(out.join("modules.rs"), modules)?;
    std::fs::write(out.join("resources.txt"), resources)?;
    Ok(())
}

/// The CUDA sources of a folder, sorted. Absolute paths: the line information that reports are made of has them.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

/// Compiles them side by side.
fn compile(toolkit: &Toolkit, sources: &[PathBuf], options: &Options) -> Result<Vec<Fatbin>, Box<dyn Error>> {
    let results: Vec<Result<Fatbin, CompileError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = sources
            .iter()
            .map(|source| scope.spawn(move || toolkit.compile_fatbin(source, options)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)))
            .collect()
    });
    let mut fatbins = Vec::new();
    for result in results {
        // Printed as it is: an error that `main` returns is shown as one line with escapes.
        fatbins
            .push(result.inspect_err(|error| eprintln!("{error}")).map_err(|_| "a kernel does not compile")?);
    }
    Ok(fatbins)
}
