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
    wavefronts_by(lanes_of_pass(size), addresses, active, size)
}

/// The same of loads, which go by twice as many lanes where all lanes n and n ^ 1 want the same address, or all n and n ^ 2: what comes
/// back for the two is packed (of compute capability 7.0 to 7.5,
/// <https://forums.developer.nvidia.com/t/unexpected-shared-memory-bank-conflict/77228/2>). A lane whose pair does not load is taken
/// to spoil it; the source does not say.
pub fn load_wavefronts(addresses: &[u64; 32], active: u32, size: u64) -> (u64, u64) {
    let part = lanes_of_pass(size);
    let packed = || {
        [1, 2].into_iter().any(|apart| {
            let alike =
                |lane: usize| active >> (lane ^ apart) & 1 != 0 && addresses[lane] == addresses[lane ^ apart];
            (0..32).all(|lane| active >> lane & 1 == 0 || alike(lane))
        })
    };
    wavefronts_by(if part < 32 && packed() { 2 * part } else { part }, addresses, active, size)
}

fn lanes_of_pass(size: u64) -> usize {
    match size.div_ceil(4) {
        0 | 1 => 32,
        2 => 16,
        _ => 8,
    }
}

fn wavefronts_by(part: usize, addresses: &[u64; 32], active: u32, size: u64) -> (u64, u64) {
    let words = size.div_ceil(4);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(address: impl Fn(u64) -> u64, size: u64) -> (u64, u64) {
        load_wavefronts(&std::array::from_fn(|lane| address(lane as u64)), !0, size)
    }

    /// The question and the answer at the address that [`load_wavefronts`] names: four addresses in turn take four passes, by pairs two.
    #[test]
    fn loads_of_pairs_are_packed() {
        assert_eq!(passes(|lane| lane % 4 * 16, 16), (4, 4));
        assert_eq!(passes(|lane| lane / 2 % 4 * 16, 16), (2, 2));
        assert_eq!(passes(|lane| (lane % 2 + lane / 4 % 2 * 2) * 16, 16), (2, 2));
        assert_eq!(passes(|_| 64, 16), (2, 2));
        assert_eq!(passes(|_| 64, 8), (1, 1));
        assert_eq!(passes(|lane| lane / 2 * 8, 8), (1, 1));
        assert_eq!(passes(|lane| lane * 8, 8), (2, 2));
        assert_eq!(passes(|_| 64, 4), (1, 1));
    }

    #[test]
    fn conflicts_within_a_packed_pass_count() {
        // Eight addresses of sixteen lanes, all in the same four banks.
        assert_eq!(passes(|lane| lane / 2 % 8 * 128, 16), (16, 2));
    }

    #[test]
    fn stores_and_lanes_without_their_pair_are_not_packed() {
        let addresses = std::array::from_fn(|lane| lane as u64 / 2 * 16);
        assert_eq!(load_wavefronts(&addresses, !0, 16), (2, 2));
        assert_eq!(wavefronts(&addresses, !0, 16), (4, 4));
        assert_eq!(load_wavefronts(&addresses, !1, 16), (4, 4));
    }
}
