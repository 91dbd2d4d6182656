//! Files that are either there whole or not there: after a crash at any moment the path holds the old content or
//! the new one.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const SUFFIX: &str = ".tmp";

/// Writes to a temporary file in the same folder, waits until the disk has it, and renames it to `path`; to the file
/// that a link names, where `path` is one. What is there and is no plain file (a device, a pipe) is refused: a rename
/// would take its place.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::input(format!("{}: not the name of a file", path.display())));
    };
    if path.is_dir() {
        return Err(Error::input(format!("{}: is a folder; name a file to write", path.display())));
    }
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(Error::input(format!("{}: is no plain file; name one to write", path.display())));
    }
    let linked = path.is_symlink().then(|| fs::canonicalize(path).ok()).flatten();
    let place = linked.as_deref().unwrap_or(path);
    let folder = folder_of(place);
    let name = format!(".{}.{}{SUFFIX}", name.to_string_lossy(), std::process::id());
    let temporary = folder.join(name);
    let written = write_whole(&temporary, bytes).and_then(|()| fs::rename(&temporary, place));
    if let Err(error) = written {
        // The error to tell is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path, &error));
    }
    sync_folder(&folder).map_err(|error| Error::io("write", &folder, &error))
}

/// Removes what a killed process left half written in `folder`. Nobody else may be writing there.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|error| Error::io("read", folder, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("read", folder, &error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(SUFFIX) {
            fs::remove_file(entry.path()).map_err(|error| Error::io("remove", &entry.path(), &error))?;
        }
    }
    Ok(())
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The new name is on disk once the folder is; only Unix lets a folder be synced.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_names_the_path_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing/a.bin");
        let error = write(&missing, b"x").unwrap_err();
        assert!(error.to_string().contains("missing/a.bin: cannot write"), "{error}");
        assert_eq!(error.exit_code(), 2);
        let error = write(folder.path(), b"x").unwrap_err();
        assert!(error.to_string().contains("is a folder"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed_and_what_is_no_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.bin"), folder.path().join("link"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink("a.bin", &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = write(&socket, b"x").unwrap_err();
        assert!(error.to_string().contains("socket: is no plain file"), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(!fs::symlink_metadata(&socket).unwrap().is_file());
    }

    #[test]
    fn leftovers_go_and_everything_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".last.safetensors.123.tmp", "notes.tmp", ".hidden", "last.safetensors"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_leftovers(folder.path()).unwrap();
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [".hidden", "last.safetensors", "notes.tmp"]);
    }
}
