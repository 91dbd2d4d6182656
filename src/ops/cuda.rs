//! The card's backend: where a model lies in a card's memory, and how its kernels are launched.
//!
//! A launch only puts work into the card's stream. The first error is kept and told when the pass is over
//! ([`Worker::finish`]); until then further launches are left out.

use std::ffi::c_void;
use std::sync::Arc;

use super::parameters::{Layout, Linear};
use super::Backend;
use crate::device::cuda::batch::Indices;
use crate::device::cuda::card::{Card, Shape, failed};
use crate::device::cuda::memory::{Buffer, Plan};
use crate::device::cuda::product::{CHUNK, Extent, Of, Product, WindowProduct};
use crate::error::{Error, Result};

/// Every kernel by its module: all are looked up when a card is opened.
pub const KERNELS: &[(&str, &[&str])] = &[(
    "product",
    &["product_nt", "product_nn", "product_tn", "product_fold", "window_nt", "window_nn", "window_tn"],
)];

/// Products of weights that a step multiplies with, and their gradients: `super::projection`.
#[derive(Debug, Clone, Default)]
pub struct Folded {
    /// By stack, `[2d, 2d]`: `W_Q^T W_K`.
    pub score: Vec<Buffer>,
    /// By stack, `[2, 3d, 2d]` by direction: `W_ih W_V` of the stack before; empty where the input is not attended.
    pub input: Vec<Buffer>,
    pub d_score: Vec<Buffer>,
    pub d_input: Vec<Buffer>,
    /// `[d, d]` and `[2d, 2d]`: Gram matrices of the embeddings' weights.
    pub history_gram: Buffer,
    pub target_gram: Buffer,
}

impl Folded {
    /// `attended`: whether stacks read what the one before attended to.
    pub fn new(plan: &mut Plan, layout: &Layout, attended: bool) -> Folded {
        let d = layout.sizes.d;
        let squares = |plan: &mut Plan| (0..layout.sizes.stacks).map(|_| plan.words(4 * d * d)).collect();
        let inputs = |plan: &mut Plan| {
            let size = |l: usize| if attended && l > 0 { 12 * d * d } else { 0 };
            (0..layout.sizes.stacks).map(|l| plan.words(size(l))).collect()
        };
        Folded {
            score: squares(plan),
            input: inputs(plan),
            d_score: squares(plan),
            d_input: inputs(plan),
            history_gram: plan.words(d * d),
            target_gram: plan.words(4 * d * d),
        }
    }
}

/// Runs the operations of a batch on a card.
pub struct Worker {
    pub(super) card: Arc<Card>,
    pub(super) layout: Arc<Layout>,
    /// d
    pub(super) d: usize,
    /// Models side by side, and the bytes from one to the next.
    pub(super) runs: u32,
    pub(super) run_stride: u64,
    /// Flat, in [`Layout`]'s order.
    pub(super) parameters: Buffer,
    pub(super) gradient: Buffer,
    pub(super) folded: Folded,
    /// What chunks of a sum leave for the one that adds them.
    pub(super) workspace: Buffer,
    failed: Option<Error>,
}

/// Where things lie that a [`Worker`] needs.
pub struct Places {
    pub runs: u32,
    pub run_stride: u64,
    pub parameters: Buffer,
    pub gradient: Buffer,
    pub folded: Folded,
    pub workspace: Buffer,
}

/// The address of a kernel's argument.
pub(super) fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// Launches a kernel with arguments in its order: `launch!(worker, "kernel", shape, a, b, c)`.
///
/// The expression is unsafe: the arguments must be the kernel's, in number and type, and the buffers as large as it expects.
macro_rules! launch {
    ($worker:expr, $kernel:expr, $shape:expr, $($argument:expr),* $(,)?) => {
        $worker.submit($kernel, $shape, &mut [$(crate::ops::cuda::argument(&$argument)),*])
    };
}
pub(super) use launch;

impl Worker {
    pub fn new(card: Arc<Card>, layout: Arc<Layout>, places: Places) -> Worker {
        let Places { runs, run_stride, parameters, gradient, folded, workspace } = places;
        let d = layout.sizes.d;
        Worker { card, layout, d, runs, run_stride, parameters, gradient, folded, workspace, failed: None }
    }

    /// Words of workspace that the largest weight gradient takes, for batches of `rows` rows.
    pub fn workspace(layout: &Layout, rows: usize) -> usize {
        let d = layout.sizes.d;
        let chunks = rows.div_ceil(CHUNK as usize).max(1);
        // Input weights of both directions and roles; the embeddings' weights; biases' sums.
        let gates = 4 * 3 * d * 2 * d;
        let embedding = 2 * d * layout.sizes.features.max(2 * d);
        gates.max(embedding).max(16 * d).max(layout.sizes.classes * 2 * d) * chunks
    }

    /// Puts a launch into the stream, unless an earlier one has failed.
    ///
    /// # Safety
    /// As [`Card::launch`].
    pub(super) unsafe fn submit(&mut self, kernel: &str, shape: Shape, arguments: &mut [*mut c_void]) {
        if self.failed.is_some() || shape.grid.contains(&0) {
            return;
        }
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.card.launch(kernel, shape, arguments) } {
            self.failed = Some(failed(&format!("launch {kernel}"), error));
        }
    }

    /// The first error since the last call.
    pub fn finish(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// A parameter tensor, and its gradient.
    pub(super) fn parameter(&self, tensor: usize) -> Buffer {
        self.parameters.from(self.layout.specs[tensor].offset)
    }

    pub(super) fn gradient(&self, tensor: usize) -> Buffer {
        self.gradient.from(self.layout.specs[tensor].offset)
    }

    /// Scalars from one tensor to another.
    pub(super) fn distance(&self, from: usize, to: usize) -> i64 {
        self.layout.specs[to].offset as i64 - self.layout.specs[from].offset as i64
    }

    fn product(&mut self, kernel: &str, indices: &Indices, mut product: Product) {
        product.run_stride = self.run_stride;
        // SAFETY: the operations build products whose operands hold what their shapes say.
        unsafe { launch!(self, kernel, product.shape(self.runs), indices.header.address, product) }
    }

    /// `C = A B^T`
    pub(super) fn product_nt(&mut self, indices: &Indices, product: Product) {
        self.product("product_nt", indices, product);
    }

    /// `C = A B`
    pub(super) fn product_nn(&mut self, indices: &Indices, product: Product) {
        self.product("product_nn", indices, product);
    }

    /// `C = A^T B` over a fixed k.
    pub(super) fn product_tn(&mut self, indices: &Indices, product: Product) {
        assert_eq!(product.extent, Extent::Fixed);
        self.product("product_tn", indices, product);
    }

    /// `C += A^T B` over the batch's rows: chunks of them side by side, then their sum in order.
    pub(super) fn sum_products(&mut self, indices: &Indices, product: Product) {
        let to = product.c;
        let chunked = Product { chunk: CHUNK, c: self.workspace.address, ..product };
        let words = chunked.m as usize * chunked.n as usize * (chunked.inner * chunked.outer * chunked.chunks()) as usize;
        assert!(words <= self.workspace.len, "a workspace too small for a weight's gradient");
        self.product("product_tn", indices, chunked);
        let mut folding = Product { a: self.workspace.address, c: to, ..chunked }.accumulate();
        folding.run_stride = self.run_stride;
        let shape = folding.fold_shape(self.runs);
        // SAFETY: as in `product`; the workspace holds the chunks.
        unsafe { launch!(self, "product_fold", shape, indices.header.address, folding) }
    }

    /// A product for each window; `kernel` is `window_nt`, `window_nn` or `window_tn`.
    pub(super) fn window(
        &mut self,
        kernel: &str,
        indices: &Indices,
        (a, a_of): (Buffer, Of),
        (b, b_of): (Buffer, Of),
        (c, c_of): (Buffer, Of),
        accumulate: bool,
    ) {
        let product = WindowProduct {
            a: a.address,
            b: b.address,
            c: c.address,
            offset: indices.offset.address,
            pairs: indices.pairs.address,
            run_stride: self.run_stride,
            width: 2 * self.d as u32,
            a_of,
            b_of,
            c_of,
            accumulate: u32::from(accumulate),
            longest: indices.capacity.longest as u32,
        };
        let shape = product.shape(indices.capacity.samples as u32, self.runs);
        // SAFETY: rows are 2d wide and pairs n x n a window, in every buffer that an operation gives.
        unsafe { launch!(self, kernel, shape, indices.header.address, product) }
    }

    /// A weight `[out, in]` applied to rows: `to = rows W^T + b`.
    pub(super) fn linear(&mut self, place: Linear, rows: usize, from: Buffer, to: Buffer) -> Product {
        let shape = &self.layout.specs[place.weight].shape;
        let (out, width) = (shape[0], shape[1]);
        Product::new((rows, out, width), (from, width), (self.parameter(place.weight), width), (to, out))
            .bias(self.parameter(place.bias))
    }
}

impl Backend for Worker {
    type Buffer = Buffer;
    type Wide = Buffer;
    type Layout = Indices;
    /// The parameters lie where the worker knows them.
    type Weights = ();
    /// And so do their gradients.
    type Gradients = ();
}


