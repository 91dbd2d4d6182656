//! Predictions by kernel, as a table and as what a later one is held against.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::card;
use crate::predict::{Bound, Prediction};

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub microseconds: f64,
    pub launches: usize,
    /// The costliest first.
    pub kernels: Vec<Kernel>,
}

/// A kernel's launches of a step together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    pub kernel: String,
    pub launches: usize,
    pub microseconds: f64,
    /// What bounds most of that time.
    pub bound: String,
    pub registers: u32,
    /// Instructions that load or store local memory.
    pub local_accesses: u32,
    pub shared_memory: u32,
    pub threads: u32,
    /// Blocks, and warps, of a multiprocessor at once: the fewest of its launches.
    pub blocks_at_once: u32,
    pub warps_at_once: u32,
    /// Warp instructions of the machine code, and of the PTX it was made of.
    pub issued: f64,
    pub ptx: f64,
    /// Microseconds that each part of the card needs.
    pub needs: BTreeMap<String, f64>,
}

impl Step {
    pub fn of(predictions: &[Prediction]) -> Step {
        let mut by_name: BTreeMap<&str, Vec<&Prediction>> = BTreeMap::new();
        for prediction in predictions {
            by_name.entry(&prediction.kernel).or_default().push(prediction);
        }
        let mut kernels: Vec<Kernel> =
            by_name.into_values().filter_map(|launches| Kernel::of(&launches)).collect();
        kernels.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
        Step {
            microseconds: kernels.iter().map(|kernel| kernel.microseconds).sum(),
            launches: predictions.len(),
            kernels,
        }
    }

    /// The kernels, the costliest first.
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{:24} {:>8} {:>8} {:>5}  {:8} {:>4} {:>5} {:>6} {:>6} {:>5}  ",
            "kernel", "launches", "us", "%", "bound", "regs", "local", "shared", "blocks", "warps"
        );
        let columns = Bound::ALL.into_iter().filter(|bound| *bound != Bound::Launch);
        for bound in columns.clone() {
            let _ = write!(out, "{:>8}", bound.name());
        }
        out.push('\n');
        for kernel in &self.kernels {
            let _ = write!(
                out,
                "{:24} {:>8} {:>8.0} {:>5.1}  {:8} {:>4} {:>5} {:>6} {:>6} {:>5}  ",
                kernel.kernel,
                kernel.launches,
                kernel.microseconds,
                100.0 * kernel.microseconds / self.microseconds,
                kernel.bound,
                kernel.registers,
                kernel.local_accesses,
                kernel.shared_memory,
                kernel.blocks_at_once,
                kernel.warps_at_once,
            );
            for bound in columns.clone() {
                let _ = write!(out, "{:>8.0}", kernel.needs.get(bound.name()).copied().unwrap_or(0.0));
            }
            out.push('\n');
        }
        out
    }

    /// What is worse than in `before`, a line each: more local memory, fewer warps at once, or time beyond `tolerance`.
    pub fn worse_than(&self, before: &Step, tolerance: f64) -> Vec<String> {
        let mut worse = Vec::new();
        let mut slower = |what: &str, now: f64, then: f64| {
            if now > then * (1.0 + tolerance) + 1.0 {
                let percent = 100.0 * (now / then - 1.0);
                worse.push(format!("{what} takes {now:.0} us, {percent:.1}% more than {then:.0}"));
            }
        };
        slower("the step", self.microseconds, before.microseconds);
        for kernel in &self.kernels {
            if let Some(then) = before.kernels.iter().find(|then| then.kernel == kernel.kernel) {
                slower(&kernel.kernel, kernel.microseconds, then.microseconds);
            }
        }
        for kernel in &self.kernels {
            let name = &kernel.kernel;
            let Some(then) = before.kernels.iter().find(|then| &then.kernel == name) else {
                worse.push(format!("{name} is new, and nothing is written down of it"));
                continue;
            };
            if kernel.local_accesses > then.local_accesses {
                let (now, then) = (kernel.local_accesses, then.local_accesses);
                worse.push(format!("{name} has {now} loads and stores of local memory, and had {then}"));
            }
            if kernel.warps_at_once < then.warps_at_once {
                worse.push(format!(
                    "{name} has {} warps at once on a multiprocessor, and had {}: {} registers, {} bytes of shared memory; \
                     before {} and {}",
                    kernel.warps_at_once,
                    then.warps_at_once,
                    kernel.registers,
                    kernel.shared_memory,
                    then.registers,
                    then.shared_memory
                ));
            }
        }
        worse
    }
}

impl Kernel {
    fn of(launches: &[&Prediction]) -> Option<Kernel> {
        let least = launches.iter().min_by_key(|launch| launch.blocks_at_once * launch.threads)?;
        let mut needs: BTreeMap<String, f64> = BTreeMap::new();
        let mut bounds: BTreeMap<Bound, f64> = BTreeMap::new();
        for launch in launches {
            *bounds.entry(launch.bound).or_default() += launch.seconds;
            for (bound, seconds) in &launch.needs {
                *needs.entry(bound.name().to_string()).or_default() += seconds * 1e6;
            }
        }
        let (bound, _) = bounds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Kernel {
            kernel: least.kernel.clone(),
            launches: launches.len(),
            microseconds: launches.iter().map(|launch| launch.seconds * 1e6).sum(),
            bound: bound.name().to_string(),
            registers: least.registers,
            local_accesses: least.local_accesses,
            shared_memory: least.shared_memory,
            threads: least.threads,
            blocks_at_once: least.blocks_at_once,
            warps_at_once: least.blocks_at_once * least.threads.div_ceil(32),
            issued: launches.iter().map(|launch| launch.issued).sum(),
            ptx: launches.iter().map(|launch| launch.ptx).sum(),
            needs,
        })
    }
}

/// The costliest launches with their place in the step.
pub fn costliest(predictions: &[Prediction], count: usize) -> String {
    let mut order: Vec<usize> = (0..predictions.len()).collect();
    order.sort_by(|a, b| predictions[*b].seconds.total_cmp(&predictions[*a].seconds));
    let mut out = format!(
        "{:>6}  {:24} {:>16} {:>8} {:>6} {:>8}  {:8}\n",
        "launch", "kernel", "grid", "blocks", "waves", "us", "bound"
    );
    for place in order.into_iter().take(count) {
        let p = &predictions[place];
        let waves = p.blocks / card::MULTIPROCESSORS / f64::from(p.blocks_at_once);
        let grid = format!("{}x{}x{}", p.grid[0], p.grid[1], p.grid[2]);
        let _ = writeln!(
            out,
            "{:>6}  {:24} {grid:>16} {:>8.0} {waves:>6.1} {:>8.0}  {:8}",
            place + 1,
            p.kernel,
            p.blocks,
            p.seconds * 1e6,
            p.bound.name()
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        let kernel = |name: &str, microseconds| Kernel {
            kernel: name.to_string(),
            launches: 1,
            microseconds,
            bound: "dram".to_string(),
            registers: 64,
            local_accesses: 0,
            shared_memory: 1024,
            threads: 128,
            blocks_at_once: 4,
            warps_at_once: 16,
            issued: 1.0,
            ptx: 1.0,
            needs: BTreeMap::new(),
        };
        Step { microseconds: 300.0, launches: 2, kernels: vec![kernel("a", 200.0), kernel("b", 100.0)] }
    }

    #[test]
    fn what_got_worse_is_told() {
        let before = step();
        assert!(step().worse_than(&before, 0.03).is_empty());
        let mut now = step();
        now.kernels[0].microseconds = 204.0;
        now.kernels[1].microseconds = 90.0;
        assert!(now.worse_than(&before, 0.03).is_empty());
        now.kernels[0].microseconds = 220.0;
        now.microseconds = 310.5;
        now.kernels[1].local_accesses = 2;
        now.kernels[1].warps_at_once = 12;
        now.kernels[1].registers = 80;
        now.kernels.push(Kernel { kernel: "c".to_string(), ..now.kernels[0].clone() });
        let worse = now.worse_than(&before, 0.03).join("\n");
        for line in [
            "the step takes 310 us, 3.5% more than 300",
            "a takes 220 us, 10.0% more than 200",
            "b has 2 loads and stores of local memory, and had 0",
            "b has 12 warps at once on a multiprocessor, and had 16: 80 registers, 1024 bytes of shared memory; before 64 and 1024",
            "c is new",
        ] {
            assert!(worse.contains(line), "{line}\n{worse}");
        }
    }
}
