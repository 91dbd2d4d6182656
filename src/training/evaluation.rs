//! Loss and confusion of a set of targets under the model as it stands.

use super::interrupt::Interrupt;
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::model::Engine;

/// Over `targets`, all of them labelled; `None` when interrupted.
pub fn evaluate(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    targets: &[u32],
    interrupt: &Interrupt,
) -> Result<Option<Evaluation>> {
    let evaluation = engine.evaluate(targets, &|| interrupt.requested())?;
    match &evaluation {
        Some(Evaluation { loss, .. }) if !loss.is_finite() => Err(not_finite(engine, corpus, targets)?),
        _ => Ok(evaluation),
    }
}

/// The error of a loss that is not finite: names the first utterance for which the model's output is not.
fn not_finite(engine: &mut dyn Engine, corpus: &Corpus, targets: &[u32]) -> Result<Error> {
    let classes = corpus.classes.len().max(1);
    let mut utterance = String::new();
    for &target in targets {
        let logits = engine.predict(&[target])?.logits;
        if logits.chunks(classes).flatten().any(|logit| !logit.is_finite()) {
            utterance = format!(" for utterance {target}");
            break;
        }
    }
    Ok(Error::input(format!(
        "{}: the model's output{utterance} is not finite: its parameters, or the features it reads, are beyond what it \
         can compute with",
        corpus.source
    )))
}
