//! The card's preparation of a step's weights.

use crate::device::cuda::card::Shape;
use crate::device::cuda::product::Product;
use crate::device::work::Work;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Copies, Counts, Rounded, WORD, Worker, launch};
use crate::ops::parameters::Linear;

impl Worker {
    /// Multiplies the weights that a step applies as one, and copies what rows and states are multiplied with to f16 in mixed precision.
    /// `attended`: stacks read attended states.
    pub fn fold(&mut self, indices: &Indices, attended: bool) {
        let (d, width) = (self.d, 2 * self.d);
        let layout = self.layout.clone();
        let embeddings = [
            (layout.history_embedding, self.places.folded.history_gram),
            (layout.target_embedding, self.places.folded.target_gram),
        ];
        for (Linear { weight, bias }, gram) in embeddings {
            // W [out, D]: the Gram matrix of its rows.
            let (out, features) = (layout.specs[bias].len(), layout.sizes.features);
            let weight = (self.parameter(weight), features);
            self.product_nt(indices, Product::new((out, out, features), weight, weight, (gram, out)).exact());
        }
        for (l, place) in layout.context.iter().enumerate() {
            // score[i, j] = sum over o of query[o, i] key[o, j]
            let (query, key) = ((self.parameter(place.query), width), (self.parameter(place.key), width));
            let score = (self.places.folded.score[l], width);
            self.product_tn(indices, Product::new((width, width, width), query, key, score).exact());
            if attended && l > 0 {
                let [forward, backward] = place.gru;
                let input = (self.parameter(forward.weight_ih), width);
                let value = (self.parameter(layout.context[l - 1].value), width);
                let mut product =
                    Product::new((3 * d, width, width), input, value, (self.places.folded.input[l], width))
                        .exact();
                product.inner = 2;
                product.a_inner = self.distance(forward.weight_ih, backward.weight_ih);
                product.side.c_inner = (3 * d * width) as i64;
                self.product_nn(indices, product);
            }
        }
        let Some(Copies { rounded, fragments }) = self.places.copies else { return };
        self.lay_out_recurrent(indices, fragments);
        for Rounded { exact, rounded } in rounded {
            let (count, run_stride) = (exact.len as u32, self.places.run_stride);
            let shape = Shape { grid: [count.div_ceil(1024), 1, self.places.runs], block: 256, shared: 0 };
            let work = |_: &Counts| Work::moving(exact.len * WORD + rounded.len * rounded.element.bytes());
            // SAFETY: both have as many elements, and begin at a multiple of 256 bytes.
            unsafe {
                launch!(
                    self,
                    "round_weights",
                    shape,
                    work,
                    rounded.address,
                    exact.address,
                    indices.header.address,
                    count,
                    run_stride
                )
            }
        }
    }

    /// Turns the gradients of the products into those of the parameters.
    pub fn unfold(&mut self, indices: &Indices, attended: bool) {
        let (d, width) = (self.d, 2 * self.d);
        let layout = self.layout.clone();
        for (l, place) in layout.context.iter().enumerate() {
            let square = (width, width, width);
            let (query, key) = ((self.parameter(place.query), width), (self.parameter(place.key), width));
            let d_score = (self.places.folded.d_score[l], width);
            // key' = query score', query' = key score'^T
            let (d_query, d_key) = ((self.gradient(place.query), width), (self.gradient(place.key), width));
            self.product_nn(indices, Product::new(square, query, d_score, d_key).accumulate().exact());
            self.product_nt(indices, Product::new(square, key, d_score, d_query).accumulate().exact());
            if !(attended && l > 0) {
                continue;
            }
            let value = layout.context[l - 1].value;
            let [forward, backward] = place.gru;
            let apart = self.distance(forward.weight_ih, backward.weight_ih);
            for (direction, gru) in place.gru.iter().enumerate() {
                // value' += input^T folded': one direction after the other, since both add to the same.
                let input = (self.parameter(gru.weight_ih), width);
                let d_folded = (self.places.folded.d_input[l].from(direction * 3 * d * width), width);
                let d_value = (self.gradient(value), width);
                self.product_tn(
                    indices,
                    Product::new((width, width, 3 * d), input, d_folded, d_value).accumulate().exact(),
                );
            }
            // input' = folded' value^T
            let d_folded = (self.places.folded.d_input[l], width);
            let d_input = (self.gradient(forward.weight_ih), width);
            let value = (self.parameter(value), width);
            let mut product =
                Product::new((3 * d, width, width), d_folded, value, d_input).accumulate().exact();
            product.inner = 2;
            product.a_inner = (3 * d * width) as i64;
            product.side.c_inner = apart;
            self.product_nt(indices, product);
        }
    }
}
