//! A thread of the host that runs blocks, one at a time: the block's shared memory, its barriers, and the turns of its warps.

use super::counters::Counters;
use super::fault::Scene;
use super::launch::Grid;
use super::registers::LANES;
use super::shadow::{MOST_PHASES, Order, Shadow, Stamp, Wrong, past, phase_start};
use super::warp::{Wait, Warp};
use crate::program::{Action, Barrier, Operation, Program, Reduction, Special};
use crate::{Fault, FaultKind};
use std::collections::HashMap;

/// Barriers a block has.
const BARRIERS: usize = 16;
/// Phases a single block may use of those that stamps can hold.
const BLOCK_PHASES: u64 = MOST_PHASES / 4;

pub type Step<T = ()> = Result<T, Box<Fault>>;

/// How a warp's turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// All its threads have ended.
    Ended,
    /// It waits at a barrier of the block, at this instruction.
    Barrier(u32),
    /// Its turn is over, it can go on.
    Expired,
}

/// A barrier of the block that some warps have come to.
#[derive(Clone, Default)]
struct Gathering {
    /// Warps that have arrived, and those of them that wait.
    arrived: u32,
    waiting: u32,
    /// Threads it waits for; 0 while nobody is there.
    expected: u32,
    /// All of the block's threads, because no count was given or the count is theirs.
    whole: bool,
    count: u32,
    all: bool,
    any: bool,
    /// What the arrived did or knew when they arrived: accesses of each warp with a lower count.
    joined: [u32; 32],
}

/// What threads of the block that met at an address by strong accesses did or knew before, in a kernel with fences.
struct Met {
    /// Accesses of each warp with a lower count.
    warps: [u32; 32],
    /// And by warp, those of each of its lanes.
    lanes: HashMap<u32, [u32; LANES]>,
}

/// Raises what is known to what is known elsewhere too.
fn join(known: &mut [u32; 32], others: &[u32; 32]) {
    for (mine, theirs) in known.iter_mut().zip(others) {
        *mine = (*mine).max(*theirs);
    }
}

/// A piece of shared memory in the simulated address space.
pub struct Region {
    pub address: u64,
    pub bytes: u64,
    /// Offset in the worker's buffer.
    pub offset: usize,
}

pub struct Worker<'l> {
    pub grid: &'l Grid<'l>,
    pub program: &'l Program,
    pub counters: Counters,
    /// Shared memory, and the race check's stamps of it.
    pub shared: Vec<u8>,
    pub shared_shadow: Shadow,
    pub regions: Vec<Region>,
    /// Stamps of global memory, by allocation; `touched` has a byte for each page of 1024 granules.
    pub global: Vec<Option<Box<GlobalShadow>>>,
    pub launch_phase: u64,
    pub block_phase: u64,
    pub phase: u64,
    /// First phase of each block that this worker ran in the launch, and the block's number.
    pub blocks: Vec<(u64, u64)>,
    pub block: [u32; 3],
    pub block_number: u64,
    barriers: [Gathering; BARRIERS],
    met: HashMap<u64, Met>,
    random: u64,
}

/// Stamps of one allocation.
#[derive(Default)]
pub struct GlobalShadow {
    pub shadow: Shadow,
    pub touched: Vec<u8>,
}

/// What a worker keeps from launch to launch.
#[derive(Default)]
pub struct Remains {
    pub shared: Vec<u8>,
    pub shared_shadow: Shadow,
    pub global: Vec<Option<Box<GlobalShadow>>>,
    pub phase: u64,
}

/// SplitMix64 (Steele, Lea and Flood 2014): orders of warps and blocks.
pub fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl<'l> Worker<'l> {
    pub fn new(grid: &'l Grid<'l>, mut remains: Remains) -> Worker<'l> {
        let program = grid.program;
        if remains.phase > MOST_PHASES / 2 {
            remains.shared_shadow.clear();
            for shadow in remains.global.iter_mut().flatten() {
                shadow.shadow.clear();
            }
            remains.phase = 0;
        }
        let mut regions = Vec::new();
        let mut offset = 0;
        for array in &program.shared {
            regions.push(Region { address: array.address, bytes: array.bytes as u64, offset });
            offset += (array.bytes as usize).next_multiple_of(16);
        }
        if let Some((_, address)) = &program.dynamic_shared {
            regions.push(Region { address: *address, bytes: grid.dynamic_shared as u64, offset });
            offset += grid.dynamic_shared as usize;
        }
        remains.shared.resize(offset.next_multiple_of(16) + 16, 0);
        remains.shared_shadow.size(remains.shared.len() as u64, program.shared_granule);
        remains.global.resize_with(grid.memory.count(), || None);
        for shadow in remains.global.iter_mut().flatten() {
            shadow.touched.fill(0);
        }
        let phase = remains.phase + 1;
        Worker {
            grid,
            program,
            counters: Counters::new(program),
            shared: remains.shared,
            shared_shadow: remains.shared_shadow,
            regions,
            global: remains.global,
            launch_phase: phase,
            block_phase: phase,
            phase,
            blocks: Vec::new(),
            block: [0; 3],
            block_number: 0,
            barriers: Default::default(),
            met: HashMap::new(),
            random: grid.seed,
        }
    }

    pub fn remains(self) -> (Remains, Counters, Vec<(u64, u64)>, u64) {
        let launch = self.launch_phase;
        (
            Remains {
                shared: self.shared,
                shared_shadow: self.shared_shadow,
                global: self.global,
                phase: self.phase,
            },
            self.counters,
            self.blocks,
            launch,
        )
    }

    /// Runs a block to its end.
    pub fn run_block(&mut self, number: u64, warps: &mut [Warp]) -> Step {
        let [gx, gy, _] = self.grid.grid.map(u64::from);
        self.block = [(number % gx) as u32, (number / gx % gy) as u32, (number / gx / gy) as u32];
        self.block_number = number;
        if self.phase + BLOCK_PHASES > MOST_PHASES {
            // Stamps run out: what earlier blocks of this launch did is forgotten.
            self.shared_shadow.clear();
            for shadow in self.global.iter_mut().flatten() {
                shadow.shadow.clear();
            }
            self.phase = 0;
            self.launch_phase = 1;
            self.blocks.clear();
        }
        self.phase += 1;
        self.block_phase = self.phase;
        self.blocks.push((self.phase, number));
        self.barriers = Default::default();
        self.met.clear();
        self.random = self.grid.seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let threads = self.grid.threads();
        for warp in warps.iter_mut() {
            let first = warp.index * LANES as u32;
            let lanes = (threads - first).min(LANES as u32);
            warp.start(if lanes == 32 { !0 } else { (1 << lanes) - 1 });
            self.specials(warp);
        }
        let mut ready: Vec<usize> = (0..warps.len()).collect();
        while !ready.is_empty() {
            if self.grid.seed != 0 {
                for i in (1..ready.len()).rev() {
                    let other = (mix(&mut self.random) % (i as u64 + 1)) as usize;
                    ready.swap(i, other);
                }
            }
            let mut next = Vec::with_capacity(ready.len());
            for index in ready {
                let turn = match self.grid.seed {
                    0 => 1 << 16,
                    _ => 16 << (mix(&mut self.random) % 8),
                };
                match self.run(&mut warps[index], turn)? {
                    Turn::Ended => {}
                    Turn::Expired => next.push(index),
                    Turn::Barrier(place) => self.arrive(warps, index, place, &mut next)?,
                }
            }
            ready = next;
        }
        let executed = warps.iter().map(|warp| warp.executed).sum();
        self.counters.longest_block = self.counters.longest_block.max(executed);
        match warps.iter().find(|warp| warp.alive() != 0) {
            None => Ok(()),
            Some(stuck) => Err(self.stuck(warps, stuck)),
        }
    }

    fn specials(&self, warp: &mut Warp) {
        let threads = self.grid.block;
        for (plane, special) in &self.program.specials {
            let value = |lane: usize| -> u32 {
                let number = warp.index * LANES as u32 + lane as u32;
                let bit = 1u32 << lane;
                match *special {
                    Special::Thread(axis) => super::fault::thread(threads, number)[axis],
                    Special::Threads(axis) => threads[axis],
                    Special::Block(axis) => self.block[axis],
                    Special::Blocks(axis) => self.grid.grid[axis],
                    Special::Lane => lane as u32,
                    Special::Warp => warp.index,
                    Special::Warps => self.grid.threads().div_ceil(LANES as u32),
                    Special::LaneMaskEqual => bit,
                    Special::LaneMaskLess => bit - 1,
                    Special::LaneMaskLessEqual => bit | (bit - 1),
                    Special::LaneMaskGreater => !(bit | (bit - 1)),
                    Special::LaneMaskGreaterEqual => !(bit - 1),
                    Special::Multiprocessor => (self.block_number % 68) as u32,
                    Special::Multiprocessors => 68,
                    Special::DynamicShared => self.grid.dynamic_shared,
                    Special::TotalShared => self.grid.dynamic_shared + self.program.static_shared,
                }
            };
            let values: [u32; LANES] = std::array::from_fn(value);
            // SAFETY: the decoder made the plane, of 32 bits.
            unsafe { *warp.file.lanes_mut::<u32>(*plane) = values }
        }
    }

    pub fn scene<'a>(&'a self, warp: &Warp, place: u32, lanes: u32) -> Scene<'a> {
        Scene {
            program: self.program,
            place,
            block: self.block,
            threads: self.grid.block,
            warp: warp.index,
            lanes,
        }
    }

    /// The stamp of what a warp does at an instruction.
    #[inline(always)]
    pub fn stamp(&self, warp: &Warp, o: &Operation) -> Stamp {
        Stamp::new(self.phase, warp.syncs, warp.index, o.line)
    }

    #[inline(always)]
    pub fn order<'a>(&self, warp: &'a Warp, acquired: Option<&'a dyn Fn(u64) -> bool>) -> Order<'a> {
        Order {
            launch: phase_start(self.launch_phase),
            block: phase_start(self.block_phase),
            phase: phase_start(self.phase),
            full: warp.full,
            lanes: warp.known_lanes.as_deref(),
            warps: warp.known_warps.as_deref(),
            acquired,
        }
    }

    /// The fault of an access that the race check objects to.
    pub fn wrong(
        &self,
        warp: &Warp,
        place: u32,
        lane: usize,
        wrong: Wrong,
        what: &str,
        writes: bool,
    ) -> Box<Fault> {
        let scene = self.scene(warp, place, 1 << lane);
        match wrong {
            Wrong::Uninitialised => {
                scene.fault(FaultKind::Uninitialised, format!("{what}, which nothing has written"))
            }
            Wrong::Race { other, wrote } => {
                let past = past(other);
                let foreign = past.phase < self.block_phase;
                let block = foreign
                    .then(|| self.block_of(past.phase))
                    .flatten()
                    .map(|number| self.grid.coordinates(number));
                let between = match foreign || past.blocks {
                    true => "blocks are not ordered within a launch",
                    false if past.warp == warp.index && !past.warps => {
                        "with no synchronisation of the warp between them"
                    }
                    false => "with no barrier between them",
                };
                let how = if writes { "conflicts with" } else { "does not wait for" };
                scene.fault(
                    FaultKind::Race,
                    format!("{what} {how} {}: {between}", scene.other(past, wrote, block)),
                )
            }
        }
    }

    /// Lanes access their addresses strongly, in a kernel with fences: they learn what those of the block that did so before had
    /// done by then, and tell what they have. As between blocks that is coarser than the memory model: a warp's lanes are not
    /// told apart by other warps, nor is it asked where the fences stand.
    pub fn meet(&mut self, warp: &mut Warp, addresses: &[u64; LANES], lanes: u32) {
        let now = warp.syncs + 1;
        for lane in (0..LANES).filter(|lane| lanes >> lane & 1 != 0) {
            let met = self
                .met
                .entry(addresses[lane])
                .or_insert_with(|| Met { warps: [0; 32], lanes: HashMap::new() });
            let warps = warp.known_warps.get_or_insert_with(|| Box::new([0; 32]));
            join(&mut met.warps, warps);
            **warps = met.warps;
            met.warps[warp.index as usize] = now;
            let known = warp.known_lanes.get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
            let there = met.lanes.entry(warp.index).or_insert([0; LANES]);
            join(&mut known[lane], there);
            known[lane][lane] = now;
            *there = known[lane];
        }
        // What they do from now on comes after that.
        warp.syncs = now;
    }

    /// The block of this worker that a phase belonged to.
    pub fn block_of(&self, phase: u64) -> Option<u64> {
        let after = self.blocks.partition_point(|(first, _)| *first <= phase);
        after.checked_sub(1).map(|index| self.blocks[index].1)
    }

    /// A warp has come to a barrier of the block.
    fn arrive(&mut self, warps: &mut [Warp], index: usize, place: u32, next: &mut Vec<usize>) -> Step {
        let o = &self.program.code[place as usize];
        let Action::Barrier(barrier) = o.action else { return Ok(()) };
        let warp = &warps[index];
        let mask = warp.alive();
        let first = mask.trailing_zeros() as usize;
        let program = self.program;
        let scene = Scene {
            program,
            place,
            block: self.block,
            threads: self.grid.block,
            warp: warp.index,
            lanes: mask,
        };
        let uniform = |plane: u32| {
            // SAFETY: the decoder made the plane, of 32 bits.
            let lanes = unsafe { warp.file.lanes::<u32>(plane) };
            let value = lanes[first];
            (0..LANES).all(|lane| mask >> lane & 1 == 0 || lanes[lane] == value).then_some(value)
        };
        let divergent = |what: String| scene.fault(FaultKind::Divergence, what);
        let number =
            uniform(o.a).ok_or_else(|| divergent("lanes of a warp name different barriers".to_string()))?;
        if number as usize >= BARRIERS {
            return Err(divergent(format!("barrier {number}: a block has {BARRIERS}")));
        }
        let (counted, waits) = match barrier {
            Barrier::Sync { counted } | Barrier::Reduce { counted, .. } => (counted, true),
            Barrier::Arrive => (true, false),
        };
        let all = self.grid.threads();
        let whole_warps = all.next_multiple_of(LANES as u32);
        let expected = match counted {
            false => whole_warps,
            true => uniform(o.b)
                .ok_or_else(|| divergent("lanes of a warp give a barrier different counts".to_string()))?,
        };
        if expected == 0 || expected % LANES as u32 != 0 || expected > whole_warps {
            return Err(divergent(format!(
                "a barrier for {expected} threads, in a block of {all}: it takes a multiple of 32"
            )));
        }
        if warp.ended & warp.lanes != 0 {
            return Err(divergent(format!(
                "a barrier that {} of the warp's {} threads cannot reach: they have ended",
                (warp.ended & warp.lanes).count_ones(),
                warp.lanes.count_ones()
            )));
        }
        let mut votes = (0, true, false);
        if let Barrier::Reduce { .. } = barrier {
            // SAFETY: the decoder made the predicate.
            let given = (unsafe { warp.file.predicate(o.c) } ^ o.extra) & mask;
            votes = (given.count_ones(), given == mask, given != 0);
        }
        let bit = 1u32 << index;
        let gathering = &mut self.barriers[number as usize];
        if gathering.expected == 0 {
            *gathering =
                Gathering { expected, whole: expected == whole_warps, all: true, ..Default::default() };
        } else if gathering.expected != expected {
            let before = gathering.expected;
            return Err(divergent(format!(
                "barrier {number} for {expected} threads, where others wait at it for {before}"
            )));
        }
        if gathering.arrived & bit != 0 {
            return Err(divergent(format!(
                "warp {index} arrives at barrier {number} twice before it is complete"
            )));
        }
        gathering.arrived |= bit;
        gathering.waiting |= if waits { bit } else { 0 };
        gathering.count += votes.0;
        gathering.all &= votes.1;
        gathering.any |= votes.2;
        let warp = &mut warps[index];
        if let Some(known) = &warp.known_warps {
            join(&mut gathering.joined, known);
        }
        gathering.joined[index] = warp.syncs + 1;
        // What it does from now on comes after that.
        warp.syncs += 1;
        if gathering.arrived.count_ones() * LANES as u32 > expected {
            return Err(divergent(format!(
                "more threads at barrier {number} than the {expected} that it is for"
            )));
        }
        if !waits {
            // Goes on at once.
            let group = &mut warps[index].groups[0];
            group.place = place + 1;
            group.wait = Wait::Nothing;
            next.push(index);
        }
        if gathering.arrived.count_ones() * LANES as u32 == expected {
            let done = std::mem::take(gathering);
            self.complete(warps, &done, next)?;
        }
        Ok(())
    }

    /// All have come: those that wait go on.
    fn complete(&mut self, warps: &mut [Warp], done: &Gathering, next: &mut Vec<usize>) -> Step {
        if done.whole && done.waiting == done.arrived {
            self.phase += 1;
            if self.phase - self.block_phase >= BLOCK_PHASES {
                let warp = &warps[0];
                let place = warp.groups.first().map_or(0, |group| group.place);
                return Err(self.scene(warp, place, 1).fault(
                    FaultKind::Unsupported,
                    format!("more than {BLOCK_PHASES} barriers in one block: the race check cannot tell so many apart"),
                ));
            }
            for warp in warps.iter_mut() {
                warp.new_phase();
            }
            self.met.clear();
            // Everything before is ordered by its phase, and counts start again.
            for gathering in &mut self.barriers {
                gathering.joined = [0; 32];
            }
        } else {
            // What the arrived did comes before what the waiting do next.
            for warp in warps.iter_mut() {
                if done.waiting >> warp.index & 1 != 0 {
                    let lanes = warp.lanes;
                    warp.synchronise(lanes);
                    warp.known_warps = Some(Box::new(done.joined));
                } else {
                    warp.known_warps.get_or_insert_with(|| Box::new([0; 32]));
                }
            }
        }
        for (index, warp) in warps.iter_mut().enumerate() {
            if done.waiting >> index & 1 == 0 {
                continue;
            }
            let group = &mut warp.groups[0];
            let o = &self.program.code[group.place as usize];
            if let Action::Barrier(Barrier::Reduce { reduction, .. }) = o.action {
                // SAFETY: the decoder made the destination: a plane of 32 bits for a count, else a predicate.
                unsafe {
                    match reduction {
                        Reduction::Popc => warp.file.store::<u32>(o.d, &[done.count; LANES], group.mask),
                        Reduction::And => {
                            warp.file.set_predicate(o.d, if done.all { !0 } else { 0 }, group.mask)
                        }
                        Reduction::Or => {
                            warp.file.set_predicate(o.d, if done.any { !0 } else { 0 }, group.mask)
                        }
                    }
                }
            }
            group.place += 1;
            group.wait = Wait::Nothing;
            next.push(index);
        }
        Ok(())
    }

    /// Nothing can go on: who waits where.
    fn stuck(&self, warps: &[Warp], stuck: &Warp) -> Box<Fault> {
        let place = stuck.groups.first().map_or(0, |group| group.place);
        let waiting: Vec<String> =
            warps.iter().filter(|w| w.alive() != 0).map(|w| w.index.to_string()).collect();
        let ended: Vec<String> =
            warps.iter().filter(|w| w.alive() == 0).map(|w| w.index.to_string()).collect();
        let rest = if ended.is_empty() {
            "waits at different barriers".to_string()
        } else {
            format!("warps {} have ended without reaching it", ended.join(", "))
        };
        self.scene(stuck, place, stuck.alive()).fault(
            FaultKind::Divergence,
            format!("warps {} wait at a barrier for ever: the rest {rest}", waiting.join(", "))
                .replace("the rest warps", "warps"),
        )
    }
}
