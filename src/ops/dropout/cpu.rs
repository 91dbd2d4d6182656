//! The CPU's dropout.

use super::{Dropout, Mask, Site};
use crate::data::batch::Shard;
use crate::device::cpu::simd::{Kernel, Real, Simd};
use crate::ops::cpu::Worker;
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

impl<R: Real> Kernel<R> for Apply<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        let blocks = self.width.div_ceil(4);
        for (row, values) in self.values.chunks_exact_mut(self.width).enumerate() {
            for (group, values) in values.chunks_mut(4 * BLOCKS).enumerate() {
                let first = (row * blocks + group * BLOCKS) as u32;
                let mut words = [[0u32; BLOCKS]; 4];
                for i in 0..BLOCKS {
                    let counter = [first.wrapping_add(i as u32), self.target, self.step, self.word];
                    let drawn = philox4x32(counter, self.key);
                    for (words, drawn) in words.iter_mut().zip(drawn) {
                        words[i] = drawn;
                    }
                }
                for (j, value) in values.iter_mut().enumerate() {
                    let kept = words[j % 4][j / 4] < self.threshold;
                    *value = if kept { *value * self.scale } else { R::ZERO };
                }
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
