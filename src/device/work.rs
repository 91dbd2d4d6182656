//! What a piece of work has to do at least, whoever does it: the bytes it moves and the operations it computes.

use serde::{Deserialize, Serialize};

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Ordinary multiply-adds, of a processor or of a card.
    #[default]
    Fma,
    /// Tensor cores: f16 operands, sums in float32.
    Tensor,
}

/// The least that a piece of work must do: every operand is read once, every result written once.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// From memory and to it.
    pub bytes: f64,
    /// Multiplications and additions, of products and sums; elementary functions are not counted.
    pub flops: f64,
    pub unit: Unit,
}

impl Work {
    /// Work that moves so many bytes and computes next to nothing.
    pub fn moving(bytes: usize) -> Work {
        Work { bytes: bytes as f64, ..Work::default() }
    }

    /// Work that is told by its operations alone.
    pub fn computing(flops: f64) -> Work {
        Work { flops, ..Work::default() }
    }

    pub fn flops(mut self, flops: f64, unit: Unit) -> Work {
        (self.flops, self.unit) = (flops, unit);
        self
    }

    /// This work and some more by the same unit.
    pub fn and(self, more: Work) -> Work {
        Work { bytes: self.bytes + more.bytes, flops: self.flops + more.flops, unit: self.unit }
    }
}
