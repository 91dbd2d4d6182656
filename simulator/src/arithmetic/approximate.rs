//! Approximate instructions: computed in f64 and rounded to f32, so within each error that PTX ISA 9.7.3 documents; special
//! values as in its tables. Flushing of subnormals is the caller's.

use super::{Rounding, f16_to_f32, f32_to_f16};

#[inline(always)]
pub fn rcp_approx(x: f32) -> f32 {
    1.0 / x
}

#[inline(always)]
pub fn sqrt_approx(x: f32) -> f32 {
    x.sqrt()
}

#[inline(always)]
pub fn rsqrt_approx(x: f32) -> f32 {
    (1.0 / (x as f64).sqrt()) as f32
}

#[inline(always)]
pub fn sin_approx(x: f32) -> f32 {
    (x as f64).sin() as f32
}

#[inline(always)]
pub fn cos_approx(x: f32) -> f32 {
    (x as f64).cos() as f32
}

#[inline(always)]
pub fn lg2_approx(x: f32) -> f32 {
    (x as f64).log2() as f32
}

#[inline(always)]
pub fn ex2_approx(x: f32) -> f32 {
    (x as f64).exp2() as f32
}

#[inline(always)]
pub fn tanh_approx(x: f32) -> f32 {
    (x as f64).tanh() as f32
}

/// `a` times the reciprocal of `b`: 0 where `b` is so large that its reciprocal is flushed, from 2^126 to 2^128.
#[inline(always)]
pub fn div_approx(a: f32, b: f32) -> f32 {
    let large = b.is_finite() && b.abs() > f32::from_bits(0x7e80_0000);
    if large { a * (0.0f32).copysign(b) } else { a / b }
}

#[inline(always)]
pub fn div_full(a: f32, b: f32) -> f32 {
    a / b
}

#[inline(always)]
pub fn tanh_approx_f16(bits: u16) -> u16 {
    f32_to_f16(tanh_approx(f16_to_f32(bits)), Rounding::Nearest)
}

#[inline(always)]
pub fn ex2_approx_f16(bits: u16) -> u16 {
    f32_to_f16(ex2_approx(f16_to_f32(bits)), Rounding::Nearest)
}

/// The upper half of a f64: sign, exponent and 20 bits; subnormals flushed.
#[inline(always)]
fn upper(x: f64) -> f64 {
    let bits = x.to_bits();
    let flushed = if bits & 0x7ff0_0000_0000_0000 == 0 { bits & 1 << 63 } else { bits };
    if x.is_nan() { x } else { f64::from_bits(flushed & !0xffff_ffff) }
}

#[inline(always)]
pub fn rcp_approx_f64(x: f64) -> f64 {
    upper(1.0 / upper(x))
}

/// With `.ftz`: the upper half, as [`rcp_approx_f64`].
#[inline(always)]
pub fn rsqrt_approx_ftz_f64(x: f64) -> f64 {
    upper(1.0 / upper(x).sqrt())
}

#[inline(always)]
pub fn rsqrt_approx_f64(x: f64) -> f64 {
    1.0 / x.sqrt()
}
