//! The CPU's backend: what one thread works with, and the kernels that several operations share.

use std::sync::Arc;

use super::gru::GruWeights;
use super::parameters::Layout;
use super::part::Part;
use super::{Backend, Operations};
use crate::data::batch::Shard;
use crate::device::cpu::clock::Clock;
use crate::device::cpu::gemm::{Panels, Product, Right, Start, View};
use crate::device::cpu::simd::{Kernel, Real, Simd};

/// One thread's place of work: it runs the operations of one shard at a time.
pub struct Worker<R> {
    pub(super) layout: Arc<Layout>,
    /// d
    pub(super) d: usize,
    /// Right operands that are no weights.
    pub(super) panels: Panels<R>,
    /// Small vectors; sized for the widest use.
    pub(super) scratch: Vec<R>,
    /// Stopped, but for a step whose parts are timed.
    pub clock: PartClock,
}

/// Time by [`Part`].
pub type PartClock = Clock<{ Part::COUNT }>;

impl<R: Real> Worker<R> {
    /// For shards of up to `samples` windows of up to `history_length` utterances.
    pub fn new(layout: Arc<Layout>, samples: usize, history_length: usize) -> Self {
        let d = layout.sizes.d;
        let classes = layout.sizes.classes;
        let scratch = vec![R::ZERO; (samples.max(4) * 2 * d).max(8 * history_length.max(2 * d)).max(classes)];
        let mut panels = Panels::default();
        let widest = (2 * d).max(layout.sizes.features);
        panels
            .reserve((samples * history_length * (2 * d).next_multiple_of(16)).max(samples * (widest + 16)));
        Self { d, layout, panels, scratch, clock: PartClock::default() }
    }
}

/// Sums of gradients, every tensor where [`Layout`] puts it.
pub struct Gradients<R> {
    layout: Arc<Layout>,
    pub values: Vec<R>,
}

impl<R: Real> Gradients<R> {
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { values: vec![R::ZERO; layout.len], layout }
    }

    /// The tensor with this index in [`Layout::specs`].
    pub fn of(&mut self, tensor: usize) -> &mut [R] {
        &mut self.values[self.layout.specs[tensor].range()]
    }
}

/// A weight `[out, in]` for products in both directions.
#[derive(Debug, Clone, Default)]
pub struct Matrix<R> {
    /// `x W^T`: `[in, out]`.
    pub forward: Panels<R>,
    /// `dy W`: `[out, in]`.
    pub backward: Panels<R>,
}

impl<R: Real> Matrix<R> {
    pub fn prepare(&mut self, weight: &[R], out: usize, width: usize) {
        self.forward.pack(View::transposed(weight, width), width, out);
        self.backward.pack(View::rows(weight, width), out, width);
    }
}

/// A weight with its bias.
#[derive(Debug, Clone, Default)]
pub struct LinearWeights<R> {
    pub weight: Matrix<R>,
    pub bias: Vec<R>,
}

/// One stack's weights.
#[derive(Debug, Clone, Default)]
pub struct ContextWeights<R> {
    /// By direction. The input weights act on what the previous stack hands on, with its W_V folded in.
    pub gru: [GruWeights<R>; 2],
    /// `W_Q W_K^T` as a map of G (docs/model.md's orientation): the scores are `G score G^T`.
    pub score: Matrix<R>,
    /// W_V.
    pub value: Matrix<R>,
}

/// The parameters of a step, laid out for products; prepared by [`super::projection`].
#[derive(Debug, Clone, Default)]
pub struct Weights<R> {
    pub history_embedding: LinearWeights<R>,
    pub target_embedding: LinearWeights<R>,
    /// `We^T We` `[d, d]` and `Wq^T Wq` `[2d, 2d]`.
    pub history_gram: Panels<R>,
    pub target_gram: Panels<R>,
    /// By role, by direction.
    pub speaker: [[GruWeights<R>; 2]; 2],
    /// By gating role, by direction.
    pub interaction: [[LinearWeights<R>; 2]; 2],
    /// s(b), the gate of a role that has not spoken yet: by role, by direction.
    pub silent_gate: [[Vec<R>; 2]; 2],
    pub context: Vec<ContextWeights<R>>,
    pub classifier: LinearWeights<R>,
}

impl<R: Real> Backend for Worker<R> {
    type Buffer = Vec<R>;
    type Wide = Vec<f64>;
    type Layout = Shard;
    type Weights = Weights<R>;
    type Gradients = Gradients<R>;

    fn enter(&mut self, part: Part) -> Part {
        Part::all()[self.clock.enter(part as usize)]
    }
}

impl<R: Real> Operations for Worker<R> {}

/// `c = start + a b` of whole matrices in rows.
pub(super) fn product<R: Real>(
    (m, k, n): (usize, usize, usize),
    a: View<R>,
    b: Right<R>,
    c: &mut [R],
    start: Start<R>,
) {
    Product { m, k, n, a, index: None, b, c, c_row: n, start }.compute();
}

/// Evaluates `$body` for vectors of up to `S::LANES` that cover `0..$len`: `$j` is the first scalar, `$count` how many.
/// A macro, because a closure may be compiled outside the function that enables the instruction set.
macro_rules! vectors {
    ($S:ident, $len:expr, |$j:ident, $count:ident| $body:expr) => {{
        let len = $len;
        let mut $j = 0;
        while $j + <$S as Simd>::LANES <= len {
            let $count = <$S as Simd>::LANES;
            $body;
            $j += <$S as Simd>::LANES;
        }
        if $j < len {
            let $count = len - $j;
            $body;
        }
    }};
}
pub(super) use vectors;

/// The sum of a vector's lanes, always in the same order.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(super) unsafe fn sum_lanes<S: Simd>(v: S::Vector) -> S::Scalar {
    let mut lanes = [S::Scalar::ZERO; 16];
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    let mut width = S::LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

struct SumRows<'a, R> {
    from: &'a [R],
    row: usize,
    rows: usize,
    to: &'a mut [R],
}

impl<R: Real> Kernel<R> for SumRows<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(self) {
        vectors!(S, self.to.len(), |j, count| unsafe {
            let mut sum = S::splat(R::ZERO);
            for i in 0..self.rows {
                sum = S::add(sum, S::load_first(self.from.as_ptr().add(i * self.row + j), count));
            }
            S::store_first(self.to.as_mut_ptr().add(j), sum, count);
        });
    }
}

/// `to[j] = sum over i of from[i * row + j]`, rows in order.
pub(super) fn sum_rows<R: Real>(from: &[R], row: usize, rows: usize, to: &mut [R]) {
    assert!(rows == 0 || (rows - 1) * row + to.len() <= from.len());
    R::dispatch(SumRows { from, row, rows, to });
}

/// `to[j] += from[j]`
pub(super) fn add<R: Real>(to: &mut [R], from: &[R]) {
    struct Add<'a, R>(&'a mut [R], &'a [R]);
    impl<R: Real> Kernel<R> for Add<'_, R> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd<Scalar = R>>(self) {
            vectors!(S, self.0.len(), |j, count| unsafe {
                let to = self.0.as_mut_ptr().add(j);
                S::store_first(
                    to,
                    S::add(S::load_first(to, count), S::load_first(self.1.as_ptr().add(j), count)),
                    count,
                );
            });
        }
    }
    assert_eq!(to.len(), from.len());
    R::dispatch(Add(to, from));
}

/// `to[i] = start[i] + sum over j of a[i * width + j] * x[j]`, or without a start.
pub(super) fn dots<R: Real>(a: &[R], width: usize, x: &[R], to: &mut [R]) {
    struct Dots<'a, R> {
        a: &'a [R],
        width: usize,
        x: &'a [R],
        to: &'a mut [R],
    }
    impl<R: Real> Kernel<R> for Dots<'_, R> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd<Scalar = R>>(self) {
            for (i, to) in self.to.iter_mut().enumerate() {
                unsafe {
                    let mut sum = S::splat(R::ZERO);
                    vectors!(S, self.width, |j, count| {
                        let a = S::load_first(self.a.as_ptr().add(i * self.width + j), count);
                        sum = S::mul_add(a, S::load_first(self.x.as_ptr().add(j), count), sum);
                    });
                    *to = sum_lanes::<S>(sum);
                }
            }
        }
    }
    assert!(to.len() * width <= a.len() && width <= x.len());
    R::dispatch(Dots { a, width, x, to });
}
