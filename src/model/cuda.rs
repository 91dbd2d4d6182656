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
//! memory. Today there is one.
//!
//! **Determinism.** No kernel adds floating-point numbers in an order that depends on who comes first, so the same seed gives
//! the same bits.

use std::sync::Arc;

use super::config::{Config, Precision, StackInput};
use super::flops::flops;
use super::graph::{Activations, Graph, Size};
use super::{
    Engine, Losses, Objective, Piece, Predictions, Scaling, State, StepLoss, check_targets, flatten, tensors,
};
use crate::data::Corpus;
use crate::data::batch::Batch;
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::device::cuda::capture::Captured;
use crate::device::cuda::card::{Card, failed};
use crate::device::cuda::memory::{Buffer, Element, Memory, Pinned, Plan};
use crate::device::cuda::record::Recorder;
use crate::error::{Error, Result};
use crate::metrics::{Confusion, Evaluation};
use crate::ops::Backend;
use crate::ops::adam::{Optimiser, Rates};
use crate::ops::adversarial::{Adversarial, Perturbation};
use crate::ops::cuda::batch::{Capacity, Header, Indices};
use crate::ops::cuda::{Counts, Folded, KERNELS, Places, Rounded, Worker};
use crate::ops::dropout::{Mask, Pass};
use crate::ops::embedding::{Correlation, Embedding};
use crate::ops::parameters::{Layout, Linear, Sizes};
use crate::ops::part::Part;

/// Rows of features that are standardised at once.
const STANDARDISED: usize = 4096;

/// Copies of the batch's indices on their way: while the card reads one, the next is written.
const STAGES: usize = 2;

pub struct CudaEngine {
    config: Config,
    graph: Graph,
    layout: Arc<Layout>,
    card: Arc<Card>,
    standardisation: Standardisation,
    windows: Windows,
    /// `[N, D]`, standardised.
    features: Memory,
    batch: Batch,
    /// Updates made; the card counts them too.
    updates: u64,
    place: Place,
    /// Utterances and passes of the steps whose losses have not been read.
    unread: Losses,
}

/// A model laid out in a card's memory for batches up to a capacity.
struct Place {
    memory: Memory,
    state: StatePlace,
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

/// What a model keeps from step to step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatePlace {
    pub parameters: Buffer,
    pub optimiser: Optimiser,
    /// `[2]`, float64: sums of losses of both passes since they were last read.
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
        let place = Place::new(&card, config, graph, &layout, capacity, corpus.len() * sizes.features * 4)?;
        let mut engine = CudaEngine {
            config: config.clone(),
            graph,
            features: Memory::zeros(&card, corpus.len() * sizes.features * 4)?,
            card,
            standardisation: standardisation.clone(),
            windows,
            batch: Batch::default(),
            updates: 0,
            place,
            unread: Losses::default(),
            layout,
        };
        let parameters: Vec<f32> = engine.layout.initialise(config.seed);
        let state = engine.place.state;
        engine.place.memory.write(state.parameters.address, &parameters)?;
        engine.place.memory.write(state.optimiser.loss_scale.address, &Optimiser::loss_scale(None))?;
        engine.set_corpus(corpus)?;
        Ok(engine)
    }

    fn attended(&self) -> bool {
        self.config.stack_input == StackInput::Attention
    }

    fn mask(&self, step: u64, pass: Pass, keep: f64) -> Mask {
        Mask { seed: self.config.seed, step, pass, keep }
    }

    /// Lays the memory out anew where a batch of `targets` would not fit.
    fn reserve(&mut self, targets: &[u32]) -> Result<()> {
        let mut needed = Capacity { samples: targets.len(), rows: 0, pairs: 0, distinct: 0, longest: 0 };
        for &target in targets {
            let n = self.windows.window(target).len();
            needed.rows += n;
            needed.pairs += n * n;
            needed.longest = needed.longest.max(n);
        }
        needed.distinct = needed.rows.min(self.windows.len());
        let have = self.place.indices.capacity;
        let fits = needed.samples <= have.samples
            && needed.rows <= have.rows
            && needed.pairs <= have.pairs
            && needed.distinct <= have.distinct
            && needed.longest <= have.longest;
        if fits {
            return Ok(());
        }
        check_capacity(needed)?;
        self.relocate(join(have, needed))
    }

    /// Moves the model to memory laid out for `capacity`.
    fn relocate(&mut self, capacity: Capacity) -> Result<()> {
        let state =
            self.place.memory.read::<u8>(self.place.state.parameters.address, self.place.state.bytes)?;
        let features = self.features.bytes;
        // Both at once may not fit: the old one goes first.
        self.place = {
            let place = std::mem::replace(&mut self.place, Place::nothing(&self.card, &self.layout)?);
            drop(place);
            Place::new(&self.card, &self.config, self.graph, &self.layout, capacity, features)?
        };
        self.place.memory.write(self.place.state.parameters.address, &state)
    }

    /// Fills a batch's indices and sends them on their way.
    fn begin(&mut self, targets: &[u32], mask: Mask, learning_rate: f64) -> Result<()> {
        self.reserve(targets)?;
        let capacity = self.place.indices.capacity;
        if self.batch.capacity() < capacity.samples {
            let longest = self.windows.longest().max(1);
            let utterances = self.windows.len();
            self.batch = Batch::with_capacity(capacity.samples, usize::MAX, longest, utterances);
        }
        self.batch.fill(&self.windows, targets);
        let threshold = mask.threshold();
        let header = Header {
            key: mask.key(),
            step: mask.step as u32,
            threshold: threshold.unwrap_or(0),
            scale: if threshold.is_some() { (1.0 / mask.keep) as f32 } else { 1.0 },
            epsilon: self.config.epsilon as f32,
            learning_rate: learning_rate as f32,
            ..Header::default()
        };
        self.place.send(&self.card, &self.batch, header)
    }

    /// Puts a step's work into the stream.
    fn launch(&mut self, purpose: Purpose, mask: Mask) -> Result<()> {
        let attended = self.attended();
        let features = Buffer::words(self.features.address, self.features.bytes / 4);
        let Place { memory, state, work, indices, worker, .. } = &mut self.place;
        let backward = matches!(purpose, Purpose::Train | Purpose::Objective);
        if backward {
            memory
                .clear(work.zeroed.address, work.zeroed_bytes)
                .map_err(|error| failed("clear its memory", error))?;
        }
        worker.enter(Part::Folding);
        worker.fold(indices, attended);
        worker.enter(Part::Embedding);
        let (history, target) = work.embedded;
        worker.embed(indices, features, history, target);
        let passes = if self.config.adversarial && backward { 2 } else { 1 };
        let samples = self.batch.len();
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
    fn replay(&mut self, purpose: Purpose, mask: Mask) -> Result<()> {
        if self.place.captured.of(purpose).is_none() {
            let card = Arc::clone(&self.card);
            let captured = Captured::new(&card, || self.launch(purpose, mask))?;
            *self.place.captured.of(purpose) = Some(captured);
        }
        match self.place.captured.of(purpose) {
            Some(work) => work.launch(),
            None => Ok(()),
        }
    }

    /// Counts an update whose losses have not been read.
    fn count(&mut self, targets: &[u32]) {
        self.updates += 1;
        self.unread.utterances += targets.len() as u64;
    }

    /// The objective over `targets` under `mask`, with its gradient in [`CudaEngine::gradient`].
    pub fn differentiate(&mut self, targets: &[u32], mask: Mask) -> Result<StepLoss> {
        // The sums of the steps before stay what they were.
        let before = self.take_losses()?;
        self.begin(targets, mask, 0.0)?;
        self.launch(Purpose::Objective, mask)?;
        let sums = self.take_losses()?;
        self.place.memory.write(self.place.state.losses.address, &before)?;
        let count = targets.len() as f64;
        let adversarial = self.config.adversarial.then_some(sums[1] / count);
        Ok(StepLoss { clean: sums[0] / count, adversarial })
    }

    /// What mixed precision has multiplied gradients with; 1 otherwise.
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
        for shard in self.batch.shards() {
            // The gradients at the targets have been added up over the passes.
            let d_q = self.read_f32(self.place.work.delta[0].1, shard.samples() * 2 * d)?;
            for (delta, &target) in d_q.chunks_exact(2 * d).zip(&shard.target) {
                add(self.layout.target_embedding, target, delta);
            }
            let by_utterance = self.read_f32(self.place.work.by_utterance, self.batch.distinct.len() * d)?;
            for (delta, &utterance) in by_utterance.chunks_exact(d).zip(&self.batch.distinct) {
                add(self.layout.history_embedding, utterance, delta);
            }
        }
        Ok(gradient)
    }

    fn read_f32(&self, from: Buffer, len: usize) -> Result<Vec<f32>> {
        self.place.memory.read(from.address, len)
    }

    /// Values of the last batch's samples in the order that the targets were given, `width` for each.
    fn by_slot<T: Copy + Into<f64>>(&self, width: usize, values: &[T]) -> Vec<f64> {
        let mut all = vec![0.0; self.batch.len() * width];
        for shard in self.batch.shards() {
            for (s, &slot) in shard.slot.iter().enumerate() {
                for j in 0..width {
                    all[slot as usize * width + j] = values[s * width + j].into();
                }
            }
        }
        all
    }

    /// Reads the sums of losses, and sets them to zero.
    fn take_losses(&mut self) -> Result<[f64; 2]> {
        let losses = self.place.state.losses.address;
        let sums: Vec<f64> = self.place.memory.read(losses, 2)?;
        self.place.memory.write(losses, &[0.0f64; 2])?;
        Ok([sums[0], sums[1]])
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
    /// Lays out and takes the memory; `features` are the bytes that the features take beside it.
    fn new(
        card: &Arc<Card>,
        config: &Config,
        graph: Graph,
        layout: &Arc<Layout>,
        capacity: Capacity,
        features: usize,
    ) -> Result<Place> {
        let mut dry = Plan::at(0);
        Layouts::new(&mut dry, config, graph, layout, capacity);
        let bytes = dry.run_stride();
        let (free, total) = card.memory()?;
        if bytes + features > free {
            return Err(too_large(bytes + features, free, total, "take a smaller batch, or shorter windows"));
        }
        let memory = Memory::zeros(card, bytes)?;
        let mut plan = Plan::at(memory.address);
        let Layouts { state, work, indices, folded, rounded, workspace } =
            Layouts::new(&mut plan, config, graph, layout, capacity);
        let places = Places {
            runs: 1,
            run_stride: plan.run_stride() as u64,
            parameters: state.parameters,
            gradient: work.gradient,
            folded,
            rounded,
            workspace,
            loss_scale: (config.dtype == Precision::Mixed).then_some(state.optimiser.loss_scale),
        };
        let worker = Worker::new(Arc::clone(card), Arc::clone(layout), places);
        worker.prepare(capacity.longest)?;
        let mut stages = Vec::with_capacity(STAGES);
        for _ in 0..STAGES {
            stages.push(Stage { words: Pinned::zeros(card, indices.words())?, read: None });
        }
        Ok(Place {
            memory,
            state,
            work,
            indices,
            worker,
            stages,
            next_stage: 0,
            captured: CapturedWork::default(),
        })
    }

    /// What stands in for a place while it is laid out anew.
    fn nothing(card: &Arc<Card>, layout: &Arc<Layout>) -> Result<Place> {
        let graph = Graph { stacks: 0, interaction: false, stack_input: StackInput::Gru };
        let smallest = Layout::new(Sizes { features: 1, classes: 1, d: 1, stacks: 0 });
        let _ = layout;
        let capacity = Capacity { samples: 1, rows: 1, pairs: 1, distinct: 1, longest: 1 };
        Place::new(card, &Config::default(), graph, &Arc::new(smallest), capacity, 0)
    }

    fn send(&mut self, card: &Arc<Card>, batch: &Batch, header: Header) -> Result<()> {
        let Place { memory, indices, stages, next_stage, .. } = self;
        let stage = &mut stages[*next_stage];
        *next_stage = (*next_stage + 1) % STAGES;
        if let Some(read) = &stage.read {
            read.synchronize().map_err(|error| failed("take a batch", error))?;
        }
        indices.fill(batch, header, &mut stage.words);
        // SAFETY: the stage is written again only after the event below.
        unsafe { memory.upload(indices.header.address, &stage.words, indices.bytes()) }
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
    work: Work,
    indices: Indices,
    folded: Folded,
    rounded: Vec<Rounded>,
    workspace: Buffer,
}

impl Layouts {
    fn new(plan: &mut Plan, config: &Config, graph: Graph, layout: &Layout, capacity: Capacity) -> Layouts {
        let Sizes { d, classes, .. } = layout.sizes;
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
        let indices = Indices::new(plan, capacity);
        state.bytes = (indices.header.address - state.parameters.address) as usize;
        // What is set to zero before a step lies together.
        let gradient = plan.words(layout.len);
        let correlation = Correlation { history: plan.words(d * d), target: plan.words(4 * d * d) };
        let folded = Folded::new(plan, layout, config.stack_input == StackInput::Attention);
        let zeroed_bytes = (folded.by_rows.address - gradient.address) as usize;
        let multiplied = if mixed { vec![state.parameters, folded.by_rows] } else { Vec::new() };
        let rounded = multiplied.into_iter().map(|weights| Rounded::new(plan, weights)).collect();
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
        let words = Worker::workspace(layout, capacity);
        Layouts { state, work, indices, folded, rounded, workspace: plan.words(words) }
    }
}

/// Refuses a model that the card's free memory does not hold, before any of it is taken.
pub(super) fn foresee(config: &Config, sizes: Sizes, windows: &Windows, index: usize) -> Result<()> {
    check_sizes(sizes, config.history_length)?;
    let card = Card::open(index, &[])?;
    let layout = Layout::new(sizes);
    let graph =
        Graph { stacks: config.stacks, interaction: config.interaction, stack_input: config.stack_input };
    let needed = |batch_size: usize| {
        let features = windows.len() * sizes.features * 4;
        bytes(config, graph, &layout, capacity(windows, batch_size)) + features
    };
    let (free, total) = card.memory()?;
    check_capacity(capacity(windows, config.batch_size))?;
    if needed(config.batch_size) <= free {
        return Ok(());
    }
    let (mut fits, mut fails) = (0, config.batch_size);
    while fails - fits > 1 {
        let middle = (fits + fails) / 2;
        if needed(middle) <= free { fits = middle } else { fails = middle }
    }
    let advice = match fits {
        0 => {
            "a batch_size of 1 would not fit either; take a smaller embedding_size, history_length or stacks"
                .to_string()
        }
        _ => format!("the largest batch_size that fits is {fits}"),
    };
    Err(too_large(needed(config.batch_size), free, total, &advice))
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

/// Refuses a batch whose rows or pairs of utterances are more than kernels can number.
fn check_capacity(capacity: Capacity) -> Result<()> {
    // Chunks of rows and their products are counted in the second dimension of a grid, which ends at 65,535.
    const ROWS: usize = 8_000_000;
    if capacity.rows > ROWS || u32::try_from(capacity.pairs).is_err() {
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

fn bytes(config: &Config, graph: Graph, layout: &Layout, capacity: Capacity) -> usize {
    let mut plan = Plan::at(0);
    Layouts::new(&mut plan, config, graph, layout, capacity);
    plan.run_stride()
}

impl Engine for CudaEngine {
    fn train_step(&mut self, targets: &[u32], step: u64, learning_rate: f64) -> Result<()> {
        check_targets(&self.windows, targets, true)?;
        let mask = self.mask(step, Pass::Clean, self.config.dropout_keep);
        self.begin(targets, mask, learning_rate)?;
        self.replay(Purpose::Train, mask)?;
        self.count(targets);
        Ok(())
    }

    fn time_step(&mut self, targets: &[u32], step: u64, learning_rate: f64) -> Result<f64> {
        check_targets(&self.windows, targets, true)?;
        let mask = self.mask(step, Pass::Clean, self.config.dropout_keep);
        self.begin(targets, mask, learning_rate)?;
        let mut recorder = Recorder::new(&self.card)?;
        recorder.around((), || self.replay(Purpose::Train, mask))??;
        self.count(targets);
        Ok(recorder.finish()?.iter().map(|(_, seconds)| seconds).sum())
    }

    fn profile_step(&mut self, targets: &[u32], step: u64, learning_rate: f64) -> Result<Vec<Piece>> {
        check_targets(&self.windows, targets, true)?;
        let mask = self.mask(step, Pass::Clean, self.config.dropout_keep);
        self.begin(targets, mask, learning_rate)?;
        let mut counts = Counts { distinct: self.batch.distinct.len(), ..Counts::default() };
        for shard in self.batch.shards() {
            counts.samples += shard.samples();
            counts.rows += shard.rows();
            counts.rows_a += shard.rows_a;
            counts.pairs += shard.pairs.last().map_or(0, |&pairs| pairs as usize);
        }
        self.place.worker.record(counts)?;
        let launched = self.launch(Purpose::Train, mask);
        let recorded = self.place.worker.recorded();
        launched?;
        self.count(targets);
        let piece = |((part, kernel, work), seconds)| Piece { part, kernel: Some(kernel), seconds, work };
        Ok(recorded?.into_iter().map(piece).collect())
    }

    fn losses(&mut self, wait: bool) -> Result<Option<Losses>> {
        if !wait {
            return Ok(None);
        }
        let [clean, adversarial] = self.take_losses()?;
        let utterances = std::mem::take(&mut self.unread).utterances;
        let adversarial = (self.config.adversarial && utterances > 0).then_some(adversarial);
        Ok(Some(Losses { utterances, clean, adversarial }))
    }

    fn objective(&mut self, targets: &[u32]) -> Result<Objective> {
        check_targets(&self.windows, targets, true)?;
        let loss = self.differentiate(targets, self.mask(0, Pass::Clean, 1.0))?;
        let (samples, classes) = (targets.len(), self.layout.sizes.classes);
        let adversarial = self.config.adversarial;
        let work = &self.place.work;
        let logits = self.read_f32(work.logits[0], samples * classes)?;
        let moved = if adversarial { self.read_f32(work.logits[1], samples * classes)? } else { Vec::new() };
        let gradient = self.gradient()?;
        let squared: Vec<f64> = self.place.memory.read(work.perturbation.squared_norm.address, samples)?;
        let scale = f64::from(self.loss_scale()?);
        let norms: Vec<f64> = squared.iter().map(|square| square.sqrt() / scale).collect();
        Ok(Objective {
            loss,
            logits: self.by_slot(classes, &logits),
            logits_adversarial: if adversarial { self.by_slot(classes, &moved) } else { Vec::new() },
            gradient: tensors(&self.layout, &gradient),
            input_gradient_norm: self.by_slot(1, &norms),
        })
    }

    fn evaluate(&mut self, targets: &[u32], interrupted: &dyn Fn() -> bool) -> Result<Option<Evaluation>> {
        let classes = self.layout.sizes.classes;
        let (sum, confusion) = self.place.state.evaluated;
        self.place.memory.write(sum.address, &[0.0f64])?;
        self.place.memory.write(confusion.address, &vec![0u32; classes * classes])?;
        let mask = self.mask(0, Pass::Clean, 1.0);
        for targets in targets.chunks(self.config.batch_size.max(1)) {
            if interrupted() {
                return Ok(None);
            }
            check_targets(&self.windows, targets, true)?;
            self.begin(targets, mask, 0.0)?;
            self.replay(Purpose::Evaluate, mask)?;
        }
        // A batch may have moved them.
        let (sum, confusion) = self.place.state.evaluated;
        let sum: Vec<f64> = self.place.memory.read(sum.address, 1)?;
        let counts: Vec<u32> = self.place.memory.read(confusion.address, classes * classes)?;
        let counts = counts.into_iter().map(u64::from).collect();
        Ok(Some(Evaluation {
            loss: sum[0] / targets.len().max(1) as f64,
            confusion: Confusion::from_counts(classes, counts),
        }))
    }

    fn predict(&mut self, targets: &[u32]) -> Result<Predictions> {
        check_targets(&self.windows, targets, false)?;
        let classes = self.layout.sizes.classes;
        let mut all = Predictions::default();
        // No more at once than a training step has: evaluation takes no memory of its own.
        let size = self.config.batch_size.max(1);
        for targets in targets.chunks(size) {
            let mask = self.mask(0, Pass::Clean, 1.0);
            self.begin(targets, mask, 0.0)?;
            self.launch(Purpose::Predict, mask)?;
            let logits = self.read_f32(self.place.work.logits[0], targets.len() * classes)?;
            all.logits.extend(self.by_slot(classes, &logits));
            let last = self.place.work.activations.stacks.last();
            let attention = match last {
                Some(stack) => self.read_f32(stack.readout.a, self.batch.rows())?,
                None => Vec::new(),
            };
            let mut range = vec![0..0; targets.len()];
            for shard in self.batch.shards() {
                for (s, &slot) in shard.slot.iter().enumerate() {
                    range[slot as usize] = shard.range(s);
                }
            }
            for range in range {
                all.history.push(range.len());
                all.attention.extend(attention[range].iter().map(|&x| f64::from(x)));
            }
        }
        Ok(all)
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
        self.windows = Windows::new(corpus, self.config.history_length);
        let rows = corpus.len();
        if self.features.bytes < rows * width * 4 {
            self.features = Memory::zeros(&self.card, rows * width * 4)?;
            // What was captured reads from where they were.
            self.place.captured = CapturedWork::default();
        }
        let mut plan = Plan::at(0);
        let [scales, shifts, piece] =
            [width, width, STANDARDISED * width].map(|len| plan.doubles(len).address);
        let raw = Memory::zeros(&self.card, plan.run_stride())?;
        raw.write(raw.address + shifts, mean)?;
        raw.write(raw.address + scales, deviation)?;
        for (i, features) in corpus.features.chunks((STANDARDISED * width).max(1)).enumerate() {
            raw.write(raw.address + piece, features)?;
            let to = self.features.address + 4 * (i * STANDARDISED * width) as u64;
            let to = Buffer::words(to, features.len());
            let (mean, deviation) = (raw.address + shifts, raw.address + scales);
            self.place.worker.standardise(features.len() / width, raw.address + piece, mean, deviation, to);
            self.place.worker.finish()?;
        }
        // Its capacity is that of the conversations before.
        self.batch = Batch::default();
        Ok(())
    }

    fn flops(&self) -> f64 {
        flops(self.graph, self.layout.sizes, self.config.adversarial, &self.batch)
    }

    fn state(&mut self) -> Result<State> {
        let StatePlace { parameters, optimiser, .. } = self.place.state;
        let read = |buffer: Buffer| Ok(tensors(&self.layout, &self.read_f32(buffer, self.layout.len)?));
        let scaling = match self.config.dtype {
            Precision::Mixed => {
                let counter: Vec<u32> = self.place.memory.read(optimiser.counter.address, 2)?;
                let scale: Vec<u32> = self.place.memory.read(optimiser.loss_scale.address, 2)?;
                let made = Optimiser::updates([counter[0], counter[1]]);
                let skipped = self.updates.saturating_sub(made);
                Some(Scaling { scale: f32::from_bits(scale[0]), good: scale[1], skipped })
            }
            _ => None,
        };
        Ok(State {
            parameters: read(parameters)?,
            first_moment: read(optimiser.first_moment)?,
            second_moment: read(optimiser.second_moment)?,
            updates: self.updates,
            scaling,
        })
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        let parameters: Vec<f32> = flatten(&self.layout, &state.parameters, "the parameters")?;
        let first: Vec<f32> = flatten(&self.layout, &state.first_moment, "the first moments")?;
        let second: Vec<f32> = flatten(&self.layout, &state.second_moment, "the second moments")?;
        let place = self.place.state;
        self.place.memory.write(place.parameters.address, &parameters)?;
        self.place.memory.write(place.optimiser.first_moment.address, &first)?;
        self.place.memory.write(place.optimiser.second_moment.address, &second)?;
        let skipped = state.scaling.map_or(0, |scaling| scaling.skipped);
        let counter = Optimiser::counter(state.updates.saturating_sub(skipped));
        self.place.memory.write(place.optimiser.counter.address, &counter)?;
        let scale = Optimiser::loss_scale(state.scaling.map(|scaling| (scaling.scale, scaling.good)));
        self.place.memory.write(place.optimiser.loss_scale.address, &scale)?;
        self.updates = state.updates;
        Ok(())
    }
}
