//! The work of a step, counted.

use super::config::StackInput;
use super::graph::Graph;
use crate::data::batch::Batch;
use crate::ops::parameters::Sizes;

/// Floating-point operations of a training step on a batch: every multiplication and addition of its products of
/// matrices.
pub fn flops(graph: Graph, sizes: Sizes, adversarial: bool, batch: &Batch) -> f64 {
    let Sizes { features, classes, d, stacks } = sizes;
    let (d, features, classes) = (d as f64, features as f64, classes as f64);
    let (mut rows, mut pairs) = (0.0, 0.0);
    for shard in batch.shards() {
        rows += shard.rows() as f64;
        pairs += shard.pairs.last().copied().unwrap_or(0) as f64;
    }
    let samples = batch.len() as f64;
    let stacks = stacks as f64;
    // Speaker GRUs: input d and recurrent d to 3d in two directions; the interaction's d to d in two.
    let speaker =
        rows * 2.0 * (2.0 * (d + d) * 3.0 * d + 2.0 * d * d * f64::from(u8::from(graph.interaction)));
    // A stack: the GRU's 2d and d to 3d in two directions, G score, scores, readout.
    let context = rows * 2.0 * (2.0 * (2.0 * d + d) * 3.0 * d + 4.0 * d * d) + pairs * 2.0 * 2.0 * d;
    let readout = samples * 2.0 * 2.0 * 4.0 * d * d + rows * 2.0 * 2.0 * 2.0 * d + pairs * 2.0 * 2.0;
    let attend = if graph.stack_input == StackInput::Attention { pairs * 2.0 * 2.0 * d } else { 0.0 };
    let forward =
        speaker + stacks * (context + readout) + (stacks - 1.0) * attend + samples * 2.0 * 2.0 * d * classes;
    let distinct = batch.distinct.len() as f64;
    let embedding = 2.0 * features * d * (distinct + 2.0 * samples);
    let passes = if adversarial { 2.0 } else { 1.0 };
    // Backward is two products for each of the forward's; the embedding has no gradient at its input.
    let mut total = passes * 3.0 * forward + 2.0 * embedding;
    if adversarial {
        // Gram products at the gradients, and the correlation's in the weights' gradient.
        total += 2.0 * 2.0 * (rows * d * d + samples * 4.0 * d * d);
    }
    total
}
