//! Products of matrices, tile by tile in registers.
//!
//! One register tile ([`tile`]) serves every product of the engine: [`Product`] here and the fused recurrent
//! steps in `ops/gru`. A tile is up to `TILE_ROWS` rows by three vectors of columns; its sum runs over k in
//! order, so a row's result depends neither on the rows computed beside it nor on the number of threads.
//!
//! Weights are laid out once a step as [`Panels`]: sixteen columns side by side, contiguous in k, padded with
//! zeros. A tile's inner loop then reads one stream a vector. Activations are used where they lie.

#![allow(
    clippy::needless_range_loop,
    reason = "rows and vectors of a register tile are numbered alike in every array"
)]

use super::simd::{Kernel, Real, Simd};

/// Columns of one panel: a whole number of vectors in every instruction set.
pub const PANEL: usize = 16;

/// Vectors a tile holds at most.
const TILE_VECTORS: usize = 3;

/// Steps of k between two visits of an output tile: the panels of a block stay in the first-level cache.
const K_BLOCK: usize = 256;

/// The right operand `[k, n]` of a product, laid out for [`tile`].
#[derive(Debug, Clone, Default)]
pub struct Panels<R> {
    k: usize,
    n: usize,
    data: Vec<R>,
}

/// How a matrix in memory is walked: element `(i, j)` lies at `i * row + j * column`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, R> {
    pub data: &'a [R],
    pub row: usize,
    pub column: usize,
}

impl<'a, R> View<'a, R> {
    /// Rows of `width` scalars one behind the other.
    pub fn rows(data: &'a [R], width: usize) -> Self {
        Self { data, row: width, column: 1 }
    }

    /// The transpose of [`View::rows`].
    pub fn transposed(data: &'a [R], width: usize) -> Self {
        Self { data, row: 1, column: width }
    }
}

impl<R: Real> Panels<R> {
    /// Takes memory for `scalars`, so that later packing takes none.
    pub fn reserve(&mut self, scalars: usize) {
        if self.data.len() < scalars {
            self.data.resize(scalars, R::ZERO);
        }
    }

    /// Lays out `b`, `[k, n]`; memory is taken only when it grows.
    pub fn pack(&mut self, b: View<R>, k: usize, n: usize) {
        self.k = k;
        self.n = n;
        let size = k * n.next_multiple_of(PANEL);
        self.reserve(size);
        if k == 0 {
            return;
        }
        for (panel, to) in self.data[..size].chunks_exact_mut(k * PANEL).enumerate() {
            let first = panel * PANEL;
            let count = PANEL.min(n - first);
            if b.column == 1 {
                for (i, to) in to.chunks_exact_mut(PANEL).enumerate() {
                    let from = &b.data[i * b.row + first..];
                    to[..count].copy_from_slice(&from[..count]);
                    to[count..].fill(R::ZERO);
                }
            } else {
                for j in 0..count {
                    let from = &b.data[(first + j) * b.column..];
                    for i in 0..k {
                        to[i * PANEL + j] = from[i * b.row];
                    }
                }
                for j in count..PANEL {
                    (0..k).for_each(|i| to[i * PANEL + j] = R::ZERO);
                }
            }
        }
    }

    /// Lays out a right operand whose row i is `row(i)`, n scalars, or zeros where that is `None`.
    pub fn pack_rows<'a>(&mut self, k: usize, n: usize, row: impl Fn(usize) -> Option<&'a [R]>) {
        self.k = k;
        self.n = n;
        let size = k * n.next_multiple_of(PANEL);
        self.reserve(size);
        for i in 0..k {
            let from = row(i);
            for first in (0..n).step_by(PANEL) {
                let to = &mut self.data[first * k + i * PANEL..][..PANEL];
                let count = PANEL.min(n - first);
                match from {
                    Some(from) => to[..count].copy_from_slice(&from[first..first + count]),
                    None => to[..count].fill(R::ZERO),
                }
                to[count..].fill(R::ZERO);
            }
        }
    }

    /// Multiplies row i by `scale[i]`.
    pub fn scale_rows(&mut self, scale: &[R]) {
        assert_eq!(scale.len(), self.k);
        let size = self.k * self.n.next_multiple_of(PANEL);
        for (row, &scale) in self.data[..size].chunks_exact_mut(PANEL).zip(scale.iter().cycle()) {
            row.iter_mut().for_each(|x| *x = *x * scale);
        }
    }

    /// Where columns `first..` start in k = 0; a step of k is [`PANEL`] scalars further. `first` is a whole
    /// number of vectors.
    #[inline(always)]
    pub fn column(&self, first: usize) -> *const R {
        debug_assert!(first < self.n.next_multiple_of(PANEL));
        self.data[first / PANEL * self.k * PANEL + first % PANEL..].as_ptr()
    }
}

/// What an output tile starts from.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a, R> {
    Zero,
    /// A row of n values, the same for every row of the output.
    Bias(&'a [R]),
    /// What is in the output.
    Add,
}

/// The right operand of a [`Product`].
#[derive(Debug, Clone, Copy)]
pub enum Right<'a, R> {
    Panels(&'a Panels<R>),
    /// Rows of n scalars where they lie, `usize` scalars apart.
    Rows(&'a [R], usize),
}

/// `c = start + a b`, with a `[m, k]`, b `[k, n]`, c `[m, n]` in rows `c_row` scalars apart.
pub struct Product<'a, R> {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub a: View<'a, R>,
    /// Row i of `a` is row `index[i]` of the view.
    pub index: Option<&'a [u32]>,
    pub b: Right<'a, R>,
    pub c: &'a mut [R],
    pub c_row: usize,
    pub start: Start<'a, R>,
}

impl<R: Real> Product<'_, R> {
    /// # Panics
    /// When an operand is shorter than the shapes say: a defect of the caller.
    pub fn compute(self) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        let rows = match self.index {
            None => self.m,
            Some(index) => {
                assert!(index.len() >= self.m, "gemm: index");
                index[..self.m].iter().max().map_or(0, |&last| last as usize + 1)
            }
        };
        if self.k > 0 {
            let last = (rows - 1) * self.a.row + (self.k - 1) * self.a.column;
            assert!(last < self.a.data.len(), "gemm: left operand");
            match self.b {
                Right::Panels(panels) => assert!(panels.k == self.k && panels.n == self.n, "gemm: panels"),
                Right::Rows(data, row) => assert!((self.k - 1) * row + self.n <= data.len(), "gemm: rows"),
            }
        }
        assert!((self.m - 1) * self.c_row + self.n <= self.c.len() && self.c_row >= self.n, "gemm: output");
        if let Start::Bias(bias) = self.start {
            assert!(bias.len() >= self.n, "gemm: bias");
        }
        R::dispatch(self);
    }
}

/// `a b` for `M` rows of a, each walked from its pointer in steps of `a_step`, and `V` vectors of columns of b,
/// each walked in steps of `b_step`. Of the last vector only `last` lanes are read when `PARTIAL`.
///
/// # Safety
/// As [`Simd`]; the pointers are valid for `k` steps.
#[inline(always)]
pub unsafe fn tile<S: Simd, const M: usize, const V: usize, const PARTIAL: bool>(
    k: usize,
    a: [*const S::Scalar; M],
    a_step: usize,
    b: [*const S::Scalar; V],
    b_step: usize,
    last: usize,
    mut sum: [[S::Vector; V]; M],
) -> [[S::Vector; V]; M] {
    unsafe {
        for i in 0..k {
            let mut row = [S::splat(S::Scalar::ZERO); V];
            for v in 0..V {
                let from = b[v].add(i * b_step);
                row[v] = if PARTIAL && v == V - 1 { S::load_first(from, last) } else { S::load(from) };
            }
            for m in 0..M {
                let x = S::splat(*a[m].add(i * a_step));
                for v in 0..V {
                    sum[m][v] = S::mul_add(x, row[v], sum[m][v]);
                }
            }
        }
        sum
    }
}

/// How many vectors cover n columns, and whether one of [`Simd::Half`] covers what is left behind them.
#[inline(always)]
pub fn columns<S: Simd>(n: usize) -> (usize, bool) {
    let rest = n % S::LANES;
    let half = rest > 0 && rest <= S::Half::LANES && S::Half::LANES < S::LANES;
    (if half { n / S::LANES } else { n.div_ceil(S::LANES) }, half)
}

/// The vectors that [`columns`] tells, in groups for a tile: the first of each and how many, up to `TILE_VECTORS`, shared out
/// evenly (four are two and two, not three and one). The half one is last, as a group of none.
#[inline(always)]
pub fn groups<S: Simd>(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let (vectors, half) = columns::<S>(n);
    let tiles = vectors.div_ceil(TILE_VECTORS);
    let first = move |t| t * vectors / tiles;
    (0..tiles).map(move |t| (first(t), first(t + 1) - first(t))).chain(half.then_some((vectors, 0)))
}

/// Covers `$range` with tiles of `$rows` rows, then of 4, 2 and 1 (few sizes, because each is compiled apart):
/// evaluates `$body` for each with the constant `$M`, its rows, from row `$i` on.
macro_rules! each_tile {
    ($range:expr, $rows:expr, |$i:ident, $M:ident| $body:expr) => {
        let range: std::ops::Range<usize> = $range;
        let mut $i = range.start;
        each_tile!(@size $rows, range, $i, $M, $body, 8);
        each_tile!(@size $rows, range, $i, $M, $body, 4);
        each_tile!(@size $rows, range, $i, $M, $body, 2);
        each_tile!(@size $rows, range, $i, $M, $body, 1);
    };
    (@size $rows:expr, $range:ident, $i:ident, $M:ident, $body:expr, $size:literal) => {
        if $size <= $rows {
            while $range.end - $i >= $size {
                const $M: usize = $size;
                $body;
                $i += $size;
            }
        }
    };
}
pub(crate) use each_tile;

/// Steps of k of a left operand that is walked across its rows; rows of it copied at a time.
const ACROSS_K: usize = 128;
const ACROSS_ROWS: usize = 32;

/// A block of a left operand whose rows lie across memory (a transpose), copied so that a tile's rows lie side by
/// side: scalar (row i, step l) at `(i / T) * T * ACROSS_K + l * T + i % T` for tiles of T rows.
type Across<R> = [std::mem::MaybeUninit<R>; ACROSS_K * ACROSS_ROWS];

/// What one register tile computes.
#[derive(Clone, Copy)]
struct Tile<R> {
    /// First row and first column of the output.
    i: usize,
    j: usize,
    /// First step of the sum and number of steps.
    from: usize,
    k: usize,
    /// The copy of the left operand's tile, instead of the operand itself, and how far its steps of k are apart.
    copied: Option<(*const R, usize)>,
}

impl<R: Real> Product<'_, R> {
    /// `M` rows by `V` vectors.
    #[inline(always)]
    unsafe fn tile<S: Simd<Scalar = R>, const M: usize, const V: usize>(&mut self, at: Tile<R>) {
        unsafe {
            let Tile { i, j, from, k, copied } = at;
            let width = (self.n - j).min(V * S::LANES);
            let last = width - (V - 1) * S::LANES;
            let whole = last == S::LANES;
            let mut a = [self.a.data.as_ptr(); M];
            let mut c = [self.c.as_mut_ptr(); M];
            for m in 0..M {
                a[m] = match (copied, self.index) {
                    (Some((tile, _)), _) => tile.add(m),
                    (None, Some(index)) => {
                        a[m].add(*index.get_unchecked(i + m) as usize * self.a.row + from * self.a.column)
                    }
                    (None, None) => a[m].add((i + m) * self.a.row + from * self.a.column),
                };
                c[m] = c[m].add((i + m) * self.c_row + j);
            }
            let step = copied.map_or(self.a.column, |(_, step)| step);
            let mut sum = [[S::splat(R::ZERO); V]; M];
            match self.start {
                Start::Zero if from == 0 => {}
                Start::Bias(bias) if from == 0 => {
                    for v in 0..V {
                        let count = if v == V - 1 { last } else { S::LANES };
                        let row = S::load_first(bias.as_ptr().add(j + v * S::LANES), count);
                        for m in 0..M {
                            sum[m][v] = row;
                        }
                    }
                }
                _ => {
                    for m in 0..M {
                        for v in 0..V {
                            let count = if v == V - 1 { last } else { S::LANES };
                            sum[m][v] = S::load_first(c[m].add(v * S::LANES), count);
                        }
                    }
                }
            }
            let mut b = [self.c.as_ptr(); V];
            match self.b {
                Right::Panels(panels) => {
                    for v in 0..V {
                        b[v] = panels.column(j + v * S::LANES).add(from * PANEL);
                    }
                    sum = tile::<S, M, V, false>(k, a, step, b, PANEL, last, sum);
                }
                Right::Rows(data, row) => {
                    for v in 0..V {
                        b[v] = data.as_ptr().add(from * row + j + v * S::LANES);
                    }
                    sum = tile::<S, M, V, true>(k, a, step, b, row, last, sum);
                }
            }
            for m in 0..M {
                for v in 0..V {
                    let to = c[m].add(v * S::LANES);
                    if v == V - 1 && !whole {
                        S::store_first(to, sum[m][v], last);
                    } else {
                        S::store(to, sum[m][v]);
                    }
                }
            }
        }
    }

    /// All columns of rows `rows`, tile by tile, a column panel at a time; `copy` holds the rows when copied.
    #[inline(always)]
    unsafe fn rows<S: Simd<Scalar = R>>(
        &mut self,
        rows: std::ops::Range<usize>,
        (from, k): (usize, usize),
        copy: Option<*const R>,
    ) {
        for (first, count) in groups::<S>(self.n) {
            let j = first * S::LANES;
            each_tile!(rows.clone(), S::TILE_ROWS, |i, M| unsafe {
                // Within the block that `copy_across` filled: a tile of fewer rows lies in the last whole one.
                let copied = copy.map(|copy| {
                    let row = i - rows.start;
                    let tile = row / S::TILE_ROWS * S::TILE_ROWS * ACROSS_K + row % S::TILE_ROWS;
                    (copy.add(tile), S::TILE_ROWS)
                });
                let at = Tile { i, j, from, k, copied };
                match count {
                    0 => self.tile::<S::Half, M, 1>(at),
                    1 => self.tile::<S, M, 1>(at),
                    2 => self.tile::<S, M, 2>(at),
                    _ => self.tile::<S, M, 3>(at),
                }
            });
        }
    }

    /// Copies steps `from..from + k` of rows `rows` of a left operand with `row == 1`.
    #[inline(always)]
    unsafe fn copy_across<S: Simd<Scalar = R>>(
        &self,
        rows: std::ops::Range<usize>,
        (from, k): (usize, usize),
        to: &mut Across<R>,
    ) {
        // SAFETY: `compute` checked the operand; the block holds ACROSS_ROWS rows of ACROSS_K steps.
        unsafe {
            for l in 0..k {
                let mut from = self.a.data.as_ptr().add((from + l) * self.a.column + rows.start);
                let mut to = to.as_mut_ptr().add(l * S::TILE_ROWS).cast::<R>();
                for _ in 0..rows.len() / S::TILE_ROWS {
                    // A constant count: one or two moves, no call.
                    std::ptr::copy_nonoverlapping(from, to, S::TILE_ROWS);
                    from = from.add(S::TILE_ROWS);
                    to = to.add(S::TILE_ROWS * ACROSS_K);
                }
                for i in 0..rows.len() % S::TILE_ROWS {
                    *to.add(i) = *from.add(i);
                }
            }
        }
    }
}

impl<R: Real> Kernel<R> for Product<'_, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd<Scalar = R>>(mut self) {
        // Worth a copy only where every step is used by several tiles.
        let across = self.a.row == 1 && self.a.column > 1 && self.k >= 16 && self.index.is_none();
        let block = if across { ACROSS_K } else { K_BLOCK };
        let mut copy: Across<R> = [std::mem::MaybeUninit::uninit(); ACROSS_K * ACROSS_ROWS];
        let mut from = 0;
        loop {
            let k = (self.k - from).min(block);
            // SAFETY: `compute` checked every operand against the shapes.
            unsafe {
                if across {
                    let mut i = 0;
                    while i < self.m {
                        let rows = i..self.m.min(i + ACROSS_ROWS);
                        self.copy_across::<S>(rows.clone(), (from, k), &mut copy);
                        self.rows::<S>(rows, (from, k), Some(copy.as_ptr().cast()));
                        i += ACROSS_ROWS;
                    }
                } else {
                    self.rows::<S>(0..self.m, (from, k), None);
                }
            }
            from += k;
            if from >= self.k {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, so that every order of summation is exact.
    fn integers<R: Real>(count: usize, seed: u64) -> Vec<R> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            R::from_f64(((state >> 33) % 15) as f64 - 7.0)
        };
        (0..count).map(|_| next()).collect()
    }

    fn exact<R: Real>() {
        for (case, &(m, k, n)) in [
            (1, 1, 1),
            (8, 16, 48),
            (9, 5, 17),
            (3, 0, 4),
            (31, 300, 100),
            (5, 257, 50),
            (17, 33, 3),
            (7, 600, 64),
            (2, 3, 31),
            (0, 4, 4),
            (16, 1, 33),
        ]
        .iter()
        .enumerate()
        {
            let a: Vec<R> = integers(m * k, case as u64);
            let b: Vec<R> = integers(k * n, 100 + case as u64);
            let bias: Vec<R> = integers(n, 200 + case as u64);
            let index: Vec<u32> = (0..m as u32).rev().collect();
            let plain = |i: usize, j: usize| (0..k).fold(R::ZERO, |s, l| s + a[i * k + l] * b[l * n + j]);
            let mut transposed_a = vec![R::ZERO; m * k];
            (0..m).for_each(|i| (0..k).for_each(|l| transposed_a[l * m + i] = a[i * k + l]));
            let mut panels = Panels::default();
            panels.pack(View::rows(&b, n), k, n);
            let c_row = n + 3;
            for variant in 0..6 {
                let guard = R::from_f64(99.0);
                let mut c = vec![guard; m * c_row + 5];
                let (left, index_used) = match variant {
                    0 | 1 => (View::rows(&a, k), None),
                    2 | 3 => (View::transposed(&transposed_a, m), None),
                    _ => (View::rows(&a, k), Some(index.as_slice())),
                };
                let right = if variant % 2 == 0 { Right::Panels(&panels) } else { Right::Rows(&b, n) };
                let start = [Start::Zero, Start::Bias(&bias), Start::Add][variant / 2];
                Product { m, k, n, a: left, index: index_used, b: right, c: &mut c, c_row, start }.compute();
                for i in 0..m {
                    for j in 0..c_row {
                        let found = c[i * c_row + j];
                        let row = if variant >= 4 { m - 1 - i } else { i };
                        let expected = match variant / 2 {
                            _ if j >= n => guard,
                            0 => plain(row, j),
                            1 => plain(row, j) + bias[j],
                            _ => plain(row, j) + guard,
                        };
                        assert_eq!(found, expected, "{m}x{k}x{n} variant {variant} at ({i}, {j})");
                    }
                }
                assert!(c[m * c_row..].iter().all(|&x| x == guard), "wrote past the end");
            }
        }
    }

    #[test]
    fn exact_on_small_integers() {
        exact::<f32>();
        exact::<f64>();
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (m, k, n) = (21, 137, 45);
        let a: Vec<f32> = integers::<f32>(m * k, 1).iter().map(|x| x / 7.3).collect();
        let b: Vec<f32> = integers::<f32>(k * n, 2).iter().map(|x| x / 3.7).collect();
        let mut panels = Panels::default();
        panels.pack(View::rows(&b, n), k, n);
        let product = |rows: &[f32], m: usize| {
            let mut c = vec![0.0; m * n];
            let (a, b) = (View::rows(rows, k), Right::Panels(&panels));
            Product { m, k, n, a, index: None, b, c: &mut c, c_row: n, start: Start::Zero }.compute();
            c
        };
        let together = product(&a, m);
        for i in 0..m {
            assert_eq!(product(&a[i * k..(i + 1) * k], 1), together[i * n..(i + 1) * n]);
        }
    }
}
