//! The parts of a step, as its time is told.

use crate::choice::choice;

choice! {
    /// A part of a training step: an operation on its way there or back, or what a step does besides.
    Part, "part" {
        /// Nothing that is named here; on the CPU also threads that wait for the others.
        Rest = "rest",
        /// Rows of the batch, laid out by the host.
        Layout = "layout of the batch",
        /// Products of weights with each other, weights laid out for products, and their gradients on the way back.
        Folding = "folding of weights",
        Embedding = "embedding",
        SpeakerGru = "speaker GRU",
        Interaction = "interaction",
        StackGru = "stacks' GRU",
        /// Both ways, with the masks.
        Dropout = "dropout",
        Attention = "attention",
        Readout = "readout",
        Classifier = "classifier",
        SpeakerGruBackward = "speaker GRU, backward",
        InteractionBackward = "interaction, backward",
        StackGruBackward = "stacks' GRU, backward",
        AttentionBackward = "attention, backward",
        ReadoutBackward = "readout, backward",
        /// With the loss.
        ClassifierBackward = "classifier, backward",
        /// Norms at the features, displacements, and what they add to the embeddings' gradients.
        Perturbation = "perturbation",
        /// Products of activations with gradients, on the CPU. On a card they are in the operations' ways back, as
        /// kernels of their own.
        WeightGradients = "weights' gradients",
        EmbeddingGradients = "embedding, backward",
        /// The lanes' sums, on the CPU.
        Sums = "sum of gradients",
        Adam = "Adam"
    }
}

impl Part {
    pub const COUNT: usize = Part::Adam as usize + 1;

    /// All parts, in the order of a step.
    pub fn all() -> [Part; Part::COUNT] {
        use Part::*;
        [
            Rest,
            Layout,
            Folding,
            Embedding,
            SpeakerGru,
            Interaction,
            StackGru,
            Dropout,
            Attention,
            Readout,
            Classifier,
            SpeakerGruBackward,
            InteractionBackward,
            StackGruBackward,
            AttentionBackward,
            ReadoutBackward,
            ClassifierBackward,
            Perturbation,
            WeightGradients,
            EmbeddingGradients,
            Sums,
            Adam,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_in_the_order_of_their_numbers() {
        assert!(Part::all().iter().enumerate().all(|(i, &part)| part as usize == i));
    }
}
