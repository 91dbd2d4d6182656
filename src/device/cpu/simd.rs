//! Vectors of one instruction set behind one trait, and the dispatch to the best set this processor has.
//!
//! A kernel is a struct of its arguments with one generic body ([`Kernel::run`]); [`Real::dispatch`] compiles
//! that body once for AVX-512, once for AVX2 with FMA and once for any processor, and picks at run time. The
//! sum over k of every product runs in the same order in each, so AVX-512 and AVX2 agree bit for bit on products of
//! matrices; reciprocals (and with them sigmoid and tanh) and sums across the lanes of a vector differ in the last
//! places.

use std::fmt::{Debug, Display, LowerExp};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// A vector of scalars in registers. Functions that take pointers read or write `LANES` scalars there, or the
/// first `count` of them.
///
/// # Safety
/// Every function may only run on a processor with the instruction set that the type stands for; pointers must
/// be valid for the scalars named.
#[allow(clippy::missing_safety_doc, reason = "the trait's own safety section is every function's")]
pub trait Simd: Copy + 'static {
    type Scalar: Real;
    type Vector: Copy;
    /// Vectors of half as many lanes, for a last few columns, where this instruction set has them and they are cheaper;
    /// otherwise the vectors themselves.
    type Half: Simd<Scalar = Self::Scalar>;
    const LANES: usize;
    /// Rows of a register tile in a product: with three vectors a row, accumulators, a row of the right operand
    /// and one broadcast fit the register file.
    const TILE_ROWS: usize;

    unsafe fn splat(x: Self::Scalar) -> Self::Vector;
    unsafe fn load(from: *const Self::Scalar) -> Self::Vector;
    /// Lanes beyond `count` are zero, and their memory is not touched.
    unsafe fn load_first(from: *const Self::Scalar, count: usize) -> Self::Vector;
    unsafe fn store(to: *mut Self::Scalar, v: Self::Vector);
    unsafe fn store_first(to: *mut Self::Scalar, v: Self::Vector, count: usize);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `1 / a` for normal `a`, to two units in the last place.
    unsafe fn reciprocal(a: Self::Vector) -> Self::Vector;
    /// Lanes whose word is below `bound`; the others become zero.
    unsafe fn keep_below(a: Self::Vector, words: *const u32, bound: u32) -> Self::Vector;
    /// `a * b + c`
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `if |x| < bound { a } else { b }`, lane by lane.
    unsafe fn select_within(
        x: Self::Vector,
        bound: Self::Scalar,
        a: Self::Vector,
        b: Self::Vector,
    ) -> Self::Vector;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::Vector) -> Self::Vector;
    /// `a * 2^n` for integral lanes of `n` whose power is a normal number.
    unsafe fn scale(a: Self::Vector, n: Self::Vector) -> Self::Vector;
}

/// Arguments and body of one kernel.
pub trait Kernel<R: Real> {
    type Output;
    /// # Safety
    /// The processor has `S`'s instruction set. Implementations are `#[inline(always)]`, so that the body is
    /// compiled inside the function that enables it.
    unsafe fn run<S: Simd<Scalar = R>>(self) -> Self::Output;
}

/// The scalars the engine computes in: f32 and f64.
pub trait Real:
    bytemuck::Pod
    + Default
    + Debug
    + Display
    + LowerExp
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    const ZERO: Self;
    const ONE: Self;
    /// Name of the precision, as on the command line.
    const NAME: &'static str;
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn sqrt(self) -> Self;
    /// Constants of exp, sigmoid and tanh in this precision.
    fn elementary() -> &'static crate::device::cpu::elementary::Constants<Self>;
    /// Runs `kernel` with the best instruction set of this processor.
    fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Output;
}

/// What this processor has, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    Avx512,
    Avx2,
    Portable,
}

impl InstructionSet {
    /// The best set of this processor; the environment variable `COIN_INSTRUCTION_SET` (`avx512`, `avx2`,
    /// `portable`) lowers it, so that every path can be tested on one machine.
    pub fn current() -> Self {
        static CURRENT: std::sync::OnceLock<InstructionSet> = std::sync::OnceLock::new();
        *CURRENT.get_or_init(|| {
            let best = Self::detect();
            match std::env::var("COIN_INSTRUCTION_SET").as_deref() {
                Ok("avx2") if best != Self::Portable => Self::Avx2,
                Ok("portable") => Self::Portable,
                _ => best,
            }
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self::Avx2
        } else {
            Self::Portable
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Self {
        Self::Portable
    }
}

macro_rules! real {
    ($real:ty, $name:literal, $portable:ty, $avx2:ty, $avx512:ty, $constants:path) => {
        impl Real for $real {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NAME: &'static str = $name;

            fn from_f64(x: f64) -> Self {
                x as $real
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn sqrt(self) -> Self {
                self.sqrt()
            }

            fn elementary() -> &'static crate::device::cpu::elementary::Constants<Self> {
                &$constants
            }

            #[inline]
            fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Output {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
                unsafe fn avx512<K: Kernel<$real>>(kernel: K) -> K::Output {
                    unsafe { kernel.run::<$avx512>() }
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2<K: Kernel<$real>>(kernel: K) -> K::Output {
                    unsafe { kernel.run::<$avx2>() }
                }
                // SAFETY: the instruction set was detected on this processor.
                unsafe {
                    match InstructionSet::current() {
                        #[cfg(target_arch = "x86_64")]
                        InstructionSet::Avx512 => avx512(kernel),
                        #[cfg(target_arch = "x86_64")]
                        InstructionSet::Avx2 => avx2(kernel),
                        _ => kernel.run::<$portable>(),
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
real!(f32, "f32", Portable<f32>, x86::Avx2F32, x86::Avx512F32, crate::device::cpu::elementary::F32);
#[cfg(target_arch = "x86_64")]
real!(f64, "f64", Portable<f64>, x86::Avx2F64, x86::Avx512F64, crate::device::cpu::elementary::F64);
#[cfg(not(target_arch = "x86_64"))]
real!(f32, "f32", Portable<f32>, Portable<f32>, Portable<f32>, crate::device::cpu::elementary::F32);
#[cfg(not(target_arch = "x86_64"))]
real!(f64, "f64", Portable<f64>, Portable<f64>, Portable<f64>, crate::device::cpu::elementary::F64);

/// Eight scalars that the compiler vectorises as it can: correct on any processor.
#[derive(Clone, Copy)]
pub struct Portable<R>(std::marker::PhantomData<R>);

macro_rules! portable {
    ($real:ty, $bits:ty, $bias:literal, $mantissa:literal) => {
        impl Simd for Portable<$real> {
            type Scalar = $real;
            type Vector = [$real; 8];
            type Half = Self;
            const LANES: usize = 8;
            const TILE_ROWS: usize = 2;

            #[inline(always)]
            unsafe fn splat(x: $real) -> Self::Vector {
                [x; 8]
            }
            #[inline(always)]
            unsafe fn load(from: *const $real) -> Self::Vector {
                unsafe { from.cast::<[$real; 8]>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn load_first(from: *const $real, count: usize) -> Self::Vector {
                std::array::from_fn(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 })
            }
            #[inline(always)]
            unsafe fn store(to: *mut $real, v: Self::Vector) {
                unsafe { to.cast::<[$real; 8]>().write_unaligned(v) }
            }
            #[inline(always)]
            unsafe fn store_first(to: *mut $real, v: Self::Vector, count: usize) {
                for (i, x) in v.into_iter().enumerate().take(count) {
                    unsafe { *to.add(i) = x }
                }
            }
            #[inline(always)]
            unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| a[i] + b[i])
            }
            #[inline(always)]
            unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| a[i] - b[i])
            }
            #[inline(always)]
            unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| a[i] * b[i])
            }
            #[inline(always)]
            unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| a[i] / b[i])
            }
            #[inline(always)]
            unsafe fn reciprocal(a: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| 1.0 / a[i])
            }
            #[inline(always)]
            unsafe fn keep_below(a: Self::Vector, words: *const u32, bound: u32) -> Self::Vector {
                std::array::from_fn(|i| if unsafe { *words.add(i) } < bound { a[i] } else { 0.0 })
            }
            #[inline(always)]
            unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| a[i] * b[i] + c[i])
            }
            #[inline(always)]
            unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            unsafe fn select_within(
                x: Self::Vector,
                bound: $real,
                a: Self::Vector,
                b: Self::Vector,
            ) -> Self::Vector {
                std::array::from_fn(|i| if x[i].abs() < bound { a[i] } else { b[i] })
            }
            #[inline(always)]
            unsafe fn round(a: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| a[i].round_ties_even())
            }
            #[inline(always)]
            unsafe fn scale(a: Self::Vector, n: Self::Vector) -> Self::Vector {
                std::array::from_fn(|i| {
                    a[i] * <$real>::from_bits(((n[i] as $bits) + $bias << $mantissa) as _)
                })
            }
        }
    };
}
portable!(f32, i32, 127, 23);
portable!(f64, i64, 1023, 52);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub struct Avx512F32;
    #[derive(Clone, Copy)]
    pub struct Avx512F64;
    #[derive(Clone, Copy)]
    pub struct Avx2F32;
    #[derive(Clone, Copy)]
    pub struct Avx2F64;

    const ROUND: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

    macro_rules! common {
        ($real:ty, $vector:ty, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident,
         $div:ident, $fma:ident, $max:ident, $min:ident) => {
            #[inline(always)]
            unsafe fn splat(x: $real) -> $vector {
                unsafe { $splat(x) }
            }
            #[inline(always)]
            unsafe fn load(from: *const $real) -> $vector {
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn store(to: *mut $real, v: $vector) {
                unsafe { $store(to, v) }
            }
            #[inline(always)]
            unsafe fn add(a: $vector, b: $vector) -> $vector {
                unsafe { $add(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: $vector, b: $vector) -> $vector {
                unsafe { $sub(a, b) }
            }
            #[inline(always)]
            unsafe fn mul(a: $vector, b: $vector) -> $vector {
                unsafe { $mul(a, b) }
            }
            #[inline(always)]
            unsafe fn div(a: $vector, b: $vector) -> $vector {
                unsafe { $div(a, b) }
            }
            #[inline(always)]
            unsafe fn mul_add(a: $vector, b: $vector, c: $vector) -> $vector {
                unsafe { $fma(a, b, c) }
            }
            #[inline(always)]
            unsafe fn max(a: $vector, b: $vector) -> $vector {
                unsafe { $max(a, b) }
            }
            #[inline(always)]
            unsafe fn min(a: $vector, b: $vector) -> $vector {
                unsafe { $min(a, b) }
            }
        };
    }

    macro_rules! avx512 {
        ($name:ident, $half:ident, $real:ty, $vector:ty, $lanes:literal, $mask:ty, $load_mask:ident, $store_mask:ident,
         $compare:ident, $blend:ident, $abs:ident, $round:ident, $scalef:ident, $keep:ident, $words_below:ident,
         $load_words:ident, $splat_word:ident, $reciprocal:ident,
         $steps:literal, $negated_fma:ident, $splat:ident,
         $($common:ident),*) => {
            impl Simd for $name {
                type Scalar = $real;
                type Vector = $vector;
                type Half = $half;
                const LANES: usize = $lanes;
                const TILE_ROWS: usize = 8;
                common!($real, $vector, $splat, $($common),*);
                #[inline(always)]
                unsafe fn load_first(from: *const $real, count: usize) -> $vector {
                    unsafe { $load_mask(((1u32 << count) - 1) as $mask, from) }
                }
                #[inline(always)]
                unsafe fn store_first(to: *mut $real, v: $vector, count: usize) {
                    unsafe { $store_mask(to, ((1u32 << count) - 1) as $mask, v) }
                }
                #[inline(always)]
                unsafe fn select_within(x: $vector, bound: $real, a: $vector, b: $vector) -> $vector {
                    unsafe { $blend($compare::<_CMP_LT_OQ>($abs(x), $splat(bound)), b, a) }
                }
                #[inline(always)]
                unsafe fn round(a: $vector) -> $vector {
                    unsafe { $round::<ROUND>(a) }
                }
                #[inline(always)]
                unsafe fn scale(a: $vector, n: $vector) -> $vector {
                    unsafe { $scalef(a, n) }
                }
                #[inline(always)]
                unsafe fn keep_below(a: $vector, words: *const u32, bound: u32) -> $vector {
                    unsafe { $keep($words_below($load_words(words.cast()), $splat_word(bound as i32)), a) }
                }
                #[inline(always)]
                unsafe fn reciprocal(a: $vector) -> $vector {
                    unsafe {
                        // Fourteen bits, doubled by each step of Newton's iteration; a division takes longer.
                        let mut x = $reciprocal(a);
                        for _ in 0..$steps {
                            let error = $negated_fma(a, x, $splat(1.0));
                            x = Self::mul_add(x, error, x);
                        }
                        x
                    }
                }
            }
        };
    }

    avx512!(
        Avx512F32,
        Avx2F32,
        f32,
        __m512,
        16,
        __mmask16,
        _mm512_maskz_loadu_ps,
        _mm512_mask_storeu_ps,
        _mm512_cmp_ps_mask,
        _mm512_mask_blend_ps,
        _mm512_abs_ps,
        _mm512_roundscale_ps,
        _mm512_scalef_ps,
        _mm512_maskz_mov_ps,
        _mm512_cmplt_epu32_mask,
        _mm512_loadu_epi32,
        _mm512_set1_epi32,
        _mm512_rcp14_ps,
        1,
        _mm512_fnmadd_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps
    );
    avx512!(
        Avx512F64,
        Avx2F64,
        f64,
        __m512d,
        8,
        __mmask8,
        _mm512_maskz_loadu_pd,
        _mm512_mask_storeu_pd,
        _mm512_cmp_pd_mask,
        _mm512_mask_blend_pd,
        _mm512_abs_pd,
        _mm512_roundscale_pd,
        _mm512_scalef_pd,
        _mm512_maskz_mov_pd,
        _mm256_cmplt_epu32_mask,
        _mm256_loadu_epi32,
        _mm256_set1_epi32,
        _mm512_rcp14_pd,
        2,
        _mm512_fnmadd_pd,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_add_pd,
        _mm512_sub_pd,
        _mm512_mul_pd,
        _mm512_div_pd,
        _mm512_fmadd_pd,
        _mm512_max_pd,
        _mm512_min_pd
    );

    impl Simd for Avx2F32 {
        type Scalar = f32;
        type Vector = __m256;
        type Half = Self;
        const LANES: usize = 8;
        const TILE_ROWS: usize = 4;
        common!(
            f32,
            __m256,
            _mm256_set1_ps,
            _mm256_loadu_ps,
            _mm256_storeu_ps,
            _mm256_add_ps,
            _mm256_sub_ps,
            _mm256_mul_ps,
            _mm256_div_ps,
            _mm256_fmadd_ps,
            _mm256_max_ps,
            _mm256_min_ps
        );
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(from, first_32(count)) }
        }
        #[inline(always)]
        unsafe fn store_first(to: *mut f32, v: __m256, count: usize) {
            unsafe { _mm256_maskstore_ps(to, first_32(count), v) }
        }
        #[inline(always)]
        unsafe fn select_within(x: __m256, bound: f32, a: __m256, b: __m256) -> __m256 {
            unsafe {
                let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
                _mm256_blendv_ps(b, a, _mm256_cmp_ps::<_CMP_LT_OQ>(magnitude, _mm256_set1_ps(bound)))
            }
        }
        #[inline(always)]
        unsafe fn reciprocal(a: __m256) -> __m256 {
            unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), a) }
        }
        #[inline(always)]
        unsafe fn keep_below(a: __m256, words: *const u32, bound: u32) -> __m256 {
            unsafe {
                // Compared as signed numbers, so half of the range is subtracted from both.
                let half = _mm256_set1_epi32(i32::MIN);
                let words = _mm256_xor_si256(_mm256_loadu_si256(words.cast()), half);
                let below =
                    _mm256_cmpgt_epi32(_mm256_xor_si256(_mm256_set1_epi32(bound as i32), half), words);
                _mm256_and_ps(a, _mm256_castsi256_ps(below))
            }
        }
        #[inline(always)]
        unsafe fn round(a: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<ROUND>(a) }
        }
        #[inline(always)]
        unsafe fn scale(a: __m256, n: __m256) -> __m256 {
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
            }
        }
    }

    impl Simd for Avx2F64 {
        type Scalar = f64;
        type Vector = __m256d;
        type Half = Self;
        const LANES: usize = 4;
        const TILE_ROWS: usize = 4;
        common!(
            f64,
            __m256d,
            _mm256_set1_pd,
            _mm256_loadu_pd,
            _mm256_storeu_pd,
            _mm256_add_pd,
            _mm256_sub_pd,
            _mm256_mul_pd,
            _mm256_div_pd,
            _mm256_fmadd_pd,
            _mm256_max_pd,
            _mm256_min_pd
        );
        #[inline(always)]
        unsafe fn load_first(from: *const f64, count: usize) -> __m256d {
            unsafe { _mm256_maskload_pd(from, first_64(count)) }
        }
        #[inline(always)]
        unsafe fn store_first(to: *mut f64, v: __m256d, count: usize) {
            unsafe { _mm256_maskstore_pd(to, first_64(count), v) }
        }
        #[inline(always)]
        unsafe fn select_within(x: __m256d, bound: f64, a: __m256d, b: __m256d) -> __m256d {
            unsafe {
                let magnitude = _mm256_andnot_pd(_mm256_set1_pd(-0.0), x);
                _mm256_blendv_pd(b, a, _mm256_cmp_pd::<_CMP_LT_OQ>(magnitude, _mm256_set1_pd(bound)))
            }
        }
        #[inline(always)]
        unsafe fn reciprocal(a: __m256d) -> __m256d {
            unsafe { _mm256_div_pd(_mm256_set1_pd(1.0), a) }
        }
        #[inline(always)]
        unsafe fn keep_below(a: __m256d, words: *const u32, bound: u32) -> __m256d {
            unsafe {
                // As in f32.
                let half = _mm_set1_epi32(i32::MIN);
                let words = _mm_xor_si128(_mm_loadu_si128(words.cast()), half);
                let below = _mm_cmpgt_epi32(_mm_xor_si128(_mm_set1_epi32(bound as i32), half), words);
                _mm256_and_pd(a, _mm256_castsi256_pd(_mm256_cvtepi32_epi64(below)))
            }
        }
        #[inline(always)]
        unsafe fn round(a: __m256d) -> __m256d {
            unsafe { _mm256_round_pd::<ROUND>(a) }
        }
        #[inline(always)]
        unsafe fn scale(a: __m256d, n: __m256d) -> __m256d {
            unsafe {
                let exponent =
                    _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n)), _mm256_set1_epi64x(1023));
                _mm256_mul_pd(a, _mm256_castsi256_pd(_mm256_slli_epi64::<52>(exponent)))
            }
        }
    }

    #[inline(always)]
    unsafe fn first_32(count: usize) -> __m256i {
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lane)
        }
    }

    #[inline(always)]
    unsafe fn first_64(count: usize) -> __m256i {
        unsafe { _mm256_cmpgt_epi64(_mm256_set1_epi64x(count as i64), _mm256_setr_epi64x(0, 1, 2, 3)) }
    }
}
