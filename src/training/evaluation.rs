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

/// Of the first run over `targets`, all of them labelled, `batch` at a time; `None` when interrupted.
pub fn evaluate(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    targets: &[u32],
    batch: usize,
    interrupt: &Interrupt,
) -> Result<Option<Evaluation>> {
    let mut evaluations = evaluate_each(engine, corpus, &[targets], batch, interrupt)?;
    evaluations.as_mut().and_then(Vec::pop).transpose()
}

/// Of each run over its own targets, all of them labelled, `batch` of each at a time; `None` when interrupted. A run whose
/// output is not finite is an error of its own.
pub fn evaluate_each(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    targets: &[&[u32]],
    batch: usize,
    interrupt: &Interrupt,
) -> Result<Option<Vec<Result<Evaluation>>>> {
    let (classes, batch) = (corpus.classes.len(), batch.max(1));
    let labels = labels(corpus);
    let mut evaluations: Vec<Result<Evaluation>> =
        targets.iter().map(|_| Ok(Evaluation { loss: 0.0, confusion: Confusion::new(classes) })).collect();
    let most = targets.iter().map(|targets| targets.len()).max().unwrap_or(0);
    for part in 0..most.div_ceil(batch) {
        if interrupt.requested() {
            return Ok(None);
        }
        let parts: Vec<&[u32]> =
            targets.iter().map(|targets| targets.chunks(batch).nth(part).unwrap_or_default()).collect();
        let predictions = engine.predict_each(&parts)?;
        for ((targets, predictions), evaluation) in parts.iter().zip(predictions).zip(&mut evaluations) {
            let Ok(sums) = evaluation else { continue };
            if let Err(error) = sums.add(corpus, &labels, targets, &predictions.logits) {
                *evaluation = Err(error);
            }
        }
    }
    for (evaluation, targets) in evaluations.iter_mut().zip(targets) {
        if let Ok(evaluation) = evaluation {
            evaluation.loss /= targets.len().max(1) as f64;
        }
    }
    Ok(Some(evaluations))
}

impl Evaluation {
    /// Adds the losses of some targets, not yet their mean, and what was predicted.
    fn add(
        &mut self,
        corpus: &Corpus,
        labels: &[Option<usize>],
        targets: &[u32],
        logits: &[f64],
    ) -> Result<()> {
        for (&target, logits) in targets.iter().zip(logits.chunks_exact(corpus.classes.len().max(1))) {
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
            self.loss += loss;
            self.confusion.add(label, largest(logits));
        }
        Ok(())
    }
}

/// By row of the features.
fn labels(corpus: &Corpus) -> Vec<Option<usize>> {
    let utterances = corpus.conversations.iter().flat_map(|conversation| &conversation.utterances);
    utterances.map(|utterance| utterance.label).collect()
}
