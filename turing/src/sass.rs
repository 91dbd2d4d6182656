//! Machine code for sm_75 as `nvdisasm -c -hex -gi` prints it: basic blocks of instructions with the control words that the
//! assembler gave them, and the places in the sources that they come from.

use std::collections::{BTreeMap, HashMap};

/// A kernel's machine code.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    pub name: String,
    pub registers: u32,
    /// Loads and stores of local memory: spilled registers and local arrays.
    pub local_accesses: u32,
    pub blocks: Vec<Block>,
}

/// Instructions that run one after the other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Block {
    pub instructions: Vec<Instruction>,
    /// Runs on into itself.
    pub repeats: bool,
    /// Can be reached from the kernel's beginning, and not only for rare operands of a division or the like.
    pub usual: bool,
    /// Blocks that may run next; threads that part may also go on where they meet again.
    pub next: Vec<usize>,
    /// May be a warp's last one, or lead back from a call.
    pub ends: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// `LDG` of `LDG.E.128.SYS`.
    pub opcode: String,
    pub pipe: Pipe,
    pub place: Option<Place>,
    pub control: Control,
}

/// File, line, and the kernel's own line that this was inlined at, if it was.
pub type Place = (String, u32, Option<u32>);

/// What executes an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pipe {
    Tensor,
    Fma,
    Alu,
    Half,
    Special,
    Double,
    Global,
    Shared,
    Shuffle,
    Constant,
    Barrier,
    /// Branches, the uniform datapath: they take an issue slot alone.
    Other,
}

/// What the assembler wrote into an instruction for the scheduler. Scoreboards are 0 to 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Cycles until the warp's next instruction may be issued.
    pub stall: u32,
    /// Scoreboard that is released when the result is there; and when the operands have been read.
    pub written: Option<usize>,
    pub read: Option<usize>,
    /// Scoreboards that have to be free, a bit each.
    pub wait: u32,
}

impl Control {
    /// Of the upper 64 bits of an instruction's 128.
    fn of(upper: u64) -> Control {
        let bits = |from: u32, count: u32| (upper >> from & ((1 << count) - 1)) as u32;
        let scoreboard = |from| Some(bits(from, 3) as usize).filter(|&number| number < 6);
        Control { stall: bits(41, 4), written: scoreboard(46), read: scoreboard(49), wait: bits(52, 6) }
    }
}

fn pipe(opcode: &str) -> Pipe {
    match opcode {
        "HMMA" | "IMMA" => Pipe::Tensor,
        "FFMA" | "FADD" | "FMUL" | "IMAD" => Pipe::Fma,
        "HFMA2" | "HADD2" | "HMUL2" | "HSETP2" | "HSET2" => Pipe::Half,
        "MUFU" | "F2F" | "F2I" | "I2F" | "FRND" | "POPC" | "FLO" | "BREV" => Pipe::Special,
        "DFMA" | "DADD" | "DMUL" | "DSETP" => Pipe::Double,
        "LDG" | "STG" | "LDL" | "STL" | "LD" | "ST" | "ATOM" | "ATOMG" | "RED" => Pipe::Global,
        "LDS" | "STS" | "LDSM" | "ATOMS" => Pipe::Shared,
        "SHFL" => Pipe::Shuffle,
        "LDC" | "S2R" | "S2UR" | "R2UR" | "VOTE" | "MATCH" => Pipe::Constant,
        "BAR" => Pipe::Barrier,
        "IADD3" | "LOP3" | "LEA" | "SHF" | "ISETP" | "SEL" | "FSEL" | "FSETP" | "FMNMX" | "IMNMX"
        | "PRMT" | "MOV" | "PLOP3" | "IABS" | "CS2R" | "FCHK" | "P2R" | "R2P" | "SGXT" | "BMSK" => Pipe::Alu,
        _ => Pipe::Other,
    }
}

/// Where control goes behind an instruction.
enum Flow {
    On,
    /// To a label, and on if it is conditional.
    To(Vec<String>, bool),
    /// A call that comes back; of a path for rare operands or not.
    Call(bool),
    End(bool),
}

struct Line {
    instruction: Instruction,
    labels: Vec<String>,
    /// Of a `BSSY`: its register, and where its threads meet again.
    meeting: Option<(String, String)>,
    /// Of a `BSYNC`: the register. Threads wait there for the others, and go on where they meet.
    meets: Option<String>,
    flow: Flow,
}

/// Reads all kernels of a disassembly.
pub fn read(text: &str) -> Result<Vec<Kernel>, String> {
    let mut kernels = Vec::new();
    for section in text.split("\n//--------------------- .text.").skip(1) {
        let name = section.split_whitespace().next().unwrap_or_default().to_string();
        kernels.push(kernel(&name, section).map_err(|what| format!("the machine code of {name}: {what}"))?);
    }
    if kernels.is_empty() { Err("the disassembly holds no kernel".to_string()) } else { Ok(kernels) }
}

fn kernel(name: &str, text: &str) -> Result<Kernel, String> {
    let registers = text
        .split_once("SHI_REGISTERS=")
        .and_then(|(_, rest)| rest.split('"').next()?.parse().ok())
        .ok_or("it does not say how many registers it takes")?;
    let mut lines: Vec<Line> = Vec::new();
    let mut labels = Vec::new();
    // The chain of places, innermost first, and whether an instruction has come since.
    let mut chain: Vec<(String, u32)> = Vec::new();
    let mut fresh = true;
    let mut rows = text.lines();
    while let Some(row) = rows.next() {
        let row = row.trim();
        if let Some(place) = row.strip_prefix("//## File ") {
            if !std::mem::replace(&mut fresh, true) {
                chain.clear();
            }
            let mut parts = place.split('"');
            let file = parts.nth(1).unwrap_or_default().to_string();
            let line =
                parts.next().and_then(number).ok_or_else(|| format!("a place without a line: {row}"))?;
            chain.push((file, line));
        } else if let Some(label) = row.strip_suffix(':').filter(|label| !label.contains(' ')) {
            labels.push(label.to_string());
        } else if let Some((_, rest)) = row.strip_prefix("/*").and_then(|row| row.split_once("*/")) {
            let Some((code, _)) = rest.split_once(';') else { continue };
            let upper =
                rows.next().and_then(encoding).ok_or_else(|| format!("no control word behind: {code}"))?;
            fresh = false;
            lines.push(line(code.trim(), upper, &chain, std::mem::take(&mut labels)));
        }
    }
    Ok(Kernel {
        name: name.to_string(),
        registers,
        local_accesses: lines
            .iter()
            .filter(|l| ["LDL", "STL"].contains(&l.instruction.opcode.as_str()))
            .count() as u32,
        blocks: blocks(lines),
    })
}

/// The first number of a text such as `, line 43 inlined at `.
fn number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// The number in a line that holds `/* 0x... */` alone.
fn encoding(row: &str) -> Option<u64> {
    let digits = row.trim().strip_prefix("/* 0x")?.strip_suffix(" */")?;
    u64::from_str_radix(digits, 16).ok()
}

fn line(code: &str, upper: u64, chain: &[(String, u32)], labels: Vec<String>) -> Line {
    let (guarded, code) = match code.strip_prefix('@') {
        Some(rest) => {
            rest.split_once(' ').map_or((true, rest), |(guard, code)| (guard != "!PT", code.trim()))
        }
        None => (false, code),
    };
    let full = code.split_whitespace().next().unwrap_or_default();
    let opcode = full.split('.').next().unwrap_or_default().to_string();
    let label =
        || code.split_once("`(").and_then(|(_, rest)| rest.split(')').next()).unwrap_or_default().to_string();
    // `BRA !P0, `(.L_x_1)` and `BRA.DIV` may go on too.
    let conditional =
        guarded || full.contains(".DIV") || code.contains(" P") || code.contains("!P") || code.contains("UP");
    let flow = match opcode.as_str() {
        "BRA" => Flow::To(vec![label()], conditional),
        "BRX" => {
            let targets = code.split_once("BRANCH_TARGETS ").map_or("", |(_, rest)| rest);
            let targets = targets.split('"').next().unwrap_or_default().split(',');
            Flow::To(targets.map(|target| target.trim().to_string()).collect(), false)
        }
        "CALL" => Flow::Call(label().contains("slowpath")),
        "EXIT" | "RET" => Flow::End(guarded),
        _ => Flow::On,
    };
    let place = chain.first().map(|(file, line)| {
        (file.clone(), *line, chain.last().filter(|_| chain.len() > 1).map(|(_, line)| *line))
    });
    let pipe = pipe(&opcode);
    let register =
        || code.split([' ', ',']).find(|word| word.starts_with('B') && word.len() == 2).map(String::from);
    let meeting = register().filter(|_| opcode == "BSSY").map(|register| (register, label()));
    let meets = register().filter(|_| opcode == "BSYNC");
    let instruction = Instruction { opcode, pipe, place, control: Control::of(upper) };
    Line { instruction, labels, meeting, meets, flow }
}

fn blocks(lines: Vec<Line>) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut flows: Vec<Flow> = Vec::new();
    let mut starts: HashMap<String, usize> = HashMap::new();
    let mut open = false;
    let mut meetings: Vec<Vec<(String, String)>> = Vec::new();
    let mut meets: Vec<Option<String>> = Vec::new();
    for Line { instruction, labels, meeting, meets: waits, flow } in lines {
        if !open || !labels.is_empty() {
            blocks.push(Block::default());
            flows.push(Flow::On);
            meetings.push(Vec::new());
            meets.push(None);
        }
        let here = blocks.len() - 1;
        starts.extend(labels.into_iter().map(|label| (label, here)));
        meetings[here].extend(meeting);
        meets[here] = waits.or(meets[here].take());
        blocks[here].instructions.push(instruction);
        open = matches!(flow, Flow::On);
        flows[here] = flow;
    }
    // Where threads that wait in a block for those of a register may go on: at the innermost meeting that it lies within, or, if
    // it has been moved out of it, at any.
    let meeting_of = |here: usize, register: &String| -> Vec<usize> {
        let all =
            meetings.iter().enumerate().flat_map(|(from, of)| of.iter().map(move |(r, to)| (from, r, to)));
        let all: Vec<(usize, usize)> = all
            .filter(|(_, of, _)| *of == register)
            .filter_map(|(from, _, to)| Some((from, *starts.get(to)?)))
            .collect();
        let within =
            all.iter().filter(|(from, to)| (*from..*to).contains(&here)).max_by_key(|(from, _)| *from);
        within.map_or_else(|| all.iter().map(|(_, to)| *to).collect(), |(_, to)| vec![*to])
    };
    for here in 0..blocks.len() {
        let (targets, on): (&[String], bool) = match &flows[here] {
            Flow::On | Flow::Call(_) => (&[], true),
            Flow::To(targets, on) => (targets, *on),
            Flow::End(on) => (&[], *on),
        };
        let mut next: Vec<usize> = targets.iter().filter_map(|target| starts.get(target).copied()).collect();
        next.extend((on && here + 1 < blocks.len()).then_some(here + 1));
        next.extend(meets[here].iter().flat_map(|register| meeting_of(here, register)));
        next.sort_unstable();
        next.dedup();
        blocks[here].next = next;
        blocks[here].ends = matches!(flows[here], Flow::End(_));
    }
    let mut next = vec![0];
    while let Some(here) = next.pop() {
        if here >= blocks.len() || std::mem::replace(&mut blocks[here].usual, true) {
            continue;
        }
        let (targets, on): (&[String], bool) = match &flows[here] {
            Flow::On => (&[], true),
            Flow::To(targets, on) => (targets, *on),
            Flow::Call(rare) => (&[], !rare),
            Flow::End(on) => (&[], *on),
        };
        let met = meetings[here].iter().map(|(_, to)| to);
        next.extend(targets.iter().chain(met).filter_map(|target| starts.get(target)));
        next.extend(on.then_some(here + 1));
        blocks[here].repeats = targets.iter().any(|target| starts.get(target) == Some(&here));
        // The block that calls for a rare operand is as rare.
        blocks[here].usual = !matches!(flows[here], Flow::Call(true)) || here == 0;
    }
    blocks
}

/// Executed instructions by pipe.
pub fn mix(kernel: &Kernel, weights: &[f64]) -> BTreeMap<Pipe, f64> {
    let mut mix = BTreeMap::new();
    for (block, weight) in kernel.blocks.iter().zip(weights) {
        for instruction in &block.instructions {
            *mix.entry(instruction.pipe).or_default() += weight;
        }
    }
    mix
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
//--------------------- .text.one       --------------------------
	.sectioninfo	@"SHI_REGISTERS=40"
one:
	//## File "/k/batch.cuh", line 43 inlined at "/k/one.cu", line 9
	//## File "/k/one.cu", line 9
        /*0000*/                   LDG.E.SYS R0, [UR4] ;                  /* 0x00000004ff007981 */
                                                                          /* 0x000ea8000c1ee900 */
.L_x_1:
	//## File "/k/one.cu", line 12
        /*0010*/                   F2F.F16.F32 R36, R12 ;                 /* 0x0000000c00247304 */
                                                                          /* 0x010fe20000200800 */
        /*0020*/               @P0 BRA `(.L_x_1) ;                        /* 0x0000000c00247304 */
                                                                          /* 0x000fea0003800000 */
        /*0030*/                   CALL.REL.NOINC `($_rcp_slowpath) ;     /* 0x0000000c00247304 */
                                                                          /* 0x000fea0003800000 */
        /*0040*/                   EXIT ;                                 /* 0x000000000000794d */
                                                                          /* 0x000fea0003800000 */
.L_x_2:
        /*0050*/                   BRA `(.L_x_2) ;                        /* 0x000000000000794d */
                                                                          /* 0x000fea0003800000 */
"#;

    #[test]
    fn a_disassembly_is_read() {
        let kernels = read(TEXT).unwrap();
        let [kernel] = kernels.as_slice() else { panic!("{kernels:?}") };
        assert_eq!((kernel.name.as_str(), kernel.registers, kernel.local_accesses), ("one", 40, 0));
        let load = &kernel.blocks[0].instructions[0];
        assert_eq!((load.opcode.as_str(), load.pipe), ("LDG", Pipe::Global));
        assert_eq!(load.place, Some(("/k/batch.cuh".to_string(), 43, Some(9))));
        // 0x000ea8..: stall 4, its result is announced by scoreboard 2, and nothing is waited for.
        assert_eq!(load.control, Control { stall: 4, written: Some(2), read: None, wait: 0 });
        let convert = &kernel.blocks[1].instructions[0];
        assert_eq!(convert.control, Control { stall: 1, written: None, read: None, wait: 16 });
        assert_eq!(convert.place, Some(("/k/one.cu".to_string(), 12, None)));
        let usual: Vec<bool> = kernel.blocks.iter().map(|block| block.usual).collect();
        // The call is for rare operands; behind it nothing is known to be reached, nor is the padding.
        assert_eq!(usual, [true, true, false, false, false]);
        assert!(kernel.blocks[1].repeats && !kernel.blocks[4].repeats);
        let next: Vec<&[usize]> = kernel.blocks.iter().map(|block| block.next.as_slice()).collect();
        assert_eq!(next, [&[1][..], &[1, 2], &[3], &[], &[4]]);
        assert!(kernel.blocks[3].ends && !kernel.blocks[2].ends);
    }

    #[test]
    fn what_is_no_disassembly_is_refused() {
        assert!(read("nothing").is_err());
        assert!(read("\n//--------------------- .text.one -\n").is_err());
    }
}
