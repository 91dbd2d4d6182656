//! COIN's forward pass, step by step as the paper has it, and the same page in reverse.
//!
//! Nothing here knows which device runs it: a step is an operation of [`crate::ops`], a value is a buffer named in
//! [`Activations`].

use super::config::StackInput;
use crate::ops::Operations;
use crate::ops::adversarial::Perturbation;
use crate::ops::attention::FromNext;
use crate::ops::dropout::{Mask, Site};
use crate::ops::gru::Layer;
use crate::ops::part::Part;
use crate::ops::{attention, readout};

/// The settings that shape the graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Graph {
    pub stacks: usize,
    pub interaction: bool,
    pub stack_input: StackInput,
}

/// The most of everything in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// S
    pub samples: usize,
    /// R: of all windows together.
    pub rows: usize,
    /// Sum of the squared window lengths.
    pub pairs: usize,
}

/// Every value of one shard that the backward pass reads, and the gradients on the way. Allocated once for the
/// largest shard and used again for every other.
#[derive(Debug, Default)]
pub struct Activations<B, W> {
    /// `[R, d]` role-major: embedded history.
    pub x: B,
    /// `[R, 2, 4d]` role-major: the speaker GRUs' gates.
    pub speaker: B,
    /// `[R, 2d]` role-major: the speaker GRUs' states.
    pub hidden: B,
    /// `[R, 2d]` role-major: gates of the interaction.
    pub gate: B,
    /// `[R, 2d]` sample-major: M^0 after dropout.
    pub m: B,
    /// By stack.
    pub stacks: Vec<Stack<B>>,
    /// `[S, 2d]`, q^0 to q^L.
    pub q: Vec<B>,
    /// `[S, 2d]`: q^L after dropout.
    pub q_dropped: B,
    /// `[S, C]`
    pub logits: B,
    /// `[S]`
    pub loss: W,
    pub d: Gradients<B>,
}

/// One stack's saved values.
#[derive(Debug, Default)]
pub struct Stack<B> {
    /// `[R, 2, 4d]`: the GRU's gates.
    pub gates: B,
    /// `[R, 2d]`: the GRU's states.
    pub hidden: B,
    /// `[R, 2d]`: G, the states after dropout.
    pub g: B,
    pub attention: attention::Saved<B>,
    /// `[R, 2d]`: P G, which the next stack reads; empty where none does.
    pub attended: B,
}

/// Gradients on the way back, used by one stack after the other.
#[derive(Debug, Default)]
pub struct Gradients<B> {
    /// `[S, C]`
    pub logits: B,
    /// `[R, 2d]`: at G and at the GRU's states.
    pub g: B,
    /// `[R, 2d]`: at a stack's input, and at the speaker GRUs' states.
    pub input: B,
    /// Within the attention; and at the interaction's gates, where the attention has that at `G score`.
    pub attention: attention::Scratch<B>,
}

impl<B, W> Activations<B, W> {
    /// Buffers for shards of up to `size`: what belongs to rows and pairs (values, and gradients at them) from `by_row`, which a
    /// device may hold in fewer bits, samples' values and the readout's statistics from `by_sample`, and losses, in float64, from
    /// `wide`.
    pub fn new(
        graph: Graph,
        d: usize,
        classes: usize,
        Size { samples, rows, pairs }: Size,
        mut by_row: impl FnMut(usize) -> B,
        mut by_sample: impl FnMut(usize) -> B,
        mut wide: impl FnMut(usize) -> W,
    ) -> Self {
        let (row, state) = (rows * 2 * d, samples * 2 * d);
        let mut stacks = Vec::with_capacity(graph.stacks);
        for l in 0..graph.stacks {
            stacks.push(Stack {
                gates: by_row(rows * 8 * d),
                hidden: by_row(row),
                g: by_row(row),
                attention: attention::Saved {
                    projected: by_row(row),
                    probabilities: by_row(pairs),
                    readout: readout::Saved {
                        w: by_sample(state),
                        y: by_sample(rows),
                        a: by_sample(rows),
                        p: by_sample(rows),
                        e: by_sample(state),
                    },
                },
                attended: by_row(if graph.reads_attended(l + 1) { row } else { 0 }),
            });
        }
        Self {
            x: by_row(rows * d),
            speaker: by_row(rows * 8 * d),
            hidden: by_row(row),
            gate: by_row(row),
            m: by_row(row),
            stacks,
            q: (0..=graph.stacks).map(|_| by_sample(state)).collect(),
            q_dropped: by_sample(state),
            logits: by_sample(samples * classes),
            loss: wide(samples),
            d: Gradients {
                logits: by_sample(samples * classes),
                g: by_row(row),
                input: by_row(row),
                attention: attention::Scratch {
                    projected: by_row(row),
                    probabilities: by_row(pairs),
                    readout: readout::Scratch { d_e: by_sample(state), d_w: by_sample(state) },
                },
            },
        }
    }
}

impl Graph {
    /// Whether stack l reads the attended states of the one before it.
    pub fn reads_attended(&self, l: usize) -> bool {
        l > 0 && l < self.stacks && self.stack_input == StackInput::Attention
    }

    /// From the embeddings of a shard's utterances (`history` `[distinct, d]`, `target` `[S, 2d]`), displaced by
    /// `perturbation`, to the logits.
    #[allow(clippy::too_many_arguments, reason = "all that a pass reads")]
    pub fn forward<O: Operations>(
        &self,
        ops: &mut O,
        layout: &O::Layout,
        weights: &O::Weights,
        mask: &Mask,
        (history, target): (&O::Buffer, &O::Buffer),
        perturbation: Option<&Perturbation<O::Buffer, O::Wide>>,
        a: &mut Activations<O::Buffer, O::Wide>,
    ) {
        // 1. Embedding
        ops.enter(Part::Embedding);
        ops.gather(layout, history, target, perturbation, &mut a.x, &mut a.q[0]);
        // 2. Speaker GRUs
        ops.enter(Part::SpeakerGru);
        ops.gru(layout, Layer::Speaker, weights, &a.x, &mut a.speaker, &mut a.hidden);
        // 3. Speaker mutual interaction
        ops.enter(Part::Interaction);
        ops.interaction(layout, weights, mask, self.interaction, &a.hidden, &mut a.gate, &mut a.m);
        // 4. Stacked contextual interaction
        for l in 0..self.stacks {
            let (before, rest) = a.stacks.split_at_mut(l);
            let stack = &mut rest[0];
            let input = self.stack_input(&a.m, before);
            ops.enter(Part::StackGru);
            ops.gru(layout, Layer::Context(l), weights, input, &mut stack.gates, &mut stack.hidden);
            ops.enter(Part::Dropout);
            ops.dropout_copy(layout, mask, Site::Context(l), &stack.hidden, &mut stack.g);
            ops.enter(Part::Attention);
            let (q, next) = a.q.split_at_mut(l + 1);
            let (q, next) = (&q[l], &mut next[0]);
            let attended = self.reads_attended(l + 1).then_some(&mut stack.attended);
            ops.attention(layout, l, weights, &stack.g, q, &mut stack.attention, next, attended);
        }
        // 5. Classifier
        ops.enter(Part::Dropout);
        ops.dropout_copy(layout, mask, Site::Classifier, &a.q[self.stacks], &mut a.q_dropped);
        ops.enter(Part::Classifier);
        ops.classify(layout, weights, &a.q_dropped, &mut a.logits);
    }

    /// From the logits of [`Graph::forward`] to the losses, the parameters' gradients of the mean loss over `batch`
    /// samples (added to `gradients`) and the gradients at the embeddings: `d_x` `[R, d]` and `d_q` `[S, 2d]`.
    #[allow(clippy::too_many_arguments, reason = "all that a pass reads and writes")]
    pub fn backward<O: Operations>(
        &self,
        ops: &mut O,
        layout: &O::Layout,
        weights: &O::Weights,
        mask: &Mask,
        batch: usize,
        a: &mut Activations<O::Buffer, O::Wide>,
        gradients: &mut O::Gradients,
        (d_x, d_q): (&mut O::Buffer, &mut O::Buffer),
    ) {
        let d = &mut a.d;
        // 5. Classifier
        ops.enter(Part::ClassifierBackward);
        ops.cross_entropy(layout, batch, &a.logits, &mut a.loss, &mut d.logits);
        ops.classify_backward(layout, weights, &a.q_dropped, &d.logits, d_q, gradients);
        ops.enter(Part::Dropout);
        ops.dropout(layout, mask, Site::Classifier, d_q);
        // 4. Stacked contextual interaction
        for l in (0..self.stacks).rev() {
            let (before, rest) = a.stacks.split_at_mut(l);
            let stack = &mut rest[0];
            let (q, next) = (&a.q[l], &a.q[l + 1]);
            let from_next = match self.stack_input {
                _ if l + 1 == self.stacks => FromNext::Nothing,
                StackInput::Attention => FromNext::Attended(&d.input),
                StackInput::Gru => FromNext::States(&d.input),
            };
            ops.enter(Part::AttentionBackward);
            ops.attention_backward(
                layout,
                l,
                weights,
                mask,
                &stack.g,
                q,
                next,
                &stack.attention,
                from_next,
                &mut d.attention,
                d_q,
                &mut d.g,
                gradients,
            );
            let input = self.stack_input(&a.m, before);
            let layer = Layer::Context(l);
            let (hidden, gates) = (&stack.hidden, &mut stack.gates);
            ops.enter(Part::StackGruBackward);
            ops.gru_backward(layout, layer, weights, input, hidden, gates, &d.g, &mut d.input, gradients);
        }
        // 3. Speaker mutual interaction
        let (d_gate, d_hidden) = (&mut d.attention.projected, &mut d.g);
        let (hidden, gate) = (&a.hidden, &a.gate);
        let enabled = self.interaction;
        ops.enter(Part::InteractionBackward);
        ops.interaction_backward(
            layout,
            weights,
            mask,
            enabled,
            hidden,
            gate,
            &mut d.input,
            d_gate,
            d_hidden,
            gradients,
        );
        // 2. Speaker GRUs; 1. is linear and summed over the whole batch by the caller.
        let layer = Layer::Speaker;
        ops.enter(Part::SpeakerGruBackward);
        ops.gru_backward(layout, layer, weights, &a.x, hidden, &mut a.speaker, d_hidden, d_x, gradients);
    }

    /// What a stack's GRU reads: M^0, or what the stacks before it hand on.
    fn stack_input<'a, B>(&self, m: &'a B, before: &'a [Stack<B>]) -> &'a B {
        match before.last() {
            None => m,
            Some(stack) if self.stack_input == StackInput::Attention => &stack.attended,
            Some(stack) => &stack.g,
        }
    }
}
