//! The CPU engine: the graph on shards of a batch, shared out over threads.
//!
//! A step is a handful of parallel phases with nothing but these buffers between them:
//!
//! 1. weights are laid out, distinct utterances embedded;
//! 2. clean pass, forward and backward, shard by shard: logits, losses, gradients at the embeddings, norms;
//! 3. adversarial pass the same way, on displaced embeddings;
//! 4. gradients at the embeddings are summed by utterance and become the embeddings' weight gradients;
//! 5. the lanes' gradients are summed, the folded products unfolded, Adam.
//!
//! **Determinism.** A batch has a fixed number of *lanes*, each with its own sums of gradients. Shard i belongs to
//! lane i mod [`LANES`], a lane's shards run in order, and lanes are summed in order: the number of threads decides
//! only who runs a lane, never the order of a sum.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::config::{Config, StackInput};
use super::flops::{by_part, flops};
use super::graph::{Activations, Graph, Size};
use super::side_by_side::shares;
use super::{
    Engine, Losses, Objective, Piece, Predictions, Scaling, State, Step, StepLoss, check_targets, flatten,
    largest_below, tensors,
};
use crate::data::Corpus;
use crate::data::batch::{Batch, SHARD_SAMPLES};
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::device::cpu::gemm::{PANEL, Panels, Product, Right, Start, View};
use crate::device::cpu::pool::Pool;
use crate::device::cpu::simd::Real;
use crate::device::work::Work;
use crate::error::{Error, Result};
use crate::metrics::{Confusion, Evaluation, cross_entropy, largest};
use crate::ops::Backend;
use crate::ops::adam;
use crate::ops::adversarial::{Adversarial, Perturbation};
use crate::ops::cpu::{Gradients, PartClock, Weights, Worker};
use crate::ops::dropout::{Mask, Pass};
use crate::ops::embedding::{Correlation, Embedding, embed, sum_by_utterance, weight_gradient};
use crate::ops::parameters::{Layout, Linear, Sizes};
use crate::ops::part::Part;
use crate::ops::projection;

/// Sums of gradients that a batch is spread over: the most threads that can work on a pass at once.
pub const LANES: usize = 16;

/// Rows embedded by one task.
const EMBEDDING_BLOCK: usize = 128;

/// Rows of features standardised by one task.
const STANDARDISED_BLOCK: usize = 256;

/// Scalars that one task sums or updates.
const UPDATE_BLOCK: usize = 16_384;

pub struct CpuEngine<R: Real> {
    config: Config,
    graph: Graph,
    layout: Arc<Layout>,
    pool: Pool,

    standardisation: Standardisation,
    /// `[N, D]`, standardised.
    features: Vec<R>,
    windows: Windows,

    parameters: Vec<R>,
    first_moment: Vec<R>,
    second_moment: Vec<R>,
    updates: u64,
    /// Of a run in mixed precision, kept for when it is on a card again.
    scaling: Option<Scaling>,

    weights: Weights<R>,
    /// Whether `weights` are those of `parameters`.
    prepared: bool,
    folding: projection::Scratch<R>,
    batch: Batch,
    /// `[distinct, d]`
    embedded: Vec<R>,
    shards: Vec<RwLock<Sample<R>>>,
    workers: Vec<Mutex<Desk<R>>>,
    /// Longest window that the workers have memory for.
    room: usize,
    lanes: Vec<Mutex<Lane<R>>>,
    /// The parameters' gradient of the last step.
    gradient: Vec<R>,
    losses: Losses,
    /// `[1]`: the squared norm of the clean loss's gradient over all features that the batch reads.
    batch_norm: Vec<f64>,
    /// Of the phases, which all threads work on; the passes' time is in the workers' own clocks.
    clock: PartClock,
}

/// What a shard keeps between the phases of a step.
#[derive(Debug, Default)]
struct Sample<R> {
    /// `[S, 2d]`: q^0 of the unperturbed features.
    target: Vec<R>,
    /// Gradients at the embeddings, `[R, d]` role-major and `[S, 2d]`, of the clean and the adversarial pass.
    delta: [(Vec<R>, Vec<R>); 2],
    perturbation: Perturbation<Vec<R>, Vec<f64>>,
    /// `[S, C]` of both passes.
    logits: [Vec<R>; 2],
    /// `[S]` of both passes.
    loss: [Vec<f64>; 2],
    /// `[R]`: the last stack's readout weights.
    attention: Vec<R>,
}

/// What a thread works with, one shard after the other.
struct Desk<R: Real> {
    ops: Worker<R>,
    activations: Activations<Vec<R>, Vec<f64>>,
    /// `[utterances, d]`: gradients at the embeddings by utterance, of one lane after the other.
    delta: Vec<R>,
    /// The features that they belong to.
    features: Panels<R>,
}

struct Lane<R> {
    gradients: Gradients<R>,
    correlation: Correlation<Vec<R>>,
}

/// Refuses what would not fit into the memory that is free now, before any of it is taken: parameters, optimiser
/// and the lanes' sums, the weights' layouts, and a desk of activations for each thread. Where the system does not
/// tell its free memory nothing is refused. Otherwise how many of up to `most` runs side by side fit.
pub(super) fn foresee<R: Real>(
    config: &Config,
    sizes: Sizes,
    longest: usize,
    threads: usize,
    most: usize,
) -> Result<usize> {
    let longest = room_for(longest, config);
    // A shard numbers its pairs of utterances by u32.
    if SHARD_SAMPLES.checked_mul(longest * longest).is_none_or(|pairs| u32::try_from(pairs).is_err()) {
        return Err(Error::input(format!(
            "windows of {longest} utterances are longer than can be numbered: take a smaller history_length"
        )));
    }
    let Some(free) = available_memory() else { return Ok(most) };
    let longest = longest as f64;
    let rows = SHARD_SAMPLES as f64 * longest;
    let lanes = config.batch_size.div_ceil(SHARD_SAMPLES).min(LANES) as f64;
    let needed = |size: usize, runs: usize| {
        let d = size as f64;
        // Parameters, two moments, the gradient; both layouts of the weights; a sum a lane.
        let model = Layout::new(Sizes { d: size, ..sizes }).len as f64 * (4.0 + 2.5 + lanes);
        let stack = rows * (16.0 * d + longest);
        let desk = rows * (25.0 * d + longest) + config.stacks as f64 * stack;
        let shards = config.batch_size as f64 * (longest * 3.0 * d + 8.0 * d);
        let (_, own) = shares(threads, runs);
        size_of::<R>() as f64 * runs as f64 * (model + own as f64 * desk + shards)
    };
    let size = config.embedding_size;
    if let Some(fit) = (1..=most).rev().find(|&runs| needed(size, runs) <= free) {
        return Ok(fit);
    }
    let advice = match largest_below(size, |size| needed(size, 1) <= free) {
        0 => "beside the others an embedding_size of 1 would not fit either: make them smaller".to_string(),
        fits => format!("beside the others an embedding_size of {fits} fits; or make one of them smaller"),
    };
    Err(Error::input(format!(
        "the model needs about {:.1} GB and {:.1} GB are free: embedding_size {size}, stacks {}, windows of {longest} \
         (history_length {}) and batch_size {} decide it; {advice}{}",
        needed(size, 1) / 1e9,
        free / 1e9,
        config.stacks,
        config.history_length,
        config.batch_size,
        if threads > 1 { ", or use fewer threads" } else { "" }
    )))
}

/// Length of the windows that memory is taken for where the longest is `longest`: rounded up, so that a conversation
/// followed live does not take it anew with every utterance.
fn room_for(longest: usize, config: &Config) -> usize {
    longest.next_power_of_two().min(config.history_length)
}

/// Bytes that can be taken without swapping, where the system tells.
fn available_memory() -> Option<f64> {
    let information = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = information.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0)
}

/// A panic in a task is passed on by the pool; what a lock protects is then thrown away with the engine.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// A perturbation of the features themselves, `[rows, D]` by shard: history rows role-major, then targets. What the
/// Gram identity never forms; for checking it.
#[derive(Debug, Clone)]
pub struct FeaturePerturbation<R> {
    history: Vec<Vec<R>>,
    target: Vec<Vec<R>>,
}

/// The embeddings of a pass.
#[derive(Clone, Copy)]
enum Perturbed<'a, R> {
    No,
    /// By the gradient of the clean pass, with the batch's squared norm.
    ByGradient(&'a Vec<f64>),
    /// By what is given.
    By(&'a FeaturePerturbation<R>),
}

impl<R: Real> CpuEngine<R> {
    /// A model with fresh parameters from the configuration's seed, and no conversations yet.
    ///
    /// # Errors
    /// When a setting is out of range or the system refuses threads.
    pub fn new(config: &Config, features: usize, classes: usize, threads: usize) -> Result<Self> {
        config.validate()?;
        let sizes = Sizes { features, classes, d: config.embedding_size, stacks: config.stacks };
        let layout = Arc::new(Layout::new(sizes));
        let graph =
            Graph { stacks: config.stacks, interaction: config.interaction, stack_input: config.stack_input };
        let pool = Pool::new(threads.max(1))
            .map_err(|error| Error::System(format!("cannot start {threads} threads: {error}")))?;
        let parameters = layout.initialise(config.seed);
        let zeros = || vec![R::ZERO; layout.len];
        Ok(Self {
            config: config.clone(),
            graph,
            pool,
            standardisation: Standardisation::none(features),
            features: Vec::new(),
            windows: Windows::default(),
            first_moment: zeros(),
            second_moment: zeros(),
            gradient: zeros(),
            losses: Losses::default(),
            batch_norm: vec![0.0],
            clock: PartClock::default(),
            updates: 0,
            scaling: None,
            parameters,
            weights: Weights::default(),
            prepared: false,
            folding: projection::Scratch::default(),
            batch: Batch::default(),
            embedded: Vec::new(),
            shards: Vec::new(),
            workers: Vec::new(),
            room: 0,
            lanes: Vec::new(),
            layout,
        })
    }

    /// The conversations to work on: `features` `[N, D]` in standardised units, and their windows.
    pub fn set_data(&mut self, features: Vec<R>, windows: Windows) {
        assert_eq!(features.len(), windows.len() * self.layout.sizes.features);
        // Conversations may all be of one utterance: the rows have a place all the same.
        let longest = windows.longest().max(1);
        if longest > self.room {
            let longest = room_for(longest, &self.config);
            self.room = longest;
            let (d, classes) = (self.layout.sizes.d, self.layout.sizes.classes);
            let worker = || {
                let worker = Worker::new(Arc::clone(&self.layout), SHARD_SAMPLES, longest);
                let zeros = |len: usize| vec![R::ZERO; len];
                let wide = |len: usize| vec![0.0; len];
                let size = Size {
                    samples: SHARD_SAMPLES,
                    rows: SHARD_SAMPLES * longest,
                    pairs: SHARD_SAMPLES * longest * longest,
                };
                let activations = Activations::new(self.graph, d, classes, size, zeros, zeros, wide);
                Mutex::new(Desk { ops: worker, activations, delta: Vec::new(), features: Panels::default() })
            };
            self.workers = (0..self.pool.threads()).map(|_| worker()).collect();
        }
        self.features = features;
        self.windows = windows;
        // Its capacity is that of the conversations before.
        self.batch = Batch::default();
    }

    /// What [`Engine::set_corpus`] does to features as read; nothing before this is called.
    pub fn set_standardisation(&mut self, standardisation: Standardisation) {
        self.standardisation = standardisation;
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The flat parameters, in [`Layout`]'s order.
    pub fn parameters_mut(&mut self) -> &mut [R] {
        self.prepared = false;
        &mut self.parameters
    }

    /// `[N, D]`, standardised.
    pub fn features_mut(&mut self) -> &mut [R] {
        &mut self.features
    }

    /// The parameters' gradient of the last objective, in [`Layout`]'s order.
    pub fn gradient(&self) -> &[R] {
        &self.gradient
    }

    /// Lays out a batch and whatever depends on the parameters; embeds the batch's utterances.
    fn begin(&mut self, targets: &[u32]) {
        let Sizes { features: width, classes, d, .. } = self.layout.sizes;
        let longest = self.room;
        let size = self.config.batch_size.min(self.windows.len());
        if self.batch.capacity() < size {
            self.batch = Batch::with_capacity(size, SHARD_SAMPLES, longest, self.windows.len());
        }
        self.clock.enter(Part::Layout as usize);
        self.batch.fill(&self.windows, targets);
        self.clock.enter(Part::Folding as usize);
        if !self.prepared {
            let fold = self.graph.stack_input == StackInput::Attention;
            projection::prepare(&self.layout, &self.parameters, fold, &mut self.folding, &mut self.weights);
            self.prepared = true;
        }

        self.clock.enter(Part::Embedding as usize);
        let distinct = self.batch.distinct.len();
        if self.embedded.len() < distinct * d {
            self.embedded.resize(self.windows.len() * d, R::ZERO);
        }
        let (weights, features, utterances) = (&self.weights, &self.features, &self.batch.distinct);
        self.pool.chunks([&mut self.embedded[..distinct * d]], EMBEDDING_BLOCK * d, |i, [to], _| {
            let from = &utterances[i * EMBEDDING_BLOCK..][..to.len() / d];
            embed(&weights.history_embedding, features, width, from, to);
        });

        let shards = self.batch.shards();
        while self.shards.len() < shards.len() {
            self.shards.push(RwLock::new(Sample::default()));
        }
        self.pool.run(shards.len(), |i, _| {
            let (shard, state) = (&shards[i], &mut *write(&self.shards[i]));
            state.reserve(SHARD_SAMPLES, longest, d, classes);
            embed(&weights.target_embedding, features, width, &shard.target, &mut state.target);
        });
    }

    fn lanes(&self) -> usize {
        self.batch.shards().len().min(LANES)
    }

    /// Zeroes the lanes' sums.
    fn clear_gradients(&mut self) {
        self.clock.enter(Part::Sums as usize);
        let d = self.layout.sizes.d;
        while self.lanes.len() < self.lanes() {
            self.lanes.push(Mutex::new(Lane {
                gradients: Gradients::new(Arc::clone(&self.layout)),
                correlation: Correlation { history: vec![R::ZERO; d * d], target: vec![R::ZERO; 4 * d * d] },
            }));
        }
        self.pool.run(self.lanes(), |lane, _| {
            let lane = &mut *lock(&self.lanes[lane]);
            lane.gradients.values.fill(R::ZERO);
            lane.correlation.history.fill(R::ZERO);
            lane.correlation.target.fill(R::ZERO);
        });
    }

    /// One pass over all shards; with `backward` the gradients too. Returns the mean loss.
    fn pass(&self, mask: &Mask, perturbed: Perturbed<R>, backward: bool) -> f64 {
        let shards = self.batch.shards();
        let which = mask.pass as usize;
        let lanes = self.lanes();
        let Sizes { d, classes, features: width, .. } = self.layout.sizes;
        self.pool.run(lanes, |lane, worker| {
            let Desk { ops, activations, .. } = &mut *lock(&self.workers[worker]);
            let mut sums = backward.then(|| lock(&self.lanes[lane]));
            for i in (lane..shards.len()).step_by(lanes) {
                let shard = &shards[i];
                let state = &mut *write(&self.shards[i]);
                let Sample { target, delta, perturbation, logits, loss, .. } = state;
                match perturbed {
                    Perturbed::No => {}
                    Perturbed::ByGradient(batch_norm) => {
                        ops.enter(Part::Perturbation);
                        ops.perturb(
                            shard,
                            self.config.adversarial_norm,
                            self.config.epsilon,
                            batch_norm,
                            perturbation,
                        );
                    }
                    Perturbed::By(features) => {
                        let weights = &self.weights;
                        for (linear, from, to, n) in [
                            (&weights.history_embedding, &features.history[i], &mut perturbation.history, d),
                            (&weights.target_embedding, &features.target[i], &mut perturbation.target, 2 * d),
                        ] {
                            let (m, b) = (from.len() / width, Right::Panels(&linear.weight.forward));
                            let (a, start) = (View::rows(from, width), Start::Zero);
                            Product { m, k: width, n, a, index: None, b, c: to, c_row: n, start }.compute();
                        }
                    }
                }
                let displaced = (mask.pass == Pass::Adversarial).then_some(&*perturbation);
                let table = (&self.embedded, &*target);
                self.graph.forward(ops, shard, &self.weights, mask, table, displaced, activations);
                ops.enter(Part::Rest);
                let size = shard.samples() * classes;
                logits[which][..size].copy_from_slice(&activations.logits[..size]);
                let last = &activations.stacks[self.graph.stacks - 1].attention.readout.a;
                state.attention[..shard.rows()].copy_from_slice(&last[..shard.rows()]);
                let Some(sums) = sums.as_deref_mut() else { continue };
                let [clean, adversarial] = delta;
                let (d_x, d_q) = if mask.pass == Pass::Clean { &mut *clean } else { &mut *adversarial };
                let batch = self.batch.len();
                let (weights, embeddings) = (&self.weights, (d_x, d_q));
                let gradients = &mut sums.gradients;
                self.graph.backward(ops, shard, weights, mask, batch, activations, gradients, embeddings);
                ops.enter(Part::Perturbation);
                let samples = shard.samples();
                loss[which][..samples].copy_from_slice(&activations.loss[..samples]);
                if mask.pass == Pass::Clean {
                    ops.feature_norms(shard, weights, &clean.0, &clean.1, perturbation);
                } else {
                    let (clean, adversarial) = ((&clean.0, &clean.1), (&adversarial.0, &adversarial.1));
                    let correlation = &mut sums.correlation;
                    ops.perturbed_features_gradient(shard, perturbation, clean, adversarial, correlation);
                }
                ops.enter(Part::Rest);
            }
        });
        let mut sum = 0.0;
        for (i, shard) in shards.iter().enumerate() {
            sum += read(&self.shards[i]).loss[which][..shard.samples()].iter().sum::<f64>();
        }
        sum / self.batch.len() as f64
    }

    /// The objective over `targets` and its gradient, in `self.gradient`.
    fn evaluate(&mut self, targets: &[u32], mask: Mask) -> StepLoss {
        self.begin(targets);
        self.clear_gradients();
        self.clock.enter(Part::Rest as usize);
        let clean = self.pass(&mask, Perturbed::No, true);
        let adversarial = self.config.adversarial.then(|| {
            let mut batch = std::mem::take(&mut self.batch_norm);
            batch[0] = self.squared_norm();
            let mask = Mask { pass: Pass::Adversarial, ..mask };
            let loss = self.pass(&mask, Perturbed::ByGradient(&batch), true);
            self.batch_norm = batch;
            loss
        });
        self.clock.enter(Part::EmbeddingGradients as usize);
        self.embedding_gradients();
        self.reduce();
        StepLoss { clean, adversarial }
    }

    /// Of the clean loss's gradient over all features that the batch reads.
    fn squared_norm(&self) -> f64 {
        let mut sum = 0.0;
        for (i, shard) in self.batch.shards().iter().enumerate() {
            sum += read(&self.shards[i]).perturbation.squared_norm[..shard.samples()].iter().sum::<f64>();
        }
        sum
    }

    fn passes(&self) -> usize {
        1 + usize::from(self.config.adversarial)
    }

    /// Sums the gradients at the embeddings by utterance; each lane takes its share of the utterances, and of the
    /// shards for the targets.
    fn embedding_gradients(&self) {
        let shards = self.batch.shards();
        let lanes = self.lanes();
        let Sizes { d, features: width, .. } = self.layout.sizes;
        let distinct = &self.batch.distinct;
        // The most that a lane can have of any batch of this size, at every desk: a warm step then takes no memory, whatever
        // its windows share and whoever runs a lane.
        let most = self.windows.len().min(self.batch.len() * self.windows.longest()).div_ceil(lanes);
        for desk in &self.workers {
            let Desk { delta, features, .. } = &mut *lock(desk);
            features.reserve(most.max(SHARD_SAMPLES) * width.next_multiple_of(PANEL));
            delta.clear();
            delta.reserve((most * d).max(SHARD_SAMPLES * 2 * d));
        }
        self.pool.run(lanes, |lane, worker| {
            let Lane { gradients, .. } = &mut *lock(&self.lanes[lane]);
            let Desk { delta, features: panels, .. } = &mut *lock(&self.workers[worker]);
            let (from, to) = (lane * distinct.len() / lanes, (lane + 1) * distinct.len() / lanes);
            delta.clear();
            delta.resize(((to - from) * d).max(SHARD_SAMPLES * 2 * d), R::ZERO);
            let rows = &mut delta[..(to - from) * d];
            for (i, shard) in shards.iter().enumerate() {
                let state = read(&self.shards[i]);
                for (d_x, _) in &state.delta[..self.passes()] {
                    sum_by_utterance(shard, d, d_x, from, rows);
                }
            }
            let place = self.layout.history_embedding;
            weight_gradient(&self.features, width, &distinct[from..to], rows, panels, gradients, place);
            let place = self.layout.target_embedding;
            for i in (lane..shards.len()).step_by(lanes) {
                let (shard, state) = (&shards[i], read(&self.shards[i]));
                let sum = &mut delta[..shard.samples() * 2 * d];
                sum.copy_from_slice(&state.delta[0].1[..sum.len()]);
                if self.config.adversarial {
                    sum.iter_mut().zip(&state.delta[1].1).for_each(|(sum, &x)| *sum += x);
                }
                weight_gradient(&self.features, width, &shard.target, sum, panels, gradients, place);
            }
        });
    }

    /// Sums the lanes and turns the sums into the parameters' gradient.
    fn reduce(&mut self) {
        self.clock.enter(Part::Sums as usize);
        let lanes = &self.lanes[..self.lanes()];
        self.pool.chunks([&mut self.gradient], UPDATE_BLOCK, |i, [to], _| {
            to.fill(R::ZERO);
            for lane in lanes {
                let lane = lock(lane);
                let from = &lane.gradients.values[i * UPDATE_BLOCK..][..to.len()];
                to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
            }
        });
        self.clock.enter(Part::Perturbation as usize);
        let width = self.layout.sizes.features;
        if let (true, Some((first, rest))) = (self.config.adversarial, lanes.split_first()) {
            let Correlation { history, target } = &mut lock(first).correlation;
            for lane in rest {
                let other = &lock(lane).correlation;
                history.iter_mut().zip(&other.history).for_each(|(to, &from)| *to += from);
                target.iter_mut().zip(&other.target).for_each(|(to, &from)| *to += from);
            }
            for (place, correlation) in
                [(self.layout.history_embedding, history), (self.layout.target_embedding, target)]
            {
                let range = self.layout.specs[place.weight].range();
                let out = self.layout.specs[place.bias].len();
                Product {
                    m: out,
                    k: out,
                    n: width,
                    a: View::rows(correlation, out),
                    index: None,
                    b: Right::Rows(&self.parameters[range.clone()], width),
                    c: &mut self.gradient[range],
                    c_row: width,
                    start: Start::Add,
                }
                .compute();
            }
        }
        self.clock.enter(Part::Folding as usize);
        let fold = self.graph.stack_input == StackInput::Attention;
        projection::unfold(&self.layout, &self.parameters, fold, &mut self.folding, &mut self.gradient);
    }

    fn no_dropout(&self) -> Mask {
        Mask { seed: self.config.seed, step: 0, pass: Pass::Clean, keep: 1.0 }
    }

    /// The mask of an update.
    pub fn mask(&self, step: u64) -> Mask {
        Mask { seed: self.config.seed, step, pass: Pass::Clean, keep: self.config.dropout_keep }
    }

    /// The objective over `targets` under `mask`, with its gradient in [`CpuEngine::gradient`].
    pub fn differentiate(&mut self, targets: &[u32], mask: Mask) -> StepLoss {
        self.evaluate(targets, mask)
    }

    /// The objective over `targets` under `mask` with a fixed perturbation of the features, computed plainly: the
    /// perturbed features are embedded, no Gram matrix is used. No gradient.
    pub fn plain_loss(
        &mut self,
        targets: &[u32],
        mask: Mask,
        perturbation: &FeaturePerturbation<R>,
    ) -> StepLoss {
        self.begin(targets);
        let losses = |engine: &Self, pass| {
            let shards = engine.batch.shards();
            let classes = engine.layout.sizes.classes;
            let mut sum = 0.0;
            for (i, shard) in shards.iter().enumerate() {
                let logits = &read(&engine.shards[i]).logits[pass as usize];
                for (logits, &label) in logits.chunks_exact(classes).zip(&shard.label) {
                    let largest = logits.iter().fold(f64::NEG_INFINITY, |most, x| most.max(x.to_f64()));
                    let total: f64 = logits.iter().map(|x| (x.to_f64() - largest).exp()).sum();
                    sum += largest + total.ln() - logits[label as usize].to_f64();
                }
            }
            sum / engine.batch.len() as f64
        };
        self.pass(&mask, Perturbed::No, false);
        let clean = losses(self, Pass::Clean);
        let adversarial = self.config.adversarial.then(|| {
            self.pass(&Mask { pass: Pass::Adversarial, ..mask }, Perturbed::By(perturbation), false);
            losses(self, Pass::Adversarial)
        });
        StepLoss { clean, adversarial }
    }

    /// The perturbation of the features that the last objective's adversarial pass stood for, `eps g / ||g||`,
    /// computed D-wide.
    pub fn feature_perturbation(&self) -> FeaturePerturbation<R> {
        let Sizes { d, features: width, .. } = self.layout.sizes;
        let expand = |place: Linear, delta: &[R], scale: &[R], rows: usize, n: usize| {
            let weight = &self.parameters[self.layout.specs[place.weight].range()];
            let mut to = vec![R::ZERO; rows * width];
            let (a, b) = (View::rows(delta, n), Right::Rows(weight, width));
            let (m, k, start) = (rows, n, Start::Zero);
            Product { m, k, n: width, a, index: None, b, c: &mut to, c_row: width, start }.compute();
            for (row, &scale) in to.chunks_exact_mut(width).zip(scale) {
                row.iter_mut().for_each(|x| *x = *x * scale);
            }
            to
        };
        let mut all = FeaturePerturbation { history: Vec::new(), target: Vec::new() };
        for (i, shard) in self.batch.shards().iter().enumerate() {
            let state = read(&self.shards[i]);
            let (d_x, d_q) = &state.delta[0];
            let Perturbation { history_scale, target_scale, .. } = &state.perturbation;
            all.history.push(expand(self.layout.history_embedding, d_x, history_scale, shard.rows(), d));
            all.target.push(expand(self.layout.target_embedding, d_q, target_scale, shard.samples(), 2 * d));
        }
        all
    }

    /// [`CpuEngine::feature_perturbation`] sample by sample in the order the targets were given, D-wide rows: the
    /// window in time order, then the target.
    pub fn perturbation_by_sample(&self) -> Vec<Vec<f64>> {
        let width = self.layout.sizes.features;
        let all = self.feature_perturbation();
        let mut samples = vec![Vec::new(); self.batch.len()];
        for (i, shard) in self.batch.shards().iter().enumerate() {
            for s in 0..shard.samples() {
                let to = &mut samples[shard.slot[s] as usize];
                for row in shard.range(s) {
                    let own = shard.own[row] as usize;
                    to.extend(all.history[i][own * width..][..width].iter().map(|x| x.to_f64()));
                }
                to.extend(all.target[i][s * width..][..width].iter().map(|x| x.to_f64()));
            }
        }
        samples
    }

    /// The last objective's gradient at the standardised features, `[N, D]`, the perturbation held constant.
    pub fn feature_gradient(&self) -> Vec<f64> {
        let Sizes { d, features: width, .. } = self.layout.sizes;
        let mut gradient = vec![0.0; self.features.len()];
        let mut add = |place: Linear, utterance: u32, delta: &[R]| {
            let weight = &self.parameters[self.layout.specs[place.weight].range()];
            let to = &mut gradient[utterance as usize * width..][..width];
            for (&delta, weight) in delta.iter().zip(weight.chunks_exact(width)) {
                to.iter_mut().zip(weight).for_each(|(to, &w)| *to += delta.to_f64() * w.to_f64());
            }
        };
        for (i, shard) in self.batch.shards().iter().enumerate() {
            for (d_x, d_q) in &read(&self.shards[i]).delta[..self.passes()] {
                for (delta, &slot) in d_x.chunks_exact(d).zip(&shard.embedded) {
                    add(self.layout.history_embedding, self.batch.distinct[slot as usize], delta);
                }
                for (delta, &target) in d_q.chunks_exact(2 * d).zip(&shard.target) {
                    add(self.layout.target_embedding, target, delta);
                }
            }
        }
        gradient
    }

    /// Values of a shard's samples in the order the targets were given: `width` for each.
    fn by_slot(&self, width: usize, values: impl Fn(&Sample<R>, usize) -> f64) -> Vec<f64> {
        let mut all = vec![0.0; self.batch.len() * width];
        for (i, shard) in self.batch.shards().iter().enumerate() {
            let state = read(&self.shards[i]);
            for (s, &slot) in shard.slot.iter().enumerate() {
                for j in 0..width {
                    all[slot as usize * width + j] = values(&state, s * width + j);
                }
            }
        }
        all
    }
}

impl<R: Real> Sample<R> {
    /// Takes memory for the largest shard, once.
    fn reserve(&mut self, samples: usize, longest: usize, d: usize, classes: usize) {
        let rows = samples * longest;
        let grow = |buffer: &mut Vec<R>, len: usize| {
            if buffer.len() < len {
                buffer.resize(len, R::ZERO);
            }
        };
        grow(&mut self.target, samples * 2 * d);
        for (d_x, d_q) in &mut self.delta {
            grow(d_x, rows * d);
            grow(d_q, samples * 2 * d);
        }
        let Perturbation { history, target, history_scale, target_scale, squared_norm } =
            &mut self.perturbation;
        grow(history, rows * d);
        grow(target, samples * 2 * d);
        grow(history_scale, rows);
        grow(target_scale, samples);
        squared_norm.resize(samples, 0.0);
        for (logits, loss) in self.logits.iter_mut().zip(&mut self.loss) {
            grow(logits, samples * classes);
            loss.resize(samples, 0.0);
        }
        grow(&mut self.attention, rows);
    }
}

/// Of one run.
impl<R: Real> Engine for CpuEngine<R> {
    fn runs(&self) -> usize {
        1
    }

    fn begin(
        &mut self,
        _run: usize,
        config: &Config,
        standardisation: &Standardisation,
        corpus: &Corpus,
    ) -> Result<()> {
        assert!(self.config.same_shape(config), "a run of another shape");
        self.config = config.clone();
        self.parameters = self.layout.initialise(config.seed);
        self.first_moment.fill(R::ZERO);
        self.second_moment.fill(R::ZERO);
        self.updates = 0;
        self.scaling = None;
        self.losses = Losses::default();
        self.prepared = false;
        self.set_standardisation(standardisation.clone());
        self.set_corpus(corpus)
    }

    fn train_steps(&mut self, steps: &[Option<Step>]) -> Result<()> {
        let &[Some(Step { targets, number, learning_rate })] = steps else { return Ok(()) };
        check_targets(&self.windows, targets, true)?;
        let loss = self.evaluate(targets, self.mask(number));
        self.clock.enter(Part::Adam as usize);
        self.updates += 1;
        self.prepared = false;
        let step = adam::Step {
            learning_rate,
            beta1: self.config.adam_beta1,
            beta2: self.config.adam_beta2,
            epsilon: self.config.adam_epsilon,
            number: self.updates - self.scaling.map_or(0, |scaling| scaling.skipped.min(self.updates)),
        };
        let gradient = &self.gradient;
        let state = [&mut self.parameters[..], &mut self.first_moment, &mut self.second_moment];
        self.pool.chunks(state, UPDATE_BLOCK, |i, [parameters, first, second], _| {
            let gradient = &gradient[i * UPDATE_BLOCK..][..parameters.len()];
            adam::update(step, gradient, parameters, first, second);
        });
        self.clock.enter(Part::Rest as usize);
        self.losses.add(loss, targets.len());
        Ok(())
    }

    fn time_steps(&mut self, steps: &[Option<Step>]) -> Result<f64> {
        let started = Instant::now();
        self.train_steps(steps)?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn profile_steps(&mut self, steps: &[Option<Step>]) -> Result<Vec<Piece>> {
        self.clock.start();
        self.workers.iter().for_each(|desk| lock(desk).ops.clock.start());
        let stepped = self.train_steps(steps);
        let mut seconds = self.clock.stop();
        // Of the time of the passes, which all threads have, each spends its own way; what is left it waits.
        let threads = self.workers.len().max(1) as f64;
        for desk in &self.workers {
            let worked = lock(desk).ops.clock.stop();
            for part in Part::all().into_iter().filter(|&part| part != Part::Rest) {
                seconds[part as usize] += worked[part as usize] / threads;
                seconds[Part::Rest as usize] -= worked[part as usize] / threads;
            }
        }
        stepped?;
        let flops = by_part(self.graph, self.layout.sizes, self.config.adversarial, &self.batch);
        let piece = |part: Part| Piece {
            part,
            kernel: None,
            seconds: seconds[part as usize].max(0.0),
            work: Work::computing(flops[part as usize]),
        };
        Ok(Part::all().into_iter().map(piece).collect())
    }

    fn losses_of(&mut self, _run: usize, _wait: bool) -> Result<Option<Losses>> {
        Ok(Some(self.losses))
    }

    fn set_losses(&mut self, _run: usize, losses: Losses) -> Result<()> {
        self.losses = losses;
        Ok(())
    }

    fn objective(&mut self, targets: &[u32]) -> Result<Objective> {
        check_targets(&self.windows, targets, true)?;
        let loss = self.evaluate(targets, self.no_dropout());
        let classes = self.layout.sizes.classes;
        Ok(Objective {
            loss,
            logits: self.by_slot(classes, |state, i| state.logits[0][i].to_f64()),
            logits_adversarial: if self.config.adversarial {
                self.by_slot(classes, |state, i| state.logits[1][i].to_f64())
            } else {
                Vec::new()
            },
            gradient: tensors(&self.layout, &self.gradient),
            input_gradient_norm: self.by_slot(1, |state, s| state.perturbation.squared_norm[s].sqrt()),
        })
    }

    fn evaluate_each(
        &mut self,
        targets: &[&[u32]],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Vec<Evaluation>>> {
        let targets = targets.first().copied().unwrap_or_default();
        let classes = self.layout.sizes.classes;
        let mut confusion = Confusion::new(classes);
        let mut sum = 0.0;
        for targets in targets.chunks(self.config.batch_size.max(1)) {
            if interrupted() {
                return Ok(None);
            }
            check_targets(&self.windows, targets, true)?;
            let logits = self.predict(targets)?.logits;
            for (&target, logits) in targets.iter().zip(logits.chunks_exact(classes.max(1))) {
                let Some(label) = self.windows.label(target) else { continue };
                sum += cross_entropy(logits, label as usize);
                confusion.add(label as usize, largest(logits));
            }
        }
        Ok(Some(vec![Evaluation { loss: sum / targets.len().max(1) as f64, confusion }]))
    }

    fn predict_each(&mut self, targets: &[&[u32]]) -> Result<Vec<Predictions>> {
        let targets = match targets {
            &[targets] if !targets.is_empty() => targets,
            _ => return Ok(vec![Predictions::default()]),
        };
        check_targets(&self.windows, targets, false)?;
        self.begin(targets);
        self.pass(&self.no_dropout(), Perturbed::No, false);
        let mut history = vec![0; targets.len()];
        let mut place = vec![(0, 0..0); targets.len()];
        for (i, shard) in self.batch.shards().iter().enumerate() {
            for (s, &slot) in shard.slot.iter().enumerate() {
                history[slot as usize] = shard.range(s).len();
                place[slot as usize] = (i, shard.range(s));
            }
        }
        let mut attention = Vec::new();
        for (i, range) in place {
            attention.extend(read(&self.shards[i]).attention[range].iter().map(|x| x.to_f64()));
        }
        let classes = self.layout.sizes.classes;
        let logits = self.by_slot(classes, |state, i| state.logits[0][i].to_f64());
        Ok(vec![Predictions { logits, attention, history }])
    }

    fn set_corpus(&mut self, corpus: &Corpus) -> Result<()> {
        let width = self.layout.sizes.features;
        let Standardisation { mean, deviation } = &self.standardisation;
        if [corpus.width(), mean.len(), deviation.len()] != [width; 3] {
            return Err(Error::input(format!(
                "{}: its features are {} wide; the model reads {width}",
                corpus.source,
                corpus.width()
            )));
        }
        let windows = Windows::new(corpus, self.config.history_length);
        if windows.longest() > self.room {
            foresee::<R>(&self.config, self.layout.sizes, windows.longest(), self.pool.threads(), 1)?;
        }
        let mut features = vec![R::ZERO; corpus.features.len()];
        let block = STANDARDISED_BLOCK * width.max(1);
        self.pool.chunks([&mut features], block, |i, [to], _| {
            let from = corpus.features[i * block..][..to.len()].chunks_exact(width);
            for (to, from) in to.chunks_exact_mut(width).zip(from) {
                let scales = mean.iter().zip(deviation);
                for ((to, x), (mean, deviation)) in to.iter_mut().zip(from).zip(scales) {
                    *to = R::from_f64((x - mean) / deviation);
                }
            }
        });
        self.set_data(features, windows);
        Ok(())
    }

    fn flops(&self) -> f64 {
        flops(self.graph, self.layout.sizes, self.config.adversarial, &self.batch)
    }

    fn state_of(&mut self, _run: usize) -> Result<State> {
        Ok(State {
            parameters: tensors(&self.layout, &self.parameters),
            first_moment: tensors(&self.layout, &self.first_moment),
            second_moment: tensors(&self.layout, &self.second_moment),
            updates: self.updates,
            scaling: self.scaling,
        })
    }

    fn restore_run(&mut self, _run: usize, state: &State) -> Result<()> {
        let parameters = flatten(&self.layout, &state.parameters, "the parameters")?;
        let first = flatten(&self.layout, &state.first_moment, "the first moments")?;
        let second = flatten(&self.layout, &state.second_moment, "the second moments")?;
        (self.parameters, self.first_moment, self.second_moment) = (parameters, first, second);
        self.updates = state.updates;
        self.scaling = state.scaling;
        self.prepared = false;
        Ok(())
    }
}
