//! kernels/classifier.cu

use coin::metrics::{Confusion, largest};

use crate::batches::Header;
use crate::support::Random;
use crate::work::{Arg, UNTOUCHED_WIDE, Work, args, close};

const NONE: u32 = u32::MAX;

struct Inputs {
    logits: Vec<f32>,
    label: Vec<u32>,
}

fn inputs(random: &mut Random, samples: usize, classes: usize, magnitude: f32) -> Inputs {
    let mut logits = random.floats(samples * classes, magnitude);
    // Rows of equals: the first is the prediction.
    for row in logits.chunks_exact_mut(classes).step_by(5) {
        let first = row[0];
        row.fill(first);
    }
    let mut label: Vec<u32> = (0..samples).map(|_| random.below(classes) as u32).collect();
    if samples > 2 {
        label[2] = NONE;
    }
    Inputs { logits, label }
}

fn header(samples: usize) -> [Header; 1] {
    [Header { samples: samples as u32, ..Header::default() }]
}

fn check(counts: [usize; 2], classes: usize, magnitude: f32, scale: Option<f32>) {
    let mut random = Random((counts[0] * 64 + classes) as u64);
    let capacity = counts[0].max(counts[1]) + 3;
    let inputs = counts.map(|samples| inputs(&mut random, samples, classes, magnitude));
    let mut work = Work::default();
    let headers = counts.map(header);
    let header = work.buffer(1, [&headers[0], &headers[1]]);
    let logits = work.buffer(capacity * classes, [&inputs[0].logits, &inputs[1].logits]);
    let label = work.buffer(capacity, [&inputs[0].label, &inputs[1].label]);
    let loss = work.output_wide(capacity);
    let d_logits = work.output(capacity * classes);
    let at_scale = scale.map(|scale| work.buffer(1, [&[scale], &[2.0 * scale]]));
    // An epoch's sums so far.
    let sum = work.buffer(1, [&[100.0f64], &[0.5]]);
    let confusion =
        work.buffer(classes * classes, [&vec![3u32; classes * classes], &vec![0u32; classes * classes]]);
    let grid = [capacity.div_ceil(8), 1];
    work.launch(
        ("classifier", "cross_entropy"),
        grid,
        (256, 0),
        args![loss, d_logits, logits, label, at_scale, header, classes],
    );
    let metrics = ("classifier", "metrics");
    work.launch(metrics, [1, 1], (256, 0), args![sum, confusion, loss, logits, label, header, classes]);
    // Without a confusion matrix, as for the adversarial pass: the sum alone.
    work.launch(metrics, [1, 1], (256, 0), args![sum, Arg::Null, loss, logits, label, header, classes]);
    let results = work.check();
    for (run, Inputs { logits, label }) in inputs.iter().enumerate() {
        let scale = scale.map_or(1.0, |scale| scale * [1.0, 2.0][run]);
        let mut d_exact = vec![f64::NAN; capacity * classes];
        let mut d_plain = vec![f32::NAN; capacity * classes];
        let mut counted = Confusion::new(classes);
        let found = results.of::<f64>(run, loss);
        let mut total = 0.0;
        for s in 0..counts[run] {
            let row = &logits[s * classes..][..classes];
            let wide: Vec<f64> = row.iter().map(|&x| x.into()).collect();
            let d_exact = &mut d_exact[s * classes..][..classes];
            let d_plain = &mut d_plain[s * classes..][..classes];
            if label[s] == NONE {
                assert_eq!(found[s], 0.0);
                d_exact.fill(0.0);
                d_plain.fill(0.0);
                continue;
            }
            let truth = label[s] as usize;
            let loss = coin::metrics::cross_entropy(&wide, truth);
            assert!(
                (found[s] - loss).abs() <= 4.0 * f64::EPSILON * loss.abs().max(f64::from(magnitude)),
                "{} {loss}",
                found[s]
            );
            total += loss;
            let probabilities = coin::metrics::probabilities(&wide);
            for (c, probability) in probabilities.into_iter().enumerate() {
                let wanted = if c == truth { 1.0 } else { 0.0 };
                d_exact[c] = (probability - wanted) / counts[run] as f64 * f64::from(scale);
                // In float64 like the CPU's: what is left is the last rounding.
                d_plain[c] = d_exact[c] as f32;
            }
            counted.add(truth, largest(&wide));
        }
        assert!(found[counts[run]..].iter().all(|x| x.to_bits() == UNTOUCHED_WIDE.to_bits()));
        close("d_logits", &results.of(run, d_logits), &d_exact, &d_plain);
        let (start, before) = [(100.0, 3), (0.5, 0)][run];
        let found = results.of::<f64>(run, sum)[0];
        let exact = start + 2.0 * total;
        assert!((found - exact).abs() <= 1e-13 * exact, "{found} {exact}");
        let expected: Vec<u32> = counted.rows().flatten().map(|&count| count as u32 + before).collect();
        assert_eq!(results.of::<u32>(run, confusion), expected);
    }
}

#[test]
fn losses_and_what_an_epoch_counts() {
    check([9, 1], 6, 4.0, None);
    check([512, 77], 6, 4.0, Some(1024.0));
    check([300, 5], 64, 30.0, None);
    check([8, 3], 33, 1e4, Some(8.0));
    check([2, 16], 1, 4.0, None);
}

#[test]
fn the_loss_alone() {
    let Inputs { logits, label } = inputs(&mut Random(1), 11, 6, 4.0);
    let mut work = Work::default();
    let headers = [header(11), header(4)];
    let header = work.buffer(1, [&headers[0], &headers[1]]);
    let at_logits = work.buffer(66, [&logits, &logits[..24]]);
    let at_label = work.buffer(11, [&label, &label[..4]]);
    let loss = work.output_wide(11);
    work.launch(
        ("classifier", "cross_entropy"),
        [2, 1],
        (256, 0),
        args![loss, Arg::Null, at_logits, at_label, Arg::Null, header, 6],
    );
    let results = work.check();
    for (run, count) in [11, 4].into_iter().enumerate() {
        let found = results.of::<f64>(run, loss);
        for s in 0..11 {
            let wide: Vec<f64> = logits[s * 6..][..6].iter().map(|&x| x.into()).collect();
            let expected = match label[s] {
                _ if s >= count => UNTOUCHED_WIDE,
                NONE => 0.0,
                truth => coin::metrics::cross_entropy(&wide, truth as usize),
            };
            assert!(found[s].to_bits() == expected.to_bits() || (found[s] - expected).abs() < 1e-14);
        }
    }
}
