//! Z-standardisation of the features, per dimension.

use super::Corpus;

/// Mean and population deviation of each dimension over the utterances trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardisation {
    pub mean: Vec<f64>,
    /// 1 where a dimension is constant.
    pub deviation: Vec<f64>,
}

impl Standardisation {
    /// Changes nothing.
    pub fn none(width: usize) -> Self {
        Standardisation { mean: vec![0.0; width], deviation: vec![1.0; width] }
    }

    /// Over all utterances of `conversations` (indices into the corpus), labelled or not: unlabelled ones are
    /// read as history. Without any utterance it changes nothing: mean 0, deviation 1.
    pub fn fit(corpus: &Corpus, conversations: impl Iterator<Item = usize>) -> Self {
        let width = corpus.width();
        let conversations: Vec<usize> = conversations.collect();
        let rows = || {
            conversations.iter().flat_map(|&index| {
                let conversation = &corpus.conversations[index];
                let first = conversation.first * width;
                let last = first + conversation.utterances.len() * width;
                corpus.features[first..last].chunks_exact(width.max(1))
            })
        };
        let count = rows().count() as f64;
        let Some(first) = rows().next() else {
            return Self::none(width);
        };
        // Summed relative to the first row: a constant dimension then has the mean it has, to the last bit, and
        // a large offset common to all values costs no precision.
        let mut mean = vec![0.0; width];
        for row in rows() {
            for ((sum, value), origin) in mean.iter_mut().zip(row).zip(first) {
                *sum += value - origin;
            }
        }
        for (mean, origin) in mean.iter_mut().zip(first) {
            *mean = origin + *mean / count;
        }
        let mut deviation = vec![0.0; width];
        for row in rows() {
            for ((sum, value), mean) in deviation.iter_mut().zip(row).zip(&mean) {
                *sum += (value - mean).powi(2);
            }
        }
        for deviation in &mut deviation {
            let root = (*deviation / count).sqrt();
            *deviation = if root > 0.0 { root } else { 1.0 };
        }
        Standardisation { mean, deviation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic::{SyntheticOptions, generate};

    fn corpus(change: impl Fn(usize, usize) -> f64) -> Corpus {
        let mut corpus = generate(&SyntheticOptions::small());
        let width = corpus.width();
        for (index, value) in corpus.features.iter_mut().enumerate() {
            *value = change(index / width, index % width);
        }
        corpus
    }

    #[test]
    fn standardised_training_features_have_mean_0_and_deviation_1() {
        let corpus = generate(&SyntheticOptions::small());
        let width = corpus.width();
        let standardisation = Standardisation::fit(&corpus, [1, 4, 5].into_iter());
        let rows: Vec<usize> = [1, 4, 5]
            .iter()
            .flat_map(|&index| {
                let conversation = &corpus.conversations[index];
                conversation.first..conversation.first + conversation.utterances.len()
            })
            .collect();
        for column in 0..width {
            let values = rows.iter().map(|row| {
                let value = corpus.features[row * width + column];
                (value - standardisation.mean[column]) / standardisation.deviation[column]
            });
            let values: Vec<f64> = values.collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
            assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12, "{mean} {variance}");
        }
    }

    #[test]
    fn a_constant_dimension_keeps_deviation_1_and_becomes_0() {
        // 0.1 summed and divided again is not 0.1: a deviation of rounding errors would blow them up to 1.
        let corpus = corpus(|row, column| if column == 3 { 0.1 } else { (row * 7 % 5) as f64 });
        let standardisation = Standardisation::fit(&corpus, 0..corpus.conversations.len());
        assert_eq!((standardisation.mean[3], standardisation.deviation[3]), (0.1, 1.0));
        assert!(standardisation.deviation[0] > 1.0);
    }

    #[test]
    fn other_conversations_have_no_say() {
        let mut corpus = generate(&SyntheticOptions::small());
        let before = Standardisation::fit(&corpus, 0..2);
        let third = corpus.conversations[2].first * corpus.width();
        corpus.features[third..].fill(1e6);
        assert_eq!(before, Standardisation::fit(&corpus, 0..2));
    }

    #[test]
    fn nothing_to_fit_on_changes_nothing() {
        let corpus = generate(&SyntheticOptions::small());
        let none = Standardisation::fit(&corpus, std::iter::empty());
        assert!(none.mean.iter().all(|&mean| mean == 0.0));
        assert!(none.deviation.iter().all(|&deviation| deviation == 1.0));
    }
}
