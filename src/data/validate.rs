//! What holds of every corpus.

use std::collections::HashSet;

use super::Corpus;
use crate::error::{Error, Result};

impl Corpus {
    /// Checks what everything above relies on; every reader ends with it.
    ///
    /// - at least one modality and one utterance, no modality of width 0, no empty conversation;
    /// - names of classes and of modalities, and ids of utterances within a conversation, are distinct and not
    ///   empty; conversations ascend by id, each once;
    /// - `first` counts the utterances before, and `features` holds `[utterances, width]` finite values;
    /// - labels are below the number of classes.
    ///
    /// # Errors
    /// `Error::Input`, naming the source, the conversation, the utterance and the modality.
    pub fn validate(&self) -> Result<()> {
        let source = &self.source;
        let fail = |message: String| Err(Error::input(format!("{source}: {message}")));
        if let Some(name) = repeated_or_empty(self.classes.iter().map(String::as_str)) {
            return fail(format!(
                "class {name:?} is named twice or has no name: give each class a name of its own"
            ));
        }
        if let Some(name) = repeated_or_empty(self.modalities.iter().map(|modality| modality.name.as_str())) {
            return fail(format!(
                "modality {name:?} is named twice or has no name: give each a name of its own"
            ));
        }
        if self.modalities.is_empty() {
            return fail("there are no features: at least one modality is needed".to_string());
        }
        if let Some(modality) = self.modalities.iter().find(|modality| modality.width == 0) {
            return fail(format!("modality {} is 0 wide: leave it out", modality.name));
        }
        if self.conversations.is_empty() {
            return fail("there are no conversations".to_string());
        }

        let mut first = 0;
        let mut before: Option<&str> = None;
        for conversation in &self.conversations {
            let id = &conversation.id;
            if before.is_some_and(|before| before >= id.as_str()) {
                return fail(format!("conversation {id} stands twice or out of the order of ids"));
            }
            before = Some(id);
            if conversation.utterances.is_empty() {
                return fail(format!("conversation {id} has no utterances: remove it from the file"));
            }
            if conversation.first != first {
                return fail(format!("conversation {id} begins at row {}, not {first}", conversation.first));
            }
            if let Some(name) = repeated_or_empty(conversation.utterances.iter().map(|one| one.id.as_str())) {
                return fail(format!("conversation {id}: utterance id {name:?} stands twice or is empty"));
            }
            for (index, utterance) in conversation.utterances.iter().enumerate() {
                if let Some(label) = utterance.label.filter(|&label| label >= self.classes.len()) {
                    return fail(format!(
                        "conversation {id}, utterance {index} ({}): label {label} is out of range, there are {} classes",
                        utterance.id,
                        self.classes.len()
                    ));
                }
            }
            first += conversation.utterances.len();
        }

        let width = self.width();
        if self.features.len() != first * width {
            return fail(format!(
                "{} feature values for {first} utterances of width {width}",
                self.features.len()
            ));
        }
        match self.features.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(position) => fail(self.not_finite(position / width, position % width)),
        }
    }

    fn not_finite(&self, row: usize, column: usize) -> String {
        let value = self.features[row * self.width() + column];
        let of_row = |first: usize, count: usize| (first..first + count).contains(&row);
        let conversation = self.conversations.iter().find(|one| of_row(one.first, one.utterances.len()));
        let place = conversation.map_or_else(String::new, |conversation| {
            let index = row - conversation.first;
            format!(
                "conversation {}, utterance {index} ({})",
                conversation.id, conversation.utterances[index].id
            )
        });
        let (mut modality, mut column) = ("", column);
        for block in &self.modalities {
            modality = &block.name;
            if column < block.width {
                break;
            }
            column -= block.width;
        }
        format!(
            "{place}: {modality} feature {column} is {value}: features must be finite, so mend the value, leave \
             {modality} out (--modalities), or remove the conversation"
        )
    }
}

/// The first name that is empty or has stood before.
fn repeated_or_empty<'n>(mut names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = HashSet::new();
    names.find(|name| name.is_empty() || !seen.insert(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic::{SyntheticOptions, generate};

    #[test]
    fn each_invariant_is_checked_and_named() {
        let corpus = generate(&SyntheticOptions::small());
        assert_eq!(corpus.validate(), Ok(()));
        type Change = fn(&mut Corpus);
        let cases: [(Change, &str); 14] = [
            (|corpus| corpus.classes[1] = "happy".into(), "class \"happy\" is named twice"),
            (|corpus| corpus.modalities[1].name = "text".into(), "modality \"text\" is named twice"),
            (|corpus| corpus.modalities.clear(), "there are no features"),
            (|corpus| corpus.modalities[2].width = 0, "modality visual is 0 wide"),
            (|corpus| corpus.conversations.clear(), "there are no conversations"),
            (
                |corpus| corpus.conversations[0].id = "z".into(),
                "conversation synthetic001 stands twice or out of the order",
            ),
            (
                |corpus| corpus.conversations[1].id = "synthetic000".into(),
                "conversation synthetic000 stands twice or",
            ),
            (
                |corpus| corpus.conversations[2].utterances.clear(),
                "conversation synthetic002 has no utterances",
            ),
            (|corpus| corpus.conversations[1].first += 1, "conversation synthetic001 begins at row"),
            (
                |corpus| corpus.conversations[1].utterances[1].id.clear(),
                "conversation synthetic001: utterance id \"\"",
            ),
            (
                |corpus| corpus.conversations[1].utterances[2].label = Some(6),
                "conversation synthetic001, utterance 2 (synthetic001_",
            ),
            (|corpus| corpus.features.truncate(1), "1 feature values for"),
            (
                |corpus| {
                    let row = corpus.conversations[3].first + 1;
                    corpus.features[row * 12 + 6] = f64::NAN;
                },
                "conversation synthetic003, utterance 1 (",
            ),
            (
                |corpus| corpus.features[5] = f64::NEG_INFINITY,
                ": audio feature 0 is -inf: features must be finite",
            ),
        ];
        for (change, expected) in cases {
            let mut changed = corpus.clone();
            change(&mut changed);
            match changed.validate() {
                Err(Error::Input(message)) => {
                    assert!(message.starts_with("synthetic: ") && message.contains(expected), "{message}");
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn unlabelled_utterances_are_fine() {
        let mut corpus = generate(&SyntheticOptions::small());
        for conversation in &mut corpus.conversations {
            conversation.utterances.iter_mut().for_each(|utterance| utterance.label = None);
        }
        corpus.classes.clear();
        assert_eq!(corpus.validate(), Ok(()));
    }
}
