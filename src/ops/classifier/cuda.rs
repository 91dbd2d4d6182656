//! The card's classifier: `kernels/classifier.cu`.

use super::Classifier;
use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::Buffer;
use crate::device::cuda::product::{Extent, Product};
use crate::device::work::Work;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, WORD, Worker, launch};

impl Worker {
    /// From `logits` `[S, C]` to `loss` `[S]` and, where it is wanted, the gradient of their mean.
    pub fn losses(&mut self, layout: &Indices, logits: Buffer, loss: Buffer, d_logits: Option<Buffer>) {
        let classes = self.layout.sizes.classes as u32;
        let warps = (layout.capacity.samples as u32).div_ceil(8);
        let shape = Shape { grid: [warps, 1, self.places.runs], block: 256, shared: 0 };
        let (run_stride, scale) = (self.places.run_stride, self.loss_scale());
        let read_and_written = 1 + usize::from(d_logits.is_some());
        let d_logits = d_logits.map_or(0, |d_logits| d_logits.address);
        let work =
            move |n: &Counts| Work::moving(n.samples * (8 + read_and_written * classes as usize * WORD));
        // SAFETY: losses are [S] of float64, logits and their gradients [S, C].
        unsafe {
            launch!(
                self,
                "cross_entropy",
                shape,
                work,
                loss.address,
                d_logits,
                logits.address,
                layout.label.address,
                scale,
                layout.header.address,
                classes,
                run_stride,
            )
        }
    }

    /// Adds a batch's losses to `sum` `[1]`, float64, in the samples' order, and counts it in `confusion` `[C, C]`, by true class
    /// and then predicted, where there is one.
    pub fn sum_losses(
        &mut self,
        layout: &Indices,
        loss: Buffer,
        logits: Buffer,
        sum: Buffer,
        confusion: Option<Buffer>,
    ) {
        let classes = self.layout.sizes.classes as u32;
        let shape = Shape { grid: [1, 1, self.places.runs], block: 256, shared: 0 };
        let run_stride = self.places.run_stride;
        let confusion = confusion.map_or(0, |confusion| confusion.address);
        let work = move |n: &Counts| Work::moving(n.samples * (8 + classes as usize * WORD));
        // SAFETY: losses are [S] of float64, logits [S, C], counts [C, C].
        unsafe {
            launch!(
                self,
                "metrics",
                shape,
                work,
                sum.address,
                confusion,
                loss.address,
                logits.address,
                layout.label.address,
                layout.header.address,
                classes,
                run_stride,
            )
        }
    }
}

impl Classifier for Worker {
    fn classify(&mut self, layout: &Indices, (): &(), q: &Buffer, logits: &mut Buffer) {
        let place = self.layout.classifier;
        let product = self.linear(place, layout.capacity.samples, *q, *logits);
        self.product_nt(layout, product.extent(Extent::Samples));
    }

    /// The gradient is divided by the batch's size as the header has it, which `batch` repeats.
    fn cross_entropy(
        &mut self,
        layout: &Indices,
        _batch: usize,
        logits: &Buffer,
        loss: &mut Buffer,
        d_logits: &mut Buffer,
    ) {
        self.losses(layout, *logits, *loss, Some(*d_logits));
    }

    fn classify_backward(
        &mut self,
        layout: &Indices,
        (): &(),
        q: &Buffer,
        d_logits: &Buffer,
        d_q: &mut Buffer,
        (): &mut (),
    ) {
        let (width, classes) = (2 * self.d, self.layout.sizes.classes);
        let samples = layout.capacity.samples;
        let place = self.layout.classifier;
        let d_logits = (*d_logits, classes);
        let weight = (self.parameter(place.weight), width);
        let product = Product::new((samples, width, classes), d_logits, weight, (*d_q, width));
        self.product_nn(layout, product.extent(Extent::Samples));
        let to = (self.gradient(place.weight), width);
        let product = Product::new((classes, width, samples), d_logits, (*q, width), to);
        self.sum_products(layout, product.extent(Extent::Samples).sums(self.gradient(place.bias)));
    }
}
