//! The CPU's preparation of a step's weights.

use crate::device::cpu::gemm::{Panels, Right, Start, View};
use crate::device::cpu::simd::Real;
use crate::ops::cpu::{ContextWeights, LinearWeights, Weights, product};
use crate::ops::parameters::{Gru, Layout, Linear};

/// Memory that `prepare` and `unfold` work in; grows once.
#[derive(Debug, Default)]
pub struct Scratch<R> {
    panels: Panels<R>,
    folded: Vec<R>,
}

/// Lays out `parameters` (flat, in [`Layout`]'s order) for a step's products. `fold`: stacks read attended states.
pub fn prepare<R: Real>(
    layout: &Layout,
    parameters: &[R],
    fold: bool,
    scratch: &mut Scratch<R>,
    weights: &mut Weights<R>,
) {
    let (d, width) = (layout.sizes.d, 2 * layout.sizes.d);
    let of = |tensor: usize| &parameters[layout.specs[tensor].range()];
    let linear = |to: &mut LinearWeights<R>, place: Linear| {
        let shape = &layout.specs[place.weight].shape;
        to.weight.prepare(of(place.weight), shape[0], shape[1]);
        to.bias.clear();
        to.bias.extend_from_slice(of(place.bias));
    };
    linear(&mut weights.history_embedding, layout.history_embedding);
    linear(&mut weights.target_embedding, layout.target_embedding);
    linear(&mut weights.classifier, layout.classifier);
    for (place, gram) in [
        (layout.history_embedding, &mut weights.history_gram),
        (layout.target_embedding, &mut weights.target_gram),
    ] {
        // W [out, D]: the Gram matrix of its rows.
        let (out, features) = (layout.specs[place.bias].len(), layout.sizes.features);
        let weight = of(place.weight);
        scratch.panels.pack(View::transposed(weight, features), features, out);
        scratch.folded.resize(out * out, R::ZERO);
        let (a, b) = (View::rows(weight, features), Right::Panels(&scratch.panels));
        product((out, features, out), a, b, &mut scratch.folded, Start::Zero);
        gram.pack(View::rows(&scratch.folded, out), out, out);
    }
    for role in 0..2 {
        for direction in 0..2 {
            let Gru { weight_ih, weight_hh, bias_ih, bias_hh } = layout.speaker[role][direction];
            let gru = &mut weights.speaker[role][direction];
            gru.prepare(d, d, of(weight_ih), of(weight_hh), of(bias_ih), of(bias_hh));
            let place = layout.interaction[role][direction];
            linear(&mut weights.interaction[role][direction], place);
            let silent = &mut weights.silent_gate[role][direction];
            silent.clear();
            let sigmoid = |x: &R| R::from_f64(1.0 / (1.0 + (-x.to_f64()).exp()));
            silent.extend(of(place.bias).iter().map(sigmoid));
        }
    }
    weights.context.resize_with(layout.context.len(), ContextWeights::default);
    for (l, (place, to)) in layout.context.iter().zip(&mut weights.context).enumerate() {
        for (place, gru) in place.gru.iter().zip(&mut to.gru) {
            let mut weight_ih = of(place.weight_ih);
            if fold && l > 0 {
                let value = of(layout.context[l - 1].value);
                scratch.folded.resize(3 * d * width, R::ZERO);
                let a = View::rows(weight_ih, width);
                product(
                    (3 * d, width, width),
                    a,
                    Right::Rows(value, width),
                    &mut scratch.folded,
                    Start::Zero,
                );
                weight_ih = &scratch.folded;
            }
            gru.prepare(d, width, weight_ih, of(place.weight_hh), of(place.bias_ih), of(place.bias_hh));
        }
        // score[i, j] = sum over o of query[o, i] key[o, j]
        scratch.folded.resize(width * width, R::ZERO);
        let (a, b) = (View::transposed(of(place.query), width), Right::Rows(of(place.key), width));
        product((width, width, width), a, b, &mut scratch.folded, Start::Zero);
        to.score.forward.pack(View::rows(&scratch.folded, width), width, width);
        to.score.backward.pack(View::transposed(&scratch.folded, width), width, width);
        to.value.prepare(of(place.value), width, width);
    }
}

/// Turns the gradients of the products into those of the parameters, in place: the gradient of a score waits in
/// its query's place, that of a folded input weight in the input weight's.
pub fn unfold<R: Real>(
    layout: &Layout,
    parameters: &[R],
    fold: bool,
    scratch: &mut Scratch<R>,
    gradients: &mut [R],
) {
    let (d, width) = (layout.sizes.d, 2 * layout.sizes.d);
    let range = |tensor: usize| layout.specs[tensor].range();
    for (l, place) in layout.context.iter().enumerate() {
        let (query, key) = (range(place.query), range(place.key));
        scratch.folded.clear();
        scratch.folded.extend_from_slice(&gradients[query.clone()]);
        let d_score = &scratch.folded;
        // key' = query score', query' = key score'^T
        let a = View::rows(&parameters[query.clone()], width);
        product(
            (width, width, width),
            a,
            Right::Rows(d_score, width),
            &mut gradients[key.clone()],
            Start::Zero,
        );
        scratch.panels.pack(View::transposed(d_score, width), width, width);
        let a = View::rows(&parameters[key], width);
        let b = Right::Panels(&scratch.panels);
        product((width, width, width), a, b, &mut gradients[query], Start::Zero);
        if !(fold && l > 0) {
            continue;
        }
        let value = range(layout.context[l - 1].value);
        for place in &place.gru {
            let input = range(place.weight_ih);
            scratch.folded.clear();
            scratch.folded.extend_from_slice(&gradients[input.clone()]);
            let d_folded = &scratch.folded;
            // value' += input^T folded', input' = folded' value^T
            let a = View::transposed(&parameters[input.clone()], width);
            let b = Right::Rows(d_folded, width);
            product((width, 3 * d, width), a, b, &mut gradients[value.clone()], Start::Add);
            scratch.panels.pack(View::transposed(&parameters[value.clone()], width), width, width);
            let (a, b) = (View::rows(d_folded, width), Right::Panels(&scratch.panels));
            product((3 * d, width, width), a, b, &mut gradients[input], Start::Zero);
        }
    }
}
