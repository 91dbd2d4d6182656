//! The model: its settings, its named parameters, the graph forward and backward, the adversarial double pass.

pub mod config;
pub mod cpu;
pub mod cuda;
pub mod device;
mod flops;
pub mod gradcheck;
pub mod graph;
mod side_by_side;

use serde::{Deserialize, Serialize};

use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::device::cpu::simd::Real;
use crate::device::work::Work;
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::model::config::{Config, Precision};
use crate::model::cpu::CpuEngine;
use crate::model::cuda::CudaEngine;
use crate::model::device::{Compute, Device};
use crate::model::side_by_side::SideBySide;
use crate::ops::parameters::{Layout, Sizes, Spec};
use crate::ops::part::Part;

/// Models of one shape side by side on some device, with the conversations they work on: what training and the commands
/// talk to.
///
/// Each model is a *run*, with weights, optimiser, masks, batches and standardised features of its own; what it computes has
/// the bits that it has alone. Runs are numbered from 0. Most engines have one, and the functions without a run are about
/// the first.
///
/// A *target* is the index of an utterance in the corpus (a row of its features); its sample is the window
/// before it. Targets of a batch are distinct.
pub trait Engine: Send {
    /// How many runs it has room for.
    fn runs(&self) -> usize;

    /// Begins a run anew: fresh parameters and optimiser, and the conversations of `corpus`, which are those of the other
    /// runs. `config` may differ from theirs in what [`Config::same_shape`] leaves free.
    fn begin(
        &mut self,
        run: usize,
        config: &Config,
        standardisation: &Standardisation,
        corpus: &Corpus,
    ) -> Result<()>;

    /// One update of each run that has a step, by run: the clean and (when configured) the adversarial pass over its targets,
    /// all of them labelled, then Adam. What has none stays as it is, to the last bit. A card may still be at work when it
    /// returns.
    fn train_steps(&mut self, steps: &[Option<Step>]) -> Result<()>;

    /// Sums of a run's losses: those of [`Engine::set_losses`], and each step's since then added in order. Without `wait` there
    /// are none where reading them would mean waiting for a card.
    fn losses_of(&mut self, run: usize, wait: bool) -> Result<Option<Losses>>;

    /// What a run's further losses are added to.
    fn set_losses(&mut self, run: usize, losses: Losses) -> Result<()>;

    /// Mean clean loss and confusion of each run with dropout off, of any number of targets, all of them labelled; what has
    /// none gets those of no targets. `None` where `interrupted` says so between two batches.
    fn evaluate_each(
        &mut self,
        targets: &[&[u32]],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Vec<Evaluation>>>;

    /// The classifier's output with dropout off, for any targets of each run; what has none gets nothing.
    fn predict_each(&mut self, targets: &[&[u32]]) -> Result<Vec<Predictions>>;

    /// Everything that an uninterrupted run would carry on with.
    fn state_of(&mut self, run: usize) -> Result<State>;

    /// Takes over a state; refuses names or shapes that are not this model's.
    fn restore_run(&mut self, run: usize, state: &State) -> Result<()>;

    /// The objective of the first run and its gradient with dropout off; nothing is updated. Targets are labelled.
    fn objective(&mut self, targets: &[u32]) -> Result<Objective>;

    /// Replaces the conversations that all runs work on, whose features are as wide; the parameters stay.
    fn set_corpus(&mut self, corpus: &Corpus) -> Result<()>;

    /// Floating-point operations of a training step on the last batches: every multiplication and addition of its
    /// products of matrices.
    fn flops(&self) -> f64;

    /// A training step of all runs, as [`Engine::train_steps`], and the seconds that the device took for it. A card is timed by
    /// its own events, its L2 cache full of something else at first; what the host does for the step is left out then.
    fn time_steps(&mut self, steps: &[Option<Step>]) -> Result<f64>;

    /// A training step of all runs, as [`Engine::train_steps`], piece by piece: on a card every launch, one at a time and with
    /// nothing in its L2 cache; on the CPU every [`Part`], in seconds of the step's time, a run after the other.
    fn profile_steps(&mut self, steps: &[Option<Step>]) -> Result<Vec<Piece>>;

    /// One update of the first run over `targets`; `step` numbers the updates from 0.
    fn train_step(&mut self, targets: &[u32], step: u64, learning_rate: f64) -> Result<()> {
        self.train_steps(&[Some(Step { targets, number: step, learning_rate })])
    }

    /// As [`Engine::time_steps`].
    fn time_step(&mut self, targets: &[u32], step: u64, learning_rate: f64) -> Result<f64> {
        self.time_steps(&[Some(Step { targets, number: step, learning_rate })])
    }

    /// Losses of the first run's steps since the last call that gave some, as [`Engine::losses_of`].
    fn losses(&mut self, wait: bool) -> Result<Option<Losses>> {
        let losses = self.losses_of(0, wait)?;
        if losses.is_some() {
            self.set_losses(0, Losses::default())?;
        }
        Ok(losses)
    }

    /// A training step and its losses, which it waits for.
    fn step_and_loss(&mut self, targets: &[u32], step: u64, learning_rate: f64) -> Result<StepLoss> {
        self.train_step(targets, step, learning_rate)?;
        Ok(self.losses(true)?.unwrap_or_default().mean())
    }

    /// As [`Engine::evaluate_each`].
    fn evaluate(
        &mut self,
        targets: &[u32],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Evaluation>> {
        Ok(self.evaluate_each(&[targets], interrupted)?.and_then(|mut each| each.pop()))
    }

    /// The classifier's output with dropout off, for any targets.
    fn predict(&mut self, targets: &[u32]) -> Result<Predictions> {
        if targets.is_empty() {
            return Err(empty_batch());
        }
        Ok(self.predict_each(&[targets])?.pop().unwrap_or_default())
    }

    /// As [`Engine::state_of`].
    fn state(&mut self) -> Result<State> {
        self.state_of(0)
    }

    /// As [`Engine::restore_run`].
    fn restore(&mut self, state: &State) -> Result<()> {
        self.restore_run(0, state)
    }
}

/// A run's part of a training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step<'a> {
    pub targets: &'a [u32],
    /// Numbers the run's updates from 0, and keys the dropout masks.
    pub number: u64,
    pub learning_rate: f64,
}

/// Refuses a model of `config` that would not fit into the memory that is free, before any of it is taken.
pub fn check_memory(config: &Config, corpus: &Corpus, compute: Compute) -> Result<()> {
    fitting(config, corpus, compute, 1).map(drop)
}

/// How many of up to `most` runs of `config`'s shape fit side by side into the memory that is free.
///
/// # Errors
/// Where not even one does.
pub fn fitting(config: &Config, corpus: &Corpus, compute: Compute, most: usize) -> Result<usize> {
    let Compute { device, threads } = compute;
    config.validate()?;
    let sizes = sizes(config, corpus);
    let windows = Windows::new(corpus, config.history_length);
    match (device, config.dtype) {
        (Device::Cpu, Precision::F32) => cpu::foresee::<f32>(config, sizes, windows.longest(), threads, most),
        (Device::Cpu, Precision::F64) => cpu::foresee::<f64>(config, sizes, windows.longest(), threads, most),
        (Device::Cpu, Precision::Mixed) => Err(Error::input(
            "dtype is mixed, which needs tensor cores: take f32, or a card with --device cuda",
        )),
        (Device::Cuda(_), Precision::F64) => Err(Error::input(
            "dtype is f64, which the CUDA engine does not compute in: take f32 or mixed, or --device cpu",
        )),
        (Device::Cuda(index), _) => cuda::foresee(config, sizes, &windows, index, most),
    }
}

/// The largest size below `fails`, which does not fit, that does; 0 where none does.
fn largest_below(mut fails: usize, fits: impl Fn(usize) -> bool) -> usize {
    let mut fit = 0;
    while fails - fit > 1 {
        let middle = fit.midpoint(fails);
        if fits(middle) { fit = middle } else { fails = middle }
    }
    fit
}

/// What `runs` runs of `config`'s shape over these conversations take of a card's memory.
pub fn bytes_on_a_card(config: &Config, corpus: &Corpus, runs: usize) -> usize {
    runs * cuda::needed(config, sizes(config, corpus), &Windows::new(corpus, config.history_length))
}

/// Scalars that a model of `config` over these conversations learns.
pub fn parameters(config: &Config, corpus: &Corpus) -> usize {
    Layout::new(sizes(config, corpus)).len
}

fn sizes(config: &Config, corpus: &Corpus) -> Sizes {
    Sizes {
        features: corpus.width(),
        classes: corpus.classes.len(),
        d: config.embedding_size,
        stacks: config.stacks,
    }
}

/// The model of `config` on a device, with fresh parameters from its seed, over the conversations of `corpus`.
pub fn engine(
    config: &Config,
    corpus: &Corpus,
    standardisation: &Standardisation,
    compute: Compute,
) -> Result<Box<dyn Engine>> {
    engines_of_seeds(config, corpus, standardisation, compute, 1)
}

/// As [`engine`], of `runs` runs side by side: of the configuration's seed and of those that follow it.
pub fn engines_of_seeds(
    config: &Config,
    corpus: &Corpus,
    standardisation: &Standardisation,
    compute: Compute,
    runs: usize,
) -> Result<Box<dyn Engine>> {
    let mut engine = room(config, corpus, compute, runs)?;
    for run in 0..runs {
        let config = Config { seed: config.seed.wrapping_add(run as u64), ..config.clone() };
        engine.begin(run, &config, standardisation, corpus)?;
    }
    Ok(engine)
}

/// Room for `runs` runs of `config`'s shape side by side on a device, over conversations like those of `corpus`. Each is there
/// once it has begun.
pub fn room(config: &Config, corpus: &Corpus, compute: Compute, runs: usize) -> Result<Box<dyn Engine>> {
    fn on_cpu<R: Real>(
        config: &Config,
        corpus: &Corpus,
        threads: usize,
        runs: usize,
    ) -> Result<Box<dyn Engine>> {
        let (features, classes) = (corpus.width(), corpus.classes.len());
        let make = |threads| CpuEngine::<R>::new(config, features, classes, threads);
        Ok(Box::new(SideBySide::new(runs, threads, make)?))
    }
    let fit = fitting(config, corpus, compute, runs)?;
    if fit < runs {
        return Err(Error::input(format!(
            "{runs} runs side by side need more memory than is free: {fit} fit (at_once)"
        )));
    }
    let Compute { device, threads } = compute;
    match (device, config.dtype) {
        (Device::Cuda(index), _) => Ok(Box::new(CudaEngine::room(config, corpus, index, runs)?)),
        (Device::Cpu, Precision::F64) => on_cpu::<f64>(config, corpus, threads, runs),
        (Device::Cpu, _) => on_cpu::<f32>(config, corpus, threads, runs),
    }
}

/// Sums of losses over the utterances of some steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Losses {
    pub utterances: u64,
    pub clean: f64,
    /// `None` while no adversarial pass has been made.
    pub adversarial: Option<f64>,
}

impl Losses {
    /// Adds a step's means over `utterances`.
    pub fn add(&mut self, loss: StepLoss, utterances: usize) {
        self.join(Losses {
            utterances: utterances as u64,
            clean: loss.clean * utterances as f64,
            adversarial: loss.adversarial.map(|loss| loss * utterances as f64),
        });
    }

    pub fn join(&mut self, other: Losses) {
        self.utterances += other.utterances;
        self.clean += other.clean;
        if let Some(adversarial) = other.adversarial {
            *self.adversarial.get_or_insert(0.0) += adversarial;
        }
    }

    pub fn mean(&self) -> StepLoss {
        let count = self.utterances.max(1) as f64;
        StepLoss { clean: self.clean / count, adversarial: self.adversarial.map(|sum| sum / count) }
    }
}

/// The parameters, or what is like them, by name.
fn tensors<R: Real>(layout: &Layout, values: &[R]) -> Vec<Tensor> {
    let tensor = |spec: &Spec| Tensor {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        values: Values::of(&values[spec.range()]),
    };
    layout.specs.iter().map(tensor).collect()
}

/// The scalars of `tensors`, which are those of this layout.
fn flatten<R: Real>(layout: &Layout, tensors: &[Tensor], what: &str) -> Result<Vec<R>> {
    let mut values = vec![R::ZERO; layout.len];
    for spec in &layout.specs {
        let named = tensors.iter().find(|tensor| tensor.name == spec.name);
        let tensor = named.ok_or_else(|| {
            Error::input(format!(
                "{what} has no tensor {}: it belongs to a model of another shape",
                spec.name
            ))
        })?;
        if tensor.shape != spec.shape {
            return Err(Error::input(format!(
                "{what}: tensor {} is {:?}, this model's is {:?}",
                spec.name, tensor.shape, spec.shape
            )));
        }
        tensor.values.write(&mut values[spec.range()]);
    }
    if let Some(other) = tensors.iter().find(|t| layout.specs.iter().all(|spec| spec.name != t.name)) {
        return Err(Error::input(format!("{what}: tensor {} is not of this model", other.name)));
    }
    Ok(values)
}

fn empty_batch() -> Error {
    Error::input("the batch is empty: it needs at least one target utterance")
}

/// Refuses targets that are not there, or have no label where one is needed.
fn check_targets(windows: &Windows, targets: &[u32], labelled: bool) -> Result<()> {
    if targets.is_empty() {
        return Err(empty_batch());
    }
    if windows.is_empty() {
        return Err(Error::input("there are no utterances: the engine has been given no conversations"));
    }
    for &target in targets {
        if target as usize >= windows.len() {
            let last = windows.len() - 1;
            return Err(Error::input(format!("target {target} is past the last utterance, {last}")));
        }
        if labelled && windows.label(target).is_none() {
            return Err(Error::input(format!("target {target} has no label to learn from")));
        }
    }
    Ok(())
}

/// Mean losses over the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLoss {
    pub clean: f64,
    /// Of the perturbed input; `None` when the adversarial pass is off.
    pub adversarial: Option<f64>,
}

/// One evaluation of the whole objective.
#[derive(Debug, Clone)]
pub struct Objective {
    pub loss: StepLoss,
    /// `[targets, C]`
    pub logits: Vec<f64>,
    /// `[targets, C]`, of the perturbed input; empty when the adversarial pass is off.
    pub logits_adversarial: Vec<f64>,
    /// Of the sum of both losses, by parameter.
    pub gradient: Vec<Tensor>,
    /// `[targets]`: the norm of the mean clean loss's gradient over all features a sample reads.
    pub input_gradient_norm: Vec<f64>,
}

/// A piece of a step that was timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece {
    pub part: Part,
    /// The kernel that was launched; on the CPU none.
    pub kernel: Option<&'static str>,
    pub seconds: f64,
    /// The least that it must do; of the CPU's pieces the operations are known.
    pub work: Work,
}

/// What the model says of targets.
#[derive(Debug, Clone, Default)]
pub struct Predictions {
    /// `[targets, C]`
    pub logits: Vec<f64>,
    /// The last stack's readout weights over the history, targets one behind the other, oldest utterance first:
    /// a target whose window holds n utterances has n weights that sum to 1.
    pub attention: Vec<f64>,
    /// Window length of each target.
    pub history: Vec<usize>,
}

/// A named array in the engine's precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Values,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Values {
    fn of<R: Real>(values: &[R]) -> Self {
        match bytemuck::try_cast_slice(values) {
            Ok(singles) if size_of::<R>() == 4 => Values::F32(singles.to_vec()),
            _ => Values::F64(values.iter().map(|x| x.to_f64()).collect()),
        }
    }

    fn write<R: Real>(&self, to: &mut [R]) {
        match self {
            Values::F32(values) => {
                to.iter_mut().zip(values).for_each(|(to, &x)| *to = R::from_f64(f64::from(x)));
            }
            Values::F64(values) => to.iter_mut().zip(values).for_each(|(to, &x)| *to = R::from_f64(x)),
        }
    }
}

/// Parameters and optimiser of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub parameters: Vec<Tensor>,
    /// Adam's running means of the gradient, named as the parameters.
    pub first_moment: Vec<Tensor>,
    /// Adam's running means of the squared gradient, named as the parameters.
    pub second_moment: Vec<Tensor>,
    /// Updates made so far, those that mixed precision skipped included.
    pub updates: u64,
    /// Of mixed precision.
    pub scaling: Option<Scaling>,
}

/// What mixed precision carries on with besides: its gradients are those of the losses times a scale, which keeps them
/// within f16's range. An update whose gradient overflows all the same is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// A power of two.
    pub scale: f32,
    /// Updates since it last changed.
    pub good: u32,
    /// Updates skipped so far.
    pub skipped: u64,
}

impl Values {
    pub fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::F64(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn zeros(precision: Precision, len: usize) -> Self {
        match precision.stored() {
            Precision::F64 => Values::F64(vec![0.0; len]),
            _ => Values::F32(vec![0.0; len]),
        }
    }

    pub fn precision(&self) -> Precision {
        match self {
            Values::F32(_) => Precision::F32,
            Values::F64(_) => Precision::F64,
        }
    }

    /// The same values in another precision: exact when widened, rounded when narrowed.
    pub fn to_precision(&self, precision: Precision) -> Self {
        match (self, precision) {
            (Values::F32(values), Precision::F64) => {
                Values::F64(values.iter().map(|&value| f64::from(value)).collect())
            }
            (Values::F64(values), Precision::F32 | Precision::Mixed) => {
                Values::F32(values.iter().map(|&value| value as f32).collect())
            }
            _ => self.clone(),
        }
    }

    pub fn all_finite(&self) -> bool {
        match self {
            Values::F32(values) => values.iter().all(|value| value.is_finite()),
            Values::F64(values) => values.iter().all(|value| value.is_finite()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_size_that_fits_is_found() {
        for (fails, room) in [(1, 0), (2, 0), (2, 1), (100, 0), (100, 1), (100, 64), (100, 99)] {
            assert_eq!(largest_below(fails, |size| size <= room), room, "{fails}");
        }
    }
}
