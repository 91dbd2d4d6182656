//! `coin init`

use std::path::PathBuf;

use super::source::Source;
use crate::error::Result;
use crate::model::config::Config;
use crate::model::device::Compute;
use crate::model::engine;
use crate::training::checkpoint::Checkpoint;
use crate::training::settings::Layer;
use crate::training::setup::Setup;

/// Write a checkpoint with fresh parameters
///
/// It holds what training would begin with under the same settings: initial values from the seed, features
/// standardised on the conversations that would be trained on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  coin init --data IEMOCAP_features_raw.pkl --modalities text,audio --seed 3 --set d=50 --out fresh.safetensors")]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Modalities to read, as in text,audio; all that there are when not given
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    modalities: Option<Vec<String>>,
    /// File to write; what is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Seed of the initial values and of the held-out conversations
    #[arg(long)]
    seed: Option<u64>,
    /// A setting, as in --set embedding_size=50; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    arguments.source.spare(&arguments.out)?;
    let mut config = Layer::overrides(&arguments.set)?.over(&Config::default())?;
    config.seed = arguments.seed.unwrap_or(config.seed);
    let corpus = arguments.source.read(arguments.modalities)?;
    let setup = Setup::new(config, &corpus, &corpus.fingerprint())?;
    let mut engine = engine(&setup.config, &corpus, &setup.origin.standardisation, Compute::cpu(1))?;
    let checkpoint = Checkpoint {
        config: setup.config,
        origin: setup.origin,
        parameters: engine.state()?.parameters,
        training: None,
    };
    checkpoint.write(&arguments.out)
}
