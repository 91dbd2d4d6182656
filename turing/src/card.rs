//! What an RTX 2080 Ti (TU102, sm_75) can do. Every constant of the model is here, with its source; docs/turing.md tells
//! which of them a real card should be asked first.

/// Multiprocessors, and sub-cores of each, which issue one warp instruction a cycle.
pub const MULTIPROCESSORS: f64 = 68.0;
pub const SUB_CORES: f64 = 4.0;

/// Cycles a second: the boost clock of the reference card (data sheet). Cards under load run from 1.4 to 1.9 GHz.
pub const CLOCK: f64 = 1.545e9;

/// Bytes a second of DRAM: 352 bits at 14 Gbit/s (data sheet) ..
pub const DRAM_PEAK: f64 = 616e9;
/// .. and the share of it that streaming kernels get. Assumed: copies reach 80 to 90% on cards of the time.
pub const DRAM_SHARE: f64 = 0.85;
pub const DRAM_RATE: f64 = DRAM_PEAK * DRAM_SHARE;

/// L2: bytes, and bytes a second: 22 slices of 64 bytes a cycle, of which Jia et al. (Dissecting the Turing T4, 2019) got 78% on
/// a T4.
pub const L2_BYTES: f64 = 5.5 * 1024.0 * 1024.0;
pub const L2_RATE: f64 = 22.0 * 64.0 * CLOCK * 0.78;

/// What holds the blocks of a multiprocessor (CUDA programming guide, compute capability 7.5).
pub const REGISTERS: u32 = 65_536;
pub const REGISTER_UNIT: u32 = 256;
pub const SHARED_BYTES: u32 = 65_536;
pub const SHARED_UNIT: u32 = 256;
pub const WARPS: u32 = 32;
pub const WARP_UNIT: u32 = 4;
pub const BLOCKS: u32 = 16;

/// Cycles that a warp instruction occupies its pipe of a sub-core.
///
/// HMMA.1688 with float32 sums runs at half rate on GeForce: 512 FLOP a multiprocessor and cycle are measured.
pub const TENSOR_CYCLES: f64 = 16.0;
/// Operations a second: each instruction multiplies 16 by 8 with 8 by 8, and adds.
pub const TENSOR_RATE: f64 = 2.0 * 16.0 * 8.0 * 8.0 / TENSOR_CYCLES * SUB_CORES * MULTIPROCESSORS * CLOCK;
/// FFMA, FADD, FMUL, IMAD: 16 lanes (programming guide: 64 results a cycle and multiprocessor).
pub const FMA_CYCLES: f64 = 2.0;
/// Operations a second: a multiplication and an addition in each of a warp's lanes.
pub const FMA_RATE: f64 = 2.0 * 32.0 / FMA_CYCLES * SUB_CORES * MULTIPROCESSORS * CLOCK;
/// Integers, logic, comparisons, moves: 16 lanes.
pub const ALU_CYCLES: f64 = 2.0;
/// Half precision: 16 lanes of pairs.
pub const HALF_CYCLES: f64 = 2.0;
/// Exponentials, reciprocals and conversions of types (F2F, I2F, F2I): 4 lanes (programming guide: 16 results).
pub const SPECIAL_CYCLES: f64 = 8.0;
/// Double precision: 2 lanes for a whole multiprocessor (programming guide).
pub const DOUBLE_CYCLES: f64 = 16.0;

/// Cycles of a multiprocessor's memory pipe. Shared memory gives 64 bytes a cycle, half of what the banks could: 16 load/store
/// units (Turing white paper); LDS.128 every 8 cycles and LDS.32 every 2 (Yan, Wang and Chu, Demystifying tensor cores, 2020, on
/// an RTX 2070), 59 bytes a cycle (Jia et al.).
pub const WAVEFRONT_CYCLES: f64 = 2.0;
/// A sector of global memory: L1 moves 64 bytes a cycle (Jia et al.).
pub const SECTOR_CYCLES: f64 = 0.5;
pub const SHUFFLE_CYCLES: f64 = 2.0;

/// Cycles until a result may be used. Shared 23, L1 32, L2 236 (measured on an RTX 2070, gpu-arch-microbenchmark; Jia et al.).
pub const SHARED_LATENCY: f64 = 24.0;
pub const L2_LATENCY: f64 = 236.0;
/// More than L2 where DRAM has to answer, without a queue. Jia et al. have 434 to 616 cycles in all.
pub const DRAM_LATENCY: f64 = 220.0;
pub const SPECIAL_LATENCY: f64 = 21.0;
pub const TENSOR_LATENCY: f64 = 24.0;
pub const CONSTANT_LATENCY: f64 = 30.0;
pub const DOUBLE_LATENCY: f64 = 48.0;
/// A barrier of the block that everybody has reached. Assumed.
pub const BARRIER_LATENCY: f64 = 20.0;
/// Until an operand has been read by an instruction that takes its time. Assumed.
pub const READ_LATENCY: f64 = 10.0;

/// Seconds between two launches of a graph that depend on each other. Assumed: 1 to 2 us are usual.
pub const LAUNCH: f64 = 1.5e-6;

/// Blocks of a kernel that a multiprocessor holds at once.
pub fn blocks_at_once(registers: u32, threads: u32, shared: u32) -> u32 {
    let warps = threads.div_ceil(32).max(1);
    let of_a_warp = (registers * 32).next_multiple_of(REGISTER_UNIT).max(REGISTER_UNIT);
    let by_registers = REGISTERS / of_a_warp / WARP_UNIT * WARP_UNIT / warps;
    let by_shared = match shared.next_multiple_of(SHARED_UNIT) {
        0 => BLOCKS,
        shared => SHARED_BYTES / shared,
    };
    by_registers.min(by_shared).min(WARPS / warps).min(BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_data_sheet() {
        // 13.45 TFLOPS in float32; four times that on tensor cores with float32 sums.
        assert!((FMA_RATE / 13.45e12 - 1.0).abs() < 1e-3, "{FMA_RATE:e}");
        assert_eq!(TENSOR_RATE, 4.0 * FMA_RATE);
    }

    #[test]
    fn occupancy_is_what_nvidias_calculator_says() {
        // Registers a thread, threads, shared memory: each line is bound by another thing.
        assert_eq!(blocks_at_once(32, 256, 0), 4); // warps
        assert_eq!(blocks_at_once(151, 128, 0), 3); // registers: 152 x 32 a warp, 13 warps, rounded down to 12
        assert_eq!(blocks_at_once(207, 128, 0), 2);
        assert_eq!(blocks_at_once(32, 32, 0), 16); // blocks
        assert_eq!(blocks_at_once(32, 64, 33 << 10), 1); // shared memory
        assert_eq!(blocks_at_once(255, 512, 0), 0); // does not fit
    }
}
