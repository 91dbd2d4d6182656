//! Every setting of the model, its objective and its optimisation, with the defaults that ship.

use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::error::{Error, Result};
pub use crate::ops::adversarial::AdversarialNorm;

/// One flat table of settings: the keys of a configuration file, of `--set key=value` and of a checkpoint.
/// The paper's symbols (`d`, `K`, `L`, `B`, `eps`) are accepted for the settings they stand for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// d: width of an utterance's embedding.
    #[serde(alias = "d")]
    pub embedding_size: usize,
    /// K: utterances before the target that a window holds at most.
    #[serde(alias = "K")]
    pub history_length: usize,
    /// L: stacks of contextual interaction.
    #[serde(alias = "L")]
    pub stacks: usize,
    /// Speaker mutual interaction (eq. 1); `false` is the paper's ablation.
    pub interaction: bool,
    /// What a stack hands to the next one.
    pub stack_input: StackInput,
    /// Probability that dropout keeps a value; 1 switches dropout off.
    pub dropout_keep: f64,
    /// Whether the objective has its adversarial half (eq. 6).
    pub adversarial: bool,
    /// Length of the perturbation, in standardised units.
    #[serde(alias = "eps")]
    pub epsilon: f64,
    /// Over what the gradient is normalised.
    pub adversarial_norm: AdversarialNorm,
    /// B: target utterances in a batch.
    #[serde(alias = "B")]
    pub batch_size: usize,
    pub learning_rate: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// The learning rate is halved every so many epochs.
    pub anneal_epochs: usize,
    /// Epochs without a better validation loss after which training stops.
    pub patience: usize,
    /// Epochs at most.
    pub epochs: usize,
    /// Share of the training conversations held out for validation where the data names none.
    pub validation_fraction: f64,
    /// Seed of initialisation, batches, dropout masks and the held-out conversations.
    pub seed: u64,
    /// Precision of every number of the model.
    pub dtype: Precision,
}

choice! {
    /// What a stack hands to the next one.
    StackInput, "stack_input" {
        /// The attended states, M_att.
        Attention = "attention",
        /// The GRU's states after dropout, G.
        Gru = "gru"
    }
}

choice! {
    /// Precision of the engine's arithmetic.
    Precision, "dtype" {
        F32 = "f32",
        F64 = "f64",
        /// Operands of products in f16 on tensor cores, sums and parameters in f32: on a card.
        Mixed = "mixed"
    }
}

impl Precision {
    /// What parameters are kept in, on the device and in files.
    pub fn stored(self) -> Precision {
        match self {
            Precision::F32 | Precision::Mixed => Precision::F32,
            Precision::F64 => Precision::F64,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            embedding_size: 100,
            history_length: 40,
            stacks: 3,
            interaction: true,
            stack_input: StackInput::Attention,
            dropout_keep: 0.7,
            adversarial: true,
            epsilon: 3.0,
            adversarial_norm: AdversarialNorm::Sample,
            batch_size: 512,
            learning_rate: 1e-3,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            anneal_epochs: 60,
            patience: 10,
            epochs: 200,
            validation_fraction: 0.1,
            seed: 1,
            dtype: Precision::F32,
        }
    }
}

impl Config {
    /// Whether models of both can be trained side by side: everything is the same but for what a run has of its own.
    pub fn same_shape(&self, other: &Config) -> bool {
        let Config { seed, epsilon, dropout_keep, learning_rate, .. } = *self;
        *self == Config { seed, epsilon, dropout_keep, learning_rate, ..other.clone() }
    }

    /// The settings that are counted from 1, and how far. The bounds keep the sizes of tensors within what a machine can
    /// count; memory is foreseen later.
    pub const COUNTS: [(&str, usize); 7] = [
        ("embedding_size", 100_000),
        ("history_length", 1_000_000),
        ("stacks", 1000),
        ("batch_size", 1_000_000),
        ("anneal_epochs", 1_000_000),
        ("patience", 1_000_000),
        ("epochs", 1_000_000),
    ];

    /// Refuses values that cannot be computed with, by name.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            self.embedding_size,
            self.history_length,
            self.stacks,
            self.batch_size,
            self.anneal_epochs,
            self.patience,
            self.epochs,
        ];
        for ((name, most), value) in Self::COUNTS.into_iter().zip(counts) {
            if !(1..=most).contains(&value) {
                return Err(Error::input(format!("{name} is {value}; it must be 1 to {most}")));
            }
        }
        // Settings travel as TOML, whose integers end there.
        if self.seed > i64::MAX as u64 {
            return Err(Error::input(format!("seed is {}; it is too large", self.seed)));
        }
        let ranges = [
            (
                "dropout_keep",
                self.dropout_keep,
                "above 0, at most 1",
                self.dropout_keep > 0.0 && self.dropout_keep <= 1.0,
            ),
            // Beside a perturbation of 2^24 a standardised feature has no digit left in float32; far beyond, the quotient by
            // the gradient's norm overflows, and nothing is perturbed.
            ("epsilon", self.epsilon, "0 to 1000000", (0.0..=1e6).contains(&self.epsilon)),
            (
                "learning_rate",
                self.learning_rate,
                "finite and above 0",
                self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            ),
            ("adam_beta1", self.adam_beta1, "at least 0, below 1", (0.0..1.0).contains(&self.adam_beta1)),
            ("adam_beta2", self.adam_beta2, "at least 0, below 1", (0.0..1.0).contains(&self.adam_beta2)),
            // What float32 holds as a number above 0; a denominator far above every gradient learns nothing.
            (
                "adam_epsilon",
                self.adam_epsilon,
                "1e-37 to 1000000",
                (1e-37..=1e6).contains(&self.adam_epsilon),
            ),
            (
                "validation_fraction",
                self.validation_fraction,
                "above 0, below 1",
                self.validation_fraction > 0.0 && self.validation_fraction < 1.0,
            ),
        ];
        for (name, value, wanted, holds) in ranges {
            if !holds {
                return Err(Error::input(format!("{name} is {value}; it must be {wanted}")));
            }
        }
        Ok(())
    }
}
