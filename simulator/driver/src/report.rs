//! What the simulation found, for people on stderr and for programs in a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde_json::json;
use simulator::{Fault, Profile};

use crate::error::{CUresult, explain};
use crate::settings::{Environment, ProfileTarget};

/// What was still alive when a context or the process ended.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Address and size of each allocation on the device.
    pub memory: Vec<(u64, u64)>,
    /// Bytes of pinned host memory.
    pub host: u64,
    pub streams: usize,
    pub events: usize,
    pub graphs: usize,
    pub modules: usize,
}

impl Leftovers {
    /// Only memory is a leak; the rest is told, because a context takes it along without harm.
    fn leak(&self) -> bool {
        !self.memory.is_empty() || self.host > 0
    }

    fn others(&self) -> bool {
        self.streams + self.events + self.graphs + self.modules > 0
    }
}

/// Prints a fault and adds it to the report file.
pub(crate) fn fault(environment: &Environment, call: &str, code: CUresult, fault: &Fault) {
    explain(call, &format!("{code:?}\n{fault}"));
    append(
        environment,
        &json!({
            "event": "fault",
            "kind": format!("{:?}", fault.kind),
            "code": code.0,
            "call": call,
            "seed": environment.settings.seed,
            "report": fault.report,
        }),
    );
}

/// Prints what was left and adds it to the report file; says nothing when nothing was left.
pub(crate) fn leftovers(environment: &Environment, place: &str, left: &Leftovers) {
    if left.leak() {
        let bytes: u64 = left.memory.iter().map(|(_, bytes)| bytes).sum();
        let count = left.memory.len();
        let plural = if count == 1 { "" } else { "s" };
        let mut text = format!("leaked {bytes} bytes in {count} allocation{plural}");
        if left.host > 0 {
            text += &format!(" and {} bytes of pinned host memory", left.host);
        }
        for (address, bytes) in left.memory.iter().take(16) {
            text += &format!("\n    {bytes} bytes at {address:#x}");
        }
        if left.memory.len() > 16 {
            text += &format!("\n    and {} more", left.memory.len() - 16);
        }
        explain(place, &text);
        append(
            environment,
            &json!({
                "event": "leak",
                "place": place,
                "seed": environment.settings.seed,
                "bytes": bytes,
                "allocations": left.memory,
                "host_bytes": left.host,
            }),
        );
    }
    if left.others() {
        let Leftovers { streams, events, graphs, modules, .. } = left;
        explain(
            place,
            &format!("still alive: {streams} streams, {events} events, {graphs} graphs, {modules} modules"),
        );
        append(
            environment,
            &json!({
                "event": "alive",
                "place": place,
                "seed": environment.settings.seed,
                "streams": streams,
                "events": events,
                "graphs": graphs,
                "modules": modules,
            }),
        );
    }
}

/// Adds one line to the report file, in one write: several processes may share the file.
fn append(environment: &Environment, value: &serde_json::Value) {
    let Some(path) = &environment.report else { return };
    let line = format!("{value}\n");
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        explain("report", &format!("cannot write {}: {error}", path.display()));
    }
}

/// Writes the profiles when a context ends, in case the process ends without its handlers. A table waits for the end.
pub(crate) fn profiles_so_far(environment: &Environment, launches: &[Profile]) {
    if matches!(environment.profile, Some(ProfileTarget::File(_))) {
        profiles(environment, launches);
    }
}

/// Writes the profiles of all launches so far.
pub(crate) fn profiles(environment: &Environment, profiles: &[Profile]) {
    match &environment.profile {
        None => {}
        Some(ProfileTarget::Table) => {
            // See `append`: nobody is told when stderr is closed.
            let _ = write!(std::io::stderr(), "{}", simulator::table(profiles));
        }
        Some(ProfileTarget::File(path)) => {
            if let Err(message) = write_profiles(path, profiles) {
                explain("profile", &format!("cannot write {}: {message}", path.display()));
            }
        }
    }
}

fn write_profiles(path: &Path, profiles: &[Profile]) -> Result<(), String> {
    let mut text = serde_json::to_string_pretty(profiles).map_err(|error| error.to_string())?;
    text.push('\n');
    std::fs::write(path, text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_is_a_leak() {
        assert!(!Leftovers { streams: 1, events: 2, ..Leftovers::default() }.leak());
        assert!(Leftovers { memory: vec![(512, 4)], ..Leftovers::default() }.leak());
        assert!(Leftovers { host: 1, ..Leftovers::default() }.leak());
    }

    #[test]
    fn lines_of_a_report_are_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.jsonl");
        let environment = Environment { report: Some(path.clone()), ..Environment::read(|_| None).unwrap() };
        let found = Fault { kind: simulator::FaultKind::Race, report: "two\nlines".to_owned() };
        fault(&environment, "cuLaunchKernel", CUresult::LAUNCH_FAILED, &found);
        leftovers(
            &environment,
            "end of the process",
            &Leftovers { memory: vec![(512, 4)], events: 1, ..Leftovers::default() },
        );
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["event"], &lines[0]["code"]), (&json!("fault"), &json!(719)));
        assert_eq!((&lines[1]["event"], &lines[1]["bytes"]), (&json!("leak"), &json!(4)));
        assert_eq!((&lines[2]["event"], &lines[2]["events"]), (&json!("alive"), &json!(1)));
    }

    #[test]
    fn profiles_are_an_array() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.json");
        write_profiles(&path, &[]).unwrap();
        let read: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(read, json!([]));
    }
}
