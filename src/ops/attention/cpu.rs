//! The CPU's attention.

use super::{Attention, FromNext, Saved, Scratch};
use crate::data::batch::Shard;
use crate::device::cpu::elementary;
use crate::device::cpu::gemm::{Right, Start, View};
use crate::device::cpu::simd::{Kernel, Real, Simd};
use crate::ops::Backend;
use crate::ops::cpu::{Gradients, Weights, Worker, add, product, sum_lanes, vectors};
use crate::ops::dropout::{Dropout, Mask, Site};
use crate::ops::part::Part;

/// `softmax(scale * row)` of every row, in place; a sum of one, whatever the magnitudes: no
/// probability is 0, as exp is held above it.
pub(in crate::ops) struct Softmax<'a, R> {
    pub rows: &'a mut [R],
    pub width: usize,
    pub scale: R,
}

impl<R: Real> Kernel<R> for Softmax<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        for row in self.rows.chunks_exact_mut(self.width) {
            unsafe {
                let largest = row.iter().fold(row[0], |most, &x| if x > most { x } else { most });
                let shift = S::splat(largest);
                let scale = S::splat(self.scale);
                let mut sum = R::ZERO;
                let at = row.as_mut_ptr();
                vectors!(S, row.len(), |j, count| {
                    let x = S::mul(S::sub(S::load_first(at.add(j), count), shift), scale);
                    S::store_first(at.add(j), elementary::exp::<S>(x), count);
                    // Lanes past the row's end are not stored, and load as zeros.
                    sum += sum_lanes::<S>(S::load_first(at.add(j), count));
                });
                let inverse = S::splat(R::ONE / sum);
                vectors!(S, row.len(), |j, count| {
                    S::store_first(at.add(j), S::mul(S::load_first(at.add(j), count), inverse), count);
                });
            }
        }
    }
}

/// Through [`Softmax`]: `d = scale * p * (d - p . d)` of every row, in place.
pub(in crate::ops) struct SoftmaxBackward<'a, R> {
    pub probabilities: &'a [R],
    pub d: &'a mut [R],
    pub width: usize,
    pub scale: R,
}

impl<R: Real> Kernel<R> for SoftmaxBackward<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        let rows = self.probabilities.chunks_exact(self.width).zip(self.d.chunks_exact_mut(self.width));
        for (p, d) in rows {
            unsafe {
                let mut dot = S::splat(R::ZERO);
                vectors!(S, self.width, |j, count| {
                    let p = S::load_first(p.as_ptr().add(j), count);
                    dot = S::mul_add(p, S::load_first(d.as_ptr().add(j), count), dot);
                });
                let dot = S::splat(sum_lanes::<S>(dot));
                let scale = S::splat(self.scale);
                vectors!(S, self.width, |j, count| {
                    let p = S::mul(S::load_first(p.as_ptr().add(j), count), scale);
                    let at = d.as_mut_ptr().add(j);
                    S::store_first(at, S::mul(p, S::sub(S::load_first(at, count), dot)), count);
                });
            }
        }
    }
}

impl<R: Real> Worker<R> {
    /// `1 / sqrt(d)`
    fn attention_scale(&self) -> R {
        R::from_f64(1.0 / (self.d as f64).sqrt())
    }

    /// Back through `attended = P G`: adds to `d_probabilities` and `d_g`.
    fn attend_backward(
        &mut self,
        layout: &Shard,
        probabilities: &[R],
        g: &[R],
        d_attended: &[R],
        d_probabilities: &mut [R],
        d_g: &mut [R],
    ) {
        let width = 2 * self.d;
        for s in 0..layout.samples() {
            let rows = layout.range(s);
            let n = rows.len();
            let (from, to) = (rows.start * width, rows.end * width);
            self.panels.pack(View::transposed(&g[from..to], width), width, n);
            let d_rows = &d_attended[from..to];
            let d_block = &mut d_probabilities[layout.pairs(s)];
            let a = View::rows(d_rows, width);
            product((n, width, n), a, Right::Panels(&self.panels), d_block, Start::Add);
            let a = View::transposed(&probabilities[layout.pairs(s)], n);
            product((n, n, width), a, Right::Rows(d_rows, width), &mut d_g[from..to], Start::Add);
        }
    }
}

impl<R: Real> Attention for Worker<R> {
    fn attention(
        &mut self,
        layout: &Shard,
        stack: usize,
        weights: &Weights<R>,
        g: &Vec<R>,
        q: &Vec<R>,
        saved: &mut Saved<Vec<R>>,
        next: &mut Vec<R>,
        attended: Option<&mut Vec<R>>,
    ) {
        let width = 2 * self.d;
        let Saved { projected, probabilities, readout } = saved;
        let score = Right::Panels(&weights.context[stack].score.forward);
        product((layout.rows(), width, width), View::rows(g, width), score, projected, Start::Zero);
        for s in 0..layout.samples() {
            let rows = layout.range(s);
            let n = rows.len();
            if n == 0 {
                continue;
            }
            self.panels.pack(View::transposed(&g[rows.start * width..], width), width, n);
            let scores = &mut probabilities[layout.pairs(s)];
            let a = View::rows(&projected[rows.start * width..], width);
            product((n, width, n), a, Right::Panels(&self.panels), scores, Start::Zero);
            R::dispatch(Softmax { rows: scores, width: n, scale: self.attention_scale() });
        }
        let part = self.enter(Part::Readout);
        self.readout(layout, stack, weights, probabilities, g, q, readout, next);
        self.enter(part);
        let Some(attended) = attended else { return };
        for s in 0..layout.samples() {
            let rows = layout.range(s);
            let n = rows.len();
            let (from, to) = (rows.start * width, rows.end * width);
            let a = View::rows(&probabilities[layout.pairs(s)], n);
            product((n, n, width), a, Right::Rows(&g[from..to], width), &mut attended[from..to], Start::Zero);
        }
    }

    fn attention_backward(
        &mut self,
        layout: &Shard,
        stack: usize,
        weights: &Weights<R>,
        mask: &Mask,
        g: &Vec<R>,
        q: &Vec<R>,
        next: &Vec<R>,
        saved: &Saved<Vec<R>>,
        from_next: FromNext<Vec<R>>,
        scratch: &mut Scratch<Vec<R>>,
        d_q: &mut Vec<R>,
        d_g: &mut Vec<R>,
        gradients: &mut Gradients<R>,
    ) {
        let width = 2 * self.d;
        let Saved { projected, probabilities, readout } = saved;
        let Scratch { projected: d_projected, probabilities: d_probabilities, readout: d_readout } = scratch;
        let part = self.enter(Part::ReadoutBackward);
        self.readout_backward(
            layout,
            stack,
            weights,
            probabilities,
            g,
            q,
            next,
            readout,
            d_readout,
            d_q,
            d_probabilities,
            d_g,
            gradients,
        );
        self.enter(part);
        match from_next {
            FromNext::Nothing => {}
            FromNext::Attended(d_attended) => {
                self.attend_backward(layout, probabilities, g, d_attended, d_probabilities, d_g);
            }
            FromNext::States(d_states) => {
                let size = layout.rows() * width;
                add(&mut d_g[..size], &d_states[..size]);
            }
        }
        for s in 0..layout.samples() {
            let rows = layout.range(s);
            let n = rows.len();
            if n == 0 {
                continue;
            }
            let (from, to) = (rows.start * width, rows.end * width);
            let d_scores = &mut d_probabilities[layout.pairs(s)];
            R::dispatch(SoftmaxBackward {
                probabilities: &probabilities[layout.pairs(s)],
                d: d_scores,
                width: n,
                scale: self.attention_scale(),
            });
            let b = Right::Rows(&g[from..to], width);
            product((n, n, width), View::rows(d_scores, n), b, &mut d_projected[from..to], Start::Zero);
            let b = Right::Rows(&projected[from..to], width);
            product((n, n, width), View::transposed(d_scores, n), b, &mut d_g[from..to], Start::Add);
        }
        let rows = layout.rows();
        let score = Right::Panels(&weights.context[stack].score.backward);
        product((rows, width, width), View::rows(d_projected, width), score, d_g, Start::Add);
        // The gradient of `score` [in, out] is G^T d_projected; it waits in the query's place for `projection`.
        let part = self.enter(Part::WeightGradients);
        self.panels.pack(View::rows(d_projected, width), rows, width);
        let to = gradients.of(self.layout.context[stack].query);
        product(
            (width, rows, width),
            View::transposed(g, width),
            Right::Panels(&self.panels),
            to,
            Start::Add,
        );
        self.enter(Part::Dropout);
        self.dropout(layout, mask, Site::Context(stack), d_g);
        self.enter(part);
    }
}
