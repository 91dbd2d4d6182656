//! Values that instructions are tested on.

/// Values that find mistakes: zeros, ones, extremes, subnormals, infinities, NaN of every width, and small integers.
const SPECIAL: [u64; 40] = [
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    63,
    64,
    255,
    0x7f,
    0x80,
    0x3c00,
    0x7bff,
    0x7c00,
    0x7e00,
    0x8000,
    0x8001,
    0x03ff,
    0xfc00,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0x3f80_0000,
    0xbf80_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x007f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0x3ff0_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
    0x7fef_ffff_ffff_ffff,
    0x000f_ffff_ffff_ffff,
    0x4330_0000_0000_0001,
];

pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Inputs of three sources: all pairs of special values, then random ones, some of which are near each other.
pub fn inputs() -> Vec<[u64; 3]> {
    let mut state = 7;
    let mut all = Vec::new();
    for a in SPECIAL {
        for b in SPECIAL {
            all.push([a, b, SPECIAL[(random(&mut state) % 40) as usize]]);
        }
    }
    for i in 0..4096u64 {
        let [a, b, c] = [random(&mut state), random(&mut state), random(&mut state)];
        all.push(match i % 4 {
            0 => [a, b, c],
            // Moderate numbers of every floating type: exponents near the middle.
            1 => [moderate(a), moderate(b), moderate(c)],
            2 => [moderate(a), moderate(a) ^ (b & 0xff), c],
            _ => [a, b % 70, c % 70],
        });
    }
    // Quarters of small integers, whose rounding meets ties, in each floating type.
    for i in 0..1536u64 {
        let [a, b, c] = [(); 3].map(|()| quarters(random(&mut state), i % 3));
        all.push([a, b, c]);
    }
    while all.len() % 32 != 0 {
        all.push([0; 3]);
    }
    all
}

/// Bits whose 64, low 32 and low 16 are numbers of a moderate size.
fn moderate(x: u64) -> u64 {
    let double = 0x3fd0_0000_0000_0000 + (x & 0x003f_ffff_0000_0000);
    (x & 1 << 63) | double | (0x3e80_0000 + (x >> 8 & 0x03ff_0000)) | (0x3400 + (x & 0x0fff))
}

/// A number of quarters below 2^k for a random k, as f64, f32 or f16.
fn quarters(x: u64, format: u64) -> u64 {
    let magnitude = (x >> 32) >> (x % 32) & 0xffff_ffff;
    let value = magnitude as f64 * if x & 1 << 31 != 0 { -0.25 } else { 0.25 };
    match format {
        0 => value.to_bits(),
        1 => (value as f32).to_bits() as u64,
        _ => half::f16::from_f64(value).to_bits() as u64,
    }
}
