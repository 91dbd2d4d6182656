//! Constants and what PTX's operators make of them (PTX ISA, section 4.5): integers of 64 bits, and doubles.

use super::Type;
use super::lexer::Kind;

/// A constant's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    /// `.s64`, or `.u64` where it is unsigned; 64 bits either way.
    Integer { bits: u64, unsigned: bool },
    /// `0f3F800000`: bits, as a quiet conversion to a double would change some of them. Not for arithmetic.
    Float(u32),
    /// `0d3FF0000000000000`, `1.5`
    Double(f64),
}

/// How closely `+` and `-` bind.
pub(super) const ADDITIVE: u8 = 8;

/// A binary operator and how closely it binds, as in C.
pub(super) fn operator(kind: Kind) -> Option<(Kind, u8)> {
    let binding = match kind {
        Kind::Either => 0,
        Kind::Both => 1,
        Kind::Sign(b'|') => 2,
        Kind::Sign(b'^') => 3,
        Kind::Sign(b'&') => 4,
        Kind::Same | Kind::Differs => 5,
        Kind::Sign(b'<' | b'>') | Kind::AtMost | Kind::AtLeast => 6,
        Kind::ShiftLeft | Kind::ShiftRight => 7,
        Kind::Sign(b'+' | b'-') => ADDITIVE,
        Kind::Sign(b'*' | b'/' | b'%') => 9,
        _ => return None,
    };
    Some((kind, binding))
}

/// The value of a number's text.
pub(super) fn number(text: &str) -> Result<Value, String> {
    let malformed = || format!("malformed number `{text}`");
    let bytes = text.as_bytes();
    let rest = text.get(2..).unwrap_or("");
    // Of `from_str_radix`, which would take a sign too.
    let digits = |digits: &str, radix: u32| {
        if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
            return Err(malformed());
        }
        u64::from_str_radix(digits, radix).map_err(|_| format!("`{text}` does not fit 64 bits"))
    };
    let integer = |text: &str, radix: u32| {
        let (number, suffix) = match text.strip_suffix('U') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let bits = digits(number, radix)?;
        Ok(Value::Integer { bits, unsigned: suffix || bits > i64::MAX as u64 })
    };
    match (bytes.first(), bytes.get(1)) {
        (Some(b'0'), Some(b'x' | b'X')) => integer(rest, 16),
        (Some(b'0'), Some(b'b' | b'B')) => integer(rest, 2),
        (Some(b'0'), Some(b'f' | b'F')) if rest.len() == 8 => {
            digits(rest, 16).map(|bits| Value::Float(bits as u32))
        }
        (Some(b'0'), Some(b'd' | b'D')) if rest.len() == 16 => {
            digits(rest, 16).map(|bits| Value::Double(f64::from_bits(bits)))
        }
        (Some(b'0'), Some(b'f' | b'F')) => Err(format!("`{text}` needs 8 hexadecimal digits")),
        (Some(b'0'), Some(b'd' | b'D')) => Err(format!("`{text}` needs 16 hexadecimal digits")),
        _ if bytes.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) => {
            text.parse().map(Value::Double).map_err(|_| malformed())
        }
        (Some(b'0'), Some(b'0'..=b'9')) => integer(&text[1..], 8),
        _ => integer(text, 10),
    }
}

/// Arithmetic on this value is not defined.
fn refused(value: Value) -> String {
    match value {
        Value::Float(bits) => format!("`0f{bits:08X}` cannot be part of an expression"),
        _ => "this operator takes integers only".to_string(),
    }
}

fn integer(bits: u64, unsigned: bool) -> Value {
    Value::Integer { bits, unsigned }
}

/// A unary operator's result.
pub(super) fn apply(sign: u8, value: Value) -> Result<Value, String> {
    Ok(match (sign, value) {
        (b'+', Value::Integer { .. } | Value::Double(_)) => value,
        (b'-', Value::Integer { bits, unsigned }) => integer(bits.wrapping_neg(), unsigned),
        (b'-', Value::Double(number)) => Value::Double(-number),
        (b'~', Value::Integer { bits, unsigned }) => integer(!bits, unsigned),
        (b'!', Value::Integer { bits, .. }) => integer(u64::from(bits == 0), false),
        _ => return Err(refused(value)),
    })
}

/// A binary operator's result.
pub(super) fn combine(operator: Kind, left: Value, right: Value) -> Result<Value, String> {
    match (left, right) {
        (
            Value::Integer { bits: left, unsigned: first },
            Value::Integer { bits: right, unsigned: second },
        ) => integers(operator, left, right, first, first || second),
        (Value::Float(_), _) => Err(refused(left)),
        (_, Value::Float(_)) => Err(refused(right)),
        _ => doubles(operator, left.double(), right.double()).ok_or_else(|| refused(Value::Double(0.0))),
    }
}

/// `first_unsigned` is for shifts, whose type is that of what they shift.
fn integers(
    operator: Kind,
    left: u64,
    right: u64,
    first_unsigned: bool,
    unsigned: bool,
) -> Result<Value, String> {
    let truth = |result: bool| integer(u64::from(result), false);
    // Overflow wraps, `i64::MIN / -1` too.
    let divided = |quotient: bool| {
        if right == 0 {
            return Err("division by zero".to_string());
        }
        let signed = (left as i64, right as i64);
        Ok(match (unsigned, quotient) {
            (true, true) => left / right,
            (true, false) => left % right,
            (false, true) => signed.0.wrapping_div(signed.1) as u64,
            (false, false) => signed.0.wrapping_rem(signed.1) as u64,
        })
    };
    let less = |left: u64, right: u64| if unsigned { left < right } else { (left as i64) < right as i64 };
    // Shifts by 64 and more clear the value, as the machine's own do.
    let count = u32::try_from(right).unwrap_or(u32::MAX);
    Ok(match operator {
        Kind::Sign(b'+') => integer(left.wrapping_add(right), unsigned),
        Kind::Sign(b'-') => integer(left.wrapping_sub(right), unsigned),
        Kind::Sign(b'*') => integer(left.wrapping_mul(right), unsigned),
        Kind::Sign(b'/') => integer(divided(true)?, unsigned),
        Kind::Sign(b'%') => integer(divided(false)?, unsigned),
        Kind::Sign(b'&') => integer(left & right, unsigned),
        Kind::Sign(b'|') => integer(left | right, unsigned),
        Kind::Sign(b'^') => integer(left ^ right, unsigned),
        Kind::ShiftLeft => integer(left.checked_shl(count).unwrap_or(0), first_unsigned),
        Kind::ShiftRight if first_unsigned => integer(left.checked_shr(count).unwrap_or(0), true),
        Kind::ShiftRight => integer(((left as i64) >> count.min(63)) as u64, false),
        Kind::Sign(b'<') => truth(less(left, right)),
        Kind::Sign(b'>') => truth(less(right, left)),
        Kind::AtMost => truth(!less(right, left)),
        Kind::AtLeast => truth(!less(left, right)),
        Kind::Same => truth(left == right),
        Kind::Differs => truth(left != right),
        Kind::Both => truth(left != 0 && right != 0),
        Kind::Either => truth(left != 0 || right != 0),
        _ => return Err(refused(integer(left, unsigned))),
    })
}

/// `None` for operators that doubles do not have.
fn doubles(operator: Kind, left: f64, right: f64) -> Option<Value> {
    let truth = |result: bool| Some(integer(u64::from(result), false));
    match operator {
        Kind::Sign(b'+') => Some(Value::Double(left + right)),
        Kind::Sign(b'-') => Some(Value::Double(left - right)),
        Kind::Sign(b'*') => Some(Value::Double(left * right)),
        Kind::Sign(b'/') => Some(Value::Double(left / right)),
        Kind::Sign(b'<') => truth(left < right),
        Kind::Sign(b'>') => truth(left > right),
        Kind::AtMost => truth(left <= right),
        Kind::AtLeast => truth(left >= right),
        Kind::Same => truth(left == right),
        Kind::Differs => truth(left != right),
        _ => None,
    }
}

impl Value {
    /// The number as a double; exact for a float.
    fn double(self) -> f64 {
        match self {
            Value::Integer { bits, unsigned: true } => bits as f64,
            Value::Integer { bits, unsigned: false } => bits as i64 as f64,
            Value::Float(bits) => f64::from(f32::from_bits(bits)),
            Value::Double(value) => value,
        }
    }

    /// As a condition of `?:`.
    pub(super) fn truth(self) -> Result<bool, String> {
        match self {
            Value::Integer { bits, .. } => Ok(bits != 0),
            _ => Err("a condition is an integer".to_string()),
        }
    }

    /// `(.s64)` and `(.u64)`.
    pub(super) fn cast(self, unsigned: bool) -> Result<Value, String> {
        match self {
            Value::Integer { bits, .. } => Ok(integer(bits, unsigned)),
            _ => Err(refused(self)),
        }
    }

    /// The bits that initialise an element of a type, in the lowest of them.
    pub(super) fn bits(self, ty: Type) -> Result<u128, String> {
        match (ty, self) {
            (Type::F32, Value::Float(bits)) => Ok(u128::from(bits)),
            (Type::F32, _) => Ok(u128::from((self.double() as f32).to_bits())),
            (Type::F64, _) => Ok(u128::from(self.double().to_bits())),
            (Type::F16 | Type::F16x2, _) => {
                Err("variables of halves take their initialisers as `.b16`".to_string())
            }
            // A signed integer's sign goes on to the 128th bit.
            (_, Value::Integer { bits, unsigned: false }) => Ok(i128::from(bits as i64) as u128),
            (_, Value::Integer { bits, unsigned: true }) => Ok(u128::from(bits)),
            (_, Value::Float(bits)) if ty.size() == 4 => Ok(u128::from(bits)),
            (_, Value::Double(value)) if ty.size() == 8 => Ok(u128::from(value.to_bits())),
            _ => Err("expected an integer, found a floating-point constant".to_string()),
        }
    }
}
