//! The CPU's readout.

use super::{Saved, Scratch};
use crate::data::batch::Shard;
use crate::device::cpu::elementary;
use crate::device::cpu::gemm::{Right, Start, View};
use crate::device::cpu::simd::{Kernel, Real, Simd};
use crate::ops::Backend;
use crate::ops::attention::{Softmax, SoftmaxBackward};
use crate::ops::cpu::{Gradients, Weights, Worker, dots, product, vectors};
use crate::ops::part::Part;

/// `to = tanh(to + q)`
struct AddTanh<'a, R> {
    q: &'a [R],
    to: &'a mut [R],
}

impl<R: Real> Kernel<R> for AddTanh<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        vectors!(S, self.to.len(), |j, count| unsafe {
            let at = self.to.as_mut_ptr().add(j);
            let sum = S::add(S::load_first(at, count), S::load_first(self.q.as_ptr().add(j), count));
            S::store_first(at, elementary::tanh::<S>(sum), count);
        });
    }
}

/// `d *= 1 - tanh^2`
struct TanhBackward<'a, R> {
    next: &'a [R],
    d: &'a mut [R],
}

impl<R: Real> Kernel<R> for TanhBackward<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        vectors!(S, self.d.len(), |j, count| unsafe {
            let at = self.d.as_mut_ptr().add(j);
            let next = S::load_first(self.next.as_ptr().add(j), count);
            let slope = S::sub(S::splat(R::ONE), S::mul(next, next));
            S::store_first(at, S::mul(S::load_first(at, count), slope), count);
        });
    }
}

impl<R: Real> Worker<R> {
    /// `q` `[S, 2d]` to `next` `[S, 2d]`.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    pub(in crate::ops) fn readout(
        &mut self,
        layout: &Shard,
        stack: usize,
        weights: &Weights<R>,
        probabilities: &[R],
        g: &[R],
        q: &[R],
        saved: &mut Saved<Vec<R>>,
        next: &mut [R],
    ) {
        let width = 2 * self.d;
        let samples = layout.samples();
        let value = &weights.context[stack].value;
        let back = Right::Panels(&value.backward);
        product((samples, width, width), View::rows(q, width), back, &mut saved.w, Start::Zero);
        for s in 0..samples {
            let rows = layout.range(s);
            let n = rows.len();
            let e = &mut saved.e[s * width..][..width];
            if n == 0 {
                e.fill(R::ZERO);
                continue;
            }
            let block = &probabilities[layout.pairs(s)];
            let g = &g[rows.start * width..rows.end * width];
            dots(g, width, &saved.w[s * width..], &mut saved.y[rows.clone()]);
            let a = &mut saved.a[rows.clone()];
            dots(block, n, &saved.y[rows.clone()], a);
            R::dispatch(Softmax { rows: a, width: n, scale: R::ONE });
            let p = &mut saved.p[rows.clone()];
            product((1, n, n), View::rows(&saved.a[rows.clone()], n), Right::Rows(block, n), p, Start::Zero);
            product((1, n, width), View::rows(p, n), Right::Rows(g, width), e, Start::Zero);
        }
        let forward = Right::Panels(&value.forward);
        product((samples, width, width), View::rows(&saved.e, width), forward, next, Start::Zero);
        R::dispatch(AddTanh { q: &q[..samples * width], to: &mut next[..samples * width] });
    }

    /// `d_q` enters as the gradient at `next` and leaves as the gradient at `q`; `d_probabilities` and `d_g` are
    /// overwritten.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    pub(in crate::ops) fn readout_backward(
        &mut self,
        layout: &Shard,
        stack: usize,
        weights: &Weights<R>,
        probabilities: &[R],
        g: &[R],
        q: &[R],
        next: &[R],
        saved: &Saved<Vec<R>>,
        scratch: &mut Scratch<Vec<R>>,
        d_q: &mut [R],
        d_probabilities: &mut [R],
        d_g: &mut [R],
        gradients: &mut Gradients<R>,
    ) {
        let width = 2 * self.d;
        let samples = layout.samples();
        let value = &weights.context[stack].value;
        // What arrives at q + c: the gradient of both q and c.
        R::dispatch(TanhBackward { next: &next[..samples * width], d: &mut d_q[..samples * width] });
        let back = Right::Panels(&value.backward);
        product((samples, width, width), View::rows(d_q, width), back, &mut scratch.d_e, Start::Zero);
        // dW_V through c, [out, in]: dc^T e.
        let part = self.enter(Part::WeightGradients);
        let d_value = gradients.of(self.layout.context[stack].value);
        let (a, b) = (View::transposed(d_q, width), Right::Rows(&saved.e, width));
        product((width, samples, width), a, b, d_value, Start::Add);
        self.enter(part);
        for s in 0..samples {
            let rows = layout.range(s);
            let n = rows.len();
            let d_w = &mut scratch.d_w[s * width..][..width];
            if n == 0 {
                d_w.fill(R::ZERO);
                continue;
            }
            let block = &probabilities[layout.pairs(s)];
            let g = &g[rows.start * width..rows.end * width];
            let (a, y, p) = (&saved.a[rows.clone()], &saved.y[rows.clone()], &saved.p[rows.clone()]);
            let d_e = &scratch.d_e[s * width..][..width];
            let (d_p, rest) = self.scratch.split_at_mut(2 * n);
            // [dp; db], the left factors' partners below.
            let (d_p, d_b) = d_p.split_at_mut(n);
            dots(g, width, d_e, d_p);
            dots(block, n, d_p, d_b);
            R::dispatch(SoftmaxBackward { probabilities: a, d: d_b, width: n, scale: R::ONE });
            let d_block = &mut d_probabilities[layout.pairs(s)];
            product((n, 1, n), View::transposed(a, n), Right::Rows(d_p, n), d_block, Start::Zero);
            product((n, 1, n), View::transposed(d_b, n), Right::Rows(y, n), d_block, Start::Add);
            let d_y = &mut rest[..n];
            product((1, n, n), View::rows(d_b, n), Right::Rows(block, n), d_y, Start::Zero);
            let d_g = &mut d_g[rows.start * width..rows.end * width];
            product((n, 1, width), View::transposed(p, n), Right::Rows(d_e, width), d_g, Start::Zero);
            let w = &saved.w[s * width..][..width];
            product((n, 1, width), View::transposed(d_y, n), Right::Rows(w, width), d_g, Start::Add);
            product((1, n, width), View::rows(d_y, n), Right::Rows(g, width), d_w, Start::Zero);
        }
        // dW_V through w = q W_V, [out, in]: q^T dw.
        let part = self.enter(Part::WeightGradients);
        let d_value = gradients.of(self.layout.context[stack].value);
        let (a, b) = (View::transposed(q, width), Right::Rows(&scratch.d_w, width));
        product((width, samples, width), a, b, d_value, Start::Add);
        self.enter(part);
        let forward = Right::Panels(&value.forward);
        product((samples, width, width), View::rows(&scratch.d_w, width), forward, d_q, Start::Add);
    }
}
