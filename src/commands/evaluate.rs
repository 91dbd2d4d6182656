//! `coin evaluate`

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::model::{self, Computing};
use super::output::{json_line, note, print};
use super::source::Source;
use crate::error::{Error, Result};
use crate::metrics::Figures;
use crate::metrics::report::Report;
use crate::training::evaluation::evaluate;
use crate::training::interrupt::Interrupt;
use crate::training::partition::{self, Partition};

/// Test a checkpoint on labelled conversations
///
/// Prints precision, recall, F1 and support of each class, accuracy, weighted and macro F1, and the confusion
/// matrix. On IEMOCAP's test set the paper's Table 1 stands beside it, under what its columns really are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coin evaluate --checkpoint runs/iemocap --data IEMOCAP_features_raw.pkl
  coin evaluate --checkpoint runs/iemocap/best.safetensors --data IEMOCAP_features_raw.pkl --split validation --json")]
pub struct Arguments {
    /// Checkpoint file, or a run folder for its best one
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Conversations to test on; validation are those that training held out
    #[arg(long, value_enum, default_value_t = Part::Test)]
    split: Part,
    /// Print one line of JSON; figures are fractions of 1
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    computing: Computing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Train,
    Validation,
    Test,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Validation => "validation",
            Part::Test => "test",
        }
    }
}

#[derive(Serialize)]
struct Json<'a> {
    checkpoint: String,
    data: &'a str,
    #[serde(flatten)]
    report: &'a Report,
    /// The paper's figures, where they are of the same test set.
    #[serde(skip_serializing_if = "Option::is_none")]
    paper: Option<Figures>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let (path, checkpoint) = model::read(&arguments.checkpoint)?;
    let corpus = arguments.source.read(Some(checkpoint.modality_names()))?;
    checkpoint.check_classes(&corpus)?;
    let part = arguments.split;
    if part != Part::Test && corpus.fingerprint() != checkpoint.origin.fingerprint {
        note(&format!(
            "coin: note: {} is not the data that {} was trained on; {} are its conversations under that name",
            corpus.source,
            path.display(),
            part.name()
        ));
    }
    let partition = Partition::recorded(&corpus, &checkpoint.origin.validation);
    let conversations = match part {
        Part::Train => &partition.train,
        Part::Validation => &partition.validation,
        Part::Test => &partition.test,
    };
    let targets = partition::targets(&corpus, conversations);
    if targets.is_empty() {
        return Err(Error::input(format!(
            "{}: no labelled utterance in its {} conversations ({}): choose another --split",
            corpus.source,
            part.name(),
            conversations.len()
        )));
    }
    let mut engine = model::engine(&path, &checkpoint, &corpus, arguments.computing.get())?;
    let Some(evaluation) = evaluate(&mut *engine, &corpus, &targets, &Interrupt::default())? else {
        return Ok(());
    };
    let report = Report::new(
        part.name(),
        conversations.len(),
        &corpus.classes,
        &evaluation.confusion,
        evaluation.loss,
    );
    let text = if arguments.json {
        json_line(&Json {
            checkpoint: path.display().to_string(),
            data: &corpus.source,
            report: &report,
            paper: report.beside_paper(),
        })?
    } else {
        report.text()
    };
    print(&text)?;
    Ok(())
}
