//! `coin bench --turing`: a training step on an RTX 2080 Ti, predicted without the card.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;
use turing::counters::{self, Launch};
use turing::predict::predict;
use turing::report::{self, costliest};
use turing::tools::Disassembler;
use turing::{card as rates, sass};

use super::output;
use crate::atomic_file;
use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::device::cuda::card;
use crate::device::work::{Unit, Work};
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
    pub turing_json: Option<PathBuf>,
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

/// The least that all launches of a step do together, every operand read once and every result written once, and how long that
/// takes the card.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
struct Least {
    bytes: f64,
    tensor_flops: f64,
    fma_flops: f64,
    dram_microseconds: f64,
    tensor_microseconds: f64,
    fma_microseconds: f64,
}

impl Least {
    /// Of `size` samples, on the line through steps on `sizes.0` and `sizes.1` samples. What launches must do grows with the
    /// counts of samples, rows, pairs and distinct utterances alone.
    fn of(one: &[Work], two: &[Work], sizes: (usize, usize), size: usize) -> Least {
        let line = counters::line(sizes, size);
        let whole = |of: &dyn Fn(&Work) -> f64| {
            let [one, two] = [one, two].map(|launches| launches.iter().map(of).sum::<f64>());
            line(one, two)
        };
        let flops = |unit: Unit| whole(&|work: &Work| if work.unit == unit { work.flops } else { 0.0 });
        let bytes = whole(&|work: &Work| work.bytes);
        let (tensor_flops, fma_flops) = (flops(Unit::Tensor), flops(Unit::Fma));
        Least {
            bytes,
            tensor_flops,
            fma_flops,
            dram_microseconds: 1e6 * bytes / rates::DRAM_RATE,
            tensor_microseconds: 1e6 * tensor_flops / rates::TENSOR_RATE,
            fma_microseconds: 1e6 * fma_flops / rates::FMA_RATE,
        }
    }

    fn text(&self) -> String {
        format!(
            "at least, with every operand read once and every result written once by each launch: {:.2} GB, {:.2} ms of DRAM; \
             {:.1} GFLOP on tensor cores, {:.2} ms; {:.1} GFLOP in float32, {:.2} ms\n",
            self.bytes / 1e9,
            self.dram_microseconds / 1e3,
            self.tensor_flops / 1e9,
            self.tensor_microseconds / 1e3,
            self.fma_flops / 1e9,
            self.fma_microseconds / 1e3,
        )
    }
}

/// What `--turing-json` writes.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    step: &'a report::Step,
    least: Least,
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
    let (launches, works) = simulate(&library, &scratch.0)?;
    // Before the first step features are standardised; then both steps launch the same graph.
    let first = launches.iter().rposition(|launch| launch.kernel == STANDARDISE).map_or(0, |place| place + 1);
    let (small, large) = launches[first..].split_at(launches[first..].len() / 2);
    let whole = counters::extrapolate(small, large, (one, two), config.batch_size).map_err(Error::System)?;
    let predictions = predict(&kernels, &whole).map_err(Error::System)?;
    let step = report::Step::of(&predictions);
    let least = Least::of(&works[0], &works[1], (one, two), config.batch_size);
    if let Some(path) = &flags.turing_json {
        let mut text = serde_json::to_string_pretty(&Json { step: &step, least })
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
         columns: what each part of the card needs, in us; docs/turing.md says how that is found\n\n{}\n{}\n{}",
        config.dtype,
        config.batch_size,
        config.history_length,
        batches.distinct,
        step.microseconds / 1e3,
        step.launches,
        parameters(config, corpus),
        step.table(),
        least.text(),
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

/// Runs this program again as a worker, on the simulated GPU. Returns the counters of all its launches, and what those of either
/// step must do at least.
fn simulate(library: &Path, scratch: &Path) -> Result<(Vec<Launch>, [Vec<Work>; 2])> {
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
    let output = Command::new(own)
        .args(std::env::args_os().skip(1))
        .arg("--turing-worker")
        .env("LD_LIBRARY_PATH", &folder)
        .env("SIMULATED_GPU_PROFILE", &profile)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| system("start the simulated GPU", error))?;
    if !output.status.success() {
        let status = output.status;
        return Err(Error::System(format!("--turing: the steps on the simulated GPU ended with {status}")));
    }
    let text = std::fs::read(&profile).map_err(|error| system("read the counters", error))?;
    let wrong = |error| Error::System(format!("--turing: the counters: {error}"));
    Ok((
        serde_json::from_slice(&text).map_err(wrong)?,
        serde_json::from_slice(&output.stdout).map_err(wrong)?,
    ))
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

/// Trains every run on each batch once, and prints what each step's launches must do at least. The simulated driver, which this
/// runs on, counts what they do.
fn work(config: &Config, corpus: &Corpus, batches: &[Vec<u32>], runs: usize) -> Result<()> {
    let everything = Standardisation::fit(corpus, 0..corpus.conversations.len());
    let compute = Compute { device: Device::Cuda(0), threads: 1 };
    let mut engine = engines_of_seeds(config, corpus, &everything, compute, runs)?;
    let mut works: Vec<Vec<Work>> = Vec::new();
    for (number, targets) in (0..).zip(batches) {
        let step = Step { targets, number, learning_rate: config.learning_rate };
        let pieces = engine.profile_steps(&vec![Some(step); runs])?;
        works.push(pieces.iter().map(|piece| piece.work).collect());
    }
    output::print(&output::json_line(&works)?).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_a_step_is_the_sum_over_its_launches() {
        let step = |samples: f64| {
            let moving = |bytes: f64| Work { bytes, ..Work::default() };
            [
                moving(1e6 + 100.0 * samples).flops(4000.0 * samples, Unit::Tensor),
                moving(50.0 * samples).flops(7.0 * samples, Unit::Fma),
                moving(50.0 * samples).flops(3.0 * samples, Unit::Fma),
            ]
        };
        let least = Least::of(&step(64.0), &step(128.0), (64, 128), 512);
        let Least { bytes, tensor_flops, fma_flops, dram_microseconds, .. } = least;
        assert_eq!([bytes, tensor_flops, fma_flops], [1e6 + 200.0 * 512.0, 4000.0 * 512.0, 10.0 * 512.0]);
        assert!((dram_microseconds - 1e6 * bytes / 523.6e9).abs() < 1e-9, "{least:?}");
    }
}
