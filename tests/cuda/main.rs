//! The CUDA engine against the CPU engine, on every card that there is: the simulated one always, a real one where a driver is.
//!
//! The driver is what the loader finds, and that is settled when a process begins. So the test runs itself once for each card, with
//! the loader's path set; whatever the simulated card reports (races, uninitialised reads, leaks) fails the test. Filters work as
//! with any test: `cargo test --test cuda objective`.

#[path = "../common/mod.rs"]
mod common;
mod engine;
#[path = "../golden_files/mod.rs"]
mod golden_files;
#[path = "../talk/mod.rs"]
mod talk;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Names the card in the process that tests it.
const CARD: &str = "COIN_TEST_CARD";
/// What the process is to print instead of running tests: [`engine::bits_of_a_run`].
const BITS: &str = "COIN_TEST_BITS";

/// Orders of blocks and warps that a run must not depend on.
const SEEDS: [&str; 3] = ["0", "1", "2"];

fn main() -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    if std::env::var_os(BITS).is_some() {
        println!("{}", engine::bits_of_a_run());
        return ExitCode::SUCCESS;
    }
    if let Some(card) = std::env::var_os(CARD) {
        let card = card.to_string_lossy().into_owned();
        let trials = engine::trials().into_iter().map(|(name, test)| {
            Trial::test(format!("{card}::{name}"), move || {
                test();
                Ok(())
            })
        });
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    let mut trials = vec![
        Trial::test("simulated", || on_simulated_card(std::env::args().skip(1).collect())),
        Trial::test("simulated_schedules", schedules),
        Trial::test("simulated_command_line", command_line),
        Trial::test("no_card", no_card),
    ];
    if has_real_driver() {
        trials.push(Trial::test("real", || on_real_card(std::env::args().skip(1).collect())));
    } else {
        eprintln!("there is no CUDA driver on this machine: the simulated card alone is tested");
    }
    // Filters are for the tests on the cards, which these run.
    let all = Arguments { filter: None, skip: Vec::new(), exact: false, ..arguments };
    if all.list {
        return libtest_mimic::run(&all, trials).exit_code();
    }
    libtest_mimic::run(&all, trials).exit_code()
}

/// A folder in which the loader finds the simulated driver, and what it reports.
struct Simulated {
    folder: tempfile::TempDir,
}

impl Simulated {
    fn new() -> Simulated {
        let folder = tempfile::tempdir().unwrap();
        let library = library();
        for name in ["libcuda.so", "libcuda.so.1"] {
            std::os::unix::fs::symlink(&library, folder.path().join(name)).unwrap();
        }
        Simulated { folder }
    }

    fn report(&self) -> PathBuf {
        self.folder.path().join("report.jsonl")
    }

    /// This test again, with the simulated card.
    fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env(CARD, "simulated")
            .env("LD_LIBRARY_PATH", self.folder.path())
            .env("SIMULATED_GPU_REPORT", self.report());
        command
    }

    fn check_report(&self) -> Result<(), libtest_mimic::Failed> {
        let report = std::fs::read_to_string(self.report()).unwrap_or_default();
        let wrong: Vec<&str> = report
            .lines()
            .filter(|line| line.contains(r#""event":"fault""#) || line.contains(r#""event":"leak""#))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
    }
}

/// The simulated driver: built beside this test, since the test depends on it.
fn library() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let library = own.parent().unwrap_or(Path::new(".")).join("libsimulated_cuda.so");
    assert!(library.is_file(), "{} was not built", library.display());
    library
}

fn on_simulated_card(arguments: Vec<String>) -> Result<(), libtest_mimic::Failed> {
    let simulated = Simulated::new();
    let status = simulated.command().args(arguments).status().unwrap();
    simulated.check_report()?;
    if status.success() { Ok(()) } else { Err(format!("the tests on the simulated card: {status}").into()) }
}

/// Whether the loader finds a driver that is not the simulation.
fn has_real_driver() -> bool {
    ["libcuda.so", "libcuda.so.1"].into_iter().any(|name| {
        // SAFETY: NVIDIA's driver may be loaded by any program, and a symbol is only looked for.
        unsafe {
            libloading::Library::new(name)
                .is_ok_and(|driver| driver.get::<unsafe extern "C" fn()>(b"simulatedGpuCalls\0").is_err())
        }
    })
}

fn on_real_card(arguments: Vec<String>) -> Result<(), libtest_mimic::Failed> {
    let own = std::env::current_exe().unwrap();
    let status = Command::new(own).args(arguments).env(CARD, "real").status().unwrap();
    if status.success() { Ok(()) } else { Err(format!("the tests on the card: {status}").into()) }
}

/// The same bits, whatever the order of blocks and warps.
fn schedules() -> Result<(), libtest_mimic::Failed> {
    let run = |seed: &str| -> Result<Vec<u8>, libtest_mimic::Failed> {
        let simulated = Simulated::new();
        let output = simulated.command().env(BITS, "1").env("SIMULATED_GPU_SEED", seed).output().unwrap();
        simulated.check_report()?;
        if !output.status.success() || output.stdout.is_empty() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(output.stdout)
    };
    let first = run(SEEDS[0])?;
    for seed in &SEEDS[1..] {
        if run(seed)? != first {
            return Err(format!("schedule {seed} gives other bits than schedule {}", SEEDS[0]).into());
        }
    }
    Ok(())
}

/// The program: beside this test where `scripts/gpu-check` packed both, else where cargo built it.
fn program() -> PathBuf {
    let beside = std::env::current_exe().unwrap().with_file_name("coin");
    if beside.is_file() { beside } else { PathBuf::from(env!("CARGO_BIN_EXE_coin")) }
}

/// What a user does: train on the card, evaluate there and on the CPU, go on on the other device.
fn command_line() -> Result<(), libtest_mimic::Failed> {
    let simulated = Simulated::new();
    let folder = tempfile::tempdir().unwrap();
    let coin = |arguments: &[&str]| -> Result<String, libtest_mimic::Failed> {
        let output = Command::new(program())
            .args(arguments)
            .current_dir(folder.path())
            .env("LD_LIBRARY_PATH", simulated.folder.path())
            .env("SIMULATED_GPU_REPORT", simulated.report())
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let devices = coin(&["devices"])?;
    assert!(devices.contains("cuda:0   NVIDIA GeForce RTX 2080 Ti (simulated)"), "{devices}");
    coin(&[
        "convert",
        "synthetic",
        "--conversations",
        "9",
        "--test-conversations",
        "2",
        "--widths",
        "6,3,0",
        "--out",
        "d.jsonl",
    ])?;
    let train = [
        "train",
        "--device",
        "cuda",
        "--data",
        "d.jsonl",
        "--embedding-size",
        "8",
        "--stacks",
        "1",
        "--history-length",
        "5",
    ];
    coin(&[&train[..], &["--batch-size", "64", "--epochs", "2", "--out", "run"]].concat())?;
    let evaluate =
        |device: &str| coin(&["evaluate", "--checkpoint", "run", "--data", "d.jsonl", "--device", device]);
    let (card, cpu) = (evaluate("cuda")?, evaluate("cpu")?);
    // The mean loss may differ in its last digit.
    let figures =
        |text: &str| text.lines().filter(|line| !line.contains("loss")).collect::<Vec<_>>().join("\n");
    assert_eq!(figures(&card), figures(&cpu));
    assert!(figures(&card).contains("accuracy"), "{card}");
    let bench = ["bench", "--device", "cuda", "--data", "d.jsonl", "--steps", "2", "--json", "bench.json"];
    let table =
        coin(&[&bench[..], &["--set", "d=8", "--set", "L=2", "--set", "K=5", "--set", "B=16"]].concat())?;
    for part in [
        "RTX 2080 Ti (simulated)",
        "tensor cores",
        "gru_backward_f16",
        "product_tn_f16",
        "live utterance, mixed",
    ] {
        assert!(table.contains(part), "{part:?} is not in:\n{table}");
    }
    assert!(coin(&["bench", "--compare", "bench.json", "bench.json"])?.contains("0 slower, 0 faster"));
    // In mixed precision: trained to its end, carried on with, evaluated anywhere.
    coin(
        &[&train[..], &["--batch-size", "64", "--epochs", "1", "--dtype", "mixed", "--out", "mixed"]]
            .concat(),
    )?;
    coin(&["train", "--resume", "mixed", "--device", "cuda"])?;
    for device in ["cuda", "cpu"] {
        let text = coin(&["evaluate", "--checkpoint", "mixed", "--data", "d.jsonl", "--device", device])?;
        assert!(text.contains("accuracy"), "{text}");
    }
    simulated.check_report()
}

/// Without a driver, or built without nvcc, the program starts, computes on the CPU, and says plainly why there is no card.
fn no_card() -> Result<(), libtest_mimic::Failed> {
    // What the build says of the kernels' compiler, if it found one.
    let compiled = option_env!("COIN_CUDA_MAJOR").is_some();
    let [reason, mend] = match compiled {
        true => ["there is no CUDA driver", "install NVIDIA's driver, or use --device cpu"],
        false => ["this coin was built without nvcc", "run scripts/install-nvcc and build it again"],
    };
    if compiled && has_real_driver() {
        eprintln!("this machine has a driver: what is said without one cannot be seen here");
        return Ok(());
    }
    let coin = |arguments: &[&str]| {
        Command::new(program()).args(arguments).env_remove("LD_LIBRARY_PATH").output().unwrap()
    };
    let output = coin(&["devices"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(&format!("cuda     none: {reason}")), "{text}");
    let output = coin(&["train", "--device", "cuda", "--out", "never"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(reason) && text.contains(mend), "{text}");
    assert!(!Path::new("never").exists());
    Ok(())
}
