//! `coin bench`

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::model::Computing;
use super::output;
use super::predict;
use super::source::Source;
use super::turing;
use crate::bench::compare::compare_files;
use crate::bench::machine::{Ceilings, peak_rss_bytes};
use crate::bench::measure::{Answering, Draw, Plan, measure};
use crate::bench::report::Windows;
use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::error::{Error, Result};
use crate::model::config::{Config, Precision};
use crate::model::device::{Compute, Device};
use crate::model::{Engine, State, StepLoss, engine};
use crate::training::checkpoint::{Checkpoint, Origin};
use crate::training::partition;
use crate::training::settings::Layer;

/// Measure how fast training steps, their parts and predictions are
///
/// A step is everything from the indices of a batch to the updated parameters: windows, the clean pass forward and
/// backward, the perturbation, the adversarial pass, Adam. Steps are timed with and without the adversarial pass, on a card
/// in float32 and in mixed precision, on batches as the conversations give them and on batches whose windows are all full;
/// --set adversarial=.. or dtype=.. and --windows choose among these. Then one step is timed part by part, on a card kernel
/// by kernel, and held against what the device was measured to do at most; then predictions in batches and of live
/// utterances. Reading, the engine and the first step together are what passes from the command to the first update.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coin bench --data synthetic
  coin bench --data IEMOCAP_features_raw.pkl --modalities text,audio --steps 20 --set adversarial=false
  coin bench --data synthetic --device cuda --json new.json
  coin bench --compare old.json new.json           exit code 1 where something got slower beyond the noise

With --worker each line of standard input, {\"targets\": [0, 5, 2]} (sample numbers as in coin step), is one step, so
that another program can take turns with this one: benches/peers/bench_step.py does. A line with \"predict\": true
beside them is a prediction of these samples.")]
pub struct Arguments {
    #[command(flatten)]
    source: Option<Source>,
    /// Modalities to read, as in text,audio; all that there are when not given
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    modalities: Option<Vec<String>>,
    /// Steps to time, after two to warm up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Windows of the batches: real or full; both when not given
    #[arg(long, value_name = "WHICH")]
    windows: Option<Windows>,
    /// Whole steps alone, not their parts and no predictions
    #[arg(long)]
    steps_only: bool,
    /// Time steps of so many runs side by side too, against those of one; with --turing, predict such a step
    #[arg(long, value_name = "RUNS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    at_once: u32,
    /// A setting, as in --set batch_size=256; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write everything measured to a file too, as JSON; what is there is replaced
    #[arg(long, value_name = "FILE", conflicts_with = "worker")]
    json: Option<PathBuf>,
    /// Compare two files that --json wrote
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], exclusive = true)]
    compare: Option<Vec<PathBuf>>,
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

pub fn run(arguments: Arguments) -> Result<Outcome> {
    if let Some([old, new]) = arguments.compare.as_deref() {
        let comparison = compare_files(old, new)?;
        output::print(&comparison.text)?;
        return Ok(if comparison.slower { Outcome::Slower } else { Outcome::Done });
    }
    let Some(source) = arguments.source else {
        return Err(Error::input(
            "--data is missing: name a file of conversations, or synthetic; or --compare OLD NEW",
        ));
    };
    for out in arguments.json.iter().chain(&arguments.turing.turing_json) {
        source.spare(out)?;
    }
    let layer = Layer::overrides(&arguments.set)?;
    let config = layer.over(&Config::default())?;
    let started = Instant::now();
    let corpus = source.read(arguments.modalities)?;
    let read = started.elapsed().as_secs_f64();
    let samples = partition::samples(&corpus);
    if samples.is_empty() {
        return Err(Error::input(format!("{}: no labelled utterance to train on", corpus.source)));
    }
    if arguments.turing.wanted() {
        let runs = arguments.at_once as usize;
        return turing::run(&arguments.turing, &config, &corpus, &samples, runs).map(|()| Outcome::Done);
    }
    let compute = arguments.computing.get();
    if arguments.worker {
        return work(&config, &corpus, &samples, compute).map(|()| Outcome::Done);
    }
    let set = |key: &str| layer.keys().any(|set| set == key);
    let dtypes = match compute.device {
        Device::Cuda(_) if !set("dtype") => vec![Precision::F32, Precision::Mixed],
        _ => vec![config.dtype],
    };
    let adversarial = if set("adversarial") { vec![config.adversarial] } else { vec![false, true] };
    let plan = Plan {
        config,
        dtypes,
        adversarial,
        windows: arguments.windows.map_or(vec![Windows::Real, Windows::Full], |only| vec![only]),
        steps: arguments.steps as usize,
        parts: !arguments.steps_only,
        predictions: !arguments.steps_only,
        at_once: arguments.at_once as usize,
        compute,
    };
    let live = |config: &Config, standardisation: &Standardisation, state: State| {
        live(&corpus, config, standardisation, state, compute)
    };
    let report = measure(&plan, &corpus, &samples, read, &live, &|text| output::note(text))?;
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    output::print(&report.text())?;
    Ok(Outcome::Done)
}

/// What answers live utterances with a model that is in no file.
fn live(
    corpus: &Corpus,
    config: &Config,
    standardisation: &Standardisation,
    state: State,
    compute: Compute,
) -> Result<Answering> {
    let origin = Origin {
        classes: corpus.classes.clone(),
        modalities: corpus.modalities.clone(),
        standardisation: standardisation.clone(),
        validation: Vec::new(),
        fingerprint: String::new(),
    };
    let checkpoint =
        Checkpoint { config: config.clone(), origin, parameters: state.parameters, training: None };
    let mut live = predict::Live::new(Path::new("the model"), checkpoint, compute)?;
    Ok(Box::new(move |line| Ok(live.line(line.as_bytes())?.unwrap_or_default())))
}

/// Answers each line of standard input with a timed step, after two to warm up.
fn work(config: &Config, corpus: &Corpus, samples: &[u32], compute: Compute) -> Result<()> {
    let standardisation = Standardisation::fit(corpus, 0..corpus.conversations.len());
    let mut engine = engine(config, corpus, &standardisation, compute)?;
    let processor = Compute { device: Device::Cpu, ..compute };
    let gemm_peak_gflops = Ceilings::measure(processor, config.dtype)?.fma / 1e9;
    let mut number = 0;
    let mut step = |engine: &mut dyn Engine, targets: &[u32]| -> Result<Timed> {
        let started = Instant::now();
        let StepLoss { clean, adversarial } = engine.step_and_loss(targets, number, config.learning_rate)?;
        let seconds = started.elapsed().as_secs_f64();
        number += 1;
        Ok(Timed { seconds, flops: engine.flops(), loss_clean: clean, loss_adversarial: adversarial })
    };
    let mut draw = Draw::new(config, samples);
    for _ in 0..2 {
        step(&mut *engine, &draw.batch())?;
    }
    say(&Ready { ready: true, samples: samples.len(), threads: compute.threads, gemm_peak_gflops })?;
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(|error| Error::System(format!("standard input: {error}")))?;
        let wrong = |what: String| Error::input(format!("standard input, line {}: {what}", number + 1));
        let batch: Batch = serde_json::from_str(&line)
            .map_err(|error| wrong(format!("{error}; expected {{\"targets\": [0, 1, 2]}}")))?;
        let row = |&sample: &usize| samples.get(sample).copied().ok_or(sample);
        let targets: std::result::Result<Vec<u32>, usize> = batch.targets.iter().map(row).collect();
        let targets = targets
            .map_err(|sample| wrong(format!("there is no sample {sample}; there are {}", samples.len())))?;
        if batch.predict {
            let started = Instant::now();
            engine.predict(&targets)?;
            say(&Predicted { seconds: started.elapsed().as_secs_f64() })?;
        } else {
            say(&step(&mut *engine, &targets)?)?;
        }
    }
    say(&Ended { peak_rss_bytes: peak_rss_bytes() })
}

fn say(message: &impl Serialize) -> Result<()> {
    output::print(&output::json_line(message)?).map(drop)
}
