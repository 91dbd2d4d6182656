//! What a launch did, counted by instruction.

use crate::program::Program;
use std::collections::BTreeMap;

/// Counts of one instruction.
#[derive(Clone, Copy, Default)]
pub struct Count {
    /// Times a warp executed it.
    pub warps: u64,
    /// Threads that did.
    pub threads: u64,
    /// Pieces of 32 bytes of global memory that were touched, and the fewest that hold as many bytes.
    pub sectors: u64,
    pub ideal_sectors: u64,
    /// Passes through the banks of shared memory, and the fewest for as many bytes.
    pub wavefronts: u64,
    pub ideal_wavefronts: u64,
    /// Bytes that threads asked for.
    pub bytes: u64,
}

/// Counts of all instructions of a program.
pub struct Counters {
    pub counts: Vec<Count>,
    pub footprint: Footprint,
    /// Warp instructions of the block that executed most.
    pub longest_block: u64,
}

/// Distinct sectors of global memory that a launch touched.
#[derive(Default)]
pub struct Footprint {
    /// Those that it read before it had written them, by how many launches ago they were last touched; 0: by none.
    pub read: BTreeMap<u32, u64>,
    pub written: u64,
}

impl Counters {
    pub fn new(program: &Program) -> Counters {
        Counters {
            counts: vec![Count::default(); program.code.len()],
            footprint: Footprint::default(),
            longest_block: 0,
        }
    }

    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            mine.warps += theirs.warps;
            mine.threads += theirs.threads;
            mine.sectors += theirs.sectors;
            mine.ideal_sectors += theirs.ideal_sectors;
            mine.wavefronts += theirs.wavefronts;
            mine.ideal_wavefronts += theirs.ideal_wavefronts;
            mine.bytes += theirs.bytes;
        }
        for (age, sectors) in &other.footprint.read {
            *self.footprint.read.entry(*age).or_default() += sectors;
        }
        self.footprint.written += other.footprint.written;
        self.longest_block = self.longest_block.max(other.longest_block);
    }
}

/// Sectors of 32 bytes that the active lanes' accesses of `size` bytes touch, and the fewest that would hold the bytes.
pub fn sectors(addresses: &[u64; 32], active: u32, size: u64) -> (u64, u64) {
    let (mut low, mut high) = (u64::MAX, 0);
    let (mut count, mut last) = (0, u64::MAX);
    let mut rising = true;
    for (lane, address) in addresses.iter().enumerate() {
        if active >> lane & 1 == 0 {
            continue;
        }
        low = low.min(*address);
        high = high.max(address + size - 1);
        let (first, end) = (address >> 5, (address + size - 1) >> 5);
        rising &= last == u64::MAX || first >= last;
        count += end - first + 1 - (first == last) as u64;
        last = end;
    }
    if low == u64::MAX {
        return (0, 0);
    }
    let ideal = (active.count_ones() as u64 * size).min(high - low + 1).div_ceil(32);
    if !rising {
        // Out of order: sort and count again.
        let mut touched: Vec<u64> = (0..32)
            .filter(|lane| active >> lane & 1 != 0)
            .flat_map(|lane| {
                let a = addresses[lane];
                a >> 5..=(a + size - 1) >> 5
            })
            .collect();
        touched.sort_unstable();
        touched.dedup();
        count = touched.len() as u64;
    }
    (count, ideal)
}

/// Passes through the 32 banks of shared memory for the active lanes' accesses of `size` bytes, and the fewest possible.
///
/// Words of 4 bytes lie in banks in turn; a pass serves one word of each bank, to any number of lanes. Accesses of 8 bytes go
/// by half warps and of 16 by quarters, each on its own.
pub fn wavefronts(addresses: &[u64; 32], active: u32, size: u64) -> (u64, u64) {
    let words = size.div_ceil(4);
    let part = match words {
        0 | 1 => 32,
        2 => 16,
        _ => 8,
    };
    let (mut passes, mut ideal) = (0, 0);
    for start in (0..32).step_by(part) {
        let mask = active >> start & if part == 32 { !0 } else { (1 << part) - 1 };
        if mask == 0 {
            continue;
        }
        ideal += 1;
        // The first lane's addresses tell the two usual cases: all the same word, or one after the other.
        let lanes = &addresses[start..start + part];
        let first = mask.trailing_zeros() as usize;
        let base = lanes[first].wrapping_sub(first as u64 * size);
        let (mut straight, mut same) = (true, true);
        for (lane, address) in lanes.iter().enumerate() {
            if mask >> lane & 1 != 0 {
                straight &= *address == base.wrapping_add(lane as u64 * size);
                same &= *address == lanes[first];
            }
        }
        if same || straight {
            passes += 1;
            continue;
        }
        let mut counts = [0u8; 32];
        let mut seen = [[0u32; 32]; 32];
        for (lane, address) in lanes.iter().enumerate() {
            if mask >> lane & 1 == 0 {
                continue;
            }
            for word in 0..words {
                let word = (address / 4 + word) as u32;
                let bank = (word % 32) as usize;
                let count = counts[bank] as usize;
                if !seen[bank][..count].contains(&word) && count < 32 {
                    seen[bank][count] = word;
                    counts[bank] += 1;
                }
            }
        }
        passes += counts.iter().copied().max().unwrap_or(0) as u64;
    }
    (passes, ideal)
}
