//! Reports of faults: what, where in the source, which block and thread, and what else was involved.

use super::shadow::Past;
use crate::program::Program;
use crate::{Fault, FaultKind};

/// Where a fault was found.
pub struct Scene<'a> {
    pub program: &'a Program,
    /// Index of the instruction.
    pub place: u32,
    pub block: [u32; 3],
    pub threads: [u32; 3],
    pub warp: u32,
    /// The lanes concerned, the first of which the report names.
    pub lanes: u32,
}

/// Coordinates of a thread from its number in the block.
pub fn thread(threads: [u32; 3], number: u32) -> [u32; 3] {
    [number % threads[0], number / threads[0] % threads[1], number / threads[0] / threads[1]]
}

fn triple(t: [u32; 3]) -> String {
    format!("({},{},{})", t[0], t[1], t[2])
}

/// `file:line`, with the place that it was inlined at.
pub fn source(program: &Program, line: u16) -> String {
    let file = |number: u32| program.files.get(&number).map_or("?", String::as_str);
    match program.lines.get(line as usize).and_then(|l| l.location) {
        Some(l) => match l.inlined_at {
            Some((at, at_line)) => {
                format!("{}:{} (inlined at {}:{})", file(l.file), l.line, file(at), at_line)
            }
            None => format!("{}:{}", file(l.file), l.line),
        },
        None => "an unknown line (compile with -lineinfo)".to_string(),
    }
}

impl Scene<'_> {
    pub fn fault(&self, kind: FaultKind, what: String) -> Box<Fault> {
        let o = &self.program.code[self.place as usize];
        let ptx_line = self.program.ptx_lines[self.place as usize];
        let text = self.program.text.lines().nth(ptx_line.saturating_sub(1) as usize).unwrap_or("").trim();
        let lane = if self.lanes == 0 { 0 } else { self.lanes.trailing_zeros() };
        let number = self.warp * 32 + lane;
        let more = match self.lanes.count_ones() {
            0 | 1 => String::new(),
            n => format!(" and {} other lanes of its warp", n - 1),
        };
        let report = format!(
            "{} in kernel `{}`: {what}\n  at {}\n  PTX line {ptx_line}: {text}\n  block {}, thread {} (warp {}, lane {lane}){more}",
            kind.title(),
            self.program.name,
            source(self.program, o.line),
            triple(self.block),
            triple(thread(self.threads, number)),
            self.warp,
        );
        Box::new(Fault { kind, report })
    }

    /// Words for the other access of a race.
    pub fn other(&self, past: Past, wrote: bool, block: Option<[u32; 3]>) -> String {
        let what = match (wrote, past.atomic) {
            (true, true) if past.lanes || past.warps || past.blocks => "atomic writes, the last of them",
            (true, true) => "an atomic write",
            (true, false) => "a write",
            _ => "a read",
        };
        let number = past.warp * 32 + past.lane;
        let place = match block {
            Some(block) => {
                format!("block {}, thread {}", triple(block), triple(thread(self.threads, number)))
            }
            None => format!(
                "thread {} (warp {}, lane {})",
                triple(thread(self.threads, number)),
                past.warp,
                past.lane
            ),
        };
        format!("{what} by {place} at {}", source(self.program, past.line))
    }
}
