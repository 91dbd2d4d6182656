//! `kernels/product.cu`: small integers, which f16 holds exactly as float32 does their products and sums, so that every result has to
//! be equal in both families and with every tile. Then what f16 rounds, and where it overflows.

use std::collections::HashMap;

use coin::device::cuda::memory::{Buffer, Element};
use coin::device::cuda::product::{Epilogue, Extent, Of, Product, Size, WindowProduct};

use coin::ops::dropout::{Mask, Pass, Site};

use simulator::Profile;

use crate::dropout::factor;
use crate::half;
use crate::support::{Card, Random, SEEDS};

/// What the names of a family's kernels end with: operands in float32, in f16, or rounded to it.
const WORD: &str = "";
const HALF: &str = "_f16";
const ROUNDED: &str = "_rounded";

/// Families and tiles that a kernel has.
fn kinds(kernel: &str) -> impl Iterator<Item = (&'static str, Size)> {
    let (word, tensor, large) = if kernel == "product_tn" {
        (&[Size::Square, Size::Small], &[Size::Tall, Size::Broad, Size::Narrow][..], Size::Large)
    } else {
        (&[Size::Tall, Size::Narrow], &[Size::Tall, Size::Narrow][..], Size::LargeRows)
    };
    let tensor = tensor.iter().flat_map(|&size| [HALF, ROUNDED].map(|family| (family, size)));
    word.iter().map(|&size| (WORD, size)).chain(tensor).chain([(HALF, large)])
}

/// A product of a family.
fn of_family(family: &str, product: Product) -> Product {
    if family == WORD { product.exact() } else { product }
}

/// The name of a kernel of a family, with a tile.
fn named(kernel: &str, (family, size): (&str, Size)) -> String {
    let of_size = if matches!(size, Size::Large | Size::LargeRows) { "_large" } else { "" };
    format!("{kernel}{family}{of_size}")
}

/// What a family's operands are in memory.
fn element_of(family: &str) -> Element {
    if family == HALF { Element::Half } else { Element::Word }
}

/// Rows of the batch in a test's header.
#[derive(Clone, Copy)]
struct Counts {
    samples: u32,
    rows: u32,
    rows_a: u32,
    distinct: u32,
}

const COUNTS: Counts = Counts { samples: 5, rows: 150, rows_a: 97, distinct: 33 };

fn header(card: &Card, counts: Counts) -> u64 {
    let Counts { samples, rows, rows_a, distinct } = counts;
    card.upload(&[samples, rows, rows_a, distinct, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Whole numbers from -4 to 4.
fn integers(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.below(9) as f32 - 4.0).collect()
}

fn bytes<T>(value: &T) -> Vec<u8> {
    // SAFETY: an argument is read as the bytes it is made of; padding is a field of its own.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }.to_vec()
}

fn run(card: &Card, (kernel, (family, size)): (&str, (&str, Size)), header: u64, product: Product) {
    run_all(card, &named(kernel, (family, size)), header, Product { size, ..product }, 1);
}

/// A sum in chunks, added to what is in C.
fn sum(card: &Card, kind: (&str, Size), header: u64, product: Product) {
    let product = of_family(kind.0, product);
    let (tiles, words) = product.left();
    let (workspace, arrivals) = (card.allocate::<f32>(words), card.upload(&vec![0u32; tiles]));
    run(card, ("product_tn", kind), header, Product { workspace, arrivals, ..product }.accumulate());
    assert_eq!(card.read::<u32>(arrivals, tiles), vec![0; tiles], "counters of the next launch");
}

fn run_all(card: &Card, kernel: &str, header: u64, product: Product, runs: u32) -> Option<Profile> {
    let shape = product.shape(runs);
    card.launch_raw("product", kernel, (shape.grid, shape.block, 0), &[bytes(&header), bytes(&product)])
        .unwrap_or_else(|fault| panic!("{fault}"))
}

fn buffer(address: u64, len: usize) -> Buffer {
    Buffer::words(address, len)
}

/// Unwritten elements.
fn allocate(card: &Card, element: Element, len: usize) -> Buffer {
    Buffer { address: card.allocate::<u8>(len * element.bytes()), len, element }
}

/// Writes values from an element of a buffer on.
fn write(card: &Card, to: Buffer, first: usize, values: &[f32]) {
    let to = to.part(first, values.len());
    match to.element {
        Element::Half => {
            let bits: Vec<u16> = values.iter().map(|&x| half::bits(x)).collect();
            card.write(to.address, bytemuck::cast_slice(&bits));
        }
        _ => card.write(to.address, bytemuck::cast_slice(values)),
    }
}

fn upload(card: &Card, element: Element, values: &[f32]) -> Buffer {
    let to = allocate(card, element, values.len());
    write(card, to, 0, values);
    to
}

/// `count` values from an element of a buffer on.
fn values_at(card: &Card, from: Buffer, first: usize, count: usize) -> Vec<f32> {
    let from = from.part(first, count);
    match from.element {
        Element::Half => card.read::<u16>(from.address, count).into_iter().map(half::value).collect(),
        _ => card.read(from.address, count),
    }
}

/// A strided matrix on the card whose gaps are unwritten, in either element.
struct Matrix {
    word: Buffer,
    half: Buffer,
}

impl Matrix {
    fn of(&self, (family, _): (&str, Size)) -> Buffer {
        if element_of(family) == Element::Half { self.half } else { self.word }
    }
}

/// A matrix of integers, and its values.
fn matrix(
    card: &Card,
    random: &mut Random,
    rows: usize,
    columns: usize,
    stride: usize,
) -> (Matrix, Vec<f32>) {
    let values = integers(random, rows * columns);
    let [word, half] = [Element::Word, Element::Half].map(|element| {
        let to = allocate(card, element, (rows.max(1) - 1) * stride + columns);
        for row in 0..rows {
            write(card, to, row * stride, &values[row * columns..][..columns]);
        }
        to
    });
    (Matrix { word, half }, values)
}

fn read(card: &Card, from: Buffer, rows: usize, columns: usize, stride: usize) -> Vec<f32> {
    (0..rows).flat_map(|row| values_at(card, from, row * stride, columns)).collect()
}

/// Sizes that fill no tile, and some that do.
const SIZES: [(usize, usize, usize); 10] = [
    (1, 1, 1),
    (128, 64, 16),
    (129, 65, 17),
    (3, 200, 40),
    (150, 7, 33),
    (70, 66, 5),
    (256, 128, 48),
    (150, 147, 20),
    (1, 300, 100),
    (40, 1, 0),
];

#[test]
fn products_are_exact_on_integers() {
    for seed in SEEDS {
        let card = Card::new(seed);
        let mut random = Random(seed);
        let header = header(&card, COUNTS);
        for (m, n, k) in SIZES {
            for accumulate in [false, true] {
                let name = format!("{m} x {n} x {k}, accumulate {accumulate}, seed {seed}");
                let before = integers(&mut random, m * n);
                // Rows that are aligned to 16 bytes, where their lengths are, and rows that are not.
                let aligned = accumulate == (seed % 2 == 0);
                let stride = |row: usize| if aligned { row.next_multiple_of(4) } else { row + 3 - row % 2 };
                let (stride_c, bias) = (stride(n), integers(&mut random, n));
                let expect =
                    |a: &dyn Fn(usize, usize) -> f32, b: &dyn Fn(usize, usize) -> f32, biased: bool| {
                        let mut c = vec![0.0; m * n];
                        for i in 0..m {
                            for j in 0..n {
                                let sum: f32 = (0..k).map(|l| a(i, l) * b(l, j)).sum();
                                c[i * n + j] = sum
                                    + if biased { bias[j] } else { 0.0 }
                                    + if accumulate { before[i * n + j] } else { 0.0 };
                            }
                        }
                        c
                    };
                let result = |element: Element| {
                    let c = allocate(&card, element, (m - 1) * stride_c + n);
                    if accumulate {
                        for i in 0..m {
                            write(&card, c, i * stride_c, &before[i * n..][..n]);
                        }
                    }
                    c
                };
                let with = |product: Product| if accumulate { product.accumulate() } else { product };
                let bias_at = buffer(card.upload(&bias), n);

                let (a, x) = matrix(&card, &mut random, m, k, stride(k));
                let (b, y) = matrix(&card, &mut random, n, k, stride(k));
                let expected = expect(&|i, l| x[i * k + l], &|l, j| y[j * k + l], true);
                for kind in kinds("product_nt") {
                    let c = result(element_of(kind.0));
                    let (a, b) = ((a.of(kind), stride(k)), (b.of(kind), stride(k)));
                    let product = with(Product::new((m, n, k), a, b, (c, stride_c)).bias(bias_at));
                    run(&card, ("product_nt", kind), header, product);
                    assert_eq!(read(&card, c, m, n, stride_c), expected, "nt, {kind:?}, {name}");
                }

                let (b, y) = matrix(&card, &mut random, k, n, stride(n));
                let expected = expect(&|i, l| x[i * k + l], &|l, j| y[l * n + j], false);
                for kind in kinds("product_nn") {
                    let c = result(element_of(kind.0));
                    let (a, b) = ((a.of(kind), stride(k)), (b.of(kind), stride(n)));
                    let product = with(Product::new((m, n, k), a, b, (c, stride_c)));
                    run(&card, ("product_nn", kind), header, product);
                    assert_eq!(read(&card, c, m, n, stride_c), expected, "nn, {kind:?}, {name}");
                }

                let (a, x) = matrix(&card, &mut random, k, m, stride(m));
                let expected = expect(&|i, l| x[l * m + i], &|l, j| y[l * n + j], false);
                for kind in kinds("product_tn") {
                    // Gradients of weights are float32 in every family.
                    let c = result(Element::Word);
                    let (a, b) = ((a.of(kind), stride(m)), (b.of(kind), stride(n)));
                    let product = with(Product::new((m, n, k), a, b, (c, stride_c)));
                    run(&card, ("product_tn", kind), header, product);
                    assert_eq!(read(&card, c, m, n, stride_c), expected, "tn, {kind:?}, {name}");
                }
            }
        }
    }
}

/// The batch's own number of rows decides, by extent, and nothing beyond them is touched.
#[test]
fn rows_are_those_of_the_batch() {
    let card = Card::new(0);
    let mut random = Random(5);
    let header = header(&card, COUNTS);
    let (capacity, n, k) = (200, 10, 12);
    for (extent, first, count) in [
        (Extent::Rows, 0, 150),
        (Extent::Samples, 0, 5),
        (Extent::Distinct, 0, 33),
        (Extent::Fixed, 0, capacity),
    ] {
        let (a, x) = matrix(&card, &mut random, first + count, k, k);
        let (b, y) = matrix(&card, &mut random, n, k, k);
        for kind in kinds("product_nt") {
            let c = allocate(&card, element_of(kind.0), (first + count) * n);
            let (a, b) = ((a.of(kind), k), (b.of(kind), k));
            let product = Product::new((capacity, n, k), a, b, (c, n)).extent(extent);
            run(&card, ("product_nt", kind), header, product);
            for i in 0..count {
                let row: Vec<f32> =
                    (0..n).map(|j| (0..k).map(|l| x[i * k + l] * y[j * k + l]).sum()).collect();
                let got = values_at(&card, c, i * n, n);
                assert_eq!(got, row, "{extent:?}, row {i}, {kind:?}");
            }
        }
    }
}

/// Roles and directions side by side: a weight for each, rows by role, columns by direction; the input's gradient over both
/// directions at once; rows of the weights' gradient gathered, scaled, and summed in chunks.
#[test]
fn directions_and_roles() {
    for (d, kind) in [8, 9].into_iter().flat_map(|d| kinds("product_tn").map(move |kind| (d, kind))) {
        check_directions_and_roles(d, kind);
    }
}

fn check_directions_and_roles(d: usize, kind: (&str, Size)) {
    let element = element_of(kind.0);
    let of_rows = match kind {
        (WORD, Size::Small) => (WORD, Size::Narrow),
        (family, Size::Broad | Size::Large | Size::Square) => (family, Size::Tall),
        of_either => of_either,
    };
    // Roles of three chunks and of two, and of one.
    for (rows, rows_a) in [(700, 400), (700, 0), (150, 150)] {
        let counts = Counts { rows, rows_a, ..COUNTS };
        let card = Card::new(1);
        let mut random = Random(6);
        let header = header(&card, counts);
        let (rows, rows_a) = (counts.rows as usize, counts.rows_a as usize);
        let (capacity, width) = (1100, 20);
        let (input, x) = matrix(&card, &mut random, rows, width, width);
        let (weights, w) = matrix(&card, &mut random, 4 * 3 * d, width, width);
        let (input, weights) = (input.of(kind), weights.of(kind));
        let out = allocate(&card, element, rows * 8 * d);
        let role_of = |row: usize| usize::from(row >= rows_a);
        let mut product =
            Product::new((capacity, 3 * d, width), (input, width), (weights, width), (out, 8 * d))
                .extent(Extent::Roles);
        product.inner = 2;
        product.side.b_inner = (3 * d * width) as i64;
        product.side.b_outer = 2 * product.side.b_inner;
        product.side.c_inner = (3 * d) as i64;
        run(&card, ("product_nt", of_rows), header, product);
        for row in 0..rows {
            let got = values_at(&card, out, row * 8 * d, 6 * d);
            for (j, got) in got.iter().enumerate() {
                let weight = &w[(role_of(row) * 6 * d + j) * width..][..width];
                let expected: f32 = weight.iter().zip(&x[row * width..]).map(|(a, b)| a * b).sum();
                assert_eq!(*got, expected, "gate {j} of row {row}");
            }
        }

        // From [rows, 6d] back through both directions' weights; behind them is the state's part of either's last gate.
        let (gates, g) = matrix(&card, &mut random, rows, 8 * d, 8 * d);
        let gates = gates.of(kind);
        let back = allocate(&card, element, rows * width);
        let mut product =
            Product::new((capacity, width, 6 * d), (gates, 8 * d), (weights, width), (back, width))
                .extent(Extent::Roles);
        // The directions' weights lie apart: the second's rows begin 3d rows later than the first's end would have it.
        let apart = 5 * width;
        let spread = allocate(&card, element, 2 * (6 * d * width + apart));
        for part in 0..4 {
            let at = (part * 3 * d * width) + part % 2 * apart + part / 2 * apart;
            write(&card, spread, at, &w[part * 3 * d * width..][..3 * d * width]);
        }
        product.side.b = spread.address;
        product.side.b_outer = (6 * d * width + apart) as i64;
        product.side.split = 3 * d as u32;
        product.side.beyond = apart as i64;
        run(&card, ("product_nn", of_rows), header, product);
        for row in 0..rows {
            let got = values_at(&card, back, row * width, width);
            for (j, got) in got.iter().enumerate() {
                let weight = |k: usize| w[(role_of(row) * 6 * d + k) * width + j];
                let expected: f32 = (0..6 * d).map(|k| g[row * 8 * d + k] * weight(k)).sum();
                assert_eq!(*got, expected, "input {j} of row {row}");
            }
        }

        // Gradients of the recurrent weights and biases: gates^T (the state before) and the gates' sums, by direction and role.
        let (states, h) = matrix(&card, &mut random, rows, 2 * d, 2 * d);
        let states = states.of(kind);
        let index: Vec<u32> = (0..2 * capacity)
            .map(|_| if random.below(5) == 0 { u32::MAX } else { random.below(rows) as u32 })
            .collect();
        let scale = integers(&mut random, rows);
        let before = integers(&mut random, 4 * 3 * d * d);
        let to = buffer(card.upload(&before), before.len());
        let mut product = Product::new((3 * d, d, capacity), (gates, 8 * d), (states, 2 * d), (to, d))
            .extent(Extent::Roles);
        product.inner = 2;
        product.a_inner = (3 * d) as i64;
        product.side.split = 2 * d as u32;
        (product.side.beyond, product.side.beyond_inner) = (4 * d as i64, -2 * d as i64);
        product.side.b_inner = d as i64;
        product.side.c_inner = (3 * d * d) as i64;
        product.side.c_outer = 2 * product.side.c_inner;
        product.side.index = card.upload(&index);
        product.side.index_inner = capacity as i64;
        product.scale = card.upload(&scale);
        product.chunks = 4;
        let sums_before = integers(&mut random, 4 * 3 * d);
        let sums = buffer(card.upload(&sums_before), sums_before.len());
        let mut product = product.sums(sums);
        product.side.bias_inner = (3 * d) as i64;
        product.side.bias_outer = 2 * product.side.bias_inner;
        sum(&card, kind, header, product);
        let gate = |row: usize, direction: usize, i: usize| {
            g[row * 8 * d + if i < 2 * d { direction * 3 * d + i } else { (4 + direction) * d + i }]
        };
        let got = card.read::<f32>(to.address, before.len());
        for (place, got) in got.iter().enumerate() {
            let (batch, i, j) = (place / (3 * d * d), place / d % (3 * d), place % d);
            let (role, direction) = (batch / 2, batch % 2);
            let mut expected = before[place];
            for row in (0..rows).filter(|row| role_of(*row) == role) {
                let from = index[direction * capacity + row];
                if from != u32::MAX {
                    let state = h[from as usize * 2 * d + direction * d + j];
                    expected += gate(row, direction, i) * state * scale[row];
                }
            }
            assert_eq!(*got, expected, "gradient {i}, {j} of role {role}, direction {direction}");
        }
        // Rows without a state before count too, and rows are not scaled.
        for (place, got) in card.read::<f32>(sums.address, sums_before.len()).iter().enumerate() {
            let (role, direction, i) = (place / (6 * d), place / (3 * d) % 2, place % (3 * d));
            let of_role = (0..rows).filter(|row| role_of(*row) == role);
            let sum: f32 = of_role.map(|row| gate(row, direction, i)).sum();
            assert_eq!(*got, sums_before[place] + sum, "sum {i} of role {role}, direction {direction}");
        }

        // Beside those of the input weights, in one launch, with sums of either.
        let zeros = |len: usize| buffer(card.upload(&vec![0f32; len]), len);
        let (inputs, input_sums) = (zeros(4 * 3 * d * width), zeros(4 * 3 * d));
        let (recurrent, recurrent_sums) = (zeros(4 * 3 * d * d), zeros(4 * 3 * d));
        let mut second = Product { scale: 0, ..product }.sums(recurrent_sums);
        second.side.c = recurrent.address;
        let mut first =
            Product::new((3 * d, width, capacity), (gates, 8 * d), (input, width), (inputs, width))
                .extent(Extent::Roles)
                .sums(input_sums);
        first.inner = 2;
        first.a_inner = (3 * d) as i64;
        first.side.c_inner = (3 * d * width) as i64;
        first.side.c_outer = 2 * first.side.c_inner;
        (first.side.bias_inner, first.side.bias_outer) = (product.side.bias_inner, product.side.bias_outer);
        first.chunks = 4;
        sum(&card, kind, header, first.beside(second));
        for (place, got) in card.read::<f32>(inputs.address, 4 * 3 * d * width).iter().enumerate() {
            let (batch, i, j) = (place / (3 * d * width), place / width % (3 * d), place % width);
            let of_role = (0..rows).filter(|row| role_of(*row) == batch / 2);
            let expected: f32 =
                of_role.map(|row| g[row * 8 * d + batch % 2 * 3 * d + i] * x[row * width + j]).sum();
            assert_eq!(*got, expected, "input gradient {i}, {j} of product {batch}");
        }
        for (place, got) in card.read::<f32>(recurrent.address, 4 * 3 * d * d).iter().enumerate() {
            let (batch, i, j) = (place / (3 * d * d), place / d % (3 * d), place % d);
            let of_role = (0..rows).filter(|row| role_of(*row) == batch / 2);
            let expected: f32 = of_role
                .filter_map(|row| {
                    let from = index[batch % 2 * capacity + row];
                    let state = (from != u32::MAX).then(|| h[from as usize * 2 * d + batch % 2 * d + j])?;
                    Some(gate(row, batch % 2, i) * state)
                })
                .sum();
            assert_eq!(*got, expected, "recurrent gradient {i}, {j} of product {batch}");
        }
        let [input_sums, recurrent_sums] =
            [input_sums, recurrent_sums].map(|sums| card.read::<f32>(sums.address, 4 * 3 * d));
        for (place, (by_input, by_state)) in input_sums.iter().zip(&recurrent_sums).enumerate() {
            let (batch, i) = (place / (3 * d), place % (3 * d));
            let of_role = || (0..rows).filter(|row| role_of(*row) == batch / 2);
            let expected: f32 = of_role().map(|row| g[row * 8 * d + batch % 2 * 3 * d + i]).sum();
            assert_eq!(*by_input, expected, "input sum {i} of product {batch}");
            let expected: f32 = of_role().map(|row| gate(row, batch % 2, i)).sum();
            assert_eq!(*by_state, expected, "recurrent sum {i} of product {batch}");
        }
    }
}

#[test]
fn epilogues() {
    let card = Card::new(0);
    let mut random = Random(8);
    let header = header(&card, COUNTS);
    let (m, n, k) = (33, 20, 10);
    let (a, x) = matrix(&card, &mut random, m, k, k);
    let y: Vec<f32> = integers(&mut random, n * k).iter().map(|y| y / 16.0).collect();
    let addend = integers(&mut random, m * n);
    for (epilogue, kind) in [Epilogue::Sigmoid, Epilogue::TanhOfSum]
        .iter()
        .flat_map(|&e| kinds("product_nt").map(move |k| (e, k)))
    {
        let element = element_of(kind.0);
        let c = allocate(&card, element, m * n);
        let b = upload(&card, element, &y);
        let mut product = Product::new((m, n, k), (a.of(kind), k), (b, k), (c, n)).epilogue(epilogue);
        product.addend = card.upload(&addend);
        run(&card, ("product_nt", kind), header, product);
        // Of a result of at most one in f16 too.
        let bound = if element == Element::Half { 2f64.powi(-11) } else { 4e-7 };
        for (place, got) in values_at(&card, c, 0, m * n).iter().enumerate() {
            let sum: f64 =
                (0..k).map(|l| f64::from(x[place / n * k + l]) * f64::from(y[place % n * k + l])).sum();
            let expected = match epilogue {
                Epilogue::Sigmoid => 1.0 / (1.0 + (-sum).exp()),
                _ => (sum + f64::from(addend[place])).tanh(),
            };
            assert!(
                (f64::from(*got) - expected).abs() <= bound,
                "{epilogue:?}, {kind:?}: {got}, not {expected}"
            );
        }
    }
}

/// A gradient that is masked as it is made: the CPU's masks of whole numbers, doubled or gone.
#[test]
fn products_are_masked() {
    let card = Card::new(3);
    let mut random = Random(29);
    let mask = Mask { seed: 7, step: 5, pass: Pass::Adversarial, keep: 0.5 };
    let word = mask.word(Site::Context(1));
    let lengths = [70usize, 41, 38, 1, 0];
    let (target, rows) = ([3u32, 900, 0, 17, 4], 150);
    let mut offset = vec![0u32];
    for n in lengths {
        offset.push(offset[offset.len() - 1] + n as u32);
    }
    let owner: Vec<u32> = (0..5).flat_map(|s| vec![s as u32; lengths[s]]).collect();
    let ([low, high], threshold) = (mask.key(), mask.threshold().unwrap());
    let header = card.upload(&[5, rows as u32, 0, 0, 0, 0, 0, low, high, 5, threshold, 2f32.to_bits(), 0, 0]);
    let [target_at, offset_at, owner_at] = [&target[..], &offset, &owner].map(|values| card.upload(values));
    // Widths whose last four are whole, half, and one.
    for (n, k) in [(200, 40), (34, 33), (13, 5)] {
        let (a, x) = matrix(&card, &mut random, rows, k, k);
        let (b, y) = matrix(&card, &mut random, n, k, k);
        let before = integers(&mut random, rows * n);
        for kind in kinds("product_nt") {
            let c = upload(&card, element_of(kind.0), &before);
            let mut product = Product::new((200, n, k), (a.of(kind), k), (b.of(kind), k), (c, n))
                .extent(Extent::Rows)
                .accumulate()
                .epilogue(Epilogue::Dropout);
            (product.target, product.offset, product.owner) = (target_at, offset_at, owner_at);
            product.mask = u64::from(word);
            run(&card, ("product_nt", kind), header, product);
            for (at, got) in values_at(&card, c, 0, rows * n).into_iter().enumerate() {
                let (row, j) = (at / n, at % n);
                let sample = owner[row] as usize;
                let sum: f32 = (0..k).map(|l| x[row * k + l] * y[j * k + l]).sum();
                let in_sample = row - offset[sample] as usize;
                let kept = factor(Some(&mask), word, target[sample], in_sample, n, j);
                assert_eq!(got, (sum + before[at]) * kept, "{kind:?}, width {n}, row {row}, column {j}");
            }
        }
    }
}

#[test]
fn windows() {
    for (seed, family) in SEEDS.into_iter().flat_map(|seed| [WORD, HALF].map(|family| (seed, family))) {
        let card = Card::new(seed);
        let mut random = Random(9 + seed);
        let header = header(&card, COUNTS);
        let lengths = [70usize, 33, 32, 1, 0];
        let (longest, width) = (80, 37);
        let mut offset = vec![0u32];
        let mut pairs = vec![0u32];
        for n in lengths {
            offset.push(offset[offset.len() - 1] + n as u32);
            pairs.push(pairs[pairs.len() - 1] + (n * n) as u32);
        }
        let (rows, count) = (offset[5] as usize, pairs[5] as usize);
        let (f, g, p) = (
            integers(&mut random, rows * width),
            integers(&mut random, rows * width),
            integers(&mut random, count),
        );
        let element = element_of(family);
        let upload = |values: &[f32]| upload(&card, element, values);
        let allocate = |len: usize| allocate(&card, element, len);
        let arguments = |a: (Buffer, Of), b: (Buffer, Of), c: (Buffer, Of), accumulate| WindowProduct {
            a: a.0.address,
            b: b.0.address,
            c: c.0.address,
            offset: card.upload(&offset),
            pairs: card.upload(&pairs),
            a_second: 0,
            b_second: 0,
            run_stride: 0,
            width: width as u32,
            a_of: a.1,
            b_of: b.1,
            c_of: c.1,
            accumulate,
            longest: longest as u32,
        };
        let launch = |kernel: &str, product: WindowProduct| {
            let shape = product.shape(7, 1);
            card.launch_raw(
                "product",
                &format!("{kernel}{family}"),
                (shape.grid, shape.block, 0),
                &[bytes(&header), bytes(&product)],
            )
            .unwrap_or_else(|fault| panic!("{fault}"));
        };
        let rows_of =
            |values: &[f32], s: usize, i: usize, j: usize| values[(offset[s] as usize + i) * width + j];
        let pair = |s: usize, i: usize, j: usize| p[pairs[s] as usize + i * lengths[s] + j];

        let scores = allocate(count);
        launch(
            "window_nt",
            arguments((upload(&f), Of::Rows), (upload(&g), Of::Rows), (scores, Of::Pairs), 0),
        );
        let got = values_at(&card, scores, 0, count);
        let (sums, both) = (upload(&g), allocate(rows * width));
        launch("window_tn", arguments((upload(&p), Of::Pairs), (upload(&f), Of::Rows), (sums, Of::Rows), 1));
        launch("window_nn", arguments((upload(&p), Of::Pairs), (upload(&f), Of::Rows), (both, Of::Rows), 0));
        // Two products in one launch, with other operands behind the first ones.
        let q = integers(&mut random, count);
        let distance =
            |from: Buffer, to: Buffer| (to.address as i64 - from.address as i64) / element.bytes() as i64;
        let ([first_a, second_a], [first_b, second_b]) = ([upload(&p), upload(&q)], [upload(&f), upload(&g)]);
        let two = upload(&f);
        let product = arguments((first_a, Of::Pairs), (first_b, Of::Rows), (two, Of::Rows), 1);
        let (a_second, b_second) = (distance(first_a, second_a), distance(first_b, second_b));
        launch("window_tn", WindowProduct { a_second, b_second, ..product });
        let two = values_at(&card, two, 0, rows * width);
        let [sums, both] = [sums, both].map(|rows_of| values_at(&card, rows_of, 0, rows * width));
        for s in 0..5 {
            let n = lengths[s];
            for i in 0..n {
                for j in 0..n {
                    let expected: f32 = (0..width).map(|l| rows_of(&f, s, i, l) * rows_of(&g, s, j, l)).sum();
                    assert_eq!(got[pairs[s] as usize + i * n + j], expected, "score {i}, {j} of sample {s}");
                }
                for j in 0..width {
                    let forward: f32 = (0..n).map(|l| pair(s, i, l) * rows_of(&f, s, l, j)).sum();
                    let back: f32 = (0..n).map(|l| pair(s, l, i) * rows_of(&f, s, l, j)).sum();
                    let second: f32 =
                        (0..n).map(|l| q[pairs[s] as usize + l * n + i] * rows_of(&g, s, l, j)).sum();
                    assert_eq!(
                        rows_of(&two, s, i, j),
                        back + second + rows_of(&f, s, i, j),
                        "two sums at row {i} of sample {s}"
                    );
                    assert_eq!(rows_of(&both, s, i, j), forward, "row {i} of sample {s}");
                    assert_eq!(
                        rows_of(&sums, s, i, j),
                        back + rows_of(&g, s, i, j),
                        "sum at row {i} of sample {s}"
                    );
                }
            }
        }
    }
}

/// Numbers that f16 does not hold, and the sums of their roundings' products.
#[test]
fn operands_are_rounded_to_half() {
    let mut random = Random(11);
    let (m, n, k) = (70, 45, 300);
    // Beyond 2^-14 the spacing of f16 is constant, and below 2^-24 there is nothing.
    let mut operand = |len: usize| -> Vec<f32> {
        let scales = [1.0, 1e-2, 1e-4, 1e-6, 1e-8];
        (0..len).map(|at| random.floats(1, 3.0 * scales[at % 41 % 5])[0]).collect()
    };
    let (x, y) = (operand(m * k), operand(k * n));
    let mut first: Vec<Vec<u32>> = Vec::new();
    for seed in SEEDS {
        let card = Card::new(seed);
        let header = header(&card, COUNTS);
        let across = |values: &[f32], rows: usize, columns: usize| -> Buffer {
            let turned: Vec<f32> =
                (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect();
            buffer(card.upload(&turned), turned.len())
        };
        let (a, b) = (buffer(card.upload(&x), m * k), buffer(card.upload(&y), k * n));
        let (turned_a, turned_b) = (across(&x, m, k), across(&y, k, n));
        let mut bits = Vec::new();
        for size in [Size::Tall, Size::Broad, Size::Narrow] {
            for (kernel, a, b) in [
                ("product_nt", (a, k), (turned_b, k)),
                ("product_nn", (a, k), (b, n)),
                ("product_tn", (turned_a, m), (b, n)),
            ] {
                if !kinds(kernel).any(|kind| kind == (ROUNDED, size)) {
                    continue;
                }
                let c = buffer(card.allocate::<f32>(m * n), m * n);
                run(&card, (kernel, (ROUNDED, size)), header, Product::new((m, n, k), a, b, (c, n)));
                let got = card.read::<f32>(c.address, m * n);
                for (place, &got) in got.iter().enumerate() {
                    let products = || {
                        (0..k).map(|l| {
                            f64::from(half::round(x[place / n * k + l]))
                                * f64::from(half::round(y[l * n + place % n]))
                        })
                    };
                    let (exact, size): (f64, f64) = (products().sum(), products().map(f64::abs).sum());
                    // Each of the k / 8 additions of a tensor core drops less than nine units of 2^-23 of the largest addend.
                    let bound = size * (k as f64 / 8.0 + 1.0) * 9.0 * f64::from(f32::EPSILON);
                    assert!(
                        (f64::from(got) - exact).abs() <= bound,
                        "{kernel}: {got}, not {exact}, at {place}"
                    );
                }
                bits.push(got.iter().map(|x| x.to_bits()).collect::<Vec<u32>>());
            }
        }
        // Whatever the operands' order in memory, the tile and the schedule: each element's sum is taken in one order.
        assert!(bits.iter().all(|other| *other == bits[0]), "tiles and layouts differ");
        first.push(bits.swap_remove(0));
    }
    assert!(first.iter().all(|other| *other == first[0]), "schedules differ");
}

/// What f16 cannot hold is infinite, and what is no number stays none: nothing is clamped to the largest value.
#[test]
fn overflow_is_seen() {
    let card = Card::new(0);
    let header = header(&card, COUNTS);
    let (m, n, k) = (20, 12, 40);
    let mut x = vec![1.0f32; m * k];
    for (row, value) in [65519.0, 65520.0, -1e30, f32::INFINITY, f32::NAN].into_iter().enumerate() {
        x[row * k + 7 * row] = value;
    }
    let expected = [65504.0 + 39.0, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 40.0];
    let turned: Vec<f32> = (0..m * k).map(|at| x[at % m * k + at / m]).collect();
    let same = |got: f32, expected: f32| got == expected || got.is_nan() && expected.is_nan();
    for (kernel, a, stride, stride_b) in
        [("product_nt", &x, k, k), ("product_nn", &x, k, n), ("product_tn", &turned, m, n)]
    {
        for kind in kinds(kernel).filter(|(family, _)| *family != WORD) {
            let element = element_of(kind.0);
            let result = if kernel == "product_tn" { Element::Word } else { element };
            let ones = upload(&card, element, &vec![1.0; n * k]);
            let a = upload(&card, element, a);
            let c = allocate(&card, result, m * n);
            let product = Product::new((m, n, k), (a, stride), (ones, stride_b), (c, n));
            run(&card, (kernel, kind), header, product);
            for (place, got) in values_at(&card, c, 0, m * n).into_iter().enumerate() {
                // 65543 is beyond f16 too.
                let expected = expected[(place / n).min(5)];
                let expected = if result == Element::Half { half::round(expected) } else { expected };
                let row = place / n;
                assert!(same(got, expected), "{kernel}, {kind:?}: {got}, not {expected}, in row {row}");
            }
        }
    }
    // Scores of a window of two utterances: products that f16 holds, and that it does not.
    let rows = upload(&card, Element::Half, &[300.0, 0.0, 200.0, -300.0]);
    let scores = allocate(&card, Element::Half, 4);
    let product = WindowProduct {
        a: rows.address,
        b: rows.address,
        c: scores.address,
        a_second: 0,
        b_second: 0,
        offset: card.upload(&[0u32, 2, 2, 2, 2, 2]),
        pairs: card.upload(&[0u32, 4, 4, 4, 4, 4]),
        run_stride: 0,
        width: 2,
        a_of: Of::Rows,
        b_of: Of::Rows,
        c_of: Of::Pairs,
        accumulate: 0,
        longest: 2,
    };
    let shape = product.shape(5, 1);
    let arguments = [bytes(&header), bytes(&product)];
    card.launch_raw("product", "window_nt_f16", (shape.grid, shape.block, 0), &arguments)
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(values_at(&card, scores, 0, 4), [f32::INFINITY, 60000.0, 60000.0, f32::INFINITY]);
}

/// Two runs in one launch are what each is alone; and whichever tile a product has, its bits are the same.
#[test]
fn runs_side_by_side() {
    let card = Card::new(1);
    let mut random = Random(13);
    let (m, n, k, chunks) = (150usize, 40usize, 600usize, 4usize);
    // A run's memory: header, A, B, index, C, what chunks leave, and their counters.
    let sizes = [16, m * k, k * n, k.max(m), m * n, chunks * 2 * 128 * 128, 16];
    let places: Vec<u64> = (0..sizes.len()).map(|at| 4 * sizes[..at].iter().sum::<usize>() as u64).collect();
    let stride = 4 * sizes.iter().sum::<usize>().next_multiple_of(4);
    let header: [[u32; 14]; 2] =
        [[9, 60, 40, 600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [4, 43, 30, 430, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]];
    let inputs: Vec<[Vec<f32>; 2]> =
        (0..2).map(|_| [random.floats(m * k, 2.0), random.floats(k * n, 2.0)]).collect();
    let index: Vec<Vec<u32>> = (0..2).map(|_| (0..m).map(|_| random.below(43) as u32).collect()).collect();
    // Two runs at once, and both alone.
    let fill = |runs: &[usize], element: Element| {
        let base = card.allocate::<u8>(stride * runs.len());
        for (place, &run) in runs.iter().enumerate() {
            let at = |what: usize| base + (place * stride) as u64 + places[what];
            card.write(at(0), bytemuck::cast_slice(&header[run]));
            for (what, values) in inputs[run].iter().enumerate() {
                write(&card, Buffer { address: at(1 + what), len: values.len(), element }, 0, values);
            }
            card.write(at(3), bytemuck::cast_slice(&index[run]));
            card.write(at(4), &vec![0; 4 * m * n]);
            card.write(at(6), &[0; 64]);
        }
        base
    };
    for kernel in ["product_nt", "product_nn", "product_tn"] {
        let mut of_families = HashMap::new();
        for kind in kinds(kernel) {
            let element = element_of(kind.0);
            let results = |runs: &[usize]| -> Vec<Vec<u8>> {
                let base = fill(runs, element);
                let at = |what: usize| base + places[what];
                let sum = kernel == "product_tn";
                let c = buffer(at(4), m * n);
                let a_stride = if sum { m } else { k };
                let b_stride = if kernel == "product_nt" { k } else { n };
                let a = Buffer { address: at(1), len: m * k, element };
                let b = Buffer { address: at(2), len: k * n, element };
                let mut product = Product::new((m, n, k), (a, a_stride), (b, b_stride), (c, n));
                product = product.extent(if sum { Extent::Distinct } else { Extent::Rows });
                product.run_stride = stride as u64;
                product.size = kind.1;
                if sum {
                    product.chunks = chunks as u32;
                    (product.workspace, product.arrivals) = (at(5), at(6));
                    product = product.accumulate();
                } else {
                    product.side.index = at(3);
                }
                let count = runs.len() as u32;
                run_all(&card, &named(kernel, kind), at(0), product, count);
                (0..runs.len())
                    .map(|place| {
                        let rows = if sum { m } else { header[runs[place]][1] as usize };
                        let bytes = if sum { 4 } else { element.bytes() };
                        card.read::<u8>(at(4) + (place * stride) as u64, rows * n * bytes)
                    })
                    .collect()
            };
            let both = results(&[0, 1]);
            for (run, result) in both.iter().enumerate() {
                assert!(*result == results(&[run])[0], "{kernel}, {kind:?}, run {run}");
            }
            let first = of_families.entry(kind.0).or_insert_with(|| both.clone());
            assert!(*first == both, "{kernel}, {kind:?}: other bits than with another tile");
        }
    }
}

/// The same for windows, which differ from run to run in number and length.
#[test]
fn windows_of_runs_side_by_side() {
    let card = Card::new(2);
    let mut random = Random(19);
    let (width, longest, samples) = (20usize, 40usize, 3usize);
    let lengths = [[40usize, 23, 31], [33, 9, 0]];
    let rows = samples * longest;
    // A run's memory: header, offset, pairs, rows, matrices of pairs, and a result that holds either.
    let sizes = [16, 4, 4, rows * width, samples * longest * longest, samples * longest * longest];
    let places: Vec<u64> = (0..sizes.len()).map(|at| 4 * sizes[..at].iter().sum::<usize>() as u64).collect();
    let stride = 4 * sizes.iter().sum::<usize>();
    let values = [random.floats(sizes[3], 2.0), random.floats(sizes[4], 2.0)];
    let fill = |runs: &[usize], element: Element| {
        let base = card.allocate::<u8>(stride * runs.len());
        for (place, &run) in runs.iter().enumerate() {
            let at = |what: usize| base + (place * stride) as u64 + places[what];
            let mut offset = vec![0u32];
            let mut pairs = vec![0u32];
            for (sample, n) in lengths[run].iter().enumerate() {
                offset.push(offset[sample] + *n as u32);
                pairs.push(pairs[sample] + (n * n) as u32);
            }
            let count = if run == 0 { 3 } else { 2 };
            let header: [u32; 14] = std::array::from_fn(|at| if at == 0 { count } else { 0 });
            card.write(at(0), bytemuck::cast_slice(&header));
            card.write(at(1), bytemuck::cast_slice(&offset));
            card.write(at(2), bytemuck::cast_slice(&pairs));
            // Results are added to what is there.
            for (what, values) in [(3, &values[0]), (4, &values[1]), (5, &values[1])] {
                write(&card, Buffer { address: at(what), len: values.len(), element }, 0, values);
            }
        }
        base
    };
    for family in [WORD, HALF] {
        let element = element_of(family);
        for (kernel, a_of, b_of, c_of) in [
            ("window_nt", Of::Rows, Of::Rows, Of::Pairs),
            ("window_nn", Of::Pairs, Of::Rows, Of::Rows),
            ("window_tn", Of::Pairs, Of::Rows, Of::Rows),
        ] {
            let results = |runs: &[usize]| -> Vec<Vec<u8>> {
                let base = fill(runs, element);
                let operand = |of: Of| base + places[if of == Of::Rows { 3 } else { 4 }];
                let product = WindowProduct {
                    a: operand(a_of),
                    b: operand(b_of),
                    c: base + places[5],
                    offset: base + places[1],
                    pairs: base + places[2],
                    a_second: 0,
                    b_second: 0,
                    run_stride: stride as u64,
                    width: width as u32,
                    a_of,
                    b_of,
                    c_of,
                    accumulate: 1,
                    longest: longest as u32,
                };
                let shape = product.shape(samples as u32, runs.len() as u32);
                card.launch_raw(
                    "product",
                    &format!("{kernel}{family}"),
                    (shape.grid, shape.block, 0),
                    &[bytes(&(base + places[0])), bytes(&product)],
                )
                .unwrap_or_else(|fault| panic!("{fault}"));
                (0..runs.len() as u64)
                    .map(|place| {
                        card.read(base + place * stride as u64 + places[5], sizes[5] * element.bytes())
                    })
                    .collect()
            };
            let both = results(&[0, 1]);
            for (run, result) in both.iter().enumerate() {
                assert!(*result == results(&[run])[0], "{kernel}{family}, run {run}");
            }
        }
    }
}

/// Wide tiles where they fill a card; narrow ones for few rows, few columns, and what is small altogether.
#[test]
fn tiles_suit_shapes() {
    let none = || (buffer(0, 0), 0);
    for (m, n, k, runs, size) in [
        (15000, 600, 200, 1, Size::Tall),
        (15000, 100, 200, 1, Size::Tall),
        (15000, 6, 200, 1, Size::Narrow),
        (512, 200, 300, 1, Size::Narrow),
        (512, 200, 300, 16, Size::Tall),
        (100, 100, 100, 1, Size::Narrow),
    ] {
        let product = Product::new((m, n, k), none(), none(), none()).sized(runs, false);
        assert_eq!(product.size, size, "{m} x {n} x {k}, {runs} runs");
    }
    let half = || (Buffer { address: 0, len: 0, element: Element::Half }, 0);
    for (m, n, size) in [
        (136 * 128, 200, Size::LargeRows),
        (135 * 128, 200, Size::Tall),
        (272 * 128, 65, Size::LargeRows),
        (272 * 128, 64, Size::Tall),
    ] {
        let product = Product::new((m, n, 200), half(), half(), half());
        assert_eq!(product.sized(1, false).size, size, "{m} x {n} of f16");
        // Not where it has to be exact, and not a product that runs over the rows.
        assert_eq!(product.exact().sized(1, false).size, Size::Tall, "{m} x {n}, exact");
        assert_ne!(product.sized(1, true).size, Size::LargeRows, "{m} x {n}, product_tn");
    }
}

/// Sums over a batch's rows: blocks that fill the card once at most, with the tile that stands over less; as many chunks for any number of
/// runs, so that a run's bits are its own.
#[test]
fn chunks_fill_the_card_once() {
    let none = || (buffer(0, 0), 0);
    for (exact, m, n, k, products, size, chunks) in [
        (false, 300, 201, 20480, 2, Size::Broad, 10),
        (false, 300, 101, 20480, 2, Size::Broad, 20),
        (false, 128, 64, 20480, 4, Size::Tall, 40),
        (false, 200, 200, 20480, 1, Size::Tall, 25),
        (false, 150, 101, 2560, 2, Size::Narrow, 5),
        (false, 6, 201, 512, 1, Size::Narrow, 4),
        (false, 6, 201, 100, 1, Size::Narrow, 1),
        (true, 300, 201, 20480, 2, Size::Square, 10),
        (true, 200, 200, 20480, 1, Size::Square, 25),
        (true, 6, 201, 512, 1, Size::Small, 4),
    ] {
        let mut product = Product::new((m, n, k), none(), none(), none());
        if exact {
            product = product.exact();
        }
        product.inner = products;
        let product = product.chunked();
        let sized = product.sized(1, true);
        let [_, y, _] = sized.shape(1).grid;
        assert_eq!((sized.size, y), (size, chunks * products), "{m} x {n} x {k}, {products}, exact {exact}");
        let [_, y, _] = product.sized(8, true).shape(8).grid;
        assert_eq!(y, chunks * products, "with other runs");
    }
}

/// Gradients of wide models' weights in f16 take large tiles, if the batch has rows for enough blocks of them, and a few rounds of chunks
/// where one would leave much of the card empty. The chunks are those of the shape, whatever the tile.
#[test]
fn wide_sums_take_large_tiles() {
    let of = |element, (m, columns, k, products): (usize, [usize; 2], usize, u32)| {
        let nowhere = || (Buffer { address: 0, len: 0, element }, 0);
        let [first, second] = columns.map(|n| {
            let mut product = Product::new((m, n, k), nowhere(), nowhere(), nowhere());
            product.inner = products;
            product
        });
        let product = first.beside(second).chunked();
        (product.sized(1, true).size, product.chunks)
    };
    for (element, shape, size, chunks) in [
        (Element::Half, (600, [401, 201], 20480, 2), Size::Large, 2),
        (Element::Half, (600, [201, 201], 20480, 4), Size::Large, 5),
        (Element::Half, (450, [301, 151], 20480, 2), Size::Large, 3),
        (Element::Half, (768, [513, 257], 20480, 2), Size::Large, 4),
        // Few rows are one chunk, and 60 blocks not enough.
        (Element::Half, (600, [401, 201], 100, 2), Size::Narrow, 2),
        // A last tile of 44 rows, too few columns, too few tiles.
        (Element::Half, (300, [201, 101], 20480, 2), Size::Broad, 6),
        (Element::Half, (600, [401, 50], 20480, 2), Size::Tall, 2),
        (Element::Half, (400, [400, 0], 20480, 1), Size::Tall, 7),
        (Element::Word, (600, [401, 201], 20480, 2), Size::Tall, 5),
    ] {
        assert_eq!(of(element, shape), (size, chunks), "{element:?} {shape:?}");
    }
}

/// Stores and loads of tiles use all banks of shared memory, whichever way the operands lie, and a product takes few instructions
/// beside its multiplications: of a warp, for each FFMA or HMMA that a longer k adds.
#[test]
fn tiles_use_all_banks() {
    let card = Card::new(0);
    let mut random = Random(17);
    let header = header(&card, COUNTS);
    let (m, n) = (256, 128);
    let (a, b) = (matrix(&card, &mut random, 256, 256, 256).0, matrix(&card, &mut random, 256, 256, 256).0);
    for kernel in ["product_nt", "product_nn", "product_tn"] {
        for (family, size) in kinds(kernel) {
            let (a, b) = (a.of((family, size)), b.of((family, size)));
            let name = format!("{kernel}{family}, {size:?}");
            let [short, long] = [64, 192].map(|k| {
                let of_c = if kernel == "product_tn" { Element::Word } else { element_of(family) };
                let c = allocate(&card, of_c, m * n);
                let product = Product { size, ..Product::new((m, n, k), (a, 256), (b, 256), (c, n)) };
                let profile = run_all(&card, &named(kernel, (family, size)), header, product, 1)?;
                assert_eq!(profile.shared_wavefronts, profile.ideal_shared_wavefronts, "{name}");
                assert_eq!(profile.global_sectors, profile.ideal_global_sectors, "{name}");
                Some(profile)
            });
            // A real card counts nothing.
            let (Some(short), Some(long)) = (short, long) else { continue };
            let multiplications = |profile: &Profile| match family {
                "" => profile.flops / 64,
                _ => profile.flops / 2048,
            };
            let each = (long.warp_instructions - short.warp_instructions) as f64
                / (multiplications(&long) - multiplications(&short)) as f64;
            let wavefronts = (long.shared_wavefronts - short.shared_wavefronts) as f64
                / (multiplications(&long) - multiplications(&short)) as f64;
            println!(
                "{name}: {each:.2} warp instructions and {wavefronts:.2} wavefronts for each multiplication"
            );
            // Loads of float32 are common to pairs of lanes.
            let most = match (family, size) {
                ("", Size::Tall | Size::Square) => 0.25,
                ("", _) => 0.4,
                _ => f64::INFINITY,
            };
            assert!(wavefronts <= most, "{name}: {wavefronts:.2} wavefronts for each multiplication");
            let most = match (family, size) {
                ("", Size::Tall) => 1.35,
                ("", Size::Square) => 1.4,
                ("", Size::Narrow) => 1.6,
                ("", _) => 1.75,
                (_, Size::Large) => 5.0,
                (_, Size::Narrow) => 15.0,
                _ => 8.0,
            };
            assert!(each <= most, "{name}: {each:.2} warp instructions for each multiplication");
        }
    }
}

/// Sums of the left operand's columns beside every number of the right one's: those that fill their last tile, that leave it one column,
/// and that are no multiple of what a thread reads or stores at once.
#[test]
fn sums_beside_a_product() {
    let card = Card::new(2);
    let mut random = Random(23);
    let header = header(&card, COUNTS);
    for (m, n, k, chunks) in [
        (5, 31, 400, 3),
        (70, 32, 33, 1),
        (64, 63, 300, 2),
        (9, 64, 17, 2),
        (130, 100, 1900, 3),
        (1, 1, 3, 2),
        (3, 66, 50, 1),
        (66, 129, 520, 4),
        // Where one chunk more begins.
        (5, 7, 255, 9),
        (5, 7, 256, 9),
        (5, 7, 512, 9),
        (5, 7, 2048, 9),
        (5, 7, 2049, 9),
    ] {
        let (a, x) = matrix(&card, &mut random, k, m, m);
        let (b, y) = matrix(&card, &mut random, k, n, n);
        for kind in kinds("product_tn") {
            let (c, sums) =
                (buffer(card.upload(&vec![1.0f32; m * n]), m * n), buffer(card.upload(&vec![2.0f32; m]), m));
            let product = Product::new((m, n, k), (a.of(kind), m), (b.of(kind), n), (c, n)).sums(sums);
            let product = Product { chunks, size: kind.1, ..product };
            sum(&card, kind, header, product);
            let name = format!("{m} x {n} x {k} in {chunks}, {kind:?}");
            let expected: Vec<f32> = (0..m * n)
                .map(|at| 1.0 + (0..k).map(|l| x[l * m + at / n] * y[l * n + at % n]).sum::<f32>())
                .collect();
            assert_eq!(card.read::<f32>(c.address, m * n), expected, "{name}");
            let expected: Vec<f32> =
                (0..m).map(|i| 2.0 + (0..k).map(|l| x[l * m + i]).sum::<f32>()).collect();
            assert_eq!(card.read::<f32>(sums.address, m), expected, "{name}");
        }
    }
}
