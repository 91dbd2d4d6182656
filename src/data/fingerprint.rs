//! What tells two corpora apart.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{Corpus, Split};

impl Corpus {
    /// SHA-256, in hexadecimal, over everything that training and evaluation depend on: classes, modalities, the
    /// conversations' ids and splits, the utterances' ids, speakers and labels, and the features bit by bit. Not
    /// over where the corpus was read from, nor over the texts, which no model reads.
    pub fn fingerprint(&self) -> String {
        let mut hash = Hash(Sha256::new());
        hash.text("coin corpus 1");
        hash.number(self.classes.len());
        self.classes.iter().for_each(|class| hash.text(class));
        hash.number(self.modalities.len());
        for modality in &self.modalities {
            hash.text(&modality.name);
            hash.number(modality.width);
        }
        hash.number(self.conversations.len());
        for conversation in &self.conversations {
            hash.text(&conversation.id);
            hash.number(match conversation.split {
                Split::Train => 0,
                Split::Validation => 1,
                Split::Test => 2,
            });
            hash.number(conversation.utterances.len());
            for utterance in &conversation.utterances {
                hash.text(&utterance.id);
                hash.text(&utterance.speaker);
                hash.number(utterance.label.map_or(0, |label| label + 1));
            }
        }
        hash.number(self.features.len());
        let mut bytes = Vec::with_capacity(8 * 4096);
        for block in self.features.chunks(4096) {
            bytes.clear();
            bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
            hash.0.update(&bytes);
        }
        hash.0.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

struct Hash(Sha256);

impl Hash {
    fn number(&mut self, number: usize) {
        self.0.update((number as u64).to_le_bytes());
    }

    /// With its length before it, so that no two lists of texts run together.
    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.update(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic::{SyntheticOptions, generate};

    #[test]
    fn everything_that_matters_changes_it_and_the_rest_does_not() {
        let corpus = generate(&SyntheticOptions::small());
        let fingerprint = corpus.fingerprint();
        assert_eq!(fingerprint.len(), 64);
        assert!(fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let after = |change: fn(&mut Corpus)| {
            let mut changed = corpus.clone();
            change(&mut changed);
            changed.fingerprint()
        };
        let changes: [fn(&mut Corpus); 9] = [
            |corpus| corpus.classes.swap(0, 1),
            |corpus| corpus.modalities[0].name.push('s'),
            |corpus| corpus.conversations[1].id.push('s'),
            |corpus| corpus.conversations[1].split = Split::Validation,
            |corpus| corpus.conversations[1].utterances[2].id.push('s'),
            |corpus| corpus.conversations[1].utterances[2].speaker.push('s'),
            |corpus| corpus.conversations[1].utterances[2].label = None,
            |corpus| corpus.features[5] = -corpus.features[5],
            |corpus| corpus.features[5] = f64::from_bits(corpus.features[5].to_bits() ^ 1),
        ];
        let mut seen = vec![fingerprint.clone()];
        for change in changes {
            let changed = after(change);
            assert!(!seen.contains(&changed));
            seen.push(changed);
        }
        assert_eq!(fingerprint, after(|corpus| corpus.source.push('s')));
        assert_eq!(
            fingerprint,
            after(|corpus| corpus.conversations[0].utterances[0].text = Some("Hi".into()))
        );
    }

    #[test]
    fn names_do_not_run_together() {
        let mut corpus = generate(&SyntheticOptions::small());
        corpus.classes = vec!["ab".into(), "c".into()];
        let one = corpus.fingerprint();
        corpus.classes = vec!["a".into(), "bc".into()];
        assert_ne!(one, corpus.fingerprint());
    }
}
