//! The card's backend: where a model lies in a card's memory, and how its kernels are launched.
//!
//! A launch only puts work into the card's stream. The first error is kept and told when the pass is over
//! ([`Worker::finish`]); until then further launches are left out.

pub mod batch;

use std::ffi::c_void;
use std::sync::Arc;

use super::parameters::{Layout, Linear, Sizes};
use super::part::Part;
use super::{Backend, Operations};
use crate::device::cuda::card::{Card, Shape, failed};
use crate::device::cuda::memory::{Buffer, Element, Plan};
use crate::device::cuda::product::{Extent, Of, Product, Size, WindowProduct};
use crate::device::cuda::record::Recorder;
use crate::device::work::{Unit, Work};
use crate::error::{Error, Result};
use crate::ops::cuda::batch::{Capacity, Indices};

/// Every kernel by its module: all are looked up when a card is opened.
pub const KERNELS: &[(&str, &[&str])] = &[
    ("adam", &["gradient_finite", "adam_begin", "adam", "loss_scale"]),
    ("adversarial", &["feature_norms", "feature_norms_f16", "batch_norm", "perturb", "perturb_f16"]),
    (
        "attention",
        &[
            "softmax_rows",
            "softmax_rows_f16",
            "softmax_rows_backward",
            "softmax_rows_backward_f16",
            "add_rows",
            "add_rows_f16",
        ],
    ),
    ("classifier", &["cross_entropy", "metrics"]),
    ("dropout", &["dropout", "dropout_f16"]),
    (
        "embedding",
        &["embedding_gather", "embedding_gather_f16", "embedding_scatter", "embedding_scatter_f16"],
    ),
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
            "gru_forward_f16_200x2",
            "gru_backward_f16_200x2",
            "gru_forward_f16x2",
            "gru_backward_f16x2",
            "gru_fragments",
        ],
    ),
    (
        "interaction",
        &[
            "interaction",
            "interaction_f16",
            "interaction_backward",
            "interaction_backward_f16",
            "interaction_silent",
            "interaction_silent_f16",
            "interaction_silent_sum",
        ],
    ),
    (
        "product",
        &[
            "product_nt",
            "product_nn",
            "product_tn",
            "product_nt_f16",
            "product_nn_f16",
            "product_tn_f16",
            "product_nt_rounded",
            "product_nn_rounded",
            "product_tn_rounded",
            "product_nt_f16_large",
            "product_nn_f16_large",
            "product_tn_f16_large",
            "window_nt",
            "window_nn",
            "window_tn",
            "window_nt_f16",
            "window_nn_f16",
            "window_tn_f16",
        ],
    ),
    ("projection", &["round_weights"]),
    ("readout", &["readout", "readout_f16", "readout_backward", "readout_backward_f16"]),
    ("standardise", &["standardise"]),
    ("state", &["tanh_backward", "add_states"]),
    (
        "window_attention",
        &[
            "window_attention_f16_8",
            "window_attention_f16_4",
            "window_attention_f16_2",
            "window_attention_backward_f16_8",
            "window_attention_backward_f16_4",
            "window_attention_backward_f16_2",
        ],
    ),
    (
        "window_attention_f32",
        &[
            "window_attention_f32_40",
            "window_attention_f32_64",
            "window_attention_backward_f32_40",
            "window_attention_backward_f32_64",
        ],
    ),
];

/// Bytes of a parameter, a sum, an index, or a sample's value.
pub(super) const WORD: usize = 4;

/// `C = A^T B` in float32, on tensor cores for operands in f16 and in float32, and in large tiles of f16.
const TN: [&str; 4] = ["product_tn", "product_tn_f16", "product_tn_rounded", "product_tn_f16_large"];

/// How much a batch has of everything: what a launch's least work depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub samples: usize,
    pub rows: usize,
    /// Of them role A's.
    pub rows_a: usize,
    /// Sum of the squared window lengths.
    pub pairs: usize,
    pub distinct: usize,
}

impl Counts {
    /// Rows that a product runs over; `None` where its sizes are fixed.
    fn of(&self, extent: Extent) -> Option<usize> {
        match extent {
            Extent::Fixed => None,
            Extent::Rows | Extent::Roles => Some(self.rows),
            Extent::Samples => Some(self.samples),
            Extent::Distinct => Some(self.distinct),
        }
    }
}

/// A launch that was timed: the part of the step, the kernel, its least work.
pub type Launched = (Part, &'static str, Work);

/// The launches of a step that is timed.
struct Recording {
    recorder: Recorder<Launched>,
    /// Of each run that has a batch.
    counts: Vec<Counts>,
}

/// Products of weights that a step multiplies with, and their gradients: `super::projection`.
#[derive(Debug, Clone, Default)]
pub struct Folded {
    /// By stack, `[2d, 2d]`: `W_Q^T W_K`.
    pub score: Vec<Buffer>,
    /// By stack, `[2, 3d, 2d]` by direction: `W_ih W_V` of the stack before; empty where the input is not attended.
    pub input: Vec<Buffer>,
    /// `[d, d]` and `[2d, 2d]`: Gram matrices of the embeddings' weights.
    pub history_gram: Buffer,
    pub target_gram: Buffer,
    pub d_score: Vec<Buffer>,
    pub d_input: Vec<Buffer>,
    /// All that rows are multiplied with: `score`, `input` and `history_gram`, one behind the other.
    pub by_rows: Buffer,
}

impl Folded {
    /// `attended`: whether stacks read what the one before attended to.
    pub fn new(plan: &mut Plan, layout: &Layout, attended: bool) -> Folded {
        let d = layout.sizes.d;
        let stacks = layout.sizes.stacks;
        let square = 4 * d * d;
        let input = |l: usize| if attended && l > 0 { 12 * d * d } else { 0 };
        let d_score = (0..stacks).map(|_| plan.words(square)).collect();
        let d_input = (0..stacks).map(|l| plan.words(input(l))).collect();
        // Multiples of four, which keep each aligned for any access; the last one need not be.
        let inputs: usize = (0..stacks).map(input).sum();
        let by_rows = plan.words(stacks * square + inputs + d * d);
        let mut end = 0;
        let mut next = |len: usize| {
            end += len;
            by_rows.part(end - len, len)
        };
        Folded {
            score: (0..stacks).map(|_| next(square)).collect(),
            input: (0..stacks).map(|l| next(input(l))).collect(),
            history_gram: next(d * d),
            target_gram: plan.words(square),
            d_score,
            d_input,
            by_rows,
        }
    }
}

/// A stretch of weights and its copy in f16.
#[derive(Debug, Clone, Copy)]
pub struct Rounded {
    pub exact: Buffer,
    pub rounded: Buffer,
}

impl Rounded {
    /// A copy of `exact`, not made yet.
    pub fn new(plan: &mut Plan, exact: Buffer) -> Rounded {
        Rounded { exact, rounded: plan.take(Element::Half, exact.len) }
    }

    /// Whether a buffer begins in the stretch.
    fn has(&self, part: Buffer) -> bool {
        let Buffer { address, len, element } = self.exact;
        (address..address + (len * element.bytes()) as u64).contains(&part.address)
    }

    /// The copy of a part of the stretch.
    fn of(&self, part: Buffer) -> Buffer {
        let first = (part.address - self.exact.address) as usize / self.exact.element.bytes();
        self.rounded.part(first, part.len)
    }
}

/// What is multiplied on tensor cores has f16 copies of the weights, made anew in each step.
#[derive(Debug, Clone, Copy)]
pub struct Copies {
    /// Of what rows are multiplied with: of all parameters and of [`Folded::by_rows`].
    pub rounded: [Rounded; 2],
    /// Of the recurrent weights, in the order in which the recurrence reads them: `gru_fragments` in `kernels/gru.cu`.
    pub fragments: Buffer,
}

impl Copies {
    /// Copies of `parameters` and `folded`, not made yet.
    pub fn new(plan: &mut Plan, layout: &Layout, parameters: Buffer, folded: &Folded) -> Copies {
        let rounded = [parameters, folded.by_rows].map(|weights| Rounded::new(plan, weights));
        Copies { rounded, fragments: plan.words(super::gru::cuda::words_of_fragments(layout)) }
    }
}

/// Runs the operations of a batch on a card.
pub struct Worker {
    pub(super) card: Arc<Card>,
    pub(super) layout: Arc<Layout>,
    /// d
    pub(super) d: usize,
    pub(super) places: Places,
    failed: Option<Error>,
    /// The part of the step that launches belong to.
    part: Part,
    /// While launches are timed.
    recording: Option<Recording>,
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
    /// Models side by side, and the bytes from one to the next.
    pub runs: u32,
    pub run_stride: u64,
    /// Flat, in [`Layout`]'s order.
    pub parameters: Buffer,
    pub gradient: Buffer,
    pub folded: Folded,
    /// Mixed precision's.
    pub copies: Option<Copies>,
    /// What chunks of a sum leave for the last one, which adds them, and how many of a tile's are there.
    pub workspace: Buffer,
    pub arrivals: Buffer,
    /// Mixed precision's: the first float is what losses are multiplied with.
    pub loss_scale: Option<Buffer>,
    /// K: no window is longer.
    pub history_length: usize,
}

/// Of the kernel for float32 and the one for f16, that for a buffer.
pub(super) fn of_element([word, half]: [&'static str; 2], buffer: Buffer) -> &'static str {
    if buffer.element == Element::Half { half } else { word }
}

/// An argument of a kernel: its address and its size.
pub(super) fn argument<T>(value: &T) -> (*mut c_void, usize) {
    (std::ptr::from_ref(value).cast_mut().cast(), size_of::<T>())
}

/// Launches a kernel with arguments in its order: `launch!(worker, "kernel", shape, work, a, b, c)`. `work` tells what one run has to do
/// at least for a batch of some [`Counts`].
///
/// Their number and sizes are held against the kernel's parameters. The expression is unsafe all the same: their types must be the
/// kernel's, and the buffers as large as it expects.
macro_rules! launch {
    ($worker:expr, $kernel:expr, $shape:expr, $work:expr, $($argument:expr),* $(,)?) => {
        $worker.submit($kernel, $shape, $work, &[$(crate::ops::cuda::argument(&$argument)),*])
    };
}
pub(super) use launch;

impl Worker {
    pub fn new(card: Arc<Card>, layout: Arc<Layout>, places: Places) -> Worker {
        let d = layout.sizes.d;
        Worker { card, layout, d, places, failed: None, part: Part::Rest, recording: None }
    }

    /// What sums over the batch's rows leave for one another, words, and how many counters of them there are.
    /// `mixed`: rows are in f16.
    pub fn workspace(layout: &Layout, capacity: Capacity, mixed: bool) -> (usize, usize) {
        let Sizes { d, features, classes, .. } = layout.sizes;
        let Capacity { rows, distinct, samples, .. } = capacity;
        // The sums of all operations: rows of C, columns with the one of sums, those of a second product, products side by side, and
        // what k runs over.
        let sums = [
            (3 * d, [2 * d + 1, d + 1], 2, rows), // a stack's gates by direction: inputs and states
            (3 * d, [d + 1, d + 1], 4, rows),     // the speakers', by role
            (2 * d, [2 * d, 0], 1, rows),         // scores
            (d, [d + 1, 0], 4, rows),             // gates of the interaction
            (d, [d, 0], 1, rows),                 // the perturbation's
            (d, [features + 1, 0], 1, distinct),
            (2 * d, [features + 1, 0], 1, samples),
            (2 * d, [2 * d, 0], 1, samples), // values, and the perturbation's
            (classes, [2 * d + 1, 0], 1, samples),
        ];
        let kinds = if mixed { &[(Element::Word, 0), (Element::Half, 0)][..] } else { &[(Element::Word, 1)] };
        let left = |(element, exact): (Element, u32),
                    (m, columns, products, k): (usize, [usize; 2], u32, usize)| {
            let nowhere = (Buffer { address: 0, len: 0, element }, 0);
            let [first, second] = columns.map(|n| {
                let mut product = Product::new((m, n, k), nowhere, nowhere, nowhere);
                (product.inner, product.exact) = (products, exact);
                product
            });
            first.beside(second).chunked().left()
        };
        let most = kinds
            .iter()
            .flat_map(|kind| sums.map(|sum| left(*kind, sum)))
            .fold((0, 0), |most: (usize, usize), (tiles, words)| (words.max(most.0), tiles.max(most.1)));
        // The gradients of silent roles' gates wait here too.
        (most.0.max(samples * 2 * d), most.1)
    }

    /// Asks leave for the shared memory that kernels take for windows of up to `longest`.
    pub fn prepare(&self, longest: usize) -> Result<()> {
        self.prepare_gru()?;
        let (readout, backward) = super::readout::cuda::shared_memory(self.d, longest);
        let kernels = if self.has_window_kernel() {
            self.window_kernels(longest).map(|kernel| (kernel.name, kernel.shared))
        } else if self.mixed() {
            [("readout_f16", readout), ("readout_backward_f16", backward)]
        } else {
            [("readout", readout), ("readout_backward", backward)]
        };
        for (kernel, bytes) in kernels {
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

    /// Whether products are made on tensor cores, and what belongs to rows or pairs is f16.
    pub(super) fn mixed(&self) -> bool {
        self.places.loss_scale.is_some()
    }

    /// Bytes of a row's or a pair's value, or its gradient.
    pub(super) fn activation(&self) -> usize {
        if self.mixed() { Element::Half.bytes() } else { Element::Word.bytes() }
    }

    /// A parameter, or a product of them, as rows are multiplied with it.
    pub(super) fn by_rows(&self, weight: Buffer) -> Buffer {
        match self.places.copies {
            None => weight,
            Some(Copies { rounded: [_, folded], .. }) if folded.has(weight) => folded.of(weight),
            Some(Copies { rounded: [parameters, _], .. }) => parameters.of(weight),
        }
    }

    /// Address of the loss scale; 0 where there is none.
    pub(super) fn loss_scale(&self) -> u64 {
        self.places.loss_scale.map_or(0, |scale| scale.address)
    }

    /// `to += from`, both `[S, 2d]`.
    pub fn add_states(&mut self, indices: &Indices, from: Buffer, to: Buffer) {
        let width = 2 * self.d;
        let (shape, run_stride) = (self.quads(indices.capacity.samples, 1), self.places.run_stride);
        let work = |n: &Counts| Work::moving(3 * n.samples * width * WORD);
        // SAFETY: both are [S, 2d].
        unsafe {
            launch!(
                self,
                "add_states",
                shape,
                work,
                to.address,
                from.address,
                indices.header.address,
                width as u32,
                run_stride,
            )
        }
    }

    /// Puts a launch into the stream, unless an earlier one has failed or the arguments' sizes are not the kernel's.
    ///
    /// # Safety
    /// As [`Card::launch`].
    pub(super) unsafe fn submit(
        &mut self,
        kernel: &'static str,
        shape: Shape,
        work: impl Fn(&Counts) -> Work,
        arguments: &[(*mut c_void, usize)],
    ) {
        if self.failed.is_some() || shape.grid.contains(&0) {
            return;
        }
        let (mut addresses, sizes): (Vec<_>, Vec<_>) = arguments.iter().copied().unzip();
        if let Err(error) = self.card.check_arguments(kernel, &sizes) {
            self.failed = Some(error);
            return;
        }
        // SAFETY: the caller's promise.
        let mut launch = || unsafe { self.card.launch(kernel, shape, &mut addresses) };
        let launched = match &mut self.recording {
            None => Ok(launch()),
            Some(Recording { recorder, counts }) => {
                let all = counts.iter().map(work).reduce(Work::and).unwrap_or_default();
                recorder.around((self.part, kernel, all), launch)
            }
        };
        match launched {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.failed = Some(failed(&format!("launch {kernel}"), error)),
            Err(error) => self.failed = Some(error),
        }
    }

    /// Times every launch from now on; not while work is captured. The runs' batches have `counts`.
    pub fn record(&mut self, counts: Vec<Counts>) -> Result<()> {
        self.recording = Some(Recording { recorder: Recorder::new(&self.card)?, counts });
        Ok(())
    }

    /// Ends it, and tells of each launch how many seconds it took.
    pub fn recorded(&mut self) -> Result<Vec<(Launched, f64)>> {
        self.recording.take().map_or(Ok(Vec::new()), |recording| recording.recorder.finish())
    }

    /// The first error since the last call.
    pub fn finish(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// A parameter tensor, and its gradient.
    pub(super) fn parameter(&self, tensor: usize) -> Buffer {
        self.places.parameters.from(self.layout.specs[tensor].offset)
    }

    pub(super) fn gradient(&self, tensor: usize) -> Buffer {
        self.places.gradient.from(self.layout.specs[tensor].offset)
    }

    /// Scalars from one tensor to another.
    pub(super) fn distance(&self, from: usize, to: usize) -> i64 {
        self.layout.specs[to].offset as i64 - self.layout.specs[from].offset as i64
    }

    /// What computes a product, or a recurrence.
    pub(super) fn unit(&self, exact: bool) -> Unit {
        if self.mixed() && !exact { Unit::Tensor } else { Unit::Fma }
    }

    /// In float32 every product is exact.
    fn in_precision(&self, product: Product) -> Product {
        if self.mixed() { product } else { product.exact() }
    }

    /// `kernels` are the one in float32, those on tensor cores for operands in f16 and in float32, and that of large tiles of f16.
    fn product(&mut self, kernels: [&'static str; 4], indices: &Indices, product: Product) {
        let mut product = self.in_precision(product).sized(self.places.runs, kernels == TN);
        product.run_stride = self.places.run_stride;
        let unit = self.unit(product.exact != 0);
        let kernel = match (unit, product.element) {
            _ if matches!(product.size, Size::Large | Size::LargeRows) => kernels[3],
            (Unit::Tensor, Element::Half) => kernels[1],
            (Unit::Tensor, _) => kernels[2],
            _ => kernels[0],
        };
        let work = |n: &Counts| product.work(n.of(product.extent), unit);
        // SAFETY: the operations build products whose operands hold what their shapes say.
        unsafe {
            launch!(self, kernel, product.shape(self.places.runs), work, indices.header.address, product)
        }
    }

    /// `C = A B^T`
    pub(super) fn product_nt(&mut self, indices: &Indices, product: Product) {
        let kernels = ["product_nt", "product_nt_f16", "product_nt_rounded", "product_nt_f16_large"];
        self.product(kernels, indices, product);
    }

    /// `C = A B`
    pub(super) fn product_nn(&mut self, indices: &Indices, product: Product) {
        let kernels = ["product_nn", "product_nn_f16", "product_nn_rounded", "product_nn_f16_large"];
        self.product(kernels, indices, product);
    }

    /// `C = A^T B` over a fixed k.
    pub(super) fn product_tn(&mut self, indices: &Indices, product: Product) {
        assert_eq!(product.extent, Extent::Fixed);
        self.product(TN, indices, product);
    }

    /// `C += A^T B` over the batch's rows, and `sums += A^T 1` where there are some: chunks of them side by side, and their sum in order.
    pub(super) fn sum_products(&mut self, indices: &Indices, product: Product) {
        let mut product = self.in_precision(product).chunked().accumulate();
        let (tiles, words) = product.left();
        assert!(
            words <= self.places.workspace.len && tiles <= self.places.arrivals.len,
            "a workspace too small for a weight's gradient"
        );
        (product.workspace, product.arrivals) = (self.places.workspace.address, self.places.arrivals.address);
        self.product(TN, indices, product);
    }

    /// A product for each window, with the transpose that `of` says.
    pub(super) fn window(
        &mut self,
        of: Window,
        indices: &Indices,
        a: (Buffer, Of),
        b: (Buffer, Of),
        c: (Buffer, Of),
        accumulate: bool,
    ) {
        let product = self.window_product(indices, a, b, c, accumulate);
        self.launch_window(of, indices, a.0, product);
    }

    /// `C += A^T B` and one more of the same shapes, for each window.
    pub(super) fn add_two_windows(
        &mut self,
        indices: &Indices,
        [a, a_second]: [Buffer; 2],
        [b, b_second]: [Buffer; 2],
        c: Buffer,
    ) {
        let distance = |from: Buffer, to: Buffer| {
            (to.address as i64 - from.address as i64) / from.element.bytes() as i64
        };
        let product = WindowProduct {
            a_second: distance(a, a_second),
            b_second: distance(b, b_second),
            ..self.window_product(indices, (a, Of::Pairs), (b, Of::Rows), (c, Of::Rows), true)
        };
        self.launch_window(Window::Tn, indices, a, product);
    }

    fn window_product(
        &self,
        indices: &Indices,
        (a, a_of): (Buffer, Of),
        (b, b_of): (Buffer, Of),
        (c, c_of): (Buffer, Of),
        accumulate: bool,
    ) -> WindowProduct {
        WindowProduct {
            a: a.address,
            b: b.address,
            c: c.address,
            offset: indices.offset.address,
            pairs: indices.pairs.address,
            a_second: 0,
            b_second: 0,
            run_stride: self.places.run_stride,
            width: 2 * self.d as u32,
            a_of,
            b_of,
            c_of,
            accumulate: u32::from(accumulate),
            longest: indices.capacity.longest as u32,
        }
    }

    fn launch_window(&mut self, of: Window, indices: &Indices, a: Buffer, product: WindowProduct) {
        let shape = product.shape(indices.capacity.samples as u32, self.places.runs);
        let kernels = match of {
            Window::Nt => ["window_nt", "window_nt_f16"],
            Window::Nn => ["window_nn", "window_nn_f16"],
            Window::Tn => ["window_tn", "window_tn_f16"],
        };
        let (unit, element) = (self.unit(false), a.element.bytes());
        let kernel = of_element(kernels, a);
        let work = |n: &Counts| product.work(n.rows, n.pairs, element, unit);
        // SAFETY: rows are 2d wide and pairs n x n a window, in every buffer that an operation gives.
        unsafe { launch!(self, kernel, shape, work, indices.header.address, product) }
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

    fn enter(&mut self, part: Part) -> Part {
        std::mem::replace(&mut self.part, part)
    }
}

impl Operations for Worker {}
