//! Lane-wise instructions, alone and in pieces of several, written out with what they must give: the processor's own
//! instruction under the same rounding, or wide integers, on random and special values. All forms there are: `forms.rs`.

#[path = "common/values.rs"]
mod values;

use simulator::{Device, Launch, Settings};
use values::inputs;

/// Runs one instruction over all inputs. `body` uses `%a0` (16 bits), `%a1` (32), `%a2` (64) and so on for `b`, `c` and the
/// destination `d`; `size` is the destination's bytes.
fn run(body: &str, size: u64) -> Vec<(u64, [u64; 3])> {
    let inputs = inputs();
    let n = inputs.len() as u64;
    let (ty, register) = match size {
        2 => ("u16", "%d0"),
        4 => ("u32", "%d1"),
        _ => ("u64", "%d2"),
    };
    let text = format!(
        ".version 9.0\n.target sm_75\n.address_size 64\n.visible .entry k(.param .u64 from, .param .u64 to) {{
.reg .pred %p, %q; .reg .b16 %a0, %b0, %c0, %d0; .reg .b32 %a1, %b1, %c1, %d1, %t, %n; .reg .b64 %a2, %b2, %c2, %d2, %x, %y, %o;
ld.param.u64 %x, [from]; ld.param.u64 %y, [to]; mov.u32 %t, %tid.x; mov.u32 %n, %ctaid.x; mad.lo.s32 %t, %n, 32, %t;
mul.wide.u32 %o, %t, 24; add.s64 %x, %x, %o; mul.wide.u32 %o, %t, 8; add.s64 %y, %y, %o;
ld.global.u64 %a2, [%x]; ld.global.u64 %b2, [%x+8]; ld.global.u64 %c2, [%x+16];
cvt.u32.u64 %a1, %a2; cvt.u32.u64 %b1, %b2; cvt.u32.u64 %c1, %c2; cvt.u16.u64 %a0, %a2; cvt.u16.u64 %b0, %b2; cvt.u16.u64 %c0, %c2;
mov.u16 %d0, 0; mov.u32 %d1, 0; mov.u64 %d2, 0; setp.ne.u32 %q, %c1, 0;
{body}
st.global.{ty} [%y], {register}; ret; }}"
    );
    let device = Device::new(Settings::default());
    let module = device.load(&text).unwrap_or_else(|e| panic!("{body}: {e}"));
    let function = module.function("k").unwrap();
    let (from, to) = (device.allocate(n * 24).unwrap(), device.allocate(n * 8).unwrap());
    let bytes: Vec<u8> = inputs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    device.write(from, &bytes).unwrap();
    device.fill(to, &[0], n * 8).unwrap();
    let parameters: Vec<u8> = [from, to].iter().flat_map(|v| v.to_le_bytes()).collect();
    let launch =
        Launch { grid: [n as u32 / 32, 1, 1], block: [32, 1, 1], dynamic_shared: 0, parameters: &parameters };
    device.launch(&function, &launch).unwrap_or_else(|e| panic!("{body}: {e}"));
    let mut out = vec![0; n as usize * 8];
    device.read(to, &mut out).unwrap();
    out.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).zip(inputs).collect()
}

fn check(body: &str, size: u64, expected: impl Fn(u64, u64, u64) -> u64) {
    for (got, [a, b, c]) in run(body, size) {
        let want = expected(a, b, c) & (u64::MAX >> (64 - 8 * size));
        assert_eq!(got, want, "{body} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {want:#x}");
    }
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Bits of a f32 result, NaN as the card writes it.
fn bits(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() as u64 }
}

#[test]
fn integers() {
    for (name, wide) in [("add", false), ("sub", false), ("mul.lo", true), ("min", true), ("max", true)] {
        for (ty, size, signed) in [
            ("s32", 4, true),
            ("u32", 4, false),
            ("s64", 8, true),
            ("u64", 8, false),
            ("s16", 2, true),
            ("u16", 2, false),
        ] {
            let register = match size {
                2 => 0,
                4 => 1,
                _ => 2,
            };
            let value = move |x: u64| -> i128 {
                let shift = 64 - 8 * size;
                if signed { ((x << shift) as i64 >> shift) as i128 } else { (x << shift >> shift) as i128 }
            };
            let _ = wide;
            check(&format!("{name}.{ty} %d{register}, %a{register}, %b{register};"), size, |a, b, _| {
                let (a, b) = (value(a), value(b));
                (match name {
                    "add" => a + b,
                    "sub" => a - b,
                    "mul.lo" => a.wrapping_mul(b),
                    "min" => a.min(b),
                    _ => a.max(b),
                }) as u64
            });
        }
    }
    check("mul.hi.u32 %d1, %a1, %b1;", 4, |a, b, _| (a as u32 as u64 * b as u32 as u64) >> 32);
    check("mul.hi.s32 %d1, %a1, %b1;", 4, |a, b, _| ((a as i32 as i64 * b as i32 as i64) >> 32) as u64);
    check("mul.hi.u64 %d2, %a2, %b2;", 8, |a, b, _| ((a as u128 * b as u128) >> 64) as u64);
    check("mul.hi.s64 %d2, %a2, %b2;", 8, |a, b, _| ((a as i64 as i128 * b as i64 as i128) >> 64) as u64);
    check("mul.wide.s32 %d2, %a1, %b1;", 8, |a, b, _| (a as i32 as i64 * b as i32 as i64) as u64);
    check("mul.wide.u16 %d1, %a0, %b0;", 4, |a, b, _| a as u16 as u64 * b as u16 as u64);
    check("mad.lo.s32 %d1, %a1, %b1, %c1;", 4, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check("mad.wide.u32 %d2, %a1, %b1, %c2;", 8, |a, b, c| {
        (a as u32 as u64 * b as u32 as u64).wrapping_add(c)
    });
    check("mad.hi.s32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        (((a as i32 as i64 * b as i32 as i64) >> 32) as u64).wrapping_add(c)
    });
    check("add.sat.s32 %d1, %a1, %b1;", 4, |a, b, _| {
        (a as i32 as i64 + b as i32 as i64).clamp(i32::MIN as i64, i32::MAX as i64) as u64
    });
    check("sub.sat.s32 %d1, %a1, %b1;", 4, |a, b, _| {
        (a as i32 as i64 - b as i32 as i64).clamp(i32::MIN as i64, i32::MAX as i64) as u64
    });
    check("mul24.lo.u32 %d1, %a1, %b1;", 4, |a, b, _| (a & 0xff_ffff) * (b & 0xff_ffff));
    check("div.u32 %d1, %a1, %b1;", 4, |a, b, _| (a as u32).checked_div(b as u32).map_or(!0, u64::from));
    check("div.s32 %d1, %a1, %b1;", 4, |a, b, _| {
        if b as u32 == 0 { !0 } else { (a as i32 as i64 / b as i32 as i64) as u64 }
    });
    check(
        "rem.s64 %d2, %a2, %b2;",
        8,
        |a, b, _| if b == 0 { a } else { (a as i64 as i128 % b as i64 as i128) as u64 },
    );
    check(
        "rem.u16 %d0, %a0, %b0;",
        2,
        |a, b, _| if b as u16 == 0 { a } else { (a as u16 % b as u16) as u64 },
    );
    check("abs.s32 %d1, %a1;", 4, |a, _, _| (a as i32 as i64).unsigned_abs());
    check("neg.s64 %d2, %a2;", 8, |a, _, _| 0u64.wrapping_sub(a));
    check("sad.u32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        (a as u32).abs_diff(b as u32).wrapping_add(c as u32) as u64
    });
    check("sad.s32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        (a as i32).abs_diff(b as i32).wrapping_add(c as u32) as u64
    });
    let carry = "add.cc.u32 %d1, %a1, %b1; addc.cc.u32 %d1, %b1, %c1; addc.u32 %d1, %a1, %c1;";
    check(carry, 4, |a, b, c| {
        let one = (a as u32 as u64 + b as u32 as u64) >> 32;
        let two = (b as u32 as u64 + c as u32 as u64 + one) >> 32;
        (a as u32 as u64 + c as u32 as u64 + two) & 0xffff_ffff
    });
    check("sub.cc.u32 %d1, %a1, %b1; subc.u32 %d1, %b1, %c1;", 4, |a, b, c| {
        let borrow = ((a as u32) < (b as u32)) as u32;
        (b as u32).wrapping_sub(c as u32).wrapping_sub(borrow) as u64
    });
    let byte = |x: u64, i: u32, signed: bool| {
        let byte = (x >> (8 * i)) as u8;
        if signed { byte as i8 as i64 } else { byte as i64 }
    };
    check("dp4a.s32.u32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        ((0..4).map(|i| byte(a, i, true) * byte(b, i, false)).sum::<i64>() + c as u32 as i64) as u64
    });
    check("dp2a.hi.u32.s32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        ((0..2).map(|i| (a >> (16 * i)) as u16 as i64 * byte(b, i + 2, true)).sum::<i64>() + c as u32 as i64)
            as u64
    });
}

#[test]
fn bits_and_bytes() {
    for (name, f) in
        [("and", (|a, b| a & b) as fn(u64, u64) -> u64), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)]
    {
        for (register, size) in [(0, 2), (1, 4), (2, 8)] {
            check(
                &format!("{name}.b{} %d{register}, %a{register}, %b{register};", size * 8),
                size,
                |a, b, _| f(a, b),
            );
        }
    }
    check("not.b32 %d1, %a1;", 4, |a, _, _| !a);
    check("cnot.b32 %d1, %a1;", 4, |a, _, _| (a as u32 == 0) as u64);
    check("shl.b32 %d1, %a1, %b1;", 4, |a, b, _| if b as u32 > 31 { 0 } else { a << (b as u32) });
    check("shl.b64 %d2, %a2, %b1;", 8, |a, b, _| if b as u32 > 63 { 0 } else { a << (b as u32) });
    check(
        "shr.u32 %d1, %a1, %b1;",
        4,
        |a, b, _| if b as u32 > 31 { 0 } else { (a as u32 >> b as u32) as u64 },
    );
    check("shr.s32 %d1, %a1, %b1;", 4, |a, b, _| (a as i32 as i64 >> (b as u32).min(63)) as u64);
    check("shr.s16 %d0, %a0, %b1;", 2, |a, b, _| (a as i16 as i64 >> (b as u32).min(63)) as u64);
    check("shf.l.wrap.b32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        (((b as u32 as u64) << 32 | a as u32 as u64) << (c % 32)) >> 32
    });
    check("shf.r.clamp.b32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        ((b as u32 as u64) << 32 | a as u32 as u64) >> (c as u32).min(32)
    });
    check("lop3.b32 %d1, %a1, %b1, %c1, 0x96;", 4, |a, b, c| a ^ b ^ c);
    check("lop3.b32 %d1, %a1, %b1, %c1, 0xe8;", 4, |a, b, c| (a & b) | (b & c) | (a & c));
    check("lop3.b32 %d1, %a1, %b1, %c1, 0xca;", 4, |a, b, c| (a & b) | (!a & c));
    check("popc.b64 %d1, %a2;", 4, |a, _, _| a.count_ones() as u64);
    check("clz.b32 %d1, %a1;", 4, |a, _, _| (a as u32).leading_zeros() as u64);
    check("brev.b32 %d1, %a1;", 4, |a, _, _| (0..32).map(|i| (a >> i & 1) << (31 - i)).sum());
    check("bfind.u32 %d1, %a1;", 4, |a, _, _| (0..32).rev().find(|i| a >> i & 1 != 0).unwrap_or(u64::MAX));
    check("bfind.s32 %d1, %a1;", 4, |a, _, _| {
        (0..32).rev().find(|i| (a >> i & 1) != (a >> 31 & 1)).unwrap_or(u64::MAX)
    });
    check("bfind.shiftamt.u32 %d1, %a1;", 4, |a, _, _| {
        (0..32).rev().find(|i| a >> i & 1 != 0).map_or(u64::MAX, |i| 31 - i)
    });
    // A field bit by bit, as the ISA's pseudo code has it.
    check("bfe.u32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        let (position, length) = (b & 0xff, c & 0xff);
        (0..32).filter(|i| *i < length && position + i < 32).map(|i| (a >> (position + i) & 1) << i).sum()
    });
    check("bfe.s32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        let (position, length) = (b & 0xff, c & 0xff);
        let sign = if length == 0 { 0 } else { a >> (position + length - 1).min(31) & 1 };
        (0..32)
            .map(|i| (if i < length && position + i < 32 { a >> (position + i) & 1 } else { sign }) << i)
            .sum()
    });
    check("bfi.b32 %d1, %a1, %b1, %c1, 5;", 4, |a, b, c| {
        let position = c & 0xff;
        (0..32)
            .map(|i| {
                (if i >= position && i < position + 5 { a >> (i - position) & 1 } else { b >> i & 1 }) << i
            })
            .sum()
    });
    let bytes = |a: u64, b: u64| [a, a >> 8, a >> 16, a >> 24, b, b >> 8, b >> 16, b >> 24].map(|x| x as u8);
    check("prmt.b32 %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        let all = bytes(a, b);
        (0..4)
            .map(|i| {
                let selector = c >> (4 * i) & 15;
                let byte = all[(selector & 7) as usize];
                let byte = if selector > 7 { if byte > 127 { 255 } else { 0 } } else { byte };
                (byte as u64) << (8 * i)
            })
            .sum()
    });
    check("prmt.b32.f4e %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        (0..4).map(|i| (bytes(a, b)[((c & 3) + i) as usize] as u64) << (8 * i)).sum()
    });
    check("prmt.b32.b4e %d1, %a1, %b1, %c1;", 4, |a, b, c| {
        (0..4).map(|i| (bytes(a, b)[(((c & 3) + 8 - i) % 8) as usize] as u64) << (8 * i)).sum()
    });
    check("mov.b32 {%d0, %b0}, %a1; mov.b32 %d1, {%b0, %d0};", 4, |a, _, _| {
        (a as u32).rotate_left(16) as u64
    });
    check("mov.b64 {%d1, %b1}, %a2; mov.b64 %d2, {%b1, %d1};", 8, |a, _, _| a.rotate_left(32));
    check("mov.b64 %d2, {%a0, %b0, %c0, %a0};", 8, |a, b, c| {
        (a & 0xffff) | (b & 0xffff) << 16 | (c & 0xffff) << 32 | (a & 0xffff) << 48
    });
}

#[test]
fn comparisons_and_selections() {
    for (name, f) in [
        ("eq", (|a: i64, b: i64| a == b) as fn(i64, i64) -> bool),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ] {
        check(&format!("setp.{name}.s32 %p, %a1, %b1; selp.u32 %d1, 1, 0, %p;"), 4, |a, b, _| {
            f(a as i32 as i64, b as i32 as i64) as u64
        });
        check(&format!("setp.{name}.u32 %p, %a1, %b1; selp.u32 %d1, 1, 0, %p;"), 4, |a, b, _| {
            f(a as u32 as i64, b as u32 as i64) as u64
        });
        check(&format!("setp.{name}.s64 %p, %a2, %b2; selp.u32 %d1, 1, 0, %p;"), 4, |a, b, _| {
            f(a as i64, b as i64) as u64
        });
        check(&format!("set.{name}.u32.s32 %d1, %a1, %b1;"), 4, |a, b, _| {
            if f(a as i32 as i64, b as i32 as i64) { u64::MAX } else { 0 }
        });
    }
    for (name, ordered) in [
        ("eq", true),
        ("ne", true),
        ("lt", true),
        ("le", true),
        ("gt", true),
        ("ge", true),
        ("equ", false),
        ("neu", false),
        ("ltu", false),
        ("leu", false),
        ("gtu", false),
        ("geu", false),
    ] {
        let holds = move |a: f64, b: f64| match a.partial_cmp(&b) {
            None => !ordered,
            Some(order) => match &name[..2] {
                "eq" => order.is_eq(),
                "ne" => order.is_ne(),
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            },
        };
        check(&format!("setp.{name}.f32 %p, %a1, %b1; selp.u32 %d1, 1, 0, %p;"), 4, |a, b, _| {
            holds(f(a) as f64, f(b) as f64) as u64
        });
        check(&format!("setp.{name}.f64 %p, %a2, %b2; selp.u32 %d1, 1, 0, %p;"), 4, |a, b, _| {
            holds(f64::from_bits(a), f64::from_bits(b)) as u64
        });
        let half = |x: u64| half::f16::from_bits(x as u16).to_f64();
        check(&format!("setp.{name}.f16 %p, %a0, %b0; selp.u32 %d1, 1, 0, %p;"), 4, |a, b, _| {
            holds(half(a), half(b)) as u64
        });
    }
    check("setp.lt.and.s32 %p, %a1, %b1, %q; selp.u32 %d1, %a1, %b1, %p;", 4, |a, b, c| {
        if (a as i32) < b as i32 && c as u32 != 0 { a } else { b }
    });
    check("setp.lt.or.s32 %p, %a1, %b1, !%q; selp.u32 %d1, %a1, %b1, !%p;", 4, |a, b, c| {
        if (a as i32) < b as i32 || c as u32 == 0 { b } else { a }
    });
    check("setp.eq.xor.s32 %p|%q, %a1, %b1, %q; selp.u32 %d1, 1, 0, %q;", 4, |a, b, c| {
        ((a as u32 != b as u32) ^ (c as u32 != 0)) as u64
    });
    check("setp.num.f32 %p, %a1, %b1; selp.u32 %d1, 1, 0, %p;", 4, |a, b, _| {
        (!f(a).is_nan() && !f(b).is_nan()) as u64
    });
    check("testp.subnormal.f32 %p, %a1; selp.u32 %d1, 1, 0, %p;", 4, |a, _, _| f(a).is_subnormal() as u64);
    check("slct.b32.s32 %d1, %a1, %b1, %c1;", 4, |a, b, c| if c as i32 >= 0 { a } else { b });
    check("@%q mov.u32 %d1, %a1; @!%q mov.u32 %d1, %b1;", 4, |a, b, c| if c as u32 != 0 { a } else { b });
    check(
        "setp.lt.u32 %p, %a1, %b1; and.pred %p, %p, %q; not.pred %p, %p; selp.b64 %d2, %a2, %b2, %p;",
        8,
        |a, b, c| {
            if (a as u32) < b as u32 && c as u32 != 0 { b } else { a }
        },
    );
}

/// The processor's own scalar instruction under a rounding mode of its control register.
#[cfg(target_arch = "x86_64")]
mod processor {
    use std::arch::asm;

    macro_rules! two {
        ($name:ident, $instruction:literal, $type:ty) => {
            pub fn $name(mut a: $type, b: $type, mode: u32) -> $type {
                let (set, mut saved) = (0x1f80u32 | mode << 13, 0u32);
                // SAFETY: the control register is restored before anything else computes.
                unsafe {
                    asm!("stmxcsr [{s}]", "ldmxcsr [{n}]", concat!($instruction, " {a}, {b}"), "ldmxcsr [{s}]",
                        s = in(reg) &raw mut saved, n = in(reg) &raw const set, a = inout(xmm_reg) a, b = in(xmm_reg) b);
                }
                a
            }
        };
    }
    two!(add32, "addss", f32);
    two!(sub32, "subss", f32);
    two!(mul32, "mulss", f32);
    two!(div32, "divss", f32);
    two!(sqrt32, "sqrtss", f32);
    two!(add64, "addsd", f64);
    two!(mul64, "mulsd", f64);

    pub fn fma32(mut a: f32, b: f32, c: f32, mode: u32) -> f32 {
        let (set, mut saved) = (0x1f80u32 | mode << 13, 0u32);
        // SAFETY: as above; the caller has asked for FMA.
        unsafe {
            asm!("stmxcsr [{s}]", "ldmxcsr [{n}]", "vfmadd213ss {a}, {b}, {c}", "ldmxcsr [{s}]",
                s = in(reg) &raw mut saved, n = in(reg) &raw const set, a = inout(xmm_reg) a, b = in(xmm_reg) b, c = in(xmm_reg) c);
        }
        a
    }

    pub fn narrow(x: f64, mode: u32) -> f32 {
        let (set, mut saved, mut out) = (0x1f80u32 | mode << 13, 0u32, 0f32);
        // SAFETY: as above.
        unsafe {
            asm!("stmxcsr [{s}]", "ldmxcsr [{n}]", "cvtsd2ss {o}, {x}", "ldmxcsr [{s}]",
                s = in(reg) &raw mut saved, n = in(reg) &raw const set, o = inout(xmm_reg) out, x = in(xmm_reg) x);
        }
        out
    }
}

/// PTX's names of the modes and the control register's.
const MODES: [(&str, u32); 4] = [("rn", 0), ("rm", 1), ("rp", 2), ("rz", 3)];

#[cfg(target_arch = "x86_64")]
#[test]
fn floating_point() {
    for (mode, control) in MODES {
        check(&format!("add.{mode}.f32 %d1, %a1, %b1;"), 4, |a, b, _| {
            bits(processor::add32(f(a), f(b), control))
        });
        check(&format!("sub.{mode}.f32 %d1, %a1, %b1;"), 4, |a, b, _| {
            bits(processor::sub32(f(a), f(b), control))
        });
        check(&format!("mul.{mode}.f32 %d1, %a1, %b1;"), 4, |a, b, _| {
            bits(processor::mul32(f(a), f(b), control))
        });
        check(&format!("div.{mode}.f32 %d1, %a1, %b1;"), 4, |a, b, _| {
            bits(processor::div32(f(a), f(b), control))
        });
        check(&format!("rcp.{mode}.f32 %d1, %a1;"), 4, |a, _, _| bits(processor::div32(1.0, f(a), control)));
        check(&format!("sqrt.{mode}.f32 %d1, %a1;"), 4, |a, _, _| {
            bits(processor::sqrt32(0.0, f(a), control))
        });
        check(&format!("cvt.{mode}.f32.f64 %d1, %a2;"), 4, |a, _, _| {
            bits(processor::narrow(f64::from_bits(a), control))
        });
        if is_x86_feature_detected!("fma") {
            check(&format!("fma.{mode}.f32 %d1, %a1, %b1, %c1;"), 4, |a, b, c| {
                bits(processor::fma32(f(a), f(b), f(c), control))
            });
        }
        // f64: NaN is NaN, whatever its payload.
        for (name, with) in [("add", processor::add64 as fn(f64, f64, u32) -> f64), ("mul", processor::mul64)]
        {
            for (got, [a, b, _]) in run(&format!("{name}.{mode}.f64 %d2, %a2, %b2;"), 8) {
                let want = with(f64::from_bits(a), f64::from_bits(b), control);
                let got = f64::from_bits(got);
                assert!(
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                    "{name}.{mode}.f64 {a:#x} {b:#x}: {got} {want}"
                );
            }
        }
    }
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    check("add.ftz.f32 %d1, %a1, %b1;", 4, |a, b, _| bits(flush(flush(f(a)) + flush(f(b)))));
    check("mul.ftz.sat.f32 %d1, %a1, %b1;", 4, |a, b, _| {
        let x = flush(f(a)) * flush(f(b));
        bits(if x.is_nan() { 0.0 } else { flush(x).clamp(0.0, 1.0) + 0.0 })
    });
    check("abs.f32 %d1, %a1;", 4, |a, _, _| a & 0x7fff_ffff);
    check("neg.f64 %d2, %a2;", 8, |a, _, _| a ^ 1 << 63);
    check("copysign.f32 %d1, %a1, %b1;", 4, |a, b, _| (a & 0x8000_0000) | (b & 0x7fff_ffff));
    for (name, larger) in [("min", false), ("max", true)] {
        check(&format!("{name}.f32 %d1, %a1, %b1;"), 4, |a, b, _| {
            let (a, b) = (f(a), f(b));
            let first = if a == 0.0 && b == 0.0 { a.is_sign_positive() == larger } else { (a > b) == larger };
            bits(if a.is_nan() || !b.is_nan() && !first { b } else { a })
        });
    }
}

#[test]
fn halves() {
    let h = |x: u64| half::f16::from_bits(x as u16).to_f64();
    let to = |x: f64| if x.is_nan() { 0x7fff } else { half::f16::from_f64(x).to_bits() as u64 };
    check("add.f16 %d0, %a0, %b0;", 2, |a, b, _| to(h(a) + h(b)));
    check("sub.f16 %d0, %a0, %b0;", 2, |a, b, _| to(h(a) - h(b)));
    check("mul.f16 %d0, %a0, %b0;", 2, |a, b, _| to(h(a) * h(b)));
    // Exact in integers: f16 are multiples of 2^-24 below 2^16.
    let fixed = |x: u64| (h(x) * 2f64.powi(24)) as i128;
    check("fma.rn.f16 %d0, %a0, %b0, %c0;", 2, |a, b, c| {
        if !(h(a).is_finite() && h(b).is_finite() && h(c).is_finite()) {
            return to(h(a) * h(b) + h(c));
        }
        let sum = fixed(a) * fixed(b) + (fixed(c) << 24);
        if sum == 0 {
            return to(h(a) * h(b) + h(c));
        }
        // Nearest, ties to even, of sum * 2^-48: halves are multiples of 2^-24, or of 2^(e-10).
        let magnitude = sum.unsigned_abs();
        let top = 127 - magnitude.leading_zeros() as i32;
        let unit = (top - 10).max(24);
        let mut quotient = magnitude >> unit;
        let rest = magnitude & ((1 << unit) - 1);
        let tie = 1u128 << (unit - 1);
        quotient += (rest > tie || rest == tie && quotient & 1 == 1) as u128;
        to(if sum < 0 { -1.0 } else { 1.0 } * quotient as f64 * 2f64.powi(unit - 48))
    });
    check("mul.f16x2 %d1, %a1, %b1;", 4, |a, b, _| to(h(a) * h(b)) | to(h(a >> 16) * h(b >> 16)) << 16);
    check("cvt.f32.f16 %d1, %a0;", 4, |a, _, _| bits(half::f16::from_bits(a as u16).to_f32()));
    check("cvt.rn.f16.f32 %d0, %a1;", 2, |a, _, _| {
        if f(a).is_nan() { 0x7fff } else { half::f16::from_f32(f(a)).to_bits() as u64 }
    });
    check("cvt.rn.f16.f64 %d0, %a2;", 2, |a, _, _| to(f64::from_bits(a)));
    // Toward zero: the nearest, or the one before it in magnitude.
    check("cvt.rz.f16.f32 %d0, %a1;", 2, |a, _, _| {
        let x = f(a);
        if x.is_nan() {
            return 0x7fff;
        }
        let near = half::f16::from_f32(x);
        (if near.to_f32().abs() > x.abs() { near.to_bits() - 1 } else { near.to_bits() }) as u64
    });
}

#[test]
fn conversions() {
    for (to, register, size, low, high) in [
        ("s8", 1, 4, i8::MIN as f64, i8::MAX as f64),
        ("s32", 1, 4, i32::MIN as f64, i32::MAX as f64),
        ("u32", 1, 4, 0.0, u32::MAX as f64),
        ("u16", 0, 2, 0.0, u16::MAX as f64),
    ] {
        for (mode, round) in [
            ("rni", f64::round_ties_even as fn(f64) -> f64),
            ("rzi", f64::trunc),
            ("rmi", f64::floor),
            ("rpi", f64::ceil),
        ] {
            let into = move |x: f64| if x.is_nan() { 0 } else { round(x).clamp(low, high) as i64 as u64 };
            check(&format!("cvt.{mode}.{to}.f32 %d{register}, %a1;"), size, |a, _, _| into(f(a) as f64));
            check(&format!("cvt.{mode}.{to}.f64 %d{register}, %a2;"), size, |a, _, _| {
                // A NaN of 64 bits is the highest bit alone: the lowest signed number, half of all unsigned.
                let highest = if low < 0.0 { low } else { (high + 1.0) / 2.0 };
                if f64::from_bits(a).is_nan() { highest as i64 as u64 } else { into(f64::from_bits(a)) }
            });
        }
    }
    check("cvt.rzi.s64.f64 %d2, %a2;", 8, |a, _, _| match f64::from_bits(a) {
        x if x.is_nan() => 1 << 63,
        x => x as i64 as u64,
    });
    check("cvt.rn.f32.s32 %d1, %a1;", 4, |a, _, _| (a as i32 as f32).to_bits() as u64);
    check("cvt.rn.f32.u64 %d1, %a2;", 4, |a, _, _| (a as f32).to_bits() as u64);
    check("cvt.rz.f32.u32 %d1, %a1;", 4, |a, _, _| {
        // The bits below the 24 highest go.
        let a = a as u32;
        let drop = 8u32.saturating_sub(a.leading_zeros());
        ((a >> drop << drop) as f32).to_bits() as u64
    });
    check("cvt.rn.f64.s64 %d2, %a2;", 8, |a, _, _| (a as i64 as f64).to_bits());
    check("cvt.rn.f16.s32 %d0, %a1;", 2, |a, _, _| half::f16::from_f64(a as i32 as f64).to_bits() as u64);
    check("cvt.s32.s16 %d1, %a0;", 4, |a, _, _| a as i16 as i64 as u64);
    check("cvt.u64.u32 %d2, %a1;", 8, |a, _, _| a as u32 as u64);
    check("cvt.s64.s32 %d2, %a1;", 8, |a, _, _| a as i32 as i64 as u64);
    check("cvt.sat.u8.s32 %d1, %a1;", 4, |a, _, _| (a as i32).clamp(0, 255) as u64);
    check("cvt.rmi.f32.f32 %d1, %a1;", 4, |a, _, _| bits(f(a).floor()));
    check("cvt.sat.f32.f32 %d1, %a1;", 4, |a, _, _| {
        bits(if f(a).is_nan() { 0.0 } else { f(a).clamp(0.0, 1.0) + 0.0 })
    });
}

/// Within the documented error (relative, or absolute where the ISA says so), and right at the special values.
#[test]
fn approximations() {
    let near = |body: &str, relative: f64, exact: fn(f64) -> f64| {
        for (got, [a, _, _]) in run(body, 4) {
            let (got, want) = (f(got), exact(f(a) as f64));
            let fine = if (want as f32).is_finite() && want.abs() > 1e-37 {
                (got as f64 - want).abs() <= want.abs() * relative
            } else {
                got.to_bits() == bits(want as f32) as u32 || (got as f64 - want).abs() < 1.5e-45
            };
            assert!(fine, "{body} of {:e}: {got:e}, not {want:e}", f(a));
        }
    };
    near("rcp.approx.f32 %d1, %a1;", 1.2e-7, |x| 1.0 / x);
    near("sqrt.approx.f32 %d1, %a1;", 1.2e-7, f64::sqrt);
    near("rsqrt.approx.f32 %d1, %a1;", 2f64.powf(-22.9), |x| 1.0 / x.sqrt());
    near("ex2.approx.f32 %d1, %a1;", 2f64.powi(-22), f64::exp2);
    near("lg2.approx.f32 %d1, %a1;", 2f64.powi(-22), f64::log2);
    near("tanh.approx.f32 %d1, %a1;", 2f64.powi(-11), f64::tanh);
    near("sin.approx.f32 %d1, %a1;", 2f64.powi(-20), f64::sin);
    check("rcp.approx.ftz.f32 %d1, %a1; and.b32 %d1, %d1, 0x7f800000;", 4, |a, _, _| {
        let x = f(a);
        let x = if x.is_subnormal() { 0f32.copysign(x) } else { x };
        let y = 1.0 / x;
        if y.is_subnormal() { 0 } else { y.to_bits() as u64 & 0x7f80_0000 }
    });
    // A divisor from 2^126 on gives zero.
    check("div.approx.f32 %d1, %a1, 0f7F000000;", 4, |a, _, _| bits(f(a) * 0.0));
}
