//! IEMOCAP's usual file, `IEMOCAP_features_raw.pkl`.
//!
//! Nine items: `videoIDs`, `videoSpeakers`, `videoLabels`, `videoText`, `videoAudio`, `videoVisual`,
//! `videoSentence`, `trainVid`, `testVid`. The first seven are dicts by conversation of one entry for each
//! utterance: its id, `'M'` or `'F'`, its class, its features (as wide as the file has them), its words.

use super::family::Layout;
use super::pickle::Id;

/// The emotions, in the order of the file's labels.
pub const CLASSES: [&str; 6] = ["happy", "sad", "neutral", "angry", "excited", "frustrated"];

/// Which item is what.
pub(super) fn layout(items: &[Id; 9]) -> Layout {
    let [ids, speakers, labels, text, audio, visual, sentences, train, test] = *items;
    Layout {
        classes: &CLASSES,
        ids,
        speakers,
        labels: ("videoLabels", labels),
        features: vec![
            ("text", "videoText", text),
            ("audio", "videoAudio", audio),
            ("visual", "videoVisual", visual),
        ],
        sentences,
        train,
        test,
    }
}
