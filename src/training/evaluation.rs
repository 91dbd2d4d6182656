//! Loss and confusion of a set of targets under the model as it stands.

use std::fmt;

use super::interrupt::Interrupt;
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::model::Engine;

/// A model's output that is not finite.
#[derive(Debug, Clone, PartialEq)]
pub struct NotFinite {
    /// The first utterance that has one, where there is one by itself.
    utterance: Option<u32>,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.utterance {
            Some(utterance) => write!(f, "the model's output for utterance {utterance} is not finite"),
            None => write!(f, "the model's output is not finite"),
        }
    }
}

impl NotFinite {
    /// Of a trained model.
    pub fn error(&self, corpus: &Corpus) -> Error {
        Error::input(format!(
            "{}: {self}: its parameters, or the features it reads, are beyond what it can compute with",
            corpus.source
        ))
    }
}

/// Of an engine of one run over `targets`, all of them labelled; `None` when interrupted.
pub fn evaluate(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    targets: &[u32],
    interrupt: &Interrupt,
) -> Result<Option<Evaluation>> {
    let evaluations = evaluate_each(engine, corpus, &[targets], interrupt)?;
    let evaluation = evaluations.and_then(|mut each| each.pop()).transpose();
    evaluation.map_err(|broken| broken.error(corpus))
}

/// Of each run over its own targets, all of them labelled; `None` when interrupted.
pub fn evaluate_each(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    targets: &[&[u32]],
    interrupt: &Interrupt,
) -> Result<Option<Vec<std::result::Result<Evaluation, NotFinite>>>> {
    let Some(evaluations) = engine.evaluate_each(targets, &|| interrupt.requested())? else {
        return Ok(None);
    };
    let mut checked = Vec::with_capacity(evaluations.len());
    for (run, evaluation) in evaluations.into_iter().enumerate() {
        checked.push(match evaluation.loss.is_finite() {
            true => Ok(evaluation),
            false => Err(not_finite(engine, corpus, run, targets)?),
        });
    }
    Ok(Some(checked))
}

/// Looks for what made a run's loss not finite.
fn not_finite(engine: &mut dyn Engine, corpus: &Corpus, run: usize, targets: &[&[u32]]) -> Result<NotFinite> {
    let classes = corpus.classes.len().max(1);
    let mut each = vec![&[][..]; targets.len()];
    for target in targets[run].chunks(1) {
        each[run] = target;
        let logits = &engine.predict_each(&each)?[run].logits;
        if logits.chunks(classes).flatten().any(|logit| !logit.is_finite()) {
            return Ok(NotFinite { utterance: Some(target[0]) });
        }
    }
    Ok(NotFinite { utterance: None })
}
