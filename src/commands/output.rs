//! Standard output, whose reader may go away, and notes on standard error.

use std::io::{ErrorKind, Write};

use crate::error::{Error, Result};

/// Writes `text` and flushes it; `false` when nobody reads any more, which is no error (`coin ... | head`).
pub fn print(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::System(format!("standard output: cannot write: {error}"))),
    }
}

/// A line for people on standard error.
pub fn note(text: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `value` as a line of JSON.
pub fn json_line(value: &impl serde::Serialize) -> Result<String> {
    let mut line = serde_json::to_string(value)
        .map_err(|error| Error::System(format!("cannot write as JSON: {error}")))?;
    line.push('\n');
    Ok(line)
}
