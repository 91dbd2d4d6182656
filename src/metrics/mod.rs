//! Figures of a classification, from its confusion matrix.
//!
//! Where a figure divides by zero it is **0 by definition**: the precision of a class never predicted, the recall
//! of a class without support, the F1 of a class that is neither. Averages run over every class of the model,
//! those without support included, which weigh nothing in a weighted average.

pub mod paper;
pub mod report;
pub mod spread;

use serde::{Deserialize, Serialize};

/// How often each class was taken for each other: rows are the true classes, columns the predicted ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// A classification of utterances whose classes are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy; 0 of no utterance.
    pub loss: f64,
    pub confusion: Confusion,
}

/// What a class's figures are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub true_positives: u64,
    /// Utterances taken for this class.
    pub predictions: u64,
    /// Utterances of this class.
    pub support: u64,
}

/// Figures of one class, as fractions of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassFigures {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub support: u64,
    pub predictions: u64,
    pub true_positives: u64,
}

/// Figures of a whole classification, as fractions of 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Share of utterances classified rightly; the support-weighted recall is the same number.
    pub accuracy: f64,
    /// F1 of the classes, weighted by support.
    pub weighted_f1: f64,
    /// Plain mean of the classes' F1.
    pub macro_f1: f64,
    /// Precision of the classes, weighted by support.
    pub weighted_precision: f64,
    pub macro_precision: f64,
    pub macro_recall: f64,
    pub support: u64,
    pub classes: Vec<ClassFigures>,
}

impl Evaluation {
    pub fn figures(&self) -> Figures {
        Figures::new(&self.confusion.by_class())
    }
}

impl Confusion {
    pub fn new(classes: usize) -> Self {
        Confusion { classes, counts: vec![0; classes * classes] }
    }

    /// From counts by true class, then predicted class: `classes` x `classes` of them.
    pub fn from_counts(classes: usize, counts: Vec<u64>) -> Self {
        assert_eq!(counts.len(), classes * classes);
        Confusion { classes, counts }
    }

    /// Counts one utterance; both classes are below the number of classes.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        self.counts[truth * self.classes + predicted] += 1;
    }

    /// By true class, then predicted class.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks(self.classes.max(1))
    }

    pub fn by_class(&self) -> Vec<Counts> {
        (0..self.classes)
            .map(|class| Counts {
                true_positives: self.counts[class * self.classes + class],
                predictions: self.rows().map(|row| row[class]).sum(),
                support: self.counts[class * self.classes..][..self.classes].iter().sum(),
            })
            .collect()
    }
}

impl Figures {
    pub fn new(counts: &[Counts]) -> Self {
        let classes: Vec<ClassFigures> = counts
            .iter()
            .map(|count| ClassFigures {
                precision: ratio(count.true_positives as f64, count.predictions as f64),
                recall: ratio(count.true_positives as f64, count.support as f64),
                f1: ratio(2.0 * count.true_positives as f64, (count.predictions + count.support) as f64),
                support: count.support,
                predictions: count.predictions,
                true_positives: count.true_positives,
            })
            .collect();
        let support: u64 = counts.iter().map(|count| count.support).sum();
        let right: u64 = counts.iter().map(|count| count.true_positives).sum();
        let mean = |figure: fn(&ClassFigures) -> f64| {
            ratio(classes.iter().map(figure).sum::<f64>(), classes.len() as f64)
        };
        let weighted = |figure: fn(&ClassFigures) -> f64| {
            let sum: f64 = classes.iter().map(|class| figure(class) * class.support as f64).sum();
            ratio(sum, support as f64)
        };
        Figures {
            accuracy: ratio(right as f64, support as f64),
            weighted_f1: weighted(|class| class.f1),
            macro_f1: mean(|class| class.f1),
            weighted_precision: weighted(|class| class.precision),
            macro_precision: mean(|class| class.precision),
            macro_recall: mean(|class| class.recall),
            support,
            classes,
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

/// The class with the largest logit, the first of equals.
pub fn largest(logits: &[f64]) -> usize {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = class;
        }
    }
    best
}

/// Probabilities of the classes: softmax of the logits.
pub fn probabilities(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|logit| (logit - top).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|value| value / sum).collect()
}

/// Cross-entropy of one utterance of class `class`.
pub fn cross_entropy(logits: &[f64], class: usize) -> f64 {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
    top + sum.ln() - logits[class]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_matrix() {
        let mut confusion = Confusion::new(3);
        // Two of class 0 right, one of class 0 taken for 1, three of class 1 right, one of class 1 taken for 0;
        // class 2 is neither there nor predicted.
        for (truth, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (1, 1), (1, 0)] {
            confusion.add(truth, predicted);
        }
        assert_eq!(
            confusion.rows().map(<[u64]>::to_vec).collect::<Vec<_>>(),
            [[2, 1, 0], [1, 3, 0], [0, 0, 0]]
        );
        let figures = Figures::new(&confusion.by_class());
        let near =
            |value: f64, expected: f64| assert!((value - expected).abs() < 1e-15, "{value} {expected}");
        near(figures.accuracy, 5.0 / 7.0);
        near(figures.classes[0].precision, 2.0 / 3.0);
        near(figures.classes[0].recall, 2.0 / 3.0);
        near(figures.classes[0].f1, 2.0 / 3.0);
        near(figures.classes[1].precision, 3.0 / 4.0);
        near(figures.classes[1].f1, 3.0 / 4.0);
        assert_eq!(
            [figures.classes[2].precision, figures.classes[2].recall, figures.classes[2].f1],
            [0.0; 3]
        );
        near(figures.weighted_f1, (3.0 * 2.0 / 3.0 + 4.0 * 0.75) / 7.0);
        near(figures.macro_f1, (2.0 / 3.0 + 0.75) / 3.0);
        assert_eq!(figures.support, 7);
    }

    #[test]
    fn nothing_at_all_is_zero_everywhere() {
        for classes in [0, 4] {
            let figures = Figures::new(&Confusion::new(classes).by_class());
            assert_eq!((figures.accuracy, figures.weighted_f1, figures.macro_f1), (0.0, 0.0, 0.0));
            assert_eq!((figures.weighted_precision, figures.macro_precision), (0.0, 0.0));
        }
    }

    #[test]
    fn cross_entropy_is_minus_the_logarithm_of_the_probability() {
        let logits = [0.3, -1.2, 2.5, 0.0];
        let probabilities = probabilities(&logits);
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        for (class, probability) in probabilities.iter().enumerate() {
            assert!((cross_entropy(&logits, class) + probability.ln()).abs() < 1e-14);
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let logits = [1000.0, 0.0, -1000.0];
        assert_eq!(probabilities(&logits), [1.0, 0.0, 0.0]);
        assert_eq!(cross_entropy(&logits, 0), 0.0);
        assert_eq!(cross_entropy(&logits, 2), 2000.0);
    }

    #[test]
    fn equals_go_to_the_first() {
        assert_eq!(largest(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(largest(&[0.0, 0.0]), 0);
    }
}
