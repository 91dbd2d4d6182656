//! The card's interaction: `kernels/interaction.cu`, and the products that make the gates.

use super::Interaction;
use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::Buffer;
use crate::device::cuda::product::{Epilogue, Extent, Product};
use crate::device::work::Work;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, WORD, Worker, launch, of_element};
use crate::ops::dropout::{Mask, Site};

impl Worker {
    /// Scalars from the weights of one gate to the next: by role and direction they lie at equal distances.
    fn gate_stride(&self) -> i64 {
        let places = self.layout.interaction;
        let stride = self.distance(places[0][0].weight, places[0][1].weight);
        assert_eq!(self.distance(places[0][0].weight, places[1][0].weight), 2 * stride);
        assert_eq!(self.distance(places[0][0].bias, places[0][1].bias), stride);
        stride
    }

    /// Blocks of 256 threads for four columns of each of `rows` rows of 2d.
    pub(in crate::ops) fn quads(&self, rows: usize, y: u32) -> Shape {
        let items = rows as u32 * (2 * self.d as u32).div_ceil(4);
        Shape { grid: [items.div_ceil(256), y, self.places.runs], block: 256, shared: 0 }
    }
}

impl Interaction for Worker {
    fn interaction(
        &mut self,
        layout: &Indices,
        (): &(),
        mask: &Mask,
        enabled: bool,
        hidden: &Buffer,
        gate: &mut Buffer,
        m: &mut Buffer,
    ) {
        let (d, width) = (self.d, 2 * self.d);
        let rows = layout.capacity.rows;
        let place = self.layout.interaction[0][0];
        let stride = self.gate_stride();
        if enabled {
            let weight = (self.by_rows(self.parameter(place.weight)), d);
            let mut product = Product::new((rows, d, d), (*hidden, width), weight, (*gate, width))
                .extent(Extent::Roles)
                .bias(self.parameter(place.bias))
                .epilogue(Epilogue::Sigmoid);
            product.inner = 2;
            product.a_inner = d as i64;
            product.side.c_inner = d as i64;
            (product.side.b_inner, product.side.b_outer) = (stride, 2 * stride);
            (product.side.bias_inner, product.side.bias_outer) = (stride, 2 * stride);
            self.product_nt(layout, product);
        }
        let bias = self.parameter(place.bias).address;
        let (shape, run_stride, activation) =
            (self.quads(rows, 1), self.places.run_stride, self.activation());
        // States, gates where there are any, and what they make.
        let work = move |n: &Counts| Work::moving(n.rows * width * (2 + usize::from(enabled)) * activation);
        // SAFETY: all values are [R, 2d]; the biases lie `stride` apart.
        unsafe {
            launch!(
                self,
                of_element(["interaction", "interaction_f16"], *m),
                shape,
                work,
                m.address,
                hidden.address,
                gate.address,
                bias,
                layout.other.address,
                layout.own.address,
                layout.owner.address,
                layout.offset.address,
                layout.target.address,
                layout.header.address,
                mask.word(Site::Interaction),
                u32::from(enabled),
                d as u32,
                stride as u32,
                rows as u32,
                run_stride,
            )
        }
    }

    fn interaction_backward(
        &mut self,
        layout: &Indices,
        (): &(),
        mask: &Mask,
        enabled: bool,
        hidden: &Buffer,
        gate: &Buffer,
        d_m: &mut Buffer,
        d_gate: &mut Buffer,
        d_hidden: &mut Buffer,
        (): &mut (),
    ) {
        let (d, width) = (self.d, 2 * self.d);
        let capacity = layout.capacity;
        let place = self.layout.interaction[0][0];
        let stride = self.gate_stride();
        let bias = self.parameter(place.bias).address;
        let (word, run_stride) = (mask.word(Site::Interaction), self.places.run_stride);
        let (shape, activation) = (self.quads(capacity.rows, 2), self.activation());
        // d_m, states and gates come in, gradients at the states and at the gates go out.
        let work = move |n: &Counts| Work::moving(n.rows * width * if enabled { 5 } else { 2 } * activation);
        // SAFETY: all values are [R, 2d]; the biases lie `stride` apart.
        unsafe {
            launch!(
                self,
                of_element(["interaction_backward", "interaction_backward_f16"], *d_m),
                shape,
                work,
                d_hidden.address,
                d_gate.address,
                d_m.address,
                hidden.address,
                gate.address,
                bias,
                layout.other.address,
                layout.readers.address,
                layout.own.address,
                layout.owner.address,
                layout.offset.address,
                layout.target.address,
                layout.header.address,
                word,
                u32::from(enabled),
                d as u32,
                stride as u32,
                capacity.rows as u32,
                run_stride,
            )
        }
        if !enabled {
            return;
        }
        // The gradient at the gates of roles that have not spoken; it waits in the workspace.
        let silent = self.places.workspace;
        let shape = self.quads(capacity.samples, 1);
        let work = move |n: &Counts| Work::moving(n.samples * width * WORD);
        // SAFETY: as above; the workspace has room for [S, 2d].
        unsafe {
            launch!(
                self,
                of_element(["interaction_silent", "interaction_silent_f16"], *d_m),
                shape,
                work,
                silent.address,
                d_m.address,
                hidden.address,
                bias,
                layout.silent.address,
                layout.own.address,
                layout.offset.address,
                layout.target.address,
                layout.header.address,
                word,
                d as u32,
                stride as u32,
                capacity.samples as u32,
                run_stride,
            );
            let shape =
                Shape { grid: [(width as u32).div_ceil(32), 2, self.places.runs], block: 256, shared: 0 };
            launch!(
                self,
                "interaction_silent_sum",
                shape,
                work,
                self.gradient(place.bias).address,
                silent.address,
                layout.silent.address,
                layout.header.address,
                d as u32,
                stride as u32,
                capacity.samples as u32,
                run_stride,
            );
        }
        let gates = (*d_gate, width);
        let weight = (self.by_rows(self.parameter(place.weight)), d);
        let mut product = Product::new((capacity.rows, d, d), gates, weight, (*d_hidden, width))
            .extent(Extent::Roles)
            .accumulate();
        product.inner = 2;
        product.a_inner = d as i64;
        product.side.c_inner = d as i64;
        (product.side.b_inner, product.side.b_outer) = (stride, 2 * stride);
        self.product_nn(layout, product);

        let to = (self.gradient(place.weight), d);
        let mut product =
            Product::new((d, d, capacity.rows), gates, (*hidden, width), to).extent(Extent::Roles);
        product.inner = 2;
        (product.a_inner, product.side.b_inner) = (d as i64, d as i64);
        (product.side.c_inner, product.side.c_outer) = (stride, 2 * stride);
        (product.side.bias_inner, product.side.bias_outer) = (stride, 2 * stride);
        self.sum_products(layout, product.sums(self.gradient(place.bias)));
    }
}
