//! The element types that features are stored in, read as `f64`.

/// An element type, of either byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

impl Number {
    /// From numpy's kind and size: `f4`, `i8`, `u1`; a truth value, `b1`, is read as 0 or 1.
    pub fn named(name: &str) -> Option<Number> {
        Some(match name {
            "f2" => Number::F16,
            "f4" => Number::F32,
            "f8" => Number::F64,
            "i1" => Number::I8,
            "i2" => Number::I16,
            "i4" => Number::I32,
            "i8" => Number::I64,
            "u1" | "b1" => Number::U8,
            "u2" => Number::U16,
            "u4" => Number::U32,
            "u8" => Number::U64,
            _ => return None,
        })
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Number::I8 | Number::U8 => 1,
            Number::F16 | Number::I16 | Number::U16 => 2,
            Number::F32 | Number::I32 | Number::U32 => 4,
            Number::F64 | Number::I64 | Number::U64 => 8,
        }
    }

    pub fn is_whole(self) -> bool {
        !matches!(self, Number::F16 | Number::F32 | Number::F64)
    }

    /// Appends the elements in `data`; what is left over at its end is no element and is left out.
    pub fn decode(self, big_endian: bool, data: &[u8], out: &mut Vec<f64>) {
        macro_rules! decode {
            ($of_little:expr, $of_big:expr) => {
                if big_endian {
                    out.extend(data.as_chunks().0.iter().map(|&bytes| $of_big(bytes) as f64));
                } else {
                    out.extend(data.as_chunks().0.iter().map(|&bytes| $of_little(bytes) as f64));
                }
            };
        }
        match self {
            Number::F16 => {
                decode!(|bytes| half(u16::from_le_bytes(bytes)), |bytes| half(u16::from_be_bytes(bytes)))
            }
            Number::F32 => decode!(f32::from_le_bytes, f32::from_be_bytes),
            Number::F64 => decode!(f64::from_le_bytes, f64::from_be_bytes),
            Number::I8 => decode!(i8::from_le_bytes, i8::from_be_bytes),
            Number::I16 => decode!(i16::from_le_bytes, i16::from_be_bytes),
            Number::I32 => decode!(i32::from_le_bytes, i32::from_be_bytes),
            Number::I64 => decode!(i64::from_le_bytes, i64::from_be_bytes),
            Number::U8 => decode!(u8::from_le_bytes, u8::from_be_bytes),
            Number::U16 => decode!(u16::from_le_bytes, u16::from_be_bytes),
            Number::U32 => decode!(u32::from_le_bytes, u32::from_be_bytes),
            Number::U64 => decode!(u64::from_le_bytes, u64::from_be_bytes),
        }
    }

    /// One whole number; `None` when this is no type of whole numbers or it is beyond 63 bits.
    pub fn integer(self, big_endian: bool, element: &[u8]) -> Option<i64> {
        if !self.is_whole() || element.len() != self.size() {
            return None;
        }
        let mut bytes = [0u8; 8];
        bytes[..element.len()].copy_from_slice(element);
        if big_endian {
            bytes[..element.len()].reverse();
        }
        let value = u64::from_le_bytes(bytes);
        match self {
            Number::I8 => Some(i64::from(value as i8)),
            Number::I16 => Some(i64::from(value as i16)),
            Number::I32 => Some(i64::from(value as i32)),
            Number::I64 => Some(value as i64),
            _ => i64::try_from(value).ok(),
        }
    }
}

/// The value of an IEEE half-precision number.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * f64::powi(2.0, -24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * f64::powi(2.0, exponent - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(number: Number, big_endian: bool, data: &[u8]) -> Vec<f64> {
        let mut out = Vec::new();
        number.decode(big_endian, data, &mut out);
        out
    }

    /// Bit patterns from the table of IEEE 754's half precision.
    #[test]
    fn half_precision() {
        let cases = [
            (0x0000, 0.0),
            (0x0001, 5.960464477539063e-8),
            (0x03ff, 0.00006097555160522461),
            (0x0400, 0.00006103515625),
            (0x3555, 0.333251953125),
            (0x3c00, 1.0),
            (0x3c01, 1.0009765625),
            (0x7bff, 65504.0),
            (0xc000, -2.0),
            (0x7c00, f64::INFINITY),
            (0xfc00, f64::NEG_INFINITY),
        ];
        for (bits, value) in cases {
            assert_eq!(half(bits), value, "{bits:04x}");
            assert_eq!(decoded(Number::F16, true, &bits.to_be_bytes()), [value]);
        }
        assert!(half(0x7e00).is_nan());
    }

    #[test]
    fn either_byte_order() {
        assert_eq!(decoded(Number::F32, false, &[0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0]), [1.5, -2.0]);
        assert_eq!(decoded(Number::F32, true, &[0x3f, 0xc0, 0, 0, 0xc0, 0, 0, 0]), [1.5, -2.0]);
        assert_eq!(decoded(Number::F64, true, &[0x3f, 0xf8, 0, 0, 0, 0, 0, 0]), [1.5]);
        assert_eq!(decoded(Number::I16, true, &[0xff, 0xfe]), [-2.0]);
        assert_eq!(decoded(Number::U16, false, &[0xff, 0xfe]), [65279.0]);
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(Number::I8.integer(false, &[0xff]), Some(-1));
        assert_eq!(Number::U8.integer(false, &[0xff]), Some(255));
        assert_eq!(Number::I16.integer(true, &[0xff, 0xfe]), Some(-2));
        assert_eq!(Number::I32.integer(false, &[0xfe, 0xff, 0xff, 0xff]), Some(-2));
        assert_eq!(Number::I64.integer(true, &[0, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(Number::U64.integer(false, &[0xff; 8]), None);
        assert_eq!(Number::F32.integer(false, &[0; 4]), None);
        assert_eq!(Number::I32.integer(false, &[0; 3]), None);
    }

    #[test]
    fn sizes_and_names_agree() {
        for name in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"] {
            let number = Number::named(name).unwrap();
            assert_eq!(number.size().to_string(), name[1..]);
            assert_eq!(number.is_whole(), !name.starts_with('f'));
            assert_eq!(decoded(number, false, &[0; 16]).len(), 16 / number.size());
        }
        assert_eq!(Number::named("f16"), None);
    }
}
