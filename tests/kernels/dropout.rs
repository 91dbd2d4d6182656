//! kernels/dropout.cu: bit for bit the masks of the CPU.

use std::sync::Arc;

use coin::ops::cpu::Worker;
use coin::ops::dropout::{Dropout, Mask, Pass, Site};
use coin::ops::parameters::{Layout, Sizes};
use coin::random::philox4x32;

use crate::batches::{Indices, Places, least, mask, unequal};
use crate::support::Random;
use coin::device::cuda::memory::Element;

use crate::work::{ELEMENTS, UNTOUCHED, Work, args, held, of_element, same};

/// The factor of one value: 0 where it is dropped. `row` is counted from its sample's first.
pub fn factor(mask: Option<&Mask>, word: u32, target: u32, row: usize, width: usize, column: usize) -> f32 {
    let Some((mask, threshold)) = mask.and_then(|mask| Some((mask, mask.threshold()?))) else { return 1.0 };
    let block = row * width.div_ceil(4) + column / 4;
    let words = philox4x32([block as u32, target, mask.step as u32, word], mask.key());
    if words[column % 4] < threshold { (1.0 / mask.keep) as f32 } else { 0.0 }
}

/// The CPU's operation.
fn by_cpu(run: &Indices, mask: &Mask, site: Site, width: usize, values: &[f32]) -> Vec<f32> {
    let sizes = Sizes { features: 1, classes: 6, d: width / 2, stacks: 1 };
    let mut worker = Worker::<f32>::new(Arc::new(Layout::new(sizes)), 32, 64);
    let mut values = values.to_vec();
    worker.dropout(&run.shard, mask, site, &mut values);
    values
}

fn check(runs: &[Indices; 2], d: usize, mask: &Mask, site: Site, in_place: bool) {
    for element in ELEMENTS {
        check_element(element, runs, d, mask, site, in_place);
    }
}

fn check_element(element: Element, runs: &[Indices; 2], d: usize, mask: &Mask, site: Site, in_place: bool) {
    let width = 2 * d;
    let by_sample = site == Site::Classifier;
    let mut random = Random(d as u64);
    let mut work = Work::default();
    let places = Places::new(&mut work, runs, Some(mask));
    let count = |run: usize| if by_sample { runs[run].samples() } else { runs[run].rows() };
    let capacity = if by_sample { places.capacity.samples } else { places.capacity.rows };
    let values = [0, 1].map(|run| held(element, random.floats(count(run) * width, 3.0)));
    let from = work.elements(element, capacity * width, [&values[0], &values[1]]);
    let to = if in_place { from } else { work.output_elements(element, capacity * width) };
    work.launch(
        ("dropout", of_element("dropout", element)),
        [(capacity * width.div_ceil(4)).div_ceil(256), 1],
        (256, 0),
        args![
            to,
            from,
            places.target,
            places.offset,
            places.owner,
            places.header,
            mask.word(site) as usize,
            usize::from(by_sample),
            width
        ],
    );
    let results = work.check();
    if width.is_multiple_of(4) {
        results.coalesced();
    }
    for run in 0..2 {
        let mut expected = held(element, by_cpu(&runs[run], mask, site, width, &values[run]));
        let mut found = results.elements(run, to, element);
        if in_place {
            found.truncate(expected.len());
        } else {
            expected.resize(capacity * width, UNTOUCHED);
        }
        same("dropout", &found, &expected);
    }
}

#[test]
fn masks_are_the_cpus() {
    let runs = unequal(&mut Random(3), 40);
    for (step, d) in [1, 33, 50, 100, 256].into_iter().enumerate() {
        let mask = mask(step as u64);
        check(&runs, d, &mask, Site::Interaction, false);
        check(&runs, d, &mask, Site::Context(step), true);
        check(&runs, d, &mask, Site::Classifier, step % 2 == 0);
    }
    check(&least(), 50, &mask(9), Site::Interaction, false);
    check(&least(), 50, &mask(9), Site::Classifier, false);
}

#[test]
fn extremes_of_keep() {
    let runs = unequal(&mut Random(3), 12);
    // Everything is kept, next to nothing is dropped (its scale rounds to 1), next to everything is.
    for keep in [1.0, 1.0 - 1e-9, 1e-3] {
        let mask = Mask { seed: 5, step: 1 << 33, pass: Pass::Clean, keep };
        check(&runs, 50, &mask, Site::Context(2), false);
        check(&runs, 50, &mask, Site::Classifier, true);
    }
}

/// A keep so near to 1 that its scale is 1 in f32, and still it drops: a step at which it does in the window of 40.
#[test]
fn a_scale_of_one_may_drop() {
    let runs = unequal(&mut Random(3), 40);
    let mask = Mask { seed: 5, step: 1092, pass: Pass::Clean, keep: 1.0 - f64::powi(0.5, 26) };
    let ones = vec![1.0; runs[0].rows() * 100];
    let masked = by_cpu(&runs[0], &mask, Site::Context(2), 100, &ones);
    assert!(masked.iter().all(|&x| x == 0.0 || x == 1.0) && masked.contains(&0.0));
    check(&runs, 50, &mask, Site::Context(2), true);
}
