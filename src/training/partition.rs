//! Which conversations are trained on, validated on and tested on.

use std::collections::HashSet;

use crate::data::{Corpus, Split, split};
use crate::error::{Error, Result};
use crate::model::config::Config;

/// Indices of conversations, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub train: Vec<usize>,
    pub validation: Vec<usize>,
    pub test: Vec<usize>,
}

impl Partition {
    /// Validation is the file's own, or drawn from the training conversations.
    pub fn draw(corpus: &Corpus, config: &Config) -> Result<Self> {
        let held_out = split::hold_out(corpus, config.validation_fraction, config.seed);
        let partition = Self::with_validation(corpus, &held_out.into_iter().collect());
        let source = &corpus.source;
        if targets(corpus, &partition.train).is_empty() {
            return Err(Error::input(format!(
                "{source}: no labelled utterance to train on: {} training conversations remain",
                partition.train.len()
            )));
        }
        if targets(corpus, &partition.validation).is_empty() {
            return Err(Error::input(format!(
                "{source}: no labelled utterance to validate on: early stopping needs a training conversation \
                 that it can hold out, or a validation split in the file"
            )));
        }
        Ok(partition)
    }

    /// As a checkpoint recorded it, by the ids of the validation conversations: those of the corpus that bear one
    /// of them.
    pub fn recorded(corpus: &Corpus, validation: &[String]) -> Self {
        let ids: HashSet<&str> = validation.iter().map(String::as_str).collect();
        let held_out = corpus.conversations.iter().enumerate();
        let held_out = held_out
            .filter(|(_, conversation)| {
                ids.contains(conversation.id.as_str()) && conversation.split != Split::Test
            })
            .map(|(index, _)| index)
            .collect();
        Self::with_validation(corpus, &held_out)
    }

    fn with_validation(corpus: &Corpus, held_out: &HashSet<usize>) -> Self {
        let mut partition = Partition { train: Vec::new(), validation: Vec::new(), test: Vec::new() };
        for (index, conversation) in corpus.conversations.iter().enumerate() {
            let part = match conversation.split {
                Split::Test => &mut partition.test,
                Split::Validation => &mut partition.validation,
                Split::Train if held_out.contains(&index) => &mut partition.validation,
                Split::Train => &mut partition.train,
            };
            part.push(index);
        }
        partition
    }

    pub fn validation_ids(&self, corpus: &Corpus) -> Vec<String> {
        self.validation.iter().map(|&index| corpus.conversations[index].id.clone()).collect()
    }
}

/// All that a model may be fitted to, validation included, as rows of the features by conversation and place: what
/// `coin step` and `coin bench` number their samples by.
pub fn samples(corpus: &Corpus) -> Vec<u32> {
    let conversations = corpus.conversations.iter().enumerate();
    let conversations: Vec<usize> = conversations
        .filter(|(_, conversation)| conversation.split != Split::Test)
        .map(|(index, _)| index)
        .collect();
    targets(corpus, &conversations)
}

/// The labelled utterances of some conversations, as rows of the features.
pub fn targets(corpus: &Corpus, conversations: &[usize]) -> Vec<u32> {
    let labelled = conversations.iter().flat_map(|&index| {
        let conversation = &corpus.conversations[index];
        let rows = (conversation.first..).zip(&conversation.utterances);
        rows.filter(|(_, utterance)| utterance.label.is_some()).map(|(row, _)| row as u32)
    });
    labelled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic::{SyntheticOptions, generate};

    fn corpus() -> Corpus {
        generate(&SyntheticOptions::small())
    }

    #[test]
    fn every_conversation_has_one_part() {
        let corpus = corpus();
        let config = Config { validation_fraction: 0.3, ..Config::default() };
        let partition = Partition::draw(&corpus, &config).unwrap();
        let mut all =
            [partition.train.clone(), partition.validation.clone(), partition.test.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..corpus.conversations.len()).collect::<Vec<_>>());
        assert_eq!(partition.test, [9, 10, 11]);
        assert_eq!(partition.validation.len(), 3);
        let recorded = Partition::recorded(&corpus, &partition.validation_ids(&corpus));
        assert_eq!(recorded, partition);
    }

    #[test]
    fn targets_are_the_labelled_rows() {
        let mut corpus = corpus();
        let second = corpus.conversations[1].first;
        let length = corpus.conversations[1].utterances.len();
        assert_eq!(targets(&corpus, &[1]).len(), length);
        corpus.conversations[1].utterances[1].label = None;
        let rows = targets(&corpus, &[1]);
        assert_eq!(rows.len(), length - 1);
        assert_eq!(&rows[..2], [second as u32, second as u32 + 2]);
    }

    #[test]
    fn nothing_to_train_or_validate_on_is_said() {
        let mut corpus = corpus();
        for conversation in &mut corpus.conversations[1..] {
            conversation.split = Split::Test;
        }
        let error = Partition::draw(&corpus, &Config::default()).unwrap_err();
        assert!(error.to_string().contains("no labelled utterance to validate on"), "{error}");
        corpus.conversations[0].split = Split::Validation;
        let error = Partition::draw(&corpus, &Config::default()).unwrap_err();
        assert!(error.to_string().contains("no labelled utterance to train on"), "{error}");
    }
}
