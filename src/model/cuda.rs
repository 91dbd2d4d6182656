//! The CUDA engine: the graph on a whole batch, in a card's memory.
//!
//! A step is one copy of the batch's indices to the card and one launch of a captured graph. Features lie on the card, and so do
//! parameters, optimiser and the sums of losses; nothing comes back before it is asked for.
//!
//! **Memory.** One allocation holds everything that a model has of its own, laid out for the largest batch: first what lives on
//! from step to step (the state), then the batch's indices, then what a step works with. A larger batch or other conversations
//! lay it out anew and take the state along.
//!
//! **Runs.** Every launch and every buffer has an axis of runs: models of one shape side by side, each with its own stretch of the
//! memory. A step copies the indices of all runs at once and launches the graph once for all; a run that has no batch says so in
//! its header, and every kernel leaves it alone. Features are standardised once into each run's stretch: a seed holds out
//! conversations of its own, so that its standardisation is its own too, and what is rounded once is rounded as it is alone.
//!
//! **Determinism.** No kernel adds floating-point numbers in an order that depends on who comes first, so the same seed gives
//! the same bits.

use std::sync::Arc;

use super::config::{Config, Precision, StackInput};
use super::flops::flops;
use super::graph::{Activations, Graph, Size};
use super::{
    Engine, Losses, Objective, Piece, Predictions, Scaling, State, Step, StepLoss, check_targets, flatten,
    largest_below, tensors,
};
use crate::data::Corpus;
use crate::data::batch::Batch;
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::device::cuda::capture::Captured;
use crate::device::cuda::card::{Card, failed};
use crate::device::cuda::memory::{Buffer, Element, LARGEST_STRIDE, Memory, Pinned, Plan, Range};
use crate::device::cuda::record::Recorder;
use crate::error::{Error, Result};
use crate::metrics::{Confusion, Evaluation};
use crate::ops::Backend;
use crate::ops::adam::{Optimiser, Rates};
use crate::ops::adversarial::{Adversarial, Perturbation};
use crate::ops::cuda::batch::{Capacity, Header, Indices};
use crate::ops::cuda::{Copies, Counts, Folded, KERNELS, Places, Worker};
use crate::ops::dropout::{Mask, Pass};
use crate::ops::embedding::{Correlation, Embedding};
use crate::ops::parameters::{Layout, Linear, Sizes};
use crate::ops::part::Part;

/// Rows of features that are standardised at once.
const STANDARDISED: usize = 4096;

/// Copies of the batch's indices on their way: while the card reads one, the next is written.
const STAGES: usize = 2;

pub struct CudaEngine {
    /// What runs have of their own counts in [`Run`] only.
    config: Config,
    graph: Graph,
    layout: Arc<Layout>,
    card: Arc<Card>,
    windows: Windows,
    runs: Vec<Run>,
    place: Place,
}

/// What the host knows of a run.
struct Run {
    config: Config,
    standardisation: Standardisation,
    batch: Batch,
    /// Updates made; the card counts them too.
    updates: u64,
    /// Whose losses are summed up.
    utterances: u64,
}

/// A batch of a run.
#[derive(Clone, Copy)]
struct Sent<'a> {
    targets: &'a [u32],
    mask: Mask,
    learning_rate: f64,
}

/// What memory is laid out for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    runs: usize,
    /// Of the conversations.
    utterances: usize,
    /// Of a run's batches.
    capacity: Capacity,
}

/// Models laid out in a card's memory.
struct Place {
    memory: Memory,
    room: Room,
    /// Bytes from a run's stretch to the next one's.
    run_stride: usize,
    state: StatePlace,
    /// `[N, D]`, standardised.
    features: Buffer,
    work: Work,
    indices: Indices,
    worker: Worker,
    stages: Vec<Stage>,
    next_stage: usize,
    /// What has been captured, each at its first batch.
    captured: CapturedWork,
}

/// Work that is launched as a whole.
#[derive(Default)]
struct CapturedWork {
    step: Option<Captured>,
    evaluation: Option<Captured>,
}

/// Features as they were read, on their way to being standardised: on the card only meanwhile.
struct Raw {
    /// `[STANDARDISED, D]`, float64.
    piece: Buffer,
    /// `[D]`, float64.
    mean: Buffer,
    deviation: Buffer,
    /// Bytes of all together.
    bytes: usize,
}

/// What a model keeps from step to step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatePlace {
    pub parameters: Buffer,
    pub optimiser: Optimiser,
    /// `[2]`, float64: sums of losses of both passes.
    pub losses: Buffer,
    /// `[1]`, float64, and `[C, C]`: sum of losses and confusion of an evaluation so far.
    pub evaluated: (Buffer, Buffer),
    /// Bytes of all together.
    bytes: usize,
}

/// What a step works with.
struct Work {
    /// Everything that a step adds to and that is zero before: one stretch from here ..
    zeroed: Buffer,
    /// .. of so many bytes.
    zeroed_bytes: usize,
    correlation: Correlation<Buffer>,
    /// `[distinct, d]` and `[S, 2d]`
    embedded: (Buffer, Buffer),
    activations: Activations<Buffer, Buffer>,
    /// By pass, gradients at the embeddings: `[R, d]` role-major and `[S, 2d]`.
    delta: [(Buffer, Buffer); 2],
    perturbation: Perturbation<Buffer, Buffer>,
    /// `[1]`, float64: the sum of the squared norms.
    batch_norm: Buffer,
    /// `[distinct, d]`
    by_utterance: Buffer,
    /// By pass, `[S, C]`.
    logits: [Buffer; 2],
    gradient: Buffer,
}

/// A copy of the indices in pinned memory, and when the card was done with it.
struct Stage {
    words: Pinned,
    read: Option<cudarc::driver::CudaEvent>,
}

/// How a step is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Loss, gradient, update.
    Train,
    /// Loss and gradient.
    Objective,
    /// Loss and confusion of the clean pass, added to those of the batches before.
    Evaluate,
    /// Logits of the clean pass.
    Predict,
}

impl CudaEngine {
    /// A model with fresh parameters from the configuration's seed on card `index`, over the conversations of `corpus`.
    pub fn new(
        config: &Config,
        corpus: &Corpus,
        standardisation: &Standardisation,
        index: usize,
    ) -> Result<Self> {
        let mut engine = CudaEngine::room(config, corpus, index, 1)?;
        engine.begin(0, config, standardisation, corpus)?;
        Ok(engine)
    }

    /// Room for `runs` models of the configuration's shape on card `index`, over the conversations of `corpus`.
    pub fn room(config: &Config, corpus: &Corpus, index: usize, runs: usize) -> Result<Self> {
        config.validate()?;
        let card = Card::open(index, KERNELS)?;
        let sizes = Sizes {
            features: corpus.width(),
            classes: corpus.classes.len(),
            d: config.embedding_size,
            stacks: config.stacks,
        };
        check_sizes(sizes, config.history_length)?;
        let layout = Arc::new(Layout::new(sizes));
        let graph =
            Graph { stacks: config.stacks, interaction: config.interaction, stack_input: config.stack_input };
        let windows = Windows::new(corpus, config.history_length);
        let capacity = capacity(&windows, config.batch_size);
        let room = Room { runs, utterances: corpus.len(), capacity };
        let place = Place::new(&card, config, graph, &layout, room)?;
        let run = || Run {
            config: config.clone(),
            standardisation: Standardisation::none(sizes.features),
            batch: Batch::default(),
            updates: 0,
            utterances: 0,
        };
        let runs = (0..runs).map(|_| run()).collect();
        Ok(CudaEngine { config: config.clone(), graph, card, windows, runs, place, layout })
    }

    fn attended(&self) -> bool {
        self.config.stack_input == StackInput::Attention
    }

    fn mask(&self, run: usize, step: u64, keep: f64) -> Mask {
        Mask { seed: self.runs[run].config.seed, step, pass: Pass::Clean, keep }
    }

    /// Lays the memory out anew where the batches would not fit.
    fn reserve(&mut self, batches: &[Option<Sent>]) -> Result<()> {
        let have = self.place.room.capacity;
        let mut all = have;
        for Sent { targets, .. } in batches.iter().flatten() {
            let mut needed = Capacity { samples: targets.len(), rows: 0, pairs: 0, distinct: 0, longest: 0 };
            for &target in *targets {
                let n = self.windows.window(target).len();
                needed.rows += n;
                needed.pairs += n * n;
                needed.longest = needed.longest.max(n);
            }
            needed.distinct = needed.rows.min(self.windows.len());
            all = join(all, needed);
        }
        if all == have {
            return Ok(());
        }
        check_capacity(all, self.layout.sizes.d)?;
        self.relocate(Room { capacity: all, ..self.place.room })
    }

    /// Moves all runs to memory laid out for `room`.
    fn relocate(&mut self, room: Room) -> Result<()> {
        let runs = 0..self.runs.len();
        let mut kept = Vec::with_capacity(runs.len());
        for run in runs.clone() {
            let Place { memory, state, run_stride, features, .. } = &self.place;
            let state: Vec<u8> =
                memory.read(state.parameters.of_run(run, *run_stride).address, state.bytes)?;
            let features: Vec<f32> = memory.read(features.of_run(run, *run_stride).address, features.len)?;
            kept.push((state, features));
        }
        // Both at once may not fit: the old one goes first.
        self.place = {
            let place = std::mem::replace(&mut self.place, Place::nothing(&self.card)?);
            drop(place);
            Place::new(&self.card, &self.config, self.graph, &self.layout, room)?
        };
        for (run, (state, features)) in runs.zip(kept) {
            let Place { memory, state: place, run_stride, features: to, .. } = &self.place;
            memory.write(place.parameters.of_run(run, *run_stride).address, &state)?;
            let fit = features.len().min(to.len);
            memory.write(to.of_run(run, *run_stride).address, &features[..fit])?;
        }
        Ok(())
    }

    /// Fills the indices of the batches, by run, and sends them on their way.
    fn send(&mut self, batches: &[Option<Sent>]) -> Result<()> {
        self.reserve(batches)?;
        let samples = self.place.room.capacity.samples;
        let (longest, utterances) = (self.windows.longest().max(1), self.windows.len());
        for (run, batch) in self.runs.iter_mut().zip(batches) {
            let Some(Sent { targets, .. }) = batch else { continue };
            if run.batch.capacity() < samples {
                run.batch = Batch::with_capacity(samples, usize::MAX, longest, utterances);
            }
            run.batch.fill(&self.windows, targets);
        }
        let filled = self.runs.iter().zip(batches).map(|(run, batch)| {
            let Sent { mask, learning_rate, .. } = (*batch)?;
            let threshold = mask.threshold();
            let header = Header {
                key: mask.key(),
                step: mask.step as u32,
                threshold: threshold.unwrap_or(0),
                scale: if threshold.is_some() { (1.0 / mask.keep) as f32 } else { 1.0 },
                epsilon: run.config.epsilon as f32,
                learning_rate: learning_rate as f32,
                ..Header::default()
            };
            Some((&run.batch, header))
        });
        self.place.send(&self.card, filled)
    }

    /// Puts a step's work into the stream. Nothing in it is of one run or one batch: those are in the headers.
    fn launch(&mut self, purpose: Purpose) -> Result<()> {
        let attended = self.attended();
        let runs = self.runs.len();
        let Place { memory, state, work, indices, worker, run_stride, features, .. } = &mut self.place;
        let features = *features;
        let backward = matches!(purpose, Purpose::Train | Purpose::Objective);
        if backward {
            let zeroed =
                Range { address: work.zeroed.address, bytes: work.zeroed_bytes, run_stride: *run_stride };
            memory.clear_runs(zeroed, runs).map_err(|error| failed("clear its memory", error))?;
        }
        worker.enter(Part::Folding);
        worker.fold(indices, attended);
        worker.enter(Part::Embedding);
        let (history, target) = work.embedded;
        worker.embed(indices, features, history, target);
        let passes = if self.config.adversarial && backward { 2 } else { 1 };
        // Of a mask a card takes the pass alone, and of a batch its own size.
        let mask = Mask { seed: 0, step: 0, pass: Pass::Clean, keep: 1.0 };
        let samples = 0;
        for pass in [Pass::Clean, Pass::Adversarial].into_iter().take(passes) {
            let which = pass as usize;
            let mask = Mask { pass, ..mask };
            let a = &mut work.activations;
            // The logits of each pass have a place of their own.
            a.logits = work.logits[which];
            let moved = if pass == Pass::Adversarial {
                let Config { adversarial_norm, epsilon, .. } = self.config;
                worker.enter(Part::Perturbation);
                worker.batch_norm(indices, work.perturbation.squared_norm, work.batch_norm);
                worker.perturb(indices, adversarial_norm, epsilon, &work.batch_norm, &mut work.perturbation);
                Some(&work.perturbation)
            } else {
                None
            };
            self.graph.forward(worker, indices, &(), &mask, (&history, &target), moved, a);
            if !backward {
                continue;
            }
            let (d_x, d_q) = &mut work.delta[which];
            self.graph.backward(worker, indices, &(), &mask, samples, a, &mut (), (d_x, d_q));
            worker.enter(Part::ClassifierBackward);
            worker.sum_losses(indices, a.loss, a.logits, state.losses_of(pass), None);
            worker.enter(Part::Perturbation);
            let ((clean_x, clean_q), (moved_x, moved_q)) = (work.delta[0], work.delta[1]);
            if pass == Pass::Clean {
                worker.feature_norms(indices, &(), &clean_x, &clean_q, &mut work.perturbation);
            } else {
                let (clean, moved) = ((&clean_x, &clean_q), (&moved_x, &moved_q));
                worker.perturbed_features_gradient(
                    indices,
                    &work.perturbation,
                    clean,
                    moved,
                    &mut work.correlation,
                );
            }
        }
        if !backward {
            if purpose == Purpose::Evaluate {
                let (loss, logits) = (work.activations.loss, work.logits[0]);
                let (sum, confusion) = state.evaluated;
                worker.losses(indices, logits, loss, None);
                worker.sum_losses(indices, loss, logits, sum, Some(confusion));
            }
            return worker.finish();
        }
        let ((clean_x, clean_q), (moved_x, moved_q)) = (work.delta[0], work.delta[1]);
        let second = (passes == 2).then_some(moved_x);
        worker.enter(Part::EmbeddingGradients);
        worker.sum_by_utterance(indices, clean_x, second, work.by_utterance);
        if passes == 2 {
            worker.add_states(indices, moved_q, clean_q);
        }
        worker.embedding_gradients(indices, features, work.by_utterance, clean_q);
        if passes == 2 {
            worker.enter(Part::Perturbation);
            worker.correlation_gradients(indices, &work.correlation);
        }
        worker.enter(Part::Folding);
        worker.unfold(indices, attended);
        if purpose == Purpose::Train {
            let Config { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: epsilon, .. } = self.config;
            worker.enter(Part::Adam);
            worker.adam(indices, Rates { beta1, beta2, epsilon }, state.optimiser);
        }
        worker.finish()
    }

    /// A step's work as one launch: captured the first time.
    fn replay(&mut self, purpose: Purpose) -> Result<()> {
        if self.place.captured.of(purpose).is_none() {
            let card = Arc::clone(&self.card);
            let captured = Captured::new(&card, || self.launch(purpose))?;
            *self.place.captured.of(purpose) = Some(captured);
        }
        match self.place.captured.of(purpose) {
            Some(work) => work.launch(),
            None => Ok(()),
        }
    }

    /// Sends each run's batch of a training step.
    fn send_steps(&mut self, steps: &[Option<Step>]) -> Result<()> {
        assert_eq!(steps.len(), self.runs.len(), "a step or none for each run");
        let mut batches = Vec::with_capacity(steps.len());
        for (run, step) in steps.iter().enumerate() {
            let Some(Step { targets, number, learning_rate }) = *step else {
                batches.push(None);
                continue;
            };
            check_targets(&self.windows, targets, true)?;
            let mask = self.mask(run, number, self.runs[run].config.dropout_keep);
            batches.push(Some(Sent { targets, mask, learning_rate }));
        }
        self.send(&batches)
    }

    /// Counts updates that are on their way.
    fn count(&mut self, steps: &[Option<Step>]) {
        for (run, step) in self.runs.iter_mut().zip(steps) {
            if let Some(Step { targets, .. }) = step {
                run.updates += 1;
                run.utterances += targets.len() as u64;
            }
        }
    }

    /// The next batch of each run's `targets` without dropout: those from `begin` on, no more than a training step has at once, so
    /// that predictions and evaluations take no memory of their own.
    fn send_part(&mut self, targets: &[&[u32]], begin: usize, labelled: bool) -> Result<Vec<bool>> {
        let size = self.config.batch_size.max(1);
        let mut batches = Vec::with_capacity(targets.len());
        for (run, targets) in targets.iter().enumerate() {
            let targets = &targets[begin.min(targets.len())..(begin + size).min(targets.len())];
            if targets.is_empty() {
                batches.push(None);
                continue;
            }
            check_targets(&self.windows, targets, labelled)?;
            let mask = self.mask(run, 0, 1.0);
            batches.push(Some(Sent { targets, mask, learning_rate: 0.0 }));
        }
        self.send(&batches)?;
        Ok(batches.iter().map(Option::is_some).collect())
    }

    /// The first run's objective over `targets` under `mask`, with its gradient in [`CudaEngine::gradient`].
    pub fn differentiate(&mut self, targets: &[u32], mask: Mask) -> Result<StepLoss> {
        // The sums of the steps before stay what they were.
        let before = self.read_losses(0)?;
        self.write_losses(0, [0.0; 2])?;
        let mut batches = vec![None; self.runs.len()];
        batches[0] = Some(Sent { targets, mask, learning_rate: 0.0 });
        self.send(&batches)?;
        self.launch(Purpose::Objective)?;
        let sums = self.read_losses(0)?;
        self.write_losses(0, before)?;
        let count = targets.len() as f64;
        let adversarial = self.config.adversarial.then_some(sums[1] / count);
        Ok(StepLoss { clean: sums[0] / count, adversarial })
    }

    /// What mixed precision has multiplied the first run's gradients with; 1 otherwise.
    fn loss_scale(&self) -> Result<f32> {
        match self.config.dtype {
            Precision::Mixed => Ok(self.read_f32(self.place.state.optimiser.loss_scale, 1)?[0]),
            _ => Ok(1.0),
        }
    }

    /// The parameters' gradient of the last objective, in [`Layout`]'s order.
    pub fn gradient(&self) -> Result<Vec<f32>> {
        let mut gradient = self.read_f32(self.place.work.gradient, self.layout.len)?;
        let scale = self.loss_scale()?;
        // By a power of two, exactly.
        gradient.iter_mut().for_each(|x| *x /= scale);
        Ok(gradient)
    }

    /// The last objective's gradient at the standardised features, `[N, D]`, the perturbation held constant.
    pub fn feature_gradient(&self) -> Result<Vec<f64>> {
        let Sizes { d, features: width, .. } = self.layout.sizes;
        let parameters = self.read_f32(self.place.state.parameters, self.layout.len)?;
        let scale = f64::from(self.loss_scale()?);
        let mut gradient = vec![0.0; self.windows.len() * width];
        let mut add = |place: Linear, utterance: u32, delta: &[f32]| {
            let weight = &parameters[self.layout.specs[place.weight].range()];
            let to = &mut gradient[utterance as usize * width..][..width];
            for (&delta, weight) in delta.iter().zip(weight.chunks_exact(width)) {
                let delta = f64::from(delta) / scale;
                to.iter_mut().zip(weight).for_each(|(to, &w)| *to += delta * f64::from(w));
            }
        };
        let batch = &self.runs[0].batch;
        for shard in batch.shards() {
            // The gradients at the targets have been added up over the passes.
            let d_q = self.read_f32(self.place.work.delta[0].1, shard.samples() * 2 * d)?;
            for (delta, &target) in d_q.chunks_exact(2 * d).zip(&shard.target) {
                add(self.layout.target_embedding, target, delta);
            }
            let by_utterance = self.read_f32(self.place.work.by_utterance, batch.distinct.len() * d)?;
            for (delta, &utterance) in by_utterance.chunks_exact(d).zip(&batch.distinct) {
                add(self.layout.history_embedding, utterance, delta);
            }
        }
        Ok(gradient)
    }

    fn read_f32(&self, from: Buffer, len: usize) -> Result<Vec<f32>> {
        self.place.memory.read(from.address, len)
    }

    /// A buffer of a run.
    fn of_run(&self, run: usize, buffer: Buffer) -> Buffer {
        buffer.of_run(run, self.place.run_stride)
    }

    /// Values of a batch's samples in the order that the targets were given, `width` for each.
    fn by_slot<T: Copy + Into<f64>>(batch: &Batch, width: usize, values: &[T]) -> Vec<f64> {
        let mut all = vec![0.0; batch.len() * width];
        for shard in batch.shards() {
            for (s, &slot) in shard.slot.iter().enumerate() {
                for j in 0..width {
                    all[slot as usize * width + j] = values[s * width + j].into();
                }
            }
        }
        all
    }

    /// A run's sums of losses.
    fn read_losses(&self, run: usize) -> Result<[f64; 2]> {
        let sums: Vec<f64> = self.place.memory.read(self.of_run(run, self.place.state.losses).address, 2)?;
        Ok([sums[0], sums[1]])
    }

    fn write_losses(&mut self, run: usize, sums: [f64; 2]) -> Result<()> {
        self.place.memory.write(self.of_run(run, self.place.state.losses).address, &sums)
    }

    /// Adds what the last pass says of a run's batch.
    fn read_predictions(&self, run: usize, all: &mut Predictions) -> Result<()> {
        let classes = self.layout.sizes.classes;
        let batch = &self.runs[run].batch;
        let work = &self.place.work;
        let logits = self.read_f32(self.of_run(run, work.logits[0]), batch.len() * classes)?;
        all.logits.extend(Self::by_slot(batch, classes, &logits));
        let attention = match work.activations.stacks.last() {
            Some(stack) => self.read_f32(self.of_run(run, stack.attention.readout.a), batch.rows())?,
            None => Vec::new(),
        };
        let mut range = vec![0..0; batch.len()];
        for shard in batch.shards() {
            for (s, &slot) in shard.slot.iter().enumerate() {
                range[slot as usize] = shard.range(s);
            }
        }
        for range in range {
            all.history.push(range.len());
            all.attention.extend(attention[range].iter().map(|&x| f64::from(x)));
        }
        Ok(())
    }

    /// Writes a run's parameters and optimiser.
    fn write_state(
        &mut self,
        run: usize,
        [parameters, first, second]: [&[f32]; 3],
        updates: u64,
        scaling: Option<Scaling>,
    ) -> Result<()> {
        let StatePlace { parameters: at, optimiser, .. } = self.place.state;
        let skipped = scaling.map_or(0, |scaling| scaling.skipped);
        let counter = Optimiser::counter(updates.saturating_sub(skipped));
        let scale = Optimiser::loss_scale(scaling.map(|scaling| (scaling.scale, scaling.good)));
        let address = |buffer: Buffer| self.of_run(run, buffer).address;
        let memory = &self.place.memory;
        memory.write(address(at), parameters)?;
        memory.write(address(optimiser.first_moment), first)?;
        memory.write(address(optimiser.second_moment), second)?;
        memory.write(address(optimiser.counter), &counter)?;
        memory.write(address(optimiser.loss_scale), &scale)?;
        self.runs[run].updates = updates;
        Ok(())
    }

    /// Standardises the conversations' features for a run.
    fn standardise(&mut self, run: usize, corpus: &Corpus) -> Result<()> {
        let width = self.layout.sizes.features;
        let Standardisation { mean, deviation } = &self.runs[run].standardisation;
        if [corpus.width(), mean.len(), deviation.len()] != [width; 3] {
            return Err(Error::input(format!(
                "{}: its features are {} wide; the model reads {width}",
                corpus.source,
                corpus.width()
            )));
        }
        let raw = Memory::zeros(&self.card, Raw::new(0, width).bytes)?;
        let Raw { piece, mean: shifts, deviation: scales, .. } = Raw::new(raw.address, width);
        raw.write(shifts.address, mean)?;
        raw.write(scales.address, deviation)?;
        let features = self.of_run(run, self.place.features);
        for (i, piece_of) in corpus.features.chunks((STANDARDISED * width).max(1)).enumerate() {
            raw.write(piece.address, piece_of)?;
            let to = features.from(i * STANDARDISED * width);
            let rows = piece_of.len() / width;
            self.place.worker.standardise(rows, piece.address, shifts.address, scales.address, to);
            self.place.worker.finish()?;
        }
        Ok(())
    }
}

impl Raw {
    fn new(base: u64, width: usize) -> Raw {
        let mut plan = Plan::at(base);
        let [mean, deviation, piece] = [width, width, STANDARDISED * width].map(|len| plan.doubles(len));
        Raw { piece, mean, deviation, bytes: plan.run_stride() }
    }
}

impl CapturedWork {
    fn of(&mut self, purpose: Purpose) -> &mut Option<Captured> {
        if purpose == Purpose::Evaluate { &mut self.evaluation } else { &mut self.step }
    }
}

impl StatePlace {
    /// `[1]`, float64.
    fn losses_of(&self, pass: Pass) -> Buffer {
        self.losses.part(pass as usize, 1)
    }
}

impl Place {
    /// Lays out and takes the memory.
    fn new(
        card: &Arc<Card>,
        config: &Config,
        graph: Graph,
        layout: &Arc<Layout>,
        room: Room,
    ) -> Result<Place> {
        let Room { runs, capacity, .. } = room;
        let run_stride = bytes(config, graph, layout, room);
        let needed = runs * run_stride + Raw::new(0, layout.sizes.features).bytes;
        let (free, total) = card.memory()?;
        if needed > free || (runs > 1 && run_stride > LARGEST_STRIDE) {
            let advice = "take fewer runs at once, a smaller batch, or shorter windows";
            return Err(too_large(needed, free, total, advice));
        }
        let memory = Memory::zeros(card, runs * run_stride)?;
        let mut plan = Plan::at(memory.address);
        let Layouts { state, features, work, indices, folded, copies, workspace, arrivals } =
            Layouts::new(&mut plan, config, graph, layout, room);
        let places = Places {
            runs: runs as u32,
            run_stride: run_stride as u64,
            parameters: state.parameters,
            gradient: work.gradient,
            folded,
            copies,
            workspace,
            arrivals,
            loss_scale: (config.dtype == Precision::Mixed).then_some(state.optimiser.loss_scale),
            history_length: config.history_length,
        };
        let worker = Worker::new(Arc::clone(card), Arc::clone(layout), places);
        worker.prepare(capacity.longest)?;
        let mut stages = Vec::with_capacity(STAGES);
        for _ in 0..STAGES {
            stages.push(Stage { words: Pinned::zeros(card, runs * indices.words())?, read: None });
        }
        Ok(Place {
            memory,
            room,
            run_stride,
            state,
            features,
            work,
            indices,
            worker,
            stages,
            next_stage: 0,
            captured: CapturedWork::default(),
        })
    }

    /// What stands in for a place while it is laid out anew.
    fn nothing(card: &Arc<Card>) -> Result<Place> {
        let graph = Graph { stacks: 0, interaction: false, stack_input: StackInput::Gru };
        let smallest = Layout::new(Sizes { features: 1, classes: 1, d: 1, stacks: 0 });
        let capacity = Capacity { samples: 1, rows: 1, pairs: 1, distinct: 1, longest: 1 };
        let room = Room { runs: 1, utterances: 1, capacity };
        Place::new(card, &Config::default(), graph, &Arc::new(smallest), room)
    }

    /// Sends the indices of all runs, by run, in one copy.
    fn send<'a>(
        &mut self,
        card: &Arc<Card>,
        batches: impl Iterator<Item = Option<(&'a Batch, Header)>>,
    ) -> Result<()> {
        let Place { memory, indices, stages, next_stage, run_stride, room, .. } = self;
        let stage = &mut stages[*next_stage];
        *next_stage = (*next_stage + 1) % STAGES;
        if let Some(read) = &stage.read {
            read.synchronize().map_err(|error| failed("take a batch", error))?;
        }
        for (run, batch) in batches.enumerate() {
            match batch {
                Some((batch, header)) => indices.fill(run, batch, header, &mut stage.words),
                None => indices.leave_out(run, &mut stage.words),
            }
        }
        let range =
            Range { address: indices.header.address, bytes: indices.bytes(), run_stride: *run_stride };
        // SAFETY: the stage is written again only after the event below.
        unsafe { memory.upload_runs(range, &stage.words, room.runs) }
            .map_err(|error| failed("take a batch", error))?;
        match &stage.read {
            Some(read) => read.record(&card.stream),
            None => card.stream.record_event(None).map(|event| stage.read = Some(event)),
        }
        .map_err(|error| failed("take a batch", error))
    }
}

/// Where everything lies.
struct Layouts {
    state: StatePlace,
    features: Buffer,
    work: Work,
    indices: Indices,
    folded: Folded,
    copies: Option<Copies>,
    workspace: Buffer,
    arrivals: Buffer,
}

impl Layouts {
    fn new(plan: &mut Plan, config: &Config, graph: Graph, layout: &Layout, room: Room) -> Layouts {
        let Sizes { d, classes, features: width, .. } = layout.sizes;
        let Room { utterances, capacity, .. } = room;
        let Capacity { samples, rows, pairs, distinct, .. } = capacity;
        let mixed = config.dtype == Precision::Mixed;
        let by_row = if mixed { Element::Half } else { Element::Word };
        let mut state = StatePlace {
            parameters: plan.words(layout.len),
            optimiser: Optimiser::new(plan, layout.len),
            losses: plan.doubles(2),
            evaluated: (plan.doubles(1), plan.words(classes * classes)),
            bytes: 0,
        };
        let features = plan.words(utterances * width);
        state.bytes = (features.address - state.parameters.address) as usize;
        let indices = Indices::new(plan, capacity);
        // What is set to zero before a step lies together.
        let gradient = plan.words(layout.len);
        let correlation = Correlation { history: plan.words(d * d), target: plan.words(4 * d * d) };
        let folded = Folded::new(plan, layout, config.stack_input == StackInput::Attention);
        let zeroed_bytes = (folded.by_rows.address - gradient.address) as usize;
        let copies = mixed.then(|| Copies::new(plan, layout, state.parameters, &folded));
        let size = Size { samples, rows, pairs };
        let activations = {
            let cell = std::cell::RefCell::new(&mut *plan);
            Activations::new(
                graph,
                d,
                classes,
                size,
                |len| cell.borrow_mut().take(by_row, len),
                |len| cell.borrow_mut().words(len),
                |len| cell.borrow_mut().doubles(len),
            )
        };
        let mut delta = || (plan.take(by_row, rows * d), plan.words(samples * 2 * d));
        let delta = [delta(), delta()];
        let work = Work {
            zeroed: gradient,
            zeroed_bytes,
            correlation,
            embedded: (plan.words(distinct * d), plan.words(samples * 2 * d)),
            activations,
            delta,
            perturbation: Perturbation {
                history: plan.take(by_row, rows * d),
                target: plan.words(samples * 2 * d),
                history_scale: plan.words(rows),
                target_scale: plan.words(samples),
                squared_norm: plan.doubles(samples),
            },
            batch_norm: plan.doubles(1),
            by_utterance: plan.words(distinct * d),
            logits: [plan.words(samples * classes), plan.words(samples * classes)],
            gradient,
        };
        let (words, counters) = Worker::workspace(layout, capacity, mixed);
        let (workspace, arrivals) = (plan.words(words), plan.words(counters));
        Layouts { state, features, work, indices, folded, copies, workspace, arrivals }
    }
}

/// Bytes of a run.
pub(super) fn needed(config: &Config, sizes: Sizes, windows: &Windows) -> usize {
    let graph =
        Graph { stacks: config.stacks, interaction: config.interaction, stack_input: config.stack_input };
    let capacity = capacity(windows, config.batch_size);
    bytes(config, graph, &Layout::new(sizes), Room { runs: 1, utterances: windows.len(), capacity })
}

/// How many of up to `most` runs the card's free memory holds; refuses a model of which it does not even hold one, before any of
/// it is taken.
pub(super) fn foresee(
    config: &Config,
    sizes: Sizes,
    windows: &Windows,
    index: usize,
    most: usize,
) -> Result<usize> {
    check_sizes(sizes, config.history_length)?;
    // With the kernels, which take memory too.
    let card = Card::open(index, KERNELS)?;
    let needed = |batch_size| needed(&Config { batch_size, ..config.clone() }, sizes, windows);
    let (free, total) = card.memory()?;
    check_capacity(capacity(windows, config.batch_size), sizes.d)?;
    let raw = Raw::new(0, sizes.features).bytes;
    let left = free.saturating_sub(raw);
    let one = needed(config.batch_size);
    if one <= left {
        let side_by_side = if one > LARGEST_STRIDE { 1 } else { left / one };
        return Ok(side_by_side.min(most));
    }
    let advice = match largest_below(config.batch_size, |size| needed(size) <= left) {
        0 => {
            "a batch_size of 1 would not fit either; take a smaller embedding_size, history_length or stacks"
                .to_string()
        }
        fits => format!("the largest batch_size that fits is {fits}"),
    };
    Err(too_large(one + raw, free, total, &advice))
}

/// What the largest batch of `size` targets may have of everything.
fn capacity(windows: &Windows, size: usize) -> Capacity {
    let mut lengths: Vec<usize> =
        (0..windows.len() as u32).map(|target| windows.window(target).len()).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.truncate(size);
    let rows = lengths.iter().sum::<usize>().max(1);
    Capacity {
        samples: lengths.len().max(1),
        rows,
        pairs: lengths.iter().map(|n| n * n).sum::<usize>().max(1),
        distinct: rows.min(windows.len()).max(1),
        longest: windows.longest().max(1),
    }
}

fn join(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        samples: a.samples.max(b.samples),
        rows: a.rows.max(b.rows),
        pairs: a.pairs.max(b.pairs),
        distinct: a.distinct.max(b.distinct),
        longest: a.longest.max(b.longest),
    }
}

/// Refuses a batch whose rows or pairs of utterances have more elements than kernels can number.
fn check_capacity(capacity: Capacity, d: usize) -> Result<()> {
    // The widest rows are those of a recurrence's gates.
    let elements = [capacity.rows.saturating_mul(8 * d), capacity.pairs];
    if elements.into_iter().any(|count| u32::try_from(count).is_err()) {
        return Err(Error::input(format!(
            "a batch of {} samples with {} utterances in their windows is more than a card's kernels can number: take a smaller \
             batch_size",
            capacity.samples, capacity.rows
        )));
    }
    Ok(())
}

/// Refuses sizes that the kernels are not made for.
fn check_sizes(sizes: Sizes, history_length: usize) -> Result<()> {
    for (name, value, most) in [
        ("embedding_size", sizes.d, 256),
        ("history_length", history_length, 512),
        ("classes", sizes.classes, 64),
    ] {
        if value > most {
            return Err(Error::input(format!(
                "{name} is {value}; the CUDA engine computes with up to {most}: use --device cpu"
            )));
        }
    }
    Ok(())
}

/// The error of a model that does not fit.
fn too_large(needed: usize, free: usize, total: usize, advice: &str) -> Error {
    let gigabytes = |bytes: usize| bytes as f64 / 1e9;
    Error::input(format!(
        "the model needs {:.2} GB on the card, which has {:.2} GB free of {:.2}: {advice}",
        gigabytes(needed),
        gigabytes(free),
        gigabytes(total)
    ))
}

/// Of a run.
fn bytes(config: &Config, graph: Graph, layout: &Layout, room: Room) -> usize {
    let mut plan = Plan::at(0);
    Layouts::new(&mut plan, config, graph, layout, room);
    plan.run_stride()
}

impl Engine for CudaEngine {
    fn runs(&self) -> usize {
        self.runs.len()
    }

    fn begin(
        &mut self,
        run: usize,
        config: &Config,
        standardisation: &Standardisation,
        corpus: &Corpus,
    ) -> Result<()> {
        assert!(self.config.same_shape(config), "a run of another shape");
        assert_eq!(corpus.len(), self.windows.len(), "a run over other conversations");
        self.runs[run].config = config.clone();
        self.runs[run].standardisation = standardisation.clone();
        self.standardise(run, corpus)?;
        let parameters: Vec<f32> = self.layout.initialise(config.seed);
        let zeros = vec![0.0; parameters.len()];
        self.write_state(run, [&parameters, &zeros, &zeros], 0, None)?;
        self.set_losses(run, Losses::default())
    }

    fn train_steps(&mut self, steps: &[Option<Step>]) -> Result<()> {
        self.send_steps(steps)?;
        self.replay(Purpose::Train)?;
        self.count(steps);
        Ok(())
    }

    fn time_steps(&mut self, steps: &[Option<Step>]) -> Result<f64> {
        self.send_steps(steps)?;
        let mut recorder = Recorder::new(&self.card)?;
        recorder.around((), || self.replay(Purpose::Train))??;
        self.count(steps);
        Ok(recorder.finish()?.iter().map(|(_, seconds)| seconds).sum())
    }

    fn profile_steps(&mut self, steps: &[Option<Step>]) -> Result<Vec<Piece>> {
        self.send_steps(steps)?;
        let stepping = self.runs.iter().zip(steps).filter(|(_, step)| step.is_some());
        let counts = stepping.map(|(run, _)| {
            let mut counts = Counts { distinct: run.batch.distinct.len(), ..Counts::default() };
            for shard in run.batch.shards() {
                counts.samples += shard.samples();
                counts.rows += shard.rows();
                counts.rows_a += shard.rows_a;
                counts.pairs += shard.pairs.last().map_or(0, |&pairs| pairs as usize);
            }
            counts
        });
        self.place.worker.record(counts.collect())?;
        let launched = self.launch(Purpose::Train);
        let recorded = self.place.worker.recorded();
        launched?;
        self.count(steps);
        let piece = |((part, kernel, work), seconds)| Piece { part, kernel: Some(kernel), seconds, work };
        Ok(recorded?.into_iter().map(piece).collect())
    }

    fn losses_of(&mut self, run: usize, wait: bool) -> Result<Option<Losses>> {
        if !wait {
            return Ok(None);
        }
        let [clean, adversarial] = self.read_losses(run)?;
        let utterances = self.runs[run].utterances;
        let adversarial = (self.config.adversarial && utterances > 0).then_some(adversarial);
        Ok(Some(Losses { utterances, clean, adversarial }))
    }

    fn set_losses(&mut self, run: usize, losses: Losses) -> Result<()> {
        let Losses { utterances, clean, adversarial } = losses;
        self.runs[run].utterances = utterances;
        self.write_losses(run, [clean, adversarial.unwrap_or(0.0)])
    }

    fn objective(&mut self, targets: &[u32]) -> Result<Objective> {
        check_targets(&self.windows, targets, true)?;
        let loss = self.differentiate(targets, self.mask(0, 0, 1.0))?;
        let (samples, classes) = (targets.len(), self.layout.sizes.classes);
        let adversarial = self.config.adversarial;
        let work = &self.place.work;
        let logits = self.read_f32(work.logits[0], samples * classes)?;
        let moved = if adversarial { self.read_f32(work.logits[1], samples * classes)? } else { Vec::new() };
        let gradient = self.gradient()?;
        let squared: Vec<f64> = self.place.memory.read(work.perturbation.squared_norm.address, samples)?;
        let scale = f64::from(self.loss_scale()?);
        let norms: Vec<f64> = squared.iter().map(|square| square.sqrt() / scale).collect();
        let batch = &self.runs[0].batch;
        Ok(Objective {
            loss,
            logits: Self::by_slot(batch, classes, &logits),
            logits_adversarial: if adversarial { Self::by_slot(batch, classes, &moved) } else { Vec::new() },
            gradient: tensors(&self.layout, &gradient),
            input_gradient_norm: Self::by_slot(batch, 1, &norms),
        })
    }

    fn evaluate_each(
        &mut self,
        targets: &[&[u32]],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Vec<Evaluation>>> {
        assert_eq!(targets.len(), self.runs.len(), "targets or none for each run");
        let classes = self.layout.sizes.classes;
        let of_run = |engine: &Self, run: usize| {
            let (sum, confusion) = engine.place.state.evaluated;
            (engine.of_run(run, sum).address, engine.of_run(run, confusion).address)
        };
        for run in 0..targets.len() {
            let (sum, confusion) = of_run(self, run);
            self.place.memory.write(sum, &[0.0f64])?;
            self.place.memory.write(confusion, &vec![0u32; classes * classes])?;
        }
        let most = targets.iter().map(|targets| targets.len()).max().unwrap_or(0);
        for begin in (0..most).step_by(self.config.batch_size.max(1)) {
            if interrupted() {
                return Ok(None);
            }
            self.send_part(targets, begin, true)?;
            self.replay(Purpose::Evaluate)?;
        }
        let mut evaluations = Vec::with_capacity(targets.len());
        for (run, targets) in targets.iter().enumerate() {
            // A batch may have moved them.
            let (sum, confusion) = of_run(self, run);
            let sum: Vec<f64> = self.place.memory.read(sum, 1)?;
            let counts: Vec<u32> = self.place.memory.read(confusion, classes * classes)?;
            let counts = counts.into_iter().map(u64::from).collect();
            evaluations.push(Evaluation {
                loss: sum[0] / targets.len().max(1) as f64,
                confusion: Confusion::from_counts(classes, counts),
            });
        }
        Ok(Some(evaluations))
    }

    fn predict_each(&mut self, targets: &[&[u32]]) -> Result<Vec<Predictions>> {
        assert_eq!(targets.len(), self.runs.len(), "targets or none for each run");
        let mut all = vec![Predictions::default(); targets.len()];
        let most = targets.iter().map(|targets| targets.len()).max().unwrap_or(0);
        for begin in (0..most).step_by(self.config.batch_size.max(1)) {
            let sent = self.send_part(targets, begin, false)?;
            self.launch(Purpose::Predict)?;
            for run in (0..sent.len()).filter(|&run| sent[run]) {
                self.read_predictions(run, &mut all[run])?;
            }
        }
        Ok(all)
    }

    fn set_corpus(&mut self, corpus: &Corpus) -> Result<()> {
        let windows = Windows::new(corpus, self.config.history_length);
        let room = self.place.room;
        if corpus.width() == self.layout.sizes.features && corpus.len() > room.utterances {
            // One that is followed live grows again and again.
            let utterances = corpus.len().max(2 * room.utterances);
            self.relocate(Room { utterances, ..room })?;
        }
        (0..self.runs.len()).try_for_each(|run| self.standardise(run, corpus))?;
        self.windows = windows;
        // Their capacity is that of the conversations before.
        self.runs.iter_mut().for_each(|run| run.batch = Batch::default());
        Ok(())
    }

    fn flops(&self) -> f64 {
        let adversarial = self.config.adversarial;
        let of = |run: &Run| flops(self.graph, self.layout.sizes, adversarial, &run.batch);
        self.runs.iter().map(of).sum()
    }

    fn state_of(&mut self, run: usize) -> Result<State> {
        let StatePlace { parameters, optimiser, .. } = self.place.state;
        let address = |buffer: Buffer| self.of_run(run, buffer).address;
        let read = |buffer: Buffer| {
            let values = self.read_f32(self.of_run(run, buffer), self.layout.len)?;
            Ok(tensors(&self.layout, &values))
        };
        let updates = self.runs[run].updates;
        let scaling = match self.config.dtype {
            Precision::Mixed => {
                let counter: Vec<u32> = self.place.memory.read(address(optimiser.counter), 2)?;
                let scale: Vec<u32> = self.place.memory.read(address(optimiser.loss_scale), 2)?;
                let made = Optimiser::updates([counter[0], counter[1]]);
                let skipped = updates.saturating_sub(made);
                Some(Scaling { scale: f32::from_bits(scale[0]), good: scale[1], skipped })
            }
            _ => None,
        };
        Ok(State {
            parameters: read(parameters)?,
            first_moment: read(optimiser.first_moment)?,
            second_moment: read(optimiser.second_moment)?,
            updates,
            scaling,
        })
    }

    fn restore_run(&mut self, run: usize, state: &State) -> Result<()> {
        let parameters: Vec<f32> = flatten(&self.layout, &state.parameters, "the parameters")?;
        let first: Vec<f32> = flatten(&self.layout, &state.first_moment, "the first moments")?;
        let second: Vec<f32> = flatten(&self.layout, &state.second_moment, "the second moments")?;
        self.write_state(run, [&parameters, &first, &second], state.updates, state.scaling)
    }
}
