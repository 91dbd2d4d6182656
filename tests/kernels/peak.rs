//! kernels/peak.cu

use crate::support::{Argument, Card, SEEDS};

const ROUNDS: u32 = 5;
const BLOCKS: u32 = 2;
const THREADS: usize = 512;

fn run(card: &Card, kernel: &str, a: f32, b: f32) -> Vec<f32> {
    let out = card.allocate::<f32>(THREADS);
    let arguments =
        [Argument::Address(out), Argument::Unsigned(ROUNDS), Argument::Float(a), Argument::Float(b)];
    card.launch("peak", kernel, ([BLOCKS, 1, 1], 256, 0), &arguments);
    card.read(out, THREADS)
}

/// The work that is counted is done: values of powers of two, which floating point adds exactly.
#[test]
fn every_round_is_computed() {
    for seed in SEEDS {
        let card = Card::new(seed);
        let sums = run(&card, "peak_fma", 2.0, 1.0);
        for (thread, sum) in sums.into_iter().enumerate() {
            // x becomes 2 x + 1, five times.
            let chain = |i: usize| ((thread + i) * 32 + 31) as f32;
            assert_eq!(sum, (0..8).map(chain).sum::<f32>(), "thread {thread}");
        }
        // Each element of a tile grows by 8 a b a round.
        let expected: f32 = (0..8).map(|i| 4.0 * (i as f32 + 8.0 * 0.5 * 0.25 * ROUNDS as f32)).sum();
        assert_eq!(run(&card, "peak_mma", 0.5, 0.25), vec![expected; THREADS]);
    }
}
