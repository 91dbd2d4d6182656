//! The CPU's dropout.

#![allow(clippy::needless_range_loop, reason = "lanes and rows are numbered alike in every array")]

use super::{Dropout, Mask, Site};
use crate::data::batch::Shard;
use crate::device::cpu::simd::{Kernel, Real, Simd};
use crate::ops::cpu::{Worker, vectors};
use crate::random::philox4x32;

/// Blocks drawn side by side: as many as fill the widest vectors.
const BLOCKS: usize = 16;

/// Rows of one sample, `width` wide.
struct Apply<'a, R> {
    key: [u32; 2],
    target: u32,
    step: u32,
    word: u32,
    threshold: u32,
    scale: R,
    width: usize,
    values: &'a mut [R],
}

/// Bit 4b + w of the result: whether word w of block `first + b` is below the threshold.
#[inline(always)]
fn kept(key: [u32; 2], counter: [u32; 4], threshold: u32) -> u64 {
    let mut words = [[0u32; BLOCKS]; 4];
    for b in 0..BLOCKS {
        let [first, rest @ ..] = counter;
        let drawn = philox4x32([first.wrapping_add(b as u32), rest[0], rest[1], rest[2]], key);
        for w in 0..4 {
            words[w][b] = drawn[w];
        }
    }
    let mut bits = 0;
    for w in 0..4 {
        let mut mask = 0u64;
        for b in 0..BLOCKS {
            mask |= u64::from(words[w][b] < threshold) << b;
        }
        // Four zeros between neighbours: bit b goes to bit 4b.
        mask = (mask | mask << 24) & 0x0000_00FF_0000_00FF;
        mask = (mask | mask << 12) & 0x000F_000F_000F_000F;
        mask = (mask | mask << 6) & 0x0303_0303_0303_0303;
        mask = (mask | mask << 3) & 0x1111_1111_1111_1111;
        bits |= mask << w;
    }
    bits
}

impl<R: Real> Kernel<R> for Apply<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        let blocks = self.width.div_ceil(4);
        let scale = unsafe { S::splat(self.scale) };
        for (row, values) in self.values.chunks_exact_mut(self.width).enumerate() {
            for (group, values) in values.chunks_mut(4 * BLOCKS).enumerate() {
                let first = (row * blocks + group * BLOCKS) as u32;
                let bits = kept(self.key, [first, self.target, self.step, self.word], self.threshold);
                vectors!(S, values.len(), |j, count| unsafe {
                    let at = values.as_mut_ptr().add(j);
                    let scaled = S::mul(S::load_first(at, count), scale);
                    S::store_first(at, S::keep(scaled, (bits >> j) as u32), count);
                });
            }
        }
    }
}

impl<R: Real> Dropout for Worker<R> {
    fn dropout(&mut self, layout: &Shard, mask: &Mask, site: Site, values: &mut Vec<R>) {
        let Some(threshold) = mask.threshold() else { return };
        let width = 2 * self.d;
        for (s, &target) in layout.target.iter().enumerate() {
            let rows = if site == Site::Classifier { s..s + 1 } else { layout.range(s) };
            R::dispatch(Apply {
                key: mask.key(),
                target,
                step: mask.step as u32,
                word: mask.word(site),
                threshold,
                scale: R::from_f64(1.0 / mask.keep),
                width,
                values: &mut values[rows.start * width..rows.end * width],
            });
        }
    }

    fn dropout_copy(&mut self, layout: &Shard, mask: &Mask, site: Site, from: &Vec<R>, to: &mut Vec<R>) {
        let rows = if site == Site::Classifier { layout.samples() } else { layout.rows() };
        let size = rows * 2 * self.d;
        to[..size].copy_from_slice(&from[..size]);
        self.dropout(layout, mask, site, to);
    }
}
