//! `printf` in a kernel: the format and arguments that `vprintf` gets.

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
                return argument(4).map(|n| n as usize);
            }
            let mut digits = String::new();
            while let Some(c) = rest.next_if(char::is_ascii_digit) {
                digits.push(c);
            }
            digits.parse::<usize>().ok()
        };
        let width = number(&mut rest, &mut argument).unwrap_or(0);
        let precision = if rest.next_if_eq(&'.').is_some() {
            Some(number(&mut rest, &mut argument).unwrap_or(0))
        } else {
            None
        };
        let mut long = false;
        while let Some(c) = rest.next_if(|c| "hljztL".contains(*c)) {
            long |= c != 'h';
        }
        let Some(conversion) = rest.next() else { break };
        let size = if long { 8 } else { 4 };
        let missing = "(missing)".to_string();
        let plus = |negative: bool| match negative {
            true => "-",
            false if flags.contains('+') => "+",
            false if flags.contains(' ') => " ",
            false => "",
        };
        let (sign, body) = match conversion {
            'd' | 'i' => match argument(size) {
                Some(bits) => {
                    let value = if long { bits as i64 } else { bits as i32 as i64 };
                    (plus(value < 0), value.unsigned_abs().to_string())
                }
                None => ("", missing),
            },
            'u' => ("", argument(size).map_or(missing, |v| v.to_string())),
            'x' => ("", argument(size).map_or(missing, |v| format!("{v:x}"))),
            'X' => ("", argument(size).map_or(missing, |v| format!("{v:X}"))),
            'o' => ("", argument(size).map_or(missing, |v| format!("{v:o}"))),
            'p' => ("", argument(8).map_or(missing, |v| format!("0x{v:x}"))),
            'c' => ("", argument(4).map_or(missing, |v| char::from(v as u8).to_string())),
            's' => ("", argument(8).and_then(&string).unwrap_or(missing)),
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'a' => match argument(8) {
                Some(bits) => {
                    let value = f64::from_bits(bits);
                    let digits = precision.unwrap_or(6);
                    let magnitude = value.abs();
                    let text = match conversion {
                        'e' | 'E' => format!("{magnitude:.digits$e}"),
                        'g' | 'G' | 'a' => format!("{magnitude}"),
                        _ => format!("{magnitude:.digits$}"),
                    };
                    (plus(value.is_sign_negative() && !value.is_nan()), text)
                }
                None => ("", missing),
            },
            other => ("", format!("%{other}")),
        };
        let padding = width.saturating_sub(sign.len() + body.chars().count());
        if flags.contains('-') {
            out.push_str(sign);
            out.push_str(&body);
            out.extend(std::iter::repeat_n(' ', padding));
        } else if flags.contains('0') {
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
