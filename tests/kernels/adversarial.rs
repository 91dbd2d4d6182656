//! kernels/adversarial.cu

use std::sync::Arc;

use coin::device::cuda::memory::Element;
use coin::ops::adversarial::{Adversarial, AdversarialNorm, Perturbation};
use coin::ops::cpu::Worker;
use coin::ops::parameters::{Layout, Sizes};

use crate::batches::{Indices, Places, least, talk, unequal};
use crate::support::Random;
use crate::work::{ELEMENTS, UNTOUCHED, UNTOUCHED_WIDE, Work, args, held, of_element, same};

const EPSILON: f32 = 0.3;

/// Gradients with a product that is mostly positive, as with a Gram matrix, and of every magnitude: rows of zeros, rows whose product is
/// below zero, rows whose square no float holds, rows whose norm is too small to divide by.
fn gradients(random: &mut Random, rows: usize, width: usize) -> [Vec<f32>; 2] {
    let mut delta = random.floats(rows * width, 1.0);
    let noise = random.floats(rows * width, 0.5);
    let mut projected: Vec<f32> = delta.iter().zip(noise).map(|(delta, noise)| delta * 1.5 + noise).collect();
    for row in 0..rows {
        let factor: f32 = match row % 7 {
            1 => 0.0,
            2 => -1.0,
            3 => 1e-25,
            4 => 1e-43,
            _ => 1.0,
        };
        for i in row * width..(row + 1) * width {
            delta[i] *= factor.abs();
            projected[i] *= factor;
        }
    }
    [delta, projected]
}

/// The square of the norm at the features, and the sum of its terms' magnitudes.
fn square(delta: &[f32], projected: &[f32], row: usize, width: usize) -> (f64, f64) {
    let range = row * width..(row + 1) * width;
    let products =
        delta[range.clone()].iter().zip(&projected[range]).map(|(&a, &b)| f64::from(a) * f64::from(b));
    (products.clone().sum::<f64>().max(0.0), products.map(f64::abs).sum())
}

/// What another order of summing terms of this magnitude in float64 may change.
fn slack(terms: f64) -> f64 {
    1e-14 * terms
}

/// Whether a norm is the root of a square: half a unit in float32's last place, also among the smallest numbers that it holds.
fn is_root(norm: f32, (square, terms): (f64, f64)) -> bool {
    let norm = f64::from(norm);
    norm == square || (norm * norm - square).abs() <= 1.3e-7 * square + 1e-44 * norm + 1e-89 + slack(terms)
}

fn check(runs: &[Indices; 2], d: usize, norm: AdversarialNorm) {
    for element in ELEMENTS {
        check_element(element, runs, d, norm, None);
    }
}

/// `broken`: a row of the first run whose gradient is infinite.
fn check_element(
    element: Element,
    runs: &[Indices; 2],
    d: usize,
    norm: AdversarialNorm,
    broken: Option<usize>,
) {
    let mut random = Random(d as u64);
    let mut work = Work::default();
    let mut of_epsilon = runs.each_ref().map(|run| [run.header]);
    of_epsilon.iter_mut().for_each(|[header]| header.epsilon = EPSILON);
    let places = Places::new(&mut work, runs, None);
    let header = work.buffer(1, [&of_epsilon[0], &of_epsilon[1]]);
    let capacity = places.capacity;
    let mut of_history =
        [0, 1].map(|run| gradients(&mut random, runs[run].rows(), d).map(|values| held(element, values)));
    if let Some(row) = broken {
        of_history[0].iter_mut().for_each(|values| values[row * d] = f32::INFINITY);
    }
    let of_target = [0, 1].map(|run| gradients(&mut random, runs[run].samples(), 2 * d));
    let mut input = |element: Element, capacity: usize, values: &[[Vec<f32>; 2]; 2]| {
        work.elements(element, capacity, [&values[0][0], &values[1][0]])
    };
    let d_history = input(element, capacity.rows * d, &of_history);
    let d_target = input(Element::Word, capacity.samples * 2 * d, &of_target);
    let mut inplace = |element: Element, capacity: usize, values: &[[Vec<f32>; 2]; 2]| {
        let filled = values.each_ref().map(|[_, projected]| {
            let mut filled = projected.clone();
            filled.resize(capacity, UNTOUCHED);
            filled
        });
        work.elements(element, capacity, [&filled[0], &filled[1]])
    };
    let history = inplace(element, capacity.rows * d, &of_history);
    let target = inplace(Element::Word, capacity.samples * 2 * d, &of_target);
    let history_scale = work.output(capacity.rows);
    let target_scale = work.output(capacity.samples);
    // The norms again, as `perturb` overwrites them.
    let history_norm = work.output(capacity.rows);
    let target_norm = work.output(capacity.samples);
    let squared_norm = work.output_wide(capacity.samples);
    let batch = work.output_wide(1);
    for (history_scale, target_scale) in [(history_norm, target_norm), (history_scale, target_scale)] {
        work.launch(
            ("adversarial", of_element("feature_norms", element)),
            [capacity.samples, 1],
            (128, 0),
            args![
                history_scale,
                target_scale,
                squared_norm,
                history,
                target,
                d_history,
                d_target,
                places.own,
                places.offset,
                header,
                d
            ],
        );
    }
    work.launch(("adversarial", "batch_norm"), [1, 1], (256, 0), args![batch, squared_norm, header]);
    work.launch(
        ("adversarial", of_element("perturb", element)),
        [capacity.rows.max(capacity.samples).div_ceil(32), 2],
        (256, 0),
        args![
            history,
            target,
            history_scale,
            target_scale,
            squared_norm,
            batch,
            places.sample,
            header,
            norm as usize,
            d
        ],
    );
    let results = work.check();
    if d.is_multiple_of(4) {
        results.coalesced();
    }
    for (run, indices) in runs.iter().enumerate() {
        let (rows, samples) = (indices.rows(), indices.samples());
        let ([d_history, projected_history], [d_target, projected_target]) =
            (&of_history[run], &of_target[run]);
        let mut squares = vec![(0.0, 0.0); samples];
        let mut add = |s: usize, (square, terms): (f64, f64)| {
            squares[s].0 += square;
            squares[s].1 += terms;
        };
        let found_norms = results.of::<f32>(run, history_norm);
        for (row, &s) in indices.shard.sample.iter().enumerate() {
            let square = square(d_history, projected_history, row, d);
            assert!(is_root(found_norms[row], square), "{} {square:?}", found_norms[row]);
            add(s as usize, square);
        }
        let found_targets = results.of::<f32>(run, target_norm);
        for (s, &found) in found_targets[..samples].iter().enumerate() {
            let square = square(d_target, projected_target, s, 2 * d);
            assert!(is_root(found, square), "{found} {square:?}");
            add(s, square);
        }
        let found = results.of::<f64>(run, squared_norm);
        for (found, &(square, terms)) in found.iter().zip(&squares) {
            assert!(*found == square || (found - square).abs() <= slack(terms), "{found} {square}");
        }
        assert!(found[samples..].iter().all(|x| x.to_bits() == UNTOUCHED_WIDE.to_bits()));
        let sum: f64 = found[..samples].iter().sum();
        let found_batch = results.of::<f64>(run, batch)[0];
        assert!(found_batch == sum || (found_batch - sum).abs() <= slack(sum), "{found_batch} {sum}");

        // From the norms on, the CPU's bits.
        let mut expected = Perturbation {
            history: projected_history.clone(),
            target: projected_target.clone(),
            history_scale: found_norms.clone(),
            target_scale: found_targets.clone(),
            squared_norm: found[..samples].to_vec(),
        };
        let sizes = Sizes { features: 1, classes: 6, d, stacks: 1 };
        let mut worker = Worker::<f32>::new(Arc::new(Layout::new(sizes)), 32, 512);
        worker.perturb(&indices.shard, norm, EPSILON.into(), &vec![found_batch], &mut expected);
        // What is infinite times no scale.
        let none = expected.history.iter_mut().filter(|x| x.is_nan());
        assert_eq!(none.map(|x| *x = 0.0).count(), usize::from(broken.is_some() && run == 0));
        let mut expected = Perturbation { history: held(element, expected.history), ..expected };
        expected.history.resize(capacity.rows * d, UNTOUCHED);
        expected.target.resize(capacity.samples * 2 * d, UNTOUCHED);
        same("history", &results.elements(run, history, element), &expected.history);
        same("target", &results.of(run, target), &expected.target);
        same("scale of the history", &results.of(run, history_scale), &expected.history_scale);
        same("scale of the target", &results.of(run, target_scale), &expected.target_scale);
        let zeros = |scales: &[f32]| scales.iter().filter(|&&scale| scale == 0.0).count();
        if norm == AdversarialNorm::Utterance && rows > 7 {
            assert!(
                zeros(&expected.history_scale[..rows]) >= rows / 7,
                "rows without a norm get no displacement"
            );
        }
    }
}

#[test]
fn norms_and_displacements() {
    let runs = unequal(&mut Random(11), 40);
    for d in [1, 33, 50, 100, 256] {
        for norm in [AdversarialNorm::Sample, AdversarialNorm::Utterance, AdversarialNorm::Batch] {
            check(&runs, d, norm);
        }
    }
    check(&least(), 50, AdversarialNorm::Sample);
}

/// A gradient that overflowed gives no displacement, and no number that is none.
#[test]
fn what_is_infinite_points_nowhere() {
    let runs = unequal(&mut Random(13), 40);
    for norm in [AdversarialNorm::Sample, AdversarialNorm::Utterance, AdversarialNorm::Batch] {
        for element in ELEMENTS {
            check_element(element, &runs, 20, norm, Some(4));
        }
    }
}

/// More rows than a block takes at once.
#[test]
fn a_long_window() {
    let conversations = [talk(&mut Random(12), 301, 2)];
    let of = |n: usize| Indices::new(&conversations, &[(0, n)], 512);
    check(&[of(300), of(128)], 10, AdversarialNorm::Sample);
    check(&[of(127), of(255)], 9, AdversarialNorm::Batch);
}
