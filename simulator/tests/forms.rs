//! Every form of every lane-wise instruction that the simulator accepts (opcode, types, modifiers) against a computation that
//! is not the simulator's, on random and special values, with each set of vector instructions that the processor has.
//!
//! The forms are found by asking for all combinations of modifiers, so a new one cannot be without a test. Computations are
//! written from the PTX ISA 9.0, section 9.7: integers in 128 bits, f32 and f64 by the processor's scalar instructions under
//! the rounding mode, f16 and conversions by exact rounding of integers.

#![cfg(target_arch = "x86_64")]

#[path = "common/values.rs"]
mod values;

use simulator::{Device, Isa, Launch, Settings, is_lanewise};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All opcodes, those of most forms first.
const OPCODES: [&str; 51] = [
    "cvt", "set", "setp", "add", "sub", "addc", "subc", "mul", "mul24", "mad24", "mad", "fma", "div", "rem",
    "abs", "neg", "min", "max", "rcp", "sqrt", "rsqrt", "sin", "cos", "lg2", "ex2", "tanh", "copysign",
    "testp", "and", "or", "xor", "not", "cnot", "shl", "shr", "shf", "lop3", "prmt", "bfe", "bfi", "bfind",
    "bmsk", "szext", "popc", "clz", "brev", "sad", "dp4a", "dp2a", "selp", "slct",
];

/// Words of which an opcode has at most one.
const GROUPS: [&[&str]; 14] = [
    &["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"],
    &["approx", "full"],
    &["ftz"],
    &["sat"],
    &["cc"],
    &["relu"],
    &["lo", "hi", "wide"],
    &["eq", "ne", "lt", "le", "gt", "ge", "ls", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"],
    &["and", "or", "xor"],
    &["finite", "infinite", "number", "notanumber", "normal", "subnormal"],
    &["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"],
    &["l", "r"],
    &["clamp", "wrap"],
    &["shiftamt"],
];

const TYPES: [&str; 18] = [
    "pred", "b8", "b16", "b32", "b64", "b128", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f16",
    "f16x2", "f32", "f64",
];

/// All choices of at most three modifiers of different groups, in the groups' order.
fn modifiers() -> Vec<Vec<&'static str>> {
    let mut all = vec![Vec::new()];
    for group in GROUPS {
        for chosen in all.clone() {
            if chosen.len() < 3 {
                all.extend(group.iter().map(|word| [chosen.as_slice(), &[*word]].concat()));
            }
        }
    }
    all
}

/// An opcode with its modifiers and types.
#[derive(Clone)]
struct Form {
    opcode: &'static str,
    modifiers: Vec<&'static str>,
    types: Vec<&'static str>,
}

impl Form {
    fn text(&self) -> String {
        [&[self.opcode], self.modifiers.as_slice(), self.types.as_slice()].concat().join(".")
    }

    fn has(&self, word: &str) -> bool {
        self.modifiers.contains(&word)
    }
}

/// Every form of an opcode that the simulator accepts.
fn forms(opcode: &'static str) -> Vec<Form> {
    let mut forms = Vec::new();
    // An opcode that no one has seen with two types is asked for them with few modifiers only.
    let pairs = ["cvt", "set", "slct", "dp4a", "dp2a"].contains(&opcode);
    for modifiers in modifiers() {
        let mut words: Vec<String> = [opcode].iter().chain(&modifiers).map(|word| word.to_string()).collect();
        let mut consider = |types: &[&'static str], words: &[String]| {
            if is_lanewise(words) {
                forms.push(Form { opcode, modifiers: modifiers.clone(), types: types.to_vec() });
            }
        };
        consider(&[], &words);
        for one in TYPES {
            words.push(one.to_string());
            consider(&[one], &words);
            if pairs || modifiers.len() < 2 {
                for two in TYPES {
                    words.push(two.to_string());
                    consider(&[one, two], &words);
                    words.pop();
                }
            }
            words.pop();
        }
    }
    forms
}

// Values of types.

fn width(ty: &str) -> u32 {
    match ty {
        "f16x2" => 32,
        _ => ty[1..].parse().unwrap_or(0),
    }
}

fn is_float(ty: &str) -> bool {
    matches!(ty, "f16" | "f32" | "f64")
}

/// The value of an integer type in the low bits.
fn integer(bits: u64, ty: &str) -> i128 {
    let spare = 128 - width(ty);
    let raised = (bits as u128) << spare;
    if ty.starts_with('s') { raised as i128 >> spare } else { (raised >> spare) as i128 }
}

fn range(ty: &str) -> (i128, i128) {
    let bits = width(ty);
    if ty.starts_with('s') { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// The value of a f16, from its definition.
fn h(bits: u64) -> f64 {
    let (exponent, fraction) = ((bits >> 10 & 31) as i32, (bits & 1023) as f64);
    let magnitude = match exponent {
        31 if fraction != 0.0 => f64::NAN,
        31 => f64::INFINITY,
        0 => fraction * 2f64.powi(-24),
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits & 0x8000 != 0 { -magnitude } else { magnitude }
}

/// The value of a float type's bits; f64 holds them all.
fn float(bits: u64, ty: &str) -> f64 {
    match ty {
        "f16" => h(bits),
        "f32" => f(bits) as f64,
        _ => d(bits),
    }
}

/// Precision, smallest and largest exponent of a type.
fn format(ty: &str) -> (i32, i32, i32) {
    match ty {
        "f16" => (11, -14, 15),
        "f32" => (24, -126, 127),
        _ => (53, -1022, 1023),
    }
}

fn canonical(ty: &str) -> u64 {
    match ty {
        "f16" => 0x7fff,
        "f32" => 0x7fff_ffff,
        _ => 0x7fff_ffff_ffff_ffff,
    }
}

/// The bits of `magnitude * 2^exponent` in a type, rounded once: IEEE 754's definition.
fn round(negative: bool, magnitude: u128, exponent: i32, ty: &str, mode: &str) -> u64 {
    let (precision, smallest, largest) = format(ty);
    let sign = (negative as u64) << (width(ty) - 1);
    if magnitude == 0 {
        return sign;
    }
    let top = 127 - magnitude.leading_zeros() as i32 + exponent;
    let mut unit = (top - precision + 1).max(smallest - precision + 1);
    let drop = unit - exponent;
    let (mut kept, rest, half) = match drop {
        ..=0 => (magnitude << -drop, 0, 1),
        1..=127 => (magnitude >> drop, magnitude & ((1 << drop) - 1), 1u128 << (drop - 1)),
        _ => (0, 1, 2),
    };
    kept += match mode {
        "rz" => false,
        "rm" => negative && rest != 0,
        "rp" => !negative && rest != 0,
        _ => rest > half || rest == half && kept & 1 == 1,
    } as u128;
    if kept == 1 << precision {
        kept >>= 1;
        unit += 1;
    }
    let fraction = precision - 1;
    if unit + fraction > largest {
        let infinite = mode == "rn" || mode == if negative { "rm" } else { "rp" };
        let infinity = ((2 * largest + 1) as u64) << fraction;
        return sign | if infinite { infinity } else { infinity - 1 };
    }
    if kept >> fraction == 0 {
        return sign | kept as u64;
    }
    sign | ((unit + fraction - smallest + 1) as u64) << fraction | (kept as u64 & ((1 << fraction) - 1))
}

/// A number of f64 in another type; NaN as the card writes it.
fn into(x: f64, ty: &str, mode: &str) -> u64 {
    if x.is_nan() {
        return canonical(ty);
    }
    if x.is_infinite() {
        let (precision, _, largest) = format(ty);
        return (x.is_sign_negative() as u64) << (width(ty) - 1)
            | ((2 * largest + 1) as u64) << (precision - 1);
    }
    let field = (x.to_bits() >> 52 & 0x7ff) as i32;
    let magnitude = (x.to_bits() & ((1 << 52) - 1)) | ((field != 0) as u64) << 52;
    round(x.is_sign_negative(), magnitude as u128, field.max(1) - 1075, ty, mode)
}

/// `.ftz` of a type's bits.
fn flush(bits: u64, ty: &str) -> u64 {
    let x = float(bits, ty);
    let (_, smallest, _) = format(ty);
    if x.abs() < 2f64.powi(smallest) { bits & 1 << (width(ty) - 1) } else { bits }
}

/// `.sat` of a type's bits.
fn saturate(bits: u64, ty: &str) -> u64 {
    let x = float(bits, ty);
    match x > 0.0 {
        true if x < 1.0 => bits,
        true => into(1.0, ty, "rn"),
        false => 0,
    }
}

fn is_nan(bits: u64, ty: &str) -> bool {
    float(bits & u64::MAX >> (64 - width(ty)), ty).is_nan()
}

/// The processor's scalar instructions under a rounding mode of its control register.
mod processor {
    use std::arch::asm;

    fn control(mode: &str) -> u32 {
        0x1f80
            | match mode {
                "rm" => 1 << 13,
                "rp" => 2 << 13,
                "rz" => 3 << 13,
                _ => 0,
            }
    }

    macro_rules! instructions {
        ($($name:ident $instruction:literal $type:ty;)*) => { $(
            pub fn $name(mut a: $type, b: $type, mode: &str) -> $type {
                let (set, mut saved) = (control(mode), 0u32);
                // SAFETY: the control register is restored before anything else computes.
                unsafe {
                    asm!("stmxcsr [{s}]", "ldmxcsr [{n}]", concat!($instruction, " {a}, {b}"), "ldmxcsr [{s}]",
                        s = in(reg) &raw mut saved, n = in(reg) &raw const set, a = inout(xmm_reg) a, b = in(xmm_reg) b);
                }
                a
            }
        )* };
    }
    instructions! {
        add32 "addss" f32; sub32 "subss" f32; mul32 "mulss" f32; div32 "divss" f32; sqrt32 "sqrtss" f32;
        add64 "addsd" f64; sub64 "subsd" f64; mul64 "mulsd" f64; div64 "divsd" f64; sqrt64 "sqrtsd" f64;
    }

    macro_rules! fused {
        ($($name:ident $instruction:literal $type:ty;)*) => { $(
            pub fn $name(mut a: $type, b: $type, c: $type, mode: &str) -> $type {
                assert!(is_x86_feature_detected!("fma"), "a fused multiply-add is compared with the processor's");
                let (set, mut saved) = (control(mode), 0u32);
                // SAFETY: as above; the processor has FMA.
                unsafe {
                    asm!("stmxcsr [{s}]", "ldmxcsr [{n}]", concat!($instruction, " {a}, {b}, {c}"), "ldmxcsr [{s}]",
                        s = in(reg) &raw mut saved, n = in(reg) &raw const set, a = inout(xmm_reg) a,
                        b = in(xmm_reg) b, c = in(xmm_reg) c);
                }
                a
            }
        )* };
    }
    fused! { fma32 "vfmadd213ss" f32; fma64 "vfmadd213sd" f64; }
}

// Cases.

/// What a result must be.
enum Judge {
    /// These bits, from the three inputs.
    Bits(Box<dyn Fn(u64, u64, u64) -> u64 + Sync>),
    /// These bits, or any NaN of the type where they are one: the ISA leaves its payload open.
    AnyNan(&'static str, Box<dyn Fn(u64, u64, u64) -> u64 + Sync>),
    /// True for the result and the three inputs.
    Within(Box<dyn Fn(u64, u64, u64, u64) -> bool + Sync>),
}

/// A piece of PTX that leaves its result in `%d0`, `%d1` or `%d2`, by its bytes.
struct Case {
    body: String,
    bytes: u64,
    judge: Judge,
}

fn register(ty: &str) -> usize {
    match width(ty) {
        16 => 0,
        64 => 2,
        _ => 1,
    }
}

fn bytes(ty: &str) -> u64 {
    [2, 4, 8][register(ty)]
}

/// An instruction of `sources` operands of types, in the registers of `a`, `b` and `c`.
fn body(form: &Form, to: &str, from: &[&str]) -> String {
    let sources = from.iter().zip(["a", "b", "c"]).map(|(ty, name)| format!(", %{name}{}", register(ty)));
    format!("{} %d{}{};", form.text(), register(to), sources.collect::<String>())
}

/// Bits of a result, extended to its register as the ISA has it for `cvt`.
fn extended(value: i128, ty: &str) -> u64 {
    let value = integer(value as u64, ty);
    value as u64 & u64::MAX >> (64 - 8 * bytes(ty))
}

fn bits(
    form: &Form,
    to: &str,
    from: &[&str],
    f: impl Fn(u64, u64, u64) -> u64 + Sync + 'static,
) -> Option<Vec<Case>> {
    Some(vec![Case { body: body(form, to, from), bytes: bytes(to), judge: Judge::Bits(Box::new(f)) }])
}

/// Integers of one type in, a result that wraps.
fn integers(
    form: &Form,
    ty: &'static str,
    sources: usize,
    f: fn(i128, i128, i128) -> i128,
) -> Option<Vec<Case>> {
    bits(form, ty, &vec![ty; sources], move |a, b, c| {
        f(integer(a, ty), integer(b, ty), integer(c, ty)) as u64 & u64::MAX >> (64 - width(ty))
    })
}

/// A floating-point operation on the type's bits: flushed before and after, saturated, NaN as the card writes it.
fn floats(
    form: &Form,
    ty: &'static str,
    sources: usize,
    f: impl Fn(u64, u64, u64) -> u64 + Sync + 'static,
) -> Option<Vec<Case>> {
    let one = if ty == "f16x2" { "f16" } else { ty };
    let (ftz, sat) = (form.has("ftz"), form.has("sat"));
    let single = move |a: u64, b: u64, c: u64| {
        let flushed = |x: u64| if ftz { flush(x, one) } else { x };
        let result = flushed(f(flushed(a), flushed(b), flushed(c)));
        match (sat, is_nan(result, one)) {
            (true, _) => saturate(result, one),
            (false, true) => canonical(one),
            _ => result,
        }
    };
    let whole: Box<dyn Fn(u64, u64, u64) -> u64 + Sync> = match ty {
        "f16" => Box::new(move |a, b, c| single(a & 0xffff, b & 0xffff, c & 0xffff)),
        "f16x2" => Box::new(move |a, b, c| {
            let half =
                |shift: u32| single(a >> shift & 0xffff, b >> shift & 0xffff, c >> shift & 0xffff) << shift;
            half(0) | half(16)
        }),
        "f32" => Box::new(move |a, b, c| single(a & 0xffff_ffff, b & 0xffff_ffff, c & 0xffff_ffff)),
        _ => Box::new(single),
    };
    let judge = if ty == "f64" { Judge::AnyNan(ty, whole) } else { Judge::Bits(whole) };
    Some(vec![Case { body: body(form, ty, &vec![ty; sources]), bytes: bytes(ty), judge }])
}

/// A f16 in units of 2^-24, of which all finite ones are multiples; 0 for the others.
fn fixed(bits: u64) -> i128 {
    if h(bits).is_finite() { (h(bits) * 2f64.powi(24)) as i128 } else { 0 }
}

fn add16(a: u64, b: u64) -> u64 {
    let (x, y) = (h(a), h(b));
    let sum = fixed(a) + fixed(b);
    match x.is_finite() && y.is_finite() {
        false => into(x + y, "f16", "rn"),
        true if sum == 0 => a & b & 0x8000,
        true => round(sum < 0, sum.unsigned_abs(), -24, "f16", "rn"),
    }
}

fn fma16(a: u64, b: u64, c: u64) -> u64 {
    let (x, y, z) = (h(a), h(b), h(c));
    if !(x.is_finite() && y.is_finite() && z.is_finite()) {
        return into(x * y + z, "f16", "rn");
    }
    let sum = fixed(a) * fixed(b) + (fixed(c) << 24);
    if sum == 0 {
        let zeros = fixed(a) * fixed(b) == 0;
        return if zeros { (a ^ b) & c & 0x8000 } else { 0 };
    }
    round(sum < 0, sum.unsigned_abs(), -48, "f16", "rn")
}

fn mul16(a: u64, b: u64) -> u64 {
    let (x, y) = (h(a), h(b));
    match x.is_finite() && y.is_finite() {
        false => into(x * y, "f16", "rn"),
        true => round((a ^ b) & 0x8000 != 0, (fixed(a) * fixed(b)).unsigned_abs(), -48, "f16", "rn"),
    }
}

fn mode(form: &Form) -> &'static str {
    ["rz", "rm", "rp"].into_iter().find(|mode| form.has(mode)).unwrap_or("rn")
}

fn arithmetic(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let m = mode(form);
    match (form.opcode, ty) {
        ("add", "f16" | "f16x2") => floats(form, ty, 2, |a, b, _| add16(a, b)),
        ("sub", "f16" | "f16x2") => floats(form, ty, 2, |a, b, _| add16(a, b ^ 0x8000)),
        ("mul", "f16" | "f16x2") => floats(form, ty, 2, |a, b, _| mul16(a, b)),
        ("fma" | "mad", "f16" | "f16x2") => floats(form, ty, 3, fma16),
        ("fma" | "mad", "f32") => {
            floats(form, ty, 3, move |a, b, c| processor::fma32(f(a), f(b), f(c), m).to_bits() as u64)
        }
        ("fma" | "mad", "f64") => {
            floats(form, ty, 3, move |a, b, c| processor::fma64(d(a), d(b), d(c), m).to_bits())
        }
        (opcode, "f32") => {
            let with = match opcode {
                "add" => processor::add32,
                "sub" => processor::sub32,
                "mul" => processor::mul32,
                _ => processor::div32,
            };
            floats(form, ty, 2, move |a, b, _| with(f(a), f(b), m).to_bits() as u64)
        }
        (opcode, _) => {
            let with = match opcode {
                "add" => processor::add64,
                "sub" => processor::sub64,
                "mul" => processor::mul64,
                _ => processor::div64,
            };
            floats(form, ty, 2, move |a, b, _| with(d(a), d(b), m).to_bits())
        }
    }
}

/// The carry of `add.cc` and its like: set before from inputs, and shown after by negating the result.
fn carries(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let subtract = form.opcode.starts_with("sub");
    let (carry_in, carry_out) = (form.opcode.ends_with('c'), form.has("cc"));
    let before = match (carry_in, subtract) {
        (false, _) => "",
        (true, false) => "add.cc.u32 %t, %c1, %c1;",
        (true, true) => "sub.cc.u32 %t, %b1, %c1;",
    };
    let after = match (carry_out, subtract) {
        (false, _) => String::new(),
        (true, false) => "addc.u32 %t, 0, 0; setp.ne.u32 %p, %t, 0;".to_string(),
        (true, true) => "subc.u32 %t, 0, 0; setp.ne.u32 %p, %t, 0;".to_string(),
    };
    let shown = if carry_out {
        format!("@%p not.b{0} %d{1}, %d{1};", width(ty), register(ty))
    } else {
        String::new()
    };
    let unsigned = if width(ty) == 32 { "u32" } else { "u64" };
    let expected = move |a: u64, b: u64, c: u64| {
        let carry = match subtract {
            _ if !carry_in => 0,
            false => (c >> 31 & 1) as i128,
            true => ((b as u32) < c as u32) as i128,
        };
        let (x, y) = (integer(a, unsigned), integer(b, unsigned));
        let result = if subtract { x - y - carry } else { x + y + carry };
        let (_, largest) = range(unsigned);
        let out = !(0..=largest).contains(&result);
        (if carry_out && out { !result } else { result } & largest) as u64
    };
    let text = format!("{before} {} {after} {shown}", body(form, ty, &[ty, ty]));
    Some(vec![Case { body: text, bytes: bytes(ty), judge: Judge::Bits(Box::new(expected)) }])
}

/// Twice the width, of the same sign.
fn double(ty: &str) -> &'static str {
    match ty {
        "u16" => "u32",
        "s16" => "s32",
        "u32" => "u64",
        _ => "s64",
    }
}

fn product(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let add = form.opcode.starts_with("mad");
    let narrow = form.opcode.ends_with("24");
    if form.has("wide") {
        let to = double(ty);
        let from = if add { vec![ty, ty, to] } else { vec![ty, ty] };
        return bits(form, to, &from, move |a, b, c| {
            let addend = if add { integer(c, to) } else { 0 };
            (integer(a, ty) * integer(b, ty)).wrapping_add(addend) as u64 & u64::MAX >> (64 - width(to))
        });
    }
    let (high, sat) = (form.has("hi"), form.has("sat"));
    bits(form, ty, &vec![ty; 2 + add as usize], move |a, b, c| {
        let factor = |x: u64| match narrow {
            false => integer(x, ty),
            true if ty == "s32" => ((x as i32) << 8 >> 8) as i128,
            true => (x & 0xff_ffff) as i128,
        };
        // Of 64 bits unsigned the product fills 128: its bits are right.
        let product = factor(a).wrapping_mul(factor(b));
        let part = match (high, narrow) {
            (false, _) => product,
            (true, true) => product >> 16,
            (true, false) if ty.starts_with('s') => product >> width(ty),
            (true, false) => (product as u128 >> width(ty)) as i128,
        };
        let part = integer(part as u64, ty);
        let sum = part + if add { integer(c, ty) } else { 0 };
        let (low, high) = range(ty);
        (if sat { sum.clamp(low, high) } else { sum }) as u64 & u64::MAX >> (64 - width(ty))
    })
}

/// Within a relative error of a function in f64 where the result is a normal number, and the same where it is special.
fn approximate(
    form: &Form,
    ty: &'static str,
    relative: f64,
    absolute: f64,
    f: fn(f64) -> f64,
) -> Option<Vec<Case>> {
    let ftz = form.has("ftz");
    let one = if ty == "f16x2" { "f16" } else { ty };
    let single = move |got: u64, a: u64| {
        let flushed = |x: u64| if ftz { flush(x, one) } else { x };
        let exact = f(float(flushed(a), one));
        let want = flushed(into(exact, one, "rn"));
        let (precision, smallest, _) = format(one);
        if is_nan(want, one) {
            return got == canonical(one);
        }
        if float(want, one).is_infinite() || exact == 0.0 {
            return got == want;
        }
        let error = (float(got, one) - exact).abs();
        let least = if ftz { 2f64.powi(smallest) } else { 2f64.powi(smallest - precision + 1) };
        error <= exact.abs() * relative
            || error <= absolute
            || exact.abs() < 2f64.powi(smallest) && error <= least
    };
    let judge: Box<dyn Fn(u64, u64, u64, u64) -> bool + Sync> = match ty {
        "f16x2" => Box::new(move |got, a, _, _| {
            single(got & 0xffff, a & 0xffff) && single(got >> 16 & 0xffff, a >> 16 & 0xffff)
        }),
        "f16" => Box::new(move |got, a, _, _| single(got, a & 0xffff)),
        _ => Box::new(move |got, a, _, _| single(got, a & 0xffff_ffff)),
    };
    Some(vec![Case { body: body(form, ty, &[ty]), bytes: bytes(ty), judge: Judge::Within(judge) }])
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: the upper 32 bits alone, in and out.
fn upper(form: &Form, f: fn(f64) -> f64) -> Option<Vec<Case>> {
    let judge = move |got: u64, a: u64, _: u64, _: u64| {
        let exact = f(d(flush(a & !0xffff_ffff, "f64")));
        let exact = if d(a).is_nan() { f64::NAN } else { exact };
        match exact {
            _ if exact.is_nan() => d(got).is_nan(),
            _ if exact.is_infinite() || exact.abs() < f64::MIN_POSITIVE => {
                got == flush(exact.to_bits(), "f64")
            }
            _ => got as u32 == 0 && (d(got) - exact).abs() <= exact.abs() * 2f64.powi(-20),
        }
    };
    Some(vec![Case { body: body(form, "f64", &["f64"]), bytes: 8, judge: Judge::Within(Box::new(judge)) }])
}

fn special(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let m = mode(form);
    // Errors as the ISA documents them.
    match (form.opcode, ty) {
        ("rcp", "f64") if form.has("approx") => upper(form, |x| 1.0 / x),
        ("rsqrt", "f64") if form.has("ftz") => upper(form, |x| 1.0 / x.sqrt()),
        ("rsqrt", "f64") => {
            let judge = |got: u64, a: u64, _: u64, _: u64| {
                let exact = 1.0 / d(a).sqrt();
                match exact.is_finite() {
                    true => (d(got) - exact).abs() <= exact.abs() * 2f64.powi(-50),
                    false => got == exact.to_bits() || d(got).is_nan() && exact.is_nan(),
                }
            };
            Some(vec![Case { body: body(form, ty, &[ty]), bytes: 8, judge: Judge::Within(Box::new(judge)) }])
        }
        ("rcp", "f32") if form.has("approx") => approximate(form, ty, 2f64.powi(-23), 0.0, |x| 1.0 / x),
        ("sqrt", "f32") if form.has("approx") => approximate(form, ty, 2f64.powi(-23), 0.0, f64::sqrt),
        ("rsqrt", _) => approximate(form, ty, 2f64.powf(-22.9), 0.0, |x| 1.0 / x.sqrt()),
        ("sin", _) => approximate(form, ty, 0.0, 2f64.powf(-20.5), f64::sin),
        ("cos", _) => approximate(form, ty, 0.0, 2f64.powf(-20.5), f64::cos),
        ("lg2", _) => approximate(form, ty, 2f64.powi(-22), 2f64.powi(-22), f64::log2),
        ("ex2", "f32") => approximate(form, ty, 2f64.powi(-22), 0.0, f64::exp2),
        ("ex2", _) => approximate(form, ty, 2f64.powf(-9.9), 0.0, f64::exp2),
        ("tanh", "f32") => approximate(form, ty, 2f64.powi(-11), 0.0, f64::tanh),
        ("tanh", _) => approximate(form, ty, 2f64.powf(-10.987), 0.0, f64::tanh),
        ("rcp", "f32") => floats(form, ty, 1, move |a, _, _| processor::div32(1.0, f(a), m).to_bits() as u64),
        ("rcp", _) => floats(form, ty, 1, move |a, _, _| processor::div64(1.0, d(a), m).to_bits()),
        ("sqrt", "f32") => {
            floats(form, ty, 1, move |a, _, _| processor::sqrt32(0.0, f(a), m).to_bits() as u64)
        }
        _ => floats(form, ty, 1, move |a, _, _| processor::sqrt64(0.0, d(a), m).to_bits()),
    }
}

fn quotient(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let (approx, ftz) = (form.has("approx"), form.has("ftz"));
    if !approx && !form.has("full") {
        return match is_float(ty) {
            true => arithmetic(form, ty),
            // By zero: all ones, as cards do.
            false => integers(form, ty, 2, |a, b, _| if b == 0 { -1 } else { a / b }),
        };
    }
    let judge = move |got: u64, a: u64, b: u64, _: u64| {
        let flushed = |x: u64| f(if ftz { flush(x & 0xffff_ffff, "f32") } else { x });
        let (a, b) = (flushed(a) as f64, flushed(b) as f64);
        let large = b.abs() > 2f64.powi(126) && b.is_finite();
        let exact = if approx && large { a * 0f64.copysign(b) } else { a / b };
        let want = into(exact, "f32", "rn");
        let want = if ftz { flush(want, "f32") } else { want };
        // Two units in the last place.
        let unit = (exact.abs() * 2f64.powi(-23)).max(if ftz { 2f64.powi(-126) } else { 2f64.powi(-149) });
        match f(want).is_finite() && exact != 0.0 {
            true => (f(got) as f64 - exact).abs() <= 2.0 * unit,
            false => got == want,
        }
    };
    Some(vec![Case { body: body(form, ty, &[ty, ty]), bytes: 4, judge: Judge::Within(Box::new(judge)) }])
}

fn signs(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let negate = form.opcode == "neg";
    if ty.starts_with('s') {
        return integers(form, ty, 1, if negate { |a, _, _| -a } else { |a, _, _| a.abs() });
    }
    let one = if ty == "f16x2" { "f16" } else { ty };
    let ftz = form.has("ftz");
    let single = move |a: u64| {
        let a = if ftz { flush(a, one) } else { a };
        let sign = 1 << (width(one) - 1);
        if negate { a ^ sign } else { a & !sign }
    };
    let (body, bytes) = (body(form, ty, &[ty]), bytes(ty));
    let judge = match ty {
        "f16x2" => Judge::Bits(Box::new(move |a, _, _| single(a & 0xffff) | single(a >> 16 & 0xffff) << 16)),
        _ => Judge::AnyNan(ty, Box::new(move |a, _, _| single(a & u64::MAX >> (64 - width(ty))))),
    };
    Some(vec![Case { body, bytes, judge }])
}

fn extremes(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let larger = form.opcode == "max";
    if !is_float(ty) {
        return integers(form, ty, 2, if larger { |a, b, _| a.max(b) } else { |a, b, _| a.min(b) });
    }
    floats(form, ty, 2, move |a, b, _| {
        let (x, y) = (float(a, ty), float(b, ty));
        let first = match x == y {
            // +0 is above -0.
            true => (a >> (width(ty) - 1) == 0) == larger,
            false => (x > y) == larger,
        };
        if y.is_nan() || !x.is_nan() && first { a } else { b }
    })
}

fn logic(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let sources = if form.opcode.ends_with("not") { 1 } else { 2 };
    let compute: fn(u64, u64) -> u64 = match form.opcode {
        "and" => |a, b| a & b,
        "or" => |a, b| a | b,
        "xor" => |a, b| a ^ b,
        "not" => |a, _| !a,
        _ => |a, _| (a == 0) as u64,
    };
    if ty == "pred" {
        let second = if sources == 2 { ", %r" } else { "" };
        let text = format!("{} %p, %q{second}; selp.u32 %d1, 1, 0, %p;", form.text());
        let judge = Judge::Bits(Box::new(move |_, b, c| compute((c as u32 != 0) as u64, b & 1) & 1));
        return Some(vec![Case { body: text, bytes: 4, judge }]);
    }
    let mask = u64::MAX >> (64 - width(ty));
    bits(form, ty, &vec![ty; sources], move |a, b, _| compute(a & mask, b & mask) & mask)
}

fn shift(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let left = form.opcode == "shl";
    bits(form, ty, &[ty, "u32"], move |a, b, _| {
        let by = (b as u32).min(64);
        let value = integer(a, ty);
        (if left { value << by } else { value >> by }) as u64 & u64::MAX >> (64 - width(ty))
    })
}

fn permutation(form: &Form) -> Option<Vec<Case>> {
    // The ISA's table: for each of the two lowest bits of c, the bytes from the highest place to the lowest.
    let table: Option<[[u32; 4]; 4]> = match form.modifiers.first() {
        None => None,
        Some(&"f4e") => Some([[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        Some(&"b4e") => Some([[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        Some(&"rc8") => Some([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        Some(&"ecl") => Some([[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        Some(&"ecr") => Some([[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        Some(&"rc16") => Some([[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
        Some(_) => return None,
    };
    // The mode stands behind the type.
    let mut opcode = format!("prmt.b32.{}", form.modifiers.join("."));
    if form.modifiers.is_empty() {
        opcode.pop();
    }
    let judge = Judge::Bits(Box::new(move |a: u64, b: u64, c: u64| {
        let all: Vec<u8> = [(a as u32).to_le_bytes(), (b as u32).to_le_bytes()].concat();
        let byte = |place: usize| match table {
            Some(table) => all[table[(c & 3) as usize][3 - place] as usize],
            None => {
                let selector = (c >> (4 * place) & 15) as usize;
                let byte = all[selector & 7];
                if selector & 8 == 0 { byte } else { 0u8.wrapping_sub(byte >> 7) }
            }
        };
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]) as u64
    }));
    Some(vec![Case { body: format!("{opcode} %d1, %a1, %b1, %c1;"), bytes: 4, judge }])
}

fn fields(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let size = width(ty) as u64;
    if form.opcode == "bfe" {
        return bits(form, ty, &[ty, "u32", "u32"], move |a, b, c| {
            let (position, length) = (b & 0xff, c & 0xff);
            let last = (position + length).saturating_sub(1).min(size - 1);
            let sign = if ty.starts_with('u') || length == 0 { 0 } else { a >> last & 1 };
            let bit = |i| if i < length && position + i < size { a >> (position + i) & 1 } else { sign };
            (0..size).map(|i| bit(i) << i).sum()
        });
    }
    let text = format!("{} %d{r}, %a{r}, %b{r}, %c1, %b1;", form.text(), r = register(ty));
    let judge = Judge::Bits(Box::new(move |a, b, c| {
        let (position, length) = (c & 0xff, b & 0xff);
        let bit =
            |i| if i >= position && i < position + length { a >> (i - position) & 1 } else { b >> i & 1 };
        (0..size).map(|i| bit(i) << i).sum()
    }));
    Some(vec![Case { body: text, bytes: bytes(ty), judge }])
}

fn small_fields(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let (clamp, masks) = (form.has("clamp"), form.opcode == "bmsk");
    bits(form, ty, &[ty, "u32"], move |a, b, _| {
        let (a, b) = (a & 0xffff_ffff, b & 0xffff_ffff);
        let width = if clamp { b } else { b % 32 };
        let sign = if ty == "s32" && width > 0 { a >> (width - 1).min(31) & 1 } else { 0 };
        let position = if clamp { a } else { a % 32 };
        let bit = |i| match masks {
            true => (i >= position && i < position + width) as u64,
            false => {
                if i < width {
                    a >> i & 1
                } else {
                    sign
                }
            }
        };
        (0..32).map(|i| bit(i) << i).sum()
    })
}

fn counts(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let size = width(ty);
    let bit = |a: u64, i: u32| a >> i & 1;
    match form.opcode {
        "popc" => bits(form, "u32", &[ty], move |a, _, _| (0..size).map(|i| bit(a, i)).sum()),
        "clz" => bits(form, "u32", &[ty], move |a, _, _| {
            (0..size).rev().take_while(|i| bit(a, *i) == 0).count() as u64
        }),
        "brev" => bits(form, ty, &[ty], move |a, _, _| (0..size).map(|i| bit(a, i) << (size - 1 - i)).sum()),
        _ => {
            let (shift, signed) = (form.has("shiftamt"), ty.starts_with('s'));
            bits(form, "u32", &[ty], move |a, _, _| {
                let sign = if signed { bit(a, size - 1) } else { 0 };
                let found = (0..size).rev().find(|i| bit(a, *i) != sign);
                found.map_or(0xffff_ffff, |i| if shift { size - 1 - i } else { i } as u64)
            })
        }
    }
}

fn dots(form: &Form, types: &[&'static str]) -> Option<Vec<Case>> {
    let (signed_a, signed_b) = (types[0] == "s32", types[1] == "s32");
    let part = |x: u64, size: u32, place: u32, signed: bool| {
        let spare = 128 - size;
        let raised = (x as u128 >> (size * place)) << spare;
        if signed { raised as i128 >> spare } else { (raised >> spare) as i128 }
    };
    let (four, high) = (form.opcode == "dp4a", form.has("hi"));
    bits(form, "u32", &["u32"; 3], move |a, b, c| {
        let sum: i128 = match four {
            true => (0..4).map(|i| part(a, 8, i, signed_a) * part(b, 8, i, signed_b)).sum(),
            false => {
                let at = if high { 2 } else { 0 };
                (0..2).map(|i| part(a, 16, i, signed_a) * part(b, 8, i + at, signed_b)).sum()
            }
        };
        (sum + c as i128) as u32 as u64
    })
}

/// Whether a comparison holds, by the order of its sources; `None` where one is NaN.
fn holds(comparison: &str, order: Option<std::cmp::Ordering>) -> bool {
    let Some(order) = order else {
        return comparison == "nan" || comparison.len() == 3 && comparison.ends_with('u');
    };
    match &comparison[..2] {
        "eq" => order.is_eq(),
        "ne" => order.is_ne(),
        "lt" | "lo" => order.is_lt(),
        "le" | "ls" => order.is_le(),
        "gt" | "hi" => order.is_gt(),
        "ge" | "hs" => order.is_ge(),
        _ => comparison == "num",
    }
}

/// The comparison of a form of `setp` or `set` on values of a type, each half of `f16x2` in a bit of its own.
fn comparison(form: &Form, ty: &'static str) -> impl Fn(u64, u64) -> u64 + Sync + 'static {
    let known = ["lo", "hi"].into_iter().chain(GROUPS[7].iter().copied());
    let name = known.into_iter().find(|word| form.has(word)).unwrap_or("");
    let ftz = form.has("ftz");
    let number = move |x: u64, ty: &str| float(if ftz { flush(x, ty) } else { x }, ty);
    move |a, b| {
        let half = |shift: u32| {
            let (a, b) = (number(a >> shift & 0xffff, "f16"), number(b >> shift & 0xffff, "f16"));
            holds(name, a.partial_cmp(&b)) as u64
        };
        match ty {
            "f16x2" => half(0) | half(16) << 1,
            "f16" => half(0),
            "f32" => {
                holds(name, number(a & 0xffff_ffff, ty).partial_cmp(&number(b & 0xffff_ffff, ty))) as u64
            }
            "f64" => holds(name, number(a, ty).partial_cmp(&number(b, ty))) as u64,
            _ => holds(name, Some(integer(a, ty).cmp(&integer(b, ty)))) as u64,
        }
    }
}

/// `setp` into both destinations, and with a predicate as it is and negated.
fn set_predicates(form: &Form, ty: &'static str) -> Option<Vec<Case>> {
    let compare = comparison(form, ty);
    let combine: Option<fn(u64, u64) -> u64> = match form {
        _ if form.has("and") => Some(|t, c| t & c),
        _ if form.has("or") => Some(|t, c| t | c),
        _ if form.has("xor") => Some(|t, c| t ^ c),
        _ => None,
    };
    let r = register(ty);
    let opcode = form.text();
    let one = |with: &str, shift: u32| {
        format!(
            "{opcode} %p|%s, %a{r}, %b{r}{with}; selp.u32 %t, {}, 0, %p; or.b32 %d1, %d1, %t; selp.u32 %t, {}, 0, %s; or.b32 %d1, %d1, %t;",
            1 << shift,
            2 << shift
        )
    };
    let body = if combine.is_some() { one(", %q", 0) + &one(", !%q", 2) } else { one("", 0) };
    let judge = Judge::Bits(Box::new(move |a, b, c| {
        let t = compare(a, b);
        // The second destination is the complement's; of two halves it is the upper one's.
        let (p, q) = if ty == "f16x2" { (t & 1, t >> 1) } else { (t, 1 - t) };
        let c = (c as u32 != 0) as u64;
        match combine {
            None => p | q << 1,
            Some(with) => with(p, c) | with(q, c) << 1 | with(p, 1 - c) << 2 | with(q, 1 - c) << 3,
        }
    }));
    Some(vec![Case { body, bytes: 4, judge }])
}

fn set_values(form: &Form, types: &[&'static str]) -> Option<Vec<Case>> {
    let (to, from) = (types[0], types[1]);
    let compare = comparison(form, from);
    let one: u64 = match (to, from) {
        ("f16" | "f16x2", _) => 0x3c00,
        ("f32", _) => 0x3f80_0000,
        (_, "f16x2") => 0xffff,
        _ => u64::MAX >> (64 - width(to)),
    };
    bits(form, to, &[from, from], move |a, b, _| {
        let t = compare(a, b);
        (one * (t & 1)) | ((one * (t >> 1)) << 16)
    })
}

fn selections(form: &Form, types: &[&'static str]) -> Option<Vec<Case>> {
    let ty = types[0];
    let r = register(ty);
    let mask = u64::MAX >> (64 - width(ty));
    if form.opcode == "selp" {
        let body = format!("{} %d{r}, %a{r}, %b{r}, %q;", form.text());
        let judge = Judge::Bits(Box::new(move |a, b, c| if c as u32 != 0 { a } else { b } & mask));
        return Some(vec![Case { body, bytes: bytes(ty), judge }]);
    }
    // Flushing makes zero of either sign of a subnormal, which is not below zero.
    let (float, ftz) = (types[1] == "f32", form.has("ftz"));
    bits(form, ty, &[ty, ty, types[1]], move |a, b, c| {
        let c = if ftz { flush(c & 0xffff_ffff, "f32") } else { c };
        let first = if float { f(c) >= 0.0 } else { c as i32 >= 0 };
        if first { a & mask } else { b & mask }
    })
}

fn conversions(form: &Form, types: &[&'static str]) -> Option<Vec<Case>> {
    let (to, from) = (types[0], types[1]);
    let (sat, ftz, m) = (form.has("sat"), form.has("ftz"), mode(form));
    let mask = u64::MAX >> (64 - width(from));
    let integral: Option<fn(f64) -> f64> = match form.modifiers.first() {
        Some(&"rni") => Some(f64::round_ties_even),
        Some(&"rzi") => Some(f64::trunc),
        Some(&"rmi") => Some(f64::floor),
        Some(&"rpi") => Some(f64::ceil),
        _ => None,
    };
    // `.ftz` concerns f32 alone.
    let flushed = move |x: u64, ty: &str| if ftz && ty == "f32" { flush(x, ty) } else { x };
    let convert = move |a: u64| -> u64 {
        let a = flushed(a & mask, from);
        let result = match (is_float(to), is_float(from)) {
            (false, false) => {
                let (low, high) = range(to);
                let value = integer(a, from);
                return extended(if sat { value.clamp(low, high) } else { value }, to);
            }
            (false, true) => {
                let x = float(a, from);
                let (low, high) = range(to);
                // NaN is 0, or the highest bit where 64 bits are converted.
                let wide = from == "f64" || width(to) == 64;
                let value = match integral {
                    _ if x.is_nan() => {
                        if wide {
                            1 << (width(to) - 1)
                        } else {
                            0
                        }
                    }
                    Some(round) => (round(x) as i128).clamp(low, high),
                    None => return !0,
                };
                return extended(value, to);
            }
            (true, false) => {
                let value = integer(a, from);
                round(value < 0, value.unsigned_abs(), 0, to, m)
            }
            (true, true) => into(integral.unwrap_or(|x| x)(float(a, from)), to, m),
        };
        let result = flushed(result, to);
        if sat { saturate(result, to) } else { result }
    };
    let expected: Box<dyn Fn(u64, u64, u64) -> u64 + Sync> = Box::new(move |a, _, _| convert(a));
    let any = to == "f64" || (to, from) == ("f16", "f16");
    let judge = if any { Judge::AnyNan(to, expected) } else { Judge::Bits(expected) };
    Some(vec![Case { body: body(form, to, &[from]), bytes: bytes(to), judge }])
}

/// The tests of a form; `None` where nobody has written one.
fn cases(form: &Form) -> Option<Vec<Case>> {
    let types = form.types.as_slice();
    let ty = *types.first()?;
    match form.opcode {
        "add" | "sub" | "addc" | "subc" if form.has("cc") || form.opcode.len() == 4 => carries(form, ty),
        "add" | "sub" | "mul" | "mad" | "fma" if ty.starts_with('f') => arithmetic(form, ty),
        "add" if form.has("sat") => {
            integers(form, ty, 2, |a, b, _| (a + b).clamp(i32::MIN as i128, i32::MAX as i128))
        }
        "sub" if form.has("sat") => {
            integers(form, ty, 2, |a, b, _| (a - b).clamp(i32::MIN as i128, i32::MAX as i128))
        }
        "add" => integers(form, ty, 2, |a, b, _| a + b),
        "sub" => integers(form, ty, 2, |a, b, _| a - b),
        "mul" | "mad" | "mul24" | "mad24" => product(form, ty),
        "div" => quotient(form, ty),
        // By zero: the dividend, as cards do.
        "rem" => integers(form, ty, 2, |a, b, _| if b == 0 { a } else { a % b }),
        "abs" | "neg" => signs(form, ty),
        "min" | "max" => extremes(form, ty),
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => special(form, ty),
        "copysign" => {
            let sign = 1u64 << (width(ty) - 1);
            bits(form, ty, &[ty, ty], move |a, b, _| (a & sign) | (b & (sign - 1)))
        }
        "testp" => {
            let test: fn(f64, f64) -> bool = match form.modifiers[0] {
                "finite" => |x, _| x.is_finite(),
                "infinite" => |x, _| x.is_infinite(),
                "number" => |x, _| !x.is_nan(),
                "notanumber" => |x, _| x.is_nan(),
                // Zeros count as normal.
                "normal" => |x, least| x == 0.0 || x.is_finite() && x.abs() >= least,
                _ => |x, least| x != 0.0 && x.abs() < least,
            };
            let body = format!("{} %p, %a{}; selp.u32 %d1, 1, 0, %p;", form.text(), register(ty));
            let judge = Judge::Bits(Box::new(move |a, _, _| {
                test(float(a & u64::MAX >> (64 - width(ty)), ty), 2f64.powi(format(ty).1)) as u64
            }));
            Some(vec![Case { body, bytes: 4, judge }])
        }
        "and" | "or" | "xor" | "not" | "cnot" => logic(form, ty),
        "shl" | "shr" => shift(form, ty),
        "shf" => {
            let (left, clamp) = (form.has("l"), form.has("clamp"));
            bits(form, ty, &[ty; 3], move |a, b, c| {
                let both = (b & 0xffff_ffff) << 32 | a & 0xffff_ffff;
                let by = if clamp { (c & 0xffff_ffff).min(32) } else { c & 31 };
                (if left { (both as u128) << by >> 32 } else { both as u128 >> by }) as u32 as u64
            })
        }
        "lop3" => Some(
            (0..256u64)
                .map(|table| Case {
                    body: format!("lop3.b32 %d1, %a1, %b1, %c1, {table};"),
                    bytes: 4,
                    judge: Judge::Bits(Box::new(move |a, b, c| {
                        let row = |i: u32| (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                        (0..32).map(|i| (table >> row(i) & 1) << i).sum()
                    })),
                })
                .collect(),
        ),
        "prmt" => permutation(form),
        "bfe" | "bfi" => fields(form, ty),
        "bmsk" | "szext" => small_fields(form, ty),
        "popc" | "clz" | "brev" | "bfind" => counts(form, ty),
        "sad" => integers(form, ty, 3, |a, b, c| c + (a - b).abs()),
        "dp4a" | "dp2a" => dots(form, types),
        "setp" => set_predicates(form, ty),
        "set" => set_values(form, types),
        "selp" | "slct" => selections(form, types),
        "cvt" => conversions(form, types),
        _ => None,
    }
}

// Running.

/// A card with the inputs in its memory.
struct Bench {
    device: Arc<Device>,
    isa: Isa,
    from: u64,
    to: u64,
}

fn benches(inputs: &[[u64; 3]]) -> Vec<Bench> {
    let settings = || Settings { seed: 0, threads: 1, memory: 1 << 30, watchdog: 1 << 20 };
    let supported = Isa::ALL.into_iter().filter_map(|isa| Some((Device::with_isa(settings(), isa)?, isa)));
    supported
        .map(|(device, isa)| {
            let bytes: Vec<u8> = inputs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
            let from = device.allocate(bytes.len() as u64).unwrap();
            device.write(from, &bytes).unwrap();
            let to = device.allocate(inputs.len() as u64 * 8).unwrap();
            Bench { device, isa, from, to }
        })
        .collect()
}

/// A kernel around a case's body. `%q` is whether c is not 0, `%r` whether b is odd.
fn kernel(case: &Case) -> String {
    let (ty, register) = match case.bytes {
        2 => ("u16", "%d0"),
        4 => ("u32", "%d1"),
        _ => ("u64", "%d2"),
    };
    format!(
        ".version 9.0\n.target sm_75\n.address_size 64\n.visible .entry k(.param .u64 from, .param .u64 to) {{
.reg .pred %p, %q, %r, %s; .reg .b16 %a0, %b0, %c0, %d0; .reg .b32 %a1, %b1, %c1, %d1, %t, %n; .reg .b64 %a2, %b2, %c2, %d2, %x, %y, %o;
ld.param.u64 %x, [from]; ld.param.u64 %y, [to]; mov.u32 %t, %tid.x; mov.u32 %n, %ctaid.x; mad.lo.s32 %t, %n, 256, %t;
mul.wide.u32 %o, %t, 24; add.s64 %x, %x, %o; mul.wide.u32 %o, %t, 8; add.s64 %y, %y, %o;
ld.global.u64 %a2, [%x]; ld.global.u64 %b2, [%x+8]; ld.global.u64 %c2, [%x+16];
mov.b64 {{%a1, _}}, %a2; mov.b64 {{%b1, _}}, %b2; mov.b64 {{%c1, _}}, %c2;
mov.b64 {{%a0, _, _, _}}, %a2; mov.b64 {{%b0, _, _, _}}, %b2; mov.b64 {{%c0, _, _, _}}, %c2;
mov.u16 %d0, 0; mov.u32 %d1, 0; mov.u64 %d2, 0; setp.ne.u32 %q, %c1, 0; and.b32 %t, %b1, 1; setp.ne.u32 %r, %t, 0;
{}
st.global.{ty} [%y], {register}; ret; }}",
        case.body
    )
}

impl Bench {
    fn run(&self, case: &Case, count: usize) -> Vec<u64> {
        let text = kernel(case);
        let module = self.device.load(&text).unwrap_or_else(|e| panic!("{}: {e}", case.body));
        let function = module.function("k").unwrap();
        self.device.fill(self.to, &[0], count as u64 * 8).unwrap();
        let parameters: Vec<u8> = [self.from, self.to].iter().flat_map(|v| v.to_le_bytes()).collect();
        let launch = Launch {
            grid: [count as u32 / 256, 1, 1],
            block: [256, 1, 1],
            dynamic_shared: 0,
            parameters: &parameters,
        };
        self.device.launch(&function, &launch).unwrap_or_else(|e| panic!("{}: {e}", case.body));
        let mut out = vec![0; count * 8];
        self.device.read(self.to, &mut out).unwrap();
        out.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
    }
}

/// What is wrong with a case's results, if anything: the first by the definition, the others by the first.
fn fault(case: &Case, benches: &[Bench], inputs: &[[u64; 3]]) -> Option<String> {
    let results = benches[0].run(case, inputs.len());
    for (got, [a, b, c]) in results.iter().zip(inputs) {
        let (fine, want) = match &case.judge {
            Judge::Bits(expected) => {
                let want = expected(*a, *b, *c);
                (*got == want, want)
            }
            Judge::AnyNan(ty, expected) => {
                let want = expected(*a, *b, *c);
                (*got == want || is_nan(*got, ty) && is_nan(want, ty), want)
            }
            Judge::Within(holds) => (holds(*got, *a, *b, *c), 0),
        };
        if !fine {
            return Some(format!("{} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {want:#x}", case.body));
        }
    }
    for bench in &benches[1..] {
        let others = bench.run(case, inputs.len());
        if let Some(i) = (0..inputs.len()).find(|i| others[*i] != results[*i]) {
            let ([a, b, c], got, want) = (inputs[i], others[i], results[i]);
            let (isa, first) = (bench.isa, benches[0].isa);
            return Some(format!(
                "{} of {a:#x}, {b:#x}, {c:#x}: {got:#x} with {isa:?}, {want:#x} with {first:?}",
                case.body
            ));
        }
    }
    None
}

#[test]
fn every_form_is_computed_as_the_isa_says() {
    let mut inputs = values::inputs();
    let whole = inputs.len().next_multiple_of(256);
    inputs.resize(whole, [0; 3]);
    let next = AtomicUsize::new(0);
    let mut wrong = Vec::new();
    let mut tested = 0;
    // Each thread of the host has cards of its own, and takes the next opcode.
    std::thread::scope(|scope| {
        let work = || {
            let benches = benches(&inputs);
            let (mut wrong, mut tested) = (Vec::new(), 0);
            while let Some(opcode) = OPCODES.get(next.fetch_add(1, Ordering::Relaxed)) {
                let forms = forms(opcode);
                if forms.is_empty() {
                    wrong.push(format!("{opcode} has no form"));
                }
                for form in forms {
                    tested += 1;
                    let Some(cases) = cases(&form) else {
                        wrong.push(format!("{} has no test", form.text()));
                        continue;
                    };
                    wrong.extend(cases.iter().filter_map(|case| fault(case, &benches, &inputs)));
                }
            }
            (wrong, tested)
        };
        for part in [(); 2].map(|()| scope.spawn(work)) {
            let (found, count) = part.join().unwrap();
            wrong.extend(found);
            tested += count;
        }
    });
    assert!(tested > 2000, "only {tested} forms");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The words that the table of instructions matches are the words that [`forms`] combines: a new one must be added there.
#[test]
fn no_word_is_forgotten() {
    let mut known: BTreeSet<&str> = OPCODES.into_iter().chain(TYPES).chain(GROUPS.concat()).collect();
    // Of `mma`, whose tests are in `warps.rs` and in `arithmetic::mma`.
    known.extend(["sync", "aligned", "m16n8k8", "row", "col"]);
    let mut found = 0;
    for line in include_str!("../src/program/alu.rs").lines() {
        if line.trim_start().starts_with("//")
            || line.contains("target_")
            || line.contains("feature_detected")
        {
            continue;
        }
        for word in line.split('"').skip(1).step_by(2) {
            let plain = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            if plain && !word.is_empty() {
                assert!(known.contains(word), "{word}: no form of it is tested: {line}");
                found += 1;
            }
        }
    }
    assert!(found > 100, "only {found} words found");
}
