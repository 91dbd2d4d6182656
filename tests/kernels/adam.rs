//! kernels/adam.cu: the CPU's update, bit for bit.

use coin::ops::adam::{Step, update};

use crate::batches::Header;
use crate::support::Random;
use crate::work::{Work, args, same};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
const LEARNING_RATE: [f32; 2] = [1e-3, 0.25];

/// As `LossScale`: the scale's bits, good steps, overflow.
fn state(scale: f32, good: u32) -> [u32; 3] {
    [scale.to_bits(), good, 0]
}

struct Inputs {
    parameters: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    /// Of each step.
    gradients: Vec<Vec<f32>>,
}

/// `steps` updates of `count` parameters, from update `done` on; `scaled` with a loss scale of 1024, and in the second run with a gradient
/// in step 1 that is not finite at `broken`.
fn check(count: usize, done: [u64; 2], scaled: bool, broken: Option<(usize, f32)>) {
    const STEPS: usize = 4;
    let scale = if scaled { 1024.0 } else { 1.0 };
    let mut random = Random(count as u64);
    let inputs = [0, 1].map(|run| {
        let mut gradients: Vec<Vec<f32>> = (0..STEPS).map(|_| random.floats(count, 0.1 * scale)).collect();
        // Gradients of zero, and far from one.
        gradients[2].iter_mut().step_by(3).for_each(|g| *g = 0.0);
        gradients[3].iter_mut().step_by(5).for_each(|g| *g *= 1e-12);
        if let (1, Some((at, value))) = (run, broken) {
            gradients[1][at] = value;
        }
        Inputs {
            parameters: random.floats(count, 1.0),
            first: random.floats(count, 0.01),
            second: random.floats(count, 0.01).iter().map(|x| x.abs()).collect(),
            gradients,
        }
    });
    let mut work = Work::default();
    let headers =
        LEARNING_RATE.map(|learning_rate| [Header { samples: 1, learning_rate, ..Header::default() }]);
    let header = work.buffer(1, [&headers[0], &headers[1]]);
    let mut buffer = |of: &dyn Fn(&Inputs) -> Vec<f32>| {
        let [a, b] = inputs.each_ref().map(of);
        work.buffer(count, [&a, &b])
    };
    let parameters = buffer(&|inputs| inputs.parameters.clone());
    let first = buffer(&|inputs| inputs.first.clone());
    let second = buffer(&|inputs| inputs.second.clone());
    let gradients: Vec<_> = (0..STEPS).map(|step| buffer(&|inputs| inputs.gradients[step].clone())).collect();
    // `Adam`: of its 48 bytes only the counter is set.
    let adam = work.buffer(6, [&[done[0]], &[done[1]]]);
    let scales = [state(1024.0, 1998), state(1024.0, 7)];
    let loss_scale = scaled.then(|| work.buffer(3, [&scales[0], &scales[1]]));
    let grid = [count.div_ceil(1024), 1];
    for gradient in gradients {
        if scaled {
            work.launch(
                ("adam", "gradient_finite"),
                grid,
                (256, 0),
                args![loss_scale, gradient, header, count],
            );
        }
        work.launch(
            ("adam", "adam_begin"),
            [1, 1],
            (1, 0),
            args![adam, loss_scale, header, BETA1, BETA2, EPSILON],
        );
        work.launch(
            ("adam", "adam"),
            grid,
            (256, 0),
            args![parameters, first, second, gradient, adam, count],
        );
        if scaled {
            work.launch(("adam", "loss_scale"), [1, 1], (1, 0), args![loss_scale, header]);
        }
    }
    let results = work.check();
    for (run, inputs) in inputs.into_iter().enumerate() {
        let Inputs { parameters: mut p, first: mut m, second: mut v, gradients } = inputs;
        let (mut number, mut scale) = (done[run], scale);
        for gradient in gradients {
            // The scale as it is when the step begins; a loss scaled less has smaller gradients, which this test's are not.
            if gradient.iter().any(|g| !g.is_finite()) {
                scale /= 2.0;
                continue;
            }
            number += 1;
            let gradient: Vec<f32> = gradient.iter().map(|g| g / scale).collect();
            let step = Step {
                learning_rate: LEARNING_RATE[run].into(),
                beta1: BETA1,
                beta2: BETA2,
                epsilon: EPSILON,
                number,
            };
            update(step, &gradient, &mut p, &mut m, &mut v);
            // Run 0 has its two thousandth good step at the second.
            if scaled && run == 0 && number == done[0] + 2 {
                scale *= 2.0;
            }
        }
        same("parameters", &results.of(run, parameters), &p);
        same("first moment", &results.of(run, first), &m);
        same("second moment", &results.of(run, second), &v);
        assert_eq!(results.of::<u64>(run, adam)[0], number);
        if let Some(place) = loss_scale {
            let good = match (run, broken) {
                (0, _) => 2,
                (_, None) => 11,
                (_, Some(_)) => 2,
            };
            assert_eq!(results.of::<u32>(run, place), state(scale, good));
        }
    }
}

#[test]
fn updates_are_the_cpus() {
    for count in [1, 4, 1027, 5000] {
        check(count, [0, 123_456], false, None);
    }
}

#[test]
fn a_scaled_loss() {
    check(1027, [0, 99], true, None);
    // In the first and the last element, which different code reads.
    check(1027, [0, 99], true, Some((0, f32::INFINITY)));
    check(1027, [5, 0], true, Some((1026, f32::NAN)));
    check(3, [5, 0], true, Some((1, f32::NEG_INFINITY)));
}

#[test]
fn the_scale_stays_within_its_bounds() {
    let mut work = Work::default();
    let largest = 16_777_216.0;
    // The largest after two thousand good steps, the smallest after an overflow.
    let mut overflowed = state(1.0, 12);
    overflowed[2] = 1;
    let loss_scale = work.buffer(3, [&state(largest, 1999), &overflowed]);
    let busy = [Header { samples: 1, ..Header::default() }];
    let header = work.buffer(1, [&busy, &busy]);
    work.launch(("adam", "loss_scale"), [1, 1], (1, 0), args![loss_scale, header]);
    let results = work.check();
    assert_eq!(results.of::<u32>(0, loss_scale), state(largest, 0));
    assert_eq!(results.of::<u32>(1, loss_scale), state(1.0, 0));
}

/// Nothing of a run without a batch changes, whatever its gradient holds.
#[test]
fn a_run_without_a_batch_is_untouched() {
    const COUNT: usize = 1027;
    let mut random = Random(3);
    let mut work = Work::default();
    let headers = [1, 0].map(|samples| [Header { samples, learning_rate: 0.1, ..Header::default() }]);
    let header = work.buffer(1, [&headers[0], &headers[1]]);
    let values = random.floats(COUNT, 1.0);
    let broken = vec![f32::NAN; COUNT];
    let [parameters, first, second] = [(); 3].map(|()| work.buffer(COUNT, [&values, &values]));
    let gradient = work.buffer(COUNT, [&values, &broken]);
    let adam = work.buffer(6, [&[7u64], &[7u64]]);
    let scales = state(1024.0, 1999);
    let loss_scale = work.buffer(3, [&scales, &scales]);
    let grid = [COUNT.div_ceil(1024), 1];
    work.launch(("adam", "gradient_finite"), grid, (256, 0), args![loss_scale, gradient, header, COUNT]);
    let rates = args![adam, loss_scale, header, BETA1, BETA2, EPSILON];
    work.launch(("adam", "adam_begin"), [1, 1], (1, 0), rates);
    let update = args![parameters, first, second, gradient, adam, COUNT];
    work.launch(("adam", "adam"), grid, (256, 0), update);
    work.launch(("adam", "loss_scale"), [1, 1], (1, 0), args![loss_scale, header]);
    let results = work.check();
    for place in [parameters, first, second] {
        assert_ne!(results.of::<u32>(0, place), results.of::<u32>(1, place));
        same("values", &results.of(1, place), &values);
    }
    assert_eq!([0, 1].map(|run| results.of::<u64>(run, adam)[0]), [8, 7]);
    assert_eq!(results.of::<u32>(0, loss_scale), state(2048.0, 0));
    assert_eq!(results.of::<u32>(1, loss_scale), scales);
}
