//! The work of a step, counted.

use super::config::StackInput;
use super::graph::Graph;
use crate::data::batch::Batch;
use crate::ops::parameters::Sizes;
use crate::ops::part::Part;

/// Floating-point operations of a training step on a batch: every multiplication and addition of its products of
/// matrices.
pub fn flops(graph: Graph, sizes: Sizes, adversarial: bool, batch: &Batch) -> f64 {
    by_part(graph, sizes, adversarial, batch).iter().sum()
}

/// [`flops`] by the part in which they are computed.
pub fn by_part(graph: Graph, sizes: Sizes, adversarial: bool, batch: &Batch) -> [f64; Part::COUNT] {
    let Sizes { features, classes, d, stacks } = sizes;
    let (d, features, classes) = (d as f64, features as f64, classes as f64);
    let (mut rows, mut pairs) = (0.0, 0.0);
    for shard in batch.shards() {
        rows += shard.rows() as f64;
        pairs += shard.pairs.last().copied().unwrap_or(0) as f64;
    }
    let samples = batch.len() as f64;
    let stacks = stacks as f64;
    let attended = if graph.stack_input == StackInput::Attention { stacks - 1.0 } else { 0.0 };
    // Of products with weights and of products between values, in one pass forward.
    let forward = [
        // Input d and recurrent d to 3d in two directions.
        (Part::SpeakerGru, Part::SpeakerGruBackward, rows * 24.0 * d * d, 0.0),
        // d to d in two directions.
        (
            Part::Interaction,
            Part::InteractionBackward,
            rows * 4.0 * d * d * f64::from(u8::from(graph.interaction)),
            0.0,
        ),
        // 2d and d to 3d in two directions.
        (Part::StackGru, Part::StackGruBackward, stacks * rows * 36.0 * d * d, 0.0),
        // G score; scores, and the attended states where they are read.
        (
            Part::Attention,
            Part::AttentionBackward,
            stacks * rows * 8.0 * d * d,
            (stacks + attended) * pairs * 4.0 * d,
        ),
        (
            Part::Readout,
            Part::ReadoutBackward,
            stacks * samples * 16.0 * d * d,
            stacks * (rows * 8.0 * d + pairs * 4.0),
        ),
        (Part::Classifier, Part::ClassifierBackward, samples * 4.0 * d * classes, 0.0),
    ];
    let passes = if adversarial { 2.0 } else { 1.0 };
    let mut flops = [0.0; Part::COUNT];
    for (there, back, with_weights, between) in forward {
        flops[there as usize] += passes * (with_weights + between);
        // Backward is two products for each of the forward's: one of them a weight's gradient where it has a weight.
        flops[back as usize] += passes * (with_weights + 2.0 * between);
        flops[Part::WeightGradients as usize] += passes * with_weights;
    }
    // The embedding has no gradient at its input.
    let embedding = 2.0 * features * d * (batch.distinct.len() as f64 + 2.0 * samples);
    flops[Part::Embedding as usize] += embedding;
    flops[Part::EmbeddingGradients as usize] += embedding;
    if adversarial {
        // Gram products at the gradients, and the correlation's in the weights' gradient.
        flops[Part::Perturbation as usize] += 4.0 * (rows * d * d + samples * 4.0 * d * d);
    }
    flops
}
