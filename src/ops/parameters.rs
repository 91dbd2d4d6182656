//! The parameters by name, as PyTorch names and shapes them.

use crate::device::cpu::simd::Real;
use crate::random::{Stream, purpose};

/// What fixes the shape of every parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// D: width of an utterance's features.
    pub features: usize,
    /// C: emotion classes.
    pub classes: usize,
    /// d: embedding size.
    pub d: usize,
    /// L: stacks of contextual interaction.
    pub stacks: usize,
}

/// One parameter tensor's place in the flat vector of all.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub name: String,
    /// `[out, in]` for weights, `[out]` for biases.
    pub shape: Vec<usize>,
    /// Index of its first scalar.
    pub offset: usize,
    /// Initial values are uniform in `[-bound, bound)`, as PyTorch's modules do.
    pub bound: f64,
}

impl Spec {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// The two directions of a recurrent layer and the suffix PyTorch gives them.
pub const DIRECTIONS: [&str; 2] = ["", "_reverse"];
/// Role A is the target's speaker, role B everybody else.
pub const ROLES: [&str; 2] = ["a", "b"];

/// Where every tensor lies in the flat vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    pub sizes: Sizes,
    pub specs: Vec<Spec>,
    pub len: usize,
    pub history_embedding: Linear,
    pub target_embedding: Linear,
    /// By role, by direction.
    pub speaker: [[Gru; 2]; 2],
    /// By role whose state makes the gate (W_A, W_B), by direction.
    pub interaction: [[Linear; 2]; 2],
    pub context: Vec<Context>,
    pub classifier: Linear,
}

/// Indices into [`Layout::specs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    pub weight: usize,
    pub bias: usize,
}

/// Indices into [`Layout::specs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gru {
    pub weight_ih: usize,
    pub weight_hh: usize,
    pub bias_ih: usize,
    pub bias_hh: usize,
}

/// Indices into [`Layout::specs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// By direction.
    pub gru: [Gru; 2],
    pub query: usize,
    pub key: usize,
    pub value: usize,
}

struct Builder(Vec<Spec>, usize);

impl Builder {
    fn tensor(&mut self, name: String, shape: &[usize], fan_in: usize) -> usize {
        let spec = Spec { name, shape: shape.to_vec(), offset: self.1, bound: 1.0 / (fan_in as f64).sqrt() };
        self.1 += spec.len();
        self.0.push(spec);
        self.0.len() - 1
    }

    fn linear(&mut self, prefix: &str, suffix: &str, out: usize, width: usize) -> Linear {
        Linear {
            weight: self.tensor(format!("{prefix}.weight{suffix}"), &[out, width], width),
            bias: self.tensor(format!("{prefix}.bias{suffix}"), &[out], width),
        }
    }

    fn gru(&mut self, prefix: &str, suffix: &str, width: usize, hidden: usize) -> Gru {
        let mut tensor =
            |name, shape: &[usize]| self.tensor(format!("{prefix}.{name}_l0{suffix}"), shape, hidden);
        Gru {
            weight_ih: tensor("weight_ih", &[3 * hidden, width]),
            weight_hh: tensor("weight_hh", &[3 * hidden, hidden]),
            bias_ih: tensor("bias_ih", &[3 * hidden]),
            bias_hh: tensor("bias_hh", &[3 * hidden]),
        }
    }
}

impl Layout {
    pub fn new(sizes: Sizes) -> Self {
        let d = sizes.d;
        let mut b = Builder(Vec::new(), 0);
        let history_embedding = b.linear("history_embedding", "", d, sizes.features);
        let target_embedding = b.linear("target_embedding", "", 2 * d, sizes.features);
        let speaker =
            ROLES.map(|role| DIRECTIONS.map(|suffix| b.gru(&format!("speaker_gru.{role}"), suffix, d, d)));
        let interaction =
            ROLES.map(|role| DIRECTIONS.map(|suffix| b.linear(&format!("interaction.{role}"), suffix, d, d)));
        let context = (0..sizes.stacks)
            .map(|l| {
                let gru = DIRECTIONS.map(|suffix| b.gru(&format!("context.{l}.gru"), suffix, 2 * d, d));
                let mut square =
                    |name| b.tensor(format!("context.{l}.{name}.weight"), &[2 * d, 2 * d], 2 * d);
                Context { gru, query: square("query"), key: square("key"), value: square("value") }
            })
            .collect();
        let classifier = b.linear("classifier", "", sizes.classes, 2 * d);
        Self {
            sizes,
            specs: b.0,
            len: b.1,
            history_embedding,
            target_embedding,
            speaker,
            interaction,
            context,
            classifier,
        }
    }

    /// Fresh parameters: uniform with bound `1 / sqrt(fan)`, as PyTorch's `nn.GRU` (fan: hidden size) and
    /// `nn.Linear` (fan: input width) do, drawn in the order of [`Layout::specs`].
    pub fn initialise<R: Real>(&self, seed: u64) -> Vec<R> {
        let mut stream = Stream::new(seed, purpose::INITIALISATION);
        let mut values = Vec::with_capacity(self.len);
        let mut drawn = [0.0; 1024];
        for spec in &self.specs {
            let end = values.len() + spec.len();
            while values.len() < end {
                let drawn = &mut drawn[..(end - values.len()).min(1024)];
                stream.uniforms(drawn);
                values.extend(drawn.iter().map(|uniform| R::from_f64(spec.bound * (2.0 * uniform - 1.0))));
            }
        }
        values
    }
}
