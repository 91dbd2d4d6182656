//! `cvt` between integers and floating point: PTX ISA 9.7.9.21. Out of range saturates; NaN becomes 0, or
//! the highest bit alone where either side has 64 bits.

use super::{Integral, Rounding, f32_to_f16};

/// From a floating-point number to an integer type.
pub trait ToInteger<R> {
    fn to_integer(self, integral: Integral) -> R;
}

/// From an integer to floating point.
pub trait FromInteger: Copy {
    fn to_f32(self, rounding: Rounding) -> f32;
    fn to_f64(self, rounding: Rounding) -> f64;
    fn to_f16(self, rounding: Rounding) -> u16;
}

macro_rules! to_integers {
    ($float:ty: $($integer:ty),*) => { $(impl ToInteger<$integer> for $float {
        #[inline(always)]
        fn to_integer(self, integral: Integral) -> $integer {
            let wide = size_of::<$float>() == 8 || size_of::<$integer>() == 8;
            if wide && self.is_nan() {
                return 1 << (<$integer>::BITS - 1);
            }
            // Rust's `as` saturates and makes 0 of NaN.
            (match integral {
                Integral::Nearest => self.round_ties_even(),
                Integral::Zero => self,
                Integral::Down => self.floor(),
                Integral::Up => self.ceil(),
            }) as $integer
        }
    })* };
}
to_integers!(f32: u8, i8, u16, i16, u32, i32, u64, i64);
to_integers!(f64: u8, i8, u16, i16, u32, i32, u64, i64);

macro_rules! from_integers {
    ($($integer:ty),*) => { $(impl FromInteger for $integer {
        #[inline(always)]
        fn to_f32(self, rounding: Rounding) -> f32 {
            if rounding == Rounding::Nearest { self as f32 } else { integer_to_f32(self as i128, rounding) }
        }
        #[inline(always)]
        fn to_f64(self, rounding: Rounding) -> f64 {
            if rounding == Rounding::Nearest { self as f64 } else { integer_to_f64(self as i128, rounding) }
        }
        #[inline(always)]
        fn to_f16(self, rounding: Rounding) -> u16 {
            integer_to_f16(self as i128, rounding)
        }
    })* };
}
from_integers!(u8, i8, u16, i16, u32, i32, u64, i64);

/// An integer of at most 65 bits, rounded once.
pub fn integer_to_f32(value: i128, rounding: Rounding) -> f32 {
    let near = value as f32;
    let back = near as i128;
    match rounding {
        Rounding::Zero if back.abs() > value.abs() => {
            if value > 0 {
                near.next_down()
            } else {
                near.next_up()
            }
        }
        Rounding::Down if back > value => near.next_down(),
        Rounding::Up if back < value => near.next_up(),
        _ => near,
    }
}

fn integer_to_f64(value: i128, rounding: Rounding) -> f64 {
    let near = value as f64;
    let back = near as i128;
    match rounding {
        Rounding::Zero if back.abs() > value.abs() => {
            if value > 0 {
                near.next_down()
            } else {
                near.next_up()
            }
        }
        Rounding::Down if back > value => near.next_down(),
        Rounding::Up if back < value => near.next_up(),
        _ => near,
    }
}

fn integer_to_f16(value: i128, rounding: Rounding) -> u16 {
    let near = value as f32;
    let back = near as i128;
    let odd = if back == value || near.to_bits() & 1 == 1 {
        near
    } else if back < value {
        near.next_up()
    } else {
        near.next_down()
    };
    f32_to_f16(odd, rounding)
}
