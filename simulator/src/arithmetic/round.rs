//! f32 and f64 under each rounding mode.
//!
//! Nearest is the processor's own operation. A directed f32 operation is computed in f64 *rounded to odd* (the last bit set
//! where the result is inexact), from which rounding to f32 in any direction is as from the exact value, since f64 has more
//! than two bits beyond f32 (Boldo and Melquiond 2008). A directed f64 operation steps from the nearest result by the sign of
//! its error, which error-free transformations give.

use super::Rounding;

/// The card's NaN for any.
#[inline(always)]
pub fn canonical_f32(x: f32) -> f32 {
    // On the bits: the compiler may take any NaN for any other.
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

/// `.ftz`: subnormals become zero of their sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// `.sat`: to [0, 1], NaN to 0.
#[inline(always)]
pub fn saturate_f32(x: f32) -> f32 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// `.sat`: to [0, 1], NaN to 0.
#[inline(always)]
pub fn saturate_f64(x: f64) -> f64 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// `x + error`, where `x` is that sum rounded to nearest, rounded to odd instead.
#[inline(always)]
fn odd(x: f64, error: f64) -> f64 {
    if error == 0.0 || !x.is_finite() || x.to_bits() & 1 == 1 {
        x
    } else if error > 0.0 {
        x.next_up()
    } else {
        x.next_down()
    }
}

/// What `a + b` rounded to nearest leaves over (Knuth's two-sum).
#[inline(always)]
fn sum_error(a: f64, b: f64, sum: f64) -> f64 {
    let b_part = sum - a;
    let a_part = sum - b_part;
    (a - a_part) + (b - b_part)
}

/// An exact f64, or one rounded to odd, to f32.
#[inline(always)]
pub fn f64_to_f32(x: f64, rounding: Rounding) -> f32 {
    let near = x as f32;
    let back = near as f64;
    match rounding {
        Rounding::Nearest => near,
        _ if x.is_nan() => near,
        Rounding::Zero if back.abs() > x.abs() => {
            if x > 0.0 {
                near.next_down()
            } else {
                near.next_up()
            }
        }
        Rounding::Down if back > x => near.next_down(),
        Rounding::Up if back < x => near.next_up(),
        _ => near,
    }
}

/// A sum of f64, exact but for rounding to odd; zero gets the sign that the direction asks for.
#[inline(always)]
fn add_odd(a: f64, b: f64, rounding: Rounding) -> f64 {
    let sum = a + b;
    if sum == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
        return if rounding == Rounding::Down { -0.0 } else { 0.0 };
    }
    odd(sum, sum_error(a, b, sum))
}

#[inline(always)]
pub fn add_f32(a: f32, b: f32, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Nearest => a + b,
        _ => f64_to_f32(add_odd(a as f64, b as f64, rounding), rounding),
    }
}

#[inline(always)]
pub fn mul_f32(a: f32, b: f32, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Nearest => a * b,
        // 48 bits: exact in f64.
        _ => f64_to_f32(a as f64 * b as f64, rounding),
    }
}

#[inline(always)]
pub fn fma_f32(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Nearest => a.mul_add(b, c),
        _ => f64_to_f32(add_odd(a as f64 * b as f64, c as f64, rounding), rounding),
    }
}

#[inline(always)]
pub fn div_f32(a: f32, b: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Nearest {
        return a / b;
    }
    let (a, b) = (a as f64, b as f64);
    let quotient = a / b;
    if !quotient.is_finite() || b.is_infinite() {
        return quotient as f32;
    }
    // The remainder is exact: f32 operands leave f64 no underflow.
    let rest = (-quotient).mul_add(b, a);
    f64_to_f32(odd(quotient, if b > 0.0 { rest } else { -rest }), rounding)
}

#[inline(always)]
pub fn sqrt_f32(a: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Nearest {
        return a.sqrt();
    }
    let a = a as f64;
    let root = a.sqrt();
    if !root.is_finite() {
        return root as f32;
    }
    f64_to_f32(odd(root, (-root).mul_add(root, a)), rounding)
}

/// The f64 in a direction, from the nearest and the sign of what that leaves over.
#[inline(always)]
fn directed(near: f64, error: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => near,
        Rounding::Zero if near > 0.0 && error < 0.0 => near.next_down(),
        Rounding::Zero if near < 0.0 && error > 0.0 => near.next_up(),
        Rounding::Down if error < 0.0 => near.next_down(),
        Rounding::Up if error > 0.0 => near.next_up(),
        _ => near,
    }
}

/// An overflow of finite operands: infinity, or the largest number where the direction turns from it.
#[inline(always)]
fn overflow(infinity: f64, rounding: Rounding) -> f64 {
    match (rounding, infinity > 0.0) {
        (Rounding::Zero, true) | (Rounding::Down, true) => f64::MAX,
        (Rounding::Zero, false) | (Rounding::Up, false) => f64::MIN,
        _ => infinity,
    }
}

#[inline(always)]
pub fn add_f64(a: f64, b: f64, rounding: Rounding) -> f64 {
    let sum = a + b;
    if rounding == Rounding::Nearest || sum.is_nan() {
        return sum;
    }
    if sum.is_infinite() {
        return if a.is_finite() && b.is_finite() { overflow(sum, rounding) } else { sum };
    }
    if sum == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
        return if rounding == Rounding::Down { -0.0 } else { 0.0 };
    }
    // Dekker's form, whose steps do not overflow: the larger first.
    let (large, small) = if a.abs() > b.abs() { (a, b) } else { (b, a) };
    directed(sum, small - (sum - large), rounding)
}

#[inline(always)]
pub fn mul_f64(a: f64, b: f64, rounding: Rounding) -> f64 {
    let product = a * b;
    if rounding == Rounding::Nearest || product.is_nan() {
        return product;
    }
    if product.is_infinite() {
        return if a.is_finite() && b.is_finite() { overflow(product, rounding) } else { product };
    }
    if a == 0.0 || b == 0.0 {
        return product;
    }
    // The error of a small product would underflow: the smaller factor and the product grow first, both exactly.
    let (small, large) = if a.abs() < b.abs() { (a, b) } else { (b, a) };
    let scale = if product.abs() < 1e-200 { f64::from_bits((1023 + 512) << 52) } else { 1.0 };
    let error = (small * scale).mul_add(large, -(product * scale));
    // Where nothing was left of the product, all of it is error.
    let error = if product == 0.0 { 1f64.copysign(product) } else { error };
    directed(product, error, rounding)
}

/// Nearest only: directed ones of f64 are refused when decoding.
#[inline(always)]
pub fn fma_f64(a: f64, b: f64, c: f64) -> f64 {
    a.mul_add(b, c)
}

/// Nearest only, as [`fma_f64`].
#[inline(always)]
pub fn div_f64(a: f64, b: f64) -> f64 {
    a / b
}

/// Nearest only, as [`fma_f64`].
#[inline(always)]
pub fn sqrt_f64(a: f64) -> f64 {
    a.sqrt()
}

macro_rules! extremes {
    ($min:ident, $max:ident, $type:ty, $canonical:expr) => {
        /// The smaller; a number before NaN, -0 before +0.
        #[inline(always)]
        pub fn $min(a: $type, b: $type) -> $type {
            let canonical: fn($type) -> $type = $canonical;
            let both = if a == b {
                <$type>::from_bits(a.to_bits() | b.to_bits())
            } else if a < b {
                a
            } else {
                b
            };
            canonical(if a.is_nan() {
                b
            } else if b.is_nan() {
                a
            } else {
                both
            })
        }

        /// The larger; a number before NaN, +0 before -0.
        #[inline(always)]
        pub fn $max(a: $type, b: $type) -> $type {
            let canonical: fn($type) -> $type = $canonical;
            let both = if a == b {
                <$type>::from_bits(a.to_bits() & b.to_bits())
            } else if a > b {
                a
            } else {
                b
            };
            canonical(if a.is_nan() {
                b
            } else if b.is_nan() {
                a
            } else {
                both
            })
        }
    };
}

extremes!(min_f32, max_f32, f32, canonical_f32);
extremes!(min_f64, max_f64, f64, |x| x);
