//! What the kernels take of a card, as `ptxas` said when they were built: registers, spills, shared memory.
//!
//!     cargo test --test resources -- --nocapture      prints the table

use std::collections::BTreeMap;

/// What the build printed: `ptxas info` of every kernel for every architecture.
const PRINTED: &str = include_str!(concat!(env!("OUT_DIR"), "/resources.txt"));

/// Bytes that kernels spill on sm_75 and may; none is the rule.
const SPILLS: &[(&str, u32)] = &[];

/// Registers of a thread and threads of an SM that sm_75 has.
const REGISTERS: u32 = 65_536;

#[derive(Debug, Default, Clone, PartialEq)]
struct Resources {
    registers: u32,
    /// Bytes stored and loaded.
    spills: u32,
    shared: u32,
    stack: u32,
}

/// By architecture and kernel.
fn read(printed: &str) -> BTreeMap<(String, String), Resources> {
    let mut all = BTreeMap::new();
    let mut place = None;
    // The number before a word: "255 registers".
    let before = |line: &str, word: &str| {
        let at = line.find(word)?;
        line[..at].split_whitespace().last()?.parse::<u32>().ok()
    };
    for line in printed.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut parts = rest.split('\'');
            let (Some(kernel), Some(architecture)) = (parts.next(), parts.nth(1)) else { continue };
            place = Some((architecture.to_string(), kernel.to_string()));
        }
        let Some(place) = &place else { continue };
        let entry: &mut Resources = all.entry(place.clone()).or_default();
        if let Some(bytes) = before(line, " bytes spill stores") {
            entry.spills += bytes + before(line, " bytes spill loads").unwrap_or(0);
            entry.stack = before(line, " bytes stack frame").unwrap_or(0);
        }
        if let Some(registers) = before(line, " registers") {
            entry.registers = registers;
            entry.shared = before(line, " bytes smem").unwrap_or(0);
        }
    }
    all
}

fn resources() -> BTreeMap<(String, String), Resources> {
    assert!(
        !PRINTED.is_empty(),
        "the kernels were not compiled because there was no nvcc: run scripts/install-nvcc, which needs no GPU, and run the tests again"
    );
    read(PRINTED)
}

#[test]
fn no_kernel_spills_on_turing_beyond_what_is_written_down() {
    let all = resources();
    for (name, _) in SPILLS {
        assert!(all.contains_key(&("sm_75".to_string(), name.to_string())), "there is no kernel {name}");
    }
    println!("{:8} {:28} {:>9} {:>6} {:>6}", "card", "kernel", "registers", "spills", "shared");
    for ((architecture, kernel), Resources { registers, spills, shared, .. }) in &all {
        println!("{architecture:8} {kernel:28} {registers:>9} {spills:>6} {shared:>6}");
        let allowed = SPILLS.iter().find(|(name, _)| name == kernel).map_or(0, |(_, bytes)| *bytes);
        if architecture == "sm_75" {
            assert!(
                *spills <= allowed,
                "{kernel} spills {spills} bytes on sm_75; {allowed} are written down"
            );
        }
    }
}

#[test]
fn every_kernel_is_built_for_every_architecture() {
    let all = resources();
    let kernels: Vec<&String> =
        all.keys().filter(|(architecture, _)| architecture == "sm_75").map(|(_, kernel)| kernel).collect();
    for (module, names) in coin::ops::cuda::KERNELS {
        for name in *names {
            assert!(kernels.iter().any(|kernel| kernel == name), "kernels/{module}.cu has no {name}");
        }
    }
    for architecture in ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"] {
        for kernel in &kernels {
            let resources = all
                .get(&(architecture.to_string(), (*kernel).clone()))
                .unwrap_or_else(|| panic!("{kernel} is not built for {architecture}"));
            assert!(
                resources.registers > 0 && resources.registers * 32 <= REGISTERS,
                "{kernel}: {resources:?}"
            );
        }
    }
}

#[test]
fn what_ptxas_prints_is_understood() {
    let printed = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'one' for 'sm_75'
ptxas info    : Function properties for one
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 4096 bytes smem, 372 bytes cmem[0]
ptxas info    : Compiling entry function 'one' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, 360 bytes cmem[0]";
    let all = read(printed);
    let of = |architecture: &str| all[&(architecture.to_string(), "one".to_string())].clone();
    assert_eq!(of("sm_75"), Resources { registers: 40, spills: 20, shared: 4096, stack: 16 });
    assert_eq!(of("sm_90"), Resources { registers: 24, spills: 0, shared: 0, stack: 0 });
}
