//! A batch as kernels see it: `kernels/batch.cuh`.

use crate::data::batch::{Batch, NONE, Sequences, Shard};
use crate::device::cuda::memory::{Buffer, Pinned, Plan};

/// Directions of a recurrence, and roles.
const TWO: usize = 2;

/// How much a batch may have of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// S
    pub samples: usize,
    /// R: of all windows together.
    pub rows: usize,
    /// Sum of the squared window lengths.
    pub pairs: usize,
    /// Utterances that stand in some window.
    pub distinct: usize,
    /// Utterances of the longest window.
    pub longest: usize,
}

/// What a run tells its kernels: `Header` in `kernels/batch.cuh` has the same fields.
#[derive(Debug, Clone, Copy, PartialEq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Header {
    pub samples: u32,
    pub rows: u32,
    pub rows_a: u32,
    pub distinct: u32,
    pub sequences: [u32; 3],
    pub key: [u32; 2],
    pub step: u32,
    pub threshold: u32,
    pub scale: f32,
    pub epsilon: f32,
    pub learning_rate: f32,
}

/// Words of the header.
const HEADER: usize = size_of::<Header>() / 4;

/// Where the header and the index arrays lie. They are one stretch of memory, which is filled by one copy.
#[derive(Debug, Clone, Copy)]
pub struct Indices {
    pub capacity: Capacity,
    pub header: Buffer,
    /// `[S]`
    pub target: Buffer,
    /// `[S]`: class of each target.
    pub label: Buffer,
    /// `[S + 1]`: sample-major row of each sample's first utterance.
    pub offset: Buffer,
    /// `[S + 1]`: where each sample's n x n block starts.
    pub pairs: Buffer,
    /// `[distinct]`: rows of the features.
    pub distinct: Buffer,
    /// `[R]`, by role-major row: index into `distinct`.
    pub embedded: Buffer,
    /// `[R]`, by role-major row: its sample.
    pub sample: Buffer,
    /// `[R]`, by sample-major row: its role-major row.
    pub own: Buffer,
    /// `[R]`, by sample-major row: its sample.
    pub owner: Buffer,
    /// `[2, R]`, by direction and sample-major row: role-major row of the other role's latest state, or none.
    pub other: Buffer,
    /// `[2, R, 2]`, by direction and role-major row: first sample-major row that reads its gate, and how many.
    pub readers: Buffer,
    /// `[2, S, 3]`, by direction and sample: the role that is silent at first, first row and number of those that read its gate.
    pub silent: Buffer,
    /// `[2, R]`, by direction and role-major row: the row before it in its role's turns, or none.
    pub previous_turn: Buffer,
    /// `[2, R]`, by direction and sample-major row: the row before it in its window, or none.
    pub previous: Buffer,
    /// `[3, S]`: first row of each sequence, of role A, of role B, and the windows; longest first.
    pub start: Buffer,
    /// `[3, S]`
    pub length: Buffer,
    /// `[distinct + 1]`: where each utterance's rows begin in `utterance_rows`.
    pub utterance_start: Buffer,
    /// `[R]`: role-major rows by utterance.
    pub utterance_rows: Buffer,
    /// Words of all together.
    words: usize,
}

impl Indices {
    pub fn new(plan: &mut Plan, capacity: Capacity) -> Indices {
        let Capacity { samples, rows, distinct, .. } = capacity;
        let header = plan.words(HEADER);
        let mut indices = Indices {
            capacity,
            header,
            target: plan.words(samples),
            label: plan.words(samples),
            offset: plan.words(samples + 1),
            pairs: plan.words(samples + 1),
            distinct: plan.words(distinct),
            embedded: plan.words(rows),
            sample: plan.words(rows),
            own: plan.words(rows),
            owner: plan.words(rows),
            other: plan.words(TWO * rows),
            readers: plan.words(TWO * rows * 2),
            silent: plan.words(TWO * samples * 3),
            previous_turn: plan.words(TWO * rows),
            previous: plan.words(TWO * rows),
            start: plan.words(3 * samples),
            length: plan.words(3 * samples),
            utterance_start: plan.words(distinct + 1),
            utterance_rows: plan.words(rows),
            words: 0,
        };
        indices.words = (plan.words(0).address - header.address) as usize / 4;
        indices
    }

    /// Bytes of the stretch.
    pub fn bytes(&self) -> usize {
        self.words * 4
    }

    pub fn words(&self) -> usize {
        self.words
    }

    /// A run's part of the words of several, one behind the other.
    fn of_run<'a>(&self, run: usize, to: &'a mut Pinned) -> &'a mut [u32] {
        &mut to.words()[run * self.words..][..self.words]
    }

    /// Says that a run has no batch.
    pub fn leave_out(&self, run: usize, to: &mut Pinned) {
        self.of_run(run, to)[..HEADER].fill(0);
    }

    /// Fills a run's part of `to` with a batch that is one shard, and the header but for what the batch does not tell.
    pub fn fill(&self, run: usize, batch: &Batch, header: Header, to: &mut Pinned) {
        let Capacity { samples: most, rows: most_rows, distinct: most_distinct, .. } = self.capacity;
        let words = self.of_run(run, to);
        let mut place = |buffer: Buffer, at: usize, values: &[u32]| {
            let first = (buffer.address - self.header.address) as usize / 4 + at;
            assert!(at + values.len() <= buffer.len, "a batch beyond the capacity");
            words[first..first + values.len()].copy_from_slice(values);
        };
        let empty = Shard::default();
        let shard = batch.shards().first().unwrap_or(&empty);
        assert!(batch.shards().len() <= 1, "a card's batch is one shard");
        let (samples, rows, distinct) = (shard.samples(), shard.rows(), batch.distinct.len());
        assert!(
            samples <= most && rows <= most_rows && distinct <= most_distinct,
            "a batch beyond the capacity"
        );
        let sequences = [&shard.roles[0], &shard.roles[1], &shard.context];
        let header = Header {
            samples: samples as u32,
            rows: rows as u32,
            rows_a: shard.rows_a as u32,
            distinct: distinct as u32,
            sequences: sequences.map(|sequences| sequences.len.len() as u32),
            ..header
        };
        place(self.header, 0, bytemuck::cast_slice(&[header]));
        place(self.target, 0, &shard.target);
        place(self.label, 0, &shard.label);
        place(self.offset, 0, &shard.offset);
        place(self.pairs, 0, &shard.pairs);
        place(self.distinct, 0, &batch.distinct);
        place(self.embedded, 0, &shard.embedded);
        place(self.sample, 0, &shard.sample);
        place(self.own, 0, &shard.own);
        let mut owner = vec![0; rows];
        for s in 0..samples {
            owner[shard.range(s)].fill(s as u32);
        }
        place(self.owner, 0, &owner);
        for direction in 0..TWO {
            place(self.other, direction * most_rows, &shard.other[direction]);
            let (readers, silent) = readers(shard, direction);
            place(self.readers, direction * most_rows * 2, &readers);
            place(self.silent, direction * most * 3, &silent);
            let turns = previous(rows, &[&shard.roles[0], &shard.roles[1]], direction);
            place(self.previous_turn, direction * most_rows, &turns);
            place(self.previous, direction * most_rows, &previous(rows, &[&shard.context], direction));
        }
        for (i, sequences) in sequences.iter().enumerate() {
            place(self.start, i * most, &sequences.start);
            place(self.length, i * most, &sequences.len);
        }
        let (start, by_utterance) = by_utterance(&shard.embedded, distinct);
        place(self.utterance_start, 0, &start);
        place(self.utterance_rows, 0, &by_utterance);
    }
}

/// By role-major row, who reads its gate (first sample-major row, count); by sample, who reads a silent role's (role, first
/// row, count). Readers of one gate are neighbours: they follow the state until its role speaks again.
fn readers(shard: &Shard, direction: usize) -> (Vec<u32>, Vec<u32>) {
    let mut readers = vec![0; shard.rows() * 2];
    let mut silent = vec![0; shard.samples() * 3];
    for s in 0..shard.samples() {
        for i in shard.range(s) {
            let other = shard.other[direction][i];
            let run = if other == NONE {
                silent[3 * s] = u32::from((shard.own[i] as usize) < shard.rows_a);
                &mut silent[3 * s + 1..3 * s + 3]
            } else {
                &mut readers[2 * other as usize..2 * other as usize + 2]
            };
            if run[1] == 0 {
                run[0] = i as u32;
            }
            debug_assert_eq!(run[0] + run[1], i as u32, "readers that are no neighbours");
            run[1] += 1;
        }
    }
    (readers, silent)
}

/// The row before each in its sequence and direction.
fn previous(rows: usize, sequences: &[&Sequences], direction: usize) -> Vec<u32> {
    let mut previous = vec![NONE; rows];
    for sequences in sequences {
        for (&start, &len) in sequences.start.iter().zip(&sequences.len) {
            for row in start..start + len {
                let first = if direction == 0 { row == start } else { row + 1 == start + len };
                if !first {
                    previous[row as usize] = if direction == 0 { row - 1 } else { row + 1 };
                }
            }
        }
    }
    previous
}

/// The rows that embed each utterance, one utterance's after the other's.
fn by_utterance(embedded: &[u32], distinct: usize) -> (Vec<u32>, Vec<u32>) {
    let mut start = vec![0; distinct + 1];
    for &utterance in embedded {
        start[utterance as usize + 1] += 1;
    }
    for i in 0..distinct {
        start[i + 1] += start[i];
    }
    let mut next = start.clone();
    let mut rows = vec![0; embedded.len()];
    for (row, &utterance) in embedded.iter().enumerate() {
        let place = &mut next[utterance as usize];
        rows[*place as usize] = row as u32;
        *place += 1;
    }
    (start, rows)
}
