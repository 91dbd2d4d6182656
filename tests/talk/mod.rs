//! Random conversations for the tests.

use coin::data::{Conversation, Corpus, Modality, Split, Utterance};
use coin::random::{Stream, purpose};

/// Conversations of these lengths between up to `speakers` people, every utterance labelled; features are normal
/// and representable in f32.
pub fn corpus(seed: u64, lengths: &[usize], speakers: usize, width: usize, classes: usize) -> Corpus {
    let mut stream = Stream::new(seed, purpose::TEST);
    let mut corpus = Corpus {
        source: "random".to_string(),
        classes: (0..classes).map(|class| format!("class {class}")).collect(),
        modalities: vec![Modality { name: "text".to_string(), width }],
        conversations: Vec::new(),
        features: Vec::new(),
    };
    for (number, &length) in lengths.iter().enumerate() {
        let first = corpus.features.len() / width;
        let utterance = |index: usize| Utterance {
            id: index.to_string(),
            speaker: format!("speaker {}", stream.below(speakers)),
            label: Some(stream.below(classes)),
            text: None,
        };
        corpus.conversations.push(Conversation {
            id: format!("{number:05}"),
            split: Split::Train,
            first,
            utterances: (0..length).map(utterance).collect(),
        });
        corpus.features.extend((0..length * width).map(|_| f64::from(stream.normal() as f32)));
    }
    corpus.validate().unwrap();
    corpus
}
