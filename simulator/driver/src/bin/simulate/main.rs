//! Runs a program on a simulated GPU: it finds a `libcuda.so.1` that is no driver of a card's.

mod running;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use simulated_cuda::settings::{PROFILE, REPORT, SEED, THREADS, WATCHDOG};

use running::{End, Signals};

/// Run a program on a simulated GPU, an RTX 2080 Ti whose kernels are checked while they run
///
/// The program needs no change: it loads libcuda.so.1, and gets the simulation. Faults in kernels and memory that was not
/// freed are told on stderr; if there are any, the exit code is not 0.
#[derive(Parser)]
#[command(name = "simulate", version)]
struct Arguments {
    /// Order of blocks and warps: 0 is the natural one, every other number a permutation of its own
    #[arg(long, value_name = "N", conflicts_with = "schedules")]
    seed: Option<u64>,

    /// Threads that run blocks; with 1 also the order of atomic operations is reproducible
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    threads: Option<u64>,

    /// Instructions a warp may execute in one launch before it counts as an endless loop
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    watchdog: Option<u64>,

    /// Write the launches' counters to a file as a JSON array, or with - a table to stderr
    #[arg(long, value_name = "FILE", conflicts_with = "schedules")]
    profile: Option<PathBuf>,

    /// Write a line of JSON for every fault and leak to a file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Run the program N times, with the seeds 0 to N-1 and one thread unless --threads says otherwise, and compare stdout
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    schedules: Option<u64>,

    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// The simulated driver as it is built; programs find it under the driver's names.
const LIBRARY: &str = "libsimulated_cuda.so";

/// Exit code for what is wrong before the program runs.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            say(&format!("error: {message}"));
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// Prints a line of our own on stderr; nobody is left to tell when that is closed.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "simulate: {text}");
}

/// Runs the program as often as asked, and gives the exit code.
fn run(arguments: &Arguments) -> Result<u8, String> {
    // First of all: a signal that ended this program now would leave the folder behind, and the program running.
    let signals = Signals::hold()?;
    let folder = tempfile::Builder::new().prefix("simulated-gpu-").tempdir();
    let folder = folder.map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let executable =
        std::env::current_exe().map_err(|error| format!("cannot find this program's own file: {error}"))?;
    let library = find_library(&executable)?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(&library, folder.path().join(name))
            .map_err(|error| format!("cannot link {}: {error}", library.display()))?;
    }
    // The program may run in another folder than this one, and so may those that it starts.
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| format!("cannot make {} absolute: {error}", path.display()))
    };
    let report = match &arguments.report {
        Some(path) => absolute(path)?,
        None => folder.path().join("report.jsonl"),
    };
    // Emptied: lines of an earlier run are no faults of this one.
    std::fs::write(&report, "").map_err(|error| format!("cannot write {}: {error}", report.display()))?;
    let profile = match &arguments.profile {
        Some(path) if path.as_os_str() != "-" => {
            let path = absolute(path)?;
            std::fs::write(&path, "[]\n")
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            Some(path)
        }
        other => other.clone(),
    };

    let command = |seed: Option<u64>, threads: Option<u64>| {
        let mut command = Command::new(&arguments.program[0]);
        command.args(&arguments.program[1..]);
        let mut search = folder.path().as_os_str().to_owned();
        if let Some(others) = std::env::var_os("LD_LIBRARY_PATH").filter(|others| !others.is_empty()) {
            search.push(":");
            search.push(others);
        }
        command.env("LD_LIBRARY_PATH", search).env(REPORT, &report);
        for (name, value) in [(SEED, seed), (THREADS, threads), (WATCHDOG, arguments.watchdog)] {
            if let Some(value) = value {
                command.env(name, value.to_string());
            }
        }
        match &profile {
            Some(path) => command.env(PROFILE, path),
            None => command.env_remove(PROFILE),
        };
        command
    };
    let code = match arguments.schedules {
        None => signals.run(command(arguments.seed, arguments.threads))?.code,
        Some(count) => {
            // One thread: a difference has to come from the seed.
            let threads = arguments.threads.or(Some(1));
            run_schedules(&signals, count, |seed| command(Some(seed), threads))?
        }
    };
    let found = Found::read(&report)?;
    if found.faults + found.leaks > 0 {
        let counted = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        say(&format!("reported: {} and {}", counted(found.faults, "fault"), counted(found.leaks, "leak")));
        return Ok(if code == 0 { 1 } else { code });
    }
    Ok(code)
}

/// Runs the program with every seed. The first run's output is shown, and the first that differs is told. A signal ends it with
/// the run that got it.
fn run_schedules(signals: &Signals, count: u64, command: impl Fn(u64) -> Command) -> Result<u8, String> {
    let mut first = Vec::new();
    let mut different = Vec::new();
    let mut code = 0;
    for seed in 0..count {
        let (End { code: this, signalled }, output) = signals.capture(command(seed))?;
        if seed == 0 {
            // A closed stdout is no reason to stop the comparison.
            let _ = std::io::stdout().write_all(&output);
            first = output;
        } else if output != first && !signalled {
            different.push(seed);
        }
        if this != 0 {
            say(&format!("seed {seed}: exit code {this}"));
            code = if code == 0 { this } else { code };
        }
        if signalled {
            say(&format!("a signal stopped it at seed {seed}, of {count} schedules"));
            return Ok(if code == 0 { 1 } else { code });
        }
    }
    if different.is_empty() {
        say(&format!("{count} schedules: stdout was identical"));
    } else {
        let seeds: Vec<String> = different.iter().take(10).map(u64::to_string).collect();
        let more = if different.len() > seeds.len() { ", ..." } else { "" };
        say(&format!(
            "{count} schedules: stdout differed from seed 0's for {} seeds: {}{more}",
            different.len(),
            seeds.join(", ")
        ));
        code = if code == 0 { 1 } else { code };
    }
    Ok(code)
}

/// The library that belongs to this executable: beside it, or in `lib` beside its folder.
fn find_library(executable: &Path) -> Result<PathBuf, String> {
    let folder = executable.parent().unwrap_or(Path::new("."));
    // Tests build the library in `deps` only, and leave an older one where it was: the newer of the two is meant.
    let built = [folder.join(LIBRARY), folder.join("deps").join(LIBRARY)];
    let newest =
        built.into_iter().filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path))).max();
    if let Some((_, path)) = newest {
        return Ok(path);
    }
    let installed = folder.join("../lib").join(LIBRARY);
    if installed.is_file() {
        return Ok(installed);
    }
    Err(format!("no {LIBRARY} in {0} or {0}/../lib", folder.display()))
}

/// What the report says.
struct Found {
    faults: usize,
    leaks: usize,
}

impl Found {
    fn read(report: &Path) -> Result<Found, String> {
        let text = std::fs::read_to_string(report)
            .map_err(|error| format!("cannot read {}: {error}", report.display()))?;
        let mut found = Found { faults: 0, leaks: 0 };
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line)
                .map_err(|error| format!("a line of {} is no JSON: {error}", report.display()))?;
            match line["event"].as_str() {
                Some("fault") => found.faults += 1,
                Some("leak") => found.leaks += 1,
                _ => {}
            }
        }
        Ok(found)
    }
}
