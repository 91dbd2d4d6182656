//! Steps a warp through its instructions.
//!
//! Lanes of a warp are in *groups*, each at an instruction of its own; a warp that has not diverged is one group. A branch that
//! lanes take differently splits a group. Of several, the one at the lowest address runs, to the end of its straight piece
//! of code; groups that meet at an instruction join. Warp-wide instructions wait for the lanes they name, as Volta's and
//! Turing's independent thread scheduling has it (PTX ISA, 9.7.9 and 9.7.13): a group that cannot go on lets the others run,
//! and when none can, that is a fault.

use super::registers::{File, LANES};
use super::warp::{Group, Wait, Warp};
use super::worker::{Step, Turn, Worker};
use crate::program::{Action, Merge, Operation, Program, Shuffle, TensorCompute, Tracked, Vote};
use crate::{Fault, FaultKind};
use std::io::Write;

/// Turns after which a group runs whatever its address, each in its turn: lanes may spin for each other.
const PATIENCE: u32 = 1024;

/// What happened at a warp-wide instruction.
enum Gathered {
    /// All are here.
    All,
    /// The group waits.
    Wait,
}

impl Worker<'_> {
    /// Runs a warp until it ends, waits for the block, or has executed `turn` instructions.
    pub fn run(&mut self, warp: &mut Warp, turn: u64) -> Step<Turn> {
        let end = warp.executed + turn;
        loop {
            if warp.groups.is_empty() {
                return Ok(Turn::Ended);
            }
            if warp.executed > self.grid.watchdog {
                let group = warp.groups[0];
                return Err(self.scene(warp, group.place, group.mask).fault(
                    FaultKind::Timeout,
                    format!("a warp has executed more than {} instructions: an endless loop, or one that waits for another block", self.grid.watchdog),
                ));
            }
            if warp.executed >= end {
                return Ok(Turn::Expired);
            }
            let index = if warp.groups.len() == 1 {
                if warp.groups[0].wait == Wait::Nothing { 0 } else { return self.waiting(warp) }
            } else {
                join(warp);
                warp.switches = warp.switches.wrapping_add(1);
                let ready = (0..warp.groups.len()).filter(|i| warp.groups[*i].wait == Wait::Nothing);
                let chosen = match warp.switches % PATIENCE {
                    0 => {
                        let mut ready: Vec<usize> = ready.collect();
                        ready.sort_unstable_by_key(|i| warp.groups[*i].place);
                        let turn = (warp.switches / PATIENCE) as usize;
                        ready.get(turn % ready.len().max(1)).copied()
                    }
                    _ => ready.min_by_key(|i| warp.groups[*i].place),
                };
                match chosen {
                    Some(index) => index,
                    None => return self.waiting(warp),
                }
            };
            self.straight(warp, index, end)?;
        }
    }

    /// No group of the warp can go on by itself.
    fn waiting(&self, warp: &mut Warp) -> Step<Turn> {
        let first = warp.groups[0];
        if warp.groups.len() == 1
            && matches!(first.wait, Wait::Gathering | Wait::Block)
            && first.mask == warp.alive()
        {
            warp.groups[0].wait = Wait::Block;
            return Ok(Turn::Barrier(first.place));
        }
        let stuck = warp.groups.iter().min_by_key(|group| group.place).copied().unwrap_or(first);
        let others: Vec<String> = warp
            .groups
            .iter()
            .filter(|group| group.mask != stuck.mask)
            .map(|group| {
                let line = self.program.code[group.place as usize].line;
                format!("lanes {:#010x} wait at {}", group.mask, super::fault::source(self.program, line))
            })
            .collect();
        let ended = warp.ended & warp.lanes;
        let rest = match (others.is_empty(), ended) {
            (true, _) => format!("lanes {ended:#010x} have ended without reaching it"),
            (false, 0) => others.join(", "),
            (false, _) => format!("{}, and lanes {ended:#010x} have ended", others.join(", ")),
        };
        Err(self.scene(warp, stuck.place, stuck.mask).fault(
            FaultKind::Divergence,
            format!("an instruction of the whole warp that only lanes {:#010x} reach: {rest}", stuck.mask),
        ))
    }

    /// Runs one group along a straight piece of code.
    fn straight(&mut self, warp: &mut Warp, index: usize, end: u64) -> Step {
        let program: &Program = self.program;
        let code = program.code.as_slice();
        let alone = warp.groups.len() == 1;
        let Group { mut place, mask, .. } = warp.groups[index];
        loop {
            // SAFETY: the code ends with an unguarded exit, and branches lead within it (both made by the decoder).
            let o = unsafe { code.get_unchecked(place as usize) };
            // SAFETY: the decoder made the guard.
            let active = mask & (unsafe { warp.file.predicate(o.guard) } ^ o.guard_flip);
            warp.executed += 1;
            // SAFETY: there is a count for each instruction.
            let count = unsafe { self.counters.counts.get_unchecked_mut(place as usize) };
            count.warps += 1;
            count.threads += active.count_ones() as u64;
            if o.tracked {
                self.track(warp, place, active)?;
            }
            if let Action::Compute(compute) = o.action {
                if active != 0 {
                    // SAFETY: the decoder placed the operands in the file and chose a function for this processor.
                    unsafe { compute(&mut warp.file, o, active) }
                }
            } else {
                match self.act(warp, index, place, o, active)? {
                    Next::Following => {}
                    Next::At(target) => {
                        place = target;
                        if alone && warp.executed < end {
                            continue;
                        }
                        warp.groups[index].place = place;
                        return Ok(());
                    }
                    // The groups are as they should be.
                    Next::Changed => return Ok(()),
                }
            }
            place += 1;
            let stop = if alone { warp.executed >= end } else { code[place as usize].leader };
            if stop {
                warp.groups[index].place = place;
                return Ok(());
            }
        }
    }

    /// Reads and writes of registers that may be uninitialised.
    #[cold]
    fn track(&self, warp: &mut Warp, place: u32, active: u32) -> Step {
        let Some(tracking) = self.program.tracking.get(&place) else { return Ok(()) };
        for read in &tracking.reads {
            let missing = active & !warp.initialised[read.0 as usize];
            if missing != 0 {
                let name = &self.program.tracked[read.0 as usize];
                return Err(self.scene(warp, place, missing).fault(
                    FaultKind::Uninitialised,
                    format!("register {name} is read, which nothing has written"),
                ));
            }
        }
        for set in &tracking.sets {
            warp.initialised[set.0 as usize] |= active;
        }
        if let Action::Shuffle(_) = self.program.code[place as usize].action {
            // It may have to wait for its lanes, and writes when they are here.
            return Ok(());
        }
        let initialised =
            |source: Option<Tracked>| source.map_or(!0, |source| warp.initialised[source.0 as usize]);
        let handed = match tracking.merge {
            None => tracking.copies.iter().fold(!0, |all, from| all & initialised(Some(*from))),
            Some((merge, sources)) => {
                let o = &self.program.code[place as usize];
                let [a, b] = sources.map(initialised);
                // SAFETY: the decoder made the predicates, of which a selection has its third source alone.
                let value = |plane| unsafe { warp.file.predicate(plane) };
                match merge {
                    Merge::Select => {
                        let first = value(o.c) ^ o.extra;
                        first & a | !first & b
                    }
                    Merge::And => a & b | a & !value(o.a) | b & !value(o.b),
                    Merge::Or => a & b | a & value(o.a) | b & value(o.b),
                }
            }
        };
        for write in &tracking.writes {
            let mask = &mut warp.initialised[write.0 as usize];
            *mask = (*mask & !active) | (handed & active);
        }
        Ok(())
    }

    fn act(&mut self, warp: &mut Warp, index: usize, place: u32, o: &Operation, active: u32) -> Step<Next> {
        match o.action {
            Action::Compute(_) | Action::Nothing => Ok(Next::Following),
            Action::Load(access) => {
                if active != 0 {
                    self.load(warp, place, &self.program.accesses[access as usize], active)?;
                }
                Ok(Next::Following)
            }
            Action::Store(access) => {
                if active != 0 {
                    self.store(warp, place, &self.program.accesses[access as usize], active)?;
                }
                Ok(Next::Following)
            }
            Action::Atomic(access) => {
                if active != 0 {
                    self.atomic(warp, place, &self.program.accesses[access as usize], active)?;
                }
                Ok(Next::Following)
            }
            Action::Branch(target) => Ok(branch(warp, index, place, active, |_| target)),
            Action::BranchTable(table) => {
                let table = &self.program.tables[table as usize];
                // SAFETY: the decoder made the plane, of 32 bits.
                let indices = *unsafe { warp.file.lanes::<u32>(o.a) };
                if let Some(lane) =
                    (0..LANES).find(|lane| active >> lane & 1 != 0 && indices[*lane] as usize >= table.len())
                {
                    return Err(self.scene(warp, place, 1 << lane).fault(
                        FaultKind::OutOfBounds,
                        format!("a jump to entry {} of a table of {}", indices[lane], table.len()),
                    ));
                }
                Ok(branch(warp, index, place, active, |lane| table[indices[lane] as usize]))
            }
            Action::Exit => {
                let group = &mut warp.groups[index];
                warp.ended |= active;
                if active == group.mask {
                    warp.groups.remove(index);
                } else {
                    group.mask &= !active;
                    group.place = place + 1;
                }
                Ok(Next::Changed)
            }
            Action::Barrier(_) => {
                if active == 0 {
                    return Ok(Next::Following);
                }
                self.whole(warp, index, place, active);
                // The warp goes to the block only when all its lanes are here.
                gather(warp, index, place);
                let at = group_at(warp, place);
                warp.groups[at].wait = Wait::Gathering;
                Ok(Next::Changed)
            }
            Action::Tensor(tensor) => {
                if active == 0 {
                    return Ok(Next::Following);
                }
                if active != !0 {
                    if let Gathered::Wait = self.gathered(warp, index, place, active, !0)? {
                        return Ok(Next::Changed);
                    }
                    return Ok(Next::Changed);
                }
                let tensor = &self.program.tensors[tensor as usize];
                // SAFETY: the decoder made the planes, of 32 bits, and chose a function for this processor.
                unsafe { tensor_product(&mut warp.file, tensor) }
                Ok(Next::Following)
            }
            Action::LoadMatrix(access) => {
                if active == 0 {
                    return Ok(Next::Following);
                }
                if active != !0 {
                    self.gathered(warp, index, place, active, !0)?;
                    return Ok(Next::Changed);
                }
                self.load_matrix(warp, place, &self.program.accesses[access as usize])?;
                Ok(Next::Following)
            }
            Action::WarpBarrier => self.warp_barrier(warp, index, place, o, active),
            Action::Shuffle(kind) => {
                if active == 0 {
                    return Ok(Next::Following);
                }
                if !self.members(warp, index, place, o.extra, active)? {
                    return Ok(Next::Changed);
                }
                self.shuffle(warp, place, o, kind, active)?;
                Ok(Next::Following)
            }
            Action::Vote(kind) => {
                if active == 0 {
                    return Ok(Next::Following);
                }
                if !self.members(warp, index, place, o.b, active)? {
                    return Ok(Next::Changed);
                }
                // SAFETY: the decoder made the operands.
                unsafe {
                    let masks = *warp.file.lanes::<u32>(o.b);
                    let given = warp.file.predicate(o.a) ^ o.extra;
                    let mut ballot = [0; LANES];
                    let mut holds = 0;
                    for lane in 0..LANES {
                        let members = masks[lane] & active;
                        ballot[lane] = given & members;
                        let yes = match kind {
                            Vote::Ballot => false,
                            Vote::All => ballot[lane] == members,
                            Vote::Any => ballot[lane] != 0,
                            Vote::Uniform => ballot[lane] == members || ballot[lane] == 0,
                        };
                        holds |= (yes as u32) << lane;
                    }
                    if kind == Vote::Ballot {
                        warp.file.store::<u32>(o.d, &ballot, active)
                    } else {
                        warp.file.set_predicate(o.d, holds, active)
                    }
                }
                Ok(Next::Following)
            }
            Action::Match { all, wide } => {
                if active == 0 {
                    return Ok(Next::Following);
                }
                if !self.members(warp, index, place, o.b, active)? {
                    return Ok(Next::Changed);
                }
                // SAFETY: the decoder made the operands, of these widths.
                unsafe {
                    let masks = *warp.file.lanes::<u32>(o.b);
                    let values: [u64; LANES] = if wide {
                        *warp.file.lanes::<u64>(o.a)
                    } else {
                        warp.file.lanes::<u32>(o.a).map(u64::from)
                    };
                    let mut result = [0; LANES];
                    let mut holds = 0;
                    for lane in 0..LANES {
                        let members = masks[lane] & active;
                        let same = (0..LANES)
                            .fold(0, |same, other| same | ((values[other] == values[lane]) as u32) << other)
                            & members;
                        let whole = same == members;
                        result[lane] = if all && !whole { 0 } else { same };
                        holds |= (whole as u32) << lane;
                    }
                    warp.file.store::<u32>(o.d, &result, active);
                    if all {
                        warp.file.set_predicate(o.d2, holds, active);
                    }
                }
                Ok(Next::Following)
            }
            Action::ActiveMask => {
                // SAFETY: the decoder made the destination.
                unsafe { warp.file.store::<u32>(o.d, &[active; LANES], active) }
                Ok(Next::Following)
            }
            Action::Fence => Ok(Next::Following),
            Action::Clock(wide) => {
                // Instructions of the warp stand for cycles: it rises, and is the same in every run.
                let now = warp.executed;
                // SAFETY: the decoder made the destination, of this width.
                unsafe {
                    if wide {
                        warp.file.store::<u64>(o.d, &[now; LANES], active)
                    } else {
                        warp.file.store::<u32>(o.d, &[now as u32; LANES], active)
                    }
                }
                Ok(Next::Following)
            }
            Action::Trap if active != 0 => {
                Err(self.scene(warp, place, active).fault(FaultKind::Trap, "the kernel traps".to_string()))
            }
            Action::AssertFail(call) if active != 0 => Err(self.assertion(warp, place, call, active)),
            Action::Print(call) if active != 0 => {
                self.print(warp, call, active);
                Ok(Next::Following)
            }
            Action::Trap | Action::AssertFail(_) | Action::Print(_) => Ok(Next::Following),
        }
    }

    /// Lanes of the group that do not execute a warp-wide instruction go on past it, as a group of their own.
    fn whole(&self, warp: &mut Warp, index: usize, place: u32, active: u32) {
        let mask = warp.groups[index].mask;
        if active != mask {
            warp.groups[index].mask = active;
            warp.groups.push(Group { place: place + 1, mask: mask & !active, wait: Wait::Nothing });
        }
        warp.groups[index].place = place;
    }

    /// Makes a group wait at an instruction until the lanes in `members` are with it.
    fn gathered(
        &self,
        warp: &mut Warp,
        index: usize,
        place: u32,
        active: u32,
        members: u32,
    ) -> Step<Gathered> {
        self.whole(warp, index, place, active);
        gather(warp, index, place);
        let at = group_at(warp, place);
        let here = warp.groups[at].mask;
        if members & !here == 0 {
            // Complete: it runs at the group's next turn.
            warp.groups[at].wait = Wait::Nothing;
            return Ok(Gathered::All);
        }
        if members & warp.ended != 0 && members == !0 {
            return Err(self.scene(warp, place, here).fault(
                FaultKind::Divergence,
                format!("an instruction that needs all 32 lanes of the warp, of which {:#010x} have ended or do not exist", warp.ended),
            ));
        }
        warp.groups[at].wait = Wait::Lanes;
        Ok(Gathered::Wait)
    }

    /// Whether the lanes that each lane's member mask names are here; if not, the group waits for them.
    fn members(&self, warp: &mut Warp, index: usize, place: u32, plane: u32, active: u32) -> Step<bool> {
        // SAFETY: the decoder made the plane, of 32 bits.
        let masks = *unsafe { warp.file.lanes::<u32>(plane) };
        let mut wanted = 0;
        for lane in 0..LANES {
            if active >> lane & 1 != 0 {
                if masks[lane] >> lane & 1 == 0 {
                    return Err(self.scene(warp, place, 1 << lane).fault(
                        FaultKind::Divergence,
                        format!("lane {lane} executes a warp-wide instruction whose member mask {:#010x} does not name it", masks[lane]),
                    ));
                }
                wanted |= masks[lane];
            }
        }
        wanted &= warp.alive();
        if wanted & !active == 0 {
            return Ok(true);
        }
        self.gathered(warp, index, place, active, wanted)?;
        Ok(false)
    }

    fn warp_barrier(
        &self,
        warp: &mut Warp,
        index: usize,
        place: u32,
        o: &Operation,
        active: u32,
    ) -> Step<Next> {
        if active == 0 {
            return Ok(Next::Following);
        }
        // SAFETY: the decoder made the plane, of 32 bits.
        let masks = *unsafe { warp.file.lanes::<u32>(o.a) };
        if let Some(lane) = (0..LANES).find(|lane| active >> lane & 1 != 0 && masks[*lane] >> lane & 1 == 0) {
            return Err(self.scene(warp, place, 1 << lane).fault(
                FaultKind::Divergence,
                format!(
                    "lane {lane} synchronises with a member mask {:#010x} that does not name it",
                    masks[lane]
                ),
            ));
        }
        // Lanes meet those that name the same members, here or at any other barrier of the warp.
        let mut done = 0;
        let mut rest = active;
        while rest != 0 {
            let members = masks[rest.trailing_zeros() as usize];
            let here = with_mask(&masks, rest, members);
            rest &= !here;
            let arrived = warp
                .groups
                .iter()
                .filter(|group| group.wait == Wait::WarpBarrier)
                .fold(here, |all, group| all | self.naming(warp, group, members));
            if members & warp.alive() & !arrived == 0 {
                warp.synchronise(members);
                done |= arrived;
            }
        }
        for at in 0..warp.groups.len() {
            let group = warp.groups[at];
            let released = group.mask & done;
            if group.wait != Wait::WarpBarrier || released == 0 {
                continue;
            }
            let after = Group { place: group.place + 1, mask: released, wait: Wait::Nothing };
            if released == group.mask {
                warp.groups[at] = after;
            } else {
                warp.groups[at].mask &= !released;
                warp.groups.push(after);
            }
        }
        if active & !done == 0 {
            return Ok(Next::Following);
        }
        self.whole(warp, index, place, active & !done);
        warp.groups[index].wait = Wait::WarpBarrier;
        Ok(Next::Changed)
    }

    /// Lanes of a group at a barrier of the warp that name these members.
    fn naming(&self, warp: &Warp, group: &Group, members: u32) -> u32 {
        let o = &self.program.code[group.place as usize];
        // SAFETY: the decoder made the plane, of 32 bits.
        with_mask(unsafe { warp.file.lanes::<u32>(o.a) }, group.mask, members)
    }

    /// `shfl.sync`: PTX ISA 9.7.9.6.
    fn shuffle(&self, warp: &mut Warp, place: u32, o: &Operation, kind: Shuffle, active: u32) -> Step {
        // SAFETY: the decoder made the planes, of 32 bits, and the predicate.
        let (values, lanes, clamps) = unsafe {
            (*warp.file.lanes::<u32>(o.a), *warp.file.lanes::<u32>(o.b), *warp.file.lanes::<u32>(o.c))
        };
        let mut out = [0; LANES];
        let mut inside = 0u32;
        let mut sources = [0; LANES];
        for lane in 0..LANES {
            let (delta, clamp, segment) =
                ((lanes[lane] & 31) as i32, (clamps[lane] & 31) as i32, (clamps[lane] >> 8 & 31) as i32);
            let me = lane as i32;
            let highest = (me & segment) | (clamp & !segment);
            let lowest = me & segment;
            let (from, within) = match kind {
                Shuffle::Up => (me - delta, me - delta >= highest),
                Shuffle::Down => (me + delta, me + delta <= highest),
                Shuffle::Butterfly => (me ^ delta, me ^ delta <= highest),
                Shuffle::Index => (lowest | (delta & !segment), lowest | (delta & !segment) <= highest),
            };
            let from = if within { from } else { me } as usize;
            if active >> lane & 1 != 0 && active >> (from & 31) & 1 == 0 {
                return Err(self.scene(warp, place, 1 << lane).fault(
                    FaultKind::Divergence,
                    format!("lane {lane} shuffles a value from lane {from}, which does not take part: the value is undefined"),
                ));
            }
            out[lane] = values[from & 31];
            sources[lane] = from & 31;
            inside |= (within as u32) << lane;
        }
        // SAFETY: as above.
        unsafe {
            warp.file.store::<u32>(o.d, &out, active);
            warp.file.set_predicate(o.d2, inside, active);
        }
        if o.tracked {
            self.track_shuffle(warp, place, &sources, active);
        }
        Ok(())
    }

    /// What a shuffle writes is initialised where the lane that it is read from is.
    #[cold]
    fn track_shuffle(&self, warp: &mut Warp, place: u32, sources: &[usize; LANES], active: u32) {
        let Some(tracking) = self.program.tracking.get(&place) else { return };
        let given = tracking.copies.iter().fold(!0, |all, from| all & warp.initialised[from.0 as usize]);
        let handed = (0..LANES).fold(0, |all, lane| all | (given >> sources[lane] & 1) << lane);
        for write in &tracking.writes {
            let mask = &mut warp.initialised[write.0 as usize];
            *mask = (*mask & !active) | (handed & active);
        }
    }

    fn assertion(&self, warp: &Warp, place: u32, call: u32, active: u32) -> Box<Fault> {
        let lane = active.trailing_zeros() as usize;
        let arguments = &self.program.calls[call as usize].arguments;
        let value = |index: usize, size: u32| {
            arguments.get(index).and_then(|address| self.local_value(warp, lane, *address, size))
        };
        let text = |index: usize| value(index, 8).and_then(|address| self.text(address)).unwrap_or_default();
        let line = value(2, 4).unwrap_or(0);
        self.scene(warp, place, active).fault(
            FaultKind::Trap,
            format!("assertion `{}` fails in `{}` at {}:{line}", text(0), text(3), text(1)),
        )
    }

    fn print(&self, warp: &mut Warp, call: u32, active: u32) {
        let call = &self.program.calls[call as usize];
        for lane in 0..LANES {
            if active >> lane & 1 == 0 {
                continue;
            }
            let pointer = |index: usize| {
                call.arguments.get(index).and_then(|address| self.local_value(warp, lane, *address, 8))
            };
            let format = pointer(0).and_then(|address| self.text(address)).unwrap_or_default();
            let mut next = pointer(1).unwrap_or(0);
            let mut parsed = 0u32;
            let text = super::print::format(
                &format,
                |size| {
                    next = next.next_multiple_of(size);
                    let value = self.local_value(
                        warp,
                        lane,
                        next.wrapping_sub(crate::program::LOCAL_WINDOW),
                        size as u32,
                    );
                    next += size;
                    parsed += 1;
                    value
                },
                |address| self.text(address),
            );
            // A closed stdout is no reason to stop.
            let _ = std::io::stdout().write_all(text.as_bytes());
            if let Some(address) = call.result
                && let Some(offset) = warp.local_offset(lane, address, 4)
            {
                // Not C's number of characters: CUDA's printf returns how many arguments it has parsed.
                warp.local[offset..offset + 4].copy_from_slice(&parsed.to_le_bytes());
                warp.local_valid[offset..offset + 4].fill(1);
            }
        }
        // The program may not be one of Rust's, which would do this when it ends.
        let _ = std::io::stdout().flush();
    }
}

/// Where a group goes after an instruction.
enum Next {
    Following,
    At(u32),
    /// The warp's groups have been changed, this one's place too.
    Changed,
}

/// Sends active lanes to their targets and the others on.
fn branch(warp: &mut Warp, index: usize, place: u32, active: u32, target: impl Fn(usize) -> u32) -> Next {
    let mask = warp.groups[index].mask;
    let stay = mask & !active;
    if active == 0 {
        return Next::At(place + 1);
    }
    let first = target(active.trailing_zeros() as usize);
    let mut rest = active;
    let mut parts: Vec<Group> = Vec::new();
    while rest != 0 {
        let to = target(rest.trailing_zeros() as usize);
        let mut part = 0;
        for lane in 0..LANES {
            if rest >> lane & 1 != 0 && target(lane) == to {
                part |= 1 << lane;
            }
        }
        rest &= !part;
        if stay == 0 && part == mask {
            return Next::At(first);
        }
        parts.push(Group { place: to, mask: part, wait: Wait::Nothing });
    }
    if stay != 0 {
        parts.push(Group { place: place + 1, mask: stay, wait: Wait::Nothing });
    }
    warp.groups.swap_remove(index);
    warp.groups.extend(parts);
    Next::Changed
}

/// Joins groups that are at the same instruction; those that wait there are asked again.
fn join(warp: &mut Warp) {
    let groups = &mut warp.groups;
    let mut i = 0;
    while i < groups.len() {
        let mut j = i + 1;
        while j < groups.len() {
            if groups[i].place == groups[j].place
                && groups[i].wait != Wait::Block
                && groups[j].wait != Wait::Block
            {
                let waits = groups[i].wait != groups[j].wait;
                groups[i].mask |= groups[j].mask;
                if waits {
                    groups[i].wait = Wait::Nothing;
                }
                groups.swap_remove(j);
            } else {
                j += 1;
            }
        }
        i += 1;
    }
}

/// Joins to a group all others at its instruction.
fn gather(warp: &mut Warp, index: usize, place: u32) {
    let mut mask = 0;
    for group in warp.groups.iter().filter(|group| group.place == place) {
        mask |= group.mask;
    }
    warp.groups[index].mask = mask;
    warp.groups[index].wait = Wait::Nothing;
    let kept = warp.groups[index];
    warp.groups.retain(|group| group.place != place);
    warp.groups.push(kept);
}

/// Those of some lanes whose member mask is this.
fn with_mask(masks: &[u32; LANES], lanes: u32, members: u32) -> u32 {
    (0..LANES).fold(0, |all, lane| all | ((masks[lane] == members) as u32) << lane) & lanes
}

fn group_at(warp: &Warp, place: u32) -> usize {
    warp.groups.iter().position(|group| group.place == place).unwrap_or(0)
}

/// # Safety
/// The planes lie in the file, and the function is compiled for this processor.
unsafe fn tensor_product(file: &mut File, tensor: &crate::program::Tensor) {
    // SAFETY: the caller's promise.
    unsafe {
        let a = [*file.lanes::<u32>(tensor.a[0]), *file.lanes::<u32>(tensor.a[1])];
        let b = *file.lanes::<u32>(tensor.b);
        match tensor.compute {
            TensorCompute::F32(compute) => {
                let c = tensor.c.map(|plane| *file.lanes::<u32>(plane));
                let mut d = [[0; LANES]; 4];
                compute(&mut d, &a, &b, &c);
                for (plane, values) in tensor.d.iter().zip(&d) {
                    *file.lanes_mut::<u32>(*plane) = *values;
                }
            }
            TensorCompute::F16(compute) => {
                let c = [*file.lanes::<u32>(tensor.c[0]), *file.lanes::<u32>(tensor.c[1])];
                let mut d = [[0; LANES]; 2];
                compute(&mut d, &a, &b, &c);
                for (plane, values) in tensor.d.iter().zip(&d) {
                    *file.lanes_mut::<u32>(*plane) = *values;
                }
            }
        }
    }
}
