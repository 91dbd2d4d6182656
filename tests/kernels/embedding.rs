//! kernels/embedding.cu

use coin::device::cuda::memory::Element;

use crate::batches::{Indices, Places, least, unequal};
use crate::support::Random;
use crate::work::{ELEMENTS, Real, Work, args, close, held, of_element, same, untouched};

/// Widths of an embedding: every alignment of a row, and the widest.
const WIDTHS: [usize; 5] = [1, 33, 50, 100, 256];

fn gather(runs: &[Indices; 2], d: usize, displaced: bool) {
    for element in ELEMENTS {
        gather_element(element, runs, d, displaced);
    }
}

fn gather_element(element: Element, runs: &[Indices; 2], d: usize, displaced: bool) {
    let mut random = Random(d as u64);
    let mut work = Work::default();
    let places = Places::new(&mut work, runs, None);
    let capacity = places.capacity;
    let mut floats = |count: fn(&Indices) -> usize, width: usize| {
        [0, 1].map(|run| random.floats(count(&runs[run]) * width, 1.0))
    };
    let table = floats(Indices::distinct, d);
    let targets = floats(Indices::samples, 2 * d);
    let shift_x = floats(Indices::rows, d).map(|shift| held(element, shift));
    let shift_q = floats(Indices::samples, 2 * d);
    let x = work.output_elements(element, capacity.rows * d);
    let q = work.output(capacity.samples * 2 * d);
    let at_shift_x = displaced.then(|| work.elements(element, capacity.rows * d, [&shift_x[0], &shift_x[1]]));
    let mut input =
        |capacity: usize, contents: &[Vec<f32>; 2]| work.buffer(capacity, [&contents[0], &contents[1]]);
    let at_table = input(capacity.distinct * d, &table);
    let at_targets = input(capacity.samples * 2 * d, &targets);
    let at_shift_q = displaced.then(|| input(capacity.samples * 2 * d, &shift_q));
    let items = (capacity.rows * d.div_ceil(4)).max(capacity.samples * (2 * d).div_ceil(4));
    work.launch(
        ("embedding", of_element("embedding_gather", element)),
        [items.div_ceil(256), 2],
        (256, 0),
        args![x, q, at_table, at_targets, at_shift_x, at_shift_q, places.embedded, places.header, d],
    );
    let results = work.check();
    if d.is_multiple_of(4) {
        results.coalesced();
    }
    for (run, indices) in runs.iter().enumerate() {
        // One addition: there is nothing to be off by.
        let mut expected = vec![crate::work::UNTOUCHED; capacity.rows * d];
        for (row, &utterance) in indices.shard.embedded.iter().enumerate() {
            for column in 0..d {
                let shift = if displaced { shift_x[run][row * d + column] } else { 0.0 };
                expected[row * d + column] = table[run][utterance as usize * d + column] + shift;
            }
        }
        same("x", &results.elements(run, x, element), &held(element, expected));
        let mut expected = vec![crate::work::UNTOUCHED; capacity.samples * 2 * d];
        for (i, &target) in targets[run].iter().enumerate() {
            expected[i] = target + if displaced { shift_q[run][i] } else { 0.0 };
        }
        same("q", &results.of(run, q), &expected);
    }
}

#[test]
fn rows_gather_their_utterances() {
    let runs = unequal(&mut Random(1), 40);
    for d in WIDTHS {
        gather(&runs, d, true);
    }
    gather(&runs, 100, false);
    gather(&least(), 50, true);
}

fn scatter(runs: &[Indices; 2], d: usize, two: bool) {
    for element in ELEMENTS {
        scatter_element(element, runs, d, two);
    }
}

fn scatter_element(element: Element, runs: &[Indices; 2], d: usize, two: bool) {
    let mut random = Random(d as u64);
    let mut work = Work::default();
    let places = Places::new(&mut work, runs, None);
    let capacity = places.capacity;
    let mut floats = || [0, 1].map(|run| held(element, random.floats(runs[run].rows() * d, 1.0)));
    let (d_x, second) = (floats(), floats());
    let delta = work.output(capacity.distinct * d);
    let at_d_x = work.elements(element, capacity.rows * d, [&d_x[0], &d_x[1]]);
    let at_second = two.then(|| work.elements(element, capacity.rows * d, [&second[0], &second[1]]));
    work.launch(
        ("embedding", of_element("embedding_scatter", element)),
        [(capacity.distinct * d.div_ceil(4)).div_ceil(256), 1],
        (256, 0),
        args![delta, at_d_x, at_second, places.utterance_start, places.utterance_rows, places.header, d],
    );
    let results = work.check();
    if d.is_multiple_of(4) {
        results.coalesced();
    }
    fn sums<R: Real>(run: &Indices, d: usize, capacity: usize, from: &[&[f32]]) -> Vec<R> {
        let mut sums = untouched(capacity * d);
        sums[..run.distinct() * d].fill(R::of(0.0));
        for (row, &utterance) in run.shard.embedded.iter().enumerate() {
            for column in 0..d {
                for from in from {
                    sums[utterance as usize * d + column] += R::of(from[row * d + column].into());
                }
            }
        }
        sums
    }
    for (run, indices) in runs.iter().enumerate() {
        let from = [&d_x[run][..], &second[run]];
        let from = &from[..1 + usize::from(two)];
        let exact = sums::<f64>(indices, d, capacity.distinct, from);
        let plain = sums::<f32>(indices, d, capacity.distinct, from);
        close("delta", &results.of(run, delta), &exact, &plain);
    }
}

#[test]
fn gradients_are_summed_by_utterance() {
    let runs = unequal(&mut Random(2), 40);
    for d in WIDTHS {
        scatter(&runs, d, true);
    }
    scatter(&runs, 100, false);
    scatter(&least(), 50, true);
}
