//! Which training conversations are held out to validate on.

use super::{Corpus, Split};
use crate::random::{Stream, purpose};

/// Indices, ascending, of the conversations to validate on.
///
/// A file that names a validation split has decided: its conversations are returned, whatever `fraction` says.
/// Otherwise `round(fraction * count)` of the training conversations are drawn with `seed`: whole conversations,
/// never of the test set, at least one when `fraction` is above 0, and never all of them. Conversations without
/// a single label are not drawn, since nothing could be validated on them.
pub fn hold_out(corpus: &Corpus, fraction: f64, seed: u64) -> Vec<usize> {
    let of_split = |wanted: Split| {
        let conversations = corpus.conversations.iter().enumerate();
        conversations.filter(move |(_, conversation)| conversation.split == wanted)
    };
    let named: Vec<usize> = of_split(Split::Validation).map(|(index, _)| index).collect();
    if !named.is_empty() {
        return named;
    }
    let mut drawn: Vec<usize> = of_split(Split::Train)
        .filter(|(_, conversation)| conversation.utterances.iter().any(|utterance| utterance.label.is_some()))
        .map(|(index, _)| index)
        .collect();
    if fraction.is_nan() || fraction <= 0.0 || drawn.len() < 2 {
        return Vec::new();
    }
    let count = (fraction.min(1.0) * drawn.len() as f64).round() as usize;
    let count = count.clamp(1, drawn.len() - 1);
    Stream::new(seed, purpose::HOLD_OUT).shuffle(&mut drawn);
    drawn.truncate(count);
    drawn.sort_unstable();
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic::{SyntheticOptions, generate};

    fn corpus() -> Corpus {
        generate(&SyntheticOptions { conversations: 25, test_conversations: 5, ..SyntheticOptions::small() })
    }

    #[test]
    fn one_in_ten_of_the_training_conversations() {
        let corpus = corpus();
        let held = hold_out(&corpus, 0.1, 1);
        assert_eq!(held.len(), 2);
        assert!(held.is_sorted());
        assert!(held.iter().all(|&index| corpus.conversations[index].split == Split::Train));
        assert_eq!(held, hold_out(&corpus, 0.1, 1));
        let others = (2..12).map(|seed| hold_out(&corpus, 0.1, seed));
        assert!(others.into_iter().any(|other| other != held), "the seed has no say");
    }

    #[test]
    fn at_least_one_and_never_all() {
        let mut corpus = corpus();
        assert_eq!(hold_out(&corpus, 0.001, 1).len(), 1);
        assert_eq!(hold_out(&corpus, 1.0, 1).len(), 19);
        assert_eq!(hold_out(&corpus, 7.0, 1).len(), 19);
        assert!(hold_out(&corpus, 0.0, 1).is_empty());
        assert!(hold_out(&corpus, f64::NAN, 1).is_empty());
        corpus.conversations[1..].iter_mut().for_each(|conversation| conversation.split = Split::Test);
        assert!(hold_out(&corpus, 0.5, 1).is_empty());
    }

    #[test]
    fn the_files_own_validation_split_comes_first() {
        let mut corpus = corpus();
        corpus.conversations[3].split = Split::Validation;
        corpus.conversations[9].split = Split::Validation;
        assert_eq!(hold_out(&corpus, 0.5, 1), [3, 9]);
        assert_eq!(hold_out(&corpus, 0.0, 1), [3, 9]);
    }

    #[test]
    fn conversations_without_labels_are_not_drawn() {
        let mut corpus = corpus();
        for conversation in corpus.conversations.iter_mut().skip(2) {
            conversation.utterances.iter_mut().for_each(|utterance| utterance.label = None);
        }
        let held = hold_out(&corpus, 0.9, 5);
        assert_eq!(held.len(), 1);
        assert!(held[0] < 2);
    }
}
