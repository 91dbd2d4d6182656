//! `coin step`

use std::ops::Range;
use std::path::PathBuf;

use super::model::{self, Computing};
use super::source::{self, Source};
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::model::config::{Config, Precision};
use crate::model::{Objective, Tensor, Values, check_memory};
use crate::training::checkpoint::Checkpoint;
use crate::training::partition;
use crate::training::settings::Layer;
use crate::training::tensor_file::{self, Data, Entry, Metadata};

/// Evaluate the training objective once and write everything it yields
///
/// Dropout is off and nothing is updated, so that another implementation can be held against it. Samples are
/// numbered over all labelled utterances of the file's training conversations, those held out for validation
/// included, by conversation id and then by place.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Tensors written, floating-point ones in --dtype:
  logits, logits_adversarial    [n, C]
  loss_clean, loss_adversarial  [1], means over the samples
  gradient.<parameter>          of the sum of both losses
  input_gradient_norm           [n], of the mean clean loss, over all features that a sample reads
  sample_index                  [n], I64
Without the adversarial pass its tensors are left out.

Example:
  coin step --checkpoint fresh.safetensors --data IEMOCAP_features_raw.pkl --samples 0..512 --dtype f64 \\
      --set adversarial_norm=batch --out step.safetensors")]
pub struct Arguments {
    /// Checkpoint file, or a run folder for its best one
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Modalities to read; those of the checkpoint, which they must be, when not given
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    modalities: Option<Vec<String>>,
    /// Samples from A up to but not including B [default: all]
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    samples: Option<Range<usize>>,
    /// Precision to compute in; the checkpoint's own when not given
    #[arg(long, value_parser = ["f32", "f64"])]
    dtype: Option<String>,
    /// File to write; what is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A setting in place of the checkpoint's, as in --set epsilon=0.5; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    computing: Computing,
}

fn parse_range(text: &str) -> std::result::Result<Range<usize>, String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    match parsed {
        Some(range) if range.start < range.end => Ok(range),
        _ => Err("write A..B with A below B, as in 0..512".to_string()),
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    arguments.source.spare(&arguments.out)?;
    let (path, checkpoint) = model::read(&arguments.checkpoint)?;
    source::spare(std::slice::from_ref(&path), &arguments.out)?;
    let mut config = Layer::overrides(&arguments.set)?.over(&checkpoint.config)?;
    check_same_shape(&checkpoint.config, &config)?;
    if let Some(dtype) = &arguments.dtype {
        config.dtype = dtype.parse()?;
    }
    let modalities = arguments.modalities.unwrap_or_else(|| checkpoint.modality_names());
    let corpus = arguments.source.read(Some(modalities))?;
    checkpoint.check_classes(&corpus)?;
    let all = partition::samples(&corpus);
    let range = arguments.samples.unwrap_or(0..all.len());
    let targets = all.get(range.clone()).filter(|targets| !targets.is_empty()).ok_or_else(|| {
        Error::input(format!(
            "--samples {}..{}: {} has {} samples",
            range.start,
            range.end,
            corpus.source,
            all.len()
        ))
    })?;

    // All samples are one batch, whatever the size that training takes.
    let whole = Checkpoint {
        config: Config { batch_size: targets.len(), ..config.clone() },
        ..checkpoint.to_precision(config.dtype)
    };
    let compute = arguments.computing.get();
    if config.dtype != checkpoint.config.dtype {
        // A precision that was asked for is computed in, or refused.
        check_memory(&whole.config, &corpus, compute)?;
    }
    let mut engine = model::engine(&path, &whole, &corpus, compute)?;
    let objective = engine.objective(targets)?;
    let index: Vec<i64> = range.map(|sample| sample as i64).collect();
    let tensors = tensors(&objective, corpus.classes.len(), config.dtype);
    let mut entries: Vec<Entry> = tensors.iter().map(|tensor| Entry::tensor("", tensor)).collect();
    entries.extend(objective.gradient.iter().map(|tensor| Entry::tensor("gradient.", tensor)));
    entries.push(Entry {
        name: "sample_index".to_string(),
        shape: vec![index.len()],
        data: Data::I64(&index),
    });
    tensor_file::write(&arguments.out, &metadata(&config, &corpus)?, entries)
}

fn check_same_shape(trained: &Config, config: &Config) -> Result<()> {
    let sizes = [
        ("embedding_size", trained.embedding_size, config.embedding_size),
        ("stacks", trained.stacks, config.stacks),
    ];
    for (name, trained, wanted) in sizes {
        if trained != wanted {
            return Err(Error::input(format!(
                "--set {name}={wanted}: the checkpoint's parameters are of {name} {trained}; make others by coin init"
            )));
        }
    }
    Ok(())
}

fn tensors(objective: &Objective, classes: usize, dtype: Precision) -> Vec<Tensor> {
    let samples = objective.input_gradient_norm.len();
    let tensor = |name: &str, shape: &[usize], values: &[f64]| Tensor {
        name: name.to_string(),
        shape: shape.to_vec(),
        values: Values::F64(values.to_vec()).to_precision(dtype),
    };
    let mut tensors = vec![
        tensor("logits", &[samples, classes], &objective.logits),
        tensor("loss_clean", &[1], &[objective.loss.clean]),
        tensor("input_gradient_norm", &[samples], &objective.input_gradient_norm),
    ];
    if let Some(loss) = objective.loss.adversarial {
        tensors.push(tensor("loss_adversarial", &[1], &[loss]));
        tensors.push(tensor("logits_adversarial", &[samples, classes], &objective.logits_adversarial));
    }
    tensors
}

fn metadata(config: &Config, corpus: &Corpus) -> Result<Metadata> {
    let config = serde_json::to_string(config)
        .map_err(|error| Error::System(format!("cannot write as JSON: {error}")))?;
    Ok(Metadata::from([
        ("coin.version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ("format".to_string(), "pt".to_string()),
        ("config".to_string(), config),
        ("fingerprint".to_string(), corpus.fingerprint()),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("0..512"), Ok(0..512));
        for wrong in ["", "5", "5..", "..5", "5..5", "6..5", "-1..5", "0...5"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }
}
