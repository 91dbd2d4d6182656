//! PTX text, read: what nvcc writes for `compute_75`, as a tree with every name resolved.
//!
//! [`parse`] turns the text of a module into a [`Module`]. It knows PTX's grammar and its scopes, and nothing of what an
//! instruction does: opcodes and their modifiers stay text here and are given a meaning in `program`.
//! Grammar: PTX ISA 9.0, chapters 4 and 5.

mod expression;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

pub use parser::{ParseError, parse};

/// One `.ptx` file.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version 9.0` is (9, 0).
    pub version: (u32, u32),
    /// `.target sm_75` is 75.
    pub target: u32,
    /// Index of `.file` to path.
    pub files: std::collections::BTreeMap<u32, String>,
    /// Module-scope `.global`, `.const` and `.shared` variables, `.extern` ones too.
    pub variables: Vec<Variable>,
    /// `.entry` and `.func`, declarations without a body too (`vprintf`).
    pub functions: Vec<Function>,
}

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    Param,
    Global,
    Const,
    Shared,
    Local,
}

/// A fundamental type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    F32,
    F64,
}

/// A variable of memory.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    /// Bytes; the type's natural alignment where the text gives none.
    pub align: u64,
    /// Of one element.
    pub ty: Type,
    /// Bytes in all, vectors and arrays multiplied out; `None` for `.extern .shared .b8 x[]`.
    pub size: Option<u64>,
    /// The initialiser's bytes, little endian; shorter than `size` where the rest is zero. `None` without an initialiser.
    pub initial: Option<Vec<u8>>,
    /// Places in `initial` that hold the address of another variable.
    pub relocations: Vec<Relocation>,
    pub external: bool,
}

/// The 8 bytes at `offset` of an initialiser are the address of `symbol`, plus `addend`.
#[derive(Debug, Clone)]
pub struct Relocation {
    pub offset: u64,
    pub symbol: String,
    pub addend: i64,
    /// `generic(symbol)`: a generic address, not one within the symbol's space.
    pub generic: bool,
}

/// `.entry` or `.func`.
#[derive(Debug, Clone, Default)]
pub struct Function {
    pub name: String,
    pub entry: bool,
    /// Parameters in order (space `Param`).
    pub parameters: Vec<Variable>,
    /// Return parameters of a `.func`.
    pub returns: Vec<Variable>,
    /// `.maxntid`, missing dimensions 1.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`, missing dimensions 1.
    pub required_threads: Option<[u32; 3]>,
    /// `.maxnreg`
    pub max_registers: Option<u32>,
    /// Every register of the body; an operand holds an index into it. `%p<4>` makes four. Nested scopes have registers of
    /// their own, even under the same names.
    pub registers: Vec<Register>,
    /// `.local`, `.shared` and `.param` variables of the body, nested scopes too. A name that a nested scope declares again
    /// (`param0` of each call sequence), or that a parameter or the module has already, is made unique by a suffix `@2`,
    /// `@3`, .. here and in operands.
    pub variables: Vec<Variable>,
    /// `None` for a declaration.
    pub body: Option<Vec<Statement>>,
    /// Label names as written, so scopes of inline assembly may repeat one; a [`Statement::Label`] and an
    /// [`Operand::Label`] hold an index into it. Labels of `.callprototype` and `.calltargets` are left out.
    pub labels: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Register {
    /// As written: `%r17`.
    pub name: String,
    pub ty: Type,
}

#[derive(Debug, Clone)]
pub enum Statement {
    /// Index into [`Function::labels`].
    Label(u32),
    Instruction(Instruction),
    /// `name: .branchtargets a, b;`, for `brx.idx`: the label that names the table, and its targets.
    BranchTargets(u32, Vec<u32>),
}

#[derive(Debug, Clone)]
pub struct Instruction {
    /// `@p` or `@!p`: register index, and whether it is negated.
    pub predicate: Option<(u32, bool)>,
    /// `ld.global.nc.f32` is `["ld", "global", "nc", "f32"]`; `L1::no_allocate` is one word.
    pub opcode: Vec<String>,
    pub operands: Vec<Operand>,
    /// From the last `.loc` before it; `None` without `-lineinfo`. Where the instruction was inlined, the `.loc`'s own file
    /// and line, and the chain of call sites in `inlined_at`.
    pub location: Option<Location>,
    /// Line in the PTX text, from 1.
    pub line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Index into [`Module::files`].
    pub file: u32,
    pub line: u32,
    /// Outermost call site (file, line) that this was inlined at, if it was: the line in the kernel itself.
    pub inlined_at: Option<(u32, u32)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// Index into [`Function::registers`].
    Register(u32),
    /// `!p` as an operand (`setp` combined with a predicate, `selp`, ..).
    NotRegister(u32),
    /// `%tid.x`, `%laneid`, `%clock64`, ..: as written, with its component.
    Special(String),
    /// Decimal, hexadecimal, octal or binary constants, `WARP_SZ` and constant expressions, as 64 bits (negative numbers in
    /// two's complement).
    Integer(u64),
    /// `0f3F800000`
    Float(u32),
    /// `0d3FF0000000000000`, and decimal constants with a point.
    Double(u64),
    /// A variable's name as a value (its address), with an offset: `mov.u64 %rd1, table+8`. A function's name too, where
    /// its address is taken.
    Symbol(String, i64),
    /// `[%rd1+16]`, `[buffer+4]`, `[64]`
    Address(Base, i64),
    /// `{%r1, %r2}`; elements are registers, immediates or `Sink`.
    Vector(Vec<Operand>),
    /// `%p1|%p2`, `%r1|%p1`
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Sink,
    /// A branch's target: index into [`Function::labels`].
    Label(u32),
    /// The name of the function that a `call` calls. Operands of a call: returns as `Arguments`, the function, parameters as
    /// `Arguments` (both always present, perhaps empty), and a prototype's name is dropped.
    Function(String),
    Arguments(Vec<Operand>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    Register(u32),
    /// A variable (module scope, parameter or the function's own).
    Symbol(String),
    /// An absolute address.
    Absolute,
}

impl Type {
    /// Bytes of one value; a predicate has none.
    pub fn size(self) -> u64 {
        match self {
            Type::Pred => 0,
            Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
        }
    }

    /// `u32` is `Some(Type::U32)`; words that are no type are `None`.
    pub fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "pred" => Type::Pred,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "f32" => Type::F32,
            "f64" => Type::F64,
            _ => return None,
        })
    }
}
