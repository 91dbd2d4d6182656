//! f16 as it is in memory: a sign, 5 bits of exponent, 10 of fraction.

/// To f16, to nearest even; what is too large for it becomes infinite.
pub fn bits(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    if x.is_nan() {
        return sign | 0x7e00;
    }
    let exponent = ((x.to_bits() >> 23 & 255) as i32 - 127).max(-14);
    if exponent > 15 {
        return sign | 0x7c00;
    }
    // In units of the last place; 2048 of them are the next exponent's 1024, and beyond the last exponent infinity.
    let units = (f64::from(x.abs()) / f64::from(exponent - 10).exp2()).round_ties_even() as u16;
    sign | ((((exponent + 14) as u16) << 10) + units)
}

pub fn value(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * (-24f32).exp2(),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * ((exponent - 25) as f32).exp2(),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

/// To f16 and back.
pub fn round(x: f32) -> f32 {
    value(bits(x))
}

#[test]
fn every_number_is_its_own() {
    for number in 0..=u16::MAX {
        let x = value(number);
        assert!(x.is_nan() || bits(x) == number, "{number:x} is {x}, and that {:x}", bits(x));
        if number & 0x7fff < 0x7bff {
            // Half way to the next it is the even one, and beyond it that next.
            let next = value(number + 1);
            let between = (f64::from(x) + f64::from(next)) / 2.0;
            assert_eq!(bits(between as f32), number + (number & 1));
            assert_eq!(bits((between + (f64::from(next) - f64::from(x)) / 8.0) as f32), number + 1);
        }
    }
    assert_eq!([65519.0, 65520.0, -1e30, f32::INFINITY].map(bits), [0x7bff, 0x7c00, 0xfc00, 0x7c00]);
    assert_eq!([2f32.powi(-25), 2f32.powi(-25) * 1.001, -1e-30].map(bits), [0, 1, 0x8000]);
}
