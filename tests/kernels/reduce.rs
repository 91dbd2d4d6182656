//! kernels/reduce.cu

use std::ops::Range;

use crate::batches::Header;
use crate::support::Random;
use crate::work::{Real, Work, args, close};

/// Rows of a partial.
const PARTIAL: usize = 256;
const COUNT: usize = 5;

/// The ranges by the kernel's number.
fn rows(header: &Header, range: usize) -> Range<usize> {
    let &Header { rows, rows_a, samples, distinct, .. } = header;
    let (begin, end) = [(0, rows), (0, rows_a), (rows_a, rows), (0, samples), (0, distinct)][range];
    begin as usize..end as usize
}

fn header(rows: u32, rows_a: u32, samples: u32, distinct: u32) -> Header {
    Header { rows, rows_a, samples, distinct, ..Header::default() }
}

fn column_sum(headers: [Header; 2], range: usize, columns: usize, stride: usize, add: bool) {
    let mut random = Random((columns * 8 + range) as u64);
    let ranges = headers.each_ref().map(|header| rows(header, range));
    let capacity = ranges.iter().map(|range| range.end).max().unwrap() + 3;
    let from = ranges.each_ref().map(|range| random.floats(range.end * stride, 1.0));
    let before = [0, 1].map(|_| random.floats(columns, 1.0));
    let mut work = Work::default();
    let of_headers = headers.map(|header| [header]);
    let header = work.buffer(1, [&of_headers[0], &of_headers[1]]);
    let at_from = work.buffer(capacity * stride, [&from[0], &from[1]]);
    let to = work.buffer(columns, [&before[0], &before[1]]);
    let partials = work.output(capacity.div_ceil(PARTIAL) * columns);
    work.launch(
        ("reduce", "column_sum"),
        [columns.div_ceil(32), capacity.div_ceil(PARTIAL)],
        (256, 0),
        args![partials, at_from, header, range, columns, stride],
    );
    work.launch(
        ("reduce", "fold_partials"),
        [columns.div_ceil(256), 1],
        (256, 0),
        args![to, partials, header, range, PARTIAL, columns, usize::from(add)],
    );
    let results = work.check();
    fn sums<R: Real>(
        rows: Range<usize>,
        columns: usize,
        stride: usize,
        from: &[f32],
        before: Option<&[f32]>,
    ) -> Vec<R> {
        let sum = |column: usize| {
            let mut sum = R::of(0.0);
            rows.clone().for_each(|row| sum += R::of(from[row * stride + column].into()));
            before.map_or(sum, |before| R::of(before[column].into()) + sum)
        };
        (0..columns).map(sum).collect()
    }
    for run in 0..2 {
        let before = add.then_some(&before[run][..]);
        let exact = sums::<f64>(ranges[run].clone(), columns, stride, &from[run], before);
        let plain = sums::<f32>(ranges[run].clone(), columns, stride, &from[run], before);
        close("sum", &results.of(run, to), &exact, &plain);
    }
}

#[test]
fn columns_are_summed_over_every_range() {
    let headers = [header(1000, 600, 300, 257), header(31, 0, 1, 5)];
    for range in 0..5 {
        column_sum(headers, range, 100, 200, range % 2 == 0);
    }
    column_sum([header(256, 256, 1, 0), header(513, 512, 2, 1)], 2, 33, 33, false);
    column_sum(headers, 1, 1, 7, true);
    // No row at all.
    column_sum([header(0, 0, 1, 0), header(0, 0, 2, 0)], 0, 50, 50, false);
    column_sum([header(0, 0, 1, 0), header(0, 0, 2, 0)], 0, 50, 50, true);
}

#[test]
fn the_most_rows_and_the_most_columns() {
    column_sum([header(20_480, 9_000, 512, 300), header(7_000, 6_999, 3, 2)], 0, 33, 40, true);
    column_sum([header(300, 20, 512, 300), header(7, 6, 3, 2)], 0, 1600, 1600, false);
}

#[test]
fn partials_are_folded_in_order() {
    for (active, size, add) in [(1, 1, false), (3, 257, true), (17, 1000, false), (0, 40, false)] {
        let mut random = Random(size as u64);
        let partials = [0, 1].map(|_| random.floats(active * size, 1.0));
        let before = [0, 1].map(|_| random.floats(size, 1.0));
        let mut work = Work::default();
        let headers = [[header(1, 1, 1, 1)], [header(2, 1, 1, 1)]];
        let header = work.buffer(1, [&headers[0], &headers[1]]);
        // Behind the active ones nothing was written.
        let at_partials = work.buffer((active + 2) * size, [&partials[0], &partials[1]]);
        let to = work.buffer(size, [&before[0], &before[1]]);
        work.launch(
            ("reduce", "fold_partials"),
            [size.div_ceil(256), 1],
            (256, 0),
            args![to, at_partials, header, COUNT, active, size, usize::from(add)],
        );
        let results = work.check();
        for run in 0..2 {
            let folded: Vec<f32> = (0..size)
                .map(|i| {
                    let sum = (0..active).fold(0.0, |sum, p| sum + partials[run][p * size + i]);
                    if add { before[run][i] + sum } else { sum }
                })
                .collect();
            crate::work::same("sum", &results.of(run, to), &folded);
        }
    }
}
