//! `coin convert`

use std::path::PathBuf;

use super::output::print;
use super::source::{self, SYNTHETIC};
use crate::data::conversations;
use crate::data::synthetic::{SyntheticOptions, widths};
use crate::error::{Error, Result};

/// Write conversations in the project's own format
///
/// The labels, speakers and texts go to a file of JSON Lines, the features beside it to a file of the same name
/// that ends in .safetensors. The input may be `synthetic`: conversations made by a generator, whose size is set
/// by the options below.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coin convert IEMOCAP_features_raw.pkl --modalities text,audio --out iemocap.jsonl
  coin convert synthetic --conversations 20 --test-conversations 4 --widths 8,4,0 --out small.jsonl")]
pub struct Arguments {
    /// File of conversations, or `synthetic`
    input: String,
    /// File to write, which ends in .jsonl; what is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Format of the input: iemocap, meld or conversations; told by its content when not given
    #[arg(long)]
    format: Option<String>,
    /// Modalities to keep, as in text,audio; all that there are when not given
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    modalities: Option<Vec<String>>,
    #[command(flatten)]
    synthetic: Synthetic,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of the synthetic conversations")]
struct Synthetic {
    /// Seed of the generator [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Conversations in all [default: 151]
    #[arg(long)]
    conversations: Option<usize>,
    /// How many of them are test conversations [default: 31]
    #[arg(long)]
    test_conversations: Option<usize>,
    /// Utterances of a conversation, at least [default: 8]
    #[arg(long)]
    min_utterances: Option<usize>,
    /// Utterances of a conversation, at most [default: 110]
    #[arg(long)]
    max_utterances: Option<usize>,
    /// Widths of text, audio and visual features; 0 leaves a modality out [default: 100,100,512]
    #[arg(long, value_name = "T,A,V", value_parser = parse_widths)]
    widths: Option<[usize; 3]>,
}

/// Features of a synthetic corpus at most: 8 GiB of them.
const MOST_FEATURES: usize = 1 << 30;

fn parse_widths(text: &str) -> std::result::Result<[usize; 3], String> {
    let widths: Option<Vec<usize>> = text.split(',').map(|width| width.trim().parse().ok()).collect();
    let widths: Option<[usize; 3]> = widths.and_then(|widths| widths.try_into().ok());
    widths.ok_or_else(|| "write three widths, as in 100,100,512".to_string())
}

impl Synthetic {
    fn any(&self) -> bool {
        let Synthetic { seed, conversations, test_conversations, min_utterances, max_utterances, widths } =
            self;
        let sizes = [conversations, test_conversations, min_utterances, max_utterances];
        seed.is_some() || widths.is_some() || sizes.iter().any(|size| size.is_some())
    }

    fn options(&self) -> Result<SyntheticOptions> {
        let defaults = SyntheticOptions::default();
        let options = SyntheticOptions {
            seed: self.seed.unwrap_or(defaults.seed),
            conversations: self.conversations.unwrap_or(defaults.conversations),
            test_conversations: self.test_conversations.unwrap_or(defaults.test_conversations),
            min_utterances: self.min_utterances.unwrap_or(defaults.min_utterances),
            max_utterances: self.max_utterances.unwrap_or(defaults.max_utterances),
            modalities: self
                .widths
                .map_or(defaults.modalities.clone(), |[text, audio, visual]| widths(text, audio, visual)),
            ..defaults
        };
        if options.min_utterances > options.max_utterances {
            return Err(Error::input(format!(
                "--min-utterances {} is more than --max-utterances {}",
                options.min_utterances, options.max_utterances
            )));
        }
        if let Some(test) = self.test_conversations.filter(|&test| test > options.conversations) {
            return Err(Error::input(format!(
                "--test-conversations {test} is more than there are --conversations: {}",
                options.conversations
            )));
        }
        let width =
            options.modalities.iter().try_fold(0usize, |sum, modality| sum.checked_add(modality.width));
        let features = width
            .and_then(|width| width.checked_mul(options.max_utterances.max(options.min_utterances)))
            .and_then(|features| features.checked_mul(options.conversations));
        if features.is_none_or(|features| features > MOST_FEATURES) {
            return Err(Error::input(format!(
                "{SYNTHETIC}: that many conversations may have more than {MOST_FEATURES} feature values; take fewer, \
                 shorter or narrower ones"
            )));
        }
        Ok(options)
    }
}

pub fn run(arguments: Arguments) -> Result<()> {
    let inputs = source::files(&arguments.input);
    for out in [&arguments.out, &conversations::features_beside(&arguments.out)?] {
        source::spare(&inputs, out)?;
    }
    let corpus = if arguments.input == SYNTHETIC {
        source::generate(arguments.synthetic.options()?, arguments.modalities.as_deref())?
    } else if arguments.synthetic.any() {
        return Err(Error::input(format!(
            "{}: the options of the synthetic conversations are for the input {SYNTHETIC} only",
            arguments.input
        )));
    } else {
        source::read(&arguments.input, arguments.format.as_deref(), arguments.modalities)?
    };
    conversations::write(&corpus, &arguments.out)?;
    let modalities: Vec<String> =
        corpus.modalities.iter().map(|modality| format!("{} {}", modality.name, modality.width)).collect();
    print(&format!(
        "{}: {} conversations, {} utterances, {}\n",
        arguments.out.display(),
        corpus.conversations.len(),
        corpus.len(),
        modalities.join(", ")
    ))?;
    Ok(())
}
