//! The card's perturbation: `kernels/adversarial.cu`, and the products with the Gram matrices.

use super::{Adversarial, AdversarialNorm, Perturbation};
use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::Buffer;
use crate::device::cuda::product::{Extent, Product};
use crate::device::work::{Unit, Work};
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, WORD, Worker, launch, of_element};

impl Worker {
    /// The sum of the squared norms, which [`Adversarial::perturb`] takes as `batch` `[1]`, float64.
    pub fn batch_norm(&mut self, layout: &Indices, squared_norm: Buffer, batch: Buffer) {
        let shape = Shape { grid: [1, 1, self.places.runs], block: 256, shared: 0 };
        let run_stride = self.places.run_stride;
        let work = |n: &Counts| Work::moving(8 * n.samples);
        // SAFETY: the norms are [S] of float64.
        unsafe {
            launch!(
                self,
                "batch_norm",
                shape,
                work,
                batch.address,
                squared_norm.address,
                layout.header.address,
                run_stride,
            )
        }
    }
}

impl Adversarial for Worker {
    fn feature_norms(
        &mut self,
        layout: &Indices,
        (): &(),
        d_history: &Buffer,
        d_target: &Buffer,
        perturbation: &mut Perturbation<Buffer, Buffer>,
    ) {
        let (d, capacity) = (self.d, layout.capacity);
        let Perturbation { history, target, history_scale, target_scale, squared_norm } = *perturbation;
        let history_gram = self.by_rows(self.places.folded.history_gram);
        for (n, extent, rows, delta, gram, to) in [
            (d, Extent::Rows, capacity.rows, *d_history, history_gram, history),
            (2 * d, Extent::Samples, capacity.samples, *d_target, self.places.folded.target_gram, target),
        ] {
            self.product_nn(
                layout,
                Product::new((rows, n, n), (delta, n), (gram, n), (to, n)).extent(extent),
            );
        }
        let shape = Shape { grid: [capacity.samples as u32, 1, self.places.runs], block: 128, shared: 0 };
        let (run_stride, activation) = (self.places.run_stride, self.activation());
        let work = move |n: &Counts| {
            let (by_row, by_sample) = (n.rows * d, 2 * n.samples * d);
            Work::moving(2 * (by_row * activation + by_sample * WORD))
                .flops(2.0 * (by_row + by_sample) as f64, Unit::Fma)
        };
        // SAFETY: gradients and their products are [R, d] and [S, 2d], scales [R] and [S], norms [S] of float64.
        unsafe {
            launch!(
                self,
                of_element(["feature_norms", "feature_norms_f16"], history),
                shape,
                work,
                history_scale.address,
                target_scale.address,
                squared_norm.address,
                history.address,
                target.address,
                d_history.address,
                d_target.address,
                layout.own.address,
                layout.offset.address,
                layout.header.address,
                d as u32,
                run_stride,
            )
        }
    }

    /// A run's `epsilon` is in its header, which repeats the argument.
    fn perturb(
        &mut self,
        layout: &Indices,
        norm: AdversarialNorm,
        _epsilon: f64,
        batch: &Buffer,
        perturbation: &mut Perturbation<Buffer, Buffer>,
    ) {
        let Perturbation { history, target, history_scale, target_scale, squared_norm } = *perturbation;
        let mode = match norm {
            AdversarialNorm::Sample => 0u32,
            AdversarialNorm::Utterance => 1,
            AdversarialNorm::Batch => 2,
        };
        let most = layout.capacity.rows.max(layout.capacity.samples) as u32;
        let shape = Shape { grid: [most.div_ceil(32), 2, self.places.runs], block: 256, shared: 0 };
        let (run_stride, activation) = (self.places.run_stride, self.activation());
        let d = self.d;
        let work = move |n: &Counts| Work::moving(2 * (n.rows * d * activation + 2 * n.samples * d * WORD));
        // SAFETY: as in `feature_norms`.
        unsafe {
            launch!(
                self,
                of_element(["perturb", "perturb_f16"], history),
                shape,
                work,
                history.address,
                target.address,
                history_scale.address,
                target_scale.address,
                squared_norm.address,
                batch.address,
                layout.sample.address,
                layout.header.address,
                mode,
                self.d as u32,
                run_stride,
            )
        }
    }
}
