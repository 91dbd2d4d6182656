//! A whole training step at the paper's size (K = 40, d = 100, L = 3, B = 512) on the synthetic conversations, all
//! cores.
//!
//!     cargo bench --bench step

use coin::data::standardise::Standardisation;
use coin::data::synthetic::{SyntheticOptions, generate};
use coin::model::config::Config;
use coin::model::device::Compute;
use coin::model::engine;
use coin::random::{Stream, purpose};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn step(c: &mut Criterion) {
    let corpus = generate(&SyntheticOptions::default());
    let standardisation = Standardisation::fit(&corpus, 0..corpus.conversations.len());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut group = c.benchmark_group("training step");
    group.sample_size(10);
    for adversarial in [false, true] {
        let config = Config { adversarial, ..Config::default() };
        let mut engine = engine(&config, &corpus, &standardisation, Compute::cpu(threads))
            .expect("the defaults are valid");
        let mut stream = Stream::new(1, purpose::TEST);
        let mut targets: Vec<u32> = (0..corpus.len() as u32).collect();
        let mut number = 0;
        group.throughput(Throughput::Elements(config.batch_size as u64));
        group.bench_function(if adversarial { "adversarial" } else { "clean" }, |b| {
            b.iter(|| {
                stream.shuffle(&mut targets);
                let batch = &targets[..config.batch_size];
                let loss = engine
                    .step_and_loss(batch, number, config.learning_rate)
                    .expect("every utterance is labelled");
                number += 1;
                loss
            });
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
