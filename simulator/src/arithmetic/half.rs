//! f16, as its bits.

use super::Rounding;

/// The card's NaN.
const NAN: u16 = 0x7fff;

/// Exact.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = (bits as u32 & 0x7fff) << 13;
    // The exponent's bias by a product, which makes subnormals right too.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let value = if bits & 0x7c00 == 0x7c00 { special } else { scaled };
    f32::from_bits(value | (bits as u32 & 0x8000) << 16)
}

/// Rounded to nearest even.
#[inline(always)]
fn nearest(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let sign = (bits >> 16 & 0x8000) as u16;
    // An ulp of 0.5 is the smallest subnormal: adding rounds to it.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1)).wrapping_sub(0x3800_0000) >> 13;
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    // 65520 and above round to infinity.
    let bounded = if magnitude >= 0x477f_f000 { 0x7c00 } else { finite };
    let value = bounded as u16 | sign;
    if magnitude > 0x7f80_0000 { NAN } else { value }
}

#[inline(always)]
pub fn f32_to_f16(x: f32, rounding: Rounding) -> u16 {
    let near = nearest(x);
    if rounding == Rounding::Nearest || x.is_nan() {
        return near;
    }
    let back = f16_to_f32(near);
    // A step of the bits is a step of the magnitude; from zero to the other sign's smallest where that is needed.
    let (down, up) = match near {
        0x8000.. => (near + 1, near - 1),
        _ => (near.wrapping_sub(1), near + 1),
    };
    match rounding {
        Rounding::Zero if back.abs() > x.abs() => near - 1,
        Rounding::Down if back > x => {
            if near & 0x7fff == 0 {
                0x8001
            } else {
                down
            }
        }
        Rounding::Up if back < x => {
            if near & 0x7fff == 0 {
                0x0001
            } else {
                up
            }
        }
        _ => near,
    }
}

/// Rounded once: by way of f32 rounded to odd.
#[inline(always)]
pub fn f64_to_f16(x: f64, rounding: Rounding) -> u16 {
    let near = x as f32;
    let back = near as f64;
    let odd = if back == x || x.is_nan() || x.is_infinite() || near.to_bits() & 1 == 1 {
        near
    } else if back < x {
        near.next_up()
    } else {
        near.next_down()
    };
    f32_to_f16(odd, rounding)
}

#[inline(always)]
pub fn flush_f16(bits: u16) -> u16 {
    if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
}

/// To [0, 1], NaN to 0.
#[inline(always)]
pub fn saturate_f16(bits: u16) -> u16 {
    let positive = if bits > 0x3c00 { 0x3c00 } else { bits };
    // Negative numbers and NaN of either sign.
    if bits & 0x8000 != 0 || bits > 0x7c00 { 0 } else { positive }
}

/// f32 has the 24 bits from which a sum of f16 rounds as if exact (2 * 11 + 2).
#[inline(always)]
pub fn add_f16(a: u16, b: u16) -> u16 {
    nearest(f16_to_f32(a) + f16_to_f32(b))
}

/// Products of f16 are exact in f32.
#[inline(always)]
pub fn mul_f16(a: u16, b: u16) -> u16 {
    nearest(f16_to_f32(a) * f16_to_f32(b))
}

/// The product is exact in f64; the sum may need more bits, so it is rounded to odd on its way to f16.
#[inline(always)]
pub fn fma_f16(a: u16, b: u16, c: u16) -> u16 {
    let product = f16_to_f32(a) as f64 * f16_to_f32(b) as f64;
    let c = f16_to_f32(c) as f64;
    // 22 bits of product from 2^-48 and 11 of the addend up to 2^15 span less than the 74 bits that two f64 hold; the sum in
    // one f64 is inexact only where they are far apart, and then what is lost decides no more than a tie.
    let sum = product + c;
    let c_part = sum - product;
    let error = (product - (sum - c_part)) + (c - c_part);
    let odd = if error == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        sum
    } else if error > 0.0 {
        sum.next_up()
    } else {
        sum.next_down()
    };
    f64_to_f16(odd, Rounding::Nearest)
}
