//! How fast kernels run on the simulated card: `cargo bench -p simulator`.
//!
//! Thread-instructions a second and host thread, all checks on, of the kernels that the tests prove: medians, with the
//! fastest and the slowest repeat, since a shared machine's times are noise. Then each kernel's counters.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Card, Parameter, Random};
use simulator::{Function, Profile, Settings};
use std::time::{Duration, Instant};

/// Time a kernel is repeated for, and the fewest repeats.
const ENOUGH: Duration = Duration::from_secs(3);
const FEWEST: usize = 5;

fn main() {
    // Cargo's own options (`--bench`) say nothing here; a word that is no option chooses kernels by their names.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    println!(
        "{:<12} {:>8} {:>24} {:>10} {:>28}",
        "kernel", "threads", "thread-instructions", "lanes on", "million a second and thread"
    );
    let mut profiles = Vec::new();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    for (name, run) in [("gemm_f16", gemm as Kernel), ("gru_forward", gru), ("softmax", softmax)] {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let mut profile = None;
        for threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
            let card = Card::with(Settings { seed: 0, threads, memory: 1 << 30, watchdog: 1 << 32 });
            let (function, grid, block, parameters) = run(&card);
            profile = measure(name, threads, || {
                card.launch(&function, grid, block, 0, &parameters).unwrap_or_else(|fault| panic!("{fault}"))
            });
        }
        profiles.extend(profile);
    }
    print!("\n{}", simulator::table(&profiles));
}

type Kernel = fn(&Card) -> (Function, [u32; 2], u32, Vec<Parameter>);

fn measure(name: &str, threads: usize, run: impl Fn() -> Profile) -> Option<Profile> {
    run();
    let mut rates = Vec::new();
    let start = Instant::now();
    let mut last = None;
    while rates.len() < FEWEST || start.elapsed() < ENOUGH {
        let before = Instant::now();
        let profile = run();
        let seconds = before.elapsed().as_secs_f64();
        rates.push(profile.thread_instructions as f64 / seconds / threads as f64 / 1e6);
        last = Some(profile);
    }
    let profile = last?;
    rates.sort_by(f64::total_cmp);
    println!(
        "{name:<12} {threads:>8} {:>24} {:>9.1}% {:>10.1} ({:.1} to {:.1})",
        profile.thread_instructions,
        profile.thread_instructions as f64 / profile.warp_instructions as f64 / 32.0 * 100.0,
        rates[rates.len() / 2],
        rates[0],
        rates[rates.len() - 1],
    );
    Some(profile)
}

/// 512 x 512 x 512.
fn gemm(card: &Card) -> (Function, [u32; 2], u32, Vec<Parameter>) {
    const SIZE: usize = 512;
    let mut random = Random(1);
    let matrix = common::f16_bytes(&random.halves(SIZE * SIZE, 1.0));
    let size = Parameter::Word(SIZE as u32);
    let (a, b, c) = (card.upload(&matrix), card.upload(&matrix), card.allocate(SIZE * SIZE * 4));
    let parameters =
        vec![Parameter::Address(a), Parameter::Address(b), Parameter::Address(c), size, size, size];
    (card.kernel("gemm", "gemm_f16"), [SIZE as u32 / 64, SIZE as u32 / 64], 128, parameters)
}

/// 100 hidden units, 60 steps, 64 samples.
fn gru(card: &Card) -> (Function, [u32; 2], u32, Vec<Parameter>) {
    const HIDDEN: usize = 100;
    const STEPS: usize = 60;
    const BATCH: usize = 64;
    let mut random = Random(2);
    let x = card.upload(&common::f32_bytes(&random.floats(STEPS * BATCH * 3 * HIDDEN, 2.0)));
    let u = card.upload(&common::f16_bytes(&random.halves(3 * HIDDEN * HIDDEN, 0.1)));
    let bias = card.upload(&common::f32_bytes(&random.floats(3 * HIDDEN, 0.1)));
    let lengths = card.upload(&common::u32_bytes(&[STEPS as u32; BATCH]));
    let out = card.allocate(STEPS * BATCH * HIDDEN * 4);
    let mut parameters = [x, u, bias, lengths, out].map(Parameter::Address).to_vec();
    parameters.extend([STEPS, BATCH].map(|size| Parameter::Word(size as u32)));
    (card.kernel("gru", "gru_forward_100"), [BATCH as u32 / 8, 1], 224, parameters)
}

/// 4096 rows of 256 values.
fn softmax(card: &Card) -> (Function, [u32; 2], u32, Vec<Parameter>) {
    const ROWS: usize = 4096;
    const WIDTH: usize = 256;
    let mut random = Random(3);
    let x = card.upload(&common::f32_bytes(&random.floats(ROWS * WIDTH, 5.0)));
    let y = card.allocate(ROWS * WIDTH * 4);
    let lengths = card.upload(&common::u32_bytes(&[WIDTH as u32; ROWS]));
    let mut parameters = [x, y, lengths].map(Parameter::Address).to_vec();
    parameters.extend([ROWS, WIDTH].map(|size| Parameter::Word(size as u32)));
    (card.kernel("softmax", "softmax_narrow"), [ROWS as u32 / 4, 1], 128, parameters)
}
