//! What is tested on each card.

use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use coin::data::Corpus;
use coin::data::standardise::Standardisation;
use coin::device::cuda::card::Card;
use coin::device::work::Unit;
use coin::metrics::Evaluation;
use coin::model::config::{AdversarialNorm, Config, Precision, StackInput};
use coin::model::device::{Compute, Device};
use coin::model::gradcheck;
use coin::model::{Engine, Objective, Scaling, State, Step, Tensor, Values, engine, room};
use coin::ops::cuda::KERNELS;
use coin::ops::part::Part;
use coin::random::{Stream, purpose};
use coin::training::interrupt::Interrupt;
use coin::training::trainer::Outcome;

use crate::common::{Event, Tampered, assert_same_run, together};
use crate::golden_files::Golden;
use crate::talk;

/// Every test by its name.
pub fn trials() -> Vec<(&'static str, fn())> {
    vec![
        ("objective_at_every_width", objective_at_every_width),
        ("objective_under_every_setting", objective_under_every_setting),
        ("objective_of_long_windows", objective_of_long_windows),
        ("objective_of_the_largest_models", objective_of_the_largest_models),
        ("objective_of_wide_models", objective_of_wide_models),
        ("objective_with_room_for_many_rows", objective_with_room_for_many_rows),
        ("objective_of_one_and_of_nothing_before", objective_of_one_and_of_nothing_before),
        ("golden_files", golden_files),
        ("derivatives_agree_with_differences", derivatives_agree_with_differences),
        ("training_follows_the_cpu", training_follows_the_cpu),
        ("mixed_precision_is_near", mixed_precision_is_near),
        ("mixed_precision_learns", mixed_precision_learns),
        ("mixed_precision_skips_what_overflows", mixed_precision_skips_what_overflows),
        ("mixed_precision_goes_on_on_the_cpu", mixed_precision_goes_on_on_the_cpu),
        ("same_bits_twice", same_bits_twice),
        ("a_resumed_run_is_the_same", a_resumed_run_is_the_same),
        ("checkpoints_move_between_devices", checkpoints_move_between_devices),
        ("predictions_are_the_cpu_s", predictions_are_the_cpu_s),
        ("an_evaluation_is_read_once", an_evaluation_is_read_once),
        ("other_conversations", other_conversations),
        ("batches_beyond_the_configured_size", batches_beyond_the_configured_size),
        ("a_warm_step_allocates_and_waits_for_nothing", a_warm_step_allocates_and_waits_for_nothing),
        ("a_timed_step_is_a_step", a_timed_step_is_a_step),
        ("launches_tell_their_work", launches_tell_their_work),
        ("memory_is_foreseen", memory_is_foreseen),
        ("what_it_does_not_compute_is_refused", what_it_does_not_compute_is_refused),
        ("arguments_are_the_kernels", arguments_are_the_kernels),
        ("runs_side_by_side_are_what_each_is_alone", runs_side_by_side_are_what_each_is_alone),
        ("a_run_without_a_batch_is_untouched", a_run_without_a_batch_is_untouched),
        ("an_engine_moves_between_threads", an_engine_moves_between_threads),
        ("bad_targets_are_refused", bad_targets_are_refused),
    ]
}

const CARD: Compute = Compute { device: Device::Cuda(0), threads: 1 };

fn config() -> Config {
    Config { embedding_size: 12, stacks: 2, history_length: 7, batch_size: 40, ..Config::default() }
}

/// Conversations with windows of every length, the empty one included: 121 utterances of 3 people.
fn conversations() -> Corpus {
    talk::corpus(3, &[1, 2, 3, 5, 8, 13, 21, 1, 2, 9, 17, 30, 4, 5], 3, 10, 5)
}

fn on(config: &Config, corpus: &Corpus, compute: Compute) -> Box<dyn Engine> {
    engine(config, corpus, &Standardisation::none(corpus.width()), compute).unwrap()
}

/// The parameters of a fresh model, twice as large, so that the model is no linear one; exact in float32.
fn state(config: &Config, corpus: &Corpus) -> State {
    let mut state = on(config, corpus, Compute::cpu(1)).state().unwrap();
    for tensor in &mut state.parameters {
        let Values::F32(values) = &mut tensor.values else { panic!("{} is not f32", tensor.name) };
        values.iter_mut().for_each(|value| *value *= 2.0);
    }
    state
}

fn values(tensor: &Tensor) -> Vec<f64> {
    match &tensor.values {
        Values::F32(values) => values.iter().map(|&x| f64::from(x)).collect(),
        Values::F64(values) => values.clone(),
    }
}

/// Length of the difference, relative to the length of what is exact.
fn error(found: &[f64], exact: &[f64]) -> f64 {
    assert_eq!(found.len(), exact.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let off = length(&mut found.iter().zip(exact).map(|(a, b)| a - b));
    if off == 0.0 { 0.0 } else { off / length(&mut exact.iter().copied()) }
}

/// Everything that an objective says, by name.
fn parts(objective: &Objective) -> Vec<(String, Vec<f64>)> {
    let loss = objective.loss;
    let mut parts = vec![
        ("losses".to_string(), [Some(loss.clean), loss.adversarial].into_iter().flatten().collect()),
        ("logits".to_string(), objective.logits.clone()),
        ("adversarial logits".to_string(), objective.logits_adversarial.clone()),
        ("input gradient norms".to_string(), objective.input_gradient_norm.clone()),
    ];
    parts.extend(objective.gradient.iter().map(|tensor| (tensor.name.clone(), values(tensor))));
    parts
}

/// The card's objective has at most twice the error of the CPU's in float32, against the CPU's in float64.
fn compare(config: &Config, corpus: &Corpus, targets: &[u32], what: &str) {
    let state = state(config, corpus);
    let objective = |precision: Precision, compute: Compute| {
        let mut engine = on(&Config { dtype: precision, ..config.clone() }, corpus, compute);
        engine.restore(&state).unwrap();
        parts(&engine.objective(targets).unwrap())
    };
    let exact = objective(Precision::F64, Compute::cpu(1));
    let plain = objective(Precision::F32, Compute::cpu(1));
    let found = objective(Precision::F32, CARD);
    for (((name, exact), (_, plain)), (_, found)) in exact.iter().zip(&plain).zip(&found) {
        let (found, plain) = (error(found, exact), error(plain, exact));
        // A few last places, where the CPU happens to be exact; of one or two scalars it is easily.
        let most = 2.0 * plain + if exact.len() < 8 { 3e-6 } else { 3e-7 };
        assert!(found <= most, "{what}: {name} is off by {found:e}; the CPU in float32 by {plain:e}");
    }
}

fn all(corpus: &Corpus) -> Vec<u32> {
    (0..corpus.len() as u32).collect()
}

/// `count` of the utterances, at random.
fn draw(seed: u64, corpus: &Corpus, count: usize) -> Vec<u32> {
    let mut targets = all(corpus);
    Stream::new(seed, purpose::TEST).shuffle(&mut targets);
    targets.truncate(count);
    targets
}

fn objective_at_every_width() {
    for (d, width, classes) in [(1, 1, 2), (2, 3, 3), (33, 10, 5), (50, 17, 6), (100, 40, 6), (200, 7, 64)] {
        let corpus = talk::corpus(d as u64, &[4, 9, 1, 6], 3, width, classes);
        let config = Config { embedding_size: d, ..config() };
        compare(&config, &corpus, &all(&corpus), &format!("d = {d}"));
    }
}

fn objective_under_every_setting() {
    let corpus = conversations();
    let targets = draw(4, &corpus, 37);
    let mut settings = vec![
        ("gru stacks", Config { stack_input: StackInput::Gru, ..config() }),
        ("no interaction", Config { interaction: false, ..config() }),
        ("no adversarial pass", Config { adversarial: false, ..config() }),
        ("epsilon 0", Config { epsilon: 0.0, ..config() }),
        ("one stack", Config { stacks: 1, ..config() }),
        ("four stacks", Config { stacks: 4, ..config() }),
        ("K = 1", Config { history_length: 1, ..config() }),
    ];
    for norm in [AdversarialNorm::Sample, AdversarialNorm::Utterance, AdversarialNorm::Batch] {
        settings.push(("norms", Config { adversarial_norm: norm, ..config() }));
    }
    for (what, config) in settings {
        compare(&config, &corpus, &targets, what);
        // In mixed precision too; how near is in `mixed_precision_is_near`.
        let mut engine = on(&Config { dtype: Precision::Mixed, ..config.clone() }, &corpus, CARD);
        let mut exact = on(&Config { dtype: Precision::F64, ..config }, &corpus, Compute::cpu(1));
        exact.restore(&engine.state().unwrap()).unwrap();
        let (found, exact) = (engine.objective(&targets).unwrap(), exact.objective(&targets).unwrap());
        let off = error(&found.logits, &exact.logits);
        assert!(off < 1e-2, "{what}: in mixed precision the logits are off by {off:e}");
        for (found, exact) in found.gradient.iter().zip(&exact.gradient) {
            let off = error(&values(found), &values(exact));
            assert!(
                off < 2e-2,
                "{what}: in mixed precision the gradient of {} is off by {off:e}",
                found.name
            );
        }
    }
}

fn objective_of_long_windows() {
    let corpus = talk::corpus(9, &[140, 3], 2, 4, 3);
    let config = Config { embedding_size: 6, history_length: 512, ..config() };
    compare(&config, &corpus, &[2, 139, 140, 70, 33], "windows of 139");
}

/// The widest models over the longest windows, with a short and an empty window beside. The adversarial pass, the same kernels again,
/// with the narrow model alone. A recurrence takes the simulated card as long for one sequence as for the 16 or 8 of a tile: in
/// float32, where that is longest, the model whose rows are not aligned has a shorter window.
fn objective_of_the_largest_models() {
    let trials = [
        (33, 512, Precision::F32),
        (33, 512, Precision::Mixed),
        (255, 64, Precision::F32),
        (255, 512, Precision::Mixed),
        (256, 512, Precision::F32),
        (256, 512, Precision::Mixed),
    ];
    for (d, longest, dtype) in trials {
        let corpus = talk::corpus(d as u64, &[longest + 1, 6], 3, 5, 4);
        let config = Config {
            embedding_size: d,
            history_length: 512,
            stacks: 1,
            batch_size: 3,
            adversarial: d < 100,
            ..config()
        };
        let last = longest as u32;
        let targets = [last, last + 6, last + 1];
        let what = format!("d = {d}, a window of {longest}");
        match dtype {
            Precision::Mixed => near(&config, &corpus, &targets, &what),
            _ => compare(&config, &corpus, &targets, &what),
        }
    }
}

/// Batches that fill a card with wide models: recurrences of two tiles a block, gradients of weights in large tiles.
fn objective_of_wide_models() {
    for d in [200, 208] {
        let corpus = talk::corpus(d as u64, &[10; 30], 3, 5, 4);
        let config = Config {
            embedding_size: d,
            history_length: 3,
            stacks: 1,
            batch_size: 300,
            adversarial: false,
            ..config()
        };
        let targets: Vec<u32> = (0..300).collect();
        near(&config, &corpus, &targets, &format!("d = {d}"));
    }
}

/// Room for so many rows that products over them have large tiles, of one tile of columns and of two, and windows of one to four tiles of
/// the window's kernel, and of one utterance more than it has room for.
fn objective_with_room_for_many_rows() {
    let corpus = talk::corpus(12, &[90; 25], 3, 5, 4);
    for (d, history_length, stack_input) in [
        (24, 16, StackInput::Attention),
        (45, 18, StackInput::Attention),
        (66, 40, StackInput::Gru),
        (24, 64, StackInput::Attention),
        (25, 65, StackInput::Gru),
    ] {
        let config = Config { embedding_size: d, history_length, stack_input, batch_size: 2250, ..config() };
        // The longest window, one of each tile, of one utterance and of none.
        let targets = [89, 90 + 47, 180 + 33, 270 + 17, 360 + 16, 450 + 1, 540];
        near(&config, &corpus, &targets, &format!("d = {d}, windows of {history_length}"));
    }
}

fn objective_of_one_and_of_nothing_before() {
    let corpus = conversations();
    for targets in [vec![0], vec![1, 3, 6], vec![120], vec![2]] {
        compare(&config(), &corpus, &targets, &format!("targets {targets:?}"));
    }
}

fn golden_files() {
    /// Relative to the largest value of a tensor: float32 against PyTorch's float64.
    const TOLERANCE: f64 = 2e-5;
    for golden in Golden::all() {
        let corpus = golden.corpus();
        let standardisation = Standardisation {
            mean: golden.values("features.mean").to_vec(),
            deviation: golden.values("features.deviation").to_vec(),
        };
        let config = Config { dtype: Precision::F32, ..golden.config.clone() };
        let mut engine = engine(&config, &corpus, &standardisation, CARD).unwrap();
        engine.restore(&golden.state()).unwrap();
        let objective = engine.objective(&golden.targets()).unwrap();
        golden.check("logits", &objective.logits, TOLERANCE);
        golden.check("logits_adversarial", &objective.logits_adversarial, TOLERANCE);
        golden.check("loss_clean", &[objective.loss.clean], TOLERANCE);
        golden.check("loss_adversarial", &[objective.loss.adversarial.unwrap()], TOLERANCE);
        golden.check("input_gradient_norm", &objective.input_gradient_norm, TOLERANCE);
        for tensor in &objective.gradient {
            golden.check(&format!("gradient.{}", tensor.name), &values(tensor), TOLERANCE);
        }
    }
}

/// Dropout's masks included. `coin gradcheck --device cuda` has all configurations.
fn derivatives_agree_with_differences() {
    for name in ["dropout", "dropout-gru-batch"] {
        let report = gradcheck::case(name).unwrap().check_on_card(1, 2, 0).unwrap();
        for agreement in &report.tensors {
            assert!(agreement.within(1e-3), "{name}: {agreement:?}");
        }
    }
}

/// Mean losses of a number of epochs of shuffled batches, dropout and the adversarial pass on.
fn train(engine: &mut dyn Engine, corpus: &Corpus, config: &Config, epochs: u64) -> Vec<[f64; 2]> {
    let mut step = 0;
    let mut losses = Vec::new();
    for epoch in 0..epochs {
        for batch in draw(epoch, corpus, corpus.len()).chunks(config.batch_size) {
            engine.train_step(batch, step, config.learning_rate).unwrap();
            step += 1;
        }
        let mean = engine.losses(true).unwrap().unwrap().mean();
        losses.push([mean.clean, mean.adversarial.unwrap()]);
    }
    losses
}

fn training_follows_the_cpu() {
    let corpus = conversations();
    let config = config();
    let run = |compute: Compute| train(&mut *on(&config, &corpus, compute), &corpus, &config, 3);
    let (cpu, card) = (run(Compute::cpu(1)), run(CARD));
    for (epoch, (cpu, card)) in cpu.iter().zip(&card).enumerate() {
        for (cpu, card) in cpu.iter().zip(card) {
            assert!((cpu - card).abs() <= 1e-4 * cpu, "epoch {epoch}: {card}, on the CPU {cpu}");
        }
    }
    assert!(card[2][0] < card[0][0], "the loss does not fall: {card:?}");
}

fn mixed() -> Config {
    Config { dtype: Precision::Mixed, ..config() }
}

/// In mixed precision the card's objective is near the CPU's in float64. Operands of products and what lies in memory between kernels
/// have 11 bits, half a thousandth: about as far off are gradients, whose many roundings are independent of each other.
fn near(config: &Config, corpus: &Corpus, targets: &[u32], what: &str) {
    let (gradient, logits) = (2e-3, 2e-3);
    let state = state(config, corpus);
    let objective = |precision: Precision, compute: Compute| {
        let mut engine = on(&Config { dtype: precision, ..config.clone() }, corpus, compute);
        engine.restore(&state).unwrap();
        engine.objective(targets).unwrap()
    };
    let (exact, found) = (objective(Precision::F64, Compute::cpu(1)), objective(Precision::Mixed, CARD));
    let losses = |objective: &Objective| {
        [Some(objective.loss.clean), objective.loss.adversarial].into_iter().flatten().collect::<Vec<f64>>()
    };
    let off = error(&losses(&found), &losses(&exact));
    assert!(off < logits, "{what}: the losses are off by {off:e}");
    let off = error(&found.logits, &exact.logits);
    assert!(off < logits, "{what}: the logits are off by {off:e}");
    let off = error(&found.input_gradient_norm, &exact.input_gradient_norm);
    assert!(off < gradient, "{what}: the norms are off by {off:e}");
    let whole = |objective: &Objective| objective.gradient.iter().flat_map(values).collect::<Vec<f64>>();
    let off = error(&whole(&found), &whole(&exact));
    assert!(off > 1e-6 && off < gradient, "{what}: the gradient is off by {off:e}");
    // Small tensors beside large ones too: those are what small numbers in f16 would lose first.
    for (found, exact) in found.gradient.iter().zip(&exact.gradient) {
        let off = error(&values(found), &values(exact));
        assert!(off < 5e-3, "{what}: the gradient of {} is off by {off:e}", found.name);
    }
}

fn mixed_precision_is_near() {
    for d in [12, 50, 100] {
        let corpus = talk::corpus(d as u64, &[4, 9, 1, 6, 14], 3, 17, 6);
        near(&Config { embedding_size: d, ..config() }, &corpus, &all(&corpus), &format!("d = {d}"));
    }
}

/// Three epochs follow the CPU's losses in float32 within a hundredth, dropout on; bits are the same twice and after a resume.
fn mixed_precision_learns() {
    let corpus = conversations();
    let run = |config: &Config, compute: Compute| {
        let mut engine = on(config, &corpus, compute);
        let losses = train(&mut *engine, &corpus, config, 3);
        (losses, engine.state().unwrap())
    };
    let ((cpu, _), (card, state)) = (run(&config(), Compute::cpu(1)), run(&mixed(), CARD));
    for (epoch, (cpu, card)) in cpu.iter().zip(&card).enumerate() {
        for (cpu, card) in cpu.iter().zip(card) {
            assert!((cpu - card).abs() <= 1e-2 * cpu, "epoch {epoch}: {card}, on the CPU in float32 {cpu}");
        }
    }
    let (again, same) = run(&mixed(), CARD);
    assert!(again == card && bits(&same) == bits(&state) && same.scaling == state.scaling);
    let targets = draw(8, &corpus, 40);
    let go_on = |engine: &mut dyn Engine| {
        for step in 20..23 {
            engine.train_step(&targets, step, 1e-3).unwrap();
        }
        let state = engine.state().unwrap();
        (bits(&state), state.scaling)
    };
    let mut resumed = on(&mixed(), &corpus, CARD);
    resumed.restore(&state).unwrap();
    let mut whole = on(&mixed(), &corpus, CARD);
    train(&mut *whole, &corpus, &mixed(), 3);
    assert!(go_on(&mut *resumed) == go_on(&mut *whole));
}

/// A scale far too large overflows: such updates change nothing but the scale, until it is small enough.
fn mixed_precision_skips_what_overflows() {
    let corpus = conversations();
    let targets = draw(1, &corpus, 40);
    let mut engine = on(&mixed(), &corpus, CARD);
    let mut state = engine.state().unwrap();
    let scale = 16_777_216.0;
    state.scaling = Some(Scaling { scale, good: 5, skipped: 0 });
    // Weights whose gradients are large.
    for tensor in &mut state.parameters {
        let Values::F32(values) = &mut tensor.values else { panic!("{} is not f32", tensor.name) };
        values.iter_mut().for_each(|value| *value *= 4.0);
    }
    engine.restore(&state).unwrap();
    engine.train_step(&targets, 0, 1e-3).unwrap();
    let after = engine.state().unwrap();
    assert_eq!(after.scaling, Some(Scaling { scale: scale / 2.0, good: 0, skipped: 1 }));
    assert!(bits(&State { updates: 0, ..after }) == bits(&state));
    for step in 1..30 {
        engine.train_step(&targets, step, 1e-3).unwrap();
    }
    let scaling = engine.state().unwrap().scaling.unwrap();
    assert!(scaling.skipped < 25 && scaling.scale < scale, "{scaling:?}");
    // Losses are numbers in skipped steps too, or training would take them for a model that diverges.
    let mean = engine.losses(true).unwrap().unwrap().mean();
    assert!(mean.clean.is_finite() && mean.adversarial.unwrap().is_finite(), "{mean:?}");
}

/// On the CPU in float32, from the same weights and moments; the loss scale waits for the next card. Updates that were skipped are
/// none of Adam's there either.
fn mixed_precision_goes_on_on_the_cpu() {
    let corpus = conversations();
    let targets = draw(8, &corpus, 40);
    let mut card = on(&mixed(), &corpus, CARD);
    train(&mut *card, &corpus, &mixed(), 1);
    let mut state = card.state().unwrap();
    state.scaling = Some(Scaling { scale: 1024.0, good: 5, skipped: 1 });
    let step = |compute: Compute| {
        let mut engine = on(&compute.settings(&mixed()), &corpus, compute);
        engine.restore(&state).unwrap();
        engine.train_step(&targets, state.updates, 1e-3).unwrap();
        engine.state().unwrap()
    };
    let (cpu, card) = (step(Compute::cpu(1)), step(CARD));
    assert_eq!((cpu.updates, cpu.scaling), (state.updates + 1, state.scaling));
    assert_eq!(card.updates, cpu.updates);
    // An update moves a parameter by some thousandth; another count of Adam's would move each by a third as much again.
    let moved = |after: &State| -> Vec<f64> {
        let pairs = after.parameters.iter().zip(&state.parameters);
        pairs
            .flat_map(|(after, before)| values(after).into_iter().zip(values(before)).map(|(a, b)| a - b))
            .collect()
    };
    let off = error(&moved(&cpu), &moved(&card));
    assert!(off < 2e-2, "the update is off by {off:e}");
    let mut again = on(&mixed(), &corpus, CARD);
    again.restore(&cpu).unwrap();
    assert!(bits(&again.state().unwrap()) == bits(&cpu) && again.state().unwrap().scaling == cpu.scaling);
}

fn bits(state: &State) -> Vec<u64> {
    let tensors = [&state.parameters, &state.first_moment, &state.second_moment];
    let scalars = tensors.into_iter().flatten().flat_map(values);
    scalars.map(f64::to_bits).chain([state.updates]).collect()
}

fn same_bits_twice() {
    let corpus = conversations();
    let run = || {
        let mut engine = on(&config(), &corpus, CARD);
        let losses = train(&mut *engine, &corpus, &config(), 2);
        (losses, bits(&engine.state().unwrap()))
    };
    assert!(run() == run());
}

/// A number for a run's bits, whatever the schedule.
pub fn bits_of_a_run() -> u64 {
    let corpus = conversations();
    let mut engine = on(&config(), &corpus, CARD);
    train(&mut *engine, &corpus, &config(), 1);
    let mut hasher = DefaultHasher::new();
    bits(&engine.state().unwrap()).hash(&mut hasher);
    for logit in engine.predict(&all(&corpus)).unwrap().logits {
        logit.to_bits().hash(&mut hasher);
    }
    hasher.finish()
}

fn a_resumed_run_is_the_same() {
    let corpus = conversations();
    let targets = draw(1, &corpus, 40);
    let mut whole = on(&config(), &corpus, CARD);
    for step in 0..2 {
        whole.train_step(&targets, step, 1e-3).unwrap();
    }
    let state = whole.state().unwrap();
    assert_eq!(state.updates, 2);
    let mut resumed = on(&Config { seed: 99, ..config() }, &corpus, CARD);
    resumed.restore(&state).unwrap();
    drop(resumed);
    let mut resumed = on(&config(), &corpus, CARD);
    resumed.restore(&state).unwrap();
    for step in 2..5 {
        for engine in [&mut whole, &mut resumed] {
            engine.train_step(&targets, step, 1e-3).unwrap();
        }
    }
    assert!(bits(&whole.state().unwrap()) == bits(&resumed.state().unwrap()));
}

fn checkpoints_move_between_devices() {
    let corpus = conversations();
    let targets = draw(2, &corpus, 40);
    let mut card = on(&config(), &corpus, CARD);
    for step in 0..3 {
        card.train_step(&targets, step, 1e-3).unwrap();
    }
    let state = card.state().unwrap();
    let mut cpu = on(&config(), &corpus, Compute::cpu(1));
    cpu.restore(&state).unwrap();
    assert!(bits(&cpu.state().unwrap()) == bits(&state));
    let (on_card, on_cpu) = (card.predict(&targets).unwrap(), cpu.predict(&targets).unwrap());
    assert!(error(&on_card.logits, &on_cpu.logits) < 1e-5);
    // Both go on alike, Adam's corrections included.
    for engine in [&mut card, &mut cpu] {
        engine.train_step(&targets, 3, 1e-3).unwrap();
    }
    let (card, cpu) = (card.state().unwrap(), cpu.state().unwrap());
    for (card, cpu) in card.parameters.iter().zip(&cpu.parameters) {
        assert!(error(&values(card), &values(cpu)) < 1e-4, "{}", card.name);
    }
}

fn predictions_are_the_cpu_s() {
    let corpus = conversations();
    let state = state(&config(), &corpus);
    let predict = |compute: Compute| {
        let mut engine = on(&config(), &corpus, compute);
        engine.restore(&state).unwrap();
        // More than a batch, in no order.
        engine.predict(&draw(7, &corpus, 121)).unwrap()
    };
    let (card, cpu) = (predict(CARD), predict(Compute::cpu(2)));
    assert_eq!(card.history, cpu.history);
    assert!(error(&card.logits, &cpu.logits) < 1e-5);
    assert!(error(&card.attention, &cpu.attention) < 1e-5);
}

/// Conversations change under an engine, as they do when one is followed live: they grow, and shrink.
fn other_conversations() {
    let small = talk::corpus(1, &[3, 2], 2, 10, 5);
    let large = conversations();
    let state = state(&config(), &large);
    let mut engine = on(&config(), &small, CARD);
    engine.restore(&state).unwrap();
    for corpus in [&small, &large, &small, &large] {
        engine.set_corpus(corpus).unwrap();
        let mut cpu = on(&config(), corpus, Compute::cpu(1));
        cpu.restore(&state).unwrap();
        let targets = all(corpus);
        let (card, cpu) = (engine.predict(&targets).unwrap(), cpu.predict(&targets).unwrap());
        assert!(error(&card.logits, &cpu.logits) < 1e-5, "{} utterances", corpus.len());
        engine.train_step(&targets[..4], 0, 0.0).unwrap();
    }
    assert!(engine.set_corpus(&talk::corpus(1, &[3], 2, 11, 5)).unwrap_err().to_string().contains("11 wide"));
}

fn batches_beyond_the_configured_size() {
    let corpus = conversations();
    let small = Config { batch_size: 3, ..config() };
    let mut engine = on(&small, &corpus, CARD);
    let state = state(&small, &corpus);
    engine.restore(&state).unwrap();
    let objective = engine.objective(&all(&corpus)).unwrap();
    // What was there has moved along.
    assert!(bits(&engine.state().unwrap()) == bits(&state));
    let mut cpu = on(&small, &corpus, Compute::cpu(1));
    cpu.restore(&state).unwrap();
    let expected = cpu.objective(&all(&corpus)).unwrap();
    for ((name, found), (_, expected)) in parts(&objective).iter().zip(&parts(&expected)) {
        assert!(error(found, expected) < 1e-5, "{name}");
    }
    engine.train_step(&all(&corpus)[..3], 0, 1e-3).unwrap();
}

/// How often a function of the driver was called; `None` on a real card, which does not count.
fn calls(name: &str) -> Option<u64> {
    // SAFETY: the driver is loaded already; the simulated one exports this function, of this type.
    unsafe {
        let driver = libloading::Library::new("libcuda.so.1").ok()?;
        let calls: libloading::Symbol<unsafe extern "C" fn(*const std::ffi::c_char) -> u64> =
            driver.get(b"simulatedGpuCalls\0").ok()?;
        let name = CString::new(name).ok()?;
        Some(calls(if name.is_empty() { std::ptr::null() } else { name.as_ptr() }))
    }
}

fn a_warm_step_allocates_and_waits_for_nothing() {
    // As many calls for many runs as for one.
    for runs in [1, 3] {
        a_warm_step_of(runs);
    }
}

fn a_warm_step_of(runs: usize) {
    let corpus = conversations();
    let batches: Vec<Vec<u32>> = (0..6).map(|seed| draw(seed, &corpus, 40)).collect();
    let mut engine = side_by_side(&vec![config(); runs], &corpus);
    let mut train = |batch: &[u32], number: usize| {
        let step = Some(Step { targets: batch, number: number as u64, learning_rate: 1e-3 });
        engine.train_steps(&vec![step; runs]).unwrap();
    };
    for (step, batch) in batches.iter().enumerate().take(3) {
        train(batch, step);
    }
    if calls("").is_none() {
        return;
    }
    let expected = ["cuMemcpy2DAsync_v2", "cuGraphLaunch", "cuEventRecord", "cuEventSynchronize"];
    let before: Vec<Option<u64>> = expected.iter().map(|name| calls(name)).collect();
    let all_before = calls("").unwrap();
    for (step, batch) in batches.iter().enumerate().skip(3) {
        train(batch, step);
    }
    // The batch, the graph, and the event by which a stage of pinned memory is known to be free: of two steps ago.
    let mut own = 0;
    for (name, before) in expected.iter().zip(before) {
        let made = calls(name).unwrap() - before.unwrap();
        assert_eq!(made, 3, "{name}");
        own += made;
    }
    // cudarc makes its context current where it records or waits for an event, which is no work.
    let current = ["cuCtxSetCurrent", "cuCtxGetCurrent"];
    let rest = calls("").unwrap() - all_before - own;
    let others = [
        "cuMemAlloc_v2",
        "cuMemAllocAsync",
        "cuMemFree_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuStreamSynchronize",
        "cuCtxSynchronize",
        "cuLaunchKernel",
    ];
    assert!(rest <= 24, "{rest} further calls in three steps besides {current:?}");
    let made: Vec<u64> = others.iter().filter_map(|name| calls(name)).collect();
    train(&batches[0], 9);
    assert_eq!(made, others.iter().filter_map(|name| calls(name)).collect::<Vec<u64>>());
}

/// Losses and confusions of all batches add up on the card, also behind steps and in conversations that are new to it.
fn an_evaluation_is_read_once() {
    let corpus = conversations();
    let other = talk::corpus(8, &[40, 22, 3], 2, 10, 5);
    let config = config();
    let state = state(&config, &corpus);
    let evaluation = |compute: Compute| {
        let mut engine = on(&config, &corpus, compute);
        engine.restore(&state).unwrap();
        let mut evaluations = Vec::new();
        for count in [121, 121, 40, 3, 0] {
            evaluations.push(engine.evaluate(&draw(7, &corpus, count), &|| false).unwrap().unwrap());
        }
        engine.train_step(&draw(1, &corpus, 40), 0, 1e-3).unwrap();
        evaluations.push(engine.evaluate(&all(&corpus), &|| false).unwrap().unwrap());
        engine.set_corpus(&other).unwrap();
        evaluations.push(engine.evaluate(&all(&other), &|| false).unwrap().unwrap());
        assert_eq!(engine.evaluate(&all(&other), &|| true).unwrap(), None);
        let losses = engine.losses(true).unwrap().unwrap();
        assert_eq!(losses.utterances, 40);
        evaluations.push(Evaluation { loss: losses.mean().clean, ..evaluations[0].clone() });
        evaluations
    };
    let (cpu, card) = (evaluation(Compute::cpu(1)), evaluation(CARD));
    assert_eq!(cpu[0], cpu[1]);
    assert_eq!(card[0], card[1]);
    for (i, (cpu, card)) in cpu.iter().zip(&card).enumerate() {
        assert_eq!(cpu.confusion, card.confusion, "evaluation {i}");
        assert!((cpu.loss - card.loss).abs() <= 1e-6 * cpu.loss, "evaluation {i}: {cpu:?} {card:?}");
    }
    let mut engine = on(&config, &corpus, CARD);
    engine.evaluate(&all(&corpus), &|| false).unwrap();
    let made = |name: &str| calls(name).unwrap_or_default();
    let names = ["cuGraphLaunch", "cuMemcpyDtoHAsync_v2", "cuLaunchKernel", "cuMemAlloc_v2"];
    let before = names.map(made);
    engine.evaluate(&all(&corpus), &|| false).unwrap();
    if calls("").is_some() {
        let after = names.map(made);
        // Four batches; the sum of losses and the confusion are read.
        assert_eq!([0, 1, 2, 3].map(|i| after[i] - before[i]), [4, 2, 0, 0], "{names:?}");
    }
}

/// Timing changes nothing but the time.
fn a_timed_step_is_a_step() {
    let corpus = conversations();
    let batches: Vec<Vec<u32>> = (0..3).map(|seed| draw(seed, &corpus, 40)).collect();
    for config in [config(), mixed()] {
        let mut plain = on(&config, &corpus, CARD);
        let mut timed = on(&config, &corpus, CARD);
        for (step, batch) in batches.iter().enumerate() {
            plain.train_step(batch, step as u64, 1e-3).unwrap();
        }
        assert!(timed.time_step(&batches[0], 0, 1e-3).unwrap() > 0.0);
        let step = Step { targets: &batches[1], number: 1, learning_rate: 1e-3 };
        let pieces = timed.profile_steps(&[Some(step)]).unwrap();
        assert!(pieces.len() > 100 && pieces.iter().all(|piece| piece.seconds > 0.0), "{}", pieces.len());
        timed.train_step(&batches[2], 2, 1e-3).unwrap();
        assert_eq!(timed.losses(true).unwrap(), plain.losses(true).unwrap());
        assert_eq!(bits(&timed.state().unwrap()), bits(&plain.state().unwrap()));
    }
}

/// What the launchers tell of their products is what the step as a whole is known to compute.
fn launches_tell_their_work() {
    let corpus = conversations();
    let targets = draw(2, &corpus, 31);
    for stack_input in [StackInput::Attention, StackInput::Gru] {
        for (base, unit) in [(config(), Unit::Fma), (mixed(), Unit::Tensor)] {
            let config = Config { adversarial: false, stack_input, stacks: 3, ..base };
            let mut engine = on(&config, &corpus, CARD);
            let step = Step { targets: &targets, number: 0, learning_rate: 1e-3 };
            let pieces = engine.profile_steps(&[Some(step)]).unwrap();
            // Of several runs it is the sum over those that have a batch.
            let mut several = side_by_side(&[config.clone(), config.clone(), config.clone()], &corpus);
            let several = several.profile_steps(&[Some(step), None, Some(step)]).unwrap();
            assert_eq!(several.len(), pieces.len());
            for (all, one) in several.iter().zip(&pieces) {
                assert_eq!((all.kernel, all.work), (one.kernel, one.work.and(one.work)));
            }
            // Products of weights with each other and sums are in no count of the step's, nor are the norms at the features, which
            // a step without the adversarial pass makes too.
            let beside = [Part::Folding, Part::Perturbation];
            let counted = |kernel: &str| {
                ["product_n", "product_t", "window_", "gru_", "readout"]
                    .iter()
                    .any(|name| kernel.starts_with(name))
            };
            let mut flops = 0.0;
            for piece in &pieces {
                let kernel = piece.kernel.unwrap();
                let of_states = kernel.starts_with("adam_begin") || kernel == "loss_scale";
                assert!(of_states || piece.work.bytes > 0.0, "{kernel} moves nothing");
                if counted(kernel) && !beside.contains(&piece.part) {
                    flops += piece.work.flops;
                    assert!(kernel.starts_with("readout") || piece.work.unit == unit, "{kernel}");
                }
            }
            let expected = engine.flops();
            assert!((flops / expected - 1.0).abs() < 1e-12, "{flops} of {expected}");
            // All that a step has besides is named.
            assert!(pieces.iter().all(|piece| piece.part != Part::Rest));
        }
    }
}

fn memory_is_foreseen() {
    let corpus = talk::corpus(5, &[512; 40], 2, 4, 6);
    let config =
        Config { embedding_size: 256, history_length: 512, stacks: 6, batch_size: 4_000, ..config() };
    let error = engine(&config, &corpus, &Standardisation::none(4), CARD).err().unwrap().to_string();
    assert!(error.contains("the largest batch_size that fits is "), "{error}");
    // Taking what fits would need as much memory of this machine where the card is simulated: one more than that is refused.
    let small = Config { batch_size: 8, ..config.clone() };
    let most = coin::model::fitting(&small, &corpus, CARD, 1000).unwrap();
    assert!((2..1000).contains(&most), "{most} runs fit");
    let error_of_runs = room(&small, &corpus, CARD, most + 1).err().unwrap().to_string();
    assert!(error_of_runs.contains(&format!("more memory than is free: {most} fit")), "{error_of_runs}");
    // What it says is true.
    let size: usize = error.rsplit(' ').next().unwrap().parse().unwrap();
    let fits = |batch_size: usize| {
        let config = Config { batch_size, ..config.clone() };
        coin::model::check_memory(&config, &corpus, CARD).is_ok()
    };
    assert!(fits(size) && !fits(size + 1), "{error}");
}

fn what_it_does_not_compute_is_refused() {
    let corpus = conversations();
    for (config, expected) in [
        (Config { embedding_size: 257, ..config() }, "embedding_size is 257"),
        (Config { history_length: 513, ..config() }, "history_length is 513"),
        (Config { dtype: Precision::F64, ..config() }, "dtype is f64"),
    ] {
        let error = engine(&config, &corpus, &Standardisation::none(10), CARD).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    let none = Compute { device: Device::Cuda(64), threads: 1 };
    let error = engine(&config(), &corpus, &Standardisation::none(10), none).err().unwrap();
    assert!(error.to_string().contains("there is no card 64"), "{error}");
}

/// Every launcher's arguments are held against what its kernel was compiled with: all other tests here would fail with this error.
fn arguments_are_the_kernels() {
    let card = Card::open(0, KERNELS).unwrap();
    for (sizes, fine) in [
        (&[8usize, 8, 8, 8, 4][..], true),
        (&[8, 8, 8, 8, 8], false),
        (&[8, 8, 8, 8], false),
        (&[8, 8, 8, 8, 4, 8], false),
        (&[], false),
    ] {
        let checked = card.check_arguments("standardise", sizes);
        assert_eq!(checked.is_ok(), fine, "{sizes:?}: {checked:?}");
    }
}

/// The runs of these configurations, begun on the card.
fn side_by_side(configs: &[Config], corpus: &Corpus) -> Box<dyn Engine> {
    let mut engine = room(&configs[0], corpus, CARD, configs.len()).unwrap();
    for (run, config) in configs.iter().enumerate() {
        engine.begin(run, config, &Standardisation::none(corpus.width()), corpus).unwrap();
    }
    engine
}

/// Three runs with settings of their own that stop in different epochs, each alone and then together: with a place for each; with
/// two places, interrupted in the middle again and again and resumed.
fn runs_side_by_side_are_what_each_is_alone() {
    let corpus = talk::corpus(6, &[3, 7, 5, 9, 2, 8, 4, 6, 11, 1], 3, 6, 4);
    let folder = tempfile::tempdir().unwrap();
    let of = |seed, epsilon, dropout_keep, learning_rate| Config {
        seed,
        epsilon,
        dropout_keep,
        learning_rate,
        embedding_size: 6,
        stacks: 1,
        history_length: 4,
        batch_size: 16,
        epochs: 4,
        patience: 1,
        validation_fraction: 0.3,
        ..Config::default()
    };
    let configs = [of(3, 3.0, 0.7, 0.5), of(8, 0.5, 1.0, 0.01), of(4, 1.0, 0.4, 0.05)];
    let folders = |name: &str| -> Vec<(Config, PathBuf)> {
        (0..)
            .zip(&configs)
            .map(|(i, config)| (config.clone(), folder.path().join(format!("{name}-{i}"))))
            .collect()
    };
    let finished = |ended: &Outcome| match ended {
        Outcome::Finished(report) => Some((report.epochs, report.stopped)),
        _ => None,
    };
    let alone: Vec<_> = folders("alone")
        .iter()
        .map(|run| {
            let mut engine = room(&run.0, &corpus, CARD, 1).unwrap();
            let ended =
                together(&mut *engine, &corpus, std::slice::from_ref(run), false, &Interrupt::default());
            finished(&ended.unwrap()[0]).unwrap()
        })
        .collect();
    assert!(alone[0].0 != alone[1].0, "the runs are all of one length: {alone:?}");
    let check = |runs: &[(Config, PathBuf)]| {
        for (alone, (_, path)) in folders("alone").iter().zip(runs) {
            assert_same_run(&alone.1, path);
        }
    };
    let runs = folders("together");
    let mut engine = room(&configs[0], &corpus, CARD, 3).unwrap();
    let ended = together(&mut *engine, &corpus, &runs, false, &Interrupt::default()).unwrap();
    assert_eq!(ended.iter().filter_map(finished).collect::<Vec<_>>(), alone);
    check(&runs);
    drop(engine);

    let runs = folders("cut");
    let mut lives = 0;
    loop {
        let left: Vec<_> =
            runs.iter().filter(|(_, path)| !path.join("report.json").exists()).cloned().collect();
        if left.is_empty() {
            break;
        }
        let interrupt = Interrupt::default();
        let mut engine = Tampered {
            engine: room(&configs[0], &corpus, CARD, 2).unwrap(),
            steps: 0,
            at: 4,
            what: Event::Interrupt(interrupt.clone()),
        };
        together(&mut engine, &corpus, &left, false, &interrupt).unwrap();
        lives += 1;
        assert!(lives < 20, "the runs do not come to an end");
    }
    assert!(lives > 2);
    check(&runs);
}

/// A run that has nothing to do while others have keeps every bit, its loss scale and its sums of losses included; larger batches
/// of the others, for which memory is laid out anew, take it along.
fn a_run_without_a_batch_is_untouched() {
    let corpus = conversations();
    for base in [config(), mixed()] {
        let configs = [5, 6, 7].map(|seed| Config { seed, batch_size: 8, ..base.clone() });
        let mut engine = side_by_side(&configs, &corpus);
        let step = |targets, number| Some(Step { targets, number, learning_rate: 1e-2 });
        let (first, second) = (draw(1, &corpus, 8), draw(2, &corpus, 8));
        engine.train_steps(&[step(&first, 0), step(&second, 0), None]).unwrap();
        let [one, two, three] = [0, 1, 2].map(|run| engine.state_of(run).unwrap());
        let mut fresh = on(&configs[2], &corpus, CARD);
        assert!(bits(&three) == bits(&fresh.state().unwrap()), "a run has changed before its first step");
        let many = all(&corpus);
        engine.train_steps(&[step(&second, 1), None, step(&first, 0)]).unwrap();
        engine.train_steps(&[step(&many, 2), None, None]).unwrap();
        assert!(bits(&engine.state_of(0).unwrap()) != bits(&one));
        let after = engine.state_of(1).unwrap();
        assert!(
            bits(&after) == bits(&two) && after.scaling == two.scaling,
            "a run without a batch has changed"
        );
        // And each is what it is alone.
        engine.train_steps(&[None, step(&first, 1), None]).unwrap();
        type Steps<'a> = Vec<(&'a [u32], u64)>;
        let steps: [Steps; 3] =
            [vec![(&first, 0), (&second, 1), (&many, 2)], vec![(&second, 0), (&first, 1)], vec![(&first, 0)]];
        let everything = vec![&many[..]; 3];
        let predictions = engine.predict_each(&everything).unwrap();
        for (run, steps) in steps.iter().enumerate() {
            let mut alone = on(&configs[run], &corpus, CARD);
            for &(targets, number) in steps {
                alone.train_step(targets, number, 1e-2).unwrap();
            }
            let (state, expected) = (engine.state_of(run).unwrap(), alone.state().unwrap());
            assert!(bits(&state) == bits(&expected) && state.scaling == expected.scaling, "run {run}");
            assert_eq!(engine.losses_of(run, true).unwrap(), alone.losses(true).unwrap());
            let expected = alone.predict(&many).unwrap();
            assert!(
                predictions[run].logits == expected.logits
                    && predictions[run].attention == expected.attention
            );
        }
        // Another in the place of the second begins as it does alone.
        let other = Config { seed: 9, epsilon: 0.5, dropout_keep: 0.4, ..configs[1].clone() };
        let standardisation = Standardisation { mean: vec![0.5; 10], deviation: vec![2.0; 10] };
        engine.begin(1, &other, &standardisation, &corpus).unwrap();
        engine.train_steps(&[None, step(&second, 0), None]).unwrap();
        let mut alone = coin::model::engine(&other, &corpus, &standardisation, CARD).unwrap();
        alone.train_step(&second, 0, 1e-2).unwrap();
        assert!(bits(&engine.state_of(1).unwrap()) == bits(&alone.state().unwrap()));
    }
}

/// A context belongs to a thread: one that has never seen it goes on with the engine, and drops it.
fn an_engine_moves_between_threads() {
    let corpus = conversations();
    let targets = draw(3, &corpus, 20);
    let run = |threads: bool| {
        let mut engine = on(&config(), &corpus, CARD);
        let mut other = on(&Config { seed: 5, ..config() }, &corpus, CARD);
        engine.train_step(&targets, 0, 1e-3).unwrap();
        other.train_step(&targets, 0, 1e-3).unwrap();
        let rest = |mut engine: Box<dyn Engine>| {
            engine.train_step(&targets, 1, 1e-3).unwrap();
            engine.objective(&targets).unwrap();
            engine.train_step(&targets, 2, 1e-3).unwrap();
            (bits(&engine.state().unwrap()), engine.predict(&targets).unwrap().logits)
        };
        let both = |engine: Box<dyn Engine>, other: Box<dyn Engine>| (rest(engine), rest(other));
        match threads {
            true => std::thread::scope(|scope| scope.spawn(|| both(engine, other)).join().unwrap()),
            false => both(engine, other),
        }
    };
    assert!(run(true) == run(false));
}

fn bad_targets_are_refused() {
    let mut corpus = conversations();
    corpus.conversations[1].utterances[0].label = None;
    let mut engine = on(&config(), &corpus, CARD);
    let before = bits(&engine.state().unwrap());
    for (targets, expected) in [
        (vec![], "the batch is empty"),
        (vec![0, 121], "target 121 is past the last utterance, 120"),
        (vec![1], "target 1 has no label"),
    ] {
        let error = engine.train_step(&targets, 0, 1e-3).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(bits(&engine.state().unwrap()) == before);
    assert_eq!(engine.predict(&[1]).unwrap().history, [0]);
}
