//! The CPU's Adam.

use super::Step;
use crate::device::cpu::simd::Real;

/// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
/// `p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`.
pub fn update<R: Real>(step: Step, gradient: &[R], parameters: &mut [R], first: &mut [R], second: &mut [R]) {
    let power = |beta: f64| beta.powf(step.number as f64);
    let size = R::from_f64(step.learning_rate / (1.0 - power(step.beta1)));
    let correction = R::from_f64((1.0 - power(step.beta2)).sqrt());
    let epsilon = R::from_f64(step.epsilon);
    let (beta1, beta2) = (R::from_f64(step.beta1), R::from_f64(step.beta2));
    let (rest1, rest2) = (R::from_f64(1.0 - step.beta1), R::from_f64(1.0 - step.beta2));
    for (((&g, p), m), v) in gradient.iter().zip(parameters).zip(first).zip(second) {
        *m = beta1 * *m + rest1 * g;
        *v = beta2 * *v + rest2 * g * g;
        *p = *p - size * (*m / (v.sqrt() / correction + epsilon));
    }
}
