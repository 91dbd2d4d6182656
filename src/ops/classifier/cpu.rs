//! The CPU's classifier.

use super::Classifier;
use crate::data::batch::Shard;
use crate::device::cpu::gemm::{Right, Start, View};
use crate::device::cpu::simd::Real;
use crate::ops::Backend;
use crate::ops::cpu::{Gradients, Weights, Worker, add, product, sum_rows};
use crate::ops::part::Part;

impl<R: Real> Classifier for Worker<R> {
    fn classify(&mut self, layout: &Shard, weights: &Weights<R>, q: &Vec<R>, logits: &mut Vec<R>) {
        let (width, classes) = (2 * self.d, self.layout.sizes.classes);
        let b = Right::Panels(&weights.classifier.weight.forward);
        let start = Start::Bias(&weights.classifier.bias);
        product((layout.samples(), width, classes), View::rows(q, width), b, logits, start);
    }

    fn cross_entropy(
        &mut self,
        layout: &Shard,
        batch: usize,
        logits: &Vec<R>,
        loss: &mut Vec<f64>,
        d_logits: &mut Vec<R>,
    ) {
        let classes = self.layout.sizes.classes;
        let rows = logits.chunks_exact(classes).zip(d_logits.chunks_exact_mut(classes));
        for (((logits, d), &label), loss) in rows.zip(&layout.label).zip(loss) {
            // A handful of classes: float64 costs nothing and the log-sum keeps every digit.
            let largest = logits.iter().fold(f64::NEG_INFINITY, |most, x| most.max(x.to_f64()));
            let sum: f64 = logits.iter().map(|x| (x.to_f64() - largest).exp()).sum();
            let log_sum = largest + sum.ln();
            let label = label as usize;
            *loss = log_sum - logits[label].to_f64();
            for (class, (x, d)) in logits.iter().zip(d).enumerate() {
                let probability = (x.to_f64() - log_sum).exp();
                let wanted = if class == label { 1.0 } else { 0.0 };
                *d = R::from_f64((probability - wanted) / batch as f64);
            }
        }
    }

    fn classify_backward(
        &mut self,
        layout: &Shard,
        weights: &Weights<R>,
        q: &Vec<R>,
        d_logits: &Vec<R>,
        d_q: &mut Vec<R>,
        gradients: &mut Gradients<R>,
    ) {
        let (width, classes) = (2 * self.d, self.layout.sizes.classes);
        let samples = layout.samples();
        let b = Right::Panels(&weights.classifier.weight.backward);
        product((samples, classes, width), View::rows(d_logits, classes), b, d_q, Start::Zero);
        let part = self.enter(Part::WeightGradients);
        let place = self.layout.classifier;
        let (a, b) = (View::transposed(d_logits, classes), Right::Rows(q, width));
        product((classes, samples, width), a, b, gradients.of(place.weight), Start::Add);
        let sums = &mut self.scratch[..classes];
        sum_rows(d_logits, classes, samples, sums);
        add(gradients.of(place.bias), sums);
        self.enter(part);
    }
}
