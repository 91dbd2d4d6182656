//! Loss and confusion of a set of targets under the model as it stands.

use super::interrupt::Interrupt;
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::model::Engine;

/// Of an engine of one run over `targets`, all of them labelled; `None` when interrupted.
pub fn evaluate(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    targets: &[u32],
    interrupt: &Interrupt,
) -> Result<Option<Evaluation>> {
    let evaluations = evaluate_each(engine, corpus, &[targets], interrupt)?;
    evaluations.and_then(|mut each| each.pop()).transpose()
}

/// Of each run over its own targets, all of them labelled; `None` when interrupted. A run whose output is not finite is an error
/// of its own.
pub fn evaluate_each(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    targets: &[&[u32]],
    interrupt: &Interrupt,
) -> Result<Option<Vec<Result<Evaluation>>>> {
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

/// The error of a loss that is not finite: names the first utterance for which the run's output is not.
fn not_finite(engine: &mut dyn Engine, corpus: &Corpus, run: usize, targets: &[&[u32]]) -> Result<Error> {
    let classes = corpus.classes.len().max(1);
    let mut utterance = String::new();
    let mut each = vec![&[][..]; targets.len()];
    for target in targets[run].chunks(1) {
        each[run] = target;
        let logits = &engine.predict_each(&each)?[run].logits;
        if logits.chunks(classes).flatten().any(|logit| !logit.is_finite()) {
            utterance = format!(" for utterance {}", target[0]);
            break;
        }
    }
    Ok(Error::input(format!(
        "{}: the model's output{utterance} is not finite: its parameters, or the features it reads, are beyond what it \
         can compute with",
        corpus.source
    )))
}
