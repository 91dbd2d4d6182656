//! How long a launch takes, as the most of what each part of the card needs for it.

use std::collections::BTreeMap;

use crate::card;
use crate::counters::Launch;
use crate::sass::{Block, Instruction, Kernel, Pipe, mix};
use crate::weights::weigh;

/// What may bound a launch, as a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    Tensor,
    Fma,
    Alu,
    Special,
    Double,
    Issue,
    Shared,
    L2,
    Dram,
    /// What one warp after the other waits for: results, barriers, its own pipe.
    Latency,
    /// The gap between launches.
    Launch,
}

impl Bound {
    pub const ALL: [Bound; 11] = [
        Bound::Tensor,
        Bound::Fma,
        Bound::Alu,
        Bound::Special,
        Bound::Double,
        Bound::Issue,
        Bound::Shared,
        Bound::L2,
        Bound::Dram,
        Bound::Latency,
        Bound::Launch,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Bound::Tensor => "tensor",
            Bound::Fma => "fma",
            Bound::Alu => "alu",
            Bound::Special => "special",
            Bound::Double => "double",
            Bound::Issue => "issue",
            Bound::Shared => "shared",
            Bound::L2 => "l2",
            Bound::Dram => "dram",
            Bound::Latency => "latency",
            Bound::Launch => "launch",
        }
    }
}

/// What is said of a launch.
#[derive(Debug, Clone)]
pub struct Prediction {
    pub kernel: String,
    pub grid: [u32; 3],
    pub threads: u32,
    pub registers: u32,
    pub local_accesses: u32,
    pub shared_memory: u32,
    pub blocks_at_once: u32,
    /// Blocks that have work, of the longest one's size.
    pub blocks: f64,
    /// Warp instructions of the machine code, and of the PTX.
    pub issued: f64,
    pub ptx: f64,
    /// Seconds that each part needs.
    pub needs: BTreeMap<Bound, f64>,
    /// Seconds in all, and what they are bound by.
    pub seconds: f64,
    pub bound: Bound,
}

/// Predicts the launches of a step, in order.
pub fn predict(kernels: &[Kernel], launches: &[Launch]) -> Result<Vec<Prediction>, String> {
    let footprints: Vec<f64> = launches.iter().map(Launch::footprint).collect();
    launches
        .iter()
        .enumerate()
        .map(|(place, launch)| {
            let kernel = kernels
                .iter()
                .find(|kernel| kernel.name == launch.kernel)
                .ok_or_else(|| format!("there is no machine code of {}", launch.kernel))?;
            one(kernel, launch, dram_bytes(&footprints, place, launch))
        })
        .collect()
}

/// Bytes that go to DRAM or come from it: the launch's footprint without what L2 still has. It forgets the oldest first, and
/// launches run over their data in the same order: a sector is still there if what was touched since it was last touched, half
/// of both launches and all between, fits.
fn dram_bytes(footprints: &[f64], place: usize, launch: &Launch) -> f64 {
    let mut bytes = launch.sectors_written * 32.0;
    for (age, sectors) in &launch.sectors_read {
        let age = *age as usize;
        let since = (age > 0 && age <= place).then(|| {
            footprints[place - age + 1..place].iter().sum::<f64>()
                + (footprints[place] + footprints[place - age]) / 2.0
        });
        if since.is_none_or(|since| since > card::L2_BYTES) {
            bytes += sectors * 32.0;
        }
    }
    bytes
}

fn one(kernel: &Kernel, launch: &Launch, dram: f64) -> Result<Prediction, String> {
    let threads: u32 = launch.block.iter().product();
    let warps = f64::from(threads.div_ceil(32));
    let blocks_at_once = card::blocks_at_once(kernel.registers, threads, launch.shared_memory);
    if blocks_at_once == 0 {
        return Err(format!(
            "{}: a block of {threads} threads with {} registers and {} bytes of shared memory does not fit",
            launch.kernel, kernel.registers, launch.shared_memory
        ));
    }
    let weights = weigh(kernel, launch);
    let mix = mix(kernel, &weights);
    let of = |pipe: Pipe| mix.get(&pipe).copied().unwrap_or(0.0);
    let issued: f64 = mix.values().sum();

    // Blocks are dealt to multiprocessors, and warps to sub-cores: the one that gets most sets the time.
    let grid: f64 = launch.grid.iter().map(|n| f64::from(*n)).product();
    let blocks = (launch.warp_instructions / launch.longest_block.max(1.0)).clamp(1.0, grid.max(1.0));
    let busiest = (blocks / card::MULTIPROCESSORS).ceil();
    let of_a_multiprocessor = busiest / blocks;
    let at_once = f64::from(blocks_at_once).min(busiest);
    let resident = at_once * warps;
    let of_a_sub_core = of_a_multiprocessor * (resident / card::SUB_CORES).ceil() / resident;
    let waves = (busiest / f64::from(blocks_at_once)).ceil();

    let traffic = launch.global_sectors * 32.0;
    let far = if traffic > 0.0 { (dram / traffic).min(1.0) } else { 0.0 };
    let global_latency = card::L2_LATENCY + far * card::DRAM_LATENCY;
    let alone: f64 = kernel
        .blocks
        .iter()
        .zip(&weights)
        .map(|(block, weight)| weight * cycles(block, global_latency))
        .sum();

    let cycle = 1.0 / card::CLOCK;
    let needs = BTreeMap::from([
        (Bound::Tensor, of(Pipe::Tensor) * card::TENSOR_CYCLES * of_a_sub_core * cycle),
        (Bound::Fma, of(Pipe::Fma) * card::FMA_CYCLES * of_a_sub_core * cycle),
        (Bound::Alu, of(Pipe::Alu) * card::ALU_CYCLES * of_a_sub_core * cycle),
        (Bound::Special, of(Pipe::Special) * card::SPECIAL_CYCLES * of_a_sub_core * cycle),
        (Bound::Double, of(Pipe::Double) * card::DOUBLE_CYCLES * of_a_multiprocessor * cycle),
        (Bound::Issue, issued * of_a_sub_core * cycle),
        (
            Bound::Shared,
            (launch.shared_wavefronts * card::WAVEFRONT_CYCLES
                + launch.global_sectors * card::SECTOR_CYCLES
                + of(Pipe::Shuffle) * card::SHUFFLE_CYCLES)
                * of_a_multiprocessor
                * cycle,
        ),
        (Bound::L2, traffic / card::L2_RATE),
        (Bound::Dram, dram / card::DRAM_RATE),
        (Bound::Latency, alone / (blocks * warps) * waves * cycle),
        (Bound::Launch, card::LAUNCH),
    ]);
    let (bound, most) = needs
        .iter()
        .map(|(bound, seconds)| (*bound, *seconds))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or((Bound::Launch, card::LAUNCH));
    let seconds = if bound == Bound::Launch { most } else { most + card::LAUNCH };
    Ok(Prediction {
        kernel: launch.kernel.clone(),
        grid: launch.grid,
        threads,
        registers: kernel.registers,
        local_accesses: kernel.local_accesses,
        shared_memory: launch.shared_memory,
        blocks_at_once,
        blocks,
        issued,
        ptx: launch.warp_instructions,
        needs,
        seconds,
        bound,
    })
}

/// Cycles that a warp alone on a sub-core takes for a block of instructions: it issues in order, not before the stall count of the
/// one before has passed, the scoreboards it waits for are released, and its pipe is free. A loop is seen when it has filled.
fn cycles(block: &Block, global_latency: f64) -> f64 {
    let mut released = [0.0f64; 6];
    let mut free: BTreeMap<Pipe, f64> = BTreeMap::new();
    let mut now = 0.0f64;
    let mut run = |instructions: &[Instruction]| {
        let start = now;
        for instruction in instructions {
            let control = instruction.control;
            for (scoreboard, at) in released.iter().enumerate() {
                if control.wait >> scoreboard & 1 != 0 {
                    now = now.max(*at);
                }
            }
            let (occupied, latency) = times(instruction.pipe, global_latency);
            let free = free.entry(instruction.pipe).or_default();
            now = now.max(*free);
            *free = now + occupied;
            if let Some(scoreboard) = control.written {
                released[scoreboard] = released[scoreboard].max(now + latency);
            }
            if let Some(scoreboard) = control.read {
                released[scoreboard] = released[scoreboard].max(now + card::READ_LATENCY);
            }
            if instruction.pipe == Pipe::Barrier {
                now += card::BARRIER_LATENCY;
            }
            now += f64::from(control.stall.max(1));
        }
        now - start
    };
    let first = run(&block.instructions);
    if block.repeats { run(&block.instructions) } else { first }
}

/// Cycles that an instruction occupies its pipe, and until its result is announced.
fn times(pipe: Pipe, global_latency: f64) -> (f64, f64) {
    match pipe {
        Pipe::Tensor => (card::TENSOR_CYCLES, card::TENSOR_LATENCY),
        Pipe::Fma => (card::FMA_CYCLES, 0.0),
        Pipe::Alu => (card::ALU_CYCLES, 0.0),
        Pipe::Half => (card::HALF_CYCLES, 0.0),
        Pipe::Special => (card::SPECIAL_CYCLES, card::SPECIAL_LATENCY),
        Pipe::Double => (card::DOUBLE_CYCLES, card::DOUBLE_LATENCY),
        Pipe::Global => (card::WAVEFRONT_CYCLES, global_latency),
        Pipe::Shared | Pipe::Shuffle => (card::WAVEFRONT_CYCLES, card::SHARED_LATENCY),
        Pipe::Constant => (1.0, card::CONSTANT_LATENCY),
        Pipe::Barrier | Pipe::Other => (1.0, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sass::Control;

    fn instruction(pipe: Pipe, stall: u32, written: Option<usize>, wait: u32) -> Instruction {
        let control = Control { stall, written, read: None, wait };
        Instruction { opcode: String::new(), pipe, place: None, control }
    }

    #[test]
    fn a_warp_waits_for_what_it_needs() {
        let load = instruction(Pipe::Shared, 1, Some(0), 0);
        let uses = instruction(Pipe::Fma, 4, None, 1);
        let block = |repeats, instructions| Block { instructions, repeats, usual: true, ..Block::default() };
        // Issued at 0; used at 24; on at 28.
        assert_eq!(
            cycles(&block(false, vec![load.clone(), uses.clone()]), 300.0),
            card::SHARED_LATENCY + 4.0
        );
        // A loop that uses what the round before has loaded hides it: a round takes what its pipe and stalls do.
        let late = cycles(&block(true, vec![uses, load]), 300.0);
        assert_eq!(late, card::SHARED_LATENCY + 4.0);
        let tensor = instruction(Pipe::Tensor, 8, None, 0);
        assert_eq!(cycles(&block(true, vec![tensor; 4]), 300.0), 4.0 * card::TENSOR_CYCLES);
    }

    #[test]
    fn what_l2_has_is_not_read_again() {
        let launch = |read: &[(u32, f64)], written| Launch {
            grid: [1; 3],
            block: [32, 1, 1],
            sectors_read: read.iter().copied().collect(),
            sectors_written: written,
            ..Launch::default()
        };
        let mega = 1e6 / 32.0;
        let steps = [
            launch(&[(0, mega)], mega),
            launch(&[(0, 10.0 * mega)], 0.0),
            launch(&[(1, mega), (2, mega)], 0.0),
        ];
        let footprints: Vec<f64> = steps.iter().map(Launch::footprint).collect();
        assert_eq!(dram_bytes(&footprints, 0, &steps[0]), 2e6);
        // Between two touches lie half of 2 MB and half of 10, which L2 does not hold; further back all the less.
        assert_eq!(dram_bytes(&footprints, 2, &steps[2]), 2e6);
        let near = [launch(&[(0, mega)], mega), launch(&[(1, mega)], 0.0)];
        let footprints: Vec<f64> = near.iter().map(Launch::footprint).collect();
        assert_eq!(dram_bytes(&footprints, 1, &near[1]), 0.0);
    }
}
