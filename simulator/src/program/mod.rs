//! Kernels ready to run: every instruction of the PTX with its meaning chosen and its operands placed.
//!
//! [`decode`] makes a [`Program`] of a kernel: it places registers in planes of 32 lanes, constants too, so that an operand
//! is always a plane; chooses for each instruction the function that computes it ([`crate::machine::alu`]) or the action of
//! the machine; puts called functions in place of their calls; and finds by data flow which reads of registers may be of
//! uninitialised ones, so that only those are checked while running.

mod alu;
mod decode;
mod flow;

pub use alu::{Isa, TensorCompute};
pub use decode::{Addresses, decode};

/// Whether a lane-wise instruction is modelled, by its opcode and modifiers as [`ptx::Instruction`](crate::ptx::Instruction)
/// has them.
pub fn is_lanewise(opcode: &[String]) -> bool {
    alu::select(opcode, Isa::Base).is_some()
}

use crate::machine::registers::File;
use crate::ptx::Location;

/// What a lane-wise instruction computes: reads and writes planes of the register file for the active lanes.
///
/// # Safety
/// The operation's slots lie in the file, and the processor has the instruction set that the function was compiled for.
pub type Compute = unsafe fn(&mut File, &Operation, u32);

/// A plane of the register file: an index in units of 32 lanes of 32 bits. A register of 64 bits takes two, from an even one.
pub type Plane = u32;

/// One instruction.
pub struct Operation {
    pub action: Action,
    /// Destination plane; a predicate's index where the instruction writes one.
    pub d: u32,
    /// Second destination (`p|q`), 0 for none.
    pub d2: u32,
    /// Source planes; predicates' indices where the instruction reads them.
    pub a: u32,
    pub b: u32,
    pub c: u32,
    /// A constant that the instruction carries: the table of `lop3`, the combination of `setp`.
    pub extra: u32,
    /// Predicate register that guards it; 0, which is always true, for none.
    pub guard: u32,
    /// All ones for `@!p`, zero for `@p`.
    pub guard_flip: u32,
    /// Index into [`Program::lines`].
    pub line: u16,
    pub class: Class,
    /// Floating-point operations of one thread.
    pub flops: u16,
    /// Lanes may meet here: a branch's target, or behind a branch.
    pub leader: bool,
    /// This instruction needs [`Program::tracking`].
    pub tracked: bool,
}

/// What the machine does at an instruction.
#[derive(Clone, Copy)]
pub enum Action {
    /// Lane by lane, on registers only.
    Compute(Compute),
    /// A product of the tensor cores: index into [`Program::tensors`]. All 32 lanes must be there.
    Tensor(u32),
    /// Index into [`Program::accesses`].
    Load(u32),
    Store(u32),
    Atomic(u32),
    LoadMatrix(u32),
    Branch(u32),
    /// Index into [`Program::tables`]; `a` is the plane of the index.
    BranchTable(u32),
    Exit,
    Barrier(Barrier),
    /// `a` is the member mask.
    WarpBarrier,
    Shuffle(Shuffle),
    Vote(Vote),
    /// `match.any`, or `match.all` where true; `a` value, `b` member mask.
    Match {
        all: bool,
        wide: bool,
    },
    ActiveMask,
    Fence,
    /// Reads the clock into `d`: 64 bits where true.
    Clock(bool),
    Nothing,
    Trap,
    /// `__assertfail`: index into [`Program::calls`].
    AssertFail(u32),
    /// `vprintf`: index into [`Program::calls`].
    Print(u32),
}

/// A barrier of the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Barrier {
    /// `a`: plane of the barrier's number; `b`: plane of the thread count where `counted`.
    Sync {
        counted: bool,
    },
    Arrive,
    /// `c`: the predicate, `extra` all ones for a negated one; `d`: result.
    Reduce {
        counted: bool,
        reduction: Reduction,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduction {
    Popc,
    And,
    Or,
}

/// `shfl.sync`: `a` value, `b` lane or delta, `c` clamp and segment mask, `extra` the plane of the member mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `vote.sync`: `a` the predicate (`extra` all ones for a negated one), `b` the plane of the member mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    Ballot,
    All,
    Any,
    Uniform,
}

/// State space of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessSpace {
    /// The kernel's parameters, the same for all threads.
    Parameter,
    /// Global and constant memory.
    Global,
    Shared,
    Local,
    Generic,
}

/// A load, store, atomic or matrix load.
pub struct Access {
    pub space: AccessSpace,
    /// Plane of the address; `None` for an absolute one.
    pub base: Option<Plane>,
    /// The address register has 64 bits.
    pub wide_base: bool,
    pub offset: i64,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub element: u32,
    /// Elements a lane: 1, 2 or 4.
    pub count: u32,
    /// Destination or source planes by element; `None` for `_`.
    pub planes: [Option<Plane>; 4],
    /// The register has 64 bits.
    pub wide: bool,
    /// Loads sign-extend.
    pub signed: bool,
    /// Volatile, relaxed, acquire or release: does not race with atomics.
    pub strong: bool,
    pub atomic: Option<Atomic>,
    /// `ldmatrix`: number of matrices, 0 otherwise.
    pub matrices: u32,
    pub transposed: bool,
}

/// What an atomic does to memory.
#[derive(Clone, Copy)]
pub struct Atomic {
    pub kind: AtomicKind,
    /// Plane of the operand, and of the second one (`cas`).
    pub operand: Plane,
    pub second: Plane,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtomicKind {
    Add,
    AddF16,
    AddF16x2,
    AddF32,
    AddF64,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
}

/// `mma`: the planes of its fragments; the second half of `c` and `d` is unused where they are f16.
pub struct Tensor {
    pub compute: TensorCompute,
    pub a: [Plane; 2],
    pub b: Plane,
    pub c: [Plane; 4],
    pub d: [Plane; 4],
}

/// Kinds of instructions, as the counters group them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    F32,
    F64,
    F16,
    Integer,
    Logic,
    Convert,
    Move,
    Compare,
    Special,
    Tensor,
    GlobalLoad,
    GlobalStore,
    SharedLoad,
    SharedStore,
    LocalAccess,
    ConstantLoad,
    Atomic,
    Shuffle,
    Barrier,
    Branch,
    Other,
}

/// An array in shared memory. They lie apart from each other, so that running over the end of one is found.
pub struct SharedArray {
    pub name: String,
    /// Address in the simulated shared memory: a multiple of [`SHARED_STRIDE`], plus where in the 128 bytes of all banks a
    /// card would put it.
    pub address: u64,
    pub bytes: u32,
}

/// A variable in local memory: all arrays of a function are one, its stack; parameters of calls are others.
#[derive(Clone, Copy)]
pub struct LocalVariable {
    pub address: u64,
    pub bytes: u64,
}

/// What an instruction does with registers that may be uninitialised.
#[derive(Default, Clone)]
pub struct Tracking {
    /// Registers (plane or predicate) that are read and must be initialised.
    pub reads: Vec<Tracked>,
    /// Registers that are written.
    pub writes: Vec<Tracked>,
    /// Registers that are written, and initialised whatever the sources are.
    pub sets: Vec<Tracked>,
    /// `mov`: what is written is initialised as far as these are. No other read of them counts.
    pub copies: Vec<Tracked>,
    /// Where not all of `copies` count: how the two sources merge, and which they are where they are tracked.
    pub merge: Option<(Merge, [Option<Tracked>; 2])>,
}

/// What makes an instruction's result initialised although a source is not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// `selp`: the other source is selected.
    Select,
    /// `and` of predicates: the other is false.
    And,
    /// `or` of predicates: the other is true.
    Or,
}

/// A tracked register: index into the masks of initialised lanes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tracked(pub u32);

/// A call of `vprintf` or `__assertfail`: where in local memory the caller has put the arguments, and wants the result.
pub struct SystemCall {
    pub arguments: Vec<u64>,
    pub result: Option<u64>,
}

/// A line that instructions come from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Line {
    pub location: Option<Location>,
}

/// A kernel, ready to run.
pub struct Program {
    pub name: String,
    pub code: Vec<Operation>,
    /// Line in the PTX text of each instruction.
    pub ptx_lines: Vec<u32>,
    pub lines: Vec<Line>,
    /// Path of a file by its number.
    pub files: std::collections::BTreeMap<u32, String>,
    /// Text of the PTX, for reports.
    pub text: std::sync::Arc<str>,
    pub planes: u32,
    pub predicates: u32,
    /// Planes filled before a warp starts, 64 bits or 32.
    pub constants: Vec<(Plane, u64, bool)>,
    pub specials: Vec<(Plane, Special)>,
    pub accesses: Vec<Access>,
    pub tensors: Vec<Tensor>,
    pub tables: Vec<Vec<u32>>,
    pub calls: Vec<SystemCall>,
    pub tracking: std::collections::HashMap<u32, Tracking>,
    /// Names of tracked registers.
    pub tracked: Vec<String>,
    /// Static arrays of shared memory in the order of their addresses; the dynamic one, if any, comes behind them.
    pub shared: Vec<SharedArray>,
    /// Name and address of the dynamic array.
    pub dynamic_shared: Option<(String, u64)>,
    /// Bytes of static shared memory as a card would lay it out.
    pub static_shared: u32,
    /// Bytes of local memory a thread, with the gaps between its variables.
    pub local: u32,
    /// Variables in local memory, by their addresses.
    pub local_variables: Vec<LocalVariable>,
    /// Offset and size of each parameter, and bytes in all.
    pub parameters: Vec<(u64, u64)>,
    pub parameter_bytes: u64,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub max_registers: Option<u32>,
    /// log2 of the bytes that every access to shared and to global memory has at least.
    pub shared_granule: u32,
    pub global_granule: u32,
    /// Strong accesses order what comes before and after them, because the kernel has fences: between blocks, and within one.
    pub fenced: bool,
    pub fenced_block: bool,
}

/// Values that differ between threads or launches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    Warp,
    Warps,
    LaneMaskEqual,
    LaneMaskLess,
    LaneMaskLessEqual,
    LaneMaskGreater,
    LaneMaskGreaterEqual,
    Multiprocessor,
    Multiprocessors,
    DynamicShared,
    TotalShared,
}

/// Addresses in shared memory: each array begins at a multiple of this, so that running over its end is found.
pub const SHARED_STRIDE: u64 = 1 << 17;
/// Where shared memory starts in the generic address space.
pub const SHARED_WINDOW: u64 = 0x7000_0000_0000_0000;
/// Where local memory starts in the generic address space.
pub const LOCAL_WINDOW: u64 = 0x7100_0000_0000_0000;
/// First address of local memory, so that a null pointer is none.
pub const LOCAL_START: u64 = 0x100;
