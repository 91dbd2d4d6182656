//! kernels/attention.cu

use coin::device::cuda::memory::Element;

use crate::batches::{Indices, Places, least, talk, unequal, windows_of};
use crate::support::Random;
use crate::work::{ELEMENTS, Real, UNTOUCHED, Work, args, close_elements, held, of_element, same, untouched};

/// Softmax of every row, and what it makes of a gradient.
fn reference<R: Real>(
    run: &Indices,
    capacity: usize,
    scores: &[f32],
    p: &[f32],
    d: &[f32],
    scale: f32,
) -> [Vec<R>; 2] {
    let [mut softmax, mut backward] = [untouched(capacity), untouched(capacity)];
    let of = |x: f32| R::of(x.into());
    for s in 0..run.samples() {
        let n = run.n(s);
        for start in run.shard.pairs(s).step_by(n.max(1)) {
            let range = start..start + n;
            let largest = scores[range.clone()].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = R::of(0.0);
            for i in range.clone() {
                let x = (of(scores[i]) - of(largest)) * of(scale);
                softmax[i] = R::of(x.wide().max(-87.0)).exp();
                sum += softmax[i];
            }
            let inverse = R::of(1.0) / sum;
            let mut dot = R::of(0.0);
            for i in range.clone() {
                softmax[i] = softmax[i] * inverse;
                dot += of(p[i]) * of(d[i]);
            }
            for i in range {
                backward[i] = of(scale) * of(p[i]) * (of(d[i]) - dot);
            }
        }
    }
    [softmax, backward]
}

fn check(runs: &[Indices; 2], magnitude: f32, scale: f32) {
    for element in ELEMENTS {
        check_element(element, runs, magnitude, scale);
    }
}

fn check_element(element: Element, runs: &[Indices; 2], magnitude: f32, scale: f32) {
    let mut random = Random(runs[0].pairs() as u64);
    let mut work = Work::default();
    let places = Places::new(&mut work, runs, None);
    let pairs = places.capacity.pairs;
    let mut floats = |scale: f32| [0, 1].map(|run| held(element, random.floats(runs[run].pairs(), scale)));
    let scores = floats(magnitude);
    let p = floats(0.5);
    let d = floats(1.0);
    // In place, and untouched behind the last block.
    let mut inplace = |contents: &[Vec<f32>; 2]| {
        let filled = contents.each_ref().map(|contents| {
            let mut filled = contents.clone();
            filled.resize(pairs, UNTOUCHED);
            filled
        });
        work.elements(element, pairs, [&filled[0], &filled[1]])
    };
    let (at_scores, at_d) = (inplace(&scores), inplace(&d));
    let at_p = work.elements(element, pairs, [&p[0], &p[1]]);
    let grid = [places.capacity.rows.div_ceil(8), 1];
    let Places { pairs: starts, offset, owner, header, .. } = places;
    work.launch(
        ("attention", of_element("softmax_rows", element)),
        grid,
        (256, 0),
        args![at_scores, starts, offset, owner, header, scale],
    );
    work.launch(
        ("attention", of_element("softmax_rows_backward", element)),
        grid,
        (256, 0),
        args![at_d, at_p, starts, offset, owner, header, scale],
    );
    let results = work.check();
    for (run, indices) in runs.iter().enumerate() {
        let exact = reference::<f64>(indices, pairs, &scores[run], &p[run], &d[run], scale);
        let plain = reference::<f32>(indices, pairs, &scores[run], &p[run], &d[run], scale);
        let [found, found_d] = [at_scores, at_d].map(|place| results.elements(run, place, element));
        close_elements(element, "probabilities", &found, &exact[0], &plain[0]);
        close_elements(element, "d", &found_d, &exact[1], &plain[1]);
        // Above 0 whatever the scores, where the element has numbers that small.
        assert!(element == Element::Half || found[..indices.pairs()].iter().all(|&p| p > 0.0));
    }
}

#[test]
fn ragged_rows() {
    let random = &mut Random(6);
    check(&unequal(random, 40), 20.0, 0.1);
    // Scores so far apart that all but one would vanish.
    check(&unequal(random, 40), 1e4, 1.0);
    check(&least(), 1.0, 0.3);
}

/// The lengths around what lanes and registers hold, and the longest.
#[test]
fn rows_up_to_the_longest() {
    let conversations = [talk(&mut Random(7), 513, 2)];
    let around = |lengths: &[usize]| windows_of(&conversations, lengths, 512);
    check(&[around(&[31, 32, 33, 64, 65, 127]), around(&[128, 129])], 8.0, 0.5);
    check(&[around(&[512]), around(&[2])], 8.0, 0.5);
}

#[test]
fn rows_are_added() {
    let runs = unequal(&mut Random(8), 40);
    for (element, width) in ELEMENTS.into_iter().flat_map(|e| [2, 66, 100, 200, 512].map(|width| (e, width)))
    {
        let mut random = Random(width as u64);
        let mut work = Work::default();
        let places = Places::new(&mut work, &runs, None);
        let capacity = places.capacity.rows * width;
        let from = [0, 1].map(|run| held(element, random.floats(runs[run].rows() * width, 1.0)));
        let before = [0, 1].map(|_| held(element, random.floats(capacity, 1.0)));
        let to = work.elements(element, capacity, [&before[0], &before[1]]);
        let at_from = work.elements(element, capacity, [&from[0], &from[1]]);
        work.launch(
            ("attention", of_element("add_rows", element)),
            [capacity.div_ceil(1024), 1],
            (256, 0),
            args![to, at_from, places.header, width],
        );
        let results = work.check();
        for run in 0..2 {
            let mut expected = before[run].clone();
            expected.iter_mut().zip(&from[run]).for_each(|(to, from)| *to += from);
            same("sum", &results.elements(run, to, element), &held(element, expected));
        }
    }
}
