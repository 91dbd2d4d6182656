//! A warp: its registers, and which of its lanes are where.

use super::registers::{File, LANES};
use crate::program::{LOCAL_START, LocalVariable, Program};

/// Lanes at the same instruction.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub place: u32,
    pub mask: u32,
    pub wait: Wait,
}

/// What a group of lanes waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    Nothing,
    /// Other lanes at the same warp-wide instruction.
    Lanes,
    /// Other lanes at any barrier of the warp with the same member mask.
    WarpBarrier,
    /// Other lanes at the same barrier of the block.
    Gathering,
    /// The rest of the block.
    Block,
}

/// A warp of a running block.
pub struct Warp {
    pub file: File,
    pub index: u32,
    /// Threads that it has: fewer than 32 in the last warp of some blocks.
    pub lanes: u32,
    pub groups: Vec<Group>,
    /// Threads that have ended.
    pub ended: u32,
    /// Local memory, lane after lane, and which bytes were written.
    pub local: Vec<u8>,
    pub local_valid: Vec<u8>,
    pub local_bytes: usize,
    pub local_variables: Vec<LocalVariable>,
    /// Lanes in which tracked registers are initialised.
    pub initialised: Vec<u32>,
    /// Synchronisations since the last barrier of the block.
    pub syncs: u32,
    /// Synchronisations that the last one of the whole warp came after.
    pub full: u32,
    /// See [`super::shadow::Order::lanes`].
    pub known_lanes: Option<Box<[[u32; LANES]; LANES]>>,
    /// See [`super::shadow::Order::warps`].
    pub known_warps: Option<Box<[u32; 32]>>,
    /// Instructions executed in this launch.
    pub executed: u64,
    /// Choices among its groups in this launch: see [`super::execute`].
    pub switches: u32,
}

impl Warp {
    pub fn new(program: &Program, index: u32) -> Warp {
        let mut file = File::new(program.planes, program.predicates);
        for (plane, bits, wide) in &program.constants {
            // SAFETY: the decoder made the planes, of these widths.
            unsafe {
                if *wide {
                    *file.lanes_mut::<u64>(*plane) = [*bits; LANES];
                } else {
                    *file.lanes_mut::<u32>(*plane) = [*bits as u32; LANES];
                }
            }
        }
        Warp {
            file,
            index,
            lanes: 0,
            groups: Vec::new(),
            ended: 0,
            local: vec![0; program.local as usize * LANES],
            local_valid: vec![0; program.local as usize * LANES],
            local_bytes: program.local as usize,
            local_variables: program.local_variables.clone(),
            initialised: vec![0; program.tracked.len()],
            syncs: 0,
            full: 0,
            known_lanes: None,
            known_warps: None,
            executed: 0,
            switches: 0,
        }
    }

    /// Ready for a new block.
    pub fn start(&mut self, lanes: u32) {
        self.lanes = lanes;
        self.ended = !lanes;
        self.groups.clear();
        self.groups.push(Group { place: 0, mask: lanes, wait: Wait::Nothing });
        self.local_valid.fill(0);
        self.initialised.fill(0);
        self.executed = 0;
        self.switches = 0;
        self.new_phase();
    }

    /// After a barrier of the whole block: everything before it is ordered by its phase.
    pub fn new_phase(&mut self) {
        self.syncs = 0;
        self.full = 0;
        self.known_lanes = None;
        self.known_warps = None;
    }

    /// Threads that have not ended.
    pub fn alive(&self) -> u32 {
        !self.ended
    }

    /// Lanes of `mask` synchronise.
    pub fn synchronise(&mut self, mask: u32) {
        let now = self.syncs;
        self.syncs += 1;
        if mask & self.alive() == self.alive() {
            self.full = self.syncs;
            self.known_lanes = None;
            return;
        }
        let known = self.known_lanes.get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
        let members: Vec<usize> = (0..LANES).filter(|lane| mask >> lane & 1 != 0).collect();
        let mut joined = [0; LANES];
        for member in &members {
            for lane in 0..LANES {
                joined[lane] = joined[lane].max(known[*member][lane]);
            }
        }
        for member in &members {
            joined[*member] = now + 1;
        }
        for member in &members {
            known[*member] = joined;
        }
    }

    /// Offset of a lane's byte in `local`; `None` out of bounds.
    #[inline(always)]
    pub fn local_offset(&self, lane: usize, address: u64, size: u64) -> Option<usize> {
        let variable = self.local_variables.iter().find(|v| address.wrapping_sub(v.address) < v.bytes)?;
        (variable.bytes - (address - variable.address) >= size)
            .then(|| lane * self.local_bytes + (address - LOCAL_START) as usize)
    }
}
