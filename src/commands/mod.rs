//! The command line: one file a command, which parses, calls and prints.

mod bench;
mod convert;
mod devices;
mod evaluate;
mod gradcheck;
mod init;
mod model;
mod output;
mod predict;
mod source;
mod step;
mod train;
mod turing;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::training::interrupt;

/// Emotion recognition in conversation: trains and runs COIN (Zhang & Chai, 2021)
#[derive(Debug, Parser)]
#[command(
    name = "coin",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  coin train                                       a first run, on synthetic conversations
  coin train --data IEMOCAP_features_raw.pkl --seeds 5 --out runs/iemocap
  coin train --resume runs/iemocap                 after Ctrl-C or a crash
  coin evaluate --checkpoint runs/synthetic --data synthetic
  coin predict --checkpoint runs/synthetic < live.jsonl

Exit codes: 0 done, 1 the machine failed (or bench --compare found something slower), 2 the input is wrong, 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Arguments),
    Evaluate(evaluate::Arguments),
    Predict(predict::Arguments),
    Convert(convert::Arguments),
    Init(init::Arguments),
    Step(step::Arguments),
    Gradcheck(gradcheck::Arguments),
    Bench(bench::Arguments),
    Devices(devices::Arguments),
}

/// How a command ended when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Interrupted,
    /// `coin bench --compare` found something slower.
    Slower,
}

impl Outcome {
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Interrupted => interrupt::EXIT_CODE,
            Outcome::Slower => 1,
        }
    }
}

pub fn run(cli: Cli) -> Result<Outcome> {
    match cli.command {
        Command::Train(arguments) => return train::run(arguments),
        Command::Evaluate(arguments) => evaluate::run(arguments)?,
        Command::Predict(arguments) => predict::run(arguments)?,
        Command::Convert(arguments) => convert::run(arguments)?,
        Command::Init(arguments) => init::run(arguments)?,
        Command::Step(arguments) => step::run(arguments)?,
        Command::Gradcheck(arguments) => gradcheck::run(arguments)?,
        Command::Bench(arguments) => return bench::run(arguments),
        Command::Devices(arguments) => devices::run(arguments)?,
    }
    Ok(Outcome::Done)
}
