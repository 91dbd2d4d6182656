//! A checkpoint on the command line, and the engine it becomes.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::model::Engine;
use crate::model::device::{Compute, Device};
use crate::training::checkpoint::Checkpoint;
use crate::training::run_folder::RunFolder;

#[derive(Debug, clap::Args)]
pub struct Threads {
    /// Threads to compute with [default: the available cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
}

/// Where and how to compute.
#[derive(Debug, clap::Args)]
pub struct Computing {
    /// Where to compute: cpu, cuda, or cuda:N for card N
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    device: Device,
    #[command(flatten)]
    threads: Threads,
}

impl Computing {
    pub fn get(&self) -> Compute {
        Compute { device: self.device, threads: self.threads.get() }
    }
}

impl Threads {
    pub fn get(&self) -> usize {
        threads(self.threads.map(usize::from))
    }
}

/// The wanted number, or the available cores.
pub fn threads(wanted: Option<usize>) -> usize {
    wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

/// A checkpoint file; of a run folder, its best one.
pub fn read(path: &Path) -> Result<(PathBuf, Checkpoint)> {
    let path = if path.is_dir() { RunFolder::best_of(path)? } else { path.to_path_buf() };
    let checkpoint = Checkpoint::read(&path).map_err(|error| match path.is_file() {
        true => error.said(|message| {
            format!("{message}: name a checkpoint that coin train or coin init wrote, or a run's folder")
        }),
        false => error,
    })?;
    Ok((path, checkpoint))
}

/// The checkpoint's model over the conversations of `corpus`, whose features are the ones it reads.
pub fn engine(
    path: &Path,
    checkpoint: &Checkpoint,
    corpus: &Corpus,
    compute: Compute,
) -> Result<Box<dyn Engine>> {
    checkpoint.check_modalities(corpus)?;
    let config = compute.settings(&checkpoint.config);
    let mut engine = crate::model::engine(&config, corpus, &checkpoint.origin.standardisation, compute)?;
    engine
        .restore(&checkpoint.state())
        .map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
    Ok(engine)
}
