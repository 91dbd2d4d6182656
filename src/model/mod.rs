//! The model: its settings, its named parameters, the graph forward and backward, the adversarial double pass.

pub mod config;
pub mod cpu;
pub mod gradcheck;
pub mod graph;

use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::data::windows::Windows;
use crate::device::cpu::simd::Real;
use crate::error::Result;
use crate::model::config::{Config, Precision};
use crate::model::cpu::CpuEngine;
use crate::ops::parameters::Sizes;

/// A model on some device with the conversations it works on: what training and the commands talk to.
///
/// A *target* is the index of an utterance in the corpus (a row of its features); its sample is the window
/// before it. Targets of a batch are distinct.
pub trait Engine: Send {
    /// One update: the clean and (when configured) the adversarial pass over `targets`, all of them labelled,
    /// then Adam. `step` numbers the updates from 0 and keys the dropout masks.
    fn train_step(&mut self, targets: &[u32], step: u64, learning_rate: f64) -> Result<StepLoss>;

    /// The objective and its gradient with dropout off; nothing is updated. Targets are labelled.
    fn objective(&mut self, targets: &[u32]) -> Result<Objective>;

    /// The classifier's output with dropout off, for any targets.
    fn predict(&mut self, targets: &[u32]) -> Result<Predictions>;

    /// Replaces the conversations it works on, whose features are as wide; the parameters stay.
    fn set_corpus(&mut self, corpus: &Corpus) -> Result<()>;

    /// Floating-point operations of a training step on the last batch: every multiplication and addition of its
    /// products of matrices.
    fn flops(&self) -> f64;

    /// Everything that an uninterrupted run would carry on with.
    fn state(&self) -> State;

    /// Takes over a state; refuses names or shapes that are not this model's.
    fn restore(&mut self, state: &State) -> Result<()>;
}

/// Refuses a model of `config` that would not fit into the memory that is free, before any of it is taken.
pub fn check_memory(config: &Config, corpus: &Corpus, threads: usize) -> Result<()> {
    config.validate()?;
    let sizes = Sizes {
        features: corpus.width(),
        classes: corpus.classes.len(),
        d: config.embedding_size,
        stacks: config.stacks,
    };
    let longest = Windows::new(corpus, config.history_length).longest();
    match config.dtype {
        Precision::F32 => cpu::foresee::<f32>(config, sizes, longest, threads),
        Precision::F64 => cpu::foresee::<f64>(config, sizes, longest, threads),
    }
}

/// The model of `config` on the CPU, with fresh parameters from its seed, over the conversations of `corpus`.
pub fn cpu_engine(
    config: &Config,
    corpus: &Corpus,
    standardisation: &Standardisation,
    threads: usize,
) -> Result<Box<dyn Engine>> {
    fn engine<R: Real>(
        config: &Config,
        corpus: &Corpus,
        standardisation: &Standardisation,
        threads: usize,
    ) -> Result<Box<dyn Engine>> {
        let mut engine = CpuEngine::<R>::new(config, corpus.width(), corpus.classes.len(), threads)?;
        engine.set_standardisation(standardisation.clone());
        engine.set_corpus(corpus)?;
        Ok(Box::new(engine))
    }
    check_memory(config, corpus, threads)?;
    match config.dtype {
        Precision::F32 => engine::<f32>(config, corpus, standardisation, threads),
        Precision::F64 => engine::<f64>(config, corpus, standardisation, threads),
    }
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
    /// Updates made so far.
    pub updates: u64,
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
        match precision {
            Precision::F32 => Values::F32(vec![0.0; len]),
            Precision::F64 => Values::F64(vec![0.0; len]),
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
            (Values::F64(values), Precision::F32) => {
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
