//! What the engine promises of its numbers: the perturbation is the plain one, and a sample's numbers depend on
//! nothing beside it (the batch, its order, the threads, the processor).

mod talk;

use std::collections::BTreeMap;

use coin::data::Corpus;
use coin::data::batch::Batch;
use coin::data::windows::Windows;
use coin::device::cpu::simd::{InstructionSet, Real};
use coin::model::config::{AdversarialNorm, Config, StackInput};
use coin::model::cpu::CpuEngine;
use coin::model::{Engine, Objective, Predictions, State, Step, Tensor, Values};
use coin::ops::cpu::Worker;
use coin::ops::dropout::{Dropout, Mask, Pass, Site};
use coin::ops::parameters::{Layout, Sizes};
use coin::ops::part::Part;
use coin::random::{Stream, philox4x32, purpose};

fn config() -> Config {
    Config { embedding_size: 6, stacks: 2, history_length: 5, batch_size: 128, ..Config::default() }
}

/// Three conversations' worth of every window length up to a shard and more of them: 134 utterances.
fn talk() -> Corpus {
    let lengths = [1, 2, 3, 5, 8, 13, 21, 1, 2, 9, 17, 30, 4, 6, 12];
    talk::corpus(1, &lengths, 3, 7, 5)
}

/// An engine on `corpus` with parameters twice as large as fresh ones, so that the model is no linear one.
fn engine<R: Real>(config: &Config, corpus: &Corpus, threads: usize) -> CpuEngine<R> {
    let mut engine = CpuEngine::new(config, corpus.width(), corpus.classes.len(), threads).unwrap();
    let features = corpus.features.iter().map(|&x| R::from_f64(x)).collect();
    engine.set_data(features, Windows::new(corpus, config.history_length));
    for value in engine.parameters_mut() {
        // Rounded to f32 in either precision, so that both have the same model.
        *value = R::from_f64(f64::from((2.0 * value.to_f64()) as f32));
    }
    engine
}

/// The first `count` utterances of a random order.
fn draw(seed: u64, corpus: &Corpus, count: usize) -> Vec<u32> {
    let mut targets: Vec<u32> = (0..corpus.len() as u32).collect();
    Stream::new(seed, purpose::TEST).shuffle(&mut targets);
    targets.truncate(count);
    assert_eq!(targets.len(), count);
    targets
}

fn values(tensor: &Tensor) -> Vec<f64> {
    match &tensor.values {
        Values::F32(values) => values.iter().map(|&x| f64::from(x)).collect(),
        Values::F64(values) => values.clone(),
    }
}

/// Bit for bit: a NaN equals itself and zeros differ by their sign.
fn bits<'a>(values: impl IntoIterator<Item = &'a f64>) -> Vec<u64> {
    values.into_iter().map(|x| x.to_bits()).collect()
}

fn state_bits(state: &State) -> Vec<u64> {
    let tensors = [&state.parameters, &state.first_moment, &state.second_moment];
    tensors.into_iter().flatten().flat_map(|tensor| bits(&values(tensor))).collect()
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    assert!(!expected.is_empty(), "{what}: nothing to compare");
    let scale = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= tolerance * scale, "{what} [{i}]: {found:e}, expected {expected:e}");
    }
}

/// A sample's features, `[n + 1, D]`: its window, oldest first, then the target.
fn sample_features(corpus: &Corpus, windows: &Windows, target: u32) -> Vec<f64> {
    let width = corpus.width();
    let window = windows.window(target);
    corpus.features[window.start as usize * width..(window.end as usize + 1) * width].to_vec()
}

/// The sample as a conversation of its own, on these features.
fn sample_corpus(corpus: &Corpus, windows: &Windows, target: u32, features: Vec<f64>) -> Corpus {
    let conversation =
        corpus.conversations.iter().rfind(|conversation| conversation.first <= target as usize).unwrap();
    let mut alone = conversation.clone();
    let from = windows.window(target).start as usize - conversation.first;
    alone.utterances = conversation.utterances[from..=target as usize - conversation.first].to_vec();
    alone.first = 0;
    Corpus { conversations: vec![alone], features, ..corpus.clone() }
}

mod gram_identity {
    use super::*;

    const NORMS: [AdversarialNorm; 3] =
        [AdversarialNorm::Sample, AdversarialNorm::Utterance, AdversarialNorm::Batch];

    /// The perturbation from its definition: every sample alone, the gradient at its features D-wide, its norm taken
    /// there.
    fn plain_perturbation(config: &Config, corpus: &Corpus, targets: &[u32]) -> Vec<Vec<f64>> {
        let windows = Windows::new(corpus, config.history_length);
        let clean = Config { adversarial: false, ..config.clone() };
        let mut gradients: Vec<Vec<f64>> = targets
            .iter()
            .map(|&target| {
                let features = sample_features(corpus, &windows, target);
                let alone = sample_corpus(corpus, &windows, target, features);
                let mut engine = engine::<f64>(&clean, &alone, 1);
                engine.objective(&[alone.len() as u32 - 1]).unwrap();
                engine.feature_gradient()
            })
            .collect();
        let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let all = length(&gradients.concat());
        for gradient in &mut gradients {
            let own = length(gradient);
            for row in gradient.chunks_exact_mut(corpus.width()) {
                let norm = match config.adversarial_norm {
                    AdversarialNorm::Sample => own,
                    AdversarialNorm::Utterance => length(row),
                    AdversarialNorm::Batch => all,
                };
                row.iter_mut().for_each(|x| *x *= config.epsilon / norm);
            }
        }
        gradients
    }

    #[test]
    fn perturbation_and_logits_are_the_plain_ones() {
        let corpus = talk();
        for norm in NORMS {
            for stack_input in [StackInput::Attention, StackInput::Gru] {
                let config = Config { adversarial_norm: norm, stack_input, epsilon: 1.5, ..config() };
                let windows = Windows::new(&corpus, config.history_length);
                let targets = draw(2, &corpus, 70);
                let mut engine = engine::<f64>(&config, &corpus, 2);
                let objective = engine.objective(&targets).unwrap();
                let perturbation = engine.perturbation_by_sample();
                let plain = plain_perturbation(&config, &corpus, &targets);
                let classes = corpus.classes.len();
                for (i, &target) in targets.iter().enumerate() {
                    assert_close(&perturbation[i], &plain[i], 1e-12, &format!("perturbation, {norm}"));
                    // The perturbed features as a conversation of its own, which knows of no perturbation.
                    let mut features = sample_features(&corpus, &windows, target);
                    features.iter_mut().zip(&perturbation[i]).for_each(|(u, x)| *u += x);
                    let alone = sample_corpus(&corpus, &windows, target, features);
                    let mut other = super::engine::<f64>(&config, &alone, 1);
                    let logits = other.predict(&[alone.len() as u32 - 1]).unwrap().logits;
                    let found = &objective.logits_adversarial[i * classes..][..classes];
                    assert_close(found, &logits, 1e-12, &format!("logits, {norm}"));
                }
            }
        }
    }

    #[test]
    fn losses_are_the_plain_ones() {
        let corpus = talk();
        for norm in NORMS {
            for dropout_keep in [1.0, 0.6] {
                let config = Config { adversarial_norm: norm, dropout_keep, ..config() };
                let mut engine = engine::<f64>(&config, &corpus, 2);
                let (targets, mask) = (draw(3, &corpus, 70), engine.mask(4));
                let found = engine.differentiate(&targets, mask);
                let perturbation = engine.feature_perturbation();
                let plain = engine.plain_loss(&targets, mask, &perturbation);
                assert_close(&[found.clean], &[plain.clean], 1e-12, "clean loss");
                let (found, plain) = (found.adversarial.unwrap(), plain.adversarial.unwrap());
                assert_close(&[found], &[plain], 1e-12, "adversarial loss");
                assert_ne!(found, engine.differentiate(&targets, mask).clean);
            }
        }
    }

    /// The norms that are reported are those of the mean loss's gradient, D-wide.
    #[test]
    fn norms_are_the_plain_ones() {
        let (corpus, config) = (talk(), config());
        let windows = Windows::new(&corpus, config.history_length);
        let targets = draw(4, &corpus, 40);
        let found = engine::<f64>(&config, &corpus, 2).objective(&targets).unwrap().input_gradient_norm;
        let clean = Config { adversarial: false, ..config };
        let plain: Vec<f64> = targets
            .iter()
            .map(|&target| {
                let features = sample_features(&corpus, &windows, target);
                let alone = sample_corpus(&corpus, &windows, target, features);
                let mut engine = engine::<f64>(&clean, &alone, 1);
                engine.objective(&[alone.len() as u32 - 1]).unwrap();
                let gradient = engine.feature_gradient();
                gradient.iter().map(|x| x * x).sum::<f64>().sqrt() / targets.len() as f64
            })
            .collect();
        for (found, plain) in found.iter().zip(&plain) {
            assert_close(&[*found], &[*plain], 1e-12, "norm");
        }
    }
}

mod independence {
    use super::*;

    fn objective_bits(objective: &Objective, order: &[usize]) -> Vec<u64> {
        let classes = objective.logits.len() / order.len();
        let mut all = vec![objective.loss.clean, objective.loss.adversarial.unwrap()];
        for &i in order {
            all.extend(&objective.logits[i * classes..][..classes]);
            all.extend(&objective.logits_adversarial[i * classes..][..classes]);
            all.push(objective.input_gradient_norm[i]);
        }
        all.extend(objective.gradient.iter().flat_map(values));
        bits(&all)
    }

    fn the_order_of_the_targets<R: Real>() {
        let (corpus, config) = (talk(), config());
        let targets = draw(5, &corpus, 100);
        let mut order: Vec<usize> = (0..targets.len()).collect();
        Stream::new(6, purpose::TEST).shuffle(&mut order);
        let shuffled: Vec<u32> = order.iter().map(|&i| targets[i]).collect();
        // Where each of the targets went.
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
        let straight: Vec<usize> = (0..targets.len()).collect();

        let (mut one, mut other) = (engine::<R>(&config, &corpus, 2), engine::<R>(&config, &corpus, 2));
        let expected = objective_bits(&one.objective(&targets).unwrap(), &straight);
        assert!(objective_bits(&other.objective(&shuffled).unwrap(), &back) == expected, "{}", R::NAME);
        for step in 0..3 {
            let (loss, same) = (
                one.step_and_loss(&targets, step, 1e-3).unwrap(),
                other.step_and_loss(&shuffled, step, 1e-3).unwrap(),
            );
            assert_eq!(loss, same);
        }
        assert!(state_bits(&one.state().unwrap()) == state_bits(&other.state().unwrap()), "{}", R::NAME);
    }

    #[test]
    fn the_order_of_the_targets_changes_nothing() {
        the_order_of_the_targets::<f32>();
        the_order_of_the_targets::<f64>();
    }

    fn the_batch<R: Real>() {
        let (corpus, config) = (talk(), config());
        let targets = draw(7, &corpus, 100);
        let mut engine = engine::<R>(&config, &corpus, 2);
        let Predictions { logits, attention, history } = engine.predict(&targets).unwrap();
        let classes = corpus.classes.len();
        let mut first = 0;
        for (i, &target) in targets.iter().enumerate() {
            let alone = engine.predict(&[target]).unwrap();
            assert_eq!(bits(&alone.logits), bits(&logits[i * classes..][..classes]), "{} {target}", R::NAME);
            assert_eq!(alone.history, [history[i]]);
            assert_eq!(bits(&alone.attention), bits(&attention[first..first + history[i]]));
            if history[i] > 0 {
                assert!((alone.attention.iter().sum::<f64>() - 1.0).abs() < 1e-6);
            }
            first += history[i];
        }
        assert_eq!(first, attention.len());

        // With dropout too: a mask belongs to its target. The mean of two halves is exact.
        let mask = engine.mask(3);
        for pair in targets.chunks_exact(2).take(20) {
            let mut loss = |targets: &[u32]| engine.differentiate(targets, mask).clean;
            let (together, apart) = (loss(pair), (loss(&pair[..1]) + loss(&pair[1..])) / 2.0);
            assert_eq!(together.to_bits(), apart.to_bits(), "{} {pair:?}", R::NAME);
        }
        let losses: Vec<f64> =
            targets.iter().map(|&target| engine.differentiate(&[target], mask).clean).collect();
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        assert_close(&[engine.differentiate(&targets, mask).clean], &[mean], 1e-14, "mean loss");
    }

    #[test]
    fn a_sample_is_the_same_alone_and_in_a_batch() {
        the_batch::<f32>();
        the_batch::<f64>();
    }

    /// Several updates with dropout and the adversarial pass, over batches of several shards and of one.
    fn train<R: Real>(config: &Config, corpus: &Corpus, threads: usize) -> Vec<u64> {
        let mut engine = engine::<R>(config, corpus, threads);
        let mut all = Vec::new();
        for (step, count) in [128, 128, 70, 33, 20].into_iter().enumerate() {
            let targets = draw(10 + step as u64, corpus, count);
            let loss = engine.step_and_loss(&targets, step as u64, 1e-2).unwrap();
            all.extend([loss.clean.to_bits(), loss.adversarial.unwrap().to_bits()]);
        }
        let state = engine.state().unwrap();
        assert_eq!(state.updates, 5);
        all.extend(state_bits(&state));
        all
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let corpus = talk();
        for norm in [AdversarialNorm::Sample, AdversarialNorm::Batch] {
            let config = Config { adversarial_norm: norm, dropout_keep: 0.7, ..config() };
            let single = train::<f32>(&config, &corpus, 1);
            let double = train::<f64>(&config, &corpus, 1);
            // The second run with two threads is the run-to-run comparison.
            for threads in [1, 2, 2, 3, 5, 8] {
                assert!(train::<f32>(&config, &corpus, threads) == single, "f32, {threads} threads, {norm}");
                assert!(train::<f64>(&config, &corpus, threads) == double, "f64, {threads} threads, {norm}");
            }
        }
    }
}

mod precision {
    use super::*;

    #[test]
    fn single_precision_is_close_to_double() {
        let corpus = talk();
        for norm in [AdversarialNorm::Sample, AdversarialNorm::Utterance, AdversarialNorm::Batch] {
            let config = Config { adversarial_norm: norm, ..config() };
            let targets = draw(8, &corpus, 100);
            let single = engine::<f32>(&config, &corpus, 2).objective(&targets).unwrap();
            let double = engine::<f64>(&config, &corpus, 2).objective(&targets).unwrap();
            assert_close(&[single.loss.clean], &[double.loss.clean], 1e-5, "clean loss");
            let adversarial = |objective: &Objective| [objective.loss.adversarial.unwrap()];
            assert_close(&adversarial(&single), &adversarial(&double), 1e-5, "adversarial loss");
            assert_close(&single.logits, &double.logits, 1e-5, "logits");
            for (single, double) in single.gradient.iter().zip(&double.gradient) {
                assert_eq!(single.name, double.name);
                assert!(matches!((&single.values, &double.values), (Values::F32(_), Values::F64(_))));
                assert_close(&values(single), &values(double), 1e-3, &single.name);
            }
        }
    }
}

/// Every instruction set that this processor has computes the same model.
mod instruction_sets {
    use super::*;

    /// Set for the process that computes with one set: where it leaves its numbers.
    const RESULT: &str = "COIN_TEST_RESULT";

    /// Losses, logits and gradients of an objective, and a few updates with dropout, by name.
    fn numbers<R: Real>() -> BTreeMap<String, Vec<f64>> {
        let corpus = talk();
        let mut numbers = BTreeMap::new();
        let mut put = |name: String, values: Vec<f64>| numbers.insert(format!("{} {name}", R::NAME), values);
        for d in [6, 19] {
            let config = Config { embedding_size: d, dropout_keep: 0.7, ..config() };
            let mut engine = engine::<R>(&config, &corpus, 2);
            let targets = draw(9, &corpus, 60);
            let objective = engine.objective(&targets).unwrap();
            put(format!("{d} losses"), vec![objective.loss.clean, objective.loss.adversarial.unwrap()]);
            put(format!("{d} logits"), [objective.logits, objective.logits_adversarial].concat());
            for tensor in &objective.gradient {
                put(format!("{d} gradient of {}", tensor.name), values(tensor));
            }
            let step = |step| engine.step_and_loss(&targets, step, 1e-3).unwrap().clean;
            put(format!("{d} losses of updates"), (0..3).map(step).collect());
        }
        numbers
    }

    #[test]
    fn every_instruction_set_computes_the_same() {
        if let Some(path) = std::env::var_os(RESULT) {
            let numbers = [numbers::<f32>(), numbers::<f64>()];
            let set = format!("{:?}", InstructionSet::current());
            std::fs::write(path, serde_json::to_vec(&(set, numbers)).unwrap()).unwrap();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let compute = |set: &str| {
            let path = folder.path().join(set);
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "instruction_sets::every_instruction_set_computes_the_same"])
                .env(RESULT, &path)
                .env("COIN_INSTRUCTION_SET", set)
                .stdout(std::process::Stdio::null())
                .status();
            assert!(status.unwrap().success(), "{set}");
            let text = std::fs::read(&path).unwrap();
            serde_json::from_slice::<(String, [BTreeMap<String, Vec<f64>>; 2])>(&text).unwrap()
        };
        let (best, expected) = compute("best");
        let mut ran = vec![best];
        for set in ["avx2", "portable"] {
            let (name, found) = compute(set);
            if name.to_lowercase() != set {
                println!("this processor has no {set}");
                continue;
            }
            for ((found, expected), tolerance) in found.iter().zip(&expected).zip([1e-4, 1e-12]) {
                assert!(found.keys().eq(expected.keys()) && found.len() > 100);
                for (what, expected) in expected {
                    assert_close(&found[what], expected, tolerance, &format!("{set}: {what}"));
                }
            }
            ran.push(name);
        }
        println!("compared: {}", ran.join(", "));
        assert!(ran.iter().any(|name| name == "Portable"), "every processor has the portable set");
    }
}

mod dropout {
    use super::*;

    const KEEP: f64 = 0.7;

    fn mask(step: u64, pass: Pass) -> Mask {
        Mask { seed: 11, step, pass, keep: KEEP }
    }

    /// A worker and the batch of `targets`, of which no shard is longer than its scratch.
    fn place<R: Real>(d: usize, targets: &[u32]) -> (Worker<R>, Batch) {
        let windows = Windows::new(&talk(), 20);
        let mut batch = Batch::default();
        batch.fill(&windows, targets);
        let layout = Layout::new(Sizes { features: 7, classes: 5, d, stacks: 1 });
        (Worker::new(layout.into(), 32, 20), batch)
    }

    /// The mask of one target, `[n or 1, 2d]`, drawn in a batch of `targets`.
    fn draw_mask<R: Real>(d: usize, targets: &[u32], target: u32, mask: &Mask, site: Site) -> Vec<f64> {
        let (mut worker, batch) = place::<R>(d, targets);
        for shard in batch.shards() {
            let Some(s) = shard.target.iter().position(|&one| one == target) else { continue };
            let (all, rows) = match site {
                Site::Classifier => (shard.samples(), s..s + 1),
                _ => (shard.rows(), shard.range(s)),
            };
            let ones = vec![R::ONE; all * 2 * d];
            let mut values = ones.clone();
            worker.dropout(shard, mask, site, &mut values);
            let mut copied = vec![R::ZERO; ones.len()];
            worker.dropout_copy(shard, mask, site, &ones, &mut copied);
            assert!(values == copied);
            return values[rows.start * 2 * d..rows.end * 2 * d].iter().map(|x| x.to_f64()).collect();
        }
        panic!("{target} is in no shard");
    }

    /// Utterances with 20 before them, in K = 20.
    fn long() -> Vec<u32> {
        let windows = Windows::new(&talk(), 20);
        (0..windows.len() as u32).filter(|&target| windows.window(target).len() == 20).collect()
    }

    #[test]
    fn the_mask_is_the_documented_one() {
        let target = long()[0];
        // 2d not a whole number of blocks; more than one group of blocks; exactly one.
        for d in [1usize, 3, 5, 16, 32, 33, 70] {
            for (site, word) in [(Site::Classifier, 0), (Site::Interaction, 1), (Site::Context(2), 4)] {
                for (pass, top) in [(Pass::Clean, 0), (Pass::Adversarial, 1 << 31)] {
                    let mask = mask(5, pass);
                    let blocks = (2 * d).div_ceil(4);
                    let expected = |i: usize| {
                        let (row, column) = (i / (2 * d), i % (2 * d));
                        let counter = [
                            (row * blocks + column / 4) as u32,
                            target,
                            5,
                            purpose::DROPOUT | word << 8 | top,
                        ];
                        let word = philox4x32(counter, [11, 0])[column % 4];
                        if f64::from(word) < KEEP * 4_294_967_296.0 { 1.0 / KEEP } else { 0.0 }
                    };
                    let found = draw_mask::<f64>(d, &[target], target, &mask, site);
                    assert_eq!(found.len(), 2 * d * if site == Site::Classifier { 1 } else { 20 });
                    for (i, &x) in found.iter().enumerate() {
                        assert_eq!(x, expected(i), "d = {d}, {site:?}, {pass:?}, element {i}");
                    }
                    let single = draw_mask::<f32>(d, &[target], target, &mask, site);
                    assert!(found.iter().zip(&single).all(|(a, b)| (*a == 0.0) == (*b == 0.0)));
                }
            }
        }
    }

    #[test]
    fn a_mask_does_not_depend_on_the_batch() {
        let corpus = talk();
        let batch = draw(12, &corpus, 100);
        for &target in
            batch.iter().take(10).chain(batch.iter().filter(|target| long().contains(target)).take(2))
        {
            for site in [Site::Classifier, Site::Interaction, Site::Context(1)] {
                let mask = mask(1, Pass::Adversarial);
                let alone = draw_mask::<f32>(5, &[target], target, &mask, site);
                assert!(draw_mask::<f32>(5, &batch, target, &mask, site) == alone, "{target} {site:?}");
            }
        }
    }

    #[test]
    fn the_rate_is_the_asked_one() {
        for keep in [0.1, 0.3, 0.7, 0.999] {
            let mask = Mask { keep, ..mask(2, Pass::Clean) };
            let target = long()[0];
            let drawn = draw_mask::<f64>(400, &[target], target, &mask, Site::Interaction);
            let count = drawn.len() as f64;
            let kept = drawn.iter().filter(|&&x| x != 0.0).count() as f64;
            assert!(drawn.iter().all(|&x| x == 0.0 || x == 1.0 / keep));
            let deviation = (count * keep * (1.0 - keep)).sqrt();
            assert!((kept - count * keep).abs() < 5.0 * deviation, "{kept} of {count}, {keep}");
            // The mean is left as it is.
            let mean = drawn.iter().sum::<f64>() / count;
            assert!((mean - 1.0).abs() < 5.0 * deviation / count / keep, "mean {mean}");
        }
        let whole = Mask { keep: 1.0, ..mask(2, Pass::Clean) };
        let target = long()[0];
        assert!(draw_mask::<f64>(5, &[target], target, &whole, Site::Interaction).iter().all(|&x| x == 1.0));
    }

    /// Masks of two places agree as often as chance has it, whatever tells them apart.
    #[test]
    fn masks_are_independent() {
        let [target, other, ..] = long()[..] else { panic!("two long windows") };
        let base = (mask(2, Pass::Clean), Site::Context(0), target);
        let others = [
            ("pass", (mask(2, Pass::Adversarial), base.1, target)),
            ("step", (mask(3, Pass::Clean), base.1, target)),
            ("seed", (Mask { seed: 12, ..base.0 }, base.1, target)),
            ("high word of the seed", (Mask { seed: 11 | 1 << 32, ..base.0 }, base.1, target)),
            ("site", (base.0, Site::Interaction, target)),
            ("stack", (base.0, Site::Context(1), target)),
            ("target", (base.0, base.1, other)),
        ];
        let draw = |(mask, site, target): (Mask, Site, u32)| {
            draw_mask::<f32>(100, &[target], target, &mask, site)
                .iter()
                .map(|&x| x != 0.0)
                .collect::<Vec<_>>()
        };
        let chance = KEEP * KEEP + (1.0 - KEEP) * (1.0 - KEEP);
        let check = |what: &str, one: &[bool], other: &[bool]| {
            assert_eq!(one.len(), other.len());
            let count = one.len() as f64;
            let agree = one.iter().zip(other).filter(|(a, b)| a == b).count() as f64;
            let deviation = (count * chance * (1.0 - chance)).sqrt();
            assert!((agree - count * chance).abs() < 5.0 * deviation, "{what}: {agree} of {count} agree");
        };
        let one = draw(base);
        assert_eq!(one, draw(base));
        for (what, other) in others {
            check(what, &one, &draw(other));
        }
        // Rows of one mask, and columns.
        let rows: Vec<&[bool]> = one.chunks(200).collect();
        check("rows", &rows[..19].concat(), &rows[1..].concat());
        check("columns", &one[..one.len() - 1], &one[1..]);
    }

    /// The engine's own masks: a step differs from the next, and the two passes from each other.
    #[test]
    fn the_engine_draws_a_mask_for_every_step_and_pass() {
        let (corpus, config) = (talk(), Config { epsilon: 0.0, dropout_keep: KEEP, ..config() });
        let mut engine = engine::<f64>(&config, &corpus, 1);
        let targets = draw(13, &corpus, 40);
        let mut losses = Vec::new();
        for step in 0..4 {
            let mask = engine.mask(step);
            let loss = engine.differentiate(&targets, mask);
            // Without a perturbation nothing but the masks tells the passes apart.
            losses.extend([loss.clean, loss.adversarial.unwrap()]);
            assert_eq!(engine.differentiate(&targets, mask), loss, "a step's masks can be drawn again");
        }
        losses.sort_by(f64::total_cmp);
        assert!(losses.windows(2).all(|pair| pair[0] < pair[1]), "{losses:?}");
        // With dropout off both passes are one.
        let loss = engine.objective(&targets).unwrap().loss;
        assert_eq!(Some(loss.clean), loss.adversarial);
    }
}

mod edges {
    use super::*;

    fn step<R: Real>(config: &Config, corpus: &Corpus, targets: &[u32]) {
        let what = format!("{}: {targets:?} of {} utterances", R::NAME, corpus.len());
        let mut engine = engine::<R>(config, corpus, 2);
        let finite = |values: &[f64]| values.iter().all(|x| x.is_finite());
        let objective = engine.objective(targets).unwrap();
        assert_eq!(objective.logits.len(), targets.len() * corpus.classes.len(), "{what}");
        assert!(finite(&objective.logits) && finite(&objective.logits_adversarial), "{what}");
        assert!(finite(&objective.input_gradient_norm), "{what}");
        for tensor in &objective.gradient {
            assert!(finite(&values(tensor)), "{what}: {}", tensor.name);
        }
        assert_eq!(engine.predict(targets).unwrap().logits, objective.logits, "{what}");
        for number in 0..3 {
            let loss = engine.step_and_loss(targets, number, 1e-3).unwrap();
            assert!(loss.clean.is_finite() && loss.adversarial.is_none_or(f64::is_finite), "{what}");
        }
        assert!(engine.state().unwrap().parameters.iter().all(|tensor| finite(&values(tensor))), "{what}");
    }

    fn both(config: &Config, corpus: &Corpus, targets: &[u32]) {
        step::<f32>(config, corpus, targets);
        step::<f64>(config, corpus, targets);
    }

    #[test]
    fn no_history_at_all() {
        let corpus = talk();
        // First utterances of conversations, in a corpus that has longer ones.
        both(&config(), &corpus, &[0, 1, 3, 6]);
        both(&config(), &corpus, &[0]);
        // No conversation has more than one utterance.
        let corpus = talk::corpus(20, &[1; 40], 2, 7, 5);
        both(&config(), &corpus, &[3]);
        both(&config(), &corpus, &(0..40).collect::<Vec<_>>());
        let predictions = engine::<f32>(&config(), &corpus, 1).predict(&[1, 2]).unwrap();
        assert_eq!((predictions.attention.len(), &predictions.history[..]), (0, &[0, 0][..]));
    }

    /// With an empty window c = 0 in every stack: q^L is tanh(... tanh(q^0)), which can be said in plain code.
    #[test]
    fn without_history_the_target_alone_decides() {
        let (corpus, config) = (talk(), config());
        let mut engine = engine::<f64>(&config, &corpus, 1);
        let layout = engine.layout().clone();
        let parameters = engine.parameters_mut().to_vec();
        let tensor = |index: usize| &parameters[layout.specs[index].range()];
        let linear = |weight: usize, bias: usize, x: &[f64]| -> Vec<f64> {
            let rows = tensor(weight).chunks_exact(x.len()).zip(tensor(bias));
            rows.map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias).collect()
        };
        let place = layout.target_embedding;
        let mut q = linear(place.weight, place.bias, &corpus.features[..corpus.width()]);
        for _ in 0..config.stacks {
            q.iter_mut().for_each(|x| *x = x.tanh());
        }
        let expected = linear(layout.classifier.weight, layout.classifier.bias, &q);
        assert_close(&engine.predict(&[0]).unwrap().logits, &expected, 1e-13, "logits");
    }

    /// Whole shards of full windows in which one role never speaks: its rows would begin where the buffers end.
    #[test]
    fn one_role_silent_in_every_window() {
        let corpus = talk::corpus(26, &[50], 1, 7, 5);
        let targets: Vec<u32> = (5..50).collect();
        for stack_input in [StackInput::Attention, StackInput::Gru] {
            both(&Config { stack_input, ..config() }, &corpus, &targets);
        }
        let mut corpus = talk::corpus(27, &[6; 40], 1, 7, 5);
        for conversation in &mut corpus.conversations {
            conversation.utterances[5].speaker = "somebody else".to_string();
        }
        both(&config(), &corpus, &(0..40).map(|i| i * 6 + 5).collect::<Vec<_>>());
    }

    #[test]
    fn smallest_and_widest_sizes() {
        let corpus = |width, classes| talk::corpus(21, &[1, 2, 7, 40, 3], 2, width, classes);
        let all = |corpus: &Corpus| (0..corpus.len() as u32).collect::<Vec<_>>();
        for classes in [2, 64, 300] {
            let corpus = corpus(3, classes);
            let config =
                Config { embedding_size: 1, history_length: 1, stacks: 1, batch_size: 8, ..config() };
            both(&config, &corpus, &all(&corpus));
            both(&config, &corpus, &[9]);
            both(&Config { history_length: 1000, stacks: 6, ..config }, &corpus, &all(&corpus));
        }
        let corpus = corpus(1, 2);
        both(&config(), &corpus, &all(&corpus));
    }

    #[test]
    fn a_batch_of_one() {
        let corpus = talk();
        both(&Config { batch_size: 1, ..config() }, &corpus, &[50]);
        both(&Config { adversarial: false, interaction: false, ..config() }, &corpus, &[50]);
    }

    /// More than the configured batch size is laid out all the same.
    #[test]
    fn a_batch_larger_than_the_configured() {
        let corpus = talk();
        both(&Config { batch_size: 2, ..config() }, &corpus, &draw(22, &corpus, 120));
    }

    #[test]
    fn unlabelled_targets_are_predicted_and_not_learnt_from() {
        let labelled = talk();
        let mut corpus = labelled.clone();
        for conversation in &mut corpus.conversations {
            conversation.utterances.iter_mut().for_each(|utterance| utterance.label = None);
        }
        let targets = draw(23, &corpus, 70);
        let mut engine = engine::<f64>(&config(), &corpus, 2);
        let expected = super::engine::<f64>(&config(), &labelled, 2).predict(&targets).unwrap();
        assert_eq!(engine.predict(&targets).unwrap().logits, expected.logits);
        let before = state_bits(&engine.state().unwrap());
        for error in [
            engine.train_step(&targets[..1], 0, 1e-3).unwrap_err(),
            engine.objective(&targets[..1]).unwrap_err(),
        ] {
            assert_eq!(error.exit_code(), 2);
            assert_eq!(error.to_string(), format!("target {} has no label to learn from", targets[0]));
        }
        assert_eq!(state_bits(&engine.state().unwrap()), before);
    }

    #[test]
    fn targets_that_are_none_are_refused() {
        let corpus = talk();
        let mut engine = engine::<f32>(&config(), &corpus, 1);
        let utterances = corpus.len() as u32;
        let last = utterances - 1;
        for wrong in [utterances, u32::MAX] {
            let targets = [0, wrong];
            let expected = format!("target {wrong} is past the last utterance, {last}");
            assert_eq!(engine.predict(&targets).unwrap_err().to_string(), expected);
            assert_eq!(engine.objective(&targets).unwrap_err().to_string(), expected);
            assert_eq!(engine.train_step(&targets, 0, 1e-3).unwrap_err().to_string(), expected);
        }
        assert!(engine.predict(&[last]).is_ok());
        let error = engine.train_step(&[], 0, 1e-3).unwrap_err();
        assert_eq!(error.to_string(), "the batch is empty: it needs at least one target utterance");
        // Nothing was updated.
        assert_eq!(engine.state().unwrap().updates, 0);
        // An engine without conversations has no targets at all.
        let mut bare = CpuEngine::<f32>::new(&config(), 7, 5, 1).unwrap();
        assert!(bare.predict(&[0]).unwrap_err().to_string().contains("no utterances"));
    }

    /// A target given twice counts twice.
    #[test]
    fn a_target_given_twice_is_two_samples() {
        let corpus = talk();
        let mut engine = engine::<f64>(&Config { dropout_keep: 1.0, ..config() }, &corpus, 2);
        let (a, b) = (50, 60);
        let classes = corpus.classes.len();
        let twice = engine.objective(&[a, b, a]).unwrap();
        assert_eq!(bits(&twice.logits[..classes]), bits(&twice.logits[2 * classes..]));
        assert_eq!(twice.input_gradient_norm[0].to_bits(), twice.input_gradient_norm[2].to_bits());
        let (one, other) = (engine.objective(&[a]).unwrap(), engine.objective(&[b]).unwrap());
        assert_close(&[twice.loss.clean], &[(2.0 * one.loss.clean + other.loss.clean) / 3.0], 1e-14, "loss");
        for ((twice, one), other) in twice.gradient.iter().zip(&one.gradient).zip(&other.gradient) {
            let pairs = values(one).into_iter().zip(values(other));
            let expected: Vec<f64> = pairs.map(|(one, other)| (2.0 * one + other) / 3.0).collect();
            assert_close(&values(twice), &expected, 1e-12, &twice.name);
        }
    }

    /// Conversations may be replaced by longer, shorter and more ones; the numbers are those of a fresh engine.
    #[test]
    fn another_corpus_takes_the_first_ones_place() {
        let first = talk::corpus(24, &[4, 6], 2, 7, 5);
        let mut engine = engine::<f64>(&config(), &first, 2);
        engine.objective(&draw(1, &first, 8)).unwrap();
        let lengths = [(vec![30; 9], 3), (vec![1, 2], 2), (vec![2; 200], 2), (vec![90, 3], 2)];
        for (number, (lengths, speakers)) in lengths.into_iter().enumerate() {
            let corpus = talk::corpus(25 + number as u64, &lengths, speakers, 7, 5);
            let targets = draw(2, &corpus, corpus.len().min(200));
            engine.set_corpus(&corpus).unwrap();
            let found = engine.objective(&targets).unwrap();
            let mut fresh = super::engine::<f64>(&config(), &corpus, 2);
            let expected = fresh.objective(&targets).unwrap();
            assert_eq!((&found.logits, found.loss), (&expected.logits, expected.loss));
            assert_eq!(found.gradient, expected.gradient);
        }
        let wider = talk::corpus(30, &[3], 2, 8, 5);
        let error = engine.set_corpus(&wider).unwrap_err().to_string();
        assert_eq!(error, "random: its features are 8 wide; the model reads 7");
    }
}

/// Timing a step changes nothing of it, and its parts are all of it.
#[test]
fn a_timed_step_is_a_step() {
    let corpus = talk();
    for (threads, adversarial, stack_input) in
        [(1, true, StackInput::Attention), (3, false, StackInput::Gru), (2, true, StackInput::Gru)]
    {
        let config = Config { adversarial, stack_input, ..config() };
        let (mut plain, mut timed) =
            (engine::<f32>(&config, &corpus, threads), engine::<f32>(&config, &corpus, threads));
        let batches: Vec<Vec<u32>> = (0..3).map(|seed| draw(seed, &corpus, 100)).collect();
        for (step, batch) in batches.iter().enumerate() {
            plain.train_step(batch, step as u64, 1e-3).unwrap();
        }
        assert!(timed.time_step(&batches[0], 0, 1e-3).unwrap() > 0.0);
        let started = std::time::Instant::now();
        let step = Step { targets: &batches[1], number: 1, learning_rate: 1e-3 };
        let pieces = timed.profile_steps(&[Some(step)]).unwrap();
        let whole = started.elapsed().as_secs_f64();
        let seconds: f64 = pieces.iter().map(|piece| piece.seconds).sum();
        assert!(seconds > 0.0 && seconds <= 1.01 * whole, "{seconds} s of {whole}");
        let flops: f64 = pieces.iter().map(|piece| piece.work.flops).sum();
        assert_eq!(flops, timed.flops());
        for part in Part::all() {
            let absent = (part == Part::Perturbation && !adversarial) || part == Part::Rest;
            let piece = pieces.iter().find(|piece| piece.part == part).unwrap();
            assert!(absent || piece.seconds > 0.0, "{part} took no time");
        }
        timed.train_step(&batches[2], 2, 1e-3).unwrap();
        assert_eq!(state_bits(&timed.state().unwrap()), state_bits(&plain.state().unwrap()));
    }
}
