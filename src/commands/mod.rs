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

use clap::error::{ContextKind, ContextValue, ErrorKind};
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

impl Cli {
    /// The command line's. A wrong one ends the program with what is wrong, as does one that asks for help.
    pub fn of_command_line() -> Self {
        Self::try_parse().unwrap_or_else(|error| without_far_tips(error).exit())
    }
}

/// An option that is unknown is a slip of the pen where one is spelt nearly so. What else the parser would propose leads
/// astray: an option that means something else, and to take the unknown one for the name of a file.
fn without_far_tips(mut error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    error.remove(ContextKind::Suggested);
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.trim_start_matches('-'),
        _ => "",
    };
    let (given, known) = (text(ContextKind::InvalidArg), text(ContextKind::SuggestedArg));
    let same = |(a, b): &(char, char)| a == b;
    let start = given.chars().zip(known.chars()).take_while(same).count();
    let end = given.chars().rev().zip(known.chars().rev()).take_while(same).count();
    if !known.is_empty() && 2 * (start + end) < given.chars().count() {
        error.remove(ContextKind::SuggestedArg);
        // It has the proposed option in it.
        error.remove(ContextKind::Usage);
    }
    error
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_option_that_is_spelt_nearly_so_is_proposed() {
        let told = |arguments: &[&str]| {
            let error = Cli::try_parse_from([&["coin"], arguments].concat()).unwrap_err();
            without_far_tips(error).render().to_string()
        };
        for (arguments, tip) in [
            (&["train", "--bach-size", "3"][..], Some("'--batch-size'")),
            (&["train", "--learning_rate", "3"], Some("'--learning-rate'")),
            (&["convert", "--seeds", "3", "x", "--out", "y"], Some("'--seed'")),
            (&["convert", "--speakers", "3", "x", "--out", "y"], None),
            (&["convert", "--colour", "3", "x", "--out", "y"], None),
        ] {
            let text = told(arguments);
            assert!(
                text.starts_with(&format!("error: unexpected argument '{}' found", arguments[1])),
                "{text}"
            );
            assert!(text.contains("try '--help'"), "{text}");
            match tip {
                Some(tip) => {
                    assert!(text.contains(&format!("tip: a similar argument exists: {tip}")), "{text}")
                }
                None => assert!(!text.contains("tip: ") && !text.contains("--seed"), "{text}"),
            }
        }
    }
}
