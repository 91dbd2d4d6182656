//! Loss and confusion of a set of targets under the model as it stands.

use super::interrupt::Interrupt;
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::metrics::{Confusion, Figures, cross_entropy, largest};
use crate::model::Engine;

#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Mean clean cross-entropy.
    pub loss: f64,
    pub confusion: Confusion,
}

impl Evaluation {
    pub fn figures(&self) -> Figures {
        Figures::new(&self.confusion.by_class())
    }
}

/// Over `targets`, all of them labelled, `batch` at a time; `None` when interrupted.
pub fn evaluate(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    targets: &[u32],
    batch: usize,
    interrupt: &Interrupt,
) -> Result<Option<Evaluation>> {
    let classes = corpus.classes.len();
    let labels = labels(corpus);
    let mut confusion = Confusion::new(classes);
    let mut sum = 0.0;
    for targets in targets.chunks(batch.max(1)) {
        if interrupt.requested() {
            return Ok(None);
        }
        let predictions = engine.predict(targets)?;
        for (&target, logits) in targets.iter().zip(predictions.logits.chunks_exact(classes.max(1))) {
            let Some(label) = labels[target as usize] else {
                continue;
            };
            let loss = cross_entropy(logits, label);
            if !loss.is_finite() {
                return Err(Error::input(format!(
                    "{}: the model's output for utterance {target} is not finite: its parameters, or the features \
                     it reads, are beyond what it can compute with",
                    corpus.source
                )));
            }
            sum += loss;
            confusion.add(label, largest(logits));
        }
    }
    Ok(Some(Evaluation { loss: sum / targets.len().max(1) as f64, confusion }))
}

/// By row of the features.
fn labels(corpus: &Corpus) -> Vec<Option<usize>> {
    let utterances = corpus.conversations.iter().flat_map(|conversation| &conversation.utterances);
    utterances.map(|utterance| utterance.label).collect()
}
