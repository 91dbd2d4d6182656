//! Compiles the kernels that the tests run. The library has no use for them: without nvcc it is built all the same, and the
//! tests say what they lack.

use nvcc::{CompileError, Options, Toolkit};
use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    // A kernel that is new is no change to any file that was compiled.
    println!("cargo:rerun-if-changed=kernels");
    let toolkit = match Toolkit::find() {
        Ok(toolkit) => toolkit,
        Err(missing) => {
            missing.tell_cargo();
            println!(
                "cargo:warning=the simulator's kernels are not compiled, and its tests will fail: {missing}"
            );
            println!("cargo:rustc-env=SIMULATOR_KERNELS=");
            return Ok(());
        }
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let package =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    let mut jobs = Vec::new();
    for (folder, options) in
        [("kernels", Options::new(&out)), ("kernels/planted", Options::new(&out.join("planted")))]
    {
        for source in sources(&package.join(folder))? {
            jobs.push((source, options.clone()));
        }
    }
    let ptx = compile(&toolkit, &jobs)?;
    toolkit.tell_cargo(&ptx);
    println!("cargo:rustc-env=SIMULATOR_KERNELS={}", out.display());
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

/// Compiles all at once: they are few, and each takes a second or two.
fn compile(toolkit: &Toolkit, jobs: &[(PathBuf, Options)]) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let results: Vec<Result<PathBuf, CompileError>> = std::thread::scope(|scope| {
        let run = |(source, options): &'_ (PathBuf, Options)| toolkit.compile_ptx(source, options);
        let threads: Vec<_> = jobs.iter().map(|job| scope.spawn(move || run(job))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)))
            .collect()
    });
    let mut outputs = Vec::new();
    for result in results {
        // Printed as it is: an error that `main` returns is shown as one line with escapes.
        outputs
            .push(result.inspect_err(|error| eprintln!("{error}")).map_err(|_| "a kernel does not compile")?);
    }
    Ok(outputs)
}
