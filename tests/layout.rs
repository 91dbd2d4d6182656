//! Windows and batches against their definitions, on random conversations.

mod talk;

use coin::data::Corpus;
use coin::data::batch::{Batch, NONE, SHARD_SAMPLES, Sequences, Shard};
use coin::data::windows::Windows;
use coin::random::{Stream, purpose};
use proptest::prelude::*;

/// Lengths of the conversations, how many people talk, K, and a seed for the rest.
fn talks() -> impl Strategy<Value = (Vec<usize>, usize, usize, u64)> {
    let lengths = prop::collection::vec(prop_oneof![4 => 1usize..9, 1 => 9usize..40], 1..14);
    let history_length = prop_oneof![Just(1usize), 2usize..8, Just(1000)];
    (lengths, 1usize..4, history_length, any::<u64>())
}

/// Conversation, place in it and speaker of every utterance.
fn places(corpus: &Corpus) -> Vec<(usize, usize, &str)> {
    let conversations = corpus.conversations.iter().enumerate();
    conversations
        .flat_map(|(c, conversation)| {
            conversation.utterances.iter().enumerate().map(move |(i, one)| (c, i, one.speaker.as_str()))
        })
        .collect()
}

/// Some of the utterances in a random order.
fn draw_targets(stream: &mut Stream, utterances: usize) -> Vec<u32> {
    let mut targets: Vec<u32> = (0..utterances as u32).collect();
    stream.shuffle(&mut targets);
    targets.truncate(1 + stream.below(utterances));
    targets
}

/// What a shard says of one sample, told without it.
struct Expected<'a> {
    corpus: &'a [(usize, usize, &'a str)],
    /// Window, oldest first.
    window: Vec<usize>,
    target: usize,
}

impl Expected<'_> {
    fn role(&self, step: usize) -> usize {
        usize::from(self.corpus[self.window[step]].2 != self.corpus[self.target].2)
    }

    /// By brute force: the step of the other role that comes last before `step` in the direction's order.
    fn other(&self, step: usize, direction: usize) -> Option<usize> {
        let before = |other: &usize| if direction == 0 { *other < step } else { *other > step };
        let others =
            (0..self.window.len()).filter(before).filter(|&other| self.role(other) != self.role(step));
        if direction == 0 { others.max() } else { others.min() }
    }
}

fn check_sequences(found: &Sequences, expected: &[(u32, u32)], rows: std::ops::Range<usize>) {
    let runs: Vec<(u32, u32)> = found.start.iter().copied().zip(found.len.iter().copied()).collect();
    assert!(found.len.is_sorted_by(|a, b| a >= b), "longest first");
    assert!(found.len.iter().all(|&len| len > 0), "no empty sequence");
    let mut sorted = runs.clone();
    sorted.sort_unstable();
    let mut expected: Vec<(u32, u32)> = expected.iter().copied().filter(|&(_, len)| len > 0).collect();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    let mut covered: Vec<u32> = runs.iter().flat_map(|&(start, len)| start..start + len).collect();
    covered.sort_unstable();
    assert_eq!(covered, rows.map(|row| row as u32).collect::<Vec<_>>(), "every row once");
    assert_eq!(found.longest(), found.len.iter().copied().max().unwrap_or(0));
    for step in 0..found.longest() + 2 {
        assert_eq!(found.running(step), found.len.iter().filter(|&&len| len > step).count());
    }
}

fn check_shard(shard: &Shard, batch: &Batch, windows: &Windows, corpus: &[(usize, usize, &str)]) {
    let (samples, rows) = (shard.samples(), shard.rows());
    assert_eq!([shard.slot.len(), shard.label.len(), shard.offset.len()], [samples, samples, samples + 1]);
    assert_eq!([shard.own.len(), shard.sample.len(), shard.offset[samples] as usize], [rows; 3]);
    assert_eq!(shard.other.each_ref().map(Vec::len), [rows; 2]);

    let mut own = shard.own.clone();
    own.sort_unstable();
    assert_eq!(own, (0..rows as u32).collect::<Vec<_>>(), "`own` is a permutation");
    assert_eq!((shard.role_rows(0), shard.role_rows(1)), (0..shard.rows_a, shard.rows_a..rows));

    let mut contexts = Vec::new();
    let mut turns = [Vec::new(), Vec::new()];
    let mut pairs = 0;
    for s in 0..samples {
        let target = shard.target[s];
        let expected = Expected {
            corpus,
            window: windows.window(target).map(|utterance| utterance as usize).collect(),
            target: target as usize,
        };
        let range = shard.range(s);
        let n = range.len();
        assert_eq!(n, expected.window.len());
        assert_eq!(shard.pairs(s), pairs..pairs + n * n);
        pairs += n * n;
        assert_eq!(shard.label[s], windows.label(target).unwrap_or(NONE));
        contexts.push((range.start as u32, n as u32));

        let mut of_role = [Vec::new(), Vec::new()];
        for step in 0..n {
            let own = shard.own[range.start + step];
            assert_eq!(shard.sample[own as usize], s as u32);
            let utterance = batch.distinct[shard.embedded[own as usize] as usize];
            assert_eq!(utterance as usize, expected.window[step], "row {step} of sample {s}");
            let role = expected.role(step);
            assert!(shard.role_rows(role).contains(&(own as usize)), "the roles part at `rows_a`");
            of_role[role].push(own);
            for direction in 0..2 {
                let other = expected.other(step, direction).map(|other| shard.own[range.start + other]);
                assert_eq!(shard.other[direction][range.start + step], other.unwrap_or(NONE));
            }
        }
        for (turns, of_role) in turns.iter_mut().zip(of_role) {
            // A role's turns lie one behind the other in time order.
            assert!(of_role.windows(2).all(|pair| pair[1] == pair[0] + 1), "{of_role:?}");
            if let Some(&first) = of_role.first() {
                turns.push((first, of_role.len() as u32));
            }
        }
    }
    assert_eq!(shard.pairs.last().copied(), Some(pairs as u32));
    check_sequences(&shard.context, &contexts, 0..rows);
    for (role, turns) in turns.iter().enumerate() {
        check_sequences(&shard.roles[role], turns, shard.role_rows(role));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_window_is_what_came_before(talks in talks()) {
        let (lengths, speakers, history_length, seed) = talks;
        let corpus = talk::corpus(seed, &lengths, speakers, 1, 3);
        let windows = Windows::new(&corpus, history_length);
        let places = places(&corpus);
        prop_assert_eq!(windows.len(), places.len());
        for target in 0..places.len() as u32 {
            let (conversation, place, speaker) = places[target as usize];
            // By definition: every earlier utterance of the conversation, but for those more than K back.
            let expected: Vec<u32> = (0..places.len() as u32)
                .filter(|&i| {
                    let (c, p, _) = places[i as usize];
                    c == conversation && p < place && p + history_length >= place
                })
                .collect();
            let window = windows.window(target);
            prop_assert_eq!(window.clone().collect::<Vec<_>>(), expected);
            prop_assert_eq!(window.len(), place.min(history_length));
            prop_assert!(!window.contains(&target));
            for other in window {
                prop_assert_eq!(windows.same_speaker(other, target), places[other as usize].2 == speaker);
            }
            let label = corpus.conversations[conversation].utterances[place].label;
            prop_assert_eq!(windows.label(target), label.map(|label| label as u32));
        }
        let longest = places.iter().map(|&(_, place, _)| place.min(history_length)).max();
        prop_assert_eq!(Some(windows.longest()), longest);
    }

    #[test]
    fn a_batch_is_its_targets_windows(talks in talks()) {
        let (lengths, speakers, history_length, seed) = talks;
        let corpus = talk::corpus(seed, &lengths, speakers, 1, 3);
        let windows = Windows::new(&corpus, history_length);
        let places = places(&corpus);
        let mut stream = Stream::indexed(seed, purpose::TEST, 1);
        let mut batch = Batch::default();
        // Filled again and again: nothing of the batch before is left.
        for _ in 0..3 {
            let targets = draw_targets(&mut stream, places.len());
            batch.fill(&windows, &targets);

            prop_assert_eq!(batch.len(), targets.len());
            prop_assert!(!batch.is_empty());
            let mut distinct: Vec<u32> = targets.iter().flat_map(|&target| windows.window(target)).collect();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(&batch.distinct, &distinct);
            let rows: usize = targets.iter().map(|&target| windows.window(target).len()).sum();
            prop_assert_eq!(batch.rows(), rows);

            // Every target once, at the position it was given in; longest windows first.
            let mut seen = vec![None; targets.len()];
            let mut shortest = usize::MAX;
            for (i, shard) in batch.shards().iter().enumerate() {
                let last = i + 1 == batch.shards().len();
                prop_assert!(last || shard.samples() == SHARD_SAMPLES);
                prop_assert!((1..=SHARD_SAMPLES).contains(&shard.samples()));
                for s in 0..shard.samples() {
                    prop_assert!(shard.range(s).len() <= shortest);
                    shortest = shard.range(s).len();
                    prop_assert_eq!(seen[shard.slot[s] as usize].replace(shard.target[s]), None);
                }
                check_shard(shard, &batch, &windows, &places);
            }
            prop_assert_eq!(seen.into_iter().collect::<Option<Vec<_>>>(), Some(targets));
        }
    }

    #[test]
    fn the_layout_does_not_depend_on_the_order_of_the_targets(talks in talks()) {
        let (lengths, speakers, history_length, seed) = talks;
        let corpus = talk::corpus(seed, &lengths, speakers, 1, 3);
        let windows = Windows::new(&corpus, history_length);
        let mut stream = Stream::indexed(seed, purpose::TEST, 2);
        let targets = draw_targets(&mut stream, windows.len());
        let mut shuffled = targets.clone();
        stream.shuffle(&mut shuffled);
        let (mut one, mut other) = (Batch::default(), Batch::default());
        one.fill(&windows, &targets);
        other.fill(&windows, &shuffled);
        prop_assert_eq!(&one.distinct, &other.distinct);
        for (one, other) in one.shards().iter().zip(other.shards()) {
            prop_assert_eq!(&one.target, &other.target);
            prop_assert_eq!(&one.embedded, &other.embedded);
            prop_assert_eq!(&one.own, &other.own);
            prop_assert_eq!(&one.other, &other.other);
            prop_assert_eq!(&one.roles, &other.roles);
            prop_assert_eq!(&one.context, &other.context);
        }
    }

    /// Room taken at the start is enough for every batch of that size, so that none grows.
    #[test]
    fn a_batch_never_grows(talks in talks()) {
        let (lengths, speakers, history_length, seed) = talks;
        let corpus = talk::corpus(seed, &lengths, speakers, 1, 3);
        let windows = Windows::new(&corpus, history_length);
        let mut stream = Stream::indexed(seed, purpose::TEST, 3);
        let batch_size = 1 + stream.below(windows.len());
        let mut batch = Batch::with_capacity(batch_size, SHARD_SAMPLES, windows.longest(), windows.len());
        prop_assert!(batch.capacity() >= batch_size);
        let mut before: Vec<Vec<(usize, usize)>> = Vec::new();
        for _ in 0..4 {
            let mut targets: Vec<u32> = (0..windows.len() as u32).collect();
            stream.shuffle(&mut targets);
            targets.truncate(batch_size);
            batch.fill(&windows, &targets);
            let memory: Vec<Vec<(usize, usize)>> =
                batch.shards().iter().map(memory).chain([vec![place(&batch.distinct)]]).collect();
            if !before.is_empty() {
                prop_assert_eq!(&memory, &before);
            }
            before = memory;
        }
        let room = SHARD_SAMPLES * windows.longest();
        for shard in batch.shards() {
            prop_assert_eq!(shard.own.capacity(), room, "the room taken at the start");
        }
    }
}

/// Where a vector lies and how much it has room for.
fn place(vector: &Vec<u32>) -> (usize, usize) {
    (vector.as_ptr() as usize, vector.capacity())
}

fn memory(shard: &Shard) -> Vec<(usize, usize)> {
    let sequences = [&shard.context, &shard.roles[0], &shard.roles[1]];
    let rows = [&shard.embedded, &shard.sample, &shard.own, &shard.other[0], &shard.other[1]];
    let samples = [&shard.slot, &shard.target, &shard.label, &shard.offset, &shard.pairs];
    let runs = sequences.into_iter().flat_map(|sequences| [&sequences.start, &sequences.len]);
    rows.into_iter().chain(samples).chain(runs).map(place).collect()
}

/// The brute force itself, on a conversation that can be followed by eye.
#[test]
fn the_other_roles_latest_state() {
    let mut corpus = talk::corpus(1, &[7], 1, 1, 2);
    for (utterance, speaker) in corpus.conversations[0].utterances.iter_mut().zip("ABBACBA".chars()) {
        utterance.speaker = speaker.to_string();
    }
    let windows = Windows::new(&corpus, 40);
    let mut batch = Batch::default();
    batch.fill(&windows, &[6]);
    let [shard] = batch.shards() else { panic!("one target, one shard") };
    // The target is A's; steps are A B B A C B. Role-major: A at 0 3, then B and C at 1 2 4 5.
    assert_eq!(shard.own, [0, 2, 3, 1, 4, 5]);
    assert_eq!(shard.rows_a, 2);
    assert_eq!(shard.other[0], [NONE, 0, 0, 3, 1, 1]);
    assert_eq!(shard.other[1], [2, 1, 1, 4, NONE, NONE]);
    assert_eq!((&shard.roles[0].start[..], &shard.roles[0].len[..]), (&[0][..], &[2][..]));
    assert_eq!((&shard.roles[1].start[..], &shard.roles[1].len[..]), (&[2][..], &[4][..]));
}

#[test]
fn no_targets_and_no_history_are_no_trouble() {
    let corpus = talk::corpus(2, &[1, 1, 3], 2, 1, 2);
    let windows = Windows::new(&corpus, 5);
    let mut batch = Batch::default();
    batch.fill(&windows, &[]);
    assert!(batch.is_empty() && batch.shards().is_empty() && batch.distinct.is_empty());
    batch.fill(&windows, &[2, 0, 1]);
    let [shard] = batch.shards() else { panic!("three targets, one shard") };
    assert_eq!((shard.samples(), shard.rows(), shard.rows_a), (3, 0, 0));
    assert_eq!((&shard.offset[..], &shard.pairs[..]), (&[0; 4][..], &[0; 4][..]));
    assert_eq!(shard.target, [0, 1, 2]);
    assert_eq!(shard.slot, [1, 2, 0]);
    assert_eq!((shard.context.longest(), shard.context.running(0)), (0, 0));
    assert!(Windows::default().is_empty() && Windows::default().longest() == 0);
}

/// A target that stands in a batch twice is two samples.
#[test]
fn a_target_given_twice_is_two_samples() {
    let corpus = talk::corpus(3, &[6, 4], 2, 1, 2);
    let windows = Windows::new(&corpus, 5);
    let mut batch = Batch::default();
    batch.fill(&windows, &[5, 8, 5]);
    let [shard] = batch.shards() else { panic!("three targets, one shard") };
    assert_eq!(shard.target, [5, 5, 8]);
    let mut slots = shard.slot[..2].to_vec();
    slots.sort_unstable();
    assert_eq!(slots, [0, 2]);
    check_shard(shard, &batch, &windows, &places(&corpus));
}
