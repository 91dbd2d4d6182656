//! The index arrays of batches, as the engine puts them on the device, from conversations that are made of their speakers.

use bytemuck::NoUninit;
use coin::data::batch::{Batch, NONE, Shard};
use coin::data::windows::Windows;
use coin::data::{Conversation, Corpus, Split, Utterance};
use coin::ops::dropout::{Mask, Pass};

use crate::support::Random;
use crate::work::{Place, Work};

/// As `Header` in kernels/batch.cuh.
#[derive(Debug, Clone, Copy, Default)]
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

// SAFETY: fourteen fields of four bytes in the C layout leave no padding.
unsafe impl NoUninit for Header {}

impl Header {
    /// Sets what dropout reads; `None` drops nothing.
    pub fn mask(mut self, mask: Option<&Mask>) -> Header {
        (self.threshold, self.scale) = (0, 1.0);
        if let Some((mask, threshold)) = mask.and_then(|mask| Some((mask, mask.threshold()?))) {
            (self.key, self.step) = (mask.key(), mask.step as u32);
            (self.threshold, self.scale) = (threshold, (1.0 / mask.keep) as f32);
        }
        self
    }
}

/// One run's batch: the CPU's layout and what the device has besides.
pub struct Indices {
    pub shard: Shard,
    pub header: Header,
    pub owner: Vec<u32>,
    /// By direction and role-major row.
    pub readers: [Vec<[u32; 2]>; 2],
    /// By direction and sample: role, first row, count.
    pub silent: [Vec<[u32; 3]>; 2],
    pub utterance_start: Vec<u32>,
    pub utterance_rows: Vec<u32>,
}

impl Indices {
    /// The samples `targets`, (conversation, utterance), of conversations in which a letter is an utterance and names its speaker.
    pub fn new(conversations: &[String], targets: &[(usize, usize)], longest: usize) -> Indices {
        let mut corpus = Corpus {
            source: "test".into(),
            classes: (0..6).map(|class| format!("class {class}")).collect(),
            modalities: Vec::new(),
            conversations: Vec::new(),
            features: Vec::new(),
        };
        let mut first = 0;
        for (c, speakers) in conversations.iter().enumerate() {
            let utterances = speakers.chars().enumerate().map(|(i, speaker)| Utterance {
                id: format!("{c} {i}"),
                speaker: speaker.into(),
                label: Some((7 * c + 3 * i) % 6),
                text: None,
            });
            let conversation = Conversation {
                id: format!("{c}"),
                split: Split::Train,
                first,
                utterances: utterances.collect(),
            };
            first += speakers.len();
            corpus.conversations.push(conversation);
        }
        let windows = Windows::new(&corpus, longest);
        let targets: Vec<u32> =
            targets.iter().map(|&(c, i)| (corpus.conversations[c].first + i) as u32).collect();
        // As a card has it: one shard.
        let samples = targets.len();
        let mut batch = Batch::with_capacity(samples, samples, longest, windows.len());
        batch.fill(&windows, &targets);
        assert_eq!(batch.shards().len(), 1);
        Indices::of(batch.shards()[0].clone(), batch.distinct.len())
    }

    #[allow(clippy::needless_range_loop, reason = "samples and rows are numbered alike in every array")]
    fn of(shard: Shard, distinct: usize) -> Indices {
        let (samples, rows) = (shard.samples(), shard.rows());
        let mut owner = vec![NONE; rows];
        let mut readers = [vec![[0; 2]; rows], vec![[0; 2]; rows]];
        let mut silent = [vec![[0; 3]; samples], vec![[0; 3]; samples]];
        for s in 0..samples {
            for i in shard.range(s) {
                owner[i] = s as u32;
                for direction in 0..2 {
                    let quiet = u32::from((shard.own[i] as usize) < shard.rows_a);
                    let range: &mut [u32] = match shard.other[direction][i] {
                        NONE => {
                            silent[direction][s][0] = quiet;
                            &mut silent[direction][s][1..]
                        }
                        state => &mut readers[direction][state as usize],
                    };
                    if range[1] == 0 {
                        range[0] = i as u32;
                    }
                    assert_eq!(range[0] + range[1], i as u32, "readers are contiguous");
                    range[1] += 1;
                }
            }
        }
        let mut utterance_start = vec![0];
        let mut utterance_rows = Vec::new();
        for utterance in 0..distinct as u32 {
            utterance_rows.extend((0..rows as u32).filter(|&row| shard.embedded[row as usize] == utterance));
            utterance_start.push(utterance_rows.len() as u32);
        }
        let header = Header {
            samples: samples as u32,
            rows: rows as u32,
            rows_a: shard.rows_a as u32,
            distinct: distinct as u32,
            scale: 1.0,
            ..Header::default()
        };
        Indices { shard, header, owner, readers, silent, utterance_start, utterance_rows }
    }

    pub fn rows(&self) -> usize {
        self.shard.rows()
    }

    pub fn samples(&self) -> usize {
        self.shard.samples()
    }

    pub fn distinct(&self) -> usize {
        self.header.distinct as usize
    }

    pub fn pairs(&self) -> usize {
        self.shard.pairs[self.samples()] as usize
    }

    pub fn n(&self, s: usize) -> usize {
        self.shard.range(s).len()
    }
}

/// A conversation of random turns among `speakers`.
pub fn talk(random: &mut Random, len: usize, speakers: usize) -> String {
    (0..len).map(|_| (b'A' + random.below(speakers) as u8) as char).collect()
}

/// The first conversation's windows of these lengths: of the targets before which so many utterances stand.
pub fn windows_of(conversations: &[String], lengths: &[usize], longest: usize) -> Indices {
    let targets: Vec<(usize, usize)> = lengths.iter().map(|&n| (0, n)).collect();
    Indices::new(conversations, &targets, longest)
}

/// Two runs that differ in every count: one with windows of every kind (empty, of one utterance, of one speaker, of three), the other
/// with a single sample.
pub fn unequal(random: &mut Random, longest: usize) -> [Indices; 2] {
    let conversations =
        [talk(random, 45, 2), "A".repeat(20), talk(random, 30, 3), "ABABBA".into(), "AAAAAB".into()];
    let mut targets = vec![(0, 0), (0, 1), (0, 44), (1, 19), (1, 1), (2, 29), (2, 3), (3, 5), (4, 5), (4, 0)];
    // Neighbours, whose windows share their utterances.
    targets.extend((17..24).map(|i| (0, i)));
    [Indices::new(&conversations, &targets, longest), Indices::new(&conversations[3..], &[(0, 5)], longest)]
}

/// Two runs of which one has no history at all, and the other one utterance.
pub fn least() -> [Indices; 2] {
    let conversations = ["AB".to_owned()];
    [Indices::new(&conversations, &[(0, 0)], 40), Indices::new(&conversations, &[(0, 1)], 40)]
}

/// Room in the buffers: more than either run fills.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub rows: usize,
    pub samples: usize,
    pub distinct: usize,
    pub pairs: usize,
    pub longest: usize,
}

/// The index arrays of two runs in a [`Work`].
pub struct Places {
    pub capacity: Capacity,
    pub header: Place,
    pub target: Place,
    pub offset: Place,
    pub pairs: Place,
    pub embedded: Place,
    pub sample: Place,
    pub own: Place,
    pub owner: Place,
    pub other: Place,
    pub readers: Place,
    pub silent: Place,
    pub utterance_start: Place,
    pub utterance_rows: Place,
}

impl Places {
    pub fn new(work: &mut Work, runs: &[Indices; 2], mask: Option<&Mask>) -> Places {
        let most = |count: fn(&Indices) -> usize| count(&runs[0]).max(count(&runs[1]));
        let capacity = Capacity {
            rows: most(Indices::rows) + 5,
            samples: most(Indices::samples) + 3,
            distinct: most(Indices::distinct) + 4,
            pairs: most(Indices::pairs) + 7,
            longest: most(|run| (0..run.samples()).map(|s| run.n(s)).max().unwrap_or(0)).max(1),
        };
        let headers = [0, 1].map(|run| [runs[run].header.mask(mask)]);
        let header = work.buffer(1, [&headers[0], &headers[1]]);
        let mut plain =
            |capacity: usize, of: fn(&Indices) -> &[u32]| work.buffer(capacity, [of(&runs[0]), of(&runs[1])]);
        let target = plain(capacity.samples, |run| &run.shard.target);
        let offset = plain(capacity.samples + 1, |run| &run.shard.offset);
        let pairs = plain(capacity.samples + 1, |run| &run.shard.pairs);
        let embedded = plain(capacity.rows, |run| &run.shard.embedded);
        let sample = plain(capacity.rows, |run| &run.shard.sample);
        let own = plain(capacity.rows, |run| &run.shard.own);
        let owner = plain(capacity.rows, |run| &run.owner);
        let utterance_start = plain(capacity.distinct + 1, |run| &run.utterance_start);
        let utterance_rows = plain(capacity.rows, |run| &run.utterance_rows);
        // By direction: what lies between the first one's end and the second is there but means nothing.
        fn both<T: NoUninit + Copy>(
            work: &mut Work,
            capacity: usize,
            filler: T,
            runs: [[&[T]; 2]; 2],
        ) -> Place {
            let joined = runs.map(|[first, second]| {
                let mut all = first.to_vec();
                all.resize(capacity, filler);
                all.extend(second);
                all
            });
            work.buffer(2 * capacity, [&joined[0], &joined[1]])
        }
        let of = |run: usize| &runs[run];
        let other = both(
            work,
            capacity.rows,
            0xdead_beef,
            [0, 1].map(|run| of(run).shard.other.each_ref().map(|x| &x[..])),
        );
        let readers = both(
            work,
            capacity.rows,
            [0xdead_beef; 2],
            [0, 1].map(|run| of(run).readers.each_ref().map(|x| &x[..])),
        );
        let silent = both(
            work,
            capacity.samples,
            [0xdead_beef; 3],
            [0, 1].map(|run| of(run).silent.each_ref().map(|x| &x[..])),
        );
        Places {
            capacity,
            header,
            target,
            offset,
            pairs,
            embedded,
            sample,
            own,
            owner,
            other,
            readers,
            silent,
            utterance_start,
            utterance_rows,
        }
    }
}

/// A mask that drops about a third.
pub fn mask(step: u64) -> Mask {
    Mask { seed: 0x1234_5678_9abc_def0, step, pass: Pass::Adversarial, keep: 0.7 }
}
