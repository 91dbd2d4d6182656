//! COIN's row of the paper's Table 1, recomputed from counts, and how its columns are to be read.
//!
//! The columns are mislabelled. True positives, predictions and supports below give every figure of the row, and
//! with them: the column "Acc." holds each class's *precision*; the average "Acc." is precision weighted by
//! support; and the average "F1" is the overall *accuracy*. The weighted F1 that the row really stands for is
//! [`Figures::weighted_f1`] of [`figures`].

use super::{Counts, Figures};

/// IEMOCAP's classes in the paper's order.
pub const CLASSES: [&str; 6] = ["happy", "sad", "neutral", "angry", "excited", "frustrated"];

const TRUE_POSITIVES: [u64; 6] = [51, 156, 248, 121, 206, 279];
const PREDICTIONS: [u64; 6] = [96, 182, 413, 182, 298, 452];
pub(super) const SUPPORTS: [u64; 6] = [144, 245, 384, 170, 299, 381];

/// The paper's classification of IEMOCAP's test set.
pub fn figures() -> Figures {
    let counts: Vec<Counts> = (0..CLASSES.len())
        .map(|class| Counts {
            true_positives: TRUE_POSITIVES[class],
            predictions: PREDICTIONS[class],
            support: SUPPORTS[class],
        })
        .collect();
    Figures::new(&counts)
}

/// Whether the paper's figures are of the same test set: these classes, and so many utterances of each.
pub fn compares_with(classes: &[String], supports: impl IntoIterator<Item = u64>) -> bool {
    classes == CLASSES && supports.into_iter().eq(SUPPORTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_give_every_figure_of_the_row() {
        let figures = figures();
        // To two decimals of a percent; 53.125 is the one that ends in the middle.
        let near = |value: f64, printed: f64| {
            assert!((100.0 * value - printed).abs() <= 0.005 + 1e-9, "{value} against {printed}");
        };
        let acc = [53.12, 85.71, 60.05, 66.48, 69.13, 61.73];
        let f1 = [42.50, 73.07, 62.23, 68.75, 69.01, 66.99];
        for (class, figures) in figures.classes.iter().enumerate() {
            near(figures.precision, acc[class]);
            near(figures.f1, f1[class]);
        }
        // Its average "Acc." and its average "F1".
        near(figures.weighted_precision, 66.05);
        near(figures.accuracy, 65.37);
        // What a reader should compare weighted and macro F1 with.
        near(figures.weighted_f1, 65.17);
        near(figures.macro_f1, 63.76);
    }

    #[test]
    fn the_counts_are_those_of_iemocaps_test_set() {
        assert_eq!(SUPPORTS.iter().sum::<u64>(), 1623);
        assert_eq!(PREDICTIONS.iter().sum::<u64>(), 1623);
        assert!(TRUE_POSITIVES.iter().zip(SUPPORTS).all(|(&right, support)| right <= support));
    }

    #[test]
    fn other_test_sets_are_not_compared() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(compares_with(&names(&CLASSES), SUPPORTS));
        assert!(!compares_with(&names(&CLASSES), [144, 245, 384, 170, 299, 380]));
        assert!(!compares_with(&names(&["sad", "happy"]), [144, 245]));
    }
}
