//! The one error type a user meets.

use std::fmt;
use std::io::ErrorKind;
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

    /// An input/output failure on `path`, while `doing` ("read", "write", ...). What the user can mend counts as
    /// input.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let shown = path.display();
        match remedy(path, error) {
            Some(remedy) => Error::Input(format!("{shown}: cannot {doing}: {remedy}")),
            None => Error::System(format!("{shown}: cannot {doing}: {error}")),
        }
    }

    /// Wrong input, said as `say` makes it of the message; a failure of the machine stays what it is.
    pub fn said(self, say: impl FnOnce(String) -> String) -> Self {
        match self {
            Error::Input(message) => Error::Input(say(message)),
            system => system,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) => 2,
            Error::System(_) => 1,
        }
    }
}

/// What is wrong with a path and how to mend it; `None` where that is not in the user's hands.
fn remedy(path: &Path, error: &std::io::Error) -> Option<String> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let text = match error.kind() {
        ErrorKind::NotFound => match folder.filter(|folder| !folder.exists()) {
            Some(folder) => {
                return Some(format!("there is no folder {}: mend the path, or make it", folder.display()));
            }
            None => "there is no file of that name: mend the path",
        },
        ErrorKind::PermissionDenied => "permission is denied: change the rights there, or name another place",
        ErrorKind::IsADirectory => "it is a folder: name a file",
        ErrorKind::NotADirectory => "a part of its path is a file and no folder: mend the path",
        ErrorKind::AlreadyExists => "there is a file of that name: name another",
        ErrorKind::InvalidFilename => "no file can have that name: name another",
        ErrorKind::ReadOnlyFilesystem => "nothing can be written on that file system: name another place",
        // Of reading text.
        ErrorKind::InvalidData => "it is no text in UTF-8: name another file",
        // The standard library's own word for a path with a NUL in it.
        ErrorKind::InvalidInput if error.raw_os_error().is_none() => {
            "no file can have that name: name another"
        }
        _ => return None,
    };
    Some(text.to_string())
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
    fn a_failure_says_what_to_mend() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file");
        std::fs::write(&file, b"\xff").unwrap();
        let text = |path: &Path| std::fs::read_to_string(path).unwrap_err();
        let make = |path: &Path| std::fs::create_dir_all(path).unwrap_err();
        let kind = |kind: ErrorKind| move |_: &Path| std::io::Error::from(kind);
        type Case<'a> = (&'a str, &'a dyn Fn(&Path) -> std::io::Error, &'a str);
        let cases: [Case; 9] = [
            ("none", &text, "none: cannot touch: there is no file of that name: mend the path"),
            ("no/none", &text, "/no: mend the path, or make it"),
            ("", &text, "it is a folder: name a file"),
            ("a file", &text, "it is no text in UTF-8: name another file"),
            ("a file", &make, "a file: cannot touch: there is a file of that name: name another"),
            ("a file/x", &make, "a part of its path is a file and no folder: mend the path"),
            ("a\0b", &text, "no file can have that name"),
            ("x", &kind(ErrorKind::PermissionDenied), "permission is denied: change the rights there"),
            ("x", &kind(ErrorKind::ReadOnlyFilesystem), "nothing can be written on that file system"),
        ];
        for (name, failing, expected) in cases {
            let path = folder.path().join(name);
            let error = Error::io("touch", &path, &failing(&path));
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        let full = Error::io("write", &file, &ErrorKind::StorageFull.into());
        assert_eq!(full.exit_code(), 1, "{full}");
    }

    #[test]
    fn a_path_that_is_none_is_wrong_input() {
        for name in ["a\0b", &"a".repeat(5000)] {
            let path = Path::new(name);
            let error = std::fs::read(path).unwrap_err();
            assert_eq!(Error::io("read", path, &error).exit_code(), 2, "{error}");
        }
    }
}
