//! kernels/gru.cu: the recurrence of a GRU, forward and backward.

#![allow(clippy::needless_range_loop, reason = "rows, columns and runs are numbered alike in every array")]

use std::ops::{Add, Mul, Sub};

use coin::device::cuda::memory::Element;

use crate::batches::Header;
use crate::half;
use crate::support::{Card, Random, SEEDS};
use crate::work::{Work, args, held};

/// Unlike anything that a kernel computes; bits, because it is compared as such.
const SENTINEL: u32 = 0x7fc1_2345;
const SENTINEL_HALF: u16 = 0x7e45;

/// A scalar type in which the reference computes.
trait Real: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    fn of(x: f32) -> Self;
    fn sigmoid(self) -> Self;
    fn tanh(self) -> Self;
    fn wide(self) -> f64;
}

impl Real for f64 {
    fn of(x: f32) -> f64 {
        x.into()
    }
    fn sigmoid(self) -> f64 {
        1.0 / (1.0 + (-self).exp())
    }
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
    fn wide(self) -> f64 {
        self
    }
}

impl Real for f32 {
    fn of(x: f32) -> f32 {
        x
    }
    fn sigmoid(self) -> f32 {
        1.0 / (1.0 + (-self).exp())
    }
    fn tanh(self) -> f32 {
        f32::tanh(self)
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

/// Rounds to f16, to nearest even; what is too large for it does not occur here.
fn to_f16(x: f64) -> f64 {
    let exponent = (((x.abs().to_bits() >> 52) as i32) - 1023).max(-14);
    let unit = 2f64.powi(exponent - 10);
    (x / unit).round_ties_even() * unit
}

/// The inputs of one run.
#[derive(Clone)]
struct Problem {
    d: usize,
    rows: usize,
    capacity: usize,
    first_group: usize,
    /// By group: (first row, length), longest first.
    sequences: Vec<Vec<(u32, u32)>>,
    /// By group and direction: W_hh `[3d, d]`, b_hh `[3d]`.
    weights: Vec<[(Vec<f32>, Vec<f32>); 2]>,
    /// `[R, 6d]`
    inputs: Vec<f32>,
    /// `[R, 2d]`
    d_hidden: Vec<f32>,
}

impl Problem {
    /// Groups of sequences of these lengths, scattered over rows of which some belong to no sequence.
    fn new(seed: u64, d: usize, lengths: &[&[u32]]) -> Problem {
        let mut random = Random(seed);
        let mut rows = 1;
        let mut sequences = Vec::new();
        for of_group in lengths {
            let mut sorted: Vec<(u32, u32)> = Vec::new();
            for &length in *of_group {
                sorted.push((rows, length));
                rows += length + u32::from(random.below(4) == 0);
            }
            sorted.sort_by_key(|&(start, length)| (std::cmp::Reverse(length), start));
            sequences.push(sorted);
        }
        let rows = rows as usize + 1;
        let scale = 1.0 / (d as f32).sqrt();
        let mut of_direction = || (random.floats(3 * d * d, scale), random.floats(3 * d, scale));
        let weights = lengths.iter().map(|_| [of_direction(), of_direction()]).collect();
        Problem {
            d,
            rows,
            capacity: lengths.iter().map(|lengths| lengths.len()).max().unwrap() + 3,
            first_group: 3 - lengths.len() - random.below(4 - lengths.len()),
            sequences,
            weights,
            inputs: random.floats(rows * 6 * d, 2.0),
            d_hidden: random.floats(rows * 2 * d, 1.0),
        }
    }

    /// The same with inputs and gradients that an element holds.
    fn held(&self, element: Element) -> Problem {
        let [inputs, d_hidden] = [&self.inputs, &self.d_hidden].map(|values| held(element, values.clone()));
        Problem { inputs, d_hidden, ..self.clone() }
    }

    /// Direction's rows of a sequence in its order.
    fn order(direction: usize, (start, length): (u32, u32)) -> Vec<usize> {
        let rows = start as usize..(start + length) as usize;
        if direction == 0 { rows.collect() } else { rows.rev().collect() }
    }

    /// Calls with group, direction and rows of each sequence.
    fn each(&self, mut call: impl FnMut(usize, usize, &[usize])) {
        for (group, sequences) in self.sequences.iter().enumerate() {
            for direction in 0..2 {
                for &sequence in sequences {
                    call(group, direction, &Self::order(direction, sequence));
                }
            }
        }
    }

    /// By row: whether it belongs to a sequence.
    fn belongs(&self) -> Vec<bool> {
        let mut belongs = vec![false; self.rows];
        self.each(|_, _, rows| rows.iter().for_each(|&row| belongs[row] = true));
        belongs
    }

    /// `saved` and `hidden`. Weights and the state that is multiplied by them go through `round`.
    fn forward<R: Real>(&self, round: fn(R) -> R) -> (Vec<R>, Vec<R>) {
        let d = self.d;
        let mut saved = vec![R::of(0.0); self.rows * 8 * d];
        let mut hidden = vec![R::of(0.0); self.rows * 2 * d];
        self.each(|group, direction, rows| {
            let (weight, bias) = &self.weights[group][direction];
            let weight: Vec<R> = weight.iter().map(|&x| round(R::of(x))).collect();
            let mut h = vec![R::of(0.0); d];
            for &row in rows {
                let rounded: Vec<R> = h.iter().map(|&x| round(x)).collect();
                for u in 0..d {
                    let product = |gate: usize| {
                        let mut sum = R::of(0.0);
                        for k in 0..d {
                            sum = sum + weight[(gate * d + u) * d + k] * rounded[k];
                        }
                        sum + R::of(bias[gate * d + u])
                    };
                    let x = |gate: usize| R::of(self.inputs[row * 6 * d + (direction * 3 + gate) * d + u]);
                    let r = (x(0) + product(0)).sigmoid();
                    let z = (x(1) + product(1)).sigmoid();
                    let hn = product(2);
                    let n = (x(2) + r * hn).tanh();
                    h[u] = (R::of(1.0) - z) * n + z * h[u];
                    for (gate, value) in [r, z, n].into_iter().enumerate() {
                        saved[row * 8 * d + (direction * 3 + gate) * d + u] = value;
                    }
                    saved[row * 8 * d + (6 + direction) * d + u] = hn;
                    hidden[row * 2 * d + direction * d + u] = h[u];
                }
            }
        });
        (saved, hidden)
    }

    /// `saved` with the gradients, from the activations. Weights and the gradients that are multiplied by them go through `round`.
    fn backward<R: Real>(&self, activations: &[f32], hidden: &[f32], round: fn(R) -> R) -> Vec<R> {
        let d = self.d;
        let one = R::of(1.0);
        let mut saved = vec![R::of(0.0); self.rows * 8 * d];
        self.each(|group, direction, rows| {
            let weight: Vec<R> = self.weights[group][direction].0.iter().map(|&x| round(R::of(x))).collect();
            let mut carry = vec![R::of(0.0); d];
            for (step, &row) in rows.iter().enumerate().rev() {
                let mut at_product = vec![R::of(0.0); 3 * d];
                for u in 0..d {
                    let column = |gate: usize| row * 8 * d + (direction * 3 + gate) * d + u;
                    let at_hn = row * 8 * d + (6 + direction) * d + u;
                    let [r, z, n] = [0, 1, 2].map(|gate| R::of(activations[column(gate)]));
                    let before = match step {
                        0 => R::of(0.0),
                        _ => R::of(hidden[rows[step - 1] * 2 * d + direction * d + u]),
                    };
                    let dh = R::of(self.d_hidden[row * 2 * d + direction * d + u]) + carry[u];
                    let dz = dh * (before - n) * z * (one - z);
                    let dn = dh * (one - z) * (one - n * n);
                    let dr = dn * R::of(activations[at_hn]) * r * (one - r);
                    let dhn = dn * r;
                    for (gate, value) in [dr, dz, dn].into_iter().enumerate() {
                        saved[column(gate)] = value;
                    }
                    saved[at_hn] = dhn;
                    for (gate, value) in [dr, dz, dhn].into_iter().enumerate() {
                        at_product[gate * d + u] = round(value);
                    }
                    carry[u] = dh * z;
                }
                for u in 0..d {
                    for m in 0..3 * d {
                        carry[u] = carry[u] + at_product[m] * weight[m * d + u];
                    }
                }
            }
        });
        saved
    }
}

/// A kernel and how it is launched.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    tile: usize,
    block: u32,
    shared: u32,
}

impl Kernel {
    /// What gates, states and their gradients are in memory.
    fn element(&self) -> Element {
        if self.name.contains("f16") { Element::Half } else { Element::Word }
    }
}

fn round_up(value: u32, multiple: u32) -> u32 {
    value.div_ceil(multiple) * multiple
}

/// With as much shared memory for weights as fits into `limit` bytes.
fn forward_f32(d: usize, limit: u32) -> Kernel {
    let d = d as u32;
    let passes = d.div_ceil(100);
    let block = d.div_ceil(4).div_ceil(passes) * 32;
    let bytes = 2 * 16 * (round_up(d, 16) + 4) * 4;
    let chunk = 3 * d * 16 * 4;
    let held = d.div_ceil(16).min(limit.saturating_sub(bytes) / chunk);
    Kernel { name: "gru_forward_f32", tile: 16, block, shared: bytes + held * chunk }
}

fn backward_f32(d: usize, limit: u32) -> Kernel {
    let d = d as u32;
    let (columns, chunks) = (d.div_ceil(32), (3 * d).div_ceil(16));
    let slices = (12 / columns).min(chunks);
    let bytes = 16 * (chunks * 16 + slices * round_up(d, 8)) * 4;
    let chunk = 16 * (if d < 2 { 2 } else { round_up(d - 2, 8) + 2 }) * 4;
    let held = chunks.saturating_sub(2 * slices).min(limit.saturating_sub(bytes) / chunk);
    Kernel { name: "gru_backward_f32", tile: 16, block: 32 * columns * slices, shared: bytes + held * chunk }
}

/// A specialised kernel of this width where there is one, with the pieces of W_hh that it holds in shared memory.
fn f16(names: [&'static str; 4], d: usize, bytes: u32, shared: [u32; 4]) -> Kernel {
    let place = [50, 100, 150, 200].iter().position(|&width| width == d).expect("a width that has a kernel");
    let warps = (d as u32).div_ceil(16);
    Kernel { name: names[place], tile: 8, block: 32 * warps, shared: bytes + shared[place] * 256 * warps }
}

fn forward_f16_bytes(d: usize, tiles: u32) -> u32 {
    let d = d as u32;
    2 * tiles * 8 * (round_up(d, 32) + 8) * 2 + 3 * round_up(d, 16) * 4
}

fn backward_f16_bytes(d: usize, tiles: u32) -> u32 {
    2 * tiles * 8 * (round_up(3 * round_up(d as u32, 8), 32) + 8) * 2
}

fn forward_f16(d: usize) -> Kernel {
    let names = ["gru_forward_f16_50", "gru_forward_f16_100", "gru_forward_f16_150", "gru_forward_f16_200"];
    f16(names, d, forward_f16_bytes(d, 1), SHARED_FORWARD)
}

fn backward_f16(d: usize) -> Kernel {
    let names =
        ["gru_backward_f16_50", "gru_backward_f16_100", "gru_backward_f16_150", "gru_backward_f16_200"];
    f16(names, d, backward_f16_bytes(d, 1), SHARED_BACKWARD)
}

/// The kernels for any width in blocks of so many tiles, with as many pieces of W_hh in shared memory as fit into `limit` bytes.
fn any_f16(d: usize, tiles: u32, limit: u32) -> [Kernel; 2] {
    let warps = (d as u32).div_ceil(16);
    let pieces = 3 * (d as u32).div_ceil(8);
    let names = match tiles {
        1 => ["gru_forward_f16", "gru_backward_f16"],
        _ => ["gru_forward_f16x2", "gru_backward_f16x2"],
    };
    let kernel = |name, bytes: u32| {
        let held = pieces.min(limit.saturating_sub(bytes) / (256 * warps));
        Kernel { name, tile: 8 * tiles as usize, block: 32 * warps, shared: bytes + held * 256 * warps }
    };
    [kernel(names[0], forward_f16_bytes(d, tiles)), kernel(names[1], backward_f16_bytes(d, tiles))]
}

/// Those for 200 in blocks of two tiles.
fn f16_of_two() -> [Kernel; 2] {
    let kernel =
        |name, bytes, held: u32| Kernel { name, tile: 16, block: 32 * 13, shared: bytes + held * 256 * 13 };
    [
        kernel("gru_forward_f16_200x2", forward_f16_bytes(200, 2), 14),
        kernel("gru_backward_f16_200x2", backward_f16_bytes(200, 2), 7),
    ]
}

/// Pieces of W_hh that the kernels for 50, 100, 150 and 200 hold in shared memory.
const SHARED_FORWARD: [u32; 4] = [0, 12, 21, 16];
const SHARED_BACKWARD: [u32; 4] = [0, 12, 18, 13];

/// Pairs of words of W_hh as fragments, for one direction and pass.
fn fragments_of(d: usize) -> usize {
    d.div_ceil(16) * 3 * d.div_ceil(8) * 32
}

/// Where W_hh of all recurrences lie: `RecurrentPlaces` in kernels/gru.cu.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct RecurrentPlaces {
    speaker: [u32; 4],
    first: u32,
    by_stack: u32,
    by_direction: u32,
}

/// Every element of W_hh where the recurrences look for it, zeros beyond, nothing of an idle run.
#[test]
fn recurrent_weights_are_laid_out() {
    for (d, stacks) in [(1, 1), (7, 3), (16, 0), (33, 2), (100, 2)] {
        let size = 3 * d * d;
        let (of_speakers, of_stacks) = (size + 3, 2 * size + 5);
        let places = RecurrentPlaces {
            speaker: [0, 1, 2, 3].map(|i| (2 + i * of_speakers) as u32),
            first: (2 + 4 * of_speakers) as u32,
            by_stack: of_stacks as u32,
            by_direction: (size + 1) as u32,
        };
        let mut random = Random(d as u64);
        let count = 2 + 4 * of_speakers + stacks * of_stacks;
        let parameters = [0, 1].map(|_| random.floats(count, 1.0));
        let of_pass = fragments_of(d);
        let recurrences = 2 * (2 + stacks);
        let words = recurrences * 2 * of_pass * 2;
        let mut work = Work::default();
        let from = work.buffer(count, [&parameters[0], &parameters[1]]);
        let header = work.buffer(1, [&[Header { samples: 1, ..Header::default() }], &[Header::default()]]);
        let untouched = vec![SENTINEL; words];
        let to = work.buffer(words, [&untouched, &untouched]);
        work.launch(
            ("gru", "gru_fragments"),
            [(2 * of_pass).div_ceil(256), recurrences],
            (256, 0),
            args![to, from, header, bytemuck::cast::<_, [u32; 7]>(places), d],
        );
        let results = work.check();
        assert_eq!(results.of::<u32>(1, to), untouched, "an idle run");

        let bits = |of_recurrence: &[f32], row: usize, column: usize, within: bool| {
            if within { half::bits(of_recurrence[row * d + column]) } else { 0 }
        };
        let mut expected: Vec<u16> = Vec::new();
        for recurrence in 0..recurrences {
            let place = if recurrence < 4 {
                places.speaker[recurrence]
            } else {
                places.first
                    + (recurrence as u32 / 2 - 2) * places.by_stack
                    + recurrence as u32 % 2 * places.by_direction
            };
            let weight = &parameters[0][place as usize..][..size];
            for backward in [false, true] {
                for warp in 0..d.div_ceil(16) {
                    for piece in 0..3 * d.div_ceil(8) {
                        let (gate, depth) = if backward {
                            (piece / d.div_ceil(8), piece % d.div_ceil(8))
                        } else {
                            (piece % 3, piece / 3)
                        };
                        for lane in 0..32 {
                            for (unit, k) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                                let unit = warp * 16 + lane / 4 * 2 + unit;
                                let k = depth * 8 + lane % 4 * 2 + k;
                                let within = unit < d && k < d;
                                expected.push(if backward {
                                    bits(weight, gate * d + k, unit, within)
                                } else {
                                    bits(weight, gate * d + unit, k, within)
                                });
                            }
                        }
                    }
                }
            }
        }
        let actual = results.of::<u32>(0, to);
        let actual: &[u16] = bytemuck::cast_slice(&actual);
        let differs = actual.iter().zip(&expected).position(|(actual, expected)| actual != expected);
        assert_eq!((differs, actual.len()), (None, expected.len()), "d {d}, {stacks} stacks");
    }
}

/// What a launch left in `saved` and `hidden`, by run, as bits of float32, and shared memory's passes over the fewest possible.
struct Outcome {
    saved: Vec<Vec<u32>>,
    hidden: Vec<Vec<u32>>,
    conflicts: f64,
    /// Passes through shared memory for each multiplication of a warp.
    wavefronts_each: f64,
}

/// Launches for problems of one shape as runs side by side. What the kernel must not read is unwritten, what it must not write
/// has sentinels. With `activations` it is the way back.
fn launch(
    seed: u64,
    kernel: Kernel,
    problems: &[&Problem],
    activations: Option<&[(Vec<f32>, Vec<f32>)]>,
) -> Outcome {
    let card = Card::new(seed);
    let Problem { d, rows, capacity, first_group, .. } = *problems[0];
    let groups = problems[0].sequences.len();
    let parameters = groups * 2 * (3 * d * d + 3 * d) + 64;
    let of_pass = fragments_of(d);
    let words = groups * 2 * 2 * of_pass * 2;
    let stride =
        ((rows * 8 * d).max(parameters).max(2 * capacity).max(words) * 4 + 512).next_multiple_of(256);
    let allocate = || card.allocate::<u8>(stride * problems.len());
    let [header, start, length, parameter, fragments, saved, hidden, d_hidden] =
        std::array::from_fn(|_| allocate());
    let write = |to: u64, run: usize, offset: usize, values: &[u32]| {
        let to = to + (run * stride + offset * 4) as u64;
        card.write(to, bytemuck::cast_slice(values));
    };
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let element = kernel.element();
    let narrow = |bits: u32| match bits {
        SENTINEL => SENTINEL_HALF,
        _ => half::bits(f32::from_bits(bits)),
    };
    let write_elements = |to: u64, run: usize, offset: usize, values: &[u32]| match element {
        Element::Half => {
            let values: Vec<u16> = values.iter().copied().map(narrow).collect();
            card.write(to + (run * stride + offset * 2) as u64, bytemuck::cast_slice(&values));
        }
        _ => write(to, run, offset, values),
    };
    let mut places = [0u32; 8];
    for (run, problem) in problems.iter().enumerate() {
        // The i-th word of the header: samples, rows, rows of A, distinct, then the numbers of sequences.
        for (group, sequences) in problem.sequences.iter().enumerate() {
            write(header, run, 4 + first_group + group, &[sequences.len() as u32]);
            let (starts, lengths): (Vec<u32>, Vec<u32>) = sequences.iter().copied().unzip();
            write(start, run, group * capacity, &starts);
            write(length, run, group * capacity, &lengths);
        }
        let mut offset = 4;
        for (group, directions) in problem.weights.iter().enumerate() {
            for (direction, (weight, bias)) in directions.iter().enumerate() {
                places[group * 2 + direction] = offset as u32;
                write(parameter, run, offset, &bits(weight));
                offset += weight.len() + 1;
                places[4 + group * 2 + direction] = offset as u32;
                write(parameter, run, offset, &bits(bias));
                offset = (offset + bias.len()).next_multiple_of(4);
            }
        }
        for (row, belongs) in problem.belongs().into_iter().enumerate() {
            if !belongs {
                write_elements(saved, run, row * 8 * d, &vec![SENTINEL; 8 * d]);
                write_elements(hidden, run, row * 2 * d, &vec![SENTINEL; 2 * d]);
            } else if let Some(activations) = activations {
                let (gates, states) = &activations[run];
                write_elements(saved, run, row * 8 * d, &bits(&gates[row * 8 * d..][..8 * d]));
                write_elements(hidden, run, row * 2 * d, &bits(&states[row * 2 * d..][..2 * d]));
                write_elements(d_hidden, run, row * 2 * d, &bits(&problem.d_hidden[row * 2 * d..][..2 * d]));
            } else {
                write_elements(saved, run, row * 8 * d, &bits(&problem.inputs[row * 6 * d..][..6 * d]));
            }
        }
        // Guards behind the last row.
        write_elements(saved, run, rows * 8 * d, &[SENTINEL; 64]);
        write_elements(hidden, run, rows * 2 * d, &[SENTINEL; 64]);
    }
    let mut arguments = vec![
        header.to_le_bytes().to_vec(),
        start.to_le_bytes().to_vec(),
        length.to_le_bytes().to_vec(),
        parameter.to_le_bytes().to_vec(),
        bytemuck::cast_slice(&places).to_vec(),
    ];
    if element == Element::Half {
        // The kernel that lays the weights out comes first, with the groups as the two roles.
        for run in 0..problems.len() {
            write(header, run, 0, &[1]);
        }
        let of_recurrences = [&places[..4], &[0; 3]].concat();
        let laid_out = vec![
            fragments.to_le_bytes().to_vec(),
            parameter.to_le_bytes().to_vec(),
            header.to_le_bytes().to_vec(),
            bytemuck::cast_slice(&of_recurrences).to_vec(),
            (d as u32).to_le_bytes().to_vec(),
            (stride as u64).to_le_bytes().to_vec(),
        ];
        let grid = [(2 * of_pass).div_ceil(256) as u32, groups as u32 * 2, problems.len() as u32];
        card.launch_raw("gru", "gru_fragments", (grid, 256, 0), &laid_out)
            .unwrap_or_else(|fault| panic!("gru_fragments d {d}: {fault}"));
        arguments.push(fragments.to_le_bytes().to_vec());
    }
    arguments.extend([saved, hidden].map(|buffer: u64| buffer.to_le_bytes().to_vec()));
    if activations.is_some() {
        arguments.push(d_hidden.to_le_bytes().to_vec());
    }
    for value in [first_group, capacity, d] {
        arguments.push((value as u32).to_le_bytes().to_vec());
    }
    arguments.push((stride as u64).to_le_bytes().to_vec());
    let grid = [capacity.div_ceil(kernel.tile) as u32, groups as u32 * 2, problems.len() as u32];
    let profile = card
        .launch_raw("gru", kernel.name, (grid, kernel.block, kernel.shared), &arguments)
        .unwrap_or_else(|fault| panic!("{} d {d}: {fault}", kernel.name));
    let read = |from: u64, width: usize| {
        let of_run = |run: usize| {
            let (from, count) = (from + (run * stride) as u64, rows * width + 64);
            if element != Element::Half {
                return card.read::<u32>(from, count);
            }
            let widen = |bits: u16| match bits {
                SENTINEL_HALF => SENTINEL,
                _ => half::value(bits).to_bits(),
            };
            card.read::<u16>(from, count).into_iter().map(widen).collect()
        };
        (0..problems.len()).map(of_run).collect::<Vec<_>>()
    };
    let profile_of = profile.as_ref();
    let conflicts = profile_of.map_or(1.0, |profile| {
        profile.shared_wavefronts as f64 / profile.ideal_shared_wavefronts.max(1) as f64
    });
    let wavefronts_each =
        profile_of.map_or(0.0, |profile| profile.shared_wavefronts as f64 / (profile.flops as f64 / 64.0));
    Outcome { saved: read(saved, 8 * d), hidden: read(hidden, 2 * d), conflicts, wavefronts_each }
}

/// Panics where something was written that does not belong to a sequence.
fn assert_guards(problem: &Problem, values: &[u32], width: usize) {
    for (row, belongs) in problem.belongs().into_iter().chain([false]).enumerate() {
        let end = ((row + 1) * width).min(values.len());
        if !belongs {
            assert!(values[row * width..end].iter().all(|&x| x == SENTINEL), "row {row} was written to");
        }
    }
}

/// How far a rounding to an element may take a value.
fn rounding(element: Element, value: f64) -> f64 {
    match element {
        Element::Half => (value.abs() * 2f64.powi(-11)).max(2f64.powi(-25)),
        _ => 0.0,
    }
}

/// The largest difference between two buffers at rows of sequences, beyond a rounding to f16.
fn error_of_halves(problem: &Problem, width: usize, bits: &[u32], expected: &[f64]) -> f64 {
    let actual = floats(bits);
    // A difference that is smaller than the rounding is none.
    let beyond = |i: usize| {
        let (actual, expected) = (actual(i), expected[i]);
        let rounding = rounding(Element::Half, expected);
        if (actual - expected).abs() <= rounding {
            expected
        } else {
            actual - rounding.copysign(actual - expected)
        }
    };
    error(problem, width, beyond, expected)
}

/// The largest difference between two buffers at rows of sequences.
fn error(problem: &Problem, width: usize, actual: impl Fn(usize) -> f64, expected: &[f64]) -> f64 {
    let mut largest = 0f64;
    for (row, belongs) in problem.belongs().into_iter().enumerate() {
        for (i, expected) in expected.iter().enumerate().skip(row * width).take(width) {
            let difference = (actual(i) - expected).abs();
            if belongs && (difference > largest || difference.is_nan()) {
                largest = difference;
            }
        }
    }
    largest
}

fn floats(bits: &[u32]) -> impl Fn(usize) -> f64 + '_ {
    |i| f32::from_bits(bits[i]).into()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// No worse than twice the plain computation in f32, each as far from f64 as it is at its farthest; a few roundings of values
/// about 1 are nobody's fault.
fn assert_as_exact(what: &str, ours: f64, plain: f64) {
    let bound = 2.0 * plain.max(f32::EPSILON.into());
    assert!(ours <= bound, "{what}: the error is {ours:e}, that of the plain computation {plain:e}");
}

fn check_f32(problem: &Problem, limit: u32) -> [Outcome; 2] {
    let d = problem.d;
    let (saved, hidden) = problem.forward::<f64>(|x| x);
    let (plain_saved, plain_hidden) = problem.forward::<f32>(|x| x);
    let forward = launch(0, forward_f32(d, limit), &[problem], None);
    assert_guards(problem, &forward.saved[0], 8 * d);
    assert_guards(problem, &forward.hidden[0], 2 * d);
    assert_as_exact(
        &format!("gates, d {d}"),
        error(problem, 8 * d, floats(&forward.saved[0]), &saved),
        error(problem, 8 * d, |i| plain_saved[i].wide(), &saved),
    );
    assert_as_exact(
        &format!("states, d {d}"),
        error(problem, 2 * d, floats(&forward.hidden[0]), &hidden),
        error(problem, 2 * d, |i| plain_hidden[i].wide(), &hidden),
    );

    let (activations, states) = (narrow(&saved), narrow(&hidden));
    let gradients = problem.backward::<f64>(&activations, &states, |x| x);
    let plain = problem.backward::<f32>(&activations, &states, |x| x);
    let backward = launch(0, backward_f32(d, limit), &[problem], Some(&[(activations, states.clone())]));
    assert_guards(problem, &backward.saved[0], 8 * d);
    assert_guards(problem, &backward.hidden[0], 2 * d);
    assert_eq!(
        error(
            problem,
            2 * d,
            floats(&backward.hidden[0]),
            &states.iter().map(|&x| x.into()).collect::<Vec<_>>()
        ),
        0.0
    );
    assert_as_exact(
        &format!("gradients, d {d}"),
        error(problem, 8 * d, floats(&backward.saved[0]), &gradients),
        error(problem, 8 * d, |i| plain[i].wide(), &gradients),
    );
    [forward, backward]
}

/// Against f64 with the roundings to f16 that the kernels make of what they multiply, beside the rounding of what they store. What
/// remains is f32's error, which a rounding to f16 turns into one of its units, 2^-10 of the value, where the value lies next to a tie;
/// a weight is about 0.1 and few of its row are hit.
fn check_f16(problem: &Problem, [forward, backward]: [Kernel; 2]) -> [Outcome; 2] {
    const TOLERANCE: f64 = 2e-4;
    let d = problem.d;
    let problem = &problem.held(Element::Half);
    let (saved, hidden) = problem.forward::<f64>(to_f16);
    let forward = launch(0, forward, &[problem], None);
    assert_guards(problem, &forward.saved[0], 8 * d);
    assert_guards(problem, &forward.hidden[0], 2 * d);
    let at_gates = error_of_halves(problem, 8 * d, &forward.saved[0], &saved);
    let at_states = error_of_halves(problem, 2 * d, &forward.hidden[0], &hidden);
    assert!(at_gates < TOLERANCE && at_states < TOLERANCE, "d {d}: gates {at_gates:e}, states {at_states:e}");

    let [activations, states] = [&saved, &hidden].map(|values| held(Element::Half, narrow(values)));
    let gradients = problem.backward::<f64>(&activations, &states, to_f16);
    let backward = launch(0, backward, &[problem], Some(&[(activations, states.clone())]));
    assert_guards(problem, &backward.saved[0], 8 * d);
    assert_guards(problem, &backward.hidden[0], 2 * d);
    let at_gradients = error_of_halves(problem, 8 * d, &backward.saved[0], &gradients);
    let largest = gradients.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    assert!(at_gradients <= TOLERANCE * largest, "d {d}: gradients {at_gradients:e} of {largest:e}");
    println!("d {d}: gates {at_gates:e}, states {at_states:e}, gradients {at_gradients:e} of {largest:e}");
    [forward, backward]
}

#[test]
fn f16_fixed_widths() {
    for d in [50, 100, 150, 200] {
        let lengths: &[&[u32]] =
            if d < 150 { &[RAGGED, &[4, 1]] } else { &[&[5, 4, 4, 2, 2, 1, 1, 1, 1], &[3]] };
        let kernels = [forward_f16(d), backward_f16(d)];
        let outcomes = check_f16(&Problem::new(d as u64, d, lengths), kernels);
        println!("d {d}: shared wavefronts over the ideal {:?}", outcomes.map(|outcome| outcome.conflicts));
        check_f16(&Problem::new(100 + d as u64, d, &[&[3, 6, 1]]), kernels);
    }
    let lengths: &[&[u32]] = &[&[5, 4, 4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[3]];
    check_f16(&Problem::new(201, 200, lengths), f16_of_two());
}

#[test]
fn f16_any_width() {
    for tiles in [1, 2] {
        for (d, limit) in
            [(1, 0), (2, 65536), (7, 0), (16, 65536), (33, 20000), (50, 65536), (100, 65536), (131, 0)]
        {
            check_f16(&Problem::new(d as u64, d, &[RAGGED, &[4, 1]]), any_f16(d, tiles, limit));
            check_f16(&Problem::new(100 + d as u64, d, &[&[3, 6, 1]]), any_f16(d, tiles, limit));
        }
        let lengths: &[&[u32]] = &[&[4, 3, 1], &[2, 1, 1, 1, 1, 1, 1, 1, 1]];
        check_f16(&Problem::new(256, 256, lengths), any_f16(256, tiles, 65536));
    }
}

/// The kernels for any width, and those that work on two tiles, compute what the ones for a width do, to the last bit.
#[test]
fn f16_kernels_agree() {
    for d in [100, 200] {
        // Two whole tiles, and one that is not.
        let lengths: &[u32] = if d == 100 { RAGGED } else { &[4, 3, 3, 2, 2, 2, 1, 1, 1, 1] };
        let problem = Problem::new(11, d, &[lengths, &[2, 1]]);
        let (saved, hidden) = problem.forward::<f64>(|x| x);
        let activations = [(narrow(&saved), narrow(&hidden))];
        let mut others = vec![any_f16(d, 1, 65536), any_f16(d, 1, 30000), any_f16(d, 2, 65536)];
        if d == 200 {
            others.push(f16_of_two());
        }
        let special = [forward_f16(d), backward_f16(d)];
        for (pass, activations) in [None, Some(&activations[..])].into_iter().enumerate() {
            let special = launch(0, special[pass], &[&problem], activations);
            for other in &others {
                let general = launch(0, other[pass], &[&problem], activations);
                let same = special.saved == general.saved && special.hidden == general.hidden;
                assert!(same, "{} d {d}", other[pass].name);
            }
        }
    }
}

/// The lengths of a batch that has everything: a full tile and a tail, long sequences and such of one step.
const RAGGED: &[u32] = &[11, 9, 9, 8, 7, 6, 5, 5, 4, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1];

#[test]
fn f32_small() {
    for d in [1, 2, 3, 7, 16, 17, 19, 20, 33, 50, 65] {
        check_f32(&Problem::new(d as u64, d, &[RAGGED, &[4, 1]]), 65536);
        check_f32(&Problem::new(100 + d as u64, d, &[&[3, 7, 1]]), 0);
    }
}

#[test]
fn f32_wide() {
    for (d, limit) in [(100, 65536), (100, 0), (150, 65536), (200, 40000), (256, 65536)] {
        let outcomes = check_f32(&Problem::new(d as u64, d, &[&[5, 3, 3, 2, 1], &[1; 17]]), limit);
        let [forward, backward] = outcomes.map(|outcome| outcome.wavefronts_each);
        println!("d {d}: shared wavefronts for each multiplication of a warp {forward:.2}, {backward:.2}");
        // A value of the state or of a gradient, of which lanes have four at once, is read in two passes, not in four.
        assert!(forward < 0.3 && backward < 0.26, "d {d}: {forward:.2}, {backward:.2}");
    }
}

#[test]
fn groups_without_sequences() {
    for lengths in [[&[][..], &[3, 1]], [&[2], &[]], [&[], &[]]] {
        check_f32(&Problem::new(5, 20, &lengths), 65536);
        check_f16(&Problem::new(5, 20, &lengths), any_f16(20, 1, 65536));
    }
}

/// The kernels with their shared memory as it is on a card.
fn kernels(d: usize) -> Vec<[Kernel; 2]> {
    let mut kernels = vec![[forward_f32(d, 65536), backward_f32(d, 65536)]];
    kernels.extend([any_f16(d, 1, 65536), any_f16(d, 1, 0), any_f16(d, 2, 65536)]);
    if d == 50 {
        kernels.push([forward_f16(d), backward_f16(d)]);
    }
    kernels
}

#[test]
fn runs_and_schedules_change_no_bit() {
    for d in [33, 50] {
        // One shape, different contents: capacity and first group are the launch's.
        let one = Problem::new(1, d, &[RAGGED, &[3, 2, 2]]);
        let mut other = Problem::new(2, d, &[&RAGGED[3..], &[6, 3, 2]]);
        other.capacity = one.capacity;
        other.first_group = one.first_group;
        other.rows = one.rows;
        other.inputs = Random(3).floats(other.rows * 6 * d, 2.0);
        other.d_hidden = Random(4).floats(other.rows * 2 * d, 1.0);
        let values = |problem: &Problem| {
            let (saved, hidden) = problem.forward::<f64>(|x| x);
            (narrow(&saved), narrow(&hidden))
        };
        let activations = [values(&one), values(&other)];
        for [forward, backward] in kernels(d) {
            for (kernel, activations) in [(forward, None), (backward, Some(&activations))] {
                let alone: Vec<Outcome> = [&one, &other]
                    .iter()
                    .enumerate()
                    .map(|(i, problem)| {
                        launch(0, kernel, &[problem], activations.map(|both| std::slice::from_ref(&both[i])))
                    })
                    .collect();
                for seed in SEEDS {
                    let both = launch(seed, kernel, &[&one, &other], activations.map(|both| &both[..]));
                    for (run, alone) in alone.iter().enumerate() {
                        assert_eq!(both.saved[run], alone.saved[0], "{} seed {seed}", kernel.name);
                        assert_eq!(both.hidden[run], alone.hidden[0], "{} seed {seed}", kernel.name);
                    }
                }
            }
        }
    }
}

/// Inputs far from zero: gates at exactly 0 and 1, n at exactly -1 and 1, no NaN.
#[test]
fn gates_saturate() {
    let mut problem = Problem::new(9, 16, &[&[4, 2]]);
    let steps = [f32::MAX, -f32::MAX, 200.0, -200.0, 100.0, -100.0, 0.0, 1e-30];
    problem.inputs.iter_mut().zip(steps.into_iter().cycle()).for_each(|(x, value)| *x = value);
    let (saved, hidden) = problem.forward::<f64>(|x| x);
    for [forward, _] in kernels(16) {
        let outcome = launch(0, forward, &[&problem], None);
        assert!(error(&problem, 8 * 16, floats(&outcome.saved[0]), &saved) < 1e-3);
        assert!(error(&problem, 2 * 16, floats(&outcome.hidden[0]), &hidden) < 1e-3);
    }
}

/// Sigmoid and tanh by themselves, from tiny to where they saturate: four units in the last place.
#[test]
fn gates_are_exact_to_a_few_bits() {
    let d = 128;
    let mut problem = Problem::new(13, d, &[&[3, 2]]);
    for (weight, bias) in problem.weights.iter_mut().flatten() {
        weight.fill(0.0);
        bias.fill(0.0);
    }
    let mut random = Random(14);
    for x in &mut problem.inputs {
        let magnitude = 2f32.powf(random.floats(1, 20.0)[0] - 13.5);
        *x = if random.below(2) == 0 { magnitude } else { -magnitude };
    }
    let belongs = problem.belongs();
    for [forward, _] in kernels(d) {
        let problem = problem.held(forward.element());
        let (saved, _) = problem.forward::<f64>(|x| x);
        let outcome = launch(0, forward, &[&problem], None);
        for (i, &expected) in saved.iter().enumerate().filter(|(i, _)| belongs[i / (8 * d)]) {
            let actual: f64 = f32::from_bits(outcome.saved[0][i]).into();
            let bound = 4.0 * f64::from(f32::EPSILON) * expected.abs() + f64::from(f32::MIN_POSITIVE);
            let bound = bound + rounding(forward.element(), expected);
            assert!((actual - expected).abs() <= bound, "{}: {actual:e} for {expected:e}", forward.name);
        }
    }
}

/// The reference itself: its gradients are those of its forward pass.
#[test]
fn reference_against_finite_differences() {
    let d = 3;
    let mut problem = Problem::new(7, d, &[&[4, 2]]);
    let loss = |problem: &Problem| {
        let (_, hidden) = problem.forward::<f64>(|x| x);
        hidden.iter().zip(&problem.d_hidden).map(|(h, &g)| h * f64::from(g)).sum::<f64>()
    };
    let (saved, hidden) = problem.forward::<f64>(|x| x);
    let gradients = problem.backward::<f64>(&narrow(&saved), &narrow(&hidden), |x| x);
    let step = 2f32.powi(-10);
    let belongs = problem.belongs();
    for row in (0..problem.rows).filter(|&row| belongs[row]) {
        for column in 0..6 * d {
            let at = row * 6 * d + column;
            let value = problem.inputs[at];
            let [above, below] = [value + step, value - step].map(|x| {
                problem.inputs[at] = x;
                (loss(&problem), x)
            });
            problem.inputs[at] = value;
            let slope = (above.0 - below.0) / f64::from(above.1 - below.1);
            let gradient = gradients[row * 8 * d + column];
            assert!((slope - gradient).abs() < 1e-5, "row {row}, column {column}: {slope} and {gradient}");
        }
    }
    for direction in 0..2 {
        for u in 0..d {
            let sum: f64 =
                (0..problem.rows).map(|row| gradients[row * 8 * d + (6 + direction) * d + u]).sum();
            let [above, below] = [step, -step].map(|x| {
                let mut moved = problem.clone();
                moved.weights[0][direction].1[2 * d + u] += x;
                (loss(&moved), moved.weights[0][direction].1[2 * d + u])
            });
            let slope = (above.0 - below.0) / f64::from(above.1 - below.1);
            assert!((slope - sum).abs() < 1e-5, "bias of hn, unit {u}: {slope} and {sum}");
        }
    }
}
