//! The card's backend: where a model lies in a card's memory, and how its kernels are launched.
//!
//! A launch only puts work into the card's stream. The first error is kept and told when the pass is over
//! ([`Worker::finish`]); until then further launches are left out.

pub mod batch;

use std::ffi::c_void;
use std::sync::Arc;

use super::parameters::{Layout, Linear, Sizes};
use super::{Backend, Operations};
use crate::device::cuda::card::{Card, Shape, failed};
use crate::device::cuda::memory::{Buffer, Plan};
use crate::device::cuda::product::{CHUNK, Extent, Of, Product, WindowProduct};
use crate::error::{Error, Result};
use crate::ops::cuda::batch::{Capacity, Indices};

/// Every kernel by its module: all are looked up when a card is opened.
pub const KERNELS: &[(&str, &[&str])] = &[
    ("adam", &["gradient_finite", "adam_begin", "adam", "loss_scale"]),
    ("adversarial", &["feature_norms", "batch_norm", "perturb"]),
    ("attention", &["softmax_rows", "softmax_rows_backward", "add_rows"]),
    ("classifier", &["cross_entropy", "metrics"]),
    ("dropout", &["dropout"]),
    ("embedding", &["embedding_gather", "embedding_scatter"]),
    (
        "gru",
        &[
            "gru_forward_f32",
            "gru_backward_f32",
            "gru_forward_f16",
            "gru_backward_f16",
            "gru_forward_f16_50",
            "gru_backward_f16_50",
            "gru_forward_f16_100",
            "gru_backward_f16_100",
            "gru_forward_f16_150",
            "gru_backward_f16_150",
            "gru_forward_f16_200",
            "gru_backward_f16_200",
        ],
    ),
    ("interaction", &["interaction", "interaction_backward", "interaction_silent", "interaction_silent_sum"]),
    (
        "product",
        &[
            "product_nt",
            "product_nn",
            "product_tn",
            "product_nt_f16",
            "product_nn_f16",
            "product_tn_f16",
            "product_fold",
            "window_nt",
            "window_nn",
            "window_tn",
            "window_nt_f16",
            "window_nn_f16",
            "window_tn_f16",
        ],
    ),
    ("readout", &["readout", "readout_backward"]),
    ("reduce", &["column_sum", "fold_partials"]),
    ("standardise", &["standardise"]),
    ("state", &["tanh_backward", "add_states"]),
];

/// Rows that a block of `column_sum` adds.
const PARTIAL_ROWS: usize = 256;

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
    /// Mixed precision's: the first float is what losses are multiplied with.
    loss_scale: Option<Buffer>,
    failed: Option<Error>,
}

/// Which operand of a window's product is transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// `A B^T`
    Nt,
    /// `A B`
    Nn,
    /// `A^T B`
    Tn,
}

/// Where things lie that a [`Worker`] needs.
pub struct Places {
    pub runs: u32,
    pub run_stride: u64,
    pub parameters: Buffer,
    pub gradient: Buffer,
    pub folded: Folded,
    pub workspace: Buffer,
    pub loss_scale: Option<Buffer>,
}

/// An argument of a kernel: its address and its size.
pub(super) fn argument<T>(value: &T) -> (*mut c_void, usize) {
    (std::ptr::from_ref(value).cast_mut().cast(), size_of::<T>())
}

/// Launches a kernel with arguments in its order: `launch!(worker, "kernel", shape, a, b, c)`.
///
/// Their number and sizes are held against the kernel's parameters. The expression is unsafe all the same: their types must be the
/// kernel's, and the buffers as large as it expects.
macro_rules! launch {
    ($worker:expr, $kernel:expr, $shape:expr, $($argument:expr),* $(,)?) => {
        $worker.submit($kernel, $shape, &[$(crate::ops::cuda::argument(&$argument)),*])
    };
}
pub(super) use launch;

impl Worker {
    pub fn new(card: Arc<Card>, layout: Arc<Layout>, places: Places) -> Worker {
        let Places { runs, run_stride, parameters, gradient, folded, workspace, loss_scale } = places;
        let d = layout.sizes.d;
        Worker {
            card,
            layout,
            d,
            runs,
            run_stride,
            parameters,
            gradient,
            folded,
            workspace,
            loss_scale,
            failed: None,
        }
    }

    /// Words of workspace that the largest sum takes.
    pub fn workspace(layout: &Layout, capacity: Capacity) -> usize {
        let Sizes { d, features, classes, .. } = layout.sizes;
        let chunks = |rows: usize| rows.div_ceil(CHUNK as usize).max(1);
        // Over all rows: gates' input weights by role or direction, products of states, recurrent weights.
        let rows = chunks(capacity.rows) * (12 * d * d);
        let distinct = chunks(capacity.distinct) * d * features;
        let samples = chunks(capacity.samples) * 2 * d * features.max(2 * d).max(classes);
        let most = capacity.rows.max(capacity.samples).max(capacity.distinct);
        let columns = most.div_ceil(PARTIAL_ROWS) * (3 * d).max(classes);
        // The gradients of silent roles' gates wait here too.
        rows.max(distinct).max(samples).max(columns).max(capacity.samples * 2 * d)
    }

    /// Asks leave for the shared memory that kernels take for windows of up to `longest`.
    pub fn prepare(&self, longest: usize) -> Result<()> {
        self.prepare_gru()?;
        let (readout, backward) = super::readout::cuda::shared_memory(self.d, longest);
        for (kernel, bytes) in [("readout", readout), ("readout_backward", backward)] {
            if bytes > self.card.shared_memory {
                return Err(Error::input(format!(
                    "windows of {longest} utterances with embedding_size {} take {bytes} bytes of shared memory, and the card has \
                     {} a block: take a smaller history_length",
                    self.d, self.card.shared_memory
                )));
            }
            self.card.allow_shared(kernel, bytes)?;
        }
        Ok(())
    }

    /// Whether products are made on tensor cores.
    pub(super) fn mixed(&self) -> bool {
        self.loss_scale.is_some()
    }

    /// Address of the loss scale; 0 where there is none.
    pub(super) fn loss_scale(&self) -> u64 {
        self.loss_scale.map_or(0, |scale| scale.address)
    }

    /// Adds the sum of rows of `from` to `to` `[columns]`: rows of the extent, of the outer product `group` where those are roles.
    pub(super) fn column_sum(
        &mut self,
        indices: &Indices,
        extent: Extent,
        group: usize,
        (from, stride): (Buffer, usize),
        columns: usize,
        to: Buffer,
    ) {
        let capacity = indices.capacity;
        let (range, rows) = match (extent, group) {
            (Extent::Roles, 0) => (1u32, capacity.rows),
            (Extent::Roles, _) => (2, capacity.rows),
            (Extent::Samples, _) => (3, capacity.samples),
            (Extent::Distinct, _) => (4, capacity.distinct),
            _ => (0, capacity.rows),
        };
        let partials = rows.div_ceil(PARTIAL_ROWS);
        assert!(partials * columns <= self.workspace.len, "a workspace too small for a sum of columns");
        let shape = Shape {
            grid: [(columns as u32).div_ceil(32), partials as u32, self.runs],
            block: 256,
            shared: 0,
        };
        let (workspace, run_stride) = (self.workspace.address, self.run_stride);
        let (header, columns) = (indices.header.address, columns as u32);
        // SAFETY: rows of `from` have that many columns; the workspace holds the partial sums.
        unsafe {
            launch!(
                self,
                "column_sum",
                shape,
                workspace,
                from.address,
                header,
                range,
                columns,
                stride as u32,
                run_stride,
            );
            let shape = Shape { grid: [columns.div_ceil(256), 1, self.runs], block: 256, shared: 0 };
            let (per_partial, add) = (PARTIAL_ROWS as u32, 1u32);
            launch!(
                self,
                "fold_partials",
                shape,
                to.address,
                workspace,
                header,
                range,
                per_partial,
                columns,
                add,
                run_stride,
            );
        }
    }

    /// `to += from`, both `[S, 2d]`.
    pub fn add_states(&mut self, indices: &Indices, from: Buffer, to: Buffer) {
        let (shape, run_stride) = (self.quads(indices.capacity.samples, 1), self.run_stride);
        // SAFETY: both are [S, 2d].
        unsafe {
            launch!(
                self,
                "add_states",
                shape,
                to.address,
                from.address,
                indices.header.address,
                2 * self.d as u32,
                run_stride,
            )
        }
    }

    /// Puts a launch into the stream, unless an earlier one has failed or the arguments' sizes are not the kernel's.
    ///
    /// # Safety
    /// As [`Card::launch`].
    pub(super) unsafe fn submit(&mut self, kernel: &str, shape: Shape, arguments: &[(*mut c_void, usize)]) {
        if self.failed.is_some() || shape.grid.contains(&0) {
            return;
        }
        let (mut addresses, sizes): (Vec<_>, Vec<_>) = arguments.iter().copied().unzip();
        let launched = self.card.check_arguments(kernel, &sizes).and_then(|()| {
            // SAFETY: the caller's promise.
            unsafe { self.card.launch(kernel, shape, &mut addresses) }
                .map_err(|error| failed(&format!("launch {kernel}"), error))
        });
        self.failed = launched.err();
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

    /// `kernels` are the one in float32 and the one on tensor cores.
    fn product(&mut self, kernels: [&str; 2], indices: &Indices, mut product: Product) {
        product.run_stride = self.run_stride;
        product = product.sized(self.runs);
        let kernel = kernels[usize::from(self.mixed() && product.exact == 0)];
        // SAFETY: the operations build products whose operands hold what their shapes say.
        unsafe { launch!(self, kernel, product.shape(self.runs), indices.header.address, product) }
    }

    /// `C = A B^T`
    pub(super) fn product_nt(&mut self, indices: &Indices, product: Product) {
        self.product(["product_nt", "product_nt_f16"], indices, product);
    }

    /// `C = A B`
    pub(super) fn product_nn(&mut self, indices: &Indices, product: Product) {
        self.product(["product_nn", "product_nn_f16"], indices, product);
    }

    /// `C = A^T B` over a fixed k.
    pub(super) fn product_tn(&mut self, indices: &Indices, product: Product) {
        assert_eq!(product.extent, Extent::Fixed);
        self.product(["product_tn", "product_tn_f16"], indices, product);
    }

    /// `C += A^T B` over the batch's rows: chunks of them side by side, then their sum in order.
    pub(super) fn sum_products(&mut self, indices: &Indices, product: Product) {
        let to = product.c;
        let chunked = Product { chunk: CHUNK, c: self.workspace.address, ..product };
        let words = chunked.m as usize
            * chunked.n as usize
            * (chunked.inner * chunked.outer * chunked.chunks()) as usize;
        assert!(words <= self.workspace.len, "a workspace too small for a weight's gradient");
        self.product(["product_tn", "product_tn_f16"], indices, chunked);
        let mut folding = Product { a: self.workspace.address, c: to, ..chunked }.accumulate();
        folding.run_stride = self.run_stride;
        let shape = folding.fold_shape(self.runs);
        // SAFETY: as in `product`; the workspace holds the chunks.
        unsafe { launch!(self, "product_fold", shape, indices.header.address, folding) }
    }

    /// A product for each window, with the transpose that `of` says.
    pub(super) fn window(
        &mut self,
        of: Window,
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
        let kernels = match of {
            Window::Nt => ["window_nt", "window_nt_f16"],
            Window::Nn => ["window_nn", "window_nn_f16"],
            Window::Tn => ["window_tn", "window_tn_f16"],
        };
        let kernel = kernels[usize::from(self.mixed())];
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

impl Operations for Worker {}
