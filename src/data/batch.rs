//! A batch of targets, laid out for the engine: no padding, every distinct utterance once.
//!
//! Samples are sorted by window length and cut into [`Shard`]s: on the CPU of [`SHARD_SAMPLES`], on a card one for the whole
//! batch. Within a shard the rows of all windows lie one behind the other in two orders:
//!
//! - **sample-major**: a sample's window in time order, samples one behind the other. The stacks work on it.
//! - **role-major**: first the turns of role A, sample by sample in time order, then those of role B. The speaker
//!   GRUs work on it, because a role's turns are then one contiguous sequence.

use super::windows::Windows;

/// Samples of a shard on the CPU. Sharding is part of the arithmetic (it fixes the order of every sum over samples), so
/// this does not depend on the machine.
pub const SHARD_SAMPLES: usize = 16;

/// No such row: the other role has not spoken yet.
pub const NONE: u32 = u32::MAX;

/// Contiguous runs of rows, longest first, so that those still running at a step are a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequences {
    pub start: Vec<u32>,
    pub len: Vec<u32>,
    order: Vec<(u32, u32)>,
}

impl Sequences {
    fn reserve(samples: usize) -> Self {
        Self {
            start: Vec::with_capacity(samples),
            len: Vec::with_capacity(samples),
            order: Vec::with_capacity(samples),
        }
    }

    /// Takes `order`'s (length, start) pairs, empty ones left out.
    fn settle(&mut self) {
        self.order.retain(|&(len, _)| len > 0);
        self.order.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        self.start.clear();
        self.len.clear();
        self.start.extend(self.order.iter().map(|&(_, start)| start));
        self.len.extend(self.order.iter().map(|&(len, _)| len));
        self.order.clear();
    }

    /// Sequences longer than `step`.
    pub fn running(&self, step: u32) -> usize {
        self.len.partition_point(|&len| len > step)
    }

    pub fn longest(&self) -> u32 {
        self.len.first().copied().unwrap_or(0)
    }
}

/// Samples with their rows.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    /// Position of each sample in the batch as it was given.
    pub slot: Vec<u32>,
    /// Utterance that each sample classifies.
    pub target: Vec<u32>,
    /// Class of each target; [`NONE`] when unlabelled.
    pub label: Vec<u32>,
    /// Sample-major row of each sample's first utterance, and the number of rows at the end.
    pub offset: Vec<u32>,
    /// Where each sample's n x n block of pairs starts, and their number at the end.
    pub pairs: Vec<u32>,
    /// Role-major rows of role A; the rest is role B's.
    pub rows_a: usize,
    /// By role-major row: index into [`Batch::distinct`].
    pub embedded: Vec<u32>,
    /// By role-major row: its sample.
    pub sample: Vec<u32>,
    /// By sample-major row: its role-major row.
    pub own: Vec<u32>,
    /// By direction and sample-major row: role-major row of the other role's latest state strictly before it in
    /// that direction's order, or [`NONE`].
    pub other: [Vec<u32>; 2],
    /// The windows, over sample-major rows.
    pub context: Sequences,
    /// By role: its turns, over role-major rows.
    pub roles: [Sequences; 2],
}

impl Shard {
    fn reserve(samples: usize, history_length: usize) -> Self {
        let rows = samples * history_length;
        Self {
            slot: Vec::with_capacity(samples),
            target: Vec::with_capacity(samples),
            label: Vec::with_capacity(samples),
            offset: Vec::with_capacity(samples + 1),
            pairs: Vec::with_capacity(samples + 1),
            rows_a: 0,
            embedded: Vec::with_capacity(rows),
            sample: Vec::with_capacity(rows),
            own: Vec::with_capacity(rows),
            other: [Vec::with_capacity(rows), Vec::with_capacity(rows)],
            context: Sequences::reserve(samples),
            roles: [Sequences::reserve(samples), Sequences::reserve(samples)],
        }
    }

    pub fn samples(&self) -> usize {
        self.target.len()
    }

    pub fn rows(&self) -> usize {
        self.embedded.len()
    }

    /// Sample-major rows of sample s.
    pub fn range(&self, s: usize) -> std::ops::Range<usize> {
        self.offset[s] as usize..self.offset[s + 1] as usize
    }

    /// Pairs of sample s: a row of n for each of its n rows.
    pub fn pairs(&self, s: usize) -> std::ops::Range<usize> {
        self.pairs[s] as usize..self.pairs[s + 1] as usize
    }

    /// Role-major rows of a role.
    pub fn role_rows(&self, role: usize) -> std::ops::Range<usize> {
        [0..self.rows_a, self.rows_a..self.rows()][role].clone()
    }

    fn fill(&mut self, windows: &Windows, samples: &[(u32, u32)], position: &[u32]) {
        self.slot.clear();
        self.target.clear();
        self.label.clear();
        self.offset.clear();
        self.pairs.clear();
        self.embedded.clear();
        self.sample.clear();
        self.own.clear();
        self.offset.push(0);
        self.pairs.push(0);
        let mut rows = 0;
        let mut pairs = 0;
        for &(target, slot) in samples {
            let n = windows.window(target).len() as u32;
            self.slot.push(slot);
            self.target.push(target);
            self.label.push(windows.label(target).unwrap_or(NONE));
            self.context.order.push((n, rows));
            rows += n;
            pairs += n * n;
            self.offset.push(rows);
            self.pairs.push(pairs);
        }
        self.context.settle();
        self.own.resize(rows as usize, NONE);
        for role in 0..2 {
            for s in 0..samples.len() {
                let target = self.target[s];
                let start = self.embedded.len() as u32;
                for (step, utterance) in windows.window(target).enumerate() {
                    if windows.same_speaker(utterance, target) == (role == 0) {
                        self.own[self.offset[s] as usize + step] = self.embedded.len() as u32;
                        self.embedded.push(position[utterance as usize]);
                        self.sample.push(s as u32);
                    }
                }
                self.roles[role].order.push((self.embedded.len() as u32 - start, start));
            }
            self.roles[role].settle();
            if role == 0 {
                self.rows_a = self.embedded.len();
            }
        }
        for direction in 0..2 {
            let Self { other, own, offset, rows_a, .. } = self;
            let other = &mut other[direction];
            other.clear();
            other.resize(rows as usize, NONE);
            for s in 0..samples.len() {
                let mut latest = [NONE; 2];
                let range = offset[s] as usize..offset[s + 1] as usize;
                let mut visit = |i: usize| {
                    let role = usize::from(own[i] as usize >= *rows_a);
                    other[i] = latest[1 - role];
                    latest[role] = own[i];
                };
                if direction == 0 { range.for_each(&mut visit) } else { range.rev().for_each(&mut visit) }
            }
        }
    }
}

/// A batch, refilled in place for each step; once grown to its largest it allocates nothing.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Utterances that stand in some window of the batch, ascending.
    pub distinct: Vec<u32>,
    shards: Vec<Shard>,
    count: usize,
    /// Samples of a shard.
    shard_samples: usize,
    /// (target, position in the batch), in the order of the shards.
    order: Vec<(u32, u32)>,
    /// By utterance: its index in `distinct`, or [`NONE`].
    position: Vec<u32>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::with_capacity(0, SHARD_SAMPLES, 0, 0)
    }
}

impl Batch {
    /// Room for batches of up to `batch_size` targets out of `utterances`, in shards of `shard_samples`.
    pub fn with_capacity(
        batch_size: usize,
        shard_samples: usize,
        history_length: usize,
        utterances: usize,
    ) -> Self {
        let shards = batch_size.div_ceil(shard_samples);
        let samples = shard_samples.min(batch_size.max(SHARD_SAMPLES));
        Self {
            distinct: Vec::with_capacity(utterances),
            shards: (0..shards).map(|_| Shard::reserve(samples, history_length.min(utterances))).collect(),
            count: 0,
            shard_samples,
            order: Vec::with_capacity(batch_size),
            position: Vec::with_capacity(utterances),
        }
    }

    /// Targets that it has room for without growing.
    pub fn capacity(&self) -> usize {
        self.order.capacity()
    }

    /// Lays out `targets`, which are distinct.
    pub fn fill(&mut self, windows: &Windows, targets: &[u32]) {
        self.position.clear();
        self.position.resize(windows.len(), NONE);
        for &target in targets {
            for utterance in windows.window(target) {
                self.position[utterance as usize] = 0;
            }
        }
        self.distinct.clear();
        for (utterance, position) in self.position.iter_mut().enumerate() {
            if *position != NONE {
                *position = self.distinct.len() as u32;
                self.distinct.push(utterance as u32);
            }
        }
        self.order.clear();
        self.order.extend(targets.iter().enumerate().map(|(slot, &target)| (target, slot as u32)));
        // Ties by target: the layout, and with it every sum, does not depend on the order given.
        self.order
            .sort_unstable_by_key(|&(target, _)| (std::cmp::Reverse(windows.window(target).len()), target));
        self.count = targets.len().div_ceil(self.shard_samples);
        while self.shards.len() < self.count {
            let samples = self.shard_samples.min(targets.len());
            self.shards.push(Shard::reserve(samples, windows.history_length().min(windows.len())));
        }
        for (shard, samples) in self.shards.iter_mut().zip(self.order.chunks(self.shard_samples)) {
            shard.fill(windows, samples, &self.position);
        }
    }

    /// Longest windows first.
    pub fn shards(&self) -> &[Shard] {
        &self.shards[..self.count]
    }

    /// Number of targets.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Rows of all windows together.
    pub fn rows(&self) -> usize {
        self.shards().iter().map(Shard::rows).sum()
    }
}
