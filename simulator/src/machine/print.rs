//! `printf` in a kernel: the format and arguments that `vprintf` gets.

/// Widths and precisions beyond this one are cut to it: a kernel's mistake must not fill the host's memory.
const WIDEST: usize = 4096;

/// Formats as C does, with `argument(size)` giving the bits of the next argument and `string(address)` a text.
pub fn format(
    format: &str,
    mut argument: impl FnMut(u64) -> Option<u64>,
    string: impl Fn(u64) -> Option<String>,
) -> String {
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if rest.peek() == Some(&'%') {
            rest.next();
            out.push('%');
            continue;
        }
        let mut flags = String::new();
        while let Some(c) = rest.next_if(|c| "-+ #0".contains(*c)) {
            flags.push(c);
        }
        let number = |rest: &mut std::iter::Peekable<std::str::Chars>,
                      argument: &mut dyn FnMut(u64) -> Option<u64>| {
            if rest.next_if_eq(&'*').is_some() {
                return argument(4).map(|n| n as i32);
            }
            let mut digits = String::new();
            while let Some(c) = rest.next_if(char::is_ascii_digit) {
                digits.push(c);
            }
            digits.parse::<i32>().ok()
        };
        let width = number(&mut rest, &mut argument).unwrap_or(0);
        if width < 0 {
            flags.push('-');
        }
        let width = (width.unsigned_abs() as usize).min(WIDEST);
        let precision = if rest.next_if_eq(&'.').is_some() {
            // A negative one counts as none.
            let given = number(&mut rest, &mut argument).unwrap_or(0);
            usize::try_from(given).ok().map(|digits| digits.min(WIDEST))
        } else {
            None
        };
        let (mut long, mut short) = (false, 0);
        while let Some(c) = rest.next_if(|c| "hljztL".contains(*c)) {
            long |= c != 'h';
            short += (c == 'h') as u32;
        }
        let bits = if long { 64 } else { 32 >> short.min(2) };
        let Some(conversion) = rest.next() else { break };
        let size = if long { 8 } else { 4 };
        let missing = "(missing)".to_string();
        let plus = |negative: bool| match negative {
            true => "-",
            false if flags.contains('+') => "+",
            false if flags.contains(' ') => " ",
            false => "",
        };
        let alternate = flags.contains('#');
        // Zeros between the sign and the digits fill the width, where nothing else says how many there are.
        let mut zeros = flags.contains('0') && !flags.contains('-');
        let (sign, body) = match conversion {
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => match argument(size) {
                Some(given) => {
                    zeros &= precision.is_none();
                    let signed = (given << (64 - bits)) as i64 >> (64 - bits);
                    let value = given << (64 - bits) >> (64 - bits);
                    let (sign, mut digits) = match conversion {
                        'd' | 'i' => (plus(signed < 0), signed.unsigned_abs().to_string()),
                        'x' if alternate && value != 0 => ("0x", format!("{value:x}")),
                        'X' if alternate && value != 0 => ("0X", format!("{value:X}")),
                        'x' => ("", format!("{value:x}")),
                        'X' => ("", format!("{value:X}")),
                        'o' if alternate && value != 0 => ("", format!("0{value:o}")),
                        'o' => ("", format!("{value:o}")),
                        _ => ("", value.to_string()),
                    };
                    if precision == Some(0) && value == 0 {
                        digits.clear();
                    }
                    let least = precision.unwrap_or(1);
                    (sign, "0".repeat(least.saturating_sub(digits.len())) + &digits)
                }
                None => ("", missing),
            },
            'p' => ("", argument(8).map_or(missing, |v| format!("0x{v:x}"))),
            'c' => ("", argument(4).map_or(missing, |v| char::from(v as u8).to_string())),
            's' => {
                let text = argument(8).and_then(&string).unwrap_or(missing);
                ("", text.chars().take(precision.unwrap_or(usize::MAX)).collect())
            }
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'a' | 'A' => match argument(8) {
                Some(given) => {
                    let value = f64::from_bits(given);
                    zeros &= value.is_finite();
                    let text = real(value.abs(), conversion.to_ascii_lowercase(), precision, alternate);
                    let text = if conversion.is_ascii_uppercase() { text.to_ascii_uppercase() } else { text };
                    (plus(value.is_sign_negative() && !value.is_nan()), text)
                }
                None => ("", missing),
            },
            other => ("", format!("%{other}")),
        };
        zeros &= !"cs".contains(conversion);
        let padding = width.saturating_sub(sign.len() + body.chars().count());
        if flags.contains('-') {
            out.push_str(sign);
            out.push_str(&body);
            out.extend(std::iter::repeat_n(' ', padding));
        } else if zeros {
            out.push_str(sign);
            out.extend(std::iter::repeat_n('0', padding));
            out.push_str(&body);
        } else {
            out.extend(std::iter::repeat_n(' ', padding));
            out.push_str(sign);
            out.push_str(&body);
        }
    }
    out
}

/// A number from 0 up, infinite, or none, as C's `f`, `e`, `g` and `a` write it.
fn real(value: f64, conversion: char, precision: Option<usize>, alternate: bool) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "nan" } else { "inf" }.to_string();
    }
    let digits = precision.unwrap_or(6);
    let point = |text: String| if alternate && !text.contains('.') { text + "." } else { text };
    match conversion {
        'f' => point(format!("{value:.digits$}")),
        'e' => {
            let (mantissa, exponent) = scientific(value, digits);
            format!("{}e{exponent:+03}", point(mantissa))
        }
        'g' => {
            let digits = digits.max(1);
            // The exponent is that of the rounded number.
            let (mantissa, exponent) = scientific(value, digits - 1);
            let short = |text: String| match alternate {
                true => point(text),
                false if text.contains('.') => text.trim_end_matches('0').trim_end_matches('.').to_string(),
                false => text,
            };
            if (-4..digits as i32).contains(&exponent) {
                let decimals = (digits as i32 - 1 - exponent) as usize;
                short(format!("{value:.decimals$}"))
            } else {
                format!("{}e{exponent:+03}", short(mantissa))
            }
        }
        _ => hexadecimal(value, precision, alternate),
    }
}

/// A mantissa with so many decimals, and the exponent.
fn scientific(value: f64, decimals: usize) -> (String, i32) {
    let text = format!("{value:.decimals$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.to_string(), exponent.parse().unwrap_or(0))
}

fn hexadecimal(value: f64, precision: Option<usize>, alternate: bool) -> String {
    const FRACTION: u32 = 52;
    let bits = value.to_bits();
    let fraction = bits & ((1 << FRACTION) - 1);
    let (mut mantissa, exponent) = match (bits >> FRACTION, fraction) {
        (0, 0) => (0, 0),
        (0, _) => (fraction, -1022),
        (biased, _) => (fraction | 1 << FRACTION, biased as i32 - 1023),
    };
    let mut digits = format!("{:013x}", mantissa & ((1 << FRACTION) - 1));
    match precision {
        None => digits.truncate(digits.trim_end_matches('0').len()),
        Some(count) if count < 13 => {
            // To the nearest, and of two to the even one.
            let unit = 1u64 << (FRACTION - 4 * count as u32);
            let (rest, half) = (mantissa % unit, unit / 2);
            mantissa -= rest;
            if rest > half || rest == half && mantissa & unit != 0 {
                mantissa += unit;
            }
            digits = format!("{:013x}", mantissa & ((1 << FRACTION) - 1));
            digits.truncate(count);
        }
        Some(count) => digits.extend(std::iter::repeat_n('0', count - 13)),
    }
    let point = if digits.is_empty() && !alternate { "" } else { "." };
    format!("0x{}{point}{digits}p{exponent:+}", mantissa >> FRACTION)
}

#[cfg(test)]
mod tests {
    use super::format;

    /// What `format` makes of arguments of 64 bits.
    fn with(text: &str, arguments: &[u64]) -> String {
        let mut rest = arguments.iter();
        format(text, |_| rest.next().copied(), |_| Some("words".to_string()))
    }

    /// The right sides are glibc's.
    #[test]
    fn formats_as_c_does() {
        let minus = |n: i64| n as u64;
        let wholes: [(&str, u64, &str); 16] = [
            ("%5.3d|", 7, "  007|"),
            ("%-6d|", 42, "42    |"),
            ("%06d|", minus(-42), "-00042|"),
            ("%06.3d|", 7, "   007|"),
            ("%+d|", 5, "+5|"),
            ("% d|", 3, " 3|"),
            ("%.0d|", 0, "|"),
            ("%hhd|", 0x1fe, "-2|"),
            ("%hu|", 0x12345, "9029|"),
            ("%#x|", 255, "0xff|"),
            ("%#010X|", 255, "0X000000FF|"),
            ("%#x|", 0, "0|"),
            ("%#o|", 8, "010|"),
            ("%llx|", u64::MAX, "ffffffffffffffff|"),
            ("%.3s|", 0, "wor|"),
            ("%08s|", 0, "   words|"),
        ];
        for (text, argument, expected) in wholes {
            assert_eq!(with(text, &[argument]), expected, "{text} of {argument}");
        }
        let reals: [(&str, f64, &str); 26] = [
            ("%f", 2.5, "2.500000"),
            ("%.0f", 2.5, "2"),
            ("%#.0f", 2.5, "2."),
            ("%010.2f", -3.25159, "-000003.25"),
            ("%f", f64::NAN, "nan"),
            ("%F", f64::INFINITY, "INF"),
            ("%06f", f64::NEG_INFINITY, "  -inf"),
            ("%e", 1.5, "1.500000e+00"),
            ("%.2e", 12345.678, "1.23e+04"),
            ("%E", 0.00012, "1.200000E-04"),
            ("%.0e", 1e100, "1e+100"),
            ("%e", 0.0, "0.000000e+00"),
            ("%g", 1e20, "1e+20"),
            ("%g", 0.0001, "0.0001"),
            ("%g", 0.00001234, "1.234e-05"),
            ("%g", 100000.0, "100000"),
            ("%g", 1e6, "1e+06"),
            ("%g", 999999.5, "1e+06"),
            ("%.3g", 0.0, "0"),
            ("%#g", 1.5, "1.50000"),
            ("%G", 1e-10, "1E-10"),
            ("%a", 1.0, "0x1p+0"),
            ("%a", 0.1, "0x1.999999999999ap-4"),
            ("%.2a", 0.1, "0x1.9ap-4"),
            ("%A", -1.5, "-0X1.8P+0"),
            ("%a", 5e-324, "0x0.0000000000001p-1022"),
        ];
        for (text, argument, expected) in reals {
            assert_eq!(with(text, &[argument.to_bits()]), expected, "{text} of {argument}");
        }
        assert_eq!(with("%*d|", &[minus(-4), 7]), "7   |");
        assert_eq!(with("%.*f|", &[2, 3.25159f64.to_bits()]), "3.25|");
    }
}
