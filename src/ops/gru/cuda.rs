//! The card's GRU: `kernels/gru.cu` for the recurrence, products for everything that is not recurrent.
//!
//! Per row `saved` has 8d columns, `r z n` of the forward direction, `r z n` of the backward one, then hn of both: what belongs to
//! the input product is contiguous over both directions, in PyTorch's order of gates.

use super::{Gru, Layer};
use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::{Buffer, Element};
use crate::device::cuda::product::{Extent, Product};
use crate::device::work::Work;
use crate::error::Result;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, WORD, Worker, argument, launch};
use crate::ops::parameters::{self, Layout};

/// Where the recurrent weights and biases lie among the parameters, by group and direction: `GruPlaces` in `kernels/gru.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Places {
    weight: [[u32; 2]; 2],
    bias: [[u32; 2]; 2],
}

/// Sequences that a block works on.
const TILE: u32 = 16;
/// Depth of a chunk of W_hh.
const DEPTH: usize = 16;
/// Units that a warp takes at a time forward, and warps at most.
const FORWARD_UNITS: usize = 4;
const FORWARD_WARPS: usize = 25;
/// Chunks of a slice of the depth that are in registers backward.
const BACKWARD_OWN: usize = 2;

/// Threads and bytes of dynamic shared memory of `gru_forward_f32` and `gru_backward_f32` for d, where a block may have `most`
/// bytes: what they need, and as many whole chunks of W_hh as fit beside it. `kernels/gru.cu` has the same formulas.
fn f32_block(backward: bool, d: usize, most: usize) -> (u32, u32) {
    let chunks = |depth: usize| depth.div_ceil(DEPTH);
    let (threads, needed, chunk, count) = if backward {
        let columns = d.div_ceil(32);
        let count = chunks(3 * d);
        let slices = (12 / columns).min(count);
        let needed = TILE as usize * (count * DEPTH + slices * d.next_multiple_of(8)) * 4;
        let held = (d.max(2) - 2).next_multiple_of(8) + 2;
        (32 * columns * slices, needed, DEPTH * held * 4, count.saturating_sub(BACKWARD_OWN * slices))
    } else {
        let shares = d.div_ceil(FORWARD_UNITS);
        let warps = shares.div_ceil(shares.div_ceil(FORWARD_WARPS));
        let needed = 2 * TILE as usize * (d.next_multiple_of(16) + 4) * 4;
        (32 * warps, needed, 3 * d * DEPTH * 4, chunks(d))
    };
    let held = (most.saturating_sub(needed) / chunk).min(count);
    (threads as u32, (needed + held * chunk) as u32)
}

/// Sequences that a block of the kernels on tensor cores works on.
const F16_TILE: u32 = 8;

/// A kernel on tensor cores: `kernels/gru.cu` has the same formulas.
#[derive(Debug, Clone, Copy)]
struct F16Kernel {
    name: &'static str,
    backward: bool,
    d: usize,
    /// Tiles of [`F16_TILE`] sequences that a block works on.
    tiles: usize,
    /// Pieces of W_hh that a warp holds in shared memory; `None`: as many as fit, and none in registers.
    in_shared: Option<usize>,
}

impl F16Kernel {
    /// The one for d in blocks of one tile.
    fn new(backward: bool, d: usize) -> F16Kernel {
        let (name, in_shared) = match (d, backward) {
            (50, false) => ("gru_forward_f16_50", Some(0)),
            (50, true) => ("gru_backward_f16_50", Some(0)),
            (100, false) => ("gru_forward_f16_100", Some(12)),
            (100, true) => ("gru_backward_f16_100", Some(12)),
            (150, false) => ("gru_forward_f16_150", Some(21)),
            (150, true) => ("gru_backward_f16_150", Some(18)),
            (200, false) => ("gru_forward_f16_200", Some(16)),
            (200, true) => ("gru_backward_f16_200", Some(13)),
            (_, false) => ("gru_forward_f16", None),
            (_, true) => ("gru_backward_f16", None),
        };
        F16Kernel { name, backward, d, tiles: 1, in_shared }
    }

    /// The one in blocks of two tiles, where there is one: those of 50, 100 and 150 hold all pieces.
    fn of_two(self) -> Option<F16Kernel> {
        let (name, in_shared) = match (self.d, self.backward) {
            (200, false) => ("gru_forward_f16_200x2", Some(14)),
            (200, true) => ("gru_backward_f16_200x2", Some(7)),
            (50 | 100 | 150, _) => return None,
            (_, false) => ("gru_forward_f16x2", None),
            (_, true) => ("gru_backward_f16x2", None),
        };
        Some(F16Kernel { name, tiles: 2, in_shared, ..self })
    }

    fn pieces(&self) -> usize {
        3 * self.d.div_ceil(8)
    }

    /// Pieces that are in shared memory, of which a block may have `most` bytes, and bytes of it that a launch gives.
    fn shared(&self, most: usize) -> (usize, usize) {
        let sequences = 2 * self.tiles * F16_TILE as usize;
        let needed = if self.backward {
            sequences * ((8 * self.pieces()).next_multiple_of(32) + 8) * 2
        } else {
            sequences * (self.d.next_multiple_of(32) + 8) * 2 + 3 * self.d.next_multiple_of(16) * 4
        };
        let piece = 256 * self.d.div_ceil(16);
        let held = self.in_shared.unwrap_or_else(|| (most.saturating_sub(needed) / piece).min(self.pieces()));
        (held, needed + held * piece)
    }

    /// Whether a warp reads pieces from L2 in each step, if it has no more shared memory than that.
    fn streams(&self, most: usize) -> bool {
        self.shared(most).0 < self.pieces()
    }
}

/// Pairs of words that the recurrent weights of one direction are as fragments, for one pass: `f16_fragments` in `kernels/gru.cu`.
fn f16_fragments(d: usize) -> usize {
    d.div_ceil(16) * 3 * d.div_ceil(8) * 32
}

/// Directions of recurrences: of both roles and of every stack.
fn recurrences(layout: &Layout) -> usize {
    2 * (2 + layout.sizes.stacks)
}

/// Words that all fragments are, `[recurrences, forward and backward, f16_fragments, 2]`.
pub(in crate::ops) fn words_of_fragments(layout: &Layout) -> usize {
    recurrences(layout) * 2 * f16_fragments(layout.sizes.d) * 2
}

/// Where the recurrent weights of all layers lie among the parameters: `RecurrentPlaces` in `kernels/gru.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct RecurrentPlaces {
    /// By role, by direction.
    speaker: [[u32; 2]; 2],
    /// The first stack's, and how far apart the stacks' and the directions' are.
    first: u32,
    by_stack: u32,
    by_direction: u32,
}

impl RecurrentPlaces {
    fn new(layout: &Layout) -> RecurrentPlaces {
        let place = |gru: parameters::Gru| layout.specs[gru.weight_hh].offset as u32;
        let mut places =
            RecurrentPlaces { speaker: layout.speaker.map(|role| role.map(place)), ..Default::default() };
        let stacks: Vec<_> = layout.context.iter().map(|stack| stack.gru.map(place)).collect();
        if let Some([forward, backward]) = stacks.first() {
            (places.first, places.by_direction) = (*forward, backward - forward);
            places.by_stack = stacks.get(1).map_or(0, |next| next[0] - forward);
        }
        for (l, stack) in stacks.iter().enumerate() {
            let first = places.first + l as u32 * places.by_stack;
            assert_eq!(
                *stack,
                [first, first + places.by_direction],
                "stacks lie alike, one behind the other"
            );
        }
        places
    }
}

/// The groups of a layer: which rows, and the parameters by direction.
struct Groups {
    extent: Extent,
    /// Width of the input.
    width: usize,
    /// Of the header's sequences, and of the index arrays'.
    first: usize,
    /// The first one's forward direction among all recurrences.
    recurrence: usize,
    groups: Vec<[parameters::Gru; 2]>,
}

impl Worker {
    /// A kernel, and how it is launched for up to `capacity` sequences in so many groups and directions.
    fn gru_kernel(&self, backward: bool, capacity: usize, directions: u32) -> (&'static str, Shape) {
        let most = self.card.shared_memory;
        let grid = |tile: u32| [(capacity as u32).div_ceil(tile), directions, self.places.runs];
        if self.mixed() {
            let mut kernel = F16Kernel::new(backward, self.d);
            // Two tiles read half as much of W_hh from L2, where blocks of one, a multiprocessor each, would not all be on the card at once.
            if grid(F16_TILE).iter().product::<u32>() > self.card.multiprocessors && kernel.streams(most) {
                kernel = kernel.of_two().unwrap_or(kernel);
            }
            let shape = Shape {
                grid: grid(kernel.tiles as u32 * F16_TILE),
                block: 32 * self.d.div_ceil(16) as u32,
                shared: kernel.shared(most).1 as u32,
            };
            (kernel.name, shape)
        } else {
            let (block, shared) = f32_block(backward, self.d, most);
            let name = if backward { "gru_backward_f32" } else { "gru_forward_f32" };
            (name, Shape { grid: grid(TILE), block, shared })
        }
    }

    /// Asks leave for the shared memory of the recurrence.
    pub(in crate::ops) fn prepare_gru(&self) -> Result<()> {
        let most = self.card.shared_memory;
        for backward in [false, true] {
            if self.mixed() {
                let kernel = F16Kernel::new(backward, self.d);
                for kernel in [Some(kernel), kernel.of_two()].into_iter().flatten() {
                    self.card.allow_shared(kernel.name, kernel.shared(most).1)?;
                }
            } else {
                let (kernel, shape) = self.gru_kernel(backward, 1, 1);
                self.card.allow_shared(kernel, shape.shared as usize)?;
            }
        }
        Ok(())
    }

    /// Copies the recurrent weights to f16, as the kernels on tensor cores read them.
    pub(in crate::ops) fn lay_out_recurrent(&mut self, indices: &Indices, fragments: Buffer) {
        let (d, recurrences) = (self.d, recurrences(&self.layout));
        let places = RecurrentPlaces::new(&self.layout);
        let blocks = (2 * f16_fragments(d)).div_ceil(256) as u32;
        let shape = Shape { grid: [blocks, recurrences as u32, self.places.runs], block: 256, shared: 0 };
        let work =
            move |_: &Counts| Work::moving(recurrences * 3 * d * d * (WORD + 2 * Element::Half.bytes()));
        let (parameters, run_stride) = (self.places.parameters.address, self.places.run_stride);
        // SAFETY: the places are those of the recurrent weights, and the fragments as many as the layout has.
        unsafe {
            launch!(
                self,
                "gru_fragments",
                shape,
                work,
                fragments.address,
                parameters,
                indices.header.address,
                places,
                d as i32,
                run_stride
            )
        }
    }

    fn groups(&self, layer: Layer) -> Groups {
        match layer {
            Layer::Speaker => Groups {
                extent: Extent::Roles,
                width: self.d,
                first: 0,
                recurrence: 0,
                groups: self.layout.speaker.to_vec(),
            },
            Layer::Context(l) => Groups {
                extent: Extent::Rows,
                width: 2 * self.d,
                first: 2,
                recurrence: 4 + 2 * l,
                groups: vec![self.layout.context[l].gru],
            },
        }
    }

    /// The input weights that a layer's rows are multiplied with, and their gradient: the parameters' own or, for a stack that reads
    /// attended states, the folded ones. With the distances to the other direction's and to the other role's.
    fn input_weights(&self, layer: Layer, groups: &[[parameters::Gru; 2]]) -> (Buffer, Buffer, i64, i64) {
        let [forward, backward] = groups[0];
        match layer {
            Layer::Context(l) if self.places.folded.input[l].len > 0 => {
                let apart = (6 * self.d * self.d) as i64;
                (self.by_rows(self.places.folded.input[l]), self.places.folded.d_input[l], apart, 0)
            }
            _ => {
                let roles =
                    groups.get(1).map_or(0, |other| self.distance(forward.weight_ih, other[0].weight_ih));
                let apart = self.distance(forward.weight_ih, backward.weight_ih);
                let weights = self.by_rows(self.parameter(forward.weight_ih));
                (weights, self.gradient(forward.weight_ih), apart, roles)
            }
        }
    }

    fn recurrence(
        &mut self,
        backward: bool,
        layout: &Indices,
        groups: &Groups,
        (saved, hidden, d_hidden): (Buffer, Buffer, u64),
    ) {
        let capacity = layout.capacity.samples;
        let mut places = Places::default();
        for (group, directions) in groups.groups.iter().enumerate() {
            for (direction, gru) in directions.iter().enumerate() {
                places.weight[group][direction] = self.layout.specs[gru.weight_hh].offset as u32;
                places.bias[group][direction] = self.layout.specs[gru.bias_hh].offset as u32;
            }
        }
        let (kernel, shape) = self.gru_kernel(backward, capacity, groups.groups.len() as u32 * 2);
        let start = layout.start.from(groups.first * capacity).address;
        let length = layout.length.from(groups.first * capacity).address;
        let (header, parameters) = (layout.header.address, self.places.parameters.address);
        let (first, capacity, d) = (groups.first as i32, capacity as i32, self.d as i32);
        let run_stride = self.places.run_stride;
        let (saved, hidden) = (saved.address, hidden.address);
        let (width, weights, unit) = (self.d, groups.groups.len() * 6 * self.d * self.d, self.unit(false));
        let activation = self.activation();
        let work = move |n: &Counts| {
            // Forward 6d gates come in and 8d go out, with 2d states; backward 8d come in and go out, with 2d states and gradients.
            let scalars = n.rows * width * if backward { 20 } else { 16 };
            let flops = 12.0 * n.rows as f64 * (width * width) as f64;
            Work::moving((scalars + weights) * activation).flops(flops, unit)
        };
        // Of the layer's first direction on.
        let fragments = self
            .places
            .copies
            .map(|copies| copies.fragments.from(groups.recurrence * 2 * f16_fragments(self.d) * 2).address);
        let mut arguments = vec![
            argument(&header),
            argument(&start),
            argument(&length),
            argument(&parameters),
            argument(&places),
        ];
        arguments.extend(fragments.as_ref().map(argument));
        arguments.extend([argument(&saved), argument(&hidden)]);
        arguments.extend(backward.then(|| argument(&d_hidden)));
        arguments.extend([argument(&first), argument(&capacity), argument(&d), argument(&run_stride)]);
        // SAFETY: rows of the sequences are within [R, 8d] and [R, 2d]; the places and fragments are those of the recurrent weights.
        unsafe { self.submit(kernel, shape, work, &arguments) }
    }
}

impl Gru for Worker {
    fn gru(
        &mut self,
        layout: &Indices,
        layer: Layer,
        (): &(),
        input: &Buffer,
        saved: &mut Buffer,
        hidden: &mut Buffer,
    ) {
        let d = self.d;
        let groups = self.groups(layer);
        let Groups { extent, width, groups: ref by_group, .. } = groups;
        let [forward, backward] = by_group[0];
        let (weights, _, apart, roles) = self.input_weights(layer, by_group);
        let size = (layout.capacity.rows, 3 * d, width);
        let mut product = Product::new(size, (*input, width), (weights, width), (*saved, 8 * d))
            .extent(extent)
            .bias(self.parameter(forward.bias_ih));
        product.inner = 2;
        (product.side.b_inner, product.side.b_outer) = (apart, roles);
        product.side.c_inner = (3 * d) as i64;
        product.side.bias_inner = self.distance(forward.bias_ih, backward.bias_ih);
        product.side.bias_outer =
            by_group.get(1).map_or(0, |other| self.distance(forward.bias_ih, other[0].bias_ih));
        self.product_nt(layout, product);
        self.recurrence(false, layout, &groups, (*saved, *hidden, 0));
    }

    fn gru_backward(
        &mut self,
        layout: &Indices,
        layer: Layer,
        (): &(),
        input: &Buffer,
        hidden: &Buffer,
        saved: &mut Buffer,
        d_hidden: &Buffer,
        d_input: &mut Buffer,
        (): &mut (),
    ) {
        let d = self.d;
        let groups = self.groups(layer);
        self.recurrence(true, layout, &groups, (*saved, *hidden, d_hidden.address));
        let Groups { extent, width, groups: by_group, .. } = groups;
        let [forward, backward] = by_group[0];
        let rows = layout.capacity.rows;
        let (weights, d_weights, apart, roles) = self.input_weights(layer, &by_group);
        // Both directions at once: k runs over the gates of the one, then of the other.
        let gates = (*saved, 8 * d);
        let mut product =
            Product::new((rows, width, 6 * d), gates, (weights, width), (*d_input, width)).extent(extent);
        product.side.b_outer = roles;
        product.side.split = 3 * d as u32;
        product.side.beyond = apart - (3 * d * width) as i64;
        self.product_nn(layout, product);

        let mut product =
            Product::new((3 * d, width, rows), gates, (*input, width), (d_weights, width)).extent(extent);
        product.inner = 2;
        product.a_inner = (3 * d) as i64;
        (product.side.c_inner, product.side.c_outer) = (apart, roles);
        // Biases lie as far apart in every layer.
        let bias_apart = self.distance(forward.bias_ih, backward.bias_ih);
        let bias_roles = by_group.get(1).map_or(0, |other| self.distance(forward.bias_ih, other[0].bias_ih));
        (product.side.bias_inner, product.side.bias_outer) = (bias_apart, bias_roles);
        let inputs = product.sums(self.gradient(forward.bias_ih));

        let previous = if layer == Layer::Speaker { layout.previous_turn } else { layout.previous };
        let apart = self.distance(forward.weight_hh, backward.weight_hh);
        let roles = by_group.get(1).map_or(0, |other| self.distance(forward.weight_hh, other[0].weight_hh));
        let to = (self.gradient(forward.weight_hh), d);
        let mut product = Product::new((3 * d, d, rows), gates, (*hidden, 2 * d), to).extent(extent);
        product.inner = 2;
        product.a_inner = (3 * d) as i64;
        // r and z are the input's gates; the n of the recurrent product is hn, which lies behind both directions' gates.
        product.side.split = 2 * d as u32;
        (product.side.beyond, product.side.beyond_inner) = (4 * d as i64, -2 * d as i64);
        product.side.b_inner = d as i64;
        (product.side.c_inner, product.side.c_outer) = (apart, roles);
        product.side.index = previous.address;
        product.side.index_inner = rows as i64;
        (product.side.bias_inner, product.side.bias_outer) = (bias_apart, bias_roles);
        self.sum_products(layout, inputs.beside(product.sums(self.gradient(forward.bias_hh))));
    }
}
