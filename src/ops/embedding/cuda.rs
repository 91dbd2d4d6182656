//! The card's embedding: `kernels/embedding.cu`, and the D-wide products.

use super::{Correlation, Embedding};
use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::Buffer;
use crate::device::cuda::product::{Extent, Product};
use crate::device::work::Work;
use crate::ops::adversarial::Perturbation;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, WORD, Worker, launch, of_element};
use crate::ops::parameters::Linear;

impl Worker {
    /// Embeds the batch's distinct utterances and its targets: `features` `[N, D]`, a run's own, to `history`
    /// `[distinct, d]` and `target` `[S, 2d]`.
    pub fn embed(&mut self, indices: &Indices, features: Buffer, history: Buffer, target: Buffer) {
        let layout = self.layout.clone();
        let capacity = indices.capacity;
        for (place, extent, rows, index, to) in [
            (layout.history_embedding, Extent::Distinct, capacity.distinct, indices.distinct, history),
            (layout.target_embedding, Extent::Samples, capacity.samples, indices.target, target),
        ] {
            let mut product = self.linear(place, rows, features, to).extent(extent);
            product.side.index = index.address;
            self.product_nt(indices, product);
        }
    }

    /// Standardises `rows` rows of features as read, `raw` `[N, D]` float64, to `features` `[N, D]`; mean and deviation are
    /// `[D]`, float64.
    pub fn standardise(&mut self, rows: usize, raw: u64, mean: u64, deviation: u64, features: Buffer) {
        let width = self.layout.sizes.features as u32;
        let shape = Shape { grid: [rows as u32, 1, 1], block: 256, shared: 0 };
        let work = move |_: &Counts| Work::moving(rows * width as usize * (8 + WORD));
        // SAFETY: as the types above say.
        unsafe { launch!(self, "standardise", shape, work, features.address, raw, mean, deviation, width) }
    }

    /// Sums the gradients at the history's embeddings by utterance: `delta` `[distinct, d]`, of one pass or two.
    pub fn sum_by_utterance(
        &mut self,
        indices: &Indices,
        first: Buffer,
        second: Option<Buffer>,
        delta: Buffer,
    ) {
        let d = self.d as u32;
        let items = indices.capacity.distinct as u32 * d.div_ceil(4);
        let shape = Shape { grid: [items.div_ceil(256), 1, self.places.runs], block: 256, shared: 0 };
        let (run_stride, activation) = (self.places.run_stride, self.activation());
        let second = second.map_or(0, |second| second.address);
        let passes = 1 + usize::from(second != 0);
        let work = move |n: &Counts| {
            let d = d as usize;
            Work::moving(n.rows * passes * d * activation + (n.distinct * d + n.rows + n.distinct) * WORD)
        };
        // SAFETY: gradients are [R, d] role-major, `delta` is [distinct, d].
        unsafe {
            launch!(
                self,
                of_element(["embedding_scatter", "embedding_scatter_f16"], first),
                shape,
                work,
                delta.address,
                first.address,
                second,
                indices.utterance_start.address,
                indices.utterance_rows.address,
                indices.header.address,
                d,
                run_stride,
            )
        }
    }

    /// Adds to the embeddings' weights and biases from the gradients at the embeddings, `delta` `[distinct, d]` and
    /// `d_target` `[S, 2d]`.
    pub fn embedding_gradients(
        &mut self,
        indices: &Indices,
        features: Buffer,
        delta: Buffer,
        d_target: Buffer,
    ) {
        let layout = self.layout.clone();
        let capacity = indices.capacity;
        for (Linear { weight, bias }, extent, rows, index, delta) in [
            (layout.history_embedding, Extent::Distinct, capacity.distinct, indices.distinct, delta),
            (layout.target_embedding, Extent::Samples, capacity.samples, indices.target, d_target),
        ] {
            let (out, width) = (layout.specs[bias].len(), layout.sizes.features);
            let to = (self.gradient(weight), width);
            let mut product =
                Product::new((out, width, rows), (delta, out), (features, width), to).extent(extent);
            product.side.index = index.address;
            self.sum_products(indices, product.sums(self.gradient(bias)));
        }
    }

    /// Adds what flows to the embeddings' weights through the perturbed features, `correlation W`.
    pub fn correlation_gradients(&mut self, indices: &Indices, correlation: &Correlation<Buffer>) {
        let layout = self.layout.clone();
        for (Linear { weight, bias }, correlation) in
            [(layout.history_embedding, correlation.history), (layout.target_embedding, correlation.target)]
        {
            let (out, width) = (layout.specs[bias].len(), layout.sizes.features);
            let (weights, to) = ((self.parameter(weight), width), (self.gradient(weight), width));
            self.product_nn(
                indices,
                Product::new((out, width, out), (correlation, out), weights, to).accumulate().exact(),
            );
        }
    }
}

impl Embedding for Worker {
    fn gather(
        &mut self,
        layout: &Indices,
        history: &Buffer,
        target: &Buffer,
        perturbation: Option<&Perturbation<Buffer, Buffer>>,
        x: &mut Buffer,
        q: &mut Buffer,
    ) {
        let d = self.d as u32;
        let capacity = layout.capacity;
        let items = (capacity.rows as u32 * d.div_ceil(4)).max(capacity.samples as u32 * (2 * d).div_ceil(4));
        let shape = Shape { grid: [items.div_ceil(256), 2, self.places.runs], block: 256, shared: 0 };
        let (run_stride, activation) = (self.places.run_stride, self.activation());
        let (by_row, by_sample) =
            perturbation.map_or((0, 0), |moved| (moved.history.address, moved.target.address));
        let read = 1 + usize::from(by_row != 0);
        let work = move |n: &Counts| {
            let (x, q) = (n.rows * d as usize, 2 * n.samples * d as usize);
            // Each distinct utterance's embedding once, then what is added, and what is written.
            let words = n.distinct * d as usize + q * (read + 1) + n.rows;
            Work::moving(words * WORD + x * read * activation)
        };
        // SAFETY: x and its displacement are [R, d], q and its [S, 2d], the table [distinct, d].
        unsafe {
            launch!(
                self,
                of_element(["embedding_gather", "embedding_gather_f16"], *x),
                shape,
                work,
                x.address,
                q.address,
                history.address,
                target.address,
                by_row,
                by_sample,
                layout.embedded.address,
                layout.header.address,
                d,
                run_stride,
            )
        }
    }

    fn perturbed_features_gradient(
        &mut self,
        layout: &Indices,
        perturbation: &Perturbation<Buffer, Buffer>,
        clean: (&Buffer, &Buffer),
        adversarial: (&Buffer, &Buffer),
        correlation: &mut Correlation<Buffer>,
    ) {
        let capacity = layout.capacity;
        for (n, extent, rows, scale, clean, adversarial, to) in [
            (
                self.d,
                Extent::Rows,
                capacity.rows,
                perturbation.history_scale,
                *clean.0,
                *adversarial.0,
                correlation.history,
            ),
            (
                2 * self.d,
                Extent::Samples,
                capacity.samples,
                perturbation.target_scale,
                *clean.1,
                *adversarial.1,
                correlation.target,
            ),
        ] {
            let mut product =
                Product::new((n, n, rows), (adversarial, n), (clean, n), (to, n)).extent(extent);
            product.scale = scale.address;
            self.sum_products(layout, product);
        }
    }
}
