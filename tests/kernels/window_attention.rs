//! kernels/window_attention.cu and kernels/window_attention_f32.cu

use coin::device::cuda::memory::Element;

use crate::batches::{Capacity, Indices, Places, least, talk, unequal, windows_of};
use crate::support::Random;
use crate::work::{Arg, Place, Real, Work, args, close, close_elements, held, untouched};

/// What comes back from the next stack.
#[derive(Debug, Clone, Copy, PartialEq)]
enum FromNext {
    Nothing,
    Attended,
    States,
}

/// One run's operands. P, y, a, p of the backward pass are numbers of their own: it is a function of them.
struct Inputs {
    w: Vec<f32>,
    g: Vec<f32>,
    projected: Vec<f32>,
    d_e: Vec<f32>,
    y: Vec<f32>,
    a: Vec<f32>,
    p: Vec<f32>,
    probabilities: Vec<f32>,
    from_next: Vec<f32>,
}

/// A window's operands as one precision has them.
struct Window<R> {
    n: usize,
    width: usize,
    g: Vec<R>,
    projected: Vec<R>,
}

fn of<R: Real>(x: &[f32]) -> Vec<R> {
    x.iter().map(|&x| R::of(x.into())).collect()
}

fn sum<R: Real>(terms: impl Iterator<Item = R>) -> R {
    let mut sum = R::of(0.0);
    terms.for_each(|x| sum += x);
    sum
}

impl<R: Real> Window<R> {
    fn new(inputs: &Inputs, rows: std::ops::Range<usize>, width: usize) -> Window<R> {
        let part = |all: &[f32]| of(&all[rows.start * width..rows.end * width]);
        Window { n: rows.len(), width, g: part(&inputs.g), projected: part(&inputs.projected) }
    }

    /// `scale * a b^T` by rows of 2d, softmax of each row.
    fn probabilities(&self, scale: f32) -> Vec<R> {
        let (n, width) = (self.n, self.width);
        let mut all = Vec::new();
        for i in 0..n {
            let mut row: Vec<R> = (0..n)
                .map(|j| sum((0..width).map(|c| self.projected[i * width + c] * self.g[j * width + c])))
                .collect();
            let largest = row.iter().fold(row[0], |most, &x| if x > most { x } else { most });
            row.iter_mut().for_each(|x| *x = ((*x - largest) * R::of(scale.into())).exp());
            let total = sum(row.iter().copied());
            all.extend(row.iter().map(|&x| x / total));
        }
        all
    }
}

/// Rows of `a` [.., k] times `x`.
fn dots<R: Real>(a: &[R], x: &[R]) -> Vec<R> {
    a.chunks_exact(x.len()).map(|row| sum(row.iter().zip(x).map(|(&a, &x)| a * x))).collect()
}

/// `x` times `a` [k, width].
fn sums<R: Real>(x: &[R], a: &[R], width: usize) -> Vec<R> {
    (0..width).map(|c| sum(x.iter().enumerate().map(|(i, &x)| x * a[i * width + c]))).collect()
}

fn transposed<R: Real>(a: &[R], n: usize) -> Vec<R> {
    (0..n * n).map(|at| a[at % n * n + at / n]).collect()
}

fn softmax<R: Real>(x: &[R]) -> Vec<R> {
    let largest = x.iter().fold(x[0], |most, &x| if x > most { x } else { most });
    let exps: Vec<R> = x.iter().map(|&x| (x - largest).exp()).collect();
    let total = sum(exps.iter().copied());
    exps.into_iter().map(|x| x / total).collect()
}

/// What a run's forward results have to be: of them P is given as it was found, once it is known to be right.
struct Forward<R> {
    probabilities: Vec<R>,
    y: Vec<R>,
    a: Vec<R>,
    p: Vec<R>,
    e: Vec<R>,
    attended: Vec<R>,
}

fn forward<R: Real>(
    run: &Indices,
    inputs: &Inputs,
    found: &[f32],
    width: usize,
    scale: f32,
    capacity: Capacity,
) -> Forward<R> {
    let mut result = Forward {
        probabilities: untouched(capacity.pairs),
        y: untouched(capacity.rows),
        a: untouched(capacity.rows),
        p: untouched(capacity.rows),
        e: untouched(capacity.samples * width),
        attended: untouched(capacity.rows * width),
    };
    for s in 0..run.samples() {
        let (rows, pairs) = (run.shard.range(s), run.shard.pairs(s));
        let sample = s * width..(s + 1) * width;
        if rows.is_empty() {
            result.e[sample].fill(R::of(0.0));
            continue;
        }
        let n = rows.len();
        let window = Window::<R>::new(inputs, rows.clone(), width);
        result.probabilities[pairs.clone()].copy_from_slice(&window.probabilities(scale));
        let block = of::<R>(&found[pairs]);
        let y = dots(&window.g, &of(&inputs.w[sample.clone()]));
        let a = softmax(&dots(&block, &y));
        let p = sums(&a, &block, n);
        result.e[sample].copy_from_slice(&sums(&p, &window.g, width));
        for (i, row) in rows.clone().enumerate() {
            let attended = sums(&block[i * n..][..n], &window.g, width);
            result.attended[row * width..][..width].copy_from_slice(&attended);
        }
        result.y[rows.clone()].copy_from_slice(&y);
        result.a[rows.clone()].copy_from_slice(&a);
        result.p[rows].copy_from_slice(&p);
    }
    result
}

/// What the way back has to give, and how far rounding d_S to f16, where it is, may move it.
struct Backward<R> {
    d_projected: Vec<R>,
    d_g: Vec<R>,
    d_w: Vec<R>,
    slack_projected: Vec<f64>,
    slack_g: Vec<f64>,
}

fn backward<R: Real>(
    element: Element,
    run: &Indices,
    inputs: &Inputs,
    from_next: FromNext,
    width: usize,
    scale: f32,
    capacity: Capacity,
) -> Backward<R> {
    let rows_of = capacity.rows * width;
    let mut result = Backward {
        d_projected: untouched::<R>(rows_of),
        d_g: untouched(rows_of),
        d_w: untouched(capacity.samples * width),
        slack_projected: vec![0.0; rows_of],
        slack_g: vec![0.0; rows_of],
    };
    for s in 0..run.samples() {
        let (rows, pairs) = (run.shard.range(s), run.shard.pairs(s));
        let sample = s * width..(s + 1) * width;
        if rows.is_empty() {
            result.d_w[sample].fill(R::of(0.0));
            continue;
        }
        let n = rows.len();
        let Window { g, projected, .. } = Window::<R>::new(inputs, rows.clone(), width);
        let block = of::<R>(&inputs.probabilities[pairs]);
        let [y, a, p] = [&inputs.y, &inputs.a, &inputs.p].map(|x| of::<R>(&x[rows.clone()]));
        let [d_e, w] = [&inputs.d_e, &inputs.w].map(|x| of::<R>(&x[sample.clone()]));
        let next = of::<R>(&inputs.from_next[rows.start * width..rows.end * width]);
        let d_p = dots(&g, &d_e);
        let t = dots(&block, &d_p);
        let dot = sum(a.iter().zip(&t).map(|(&a, &t)| a * t));
        let d_b: Vec<R> = a.iter().zip(&t).map(|(&a, &t)| a * (t - dot)).collect();
        let d_y = sums(&d_b, &block, n);
        let mut d_s = Vec::new();
        for i in 0..n {
            let mut row: Vec<R> = (0..n).map(|j| a[i] * d_p[j] + d_b[i] * y[j]).collect();
            if from_next == FromNext::Attended {
                for (x, more) in row.iter_mut().zip(dots(&g, &next[i * width..][..width])) {
                    *x += more;
                }
            }
            let p_row = &block[i * n..][..n];
            let dot = sum(p_row.iter().zip(&row).map(|(&p, &d)| p * d));
            d_s.extend(p_row.iter().zip(&row).map(|(&p, &d)| R::of(scale.into()) * p * (d - dot)));
        }
        let rounding = |x: &R| match element {
            // Half a unit in f16's last place.
            Element::Half => (x.wide().abs() * 2f64.powi(-11)).max(2f64.powi(-25)),
            _ => 0.0,
        };
        let slack: Vec<f64> = d_s.iter().map(rounding).collect();
        let magnitude = |x: &[R]| -> Vec<f64> { x.iter().map(|x| x.wide().abs()).collect() };
        let (d_s_t, block_t, slack_t) = (transposed(&d_s, n), transposed(&block, n), transposed(&slack, n));
        for i in 0..n {
            let at = (rows.start + i) * width;
            let line = i * n..(i + 1) * n;
            result.d_projected[at..][..width].copy_from_slice(&sums(&d_s[line.clone()], &g, width));
            result.slack_projected[at..][..width].copy_from_slice(&sums(
                &slack[line.clone()],
                &magnitude(&g),
                width,
            ));
            let mut d_g = sums(&d_s_t[line.clone()], &projected, width);
            for c in 0..width {
                d_g[c] += p[i] * d_e[c] + d_y[i] * w[c];
                if from_next == FromNext::States {
                    d_g[c] += next[i * width + c];
                }
            }
            if from_next == FromNext::Attended {
                let more = sums(&block_t[line.clone()], &next, width);
                d_g.iter_mut().zip(more).for_each(|(x, more)| *x += more);
            }
            result.d_g[at..][..width].copy_from_slice(&d_g);
            result.slack_g[at..][..width].copy_from_slice(&sums(
                &slack_t[line],
                &magnitude(&projected),
                width,
            ));
        }
        result.d_w[sample].copy_from_slice(&sums(&d_y, &g, width));
    }
    result
}

/// As [`close_elements`], with so much more for each element.
#[track_caller]
fn close_with(element: Element, what: &str, found: &[f32], exact: &[f64], plain: &[f32], slack: &[f64]) {
    // Moved by the slack towards what is exact, it has to be as near as anything else.
    let moved = found.iter().zip(exact).zip(slack).map(|((&found, &exact), &slack)| {
        let off = f64::from(found) - exact;
        if off.abs() <= slack { exact as f32 } else { found - (off.signum() * slack) as f32 }
    });
    let moved: Vec<f32> = moved
        .zip(found)
        .zip(exact)
        .map(|((moved, &found), exact)| if exact.is_nan() { found } else { moved })
        .collect();
    close_elements(element, what, &moved, exact, plain);
}

/// A kernel and its module, threads of a block and the bytes of shared memory that it takes.
struct Kernel {
    kernel: (&'static str, &'static str),
    block: (usize, usize),
}

/// In mixed precision, there and back.
fn halves(d: usize, longest: usize) -> [Kernel; 2] {
    let names = match d % 4 {
        0 => ["window_attention_f16_8", "window_attention_backward_f16_8"],
        2 => ["window_attention_f16_4", "window_attention_backward_f16_4"],
        _ => ["window_attention_f16_2", "window_attention_backward_f16_2"],
    };
    let tiles = longest.div_ceil(16);
    let m = 16 * tiles;
    let shared =
        [416 * m + 2 * m * (m + 8) + 4 * (104 + 5 * m), 416 * m + 4 * m * (m + 8) + 4 * (208 + 5 * m)];
    [0, 1].map(|i| Kernel { kernel: ("window_attention", names[i]), block: (64 * tiles, shared[i]) })
}

/// In float32.
fn words(d: usize, history_length: usize, longest: usize) -> [Kernel; 2] {
    let names = match history_length {
        ..=40 => ["window_attention_f32_40", "window_attention_backward_f32_40"],
        _ => ["window_attention_f32_64", "window_attention_backward_f32_64"],
    };
    let m = longest.next_multiple_of(8);
    let (l, w) = ((m + 4).max(52), (2 * d).next_multiple_of(4));
    let shared = [4 * (m * (l + 52 + m + 4 + 7) + w), 4 * (m * (2 * l + m + 4 + 6) + w)];
    [0, 1].map(|i| Kernel { kernel: ("window_attention_f32", names[i]), block: (256, shared[i]) })
}

fn check(element: Element, runs: &[Indices; 2], d: usize, magnitude: f32, from_next: FromNext) {
    check_among(element, 0, runs, d, magnitude, from_next);
}

/// The same where windows may be as long as `history_length`, though none is.
fn check_among(
    element: Element,
    history_length: usize,
    runs: &[Indices; 2],
    d: usize,
    magnitude: f32,
    from_next: FromNext,
) {
    let width = 2 * d;
    let scale = 1.0 / (d as f32).sqrt();
    let mut random = Random(1000 + d as u64);
    let mut work = Work::default();
    let places = Places::new(&mut work, runs, None);
    let capacity = places.capacity;
    let inputs = [0, 1].map(|run| {
        let (rows, samples) = (runs[run].rows(), runs[run].samples());
        Inputs {
            w: random.floats(samples * width, (1.0 / d as f32).sqrt()),
            g: held(element, random.floats(rows * width, 1.0)),
            projected: held(element, random.floats(rows * width, magnitude)),
            d_e: random.floats(samples * width, 1.0),
            y: random.floats(rows, 1.0),
            a: random.floats(rows, 0.5),
            p: random.floats(rows, 0.5),
            probabilities: held(element, random.floats(runs[run].pairs(), 0.2)),
            from_next: held(element, random.floats(rows * width, 1.0)),
        }
    });
    let Capacity { rows, samples, pairs, longest, .. } = capacity;
    let both = |of: fn(&Inputs) -> &Vec<f32>| [&of(&inputs[0])[..], &of(&inputs[1])[..]];
    let g = work.elements(element, rows * width, both(|inputs| &inputs.g));
    let projected = work.elements(element, rows * width, both(|inputs| &inputs.projected));
    let given = work.elements(element, pairs, both(|inputs| &inputs.probabilities));
    let next = work.elements(element, rows * width, both(|inputs| &inputs.from_next));
    let w = work.buffer(samples * width, both(|inputs| &inputs.w));
    let d_e = work.buffer(samples * width, both(|inputs| &inputs.d_e));
    let saved = [
        work.buffer(rows, both(|inputs| &inputs.y)),
        work.buffer(rows, both(|inputs| &inputs.a)),
        work.buffer(rows, both(|inputs| &inputs.p)),
    ];
    let probabilities = work.output_elements(element, pairs);
    let attended = work.output_elements(element, rows * width);
    let [e, d_w] = [0; 2].map(|_| work.output(samples * width));
    let [y, a, p] = [0; 3].map(|_| work.output(rows));
    let [d_projected, d_g] = [0; 2].map(|_| work.output_elements(element, rows * width));

    let (starts, offset, header) = (places.pairs, places.offset, places.header);
    let [there, back] = match element {
        Element::Half => halves(d, longest),
        _ => words(d, longest.max(history_length), longest),
    };
    let has_attended = from_next == FromNext::Attended;
    let only = |is: bool, place: Place| if is { Arg::At(place) } else { Arg::Null };
    let mut arguments = args![probabilities];
    arguments.push(only(has_attended, attended));
    arguments.extend(args![e, y, a, p, w, g, projected, starts, offset, header, scale, width]);
    work.launch(there.kernel, [samples, 1], there.block, arguments);
    let mut arguments = args![d_projected, d_g, d_w, d_e];
    arguments.push(only(has_attended, next));
    arguments.push(only(from_next == FromNext::States, next));
    arguments.extend(args![
        saved[0], saved[1], saved[2], w, g, projected, given, starts, offset, header, scale, width
    ]);
    work.launch(back.kernel, [samples, 1], back.block, arguments);
    let results = work.check();
    if d.is_multiple_of(4) && pairs > 1000 {
        results.coalesced();
        if element == Element::Word {
            results.shared_passes(1.0, if d < 50 { 1.0 } else { 0.55 });
        }
    }
    let found = [0, 1].map(|run| results.elements(run, probabilities, element));
    // Both runs' values together: of the few of a short window the plain computation hits some by luck.
    let of_run = |run: usize| (&runs[run], &inputs[run], &found[run][..]);
    let exact = [0, 1]
        .map(of_run)
        .map(|(run, inputs, found)| forward::<f64>(run, inputs, found, width, scale, capacity));
    let plain = [0, 1]
        .map(of_run)
        .map(|(run, inputs, found)| forward::<f32>(run, inputs, found, width, scale, capacity));
    let joined =
        |place: Place, element: Element| [0, 1].map(|run| results.elements(run, place, element)).concat();
    macro_rules! compare {
        ($name:ident, $element:expr) => {
            let exact = exact.each_ref().map(|expected| &expected.$name[..]).concat();
            let plain = plain.each_ref().map(|expected| &expected.$name[..]).concat();
            close_elements($element, stringify!($name), &joined($name, $element), &exact, &plain);
        };
    }
    compare!(probabilities, element);
    compare!(y, Element::Word);
    compare!(a, Element::Word);
    compare!(p, Element::Word);
    compare!(e, Element::Word);
    if has_attended {
        compare!(attended, element);
    }
    let exact = [0, 1]
        .map(of_run)
        .map(|(run, inputs, _)| backward::<f64>(element, run, inputs, from_next, width, scale, capacity));
    let plain = [0, 1]
        .map(of_run)
        .map(|(run, inputs, _)| backward::<f32>(element, run, inputs, from_next, width, scale, capacity));
    macro_rules! compare_back {
        ($name:ident, $slack:ident) => {
            let slack = exact.each_ref().map(|expected| &expected.$slack[..]).concat();
            let exact = exact.each_ref().map(|expected| &expected.$name[..]).concat();
            let plain = plain.each_ref().map(|expected| &expected.$name[..]).concat();
            close_with(element, stringify!($name), &joined($name, element), &exact, &plain, &slack);
        };
    }
    compare_back!(d_projected, slack_projected);
    compare_back!(d_g, slack_g);
    let exact = exact.each_ref().map(|expected| &expected.d_w[..]).concat();
    let plain = plain.each_ref().map(|expected| &expected.d_w[..]).concat();
    close("d_w", &joined(d_w, Element::Word), &exact, &plain);
}

const WAYS: [FromNext; 3] = [FromNext::Attended, FromNext::Nothing, FromNext::States];

/// Widths of one chunk of columns, of several, around a chunk's end, and of rows aligned to 4, 8 and 16 bytes.
fn every_width(element: Element) {
    let runs = unequal(&mut Random(11), 40);
    for (d, from_next) in [1, 2, 25, 26, 27, 33, 50, 51, 52, 53, 100, 104, 105, 150, 256]
        .into_iter()
        .zip(WAYS.into_iter().cycle())
    {
        check(element, &runs, d, 1.0, from_next);
    }
    for from_next in WAYS {
        check(element, &runs, 100, 1.0, from_next);
        check(element, &least(), 50, 1.0, from_next);
    }
    // Scores so far apart that all but one vanish.
    check(element, &runs, 50, 100.0, FromNext::Attended);
}

/// Lengths around a fragment of keys and a tile's rows, up to the longest, with one chunk of columns and with several.
fn every_length(element: Element) {
    let conversations = [talk(&mut Random(12), 65, 2)];
    let of = |lengths: &[usize]| windows_of(&conversations, lengths, 64);
    check(
        element,
        &[of(&[64, 63, 57, 56, 55, 49, 48, 47]), of(&[41, 40, 39, 33, 32])],
        50,
        1.0,
        FromNext::Attended,
    );
    check(
        element,
        &[of(&[31, 25, 24, 23, 17, 16, 15, 9, 8, 7]), of(&[5, 4, 3, 2, 1, 0])],
        50,
        1.0,
        FromNext::Attended,
    );
    for longest in [8, 16, 17, 32, 40, 48] {
        let all: Vec<usize> = (0..=longest).collect();
        check(element, &[of(&all), of(&all[..longest / 2 + 4])], 20, 1.0, WAYS[longest % 3]);
    }
    for (d, from_next) in [100, 101, 102, 256].into_iter().zip(WAYS.into_iter().cycle()) {
        check(element, &[of(&[63, 49, 16, 0]), of(&[64, 56, 57, 1])], d, 1.0, from_next);
        check(element, &[of(&[31, 20, 16, 2]), of(&[32, 24, 17])], d, 1.0, from_next);
        check(element, &[of(&[15, 7, 14, 2]), of(&[16, 8, 9])], d, 1.0, from_next);
    }
}

#[test]
fn windows_of_every_width_in_mixed_precision() {
    every_width(Element::Half);
}

#[test]
fn windows_of_every_width_in_float32() {
    every_width(Element::Word);
}

#[test]
fn windows_of_every_length_in_mixed_precision() {
    every_length(Element::Half);
}

/// Their shared memory has room for no more than there are.
#[test]
fn short_windows_where_long_ones_may_be() {
    let conversations = [talk(&mut Random(13), 24, 2)];
    let of = |lengths: &[usize]| windows_of(&conversations, lengths, 64);
    for (longest, from_next) in [1, 8, 17, 20].into_iter().zip(WAYS.into_iter().cycle()) {
        check_among(Element::Word, 64, &[of(&[longest, longest / 2]), of(&[longest, 0])], 50, 1.0, from_next);
    }
}

#[test]
fn windows_of_every_length_in_float32() {
    every_length(Element::Word);
}
