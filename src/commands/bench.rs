//! `coin bench`

use std::io::BufRead;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::model::Computing;
use super::output;
use super::source::Source;
use super::turing;
use crate::data::standardise::Standardisation;
use crate::device::cpu::peak;
use crate::device::cpu::pool::Pool;
use crate::error::{Error, Result};
use crate::model::config::{Config, Precision};
use crate::model::{Engine, StepLoss, engine};
use crate::random::{Stream, purpose};
use crate::training::partition;
use crate::training::settings::Layer;

/// Time training steps
///
/// A step is everything from the indices of a batch to the updated parameters: windows, the clean pass forward and
/// backward, the perturbation, the adversarial pass, Adam. Batches are drawn from the training conversations.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coin bench --data synthetic
  coin bench --data IEMOCAP_features_raw.pkl --modalities text,audio --steps 20 --set adversarial=false

With --worker each line of standard input, {\"targets\": [0, 5, 2]} (sample numbers as in coin step), is one step, so
that another program can take turns with this one: benches/peers/bench_step.py does. A line with \"predict\": true
beside them is a prediction of these samples.")]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Modalities to read, as in text,audio; all that there are when not given
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    modalities: Option<Vec<String>>,
    /// Steps to time, after two to warm up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// A setting, as in --set batch_size=256; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Take batches from standard input and answer a line of JSON for each
    #[arg(long)]
    worker: bool,
    #[command(flatten)]
    turing: turing::Flags,
    #[command(flatten)]
    computing: Computing,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    samples: usize,
    threads: usize,
    gemm_peak_gflops: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    targets: Vec<usize>,
    #[serde(default)]
    predict: bool,
}

#[derive(Serialize)]
struct Timed {
    seconds: f64,
    flops: f64,
    loss_clean: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_adversarial: Option<f64>,
}

#[derive(Serialize)]
struct Predicted {
    seconds: f64,
}

#[derive(Serialize)]
struct Ended {
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_bytes: Option<u64>,
}

/// A model under training that times its steps.
struct Bench {
    engine: Box<dyn Engine>,
    samples: Vec<u32>,
    learning_rate: f64,
    steps: u64,
}

impl Bench {
    fn step(&mut self, targets: &[u32]) -> Result<Timed> {
        let started = Instant::now();
        let StepLoss { clean, adversarial } =
            self.engine.step_and_loss(targets, self.steps, self.learning_rate)?;
        let seconds = started.elapsed().as_secs_f64();
        self.steps += 1;
        Ok(Timed { seconds, flops: self.engine.flops(), loss_clean: clean, loss_adversarial: adversarial })
    }

    fn predict(&mut self, targets: &[u32]) -> Result<Predicted> {
        let started = Instant::now();
        self.engine.predict(targets)?;
        Ok(Predicted { seconds: started.elapsed().as_secs_f64() })
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    let config = Layer::overrides(&arguments.set)?.over(&Config::default())?;
    let corpus = arguments.source.read(arguments.modalities)?;
    let samples = partition::samples(&corpus);
    if samples.is_empty() {
        return Err(Error::input(format!("{}: no labelled utterance to train on", corpus.source)));
    }
    if arguments.turing.wanted() {
        return turing::run(&arguments.turing, &config, &corpus, &samples);
    }
    let compute = arguments.computing.get();
    let threads = compute.threads;
    let everything = Standardisation::fit(&corpus, 0..corpus.conversations.len());
    let engine = engine(&config, &corpus, &everything, compute)?;
    let pool = Pool::new(threads)
        .map_err(|error| Error::System(format!("cannot start {threads} threads: {error}")))?;
    let peak = match config.dtype {
        Precision::F32 | Precision::Mixed => peak::gflops::<f32>(&pool, 10),
        Precision::F64 => peak::gflops::<f64>(&pool, 10),
    };
    drop(pool);
    let mut bench = Bench { engine, samples, learning_rate: config.learning_rate, steps: 0 };
    let mut stream = Stream::new(config.seed, purpose::TEST);
    let size = config.batch_size.min(bench.samples.len());
    let mut draw = |bench: &Bench| {
        let mut targets = bench.samples.clone();
        stream.shuffle(&mut targets);
        targets.truncate(size);
        targets
    };
    for _ in 0..2 {
        let targets = draw(&bench);
        bench.step(&targets)?;
    }
    if arguments.worker {
        let ready = Ready { ready: true, samples: bench.samples.len(), threads, gemm_peak_gflops: peak };
        return work(&mut bench, &ready);
    }
    let mut steps = Vec::new();
    for _ in 0..arguments.steps {
        let targets = draw(&bench);
        steps.push(bench.step(&targets)?);
    }
    output::print(&table(&corpus.source, &config, size, threads, peak, &mut steps)).map(drop)
}

/// Answers each line of standard input.
fn work(bench: &mut Bench, ready: &Ready) -> Result<()> {
    say(ready)?;
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(|error| Error::System(format!("standard input: {error}")))?;
        let wrong = |what: String| Error::input(format!("standard input, line {}: {what}", number + 1));
        let batch: Batch = serde_json::from_str(&line)
            .map_err(|error| wrong(format!("{error}; expected {{\"targets\": [0, 1, 2]}}")))?;
        let samples = &bench.samples;
        let row = |&sample: &usize| samples.get(sample).copied().ok_or(sample);
        let targets: std::result::Result<Vec<u32>, usize> = batch.targets.iter().map(row).collect();
        let targets = targets
            .map_err(|sample| wrong(format!("there is no sample {sample}; there are {}", samples.len())))?;
        if batch.predict {
            say(&bench.predict(&targets)?)?;
        } else {
            say(&bench.step(&targets)?)?;
        }
    }
    say(&Ended { peak_rss_bytes: peak_rss_bytes() })
}

fn say(message: &impl Serialize) -> Result<()> {
    output::print(&output::json_line(message)?).map(drop)
}

/// The process's largest resident set so far, where the system tells it.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn table(
    source: &str,
    config: &Config,
    samples: usize,
    threads: usize,
    peak: f64,
    steps: &mut [Timed],
) -> String {
    steps.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let median = &steps[steps.len() / 2];
    let rate = median.flops / median.seconds / 1e9;
    let memory = peak_rss_bytes().map_or(String::new(), |bytes| format!("{:.0} MB", bytes as f64 / 1e6));
    let adversarial = if config.adversarial { "with" } else { "without" };
    format!(
        "training step on {source}, {adversarial} the adversarial pass, {samples} samples, {}, {threads} threads\n\
         seconds      {:.3} median, {:.3} to {:.3} over {} steps\n\
         utterances   {:.0} a second\n\
         work         {:.1} GFLOP a step in products of matrices\n\
         rate         {rate:.1} GFLOP/s, {:.0}% of the {peak:.1} that products in the caches reach here\n\
         peak memory  {memory}\n",
        config.dtype,
        median.seconds,
        steps[0].seconds,
        steps[steps.len() - 1].seconds,
        steps.len(),
        samples as f64 / median.seconds,
        median.flops / 1e9,
        100.0 * rate / peak,
    )
}
