//! What a finished run reports, and several of them together.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::progress::Stop;
use crate::metrics::Figures;
use crate::metrics::report::{Report, counted};
use crate::metrics::spread::Spread;

/// Of the best weights of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    pub seed: u64,
    pub best_epoch: usize,
    pub epochs: usize,
    pub stopped: Stop,
    pub validation: Report,
    /// `None` when the data have no labelled test utterance.
    pub test: Option<Report>,
}

impl RunReport {
    pub fn text(&self) -> String {
        let why = match self.stopped {
            Stop::Patience => "stopped early",
            Stop::Epochs => "all made",
        };
        let mut text = format!(
            "seed {}: {} ({why}), best validation loss in epoch {}\n\n",
            self.seed,
            counted(self.epochs, "epoch"),
            self.best_epoch
        );
        text.push_str(&self.validation.text());
        text.push('\n');
        match &self.test {
            Some(test) => text.push_str(&test.text()),
            None => text.push_str("test: the data have no labelled test utterance\n"),
        }
        text
    }
}

/// What a training of several runs comes to: a [`Summary`] or a [`SweepSummary`] of those that came to their end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Together<S> {
    #[serde(flatten)]
    pub summary: S,
    /// Folders of the runs that did not.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub left_out: Vec<String>,
}

impl<S> Together<S> {
    /// What follows the summary's text.
    pub fn left_out_text(&self) -> String {
        match self.left_out.as_slice() {
            [] => String::new(),
            left_out => format!("\nleft out, since not at their end: {}\n", listed(left_out)),
        }
    }
}

/// Names one behind the other; of many the first.
pub(super) fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    match names.len().checked_sub(MOST) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MOST].join(", ")),
    }
}

/// Several seeds of one configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub seeds: Vec<u64>,
    /// `test`, or `validation` where the data have no test conversations.
    pub split: String,
    pub accuracy: Spread,
    pub weighted_f1: Spread,
    pub macro_f1: Spread,
    pub weighted_precision: Spread,
    pub class_names: Vec<String>,
    /// By class.
    pub f1: Vec<Spread>,
    pub runs: Vec<RunReport>,
}

/// Combinations of swept settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepSummary {
    pub combinations: Vec<Combination>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Combination {
    /// `setting=value`, one behind the other.
    pub settings: String,
    pub summary: Summary,
}

impl SweepSummary {
    /// In percent, a line for each combination.
    pub fn text(&self) -> String {
        let longest = self.combinations.iter().map(|one| one.settings.len()).max().unwrap_or(0);
        let split = self.combinations.first().map_or("", |one| one.summary.split.as_str());
        let mut text = format!("{split}, mean and standard deviation over the seeds of each combination\n\n");
        let _ = writeln!(
            text,
            "{:longest$}  {:>5}  {:>14}  {:>14}  {:>14}",
            "", "seeds", "accuracy", "weighted F1", "macro F1"
        );
        for Combination { settings, summary } in &self.combinations {
            let spread =
                |spread: Spread| format!("{:.2} ± {:.2}", 100.0 * spread.mean, 100.0 * spread.deviation);
            let [accuracy, weighted, macro_f1] =
                [summary.accuracy, summary.weighted_f1, summary.macro_f1].map(spread);
            let _ = writeln!(
                text,
                "{settings:longest$}  {:>5}  {accuracy:>14}  {weighted:>14}  {macro_f1:>14}",
                summary.seeds.len()
            );
        }
        text
    }
}

impl Summary {
    /// Of runs over the same data; `None` of none.
    pub fn new(runs: Vec<RunReport>) -> Option<Self> {
        let reports: Vec<&Report> =
            runs.iter().map(|run| run.test.as_ref().unwrap_or(&run.validation)).collect();
        let first = reports.first()?;
        let over = |figure: &dyn Fn(&Figures) -> f64| {
            Spread::of(&reports.iter().map(|report| figure(&report.figures)).collect::<Vec<_>>())
        };
        Some(Summary {
            seeds: runs.iter().map(|run| run.seed).collect(),
            split: first.split.clone(),
            accuracy: over(&|figures| figures.accuracy),
            weighted_f1: over(&|figures| figures.weighted_f1),
            macro_f1: over(&|figures| figures.macro_f1),
            weighted_precision: over(&|figures| figures.weighted_precision),
            class_names: first.class_names.clone(),
            f1: (0..first.class_names.len())
                .map(|class| over(&|figures| figures.classes[class].f1))
                .collect(),
            runs: runs.clone(),
        })
    }

    /// In percent.
    pub fn text(&self) -> String {
        let seeds = counted(self.seeds.len(), "seed");
        let mut text = format!("{}, mean and standard deviation over {seeds}\n\n", self.split);
        let rows = [
            ("accuracy", self.accuracy),
            ("weighted F1", self.weighted_f1),
            ("macro F1", self.macro_f1),
            ("weighted precision", self.weighted_precision),
        ];
        let mut row = |name: &str, spread: &Spread| {
            // Writing to a String does not fail.
            let _ =
                writeln!(text, "{name:<20}  {:>6.2} ± {:.2}", 100.0 * spread.mean, 100.0 * spread.deviation);
        };
        for (name, spread) in &rows {
            row(name, spread);
        }
        for (name, spread) in self.class_names.iter().zip(&self.f1) {
            row(&format!("F1 {name}"), spread);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Confusion;

    fn run(seed: u64, right: usize, test: bool) -> RunReport {
        let report = |split: &str, right: usize| {
            let mut confusion = Confusion::new(2);
            (0..10).for_each(|index| confusion.add(0, usize::from(index >= right)));
            Report::new(split, 1, &["yes".into(), "no".into()], &confusion, 1.0)
        };
        RunReport {
            seed,
            best_epoch: 3,
            epochs: 13,
            stopped: Stop::Patience,
            validation: report("validation", 5),
            test: test.then(|| report("test", right)),
        }
    }

    #[test]
    fn several_seeds_are_reported_as_mean_and_deviation() {
        let summary = Summary::new(vec![run(1, 6, true), run(2, 8, true)]).unwrap();
        assert_eq!(summary.split, "test");
        assert!((summary.accuracy.mean - 0.7).abs() < 1e-15);
        assert!((summary.accuracy.deviation - 0.02f64.sqrt()).abs() < 1e-15);
        assert!(summary.text().contains("accuracy               70.00 ± 14.14\n"), "{}", summary.text());
        assert!(summary.text().contains("F1 no                   0.00 ± 0.00\n"), "{}", summary.text());
        assert_eq!(Summary::new(Vec::new()), None);
    }

    #[test]
    fn of_many_names_the_first_are_listed() {
        let names: Vec<String> = (1..=14).map(|seed| format!("seed-{seed}")).collect();
        assert_eq!(listed(&names[..2]), "seed-1, seed-2");
        assert!(listed(&names[..12]).ends_with(", seed-12"));
        assert!(listed(&names).ends_with(", seed-12 and 2 more"));
    }

    #[test]
    fn without_test_conversations_validation_is_reported() {
        let run = run(1, 0, false);
        assert!(run.text().ends_with("test: the data have no labelled test utterance\n"));
        let one = RunReport { epochs: 1, ..run.clone() };
        assert!(run.text().starts_with("seed 1: 13 epochs (") && one.text().starts_with("seed 1: 1 epoch ("));
        let summary = Summary::new(vec![run]).unwrap();
        assert!(summary.text().starts_with("validation, mean and standard deviation over 1 seed\n"));
        assert_eq!(summary.split, "validation");
        assert_eq!(summary.accuracy.mean, 0.5);
    }
}
