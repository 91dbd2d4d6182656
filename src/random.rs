//! Every random number of the project: Philox4x32-10, a counter-based generator.
//!
//! A counter-based generator is a function of where a number stands, not of what was drawn before it. The same
//! function on the CPU and on the GPU therefore draws the same dropout mask, and a run resumes from any step by
//! asking for that step's numbers.
//!
//! The key is always the seed (low word, high word) and **the counter's last word is always the purpose**, one of
//! [`purpose`]'s constants, so that two uses of one seed never read the same numbers.

/// What a random number is for: the last word of the counter. One constant for each use in the project.
pub mod purpose {
    /// Initial values of the parameters.
    pub const INITIALISATION: u32 = 1;
    /// Dropout masks, on the CPU and on the GPU.
    pub const DROPOUT: u32 = 2;
    /// The order of the training utterances in an epoch.
    pub const SHUFFLE: u32 = 3;
    /// The training conversations held out for validation.
    pub const HOLD_OUT: u32 = 4;
    /// Synthetic conversations.
    pub const SYNTHETIC: u32 = 5;
    /// Inputs of tests and benchmarks.
    pub const TEST: u32 = 6;
}

const MULTIPLIER: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words at `counter` under `key`: Philox4x32 with ten rounds (Salmon et al., *Parallel random
/// numbers: as easy as 1, 2, 3*, SC 2011).
#[inline]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    // Words are the low halves of 64 bits, whatever is above them: blocks drawn side by side in vectors then stay in their lanes
    // from round to round.
    let [mut c0, mut c1, mut c2, mut c3] = counter.map(u64::from);
    let [mut k0, mut k1] = key;
    let low = |x: u64| x & 0xFFFF_FFFF;
    for _ in 0..10 {
        let (p0, p1) = (MULTIPLIER[0] * low(c0), MULTIPLIER[1] * low(c2));
        (c0, c1, c2, c3) = (p1 >> 32 ^ c1 ^ u64::from(k0), p1, p0 >> 32 ^ c3 ^ u64::from(k1), p0);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3].map(|x| x as u32)
}

/// The key of a seed: its low and its high word.
#[inline]
pub fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// All 53 bits of a number in `[0, 1)`, from a low and a high word.
#[inline]
fn unit(low: u32, high: u32) -> f64 {
    ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Philox read in order, for what is drawn one number after another: shuffles, initial values, synthetic data.
///
/// A stream is told by its seed, its purpose and an index (0 in [`Stream::new`]): streams of different indices
/// are independent, so an epoch or a conversation has its own and can be drawn again alone. It repeats after
/// 2^34 words.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    /// Block within the stream, low and high word of the index, purpose.
    counter: [u32; 4],
    block: [u32; 4],
    /// Words of `block` already read.
    used: usize,
    spare_normal: Option<f64>,
}

impl Stream {
    pub fn new(seed: u64, purpose: u32) -> Self {
        Self::indexed(seed, purpose, 0)
    }

    /// The stream at `index`, an epoch or a conversation for example.
    pub fn indexed(seed: u64, purpose: u32, index: u64) -> Self {
        Stream {
            key: key(seed),
            counter: [0, index as u32, (index >> 32) as u32, purpose],
            block: [0; 4],
            used: 4,
            spare_normal: None,
        }
    }

    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        let word = self.block[self.used];
        self.used += 1;
        word
    }

    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        u64::from(self.next_u32()) << 32 | low
    }

    /// Uniform in `[0, 1)`, all 53 bits of it.
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        let (low, high) = (self.next_u32(), self.next_u32());
        unit(low, high)
    }

    /// As many numbers as `to` has places, those that [`Stream::uniform`] would give one by one: faster where they are many, because
    /// blocks do not wait for each other.
    pub fn uniforms(&mut self, to: &mut [f64]) {
        const BLOCKS: usize = 8;
        // The rest of the block that was begun.
        let mut begun = 0;
        while self.used != 4 && begun < to.len() {
            to[begun] = self.uniform();
            begun += 1;
        }
        let (groups, rest) = to[begun..].as_chunks_mut::<{ 2 * BLOCKS }>();
        for group in groups {
            let mut blocks = [[0; 4]; BLOCKS];
            for (i, block) in blocks.iter_mut().enumerate() {
                let [first, index @ ..] = self.counter;
                let [low, high, purpose] = index;
                *block = philox4x32([first.wrapping_add(i as u32), low, high, purpose], self.key);
            }
            self.counter[0] = self.counter[0].wrapping_add(BLOCKS as u32);
            for (pair, [a, b, c, d]) in group.as_chunks_mut::<2>().0.iter_mut().zip(blocks) {
                *pair = [unit(a, b), unit(c, d)];
            }
        }
        rest.iter_mut().for_each(|to| *to = self.uniform());
    }

    /// Uniform in `0..n`, without bias (Lemire's multiplication with rejection).
    ///
    /// # Panics
    /// When `n` is 0: there is nothing to draw from.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "drawing below 0");
        let n = n as u64;
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as usize;
            }
        }
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller's pair; the second is kept for the next call).
    #[inline]
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        // 1 - u is in (0, 1]: the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare_normal = Some(radius * sin);
        radius * cos
    }

    /// Puts `items` in a uniformly random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors published with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_gives_the_published_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn a_stream_is_philox_in_order() {
        let seed = 0x299f_31d0_a409_3822;
        let mut stream = Stream::indexed(seed, purpose::SHUFFLE, 0x1_0000_0002);
        for block in 0..3 {
            let words = philox4x32([block, 2, 1, purpose::SHUFFLE], [0xa409_3822, 0x299f_31d0]);
            for word in words {
                assert_eq!(stream.next_u32(), word);
            }
        }
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_index() {
        let first = |mut stream: Stream| [stream.next_u64(), stream.next_u64()];
        let base = first(Stream::new(1, purpose::SHUFFLE));
        assert_eq!(base, first(Stream::indexed(1, purpose::SHUFFLE, 0)));
        assert_ne!(base, first(Stream::new(1 << 32, purpose::SHUFFLE)));
        assert_ne!(base, first(Stream::new(1, purpose::HOLD_OUT)));
        assert_ne!(base, first(Stream::indexed(1, purpose::SHUFFLE, 1)));
    }

    #[test]
    fn many_uniforms_are_those_drawn_one_by_one() {
        for (words, count) in [(0, 0), (0, 1), (0, 16), (0, 100), (2, 3), (2, 50), (1, 40), (3, 17)] {
            let mut one = Stream::new(3, purpose::TEST);
            for _ in 0..words {
                one.next_u32();
            }
            let mut many = one.clone();
            let mut drawn = vec![0.0; count];
            many.uniforms(&mut drawn);
            assert!(drawn.iter().all(|&drawn| drawn == one.uniform()), "{count} after {words}");
            assert_eq!(many.next_u32(), one.next_u32());
        }
    }

    #[test]
    fn uniform_fills_the_unit_interval() {
        let mut stream = Stream::new(7, purpose::TEST);
        let draws: Vec<f64> = (0..100_000).map(|_| stream.uniform()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        // The mean's deviation is 1/sqrt(12 n) = 0.0009; five of them.
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
        // The lowest of the 53 bits is in use.
        assert!(draws.iter().any(|draw| (draw * (1u64 << 53) as f64) as u64 & 1 == 1));
    }

    #[test]
    fn below_draws_every_value_equally() {
        let mut stream = Stream::new(8, purpose::TEST);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[stream.below(6)] += 1;
        }
        // Deviation sqrt(60000 * 5/36) = 91; five of them.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 460), "{counts:?}");
        assert_eq!(stream.below(1), 0);
    }

    #[test]
    fn normal_has_the_moments_of_a_normal() {
        let mut stream = Stream::new(9, purpose::TEST);
        let draws: Vec<f64> = (0..200_000).map(|_| stream.normal()).collect();
        let moment = |power| draws.iter().map(|draw| draw.powi(power)).sum::<f64>() / draws.len() as f64;
        assert!(moment(1).abs() < 0.012, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.15, "fourth moment {}", moment(4));
        // Neighbours are not correlated: the pair of one radius is orthogonal.
        let neighbours = draws.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / draws.len() as f64;
        assert!(neighbours.abs() < 0.012, "neighbours {neighbours}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_a_function_of_the_seed() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..50).collect();
            Stream::new(seed, purpose::SHUFFLE).shuffle(&mut items);
            items
        };
        let shuffled = order(3);
        assert_eq!(shuffled, order(3));
        assert_ne!(shuffled, order(4));
        let mut sorted = shuffled.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<u32>>());
        assert_ne!(shuffled, sorted);
        Stream::new(0, 0).shuffle::<u8>(&mut []);
    }
}
