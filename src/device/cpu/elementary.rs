//! exp, sigmoid and tanh on vectors.
//!
//! `exp` reduces by powers of two with a two-part ln 2 and evaluates a polynomial; `tanh` is a series around
//! zero (where `(e^2x - 1) / (e^2x + 1)` would cancel) and the quotient elsewhere. Errors, measured by the tests
//! below over the whole range: at most 4 units in the last place in either precision.

use super::simd::{Real, Simd};

/// Polynomials and reduction constants of one precision.
pub struct Constants<R: 'static> {
    log2_e: R,
    ln_2_high: R,
    ln_2_low: R,
    /// Beyond these, exp is held at its value there: sigmoid and tanh have long reached their limits, and every
    /// scale stays a normal number.
    smallest: R,
    largest: R,
    /// Coefficients of exp(r) on |r| <= ln 2 / 2, highest power first, down to r^2.
    exp: &'static [R],
    /// tanh x = x + x^3 P(x^2) / Q(x^2) for |x| < 0.625, highest power first.
    tanh_p: &'static [R],
    tanh_q: &'static [R],
}

/// The rational approximations of tanh are those of Cephes (S. L. Moshier), `tanhf` and `tanh`.
pub static F32: Constants<f32> = Constants {
    log2_e: std::f32::consts::LOG2_E,
    ln_2_high: 0.693_359_4,
    ln_2_low: -2.121_944_4e-4,
    smallest: -87.0,
    largest: 88.0,
    exp: &[1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5],
    tanh_p: &[-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_5e-2, 1.333_144_2e-1, -3.333_328e-1],
    tanh_q: &[1.0],
};

pub static F64: Constants<f64> = Constants {
    log2_e: std::f64::consts::LOG2_E,
    ln_2_high: 6.931_457_519_531_25e-1,
    ln_2_low: 1.428_606_820_309_417_2e-6,
    smallest: -708.0,
    largest: 709.0,
    exp: &[
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
    ],
    tanh_p: &[-9.643_991_794_250_523e-1, -9.928_772_310_019_185e1, -1.614_687_684_417_084_7e3],
    tanh_q: &[1.0, 1.128_116_784_916_329_3e2, 2.235_488_390_601_004_5e3, 4.844_063_053_251_255e3],
};

#[inline(always)]
unsafe fn polynomial<S: Simd>(x: S::Vector, coefficients: &[S::Scalar]) -> S::Vector {
    unsafe {
        let mut value = S::splat(coefficients[0]);
        for &coefficient in &coefficients[1..] {
            value = S::mul_add(value, x, S::splat(coefficient));
        }
        value
    }
}

/// e^x, clamped to the normal range.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::Vector) -> S::Vector {
    unsafe {
        let c = S::Scalar::elementary();
        // The bound first: max and min then hand a NaN on instead of hiding it.
        let x = S::min(S::splat(c.largest), S::max(S::splat(c.smallest), x));
        let n = S::round(S::mul(x, S::splat(c.log2_e)));
        let r = S::mul_add(n, S::splat(-c.ln_2_high), x);
        let r = S::mul_add(n, S::splat(-c.ln_2_low), r);
        let p = polynomial::<S>(r, c.exp);
        let value = S::add(S::splat(S::Scalar::ONE), S::mul_add(S::mul(r, r), p, r));
        S::scale(value, n)
    }
}

/// 1 / (1 + e^-x)
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn sigmoid<S: Simd>(x: S::Vector) -> S::Vector {
    unsafe {
        let one = S::splat(S::Scalar::ONE);
        S::reciprocal(S::add(one, exp::<S>(S::sub(S::splat(S::Scalar::ZERO), x))))
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
pub unsafe fn tanh<S: Simd>(x: S::Vector) -> S::Vector {
    unsafe {
        let c = S::Scalar::elementary();
        let one = S::splat(S::Scalar::ONE);
        let square = S::mul(x, x);
        let ratio = S::div(polynomial::<S>(square, c.tanh_p), polynomial::<S>(square, c.tanh_q));
        let near = S::mul_add(S::mul(square, x), ratio, x);
        // Twenty is past the last place of either precision; the bound keeps exp's clamp out of the quotient.
        let bound = S::splat(S::Scalar::from_f64(20.0));
        let held = S::min(bound, S::max(S::sub(S::splat(S::Scalar::ZERO), bound), x));
        let e = exp::<S>(S::add(held, held));
        // 1 - 2 / (e + 1) loses nothing for x > 0 and little below, where |x| >= 0.625.
        let far = S::mul_add(S::splat(S::Scalar::from_f64(-2.0)), S::reciprocal(S::add(e, one)), one);
        S::select_within(x, S::Scalar::from_f64(0.625), near, far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::simd::Kernel;

    struct Map<'a, R>(fn(usize) -> usize, &'a [R], &'a mut [R]);

    impl<R: Real> Kernel<R> for Map<'_, R> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd<Scalar = R>>(self) {
            for (x, y) in self.1.chunks(S::LANES).zip(self.2.chunks_mut(S::LANES)) {
                unsafe {
                    let v = S::load_first(x.as_ptr(), x.len());
                    let v = match self.0(0) {
                        0 => exp::<S>(v),
                        1 => sigmoid::<S>(v),
                        _ => tanh::<S>(v),
                    };
                    S::store_first(y.as_mut_ptr(), v, y.len());
                }
            }
        }
    }

    /// Worst error in units of `epsilon`, relative to the true value.
    fn worst<R: Real>(function: fn(usize) -> usize, truth: fn(f64) -> f64, range: f64, epsilon: f64) -> f64 {
        let xs: Vec<R> =
            (0..400_001).map(|i| R::from_f64((f64::from(i) / 200_000.0 - 1.0).powi(3) * range)).collect();
        let mut ys = vec![R::ZERO; xs.len()];
        R::dispatch(Map(function, &xs, &mut ys));
        let error = |x: R, y: R| {
            let exact = truth(x.to_f64());
            if exact == 0.0 { y.to_f64().abs() } else { ((y.to_f64() - exact) / exact).abs() / epsilon }
        };
        xs.iter().zip(&ys).map(|(&x, &y)| error(x, y)).fold(0.0, f64::max)
    }

    #[test]
    fn within_four_units_in_the_last_place() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (single, double) = (f64::from(f32::EPSILON), f64::EPSILON);
        for (name, error) in [
            ("exp f32", worst::<f32>(|_| 0, f64::exp, 86.0, single)),
            ("sigmoid f32", worst::<f32>(|_| 1, sigmoid, 80.0, single)),
            ("tanh f32", worst::<f32>(|_| 2, f64::tanh, 30.0, single)),
            ("exp f64", worst::<f64>(|_| 0, f64::exp, 700.0, double)),
            ("sigmoid f64", worst::<f64>(|_| 1, sigmoid, 700.0, double)),
            ("tanh f64", worst::<f64>(|_| 2, f64::tanh, 30.0, double)),
        ] {
            assert!(error < 4.0, "{name}: {error} units");
        }
    }

    #[test]
    fn limits_and_nan() {
        let xs = [f32::NEG_INFINITY, -1e30, 0.0, 1e30, f32::INFINITY, f32::NAN];
        let mut ys = [0.0f32; 6];
        f32::dispatch(Map(|_| 2, &xs, &mut ys));
        assert_eq!(ys[..5], [-1.0, -1.0, 0.0, 1.0, 1.0]);
        assert!(ys[5].is_nan(), "a NaN must not be hidden");
        f32::dispatch(Map(|_| 1, &xs, &mut ys));
        assert!(ys[0] < 1e-37 && ys[2] == 0.5 && ys[4] == 1.0 && ys[5].is_nan());
    }
}
