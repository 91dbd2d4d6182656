//! Every operation of a step on one shard, forward and backward, at the paper's size: d = 100, 32 windows of 23
//! utterances (IEMOCAP's mean), f32, one thread.
//!
//!     cargo bench --bench operations

use std::hint::black_box;
use std::sync::Arc;

use coin::data::batch::{Batch, SHARD_SAMPLES, Shard};
use coin::data::windows::Windows;
use coin::data::{Conversation, Corpus, Modality, Split, Utterance};
use coin::device::cpu::gemm::{Panels, Product, Right, Start, View};
use coin::model::config::StackInput;
use coin::model::graph::{Activations, Graph, Size};
use coin::ops::adam;
use coin::ops::adversarial::{Adversarial, AdversarialNorm, Perturbation};
use coin::ops::attention::Attention;
use coin::ops::classifier::Classifier;
use coin::ops::cpu::{Gradients, Weights, Worker};
use coin::ops::dropout::{Dropout, Mask, Pass, Site};
use coin::ops::embedding::{Embedding, embed};
use coin::ops::gru::{Gru, Layer};
use coin::ops::interaction::Interaction;
use coin::ops::parameters::{Layout, Sizes};
use coin::ops::projection;
use coin::ops::readout::Readout;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SIZES: Sizes = Sizes { features: 403, classes: 6, d: 100, stacks: 2 };
const SAMPLES: usize = 32;
const HISTORY: usize = 23;

/// 32 conversations, each with one target behind 23 utterances of two speakers in turn.
fn shard() -> Shard {
    let utterance = |i: usize| Utterance {
        id: i.to_string(),
        speaker: (i % 2).to_string(),
        label: Some(i % SIZES.classes),
        text: None,
    };
    let conversation = |c: usize| Conversation {
        id: format!("{c:02}"),
        split: Split::Train,
        first: c * (HISTORY + 1),
        utterances: (0..=HISTORY).map(utterance).collect(),
    };
    let corpus = Corpus {
        source: "benchmark".into(),
        classes: (0..SIZES.classes).map(|class| class.to_string()).collect(),
        modalities: vec![Modality { name: "text".into(), width: 0 }],
        conversations: (0..SAMPLES).map(conversation).collect(),
        features: Vec::new(),
    };
    let windows = Windows::new(&corpus, HISTORY);
    let targets: Vec<u32> = (0..SAMPLES).map(|c| (c * (HISTORY + 1) + HISTORY) as u32).collect();
    let mut batch = Batch::with_capacity(SAMPLES, SHARD_SAMPLES, HISTORY, windows.len());
    batch.fill(&windows, &targets);
    batch.shards()[0].clone()
}

/// Values around zero, the same every run.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 2_654_435_761) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn operations(c: &mut Criterion) {
    let Sizes { features, classes, d, stacks } = SIZES;
    let layout = Arc::new(Layout::new(SIZES));
    let parameters: Vec<f32> = layout.initialise(1);
    let (mut weights, mut scratch) = (Weights::default(), projection::Scratch::default());
    let shard = shard();
    let rows = shard.rows();
    let graph = Graph { stacks, interaction: true, stack_input: StackInput::Attention };
    let mut ops = Worker::<f32>::new(Arc::clone(&layout), SAMPLES, HISTORY);
    let mut gradients = Gradients::new(Arc::clone(&layout));
    let size = Size { samples: SAMPLES, rows: SAMPLES * HISTORY, pairs: SAMPLES * HISTORY * HISTORY };
    let mut a = Activations::new(graph, d, classes, size, values, |len| vec![0.0; len]);
    let mask = Mask { seed: 1, step: 0, pass: Pass::Clean, keep: 0.7 };
    let utterances: Vec<u32> = (0..(SAMPLES * HISTORY) as u32).collect();
    let table = values(utterances.len() * features);
    let mut embedded = values(utterances.len() * d);

    let mut group = c.benchmark_group("product");
    for (m, k, n) in [(rows, 2 * d, 3 * d), (rows, 3 * d, 2 * d), (32, d, 3 * d)] {
        let (left, right, mut to) = (values(m * k), values(k * n), vec![0.0; m * n]);
        let mut panels = Panels::default();
        panels.pack(View::rows(&right, n), k, n);
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        group.bench_function(format!("{m}x{k}x{n}"), |b| {
            b.iter(|| {
                let (a, b, c, start) =
                    (View::rows(&left, k), Right::Panels(&panels), &mut to[..], Start::Zero);
                Product { m, k, n, a, index: None, b, c, c_row: n, start }.compute();
            });
        });
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        let (d_y, mut d_w) = (values(m * n), vec![0.0; n * k]);
        panels.pack(View::rows(&left, k), m, k);
        group.bench_function(format!("{n}x{m}x{k} transposed"), |b| {
            b.iter(|| {
                let (a, b, start) = (View::transposed(&d_y, n), Right::Panels(&panels), Start::Add);
                Product { m: n, k: m, n: k, a, index: None, b, c: &mut d_w, c_row: k, start }.compute();
            });
        });
    }
    group.finish();

    c.bench_function("projection/prepare", |b| {
        b.iter(|| projection::prepare(&layout, black_box(&parameters), true, &mut scratch, &mut weights));
    });
    let mut unfolded = values(layout.len);
    c.bench_function("projection/unfold", |b| {
        b.iter(|| projection::unfold(&layout, &parameters, true, &mut scratch, black_box(&mut unfolded)));
    });
    let weights = &weights;

    c.bench_function("embedding/embed", |b| {
        b.iter(|| embed(&weights.history_embedding, &table, features, &utterances, &mut embedded));
    });
    let target = values(SAMPLES * 2 * d);
    c.bench_function("embedding/gather", |b| {
        b.iter(|| ops.gather(&shard, &embedded, &target, None, &mut a.x, &mut a.q[0]));
    });
    for (name, layer) in [("speaker", Layer::Speaker), ("context", Layer::Context(0))] {
        let input = values(rows * 2 * d);
        let (mut saved, mut hidden) = (values(rows * 8 * d), values(rows * 2 * d));
        c.bench_function(&format!("gru/{name}"), |b| {
            b.iter(|| ops.gru(&shard, layer, weights, &input, &mut saved, &mut hidden));
        });
        // The gates are gradients after one call; their values do not change the time of the next.
        let mut d_input = values(rows * 2 * d);
        let d_hidden = values(rows * 2 * d);
        c.bench_function(&format!("gru/{name} backward"), |b| {
            b.iter(|| {
                saved.fill(0.5);
                let grads = &mut gradients;
                ops.gru_backward(
                    &shard,
                    layer,
                    weights,
                    &input,
                    &hidden,
                    &mut saved,
                    &d_hidden,
                    &mut d_input,
                    grads,
                );
            });
        });
    }
    // Dropout has a line of its own.
    let keep_all = Mask { keep: 1.0, ..mask };
    c.bench_function("interaction", |b| {
        b.iter(|| ops.interaction(&shard, weights, &keep_all, true, &a.hidden, &mut a.gate, &mut a.m));
    });
    let (mut d_gate, mut d_hidden) = (values(rows * 2 * d), values(rows * 2 * d));
    c.bench_function("interaction backward", |b| {
        b.iter(|| {
            let grads = &mut gradients;
            let (hidden, gate, d_m) = (&a.hidden, &a.gate, &mut a.m);
            ops.interaction_backward(
                &shard,
                weights,
                &keep_all,
                true,
                hidden,
                gate,
                d_m,
                &mut d_gate,
                &mut d_hidden,
                grads,
            );
        });
    });
    c.bench_function("dropout", |b| b.iter(|| ops.dropout(&shard, &mask, Site::Interaction, &mut a.m)));

    let stack = &mut a.stacks[0];
    stack.g = values(rows * 2 * d);
    c.bench_function("attention", |b| {
        b.iter(|| {
            ops.attention(&shard, 0, weights, &stack.g, &mut stack.projected, &mut stack.probabilities)
        });
    });
    c.bench_function("attention/attend", |b| {
        b.iter(|| ops.attend(&shard, &stack.probabilities, &stack.g, &mut stack.attended));
    });
    let (q, mut next) = (values(SAMPLES * 2 * d), values(SAMPLES * 2 * d));
    c.bench_function("readout", |b| {
        b.iter(|| {
            let (p, g) = (&stack.probabilities, &stack.g);
            ops.readout(&shard, 0, weights, p, g, &q, &mut stack.readout, &mut next);
        });
    });
    let mut d_q = values(SAMPLES * 2 * d);
    c.bench_function("readout backward", |b| {
        b.iter(|| {
            let (p, g) = (&stack.probabilities, &stack.g);
            let (scratch, d_p, d_g) = (&mut a.d.readout, &mut a.d.probabilities, &mut a.d.g);
            let (saved, grads) = (&stack.readout, &mut gradients);
            ops.readout_backward(
                &shard, 0, weights, p, g, &q, &next, saved, scratch, &mut d_q, d_p, d_g, grads,
            );
        });
    });
    c.bench_function("attention/attend backward", |b| {
        b.iter(|| {
            let (p, g) = (&stack.probabilities, &stack.g);
            ops.attend_backward(&shard, p, g, &stack.attended, &mut a.d.probabilities, &mut a.d.g);
        });
    });
    c.bench_function("attention backward", |b| {
        b.iter(|| {
            let (p, g, projected) = (&stack.probabilities, &stack.g, &stack.projected);
            let (d_p, d_projected, d_g) = (&mut a.d.probabilities, &mut a.d.projected, &mut a.d.g);
            let grads = &mut gradients;
            ops.attention_backward(&shard, 0, weights, g, projected, p, d_p, d_projected, d_g, grads);
        });
    });
    c.bench_function("classifier", |b| {
        b.iter(|| {
            ops.classify(&shard, weights, &q, &mut a.logits);
            ops.cross_entropy(&shard, SAMPLES, &a.logits, &mut a.loss, &mut a.d.logits);
            ops.classify_backward(&shard, weights, &q, &a.d.logits, &mut d_q, &mut gradients);
        });
    });
    let mut perturbation = Perturbation {
        history: values(rows * d),
        target: values(SAMPLES * 2 * d),
        history_scale: values(rows),
        target_scale: values(SAMPLES),
        squared_norm: vec![0.0; SAMPLES],
    };
    let d_x = values(rows * d);
    c.bench_function("adversarial", |b| {
        b.iter(|| {
            ops.feature_norms(&shard, weights, &d_x, &d_q, &mut perturbation);
            ops.perturb(&shard, AdversarialNorm::Sample, 1.0, &vec![1.0], &mut perturbation);
        });
    });
    let (mut p, mut m, mut v) = (parameters.clone(), values(layout.len), vec![0.1; layout.len]);
    let step = adam::Step { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, number: 5 };
    let gradient = values(layout.len);
    c.bench_function("adam", |b| b.iter(|| adam::update(step, &gradient, &mut p, &mut m, &mut v)));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = operations
}
criterion_main!(benches);
