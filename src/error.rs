//! The one error type a user meets.

use std::fmt;
use std::path::Path;

/// What went wrong, said so that the reader knows the file, the field and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// What was asked for or given is wrong: a file's content, a flag, a setting. Exit code 2.
    Input(String),
    /// The machine refused: a file could not be read or written, memory is short. Exit code 1.
    System(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input(message.into())
    }

    /// An input/output failure on `path`, while `doing` ("read", "write", ...). A path that does not exist,
    /// is a folder, may not be opened, or is none (too long, with a NUL in it) is the user's to mend, so that counts
    /// as input.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let message = format!("{}: cannot {doing}: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::IsADirectory
            | std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::AlreadyExists
            | std::io::ErrorKind::InvalidFilename
            | std::io::ErrorKind::ReadOnlyFilesystem
            | std::io::ErrorKind::InvalidData => Error::Input(message),
            // The standard library's own word for a path with a NUL in it.
            std::io::ErrorKind::InvalidInput if error.raw_os_error().is_none() => Error::Input(message),
            _ => Error::System(message),
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) => 2,
            Error::System(_) => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Input(message) | Error::System(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_none_is_wrong_input() {
        for name in ["a\0b", &"a".repeat(5000)] {
            let path = Path::new(name);
            let error = std::fs::read(path).unwrap_err();
            assert_eq!(Error::io("read", path, &error).exit_code(), 2, "{error}");
        }
    }
}
