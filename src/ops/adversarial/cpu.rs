//! The CPU's perturbation.

use super::{Adversarial, AdversarialNorm, Perturbation};
use crate::data::batch::Shard;
use crate::device::cpu::gemm::{Panels, Right, Start, View};
use crate::device::cpu::simd::Real;
use crate::ops::cpu::{Weights, Worker, product};

/// `to = delta Gram`, and per row the square of the norm at the features, `delta Gram delta^T`.
fn project<R: Real>(
    (rows, n): (usize, usize),
    delta: &[R],
    gram: &Panels<R>,
    to: &mut [R],
    mut squared: impl FnMut(usize, f64),
) {
    product((rows, n, n), View::rows(delta, n), Right::Panels(gram), to, Start::Zero);
    for (row, (delta, to)) in delta.chunks_exact(n).zip(to.chunks_exact(n)).take(rows).enumerate() {
        // In float64: the squares of small f32 gradients would underflow. Rounding can leave a hair below zero.
        let square: f64 = delta.iter().zip(to).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
        squared(row, square.max(0.0));
    }
}

impl<R: Real> Adversarial for Worker<R> {
    fn feature_norms(
        &mut self,
        layout: &Shard,
        weights: &Weights<R>,
        d_history: &Vec<R>,
        d_target: &Vec<R>,
        perturbation: &mut Perturbation<Vec<R>, Vec<f64>>,
    ) {
        let d = self.d;
        let Perturbation { history, target, history_scale, target_scale, squared_norm } = perturbation;
        squared_norm[..layout.samples()].fill(0.0);
        // The squares wait in float64 where they are summed by sample and as a norm where they scale one row.
        project((layout.samples(), 2 * d), d_target, &weights.target_gram, target, |s, square| {
            target_scale[s] = R::from_f64(square.sqrt());
            squared_norm[s] += square;
        });
        project((layout.rows(), d), d_history, &weights.history_gram, history, |row, square| {
            history_scale[row] = R::from_f64(square.sqrt());
            squared_norm[layout.sample[row] as usize] += square;
        });
    }

    fn perturb(
        &mut self,
        layout: &Shard,
        norm: AdversarialNorm,
        epsilon: f64,
        batch: &Vec<f64>,
        perturbation: &mut Perturbation<Vec<R>, Vec<f64>>,
    ) {
        let d = self.d;
        let Perturbation { history, target, history_scale, target_scale, squared_norm } = perturbation;
        let scale = |sample: usize, own: R| {
            let norm = match norm {
                AdversarialNorm::Sample => squared_norm[sample].sqrt(),
                AdversarialNorm::Utterance => own.to_f64(),
                AdversarialNorm::Batch => batch[0].sqrt(),
            };
            let scale = R::from_f64(epsilon / norm);
            // Zero too where the quotient is beyond the precision: such a gradient has no digits left to point with.
            if norm > 0.0 && scale.to_f64().is_finite() { scale } else { R::ZERO }
        };
        let apply = |rows: &mut [R], scale: R| rows.iter_mut().for_each(|x| *x = *x * scale);
        for (s, target) in target.chunks_exact_mut(2 * d).take(layout.samples()).enumerate() {
            target_scale[s] = scale(s, target_scale[s]);
            apply(target, target_scale[s]);
        }
        for (row, history) in history.chunks_exact_mut(d).take(layout.rows()).enumerate() {
            history_scale[row] = scale(layout.sample[row] as usize, history_scale[row]);
            apply(history, history_scale[row]);
        }
    }
}
