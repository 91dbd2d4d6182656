//! The card's attention: a kernel for all of a window (`kernels/window_attention.cu` in mixed precision, `window_attention_f32.cu` in
//! float32); for longer windows than that has room for, products for each window (`kernels/product.cu`) and what is none
//! (`kernels/attention.cu`).

use super::{Attention, FromNext, Saved, Scratch};
use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::{Buffer, Element};
use crate::device::cuda::product::{Epilogue, Extent, Of, Product};
use crate::device::work::{Unit, Work};
use crate::ops::Backend;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, WORD, Window, Worker, launch, of_element};
use crate::ops::dropout::{Mask, Site};
use crate::ops::part::Part;

/// The longest window that a window's kernels have room for.
const LONGEST: usize = 64;

/// A kernel for all of a window.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct WindowKernel {
    pub name: &'static str,
    /// Threads of a block.
    block: usize,
    /// Bytes of a block.
    pub shared: usize,
}

/// `kernels/window_attention.cu` there and back, for windows of up to `longest`. Two warps have 16 rows. Rows of 2d halves are read in
/// pieces of 8, 4 or 2 as all of them are aligned to.
fn mixed_kernels(d: usize, longest: usize) -> [WindowKernel; 2] {
    /// Columns of a window that are in shared memory at once.
    const CHUNK: usize = 104;
    let tiles = longest.max(1).div_ceil(16);
    let rows = 16 * tiles;
    let (chunks, pairs) =
        (2 * Element::Half.bytes() * rows * CHUNK, Element::Half.bytes() * rows * (rows + 8));
    let shared =
        [chunks + pairs + WORD * (CHUNK + 5 * rows), chunks + 2 * pairs + WORD * (2 * CHUNK + 5 * rows)];
    let names = match d % 4 {
        0 => ["window_attention_f16_8", "window_attention_backward_f16_8"],
        2 => ["window_attention_f16_4", "window_attention_backward_f16_4"],
        _ => ["window_attention_f16_2", "window_attention_backward_f16_2"],
    };
    [0, 1].map(|back| WindowKernel { name: names[back], block: 64 * tiles, shared: shared[back] })
}

/// `kernels/window_attention_f32.cu` there and back, for windows of up to `longest` of the `history_length` that there may be.
fn exact_kernels(d: usize, history_length: usize, longest: usize) -> [WindowKernel; 2] {
    const CHUNK: usize = 52;
    let rows = longest.max(1).next_multiple_of(8);
    let (chunk, pairs, width) = (CHUNK.max(rows + 4), rows + 4, (2 * d).next_multiple_of(4));
    let shared = [
        WORD * (rows * (chunk + CHUNK + pairs + 7) + width),
        WORD * (rows * (2 * chunk + pairs + 6) + width),
    ];
    let names = if history_length <= 40 {
        ["window_attention_f32_40", "window_attention_backward_f32_40"]
    } else {
        ["window_attention_f32_64", "window_attention_backward_f32_64"]
    };
    [0, 1].map(|back| WindowKernel { name: names[back], block: 256, shared: shared[back] })
}

/// The least that a window's kernel does: operands and results once, `rows` of them rows and `states` of them samples', so many products
/// for each window, and the readout's `sums` with every row and pair, few and counted to them.
fn work(
    n: &Counts,
    element: Element,
    width: usize,
    (rows, states): (usize, usize),
    products: f64,
    sums: f64,
) -> Work {
    let by_row = (rows * n.rows * width + n.pairs) * element.bytes();
    let by_sample = (states * n.samples * width + 3 * n.rows) * WORD;
    let flops = products * (n.pairs * width) as f64 + sums * (n.rows * width + n.pairs) as f64;
    let unit = if element == Element::Half { Unit::Tensor } else { Unit::Fma };
    Work::moving(by_row + by_sample).flops(2.0 * flops, unit)
}

impl Worker {
    /// `1 / sqrt(d)`
    fn attention_scale(&self) -> f32 {
        (1.0 / (self.d as f64).sqrt()) as f32
    }

    /// Whether a window's attention is one kernel. What windows there may be decides, not those that there are: runs' results do not
    /// depend on each other's.
    pub(in crate::ops) fn has_window_kernel(&self) -> bool {
        self.places.history_length <= LONGEST
    }

    /// A window's kernel there and back, for windows of up to `longest`.
    pub(in crate::ops) fn window_kernels(&self, longest: usize) -> [WindowKernel; 2] {
        if self.mixed() {
            mixed_kernels(self.d, longest)
        } else {
            exact_kernels(self.d, self.places.history_length, longest)
        }
    }

    /// One of them and its launch: a block for each window.
    fn window_kernel(&self, layout: &Indices, backward: bool) -> (&'static str, Shape) {
        let kernel = self.window_kernels(layout.capacity.longest)[usize::from(backward)];
        let grid = [layout.capacity.samples as u32, 1, self.places.runs];
        (kernel.name, Shape { grid, block: kernel.block as u32, shared: kernel.shared as u32 })
    }

    /// A warp for each row, in blocks of 256 threads.
    fn warps(&self, rows: usize) -> Shape {
        Shape { grid: [(rows as u32).div_ceil(8), 1, self.places.runs], block: 256, shared: 0 }
    }

    /// `P = softmax(scale * projected G^T)`, the readout and `attended = P G` in one kernel.
    fn window_attention(
        &mut self,
        layout: &Indices,
        g: &Buffer,
        saved: &mut Saved<Buffer>,
        attended: Option<&mut Buffer>,
    ) {
        let ((kernel, shape), scale) = (self.window_kernel(layout, false), self.attention_scale());
        let (width, run_stride) = (2 * self.d, self.places.run_stride);
        let more = usize::from(attended.is_some());
        let element = g.element;
        let work = move |n: &Counts| work(n, element, width, (2 + more, 2), (1 + more) as f64, 2.0);
        let Saved { projected, probabilities, readout } = saved;
        // SAFETY: rows and states are 2d wide, probabilities n x n for each window, and rows and pairs of the kernel's element.
        unsafe {
            launch!(
                self,
                kernel,
                shape,
                work,
                probabilities.address,
                attended.map_or(0, |attended| attended.address),
                readout.e.address,
                readout.y.address,
                readout.a.address,
                readout.p.address,
                readout.w.address,
                g.address,
                projected.address,
                layout.pairs.address,
                layout.offset.address,
                layout.header.address,
                scale,
                width as u32,
                run_stride,
            )
        }
    }

    /// Back through [`Worker::window_attention`], but for the gradient that comes to G through `projected`.
    fn window_attention_backward(
        &mut self,
        layout: &Indices,
        g: &Buffer,
        saved: &Saved<Buffer>,
        from_next: FromNext<Buffer>,
        scratch: &mut Scratch<Buffer>,
        d_g: &mut Buffer,
    ) {
        let ((kernel, shape), scale) = (self.window_kernel(layout, true), self.attention_scale());
        let (width, run_stride) = (2 * self.d, self.places.run_stride);
        let (d_attended, d_states) = match from_next {
            FromNext::Nothing => (0, 0),
            FromNext::Attended(d_attended) => (d_attended.address, 0),
            FromNext::States(d_states) => (0, d_states.address),
        };
        let rows = 4 + usize::from(d_attended + d_states != 0);
        let products = if d_attended == 0 { 2.0 } else { 4.0 };
        let element = g.element;
        let work = move |n: &Counts| work(n, element, width, (rows, 3), products, 4.0);
        let Saved { projected, probabilities, readout } = saved;
        // SAFETY: as in `window_attention`.
        unsafe {
            launch!(
                self,
                kernel,
                shape,
                work,
                scratch.projected.address,
                d_g.address,
                scratch.readout.d_w.address,
                scratch.readout.d_e.address,
                d_attended,
                d_states,
                readout.y.address,
                readout.a.address,
                readout.p.address,
                readout.w.address,
                g.address,
                projected.address,
                probabilities.address,
                layout.pairs.address,
                layout.offset.address,
                layout.header.address,
                scale,
                width as u32,
                run_stride,
            )
        }
    }

    /// `softmax(scale * scores)` of every row, in place.
    fn softmax(&mut self, layout: &Indices, scores: &Buffer) {
        let (shape, scale) = (self.warps(layout.capacity.rows), self.attention_scale());
        let (run_stride, activation) = (self.places.run_stride, self.activation());
        let work = |n: &Counts| Work::moving(2 * n.pairs * activation);
        // SAFETY: the scores are n x n for each window.
        unsafe {
            launch!(
                self,
                of_element(["softmax_rows", "softmax_rows_f16"], *scores),
                shape,
                work,
                scores.address,
                layout.pairs.address,
                layout.offset.address,
                layout.owner.address,
                layout.header.address,
                scale,
                run_stride,
            )
        }
    }

    /// Back through [`Worker::softmax`], in place in `d`.
    fn softmax_backward(&mut self, layout: &Indices, probabilities: &Buffer, d: &Buffer) {
        let (shape, scale) = (self.warps(layout.capacity.rows), self.attention_scale());
        let (run_stride, activation) = (self.places.run_stride, self.activation());
        let work = |n: &Counts| Work::moving(3 * n.pairs * activation);
        // SAFETY: both are n x n for each window.
        unsafe {
            launch!(
                self,
                of_element(["softmax_rows_backward", "softmax_rows_backward_f16"], *probabilities),
                shape,
                work,
                d.address,
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

    /// `to += from`, `[R, 2d]` both.
    fn add_rows(&mut self, layout: &Indices, from: &Buffer, to: &Buffer) {
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
}

impl Attention for Worker {
    fn attention(
        &mut self,
        layout: &Indices,
        stack: usize,
        (): &(),
        g: &Buffer,
        q: &Buffer,
        saved: &mut Saved<Buffer>,
        next: &mut Buffer,
        attended: Option<&mut Buffer>,
    ) {
        let width = 2 * self.d;
        let rows = layout.capacity.rows;
        let score = (self.by_rows(self.places.folded.score[stack]), width);
        let product = Product::new((rows, width, width), (*g, width), score, (saved.projected, width));
        self.product_nn(layout, product.extent(Extent::Rows));
        let part = self.enter(Part::Readout);
        self.readout_weights(layout, stack, q, &mut saved.readout);
        self.enter(part);
        if self.has_window_kernel() {
            self.window_attention(layout, g, saved, attended);
        } else {
            let (g_rows, pairs) = ((*g, Of::Rows), (saved.probabilities, Of::Pairs));
            self.window(Window::Nt, layout, (saved.projected, Of::Rows), g_rows, pairs, false);
            self.softmax(layout, &saved.probabilities);
            if let Some(attended) = attended {
                self.window(Window::Nn, layout, pairs, g_rows, (*attended, Of::Rows), false);
            }
            self.enter(Part::Readout);
            self.readout(layout, &saved.probabilities, g, &mut saved.readout);
        }
        self.enter(Part::Readout);
        self.readout_state(layout, stack, q, &saved.readout, next);
        self.enter(part);
    }

    fn attention_backward(
        &mut self,
        layout: &Indices,
        stack: usize,
        (): &(),
        mask: &Mask,
        g: &Buffer,
        q: &Buffer,
        next: &Buffer,
        saved: &Saved<Buffer>,
        from_next: FromNext<Buffer>,
        scratch: &mut Scratch<Buffer>,
        d_q: &mut Buffer,
        d_g: &mut Buffer,
        (): &mut (),
    ) {
        let part = self.enter(Part::ReadoutBackward);
        self.readout_state_backward(layout, stack, next, &saved.readout, &mut scratch.readout, d_q);
        if self.has_window_kernel() {
            self.enter(part);
            self.window_attention_backward(layout, g, saved, from_next, scratch, d_g);
            self.enter(Part::ReadoutBackward);
        } else {
            let Saved { projected, probabilities, readout } = saved;
            let Scratch { projected: d_projected, probabilities: d_scores, readout: d_readout } = scratch;
            self.readout_backward(layout, probabilities, g, readout, d_readout, d_scores, d_g);
            self.enter(part);
            let (g_rows, d_g_rows, d_pairs) = ((*g, Of::Rows), (*d_g, Of::Rows), (*d_scores, Of::Pairs));
            match from_next {
                FromNext::Nothing => {}
                FromNext::Attended(d_attended) => {
                    self.window(Window::Nt, layout, (*d_attended, Of::Rows), g_rows, d_pairs, true);
                }
                FromNext::States(d_states) => self.add_rows(layout, d_states, d_g),
            }
            self.softmax_backward(layout, probabilities, d_scores);
            self.window(Window::Nn, layout, d_pairs, g_rows, (*d_projected, Of::Rows), false);
            match from_next {
                // Both at once, so that `d_g` is read and written once.
                FromNext::Attended(d_attended) => {
                    self.add_two_windows(layout, [*probabilities, *d_scores], [*d_attended, *projected], *d_g)
                }
                _ => self.window(Window::Tn, layout, d_pairs, (*projected, Of::Rows), d_g_rows, true),
            }
            self.enter(Part::ReadoutBackward);
        }
        self.readout_weights_backward(layout, stack, q, &scratch.readout, d_q);
        self.enter(part);
        let width = 2 * self.d;
        let rows = layout.capacity.rows;
        let d_projected = scratch.projected;
        let score = (self.by_rows(self.places.folded.score[stack]), width);
        let product = Product::new((rows, width, width), (d_projected, width), score, (*d_g, width));
        let mut product = product.extent(Extent::Rows).accumulate().epilogue(Epilogue::Dropout);
        product.mask = u64::from(mask.word(Site::Context(stack)));
        (product.target, product.offset) = (layout.target.address, layout.offset.address);
        product.owner = layout.owner.address;
        self.product_nt(layout, product);
        // The gradient of `score` [in, out] is G^T d_projected.
        let to = (self.places.folded.d_score[stack], width);
        let product = Product::new((width, width, rows), (*g, width), (d_projected, width), to);
        self.sum_products(layout, product.extent(Extent::Rows));
    }
}
