//! The project's own format, for anybody's conversations: JSON Lines, with the features inline or in a file
//! beside it. `docs/formats.md` describes it.
//!
//! [`LineReader`] reads it line by line, as `coin predict` does from its standard input; [`read`] reads a whole
//! file into a [`Corpus`] and [`write()`] writes one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::de::{self, DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::error::Category;

use super::side::Side;
use super::{Conversation, Corpus, Modality, ReadOptions, Split, Utterance};
use crate::atomic_file;
use crate::error::{Error, Result};

/// The header's `format`.
pub const NAME: &str = "coin-conversations";
/// The header's `version`.
pub const VERSION: u64 = 1;

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Names of the classes; a label is one of them.
    pub classes: Vec<String>,
    pub modalities: Vec<Modality>,
    /// The file of features, from the folder of the conversations.
    pub features: Option<String>,
    /// Conversations named in a split; all others are for training.
    pub splits: HashMap<String, Split>,
}

/// Any other line.
#[derive(Debug, Clone, PartialEq)]
pub struct UtteranceLine {
    pub conversation: String,
    /// `None`: its place in the conversation.
    pub utterance: Option<String>,
    pub speaker: String,
    pub label: Option<String>,
    pub text: Option<String>,
    pub features: Features,
}

/// Where an utterance's features are.
#[derive(Debug, Clone, PartialEq)]
pub enum Features {
    /// This row of the file of features.
    Row(usize),
    /// By modality, as the line has them: finite numbers.
    Inline(Vec<(String, Vec<f64>)>),
}

/// A line that is not blank.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    Header(Header),
    Utterance(UtteranceLine),
}

impl UtteranceLine {
    /// Appends the features of `modalities`, in that order, to `out`; the line may have more of them.
    ///
    /// # Errors
    /// A message without a place (see [`LineReader::error`]) when a modality is missing or of another width, or
    /// when the features are in a file.
    pub fn inline_features(
        &self,
        modalities: &[Modality],
        out: &mut Vec<f64>,
    ) -> std::result::Result<(), String> {
        let Features::Inline(features) = &self.features else {
            return Err("features are needed in the line: give \"features\", not \"row\"".to_string());
        };
        for Modality { name, width } in modalities {
            let Some((_, values)) = features.iter().find(|(found, _)| found == name) else {
                let found: Vec<&str> = features.iter().map(|(found, _)| found.as_str()).collect();
                return Err(format!("features of {name:?} are missing: the line has {found:?}"));
            };
            if values.len() != *width {
                return Err(format!("features of {name:?} are {} wide, {width} are expected", values.len()));
            }
            out.extend_from_slice(values);
        }
        Ok(())
    }
}

/// How other programs write what is no number into JSON, from where the parser stops: it takes the sign of -Infinity.
const NO_NUMBERS: [&[u8]; 4] = [b"NaN", b"Infinity", b"nan", b"inf"];

/// Reads one line at a time and counts them.
///
/// The first line may be a header; what follows is held against it: labels are among its classes, inline features
/// are of its modalities and widths, rows need its file of features.
#[derive(Debug, Clone)]
pub struct LineReader {
    source: String,
    /// Lines given so far, blank ones included.
    number: usize,
    header: Option<Header>,
    /// Whether a line that was not blank has been given.
    begun: bool,
}

impl LineReader {
    /// `source` begins every message: a path, or `standard input`.
    pub fn new(source: impl Into<String>) -> Self {
        LineReader { source: source.into(), number: 0, header: None, begun: false }
    }

    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// An error at the line given last.
    pub fn error(&self, message: impl fmt::Display) -> Error {
        Error::input(format!("{}: line {}: {message}", self.source, self.number))
    }

    /// Reads one line, with or without its newline; `None` for a blank one.
    ///
    /// # Errors
    /// `Error::Input` naming the source, the line and the key.
    pub fn read(&mut self, line: &[u8]) -> Result<Option<Line>> {
        self.number += 1;
        let line = if self.number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        let first = !std::mem::replace(&mut self.begun, true);
        if first && self.json::<Probe>(line)?.format.is_some() {
            let header = self.json::<JsonHeader>(line)?.header().map_err(|message| self.error(message))?;
            self.header = Some(header.clone());
            return Ok(Some(Line::Header(header)));
        }
        let utterance =
            self.json::<JsonUtterance>(line)?.utterance().map_err(|message| self.error(message))?;
        if let Some(header) = &self.header {
            header.check(&utterance).map_err(|message| self.error(message))?;
        }
        Ok(Some(Line::Utterance(utterance)))
    }

    fn json<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T> {
        serde_json::from_slice(line).map_err(|error| {
            let column = error.column();
            let message = error.to_string();
            // It counts lines within this one.
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
            let rest = line.get(column.saturating_sub(1)..).unwrap_or_default();
            match error.classify() {
                Category::Eof => self.error(format_args!(
                    "column {column}: the line is cut off within its JSON ({message}): write it whole, and on one line"
                )),
                Category::Syntax if NO_NUMBERS.iter().any(|word| rest.starts_with(word)) => {
                    self.error(format_args!(
                        "column {column}: JSON has no NaN and no infinity: mend the value where it is computed, or leave \
                         its modality out"
                    ))
                }
                Category::Syntax => self.error(format_args!("column {column}: no JSON that can be read: {message}")),
                _ => self.error(format_args!("column {column}: {message}")),
            }
        })
    }
}

impl Header {
    fn check(&self, line: &UtteranceLine) -> std::result::Result<(), String> {
        if let Some(label) = line.label.as_ref().filter(|label| !self.classes.contains(label)) {
            return Err(format!(
                "label {label:?} is none of the header's classes ({}): mend it, or add it to them",
                self.classes.join(", ")
            ));
        }
        let features = match &line.features {
            Features::Row(_) if self.features.is_none() => {
                return Err(
                    "\"row\" needs a file of features: name it in the header's \"features\"".to_string()
                );
            }
            Features::Row(_) => return Ok(()),
            Features::Inline(features) => features,
        };
        if let Some((name, _)) =
            features.iter().find(|(name, _)| self.modalities.iter().all(|one| one.name != *name))
        {
            let names: Vec<&str> = self.modalities.iter().map(|one| one.name.as_str()).collect();
            return Err(format!(
                "features of {name:?}, none of the header's modalities ({})",
                names.join(", ")
            ));
        }
        line.inline_features(&self.modalities, &mut Vec::new())
    }
}

/// Reads a file.
///
/// # Errors
/// `Error::Input`, naming the file, the line, and the conversation or key, when the header or a line is wrong, the
/// file of features does not fit, or [`Corpus::validate`] objects.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Corpus> {
    let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, &error))?;
    let corpus = parse(&bytes, path, options)?;
    corpus.validate()?;
    Ok(corpus)
}

/// The files that conversations at `path` are read from: itself, and the file of features that its header names.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_path_buf()];
    let mut reader = LineReader::new(String::new());
    let lines = File::open(path).into_iter().flat_map(|file| BufReader::new(file).split(b'\n'));
    let first = lines.map_while(std::result::Result::ok).find_map(|line| reader.read(&line).transpose());
    // What is of another format, or cannot be read, names no other file.
    if let Some(Ok(Line::Header(header))) = first
        && let Some(name) = header.features
    {
        files.push(path.parent().unwrap_or(Path::new("")).join(name));
    }
    files
}

/// An utterance, and where its features are among the lines'.
struct Read {
    line: usize,
    utterance: Utterance,
    features: Features,
}

/// Reads the content of the file at `path`, beside which the file of features lies. Not yet validated.
pub(super) fn parse(bytes: &[u8], path: &Path, options: &ReadOptions) -> Result<Corpus> {
    let source = path.display().to_string();
    let mut reader = LineReader::new(source.clone());
    let mut conversations: BTreeMap<String, Vec<Read>> = BTreeMap::new();
    let mut ids: HashSet<(String, String)> = HashSet::new();
    let mut rows: HashMap<usize, usize> = HashMap::new();
    let mut header: Option<Header> = None;
    for line in bytes.split(|&byte| byte == b'\n') {
        let line = match reader.read(line)? {
            None => continue,
            Some(Line::Header(first)) => {
                header = Some(first);
                continue;
            }
            Some(Line::Utterance(line)) => line,
        };
        let Some(header) = &header else {
            return Err(reader.error(format_args!(
                "the file has no header: begin it with {{\"format\": {NAME:?}, \"version\": {VERSION}, ...}}"
            )));
        };
        if let Features::Row(row) = line.features
            && let Some(other) = rows.insert(row, reader.number)
        {
            return Err(
                reader.error(format_args!("row {row} is line {other}'s: give each utterance its own"))
            );
        }
        let before = conversations.entry(line.conversation.clone()).or_default();
        let id = line.utterance.unwrap_or_else(|| before.len().to_string());
        if !ids.insert((line.conversation.clone(), id.clone())) {
            return Err(reader.error(format_args!(
                "conversation {} has an utterance {id} already: give each an id of its own, or none",
                line.conversation
            )));
        }
        let label = line.label.and_then(|label| header.classes.iter().position(|class| *class == label));
        let utterance = Utterance { id, speaker: line.speaker, label, text: line.text };
        before.push(Read { line: reader.number, utterance, features: line.features });
    }
    let Some(header) = header else {
        return Err(Error::input(format!(
            "{source}: the file is empty: a header and utterances are expected"
        )));
    };
    if let Some((id, split)) = header.splits.iter().filter(|(id, _)| !conversations.contains_key(*id)).min() {
        return Err(Error::input(format!(
            "{source}: the {} split names conversation {id}, of which there is no utterance: take it out of the \
             header's \"splits\"",
            split_name(*split)
        )));
    }

    let chosen = chosen(&header, options, &source)?;
    let side = match &header.features {
        // Only where a line needs it: inline features do without.
        Some(name) if !rows.is_empty() => {
            let path = path.parent().unwrap_or(Path::new("")).join(name);
            Some(Side::read(&path, &header.modalities)?)
        }
        _ => None,
    };
    let mut corpus = Corpus {
        source,
        classes: header.classes,
        modalities: chosen.iter().map(|&index| header.modalities[index].clone()).collect(),
        conversations: Vec::with_capacity(conversations.len()),
        features: Vec::new(),
    };
    let mut first = 0;
    for (id, lines) in conversations {
        let mut utterances = Vec::with_capacity(lines.len());
        for Read { line, utterance, features } in lines {
            append(&features, side.as_ref(), &chosen, &header.modalities, &mut corpus.features)
                .map_err(|message| Error::input(format!("{}: line {line}: {message}", corpus.source)))?;
            utterances.push(utterance);
        }
        let split = header.splits.get(&id).copied().unwrap_or(Split::Train);
        let count = utterances.len();
        corpus.conversations.push(Conversation { id, split, first, utterances });
        first += count;
    }
    Ok(corpus)
}

/// Which of the header's modalities are read, ascending.
fn chosen(header: &Header, options: &ReadOptions, source: &str) -> Result<Vec<usize>> {
    let Some(wanted) = &options.modalities else {
        return Ok((0..header.modalities.len()).collect());
    };
    let names: Vec<&str> = header.modalities.iter().map(|modality| modality.name.as_str()).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        let names = names.join(",");
        return Err(Error::input(format!(
            "{source}: there is no {unknown:?} modality in this file: ask for --modalities {names}"
        )));
    }
    if wanted.is_empty() {
        let names = names.join(",");
        return Err(Error::input(format!(
            "{source}: no modality is asked for: ask for --modalities {names} or some of them"
        )));
    }
    Ok((0..names.len()).filter(|&index| wanted.iter().any(|name| name == names[index])).collect())
}

fn append(
    features: &Features,
    side: Option<&Side>,
    chosen: &[usize],
    modalities: &[Modality],
    out: &mut Vec<f64>,
) -> std::result::Result<(), String> {
    for &index in chosen {
        match (features, side) {
            (Features::Inline(values), _) => {
                let name = &modalities[index].name;
                let values = values.iter().find(|(found, _)| found == name);
                out.extend(values.iter().flat_map(|(_, values)| values));
            }
            (&Features::Row(row), Some(side)) => side.row(index, row, out)?,
            (Features::Row(_), None) => return Err("\"row\" needs a file of features".to_string()),
        }
    }
    Ok(())
}

/// The file of features that [`write()`] writes beside `path`.
///
/// # Errors
/// When `path` does not end in `.jsonl`.
pub fn features_beside(path: &Path) -> Result<PathBuf> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    match (stem, path.extension().and_then(|extension| extension.to_str())) {
        (Some(stem), Some("jsonl")) => Ok(path.with_file_name(format!("{stem}.safetensors"))),
        _ => Err(Error::input(format!(
            "{}: conversations are written to a file that ends in .jsonl (the features go beside it)",
            path.display()
        ))),
    }
}

/// Writes `corpus` to `path`, which ends in `.jsonl`, and its features beside it, with `.safetensors` for the
/// ending: as `f32` where that loses nothing, as `f64` otherwise. Reading it again yields the same corpus, bit for
/// bit. Each file is written whole under another name and then takes its place, the features first. Features that
/// are there are replaced with the conversations whose they are, and otherwise left alone.
///
/// # Errors
/// `Error::Input` when `path` does not end in `.jsonl` or cannot be written there; `Error::System` when the machine
/// fails.
pub fn write(corpus: &Corpus, path: &Path) -> Result<()> {
    let features = features_beside(path)?;
    if features.exists() && !files(path).contains(&features) {
        return Err(Error::input(format!(
            "{}: is there already and may be another file's features or a model; remove it, or name another file",
            features.display()
        )));
    }
    let name = features.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    atomic_file::write(&features, &side_file(corpus)?)?;
    atomic_file::write(path, &lines(corpus, name)?)
}

fn lines(corpus: &Corpus, side: String) -> Result<Vec<u8>> {
    let of_split = |split: Split| {
        let conversations =
            corpus.conversations.iter().filter(move |conversation| conversation.split == split);
        conversations.map(|conversation| Name(conversation.id.clone())).collect()
    };
    let modalities = corpus.modalities.iter().map(|modality| (modality.name.clone(), modality.width));
    let header = JsonHeader {
        format: NAME.to_string(),
        version: VERSION,
        classes: corpus.classes.clone(),
        modalities: Ordered(modalities.collect()),
        features: Some(side),
        splits: Some(JsonSplits {
            train: of_split(Split::Train),
            validation: of_split(Split::Validation),
            test: of_split(Split::Test),
        }),
    };
    let mut out = Vec::new();
    write_line(&header, &mut out)?;
    for conversation in &corpus.conversations {
        for (index, utterance) in conversation.utterances.iter().enumerate() {
            let line = JsonUtterance {
                conversation: Name(conversation.id.clone()),
                utterance: Some(Name(utterance.id.clone())),
                speaker: Name(utterance.speaker.clone()),
                label: utterance.label.and_then(|label| corpus.classes.get(label).cloned()),
                text: utterance.text.clone(),
                row: Some(conversation.first + index),
                features: None,
            };
            write_line(&line, &mut out)?;
        }
    }
    Ok(out)
}

fn write_line(line: &impl Serialize, out: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(&mut *out, line)
        .map_err(|error| Error::System(format!("writing JSON: {error}")))?;
    out.push(b'\n');
    Ok(())
}

/// One modality's tensor, `[utterances, width]`.
struct Tensor {
    dtype: Dtype,
    shape: [usize; 2],
    bytes: Vec<u8>,
}

impl safetensors::View for Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn side_file(corpus: &Corpus) -> Result<Vec<u8>> {
    let width = corpus.width();
    let mut first = 0;
    let tensors = corpus.modalities.iter().map(|modality| {
        let columns = first..first + modality.width;
        first = columns.end;
        let rows = corpus.features.chunks_exact(width.max(1)).map(|row| &row[columns.clone()]);
        let values = rows.flatten();
        let exact = values.clone().all(|&value| f64::from(value as f32) == value);
        let (dtype, bytes) = if exact {
            (Dtype::F32, values.flat_map(|&value| (value as f32).to_le_bytes()).collect())
        } else {
            (Dtype::F64, values.flat_map(|value| value.to_le_bytes()).collect())
        };
        (modality.name.clone(), Tensor { dtype, shape: [corpus.len(), modality.width], bytes })
    });
    let tensors: Vec<_> = tensors.collect();
    safetensors::serialize(tensors, None)
        .map_err(|error| Error::System(format!("{}: writing its features: {error}", corpus.source)))
}

fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Validation => "validation",
        Split::Test => "test",
    }
}

// What the JSON looks like.

/// Is it a header?
#[derive(Deserialize)]
struct Probe {
    format: Option<IgnoredAny>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonHeader {
    format: String,
    version: u64,
    classes: Vec<String>,
    modalities: Ordered<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    splits: Option<JsonSplits>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSplits {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    train: Vec<Name>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    validation: Vec<Name>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    test: Vec<Name>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonUtterance {
    conversation: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    utterance: Option<Name>,
    speaker: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<Ordered<Vec<f64>>>,
}

impl JsonHeader {
    fn header(self) -> std::result::Result<Header, String> {
        if self.format != NAME {
            return Err(format!("format {:?} is not {NAME:?}", self.format));
        }
        if self.version != VERSION {
            return Err(format!("version {} of the format is not known here: {VERSION} is", self.version));
        }
        let modalities: Vec<Modality> =
            self.modalities.0.into_iter().map(|(name, width)| Modality { name, width }).collect();
        if modalities.is_empty()
            || modalities.iter().any(|modality| modality.width == 0 || modality.name.is_empty())
        {
            return Err("\"modalities\" names at least one, each with its width of 1 or more".to_string());
        }
        let mut splits = HashMap::new();
        let named = self.splits.unwrap_or(JsonSplits { train: vec![], validation: vec![], test: vec![] });
        let named =
            [(Split::Train, named.train), (Split::Validation, named.validation), (Split::Test, named.test)];
        for (split, names) in named {
            for Name(name) in names {
                if let Some(before) = splits.insert(name.clone(), split) {
                    return Err(format!(
                        "conversation {name} is in the {} and in the {} split: take it out of one",
                        split_name(before),
                        split_name(split)
                    ));
                }
            }
        }
        Ok(Header { classes: self.classes, modalities, features: self.features, splits })
    }
}

impl JsonUtterance {
    fn utterance(self) -> std::result::Result<UtteranceLine, String> {
        let features = match (self.row, self.features) {
            (Some(row), None) => Features::Row(row),
            (None, Some(features)) => Features::Inline(features.0),
            (None, None) => {
                return Err("the utterance has no features: give \"row\" or \"features\"".to_string());
            }
            (Some(_), Some(_)) => {
                return Err("the utterance has both \"row\" and \"features\": give one".to_string());
            }
        };
        let names = [("conversation", Some(&self.conversation)), ("utterance", self.utterance.as_ref())];
        if let Some((key, _)) = names.iter().find(|(_, name)| name.is_some_and(|name| name.0.is_empty())) {
            return Err(format!("{key:?} is empty: give it an id"));
        }
        Ok(UtteranceLine {
            conversation: self.conversation.0,
            utterance: self.utterance.map(|name| name.0),
            speaker: self.speaker.0,
            label: self.label,
            text: self.text,
            features,
        })
    }
}

/// Text, or a whole number, which becomes text.
struct Name(String);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a whole number")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<Name, E> {
                Ok(Name(name.to_string()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<Name, E> {
                Ok(Name(number.to_string()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<Name, E> {
                Ok(Name(number.to_string()))
            }
        }
        deserializer.deserialize_any(NameVisitor)
    }
}

/// A JSON object with its order kept and no key twice.
struct Ordered<V>(Vec<(String, V)>);

impl<V: Serialize> Serialize for Ordered<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OrderedVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for OrderedVisitor<V> {
            type Value = Ordered<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object by modality")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Ordered<V>, A::Error> {
                let mut entries: Vec<(String, V)> = Vec::new();
                let mut seen = HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if !seen.insert(key.clone()) {
                        return Err(de::Error::custom(format_args!("modality {key:?} is named twice")));
                    }
                    entries.push((key, value));
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(OrderedVisitor(PhantomData))
    }
}
