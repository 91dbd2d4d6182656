//! The kernels with planted mistakes, how each is launched, and what has to come of it.
//!
//! A case names a kernel of `kernels/planted/<file>.cu`, with its arguments. If it expects a kind of fault, the launch must fail
//! with it, and the report must name, as `<file>.cu:<line>`, every line of the kernel that ends with the marker. If it expects
//! none, the launch must succeed, and where `gives` says what the last buffer holds afterwards, hold that.

use simulator::FaultKind;

/// An argument of a kernel. Buffers are of words of 32 bits and are exactly as long as said.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    /// 0, 1, 2, ..
    Counting(u32),
    Zeros(u32),
    /// The same word everywhere.
    All(u32, u32),
    /// Nothing was written to it.
    Unwritten(u32),
    /// It was written and freed.
    Freed(u32),
    Null,
    Word(u32),
}

pub struct Case {
    pub file: &'static str,
    pub kernel: &'static str,
    pub grid: u32,
    pub block: u32,
    pub dynamic_shared: u32,
    pub arguments: &'static [Argument],
    pub expected: Option<FaultKind>,
    /// What the last buffer of the arguments holds, by index.
    pub gives: Option<fn(u32) -> u32>,
}

impl Case {
    fn with_shared(mut self, bytes: u32) -> Case {
        self.dynamic_shared = bytes;
        self
    }
    fn fails(mut self, kind: FaultKind) -> Case {
        self.expected = Some(kind);
        self
    }
    fn gives(mut self, word: fn(u32) -> u32) -> Case {
        self.gives = Some(word);
        self
    }
}

fn case(
    file: &'static str,
    kernel: &'static str,
    grid: u32,
    block: u32,
    arguments: &'static [Argument],
) -> Case {
    Case { file, kernel, grid, block, dynamic_shared: 0, arguments, expected: None, gives: None }
}

use Argument::*;
use FaultKind::{Divergence, InvalidLaunch, Misaligned, OutOfBounds, Race, Timeout, Trap, Uninitialised};

#[rustfmt::skip]
pub fn memory() -> Vec<Case> {
    let case = |kernel, grid, block, arguments| case("memory", kernel, grid, block, arguments);
    vec![
        case("load_past_end", 1, 64, &[Counting(64), Unwritten(64)]).fails(OutOfBounds),
        case("load_past_end_fixed", 1, 64, &[Counting(64), Unwritten(64)]).gives(|i| (i + 1) % 64),
        case("load_before_start", 1, 64, &[Counting(64), Unwritten(64)]).fails(OutOfBounds),
        case("load_before_start_fixed", 1, 64, &[Counting(64), Unwritten(64)]).gives(|i| i.saturating_sub(1)),
        case("store_past_end", 2, 64, &[Unwritten(100), Word(100)]).fails(OutOfBounds),
        case("store_past_end_fixed", 2, 64, &[Unwritten(100), Word(100)]).gives(|i| 100 - i),
        case("doubled", 1, 64, &[Counting(64), Unwritten(64)]).gives(|i| i * 2),
        case("doubled", 1, 64, &[Freed(64), Unwritten(64)]).fails(OutOfBounds),
        case("doubled", 1, 64, &[Null, Unwritten(64)]).fails(OutOfBounds),
        case("doubled", 1, 64, &[Unwritten(64), Unwritten(64)]).fails(Uninitialised),
        case("vector_load", 1, 8, &[Counting(64), Unwritten(8), Word(1)]).fails(Misaligned),
        case("vector_load", 1, 8, &[Counting(64), Unwritten(8), Word(4)]).gives(|i| 16 * i + 22),
        case("static_shared_overflow", 1, 64, &[Unwritten(64)]).fails(OutOfBounds),
        case("static_shared_overflow_fixed", 1, 64, &[Unwritten(64)]).gives(|i| i.saturating_sub(1) + 100),
        case("dynamic_shared", 1, 64, &[Unwritten(64)]).with_shared(63 * 4).fails(OutOfBounds),
        case("dynamic_shared", 1, 64, &[Unwritten(64)]).with_shared(64 * 4).gives(|i| 63 - i),
        case("local_array", 1, 64, &[Counting(64), Unwritten(64), Word(9)]).fails(OutOfBounds),
        case("local_array", 1, 64, &[Counting(64), Unwritten(64), Word(8)]).gives(|i| i % 8),
        case("unwritten_local", 1, 64, &[Counting(64), Unwritten(64), Word(7)]).fails(Uninitialised),
        case("unwritten_local", 1, 64, &[Counting(64), Unwritten(64), Word(8)]).gives(|i| i % 8),
        case("unwritten_shared", 1, 64, &[Unwritten(64)]).fails(Uninitialised),
        case("unwritten_shared_fixed", 1, 64, &[Unwritten(64)]).gives(|i| if i % 2 == 0 { i } else { 0 }),
        case("unwritten_register", 1, 32, &[Unwritten(32)]).fails(Uninitialised),
        case("unwritten_register_fixed", 1, 32, &[Unwritten(32)]).gives(|i| i + 7),
        case("unwritten_shuffle", 1, 32, &[Counting(32), Unwritten(32)]).fails(Uninitialised),
        case("unwritten_shuffle_fixed", 1, 32, &[Counting(32), Unwritten(32)]).gives(|i| i % 16),
    ]
}

#[rustfmt::skip]
pub fn races() -> Vec<Case> {
    let case = |kernel, grid, block, arguments| case("races", kernel, grid, block, arguments);
    vec![
        case("missing_barrier", 1, 64, &[Unwritten(64)]).fails(Race),
        case("missing_barrier_fixed", 1, 64, &[Unwritten(64)]).gives(|i| (i + 32) % 64),
        case("missing_second_barrier", 1, 64, &[Counting(640), Unwritten(64), Word(10)]).fails(Race),
        // With one step there is no next one to race with.
        case("missing_second_barrier", 1, 64, &[Counting(64), Unwritten(64), Word(1)]).gives(|i| (i + 32) % 64),
        case("missing_second_barrier_fixed", 1, 64, &[Counting(640), Unwritten(64), Word(10)]).gives(|i| 64 * 45 + 10 * ((i + 32) % 64)),
        case("missing_syncwarp", 1, 32, &[Unwritten(32)]).fails(Race),
        case("missing_syncwarp_fixed", 1, 32, &[Unwritten(32)]).gives(|i| i ^ 1),
        case("blocks_write_both", 2, 32, &[Unwritten(64)]).fails(Race),
        case("blocks_write_both_fixed", 2, 32, &[Unwritten(64)]).gives(|i| i / 32),
        case("blocks_write_and_read", 2, 32, &[Zeros(64), Unwritten(32)]).fails(Race),
        case("blocks_write_and_read_fixed", 2, 32, &[Zeros(64), Unwritten(32)]).gives(|_| 0),
        case("plain_read_of_atomic", 4, 32, &[Zeros(1), Unwritten(4)]).fails(Race),
        case("write_after_arrival", 1, 64, &[Unwritten(32), Word(5000)]).fails(Race),
        case("write_after_arrival_fixed", 1, 64, &[Unwritten(32), Word(5000)]).gives(|i| i),
        case("count_too_early", 1, 64, &[Unwritten(64)]).fails(Race),
        case("count_too_early_fixed", 1, 64, &[Unwritten(64)]).gives(|_| 64),
        case("sum_of_blocks_too_early", 2, 32, &[Zeros(1), Unwritten(64)]).fails(Race),
        case("sum_of_blocks_too_early_fixed", 2, 32, &[Zeros(2), Unwritten(64)]).gives(|_| 32),
        case("plain_read_of_atomic_fixed", 4, 32, &[Zeros(1), Unwritten(4)]).gives(|_| 1),
    ]
}

#[rustfmt::skip]
pub fn barriers() -> Vec<Case> {
    let case = |kernel, block| case("barriers", kernel, 1, block, if block == 64 { &[Unwritten(64)] } else { &[Unwritten(32)] });
    vec![
        case("skipped_barrier", 64).fails(Divergence),
        case("skipped_barrier_fixed", 64).gives(|i| i),
        case("half_warp_at_barrier", 32).fails(Divergence),
        case("half_warp_at_barrier_fixed", 32).gives(|i| i),
        case("shuffle_without_the_rest", 32).fails(Divergence),
        case("shuffle_without_the_rest_fixed", 32).gives(|i| if i < 16 { i + (i ^ 1) } else { i }),
        case("shuffle_from_elsewhere", 32).fails(Divergence),
        case("shuffle_from_elsewhere_fixed", 32).gives(|i| i + (i ^ 16)),
        case("half_of_named_barrier", 64).fails(Divergence),
        case("half_of_named_barrier_fixed", 64).gives(|i| i),
    ]
}

#[rustfmt::skip]
pub fn endings() -> Vec<Case> {
    let case = |kernel, grid, block, arguments| case("endings", kernel, grid, block, arguments);
    vec![
        case("much_shared", 1, 64, &[Unwritten(64)]).with_shared(100 << 10).fails(InvalidLaunch),
        case("much_shared", 1, 64, &[Unwritten(64)]).with_shared(32 << 10).gives(|i| 63 - i),
        case("many_threads", 1, 1056, &[Unwritten(1056)]).fails(InvalidLaunch),
        case("many_threads", 1, 1024, &[Unwritten(1024)]).gives(|i| i),
        case("many_threads", 1, 0, &[Unwritten(1024)]).fails(InvalidLaunch),
        case("many_threads", 0, 32, &[Unwritten(1024)]).fails(InvalidLaunch),
        case("bounded_threads", 1, 128, &[Unwritten(128)]).fails(InvalidLaunch),
        case("bounded_threads", 1, 64, &[Unwritten(64)]).gives(|i| i),
        case("endless_loop", 1, 32, &[Zeros(1), Unwritten(32)]).fails(Timeout),
        case("endless_loop", 1, 32, &[All(1, 1), Unwritten(32)]).gives(|_| 1),
        case("traps", 1, 32, &[Counting(32), Unwritten(32), Word(31)]).fails(Trap),
        case("traps", 1, 32, &[Counting(32), Unwritten(32), Word(32)]).gives(|i| i),
        case("asserts", 1, 32, &[Counting(32), Unwritten(32), Word(31)]).fails(Trap),
        case("asserts", 1, 32, &[Counting(32), Unwritten(32), Word(32)]).gives(|i| i),
    ]
}

#[rustfmt::skip]
pub fn clean() -> Vec<Case> {
    let case = |kernel, grid, block, arguments| case("clean", kernel, grid, block, arguments);
    vec![
        case("histogram", 3, 64, &[Counting(1000), Word(1000), Zeros(16)]).gives(|i| if i < 8 { 63 } else { 62 }),
        case("last_block_sums", 5, 64, &[Counting(320), Unwritten(5), Zeros(1), Unwritten(1)]).gives(|_| 319 * 320 / 2),
        case("warp_sums", 1, 32, &[Counting(32), Unwritten(1)]).gives(|_| 31 * 16),
        case("two_buffers", 1, 64, &[Counting(640), Unwritten(64), Word(10)]).gives(|i| 64 * 45 + 10 * (63 - i)),
        case("producer_and_consumer", 1, 64, &[Counting(320), Unwritten(32), Word(10)]).gives(|i| 32 * 45 + 10 * (31 - i)),
        case("neighbours", 1, 64, &[Unwritten(16), Unwritten(32), Unwritten(16)]).gives(|i| 0x0302_0100 + 0x0404_0404 * i),
        case("early_exit", 1, 256, &[All(100, 1), Unwritten(100), Word(100)]).gives(|i| if i < 96 { 32 } else { 4 }),
        case("unequal_loops", 1, 32, &[All(32, 2), Unwritten(32)]).gives(|i| 2 * (32 - i)),
        case("copies_of_four", 1, 64, &[Counting(256), Unwritten(256)]).gives(|i| i + 1),
        case("halves_of_four", 1, 64, &[Unwritten(128), Unwritten(32)]).gives(|i| 4 * i + 1),
        case("part_of_a_warp", 1, 40, &[Unwritten(40)]).gives(|i| (39 - i) + (39 - (i ^ 1))),
        case("last_warp_sums", 1, 256, &[Counting(256), Unwritten(1)]).gives(|_| 255 * 128),
        case("lanes_that_spin", 1, 3, &[Zeros(3), Unwritten(3)]).gives(|i| i),
        case("found_yet", 1, 32, &[Counting(32), Unwritten(32), Word(2)]).gives(|i| if i == 31 { 0 } else { [i, 999, i + 1][i as usize % 3] }),
        case("room_for_all", 1, 32, &[Zeros(1), Unwritten(20)]).gives(|i| i / 3 * 5 + i % 3),
        case("low_byte", 1, 32, &[Counting(192), Unwritten(64)]).gives(|i| {
            let low = 128 + (i & !1);
            let value = u64::from(low + 1) << 32 | u64::from(low);
            (value.wrapping_add(low as i8 as u64) >> (i % 2 * 32)) as u32
        }),
        case("votes", 1, 64, &[Unwritten(64)]).gives(|_| 22 + 1 + 1 + 8),
    ]
}
