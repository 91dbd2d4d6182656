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

/// The words of blocks from `counter` on, in order.
#[inline(always)]
fn draw(key: [u32; 2], counter: [u32; 4]) -> [u32; 4 * BLOCKS] {
    let mut drawn = [[0u32; BLOCKS]; 4];
    for b in 0..BLOCKS {
        let [first, rest @ ..] = counter;
        let block = philox4x32([first.wrapping_add(b as u32), rest[0], rest[1], rest[2]], key);
        for w in 0..4 {
            drawn[w][b] = block[w];
        }
    }
    let mut words = [0; 4 * BLOCKS];
    for b in 0..BLOCKS {
        for w in 0..4 {
            words[4 * b + w] = drawn[w][b];
        }
    }
    words
}

impl<R: Real> Kernel<R> for Apply<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        // Rows of whole blocks are one long row: no vector of blocks is drawn for a row's last few.
        let width = if self.width.is_multiple_of(4) { self.values.len().max(1) } else { self.width };
        let blocks = width.div_ceil(4);
        let scale = unsafe { S::splat(self.scale) };
        for (row, values) in self.values.chunks_exact_mut(width).enumerate() {
            for (group, values) in values.chunks_mut(4 * BLOCKS).enumerate() {
                let first = (row * blocks + group * BLOCKS) as u32;
                let words = draw(self.key, [first, self.target, self.step, self.word]);
                vectors!(S, values.len(), |j, count| unsafe {
                    let at = values.as_mut_ptr().add(j);
                    let scaled = S::mul(S::load_first(at, count), scale);
                    // `j` is a whole number of vectors below the group's end: so many words lie behind it.
                    S::store_first(at, S::keep_below(scaled, words.as_ptr().add(j), self.threshold), count);
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
