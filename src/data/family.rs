//! What the pickles of IEMOCAP and MELD have in common: dicts by conversation of lists by utterance, and two
//! lists of conversations for training and testing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::pickle::{self, Array, Id, Pickle, Value};
use super::{Conversation, Corpus, Format, Modality, ReadOptions, Split, Utterance, iemocap, meld};
use crate::error::{Error, Result};

/// Which item of the pickle is what.
pub(super) struct Layout {
    pub classes: &'static [&'static str],
    pub ids: Id,
    pub speakers: Id,
    /// With its name in messages.
    pub labels: (&'static str, Id),
    /// Modality, its name in messages, its item.
    pub features: Vec<(&'static str, &'static str, Id)>,
    pub sentences: Id,
    pub train: Id,
    pub test: Id,
}

/// Reads a pickle of the family from `bytes`; `source` begins every message.
pub(super) fn read(bytes: &[u8], source: &str, options: &ReadOptions) -> Result<Corpus> {
    let pickle = pickle::read(bytes, source)?;
    let reader = Reader { pickle: &pickle, source };
    let items = pickle.items(pickle.root()).unwrap_or_default();
    let layout = reader.layout(items, options.format)?;
    // A file holds fewer values than bytes, unless utterances share theirs (zeros for what is missing).
    reader.weigh(items, (1 << 24) + 4 * bytes.len())?;
    reader.assemble(&layout, options)
}

pub(super) struct Reader<'a> {
    pickle: &'a Pickle<'a>,
    source: &'a str,
}

/// Entries of one of the dicts by conversation.
type Entries = HashMap<String, Id>;

impl Reader<'_> {
    pub fn is_dict(&self, id: Id) -> bool {
        matches!(self.pickle.get(id), Value::Dict(_))
    }

    /// The largest label in a dict of labels; `None` when it has none.
    pub fn largest_label(&self, labels: Id) -> Option<i64> {
        let Value::Dict(entries) = self.pickle.get(labels) else {
            return None;
        };
        entries.iter().filter_map(|&(_, list)| self.whole_numbers(list)?.into_iter().max()).max()
    }

    fn fail<T>(&self, message: String) -> Result<T> {
        Err(Error::input(format!("{}: {message}", self.source)))
    }

    /// Refuses a file whose values, taken out one by one, are more than `limit` numbers and letters: a small file
    /// may name one large array or list any number of times.
    fn weigh(&self, items: &[Id], limit: usize) -> Result<()> {
        let mut left = limit;
        for &item in items {
            let (keys, lists) = match self.pickle.get(item) {
                Value::Dict(entries) => entries.iter().copied().unzip(),
                _ => (Vec::new(), vec![item]),
            };
            let within = |list: Id| self.pickle.items(list).unwrap_or_default().iter().copied();
            for id in keys
                .into_iter()
                .chain(lists.iter().copied())
                .chain(lists.iter().flat_map(|&list| within(list)))
            {
                // What an utterance takes besides.
                let weight = 16 + self.pickle.weight(id);
                left = match left.checked_sub(weight) {
                    Some(left) => left,
                    None => {
                        return self
                            .fail("the file unfolds into far more than its own size: refused".to_string());
                    }
                };
            }
        }
        Ok(())
    }

    /// Tells IEMOCAP from MELD by the kinds of the items, and by the speakers where those agree.
    fn layout(&self, items: &[Id], format: Option<Format>) -> Result<Layout> {
        let kinds: String = items.iter().map(|&item| if self.is_dict(item) { 'D' } else { 'C' }).collect();
        let iemocap = match kinds.as_str() {
            "DDDDDDDCC" => {
                format.map_or_else(|| !self.has_one_hot_speakers(items[1]), |it| it == Format::Iemocap)
            }
            "DDDDDDCCD" | "DDDDDDCC" | "DDDDDDDCCD" if format != Some(Format::Iemocap) => false,
            _ => {
                let (name, wanted) = match format {
                    Some(Format::Iemocap) => {
                        ("IEMOCAP's", "nine items, seven dicts and two lists of conversations")
                    }
                    Some(Format::Meld) => {
                        ("MELD's", "six or seven dicts, two lists of conversations and a dict")
                    }
                    _ => (
                        "IEMOCAP's or MELD's",
                        "eight to ten items, six or seven of them dicts before two lists",
                    ),
                };
                let found = match self.pickle.items(self.pickle.root()) {
                    None => self.pickle.describe(self.pickle.root()),
                    Some(items) if items.len() > 12 => format!("{} items", items.len()),
                    Some(items) => {
                        let kinds: Vec<String> =
                            items.iter().map(|&item| self.pickle.describe(item)).collect();
                        format!("{} items ({})", items.len(), kinds.join(", "))
                    }
                };
                return self.fail(format!(
                    "this pickle is not {name} file of features: {wanted} are expected, and it holds {found}; bring \
                     other data into the conversations format (docs/formats.md)"
                ));
            }
        };
        let layout = match <&[Id; 9]>::try_from(items) {
            Ok(items) if iemocap => Some(iemocap::layout(items)),
            _ => meld::layout(self, items),
        };
        layout.map_or_else(|| self.fail(format!("{} items are no known layout", items.len())), Ok)
    }

    fn has_one_hot_speakers(&self, speakers: Id) -> bool {
        let Value::Dict(entries) = self.pickle.get(speakers) else {
            return false;
        };
        let first = entries.iter().find_map(|&(_, list)| self.pickle.items(list)?.first().copied());
        first.is_some_and(|speaker| self.pickle.items(speaker).is_some() || self.array(speaker).is_some())
    }

    fn array(&self, id: Id) -> Option<&Array> {
        match self.pickle.get(id) {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Text, or a whole number in decimal: what ids and speakers may be.
    fn name(&self, id: Id) -> Option<String> {
        match self.pickle.get(id) {
            Value::Int(number) => Some(number.to_string()),
            _ => self.pickle.text(id).map(String::from),
        }
    }

    /// Names in a list, a tuple, a set, or an array of whole numbers.
    fn names(&self, id: Id) -> Option<Vec<String>> {
        match self.array(id) {
            Some(array) => Some(self.pickle.integers(array)?.iter().map(i64::to_string).collect()),
            None => self.pickle.items(id)?.iter().map(|&item| self.name(item)).collect(),
        }
    }

    fn whole_numbers(&self, id: Id) -> Option<Vec<i64>> {
        if let Some(array) = self.array(id) {
            return self.pickle.integers(array);
        }
        self.pickle.items(id)?.iter().map(|&item| self.whole_number(item)).collect()
    }

    fn whole_number(&self, id: Id) -> Option<i64> {
        match *self.pickle.get(id) {
            Value::Int(number) => Some(number),
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some(number as i64),
            Value::Bool(truth) => Some(i64::from(truth)),
            _ => None,
        }
    }

    /// Appends the numbers in a flat list or array; `None` when it is neither.
    fn row(&self, id: Id, out: &mut Vec<f64>) -> Option<()> {
        if let Some(array) = self.array(id) {
            let long = array.shape.iter().filter(|&&size| size != 1).count();
            if long > 1 {
                return None;
            }
            self.pickle.numbers(array, out);
            return Some(());
        }
        for &item in self.pickle.items(id)? {
            out.push(match *self.pickle.get(item) {
                Value::Float(number) => number,
                Value::Int(number) => number as f64,
                _ => return None,
            });
        }
        Some(())
    }

    fn entries(&self, field: &str, id: Id) -> Result<Entries> {
        let Value::Dict(pairs) = self.pickle.get(id) else {
            return self.fail(format!("{field} is {}, not a dict by conversation", self.pickle.describe(id)));
        };
        let mut entries = Entries::with_capacity(pairs.len());
        for &(key, value) in pairs {
            let Some(name) = self.name(key) else {
                return self.fail(format!(
                    "{field} has a key that is {}: conversations are named by text or whole numbers",
                    self.pickle.describe(key)
                ));
            };
            entries.insert(name, value);
        }
        Ok(entries)
    }

    /// Which modalities are read: of those the file has, the ones asked for.
    fn modalities(
        &self,
        layout: &Layout,
        wanted: Option<&[String]>,
    ) -> Result<Vec<(&'static str, &'static str, Id)>> {
        let filled = |id: Id| !matches!(self.pickle.get(id), Value::Dict(entries) if entries.is_empty());
        let held: Vec<_> = layout.features.iter().copied().filter(|&(_, _, id)| filled(id)).collect();
        let names = held.iter().map(|&(name, ..)| name).collect::<Vec<_>>().join(",");
        let Some(wanted) = wanted else { return Ok(held) };
        for name in wanted {
            if held.iter().any(|(held, ..)| held == name) {
                continue;
            }
            return match layout.features.iter().find(|(known, ..)| known == name) {
                Some((_, field, _)) => self.fail(format!(
                    "the {name} modality is asked for and {field} is empty: ask for --modalities {names}"
                )),
                None => self.fail(format!(
                    "there is no {name:?} modality in this file: ask for --modalities {names}"
                )),
            };
        }
        if wanted.is_empty() {
            return self
                .fail(format!("no modality is asked for: ask for --modalities {names} or some of them"));
        }
        Ok(held.into_iter().filter(|(held, ..)| wanted.iter().any(|name| name == held)).collect())
    }

    /// Every conversation of the two lists and its split, by id.
    fn splits(&self, layout: &Layout) -> Result<BTreeMap<String, Split>> {
        let mut splits = BTreeMap::new();
        for (field, list, split) in
            [("trainVid", layout.train, Split::Train), ("testVid", layout.test, Split::Test)]
        {
            let Some(names) = self.names(list) else {
                return self.fail(format!(
                    "{field} is {}: a list, tuple or set of conversations is expected",
                    self.pickle.describe(list)
                ));
            };
            for name in names {
                match splits.insert(name.clone(), split) {
                    None => {}
                    Some(same) if same == split => {
                        return self.fail(format!("{field} names conversation {name} twice: name it once"));
                    }
                    Some(_) => {
                        return self.fail(format!(
                            "conversation {name} is in both trainVid and testVid: take it out of one, or the test set \
                             is trained on"
                        ));
                    }
                }
            }
        }
        Ok(splits)
    }

    fn assemble(&self, layout: &Layout, options: &ReadOptions) -> Result<Corpus> {
        let chosen = self.modalities(layout, options.modalities.as_deref())?;
        let splits = self.splits(layout)?;
        let fields = Fields {
            ids: self.entries("videoIDs", layout.ids)?,
            speakers: self.entries("videoSpeakers", layout.speakers)?,
            labels: self.entries(layout.labels.0, layout.labels.1)?,
            sentences: self.entries("videoSentence", layout.sentences)?,
        };
        let mut blocks = Vec::with_capacity(chosen.len());
        for (name, field, id) in chosen {
            blocks.push(Block {
                name,
                field,
                entries: self.entries(field, id)?,
                width: None,
                values: Vec::new(),
            });
        }

        let mut corpus = Corpus {
            source: self.source.to_string(),
            classes: layout.classes.iter().map(|class| class.to_string()).collect(),
            modalities: Vec::new(),
            conversations: Vec::with_capacity(splits.len()),
            features: Vec::new(),
        };
        let mut first = 0;
        for (id, split) in splits {
            let utterances = self.utterances(layout, &fields, &id, split)?;
            for block in &mut blocks {
                self.features(block, &id, &utterances, layout.labels.0)?;
            }
            for row in 0..utterances.len() {
                for block in &blocks {
                    let width = block.width.unwrap_or(0);
                    corpus.features.extend_from_slice(&block.values[row * width..(row + 1) * width]);
                }
            }
            let count = utterances.len();
            corpus.conversations.push(Conversation { id, split, first, utterances });
            first += count;
        }
        let named = blocks.iter().map(|block| (block.name, block.width.unwrap_or(0)));
        corpus.modalities = named.map(|(name, width)| Modality { name: name.to_string(), width }).collect();
        Ok(corpus)
    }

    /// The entry of one conversation; `None` is an error that names it.
    fn entry(&self, entries: &Entries, field: &str, conversation: &str, split: Split) -> Result<Id> {
        match entries.get(conversation) {
            Some(&id) => Ok(id),
            None => {
                let list = if split == Split::Test { "testVid" } else { "trainVid" };
                self.fail(format!(
                    "{list} names conversation {conversation}, and {field} has none of that name: take it out of \
                     {list}, or add it to {field}"
                ))
            }
        }
    }

    fn utterances(&self, layout: &Layout, fields: &Fields, id: &str, split: Split) -> Result<Vec<Utterance>> {
        let (labels_field, classes) = (layout.labels.0, layout.classes);
        let list = self.entry(&fields.labels, labels_field, id, split)?;
        let Some(labels) = self.whole_numbers(list) else {
            return self.fail(format!(
                "conversation {id}: {labels_field} is {}: a list of whole numbers is expected",
                self.listed(list, |item| self.whole_number(item).is_some())
            ));
        };
        let count = labels.len();
        let same = |field: &str, found: usize| self.same_length(id, field, found, labels_field, count);

        let list = self.entry(&fields.ids, "videoIDs", id, split)?;
        let Some(mut ids) = self.names(list) else {
            return self.fail(format!(
                "conversation {id}: videoIDs is {}: a list of text or whole numbers is expected",
                self.listed(list, |item| self.name(item).is_some())
            ));
        };
        same("videoIDs", ids.len())?;
        if ids.iter().collect::<HashSet<_>>().len() < count {
            // Some files number them carelessly: their places are distinct.
            ids = (0..count).map(|index| index.to_string()).collect();
        }

        let list = self.entry(&fields.speakers, "videoSpeakers", id, split)?;
        let speakers = self.speakers(list, id)?;
        same("videoSpeakers", speakers.len())?;

        let texts = match fields.sentences.get(id) {
            None if fields.sentences.is_empty() => None,
            None => Some(self.entry(&fields.sentences, "videoSentence", id, split)?),
            Some(&list) => Some(list),
        };
        let mut texts = match texts.map(|list| (list, self.pickle.items(list))) {
            None => vec![None; count],
            Some((_, Some(items))) => {
                same("videoSentence", items.len())?;
                items.iter().map(|&item| self.pickle.text(item).map(String::from)).collect()
            }
            Some((list, None)) => {
                return self.fail(format!(
                    "conversation {id}: videoSentence is {}: a list of text is expected",
                    self.pickle.describe(list)
                ));
            }
        };

        let mut utterances = Vec::with_capacity(count);
        for (index, ((name, speaker), label)) in ids.into_iter().zip(speakers).zip(labels).enumerate() {
            let Some(label) = usize::try_from(label).ok().filter(|&label| label < classes.len()) else {
                return self.fail(format!(
                    "conversation {id}, utterance {index} ({name}): {labels_field} is {label}, out of range: labels \
                     are 0 to {} ({})",
                    classes.len() - 1,
                    classes.join(", ")
                ));
            };
            utterances.push(Utterance { id: name, speaker, label: Some(label), text: texts[index].take() });
        }
        Ok(utterances)
    }

    /// Names of the speakers: as given, or the place of the single 1 in each list.
    fn speakers(&self, list: Id, conversation: &str) -> Result<Vec<String>> {
        let expected = "a name, or a list with a single 1, is expected for each utterance";
        let mut rows: Vec<Vec<f64>> = Vec::new();
        if let Some(array) = self.array(list) {
            // One row for each utterance; names do not come as arrays of numbers.
            let &[count, width] = array.shape.as_slice() else {
                return self.fail(format!(
                    "conversation {conversation}: videoSpeakers is {}: {expected}",
                    self.pickle.describe(list)
                ));
            };
            let mut values = Vec::new();
            self.pickle.numbers(array, &mut values);
            if width == 0 {
                return self.fail(format!(
                    "conversation {conversation}: videoSpeakers is {count} empty lists: {expected}"
                ));
            }
            rows.extend(values.chunks_exact(width).map(<[f64]>::to_vec));
            return rows
                .iter()
                .enumerate()
                .map(|(index, row)| self.one_hot(row, conversation, index))
                .collect();
        }
        let Some(items) = self.pickle.items(list) else {
            return self.fail(format!(
                "conversation {conversation}: videoSpeakers is {}: {expected}",
                self.pickle.describe(list)
            ));
        };
        let mut row = Vec::new();
        let named = items.iter().enumerate().map(|(index, &item)| {
            if let Some(name) = self.name(item) {
                return Ok(name);
            }
            row.clear();
            match self.row(item, &mut row) {
                Some(()) => self.one_hot(&row, conversation, index),
                None => self.fail(format!(
                    "conversation {conversation}, utterance {index}: videoSpeakers is {}: {expected}",
                    self.pickle.describe(item)
                )),
            }
        });
        named.collect()
    }

    fn one_hot(&self, row: &[f64], conversation: &str, index: usize) -> Result<String> {
        let mut ones = row.iter().enumerate().filter(|&(_, &value)| value != 0.0);
        match (ones.next(), ones.next()) {
            (Some((place, &1.0)), None) => Ok(place.to_string()),
            _ => self.fail(format!(
                "conversation {conversation}, utterance {index}: videoSpeakers is {row:?}: exactly one 1 is expected, \
                 at the speaker's place"
            )),
        }
    }

    /// Reads one modality of one conversation into `block.values`, `[utterances, width]`.
    fn features(
        &self,
        block: &mut Block,
        conversation: &str,
        utterances: &[Utterance],
        labels_field: &str,
    ) -> Result<()> {
        let field = block.field;
        let list = match block.entries.get(conversation) {
            Some(&list) => list,
            None => {
                return self.fail(format!(
                    "conversation {conversation} has no {field}: add it, leave {} out (--modalities), or take the \
                     conversation out of trainVid and testVid",
                    block.name
                ));
            }
        };
        let same =
            |found: usize| self.same_length(conversation, field, found, labels_field, utterances.len());
        block.values.clear();
        if let Some(array) = self.array(list) {
            let &[count, width] = array.shape.as_slice() else {
                return self.fail(format!(
                    "conversation {conversation}: {field} is {}: one row for each utterance is expected",
                    self.pickle.describe(list)
                ));
            };
            same(count)?;
            if count > 0 {
                self.same_width(block, width, conversation, 0, &utterances[0].id)?;
            }
            self.pickle.numbers(array, &mut block.values);
            return Ok(());
        }
        let Some(items) = self.pickle.items(list) else {
            return self.fail(format!(
                "conversation {conversation}: {field} is {}: a list of arrays is expected",
                self.pickle.describe(list)
            ));
        };
        same(items.len())?;
        for (index, (&item, utterance)) in items.iter().zip(utterances).enumerate() {
            let before = block.values.len();
            if self.row(item, &mut block.values).is_none() {
                return self.fail(format!(
                    "conversation {conversation}, utterance {index} ({}): {field} is {}: a flat array of numbers is \
                     expected",
                    utterance.id,
                    self.pickle.describe(item)
                ));
            }
            let width = block.values.len() - before;
            self.same_width(block, width, conversation, index, &utterance.id)?;
        }
        Ok(())
    }

    fn same_length(
        &self,
        conversation: &str,
        field: &str,
        found: usize,
        labels: &str,
        count: usize,
    ) -> Result<()> {
        if found == count {
            return Ok(());
        }
        self.fail(format!(
            "conversation {conversation}: {field} has {found} entries and {labels} {count}: give each utterance one \
             entry in every list"
        ))
    }

    fn same_width(
        &self,
        block: &mut Block,
        width: usize,
        conversation: &str,
        index: usize,
        id: &str,
    ) -> Result<()> {
        let first = *block.width.get_or_insert(width);
        if width == first && width > 0 {
            return Ok(());
        }
        let wanted = if first == 0 { "features are".to_string() } else { format!("{first} are") };
        self.fail(format!(
            "conversation {conversation}, utterance {index} ({id}): {} is {width} wide where {wanted} expected: give \
             every utterance features of one width",
            block.field
        ))
    }

    /// What a list is, and the first of its items that is not as it should be.
    fn listed(&self, list: Id, good: impl Fn(Id) -> bool) -> String {
        let odd = self.pickle.items(list).and_then(|items| items.iter().find(|&&item| !good(item)));
        let list = self.pickle.describe(list);
        odd.map_or(list.clone(), |&odd| format!("{list} that holds {}", self.pickle.describe(odd)))
    }
}

/// The dicts that every file has.
struct Fields {
    ids: Entries,
    speakers: Entries,
    labels: Entries,
    sentences: Entries,
}

/// One modality while it is read.
struct Block {
    name: &'static str,
    field: &'static str,
    entries: Entries,
    /// Told by the first utterance.
    width: Option<usize>,
    /// `[utterances, width]` of the present conversation.
    values: Vec<f64>,
}
