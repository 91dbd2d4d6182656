//! The tensor core against MMA-Sim, which was fitted to Turing's: `golden/mma.bin`, written by `peers/make_mma_golden.py` (its head
//! says what is in it). Every bit has to be the same.

mod common;

use common::{Card, Parameter, pack};
use simulator::{Launch, Settings};

const GOLDEN: &[u8] = include_bytes!("golden/mma.bin");

/// Bytes of A, B, C and D in f32, C and D in f16.
const PARTS: [usize; 6] = [256, 128, 512, 512, 256, 256];

/// Loads a fragment word of f16 from memory that holds the fragments by lane, multiplies, and stores by lane.
fn kernel(f16: bool) -> String {
    let (d, c, mma) = if f16 {
        ("%d0, %d1", "%c0, %c1", "f16.f16.f16.f16")
    } else {
        ("%d0, %d1, %d2, %d3", "%c0, %c1, %c2, %c3", "f32.f16.f16.f32")
    };
    format!(
        ".version 9.0\n.target sm_75\n.address_size 64\n.visible .entry k(.param .u64 from, .param .u64 to) {{
.reg .b32 %a0, %a1, %b0, %c<4>, %d<4>, %t; .reg .b64 %x, %y, %o;
ld.param.u64 %x, [from]; ld.param.u64 %y, [to]; mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 32; add.s64 %x, %x, %o;
mul.wide.u32 %o, %t, 16; add.s64 %y, %y, %o;
ld.global.u32 %a0, [%x]; ld.global.u32 %a1, [%x+4]; ld.global.u32 %b0, [%x+8];
ld.global.u32 %c0, [%x+12]; ld.global.u32 %c1, [%x+16]; ld.global.u32 %c2, [%x+20]; ld.global.u32 %c3, [%x+24];
mov.u32 %d2, 0; mov.u32 %d3, 0;
mma.sync.aligned.m16n8k8.row.col.{mma} {{{d}}}, {{%a0, %a1}}, {{%b0}}, {{{c}}};
st.global.u32 [%y], %d0; st.global.u32 [%y+4], %d1; st.global.u32 [%y+8], %d2; st.global.u32 [%y+12], %d3; ret; }}"
    )
}

/// Runs one product on fragments: `words[lane]` is A's two, B's, C's four and one unused.
fn multiply(f16: bool, words: &[[u32; 8]; 32]) -> Vec<u32> {
    let card = Card::with(Settings { seed: 0, threads: 1, memory: 1 << 20, watchdog: 1 << 10 });
    let module = card.device.load(&kernel(f16)).unwrap_or_else(|error| panic!("{error}"));
    let function = module.function("k").unwrap();
    let from = card.upload(&common::u32_bytes(words.as_flattened()));
    let to = card.allocate(32 * 16);
    let parameters = pack(&function, &[Parameter::Address(from), Parameter::Address(to)]);
    let launch = Launch { grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, parameters: &parameters };
    card.device.launch(&function, &launch).unwrap_or_else(|fault| panic!("{fault}"));
    common::to_u32(&card.read(to, 32 * 16))
}

#[test]
fn every_bit_is_turing_s() {
    let half = |bytes: &[u8], index: usize| u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]);
    let word =
        |bytes: &[u8], index: usize| u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().unwrap());
    let size: usize = PARTS.iter().sum();
    assert_eq!(GOLDEN.len() % size, 0);
    let mut cases = 0;
    for (number, case) in GOLDEN.chunks_exact(size).enumerate() {
        let mut rest = case;
        let [a, b, c, d, c16, d16] = PARTS.map(|bytes| {
            let (part, others) = rest.split_at(bytes);
            rest = others;
            part
        });
        // Fragments as the PTX ISA lays them out: 9.7.14.5.8.
        let mut words = [[0; 8]; 32];
        let mut words16 = [[0; 8]; 32];
        for lane in 0..32 {
            let (group, pair) = (lane / 4, lane % 4 * 2);
            let two = |bytes: &[u8], first: usize, second: usize| {
                u32::from(half(bytes, first)) | u32::from(half(bytes, second)) << 16
            };
            let left = [
                two(a, group * 8 + pair, group * 8 + pair + 1),
                two(a, (group + 8) * 8 + pair, (group + 8) * 8 + pair + 1),
                two(b, pair * 8 + group, (pair + 1) * 8 + group),
            ];
            words[lane][..3].copy_from_slice(&left);
            words16[lane][..3].copy_from_slice(&left);
            for i in 0..4 {
                words[lane][3 + i] = word(c, (group + i / 2 * 8) * 8 + pair + i % 2);
            }
            for i in 0..2 {
                let row = group + i * 8;
                words16[lane][3 + i] = two(c16, row * 8 + pair, row * 8 + pair + 1);
            }
        }
        let (found, found16) = (multiply(false, &words), multiply(true, &words16));
        for lane in 0..32 {
            let (group, pair) = (lane / 4, lane % 4 * 2);
            for i in 0..4 {
                let (row, column) = (group + i / 2 * 8, pair + i % 2);
                let expected = word(d, row * 8 + column);
                assert_eq!(found[lane * 4 + i], expected, "case {number}, f32, element {row}, {column}");
                let (both, expected) = (found16[lane * 4 + i / 2], half(d16, row * 8 + column));
                let got = (both >> (i % 2 * 16)) as u16;
                assert_eq!(got, expected, "case {number}, f16, element {row}, {column}");
            }
        }
        cases += 1;
    }
    assert_eq!(cases, 96);
}
