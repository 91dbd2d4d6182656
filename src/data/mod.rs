//! Conversations and where they come from.
//!
//! Every reader yields a [`Corpus`]; nothing above this module knows a file format.

pub mod batch;
pub mod conversations;
mod family;
mod fingerprint;
pub mod iemocap;
pub mod meld;
mod number;
pub mod pickle;
mod side;
pub mod split;
pub mod standardise;
pub mod synthetic;
mod validate;
pub mod windows;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

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
        self.conversations.last().map_or(0, |last| last.first + last.utterances.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A kind of file that conversations are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The pickle of IEMOCAP's features that the field passes on ([`iemocap`]).
    Iemocap,
    /// The pickle of MELD's features of the same family ([`meld`]).
    Meld,
    /// The project's own JSON Lines ([`conversations`]).
    Conversations,
}

impl Format {
    pub const ALL: [Format; 3] = [Format::Iemocap, Format::Meld, Format::Conversations];

    /// A file's format by its first bytes; the two pickles are told apart by what they hold, later.
    fn told_by(bytes: &[u8]) -> std::result::Result<Option<Format>, &'static str> {
        let begins = |start: &[u8]| bytes.starts_with(start);
        if bytes.is_empty() {
            return Err("the file is empty");
        }
        if begins(b"\x1f\x8b") || begins(b"BZh") || begins(b"\xfd7zXZ") || begins(b"\x28\xb5\x2f\xfd") {
            return Err("the file is compressed: unpack it first");
        }
        if begins(b"PK\x03\x04") {
            return Err(
                "this is a zip archive (torch.save and numpy.savez write those): bring the data into the \
                        conversations format (docs/formats.md)",
            );
        }
        if begins(b"\x93NUMPY") || bytes.get(8) == Some(&b'{') && bytes.get(6..8) == Some(&[0, 0]) {
            return Err("this is a file of features alone: read the .jsonl that names it (docs/formats.md)");
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
        match text.first() {
            Some(b'{') => Ok(Some(Format::Conversations)),
            // How a list or a tuple begins in protocols 2 to 5, 0 and 1.
            Some(0x80 | b'(' | b']') => Ok(None),
            _ => Err("this is neither a pickle nor conversations in JSON Lines (docs/formats.md)"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Iemocap => "iemocap",
            Format::Meld => "meld",
            Format::Conversations => "conversations",
        })
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Format::ALL.into_iter().find(|format| format.to_string() == name);
        known.ok_or_else(|| {
            let names = Format::ALL.map(|format| format.to_string()).join(", ");
            Error::input(format!("format {name:?} is unknown: it is one of {names}"))
        })
    }
}

/// How to read a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// `None`: told by the content.
    pub format: Option<Format>,
    /// Names of the modalities to read; `None`: all that the file has. They are read in the file's order (text,
    /// audio, visual in a pickle), whatever the order here.
    pub modalities: Option<Vec<String>>,
}

/// Reads conversations.
///
/// # Errors
/// `Error::Input` when the file cannot be opened or its content is wrong; it names the file and, where there is
/// one, the conversation, the field and the utterance, and says what to do. `Error::System` when reading fails.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Corpus> {
    let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, &error))?;
    let source = path.display().to_string();
    let told = Format::told_by(&bytes).map_err(|message| Error::input(format!("{source}: {message}")))?;
    let corpus = match options.format.or(told) {
        Some(Format::Conversations) => conversations::parse(&bytes, path, options)?,
        _ => family::read(&bytes, &source, options)?,
    };
    corpus.validate()?;
    Ok(corpus)
}
