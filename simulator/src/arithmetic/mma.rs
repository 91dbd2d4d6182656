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
        specials(a, b, |row, n, special| {
            let (register, lane) = place(row, n);
            let sum = special + f32::from_bits(c[register][lane]);
            if !sum.is_finite() {
                d[register][lane] = if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() };
            }
        });
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
