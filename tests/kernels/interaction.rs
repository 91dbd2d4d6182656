//! kernels/interaction.cu

use coin::data::batch::NONE;
use coin::device::cuda::memory::Element;
use coin::ops::dropout::{Mask, Site};

use crate::batches::{Capacity, Indices, Places, least, mask, unequal};
use crate::dropout::factor;
use crate::support::Random;
use crate::work::{
    ELEMENTS, Place, Real, Results, Work, args, close, close_elements, held, of_element, untouched,
};

/// One run's operands.
struct Inputs {
    hidden: Vec<f32>,
    gate: Vec<f32>,
    d_m: Vec<f32>,
    /// By role and direction, a stride apart.
    bias: Vec<f32>,
    d_bias: Vec<f32>,
}

struct Case<'a> {
    run: &'a Indices,
    inputs: &'a Inputs,
    d: usize,
    stride: usize,
    capacity: Capacity,
    mask: Option<&'a Mask>,
    word: u32,
    enabled: bool,
}

/// What the kernels give, all of them by one walk over the rows.
struct Expected<R> {
    m: Vec<R>,
    d_hidden: Vec<R>,
    d_gate: Vec<R>,
    silent: Vec<R>,
    d_bias: Vec<R>,
}

impl Case<'_> {
    fn expected<R: Real>(&self) -> Expected<R> {
        let &Case { run, inputs, d, stride, capacity, enabled, .. } = self;
        let width = 2 * d;
        let mut m = untouched(capacity.rows * width);
        let mut d_hidden = untouched(capacity.rows * width);
        let mut d_gate = untouched(capacity.rows * width);
        let mut silent = untouched(capacity.samples * width);
        let mut d_bias: Vec<R> = inputs.d_bias.iter().map(|&x| R::of(x.into())).collect();
        if enabled {
            d_gate[..run.rows() * width].fill(R::of(0.0));
            silent[..run.samples() * width].fill(R::of(0.0));
        }
        for s in 0..run.samples() {
            for i in run.shard.range(s) {
                let own = run.shard.own[i] as usize;
                let quiet = usize::from(own < run.shard.rows_a);
                for column in 0..width {
                    let direction = column / d;
                    let row = i - run.shard.offset[s] as usize;
                    let mask = factor(self.mask, self.word, run.shard.target[s], row, width, column);
                    let mask = R::of(mask.into());
                    let hidden = R::of(inputs.hidden[own * width + column].into());
                    let d_m = R::of(inputs.d_m[i * width + column].into()) * mask;
                    if !enabled {
                        m[i * width + column] = hidden * mask;
                        d_hidden[own * width + column] = d_m;
                        continue;
                    }
                    let other = run.shard.other[direction][i];
                    let bias = inputs.bias[(2 * quiet + direction) * stride + column % d];
                    let gate = match other {
                        NONE => R::of(bias.into()).sigmoid(),
                        state => R::of(inputs.gate[state as usize * width + column].into()),
                    };
                    m[i * width + column] = hidden * gate * mask;
                    d_hidden[own * width + column] = d_m * gate;
                    match other {
                        NONE => silent[s * width + column] += d_m * hidden,
                        state => d_gate[state as usize * width + column] += d_m * hidden,
                    }
                }
            }
        }
        if enabled {
            let slope = |gate: R| gate * (R::of(1.0) - gate);
            for (i, gate) in inputs.gate.iter().enumerate() {
                d_gate[i] = d_gate[i] * slope(R::of((*gate).into()));
            }
            for s in 0..run.samples() {
                for column in 0..width {
                    let direction = column / d;
                    let role = run.silent[direction][s][0] as usize;
                    let at = (2 * role + direction) * stride + column % d;
                    let slope = slope(R::of(inputs.bias[at].into()).sigmoid());
                    silent[s * width + column] = silent[s * width + column] * slope;
                    d_bias[at] += silent[s * width + column];
                }
            }
        }
        Expected { m, d_hidden, d_gate, silent, d_bias }
    }
}

struct Outputs {
    m: Place,
    d_hidden: Place,
    d_gate: Place,
    silent: Place,
    d_bias: Place,
}

fn check(runs: &[Indices; 2], d: usize, mask: Option<&Mask>, enabled: bool) {
    for element in ELEMENTS {
        check_element(element, runs, d, mask, enabled);
    }
}

fn check_element(element: Element, runs: &[Indices; 2], d: usize, mask: Option<&Mask>, enabled: bool) {
    // Among the parameters weights lie between the biases; here three numbers do, which must not change.
    let (width, stride) = (2 * d, d + 3);
    let mut random = Random(d as u64);
    let mut work = Work::default();
    let places = Places::new(&mut work, runs, mask);
    let capacity = places.capacity;
    let inputs = [0, 1].map(|run| {
        let rows = runs[run].rows();
        Inputs {
            hidden: held(element, random.floats(rows * width, 1.0)),
            gate: held(element, random.floats(rows * width, 0.5).iter().map(|x| x + 0.5).collect()),
            d_m: held(element, random.floats(rows * width, 1.0)),
            bias: random.floats(3 * stride + d, 2.0),
            d_bias: random.floats(3 * stride + d, 1.0),
        }
    });
    let mut by_row = |of: fn(&Inputs) -> &Vec<f32>| {
        work.elements(element, capacity.rows * width, [of(&inputs[0]), of(&inputs[1])])
    };
    let [hidden, gate, d_m] =
        [by_row(|inputs| &inputs.hidden), by_row(|inputs| &inputs.gate), by_row(|inputs| &inputs.d_m)];
    let mut input = |capacity: usize, of: fn(&Inputs) -> &Vec<f32>| {
        work.buffer(capacity, [of(&inputs[0]), of(&inputs[1])])
    };
    let bias = input(3 * stride + d, |inputs| &inputs.bias);
    let d_bias = input(3 * stride + d, |inputs| &inputs.d_bias);
    let outputs = Outputs {
        m: work.output_elements(element, capacity.rows * width),
        d_hidden: work.output_elements(element, capacity.rows * width),
        d_gate: work.output_elements(element, capacity.rows * width),
        silent: work.output(capacity.samples * width),
        d_bias,
    };
    let word = mask.map_or(0, |mask| mask.word(Site::Interaction));
    let (at_word, flag) = (word as usize, usize::from(enabled));
    let Places { header, other, readers, silent, own, owner, offset, target, .. } = places;
    let (rows, samples) = (capacity.rows, capacity.samples);
    let blocks = (rows * width.div_ceil(4)).div_ceil(256);
    work.launch(
        ("interaction", of_element("interaction", element)),
        [blocks, 1],
        (256, 0),
        args![
            outputs.m, hidden, gate, bias, other, own, owner, offset, target, header, at_word, flag, d,
            stride, rows
        ],
    );
    work.launch(
        ("interaction", of_element("interaction_backward", element)),
        [blocks, 2],
        (256, 0),
        args![
            outputs.d_hidden,
            outputs.d_gate,
            d_m,
            hidden,
            gate,
            bias,
            other,
            readers,
            own,
            owner,
            offset,
            target,
            header,
            at_word,
            flag,
            d,
            stride,
            rows
        ],
    );
    if enabled {
        work.launch(
            ("interaction", of_element("interaction_silent", element)),
            [(samples * width.div_ceil(4)).div_ceil(256), 1],
            (256, 0),
            args![
                outputs.silent,
                d_m,
                hidden,
                bias,
                silent,
                own,
                offset,
                target,
                header,
                at_word,
                d,
                stride,
                samples
            ],
        );
        work.launch(
            ("interaction", "interaction_silent_sum"),
            [width.div_ceil(32), 2],
            (256, 0),
            args![d_bias, outputs.silent, silent, header, d, stride, samples],
        );
    }
    let results = work.check();
    if d.is_multiple_of(4) {
        results.coalesced();
    }
    for (run, (indices, inputs)) in runs.iter().zip(&inputs).enumerate() {
        let case = Case { run: indices, inputs, d, stride, capacity, mask, word, enabled };
        compare(element, &results, run, &outputs, &case.expected(), &case.expected());
    }
}

fn compare(
    element: Element,
    results: &Results,
    run: usize,
    outputs: &Outputs,
    exact: &Expected<f64>,
    plain: &Expected<f32>,
) {
    for (name, place, exact, plain) in [
        ("m", outputs.m, &exact.m, &plain.m),
        ("d_hidden", outputs.d_hidden, &exact.d_hidden, &plain.d_hidden),
        ("d_gate", outputs.d_gate, &exact.d_gate, &plain.d_gate),
    ] {
        close_elements(element, name, &results.elements(run, place, element), exact, plain);
    }
    close("silent_gradient", &results.of(run, outputs.silent), &exact.silent, &plain.silent);
    close("d_bias", &results.of(run, outputs.d_bias), &exact.d_bias, &plain.d_bias);
}

#[test]
fn gates_of_the_other_role() {
    let runs = unequal(&mut Random(4), 40);
    for d in [1, 33, 50, 100, 256] {
        check(&runs, d, Some(&mask(d as u64)), true);
    }
    check(&runs, 50, None, true);
    check(&least(), 50, Some(&mask(1)), true);
}

#[test]
fn without_the_interaction_rows_are_copied() {
    let runs = unequal(&mut Random(5), 25);
    for d in [33, 100] {
        check(&runs, d, Some(&mask(2)), false);
    }
    check(&runs, 1, None, false);
}
