//! What a launch did, as a profile of a card that is not there.

use crate::device::{Dimensions, Launch};
use crate::machine::counters::{Count, Counters};
use crate::program::{Class, Program};
use crate::ptx::Location;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// Counters of one launch. Instructions are counted by warp and by thread; a predicated instruction counts for the warp
/// whether or not any thread executes it, as it takes an issue slot.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    pub kernel: String,
    pub grid: Dimensions,
    pub block: Dimensions,
    /// Bytes of shared memory a block, static and dynamic.
    pub shared_memory: u32,
    pub warp_instructions: u64,
    pub thread_instructions: u64,
    /// Warp instructions by class.
    pub classes: BTreeMap<Class, u64>,
    /// Floating-point operations: an fma is two, a tensor-core instruction 2048 a warp.
    pub flops: u64,
    /// Bytes that threads asked of global memory, by loads and by stores and atomics.
    pub global_bytes_read: u64,
    pub global_bytes_written: u64,
    /// Sectors of 32 bytes that global accesses touched, and the fewest that would have held the bytes.
    pub global_sectors: u64,
    pub ideal_global_sectors: u64,
    pub shared_bytes: u64,
    /// Passes through the banks of shared memory, and the fewest possible: the difference are bank conflicts.
    pub shared_wavefronts: u64,
    pub ideal_shared_wavefronts: u64,
    /// Barriers of the block that warps came to.
    pub barriers: u64,
    /// Distinct sectors that were read before the launch had written them, by how many launches ago they were last touched
    /// (1: by the launch before; 0: by none).
    pub sectors_read: BTreeMap<u32, u64>,
    /// Distinct sectors that were written.
    pub sectors_written: u64,
    /// Warp instructions of the block that executed most.
    pub longest_block: u64,
    /// Source lines by what they cost, the costliest first.
    pub lines: Vec<LineCost>,
    /// Every place in the sources with what was executed of it, by class.
    pub places: Vec<Place>,
    /// Seconds that the simulation took: no time of a card.
    pub simulated_in: f64,
}

/// What a source line cost.
#[derive(Debug, Clone, Serialize, Default)]
pub struct LineCost {
    pub file: String,
    pub line: u32,
    pub warp_instructions: u64,
    pub global_sectors: u64,
    pub shared_wavefronts: u64,
    pub bank_conflicts: u64,
}

/// Instructions of one class that come from one place: a line, in the kernel itself or inlined there.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    pub file: String,
    pub line: u32,
    /// The kernel's own line that it was inlined at, if it was.
    pub kernel_line: Option<u32>,
    pub class: Class,
    pub warp_instructions: u64,
    /// Those of the instruction that was executed most: how often warps came by.
    pub most: u64,
}

/// Source lines that a profile keeps.
const MOST_LINES: usize = 20;

impl Profile {
    pub(crate) fn new(program: &Program, counters: &Counters, launch: &Launch, took: Duration) -> Profile {
        let mut profile = Profile {
            kernel: program.name.clone(),
            grid: launch.grid,
            block: launch.block,
            shared_memory: program.static_shared + launch.dynamic_shared,
            warp_instructions: 0,
            thread_instructions: 0,
            classes: BTreeMap::new(),
            flops: 0,
            global_bytes_read: 0,
            global_bytes_written: 0,
            global_sectors: 0,
            ideal_global_sectors: 0,
            shared_bytes: 0,
            shared_wavefronts: 0,
            ideal_shared_wavefronts: 0,
            barriers: 0,
            sectors_read: counters.footprint.read.clone(),
            sectors_written: counters.footprint.written,
            longest_block: counters.longest_block,
            lines: Vec::new(),
            places: Vec::new(),
            simulated_in: took.as_secs_f64(),
        };
        let mut lines: BTreeMap<(u32, u32), LineCost> = BTreeMap::new();
        let mut places: BTreeMap<(Location, Class), (u64, u64)> = BTreeMap::new();
        for (operation, count) in program.code.iter().zip(&counters.counts) {
            let Count { warps, threads, sectors, ideal_sectors, wavefronts, ideal_wavefronts, bytes } =
                *count;
            if warps == 0 {
                continue;
            }
            profile.warp_instructions += warps;
            profile.thread_instructions += threads;
            *profile.classes.entry(operation.class).or_default() += warps;
            profile.flops += threads * operation.flops as u64;
            profile.global_sectors += sectors;
            profile.ideal_global_sectors += ideal_sectors;
            profile.shared_wavefronts += wavefronts;
            profile.ideal_shared_wavefronts += ideal_wavefronts;
            match operation.class {
                Class::GlobalLoad => profile.global_bytes_read += bytes,
                Class::GlobalStore => profile.global_bytes_written += bytes,
                Class::Atomic if sectors > 0 => profile.global_bytes_written += bytes,
                Class::SharedLoad | Class::SharedStore | Class::Atomic => profile.shared_bytes += bytes,
                Class::Barrier => profile.barriers += warps,
                _ => {}
            }
            if let Some(location) = program.lines.get(operation.line as usize).and_then(|line| line.location)
            {
                let (sum, most) = places.entry((location, operation.class)).or_default();
                *sum += warps;
                *most = (*most).max(warps);
                let (file, line) = own_line(program, location);
                let cost = lines.entry((file, line)).or_insert_with(|| LineCost {
                    file: program.files.get(&file).cloned().unwrap_or_default(),
                    line,
                    ..Default::default()
                });
                cost.warp_instructions += warps;
                cost.global_sectors += sectors;
                cost.shared_wavefronts += wavefronts;
                cost.bank_conflicts += wavefronts - ideal_wavefronts.min(wavefronts);
            }
        }
        profile.lines = lines.into_values().collect();
        profile.lines.sort_by_key(|line| {
            std::cmp::Reverse(line.warp_instructions + line.shared_wavefronts + line.global_sectors)
        });
        profile.lines.truncate(MOST_LINES);
        profile.places = places
            .into_iter()
            .map(|((location, class), (warp_instructions, most))| Place {
                file: program.files.get(&location.file).cloned().unwrap_or_default(),
                line: location.line,
                kernel_line: location.inlined_at.map(|(_, line)| line),
                class,
                warp_instructions,
                most,
            })
            .collect();
        profile
    }

    /// Adds a further launch of the same kernel.
    fn add(&mut self, other: &Profile) {
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        self.flops += other.flops;
        self.global_bytes_read += other.global_bytes_read;
        self.global_bytes_written += other.global_bytes_written;
        self.global_sectors += other.global_sectors;
        self.ideal_global_sectors += other.ideal_global_sectors;
        self.shared_bytes += other.shared_bytes;
        self.shared_wavefronts += other.shared_wavefronts;
        self.ideal_shared_wavefronts += other.ideal_shared_wavefronts;
        self.barriers += other.barriers;
        for (age, sectors) in &other.sectors_read {
            *self.sectors_read.entry(*age).or_default() += sectors;
        }
        self.sectors_written += other.sectors_written;
        self.longest_block = self.longest_block.max(other.longest_block);
        self.simulated_in += other.simulated_in;
        for (class, count) in &other.classes {
            *self.classes.entry(*class).or_default() += count;
        }
        for line in &other.lines {
            match self.lines.iter_mut().find(|mine| mine.file == line.file && mine.line == line.line) {
                Some(mine) => {
                    mine.warp_instructions += line.warp_instructions;
                    mine.global_sectors += line.global_sectors;
                    mine.shared_wavefronts += line.shared_wavefronts;
                    mine.bank_conflicts += line.bank_conflicts;
                }
                None => self.lines.push(line.clone()),
            }
        }
    }
}

/// The line that an instruction counts for: where it was written, if that is a source beside the kernel's or below; if it is
/// a header of the compiler's, where that was called.
fn own_line(program: &Program, location: Location) -> (u32, u32) {
    let own = (location.file, location.line);
    let Some(caller) = location.inlined_at else { return own };
    let folder = |file: u32| program.files.get(&file).and_then(|path| Path::new(path).parent());
    match (folder(own.0), folder(caller.0)) {
        (Some(mine), Some(kernel)) if mine.starts_with(kernel) => own,
        _ => caller,
    }
}

/// A table of launches, those of a kernel together, with the source lines that cost most.
pub fn table(profiles: &[Profile]) -> String {
    let mut kernels: Vec<(u64, Profile)> = Vec::new();
    for profile in profiles {
        match kernels.iter_mut().find(|(_, known)| known.kernel == profile.kernel) {
            Some((launches, known)) => {
                *launches += 1;
                known.add(profile);
            }
            None => kernels.push((1, profile.clone())),
        }
    }
    let mut out = String::new();
    for (launches, p) in &mut kernels {
        let ratio = |actual: u64, ideal: u64| {
            if ideal == 0 { "-".to_string() } else { format!("{:.2}", actual as f64 / ideal as f64) }
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "kernel {} (launches: {launches}, last grid {:?}, block {:?}, shared {} bytes)",
            p.kernel, p.grid, p.block, p.shared_memory
        );
        let _ = writeln!(
            out,
            "  warp instructions    {:>16}   thread instructions {:>16}",
            p.warp_instructions, p.thread_instructions
        );
        let _ =
            writeln!(out, "  flops                {:>16}   barriers            {:>16}", p.flops, p.barriers);
        let _ = writeln!(
            out,
            "  global bytes read    {:>16}   written             {:>16}",
            p.global_bytes_read, p.global_bytes_written
        );
        let _ = writeln!(
            out,
            "  global sectors       {:>16}   over the ideal      {:>16}",
            p.global_sectors,
            ratio(p.global_sectors, p.ideal_global_sectors)
        );
        let _ = writeln!(
            out,
            "  shared wavefronts    {:>16}   over the ideal      {:>16}",
            p.shared_wavefronts,
            ratio(p.shared_wavefronts, p.ideal_shared_wavefronts)
        );
        let mut classes: Vec<_> = p.classes.iter().collect();
        classes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let _ = writeln!(
            out,
            "  distinct sectors     {:>16} read {:>13} written",
            p.sectors_read.values().sum::<u64>(),
            p.sectors_written
        );
        for (class, count) in classes {
            let name = format!("{class:?}");
            let share = *count as f64 * 100.0 / p.warp_instructions.max(1) as f64;
            let _ = writeln!(out, "    {name:<18} {count:>16}   {share:5.1} %");
        }
        p.lines.sort_by_key(|line| {
            std::cmp::Reverse(line.warp_instructions + line.shared_wavefronts + line.global_sectors)
        });
        for line in p.lines.iter().take(10) {
            let _ = writeln!(
                out,
                "  {}:{}  {} warp instructions, {} sectors, {} wavefronts, {} of them bank conflicts",
                line.file,
                line.line,
                line.warp_instructions,
                line.global_sectors,
                line.shared_wavefronts,
                line.bank_conflicts
            );
        }
    }
    out
}
