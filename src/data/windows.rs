//! Which utterances a target reads: its window, causal and within its conversation.

use std::collections::HashMap;

use super::Corpus;

/// Who precedes whom in a corpus, by utterance index (row of the features).
#[derive(Debug, Clone, Default)]
pub struct Windows {
    /// First utterance of the utterance's conversation.
    first: Vec<u32>,
    /// Speaker within the conversation, numbered by first appearance.
    speaker: Vec<u32>,
    label: Vec<Option<u32>>,
    history_length: usize,
    longest: usize,
}

impl Windows {
    /// Windows of at most `history_length` utterances (K).
    pub fn new(corpus: &Corpus, history_length: usize) -> Self {
        let mut windows = Windows { history_length, ..Windows::default() };
        for conversation in &corpus.conversations {
            let first = windows.first.len() as u32;
            let mut speakers: HashMap<&str, u32> = HashMap::new();
            for utterance in &conversation.utterances {
                let next = speakers.len() as u32;
                windows.first.push(first);
                windows.speaker.push(*speakers.entry(&utterance.speaker).or_insert(next));
                windows.label.push(utterance.label.map(|label| label as u32));
            }
        }
        let lengths = (0..windows.len() as u32).map(|target| windows.window(target).len());
        windows.longest = lengths.max().unwrap_or(0);
        windows
    }

    /// Number of utterances.
    pub fn len(&self) -> usize {
        self.first.len()
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Length of the longest window.
    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn history_length(&self) -> usize {
        self.history_length
    }

    /// The utterances before `target` that its sample reads, oldest first: at most K, of its conversation.
    pub fn window(&self, target: u32) -> std::ops::Range<u32> {
        let first = self.first[target as usize];
        first.max(target.saturating_sub(self.history_length as u32))..target
    }

    /// Whether two utterances of one conversation have the same speaker.
    pub fn same_speaker(&self, a: u32, b: u32) -> bool {
        self.speaker[a as usize] == self.speaker[b as usize]
    }

    pub fn label(&self, utterance: u32) -> Option<u32> {
        self.label[utterance as usize]
    }
}
