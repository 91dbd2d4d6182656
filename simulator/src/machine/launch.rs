//! A launch: its blocks on the host's threads, then the race check between what those did.

use super::counters::Counters;
use super::fault::{source, thread};
use super::memory::Memory;
use super::registers::LANES;
use super::shadow::{past, phase_start};
use super::warp::Warp;
use super::worker::{Remains, Worker, mix};
use crate::program::Program;
use crate::{Fault, FaultKind};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A kernel and what it is launched with.
pub struct Grid<'l> {
    pub program: &'l Program,
    pub memory: &'l Memory,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub parameters: &'l [u8],
    pub seed: u64,
    pub watchdog: u64,
    /// Number of this launch among the device's, from 1.
    pub number: u32,
    pub published: Mutex<Published>,
}

/// Which blocks know what which others did before, by fences and atomics on the same address.
///
/// A block that updates an address, in a kernel with fences, publishes all it did and knows, and learns what was published
/// there. That is coarser than the memory model, which asks for a fence before the one update and after the other.
#[derive(Default)]
pub struct Published {
    at: HashMap<u64, Blocks>,
    known: HashMap<u64, Blocks>,
}

/// A set of blocks.
#[derive(Default, Clone)]
struct Blocks(Vec<u64>);

impl Blocks {
    fn add(&mut self, block: u64) {
        let word = (block / 64) as usize;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (block % 64);
    }

    fn join(&mut self, other: &Blocks) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }

    fn has(&self, block: u64) -> bool {
        self.0.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }
}

impl Published {
    /// A block updates an address.
    pub fn meet(&mut self, address: u64, block: u64) {
        let known = self.known.entry(block).or_default();
        known.add(block);
        let at = self.at.entry(address).or_default();
        at.join(known);
        known.join(at);
    }

    /// Whether `block` knows what `other` did.
    pub fn knows(&self, block: u64, other: u64) -> bool {
        self.known.get(&block).is_some_and(|known| known.has(other))
    }
}

impl Grid<'_> {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|n| *n as u64).product()
    }

    pub fn coordinates(&self, number: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        [(number % x) as u32, (number / x % y) as u32, (number / x / y) as u32]
    }

    pub fn publish(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a worker did: its stamps, the first phase of each of its blocks, and of the launch.
struct Done {
    remains: Remains,
    blocks: Vec<(u64, u64)>,
    launch: u64,
}

/// Runs all blocks; `remains` holds what workers keep between launches.
pub fn run(grid: &Grid, threads: usize, remains: &mut Vec<Remains>) -> Result<Counters, Box<Fault>> {
    let blocks = grid.blocks();
    let workers = threads.clamp(1, blocks.min(256) as usize);
    while remains.len() < workers {
        remains.push(Remains::default());
    }
    let order = order(blocks, grid.seed);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let mut counters = Counters::new(grid.program);
    let work = |remains: Remains| {
        let mut worker = Worker::new(grid, remains);
        let mut warps: Vec<Warp> =
            (0..grid.threads().div_ceil(LANES as u32)).map(|index| Warp::new(grid.program, index)).collect();
        let mut result = Ok(());
        while !stop.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if place as u64 >= blocks {
                break;
            }
            let number = order.as_ref().map_or(place as u64, |order| order[place] as u64);
            result = worker.run_block(number, &mut warps);
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
                break;
            }
        }
        let (remains, counters, blocks, launch) = worker.remains();
        (result, counters, Done { remains, blocks, launch })
    };
    let mut all = Vec::with_capacity(workers);
    if workers == 1 {
        all.push(Some(work(std::mem::take(&mut remains[0]))));
    } else {
        let taken: Vec<Remains> = remains.iter_mut().take(workers).map(std::mem::take).collect();
        std::thread::scope(|scope| {
            let handles: Vec<_> = taken.into_iter().map(|remains| scope.spawn(|| work(remains))).collect();
            all.extend(handles.into_iter().map(|handle| handle.join().ok()));
        });
    }
    let mut done = Vec::new();
    let mut fault = None;
    for outcome in all {
        let Some((result, counts, finished)) = outcome else {
            let report = format!("kernel `{}`: a thread of the simulator has panicked", grid.program.name);
            fault = Some(Box::new(Fault { kind: FaultKind::Unsupported, report }));
            continue;
        };
        counters.add(&counts);
        if let Err(found) = result {
            fault.get_or_insert(found);
        }
        done.push(finished);
    }
    if fault.is_none() {
        fault = between(grid, &done);
    }
    for (place, finished) in remains.iter_mut().zip(done) {
        *place = finished.remains;
    }
    match fault {
        Some(fault) => Err(fault),
        None => Ok(counters),
    }
}

/// The blocks in the order of a seed; `None` for their own.
fn order(blocks: u64, seed: u64) -> Option<Vec<u32>> {
    if seed == 0 || blocks > u32::MAX as u64 {
        return None;
    }
    let mut state = seed;
    let mut order: Vec<u32> = (0..blocks as u32).collect();
    for i in (1..order.len()).rev() {
        let other = (mix(&mut state) % (i as u64 + 1)) as usize;
        order.swap(i, other);
    }
    Some(order)
}

/// Races between blocks that ran on different workers, each of which knows its own accesses only.
fn between(grid: &Grid, done: &[Done]) -> Option<Box<Fault>> {
    for allocation in grid.memory.live() {
        let touching: Vec<&Done> = done
            .iter()
            .filter(|d| {
                d.remains
                    .global
                    .get(allocation.id)
                    .is_some_and(|g| g.as_ref().is_some_and(|g| g.touched.contains(&1)))
            })
            .collect();
        for (index, one) in touching.iter().enumerate() {
            for two in &touching[index + 1..] {
                let (Some(a), Some(b)) =
                    (&one.remains.global[allocation.id], &two.remains.global[allocation.id])
                else {
                    continue;
                };
                for page in 0..a.touched.len().min(b.touched.len()) {
                    if a.touched[page] == 0 || b.touched[page] == 0 {
                        continue;
                    }
                    let end = ((page + 1) * 1024).min(a.shadow.granules()).min(b.shadow.granules());
                    for granule in page * 1024..end {
                        let (first, second) = (a.shadow.stamps(granule), b.shadow.stamps(granule));
                        let live = |stamp: u64, done: &Done| stamp >= phase_start(done.launch);
                        let pairs = [
                            (first.0, true, second.0, true),
                            (first.0, true, second.1, false),
                            (first.1, false, second.0, true),
                        ];
                        for (x, x_wrote, y, y_wrote) in pairs {
                            if !live(x, one) || !live(y, two) || past(x).atomic && past(y).atomic {
                                continue;
                            }
                            let block = |done: &Done, stamp: u64| {
                                let after =
                                    done.blocks.partition_point(|(phase, _)| *phase <= past(stamp).phase);
                                done.blocks[after.saturating_sub(1)].1
                            };
                            let (p, q) = (block(one, x), block(two, y));
                            if grid.program.fenced
                                && (grid.publish().knows(p, q) || grid.publish().knows(q, p))
                            {
                                continue;
                            }
                            let address = allocation.base + ((granule as u64) << a.shadow.granule);
                            let side = |stamp: u64, wrote: bool, number: u64| {
                                let past = past(stamp);
                                let [bx, by, bz] = grid.coordinates(number);
                                let [x, y, z] = thread(grid.block, past.warp * 32 + past.lane);
                                let what = match (wrote, past.atomic) {
                                    (true, true) => "an atomic write",
                                    (true, false) => "a write",
                                    _ => "a read",
                                };
                                format!(
                                    "{what} by block ({bx},{by},{bz}), thread ({x},{y},{z}) at {}",
                                    source(grid.program, past.line)
                                )
                            };
                            let name = match &allocation.variable {
                                Some(name) => format!("variable `{name}` + {}", address - allocation.base),
                                None => format!(
                                    "byte {} of the allocation of {} bytes at {:#x}",
                                    address - allocation.base,
                                    allocation.bytes,
                                    allocation.base
                                ),
                            };
                            let report = format!(
                                "{} in kernel `{}`: global memory at address {address:#x}, {name}\n  {}\n  {}\n  blocks are not ordered within a launch",
                                FaultKind::Race.title(),
                                grid.program.name,
                                side(x, x_wrote, p),
                                side(y, y_wrote, q),
                            );
                            return Some(Box::new(Fault { kind: FaultKind::Race, report }));
                        }
                    }
                }
            }
        }
    }
    None
}
