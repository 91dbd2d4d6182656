//! The table of lane-wise instructions: opcode and modifiers to the function that computes them.
//!
//! Each line gives an instruction's operand types and the expression of one lane; [`lanewise`] wraps it in a loop over 32
//! lanes, compiled three times, for AVX-512, AVX2 and the processor that Rust assumes. What a lane computes is in
//! [`crate::arithmetic`]. Instructions: PTX ISA 9.0, section 9.7.

// Comparisons of floating-point numbers are negated, and made with themselves, for what they say of NaN.
#![allow(
    clippy::neg_cmp_op_on_partial_ord,
    clippy::nonminimal_bool,
    clippy::eq_op,
    clippy::double_comparisons
)]

use super::{Class, Compute, Operation};
use crate::arithmetic::{self as math, Integral, Rounding};
use crate::machine::registers::{File, Half, Value};
use crate::ptx::Type;

/// The vector instructions of this processor that compute the lanes; the bits are the same with all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isa {
    Avx512,
    Avx2,
    /// What Rust assumes of every processor.
    Base,
}

impl Isa {
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Base];

    /// Whether this processor has them.
    pub fn supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            // Every feature that the functions of `compute!` are compiled with.
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512cd");
            match self {
                Isa::Avx512 => avx2 && avx512,
                Isa::Avx2 => avx2,
                Isa::Base => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Base
        }
    }

    /// The widest that this processor has.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.supported()).unwrap_or(Isa::Base)
    }
}

/// Where an operand lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A plane of 32 bits a lane.
    Narrow(Type),
    /// A plane of 64 bits a lane.
    Wide(Type),
    Predicate,
}

/// A lane-wise instruction, its meaning chosen.
pub struct Lanewise {
    pub compute: Compute,
    pub destination: Kind,
    pub sources: Vec<Kind>,
    pub class: Class,
    pub flops: u16,
    /// `setp`: a second destination and a predicate to combine with are allowed.
    pub compares: bool,
    pub extra: u32,
    /// Reads, writes the carry.
    pub carry_in: bool,
    pub carry_out: bool,
}

/// The PTX type whose register a Rust type is read from.
trait Operand: Value {
    const KIND: Kind;
}

macro_rules! operands {
    ($($type:ty: $kind:expr;)*) => { $(impl Operand for $type { const KIND: Kind = $kind; })* };
}

operands! {
    u8: Kind::Narrow(Type::U8);
    i8: Kind::Narrow(Type::S8);
    u16: Kind::Narrow(Type::U16);
    i16: Kind::Narrow(Type::S16);
    Half: Kind::Narrow(Type::F16);
    u32: Kind::Narrow(Type::U32);
    i32: Kind::Narrow(Type::S32);
    f32: Kind::Narrow(Type::F32);
    u64: Kind::Wide(Type::U64);
    i64: Kind::Wide(Type::S64);
    f64: Kind::Wide(Type::F64);
}

/// A function over a warp, compiled for each instruction set; `$body` uses `$file`, `$o` and `$active`.
macro_rules! compute {
    ($isa:expr, |$file:ident, $o:ident, $active:ident| $body:expr) => {{
        #[inline(always)]
        unsafe fn body($file: &mut File, $o: &Operation, $active: u32) {
            // SAFETY: the caller's promise (see `Compute`).
            unsafe { $body }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(
            enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
        )]
        unsafe fn avx512(file: &mut File, o: &Operation, active: u32) {
            // SAFETY: the caller's promise.
            unsafe { body(file, o, active) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn avx2(file: &mut File, o: &Operation, active: u32) {
            // SAFETY: the caller's promise.
            unsafe { body(file, o, active) }
        }
        #[cfg(target_arch = "x86_64")]
        let chosen: Compute = match $isa {
            Isa::Avx512 => avx512,
            Isa::Avx2 => avx2,
            Isa::Base => body,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let chosen: Compute = body;
        chosen
    }};
}

/// An instruction of one, two or three sources: `lanewise!(isa, class, flops, |a: f32, b: f32| -> f32 { a + b })`.
macro_rules! lanewise {
    ($isa:expr, $class:ident, $flops:expr, |$a:ident: $A:ty| -> $R:ty { $body:expr }) => {
        Lanewise::new(
            compute!($isa, |file, o, active| file.unary::<$A, $R>(o, active, |$a| $body)),
            <$R as Operand>::KIND,
            vec![<$A as Operand>::KIND],
            Class::$class,
            $flops,
        )
    };
    ($isa:expr, $class:ident, $flops:expr, |$a:ident: $A:ty, $b:ident: $B:ty| -> $R:ty { $body:expr }) => {
        Lanewise::new(
            compute!($isa, |file, o, active| file.binary::<$A, $B, $R>(o, active, |$a, $b| $body)),
            <$R as Operand>::KIND,
            vec![<$A as Operand>::KIND, <$B as Operand>::KIND],
            Class::$class,
            $flops,
        )
    };
    ($isa:expr, $class:ident, $flops:expr, |$a:ident: $A:ty, $b:ident: $B:ty, $c:ident: $C:ty| -> $R:ty { $body:expr }) => {
        Lanewise::new(
            compute!($isa, |file, o, active| file.ternary::<$A, $B, $C, $R>(o, active, |$a, $b, $c| $body)),
            <$R as Operand>::KIND,
            vec![<$A as Operand>::KIND, <$B as Operand>::KIND, <$C as Operand>::KIND],
            Class::$class,
            $flops,
        )
    };
}

/// Instantiates an expression for a rounding mode that is known when decoding.
macro_rules! by_rounding {
    ($rounding:expr, $R:ident => $body:expr) => {
        match $rounding {
            Rounding::Nearest => {
                const $R: Rounding = Rounding::Nearest;
                $body
            }
            Rounding::Zero => {
                const $R: Rounding = Rounding::Zero;
                $body
            }
            Rounding::Down => {
                const $R: Rounding = Rounding::Down;
                $body
            }
            Rounding::Up => {
                const $R: Rounding = Rounding::Up;
                $body
            }
        }
    };
}

/// Instantiates an expression for a flag that is known when decoding.
macro_rules! by_flag {
    ($flag:expr, $F:ident => $body:expr) => {
        if $flag {
            const $F: bool = true;
            $body
        } else {
            const $F: bool = false;
            $body
        }
    };
}

/// The same instruction for integer types of several widths.
macro_rules! by_type {
    ($ty:expr, $T:ident in [$($variant:pat => $type:ty),* $(,)?] => $body:expr) => {
        match $ty {
            $($variant => {
                type $T = $type;
                Some($body)
            })*
            _ => None,
        }
    };
}

impl Lanewise {
    fn new(compute: Compute, destination: Kind, sources: Vec<Kind>, class: Class, flops: u16) -> Lanewise {
        Lanewise {
            compute,
            destination,
            sources,
            class,
            flops,
            compares: false,
            extra: 0,
            carry_in: false,
            carry_out: false,
        }
    }
}

/// An opcode's modifiers, taken apart as they are recognised; what is left over is not understood.
pub struct Modifiers<'a> {
    words: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    pub fn new(words: &'a [String]) -> Modifiers<'a> {
        Modifiers { words: words.iter().map(String::as_str).collect() }
    }

    /// Takes a word away if it is there.
    pub fn take(&mut self, word: &str) -> bool {
        let place = self.words.iter().position(|w| *w == word);
        if let Some(place) = place {
            self.words.remove(place);
        }
        place.is_some()
    }

    /// Takes the first of several words that is there.
    pub fn take_any<T: Copy>(&mut self, words: &[(&str, T)]) -> Option<T> {
        words.iter().find(|(word, _)| self.take(word)).map(|(_, value)| *value)
    }

    /// Takes the first type.
    pub fn take_type(&mut self) -> Option<Type> {
        let place = self.words.iter().position(|w| Type::parse(w).is_some())?;
        Type::parse(self.words.remove(place))
    }

    /// Takes a rounding mode of floating point.
    fn rounding(&mut self) -> Option<Rounding> {
        self.take_any(&[
            ("rn", Rounding::Nearest),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
        ])
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub fn contains(&self, word: &str) -> bool {
        self.words.contains(&word)
    }
}

/// Subnormals to zero, where `.ftz` says so.
#[inline(always)]
fn flush<const FTZ: bool>(x: f32) -> f32 {
    if FTZ { math::flush(x) } else { x }
}

/// A result of f32: flushed, clamped, and NaN as the card writes it.
#[inline(always)]
fn finish<const FTZ: bool, const SAT: bool>(x: f32) -> f32 {
    let x = flush::<FTZ>(x);
    if SAT { math::saturate_f32(x) } else { math::canonical_f32(x) }
}

#[inline(always)]
fn flush_half<const FTZ: bool>(x: Half) -> u16 {
    if FTZ { math::flush_f16(x.0) } else { x.0 }
}

#[inline(always)]
fn finish_half<const FTZ: bool, const SAT: bool>(bits: u16) -> Half {
    let bits = if FTZ { math::flush_f16(bits) } else { bits };
    Half(if SAT { math::saturate_f16(bits) } else { bits })
}

/// The two halves of a register.
#[inline(always)]
fn halves(x: u32) -> (Half, Half) {
    (Half(x as u16), Half((x >> 16) as u16))
}

#[inline(always)]
fn join(low: Half, high: Half) -> u32 {
    low.0 as u32 | (high.0 as u32) << 16
}

/// The function of a lane-wise instruction, or `None` where the opcode is none or has modifiers that are not modelled.
pub fn select(opcode: &[String], isa: Isa) -> Option<Lanewise> {
    let mut m = Modifiers::new(&opcode[1..]);
    let chosen = match opcode[0].as_str() {
        "add" | "sub" => add(&mut m, isa, opcode[0] == "sub"),
        "addc" | "subc" => carry(&mut m, isa, opcode[0] == "subc", true),
        "mul" => multiply(&mut m, isa),
        "mul24" | "mad24" => multiply24(&mut m, isa, opcode[0] == "mad24"),
        "mad" => multiply_add(&mut m, isa),
        "fma" => fused(&mut m, isa),
        "div" => divide(&mut m, isa),
        "rem" => remainder(&mut m, isa),
        "abs" | "neg" => sign(&mut m, isa, opcode[0] == "neg"),
        "min" | "max" => extreme(&mut m, isa, opcode[0] == "max"),
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => {
            special(opcode[0].as_str(), &mut m, isa)
        }
        "copysign" => match m.take_type()? {
            Type::F32 => Some(lanewise!(isa, F32, 0, |a: u32, b: u32| -> u32 {
                (a & 0x8000_0000) | (b & 0x7fff_ffff)
            })),
            Type::F64 => {
                Some(lanewise!(isa, F64, 0, |a: u64, b: u64| -> u64 { (a & 1 << 63) | (b & !(1 << 63)) }))
            }
            _ => None,
        },
        "testp" => test(&mut m, isa),
        "and" | "or" | "xor" | "not" | "cnot" => logic(opcode[0].as_str(), &mut m, isa),
        "shl" => by_type!(m.take_type()?, T in [Type::B16 => u16, Type::B32 => u32, Type::B64 => u64] =>
            lanewise!(isa, Logic, 0, |a: T, b: u32| -> T { if b < T::BITS { a << (b % T::BITS) } else { 0 } })),
        "shr" => {
            by_type!(m.take_type()?, T in [Type::B16 | Type::U16 => u16, Type::B32 | Type::U32 => u32, Type::B64 | Type::U64 => u64,
            Type::S16 => i16, Type::S32 => i32, Type::S64 => i64] =>
            lanewise!(isa, Logic, 0, |a: T, b: u32| -> T { math::shift_right(a, b) }))
        }
        "shf" => funnel(&mut m, isa),
        "lop3" => {
            m.take("b32").then_some(())?;
            let compute = compute!(isa, |file, o, active| {
                let table = o.extra as u8;
                file.ternary::<u32, u32, u32, u32>(o, active, |a, b, c| math::lop3(a, b, c, table))
            });
            let kind = Kind::Narrow(Type::B32);
            Some(Lanewise::new(compute, kind, vec![kind; 3], Class::Logic, 0))
        }
        "prmt" => {
            m.take("b32").then_some(())?;
            let mode = m.take_any(&[
                ("f4e", math::Permute::Forward4),
                ("b4e", math::Permute::Backward4),
                ("rc8", math::Permute::Replicate8),
                ("ecl", math::Permute::EdgeClampLeft),
                ("ecr", math::Permute::EdgeClampRight),
                ("rc16", math::Permute::Replicate16),
            ]);
            Some(match mode {
                None => lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 { math::prmt(a, b, c) }),
                Some(math::Permute::Forward4) => {
                    lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 {
                        math::prmt_mode(a, b, c, math::Permute::Forward4)
                    })
                }
                Some(math::Permute::Backward4) => {
                    lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 {
                        math::prmt_mode(a, b, c, math::Permute::Backward4)
                    })
                }
                Some(math::Permute::Replicate8) => {
                    lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 {
                        math::prmt_mode(a, b, c, math::Permute::Replicate8)
                    })
                }
                Some(math::Permute::EdgeClampLeft) => {
                    lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 {
                        math::prmt_mode(a, b, c, math::Permute::EdgeClampLeft)
                    })
                }
                Some(math::Permute::EdgeClampRight) => {
                    lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 {
                        math::prmt_mode(a, b, c, math::Permute::EdgeClampRight)
                    })
                }
                Some(math::Permute::Replicate16) => {
                    lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 {
                        math::prmt_mode(a, b, c, math::Permute::Replicate16)
                    })
                }
            })
        }
        "bfe" => match m.take_type()? {
            Type::U32 => {
                Some(lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 { math::bfe_u32(a, b, c) }))
            }
            Type::S32 => {
                Some(lanewise!(isa, Logic, 0, |a: i32, b: u32, c: u32| -> i32 { math::bfe_s32(a, b, c) }))
            }
            Type::U64 => {
                Some(lanewise!(isa, Logic, 0, |a: u64, b: u32, c: u32| -> u64 { math::bfe_u64(a, b, c) }))
            }
            Type::S64 => {
                Some(lanewise!(isa, Logic, 0, |a: i64, b: u32, c: u32| -> i64 { math::bfe_s64(a, b, c) }))
            }
            _ => None,
        },
        "bfi" => insert(&mut m, isa),
        "bmsk" => {
            let clamp = m.take_any(&[("clamp", true), ("wrap", false)])?;
            match m.take_type()? {
                Type::B32 => Some(by_flag!(clamp, CLAMP => {
                    lanewise!(isa, Logic, 0, |a: u32, b: u32| -> u32 { math::bmsk(a, b, CLAMP) })
                })),
                _ => None,
            }
        }
        "szext" => {
            let clamp = m.take_any(&[("clamp", true), ("wrap", false)])?;
            match m.take_type()? {
                Type::U32 => Some(by_flag!(clamp, CLAMP => {
                    lanewise!(isa, Logic, 0, |a: u32, b: u32| -> u32 { math::bfe_u32(a, 0, math::field_width(b, CLAMP)) })
                })),
                Type::S32 => Some(by_flag!(clamp, CLAMP => {
                    lanewise!(isa, Logic, 0, |a: i32, b: u32| -> i32 { math::bfe_s32(a, 0, math::field_width(b, CLAMP)) })
                })),
                _ => None,
            }
        }
        "bfind" => find_bit(&mut m, isa),
        "popc" => match m.take_type()? {
            Type::B32 => Some(lanewise!(isa, Logic, 0, |a: u32| -> u32 { a.count_ones() })),
            Type::B64 => Some(lanewise!(isa, Logic, 0, |a: u64| -> u32 { a.count_ones() })),
            _ => None,
        },
        "clz" => match m.take_type()? {
            Type::B32 => Some(lanewise!(isa, Logic, 0, |a: u32| -> u32 { a.leading_zeros() })),
            Type::B64 => Some(lanewise!(isa, Logic, 0, |a: u64| -> u32 { a.leading_zeros() })),
            _ => None,
        },
        "brev" => by_type!(m.take_type()?, T in [Type::B32 => u32, Type::B64 => u64] =>
            lanewise!(isa, Logic, 0, |a: T| -> T { a.reverse_bits() })),
        "sad" => {
            by_type!(m.take_type()?, T in [Type::U16 => u16, Type::S16 => i16, Type::U32 => u32, Type::S32 => i32,
            Type::U64 => u64, Type::S64 => i64] =>
            lanewise!(isa, Integer, 0, |a: T, b: T, c: T| -> T { c.wrapping_add(if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) }) }))
        }
        "dp4a" => dot4(&mut m, isa),
        "dp2a" => dot2(&mut m, isa),
        "setp" => compare(&mut m, isa),
        "set" => set(&mut m, isa),
        "selp" => select_predicate(&mut m, isa),
        "slct" => select_sign(&mut m, isa),
        "cvt" => convert(&mut m, isa),
        _ => None,
    }?;
    m.is_empty().then_some(chosen)
}

fn add(m: &mut Modifiers, isa: Isa, subtract: bool) -> Option<Lanewise> {
    if m.contains("cc") {
        return carry(m, isa, subtract, false);
    }
    let rounding = m.rounding();
    let (ftz, sat) = (m.take("ftz"), m.take("sat"));
    let ty = m.take_type()?;
    let float = matches!(ty, Type::F32 | Type::F64 | Type::F16 | Type::F16x2);
    if !float && (rounding.is_some() || ftz)
        || ty == Type::F64 && (ftz || sat)
        || sat && !float && ty != Type::S32
    {
        return None;
    }
    let rounding = rounding.unwrap_or(Rounding::Nearest);
    match ty {
        Type::F32 => Some(
            by_rounding!(rounding, R => by_flag!(ftz, FTZ => by_flag!(sat, SAT => by_flag!(subtract, SUBTRACT =>
            lanewise!(isa, F32, 1, |a: f32, b: f32| -> f32 {
                finish::<FTZ, SAT>(math::add_f32(flush::<FTZ>(a), if SUBTRACT { -flush::<FTZ>(b) } else { flush::<FTZ>(b) }, R))
            }))))),
        ),
        Type::F64 => Some(by_rounding!(rounding, R => by_flag!(subtract, SUBTRACT =>
            lanewise!(isa, F64, 1, |a: f64, b: f64| -> f64 { math::add_f64(a, if SUBTRACT { -b } else { b }, R) })))),
        Type::F16 if rounding == Rounding::Nearest => {
            Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT => by_flag!(subtract, SUBTRACT =>
            lanewise!(isa, F16, 1, |a: Half, b: Half| -> Half { half_add::<FTZ, SAT, SUBTRACT>(a, b) })))))
        }
        Type::F16x2 if rounding == Rounding::Nearest => {
            Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT => by_flag!(subtract, SUBTRACT =>
            lanewise!(isa, F16, 2, |a: u32, b: u32| -> u32 {{
                let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
                join(half_add::<FTZ, SAT, SUBTRACT>(a0, b0), half_add::<FTZ, SAT, SUBTRACT>(a1, b1))
            }})))))
        }
        Type::S32 if sat => {
            Some(by_flag!(subtract, SUBTRACT => lanewise!(isa, Integer, 0, |a: i32, b: i32| -> i32 {
                if SUBTRACT { a.saturating_sub(b) } else { a.saturating_add(b) }
            })))
        }
        _ => {
            by_type!(ty, T in [Type::U16 | Type::S16 | Type::B16 => u16, Type::U32 | Type::S32 | Type::B32 => u32,
            Type::U64 | Type::S64 | Type::B64 => u64] => by_flag!(subtract, SUBTRACT =>
            lanewise!(isa, Integer, 0, |a: T, b: T| -> T { if SUBTRACT { a.wrapping_sub(b) } else { a.wrapping_add(b) } })))
        }
    }
}

#[inline(always)]
fn half_add<const FTZ: bool, const SAT: bool, const SUBTRACT: bool>(a: Half, b: Half) -> Half {
    let (a, b) = (flush_half::<FTZ>(a), flush_half::<FTZ>(b));
    finish_half::<FTZ, SAT>(math::add_f16(a, if SUBTRACT { b ^ 0x8000 } else { b }))
}

/// `add.cc`, `addc`, `sub.cc`, `subc`: the carry is predicate `c` coming in and `d2` going out.
fn carry(m: &mut Modifiers, isa: Isa, subtract: bool, carry_in: bool) -> Option<Lanewise> {
    let carry_out = m.take("cc");
    let ty = m.take_type()?;
    let mut chosen = by_type!(ty, T in [Type::U32 | Type::S32 | Type::B32 => u32, Type::U64 | Type::S64 | Type::B64 => u64] =>
    by_flag!(subtract, SUBTRACT => {
        let compute = compute!(isa, |file, o, active| {
            let carries = if o.extra != 0 { file.predicate(o.c) } else { 0 };
            let (a, b) = (*file.lanes::<T>(o.a), *file.lanes::<T>(o.b));
            let mut out = [0 as T; 32];
            let mut carried = 0u32;
            for lane in 0..32 {
                // Subtraction borrows: the carry flag holds the borrow.
                let c = (carries >> lane & 1) as T;
                let (first, one) = if SUBTRACT { a[lane].overflowing_sub(b[lane]) } else { a[lane].overflowing_add(b[lane]) };
                let (second, two) = if SUBTRACT { first.overflowing_sub(c) } else { first.overflowing_add(c) };
                out[lane] = second;
                carried |= ((one | two) as u32) << lane;
            }
            file.store::<T>(o.d, &out, active);
            file.set_predicate(o.d2, carried, active);
        });
        Lanewise::new(compute, <T as Operand>::KIND, vec![<T as Operand>::KIND; 2], Class::Integer, 0)
    }))?;
    chosen.extra = carry_in as u32;
    chosen.carry_in = carry_in;
    chosen.carry_out = carry_out;
    Some(chosen)
}

fn multiply(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    if m.take("wide") {
        return match m.take_type()? {
            Type::U16 => Some(lanewise!(isa, Integer, 0, |a: u16, b: u16| -> u32 { a as u32 * b as u32 })),
            Type::S16 => Some(lanewise!(isa, Integer, 0, |a: i16, b: i16| -> i32 { a as i32 * b as i32 })),
            Type::U32 => Some(lanewise!(isa, Integer, 0, |a: u32, b: u32| -> u64 { a as u64 * b as u64 })),
            Type::S32 => Some(lanewise!(isa, Integer, 0, |a: i32, b: i32| -> i64 { a as i64 * b as i64 })),
            _ => None,
        };
    }
    if m.take("lo") {
        return by_type!(m.take_type()?, T in [Type::U16 | Type::S16 => u16, Type::U32 | Type::S32 => u32, Type::U64 | Type::S64 => u64] =>
            lanewise!(isa, Integer, 0, |a: T, b: T| -> T { a.wrapping_mul(b) }));
    }
    if m.take("hi") {
        return match m.take_type()? {
            Type::U16 => Some(lanewise!(isa, Integer, 0, |a: u16, b: u16| -> u16 {
                ((a as u32 * b as u32) >> 16) as u16
            })),
            Type::S16 => Some(lanewise!(isa, Integer, 0, |a: i16, b: i16| -> i16 {
                ((a as i32 * b as i32) >> 16) as i16
            })),
            Type::U32 => Some(lanewise!(isa, Integer, 0, |a: u32, b: u32| -> u32 {
                ((a as u64 * b as u64) >> 32) as u32
            })),
            Type::S32 => Some(lanewise!(isa, Integer, 0, |a: i32, b: i32| -> i32 {
                ((a as i64 * b as i64) >> 32) as i32
            })),
            Type::U64 => Some(lanewise!(isa, Integer, 0, |a: u64, b: u64| -> u64 {
                ((a as u128 * b as u128) >> 64) as u64
            })),
            Type::S64 => Some(lanewise!(isa, Integer, 0, |a: i64, b: i64| -> i64 {
                ((a as i128 * b as i128) >> 64) as i64
            })),
            _ => None,
        };
    }
    let rounding = m.rounding().unwrap_or(Rounding::Nearest);
    let (ftz, sat) = (m.take("ftz"), m.take("sat"));
    match m.take_type()? {
        Type::F32 => Some(by_rounding!(rounding, R => by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
        lanewise!(isa, F32, 1, |a: f32, b: f32| -> f32 {
            finish::<FTZ, SAT>(math::mul_f32(flush::<FTZ>(a), flush::<FTZ>(b), R))
        }))))),
        Type::F64 if !ftz && !sat => Some(by_rounding!(rounding, R =>
            lanewise!(isa, F64, 1, |a: f64, b: f64| -> f64 { math::mul_f64(a, b, R) }))),
        Type::F16 if rounding == Rounding::Nearest => Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
            lanewise!(isa, F16, 1, |a: Half, b: Half| -> Half { half_mul::<FTZ, SAT>(a, b) })))),
        Type::F16x2 if rounding == Rounding::Nearest => Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
        lanewise!(isa, F16, 2, |a: u32, b: u32| -> u32 {{
            let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
            join(half_mul::<FTZ, SAT>(a0, b0), half_mul::<FTZ, SAT>(a1, b1))
        }})))),
        _ => None,
    }
}

#[inline(always)]
fn half_mul<const FTZ: bool, const SAT: bool>(a: Half, b: Half) -> Half {
    finish_half::<FTZ, SAT>(math::mul_f16(flush_half::<FTZ>(a), flush_half::<FTZ>(b)))
}

fn multiply24(m: &mut Modifiers, isa: Isa, add: bool) -> Option<Lanewise> {
    let low = m.take("lo");
    if !low && !m.take("hi") {
        return None;
    }
    let ty = m.take_type()?;
    match (ty, add) {
        (Type::U32, false) => Some(
            by_flag!(low, LOW => lanewise!(isa, Integer, 0, |a: u32, b: u32| -> u32 { math::mul24_u32(a, b, LOW) })),
        ),
        (Type::S32, false) => Some(
            by_flag!(low, LOW => lanewise!(isa, Integer, 0, |a: i32, b: i32| -> i32 { math::mul24_s32(a, b, LOW) })),
        ),
        (Type::U32, true) => {
            Some(by_flag!(low, LOW => lanewise!(isa, Integer, 0, |a: u32, b: u32, c: u32| -> u32 {
                math::mul24_u32(a, b, LOW).wrapping_add(c)
            })))
        }
        (Type::S32, true) => {
            Some(by_flag!(low, LOW => lanewise!(isa, Integer, 0, |a: i32, b: i32, c: i32| -> i32 {
                math::mul24_s32(a, b, LOW).wrapping_add(c)
            })))
        }
        _ => None,
    }
}

fn multiply_add(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    if m.take("wide") {
        return match m.take_type()? {
            Type::U16 => Some(lanewise!(isa, Integer, 0, |a: u16, b: u16, c: u32| -> u32 {
                (a as u32 * b as u32).wrapping_add(c)
            })),
            Type::S16 => Some(lanewise!(isa, Integer, 0, |a: i16, b: i16, c: i32| -> i32 {
                (a as i32 * b as i32).wrapping_add(c)
            })),
            Type::U32 => Some(lanewise!(isa, Integer, 0, |a: u32, b: u32, c: u64| -> u64 {
                (a as u64 * b as u64).wrapping_add(c)
            })),
            Type::S32 => Some(lanewise!(isa, Integer, 0, |a: i32, b: i32, c: i64| -> i64 {
                (a as i64 * b as i64).wrapping_add(c)
            })),
            _ => None,
        };
    }
    if m.take("lo") {
        return by_type!(m.take_type()?, T in [Type::U16 | Type::S16 => u16, Type::U32 | Type::S32 => u32, Type::U64 | Type::S64 => u64] =>
            lanewise!(isa, Integer, 0, |a: T, b: T, c: T| -> T { a.wrapping_mul(b).wrapping_add(c) }));
    }
    if m.take("hi") {
        let sat = m.take("sat");
        return match m.take_type()? {
            Type::S32 if sat => Some(lanewise!(isa, Integer, 0, |a: i32, b: i32, c: i32| -> i32 {
                (((a as i64 * b as i64) >> 32) as i32).saturating_add(c)
            })),
            _ if sat => None,
            Type::U32 => Some(lanewise!(isa, Integer, 0, |a: u32, b: u32, c: u32| -> u32 {
                (((a as u64 * b as u64) >> 32) as u32).wrapping_add(c)
            })),
            Type::S32 => Some(lanewise!(isa, Integer, 0, |a: i32, b: i32, c: i32| -> i32 {
                (((a as i64 * b as i64) >> 32) as i32).wrapping_add(c)
            })),
            Type::U64 => Some(lanewise!(isa, Integer, 0, |a: u64, b: u64, c: u64| -> u64 {
                (((a as u128 * b as u128) >> 64) as u64).wrapping_add(c)
            })),
            Type::S64 => Some(lanewise!(isa, Integer, 0, |a: i64, b: i64, c: i64| -> i64 {
                (((a as i128 * b as i128) >> 64) as i64).wrapping_add(c)
            })),
            _ => None,
        };
    }
    // On sm_20 and later mad of floating point is fma.
    fused(m, isa)
}

fn fused(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let rounding = m.rounding()?;
    let (ftz, sat, relu) = (m.take("ftz"), m.take("sat"), m.take("relu"));
    if relu {
        return None;
    }
    match m.take_type()? {
        Type::F32 => Some(by_rounding!(rounding, R => by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
        lanewise!(isa, F32, 2, |a: f32, b: f32, c: f32| -> f32 {
            finish::<FTZ, SAT>(math::fma_f32(flush::<FTZ>(a), flush::<FTZ>(b), flush::<FTZ>(c), R))
        }))))),
        Type::F64 if !ftz && !sat && rounding == Rounding::Nearest => {
            Some(lanewise!(isa, F64, 2, |a: f64, b: f64, c: f64| -> f64 { math::fma_f64(a, b, c) }))
        }
        Type::F16 if rounding == Rounding::Nearest => Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
            lanewise!(isa, F16, 2, |a: Half, b: Half, c: Half| -> Half { half_fma::<FTZ, SAT>(a, b, c) })))),
        Type::F16x2 if rounding == Rounding::Nearest => Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
        lanewise!(isa, F16, 4, |a: u32, b: u32, c: u32| -> u32 {{
            let ((a0, a1), (b0, b1), (c0, c1)) = (halves(a), halves(b), halves(c));
            join(half_fma::<FTZ, SAT>(a0, b0, c0), half_fma::<FTZ, SAT>(a1, b1, c1))
        }})))),
        _ => None,
    }
}

#[inline(always)]
fn half_fma<const FTZ: bool, const SAT: bool>(a: Half, b: Half, c: Half) -> Half {
    finish_half::<FTZ, SAT>(math::fma_f16(flush_half::<FTZ>(a), flush_half::<FTZ>(b), flush_half::<FTZ>(c)))
}

fn divide(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let (approx, full) = (m.take("approx"), m.take("full"));
    let rounding = m.rounding();
    if rounding.is_some() && (approx || full) {
        return None;
    }
    let ftz = m.take("ftz");
    let ty = m.take_type()?;
    match ty {
        Type::F32 if approx => {
            Some(by_flag!(ftz, FTZ => lanewise!(isa, Special, 1, |a: f32, b: f32| -> f32 {
                finish::<FTZ, false>(math::div_approx(flush::<FTZ>(a), flush::<FTZ>(b)))
            })))
        }
        Type::F32 if full => Some(by_flag!(ftz, FTZ => lanewise!(isa, Special, 1, |a: f32, b: f32| -> f32 {
            finish::<FTZ, false>(math::div_full(flush::<FTZ>(a), flush::<FTZ>(b)))
        }))),
        Type::F32 => Some(
            by_rounding!(rounding?, R => by_flag!(ftz, FTZ => lanewise!(isa, F32, 1, |a: f32, b: f32| -> f32 {
                finish::<FTZ, false>(math::div_f32(flush::<FTZ>(a), flush::<FTZ>(b), R))
            }))),
        ),
        Type::F64 if !ftz && rounding == Some(Rounding::Nearest) => {
            Some(lanewise!(isa, F64, 1, |a: f64, b: f64| -> f64 { math::div_f64(a, b) }))
        }
        _ if rounding.is_some() || ftz || approx || full => None,
        _ => {
            by_type!(ty, T in [Type::U16 => u16, Type::S16 => i16, Type::U32 => u32, Type::S32 => i32, Type::U64 => u64, Type::S64 => i64] =>
            lanewise!(isa, Integer, 0, |a: T, b: T| -> T { math::divide(a, b) }))
        }
    }
}

fn remainder(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    by_type!(m.take_type()?, T in [Type::U16 => u16, Type::S16 => i16, Type::U32 => u32, Type::S32 => i32, Type::U64 => u64,
        Type::S64 => i64] =>
        lanewise!(isa, Integer, 0, |a: T, b: T| -> T { math::remainder(a, b) }))
}

fn sign(m: &mut Modifiers, isa: Isa, negate: bool) -> Option<Lanewise> {
    let ftz = m.take("ftz");
    let ty = m.take_type()?;
    match ty {
        // The sign bit alone changes, of NaN too: abs and neg of NaN are documented as unspecified NaN.
        Type::F32 => Some(by_flag!(negate, NEGATE => by_flag!(ftz, FTZ =>
            lanewise!(isa, F32, 0, |a: f32| -> f32 { if NEGATE { -flush::<FTZ>(a) } else { flush::<FTZ>(a).abs() } })))),
        Type::F64 if !ftz => Some(
            by_flag!(negate, NEGATE => lanewise!(isa, F64, 0, |a: f64| -> f64 { if NEGATE { -a } else { a.abs() } })),
        ),
        Type::F16 => {
            Some(by_flag!(negate, NEGATE => by_flag!(ftz, FTZ => lanewise!(isa, F16, 0, |a: Half| -> Half {{
                let a = flush_half::<FTZ>(a);
                Half(if NEGATE { a ^ 0x8000 } else { a & 0x7fff })
            }}))))
        }
        Type::F16x2 => {
            Some(by_flag!(negate, NEGATE => by_flag!(ftz, FTZ => lanewise!(isa, F16, 0, |a: u32| -> u32 {{
                let (low, high) = halves(a);
                let a = join(Half(flush_half::<FTZ>(low)), Half(flush_half::<FTZ>(high)));
                if NEGATE { a ^ 0x8000_8000 } else { a & 0x7fff_7fff }
            }}))))
        }
        _ if ftz => None,
        _ => {
            by_type!(ty, T in [Type::S16 => i16, Type::S32 => i32, Type::S64 => i64] => by_flag!(negate, NEGATE =>
            lanewise!(isa, Integer, 0, |a: T| -> T { if NEGATE { a.wrapping_neg() } else { a.wrapping_abs() } })))
        }
    }
}

fn extreme(m: &mut Modifiers, isa: Isa, maximum: bool) -> Option<Lanewise> {
    let ftz = m.take("ftz");
    let ty = m.take_type()?;
    match ty {
        Type::F32 => Some(
            by_flag!(maximum, MAX => by_flag!(ftz, FTZ => lanewise!(isa, F32, 1, |a: f32, b: f32| -> f32 {
                if MAX { math::max_f32(flush::<FTZ>(a), flush::<FTZ>(b)) } else { math::min_f32(flush::<FTZ>(a), flush::<FTZ>(b)) }
            }))),
        ),
        Type::F64 if !ftz => Some(by_flag!(maximum, MAX => lanewise!(isa, F64, 1, |a: f64, b: f64| -> f64 {
            if MAX { math::max_f64(a, b) } else { math::min_f64(a, b) }
        }))),
        // Of f16 they are sm_80's, as is `.NaN`.
        Type::F16 | Type::F16x2 | Type::F64 => None,
        _ if ftz => None,
        _ => {
            by_type!(ty, T in [Type::U16 => u16, Type::S16 => i16, Type::U32 => u32, Type::S32 => i32, Type::U64 => u64, Type::S64 => i64] =>
            by_flag!(maximum, MAX => lanewise!(isa, Integer, 0, |a: T, b: T| -> T { if MAX { a.max(b) } else { a.min(b) } })))
        }
    }
}

fn special(opcode: &str, m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let approx = m.take("approx");
    let rounding = m.rounding();
    if rounding.is_some() && approx {
        return None;
    }
    let ftz = m.take("ftz");
    let ty = m.take_type()?;
    macro_rules! approximate {
        ($f:path) => {
            Some(by_flag!(ftz, FTZ => lanewise!(isa, Special, 1, |a: f32| -> f32 { finish::<FTZ, false>($f(flush::<FTZ>(a))) })))
        };
    }
    match (opcode, ty) {
        ("rcp", Type::F32) if approx => approximate!(math::rcp_approx),
        ("rcp", Type::F32) => {
            Some(by_rounding!(rounding?, R => by_flag!(ftz, FTZ => lanewise!(isa, F32, 1, |a: f32| -> f32 {
                finish::<FTZ, false>(math::div_f32(1.0, flush::<FTZ>(a), R))
            }))))
        }
        ("rcp", Type::F64) if approx && ftz => {
            Some(lanewise!(isa, F64, 1, |a: f64| -> f64 { math::rcp_approx_f64(a) }))
        }
        ("rcp", Type::F64) if !ftz && rounding == Some(Rounding::Nearest) => {
            Some(lanewise!(isa, F64, 1, |a: f64| -> f64 { math::div_f64(1.0, a) }))
        }
        ("sqrt", Type::F32) if approx => approximate!(math::sqrt_approx),
        ("sqrt", Type::F32) => {
            Some(by_rounding!(rounding?, R => by_flag!(ftz, FTZ => lanewise!(isa, F32, 1, |a: f32| -> f32 {
                finish::<FTZ, false>(math::sqrt_f32(flush::<FTZ>(a), R))
            }))))
        }
        ("sqrt", Type::F64) if !ftz && rounding == Some(Rounding::Nearest) => {
            Some(lanewise!(isa, F64, 1, |a: f64| -> f64 { math::sqrt_f64(a) }))
        }
        ("rsqrt", Type::F32) if approx => approximate!(math::rsqrt_approx),
        ("rsqrt", Type::F64) if approx && ftz => {
            Some(lanewise!(isa, F64, 1, |a: f64| -> f64 { math::rsqrt_approx_ftz_f64(a) }))
        }
        ("rsqrt", Type::F64) if approx => {
            Some(lanewise!(isa, F64, 1, |a: f64| -> f64 { math::rsqrt_approx_f64(a) }))
        }
        ("sin", Type::F32) if approx => approximate!(math::sin_approx),
        ("cos", Type::F32) if approx => approximate!(math::cos_approx),
        ("lg2", Type::F32) if approx => approximate!(math::lg2_approx),
        ("ex2", Type::F32) if approx => approximate!(math::ex2_approx),
        ("tanh", Type::F32) if approx && !ftz => approximate!(math::tanh_approx),
        ("tanh", Type::F16) if approx && !ftz => {
            Some(lanewise!(isa, Special, 1, |a: Half| -> Half { Half(math::tanh_approx_f16(a.0)) }))
        }
        ("ex2", Type::F16) if approx && !ftz => {
            Some(lanewise!(isa, Special, 1, |a: Half| -> Half { Half(math::ex2_approx_f16(a.0)) }))
        }
        ("tanh", Type::F16x2) if approx && !ftz => Some(lanewise!(isa, Special, 2, |a: u32| -> u32 {
            {
                let (low, high) = halves(a);
                join(Half(math::tanh_approx_f16(low.0)), Half(math::tanh_approx_f16(high.0)))
            }
        })),
        ("ex2", Type::F16x2) if approx && !ftz => Some(lanewise!(isa, Special, 2, |a: u32| -> u32 {
            {
                let (low, high) = halves(a);
                join(Half(math::ex2_approx_f16(low.0)), Half(math::ex2_approx_f16(high.0)))
            }
        })),
        _ => None,
    }
}

/// A predicate from one source: `testp`.
fn test(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    #[derive(Clone, Copy)]
    enum Test {
        Finite,
        Infinite,
        Number,
        NotANumber,
        Normal,
        Subnormal,
    }
    let test = m.take_any(&[
        ("finite", Test::Finite),
        ("infinite", Test::Infinite),
        ("number", Test::Number),
        ("notanumber", Test::NotANumber),
        ("normal", Test::Normal),
        ("subnormal", Test::Subnormal),
    ])?;
    macro_rules! with {
        ($T:ty, $f:expr) => {{
            // The comparison's second source is the first again: `testp` has one.
            let compute = compute!(isa, |file, o, active| {
                let a = *file.lanes::<<$T as Value>::Stored>(o.a);
                let mut mask = 0;
                for lane in 0..32 {
                    let f: fn($T) -> bool = $f;
                    mask |= (f(<$T as Value>::load(a[lane])) as u32) << lane;
                }
                file.set_predicate(o.d, mask, active)
            });
            Some(Lanewise::new(compute, Kind::Predicate, vec![<$T as Operand>::KIND], Class::Compare, 0))
        }};
    }
    macro_rules! both {
        ($ty:expr, $f:ident) => {
            match $ty {
                Type::F32 => with!(f32, |a| $f!(a)),
                Type::F64 => with!(f64, |a| $f!(a)),
                _ => None,
            }
        };
    }
    macro_rules! finite {
        ($a:ident) => {
            $a.is_finite()
        };
    }
    macro_rules! infinite {
        ($a:ident) => {
            $a.is_infinite()
        };
    }
    macro_rules! number {
        ($a:ident) => {
            !$a.is_nan()
        };
    }
    macro_rules! not_a_number {
        ($a:ident) => {
            $a.is_nan()
        };
    }
    macro_rules! normal {
        ($a:ident) => {
            // Zeros count as normal.
            ($a.is_normal() || $a == 0.0)
        };
    }
    macro_rules! subnormal {
        ($a:ident) => {
            $a.is_subnormal()
        };
    }
    let ty = m.take_type()?;
    match test {
        Test::Finite => both!(ty, finite),
        Test::Infinite => both!(ty, infinite),
        Test::Number => both!(ty, number),
        Test::NotANumber => both!(ty, not_a_number),
        Test::Normal => both!(ty, normal),
        Test::Subnormal => both!(ty, subnormal),
    }
}

fn logic(opcode: &str, m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let ty = m.take_type()?;
    if ty == Type::Pred {
        macro_rules! predicates {
            ($f:expr, $sources:expr) => {{
                let compute = compute!(isa, |file, o, active| {
                    let f: fn(u32, u32) -> u32 = $f;
                    let value = f(file.predicate(o.a), file.predicate(o.b));
                    file.set_predicate(o.d, value, active)
                });
                Some(Lanewise::new(
                    compute,
                    Kind::Predicate,
                    vec![Kind::Predicate; $sources],
                    Class::Compare,
                    0,
                ))
            }};
        }
        return match opcode {
            "and" => predicates!(|a, b| a & b, 2),
            "or" => predicates!(|a, b| a | b, 2),
            "xor" => predicates!(|a, b| a ^ b, 2),
            "not" => predicates!(|a, _| !a, 1),
            _ => None,
        };
    }
    macro_rules! bits {
        ($f:expr) => {
            by_type!(ty, T in [Type::B16 => u16, Type::B32 => u32, Type::B64 => u64] =>
                lanewise!(isa, Logic, 0, |a: T, b: T| -> T {{
                    let f: fn(T, T) -> T = $f;
                    f(a, b)
                }}))
        };
    }
    match opcode {
        "and" => bits!(|a, b| a & b),
        "or" => bits!(|a, b| a | b),
        "xor" => bits!(|a, b| a ^ b),
        "not" => {
            by_type!(ty, T in [Type::B16 => u16, Type::B32 => u32, Type::B64 => u64] => lanewise!(isa, Logic, 0, |a: T| -> T { !a }))
        }
        _ => {
            by_type!(ty, T in [Type::B16 => u16, Type::B32 => u32, Type::B64 => u64] => lanewise!(isa, Logic, 0, |a: T| -> T { (a == 0) as T }))
        }
    }
}

fn funnel(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let left = m.take("l");
    if !left && !m.take("r") {
        return None;
    }
    let clamp = m.take("clamp");
    if !clamp && !m.take("wrap") {
        return None;
    }
    m.take("b32").then_some(())?;
    Some(
        by_flag!(left, LEFT => by_flag!(clamp, CLAMP => lanewise!(isa, Logic, 0, |a: u32, b: u32, c: u32| -> u32 {{
            let n = if CLAMP { c.min(32) } else { c & 31 };
            let both = (b as u64) << 32 | a as u64;
            if LEFT { (both << n >> 32) as u32 } else { (both >> n) as u32 }
        }}))),
    )
}

fn insert(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    // Four sources: the position is `c`, the length the plane in `extra`.
    by_type!(m.take_type()?, T in [Type::B32 => u32, Type::B64 => u64] => {
        let compute = compute!(isa, |file, o, active| {
            let length = *file.lanes::<u32>(o.extra);
            let (a, b, position) = (*file.lanes::<T>(o.a), *file.lanes::<T>(o.b), *file.lanes::<u32>(o.c));
            let mut out = [0 as T; 32];
            for lane in 0..32 {
                let (position, length) = (position[lane] & 0xff, length[lane] & 0xff);
                let ones = if length >= T::BITS { T::MAX } else { ((1 as T) << length).wrapping_sub(1) };
                let (mask, value) = if position >= T::BITS { (0, 0) } else { (ones << position, a[lane] << position) };
                out[lane] = (b[lane] & !mask) | (value & mask);
            }
            file.store::<T>(o.d, &out, active)
        });
        let narrow = Kind::Narrow(Type::U32);
        Lanewise::new(compute, <T as Operand>::KIND, vec![<T as Operand>::KIND, <T as Operand>::KIND, narrow, narrow], Class::Logic, 0)
    })
}

fn find_bit(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let shift = m.take("shiftamt");
    let ty = m.take_type()?;
    // The highest bit that is not a copy of the sign.
    macro_rules! find {
        ($T:ty, $signed:expr) => {
            Some(by_flag!(shift, SHIFT => lanewise!(isa, Logic, 0, |a: $T| -> u32 {{
                let a = if $signed && a >> (<$T>::BITS - 1) != 0 { !a } else { a };
                match a {
                    0 => u32::MAX,
                    _ if SHIFT => a.leading_zeros(),
                    _ => <$T>::BITS - 1 - a.leading_zeros(),
                }
            }})))
        };
    }
    match ty {
        Type::U32 => find!(u32, false),
        Type::S32 => find!(u32, true),
        Type::U64 => find!(u64, false),
        Type::S64 => find!(u64, true),
        _ => None,
    }
}

fn dot4(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let (a, b) = (m.take_type()?, m.take_type()?);
    if !matches!((a, b), (Type::U32 | Type::S32, Type::U32 | Type::S32)) {
        return None;
    }
    Some(by_flag!(a == Type::S32, A => by_flag!(b == Type::S32, B =>
        lanewise!(isa, Integer, 0, |a: u32, b: u32, c: u32| -> u32 { math::dp4a(a, b, c, A, B) }))))
}

fn dot2(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let high = m.take("hi");
    if !high && !m.take("lo") {
        return None;
    }
    let (a, b) = (m.take_type()?, m.take_type()?);
    if !matches!((a, b), (Type::U32 | Type::S32, Type::U32 | Type::S32)) {
        return None;
    }
    Some(by_flag!(high, HIGH => by_flag!(a == Type::S32, A => by_flag!(b == Type::S32, B =>
        lanewise!(isa, Integer, 0, |a: u32, b: u32, c: u32| -> u32 { math::dp2a(a, b, c, A, B, HIGH) })))))
}

#[derive(Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    EqualUnordered,
    NotEqualUnordered,
    LessUnordered,
    LessEqualUnordered,
    GreaterUnordered,
    GreaterEqualUnordered,
    Number,
    NotANumber,
}

fn comparison(m: &mut Modifiers) -> Option<Comparison> {
    m.take_any(&[
        ("eq", Comparison::Equal),
        ("ne", Comparison::NotEqual),
        ("lt", Comparison::Less),
        ("le", Comparison::LessEqual),
        ("gt", Comparison::Greater),
        ("ge", Comparison::GreaterEqual),
        ("lo", Comparison::Less),
        ("ls", Comparison::LessEqual),
        ("hi", Comparison::Greater),
        ("hs", Comparison::GreaterEqual),
        ("equ", Comparison::EqualUnordered),
        ("neu", Comparison::NotEqualUnordered),
        ("ltu", Comparison::LessUnordered),
        ("leu", Comparison::LessEqualUnordered),
        ("gtu", Comparison::GreaterUnordered),
        ("geu", Comparison::GreaterEqualUnordered),
        ("num", Comparison::Number),
        ("nan", Comparison::NotANumber),
    ])
}

/// `$with!(f)` for the function of a comparison of floating-point numbers: an ordered one is false where a NaN is.
macro_rules! float_comparison {
    ($comparison:expr, $with:ident) => {
        match $comparison {
            Comparison::Equal => $with!(|a, b| a == b),
            Comparison::NotEqual => $with!(|a, b| a < b || a > b),
            Comparison::Less => $with!(|a, b| a < b),
            Comparison::LessEqual => $with!(|a, b| a <= b),
            Comparison::Greater => $with!(|a, b| a > b),
            Comparison::GreaterEqual => $with!(|a, b| a >= b),
            Comparison::EqualUnordered => $with!(|a, b| !(a < b || a > b)),
            Comparison::NotEqualUnordered => $with!(|a, b| a != b),
            Comparison::LessUnordered => $with!(|a, b| !(a >= b)),
            Comparison::LessEqualUnordered => $with!(|a, b| !(a > b)),
            Comparison::GreaterUnordered => $with!(|a, b| !(a <= b)),
            Comparison::GreaterEqualUnordered => $with!(|a, b| !(a < b)),
            Comparison::Number => $with!(|a, b| a == a && b == b),
            Comparison::NotANumber => $with!(|a, b| a != a || b != b),
        }
    };
}

macro_rules! integer_comparison {
    ($comparison:expr, $with:ident) => {
        match $comparison {
            Comparison::Equal => $with!(|a, b| a == b),
            Comparison::NotEqual => $with!(|a, b| a != b),
            Comparison::Less => $with!(|a, b| a < b),
            Comparison::LessEqual => $with!(|a, b| a <= b),
            Comparison::Greater => $with!(|a, b| a > b),
            Comparison::GreaterEqual => $with!(|a, b| a >= b),
            _ => None,
        }
    };
}

fn compare(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let comparison = comparison(m)?;
    let extra = m
        .take_any(&[
            ("and", crate::machine::registers::AND),
            ("or", crate::machine::registers::OR),
            ("xor", crate::machine::registers::XOR),
        ])
        .unwrap_or(crate::machine::registers::AND);
    let ftz = m.take("ftz");
    let ty = m.take_type()?;
    macro_rules! float {
        ($f:expr) => {
            Some(by_flag!(ftz, FTZ => compare_with!(f32, |a, b| {
                let f: fn(f32, f32) -> bool = $f;
                f(flush::<FTZ>(a), flush::<FTZ>(b))
            })))
        };
    }
    macro_rules! compare_with {
        ($T:ty, |$a:ident, $b:ident| $body:expr) => {
            Lanewise::new(
                compute!(isa, |file, o, active| file.compare::<$T>(o, active, |$a, $b| $body)),
                Kind::Predicate,
                vec![<$T as Operand>::KIND; 2],
                Class::Compare,
                0,
            )
        };
    }
    macro_rules! double {
        ($f:expr) => {
            Some(compare_with!(f64, |a, b| {
                let f: fn(f64, f64) -> bool = $f;
                f(a, b)
            }))
        };
    }
    macro_rules! half {
        ($f:expr) => {
            Some(by_flag!(ftz, FTZ => compare_with!(Half, |a, b| {
                let f: fn(f32, f32) -> bool = $f;
                f(math::f16_to_f32(flush_half::<FTZ>(a)), math::f16_to_f32(flush_half::<FTZ>(b)))
            })))
        };
    }
    macro_rules! half2 {
        ($f:expr) => {{
            // Two comparisons, each combined into a predicate of its own.
            let compute = compute!(isa, |file, o, active| {
                let (a, b) = (*file.lanes::<u32>(o.a), *file.lanes::<u32>(o.b));
                let f: fn(f32, f32) -> bool = $f;
                let (mut low, mut high) = (0, 0);
                for lane in 0..32 {
                    low |= (f(math::f16_to_f32(a[lane] as u16), math::f16_to_f32(b[lane] as u16)) as u32)
                        << lane;
                    high |= (f(
                        math::f16_to_f32((a[lane] >> 16) as u16),
                        math::f16_to_f32((b[lane] >> 16) as u16),
                    ) as u32)
                        << lane;
                }
                let (low, high) = (file.combine(o, low), file.combine(o, high));
                file.set_predicate(o.d, low, active);
                file.set_predicate(o.d2, high, active)
            });
            Some(Lanewise::new(
                compute,
                Kind::Predicate,
                vec![Kind::Narrow(Type::F16x2); 2],
                Class::Compare,
                0,
            ))
        }};
    }
    macro_rules! integer {
        ($f:expr) => {
            by_type!(ty, T in [Type::U16 | Type::B16 => u16, Type::S16 => i16, Type::U32 | Type::B32 => u32, Type::S32 => i32,
                Type::U64 | Type::B64 => u64, Type::S64 => i64] => compare_with!(T, |a, b| {
                let f: fn(T, T) -> bool = $f;
                f(a, b)
            }))
        };
    }
    let mut chosen = match ty {
        Type::F32 => float_comparison!(comparison, float),
        Type::F64 if !ftz => float_comparison!(comparison, double),
        Type::F16 => float_comparison!(comparison, half),
        Type::F16x2 if !ftz => float_comparison!(comparison, half2),
        _ if ftz => None,
        _ => integer_comparison!(comparison, integer),
    }?;
    chosen.compares = true;
    chosen.extra = extra;
    Some(chosen)
}

/// `set`: a comparison as a number: all ones, or 1.0.
fn set(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let comparison = comparison(m)?;
    let ftz = m.take("ftz");
    let (to, from) = (m.take_type()?, m.take_type()?);
    macro_rules! into {
        ($T:ty, |$a:ident, $b:ident| $holds:expr) => {
            match to {
                Type::U32 | Type::S32 => {
                    Some(lanewise!(isa, Compare, 0, |$a: $T, $b: $T| -> u32 { if $holds { !0 } else { 0 } }))
                }
                Type::F32 => Some(lanewise!(isa, Compare, 0, |$a: $T, $b: $T| -> f32 {
                    if $holds { 1.0 } else { 0.0 }
                })),
                Type::U16 | Type::S16 => {
                    Some(lanewise!(isa, Compare, 0, |$a: $T, $b: $T| -> u16 { if $holds { !0 } else { 0 } }))
                }
                Type::F16 => Some(lanewise!(isa, Compare, 0, |$a: $T, $b: $T| -> Half {
                    Half(if $holds { 0x3c00 } else { 0 })
                })),
                _ => None,
            }
        };
    }
    macro_rules! float {
        ($f:expr) => {
            by_flag!(ftz, FTZ => into!(f32, |a, b| {
                let f: fn(f32, f32) -> bool = $f;
                f(flush::<FTZ>(a), flush::<FTZ>(b))
            }))
        };
    }
    macro_rules! half {
        ($f:expr) => {
            by_flag!(ftz, FTZ => into!(Half, |a, b| {
                let f: fn(f32, f32) -> bool = $f;
                f(math::f16_to_f32(flush_half::<FTZ>(a)), math::f16_to_f32(flush_half::<FTZ>(b)))
            }))
        };
    }
    macro_rules! half2 {
        ($f:expr) => {
            Some(by_flag!(to == Type::F16x2, FLOAT => lanewise!(isa, Compare, 0, |a: u32, b: u32| -> u32 {{
                let f: fn(f32, f32) -> bool = $f;
                let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
                let one = if FLOAT { Half(0x3c00) } else { Half(!0) };
                join(
                    if f(math::f16_to_f32(a0.0), math::f16_to_f32(b0.0)) { one } else { Half(0) },
                    if f(math::f16_to_f32(a1.0), math::f16_to_f32(b1.0)) { one } else { Half(0) },
                )
            }})))
        };
    }
    macro_rules! integer {
        ($f:expr) => {
            match from {
                Type::U32 | Type::B32 => into!(u32, |a, b| {
                    let f: fn(u32, u32) -> bool = $f;
                    f(a, b)
                }),
                Type::S32 => into!(i32, |a, b| {
                    let f: fn(i32, i32) -> bool = $f;
                    f(a, b)
                }),
                Type::U16 | Type::B16 => into!(u16, |a, b| {
                    let f: fn(u16, u16) -> bool = $f;
                    f(a, b)
                }),
                Type::S16 => into!(i16, |a, b| {
                    let f: fn(i16, i16) -> bool = $f;
                    f(a, b)
                }),
                _ => None,
            }
        };
    }
    match from {
        Type::F32 => float_comparison!(comparison, float),
        Type::F16 => float_comparison!(comparison, half),
        Type::F16x2 if !ftz && matches!(to, Type::F16x2 | Type::U32 | Type::S32) => {
            float_comparison!(comparison, half2)
        }
        _ if ftz => None,
        _ => integer_comparison!(comparison, integer),
    }
}

fn select_predicate(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    by_type!(m.take_type()?, T in [Type::B16 | Type::U16 | Type::S16 | Type::F16 => u16, Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 => u32,
        Type::B64 | Type::U64 | Type::S64 | Type::F64 => u64] => {
        let compute = compute!(isa, |file, o, active| {
            let chosen = file.predicate(o.c) ^ o.extra;
            let (a, b) = (file.lanes::<<T as Value>::Stored>(o.a), file.lanes::<<T as Value>::Stored>(o.b));
            let mut out = [0 as <T as Value>::Stored; 32];
            for lane in 0..32 {
                out[lane] = if chosen >> lane & 1 != 0 { a[lane] } else { b[lane] };
            }
            file.store::<T>(o.d, &out, active)
        });
        Lanewise::new(compute, <T as Operand>::KIND, vec![<T as Operand>::KIND, <T as Operand>::KIND, Kind::Predicate], Class::Move, 0)
    })
}

fn select_sign(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let ftz = m.take("ftz");
    let (ty, by) = (m.take_type()?, m.take_type()?);
    match by {
        Type::S32 if !ftz => {
            by_type!(ty, T in [Type::B16 | Type::U16 | Type::S16 => u16, Type::B32 | Type::U32 | Type::S32 | Type::F32 => u32,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => u64] =>
            lanewise!(isa, Move, 0, |a: T, b: T, c: i32| -> T { if c >= 0 { a } else { b } }))
        }
        Type::F32 => {
            by_type!(ty, T in [Type::B16 | Type::U16 | Type::S16 => u16, Type::B32 | Type::U32 | Type::S32 | Type::F32 => u32,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => u64] =>
            by_flag!(ftz, FTZ => lanewise!(isa, Move, 0, |a: T, b: T, c: f32| -> T { if flush::<FTZ>(c) >= 0.0 { a } else { b } })))
        }
        _ => None,
    }
}

fn convert(m: &mut Modifiers, isa: Isa) -> Option<Lanewise> {
    let integral = m.take_any(&[
        ("rni", Integral::Nearest),
        ("rzi", Integral::Zero),
        ("rmi", Integral::Down),
        ("rpi", Integral::Up),
    ]);
    let rounding = m.rounding();
    let (ftz, sat) = (m.take("ftz"), m.take("sat"));
    let (to, from) = (m.take_type()?, m.take_type()?);
    let float = |ty| matches!(ty, Type::F16 | Type::F32 | Type::F64);
    // It concerns f32 alone, as source or as destination.
    if ftz && to != Type::F32 && from != Type::F32 {
        return None;
    }
    match (float(to), float(from)) {
        (false, false) => {
            if integral.is_some() || rounding.is_some() || ftz {
                return None;
            }
            convert_integers(to, from, sat, isa)
        }
        (false, true) => convert_to_integer(to, from, integral?, ftz, isa),
        (true, false) => {
            if integral.is_some() || ftz {
                return None;
            }
            convert_from_integer(to, from, rounding?, sat, isa)
        }
        (true, true) => convert_floats(to, from, integral, rounding, ftz, sat, isa),
    }
}

/// Expands `$with!(RustType)` for an integer type.
macro_rules! integer_types {
    ($ty:expr, $with:ident) => {
        match $ty {
            Type::U8 | Type::B8 => $with!(u8),
            Type::S8 => $with!(i8),
            Type::U16 | Type::B16 => $with!(u16),
            Type::S16 => $with!(i16),
            Type::U32 | Type::B32 => $with!(u32),
            Type::S32 => $with!(i32),
            Type::U64 | Type::B64 => $with!(u64),
            Type::S64 => $with!(i64),
            _ => None,
        }
    };
}

fn convert_integers(to: Type, from: Type, sat: bool, isa: Isa) -> Option<Lanewise> {
    macro_rules! from {
        ($A:ty) => {{
            macro_rules! into {
                ($R:ty) => {
                    Some(by_flag!(sat, SAT => lanewise!(isa, Convert, 0, |a: $A| -> $R {
                        if SAT { (a as i128).clamp(<$R>::MIN as i128, <$R>::MAX as i128) as $R } else { a as $R }
                    })))
                };
            }
            integer_types!(to, into)
        }};
    }
    integer_types!(from, from)
}

/// `cvt` of the low part of a register of 64 bits, whose type is narrower (PTX ISA 9.5, table of relaxed types).
pub fn convert_low(words: &[String], isa: Isa) -> Option<Lanewise> {
    let mut m = Modifiers::new(words.get(1..)?);
    let (to, from) = (m.take_type()?, m.take_type()?);
    macro_rules! from {
        ($A:ty) => {{
            macro_rules! into {
                ($R:ty) => {
                    Some(lanewise!(isa, Convert, 0, |a: u64| -> $R { a as $A as $R }))
                };
            }
            integer_types!(to, into)
        }};
    }
    if m.is_empty() { integer_types!(from, from) } else { None }
}

fn convert_to_integer(to: Type, from: Type, integral: Integral, ftz: bool, isa: Isa) -> Option<Lanewise> {
    macro_rules! into {
        ($R:ty) => {
            by_integral!(integral, I => match from {
                Type::F32 => Some(by_flag!(ftz, FTZ => lanewise!(isa, Convert, 0, |a: f32| -> $R { math::ToInteger::<$R>::to_integer(flush::<FTZ>(a), I) }))),
                Type::F64 => Some(lanewise!(isa, Convert, 0, |a: f64| -> $R { math::ToInteger::<$R>::to_integer(a, I) })),
                _ => Some(lanewise!(isa, Convert, 0, |a: Half| -> $R {
                    math::ToInteger::<$R>::to_integer(math::f16_to_f32(a.0), I)
                })),
            })
        };
    }
    macro_rules! by_integral {
        ($integral:expr, $I:ident => $body:expr) => {
            match $integral {
                Integral::Nearest => {
                    const $I: Integral = Integral::Nearest;
                    $body
                }
                Integral::Zero => {
                    const $I: Integral = Integral::Zero;
                    $body
                }
                Integral::Down => {
                    const $I: Integral = Integral::Down;
                    $body
                }
                Integral::Up => {
                    const $I: Integral = Integral::Up;
                    $body
                }
            }
        };
    }
    integer_types!(to, into)
}

fn convert_from_integer(to: Type, from: Type, rounding: Rounding, sat: bool, isa: Isa) -> Option<Lanewise> {
    macro_rules! from {
        ($A:ty) => {
            by_rounding!(rounding, R => match to {
                Type::F32 => Some(by_flag!(sat, SAT => lanewise!(isa, Convert, 0, |a: $A| -> f32 {
                    if SAT { math::saturate_f32(math::integer_to_f32(a as i128, R)) } else { math::FromInteger::to_f32(a, R) }
                }))),
                Type::F64 if !sat => Some(lanewise!(isa, Convert, 0, |a: $A| -> f64 { math::FromInteger::to_f64(a, R) })),
                Type::F16 if !sat => Some(lanewise!(isa, Convert, 0, |a: $A| -> Half { Half(math::FromInteger::to_f16(a, R)) })),
                _ => None,
            })
        };
    }
    integer_types!(from, from)
}

fn convert_floats(
    to: Type,
    from: Type,
    integral: Option<Integral>,
    rounding: Option<Rounding>,
    ftz: bool,
    sat: bool,
    isa: Isa,
) -> Option<Lanewise> {
    if let Some(integral) = integral {
        return match (to, from) {
            (Type::F32, Type::F32) => Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT => match integral {
                Integral::Nearest => lanewise!(isa, Convert, 0, |a: f32| -> f32 { finish::<FTZ, SAT>(flush::<FTZ>(a).round_ties_even()) }),
                Integral::Zero => lanewise!(isa, Convert, 0, |a: f32| -> f32 { finish::<FTZ, SAT>(flush::<FTZ>(a).trunc()) }),
                Integral::Down => lanewise!(isa, Convert, 0, |a: f32| -> f32 { finish::<FTZ, SAT>(flush::<FTZ>(a).floor()) }),
                Integral::Up => lanewise!(isa, Convert, 0, |a: f32| -> f32 { finish::<FTZ, SAT>(flush::<FTZ>(a).ceil()) }),
            }))),
            (Type::F64, Type::F64) if !ftz && !sat => Some(match integral {
                Integral::Nearest => lanewise!(isa, Convert, 0, |a: f64| -> f64 { a.round_ties_even() }),
                Integral::Zero => lanewise!(isa, Convert, 0, |a: f64| -> f64 { a.trunc() }),
                Integral::Down => lanewise!(isa, Convert, 0, |a: f64| -> f64 { a.floor() }),
                Integral::Up => lanewise!(isa, Convert, 0, |a: f64| -> f64 { a.ceil() }),
            }),
            (Type::F16, Type::F16) if !sat => Some(match integral {
                Integral::Nearest => {
                    lanewise!(isa, Convert, 0, |a: Half| -> Half { half_integral(a.0, f32::round_ties_even) })
                }
                Integral::Zero => {
                    lanewise!(isa, Convert, 0, |a: Half| -> Half { half_integral(a.0, f32::trunc) })
                }
                Integral::Down => {
                    lanewise!(isa, Convert, 0, |a: Half| -> Half { half_integral(a.0, f32::floor) })
                }
                Integral::Up => {
                    lanewise!(isa, Convert, 0, |a: Half| -> Half { half_integral(a.0, f32::ceil) })
                }
            }),
            _ => None,
        };
    }
    let nearest = Rounding::Nearest;
    match (to, from) {
        (Type::F32, Type::F32) if rounding.is_none() => Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
            lanewise!(isa, Convert, 0, |a: f32| -> f32 { finish::<FTZ, SAT>(flush::<FTZ>(a)) })))),
        (Type::F64, Type::F64) if rounding.is_none() && !ftz => Some(by_flag!(sat, SAT =>
            lanewise!(isa, Convert, 0, |a: f64| -> f64 { if SAT { math::saturate_f64(a) } else { a } }))),
        (Type::F64, Type::F32) if rounding.is_none() => Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
        lanewise!(isa, Convert, 0, |a: f32| -> f64 {{
            let a = flush::<FTZ>(a) as f64;
            if SAT { math::saturate_f64(a) } else { a }
        }})))),
        (Type::F32, Type::F64) => {
            Some(by_rounding!(rounding?, R => by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
            lanewise!(isa, Convert, 0, |a: f64| -> f32 { finish::<FTZ, SAT>(math::f64_to_f32(a, R)) })))))
        }
        (Type::F32, Type::F16) if rounding.is_none() => Some(by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
            lanewise!(isa, Convert, 0, |a: Half| -> f32 { finish::<FTZ, SAT>(math::f16_to_f32(a.0)) })))),
        (Type::F64, Type::F16) if rounding.is_none() && !sat && !ftz => {
            Some(lanewise!(isa, Convert, 0, |a: Half| -> f64 { math::f16_to_f32(a.0) as f64 }))
        }
        (Type::F16, Type::F32) => {
            Some(by_rounding!(rounding?, R => by_flag!(ftz, FTZ => by_flag!(sat, SAT =>
            lanewise!(isa, Convert, 0, |a: f32| -> Half { finish_half::<false, SAT>(math::f32_to_f16(flush::<FTZ>(a), R)) })))))
        }
        (Type::F16, Type::F64) if !ftz => Some(by_rounding!(rounding?, R => by_flag!(sat, SAT =>
            lanewise!(isa, Convert, 0, |a: f64| -> Half { finish_half::<false, SAT>(math::f64_to_f16(a, R)) })))),
        (Type::F16, Type::F16) if rounding.is_none_or(|r| r == nearest) => Some(
            by_flag!(sat, SAT => lanewise!(isa, Convert, 0, |a: Half| -> Half { finish_half::<false, SAT>(a.0) })),
        ),
        _ => None,
    }
}

/// Integers are exact in f16 wherever a rounded f16 lies.
#[inline(always)]
fn half_integral(bits: u16, f: fn(f32) -> f32) -> Half {
    Half(math::f32_to_f16(f(math::f16_to_f32(bits)), Rounding::Nearest))
}

/// `mov`.
pub fn copy(kind: Kind, isa: Isa) -> Compute {
    match kind {
        Kind::Predicate => compute!(isa, |file, o, active| {
            let value = file.predicate(o.a);
            file.set_predicate(o.d, value, active)
        }),
        Kind::Narrow(_) => compute!(isa, |file, o, active| file.unary::<u32, u32>(o, active, |a| a)),
        Kind::Wide(_) => compute!(isa, |file, o, active| file.unary::<u64, u64>(o, active, |a| a)),
    }
}

/// `isspacep`: whether the address' highest byte is `extra`.
pub fn in_window(isa: Isa) -> Compute {
    compute!(isa, |file, o, active| {
        let a = *file.lanes::<u64>(o.a);
        let mut mask = 0;
        for lane in 0..32 {
            mask |= ((a[lane] >> 56 == o.extra as u64) as u32) << lane;
        }
        file.set_predicate(o.d, mask, active)
    })
}

/// `mov` of several registers into one, low part first: the parts are `a`, `b`, `c` and `extra`. With it, the kind of a part.
pub fn pack(kind: Kind, parts: usize, isa: Isa) -> Option<(Compute, Kind)> {
    match (kind, parts) {
        (Kind::Narrow(ty), 2) if ty.size() == 2 => {
            let compute = compute!(isa, |file, o, active| file
                .binary::<u8, u8, u16>(o, active, |a, b| a as u16 | (b as u16) << 8));
            Some((compute, Kind::Narrow(Type::B8)))
        }
        (Kind::Narrow(ty), 2) if ty.size() == 4 => {
            let compute = compute!(isa, |file, o, active| file
                .binary::<u16, u16, u32>(o, active, |a, b| a as u32 | (b as u32) << 16));
            Some((compute, Kind::Narrow(Type::B16)))
        }
        (Kind::Wide(_), 2) => {
            let compute = compute!(isa, |file, o, active| file
                .binary::<u32, u32, u64>(o, active, |a, b| a as u64 | (b as u64) << 32));
            Some((compute, Kind::Narrow(Type::B32)))
        }
        (Kind::Narrow(ty), 4) if ty.size() == 4 => {
            let compute = compute!(isa, |file, o, active| {
                let parts = [o.a, o.b, o.c, o.extra].map(|plane| *file.lanes::<u32>(plane));
                let mut out = [0; 32];
                for lane in 0..32 {
                    out[lane] = u32::from_le_bytes(parts.map(|part| part[lane] as u8));
                }
                file.store::<u32>(o.d, &out, active)
            });
            Some((compute, Kind::Narrow(Type::B8)))
        }
        (Kind::Wide(_), 4) => {
            let compute = compute!(isa, |file, o, active| {
                let parts = [o.a, o.b, o.c, o.extra].map(|plane| *file.lanes::<u32>(plane));
                let mut out = [0; 32];
                for lane in 0..32 {
                    let [a, b, c, d] = parts.map(|part| part[lane] as u16 as u64);
                    out[lane] = a | b << 16 | c << 32 | d << 48;
                }
                file.store::<u64>(o.d, &out, active)
            });
            Some((compute, Kind::Narrow(Type::B16)))
        }
        _ => None,
    }
}

/// `mov` of one register into several, low part first: the parts are `d`, `d2`, `b` and `c`. With it, the kind of a part.
pub fn unpack(kind: Kind, parts: usize, isa: Isa) -> Option<(Compute, Kind)> {
    macro_rules! unpacked {
        ($T:ty, $planes:expr, $bits:literal, $part:ty) => {
            compute!(isa, |file, o, active| {
                let whole = *file.lanes::<$T>(o.a);
                let planes: &[fn(&Operation) -> u32] = &$planes;
                for (index, plane) in planes.iter().enumerate() {
                    let mut out = [0; 32];
                    for lane in 0..32 {
                        out[lane] = (whole[lane] >> (index * $bits)) as $part as u32;
                    }
                    file.store::<u32>(plane(o), &out, active);
                }
            })
        };
    }
    match (kind, parts) {
        (Kind::Narrow(ty), 2) if ty.size() == 2 => {
            Some((unpacked!(u32, [|o| o.d, |o| o.d2], 8, u8), Kind::Narrow(Type::B8)))
        }
        (Kind::Narrow(ty), 2) if ty.size() == 4 => {
            Some((unpacked!(u32, [|o| o.d, |o| o.d2], 16, u16), Kind::Narrow(Type::B16)))
        }
        (Kind::Wide(_), 2) => Some((unpacked!(u64, [|o| o.d, |o| o.d2], 32, u32), Kind::Narrow(Type::B32))),
        (Kind::Narrow(ty), 4) if ty.size() == 4 => {
            Some((unpacked!(u32, [|o| o.d, |o| o.d2, |o| o.b, |o| o.c], 8, u8), Kind::Narrow(Type::B8)))
        }
        (Kind::Wide(_), 4) => {
            Some((unpacked!(u64, [|o| o.d, |o| o.d2, |o| o.b, |o| o.c], 16, u16), Kind::Narrow(Type::B16)))
        }
        _ => None,
    }
}

/// D, A, B and C by register and lane; C and D have `N` registers.
pub type TensorProduct<const N: usize> =
    unsafe fn(&mut [[u32; 32]; N], &[[u32; 32]; 2], &[u32; 32], &[[u32; 32]; N]);

/// A product of the tensor cores on the registers of a warp: destination, A, B and C, by register and lane.
#[derive(Clone, Copy)]
pub enum TensorCompute {
    F32(TensorProduct<4>),
    F16(TensorProduct<2>),
}

/// `mma.sync.aligned.m16n8k8.row.col` of f16, accumulated in f32 or f16; `None` for every other shape and type.
pub fn tensor(opcode: &[String], isa: Isa) -> Option<TensorCompute> {
    let mut m = Modifiers::new(&opcode[1..]);
    for word in ["sync", "aligned", "m16n8k8", "row", "col"] {
        m.take(word).then_some(())?;
    }
    let types = [m.take_type()?, m.take_type()?, m.take_type()?, m.take_type()?];
    m.is_empty().then_some(())?;
    macro_rules! compiled {
        ($registers:literal, $f:path) => {{
            #[cfg(target_arch = "x86_64")]
            #[target_feature(
                enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
            )]
            unsafe fn avx512(
                d: &mut [[u32; 32]; $registers],
                a: &[[u32; 32]; 2],
                b: &[u32; 32],
                c: &[[u32; 32]; $registers],
            ) {
                $f(d, a, b, c)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            unsafe fn avx2(
                d: &mut [[u32; 32]; $registers],
                a: &[[u32; 32]; 2],
                b: &[u32; 32],
                c: &[[u32; 32]; $registers],
            ) {
                $f(d, a, b, c)
            }
            #[cfg(target_arch = "x86_64")]
            match isa {
                Isa::Avx512 => avx512,
                Isa::Avx2 => avx2,
                Isa::Base => $f,
            }
            #[cfg(not(target_arch = "x86_64"))]
            $f
        }};
    }
    match types {
        [Type::F32, Type::F16, Type::F16, Type::F32] => {
            #[cfg(target_arch = "x86_64")]
            if isa == Isa::Avx512 {
                return Some(TensorCompute::F32(math::mma_m16n8k8_f32_avx512));
            }
            Some(TensorCompute::F32(compiled!(4, math::mma_m16n8k8_f32)))
        }
        [Type::F16, Type::F16, Type::F16, Type::F16] => {
            Some(TensorCompute::F16(compiled!(2, math::mma_m16n8k8_f16)))
        }
        _ => None,
    }
}
