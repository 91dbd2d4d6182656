//! Which reads of registers may be of uninitialised ones, by data flow over the instructions of a kernel.
//!
//! A register is *assigned* at an instruction if every path to it writes the register. Those reads need no check. The others
//! are checked lane by lane while the kernel runs. A `mov` hands the state on: compilers copy undefined values (a phi whose
//! input is undefined) and only a use of one is a fault. Nor is a comparison a use yet: of `known && x < y` compilers make one
//! predicate without a branch, and where `known` is false that is so whatever x is. A shuffle hands on what the lane that is
//! read from has: one lane often has the value that all want, and the others nothing.

use super::{Action, Merge, Operation, Program, Tracked, Tracking};
use std::collections::HashMap;

/// What an instruction does with registers, by their numbers.
#[derive(Default, Clone)]
pub struct Uses {
    pub reads: Vec<u32>,
    pub writes: Vec<u32>,
    /// Written too, and initialised whatever the sources are.
    pub sets: Vec<u32>,
    /// Sources of a `mov`, `selp`, `setp` or shuffle, or of a predicate's `and` and the like: an uninitialised one is handed on.
    pub copies: Vec<u32>,
    /// Where not all of the sources count: how two merge, and their numbers if they are registers.
    pub merge: Option<(Merge, [Option<u32>; 2])>,
}

/// A set of registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn has(&self, register: u32) -> bool {
        self.0[register as usize / 64] >> (register % 64) & 1 != 0
    }

    fn put(&mut self, register: u32, present: bool) {
        let word = &mut self.0[register as usize / 64];
        let bit = 1 << (register % 64);
        if present { *word |= bit } else { *word &= !bit }
    }

    /// Keeps what both have; true if that changed this one.
    fn intersect(&mut self, other: &Set) -> bool {
        let mut changed = false;
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            changed |= *mine & !theirs != 0;
            *mine &= theirs;
        }
        changed
    }
}

/// Instructions that may come after `place`.
fn successors(program: &Program, place: usize) -> Vec<usize> {
    let o = &program.code[place];
    let mut after = match o.action {
        Action::Branch(target) => vec![target as usize],
        Action::BranchTable(table) => program.tables[table as usize].iter().map(|t| *t as usize).collect(),
        Action::Exit | Action::Trap | Action::AssertFail(_) => vec![],
        _ => return vec![place + 1],
    };
    if guarded(o) {
        after.push(place + 1);
    }
    after
}

fn guarded(o: &Operation) -> bool {
    o.guard != 0
}

/// What an instruction does to the set of assigned registers.
fn transfer(o: &Operation, uses: &Uses, assigned: &mut Set) {
    if guarded(o) {
        return;
    }
    let whole = uses.copies.iter().all(|s| assigned.has(*s));
    for register in &uses.writes {
        assigned.put(*register, whole);
    }
    for register in &uses.sets {
        assigned.put(*register, true);
    }
}

/// Fills [`Program::tracking`] from what each instruction reads and writes.
pub fn track(program: &mut Program, uses: &[Uses], names: &[String]) {
    let words = names.len().div_ceil(64).max(1);
    // Sets at the leaders; instructions between them are walked.
    let mut entry: HashMap<usize, Set> = HashMap::new();
    entry.insert(0, Set(vec![0; words]));
    let mut work = vec![0];
    while let Some(start) = work.pop() {
        let Some(mut assigned) = entry.get(&start).cloned() else { continue };
        let mut place = start;
        loop {
            transfer(&program.code[place], &uses[place], &mut assigned);
            let after = successors(program, place);
            let straight = after.len() == 1 && after[0] == place + 1 && !program.code[place + 1].leader;
            if straight {
                place += 1;
                continue;
            }
            for next in after {
                match entry.get_mut(&next) {
                    Some(set) => {
                        if set.intersect(&assigned) {
                            work.push(next);
                        }
                    }
                    None => {
                        entry.insert(next, assigned.clone());
                        work.push(next);
                    }
                }
            }
            break;
        }
    }
    // Which reads are not of assigned registers.
    let mut doubtful: Vec<(usize, u32)> = Vec::new();
    let mut copied: Vec<(u32, u32)> = Vec::new();
    for (start, set) in &entry {
        let mut assigned = set.clone();
        let mut place = *start;
        loop {
            let o = &program.code[place];
            for register in &uses[place].reads {
                if !assigned.has(*register) {
                    doubtful.push((place, *register));
                }
            }
            for from in &uses[place].copies {
                if !assigned.has(*from) {
                    copied.extend(uses[place].writes.iter().map(|to| (*from, *to)));
                }
            }
            transfer(o, &uses[place], &mut assigned);
            let after = successors(program, place);
            if after.len() == 1 && after[0] == place + 1 && !program.code[place + 1].leader {
                place += 1;
            } else {
                break;
            }
        }
    }
    if doubtful.is_empty() {
        return;
    }
    let mut tracked: HashMap<u32, Tracked> = HashMap::new();
    let mut queue: Vec<u32> = doubtful.iter().map(|(_, register)| *register).collect();
    while let Some(register) = queue.pop() {
        let next = Tracked(tracked.len() as u32);
        if tracked.contains_key(&register) {
            continue;
        }
        tracked.insert(register, next);
        queue.extend(copied.iter().filter(|(_, to)| *to == register).map(|(from, _)| *from));
    }
    let mut by_number: Vec<(&u32, &Tracked)> = tracked.iter().collect();
    by_number.sort_by_key(|(_, t)| t.0);
    program.tracked = by_number.iter().map(|(register, _)| names[**register as usize].clone()).collect();
    let mut tracking: HashMap<u32, Tracking> = HashMap::new();
    for (place, register) in &doubtful {
        let reads = &mut tracking.entry(*place as u32).or_default().reads;
        if !reads.contains(&tracked[register]) {
            reads.push(tracked[register]);
        }
    }
    for (place, uses) in uses.iter().enumerate() {
        let these =
            |list: &[u32]| -> Vec<Tracked> { list.iter().filter_map(|r| tracked.get(r).copied()).collect() };
        let (writes, sets) = (these(&uses.writes), these(&uses.sets));
        if !writes.is_empty() || !sets.is_empty() {
            let entry = tracking.entry(place as u32).or_default();
            (entry.writes, entry.sets) = (writes, sets);
            entry.copies = these(&uses.copies);
            entry.merge = uses.merge.map(|(merge, sources)| {
                (merge, sources.map(|source| source.and_then(|r| tracked.get(&r).copied())))
            });
        }
    }
    for place in tracking.keys() {
        program.code[*place as usize].tracked = true;
    }
    program.tracking = tracking;
}
