//! The CPU's GRU.

#![allow(clippy::needless_range_loop, reason = "lanes and rows are numbered alike in every array")]

use super::{Gru, Layer};
use crate::data::batch::{Sequences, Shard};
use crate::device::cpu::elementary;
use crate::device::cpu::gemm::{self, PANEL, Panels, Product, Right, Start, View, columns, each_tile, tile};
use crate::device::cpu::simd::{Kernel, Real, Simd};
use crate::ops::cpu::{Gradients, Weights, Worker, add, sum_rows};
use crate::ops::parameters;
use crate::ops::part::Part;

/// One direction of one layer, laid out for the products.
#[derive(Debug, Clone, Default)]
pub struct GruWeights<R> {
    /// `[in, 3d]`, columns in the order n, r, z.
    input: Panels<R>,
    /// `[3d, in]`, rows in the order n, r, z.
    input_back: Panels<R>,
    /// r, z and n, each `[d, d]`.
    recurrent: [Panels<R>; 3],
    /// `[3d, d]`, rows in the order r, z, n.
    recurrent_back: Panels<R>,
    /// n, r, z: what is added to the input product; r and z carry both of their biases.
    bias: Vec<R>,
    /// bhn
    bias_recurrent: Vec<R>,
    /// The input weights with rows in the order n, r, z.
    ordered: Vec<R>,
}

impl<R: Real> GruWeights<R> {
    /// Takes PyTorch's tensors, rows in the order r, z, n: `weight_ih` `[3d, width]`, `weight_hh` `[3d, d]`.
    pub fn prepare(
        &mut self,
        d: usize,
        width: usize,
        weight_ih: &[R],
        weight_hh: &[R],
        bias_ih: &[R],
        bias_hh: &[R],
    ) {
        self.ordered.clear();
        self.ordered.extend_from_slice(&weight_ih[2 * d * width..]);
        self.ordered.extend_from_slice(&weight_ih[..2 * d * width]);
        self.input.pack(View::transposed(&self.ordered, width), width, 3 * d);
        self.input_back.pack(View::rows(&self.ordered, width), 3 * d, width);
        for (gate, panels) in self.recurrent.iter_mut().enumerate() {
            panels.pack(View::transposed(&weight_hh[gate * d * d..(gate + 1) * d * d], d), d, d);
        }
        self.recurrent_back.pack(View::rows(weight_hh, d), 3 * d, d);
        self.bias.clear();
        self.bias.extend_from_slice(&bias_ih[2 * d..]);
        self.bias.extend((0..2 * d).map(|i| bias_ih[i] + bias_hh[i]));
        self.bias_recurrent.clear();
        self.bias_recurrent.extend_from_slice(&bias_hh[2 * d..]);
    }
}

/// One direction of a recurrence over the rows of a group.
struct Recurrence<'a, R> {
    d: usize,
    sequences: &'a Sequences,
    backward: bool,
    weights: &'a GruWeights<R>,
}

impl<R> Recurrence<'_, R> {
    /// Row of sequence s at step t of the direction's own order.
    #[inline(always)]
    fn row(&self, s: usize, t: u32) -> usize {
        let (start, len) = (self.sequences.start[s], self.sequences.len[s]);
        (if self.backward { start + len - 1 - t } else { start + t }) as usize
    }

    fn direction(&self) -> usize {
        usize::from(self.backward)
    }
}

struct Forward<'a, R> {
    recurrence: Recurrence<'a, R>,
    saved: &'a mut [R],
    hidden: &'a mut [R],
}

impl<R: Real> Kernel<R> for Forward<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        let d = self.recurrence.d;
        for t in 0..self.recurrence.sequences.longest() {
            let running = self.recurrence.sequences.running(t);
            let (vectors, half) = columns::<S>(d);
            for v in 0..vectors + usize::from(half) {
                // SAFETY: rows of the sequences lie within `saved` and `hidden`, checked by the caller.
                each_tile!(0..running, S::TILE_ROWS, |s, M| unsafe {
                    let (saved, hidden) = (self.saved.as_mut_ptr(), self.hidden.as_mut_ptr());
                    if v < vectors {
                        step::<S, M>(&self.recurrence, t, s, v * S::LANES, saved, hidden);
                    } else {
                        step::<S::Half, M>(&self.recurrence, t, s, v * S::LANES, saved, hidden);
                    }
                });
            }
        }
    }
}

/// Step t of sequences `first..first + M`, hidden units `j..j + LANES`.
#[inline(always)]
unsafe fn step<S: Simd, const M: usize>(
    recurrence: &Recurrence<S::Scalar>,
    t: u32,
    first: usize,
    j: usize,
    saved: *mut S::Scalar,
    hidden: *mut S::Scalar,
) {
    unsafe {
        let d = recurrence.d;
        let count = (d - j).min(S::LANES);
        let zero = S::splat(S::Scalar::ZERO);
        let column = recurrence.direction() * d;
        let previous: [*const S::Scalar; M] = std::array::from_fn(|m| {
            let row = if t == 0 { 0 } else { recurrence.row(first + m, t - 1) };
            hidden.add(row * 2 * d + column).cast_const()
        });
        let gates = &recurrence.weights.recurrent;
        let b = [gates[0].column(j), gates[1].column(j), gates[2].column(j)];
        let k = if t == 0 { 0 } else { d };
        let product = tile::<S, M, 3, false>(k, previous, 1, b, PANEL, count, [[zero; 3]; M]);
        let bias = S::load_first(recurrence.weights.bias_recurrent.as_ptr().add(j), count);
        for m in 0..M {
            let row = recurrence.row(first + m, t);
            let at = saved.add((row * 2 + recurrence.direction()) * 4 * d + j);
            let r = elementary::sigmoid::<S>(S::add(S::load_first(at.add(d), count), product[m][0]));
            let z = elementary::sigmoid::<S>(S::add(S::load_first(at.add(2 * d), count), product[m][1]));
            let hn = S::add(product[m][2], bias);
            let n = elementary::tanh::<S>(S::mul_add(r, hn, S::load_first(at, count)));
            let before = if t == 0 { zero } else { S::load_first(previous[m].add(j), count) };
            let h = S::mul_add(z, S::sub(before, n), n);
            S::store_first(at, n, count);
            S::store_first(at.add(d), r, count);
            S::store_first(at.add(2 * d), z, count);
            S::store_first(at.add(3 * d), hn, count);
            S::store_first(hidden.add(row * 2 * d + column + j), h, count);
        }
    }
}

struct Backward<'a, R> {
    recurrence: Recurrence<'a, R>,
    saved: &'a mut [R],
    hidden: &'a [R],
    d_hidden: &'a [R],
    /// `[sequences, d]`: the gradient at the state that a step hands back to the one before it.
    carry: &'a mut [R],
}

impl<R: Real> Kernel<R> for Backward<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        let Self { recurrence, saved, hidden, d_hidden, carry } = self;
        let d = recurrence.d;
        let column = recurrence.direction() * d;
        let one = unsafe { S::splat(R::ONE) };
        for t in (0..recurrence.sequences.longest()).rev() {
            let running = recurrence.sequences.running(t);
            for s in 0..running {
                let row = recurrence.row(s, t);
                let before = (t > 0).then(|| recurrence.row(s, t - 1) * 2 * d + column);
                for j in (0..d).step_by(S::LANES) {
                    let count = (d - j).min(S::LANES);
                    // SAFETY: rows of the sequences lie within the buffers, checked by the caller.
                    unsafe {
                        let at = saved.as_mut_ptr().add((row * 2 + recurrence.direction()) * 4 * d + j);
                        let carried = carry.as_mut_ptr().add(s * d + j);
                        let incoming = S::load_first(d_hidden.as_ptr().add(row * 2 * d + column + j), count);
                        let dh = S::add(incoming, S::load_first(carried, count));
                        let n = S::load_first(at, count);
                        let r = S::load_first(at.add(d), count);
                        let z = S::load_first(at.add(2 * d), count);
                        let hn = S::load_first(at.add(3 * d), count);
                        let h = match before {
                            Some(before) => S::load_first(hidden.as_ptr().add(before + j), count),
                            None => S::splat(R::ZERO),
                        };
                        let rest = S::sub(one, z);
                        let dz = S::mul(S::mul(dh, S::sub(h, n)), S::mul(z, rest));
                        let dn = S::mul(S::mul(dh, rest), S::sub(one, S::mul(n, n)));
                        let dhn = S::mul(dn, r);
                        let dr = S::mul(S::mul(dn, hn), S::mul(r, S::sub(one, r)));
                        S::store_first(at, dn, count);
                        S::store_first(at.add(d), dr, count);
                        S::store_first(at.add(2 * d), dz, count);
                        S::store_first(at.add(3 * d), dhn, count);
                        S::store_first(carried, S::mul(dh, z), count);
                    }
                }
            }
            if t == 0 {
                break;
            }
            // carry += [dr, dz, dhn] Whh
            for (first, count) in gemm::groups::<S>(d) {
                let j = first * S::LANES;
                // SAFETY: as above.
                each_tile!(0..running, S::TILE_ROWS, |s, M| unsafe {
                    let (gates, carry) = (saved.as_ptr(), carry.as_mut_ptr());
                    match count {
                        0 => hand_back::<S::Half, M, 1>(&recurrence, t, s, j, gates, carry),
                        1 => hand_back::<S, M, 1>(&recurrence, t, s, j, gates, carry),
                        2 => hand_back::<S, M, 2>(&recurrence, t, s, j, gates, carry),
                        _ => hand_back::<S, M, 3>(&recurrence, t, s, j, gates, carry),
                    }
                });
            }
        }
    }
}

/// Adds the gates' gradient through the recurrent weights to the carry of sequences `first..first + M`, hidden
/// units from j on, V vectors of them.
#[inline(always)]
unsafe fn hand_back<S: Simd, const M: usize, const V: usize>(
    recurrence: &Recurrence<S::Scalar>,
    t: u32,
    first: usize,
    j: usize,
    gates: *const S::Scalar,
    carry: *mut S::Scalar,
) {
    unsafe {
        let d = recurrence.d;
        let last = (d - j).min(V * S::LANES) - (V - 1) * S::LANES;
        let a: [*const S::Scalar; M] = std::array::from_fn(|m| {
            let row = recurrence.row(first + m, t);
            gates.add((row * 2 + recurrence.direction()) * 4 * d + d)
        });
        let b: [*const S::Scalar; V] =
            std::array::from_fn(|v| recurrence.weights.recurrent_back.column(j + v * S::LANES));
        let count = |v: usize| if v == V - 1 { last } else { S::LANES };
        let mut sum = [[S::splat(S::Scalar::ZERO); V]; M];
        for m in 0..M {
            for v in 0..V {
                sum[m][v] = S::load_first(carry.add((first + m) * d + j + v * S::LANES), count(v));
            }
        }
        let sum = tile::<S, M, V, false>(3 * d, a, 1, b, PANEL, last, sum);
        for m in 0..M {
            for v in 0..V {
                S::store_first(carry.add((first + m) * d + j + v * S::LANES), sum[m][v], count(v));
            }
        }
    }
}

/// The groups of a layer: rows, sequences, weights and gradients by direction.
fn groups<'a, R: Real>(
    worker: &'a Worker<R>,
    layout: &'a Shard,
    layer: Layer,
    weights: &'a Weights<R>,
) -> impl Iterator<Item = (std::ops::Range<usize>, &'a Sequences, &'a [GruWeights<R>; 2], [parameters::Gru; 2])>
{
    (0..2).filter_map(move |group| match layer {
        Layer::Speaker => Some((
            layout.role_rows(group),
            &layout.roles[group],
            &weights.speaker[group],
            worker.layout.speaker[group],
        )),
        Layer::Context(l) => (group == 0).then(|| {
            (0..layout.rows(), &layout.context, &weights.context[l].gru, worker.layout.context[l].gru)
        }),
    })
}

impl<R: Real> Gru for Worker<R> {
    fn gru(
        &mut self,
        layout: &Self::Layout,
        layer: Layer,
        weights: &Self::Weights,
        input: &Self::Buffer,
        saved: &mut Self::Buffer,
        hidden: &mut Self::Buffer,
    ) {
        let d = self.d;
        let width = width(d, layer);
        assert!(saved.len() >= layout.rows() * 8 * d && hidden.len() >= layout.rows() * 2 * d);
        for (rows, sequences, weights, _) in groups(self, layout, layer, weights) {
            // A silent role: where the other one fills the buffers, its rows would begin past their end.
            if rows.is_empty() {
                continue;
            }
            for (direction, weights) in weights.iter().enumerate() {
                Product {
                    m: rows.len(),
                    k: width,
                    n: 3 * d,
                    a: View::rows(&input[rows.start * width..], width),
                    index: None,
                    b: Right::Panels(&weights.input),
                    c: &mut saved[(rows.start * 2 + direction) * 4 * d..],
                    c_row: 8 * d,
                    start: Start::Bias(&weights.bias),
                }
                .compute();
                let recurrence = Recurrence { d, sequences, backward: direction == 1, weights };
                R::dispatch(Forward { recurrence, saved, hidden });
            }
        }
    }

    fn gru_backward(
        &mut self,
        layout: &Self::Layout,
        layer: Layer,
        weights: &Self::Weights,
        input: &Self::Buffer,
        hidden: &Self::Buffer,
        saved: &mut Self::Buffer,
        d_hidden: &Self::Buffer,
        d_input: &mut Self::Buffer,
        gradients: &mut Self::Gradients,
    ) {
        let d = self.d;
        let width = width(d, layer);
        let size = layout.rows() * 2 * d;
        assert!(saved.len() >= 4 * size && hidden.len() >= size && d_hidden.len() >= size);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut panels = std::mem::take(&mut self.panels);
        let mut clock = std::mem::take(&mut self.clock);
        for (rows, sequences, weights, places) in groups(self, layout, layer, weights) {
            if rows.is_empty() {
                d_input[rows.start * width..rows.end * width].fill(R::ZERO);
                continue;
            }
            for (direction, weights) in weights.iter().enumerate() {
                let carry = &mut scratch[..sequences.len.len() * d];
                carry.fill(R::ZERO);
                let recurrence = Recurrence { d, sequences, backward: direction == 1, weights };
                R::dispatch(Backward { recurrence, saved, hidden, d_hidden, carry });
                Product {
                    m: rows.len(),
                    k: 3 * d,
                    n: width,
                    a: View::rows(&saved[(rows.start * 2 + direction) * 4 * d..], 8 * d),
                    index: None,
                    b: Right::Panels(&weights.input_back),
                    c: &mut d_input[rows.start * width..],
                    c_row: width,
                    start: if direction == 0 { Start::Zero } else { Start::Add },
                }
                .compute();
            }
            let part = clock.enter(Part::WeightGradients as usize);
            let input = View::rows(&input[rows.start * width..], width);
            panels.pack(input, rows.len(), width);
            for (direction, place) in places.iter().enumerate() {
                let from = &saved[(rows.start * 2 + direction) * 4 * d..];
                gradient(gradients, *place, d, width, rows.len(), from, &panels, &mut scratch);
            }
            for (direction, place) in places.iter().enumerate() {
                // Row i of the recurrent product's left operand is the state before it, zero where one starts.
                let edge = |i: usize| {
                    let starts = sequences.start.iter().zip(&sequences.len);
                    starts.into_iter().any(|(&start, &len)| {
                        i == (if direction == 0 { start } else { start + len - 1 }) as usize
                    })
                };
                let first = rows.start;
                panels.pack_rows(rows.len(), d, |i| {
                    let row = first + i;
                    (!edge(row)).then(|| {
                        let before = if direction == 0 { row - 1 } else { row + 1 };
                        &hidden[before * 2 * d + direction * d..][..d]
                    })
                });
                Product {
                    m: 3 * d,
                    k: rows.len(),
                    n: d,
                    a: View::transposed(&saved[(first * 2 + direction) * 4 * d + d..], 8 * d),
                    index: None,
                    b: Right::Panels(&panels),
                    c: gradients.of(place.weight_hh),
                    c_row: d,
                    start: Start::Add,
                }
                .compute();
            }
            clock.enter(part);
        }
        self.scratch = scratch;
        self.panels = panels;
        self.clock = clock;
    }
}

fn width(d: usize, layer: Layer) -> usize {
    match layer {
        Layer::Speaker => d,
        Layer::Context(_) => 2 * d,
    }
}

/// Adds the gradients of the input weights and of both biases: `gates` holds rows of `[dn, dr, dz, dhn]` every
/// 8d scalars, `input` the packed input rows `[rows, width]`.
#[allow(clippy::too_many_arguments, reason = "the operands of the equation")]
fn gradient<R: Real>(
    gradients: &mut Gradients<R>,
    place: parameters::Gru,
    d: usize,
    width: usize,
    rows: usize,
    gates: &[R],
    input: &Panels<R>,
    scratch: &mut [R],
) {
    // PyTorch's order is r, z, n: the last third comes from the first block.
    for (from, m, to) in [(0, d, 2 * d), (d, 2 * d, 0)] {
        Product {
            m,
            k: rows,
            n: width,
            a: View::transposed(&gates[from..], 8 * d),
            index: None,
            b: Right::Panels(input),
            c: &mut gradients.of(place.weight_ih)[to * width..],
            c_row: width,
            start: Start::Add,
        }
        .compute();
    }
    let sums = &mut scratch[..4 * d];
    sum_rows(gates, 8 * d, rows, sums);
    let bias_ih = gradients.of(place.bias_ih);
    add(&mut bias_ih[..2 * d], &sums[d..3 * d]);
    add(&mut bias_ih[2 * d..], &sums[..d]);
    add(gradients.of(place.bias_hh), &sums[d..]);
}
