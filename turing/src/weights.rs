//! How often warps ran each basic block of the machine code, from what they executed of the PTX it was made of.
//!
//! `ptxas` moves, fuses and drops instructions, but it keeps some one for one: tensor-core products, loads, stores, shuffles,
//! barriers, and float32 additions and multiplications. For each place in the sources and each such kind the executed number is
//! known from the PTX; the machine code's blocks, each as often as it runs, have to add up to it. That is solved as emission
//! tomography solves it (maximum likelihood by expectation maximisation): start anywhere, and scale each block by how far the
//! sums that it is in are off. Blocks without such instructions run as often as their places do, but no more often than the blocks
//! before them and those behind them together: a place may be in several, of which one runs.

use std::collections::{BTreeMap, HashMap};

use crate::counters::Launch;
use crate::sass::{Kernel, Place};

const ROUNDS: usize = 100;

/// The simulator's class of an opcode that `ptxas` keeps one for one.
fn kept(opcode: &str) -> Option<&'static str> {
    Some(match opcode {
        "HMMA" => "tensor",
        "LDS" | "LDSM" => "shared_load",
        "STS" => "shared_store",
        "LDG" => "global_load",
        "STG" => "global_store",
        "SHFL" => "shuffle",
        "BAR" => "barrier",
        "FFMA" | "FADD" | "FMUL" => "f32",
        _ => return None,
    })
}

/// Warps that ran each block of the kernel in a launch.
pub fn weigh(kernel: &Kernel, launch: &Launch) -> Vec<f64> {
    let mut came_by: HashMap<Place, f64> = HashMap::new();
    let mut executed: HashMap<(Place, &str), f64> = HashMap::new();
    for place in &launch.places {
        let key = (place.file.clone(), place.line, place.kernel_line);
        let most = came_by.entry(key.clone()).or_default();
        *most = most.max(place.most);
        *executed.entry((key, &place.class)).or_default() += place.warp_instructions;
    }
    // Sums to be met: what was executed, and how many instructions each block has in it.
    let mut numbers: HashMap<(&Place, &str), usize> = HashMap::new();
    let mut wanted: Vec<f64> = Vec::new();
    // In order: sums of floating-point numbers must not depend on chance.
    let mut shares: Vec<BTreeMap<usize, f64>> = Vec::new();
    let mut weights: Vec<f64> = Vec::new();
    let warps = launch.grid.iter().chain(&launch.block).map(|n| f64::from(*n)).product::<f64>() / 32.0;
    for block in &kernel.blocks {
        let mut share = BTreeMap::new();
        let mut visits: Vec<f64> = Vec::new();
        for instruction in &block.instructions {
            let Some(place) = &instruction.place else { continue };
            let visited = came_by.get(place).copied().unwrap_or(0.0);
            visits.push(visited);
            let Some(class) = kept(&instruction.opcode) else { continue };
            let sum = executed.get(&(place.clone(), class)).copied().unwrap_or(0.0);
            // An instruction of another class became this one (a division, say): that tells nothing. Memory, shuffles, barriers and
            // tensor cores are only asked for by their own.
            if class == "f32" && sum == 0.0 && visited > 0.0 {
                continue;
            }
            let number = *numbers.entry((place, class)).or_insert_with(|| {
                wanted.push(sum);
                wanted.len() - 1
            });
            if block.usual {
                *share.entry(number).or_default() += 1.0;
            }
        }
        visits.sort_by(f64::total_cmp);
        let usual = visits.get(visits.len() / 2).copied().unwrap_or(0.0);
        weights.push(if !block.usual {
            0.0
        } else if share.is_empty() {
            usual
        } else {
            usual.max(1.0)
        });
        shares.push(share);
    }
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0; wanted.len()];
        for (share, weight) in shares.iter().zip(&weights) {
            for (number, count) in share {
                sums[*number] += count * weight;
            }
        }
        for (share, weight) in shares.iter().zip(&mut weights) {
            let all: f64 = share.values().sum();
            if all > 0.0 {
                let off = |(number, count): (&usize, &f64)| match sums[*number] {
                    0.0 => 0.0,
                    sum => count * wanted[*number] / sum,
                };
                *weight *= share.iter().map(off).sum::<f64>() / all;
            }
        }
    }
    bound_by_flow(kernel, &shares, warps.ceil(), &mut weights);
    weights
}

/// Holds blocks of which nothing is counted to what comes in from other blocks and goes on to others.
fn bound_by_flow(kernel: &Kernel, shares: &[BTreeMap<usize, f64>], warps: f64, weights: &mut [f64]) {
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); weights.len()];
    for (here, block) in kernel.blocks.iter().enumerate() {
        block.next.iter().for_each(|&next| before[next].push(here));
    }
    // What is bounded may bound its neighbours: at the worst one after the other.
    for _ in 0..weights.len() {
        let mut changed = false;
        for here in 0..weights.len() {
            let block = &kernel.blocks[here];
            if !shares[here].is_empty() || block.repeats {
                continue;
            }
            let sum = |blocks: &[usize]| blocks.iter().map(|&other| weights[other]).sum::<f64>();
            let comes = sum(&before[here]) + if here == 0 { warps } else { 0.0 };
            let goes = if block.ends { f64::INFINITY } else { sum(&block.next) };
            let most = comes.min(goes);
            if weights[here] > most {
                changed |= weights[here] > 1.001 * most;
                weights[here] = most;
            }
        }
        if !changed {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters;
    use crate::sass::{Block, Control, Instruction, Pipe};

    fn block(instructions: &[(&str, u32)], next: &[usize]) -> Block {
        let control = Control { stall: 1, written: None, read: None, wait: 0 };
        let instruction = |&(opcode, line): &(&str, u32)| Instruction {
            opcode: opcode.to_string(),
            pipe: Pipe::Other,
            place: Some(("k.cu".to_string(), line, None)),
            control,
        };
        Block {
            instructions: instructions.iter().map(instruction).collect(),
            repeats: false,
            usual: true,
            next: next.to_vec(),
            ends: next.is_empty(),
        }
    }

    fn place(line: u32, class: &str, warp_instructions: f64, most: f64) -> counters::Place {
        counters::Place {
            file: "k.cu".to_string(),
            line,
            kernel_line: None,
            class: class.to_string(),
            warp_instructions,
            most,
        }
    }

    #[test]
    fn a_loop_is_told_from_what_is_before_it() {
        // A load of line 1 stands before the loop and in it; line 2 multiplies in the loop alone; line 3 never ran, and with it what
        // line 4 has behind it.
        let blocks = vec![
            block(&[("LDG", 1), ("IADD3", 4)], &[1]),
            block(&[("LDG", 1), ("FFMA", 2), ("FFMA", 2)], &[1, 2, 4]),
            block(&[("FFMA", 3)], &[3]),
            block(&[("IADD3", 4)], &[4]),
            block(&[("IADD3", 4)], &[]),
        ];
        let kernel = Kernel { name: "k".to_string(), registers: 32, local_accesses: 0, blocks };
        let launch = Launch {
            kernel: "k".to_string(),
            grid: [1; 3],
            block: [32, 1, 1],
            places: vec![
                place(1, "global_load", 110.0, 100.0),
                place(2, "f32", 200.0, 100.0),
                place(4, "integer", 10.0, 10.0),
            ],
            ..Launch::default()
        };
        let weights = weigh(&kernel, &launch);
        for (weight, expected) in weights.iter().zip([10.0, 100.0, 0.0, 0.0, 10.0]) {
            assert!((weight - expected).abs() < 0.1, "{weights:?}");
        }
    }
}
