//! The operations of COIN, one folder each: a contract every device implements, and the CPU's code.
//!
//! A contract works on one [`Shard`](crate::data::batch::Shard) of a batch: the CPU cuts a batch into shards of
//! 16 samples and runs the graph on each in one thread; another device may take the whole batch as one shard.
//! Shapes in the docs use S samples, R rows (utterances of all windows together), d, C as in the paper. Saved
//! values are arguments: nothing is kept between calls but what the caller holds.
//!
//! | operation | step of the paper |
//! |---|---|
//! | [`embedding`] | 1, embedding of history and target |
//! | [`gru`] | 2, speaker GRUs, and the recurrence of 4 |
//! | [`interaction`] | 3, speaker mutual interaction (eq. 1) |
//! | [`projection`] | 4, Q, K, V folded into products of weights |
//! | [`attention`] | 4, softmax(Q K^T / sqrt d) and its sum over V; the readout is a part of it |
//! | [`readout`] | 4, softmax(M_att q), c, tanh |
//! | [`classifier`] | 5, logits and cross-entropy |
//! | [`dropout`] | inverted dropout, Philox masks |
//! | [`adversarial`] | the perturbation of eq. 6, by the Gram identity |
//! | [`adam`] | the update |

pub mod adam;
pub mod adversarial;
pub mod attention;
pub mod classifier;
pub mod cpu;
pub mod cuda;
pub mod dropout;
pub mod embedding;
pub mod gru;
pub mod interaction;
pub mod parameters;
pub mod part;
pub mod projection;
pub mod readout;

use part::Part;

/// What the contracts are written in terms of.
pub trait Backend {
    /// Device memory of scalars. Buffers hold at least what a shape asks for; the rest is not touched.
    type Buffer;
    /// Device memory of float64, whatever the scalars are: losses and squared norms.
    type Wide;
    /// A shard's layout where the device can read it.
    type Layout;
    /// The parameters of a step, laid out as this device multiplies with them.
    type Weights;
    /// Sums of parameter gradients; every operation adds to them.
    type Gradients;

    /// Says that what follows, until it is called again, is `part` of a step. Returns the part until now.
    fn enter(&mut self, part: Part) -> Part;
}

/// Every operation of the graph.
pub trait Operations:
    embedding::Embedding
    + gru::Gru
    + interaction::Interaction
    + dropout::Dropout
    + attention::Attention
    + classifier::Classifier
    + adversarial::Adversarial
{
}
