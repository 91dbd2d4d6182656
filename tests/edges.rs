//! Batches at the edge of what an engine has room and range for.

use coin::data::Corpus;
use coin::data::standardise::Standardisation;
use coin::data::synthetic::{SyntheticOptions, generate};
use coin::model::Engine;
use coin::model::config::{AdversarialNorm, Config};
use coin::model::cpu::CpuEngine;

fn engine(config: &Config, corpus: &Corpus) -> CpuEngine<f32> {
    let mut engine = CpuEngine::new(config, corpus.width(), corpus.classes.len(), 2).unwrap();
    engine.set_standardisation(Standardisation::fit(corpus, 0..corpus.conversations.len()));
    engine.set_corpus(corpus).unwrap();
    engine
}

/// A shard of full windows in which one role never speaks leaves no room behind the other's rows.
#[test]
fn a_full_shard_of_monologues() {
    let lengths = SyntheticOptions { min_utterances: 40, max_utterances: 40, ..SyntheticOptions::small() };
    let mut corpus = generate(&lengths);
    let utterances = corpus.conversations.iter_mut().flat_map(|conversation| &mut conversation.utterances);
    utterances.for_each(|utterance| utterance.speaker = "A".into());
    let config = Config { embedding_size: 5, history_length: 3, stacks: 2, ..Config::default() };
    let mut engine = engine(&config, &corpus);
    let targets: Vec<u32> = (3..35).collect();
    let loss = engine.step_and_loss(&targets, 0, 0.001).unwrap();
    assert!(loss.clean.is_finite() && loss.adversarial.is_some_and(f64::is_finite), "{loss:?}");
    let predictions = engine.predict(&targets).unwrap();
    assert!(predictions.history.iter().all(|&length| length == 3));
}

/// A gradient may be so small that epsilon over its norm is beyond f32: then it counts as zero, and is never NaN.
#[test]
fn a_vanishing_gradient_gives_no_nan() {
    let corpus = generate(&SyntheticOptions::small());
    let of_first_class: Vec<u32> = corpus
        .conversations
        .iter()
        .flat_map(|conversation| &conversation.utterances)
        .zip(0..)
        .filter(|(utterance, _)| utterance.label == Some(0))
        .map(|(_, row)| row)
        .collect();
    for adversarial_norm in [AdversarialNorm::Sample, AdversarialNorm::Utterance, AdversarialNorm::Batch] {
        let config = Config { embedding_size: 8, stacks: 2, adversarial_norm, ..Config::default() };
        let mut engine = engine(&config, &corpus);
        let bias = engine.layout().specs.iter().find(|spec| spec.name == "classifier.bias").unwrap().range();
        // By how far the right class leads: its gradient falls through the smallest normal numbers of f32 to zero.
        for lead in [60.0, 80.0, 86.0, 88.0, 92.0, 96.0, 100.0, 104.0, 110.0] {
            engine.parameters_mut()[bias.start] = lead;
            let objective = engine.objective(&of_first_class).unwrap();
            let loss = objective.loss.adversarial.unwrap();
            assert!(loss.is_finite(), "{adversarial_norm}, {lead}: the loss is {loss}");
            let broken = objective.gradient.iter().find(|tensor| !tensor.values.all_finite());
            assert!(broken.is_none(), "{adversarial_norm}, {lead}: {} is not finite", broken.unwrap().name);
        }
    }
}
