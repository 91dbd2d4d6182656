//! The card's readout: `kernels/readout.cu`, and the products with W_V.

use super::{Saved, Scratch};
use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::Buffer;
use crate::device::cuda::product::{Epilogue, Extent, Product};
use crate::device::work::{Unit, Work};
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, WORD, Worker, launch, of_element};

/// Bytes of shared memory of `readout` and `readout_backward`, as `kernels/readout.cu` says.
pub(in crate::ops) fn shared_memory(d: usize, longest: usize) -> (usize, usize) {
    let width = (2 * d).next_multiple_of(4);
    let partial = 8 * longest.max(width);
    (4 * (width + partial + 3 * longest), 4 * (2 * width + partial + 6 * longest))
}

/// The least that `readout` and `readout_backward` do: G and P come in, and back their gradients go out.
fn work(n: &Counts, width: usize, activation: usize, backward: bool) -> Work {
    let Counts { samples, rows, pairs, .. } = *n;
    let (passes, states) = if backward { (2, 3) } else { (1, 2) };
    let moved = passes * (rows * width + pairs) * activation + (states * samples * width + 3 * rows) * WORD;
    // Two sums with the rows and two with the pairs; back two more of each, and two outer products.
    let each = if backward { 8.0 } else { 4.0 };
    Work::moving(moved).flops(each * (rows * width + pairs) as f64, Unit::Fma)
}

impl Worker {
    /// `[S, 2d]` times a stack's W_V `[out, in]`.
    fn by_value(&self, layout: &Indices, stack: usize, from: Buffer, to: Buffer) -> Product {
        let width = 2 * self.d;
        let value = (self.parameter(self.layout.context[stack].value), width);
        let size = (layout.capacity.samples, width, width);
        Product::new(size, (from, width), value, (to, width)).extent(Extent::Samples)
    }

    /// Adds `a^T b` over the samples to the gradient of a stack's W_V.
    fn value_gradient(&mut self, layout: &Indices, stack: usize, a: Buffer, b: Buffer) {
        let width = 2 * self.d;
        let to = (self.gradient(self.layout.context[stack].value), width);
        let size = (width, width, layout.capacity.samples);
        self.sum_products(layout, Product::new(size, (a, width), (b, width), to).extent(Extent::Samples));
    }

    fn by_sample(&self, layout: &Indices, shared: usize) -> Shape {
        Shape {
            grid: [layout.capacity.samples as u32, 1, self.places.runs],
            block: 256,
            shared: shared as u32,
        }
    }

    /// `w = W_V q`, what G is multiplied with.
    pub(in crate::ops) fn readout_weights(
        &mut self,
        layout: &Indices,
        stack: usize,
        q: &Buffer,
        saved: &mut Saved<Buffer>,
    ) {
        let product = self.by_value(layout, stack, *q, saved.w);
        self.product_nn(layout, product);
    }

    /// From `w` to `e`.
    pub(in crate::ops) fn readout(
        &mut self,
        layout: &Indices,
        probabilities: &Buffer,
        g: &Buffer,
        saved: &mut Saved<Buffer>,
    ) {
        let longest = layout.capacity.longest;
        let shape = self.by_sample(layout, shared_memory(self.d, longest).0);
        let run_stride = self.places.run_stride;
        let (width, activation) = (2 * self.d, self.activation());
        let work = move |n: &Counts| work(n, width, activation, false);
        // SAFETY: rows and states are 2d wide, probabilities n x n for each window.
        unsafe {
            launch!(
                self,
                of_element(["readout", "readout_f16"], *g),
                shape,
                work,
                saved.e.address,
                saved.y.address,
                saved.a.address,
                saved.p.address,
                saved.w.address,
                g.address,
                probabilities.address,
                layout.pairs.address,
                layout.offset.address,
                layout.header.address,
                2 * self.d as u32,
                longest as u32,
                run_stride,
            )
        }
    }

    /// `next = tanh(q + W_V^T e)`
    pub(in crate::ops) fn readout_state(
        &mut self,
        layout: &Indices,
        stack: usize,
        q: &Buffer,
        saved: &Saved<Buffer>,
        next: &mut Buffer,
    ) {
        let mut product = self.by_value(layout, stack, saved.e, *next).epilogue(Epilogue::TanhOfSum);
        product.addend = q.address;
        self.product_nt(layout, product);
    }

    /// `d_q` from the gradient at `next` to that at `q + c`, which is that of both, and `d_e`.
    pub(in crate::ops) fn readout_state_backward(
        &mut self,
        layout: &Indices,
        stack: usize,
        next: &Buffer,
        saved: &Saved<Buffer>,
        scratch: &mut Scratch<Buffer>,
        d_q: &mut Buffer,
    ) {
        let (shape, run_stride) = (self.quads(layout.capacity.samples, 1), self.places.run_stride);
        let width = 2 * self.d;
        let through = move |n: &Counts| Work::moving(3 * n.samples * width * WORD);
        // SAFETY: both are [S, 2d].
        unsafe {
            launch!(
                self,
                "tanh_backward",
                shape,
                through,
                d_q.address,
                next.address,
                layout.header.address,
                2 * self.d as u32,
                run_stride,
            )
        }
        let product = self.by_value(layout, stack, *d_q, scratch.d_e);
        self.product_nn(layout, product);
        self.value_gradient(layout, stack, *d_q, saved.e);
    }

    /// From `d_e` to `d_w`; `d_probabilities` and `d_g` are overwritten.
    #[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
    pub(in crate::ops) fn readout_backward(
        &mut self,
        layout: &Indices,
        probabilities: &Buffer,
        g: &Buffer,
        saved: &Saved<Buffer>,
        scratch: &mut Scratch<Buffer>,
        d_probabilities: &mut Buffer,
        d_g: &mut Buffer,
    ) {
        let longest = layout.capacity.longest;
        let shape = self.by_sample(layout, shared_memory(self.d, longest).1);
        let run_stride = self.places.run_stride;
        let (width, activation) = (2 * self.d, self.activation());
        let work = move |n: &Counts| work(n, width, activation, true);
        // SAFETY: as in `readout`.
        unsafe {
            launch!(
                self,
                of_element(["readout_backward", "readout_backward_f16"], *g),
                shape,
                work,
                d_probabilities.address,
                d_g.address,
                scratch.d_w.address,
                scratch.d_e.address,
                saved.y.address,
                saved.a.address,
                saved.p.address,
                saved.w.address,
                g.address,
                probabilities.address,
                layout.pairs.address,
                layout.offset.address,
                layout.header.address,
                2 * self.d as u32,
                longest as u32,
                run_stride,
            )
        }
    }

    /// From `d_w` to what it adds to `d_q`.
    pub(in crate::ops) fn readout_weights_backward(
        &mut self,
        layout: &Indices,
        stack: usize,
        q: &Buffer,
        scratch: &Scratch<Buffer>,
        d_q: &mut Buffer,
    ) {
        self.value_gradient(layout, stack, *q, scratch.d_w);
        let product = self.by_value(layout, stack, scratch.d_w, *d_q).accumulate();
        self.product_nt(layout, product);
    }
}
