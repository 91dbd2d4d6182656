//! The card's dropout: `kernels/dropout.cu`.

use super::{Dropout, Mask, Site};
use crate::device::cuda::memory::Buffer;
use crate::device::work::Work;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, Worker, launch, of_element};

impl Dropout for Worker {
    /// Seed, step and keep rate are a run's own, so a card reads them from the header; of the mask it takes the site and the
    /// pass.
    fn dropout(&mut self, layout: &Indices, mask: &Mask, site: Site, values: &mut Buffer) {
        let from = *values;
        self.dropout_copy(layout, mask, site, &from, values);
    }

    fn dropout_copy(&mut self, layout: &Indices, mask: &Mask, site: Site, from: &Buffer, to: &mut Buffer) {
        let by_sample = site == Site::Classifier;
        let rows = if by_sample { layout.capacity.samples } else { layout.capacity.rows };
        let (shape, run_stride) = (self.quads(rows, 1), self.places.run_stride);
        let (width, element) = (2 * self.d, from.element.bytes());
        let work =
            move |n: &Counts| Work::moving(2 * if by_sample { n.samples } else { n.rows } * width * element);
        // SAFETY: both are [R, 2d], or [S, 2d] at the classifier.
        unsafe {
            launch!(
                self,
                of_element(["dropout", "dropout_f16"], *from),
                shape,
                work,
                to.address,
                from.address,
                layout.target.address,
                layout.offset.address,
                layout.owner.address,
                layout.header.address,
                mask.word(site),
                u32::from(by_sample),
                2 * self.d as u32,
                run_stride,
            )
        }
    }
}
