//! `coin bench --turing`: a training step on an RTX 2080 Ti, predicted without the card.

use std::path::{Path, PathBuf};

use super::output;
use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::device::{Compute, Device};
use crate::random::{Stream, purpose};

#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Predict a step on an RTX 2080 Ti, kernel by kernel, instead of timing one; needs no card
    #[arg(long, conflicts_with = "worker")]
    turing: bool,
    /// Samples of the two batches that are simulated; what the whole batch does is extrapolated from them
    #[arg(long, value_name = "N,N", value_delimiter = ',', num_args = 2, requires = "turing")]
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
    /// Samples and distinct utterances of the whole batch.
    samples: usize,
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
        return Err(Error::input(format!("--turing-samples: {wrong} is not between 1 and the batch size, {size}")));
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
    Ok(Batches { samples: size, distinct: all, parts: sizes.iter().map(|&count| part(count)).collect() })
}

pub fn run(flags: &Flags, config: &Config, corpus: &Corpus, samples: &[u32]) -> Result<()> {
    let windows = Windows::new(corpus, config.history_length);
    let sizes = flags.turing_samples.clone().unwrap_or(SAMPLES.to_vec());
    let batches = batches(&windows, samples, config.batch_size, &sizes, config.seed)?;
    if flags.turing_worker {
        return work(config, corpus, &batches.parts);
    }
    Ok(())
}

/// Trains on each batch once. The simulated driver, which this runs on, counts what the launches do.
fn work(config: &Config, corpus: &Corpus, batches: &[Vec<u32>]) -> Result<()> {
    let everything = Standardisation::fit(corpus, 0..corpus.conversations.len());
    let compute = Compute { device: Device::Cuda(0), threads: 1 };
    let mut engine = crate::model::engine(config, corpus, &everything, compute)?;
    for (step, targets) in batches.iter().enumerate() {
        engine.step_and_loss(targets, step as u64, config.learning_rate)?;
    }
    Ok(())
}
