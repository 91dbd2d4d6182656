//! The engine in float64 against the independent PyTorch model.

mod golden_files;

use coin::data::windows::Windows;
use coin::model::cpu::CpuEngine;
use coin::model::{Engine, Tensor, Values};
use golden_files::Golden;

/// Relative to the largest value of the tensor.
const TOLERANCE: f64 = 1e-9;

fn engine(golden: &Golden, threads: usize) -> CpuEngine<f64> {
    let width = golden.width();
    let corpus = golden.corpus();
    let (mean, deviation) = (golden.values("features.mean"), golden.values("features.deviation"));
    let standardised =
        corpus.features.iter().enumerate().map(|(i, x)| (x - mean[i % width]) / deviation[i % width]);
    let mut engine = CpuEngine::new(&golden.config, width, golden.classes, threads).unwrap();
    engine.set_data(standardised.collect(), Windows::new(&corpus, golden.config.history_length));
    engine.restore(&golden.state()).unwrap();
    engine
}

fn doubles(tensor: &Tensor) -> &[f64] {
    match &tensor.values {
        Values::F64(values) => values,
        Values::F32(_) => panic!("{} is f32", tensor.name),
    }
}

#[test]
fn objective_and_every_gradient() {
    for golden in Golden::all() {
        let mut engine = engine(&golden, 2);
        let objective = engine.objective(&golden.targets()).unwrap();
        golden.check("logits", &objective.logits, TOLERANCE);
        golden.check("logits_adversarial", &objective.logits_adversarial, TOLERANCE);
        golden.check("loss_clean", &[objective.loss.clean], TOLERANCE);
        golden.check("loss_adversarial", &[objective.loss.adversarial.unwrap()], TOLERANCE);
        golden.check("input_gradient_norm", &objective.input_gradient_norm, TOLERANCE);
        golden.check("perturbation", &engine.perturbation_by_sample().concat(), TOLERANCE);
        golden.check("input_gradient", &engine.feature_gradient(), TOLERANCE);
        for tensor in &objective.gradient {
            golden.check(&format!("gradient.{}", tensor.name), doubles(tensor), TOLERANCE);
        }
    }
}

#[test]
fn parameters_after_three_updates() {
    for golden in Golden::all() {
        let mut engine = engine(&golden, 2);
        for step in 0..3 {
            engine.train_step(&golden.targets(), step, golden.config.learning_rate).unwrap();
        }
        for tensor in &engine.state().unwrap().parameters {
            golden.check(&format!("adam.{}", tensor.name), doubles(tensor), TOLERANCE);
        }
    }
}
