//! MELD's file of the same family, `MELD_features_raw.pkl`.
//!
//! Nine items: `videoIDs`, `videoSpeakers`, `videoLabels`, `videoText`, `videoAudio`, `videoSentence`,
//! `trainVid`, `testVid`, and `videoLabels` once more with the sentiments, which are not read. Conversations are
//! numbered; a speaker is a list with a single 1, nine wide, whose place tells who of the two to nine people of
//! the conversation speaks. There are no visual features.
//!
//! Four variants are told apart by the order of their items: without the sentiments, with visual features before
//! the sentences, with both, and with emotions and sentiments the other way round (emotions are the ones that go
//! beyond 2).

use super::family::{Layout, Reader};
use super::pickle::Id;

/// The emotions, in the order of the file's labels.
pub const CLASSES: [&str; 7] = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"];

/// Number of sentiments: labels below it may be either.
const SENTIMENTS: i64 = 3;

/// Which item is what; `None` when the number of items is no variant's.
pub(super) fn layout(reader: &Reader, items: &[Id]) -> Option<Layout> {
    let [ids, speakers, labels, text, audio, rest @ ..] = items else {
        return None;
    };
    let (visual, sentences, train, test, sentiments) = match *rest {
        [sentences, train, test] => (None, sentences, train, test, None),
        [sentences, train, test, sentiments] if reader.is_dict(sentiments) => {
            (None, sentences, train, test, Some(sentiments))
        }
        [visual, sentences, train, test] => (Some(visual), sentences, train, test, None),
        [visual, sentences, train, test, sentiments] => {
            (Some(visual), sentences, train, test, Some(sentiments))
        }
        _ => return None,
    };
    let largest = |labels: Id| reader.largest_label(labels).unwrap_or(0);
    let labels = match sentiments {
        Some(other) if largest(*labels) < SENTIMENTS && largest(other) >= SENTIMENTS => {
            ("the last videoLabels", other)
        }
        _ => ("videoLabels", *labels),
    };
    let mut features = vec![("text", "videoText", *text), ("audio", "videoAudio", *audio)];
    features.extend(visual.map(|visual| ("visual", "videoVisual", visual)));
    Some(Layout {
        classes: &CLASSES,
        ids: *ids,
        speakers: *speakers,
        labels,
        features,
        sentences,
        train,
        test,
    })
}
