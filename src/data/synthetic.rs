//! Synthetic conversations between two people, of IEMOCAP's sizes, in which context decides.
//!
//! The six emotions are three *families* of a plainer and a stronger *member*:
//!
//! | family | plainer | stronger |
//! |---|---|---|
//! | glad | happy | excited |
//! | still | sad | neutral |
//! | cross | angry | frustrated |
//!
//! Features tell the family almost surely and the member hardly. The member is told by the context: it is the
//! plainer one when the last utterance of the speaker and the last utterance of the *other* speaker were of one
//! family, and the stronger one when they were not, with probability [`SyntheticOptions::dependence`] (drawn
//! from the members' proportions otherwise, and where either has not spoken yet). Whether two things agree is no
//! sum of what each says alone: a model has to bring the two speakers' states together, multiplicatively, which
//! is what the mutual interaction (eq. 1 of the paper) does.
//!
//! Families follow the speaker's own last one, at times the other's last one, and the proportions of IEMOCAP
//! otherwise; turns are kept or handed over, so that the other's last utterance may lie several steps back.
//!
//! Each modality has up to 32 directions in which its features vary, as embeddings do: an utterance is a
//! point in them, `family mean + member mean + noise` with noise of deviation 1, the means being stronger in the
//! first modality than in the next. A feature is `offset + scale * (loadings . point + grain)`, with a uniform grain
//! of deviation 0.3. Values are rounded to `f32`.

use super::{Conversation, Corpus, Modality, Split, Utterance};
use crate::random::{Stream, purpose};

/// Sizes and difficulty of a synthetic corpus. The default has IEMOCAP's sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticOptions {
    pub seed: u64,
    pub conversations: usize,
    /// How many of them, the last ones, are test conversations.
    pub test_conversations: usize,
    /// Utterances in a conversation, at least (1 if given as 0).
    pub min_utterances: usize,
    /// Utterances in a conversation, at most (never below `min_utterances`).
    pub max_utterances: usize,
    /// Names and widths; those of width 0 are left out.
    pub modalities: Vec<Modality>,
    /// Probability that the member follows the rule, 0 to 1.
    pub dependence: f64,
    /// Distance between two families' means, in deviations of the noise, over all modalities together.
    pub family_separation: f64,
    /// Distance between the means of a family's two members, likewise.
    pub member_separation: f64,
}

impl Default for SyntheticOptions {
    fn default() -> Self {
        SyntheticOptions {
            seed: 0,
            conversations: 151,
            test_conversations: 31,
            min_utterances: 8,
            max_utterances: 110,
            modalities: widths(100, 100, 512),
            dependence: 0.95,
            family_separation: 6.0,
            member_separation: 1.0,
        }
    }
}

impl SyntheticOptions {
    /// A corpus of a few hundred utterances and narrow features, for tests.
    pub fn small() -> Self {
        SyntheticOptions {
            conversations: 12,
            test_conversations: 3,
            min_utterances: 3,
            max_utterances: 24,
            modalities: widths(5, 3, 4),
            ..Self::default()
        }
    }
}

/// Text, audio and visual features of these widths, those of width 0 left out.
pub fn widths(text: usize, audio: usize, visual: usize) -> Vec<Modality> {
    let named = [("text", text), ("audio", audio), ("visual", visual)];
    let kept = named.into_iter().filter(|&(_, width)| width > 0);
    kept.map(|(name, width)| Modality { name: name.to_string(), width }).collect()
}

const FAMILIES: usize = 3;
/// Class of each family's plainer and stronger member, in IEMOCAP's order of classes.
const MEMBERS: [[usize; 2]; FAMILIES] = [[0, 4], [1, 2], [3, 5]];
/// Proportions of the families and of the stronger member, as in IEMOCAP.
const FAMILY_PROPORTIONS: [f64; FAMILIES] = [0.23, 0.37, 0.40];
const STRONGER: f64 = 0.62;
/// How a speaker's next family comes about: their own last, the other's last, the proportions otherwise.
const OWN_FAMILY: f64 = 0.30;
const OTHERS_FAMILY: f64 = 0.10;
/// Probability that the next utterance is the other speaker's.
const HAND_OVER: f64 = 0.65;

/// Most directions in which a modality's features vary.
const DIRECTIONS: usize = 32;
/// Deviation of what each feature has of its own, against 1 for what its modality shares.
const GRAIN: f64 = 0.3;

/// Indices of the streams of [`purpose::SYNTHETIC`]: the channels, then one for each conversation.
const CHANNELS: u64 = 0;
const CONVERSATIONS: u64 = 1;

/// Makes conversations: a function of the options alone, the same on every machine.
pub fn generate(options: &SyntheticOptions) -> Corpus {
    let modalities: Vec<Modality> =
        options.modalities.iter().filter(|modality| modality.width > 0).cloned().collect();
    let channels = Channel::draw(options, &modalities);
    let digits = options.conversations.saturating_sub(1).to_string().len().max(3);
    let first_test = options.conversations.saturating_sub(options.test_conversations);

    let mut corpus = Corpus {
        source: "synthetic".to_string(),
        classes: super::iemocap::CLASSES.map(String::from).to_vec(),
        modalities,
        conversations: Vec::with_capacity(options.conversations),
        features: Vec::new(),
    };
    let mut first = 0;
    for index in 0..options.conversations {
        let mut stream = Stream::indexed(options.seed, purpose::SYNTHETIC, CONVERSATIONS + index as u64);
        let id = format!("synthetic{index:0digits$}");
        let turns = turns(options, &mut stream);
        let mut spoken = [0usize; 2];
        let mut utterances = Vec::with_capacity(turns.len());
        for turn in &turns {
            for channel in &channels {
                channel.sample(turn.family, turn.stronger, &mut stream, &mut corpus.features);
            }
            let speaker = ["F", "M"][turn.speaker];
            utterances.push(Utterance {
                id: format!("{id}_{speaker}{:03}", spoken[turn.speaker]),
                speaker: speaker.to_string(),
                label: Some(MEMBERS[turn.family][usize::from(turn.stronger)]),
                text: None,
            });
            spoken[turn.speaker] += 1;
        }
        let split = if index < first_test { Split::Train } else { Split::Test };
        let count = utterances.len();
        corpus.conversations.push(Conversation { id, split, first, utterances });
        first += count;
    }
    corpus
}

struct Turn {
    speaker: usize,
    family: usize,
    stronger: bool,
}

/// Who speaks and what is felt, over one conversation.
fn turns(options: &SyntheticOptions, stream: &mut Stream) -> Vec<Turn> {
    let shortest = options.min_utterances.max(1);
    let spread = options.max_utterances.saturating_sub(shortest);
    // Mean 0.4: more short conversations than long ones, with IEMOCAP's total at IEMOCAP's bounds.
    let position = 0.6 * stream.uniform().min(stream.uniform()) + 0.4 * stream.uniform();
    let length = shortest + (position * (spread + 1) as f64) as usize;

    let mut turns: Vec<Turn> = Vec::with_capacity(length);
    let mut last: [Option<usize>; 2] = [None; 2];
    let mut speaker = stream.below(2);
    for position in 0..length {
        if position > 0 && stream.uniform() < HAND_OVER {
            speaker = 1 - speaker;
        }
        let (own, others) = (last[speaker], last[1 - speaker]);
        let draw = stream.uniform();
        let followed = if draw < OWN_FAMILY {
            own
        } else if draw < OWN_FAMILY + OTHERS_FAMILY {
            others
        } else {
            None
        };
        let proportion = stream.uniform();
        let family = followed.unwrap_or_else(|| {
            let bounds = [FAMILY_PROPORTIONS[0], FAMILY_PROPORTIONS[0] + FAMILY_PROPORTIONS[1]];
            bounds.iter().filter(|&&bound| proportion >= bound).count()
        });
        let (follows, otherwise) = (stream.uniform() < options.dependence, stream.uniform() < STRONGER);
        let stronger = match (own, others) {
            (Some(own), Some(others)) if follows => own != others,
            _ => otherwise,
        };
        last[speaker] = Some(family);
        turns.push(Turn { speaker, family, stronger });
    }
    turns
}

/// One modality's way from what is felt to its features.
struct Channel {
    width: usize,
    /// By family and member: a point, `[directions]`.
    means: [[Vec<f64>; 2]; FAMILIES],
    /// `[directions, width]`.
    loadings: Vec<f64>,
    /// `[width]` each.
    offset: Vec<f64>,
    scale: Vec<f64>,
}

impl Channel {
    /// One for each modality.
    fn draw(options: &SyntheticOptions, modalities: &[Modality]) -> Vec<Channel> {
        let mut stream = Stream::indexed(options.seed, purpose::SYNTHETIC, CHANNELS);
        // Squared separations add up over modalities; a modality has half of what the one before it has.
        let shares: Vec<f64> = (0..modalities.len()).map(|index| 0.5f64.powi(index as i32)).collect();
        let total: f64 = shares.iter().sum();
        let channel = |(modality, share): (&Modality, f64)| {
            let width = modality.width;
            let directions = width.min(DIRECTIONS);
            let strength = (share / total).sqrt();
            let mut means: [[Vec<f64>; 2]; FAMILIES] = Default::default();
            for family in &mut means {
                // Independent, so nearly at right angles.
                let (centre, aside) =
                    (direction(directions, &mut stream), direction(directions, &mut stream));
                let centre_length = strength * options.family_separation * std::f64::consts::FRAC_1_SQRT_2;
                let aside_length = strength * options.member_separation * 0.5;
                for (member, sign) in family.iter_mut().zip([-1.0, 1.0]) {
                    let both = centre.iter().zip(&aside);
                    *member = both.map(|(c, a)| centre_length * c + sign * aside_length * a).collect();
                }
            }
            let loading = (directions as f64).sqrt().recip();
            let loadings = (0..directions * width).map(|_| loading * stream.normal()).collect();
            let offset = (0..width).map(|_| stream.normal()).collect();
            let scale = (0..width).map(|_| 0.5 + 1.5 * stream.uniform()).collect();
            Channel { width, means, loadings, offset, scale }
        };
        modalities.iter().zip(shares).map(channel).collect()
    }

    /// Appends one utterance's features.
    fn sample(&self, family: usize, stronger: bool, stream: &mut Stream, features: &mut Vec<f64>) {
        // A uniform word has deviation 2^32 / sqrt(12).
        let grain = GRAIN * 12f64.sqrt() / (1u64 << 32) as f64;
        let first = features.len();
        features
            .extend((0..self.width).map(|_| (f64::from(stream.next_u32()) - f64::from(1u32 << 31)) * grain));
        let row = &mut features[first..];
        for (mean, loadings) in
            self.means[family][usize::from(stronger)].iter().zip(self.loadings.chunks(self.width))
        {
            let coordinate = mean + stream.normal();
            row.iter_mut().zip(loadings).for_each(|(value, loading)| *value += coordinate * loading);
        }
        for ((value, scale), offset) in row.iter_mut().zip(&self.scale).zip(&self.offset) {
            *value = f64::from((offset + scale * *value) as f32);
        }
    }
}

/// A random direction of length 1.
fn direction(width: usize, stream: &mut Stream) -> Vec<f64> {
    let mut direction: Vec<f64> = (0..width).map(|_| stream.normal()).collect();
    let length = direction.iter().map(|value| value * value).sum::<f64>().sqrt();
    direction.iter_mut().for_each(|value| *value /= length.max(f64::MIN_POSITIVE));
    direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_iemocaps_sizes() {
        let corpus = generate(&SyntheticOptions::default());
        corpus.validate().unwrap();
        assert_eq!(corpus.width(), 712);
        let count = |split| corpus.conversations.iter().filter(|one| one.split == split).count();
        assert_eq!((count(Split::Train), count(Split::Test)), (120, 31));
        assert!((7_000..7_800).contains(&corpus.len()), "{} utterances", corpus.len());
        let lengths = corpus.conversations.iter().map(|one| one.utterances.len());
        assert!(lengths.clone().min() >= Some(8) && lengths.max() <= Some(110));
        let mut counts = [0usize; 6];
        for utterance in corpus.conversations.iter().flat_map(|one| &one.utterances) {
            counts[utterance.label.unwrap()] += 1;
        }
        let smallest = *counts.iter().min().unwrap();
        let largest = *counts.iter().max().unwrap();
        assert!(smallest * 100 > corpus.len() * 6 && largest > smallest * 2, "{counts:?}");
    }

    #[test]
    fn a_function_of_the_seed() {
        let of_seed = |seed| generate(&SyntheticOptions { seed, ..SyntheticOptions::small() });
        assert_eq!(of_seed(1), of_seed(1));
        assert_ne!(of_seed(1).fingerprint(), of_seed(2).fingerprint());
    }

    #[test]
    fn more_conversations_leave_the_earlier_ones_alone() {
        let of_count =
            |conversations| generate(&SyntheticOptions { conversations, ..SyntheticOptions::small() });
        let (few, many) = (of_count(5), of_count(9));
        for (one, same) in few.conversations.iter().zip(&many.conversations) {
            assert_eq!((&one.id, &one.utterances), (&same.id, &same.utterances));
        }
        assert_eq!(few.features[..], many.features[..few.features.len()]);
    }

    /// The rule itself: agreement of the two last families tells the member, and neither of them alone does.
    #[test]
    fn the_pair_of_last_emotions_tells_the_member_and_neither_alone_does() {
        let corpus =
            generate(&SyntheticOptions { modalities: widths(1, 0, 0), ..SyntheticOptions::default() });
        let place = |label: usize| {
            let family = MEMBERS.iter().position(|members| members.contains(&label)).unwrap();
            (family, MEMBERS[family][1] == label)
        };
        // Counts by own last family, other's last family, member.
        let mut counts = [[[0.0; 2]; FAMILIES]; FAMILIES];
        for conversation in &corpus.conversations {
            let mut last: [Option<usize>; 2] = [None; 2];
            for utterance in &conversation.utterances {
                let speaker = usize::from(utterance.speaker == "M");
                let (family, stronger) = place(utterance.label.unwrap());
                if let (Some(own), Some(others)) = (last[speaker], last[1 - speaker]) {
                    counts[own][others][usize::from(stronger)] += 1.0;
                }
                last[speaker] = Some(family);
            }
        }
        let sum = |cells: &[[f64; 2]]| {
            cells.iter().fold([0.0; 2], |sum, cell| [sum[0] + cell[0], sum[1] + cell[1]])
        };
        let best = |cells: &[[f64; 2]]| cells.iter().map(|cell| cell[0].max(cell[1])).sum::<f64>();
        let all: Vec<[f64; 2]> = counts.iter().flatten().copied().collect();
        let by_own: Vec<[f64; 2]> = counts.iter().map(|row| sum(row)).collect();
        let by_other: Vec<[f64; 2]> = (0..FAMILIES)
            .map(|others| sum(&[counts[0][others], counts[1][others], counts[2][others]]))
            .collect();
        let total: f64 = all.iter().flatten().sum();
        let accuracy = |cells: &[[f64; 2]]| best(cells) / total;
        assert!(accuracy(&all) > 0.9, "{}", accuracy(&all));
        assert!(accuracy(&by_own) < 0.7 && accuracy(&by_other) < 0.7);
    }

    #[test]
    fn odd_sizes_are_taken_in() {
        let options = SyntheticOptions {
            conversations: 2,
            test_conversations: 9,
            min_utterances: 0,
            max_utterances: 0,
            ..SyntheticOptions::small()
        };
        let corpus = generate(&options);
        corpus.validate().unwrap();
        assert_eq!(corpus.len(), 2);
        assert!(corpus.conversations.iter().all(|one| one.split == Split::Test));
        let none = generate(&SyntheticOptions { conversations: 0, ..options });
        assert!(none.is_empty());
    }
}
