//! The CPU's interaction.

use super::Interaction;
use crate::data::batch::{NONE, Shard};
use crate::device::cpu::elementary;
use crate::device::cpu::gemm::{Product, Right, Start, View};
use crate::device::cpu::simd::{Kernel, Real, Simd};
use crate::ops::Backend;
use crate::ops::cpu::{Gradients, Weights, Worker, add, sum_rows, vectors};
use crate::ops::dropout::{Dropout, Mask, Site};
use crate::ops::part::Part;

/// The role of a role-major row.
fn role(layout: &Shard, row: usize) -> usize {
    usize::from(row >= layout.rows_a)
}

/// Sigmoid of every scalar, in place.
struct Sigmoid<'a, R>(&'a mut [R]);

impl<R: Real> Kernel<R> for Sigmoid<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        vectors!(S, self.0.len(), |j, count| unsafe {
            let at = self.0.as_mut_ptr().add(j);
            S::store_first(at, elementary::sigmoid::<S>(S::load_first(at, count)), count);
        });
    }
}

/// `to = a * b`
struct Multiply<'a, R> {
    a: &'a [R],
    b: &'a [R],
    to: &'a mut [R],
}

impl<R: Real> Kernel<R> for Multiply<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        vectors!(S, self.to.len(), |j, count| unsafe {
            let a = S::load_first(self.a.as_ptr().add(j), count);
            let b = S::load_first(self.b.as_ptr().add(j), count);
            S::store_first(self.to.as_mut_ptr().add(j), S::mul(a, b), count);
        });
    }
}

/// One step backward: `d_hidden = d_m * gate`, `d_gate += d_m * hidden`.
struct StepBackward<'a, R> {
    d_m: &'a [R],
    gate: &'a [R],
    hidden: &'a [R],
    d_hidden: &'a mut [R],
    d_gate: &'a mut [R],
}

impl<R: Real> Kernel<R> for StepBackward<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        vectors!(S, self.d_m.len(), |j, count| unsafe {
            let d_m = S::load_first(self.d_m.as_ptr().add(j), count);
            let gate = S::load_first(self.gate.as_ptr().add(j), count);
            let hidden = S::load_first(self.hidden.as_ptr().add(j), count);
            let d_gate = self.d_gate.as_mut_ptr().add(j);
            S::store_first(self.d_hidden.as_mut_ptr().add(j), S::mul(d_m, gate), count);
            S::store_first(d_gate, S::mul_add(d_m, hidden, S::load_first(d_gate, count)), count);
        });
    }
}

/// Through the sigmoid: `d_gate *= gate * (1 - gate)`.
struct SigmoidBackward<'a, R> {
    gate: &'a [R],
    d_gate: &'a mut [R],
}

impl<R: Real> Kernel<R> for SigmoidBackward<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        vectors!(S, self.d_gate.len(), |j, count| unsafe {
            let gate = S::load_first(self.gate.as_ptr().add(j), count);
            let d_gate = self.d_gate.as_mut_ptr().add(j);
            let slope = S::mul(gate, S::sub(S::splat(R::ONE), gate));
            S::store_first(d_gate, S::mul(S::load_first(d_gate, count), slope), count);
        });
    }
}

impl<R: Real> Interaction for Worker<R> {
    fn interaction(
        &mut self,
        layout: &Shard,
        weights: &Weights<R>,
        mask: &Mask,
        enabled: bool,
        hidden: &Vec<R>,
        gate: &mut Vec<R>,
        m: &mut Vec<R>,
    ) {
        let d = self.d;
        if !enabled {
            for (m, &own) in m.chunks_exact_mut(2 * d).zip(&layout.own) {
                m.copy_from_slice(&hidden[own as usize * 2 * d..][..2 * d]);
            }
            self.dropout(layout, mask, Site::Interaction, m);
            return;
        }
        for (role, weights) in weights.interaction.iter().enumerate() {
            let rows = layout.role_rows(role);
            for (direction, weights) in weights.iter().enumerate() {
                if rows.is_empty() {
                    continue;
                }
                let first = rows.start * 2 * d + direction * d;
                Product {
                    m: rows.len(),
                    k: d,
                    n: d,
                    a: View::rows(&hidden[first..], 2 * d),
                    index: None,
                    b: Right::Panels(&weights.weight.forward),
                    c: &mut gate[first..],
                    c_row: 2 * d,
                    start: Start::Bias(&weights.bias),
                }
                .compute();
            }
        }
        R::dispatch(Sigmoid(&mut gate[..layout.rows() * 2 * d]));
        for (i, &own) in layout.own.iter().enumerate() {
            let own = own as usize;
            for direction in 0..2 {
                let other = layout.other[direction][i];
                let b = if other == NONE {
                    &weights.silent_gate[1 - role(layout, own)][direction][..]
                } else {
                    &gate[other as usize * 2 * d + direction * d..][..d]
                };
                let a = &hidden[own * 2 * d + direction * d..][..d];
                let to = &mut m[i * 2 * d + direction * d..][..d];
                R::dispatch(Multiply { a, b, to });
            }
        }
        let part = self.enter(Part::Dropout);
        self.dropout(layout, mask, Site::Interaction, m);
        self.enter(part);
    }

    fn interaction_backward(
        &mut self,
        layout: &Shard,
        weights: &Weights<R>,
        mask: &Mask,
        enabled: bool,
        hidden: &Vec<R>,
        gate: &Vec<R>,
        d_m: &mut Vec<R>,
        d_gate: &mut Vec<R>,
        d_hidden: &mut Vec<R>,
        gradients: &mut Gradients<R>,
    ) {
        let d = self.d;
        let part = self.enter(Part::Dropout);
        self.dropout(layout, mask, Site::Interaction, d_m);
        self.enter(part);
        if !enabled {
            for (d_m, &own) in d_m.chunks_exact(2 * d).zip(&layout.own) {
                d_hidden[own as usize * 2 * d..][..2 * d].copy_from_slice(d_m);
            }
            return;
        }
        let size = layout.rows() * 2 * d;
        d_gate[..size].fill(R::ZERO);
        // By silent role and direction: the gradient at its gate.
        let (silent, sums) = self.scratch.split_at_mut(4 * d);
        silent.fill(R::ZERO);
        for (i, &own) in layout.own.iter().enumerate() {
            let own = own as usize;
            for direction in 0..2 {
                let other = layout.other[direction][i];
                let quiet = 1 - role(layout, own);
                let (gate, d_gate) = if other == NONE {
                    (
                        &weights.silent_gate[quiet][direction][..],
                        &mut silent[(quiet * 2 + direction) * d..][..d],
                    )
                } else {
                    let at = other as usize * 2 * d + direction * d;
                    (&gate[at..at + d], &mut d_gate[at..at + d])
                };
                let at = own * 2 * d + direction * d;
                R::dispatch(StepBackward {
                    d_m: &d_m[i * 2 * d + direction * d..][..d],
                    gate,
                    hidden: &hidden[at..at + d],
                    d_hidden: &mut d_hidden[at..at + d],
                    d_gate,
                });
            }
        }
        R::dispatch(SigmoidBackward { gate: &gate[..size], d_gate: &mut d_gate[..size] });
        for role in 0..2 {
            let rows = layout.role_rows(role);
            for direction in 0..2 {
                let place = self.layout.interaction[role][direction];
                let d_silent = &mut silent[(role * 2 + direction) * d..][..d];
                R::dispatch(SigmoidBackward {
                    gate: &weights.silent_gate[role][direction],
                    d_gate: d_silent,
                });
                add(gradients.of(place.bias), d_silent);
                if rows.is_empty() {
                    continue;
                }
                let first = rows.start * 2 * d + direction * d;
                sum_rows(&d_gate[first..], 2 * d, rows.len(), &mut sums[..d]);
                add(gradients.of(place.bias), &sums[..d]);
                Product {
                    m: rows.len(),
                    k: d,
                    n: d,
                    a: View::rows(&d_gate[first..], 2 * d),
                    index: None,
                    b: Right::Panels(&weights.interaction[role][direction].weight.backward),
                    c: &mut d_hidden[first..],
                    c_row: 2 * d,
                    start: Start::Add,
                }
                .compute();
                let part = self.clock.enter(Part::WeightGradients as usize);
                Product {
                    m: d,
                    k: rows.len(),
                    n: d,
                    a: View::transposed(&d_gate[first..], 2 * d),
                    index: None,
                    b: Right::Rows(&hidden[first..], 2 * d),
                    c: gradients.of(place.weight),
                    c_row: d,
                    start: Start::Add,
                }
                .compute();
                self.clock.enter(part);
            }
        }
    }
}
