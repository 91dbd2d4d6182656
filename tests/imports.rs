//! Imports run down the list of rooms in docs/architecture.md, never up.

use std::fs;
use std::path::{Path, PathBuf};

/// Every room with those below it that it may import; the ground is open to all.
const ROOMS: [(&str, &[&str]); 8] = [
    ("commands", &["training", "bench", "model", "ops", "device", "data", "metrics"]),
    ("training", &["model", "data", "metrics"]),
    ("bench", &["model", "ops", "device", "data", "metrics"]),
    ("model", &["ops", "device", "data", "metrics"]),
    ("ops", &["device", "data"]),
    ("device", &[]),
    ("data", &[]),
    ("metrics", &[]),
];
const GROUND: [&str; 4] = ["random", "atomic_file", "error", "choice"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a line of code names by `crate::`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn imports_run_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&source, &mut paths);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in &paths {
        let inside = path.strip_prefix(&source).unwrap();
        let own = inside.iter().next().unwrap().to_string_lossy();
        let own = own.trim_end_matches(".rs");
        let below = ROOMS.iter().find(|(room, _)| *room == own).map(|(_, below)| *below);
        if below.is_none() && !GROUND.contains(&own) {
            assert!(["lib", "main"].contains(&own), "{own} is no room of docs/architecture.md");
            continue;
        }
        for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
            for room in named(line) {
                seen += 1;
                let known = GROUND.contains(&room) || ROOMS.iter().any(|(known, _)| *known == room);
                let fine = room == own || GROUND.contains(&room) || below.unwrap_or_default().contains(&room);
                if known && !fine {
                    wrong.push(format!("{}:{}: {own} imports {room}", inside.display(), number + 1));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found: is the test reading the right files?");
    assert!(wrong.is_empty(), "imports that run up:\n{}", wrong.join("\n"));
}
