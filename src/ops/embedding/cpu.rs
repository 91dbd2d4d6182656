//! The CPU's embedding.

use super::{Correlation, Embedding};
use crate::data::batch::Shard;
use crate::device::cpu::gemm::{Panels, Product, Right, Start, View};
use crate::device::cpu::simd::Real;
use crate::ops::adversarial::Perturbation;
use crate::ops::cpu::{Gradients, LinearWeights, Worker, add, product};
use crate::ops::parameters::Linear;

/// Embeds `utterances`, which are rows of `features` `[N, D]`, into `to` `[utterances, out]`.
pub fn embed<R: Real>(
    weights: &LinearWeights<R>,
    features: &[R],
    width: usize,
    utterances: &[u32],
    to: &mut [R],
) {
    let out = weights.bias.len();
    Product {
        m: utterances.len(),
        k: width,
        n: out,
        a: View::rows(features, width),
        index: Some(utterances),
        b: Right::Panels(&weights.weight.forward),
        c: to,
        c_row: out,
        start: Start::Bias(&weights.bias),
    }
    .compute();
}

/// Sums a shard's rows of `d_x` `[R, d]` (role-major) by distinct utterance: adds to `to`, which holds the
/// utterances from `first` on.
pub fn sum_by_utterance<R: Real>(shard: &Shard, d: usize, d_x: &[R], first: usize, to: &mut [R]) {
    let count = to.len() / d;
    for (row, &utterance) in shard.embedded.iter().enumerate() {
        let utterance = utterance as usize;
        if (first..first + count).contains(&utterance) {
            add(&mut to[(utterance - first) * d..][..d], &d_x[row * d..][..d]);
        }
    }
}

/// Adds `delta^T u` to a weight's gradient and the sum of `delta` to its bias's, for `delta` `[utterances, out]`.
pub fn weight_gradient<R: Real>(
    features: &[R],
    width: usize,
    utterances: &[u32],
    delta: &[R],
    panels: &mut Panels<R>,
    gradients: &mut Gradients<R>,
    place: Linear,
) {
    let rows = utterances.len();
    if rows == 0 {
        return;
    }
    let out = delta.len() / rows;
    panels.pack_rows(rows, width, |i| Some(&features[utterances[i] as usize * width..][..width]));
    let (a, b) = (View::transposed(delta, out), Right::Panels(panels));
    product((out, rows, width), a, b, gradients.of(place.weight), Start::Add);
    for delta in delta.chunks_exact(out) {
        add(gradients.of(place.bias), delta);
    }
}

impl<R: Real> Embedding for Worker<R> {
    fn gather(
        &mut self,
        layout: &Shard,
        history: &Vec<R>,
        target: &Vec<R>,
        perturbation: Option<&Perturbation<Vec<R>, Vec<f64>>>,
        x: &mut Vec<R>,
        q: &mut Vec<R>,
    ) {
        let d = self.d;
        for (x, &utterance) in x.chunks_exact_mut(d).zip(&layout.embedded) {
            x.copy_from_slice(&history[utterance as usize * d..][..d]);
        }
        let (x, q) = (&mut x[..layout.rows() * d], &mut q[..layout.samples() * 2 * d]);
        q.copy_from_slice(&target[..q.len()]);
        if let Some(perturbation) = perturbation {
            add(x, &perturbation.history[..x.len()]);
            add(q, &perturbation.target[..q.len()]);
        }
    }

    fn perturbed_features_gradient(
        &mut self,
        layout: &Shard,
        perturbation: &Perturbation<Vec<R>, Vec<f64>>,
        clean: (&Vec<R>, &Vec<R>),
        adversarial: (&Vec<R>, &Vec<R>),
        correlation: &mut Correlation<Vec<R>>,
    ) {
        let d = self.d;
        let mut correlate =
            |n: usize, rows: usize, scale: &[R], clean: &[R], adversarial: &[R], to: &mut [R]| {
                self.panels.pack_rows(rows, n, |i| Some(&clean[i * n..][..n]));
                self.panels.scale_rows(&scale[..rows]);
                let (a, b) = (View::transposed(adversarial, n), Right::Panels(&self.panels));
                product((n, rows, n), a, b, to, Start::Add);
            };
        let (scale, to) = (&perturbation.history_scale, &mut correlation.history);
        correlate(d, layout.rows(), scale, clean.0, adversarial.0, to);
        let (scale, to) = (&perturbation.target_scale, &mut correlation.target);
        correlate(2 * d, layout.samples(), scale, clean.1, adversarial.1, to);
    }
}
