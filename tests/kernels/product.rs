//! `kernels/product.cu`: small integers, whose products and sums float32 holds exactly, so that every result has to be equal.

use coin::device::cuda::memory::Buffer;
use coin::device::cuda::product::{Epilogue, Extent, Of, Product, WindowProduct};

use crate::support::{Card, Random, SEEDS};

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

/// In float32, and on tensor cores: small integers are exact in f16 too, and their sums in float32.
const FAMILIES: [&str; 2] = ["", "_f16"];

fn run(card: &Card, kernel: &str, header: u64, product: Product) {
    let shape = if kernel == "product_fold" { product.fold_shape(1) } else { product.shape(1) };
    card.launch_raw("product", kernel, (shape.grid, shape.block, 0), &[bytes(&header), bytes(&product)])
        .unwrap_or_else(|fault| panic!("{fault}"));
}

fn buffer(address: u64, len: usize) -> Buffer {
    Buffer { address, len }
}

/// A strided matrix on the card whose gaps are unwritten, and its values.
fn matrix(
    card: &Card,
    random: &mut Random,
    rows: usize,
    columns: usize,
    stride: usize,
) -> (Buffer, Vec<f32>) {
    let values = integers(random, rows * columns);
    let address = card.allocate::<f32>((rows.max(1) - 1) * stride + columns);
    for row in 0..rows {
        let at = address + 4 * (row * stride) as u64;
        card.write(at, bytemuck::cast_slice(&values[row * columns..][..columns]));
    }
    (buffer(address, rows * stride), values)
}

fn read(card: &Card, from: Buffer, rows: usize, columns: usize, stride: usize) -> Vec<f32> {
    (0..rows).flat_map(|row| card.read::<f32>(from.address + 4 * (row * stride) as u64, columns)).collect()
}

/// Sizes that fill no tile, and some that do.
const SIZES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (128, 64, 16),
    (129, 65, 17),
    (3, 200, 40),
    (150, 7, 33),
    (70, 66, 5),
    (256, 128, 48),
    (1, 300, 100),
    (40, 1, 0),
];

#[test]
fn products_are_exact_on_integers() {
    FAMILIES.iter().for_each(|family| products_are_exact_on_integers_of(family));
}

fn products_are_exact_on_integers_of(family: &str) {
    for seed in SEEDS {
        let card = Card::new(seed);
        let mut random = Random(seed);
        let header = header(&card, COUNTS);
        for (m, n, k) in SIZES {
            for accumulate in [false, true] {
                let name = format!("{m} x {n} x {k}, accumulate {accumulate}");
                let before = integers(&mut random, m * n);
                let (stride_c, bias) = (n + 3, integers(&mut random, n));
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
                let result = || {
                    let address = card.allocate::<f32>((m - 1) * stride_c + n);
                    if accumulate {
                        for i in 0..m {
                            let row = bytemuck::cast_slice(&before[i * n..][..n]);
                            card.write(address + 4 * (i * stride_c) as u64, row);
                        }
                    }
                    buffer(address, m * stride_c)
                };
                let with = |product: Product| if accumulate { product.accumulate() } else { product };
                let bias_at = buffer(card.upload(&bias), n);

                let (a, x) = matrix(&card, &mut random, m, k, k + 1);
                let (b, y) = matrix(&card, &mut random, n, k, k + 2);
                let c = result();
                run(
                    &card,
                    &format!("product_nt{family}"),
                    header,
                    with(Product::new((m, n, k), (a, k + 1), (b, k + 2), (c, stride_c)).bias(bias_at)),
                );
                let expected = expect(&|i, l| x[i * k + l], &|l, j| y[j * k + l], true);
                assert_eq!(read(&card, c, m, n, stride_c), expected, "nt, {name}");

                let (b, y) = matrix(&card, &mut random, k, n, n + 1);
                let c = result();
                run(
                    &card,
                    &format!("product_nn{family}"),
                    header,
                    with(Product::new((m, n, k), (a, k + 1), (b, n + 1), (c, stride_c))),
                );
                let expected = expect(&|i, l| x[i * k + l], &|l, j| y[l * n + j], false);
                assert_eq!(read(&card, c, m, n, stride_c), expected, "nn, {name}");

                let (a, x) = matrix(&card, &mut random, k, m, m + 2);
                let c = result();
                run(
                    &card,
                    &format!("product_tn{family}"),
                    header,
                    with(Product::new((m, n, k), (a, m + 2), (b, n + 1), (c, stride_c))),
                );
                let expected = expect(&|i, l| x[l * m + i], &|l, j| y[l * n + j], false);
                assert_eq!(read(&card, c, m, n, stride_c), expected, "tn, {name}");
            }
        }
    }
}

/// The batch's own number of rows decides, by extent, and nothing beyond them is touched.
#[test]
fn rows_are_those_of_the_batch() {
    FAMILIES.iter().for_each(|family| rows_are_those_of_the_batch_of(family));
}

fn rows_are_those_of_the_batch_of(family: &str) {
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
        let c = buffer(card.allocate::<f32>((first + count) * n), count * n);
        run(
            &card,
            &format!("product_nt{family}"),
            header,
            Product::new((capacity, n, k), (a, k), (b, k), (c, n)).extent(extent),
        );
        for i in 0..count {
            let row: Vec<f32> = (0..n).map(|j| (0..k).map(|l| x[i * k + l] * y[j * k + l]).sum()).collect();
            assert_eq!(card.read::<f32>(c.address + 4 * (i * n) as u64, n), row, "{extent:?}, row {i}");
        }
    }
}

/// Roles and directions side by side: a weight for each, rows by role, columns by direction; the input's gradient over both
/// directions at once; rows of the weights' gradient gathered, scaled, and summed in chunks.
#[test]
fn directions_and_roles() {
    FAMILIES.iter().for_each(|family| directions_and_roles_of(family));
}

fn directions_and_roles_of(family: &str) {
    for counts in [COUNTS, Counts { rows_a: 0, ..COUNTS }, Counts { rows_a: 150, ..COUNTS }] {
        let card = Card::new(1);
        let mut random = Random(6);
        let header = header(&card, counts);
        let (rows, rows_a) = (counts.rows as usize, counts.rows_a as usize);
        let (capacity, d, width) = (1100, 9, 20);
        let (input, x) = matrix(&card, &mut random, rows, width, width);
        let (weights, w) = matrix(&card, &mut random, 4 * 3 * d, width, width);
        let out = buffer(card.allocate::<f32>(rows * 8 * d), rows * 8 * d);
        let role_of = |row: usize| usize::from(row >= rows_a);
        let mut product =
            Product::new((capacity, 3 * d, width), (input, width), (weights, width), (out, 8 * d))
                .extent(Extent::Roles);
        product.inner = 2;
        product.b_inner = (3 * d * width) as i64;
        product.b_outer = 2 * product.b_inner;
        product.c_inner = (3 * d) as i64;
        run(&card, &format!("product_nt{family}"), header, product);
        for row in 0..rows {
            let got = card.read::<f32>(out.address + 4 * (row * 8 * d) as u64, 6 * d);
            for (j, got) in got.iter().enumerate() {
                let weight = &w[(role_of(row) * 6 * d + j) * width..][..width];
                let expected: f32 = weight.iter().zip(&x[row * width..]).map(|(a, b)| a * b).sum();
                assert_eq!(*got, expected, "gate {j} of row {row}");
            }
        }

        // From [rows, 6d] back through both directions' weights.
        let (gates, g) = matrix(&card, &mut random, rows, 6 * d, 8 * d);
        let back = buffer(card.allocate::<f32>(rows * width), rows * width);
        let mut product =
            Product::new((capacity, width, 6 * d), (gates, 8 * d), (weights, width), (back, width))
                .extent(Extent::Roles);
        // The directions' weights lie apart: the second's rows begin 3d rows later than the first's end would have it.
        let apart = 5 * width;
        let spread = card.allocate::<f32>(2 * (6 * d * width + apart));
        for part in 0..4 {
            let at = spread + 4 * ((part * 3 * d * width) + part % 2 * apart + part / 2 * apart) as u64;
            card.write(at, bytemuck::cast_slice(&w[part * 3 * d * width..][..3 * d * width]));
        }
        product.b = spread;
        product.b_outer = (6 * d * width + apart) as i64;
        product.split = 3 * d as u32;
        product.beyond = apart as i64;
        run(&card, &format!("product_nn{family}"), header, product);
        for row in 0..rows {
            let got = card.read::<f32>(back.address + 4 * (row * width) as u64, width);
            for (j, got) in got.iter().enumerate() {
                let weight = |k: usize| w[(role_of(row) * 6 * d + k) * width + j];
                let expected: f32 = (0..6 * d).map(|k| g[row * 6 * d + k] * weight(k)).sum();
                assert_eq!(*got, expected, "input {j} of row {row}");
            }
        }

        // Gradients of the recurrent weights: gates^T (the state before), by direction and role.
        let (states, h) = matrix(&card, &mut random, rows, 2 * d, 2 * d);
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
        product.b_inner = d as i64;
        product.c_inner = (3 * d * d) as i64;
        product.c_outer = 2 * product.c_inner;
        product.index = card.upload(&index);
        product.index_inner = capacity as i64;
        product.scale = card.upload(&scale);
        product.chunk = 64;
        let chunks = product.chunks() as usize;
        let workspace = card.allocate::<f32>(4 * chunks * 3 * d * d);
        run(&card, &format!("product_tn{family}"), header, Product { c: workspace, ..product });
        run(&card, "product_fold", header, Product { a: workspace, ..product }.accumulate());
        let got = card.read::<f32>(to.address, before.len());
        for (place, got) in got.iter().enumerate() {
            let (batch, i, j) = (place / (3 * d * d), place / d % (3 * d), place % d);
            let (role, direction) = (batch / 2, batch % 2);
            let mut expected = before[place];
            for row in (0..rows).filter(|row| role_of(*row) == role) {
                let from = index[direction * capacity + row];
                if from != u32::MAX {
                    let state = h[from as usize * 2 * d + direction * d + j];
                    expected += g[row * 6 * d + direction * 3 * d + i] * state * scale[row];
                }
            }
            assert_eq!(*got, expected, "gradient {i}, {j} of role {role}, direction {direction}");
        }
    }
}

#[test]
fn epilogues() {
    FAMILIES.iter().for_each(|family| epilogues_of(family));
}

fn epilogues_of(family: &str) {
    let card = Card::new(0);
    let mut random = Random(8);
    let header = header(&card, COUNTS);
    let (m, n, k) = (33, 20, 10);
    let (a, x) = matrix(&card, &mut random, m, k, k);
    let y: Vec<f32> = integers(&mut random, n * k).iter().map(|y| y / 16.0).collect();
    let b = buffer(card.upload(&y), n * k);
    let addend = integers(&mut random, m * n);
    for epilogue in [Epilogue::Sigmoid, Epilogue::TanhOfSum] {
        let c = buffer(card.allocate::<f32>(m * n), m * n);
        let mut product = Product::new((m, n, k), (a, k), (b, k), (c, n)).epilogue(epilogue);
        product.addend = card.upload(&addend);
        run(&card, &format!("product_nt{family}"), header, product);
        for (place, got) in card.read::<f32>(c.address, m * n).iter().enumerate() {
            let sum: f64 =
                (0..k).map(|l| f64::from(x[place / n * k + l]) * f64::from(y[place % n * k + l])).sum();
            let expected = match epilogue {
                Epilogue::Sigmoid => 1.0 / (1.0 + (-sum).exp()),
                _ => (sum + f64::from(addend[place])).tanh(),
            };
            assert!((f64::from(*got) - expected).abs() < 4e-7, "{epilogue:?}: {got}, not {expected}");
        }
    }
}

#[test]
fn windows() {
    FAMILIES.iter().for_each(|family| windows_of(family));
}

fn windows_of(family: &str) {
    for seed in SEEDS {
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
        let upload = |values: &[f32]| card.upload(values);
        let arguments = |a: (u64, Of), b: (u64, Of), c: (u64, Of), accumulate| WindowProduct {
            a: a.0,
            b: b.0,
            c: c.0,
            offset: card.upload(&offset),
            pairs: card.upload(&pairs),
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
                kernel,
                (shape.grid, shape.block, 0),
                &[bytes(&header), bytes(&product)],
            )
            .unwrap_or_else(|fault| panic!("{fault}"));
        };
        let rows_of =
            |values: &[f32], s: usize, i: usize, j: usize| values[(offset[s] as usize + i) * width + j];
        let pair = |s: usize, i: usize, j: usize| p[pairs[s] as usize + i * lengths[s] + j];

        let scores = card.allocate::<f32>(count);
        launch(
            "window_nt",
            arguments((upload(&f), Of::Rows), (upload(&g), Of::Rows), (scores, Of::Pairs), 0),
        );
        let got = card.read::<f32>(scores, count);
        let (sums, both) = (card.upload(&g), card.allocate::<f32>(rows * width));
        launch(
            &format!("window_tn{family}"),
            arguments((upload(&p), Of::Pairs), (upload(&f), Of::Rows), (sums, Of::Rows), 1),
        );
        launch(
            &format!("window_nn{family}"),
            arguments((upload(&p), Of::Pairs), (upload(&f), Of::Rows), (both, Of::Rows), 0),
        );
        let (sums, both) = (card.read::<f32>(sums, rows * width), card.read::<f32>(both, rows * width));
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

/// Numbers that f16 does not have are rounded to it, sums are in float32, and what is beyond its range becomes infinity.
#[test]
fn tensor_cores_round_their_operands() {
    let (m, n, k) = (70, 50, 300);
    let mut random = Random(3);
    let (x, y) = (random.floats(m * k, 1.0), random.floats(n * k, 1.0));
    let product = |x: &[f32]| {
        let card = Card::new(1);
        let header = header(&card, COUNTS);
        let (a, b) = (buffer(card.upload(x), m * k), buffer(card.upload(&y), n * k));
        let c = buffer(card.allocate::<f32>(m * n), m * n);
        run(&card, "product_nt_f16", header, Product::new((m, n, k), (a, k), (b, k), (c, n)));
        card.read::<f32>(c.address, m * n)
    };
    let half = |x: f32| half::f16::from_f32(x).to_f64();
    for (place, got) in product(&x).iter().enumerate() {
        let terms = (0..k).map(|l| half(x[place / n * k + l]) * half(y[place % n * k + l]));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        // Each of 38 products of depth 8 cuts off nine times below the last place.
        let most = 9.0 * 38.0 / f64::from(1u32 << 24) * size;
        assert!((f64::from(*got) - sum).abs() <= most, "{got}, not {sum}");
    }
    let mut large = x.clone();
    large[5 * k + 2] = 70_000.0;
    let got = product(&large);
    assert!(got[5 * n..6 * n].iter().all(|value| value.is_infinite() || value.is_nan()));
    assert!(got[..5 * n].iter().all(|value| value.is_finite()));
}
