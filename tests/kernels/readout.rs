//! kernels/readout.cu

use coin::device::cuda::memory::Element;

use crate::batches::{Capacity, Indices, Places, least, talk, unequal};
use crate::support::Random;
use crate::work::{ELEMENTS, Real, Work, args, close_elements, held, of_element, untouched};

/// One run's operands. y, a, p of the backward pass are numbers of their own: it is a function of them.
struct Inputs {
    w: Vec<f32>,
    g: Vec<f32>,
    probabilities: Vec<f32>,
    d_e: Vec<f32>,
    y: Vec<f32>,
    a: Vec<f32>,
    p: Vec<f32>,
}

struct Expected<R> {
    e: Vec<R>,
    y: Vec<R>,
    a: Vec<R>,
    p: Vec<R>,
    d_probabilities: Vec<R>,
    d_g: Vec<R>,
    d_w: Vec<R>,
}

fn of<R: Real>(x: &[f32]) -> Vec<R> {
    x.iter().map(|&x| R::of(x.into())).collect()
}

/// Rows of `a` times x.
fn dots<R: Real>(a: &[R], x: &[R]) -> Vec<R> {
    let dot = |row: &[R]| {
        let mut sum = R::of(0.0);
        row.iter().zip(x).for_each(|(&a, &x)| sum += a * x);
        sum
    };
    a.chunks_exact(x.len()).map(dot).collect()
}

/// x times `a` of this width.
fn sums<R: Real>(a: &[R], x: &[R], width: usize) -> Vec<R> {
    let mut sums = vec![R::of(0.0); width];
    for (row, &x) in a.chunks_exact(width).zip(x) {
        sums.iter_mut().zip(row).for_each(|(sum, &a)| *sum += x * a);
    }
    sums
}

fn expected<R: Real>(run: &Indices, inputs: &Inputs, width: usize, capacity: Capacity) -> Expected<R> {
    let mut result = Expected {
        e: untouched(capacity.samples * width),
        y: untouched(capacity.rows),
        a: untouched(capacity.rows),
        p: untouched(capacity.rows),
        d_probabilities: untouched(capacity.pairs),
        d_g: untouched(capacity.rows * width),
        d_w: untouched::<R>(capacity.samples * width),
    };
    for s in 0..run.samples() {
        let (rows, pairs) = (run.shard.range(s), run.shard.pairs(s));
        let sample = s * width..(s + 1) * width;
        if rows.is_empty() {
            result.e[sample.clone()].fill(R::of(0.0));
            result.d_w[sample].fill(R::of(0.0));
            continue;
        }
        let n = rows.len();
        let block = of::<R>(&inputs.probabilities[pairs.clone()]);
        let g = of::<R>(&inputs.g[rows.start * width..rows.end * width]);
        let w = of::<R>(&inputs.w[sample.clone()]);
        let y = dots(&g, &w);
        let mut a = dots(&block, &y);
        let largest = a.iter().fold(a[0], |most, &x| if x > most { x } else { most });
        a.iter_mut().for_each(|x| *x = (*x - largest).exp());
        let mut sum = R::of(0.0);
        a.iter().for_each(|&x| sum += x);
        a.iter_mut().for_each(|x| *x = *x / sum);
        let p = sums(&block, &a, n);
        result.e[sample.clone()].copy_from_slice(&sums(&g, &p, width));
        result.y[rows.clone()].copy_from_slice(&y);
        result.a[rows.clone()].copy_from_slice(&a);
        result.p[rows.clone()].copy_from_slice(&p);

        let [y, a, p] = [&inputs.y, &inputs.a, &inputs.p].map(|x| of::<R>(&x[rows.clone()]));
        let d_e = of::<R>(&inputs.d_e[sample.clone()]);
        let d_p = dots(&g, &d_e);
        let t = dots(&block, &d_p);
        let mut dot = R::of(0.0);
        a.iter().zip(&t).for_each(|(&a, &t)| dot += a * t);
        let d_b: Vec<R> = a.iter().zip(&t).map(|(&a, &t)| a * (t - dot)).collect();
        let d_y = sums(&block, &d_b, n);
        for i in 0..n {
            for j in 0..n {
                result.d_probabilities[pairs.start + i * n + j] = a[i] * d_p[j] + d_b[i] * y[j];
            }
            for c in 0..width {
                result.d_g[(rows.start + i) * width + c] = p[i] * d_e[c] + d_y[i] * w[c];
            }
        }
        result.d_w[sample].copy_from_slice(&sums(&g, &d_y, width));
    }
    result
}

fn check(runs: &[Indices; 2], d: usize) {
    for element in ELEMENTS {
        check_element(element, runs, d);
    }
}

fn check_element(element: Element, runs: &[Indices; 2], d: usize) {
    let width = 2 * d;
    let mut random = Random(d as u64);
    let mut work = Work::default();
    let places = Places::new(&mut work, runs, None);
    let capacity = places.capacity;
    let inputs = [0, 1].map(|run| {
        let (rows, samples) = (runs[run].rows(), runs[run].samples());
        Inputs {
            w: random.floats(samples * width, (1.0 / d as f32).sqrt()),
            g: held(element, random.floats(rows * width, 1.0)),
            probabilities: held(element, random.floats(runs[run].pairs(), 0.2)),
            d_e: random.floats(samples * width, 1.0),
            y: random.floats(rows, 1.0),
            a: random.floats(rows, 0.5),
            p: random.floats(rows, 0.5),
        }
    });
    let Capacity { rows, samples, pairs, longest, .. } = capacity;
    let mut by_row = |capacity: usize, of: fn(&Inputs) -> &Vec<f32>| {
        work.elements(element, capacity, [of(&inputs[0]), of(&inputs[1])])
    };
    let g = by_row(rows * width, |inputs| &inputs.g);
    let probabilities = by_row(pairs, |inputs| &inputs.probabilities);
    let mut input = |capacity: usize, of: fn(&Inputs) -> &Vec<f32>| {
        work.buffer(capacity, [of(&inputs[0]), of(&inputs[1])])
    };
    let w = input(samples * width, |inputs| &inputs.w);
    let d_e = input(samples * width, |inputs| &inputs.d_e);
    let saved =
        [input(rows, |inputs| &inputs.y), input(rows, |inputs| &inputs.a), input(rows, |inputs| &inputs.p)];
    let e = work.output(samples * width);
    let [y, a, p] = [0; 3].map(|_| work.output(rows));
    let d_probabilities = work.output_elements(element, pairs);
    let d_g = work.output_elements(element, rows * width);
    let d_w = work.output(samples * width);
    let padded = width.next_multiple_of(4);
    let partial = 8 * longest.max(padded);
    let (starts, offset, header) = (places.pairs, places.offset, places.header);
    work.launch(
        ("readout", of_element("readout", element)),
        [samples, 1],
        (256, 4 * (padded + partial + 3 * longest)),
        args![e, y, a, p, w, g, probabilities, starts, offset, header, width, longest],
    );
    work.launch(
        ("readout", of_element("readout_backward", element)),
        [samples, 1],
        (256, 4 * (2 * padded + partial + 6 * longest)),
        args![
            d_probabilities,
            d_g,
            d_w,
            d_e,
            saved[0],
            saved[1],
            saved[2],
            w,
            g,
            probabilities,
            starts,
            offset,
            header,
            width,
            longest
        ],
    );
    let results = work.check();
    if d.is_multiple_of(4) {
        results.coalesced();
    }
    // Both runs' values together: of the few of a short window the plain computation hits some by luck.
    let exact = [0, 1].map(|run| expected::<f64>(&runs[run], &inputs[run], width, capacity));
    let plain = [0, 1].map(|run| expected::<f32>(&runs[run], &inputs[run], width, capacity));
    macro_rules! compare {
        ($name:literal, $place:expr, $field:ident, $element:expr) => {
            let found = [0, 1].map(|run| results.elements(run, $place, $element)).concat();
            let exact = exact.each_ref().map(|expected| &expected.$field[..]).concat();
            let plain = plain.each_ref().map(|expected| &expected.$field[..]).concat();
            close_elements($element, $name, &found, &exact, &plain);
        };
    }
    compare!("y", y, y, Element::Word);
    compare!("a", a, a, Element::Word);
    compare!("p", p, p, Element::Word);
    compare!("e", e, e, Element::Word);
    compare!("d_probabilities", d_probabilities, d_probabilities, element);
    compare!("d_g", d_g, d_g, element);
    compare!("d_w", d_w, d_w, Element::Word);
}

#[test]
fn windows_of_every_kind() {
    let runs = unequal(&mut Random(9), 40);
    for d in [1, 33, 50, 100, 256] {
        check(&runs, d);
    }
    check(&least(), 50);
}

#[test]
fn the_longest_window() {
    let conversations = [talk(&mut Random(10), 513, 2)];
    let of = |n: usize| Indices::new(&conversations, &[(0, n)], 512);
    check(&[of(512), of(129)], 256);
}
