//! `coin bench --turing`: a training step on an RTX 2080 Ti, predicted without the card.

use std::path::{Path, PathBuf};
use std::process::Command;

use turing::counters::{self, Launch};
use turing::predict::predict;
use turing::report::{self, costliest};
use turing::sass;
use turing::tools::Disassembler;

use super::output;
use crate::atomic_file;
use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::device::cuda::card;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::device::{Compute, Device};
use crate::model::{Step, bytes_on_a_card, engines_of_seeds, parameters};
use crate::random::{Stream, purpose};

#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Predict a step on an RTX 2080 Ti, kernel by kernel, instead of timing one; needs no card
    #[arg(long, conflicts_with = "worker")]
    turing: bool,
    /// Samples of the two batches that are simulated; what the whole batch does is extrapolated from them
    #[arg(long, value_name = "N,N", value_delimiter = ',', requires = "turing")]
    turing_samples: Option<Vec<usize>>,
    /// Write the prediction to a file too, as JSON
    #[arg(long, value_name = "FILE", requires = "turing")]
    turing_json: Option<PathBuf>,
    /// Take the steps whose counters `--turing` reads
    #[arg(long, hide = true, requires = "turing")]
    turing_worker: bool,
}

/// Samples of the two simulated batches: multiples of what makes whole tiles and chunks of full windows of 40.
const SAMPLES: [usize; 2] = [64, 128];

impl Flags {
    pub fn wanted(&self) -> bool {
        self.turing
    }
}

/// A batch of full windows, and parts of it that stand for it.
struct Batches {
    /// Distinct utterances of the whole batch.
    distinct: usize,
    parts: Vec<Vec<u32>>,
}

/// Draws a batch of full windows, and takes parts of `sizes` samples that have as many distinct utterances for each sample.
fn batches(windows: &Windows, samples: &[u32], size: usize, sizes: &[usize], seed: u64) -> Result<Batches> {
    let longest = windows.history_length();
    let mut full: Vec<u32> =
        samples.iter().copied().filter(|&target| windows.window(target).len() == longest).collect();
    if full.len() < size {
        return Err(Error::input(format!(
            "--turing: only {} training samples have a full window of {longest} utterances, and a batch has {size}: \
             give other conversations, or a smaller --set batch_size or history_length",
            full.len()
        )));
    }
    if let Some(wrong) = sizes.iter().find(|part| !(1..=size).contains(*part)) {
        return Err(Error::input(format!(
            "--turing-samples: {wrong} is not between 1 and the batch size, {size}"
        )));
    }
    Stream::new(seed, purpose::TEST).shuffle(&mut full);
    full.truncate(size);
    full.sort_unstable();
    let distinct = |targets: &[u32]| {
        let mut read: Vec<u32> = targets.iter().flat_map(|&target| windows.window(target)).collect();
        read.sort_unstable();
        read.dedup();
        read.len()
    };
    let all = distinct(&full);
    let part = |count: usize| {
        // Neighbours share utterances as they do in the whole batch; which neighbours matters little.
        let off = |start: &usize| (distinct(&full[*start..][..count]) * size).abs_diff(all * count);
        let start = (0..=size - count).step_by(8).min_by_key(off).unwrap_or(0);
        full[start..][..count].to_vec()
    };
    Ok(Batches { distinct: all, parts: sizes.iter().map(|&count| part(count)).collect() })
}

/// A step of `runs` runs side by side.
pub fn run(flags: &Flags, config: &Config, corpus: &Corpus, samples: &[u32], runs: usize) -> Result<()> {
    let windows = Windows::new(corpus, config.history_length);
    let sizes = flags.turing_samples.clone().unwrap_or(SAMPLES.to_vec());
    let &[one, two] = sizes.as_slice() else {
        return Err(Error::input("--turing-samples takes two numbers, as in --turing-samples 64,128"));
    };
    if one >= two {
        return Err(Error::input("--turing-samples: the second batch has to be the larger one"));
    }
    let batches = batches(&windows, samples, config.batch_size, &sizes, config.seed)?;
    if flags.turing_worker {
        return work(config, corpus, &batches.parts, runs);
    }
    card::built()?;
    let tools = Disassembler::find().map_err(Error::Input)?;
    let library = simulated_driver()?;
    let scratch = Scratch::new()?;
    let mut kernels = Vec::new();
    for (name, fatbin) in card::MODULES {
        let text = tools.disassemble(name, fatbin, &scratch.0).map_err(Error::System)?;
        kernels
            .extend(sass::read(&text).map_err(|what| Error::System(format!("kernels/{name}.cu: {what}")))?);
    }
    let launches = simulate(&library, &scratch.0)?;
    // Before the first step features are standardised; then both steps launch the same graph.
    let first = launches.iter().rposition(|launch| launch.kernel == STANDARDISE).map_or(0, |place| place + 1);
    let (small, large) = launches[first..].split_at(launches[first..].len() / 2);
    let whole = counters::extrapolate(small, large, (one, two), config.batch_size).map_err(Error::System)?;
    let predictions = predict(&kernels, &whole).map_err(Error::System)?;
    let step = report::Step::of(&predictions);
    if let Some(path) = &flags.turing_json {
        let mut text = serde_json::to_string_pretty(&step)
            .map_err(|error| Error::System(format!("cannot write as JSON: {error}")))?;
        text.push('\n');
        atomic_file::write(path, text.as_bytes())?;
    }
    let adversarial = if config.adversarial { "with" } else { "without" };
    let several = if runs > 1 { format!(" of {runs} runs at once") } else { String::new() };
    let megabytes = bytes_on_a_card(config, corpus, runs) as f64 / 1e6;
    let text = format!(
        "a training step{several} on an RTX 2080 Ti, predicted: {}, {} samples of {} utterances, {} distinct, {adversarial} the \
         adversarial pass\n\
         {:.2} ms in {} launches, {megabytes:.0} MB of memory, {} parameters; extrapolated from simulated steps on {one} and {two} samples\n\
         columns: what each part of the card needs, in us; docs/turing.md says how that is found\n\n{}\n{}",
        config.dtype,
        config.batch_size,
        config.history_length,
        batches.distinct,
        step.microseconds / 1e3,
        step.launches,
        parameters(config, corpus),
        step.table(),
        costliest(&predictions, 20),
    );
    output::print(&text).map(drop)
}

/// The kernel that an engine launches when it gets its conversations, and not in a step.
const STANDARDISE: &str = "standardise";

const LIBRARY: &str = "libsimulated_cuda.so";

/// The simulated GPU's driver, which cargo builds beside this program, or below it for tests.
fn simulated_driver() -> Result<PathBuf> {
    let own = std::env::current_exe()
        .map_err(|error| Error::System(format!("cannot find this program's own file: {error}")))?;
    let folder = own.parent().unwrap_or(Path::new("."));
    let built = [folder.join(LIBRARY), folder.join("deps").join(LIBRARY)];
    // Tests leave an older one where it was: the newer of the two is meant.
    let newest =
        built.into_iter().filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path))).max();
    newest.map(|(_, path)| path).ok_or_else(|| {
        Error::input(format!(
            "--turing runs steps on the simulated GPU, and there is no {LIBRARY} in {}: build it with \
             cargo build --release -p simulated-driver",
            folder.display()
        ))
    })
}

/// Runs this program again as a worker, on the simulated GPU. Returns the counters of all its launches.
fn simulate(library: &Path, scratch: &Path) -> Result<Vec<Launch>> {
    let system =
        |doing: &str, error: std::io::Error| Error::System(format!("--turing: cannot {doing}: {error}"));
    let folder = scratch.join("driver");
    std::fs::create_dir_all(&folder).map_err(|error| system("make a folder", error))?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(library, folder.join(name))
            .map_err(|error| system("link the driver", error))?;
    }
    let profile = scratch.join("profile.json");
    let own = std::env::current_exe().map_err(|error| system("find this program's own file", error))?;
    let status = Command::new(own)
        .args(std::env::args_os().skip(1))
        .arg("--turing-worker")
        .env("LD_LIBRARY_PATH", &folder)
        .env("SIMULATED_GPU_PROFILE", &profile)
        .status()
        .map_err(|error| system("start the simulated GPU", error))?;
    if !status.success() {
        return Err(Error::System(format!("--turing: the steps on the simulated GPU ended with {status}")));
    }
    let text = std::fs::read_to_string(&profile).map_err(|error| system("read the counters", error))?;
    serde_json::from_str(&text).map_err(|error| Error::System(format!("--turing: the counters: {error}")))
}

/// A folder that goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let folder = std::env::temp_dir().join(format!("coin-turing-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| Error::io("make", &folder, &error))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is in the system's folder for such files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Trains every run on each batch once. The simulated driver, which this runs on, counts what the launches do.
fn work(config: &Config, corpus: &Corpus, batches: &[Vec<u32>], runs: usize) -> Result<()> {
    let everything = Standardisation::fit(corpus, 0..corpus.conversations.len());
    let compute = Compute { device: Device::Cuda(0), threads: 1 };
    let mut engine = engines_of_seeds(config, corpus, &everything, compute, runs)?;
    for (number, targets) in (0..).zip(batches) {
        let step = Step { targets, number, learning_rate: config.learning_rate };
        engine.train_steps(&vec![Some(step); runs])?;
    }
    // Until the card is done.
    engine.losses_of(0, true).map(drop)
}
