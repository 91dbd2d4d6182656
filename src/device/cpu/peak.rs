//! What this machine's cores can multiply, measured: the ceiling that a step's rate is held against.

use std::time::Instant;

use super::gemm::{Panels, Product, Right, Start, View};
use super::pool::Pool;
use super::simd::Real;

/// GFLOP/s of products that stay in the caches (256 x 200 x 300, a gate's shape), on all threads of `pool` at once:
/// the best of `rounds` rounds of about 50 ms each.
pub fn gflops<R: Real>(pool: &Pool, rounds: usize) -> f64 {
    const SHAPE: (usize, usize, usize) = (256, 200, 300);
    let (m, k, n) = SHAPE;
    let flops = 2.0 * (m * k * n) as f64;
    let a: Vec<R> = (0..m * k).map(|i| R::from_f64((i % 7) as f64 * 0.125)).collect();
    let b: Vec<R> = (0..k * n).map(|i| R::from_f64((i % 5) as f64 * 0.25)).collect();
    let mut panels = Panels::default();
    panels.pack(View::rows(&b, n), k, n);
    let mut outputs = vec![R::ZERO; pool.threads() * m * n];
    let mut round = |products: usize| {
        let started = Instant::now();
        pool.chunks([&mut outputs], m * n, |_, [c], _| {
            for _ in 0..products {
                let (a, b, start) = (View::rows(&a, k), Right::Panels(&panels), Start::Zero);
                Product { m, k, n, a, index: None, b, c, c_row: n, start }.compute();
            }
        });
        started.elapsed().as_secs_f64()
    };
    let products = (50e-3 / (round(16) / 16.0)).ceil().max(1.0) as usize;
    let best = (0..rounds.max(1)).map(|_| round(products)).fold(f64::INFINITY, f64::min);
    flops * (products * pool.threads()) as f64 / best / 1e9
}
