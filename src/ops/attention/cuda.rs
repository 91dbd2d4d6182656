//! The card's attention: `kernels/attention.cu`, and a product for each window.

use super::Attention;
use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::Buffer;
use crate::device::cuda::product::{Epilogue, Extent, Of, Product};
use crate::device::work::Work;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, Window, Worker, launch, of_element};
use crate::ops::dropout::{Mask, Site};

impl Worker {
    /// `1 / sqrt(d)`
    fn attention_scale(&self) -> f32 {
        (1.0 / (self.d as f64).sqrt()) as f32
    }

    /// A warp for each row, in blocks of 256 threads.
    fn warps(&self, rows: usize) -> Shape {
        Shape { grid: [(rows as u32).div_ceil(8), 1, self.places.runs], block: 256, shared: 0 }
    }
}

impl Attention for Worker {
    fn attention(
        &mut self,
        layout: &Indices,
        stack: usize,
        (): &(),
        g: &Buffer,
        projected: &mut Buffer,
        probabilities: &mut Buffer,
    ) {
        let width = 2 * self.d;
        let rows = layout.capacity.rows;
        let score = (self.by_rows(self.places.folded.score[stack]), width);
        let product = Product::new((rows, width, width), (*g, width), score, (*projected, width));
        self.product_nn(layout, product.extent(Extent::Rows));
        let (scores, rows_of) = ((*probabilities, Of::Pairs), (*g, Of::Rows));
        self.window(Window::Nt, layout, (*projected, Of::Rows), rows_of, scores, false);
        let (shape, scale, run_stride) = (self.warps(rows), self.attention_scale(), self.places.run_stride);
        let activation = self.activation();
        let work = |n: &Counts| Work::moving(2 * n.pairs * activation);
        // SAFETY: the probabilities are n x n for each window.
        unsafe {
            launch!(
                self,
                of_element(["softmax_rows", "softmax_rows_f16"], *probabilities),
                shape,
                work,
                probabilities.address,
                layout.pairs.address,
                layout.offset.address,
                layout.owner.address,
                layout.header.address,
                scale,
                run_stride,
            )
        }
    }

    fn attend(&mut self, layout: &Indices, probabilities: &Buffer, g: &Buffer, attended: &mut Buffer) {
        let (p, g, to) = ((*probabilities, Of::Pairs), (*g, Of::Rows), (*attended, Of::Rows));
        self.window(Window::Nn, layout, p, g, to, false);
    }

    fn add_rows(&mut self, layout: &Indices, from: &Buffer, to: &mut Buffer) {
        let width = 2 * self.d;
        let fours = (layout.capacity.rows * width).div_ceil(4) as u32;
        let shape = Shape { grid: [fours.div_ceil(256), 1, self.places.runs], block: 256, shared: 0 };
        let (run_stride, activation) = (self.places.run_stride, self.activation());
        let work = move |n: &Counts| Work::moving(3 * n.rows * width * activation);
        // SAFETY: both are [R, 2d] and begin at a multiple of 256 bytes.
        unsafe {
            launch!(
                self,
                of_element(["add_rows", "add_rows_f16"], *to),
                shape,
                work,
                to.address,
                from.address,
                layout.header.address,
                width as u32,
                run_stride,
            )
        }
    }

    fn attention_backward(
        &mut self,
        layout: &Indices,
        stack: usize,
        (): &(),
        mask: &Mask,
        g: &Buffer,
        projected: &Buffer,
        probabilities: &Buffer,
        d_attended: Option<&Buffer>,
        d_probabilities: &mut Buffer,
        d_projected: &mut Buffer,
        d_g: &mut Buffer,
        (): &mut (),
    ) {
        if let Some(d_attended) = d_attended {
            let d_rows = (*d_attended, Of::Rows);
            self.window(Window::Nt, layout, d_rows, (*g, Of::Rows), (*d_probabilities, Of::Pairs), true);
        }
        let width = 2 * self.d;
        let rows = layout.capacity.rows;
        let (shape, scale, run_stride) = (self.warps(rows), self.attention_scale(), self.places.run_stride);
        let activation = self.activation();
        let work = |n: &Counts| Work::moving(3 * n.pairs * activation);
        // SAFETY: both are n x n for each window.
        unsafe {
            launch!(
                self,
                of_element(["softmax_rows_backward", "softmax_rows_backward_f16"], *probabilities),
                shape,
                work,
                d_probabilities.address,
                probabilities.address,
                layout.pairs.address,
                layout.offset.address,
                layout.owner.address,
                layout.header.address,
                scale,
                run_stride,
            )
        }
        let d_scores = (*d_probabilities, Of::Pairs);
        self.window(Window::Nn, layout, d_scores, (*g, Of::Rows), (*d_projected, Of::Rows), false);
        match d_attended {
            // Both at once, so that `d_g` is read and written once.
            Some(d_attended) => self.add_two_windows(
                layout,
                [*probabilities, *d_probabilities],
                [*d_attended, *projected],
                *d_g,
            ),
            None => self.window(Window::Tn, layout, d_scores, (*projected, Of::Rows), (*d_g, Of::Rows), true),
        }
        let score = (self.by_rows(self.places.folded.score[stack]), width);
        let product = Product::new((rows, width, width), (*d_projected, width), score, (*d_g, width));
        let mut product = product.extent(Extent::Rows).accumulate().epilogue(Epilogue::Dropout);
        product.mask = u64::from(mask.word(Site::Context(stack)));
        (product.target, product.offset) = (layout.target.address, layout.offset.address);
        product.owner = layout.owner.address;
        self.product_nt(layout, product);
        // The gradient of `score` [in, out] is G^T d_projected.
        let to = (self.places.folded.d_score[stack], width);
        let product = Product::new((width, width, rows), (*g, width), (*d_projected, width), to);
        self.sum_products(layout, product.extent(Extent::Rows));
    }
}
