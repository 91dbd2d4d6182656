//! kernels/standardise.cu

use crate::support::{Argument, Card, Random, SEEDS};
use crate::work::same;

#[test]
fn features_are_the_cpu_s() {
    for (rows, width) in [(1, 1), (7, 33), (5, 712)] {
        let mut random = Random(width as u64);
        let narrow = random.floats(rows * width, 100.0);
        let mean: Vec<f64> = random.floats(width, 50.0).iter().map(|&x| f64::from(x) / 3.0).collect();
        let deviation: Vec<f64> =
            random.floats(width, 1.0).iter().map(|&x| f64::from(x).abs() + 0.1).collect();
        let wide: Vec<f64> = narrow.iter().map(|&x| f64::from(x) / 7.0).collect();
        let standardised = |i: usize| ((wide[i] - mean[i % width]) / deviation[i % width]) as f32;
        let expected: Vec<f32> = (0..rows * width).map(standardised).collect();
        for seed in SEEDS {
            let card = Card::new(seed);
            let (at_mean, at_deviation) = (card.upload(&mean), card.upload(&deviation));
            let run = |from: u64| -> Vec<f32> {
                let to = card.allocate::<f32>(rows * width);
                let arguments = [to, from, at_mean, at_deviation].map(Argument::Address);
                let arguments = [&arguments[..], &[Argument::Unsigned(width as u32)]].concat();
                card.launch("standardise", "standardise", ([rows as u32, 1, 1], 256, 0), &arguments);
                card.read(to, rows * width)
            };
            // Division and rounding are IEEE's: the CPU's bits.
            same("features", &run(card.upload(&wide)), &expected);
        }
    }
}
