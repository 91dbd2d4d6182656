//! Instructions of a whole warp or block, of memory and of control flow, against what the PTX ISA 9.0 says of them, written
//! here for each lane: shuffles, votes, barriers, atomics, loads and stores of every width in every space, branches.
//!
//! Every kernel runs in several orders of warps and blocks, on one and on several threads of the host, and must give the same
//! bits in all.

mod common;
#[path = "common/values.rs"]
mod values;

use common::{Random, f16_value};
use simulator::{Device, Isa, Launch, Settings};
use std::sync::Arc;
use values::inputs;

/// A kernel and what it runs on. In `body` a thread has its four inputs as `%va` to `%vd` and their low halves as `%a` to `%d`,
/// its number in the grid as `%t`, its lane as `%l`, and gives back `%o0` to `%o3`; `%m` is the address of `memory`.
struct Run<'a> {
    module: &'a str,
    body: &'a str,
    grid: u32,
    block: u32,
    dynamic: u32,
    inputs: &'a [[u64; 4]],
    memory: &'a [u8],
}

fn text(module: &str, body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_75\n.address_size 64\n{module}
.visible .entry k(.param .u64 from, .param .u64 to, .param .u64 memory, .param .align 8 .b8 bytes[16]) {{
.reg .pred %p, %q, %r, %s; .reg .b16 %h<8>; .reg .f32 %f<8>; .reg .b32 %a, %b, %c, %d, %t, %l, %n, %w<8>;
.reg .b64 %x, %y, %m, %va, %vb, %vc, %vd, %e<8>, %o<4>;
ld.param.u64 %x, [from]; ld.param.u64 %y, [to]; ld.param.u64 %m, [memory];
mov.u32 %n, %ctaid.x; mov.u32 %t, %ntid.x; mul.lo.u32 %n, %n, %t; mov.u32 %t, %tid.x; add.u32 %t, %n, %t; mov.u32 %l, %laneid;
mul.wide.u32 %va, %t, 32; add.u64 %x, %x, %va; add.u64 %y, %y, %va;
ld.global.v2.u64 {{%va, %vb}}, [%x]; ld.global.v2.u64 {{%vc, %vd}}, [%x+16];
mov.b64 {{%a, _}}, %va; mov.b64 {{%b, _}}, %vb; mov.b64 {{%c, _}}, %vc; mov.b64 {{%d, _}}, %vd;
mov.u64 %o0, 0; mov.u64 %o1, 0; mov.u64 %o2, 0; mov.u64 %o3, 0;
{body}
st.global.v2.u64 [%y], {{%o0, %o1}}; st.global.v2.u64 [%y+16], {{%o2, %o3}}; ret; }}"
    )
}

impl Run<'_> {
    fn on(&self, device: &Arc<Device>) -> (Vec<[u64; 4]>, Vec<u8>) {
        let threads = (self.grid * self.block) as usize;
        assert_eq!(self.inputs.len(), threads);
        let module =
            device.load(&text(self.module, self.body)).unwrap_or_else(|e| panic!("{}: {e}", self.body));
        let function = module.function("k").unwrap();
        let upload = |bytes: &[u8]| {
            let address = device.allocate(bytes.len().max(16) as u64).unwrap();
            device.write(address, bytes).unwrap();
            address
        };
        let bytes: Vec<u8> = self.inputs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        let (from, memory) = (upload(&bytes), upload(self.memory));
        let to = device.allocate(threads as u64 * 32).unwrap();
        let mut parameters: Vec<u8> = [from, to, memory].iter().flat_map(|v| v.to_le_bytes()).collect();
        parameters.extend(0xf0..=0xff);
        let launch = Launch {
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            dynamic_shared: self.dynamic,
            parameters: &parameters,
        };
        device.launch(&function, &launch).unwrap_or_else(|e| panic!("{}: {e}", self.body));
        let read = |address, count| {
            let mut out = vec![0; count];
            device.read(address, &mut out).unwrap();
            out
        };
        let word = |bytes: &[u8], i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap());
        let out = read(to, threads * 32);
        let results = (0..threads).map(|t| std::array::from_fn(|i| word(&out, 4 * t + i))).collect();
        let after = read(memory, self.memory.len());
        for address in [from, to, memory] {
            device.free(address).unwrap();
        }
        (results, after)
    }

    /// Results and memory after it, the same in every order.
    fn results(&self) -> (Vec<[u64; 4]>, Vec<u8>) {
        let mut first = None;
        for (seed, threads) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
            let device = Device::new(Settings { seed, threads, memory: 1 << 30, watchdog: 1 << 24 });
            let results = self.on(&device);
            match &first {
                None => first = Some(results),
                Some(first) => assert!(*first == results, "{}: seed {seed} gives other bits", self.body),
            }
        }
        first.unwrap()
    }
}

/// Runs a body on blocks of threads with these inputs.
fn run(body: &str, block: u32, inputs: &[[u64; 4]]) -> Vec<[u64; 4]> {
    let grid = inputs.len() as u32 / block;
    Run { module: "", body, grid, block, dynamic: 0, inputs, memory: &[] }.results().0
}

fn random_inputs(random: &mut Random, count: usize) -> Vec<[u64; 4]> {
    (0..count).map(|_| std::array::from_fn(|_| random.bits())).collect()
}

// Warps.

#[test]
fn shuffles() {
    let mut random = Random(1);
    for kind in ["up", "down", "bfly", "idx"] {
        // Segments as CUDA makes them of a width, and any others.
        let mut controls: Vec<u64> =
            (0..6).map(|log| (32 - (1 << log)) << 8 | if kind == "up" { 0 } else { 31 }).collect();
        controls.extend((0..40).map(|_| random.bits() & 0x1f1f));
        controls.push(random.bits());
        let mut inputs = random_inputs(&mut random, 32 * (controls.len() + 2));
        for (warp, control) in controls.iter().enumerate() {
            for lane in 0..32 {
                inputs[32 * warp + lane][2] = *control;
            }
        }
        // In the last two warps every lane has a control of its own.
        let body = format!(
            "shfl.sync.{kind}.b32 %w0|%p, %a, %b, %c, 0xffffffff; shfl.sync.{kind}.b32 %w1, %a, 3, %c, -1;
             cvt.u64.u32 %o0, %w0; cvt.u64.u32 %o1, %w1; selp.u64 %o2, 1, 0, %p;"
        );
        let results = run(&body, 32, &inputs);
        for (t, result) in results.iter().enumerate() {
            let (lane, warp) = ((t % 32) as i64, t / 32 * 32);
            let source = |b: u64| {
                let c = inputs[t][2];
                let (b, clamp, segment) = ((b & 31) as i64, (c & 31) as i64, (c >> 8 & 31) as i64);
                let most = (lane & segment) | (clamp & !segment & 31);
                let (j, holds) = match kind {
                    "up" => (lane - b, lane - b >= most),
                    "down" => (lane + b, lane + b <= most),
                    "bfly" => (lane ^ b, lane ^ b <= most),
                    _ => {
                        let j = (lane & segment) | (b & !segment & 31);
                        (j, j <= most)
                    }
                };
                (inputs[warp + if holds { j } else { lane } as usize][0] & 0xffff_ffff, holds as u64)
            };
            let ((value, holds), (fixed, _)) = (source(inputs[t][1]), source(3));
            assert_eq!(*result, [value, fixed, holds, 0], "shfl.{kind} of thread {t}");
        }
    }
}

/// Lanes of two sets, each at an instruction of its own and with a member mask of its own.
#[test]
fn parts_of_a_warp() {
    let mut random = Random(2);
    let mut inputs = random_inputs(&mut random, 32 * 32);
    for warp in inputs.chunks_mut(32) {
        let members = random.bits() as u32;
        for (lane, input) in warp.iter_mut().enumerate() {
            // a: the member mask; b: whether it is the first set; c: votes; d: few values.
            let first = members >> lane & 1;
            input[0] = if first == 1 { members } else { !members } as u64;
            input[1] = first as u64;
            input[2] &= 1;
            input[3] %= 3;
        }
    }
    let body = "setp.ne.u32 %q, %b, 0; setp.ne.u32 %p, %c, 0; @%q bra first;
        vote.sync.ballot.b32 %w0, %p, %a; activemask.b32 %w1; match.any.sync.b32 %w2, %d, %a; bra.uni done;
        first: vote.sync.ballot.b32 %w0, !%p, %a; activemask.b32 %w1; match.any.sync.b64 %w2, %vd, %a;
        done: bar.warp.sync 0xffffffff; cvt.u64.u32 %o0, %w0; cvt.u64.u32 %o1, %w1; cvt.u64.u32 %o2, %w2;
        activemask.b32 %w3; cvt.u64.u32 %o3, %w3;";
    let results = run(body, 64, &inputs);
    for (t, result) in results.iter().enumerate() {
        let warp = t / 32 * 32;
        let members = inputs[t][0] as u32;
        let set = |f: &dyn Fn(usize) -> bool| {
            (0..32)
                .filter(|lane| members >> lane & 1 == 1 && f(warp + *lane))
                .fold(0u64, |all, lane| all | 1 << lane)
        };
        let first = inputs[t][1] == 1;
        assert_eq!(result[0], set(&|other| (inputs[other][2] == 1) != first), "ballot of thread {t}");
        assert_eq!(result[1], members as u64, "active lanes of thread {t}");
        assert_eq!(result[2], set(&|other| inputs[other][3] == inputs[t][3]), "match of thread {t}");
        assert_eq!(result[3], 0xffff_ffff, "active lanes of thread {t} after it");
    }
}

#[test]
fn votes_and_matches() {
    let mut random = Random(3);
    // Warps whose predicates and values are all, none, few or many the same; the last one is short.
    let mut inputs = random_inputs(&mut random, 2 * 1000);
    for (t, input) in inputs.iter_mut().enumerate() {
        let kind = (t % 1000 / 32) % 5;
        input[0] = match kind {
            0 => 0,
            1 => 1,
            2 => (input[0] % 32 == 0) as u64,
            3 => (input[0] % 32 != 0) as u64,
            _ => input[0] & 1,
        };
        input[1] = if kind < 2 { 7 << 32 | 9 } else { ((input[1] % 2) << 32) | ((input[1] >> 1) % 3) };
        // High halves alone differ in some.
        input[2] = if kind == 4 { (input[2] & 1) << 40 } else { 5 };
    }
    let body = "setp.ne.u32 %p, %a, 0;
        vote.sync.all.pred %q, %p, -1; selp.u64 %o0, 1, 0, %q; vote.sync.any.pred %q, %p, -1; @%q or.b64 %o0, %o0, 2;
        vote.sync.uni.pred %q, %p, -1; @%q or.b64 %o0, %o0, 4; vote.sync.all.pred %q, !%p, -1; @%q or.b64 %o0, %o0, 8;
        vote.sync.any.pred %q, !%p, -1; @%q or.b64 %o0, %o0, 16; vote.sync.uni.pred %q, !%p, -1; @%q or.b64 %o0, %o0, 32;
        vote.sync.ballot.b32 %w0, %p, -1; cvt.u64.u32 %o1, %w0;
        match.all.sync.b32 %w0|%q, %b, -1; @%q or.b64 %o0, %o0, 64; match.all.sync.b64 %w1|%q, %vc, -1; @%q or.b64 %o0, %o0, 128;
        mov.b64 %o2, {%w0, %w1}; match.any.sync.b32 %w0, %b, -1; match.any.sync.b64 %w1, %vb, -1; mov.b64 %o3, {%w0, %w1};";
    let results = run(body, 1000, &inputs);
    for (t, result) in results.iter().enumerate() {
        let start = t / 1000 * 1000 + t % 1000 / 32 * 32;
        let end = (start + 32).min(t / 1000 * 1000 + 1000);
        let set = |f: &dyn Fn(&[u64; 4]) -> bool| {
            (start..end)
                .filter(|other| f(&inputs[*other]))
                .fold(0u64, |all, other| all | 1 << (other - start))
        };
        let all = set(&|_| true);
        let yes = set(&|i| i[0] != 0);
        let [narrow, wide] = [set(&|i| i[1] as u32 == inputs[t][1] as u32), set(&|i| i[2] == inputs[t][2])];
        let flags =
            [yes == all, yes != 0, yes == all || yes == 0, yes == 0, yes != all, yes == all || yes == 0];
        let flags = flags.into_iter().chain([narrow == all, wide == all]);
        let expected = flags.enumerate().fold(0, |all, (i, flag)| all | (flag as u64) << i);
        assert_eq!(result[0], expected, "votes of thread {t}");
        assert_eq!(result[1], yes, "ballot of thread {t}");
        let whole = |mask: u64| if mask == all { mask } else { 0 };
        assert_eq!(result[2], whole(narrow) | whole(wide) << 32, "match.all of thread {t}");
        assert_eq!(result[3], narrow | set(&|i| i[1] == inputs[t][1]) << 32, "match.any of thread {t}");
    }
}

#[test]
fn matrices_from_shared_memory() {
    let mut random = Random(4);
    let inputs = random_inputs(&mut random, 64);
    for (x, count) in [("x1", 1), ("x2", 2), ("x4", 4)] {
        for trans in ["", ".trans"] {
            for (space, convert) in [(".shared", ""), (".shared::cta", ""), ("", "cvta.shared.u64 %e1, %e1;")]
            {
                // Each thread writes 16 bytes; a row's number is in c.
                let registers = ["{%w0}", "{%w0, %w1}", "", "{%w0, %w1, %w2, %w3}"][count - 1];
                let body = format!(
                    "mov.u32 %n, %tid.x; mul.wide.u32 %e0, %n, 16; mov.u64 %e1, rows; add.u64 %e2, %e1, %e0;
                     st.shared.v2.b64 [%e2], {{%va, %vb}}; bar.sync 0;
                     and.b32 %w4, %c, 63; mul.wide.u32 %e0, %w4, 16; add.u64 %e1, %e1, %e0; {convert}
                     mov.u32 %w0, 0; mov.u32 %w1, 0; mov.u32 %w2, 0; mov.u32 %w3, 0;
                     ldmatrix.sync.aligned.m8n8.{x}{trans}{space}.b16 {registers}, [%e1];
                     cvt.u64.u32 %o0, %w0; cvt.u64.u32 %o1, %w1; cvt.u64.u32 %o2, %w2; cvt.u64.u32 %o3, %w3;"
                );
                let module = ".shared .align 16 .b8 rows[1024];";
                let all =
                    Run { module, body: &body, grid: 1, block: 64, dynamic: 0, inputs: &inputs, memory: &[] };
                let (results, _) = all.results();
                for (t, result) in results.iter().enumerate() {
                    for (matrix, got) in result.iter().enumerate() {
                        let element = |row: usize, column: usize| {
                            // The address of a row comes from lane 8 matrix + row.
                            let from = (inputs[t / 32 * 32 + 8 * matrix + row][2] & 63) as usize;
                            inputs[from][column / 4] >> (16 * (column % 4)) & 0xffff
                        };
                        let (row, column) = (t % 32 / 4, t % 4 * 2);
                        let want = match (matrix < count, trans) {
                            (false, _) => 0,
                            (true, "") => element(row, column) | element(row, column + 1) << 16,
                            _ => element(column, row) | element(column + 1, row) << 16,
                        };
                        assert_eq!(*got, want, "ldmatrix.{x}{trans}{space}: matrix {matrix} of thread {t}");
                    }
                }
            }
        }
    }
}

/// The definition of Turing's product accumulated in f16: terms are cut off 24 bits below the largest one's place.
fn product_in_f16(a: &[u16; 8], b: &[u16; 8], c: u16) -> u16 {
    let special = |x: u16| x & 0x7c00 == 0x7c00;
    if special(c) || a.iter().chain(b).any(|x| special(*x)) {
        let value = |x: u16| match special(x) {
            true if x & 0x3ff != 0 => f64::NAN,
            true => f64::INFINITY.copysign(if x >> 15 == 1 { -1.0 } else { 1.0 }),
            false => f16_value(x),
        };
        let sum: f64 = a.iter().zip(b).map(|(x, y)| value(*x) * value(*y)).sum::<f64>() + value(c);
        return match sum {
            _ if sum.is_nan() => 0x7fff,
            _ if sum > 0.0 => 0x7c00,
            _ => 0xfc00,
        };
    }
    // Significand in units of 2^-10, and exponent.
    let split = |x: u16| {
        let field = (x >> 10 & 31) as i32;
        let significand = (x & 0x3ff) as i128 + if field == 0 { 0 } else { 1024 };
        (if x >> 15 == 1 { -significand } else { significand }, field.max(1) - 15)
    };
    let mut terms: Vec<(i128, i32)> = (0..8)
        .map(|k| {
            let ((x, i), (y, j)) = (split(a[k]), split(b[k]));
            (x * y, i + j)
        })
        .collect();
    let (z, e) = split(c);
    terms.push((z << 10, e));
    let place = |(significand, exponent): &(i128, i32)| if *significand == 0 { -20 } else { *exponent };
    let largest = terms.iter().map(place).max().unwrap();
    // Units of 2^(largest - 24); division of integers cuts towards zero.
    let cut = |term: &(i128, i32)| (term.0 << 4) / (1 << (largest - place(term)).min(100));
    let sum: i128 = terms.iter().map(cut).sum();
    let value = sum as f64 * 2f64.powi(largest - 24);
    if value.abs() >= 65520.0 {
        return if value > 0.0 { 0x7c00 } else { 0xfc00 };
    }
    if sum == 0 { 0 } else { common::f16_bits(value) }
}

#[test]
fn products_of_matrices() {
    let mut random = Random(5);
    let devices = Isa::ALL.into_iter().filter_map(|isa| {
        Device::with_isa(Settings { seed: 0, threads: 1, memory: 1 << 30, watchdog: 1 << 24 }, isa)
    });
    let devices: Vec<_> = devices.collect();
    for round in 0..60 {
        // Any bits, subnormals, or numbers around one, with few zeros.
        let mut half = |kind: usize| {
            let bits = random.bits();
            let word = bits as u16;
            match kind {
                0 => word,
                1 => word & 0x83ff,
                2 if bits >> 60 == 0 => word & 0x8000,
                _ => word & 0x83ff | (11 + (bits >> 32) as u16 % 8) << 10,
            }
        };
        let kind = round % 3;
        let mut matrix = |rows: usize, kind: usize| -> Vec<[u16; 8]> {
            (0..rows).map(|_| std::array::from_fn(|_| half(kind))).collect()
        };
        let (a, b, c) = (matrix(16, kind), matrix(8, kind), matrix(16, round / 3 % 3));
        let pair = |low: u16, high: u16| low as u64 | (high as u64) << 16;
        let inputs: Vec<[u64; 4]> = (0..32)
            .map(|lane| {
                let (row, k) = (lane / 4, lane % 4 * 2);
                // b is stored by its columns.
                [
                    pair(a[row][k], a[row][k + 1]) | pair(a[row + 8][k], a[row + 8][k + 1]) << 32,
                    pair(b[row][k], b[row][k + 1]),
                    pair(c[row][k], c[row][k + 1]),
                    pair(c[row + 8][k], c[row + 8][k + 1]),
                ]
            })
            .collect();
        let body = "mov.b64 {%w0, %w1}, %va;
            mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%w2, %w3}, {%w0, %w1}, {%b}, {%c, %d};
            cvt.u64.u32 %o0, %w2; cvt.u64.u32 %o1, %w3;
            cvt.f32.f16 %f0, %h0; cvt.f32.f16 %f1, %h1; cvt.f32.f16 %f2, %h2; cvt.f32.f16 %f3, %h3;
            mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f4, %f5, %f6, %f7}, {%w0, %w1}, {%b}, {%f0, %f1, %f2, %f3};
            mov.b64 %o2, {%f4, %f5}; mov.b64 %o3, {%f6, %f7};";
        let body = format!("mov.b32 {{%h0, %h1}}, %c; mov.b32 {{%h2, %h3}}, %d; {body}");
        let all =
            Run { module: "", body: &body, grid: 1, block: 32, dynamic: 0, inputs: &inputs, memory: &[] };
        let (first, _) = all.on(&devices[0]);
        for device in &devices[1..] {
            assert!(all.on(device).0 == first, "other instructions give other bits in round {round}");
        }
        for (lane, result) in first.iter().enumerate() {
            for (row, word) in [(lane / 4, result[0]), (lane / 4 + 8, result[1])] {
                for half in 0..2 {
                    let column = lane % 4 * 2 + half;
                    let want = product_in_f16(&a[row], &b[column], c[row][column]);
                    let got = (word >> (16 * half)) as u16;
                    assert_eq!(
                        got, want,
                        "({row}, {column}) in round {round}: {:x?} {:x?}",
                        a[row], b[column]
                    );
                    // In f32 sums of finite numbers are near the exact ones, which f64 nearly is.
                    let exact = |x: u16| if x & 0x7c00 == 0x7c00 { f64::NAN } else { f16_value(x) };
                    let terms =
                        (0..8).map(|k| exact(a[row][k]) * exact(b[column][k])).chain([exact(c[row][column])]);
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                    let word = result[2 + row / 8] >> (32 * half);
                    let got = f32::from_bits(word as u32) as f64;
                    let near = (got - sum).abs() <= size * 2f64.powi(-19) + 2f64.powi(-149);
                    assert!(sum.is_nan() || near, "f32 ({row}, {column}) in round {round}: {got}, not {sum}");
                }
            }
        }
    }
}

// Blocks.

/// Values exchanged through shared memory over every kind of barrier of the whole block.
#[test]
fn barriers_of_the_block() {
    let mut random = Random(6);
    for block in [256, 250, 33, 7] {
        let inputs = random_inputs(&mut random, 2 * block);
        for barrier in [
            "bar.sync 0",
            "bar.sync 15",
            "bar.cta.sync 3",
            "barrier.sync 4",
            "barrier.cta.sync.aligned 5",
            "bar.sync 6, %w7",
            "bar.sync %w6",
        ] {
            let body = format!(
                "mov.u32 %n, %ntid.x; add.u32 %w7, %n, 31; and.b32 %w7, %w7, -32; mov.u32 %w6, 9;
                 mov.u32 %w0, %tid.x; mul.wide.u32 %e0, %w0, 8; mov.u64 %e1, cells; add.u64 %e2, %e1, %e0;
                 st.shared.u64 [%e2], %va; {barrier};
                 sub.u32 %w1, %n, 1; sub.u32 %w1, %w1, %w0; mul.wide.u32 %e0, %w1, 8; add.u64 %e1, %e1, %e0;
                 ld.shared.u64 %o0, [%e1]; {barrier}; st.shared.u64 [%e1], %o0; {barrier}; ld.shared.u64 %o1, [%e2];"
            );
            let module = ".shared .align 8 .b8 cells[2048];";
            let run = Run {
                module,
                body: &body,
                grid: 2,
                block: block as u32,
                dynamic: 0,
                inputs: &inputs,
                memory: &[],
            };
            for (t, result) in run.results().0.iter().enumerate() {
                let other = t / block * block + block - 1 - t % block;
                assert_eq!(
                    result[..2],
                    [inputs[other][0], inputs[t][0]],
                    "{barrier} in thread {t} of {block}"
                );
            }
        }
    }
}

#[test]
fn reductions_of_the_block() {
    let mut random = Random(7);
    for block in [32, 96, 100, 1024] {
        for odds in [0, 1, 50, 99, 100] {
            let mut inputs = random_inputs(&mut random, 2 * block);
            for input in &mut inputs {
                input[0] = (input[0] % 100 < odds) as u64;
            }
            let body = "mov.u32 %n, %ntid.x; add.u32 %w7, %n, 31; and.b32 %w7, %w7, -32; setp.ne.u32 %p, %a, 0;
                bar.red.popc.u32 %w0, 0, %p; barrier.cta.red.popc.aligned.u32 %w1, 1, %w7, !%p; mov.b64 %o0, {%w0, %w1};
                bar.red.and.pred %q, 2, %p; selp.u64 %o1, 1, 0, %q; barrier.red.and.pred %q, 3, %w7, !%p; @%q or.b64 %o1, %o1, 2;
                bar.red.or.pred %q, 4, %p; selp.u64 %o2, 1, 0, %q; bar.cta.red.or.pred %q, 5, %w7, !%p; @%q or.b64 %o2, %o2, 2;";
            for (t, result) in run(body, block as u32, &inputs).iter().enumerate() {
                let mine = &inputs[t / block * block..][..block];
                let yes = mine.iter().filter(|i| i[0] != 0).count();
                let no = block - yes;
                let want = [
                    (yes | no << 32) as u64,
                    (no == 0) as u64 | ((yes == 0) as u64) << 1,
                    (yes != 0) as u64 | ((no != 0) as u64) << 1,
                    0,
                ];
                assert_eq!(*result, want, "thread {t} of {block}, {odds} of 100");
            }
        }
    }
}

/// Half of the warps write and arrive, the others wait and read; then the other way round, at another barrier.
#[test]
fn arriving_without_waiting() {
    let mut random = Random(8);
    let inputs = random_inputs(&mut random, 2 * 256);
    let body = "mov.u32 %n, %tid.x; and.b32 %w0, %n, 127; mul.wide.u32 %e0, %w0, 8; mov.u64 %e1, cells; add.u64 %e1, %e1, %e0;
        setp.lt.u32 %p, %n, 128; @%p bra writer;
        bar.sync 1, 256; ld.shared.u64 %o0, [%e1]; st.shared.u64 [%e1+1024], %va; barrier.arrive 2, 256; bra done;
        writer: st.shared.u64 [%e1], %va; bar.arrive 1, 256; bar.sync 2, 256; ld.shared.u64 %o0, [%e1+1024];
        done:";
    let module = ".shared .align 8 .b8 cells[2048];";
    let run = Run { module, body, grid: 2, block: 256, dynamic: 0, inputs: &inputs, memory: &[] };
    for (t, result) in run.results().0.iter().enumerate() {
        assert_eq!(result[0], inputs[t ^ 128][0], "thread {t}");
    }
}

/// Lanes meet their partners at barriers of the two alone, whichever way they came.
#[test]
fn barriers_of_parts_of_a_warp() {
    let mut random = Random(9);
    for width in [2u32, 4, 8, 16, 32] {
        let inputs = random_inputs(&mut random, 3 * 64);
        let body = format!(
            "mov.u32 %n, %tid.x; mul.wide.u32 %e0, %n, 8; mov.u64 %e1, cells; add.u64 %e2, %e1, %e0;
             and.b32 %w0, %l, {}; mov.u32 %w1, {}; shl.b32 %w1, %w1, %w0;
             xor.b32 %w2, %n, {}; mul.wide.u32 %e0, %w2, 8; add.u64 %e3, %e1, %e0;
             and.b32 %w3, %l, {}; setp.ne.u32 %p, %w3, 0; @%p bra odd;
             st.shared.u64 [%e2], %va; bar.warp.sync %w1; ld.shared.u64 %o0, [%e3]; bra done;
             odd: st.shared.u64 [%e2], %vb; bar.warp.sync %w1; ld.shared.u64 %o0, [%e3];
             done: bar.warp.sync -1;",
            32 - width,
            u32::MAX >> (32 - width),
            width - 1,
            width - 1,
        );
        let module = ".shared .align 8 .b8 cells[512];";
        let run = Run { module, body: &body, grid: 3, block: 64, dynamic: 0, inputs: &inputs, memory: &[] };
        for (t, result) in run.results().0.iter().enumerate() {
            let other = t ^ (width as usize - 1);
            let odd = !(other as u32).is_multiple_of(width);
            assert_eq!(result[0], inputs[other][odd as usize], "thread {t} of parts of {width}");
        }
    }
}

// Atomics.

const ATOMIC_TYPES: [&str; 14] =
    ["b16", "b32", "b64", "u16", "u32", "u64", "s32", "s64", "f16", "f16x2", "f32", "f64", "s16", "b8"];
const ATOMIC_OPERATIONS: [&str; 10] = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];

fn width(ty: &str) -> u32 {
    if ty == "f16x2" { 32 } else { ty[1..].parse().unwrap() }
}

/// An addition of f16, exact in f64 before it is rounded.
fn add_halves(a: u64, b: u64) -> u64 {
    let half = |x: u64| half::f16::from_bits(x as u16);
    let sum = half(a).to_f64() + half(b).to_f64();
    if sum.is_nan() { 0x7fff } else { half::f16::from_f64(sum).to_bits() as u64 }
}

/// What an atomic makes of a cell; `None` where there is no such operation.
fn updated(operation: &str, ty: &str, old: u64, b: u64, c: u64, global: bool) -> Option<u64> {
    let signed = |x: u64| if width(ty) == 32 { x as i32 as i64 } else { x as i64 };
    let bits = ty.starts_with('b');
    Some(
        match operation {
            "add" if ty == "f16" => add_halves(old, b),
            "add" if ty == "f16x2" => add_halves(old, b) | add_halves(old >> 16, b >> 16) << 16,
            "add" if ty == "f32" => {
                // In global memory subnormals are zero.
                let flush = |x: f32| if global && x.is_subnormal() { 0f32.copysign(x) } else { x };
                let sum = flush(flush(f32::from_bits(old as u32)) + flush(f32::from_bits(b as u32)));
                if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() as u64 }
            }
            "add" if ty == "f64" => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            "add" if width(ty) > 16 && ty != "s64" => old.wrapping_add(b),
            "min" if ty.starts_with('s') && width(ty) > 16 => {
                if signed(old) < signed(b) {
                    old
                } else {
                    b
                }
            }
            "max" if ty.starts_with('s') && width(ty) > 16 => {
                if signed(old) > signed(b) {
                    old
                } else {
                    b
                }
            }
            "min" if ty.starts_with('u') && width(ty) > 16 => old.min(b),
            "max" if ty.starts_with('u') && width(ty) > 16 => old.max(b),
            "and" if bits && width(ty) > 16 => old & b,
            "or" if bits && width(ty) > 16 => old | b,
            "xor" if bits && width(ty) > 16 => old ^ b,
            "exch" if bits && width(ty) > 16 => b,
            "cas" if bits && width(ty) > 8 => {
                if old == b {
                    c
                } else {
                    old
                }
            }
            "inc" if ty == "u32" => {
                if old >= b {
                    0
                } else {
                    old + 1
                }
            }
            "dec" if ty == "u32" => {
                if old == 0 || old > b {
                    b
                } else {
                    old - 1
                }
            }
            _ => return None,
        } & u64::MAX >> (64 - width(ty)),
    )
}

fn same(ty: &str, x: u64, y: u64) -> bool {
    x == y || ty == "f64" && f64::from_bits(x).is_nan() && f64::from_bits(y).is_nan()
}

/// Every operation on every type that is accepted, each thread on a cell of its own, in each space.
#[test]
fn atomics() {
    let base = inputs();
    let count = base.len() / 128 * 128;
    let device = Device::new(Settings { seed: 0, threads: 1, memory: 1 << 30, watchdog: 1 << 24 });
    let mut tested = 0;
    for operation in ATOMIC_OPERATIONS {
        for ty in ATOMIC_TYPES {
            let register = |name: &str| match width(ty) {
                16 => format!("%h{}", name),
                64 => ["%va", "%vb", "%vc", "%o0"][name.parse::<usize>().unwrap()].to_string(),
                _ => ["%a", "%b", "%c", "%w3"][name.parse::<usize>().unwrap()].to_string(),
            };
            let noftz = if ty.starts_with("f16") { ".noftz" } else { "" };
            let third = if operation == "cas" { format!(", {}", register("2")) } else { String::new() };
            for (place, space, global) in
                [("%m", ".global", true), ("%m", "", true), ("cells", ".shared", false), ("cells", "", false)]
            {
                for returns in [true, false] {
                    let sem =
                        [".relaxed.gpu", "", ".acq_rel.sys", ".acquire.cta", ".release.gpu"][tested % 5];
                    let (opcode, to) = if returns {
                        ("atom", format!("{}, ", register("3")))
                    } else {
                        ("red", String::new())
                    };
                    let instruction = format!(
                        "{opcode}{sem}{space}.{operation}{noftz}.{ty} {to}[%e1], {}{third};",
                        register("1")
                    );
                    let generic =
                        if place == "cells" && space.is_empty() { "cvta.shared.u64 %e1, %e1;" } else { "" };
                    let plain = if place == "cells" { ".shared" } else { ".global" };
                    let body = format!(
                        "mov.b64 {{%h0, _, _, _}}, %va; mov.b64 {{%h1, _, _, _}}, %vb; mov.b64 {{%h2, _, _, _}}, %vc; mov.b16 %h3, 0;
                         mov.u32 %w3, 0; mov.u32 %w4, %tid.x; mul.wide.u32 %e0, {index}, 8; mov.u64 %e1, {place}; add.u64 %e1, %e1, %e0;
                         mov.u64 %e2, %e1; st{plain}.u64 [%e1], %va; {generic} {instruction} ld{plain}.u64 %o1, [%e2]; {out}",
                        index = if place == "cells" { "%w4" } else { "%t" },
                        out = match width(ty) {
                            16 => "cvt.u64.u16 %o0, %h3;",
                            64 => "",
                            _ => "cvt.u64.u32 %o0, %w3;",
                        }
                    );
                    let module = ".shared .align 8 .b8 cells[1024];";
                    let inputs: Vec<[u64; 4]> =
                        base[..count].iter().map(|[a, b, c]| [*a, *b, *c, 0]).collect();
                    let mask = u64::MAX >> (64 - width(ty));
                    // cas is refused without a third operand, and red.cas does not exist.
                    let known = updated(operation, ty, 0, 0, 0, global).is_some();
                    let loaded = device.load(&text(module, &body));
                    assert_eq!(loaded.is_ok(), known, "{instruction}: {:?}", loaded.err());
                    if !known {
                        continue;
                    }
                    tested += 1;
                    let memory = vec![0; count * 8];
                    let run = Run {
                        module,
                        body: &body,
                        grid: count as u32 / 128,
                        block: 128,
                        dynamic: 0,
                        inputs: &inputs,
                        memory: &memory,
                    };
                    let (results, _) = run.on(&device);
                    for (result, [a, b, c, _]) in results.iter().zip(&inputs) {
                        let new = updated(operation, ty, a & mask, b & mask, c & mask, global).unwrap();
                        let old = if returns { a & mask } else { 0 };
                        assert!(
                            result[0] == old
                                && same(ty, result[1] & mask, new)
                                && result[1] & !mask == a & !mask,
                            "{instruction} of {a:#x}, {b:#x}, {c:#x}: {result:x?}, not {old:#x} and {new:#x}"
                        );
                    }
                }
            }
        }
    }
    assert!(tested > 100, "{tested}");
}

/// All threads of several blocks on one cell, on several threads of the host: nothing is lost, and the order does not show.
#[test]
fn atomics_of_all_threads_on_one_cell() {
    let mut random = Random(10);
    let (grid, block) = (16u32, 96u32);
    let threads = (grid * block) as usize;
    let inputs = random_inputs(&mut random, threads);
    let fold = |start: u64, f: &dyn Fn(u64, u64) -> u64| inputs.iter().fold(start, |all, i| f(all, i[0]));
    let low = 0xffff_ffffu64;
    let cases: [(&str, &str, u64, u64); 12] = [
        ("red.global.add.u64 [%m], %va;", "u64", 5, fold(5, &|x, y| x.wrapping_add(y))),
        ("red.add.u32 [%m], %a;", "u32", 5, fold(5, &|x, y| x.wrapping_add(y)) & low),
        ("red.global.xor.b64 [%m], %va;", "u64", 5, fold(5, &|x, y| x ^ y)),
        ("red.global.and.b32 [%m], %a;", "u32", low, fold(low, &|x, y| x & y)),
        ("red.or.b32 [%m], %a;", "u32", 0, fold(0, &|x, y| x | y) & low),
        ("red.global.min.u64 [%m], %va;", "u64", !0, fold(!0, &u64::min)),
        ("red.global.max.s64 [%m], %va;", "u64", 1 << 63, fold(1 << 63, &|x, y| (x as i64).max(y as i64) as u64)),
        ("red.global.max.u32 [%m], %a;", "u32", 0, fold(0, &|x, y| x.max(y & low))),
        ("red.global.inc.u32 [%m], 99;", "u32", 0, threads as u64 % 100),
        ("red.global.dec.u32 [%m], 99;", "u32", 0, (100 - threads as u64 % 100) % 100),
        // Sums of small integers are exact in any order.
        ("red.global.add.f32 [%m], 0f40400000;", "u32", 0, (3.0 * threads as f32).to_bits() as u64),
        // A loop of compare and swap that adds the thread's number and one.
        (
            "ld.volatile.global.u64 %e0, [%m]; again: add.u64 %e1, %e0, 1; cvt.u64.u32 %e2, %t; add.u64 %e1, %e1, %e2;
             atom.global.cas.b64 %e3, [%m], %e0, %e1; setp.ne.u64 %p, %e3, %e0; mov.u64 %e0, %e3; @%p bra again;",
            "u64",
            0,
            (threads * (threads + 1) / 2) as u64,
        ),
    ];
    for (body, ty, start, want) in cases {
        let memory = start.to_le_bytes();
        let run = Run { module: "", body, grid, block, dynamic: 0, inputs: &inputs, memory: &memory };
        let (_, after) = run.results();
        let got = u64::from_le_bytes(after.try_into().unwrap()) & if ty == "u32" { low } else { !0 };
        assert_eq!(got, want, "{body}");
    }
    // What the threads are given back: each number once, whichever thread has it.
    for (seed, host) in [(0, 1), (1, 2), (2, 4)] {
        let device = Device::new(Settings { seed, threads: host, memory: 1 << 30, watchdog: 1 << 24 });
        let body = "atom.global.add.u32 %w0, [%m], 1; cvt.u64.u32 %o0, %w0; atom.global.exch.b32 %w1, [%m+4], %t; cvt.u64.u32 %o1, %w1;";
        let memory = 0xffff_ffff_0000_0000u64.to_le_bytes();
        let run = Run { module: "", body, grid, block, dynamic: 0, inputs: &inputs, memory: &memory };
        let (results, after) = run.on(&device);
        let mut given: Vec<u64> = results.iter().map(|r| r[0]).collect();
        given.sort();
        assert!(given.into_iter().eq(0..threads as u64), "seed {seed}");
        // Exchanges hand on every value: those that were there before, and in the end the last thread's.
        let mut handed: Vec<u64> = results.iter().map(|r| r[1]).collect();
        handed.push(u32::from_le_bytes(after[4..].try_into().unwrap()) as u64);
        handed.sort();
        assert!(handed.into_iter().eq((0..threads as u64).chain([0xffff_ffff])), "seed {seed}");
    }
}

// Memory.

/// The spaces that bytes can be put into and read from, and how their address comes into `%e1`.
const SPACES: [(&str, &str); 6] = [
    (".global", "mul.wide.u32 %e0, %t, 16; add.u64 %e1, %m, %e0;"),
    ("", "mul.wide.u32 %e0, %t, 16; add.u64 %e1, %m, %e0;"),
    (".shared", "mov.u32 %n, %tid.x; mul.wide.u32 %e0, %n, 16; mov.u64 %e1, cells; add.u64 %e1, %e1, %e0;"),
    (
        "",
        "mov.u32 %n, %tid.x; mul.wide.u32 %e0, %n, 16; mov.u64 %e1, cells; add.u64 %e1, %e1, %e0; cvta.shared.u64 %e1, %e1;",
    ),
    (".local", "mov.u64 %e1, stack;"),
    ("", "mov.u64 %e1, stack; cvta.local.u64 %e1, %e1;"),
];

const MEMORY_TYPES: [&str; 15] =
    ["b8", "u8", "s8", "b16", "u16", "s16", "f16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"];

/// Every type and vector in every space: loads into registers of each width that fits, extended; stores of the low bytes.
#[test]
fn loads_and_stores() {
    let mut random = Random(11);
    let inputs = random_inputs(&mut random, 64);
    let mut tested = 0;
    for (space, address) in SPACES {
        for ty in MEMORY_TYPES {
            let bytes = width(ty) / 8;
            for count in [1u32, 2, 4] {
                if bytes * count > 16 {
                    continue;
                }
                for wide in [16, 32, 64] {
                    let float = ty.starts_with('f');
                    if wide < 8 * bytes || float && wide != 8 * bytes {
                        continue;
                    }
                    let register = |i: u32| match wide {
                        16 => format!("%h{i}"),
                        32 => format!("%w{i}"),
                        _ => format!("%e{}", i + 4),
                    };
                    let names: Vec<String> = (0..count).map(register).collect();
                    let vector = ["", ".v2", "", ".v4"][count as usize - 1];
                    let operand =
                        if count == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) };
                    let out: String = names
                        .iter()
                        .enumerate()
                        .map(|(i, name)| match wide {
                            64 => format!("mov.b64 %o{i}, {name};"),
                            _ => format!("cvt.u64.u{wide} %o{i}, {name};"),
                        })
                        .collect();
                    let load = format!(
                        ".local .align 16 .b8 stack[16]; {address} st{space}.v2.b64 [%e1], {{%va, %vb}};
                         ld{space}{vector}.{ty} {operand}, [%e1]; {out}"
                    );
                    let sources: String = names
                        .iter()
                        .zip(["va", "vb", "vc", "vd"])
                        .map(|(name, value)| match wide {
                            64 => format!("mov.b64 {name}, %{value};"),
                            32 => format!("cvt.u32.u64 {name}, %{value};"),
                            _ => format!("cvt.u16.u64 {name}, %{value};"),
                        })
                        .collect();
                    let store = format!(
                        ".local .align 16 .b8 stack[16]; {address} mov.u64 %e2, 0; st{space}.v2.b64 [%e1], {{%e2, %e2}}; {sources}
                         st{space}{vector}.{ty} [%e1], {operand}; ld{space}.v2.b64 {{%o0, %o1}}, [%e1];"
                    );
                    for (body, loads) in [(load, true), (store, false)] {
                        let module = ".shared .align 16 .b8 cells[1024];";
                        let memory = vec![0; 64 * 16];
                        let run = Run {
                            module,
                            body: &body,
                            grid: 1,
                            block: 64,
                            dynamic: 0,
                            inputs: &inputs,
                            memory: &memory,
                        };
                        let device =
                            Device::new(Settings { seed: 0, threads: 1, memory: 1 << 30, watchdog: 1 << 24 });
                        let (results, _) = run.on(&device);
                        for (result, input) in results.iter().zip(&inputs) {
                            let mut want = [0u64; 4];
                            let mask = u64::MAX >> (64 - 8 * bytes);
                            for i in 0..count {
                                let place = 8 * bytes * i;
                                if loads {
                                    let value = input[(place / 64) as usize] >> (place % 64) & mask;
                                    let spare = 64 - 8 * bytes;
                                    let extended = match ty.starts_with('s') {
                                        true => ((value << spare) as i64 >> spare) as u64,
                                        false => value,
                                    };
                                    want[i as usize] = extended & u64::MAX >> (64 - wide);
                                } else {
                                    want[(place / 64) as usize] |= (input[i as usize] & mask) << (place % 64);
                                }
                            }
                            assert_eq!(*result, want, "{body}");
                        }
                        tested += 1;
                    }
                }
            }
        }
    }
    assert!(tested > 400, "{tested}");
}

/// Orders, scopes and hints change no value; constants, parameters, dynamic shared memory and offsets.
#[test]
fn kinds_of_accesses() {
    let mut random = Random(12);
    let inputs = random_inputs(&mut random, 64);
    let loads = [
        "ld.volatile.global",
        "ld.relaxed.cta.global",
        "ld.relaxed.gpu.global",
        "ld.acquire.sys.global",
        "ld.weak.global",
        "ld.global.nc",
        "ld.global.ca",
        "ld.global.cg",
        "ld.global.cs",
        "ld.global.lu",
        "ld.global.cv",
        "ldu.global",
        "ld.global.nc.L1::no_allocate",
        "ld.global.L1::evict_normal",
        "ld.global.L1::evict_unchanged",
        "ld.global.L1::evict_first",
        "ld.global.L1::evict_last",
        "ld.global.L2::64B",
        "ld.global.L2::128B",
        "ld.global.L2::256B",
    ];
    let stores = [
        "st.volatile.global",
        "st.relaxed.gpu.global",
        "st.release.cta.global",
        "st.weak.global",
        "st.global.wb",
        "st.global.cg",
        "st.global.cs",
        "st.global.wt",
        "st.global.L1::evict_last",
    ];
    let ordering = [
        "membar.gl;",
        "membar.cta;",
        "membar.sys;",
        "fence.sc.gpu;",
        "fence.acq_rel.cta;",
        "fence.acquire.sys;",
        "fence.release.gpu;",
        "prefetch.global.L2 [%e1];",
        "prefetchu.L1 [%e1];",
        "nanosleep.u32 20;",
        "pragma \"nounroll\";",
    ];
    for i in 0..loads.len().max(ordering.len()) {
        let (load, store) = (loads[i % loads.len()], stores[i % stores.len()]);
        let between = ordering[i % ordering.len()].replace("pragma", ".pragma");
        let body = format!(
            "mul.wide.u32 %e0, %t, 16; add.u64 %e1, %m, %e0; {store}.u64 [%e1+8], %va; {between} {load}.u64 %o0, [%e1+8];
             {load}.v2.u32 {{%w0, %w1}}, [%e1+8]; mov.b64 %o1, {{%w1, %w0}};"
        );
        let memory = vec![0; 64 * 16];
        let run =
            Run { module: "", body: &body, grid: 2, block: 32, dynamic: 0, inputs: &inputs, memory: &memory };
        let (results, after) = run.results();
        for (t, result) in results.iter().enumerate() {
            assert_eq!(result[..2], [inputs[t][0], inputs[t][0].rotate_left(32)], "{body}");
            assert_eq!(after[16 * t + 8..16 * t + 16], inputs[t][0].to_le_bytes(), "{body}");
        }
    }
    let module = ".const .align 8 .b8 table[8] = {1, 2, 3, 4, 5, 6, 7, 200}; .global .align 8 .u64 word = 77;
        .extern .shared .align 16 .b8 dynamic[];";
    let body = "ld.const.s8 %w0, [table+7]; ld.const.u32 %w1, [table]; mov.b64 %o0, {%w0, %w1};
        ld.param.u16 %h0, [bytes+6]; ld.param::entry.s8 %h1, [bytes+15]; mov.b32 %w0, {%h0, %h1};
        ld.global.u32 %w1, [word]; mov.b64 %o1, {%w0, %w1};
        mov.u32 %n, %tid.x; mul.wide.u32 %e0, %n, 8; mov.u64 %e1, dynamic; add.u64 %e1, %e1, %e0; st.shared.u64 [%e1+16], %vb;
        bar.warp.sync -1; mov.u32 %w2, dynamic; ld.shared.u64 %o2, [%w2+24]; ld.shared.u64 %o3, [dynamic+16];";
    let run = Run { module, body, grid: 2, block: 32, dynamic: 272, inputs: &inputs, memory: &[] };
    for (t, result) in run.results().0.iter().enumerate() {
        let first = t / 32 * 32;
        let want = [0x0403_0201_ffff_ffc8, 77 << 32 | 0xffff_f7f6, inputs[first + 1][1], inputs[first][1]];
        assert_eq!(*result, want, "thread {t}");
    }
}

#[test]
fn spaces_of_addresses() {
    let inputs = vec![[0; 4]; 64];
    let module = ".shared .align 8 .b8 cells[512]; .const .align 8 .u64 fixed = 9;";
    // A generic address of each space is in it and in no other, leads back, and to the same bytes.
    let body = ".local .align 8 .b8 stack[16]; mov.u32 %n, %tid.x; mul.wide.u32 %e0, %n, 8;
        mov.u64 %e1, cells; add.u64 %e1, %e1, %e0; mov.u64 %e2, stack; mul.wide.u32 %e0, %t, 8; add.u64 %e3, %m, %e0;
        cvta.shared.u64 %e4, %e1; cvta.local.u64 %e5, %e2; cvta.global.u64 %e6, %e3;
        isspacep.shared %p, %e4; @%p or.b64 %o0, %o0, 1; isspacep.local %p, %e4; @%p or.b64 %o0, %o0, 2; isspacep.global %p, %e4; @%p or.b64 %o0, %o0, 4;
        isspacep.shared::cta %p, %e5; @%p or.b64 %o0, %o0, 8; isspacep.local %p, %e5; @%p or.b64 %o0, %o0, 16; isspacep.global %p, %e5; @%p or.b64 %o0, %o0, 32;
        isspacep.shared %p, %e6; @%p or.b64 %o0, %o0, 64; isspacep.local %p, %e6; @%p or.b64 %o0, %o0, 128; isspacep.global %p, %e6; @%p or.b64 %o0, %o0, 256;
        cvta.to.shared.u64 %e0, %e4; setp.eq.u64 %p, %e0, %e1; @%p or.b64 %o1, %o1, 1;
        cvta.to.local.u64 %e0, %e5; setp.eq.u64 %p, %e0, %e2; @%p or.b64 %o1, %o1, 2;
        cvta.to.global.u64 %e0, %e6; setp.eq.u64 %p, %e0, %e3; @%p or.b64 %o1, %o1, 4;
        st.shared.u64 [%e1], 11; st.local.u64 [%e2], 12; st.global.u64 [%e3], 13;
        ld.u64 %e0, [%e4]; add.u64 %o2, %o2, %e0; ld.u64 %e0, [%e5]; mad.lo.u64 %o2, %e0, 100, %o2; ld.u64 %e0, [%e6]; mad.lo.u64 %o2, %e0, 10000, %o2;
        mov.u64 %e0, fixed; cvta.const.u64 %e0, %e0; ld.u64 %o3, [%e0]; cvta.to.const.u64 %e0, %e0; ld.const.u64 %e0, [%e0]; add.u64 %o3, %o3, %e0;";
    let memory = vec![0; 64 * 8];
    let run = Run { module, body, grid: 1, block: 64, dynamic: 0, inputs: &inputs, memory: &memory };
    for result in run.results().0 {
        assert_eq!(result, [1 | 16 | 256, 7, 131_211, 18]);
    }
    // One instruction, lanes in different spaces.
    let body = ".local .align 8 .b8 stack[16]; mov.u32 %n, %tid.x; mul.wide.u32 %e0, %n, 8; mov.u64 %e1, cells; add.u64 %e1, %e1, %e0;
        cvta.shared.u64 %e1, %e1; mov.u64 %e2, stack; cvta.local.u64 %e2, %e2; mul.wide.u32 %e0, %t, 8; add.u64 %e3, %m, %e0;
        rem.u32 %w0, %t, 3; setp.eq.u32 %p, %w0, 0; selp.u64 %e4, %e1, %e2, %p; setp.eq.u32 %p, %w0, 1; selp.u64 %e4, %e3, %e4, %p;
        cvt.u64.u32 %e5, %t; st.u64 [%e4], %e5; ld.u64 %o0, [%e4]; ";
    let run = Run { module, body, grid: 1, block: 64, dynamic: 0, inputs: &inputs, memory: &memory };
    let (results, after) = run.on(&Device::new(Settings::default()));
    for (t, result) in results.iter().enumerate() {
        assert_eq!(result[0], t as u64);
        let kept = u64::from_le_bytes(after[8 * t..8 * t + 8].try_into().unwrap());
        assert_eq!(kept, if t % 3 == 1 { t as u64 } else { 0 });
    }
}

#[test]
fn special_registers() {
    let module = ".shared .align 8 .b8 cells[24]; .extern .shared .align 8 .b8 dynamic[];";
    let body = "mov.u32 %n, %tid.x; setp.eq.u32 %p, %n, 0; @%p st.shared.u8 [cells], 1; mov.u32 %w0, %lanemask_eq; mov.u32 %w1, %lanemask_lt; mov.b64 %o0, {%w0, %w1}; mov.u32 %w0, %lanemask_le;
        mov.u32 %w1, %lanemask_gt; mov.u32 %w2, %lanemask_ge; xor.b32 %w0, %w0, %w2; mov.b64 %o1, {%w0, %w1};
        mov.u32 %w0, %warpid; mov.u32 %w1, %nwarpid; mul.lo.u32 %w1, %w1, 256; add.u32 %w0, %w0, %w1;
        mov.u32 %w1, %dynamic_smem_size; mov.u32 %w2, %total_smem_size; sub.u32 %w2, %w2, %w1; mov.b64 %o2, {%w0, %w1};
        mov.u32 %w3, %smid; mov.u32 %w4, %nsmid; setp.lt.u32 %p, %w3, %w4; selp.u32 %w3, 1, 0, %p;
        mov.u64 %e0, %clock64; mov.u32 %w4, %clock; mov.u64 %e1, %clock64; setp.lt.and.u64 %p, %e0, %e1, %p;
        mov.u64 %e0, %globaltimer; mov.u32 %w5, %globaltimer_lo; mov.u64 %e1, %globaltimer; setp.le.and.u64 %p, %e0, %e1, %p;
        cvt.u64.u32 %e2, %w4; setp.le.and.u64 %p, %e2, %e1, %p; selp.u32 %w3, 1, 0, %p;
        mov.u32 %w5, %laneid; mad.lo.u32 %w3, %w5, 2, %w3; mov.b64 %o3, {%w2, %w3};";
    let inputs = vec![[0; 4]; 3 * 80];
    let run = Run { module, body, grid: 3, block: 80, dynamic: 40, inputs: &inputs, memory: &[] };
    for (t, result) in run.results().0.iter().enumerate() {
        let (thread, lane) = (t as u64 % 80, t as u64 % 80 % 32);
        let bit = 1u64 << lane;
        let (lt, gt) = (bit - 1, 0xffff_ffff & !(2 * bit - 1));
        let both = (lt | bit) ^ (gt | bit);
        let want =
            [bit | lt << 32, both | gt << 32, (thread / 32 + 3 * 256) | 40 << 32, 24 | (2 * lane + 1) << 32];
        assert_eq!(*result, want, "thread {t}");
    }
    // Blocks and grids of three dimensions.
    let text = ".version 9.0\n.target sm_75\n.address_size 64\n.visible .entry k(.param .u64 to) {
        .reg .b32 %w<16>; .reg .b64 %e<4>; ld.param.u64 %e0, [to];
        mov.u32 %w0, %tid.x; mov.u32 %w1, %tid.y; mov.u32 %w2, %tid.z; mov.u32 %w3, %ntid.x; mov.u32 %w4, %ntid.y; mov.u32 %w5, %ntid.z;
        mov.u32 %w6, %ctaid.x; mov.u32 %w7, %ctaid.y; mov.u32 %w8, %ctaid.z; mov.u32 %w9, %nctaid.x; mov.u32 %w10, %nctaid.y; mov.u32 %w11, %nctaid.z;
        mad.lo.u32 %w12, %w8, %w10, %w7; mad.lo.u32 %w12, %w12, %w9, %w6; mad.lo.u32 %w12, %w12, %w5, %w2; mad.lo.u32 %w12, %w12, %w4, %w1;
        mad.lo.u32 %w12, %w12, %w3, %w0; mul.wide.u32 %e1, %w12, 4; add.u64 %e0, %e0, %e1;
        mad.lo.u32 %w13, %w11, 1000, %w2; st.global.u32 [%e0], %w13; ret; }";
    let device = Device::new(Settings::default());
    let function = device.load(text).unwrap().function("k").unwrap();
    let count = 7 * 3 * 2 * 4 * 5 * 3;
    let to = device.allocate(count * 4).unwrap();
    let parameters = to.to_le_bytes();
    let launch = Launch { grid: [4, 5, 3], block: [7, 3, 2], dynamic_shared: 0, parameters: &parameters };
    device.launch(&function, &launch).unwrap();
    let mut out = vec![0; count as usize * 4];
    device.read(to, &mut out).unwrap();
    for (i, word) in common::to_u32(&out).into_iter().enumerate() {
        assert_eq!(word as usize, 3000 + i / 21 % 2, "thread {i}");
    }
}

// Control flow.

/// Nested ifs, loops of different length, jumps by a table, ends in the middle and calls, against the same in Rust.
#[test]
fn divergence() {
    let mut random = Random(13);
    let inputs = random_inputs(&mut random, 2 * 200);
    let module = ".func (.param .b32 out) twist(.param .b32 in) { .reg .pred %p; .reg .b32 %x; ld.param.b32 %x, [in];
        setp.gt.s32 %p, %x, 0; @%p bra up; not.b32 %x, %x; st.param.b32 [out], %x; ret; up: mul.lo.u32 %x, %x, 5; st.param::func.b32 [out], %x; ret; }";
    let body = "and.b32 %w0, %a, 1023; add.u32 %w0, %w0, 1; mov.u32 %w1, 0; mov.u32 %w2, %b;
        steps: setp.eq.u32 %p, %w0, 1; @%p bra over; add.u32 %w1, %w1, 1; and.b32 %w3, %w0, 1; setp.eq.u32 %q, %w3, 0; @!%q bra odd;
            shr.u32 %w0, %w0, 1; and.b32 %w3, %w2, 7; setp.ne.u32 %q, %w3, 3; @%q bra.uni next; xor.b32 %w2, %w2, 0x55; bra next;
            odd: mad.lo.u32 %w0, %w0, 3, 1; and.b32 %w3, %w1, 3; ts: .branchtargets t0, t1, t2, next; brx.idx %w3, ts;
                t0: add.u32 %w2, %w2, %w0; bra next; t1: mul.lo.u32 %w2, %w2, 3; t2: sub.u32 %w2, %w2, %w1;
            next: setp.lt.u32 %p, %w1, 60; @%p bra steps;
        over: { .param .b32 arg; .param .b32 res; st.param.b32 [arg], %w2; call.uni (res), twist, (arg); ld.param.b32 %w4, [res]; }
        mov.b64 %o0, {%w0, %w1}; mov.b64 %o1, {%w2, %w4};
        and.b32 %w5, %d, 3; setp.ne.u32 %p, %w5, 0; @%p bra stay; st.global.v2.u64 [%y], {%o0, %o1}; st.global.v2.u64 [%y+16], {%o1, %o0};
        setp.ne.u32 %q, %c, 0; @%q exit; ret; stay: mov.u64 %o2, 1;";
    let run = Run { module, body, grid: 2, block: 200, dynamic: 0, inputs: &inputs, memory: &[] };
    for (t, result) in run.results().0.iter().enumerate() {
        let [a, b, _, d] = inputs[t].map(|x| x as u32);
        let (mut x, mut n, mut y) = ((a & 1023) + 1, 0u32, b);
        while x != 1 {
            n += 1;
            if x % 2 == 0 {
                x /= 2;
                if y & 7 == 3 {
                    y ^= 0x55;
                }
            } else {
                x = 3 * x + 1;
                match n & 3 {
                    0 => y = y.wrapping_add(x),
                    1 => y = y.wrapping_mul(3).wrapping_sub(n),
                    2 => y = y.wrapping_sub(n),
                    _ => {}
                }
            }
            if n >= 60 {
                break;
            }
        }
        let z = if y as i32 > 0 { y.wrapping_mul(5) } else { !y };
        let [first, second] = [x as u64 | (n as u64) << 32, y as u64 | (z as u64) << 32];
        let want = if d & 3 == 0 { [first, second, second, first] } else { [first, second, 1, 0] };
        assert_eq!(*result, want, "thread {t}: {a:#x}, {b:#x}");
    }
}

/// What `vprintf` returns: the arguments that it has parsed, each from its aligned place, up to 64 bits and texts.
#[test]
fn printing() {
    let module = ".extern .func (.param .b32 out) vprintf(.param .b64 format, .param .b64 arguments);
        .global .align 1 .b8 many[21] = {37, 100, 32, 37, 42, 100, 124, 37, 108, 108, 117, 32, 37, 115, 37, 37, 32, 37, 102, 10, 0};
        .global .align 1 .b8 none[3] = {45, 10, 0}; .global .align 1 .b8 name[3] = {97, 98, 0};";
    // d, *d, llu, s and f: six arguments; the other format has none.
    let body = ".local .align 8 .b8 stack[48]; mov.u64 %e1, stack; cvta.local.u64 %e2, %e1; st.local.u32 [%e1], %a;
        st.local.u32 [%e1+4], 4; st.local.u32 [%e1+8], %b; st.local.u64 [%e1+16], %vc; mov.u64 %e3, name; cvta.global.u64 %e3, %e3;
        st.local.u64 [%e1+24], %e3; st.local.f64 [%e1+32], 0d3FF8000000000000; mov.u64 %e4, many; cvta.global.u64 %e4, %e4;
        setp.ne.u32 %p, %d, 0; @%p bra nothing;
        { .param .b64 format; .param .b64 arguments; .param .b32 out; st.param.b64 [format], %e4; st.param.b64 [arguments], %e2;
          call.uni (out), vprintf, (format, arguments); ld.param.b32 %w0, [out]; }
        bra done; nothing: mov.u64 %e4, none; cvta.global.u64 %e4, %e4;
        { .param .b64 format; .param .b64 arguments; .param .b32 out; st.param.b64 [format], %e4; st.param.b64 [arguments], 0;
          call.uni (out), vprintf, (format, arguments); ld.param.b32 %w0, [out]; }
        done: cvt.u64.u32 %o0, %w0;";
    let inputs: Vec<[u64; 4]> = (0..4).map(|i| [i, 40 + i, u64::MAX - i, i % 2]).collect();
    let run = Run { module, body, grid: 1, block: 4, dynamic: 0, inputs: &inputs, memory: &[] };
    for (t, result) in run.results().0.iter().enumerate() {
        assert_eq!(result[0], if t % 2 == 0 { 6 } else { 0 }, "thread {t}");
    }
}

/// Words that the decoder matches are words of PTX in this file: a new one must be used by a test.
#[test]
fn no_word_is_forgotten() {
    // Tested where they end a kernel or leave it, or refused.
    let elsewhere = ["trap", "__assertfail", "clock_hi", "globaltimer_hi"];
    let here = include_str!("warps.rs");
    let here = &here[..here.find("fn no_word_is_forgotten").unwrap()];
    let words: std::collections::BTreeSet<&str> =
        here.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).collect();
    let forms = include_str!("forms.rs");
    let mut found = 0;
    for line in include_str!("../src/program/decode.rs").lines() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for word in line.split('"').skip(1).step_by(2) {
            let word = word.trim_start_matches('%');
            let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
            if !plain || word.is_empty() || elsewhere.contains(&word) {
                continue;
            }
            found += 1;
            let named = words.contains(word) || forms.contains(&format!("\"{word}\""));
            assert!(named, "{word}: no test uses it: {line}");
        }
    }
    assert!(found > 100, "only {found} words found");
}

/// What `ptxas` would refuse is refused when the module is loaded, and not taken from the host's memory.
#[test]
fn a_kernel_has_only_so_much_memory() {
    for (variable, said) in [
        (".shared .b8 x[49153];", "static shared memory"),
        (".shared .b8 x[4294967296];", "static shared memory"),
        (".local .b8 x[524289];", "local memory"),
        (".local .b8 x[9999999999];", "local memory"),
    ] {
        let text = format!(
            ".version 8.0\n.target sm_75\n.address_size 64\n.visible .entry k() {{ .reg .b64 %a; {variable} mov.u64 %a, x; ret; }}"
        );
        let Err(error) = Device::new(Settings::default()).load(&text) else { panic!("{variable} is taken") };
        assert!(error.to_string().contains(said), "{variable}: {error}");
    }
}
