//! PTX text to tokens: names, dotted words, numbers, strings and punctuation, each a range of the text.

use super::parser::ParseError;

/// What a token is; its text is the range of the source that [`Token`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `%r1`, `$L__BB0_2`, `add`, `_`
    Name,
    /// `.global`, `.L1::no_allocate`; its range leaves out the first dot.
    Word,
    /// Anything that begins with a digit (or with a dot and a digit); the parser gives it a value.
    Number,
    /// `"nounroll"`; its range leaves out the quotes.
    Text,
    /// One of `{}()[];,:@!|+-*/%<>=&^~?`
    Sign(u8),
    /// `<<`
    ShiftLeft,
    /// `>>`
    ShiftRight,
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
    /// `==`
    Same,
    /// `!=`
    Differs,
    /// `&&`
    Both,
    /// `||`
    Either,
    /// The end of the text, always the last token.
    End,
}

/// A token: what it is and where it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Bytes of the text.
    pub(super) start: u32,
    pub(super) end: u32,
    /// Line of its beginning, from 1.
    pub(super) line: u32,
}

/// A character of a name after its first one.
fn continues_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

/// Splits a whole text. The last token is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
    let Ok(length) = u32::try_from(text.len()) else {
        return Err(ParseError { line: 1, column: 1, message: "the text is longer than 4 GiB".to_string() });
    };
    // Real PTX has a token about every four bytes.
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, line: 1 };
    let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
    while let Some(token) = lexer.next()? {
        tokens.push(token);
    }
    let end = (lexer.at as u32).min(length);
    tokens.push(Token { kind: Kind::End, start: end, end, line: lexer.line });
    Ok(tokens)
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

impl Lexer<'_> {
    /// The byte `ahead` of the place reached, 0 past the end (which no rule below looks for).
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error(&self, start: usize, line: u32, message: String) -> ParseError {
        ParseError { line, column: column(self.text, start), message }
    }

    fn skip_name(&mut self) {
        while continues_name(self.peek(0)) {
            self.at += 1;
        }
    }

    /// White space and comments.
    fn skip_blank(&mut self) -> Result<(), ParseError> {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => {
                    while self.at < self.bytes.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                b'/' if self.peek(1) == b'*' => {
                    let (start, line) = (self.at, self.line);
                    self.at += 2;
                    while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
                        match self.bytes.get(self.at) {
                            None => {
                                return Err(self.error(start, line, "this comment does not end".to_string()));
                            }
                            Some(b'\n') => self.line += 1,
                            Some(_) => {}
                        }
                        self.at += 1;
                    }
                    self.at += 2;
                }
                // The zero that the driver's interface puts after an image is no part of it, nor is anything behind it.
                0 => {
                    self.bytes = &self.bytes[..self.at];
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Token>, ParseError> {
        self.skip_blank()?;
        let (start, line) = (self.at, self.line);
        let Some(&byte) = self.bytes.get(start) else { return Ok(None) };
        let token = |kind, from: usize, to: usize| Token { kind, start: from as u32, end: to as u32, line };
        Ok(Some(match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => {
                self.skip_name();
                token(Kind::Name, start, self.at)
            }
            b'%' if continues_name(self.peek(1)) => {
                self.at += 1;
                self.skip_name();
                token(Kind::Name, start, self.at)
            }
            // `.5` is a number, the `.2d` of `tex.2d` is not.
            b'.' if self.peek(1).is_ascii_digit()
                && (start == 0 || !continues_name(self.bytes[start - 1])) =>
            {
                self.number();
                token(Kind::Number, start, self.at)
            }
            b'.' if continues_name(self.peek(1)) => {
                self.at += 1;
                self.skip_name();
                while self.peek(0) == b':' && self.peek(1) == b':' && continues_name(self.peek(2)) {
                    self.at += 2;
                    self.skip_name();
                }
                token(Kind::Word, start + 1, self.at)
            }
            b'0'..=b'9' => {
                self.number();
                token(Kind::Number, start, self.at)
            }
            b'"' => {
                self.at += 1;
                loop {
                    match self.bytes.get(self.at) {
                        None | Some(b'\n') => {
                            return Err(self.error(
                                start,
                                line,
                                "this string does not end on its line".to_string(),
                            ));
                        }
                        Some(b'"') => break,
                        // A quote behind a backslash ends nothing; an end of line still does.
                        Some(b'\\') if !matches!(self.bytes.get(self.at + 1), None | Some(b'\n')) => {
                            self.at += 2
                        }
                        Some(_) => self.at += 1,
                    }
                }
                self.at += 1;
                token(Kind::Text, start + 1, self.at - 1)
            }
            _ => {
                let double = match (byte, self.peek(1)) {
                    (b'<', b'<') => Some(Kind::ShiftLeft),
                    (b'>', b'>') => Some(Kind::ShiftRight),
                    (b'<', b'=') => Some(Kind::AtMost),
                    (b'>', b'=') => Some(Kind::AtLeast),
                    (b'=', b'=') => Some(Kind::Same),
                    (b'!', b'=') => Some(Kind::Differs),
                    (b'&', b'&') => Some(Kind::Both),
                    (b'|', b'|') => Some(Kind::Either),
                    _ => None,
                };
                if let Some(kind) = double {
                    self.at += 2;
                    token(kind, start, self.at)
                } else if b"{}()[];,:@!|+-*/%<>=&^~?".contains(&byte) {
                    self.at += 1;
                    token(Kind::Sign(byte), start, self.at)
                } else {
                    // `start` begins a character: every token before it ends behind an ASCII one, and a string's inside is
                    // left only at its closing quote.
                    let found = self.text.get(start..).and_then(|rest| rest.chars().next()).unwrap_or('.');
                    return Err(self.error(
                        start,
                        line,
                        format!("unexpected character `{}`", found.escape_debug()),
                    ));
                }
            }
        }))
    }

    /// Everything that could belong to a number, so that one with a wrong digit is reported whole.
    fn number(&mut self) {
        let start = self.at;
        // In `0x1e+4` the sign is an operator, in `1e+4` it belongs to the exponent.
        let prefixed = self.peek(0) == b'0'
            && matches!(self.peek(1), b'x' | b'X' | b'f' | b'F' | b'd' | b'D' | b'b' | b'B');
        loop {
            let byte = self.peek(0);
            let exponent = !prefixed
                && matches!(byte, b'+' | b'-')
                && self.at > start
                && matches!(self.bytes[self.at - 1], b'e' | b'E')
                && self.peek(1).is_ascii_digit();
            if !(continues_name(byte) || byte == b'.' || exponent) {
                break;
            }
            self.at += 1;
        }
    }
}

/// Column of a byte of the text in its line, from 1, in characters.
pub(super) fn column(text: &str, at: usize) -> u32 {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line =
        before.iter().rposition(|&byte| byte == b'\n').map_or(before, |newline| &before[newline + 1..]);
    // Bytes that do not continue a character of UTF-8.
    let characters = line.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
    u32::try_from(characters).unwrap_or(u32::MAX - 1) + 1
}
