//! Kernels as they are written in earnest, on the simulated card, against the same computed plainly.
//!
//! What a kernel must not read is left unwritten, and buffers are no longer than they have to be: with the simulator's checks a
//! result that is right was not reached by way of anything else.

mod common;

use common::{Card, Parameter, Random, round_to_f16};
use simulator::Settings;

/// Half of the distance from 1 to the next f32, and to the next f16.
const HALF_F32: f64 = 1.0 / (1u64 << 24) as f64;
const HALF_F16: f64 = 1.0 / 2048.0;

/// Runs on cards whose orders of blocks and warps differ, on which results must not depend. Returns the bits of all.
fn on_several_cards(run: impl Fn(&Card) -> Vec<u8>) -> Vec<u8> {
    let first = run(&Card::new(0));
    for (seed, threads) in [(1, 1), (2, 2), (3, 2)] {
        let card = Card::with(Settings { seed, threads, memory: 1 << 30, watchdog: 1 << 24 });
        assert!(run(&card) == first, "with seed {seed} and {threads} threads the result has other bits");
    }
    first
}

/// Launches, and panics with the report of a fault.
fn launch(
    card: &Card,
    file: &str,
    kernel: &str,
    grid: [u32; 2],
    block: u32,
    shared: u32,
    parameters: &[Parameter],
) {
    let function = card.kernel(file, kernel);
    card.launch(&function, grid, block, shared, parameters).unwrap_or_else(|fault| panic!("{fault}"));
}

#[track_caller]
fn assert_close(what: &str, result: f64, expected: f64, tolerance: f64) {
    assert!(
        (result - expected).abs() <= tolerance,
        "{what} is {result}, not {expected} within {tolerance:e}"
    );
}

fn product(m: usize, n: usize, k: usize) {
    let mut random = Random((m * 1_000_000 + n * 1000 + k) as u64);
    let (a, b) = (random.halves(m * k, 1.0), random.halves(k * n, 1.0));
    let bits = on_several_cards(|card| {
        // An allocation has at least a byte.
        let matrix = |values: &[f32]| {
            let address = card.allocate((values.len() * 2).max(1));
            card.write(address, &common::f16_bytes(values));
            Parameter::Address(address)
        };
        let c = card.allocate(m * n * 4);
        let sizes = [m, n, k].map(|size| Parameter::Word(size as u32));
        let parameters = [matrix(&a), matrix(&b), Parameter::Address(c), sizes[0], sizes[1], sizes[2]];
        let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32];
        launch(card, "gemm", "gemm_f16", grid, 128, 0, &parameters);
        card.read(c, m * n * 4)
    });
    let c = common::to_f32(&bits);
    for (i, row) in c.chunks_exact(n).enumerate() {
        for (j, result) in row.iter().enumerate() {
            let terms = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            // A product of depth 8 adds 9 numbers, and may cut each off below the largest one's last place.
            let tolerance = 9.0 * (k as f64 / 8.0 + 1.0) * 2.0 * HALF_F32 * size;
            assert_close(&format!("C[{i}, {j}] of {m} x {n} x {k}"), f64::from(*result), sum, tolerance);
        }
    }
}

#[test]
fn gemm_of_whole_tiles() {
    product(64, 64, 32);
    product(128, 192, 96);
}

#[test]
fn gemm_of_aligned_edges() {
    product(1, 8, 8);
    product(70, 72, 40);
    product(63, 136, 200);
}

#[test]
fn gemm_of_ragged_edges() {
    product(1, 1, 1);
    product(17, 9, 3);
    product(65, 67, 33);
    product(64, 65, 31);
    product(5, 100, 100);
    product(100, 6, 129);
}

#[test]
fn gemm_without_depth_is_zero() {
    product(10, 10, 0);
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn recurrent(hidden: usize, steps: usize, lengths: &[u32]) {
    let batch = lengths.len();
    let mut random = Random((hidden * 1000 + steps * 10 + batch) as u64);
    // PyTorch's initial values have this size.
    let scale = 1.0 / (hidden as f32).sqrt();
    let x = random.floats(steps * batch * 3 * hidden, 2.0);
    let u = random.halves(3 * hidden * hidden, scale);
    let bias = random.floats(3 * hidden, scale);
    let bits = on_several_cards(|card| {
        let inputs = card.allocate(x.len() * 4);
        for step in 0..steps {
            for sample in (0..batch).filter(|sample| step < lengths[*sample] as usize) {
                let at = (step * batch + sample) * 3 * hidden;
                card.write(inputs + at as u64 * 4, &common::f32_bytes(&x[at..at + 3 * hidden]));
            }
        }
        let u = card.upload(&common::f16_bytes(&u));
        let bias = card.upload(&common::f32_bytes(&bias));
        let lengths = card.upload(&common::u32_bytes(lengths));
        let out = card.allocate(steps * batch * hidden * 4);
        let mut parameters = [inputs, u, bias, lengths, out].map(Parameter::Address).to_vec();
        parameters.extend([steps, batch].map(|size| Parameter::Word(size as u32)));
        let (grid, block) = (batch.div_ceil(8) as u32, 32 * hidden.div_ceil(16) as u32);
        launch(card, "gru", &format!("gru_forward_{hidden}"), [grid, 1], block, 0, &parameters);
        card.read(out, steps * batch * hidden * 4)
    });

    let out = common::to_f32(&bits);
    // The reference rounds h to f16 where the kernel does. Errors of f32 before that can bring an h to the other of two
    // neighbours, one of HALF_F16 * 2 away; a few of them at once shift a sum by a few times that and a weight's size. z h passes
    // on what has gathered, n and z halve at least what comes in anew: twice that over time, and as much for safety.
    let tolerance = 4.0 * 4.0 * 2.0 * HALF_F16 * f64::from(scale);
    for sample in 0..batch {
        let mut h = vec![0.0; hidden];
        for step in 0..steps {
            let row = &out[(step * batch + sample) * hidden..][..hidden];
            if step >= lengths[sample] as usize {
                assert!(
                    row.iter().all(|value| value.to_bits() == 0),
                    "step {step} of sample {sample} is after its last: {row:?}"
                );
                continue;
            }
            let inputs = &x[(step * batch + sample) * 3 * hidden..][..3 * hidden];
            let gate = |gate: usize, unit: usize| -> (f64, f64) {
                let weights = &u[(gate * hidden + unit) * hidden..][..hidden];
                let products =
                    weights.iter().zip(&h).map(|(weight, h)| f64::from(*weight) * round_to_f16(*h));
                let recurrent = products.sum::<f64>() + f64::from(bias[gate * hidden + unit]);
                (f64::from(inputs[gate * hidden + unit]), recurrent)
            };
            let next = |unit: usize| {
                let ((x_r, u_r), (x_z, u_z), (x_n, u_n)) = (gate(0, unit), gate(1, unit), gate(2, unit));
                let (r, z) = (sigmoid(x_r + u_r), sigmoid(x_z + u_z));
                (1.0 - z) * (x_n + r * u_n).tanh() + z * h[unit]
            };
            h = (0..hidden).map(next).collect();
            for unit in 0..hidden {
                let what = format!("h of unit {unit} after step {step} of sample {sample}, H = {hidden}");
                assert_close(&what, f64::from(row[unit]), h[unit], tolerance);
            }
        }
    }
}

#[test]
fn gru_of_whole_tiles() {
    recurrent(32, 4, &[4; 8]);
    recurrent(64, 3, &[3; 16]);
}

#[test]
fn gru_of_samples_with_different_lengths() {
    recurrent(32, 7, &[7, 0, 1, 6, 3, 7, 2, 5, 4, 1, 0]);
    recurrent(64, 5, &[2, 0, 5]);
    recurrent(100, 6, &[1, 2, 3, 4, 5, 6, 0, 6, 3]);
}

#[test]
fn gru_of_nothing_but_padding() {
    recurrent(100, 3, &[0, 0]);
}

#[test]
fn gru_over_a_long_time() {
    recurrent(100, 60, &[60, 59, 30]);
}

/// What a kernel for softmax is launched with.
struct Softmax {
    kernel: &'static str,
    half: bool,
    /// Blocks for a number of rows.
    grid: fn(usize) -> u32,
    block: u32,
    /// Bytes of dynamic shared memory for a width.
    shared: fn(usize) -> u32,
    takes_rows: bool,
}

fn narrow(kernel: &'static str, half: bool) -> Softmax {
    Softmax {
        kernel,
        half,
        grid: |rows| rows.div_ceil(4) as u32,
        block: 128,
        shared: |_| 0,
        takes_rows: true,
    }
}

fn wide(block: u32) -> Softmax {
    let shared = |width| 4 * width as u32;
    Softmax {
        kernel: "softmax_wide",
        half: false,
        grid: |rows| rows as u32,
        block,
        shared,
        takes_rows: false,
    }
}

fn softmax(how: &Softmax, width: usize, lengths: &[u32], scale: f32) {
    let rows = lengths.len();
    let mut random = Random((width * 1000 + rows) as u64);
    let x = if how.half { random.halves(rows * width, scale) } else { random.floats(rows * width, scale) };
    let size = if how.half { 2 } else { 4 };
    let bits = on_several_cards(|card| {
        let inputs = card.allocate(x.len() * size);
        for (row, length) in lengths.iter().enumerate() {
            let values = &x[row * width..][..*length as usize];
            let bytes = if how.half { common::f16_bytes(values) } else { common::f32_bytes(values) };
            if !bytes.is_empty() {
                card.write(inputs + (row * width * size) as u64, &bytes);
            }
        }
        let out = card.allocate(x.len() * size);
        let lengths = card.upload(&common::u32_bytes(lengths));
        let mut parameters = [inputs, out, lengths].map(Parameter::Address).to_vec();
        if how.takes_rows {
            parameters.push(Parameter::Word(rows as u32));
        }
        parameters.push(Parameter::Word(width as u32));
        launch(
            card,
            "softmax",
            how.kernel,
            [(how.grid)(rows), 1],
            how.block,
            (how.shared)(width),
            &parameters,
        );
        card.read(out, x.len() * size)
    });

    let y = match how.half {
        true => common::f16_to_f64(&bits),
        false => common::to_f32(&bits).into_iter().map(f64::from).collect(),
    };
    for (row, length) in lengths.iter().enumerate() {
        let (values, rest) = y[row * width..][..width].split_at(*length as usize);
        let inputs = &x[row * width..][..*length as usize];
        assert!(rest.iter().all(|value| *value == 0.0), "row {row} after its {length} values: {rest:?}");
        let maximum = inputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = inputs.iter().map(|x| (f64::from(*x) - f64::from(maximum)).exp()).collect();
        let sum: f64 = powers.iter().sum();
        for (j, (value, power)) in values.iter().zip(&powers).enumerate() {
            // The difference is rounded, which is a relative error of the power; each power has an error of a few last places,
            // and so has their sum: a thread adds at most 16 numbers, and then a tree does.
            let distance = (f64::from(inputs[j]) - f64::from(maximum)).abs();
            let relative = (32.0 + 2.0 * distance) * HALF_F32 + if how.half { HALF_F16 } else { 0.0 };
            // Below f16's smallest normal number what is lost is half of the smallest of all.
            let absolute = if how.half { HALF_F16 * 2f64.powi(-14) } else { f64::from(f32::MIN_POSITIVE) };
            let what = format!("value {j} of row {row} of {}, {length} of {width}", how.kernel);
            assert_close(&what, *value, power / sum, relative * (power / sum) + absolute);
        }
    }
}

#[test]
fn softmax_with_a_warp_for_each_row() {
    let how = narrow("softmax_narrow", false);
    softmax(&how, 1, &[1, 0], 1.0);
    softmax(&how, 33, &[33, 32, 1, 0, 31, 2], 5.0);
    softmax(&how, 256, &[256, 255, 0, 129, 7], 50.0);
}

#[test]
fn softmax_with_a_block_for_each_row() {
    softmax(&wide(32), 5, &[5, 0, 1], 1.0);
    softmax(&wide(64), 100, &[100, 99, 64, 65, 0, 1], 20.0);
    softmax(&wide(256), 1000, &[1000, 999, 0, 257, 3], 5.0);
    softmax(&wide(1024), 3000, &[3000, 1], 100.0);
}

#[test]
fn softmax_of_pairs() {
    let how = narrow("softmax_pairs", true);
    softmax(&how, 2, &[2, 1, 0], 1.0);
    softmax(&how, 66, &[66, 65, 64, 63, 1, 0, 2], 3.0);
    softmax(&how, 512, &[512, 511, 0, 300, 77], 10.0);
}

/// What a launch touches of memory, against the sizes of its operands.
#[test]
fn distinct_sectors_are_counted_once() {
    let card = Card::new(0);
    let (m, n, k) = (64, 128, 64);
    let mut random = Random(7);
    let mut matrix = |count: usize| {
        let address = card.allocate(count * 2);
        card.write(address, &common::f16_bytes(&random.halves(count, 1.0)));
        Parameter::Address(address)
    };
    let (a, b) = (matrix(m * k), matrix(k * n));
    let c = card.allocate(m * n * 4);
    let sizes = [m, n, k].map(|size| Parameter::Word(size as u32));
    let parameters = [a, b, Parameter::Address(c), sizes[0], sizes[1], sizes[2]];
    let function = card.kernel("gemm", "gemm_f16");
    let run =
        || card.launch(&function, [2, 1], 128, 0, &parameters).unwrap_or_else(|fault| panic!("{fault}"));
    let sectors = ((m * k + k * n) * 2 / 32) as u64;
    // Both blocks read A, which counts once. Nothing had touched the operands before; then the launch before had.
    for age in [0, 1, 1] {
        let profile = run();
        assert_eq!(profile.sectors_read.into_iter().collect::<Vec<_>>(), [(age, sectors)]);
        assert_eq!(profile.sectors_written, (m * n * 4 / 32) as u64);
        // The blocks do the same.
        assert_eq!(profile.longest_block * 2, profile.warp_instructions);
        let places: u64 = profile.places.iter().map(|place| place.warp_instructions).sum();
        assert!(places > 0 && places <= profile.warp_instructions);
        assert!(profile.places.iter().all(|place| place.most <= place.warp_instructions));
    }
}
