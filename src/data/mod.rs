//! Conversations and where they come from.
//!
//! Every reader yields a [`Corpus`]; nothing above this module knows a file format.

pub mod batch;
pub mod windows;

/// Conversations with their features, as every reader yields them.
#[derive(Debug, Clone, PartialEq)]
pub struct Corpus {
    /// Where it came from, for messages: a path, or `synthetic`.
    pub source: String,
    /// Names of the emotion classes; a label is an index into them.
    pub classes: Vec<String>,
    /// The blocks of a feature row, in order.
    pub modalities: Vec<Modality>,
    /// Sorted by id (byte order).
    pub conversations: Vec<Conversation>,
    /// `[utterances, width]`, row-major, conversations in order; as read, not standardised.
    pub features: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modality {
    pub name: String,
    pub width: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    pub id: String,
    pub split: Split,
    /// Row of its first utterance in [`Corpus::features`].
    pub first: usize,
    pub utterances: Vec<Utterance>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    pub id: String,
    pub speaker: String,
    /// Index into [`Corpus::classes`]; `None` when unlabelled (it is history, never a target of the loss).
    pub label: Option<usize>,
    pub text: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    Train,
    /// Named by the file; when a file names none, training holds conversations out by itself.
    Validation,
    Test,
}

impl Corpus {
    /// Width D of a feature row.
    pub fn width(&self) -> usize {
        self.modalities.iter().map(|modality| modality.width).sum()
    }

    /// Number of utterances.
    pub fn len(&self) -> usize {
        self.conversations
            .last()
            .map_or(0, |last| last.first + last.utterances.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
