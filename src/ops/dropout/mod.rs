//! Inverted dropout with masks from a counter, so that every device draws the same one and a run can be replayed
//! from any step.
//!
//! Philox4x32-10 keyed by the seed. The counter's words are: the block of four values within the sample's part
//! (rows in time order, each row's blocks counted from a whole one), the target utterance, the step, and the purpose
//! with site and pass ([`Mask::word`]). A value is kept when its word is below `keep * 2^32`, and divided by `keep`.

mod cpu;
mod cuda;

use super::Backend;
use crate::random::{key, purpose};

/// Which mask to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    pub seed: u64,
    pub step: u64,
    pub pass: Pass,
    /// Probability to keep a value, above 0 and at most 1; at 1 nothing is drawn or changed.
    pub keep: f64,
}

/// The two passes of a step draw different masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Clean,
    Adversarial,
}

/// Where dropout acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// `M^0`, the first stack's input.
    Interaction,
    /// `G` of stack l.
    Context(usize),
    /// `q^L` before the classifier.
    Classifier,
}

impl Mask {
    /// Last word of the counter: purpose in the low byte, site above it, pass in the top bit.
    pub fn word(&self, site: Site) -> u32 {
        let site = match site {
            Site::Classifier => 0,
            Site::Interaction => 1,
            Site::Context(l) => 2 + l as u32,
        };
        purpose::DROPOUT | site << 8 | u32::from(self.pass == Pass::Adversarial) << 31
    }

    pub fn key(&self) -> [u32; 2] {
        key(self.seed)
    }

    /// Words below this keep their value; `None` when every value is kept.
    pub fn threshold(&self) -> Option<u32> {
        (self.keep < 1.0).then_some((self.keep * 4_294_967_296.0) as u32)
    }
}

pub trait Dropout: Backend {
    /// Masks `values` in place: `[R, 2d]` sample-major, or `[S, 2d]` at [`Site::Classifier`]. The same call masks the
    /// gradient on the way back.
    fn dropout(&mut self, layout: &Self::Layout, mask: &Mask, site: Site, values: &mut Self::Buffer);

    /// As [`Dropout::dropout`], from one buffer to another.
    fn dropout_copy(
        &mut self,
        layout: &Self::Layout,
        mask: &Mask,
        site: Site,
        from: &Self::Buffer,
        to: &mut Self::Buffer,
    );
}
