//! The tensor core of Turing: `mma.m16n8k8` on f16.
//!
//! D = A B + C for A of 16 x 8, B of 8 x 8, C and D of 16 x 8. An element of D is the sum of eight exact products and the
//! addend, computed as MMA-Sim models Turing (Xie et al., "MMA-Sim", arXiv:2511.10909): the terms are aligned to the largest
//! exponent, where a product's is the *sum* of its factors' (not normalised; a subnormal's is -14 with a significand below 1),
//! each is truncated toward zero to 24 fractional bits, they are summed exactly, and the sum is rounded toward zero to f32, or
//! to nearest even to f16. A zero term has no say in the largest exponent (with f16 results it counts as -20). A zero sum is
//! +0. A NaN, infinity times zero, or infinities of both signs give the canonical NaN.

use super::{Rounding, f16_to_f32, f64_to_f16};

/// Fractional bits that an aligned term keeps.
const FRACTION: i32 = 24;
/// Exponent of a zero term.
const ZERO_F32: i32 = -132;
const ZERO_F16: i32 = -20;

/// One register of a fragment, lane by lane.
type Lanes = [u32; 32];

/// An operand's elements: value as f32, and significand (10 fractional bits, signed) with exponent.
struct Matrix<const ROWS: usize, const COLUMNS: usize> {
    significand: [[i32; ROWS]; COLUMNS],
    exponent: [[i32; ROWS]; COLUMNS],
}

/// Sign and significand of a finite f16, with 10 fractional bits, and its exponent.
#[inline(always)]
fn split(bits: u16) -> (i32, i32) {
    let field = (bits >> 10 & 31) as i32;
    let significand = (bits & 0x3ff) as i32 | ((field != 0) as i32) << 10;
    let signed = if bits & 0x8000 != 0 { -significand } else { significand };
    (signed, field.max(1) - 15)
}

/// Whether a lane's two halves are infinite or NaN.
#[inline(always)]
fn special(lanes: &Lanes) -> bool {
    let mut any = 0;
    for lane in lanes {
        any |= ((lane & 0x7c00 == 0x7c00) | (lane & 0x7c00_0000 == 0x7c00_0000)) as u32;
    }
    any != 0
}

/// A by column: row r of column k is half k % 2 of register r / 8 of lane 4 (r % 8) + k / 2.
#[inline(always)]
fn element_a(a: &[Lanes; 2], row: usize, k: usize) -> u16 {
    (a[row / 8][row % 8 * 4 + k / 2] >> (k % 2 * 16)) as u16
}

/// Element (k, n) of B is half k % 2 of lane 4 n + k / 2.
#[inline(always)]
fn element_b(b: &Lanes, k: usize, n: usize) -> u16 {
    (b[n * 4 + k / 2] >> (k % 2 * 16)) as u16
}

/// Place of element (row, column) of a f32 fragment: register and lane.
#[inline(always)]
fn place(row: usize, column: usize) -> (usize, usize) {
    (row / 8 * 2 + column % 2, row % 8 * 4 + column / 2)
}

#[inline(always)]
fn columns(a: &[Lanes; 2]) -> Matrix<16, 8> {
    let mut matrix = Matrix { significand: [[0; 16]; 8], exponent: [[0; 16]; 8] };
    for k in 0..8 {
        for row in 0..16 {
            (matrix.significand[k][row], matrix.exponent[k][row]) = split(element_a(a, row, k));
        }
    }
    matrix
}

/// The sum of a column's products and addends: as an integer, with 2^(largest - 24) as its unit. `c` has 23 fractional bits.
#[inline(always)]
fn sums(
    a: &Matrix<16, 8>,
    b: &[(i32, i32); 8],
    c: &[i32; 16],
    c_exponent: &[i32; 16],
    zero: i32,
) -> ([i32; 16], [i32; 16]) {
    let mut largest = *c_exponent;
    let mut products = [[0i32; 16]; 8];
    let mut exponents = [[0i32; 16]; 8];
    for k in 0..8 {
        let (b_significand, b_exponent) = b[k];
        for row in 0..16 {
            let product = a.significand[k][row] * b_significand;
            let exponent = if product == 0 { zero } else { a.exponent[k][row] + b_exponent };
            products[k][row] = product;
            exponents[k][row] = exponent;
            largest[row] = largest[row].max(exponent);
        }
    }
    let mut sum = [0i32; 16];
    for row in 0..16 {
        let shift = (largest[row] - c_exponent[row]).min(31);
        let magnitude = (c[row].abs() << (FRACTION - 23)) >> shift;
        sum[row] = if c[row] < 0 { -magnitude } else { magnitude };
    }
    for k in 0..8 {
        for row in 0..16 {
            // Products have 20 fractional bits.
            let shift = (largest[row] - exponents[k][row]).min(31);
            let magnitude = (products[k][row].abs() << (FRACTION - 20)) >> shift;
            sum[row] += if products[k][row] < 0 { -magnitude } else { magnitude };
        }
    }
    (sum, largest)
}

/// `sum * 2^(largest - 24)` rounded toward zero to f32; +0 for zero.
#[inline(always)]
fn truncate(sum: i32, largest: i32) -> u32 {
    let magnitude = sum.unsigned_abs();
    let drop = 8u32.saturating_sub(magnitude.leading_zeros());
    // At most 24 bits are left: exact in f32.
    let kept = (magnitude >> drop << drop) as f32;
    // 2^(largest - 24) in two factors, since it may lie below the smallest f32.
    let exponent = largest - FRACTION;
    let half = exponent >> 1;
    let power = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
    let value = kept * power(half) * power(exponent - half);
    let bits = value.to_bits();
    if sum < 0 { bits | 0x8000_0000 } else { bits }
}

/// Accumulates in f32. Fragments by register and lane, as the PTX ISA lays them out (9.7.14.5.8).
#[inline(always)]
pub fn mma_m16n8k8_f32(d: &mut [Lanes; 4], a: &[Lanes; 2], b: &Lanes, c: &[Lanes; 4]) {
    let mut odd = special(&a[0]) | special(&a[1]) | special(b);
    for register in c {
        for lane in register {
            odd |= lane & 0x7f80_0000 == 0x7f80_0000;
        }
    }
    let matrix = columns(a);
    for n in 0..8 {
        let column: [(i32, i32); 8] = std::array::from_fn(|k| split(element_b(b, k, n)));
        let mut significand = [0; 16];
        let mut exponent = [0; 16];
        for row in 0..16 {
            let (register, lane) = place(row, n);
            let bits = c[register][lane];
            let field = (bits >> 23 & 255) as i32;
            let magnitude = (bits & 0x7f_ffff) as i32 | ((field != 0) as i32) << 23;
            significand[row] = if bits >> 31 != 0 { -magnitude } else { magnitude };
            exponent[row] = if magnitude == 0 { ZERO_F32 } else { field.max(1) - 127 };
        }
        let (sum, largest) = sums(&matrix, &column, &significand, &exponent, ZERO_F32);
        for row in 0..16 {
            let (register, lane) = place(row, n);
            d[register][lane] = truncate(sum[row], largest[row]);
        }
    }
    if odd {
        specials_f32(d, a, b, c);
    }
}

/// Puts NaN and infinity where they belong.
#[cold]
fn specials_f32(d: &mut [Lanes; 4], a: &[Lanes; 2], b: &Lanes, c: &[Lanes; 4]) {
    specials(a, b, |row, n, special| {
        let (register, lane) = place(row, n);
        let sum = special + f32::from_bits(c[register][lane]);
        if !sum.is_finite() {
            d[register][lane] = if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() };
        }
    });
}

/// [`mma_m16n8k8_f32`] for a processor with AVX-512, bit for bit the same.
///
/// A vector holds 16 lanes of a fragment of D: four rows of four columns. The element of A that a lane needs is in its quad,
/// that of B in any lane. Aligning goes by floats: a product of two f16 is exact in f32, and so is its multiple by a power of
/// two, of which the conversion to an integer cuts the fraction off.
///
/// # Safety
/// The processor has the instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
pub fn mma_m16n8k8_f32_avx512(d: &mut [Lanes; 4], a: &[Lanes; 2], b: &Lanes, c: &[Lanes; 4]) {
    use std::arch::x86_64::*;

    /// Exponent of a zero element: sums with it lie below those of all products that are not zero, -28 at least.
    const ZERO: i32 = -100;
    const NO_PRODUCT: i32 = -60;

    let constant = |value: i32| _mm512_set1_epi32(value);
    let zero = _mm512_setzero_si512();
    // Value and exponent of a half in the low 16 bits of each lane; infinities as the next power of two.
    let split = |bits: __m512i| {
        let field = _mm512_and_si512(_mm512_srli_epi32::<10>(bits), constant(31));
        let hidden = _mm512_maskz_mov_epi32(_mm512_test_epi32_mask(field, field), constant(0x400));
        let significand = _mm512_or_si512(_mm512_and_si512(bits, constant(0x3ff)), hidden);
        let exponent = _mm512_sub_epi32(_mm512_max_epi32(field, constant(1)), constant(15));
        // significand 2^(exponent - 10), exactly.
        let power = _mm512_slli_epi32::<23>(_mm512_add_epi32(exponent, constant(127 - 10)));
        let value = _mm512_mul_ps(_mm512_cvtepi32_ps(significand), _mm512_castsi512_ps(power));
        let sign = _mm512_slli_epi32::<16>(_mm512_and_si512(bits, constant(0x8000)));
        let value = _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(value), sign));
        let some = _mm512_test_epi32_mask(significand, significand);
        (value, _mm512_mask_mov_epi32(constant(ZERO), some, exponent))
    };
    let infinite = |register: &Lanes| {
        let mut any = 0;
        for half in [0, 16] {
            // SAFETY: 16 lanes of 32 are loaded.
            let lanes = unsafe { _mm512_loadu_si512(register.as_ptr().add(half).cast()) };
            for exponent in [0x7c00, 0x7c00_0000] {
                let field = _mm512_and_si512(lanes, constant(exponent));
                any |= _mm512_cmpeq_epi32_mask(field, constant(exponent));
            }
        }
        any != 0
    };
    let mut odd = infinite(&a[0]) | infinite(&a[1]) | infinite(b);

    // Element (k, n) of B is half k % 2 of lane 4 n + k / 2; lane l of D's fragment has columns 2 (l % 4) and that + 1.
    let mut b_values = [[_mm512_setzero_ps(); 2]; 8];
    let mut b_exponents = [[zero; 2]; 8];
    // SAFETY: 32 lanes are loaded.
    let b_lanes =
        unsafe { [_mm512_loadu_si512(b.as_ptr().cast()), _mm512_loadu_si512(b.as_ptr().add(16).cast())] };
    for half in 0..2 {
        let halves = b_lanes.map(|lanes| if half == 0 { lanes } else { _mm512_srli_epi32::<16>(lanes) });
        let [(low, low_exponent), (high, high_exponent)] = halves.map(split);
        for pair in 0..4 {
            for column in 0..2 {
                let first = (4 * column + pair) as i32;
                let from = _mm512_add_epi32(
                    _mm512_setr_epi32(0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24),
                    constant(first),
                );
                let k = 2 * pair + half;
                b_values[k][column] = _mm512_permutex2var_ps(low, from, high);
                b_exponents[k][column] = _mm512_permutex2var_epi32(low_exponent, from, high_exponent);
            }
        }
    }
    for rows in 0..2 {
        for part in [0, 16] {
            // SAFETY: 16 lanes of 32 are loaded.
            let lanes = unsafe { _mm512_loadu_si512(a[rows].as_ptr().add(part).cast()) };
            let (even, even_exponent) = split(lanes);
            let (uneven, uneven_exponent) = split(_mm512_srli_epi32::<16>(lanes));
            // Element k of a row is half k % 2 of lane k / 2 of its quad.
            macro_rules! quad {
                ($value:expr) => {
                    [
                        _mm512_shuffle_epi32::<0x00>($value),
                        _mm512_shuffle_epi32::<0x55>($value),
                        _mm512_shuffle_epi32::<0xaa>($value),
                        _mm512_shuffle_epi32::<0xff>($value),
                    ]
                };
            }
            let values = [quad!(_mm512_castps_si512(even)), quad!(_mm512_castps_si512(uneven))];
            let exponents = [quad!(even_exponent), quad!(uneven_exponent)];
            for column in 0..2 {
                let register = rows * 2 + column;
                // SAFETY: as above.
                let addend = unsafe { _mm512_loadu_si512(c[register].as_ptr().add(part).cast()) };
                let field = _mm512_and_si512(_mm512_srli_epi32::<23>(addend), constant(255));
                odd |= _mm512_cmpeq_epi32_mask(field, constant(255)) != 0;
                let hidden = _mm512_maskz_mov_epi32(_mm512_test_epi32_mask(field, field), constant(1 << 23));
                let magnitude = _mm512_or_si512(_mm512_and_si512(addend, constant(0x7f_ffff)), hidden);
                let some = _mm512_test_epi32_mask(magnitude, magnitude);
                let exponent = _mm512_sub_epi32(_mm512_max_epi32(field, constant(1)), constant(127));
                let exponent = _mm512_mask_mov_epi32(constant(ZERO_F32), some, exponent);

                let mut products = [_mm512_setzero_ps(); 8];
                let mut highest = constant(2 * ZERO);
                for k in 0..8 {
                    let value = _mm512_castsi512_ps(values[k % 2][k / 2]);
                    products[k] = _mm512_mul_ps(value, b_values[k][column]);
                    let sum = _mm512_add_epi32(exponents[k % 2][k / 2], b_exponents[k][column]);
                    highest = _mm512_max_epi32(highest, sum);
                }
                let alone = _mm512_cmplt_epi32_mask(highest, constant(NO_PRODUCT));
                let largest = _mm512_max_epi32(highest, exponent);
                let unit = _mm512_sub_epi32(constant(127 + FRACTION), largest);
                let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(unit));
                let shifted =
                    _mm512_srlv_epi32(_mm512_slli_epi32::<1>(magnitude), _mm512_sub_epi32(largest, exponent));
                let negative = _mm512_movepi32_mask(addend);
                let mut sum = _mm512_mask_sub_epi32(shifted, negative, zero, shifted);
                for product in products {
                    sum = _mm512_add_epi32(sum, _mm512_cvttps_epi32(_mm512_mul_ps(product, scale)));
                }
                let power = _mm512_slli_epi32::<23>(_mm512_add_epi32(largest, constant(127 - FRACTION)));
                let kept = _mm512_cvt_roundepi32_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(sum);
                let result = _mm512_castps_si512(_mm512_mul_ps(kept, _mm512_castsi512_ps(power)));
                // Without products the sum is the addend; of zeros it is +0.
                let addend = _mm512_maskz_mov_epi32(some, addend);
                let result = _mm512_mask_mov_epi32(result, alone, addend);
                // SAFETY: 16 lanes of 32 are stored.
                unsafe { _mm512_storeu_si512(d[register].as_mut_ptr().add(part).cast(), result) }
            }
        }
    }
    if odd {
        specials_f32(d, a, b, c);
    }
}

/// Accumulates in f16.
#[inline(always)]
pub fn mma_m16n8k8_f16(d: &mut [Lanes; 2], a: &[Lanes; 2], b: &Lanes, c: &[Lanes; 2]) {
    let odd = special(&a[0]) | special(&a[1]) | special(b) | special(&c[0]) | special(&c[1]);
    // Two columns share a register: half n % 2.
    let half = |row: usize, n: usize| (row / 8, row % 8 * 4 + n / 2, n % 2 * 16);
    let matrix = columns(a);
    let addend = *c;
    for n in 0..8 {
        let column: [(i32, i32); 8] = std::array::from_fn(|k| split(element_b(b, k, n)));
        let mut significand = [0; 16];
        let mut exponent = [0; 16];
        for row in 0..16 {
            let (register, lane, shift) = half(row, n);
            let (value, e) = split((addend[register][lane] >> shift) as u16);
            // From 10 to 23 fractional bits.
            significand[row] = value << 13;
            exponent[row] = if value == 0 { ZERO_F16 } else { e };
        }
        let (sum, largest) = sums(&matrix, &column, &significand, &exponent, ZERO_F16);
        for row in 0..16 {
            let (register, lane, shift) = half(row, n);
            let value = sum[row] as f64 * f64::from_bits(((largest[row] - FRACTION + 1023) as u64) << 52);
            let bits = f64_to_f16(value, Rounding::Nearest) as u32;
            d[register][lane] = (d[register][lane] & !(0xffff << shift)) | bits << shift;
        }
    }
    if odd {
        specials(a, b, |row, n, special| {
            let (register, lane, shift) = half(row, n);
            let sum = special + f16_to_f32((addend[register][lane] >> shift) as u16);
            if !sum.is_finite() {
                let bits =
                    if sum.is_nan() { 0x7fff } else { ((sum.to_bits() >> 16 & 0x8000) | 0x7c00) as u16 };
                d[register][lane] = (d[register][lane] & !(0xffff << shift)) | (bits as u32) << shift;
            }
        });
    }
}

/// Calls `f` with each element's sum of the products that are not finite (0 where all are).
#[cold]
#[inline(never)]
fn specials(a: &[Lanes; 2], b: &Lanes, mut f: impl FnMut(usize, usize, f32)) {
    for row in 0..16 {
        for n in 0..8 {
            let mut sum = 0.0;
            for k in 0..8 {
                let product = f16_to_f32(element_a(a, row, k)) * f16_to_f32(element_b(b, k, n));
                if !product.is_finite() {
                    sum += product;
                }
            }
            f(row, n, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Halves of all kinds: `kind` 0 any bits, 1 mostly zero, 2 subnormal or zero, 3 around one.
    fn half(state: &mut u64, kind: u64) -> u32 {
        let bits = next(state);
        let word = bits as u32 & 0xffff;
        match kind {
            0 => word,
            1 => word * (bits >> 32 & 3 == 0) as u32,
            2 => word & 0x83ff,
            _ => word & 0x83ff | (13 + (bits >> 32) as u32 % 5) << 10,
        }
    }

    fn addend(state: &mut u64, kind: u64) -> u32 {
        let bits = next(state);
        let word = bits as u32;
        match kind {
            0 => word,
            1 => word & 0x8000_0000,
            2 => word & 0x807f_ffff,
            // From 2^-40 to 2^24.
            _ => word & 0x807f_ffff | (87 + (bits >> 32) as u32 % 64) << 23,
        }
    }

    /// The definition, an element at a time in integers of 128 bits.
    fn plainly(a: &[u16; 8], b: &[u16; 8], c: u32) -> u32 {
        // Significand and exponent of each term, with 23 fractional bits.
        let mut terms: Vec<(i128, i32)> = (0..8)
            .map(|k| {
                let ((x, i), (y, j)) = (split(a[k]), split(b[k]));
                ((x as i128 * y as i128) << 3, i + j)
            })
            .collect();
        let field = (c >> 23 & 255) as i32;
        let magnitude = (c & 0x7f_ffff) as i128 | if field == 0 { 0 } else { 1 << 23 };
        terms.push((if c >> 31 != 0 { -magnitude } else { magnitude }, field.max(1) - 127));
        terms.retain(|(significand, _)| *significand != 0);
        let Some(largest) = terms.iter().map(|(_, exponent)| *exponent).max() else { return 0 };
        let mut sum = 0i128;
        for (significand, exponent) in terms {
            // `/` truncates towards zero.
            sum += significand * 2 / (1i128 << (largest - exponent).min(100));
        }
        if sum == 0 {
            return 0;
        }
        // The f32 that is not larger than the sum's magnitude, found among all by halving.
        let exact = sum.unsigned_abs();
        let fits = |bits: u32| {
            let field = (bits >> 23) as i32;
            let significand = (bits & 0x7f_ffff) as u128 | if field == 0 { 0 } else { 1 << 23 };
            // significand 2^(field - 150) <= exact 2^(largest - 24)
            let shift = field.max(1) - 150 - (largest - 24);
            match shift {
                0.. if significand == 0 => true,
                0.. if shift > 100 => false,
                0.. => significand << shift <= exact,
                -100.. => significand <= exact << -shift,
                _ => true,
            }
        };
        let (mut low, mut high) = (0, 0x7f80_0001);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        low | if sum < 0 { 0x8000_0000 } else { 0 }
    }

    fn random_fragments(state: &mut u64, round: u64) -> ([Lanes; 2], Lanes, [Lanes; 4]) {
        let kind = round % 4;
        let mut pair = || half(state, kind) | half(state, kind) << 16;
        let a = [[(); 32].map(|()| pair()), [(); 32].map(|()| pair())];
        let b = [(); 32].map(|()| pair());
        let kind = round / 4 % 4;
        let c = [(); 4].map(|()| [(); 32].map(|()| addend(state, kind)));
        (a, b, c)
    }

    #[test]
    fn products_are_the_definition_s() {
        let mut state = 7;
        for round in 0..2000 {
            let (a, b, c) = random_fragments(&mut state, round);
            let mut d = [[0; 32]; 4];
            mma_m16n8k8_f32(&mut d, &a, &b, &c);
            for row in 0..16 {
                for n in 0..8 {
                    let (register, lane) = place(row, n);
                    let x: [u16; 8] = std::array::from_fn(|k| element_a(&a, row, k));
                    let y: [u16; 8] = std::array::from_fn(|k| element_b(&b, k, n));
                    let z = c[register][lane];
                    let special = |half: &u16| half & 0x7c00 == 0x7c00;
                    if x.iter().any(special) || y.iter().any(special) || z & 0x7f80_0000 == 0x7f80_0000 {
                        // Sums of products in f64 are exact enough to be NaN or infinite rightly.
                        let terms =
                            x.iter().zip(&y).map(|(x, y)| f16_to_f32(*x) as f64 * f16_to_f32(*y) as f64);
                        let sum = terms.sum::<f64>() + f32::from_bits(z) as f64;
                        let result = f32::from_bits(d[register][lane]);
                        assert_eq!(result.is_nan(), sum.is_nan(), "{x:x?} {y:x?} {z:#x}");
                        if sum.is_infinite() {
                            assert_eq!(result as f64, sum);
                        }
                        if sum.is_nan() {
                            assert_eq!(d[register][lane], 0x7fff_ffff);
                        }
                        if !sum.is_finite() {
                            continue;
                        }
                    }
                    let expected = plainly(&x, &y, z);
                    assert_eq!(d[register][lane], expected, "round {round}: {x:x?} {y:x?} {z:#x}");
                }
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn avx512_gives_the_same_bits() {
        if crate::program::Isa::detect() != crate::program::Isa::Avx512 {
            eprintln!("this processor has no AVX-512: there is nothing to compare");
            return;
        }
        let mut state = 1;
        for round in 0..20_000 {
            let (a, b, c) = random_fragments(&mut state, round);
            let (mut plain, mut fast) = ([[0; 32]; 4], [[1; 32]; 4]);
            mma_m16n8k8_f32(&mut plain, &a, &b, &c);
            // SAFETY: the processor has the instructions.
            unsafe { mma_m16n8k8_f32_avx512(&mut fast, &a, &b, &c) };
            assert_eq!(plain, fast, "round {round}: {a:x?} {b:x?} {c:x?}");
        }
    }
}
