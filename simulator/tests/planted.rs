//! Every check of the simulator finds what was planted for it, says where, and says nothing where nothing is wrong.

#[path = "planted/cases.rs"]
mod cases;
mod common;

use cases::{Argument, Case};
use common::{Card, Parameter};
use simulator::{Fault, Settings};
use std::fmt::Write;

/// Ends a line of a kernel that a report must name.
const MARKER: &str = "// BUG";

/// Orders of blocks and warps: what is wrong in one is wrong in all.
const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];

#[test]
fn memory() {
    check(&cases::memory());
}

#[test]
fn races() {
    check(&cases::races());
}

#[test]
fn barriers() {
    check(&cases::barriers());
}

#[test]
fn endings() {
    check(&cases::endings());
}

#[test]
fn clean() {
    check(&cases::clean());
}

/// Every kernel of the files is in the table: one that is forgotten there would check nothing.
#[test]
fn no_kernel_is_forgotten() {
    for (file, cases) in [
        ("memory", cases::memory()),
        ("races", cases::races()),
        ("barriers", cases::barriers()),
        ("endings", cases::endings()),
        ("clean", cases::clean()),
    ] {
        for kernel in kernels(file) {
            assert!(
                cases.iter().any(|case| case.kernel == kernel),
                "{file}.cu has {kernel}, and the table has not"
            );
        }
        for case in cases {
            assert!(!case.kernel.ends_with("_fixed") || case.expected.is_none(), "{} is right", case.kernel);
        }
    }
}

/// Runs all of the cases, and tells of all that came out otherwise.
fn check(cases: &[Case]) {
    let mut wrong = String::new();
    for case in cases {
        for seed in SEEDS {
            if let Err(what) = run(case, seed) {
                let Case { file, kernel, arguments, .. } = case;
                let _ = writeln!(
                    wrong,
                    "\n{kernel} of planted/{file}.cu with {arguments:?}, seed {seed}: {what}"
                );
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn run(case: &Case, seed: u64) -> Result<(), String> {
    let card = Card::with(Settings { seed, threads: 1, memory: 1 << 24, watchdog: 1 << 16 });
    let function = card.kernel(&format!("planted/{}", case.file), case.kernel);
    let mut buffer = None;
    let parameters: Vec<Parameter> = case
        .arguments
        .iter()
        .map(|argument| {
            let words: Vec<u32> = match *argument {
                Argument::Word(word) => return Parameter::Word(word),
                Argument::Null => return Parameter::Address(0),
                Argument::Unwritten(count) => {
                    let address = card.allocate(count as usize * 4);
                    buffer = Some((address, count));
                    return Parameter::Address(address);
                }
                Argument::Counting(count) | Argument::Freed(count) => (0..count).collect(),
                Argument::Zeros(count) => vec![0; count as usize],
                Argument::All(count, word) => vec![word; count as usize],
            };
            let address = card.upload(&common::u32_bytes(&words));
            buffer = Some((address, words.len() as u32));
            if let Argument::Freed(_) = argument {
                card.device.free(address).unwrap_or_else(|fault| panic!("{fault}"));
            }
            Parameter::Address(address)
        })
        .collect();
    let result = card.launch(&function, [case.grid, 1], case.block, case.dynamic_shared, &parameters);
    match (case.expected, result) {
        (None, Err(fault)) => Err(format!("nothing is wrong with it, but:\n{fault}")),
        (Some(kind), Ok(_)) => Err(format!("it ends in silence, and should have been {kind:?}")),
        (Some(kind), Err(fault)) if fault.kind != kind => {
            Err(format!("it should have been {kind:?}, but is:\n{fault}"))
        }
        (Some(_), Err(fault)) => names_the_lines(case, &fault),
        (None, Ok(_)) => {
            let (Some(word), Some((address, count))) = (case.gives, buffer) else { return Ok(()) };
            let result = common::to_u32(&card.read(address, count as usize * 4));
            let expected: Vec<u32> = (0..count).map(word).collect();
            if result == expected {
                Ok(())
            } else {
                Err(format!("it gives {result:?}\nand not {expected:?}"))
            }
        }
    }
}

/// Whether a report names every marked line of the kernel.
fn names_the_lines(case: &Case, fault: &Fault) -> Result<(), String> {
    let report = fault.to_string();
    if !report.contains(case.kernel) {
        return Err(format!("the report does not name the kernel:\n{report}"));
    }
    for line in marked_lines(case.file, case.kernel) {
        let place = format!("{}.cu:{line}", case.file);
        let named = report
            .match_indices(&place)
            .any(|(at, _)| !report[at + place.len()..].starts_with(|next: char| next.is_ascii_digit()));
        if !named {
            return Err(format!("the report does not name {place}:\n{report}"));
        }
    }
    Ok(())
}

/// Numbers of the lines, from 1, of a kernel that end with the marker.
fn marked_lines(file: &str, kernel: &str) -> Vec<usize> {
    let text = text(file);
    let head = format!(" {kernel}(");
    let body = text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| !line.contains(&head))
        .take_while(|(_, line)| *line != "}");
    body.filter(|(_, line)| line.trim_end().ends_with(MARKER)).map(|(index, _)| index + 1).collect()
}

/// Names of a file's kernels.
fn kernels(file: &str) -> Vec<String> {
    let text = text(file);
    let heads = text.lines().filter(|line| line.contains("__global__"));
    let name = |head: &str| {
        head.split('(').next_back().and(head.rsplit_once('(')).map(|(before, _)| before.to_owned())
    };
    heads.filter_map(name).filter_map(|head| head.split(' ').next_back().map(str::to_owned)).collect()
}

fn text(file: &str) -> String {
    let path = common::source(&format!("planted/{file}"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
