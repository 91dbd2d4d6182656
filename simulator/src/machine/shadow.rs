//! Who touched a piece of memory last: the race check.
//!
//! Every *granule* of shared and global memory (the smallest piece that the kernel accesses at once, so that two accesses
//! touch a granule whole or not at all) has two stamps: its last write and its last read. A stamp says when (a phase, which
//! a barrier of the whole block ends, and within it the warp's own count of synchronisations), which warp and lane, and the
//! source line. Two accesses of which one is a write race unless they are of the same thread, in different phases of the
//! block, or have a synchronisation of the warp, a partial barrier, or fences with strong accesses between them: the
//! happens-before order of the PTX memory model, chapter 8, for programs that synchronise so. (FastTrack, Flanagan and Freund
//! 2009, has the idea of one stamp where a vector of clocks would be exact.)
//!
//! A stamp of reads stands for all reads of its phase: flags tell that more lanes, more warps or more blocks have read. So does
//! one of atomic writes, which may follow each other without any order. What that loses are races among subsets of warps or
//! lanes that synchronise apart from the rest; it never reports a race that is none.
//!
//! Phases count on through the blocks and launches of a worker, so that nothing is ever reset: a stamp from before the
//! block's first phase is of another block, one from before the launch's first phase is nobody's.

use super::registers::LANES;

/// Bits of a stamp, from the lowest: line, flags, lane, warp, synchronisations, phase.
pub const LINE_BITS: u32 = 14;
const LANE_SHIFT: u32 = 18;
const WARP_SHIFT: u32 = 23;
const SYNC_SHIFT: u32 = 28;
const SYNC_BITS: u32 = 14;
const PHASE_SHIFT: u32 = 42;
/// More lanes of the warp have read, or written atomically.
pub const MANY: u64 = 1 << 14;
/// Another warp has in this phase.
const OTHER_WARP: u64 = 1 << 15;
/// Another block has in this launch.
const OTHER_BLOCK: u64 = 1 << 16;
/// Written by an atomic or a strong store.
const ATOMIC: u64 = 1 << 17;

/// Phases that a worker counts before its stamps are forgotten.
pub const MOST_PHASES: u64 = 1 << (64 - PHASE_SHIFT);
/// Synchronisations of a warp that a phase tells apart; those beyond count as ordered.
pub const MOST_SYNCS: u32 = (1 << SYNC_BITS) - 1;

/// When and who: all of a stamp but the lane.
#[derive(Clone, Copy)]
pub struct Stamp(pub u64);

impl Stamp {
    pub fn new(phase: u64, sync: u32, warp: u32, line: u16) -> Stamp {
        Stamp(
            phase << PHASE_SHIFT
                | (sync.min(MOST_SYNCS) as u64) << SYNC_SHIFT
                | (warp as u64) << WARP_SHIFT
                | line as u64,
        )
    }

    #[inline(always)]
    pub fn lane(self, lane: usize) -> u64 {
        self.0 | (lane as u64) << LANE_SHIFT
    }
}

/// A stamp taken apart, for a report.
#[derive(Clone, Copy, Debug)]
pub struct Past {
    pub phase: u64,
    pub warp: u32,
    pub lane: u32,
    pub line: u16,
    pub atomic: bool,
    /// It is the last of several, of more lanes, of other warps, of other blocks.
    pub lanes: bool,
    pub warps: bool,
    pub blocks: bool,
}

pub fn past(stamp: u64) -> Past {
    Past {
        phase: stamp >> PHASE_SHIFT,
        warp: (stamp >> WARP_SHIFT) as u32 & 31,
        lane: (stamp >> LANE_SHIFT) as u32 & 31,
        line: (stamp & ((1 << LINE_BITS) - 1)) as u16,
        atomic: stamp & ATOMIC != 0,
        lanes: stamp & MANY != 0,
        warps: stamp & OTHER_WARP != 0,
        blocks: stamp & OTHER_BLOCK != 0,
    }
}

fn sync(stamp: u64) -> u32 {
    (stamp >> SYNC_SHIFT) as u32 & ((1 << SYNC_BITS) - 1)
}

fn warp(stamp: u64) -> u32 {
    (stamp >> WARP_SHIFT) as u32 & 31
}

fn lane(stamp: u64) -> usize {
    (stamp >> LANE_SHIFT) as usize & 31
}

/// What a thread's accesses are ordered after.
pub struct Order<'a> {
    /// First stamp of the launch, of the block, and of the phase.
    pub launch: u64,
    pub block: u64,
    pub phase: u64,
    /// Synchronisations of the whole warp: what has a lower count is ordered.
    pub full: u32,
    /// Where parts of the warp have synchronised: `[lane][other]`, accesses of `other` with a lower count are ordered.
    pub lanes: Option<&'a [[u32; LANES]; LANES]>,
    /// Where parts of the block have: accesses of each warp with a lower count are ordered.
    pub warps: Option<&'a [u32; 32]>,
    /// Whether accesses of the block in which a phase lay are ordered by fences and atomics; `None` for a kernel without.
    pub acquired: Option<&'a dyn Fn(u64) -> bool>,
}

/// What is wrong with an access.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    Uninitialised,
    /// The other access, and whether it wrote.
    Race {
        other: u64,
        wrote: bool,
    },
}

/// The stamps of a piece of memory.
#[derive(Default)]
pub struct Shadow {
    writes: Vec<u64>,
    reads: Vec<u64>,
    /// log2 of a granule's bytes.
    pub granule: u32,
}

/// First stamp of a phase.
pub fn phase_start(phase: u64) -> u64 {
    phase << PHASE_SHIFT
}

impl Order<'_> {
    /// Whether an access of this phase comes before what `lane` of warp `me` does now.
    fn before(&self, other: u64, me: u32, my_lane: usize) -> bool {
        if warp(other) != me {
            return self.warps.is_some_and(|known| sync(other) < known[warp(other) as usize]);
        }
        let count = sync(other);
        if other & MANY != 0 {
            // Which lanes is not known but for the last: with the whole warp's synchronisations alone they all count.
            return count < self.full
                || count >= MOST_SYNCS
                || self.lanes.is_some_and(|known| count < known[my_lane][lane(other)]);
        }
        lane(other) == my_lane
            || count < self.full
            || count >= MOST_SYNCS
            || self.lanes.is_some_and(|known| count < known[my_lane][lane(other)])
    }

    #[cold]
    #[inline(never)]
    fn check_write<const GLOBAL: bool>(
        &self,
        written: u64,
        stamp: u64,
        atomic: bool,
        reads: bool,
    ) -> Result<(), Wrong> {
        let race = Err(Wrong::Race { other: written, wrote: true });
        if !atomic && self.hidden::<GLOBAL>(written, warp(stamp)) {
            return race;
        }
        if written >= self.phase {
            if self.before(written, warp(stamp), lane(stamp)) || atomic && written & ATOMIC != 0 {
                Ok(())
            } else {
                race
            }
        } else if written >= self.block {
            Ok(())
        } else if GLOBAL && written >= self.launch {
            let acquired = self.acquired.is_some_and(|acquired| acquired(written >> PHASE_SHIFT));
            if acquired || atomic && written & ATOMIC != 0 { Ok(()) } else { race }
        } else if !GLOBAL && reads {
            Err(Wrong::Uninitialised)
        } else {
            Ok(())
        }
    }

    /// Whether behind the last atomic write there is one that nothing orders with warp `me`.
    fn hidden<const GLOBAL: bool>(&self, written: u64, me: u32) -> bool {
        // With fences or partial barriers it is not known whether that one is ordered.
        let warps = written >= self.phase && written & OTHER_WARP != 0 && warp(written) == me;
        let blocks = GLOBAL && written >= self.block && written & OTHER_BLOCK != 0;
        warps && self.warps.is_none() || blocks && self.acquired.is_none()
    }

    /// Flags of an atomic write for those that it follows without being ordered after them.
    #[cold]
    #[inline(never)]
    fn others<const GLOBAL: bool>(&self, written: u64, stamp: u64) -> u64 {
        if written & ATOMIC == 0 || written < if GLOBAL { self.launch } else { self.block } {
            return 0;
        }
        let blocks = if written < self.block { OTHER_BLOCK } else { written & OTHER_BLOCK };
        if written < self.phase {
            return blocks;
        }
        let warps = if warp(written) != warp(stamp) { OTHER_WARP } else { written & OTHER_WARP };
        // What comes before this write is ordered with all that this one is.
        let lanes = if warps == 0 && !self.before(written, warp(stamp), lane(stamp)) { MANY } else { 0 };
        blocks | warps | lanes
    }

    #[cold]
    #[inline(never)]
    fn check_read<const GLOBAL: bool>(&self, read: u64, stamp: u64) -> Result<(), Wrong> {
        let race = Err(Wrong::Race { other: read, wrote: false });
        if read >= self.phase {
            let own = warp(read) == warp(stamp);
            // With partial barriers it is not known whether the other warp's read is ordered.
            if own && read & OTHER_WARP != 0 && self.warps.is_none()
                || !self.before(read, warp(stamp), lane(stamp))
            {
                return race;
            }
        }
        if GLOBAL && read >= self.launch {
            if read < self.block {
                return if self.acquired.is_some_and(|acquired| acquired(read >> PHASE_SHIFT)) {
                    Ok(())
                } else {
                    race
                };
            }
            if read & OTHER_BLOCK != 0 && self.acquired.is_none() {
                return race;
            }
        }
        Ok(())
    }
}

impl Shadow {
    /// Makes room for `bytes` of memory in granules of `1 << granule`. Stamps are forgotten where that changes anything; they
    /// are of earlier launches.
    pub fn size(&mut self, bytes: u64, granule: u32) {
        let granules = (bytes >> granule) as usize + 1;
        if self.granule != granule || self.writes.len() < granules {
            self.granule = granule;
            self.writes = vec![0; granules];
            self.reads = vec![0; granules];
        }
    }

    /// Forgets all stamps.
    pub fn clear(&mut self) {
        self.writes = vec![0; self.writes.len()];
        self.reads = vec![0; self.reads.len()];
    }

    pub fn granules(&self) -> usize {
        self.writes.len()
    }

    pub fn stamps(&self, granule: usize) -> (u64, u64) {
        (self.writes[granule], self.reads[granule])
    }

    /// Notes a read of a granule, and says what is wrong with it.
    #[inline(always)]
    pub fn read<const GLOBAL: bool>(
        &mut self,
        granule: usize,
        stamp: u64,
        order: &Order,
        strong: bool,
    ) -> Result<(), Wrong> {
        let written = self.writes[granule];
        let suspicious = if GLOBAL {
            written >= order.phase
                || (written >= order.launch && (written < order.block || written & OTHER_BLOCK != 0))
        } else {
            written >= order.phase || written < order.block
        };
        if suspicious {
            order.check_write::<GLOBAL>(written, stamp, strong, true)?;
        }
        if strong {
            return Ok(());
        }
        let read = self.reads[granule];
        self.reads[granule] = if read < order.phase {
            if GLOBAL && read >= order.launch && (read < order.block || read & OTHER_BLOCK != 0) {
                stamp | OTHER_BLOCK
            } else {
                stamp
            }
        } else if (read ^ stamp) >> WARP_SHIFT & 31 != 0 {
            stamp | OTHER_WARP | (read & OTHER_BLOCK)
        } else {
            let others = read & (OTHER_WARP | OTHER_BLOCK);
            // What comes before this read is ordered with all that this one is.
            let many = !order.before(read, warp(stamp), lane(stamp));
            stamp | others | if many { MANY } else { 0 }
        };
        Ok(())
    }

    /// Notes a write of a granule, and says what is wrong with it.
    #[inline(always)]
    pub fn write<const GLOBAL: bool>(
        &mut self,
        granule: usize,
        stamp: u64,
        order: &Order,
        strong: bool,
    ) -> Result<(), Wrong> {
        let (written, read) = (self.writes[granule], self.reads[granule]);
        let foreign =
            |stamp: u64| GLOBAL && stamp >= order.launch && (stamp < order.block || stamp & OTHER_BLOCK != 0);
        if written >= order.phase || foreign(written) {
            order.check_write::<GLOBAL>(written, stamp, strong, false)?;
        }
        if read >= order.phase || foreign(read) {
            order.check_read::<GLOBAL>(read, stamp)?;
        }
        self.writes[granule] =
            stamp | if strong { ATOMIC | order.others::<GLOBAL>(written, stamp) } else { 0 };
        Ok(())
    }

    /// Whether a granule was written in the block.
    pub fn written(&self, granule: usize, order: &Order) -> bool {
        self.writes[granule] >= order.block
    }
}
