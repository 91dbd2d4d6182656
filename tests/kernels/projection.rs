//! kernels/projection.cu: every number that f16 has in the right place, and what it has not.

use crate::batches::Header;
use crate::half;
use crate::support::Random;
use crate::work::{Work, args};

#[test]
fn weights_are_rounded() {
    for count in [1, 4, 1023, 4098] {
        let mut random = Random(count as u64);
        let weights = [0, 1].map(|_| {
            let mut weights = random.floats(count, 1.0);
            let few = [1e6, -65519.0, 65520.0, 1e-7, -1e-9, 0.0, -0.0, f32::INFINITY];
            weights.iter_mut().skip(1).step_by(5).zip(few).for_each(|(weight, value)| *weight = value);
            weights
        });
        let mut work = Work::default();
        let from = work.buffer(count, [&weights[0], &weights[1]]);
        let header = work.buffer(1, [&[Header { samples: 1, ..Header::default() }]; 2]);
        let to = work.buffer(count, [&vec![0x7eadu16; count], &vec![0x7ead; count]]);
        work.launch(
            ("projection", "round_weights"),
            [count.div_ceil(1024), 1],
            (256, 0),
            args![to, from, header, count],
        );
        let results = work.check();
        for (run, weights) in weights.iter().enumerate() {
            let expected: Vec<u16> = weights.iter().copied().map(half::bits).collect();
            assert_eq!(results.of::<u16>(run, to), expected);
        }
    }
}
