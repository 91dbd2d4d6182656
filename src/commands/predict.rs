//! `coin predict`

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, Read};
use std::path::PathBuf;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::model::{self, Computing};
use super::output::{json_line, print};
use super::source;
use crate::data::conversations::{Line, LineReader, UtteranceLine};
use crate::data::{Conversation, Corpus, Split, Utterance};
use crate::error::{Error, Result};
use crate::metrics::{largest, probabilities};
use crate::model::config::Config;
use crate::model::device::Compute;
use crate::model::{Engine, Predictions};
use crate::training::checkpoint::Checkpoint;

/// Classify the utterances of conversations
///
/// Reads a file, or the conversations format line by line from standard input with the features in the lines.
/// From standard input each utterance is answered as soon as it is read, so that a conversation can be followed
/// live; of each conversation only the history that the model reads is kept. Conversations may be mixed.
///
/// Prints a line of JSON for each utterance: conversation, utterance, class, the probability of each class, and
/// the attention over the utterances before it, oldest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coin predict --checkpoint runs/iemocap --data IEMOCAP_features_raw.pkl > predictions.jsonl
  live-features | coin predict --checkpoint runs/iemocap

A line of input:  {\"conversation\": \"c\", \"speaker\": \"A\", \"features\": {\"text\": [0.1, 0.2]}}")]
pub struct Arguments {
    /// Checkpoint file, or a run folder for its best one
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// File of conversations, or `synthetic`; standard input when not given
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// Format of the file: iemocap, meld or conversations; told by its content when not given
    #[arg(long, requires = "data")]
    format: Option<String>,
    #[command(flatten)]
    computing: Computing,
}

/// A line of input at most, in bytes.
const LONGEST_LINE: u64 = 64 << 20;

pub fn run(arguments: Arguments) -> Result<()> {
    let (path, checkpoint) = model::read(&arguments.checkpoint)?;
    let compute = arguments.computing.get();
    match &arguments.data {
        Some(data) => {
            let modalities = Some(checkpoint.modality_names());
            let corpus = source::read(data, arguments.format.as_deref(), modalities)?;
            let corpus = unlabelled(corpus, &checkpoint);
            let mut engine = model::engine(&path, &checkpoint, &corpus, compute)?;
            answer_corpus(&mut *engine, &corpus, checkpoint.config.batch_size)
        }
        None => {
            let mut live = Live::new(&path, checkpoint, compute)?;
            live.answer(&mut std::io::stdin().lock())
        }
    }
}

/// The corpus with the model's classes: its own labels are not looked at.
fn unlabelled(mut corpus: Corpus, checkpoint: &Checkpoint) -> Corpus {
    corpus.classes.clone_from(&checkpoint.origin.classes);
    for conversation in &mut corpus.conversations {
        conversation.utterances.iter_mut().for_each(|utterance| utterance.label = None);
    }
    corpus
}

fn answer_corpus(engine: &mut dyn Engine, corpus: &Corpus, batch: usize) -> Result<()> {
    let utterances: Vec<(&Conversation, usize)> = corpus
        .conversations
        .iter()
        .flat_map(|conversation| (0..conversation.utterances.len()).map(move |place| (conversation, place)))
        .collect();
    let targets: Vec<u32> = (0..corpus.len() as u32).collect();
    for (targets, utterances) in targets.chunks(batch).zip(utterances.chunks(batch)) {
        let predictions = engine.predict(targets)?;
        let mut text = String::new();
        for (&(conversation, place), answer) in
            utterances.iter().zip(answers(&predictions, corpus.classes.len()))
        {
            text.push_str(&answer_line(corpus, conversation, place, answer)?);
        }
        if !print(&text)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Logits and attention of each target.
fn answers(predictions: &Predictions, classes: usize) -> impl Iterator<Item = (&[f64], &[f64])> {
    let logits = predictions.logits.chunks_exact(classes);
    let mut rest = &predictions.attention[..];
    let attention = predictions.history.iter().map(move |&length| {
        let (own, others) = rest.split_at(length.min(rest.len()));
        rest = others;
        own
    });
    logits.zip(attention)
}

fn answer_line(
    corpus: &Corpus,
    conversation: &Conversation,
    place: usize,
    (logits, attention): (&[f64], &[f64]),
) -> Result<String> {
    let utterances = &conversation.utterances;
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::input(format!(
            "{}: conversation {}, utterance {}: the model's output is not finite: its features, or those of its \
             history, are far from those trained on",
            corpus.source, conversation.id, utterances[place].id
        )));
    }
    let probabilities = probabilities(logits);
    let history = &utterances[place - attention.len()..place];
    json_line(&Answer {
        conversation: &conversation.id,
        utterance: &utterances[place].id,
        class: &corpus.classes[largest(logits)],
        probabilities: ByClass(&corpus.classes, &probabilities),
        attention: history
            .iter()
            .zip(attention)
            .map(|(utterance, &weight)| Weight { utterance: &utterance.id, weight })
            .collect(),
    })
}

/// A line of output.
#[derive(Serialize)]
struct Answer<'a> {
    conversation: &'a str,
    utterance: &'a str,
    class: &'a str,
    probabilities: ByClass<'a>,
    attention: Vec<Weight<'a>>,
}

/// An object with the classes in the model's order.
struct ByClass<'a>(&'a [String], &'a [f64]);

impl Serialize for ByClass<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (class, probability) in self.0.iter().zip(self.1) {
            map.serialize_entry(class, probability)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Weight<'a> {
    utterance: &'a str,
    weight: f64,
}

/// Conversations as they go on, of each the last K + 1 utterances.
pub struct Live {
    reader: LineReader,
    checkpoint: Checkpoint,
    engine: Box<dyn Engine>,
    conversations: HashMap<String, Recent>,
}

#[derive(Default)]
struct Recent {
    /// Utterances so far.
    count: usize,
    utterances: VecDeque<(Utterance, Vec<f64>)>,
}

const INPUT: &str = "standard input";

impl Live {
    /// `path` is where the checkpoint came from, for messages.
    pub fn new(path: &std::path::Path, checkpoint: Checkpoint, compute: Compute) -> Result<Self> {
        // One utterance is classified at a time: no batch of another size is laid out.
        let one_by_one =
            Checkpoint { config: Config { batch_size: 1, ..checkpoint.config.clone() }, ..checkpoint };
        let nothing = Corpus {
            source: INPUT.to_string(),
            classes: one_by_one.origin.classes.clone(),
            modalities: one_by_one.origin.modalities.clone(),
            conversations: Vec::new(),
            features: Vec::new(),
        };
        Ok(Live {
            reader: LineReader::new(INPUT),
            engine: model::engine(path, &one_by_one, &nothing, compute)?,
            checkpoint: one_by_one,
            conversations: HashMap::new(),
        })
    }

    /// Answers line by line until the input ends or nobody reads the answers.
    fn answer(&mut self, input: &mut impl BufRead) -> Result<()> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes);
            let read = read.map_err(|error| Error::System(format!("{INPUT}: cannot read: {error}")))?;
            if read == 0 {
                return Ok(());
            }
            if bytes.len() as u64 > LONGEST_LINE {
                return Err(Error::input(format!("{INPUT}: a line is longer than {LONGEST_LINE} bytes")));
            }
            if let Some(answer) = self.line(&bytes)?
                && !print(&answer)?
            {
                return Ok(());
            }
        }
    }

    /// Answers a line of input; a header and a blank line have no answer.
    pub fn line(&mut self, bytes: &[u8]) -> Result<Option<String>> {
        match self.reader.read(bytes)? {
            Some(Line::Utterance(utterance)) => self.utterance(utterance).map(Some),
            _ => Ok(None),
        }
    }

    fn utterance(&mut self, line: UtteranceLine) -> Result<String> {
        let reader = &self.reader;
        let origin = &self.checkpoint.origin;
        let mut features = Vec::new();
        line.inline_features(&origin.modalities, &mut features).map_err(|message| reader.error(message))?;
        let recent = self.conversations.entry(line.conversation.clone()).or_default();
        let utterance = Utterance {
            id: line.utterance.unwrap_or_else(|| recent.count.to_string()),
            speaker: line.speaker,
            label: None,
            text: None,
        };
        if recent.utterances.iter().any(|(before, _)| before.id == utterance.id) {
            return Err(reader.error(format_args!(
                "conversation {}: utterance {} has been there already: give each a name of its own",
                line.conversation, utterance.id
            )));
        }
        recent.count += 1;
        if recent.utterances.len() > self.checkpoint.config.history_length {
            recent.utterances.pop_front();
        }
        recent.utterances.push_back((utterance, features));

        let place = recent.utterances.len() - 1;
        let corpus = Corpus {
            source: INPUT.to_string(),
            classes: origin.classes.clone(),
            modalities: origin.modalities.clone(),
            conversations: vec![Conversation {
                id: line.conversation,
                split: Split::Test,
                first: 0,
                utterances: recent.utterances.iter().map(|(utterance, _)| utterance.clone()).collect(),
            }],
            features: recent.utterances.iter().flat_map(|(_, features)| features).copied().collect(),
        };
        self.engine.set_corpus(&corpus)?;
        let predictions = self.engine.predict(&[place as u32])?;
        let Some(answer) = answers(&predictions, corpus.classes.len()).next() else {
            return Err(reader.error("the model gave no answer"));
        };
        answer_line(&corpus, &corpus.conversations[0], place, answer)
    }
}
