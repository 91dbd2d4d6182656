//! What is reported of a classification, as text for people and as JSON for programs.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::{ClassFigures, Confusion, Figures, paper};

/// A classification of one split of some data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `train`, `validation` or `test`.
    pub split: String,
    pub conversations: usize,
    /// Names of the classes, in the order of `figures.classes` and of the matrix.
    pub class_names: Vec<String>,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    pub figures: Figures,
    /// Rows are the true classes, columns the predicted ones.
    pub confusion_matrix: Vec<Vec<u64>>,
}

impl Report {
    pub fn new(
        split: &str,
        conversations: usize,
        class_names: &[String],
        confusion: &Confusion,
        loss: f64,
    ) -> Self {
        Report {
            split: split.to_string(),
            conversations,
            class_names: class_names.to_vec(),
            loss,
            figures: Figures::new(&confusion.by_class()),
            confusion_matrix: confusion.rows().map(<[u64]>::to_vec).collect(),
        }
    }

    /// The paper's figures, where they are of the same utterances: IEMOCAP's test set.
    pub fn beside_paper(&self) -> Option<Figures> {
        let supports = self.figures.classes.iter().map(|class| class.support);
        let same = self.split == "test" && paper::compares_with(&self.class_names, supports);
        same.then(paper::figures)
    }

    /// The tables, in percent. Beside a test on IEMOCAP stand the paper's columns.
    pub fn text(&self) -> String {
        let Figures { accuracy, weighted_f1, macro_f1, support, .. } = self.figures;
        let mut text = format!(
            "{}: {}, mean loss {:.4}\n\n",
            self.split,
            amount(support as usize, self.conversations),
            self.loss
        );
        let paper = self.beside_paper();
        self.class_table(&mut text, paper.as_ref());
        line(
            &mut text,
            format_args!(
                "\naccuracy {:.2}   weighted F1 {:.2}   macro F1 {:.2}",
                100.0 * accuracy,
                100.0 * weighted_f1,
                100.0 * macro_f1
            ),
        );
        if let Some(paper) = &paper {
            paper_note(&mut text, paper);
        }
        self.matrix(&mut text);
        text
    }

    fn class_table(&self, text: &mut String, paper: Option<&Figures>) {
        let width = self.name_width();
        let head = |text: &mut String, right: &str| {
            line(
                text,
                format_args!(
                    "{:width$}  {:>9}  {:>6}  {:>6}  {:>7}{right}",
                    "", "precision", "recall", "F1", "support"
                ),
            );
        };
        let row = |text: &mut String, name: &str, ours: [f64; 3], support: u64, theirs: Option<[f64; 3]>| {
            let [precision, recall, f1] = ours.map(|figure| 100.0 * figure);
            let right = theirs.map_or_else(String::new, |theirs| {
                let [acc, recall, f1] = theirs.map(|figure| 100.0 * figure);
                format!("  |  {acc:>6.2}  {recall:>6.2}  {f1:>6.2}")
            });
            line(
                text,
                format_args!(
                    "{name:width$}  {precision:>9.2}  {recall:>6.2}  {f1:>6.2}  {support:>7}{right}"
                ),
            );
        };
        let of_class = |class: &ClassFigures| [class.precision, class.recall, class.f1];
        head(text, if paper.is_some() { "  |  \"Acc.\"  recall    \"F1\"" } else { "" });
        for (index, class) in self.figures.classes.iter().enumerate() {
            let theirs = paper.map(|paper| of_class(&paper.classes[index]));
            row(text, &self.class_names[index], of_class(class), class.support, theirs);
        }
        let ours = &self.figures;
        row(
            text,
            "macro average",
            [ours.macro_precision, ours.macro_recall, ours.macro_f1],
            ours.support,
            paper.map(|paper| [paper.macro_precision, paper.macro_recall, paper.macro_f1]),
        );
        row(
            text,
            "weighted average",
            [ours.weighted_precision, ours.accuracy, ours.weighted_f1],
            ours.support,
            paper.map(|paper| [paper.weighted_precision, paper.accuracy, paper.weighted_f1]),
        );
        if let Some(paper) = paper {
            // The row as the paper prints it: its average "F1" is the accuracy.
            let label = format!("{:width$}  as the paper prints its average", "");
            let column = width + 2 + 9 + 2 + 6 + 2 + 6 + 2 + 7;
            line(
                text,
                format_args!(
                    "{label:column$}  |  {:>6.2}  {:>6}  {:>6.2}",
                    100.0 * paper.weighted_precision,
                    "",
                    100.0 * paper.accuracy
                ),
            );
        }
    }

    fn matrix(&self, text: &mut String) {
        let width = self.name_width();
        let cell = self.class_names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(6);
        line(text, format_args!("\nconfusion matrix (rows: true class, columns: predicted class)\n"));
        let names: String = self.class_names.iter().map(|name| format!("  {name:>cell$}")).collect();
        line(text, format_args!("{:width$}{names}", ""));
        for (name, row) in self.class_names.iter().zip(&self.confusion_matrix) {
            let counts: String = row.iter().map(|count| format!("  {count:>cell$}")).collect();
            line(text, format_args!("{name:width$}{counts}"));
        }
    }

    fn name_width(&self) -> usize {
        let names = self.class_names.iter().map(|name| name.chars().count());
        names.max().unwrap_or(0).max("weighted average".len())
    }
}

/// So many utterances in so many conversations, in words.
pub fn amount(utterances: usize, conversations: usize) -> String {
    format!("{} in {}", counted(utterances, "utterance"), counted(conversations, "conversation"))
}

/// So many of what has this name in the singular.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn paper_note(text: &mut String, paper: &Figures) {
    line(
        text,
        format_args!(
            "paper: accuracy {:.2}   weighted F1 {:.2}   macro F1 {:.2}\n\n\
             The columns right of the bar are the paper's Table 1 for COIN on IEMOCAP's test set. Its columns are\n\
             mislabelled: \"Acc.\" is precision, the average \"Acc.\" {:.2} is support-weighted precision, and the\n\
             average \"F1\" {:.2} is overall accuracy. Its weighted F1 is {:.2}.",
            100.0 * paper.accuracy,
            100.0 * paper.weighted_f1,
            100.0 * paper.macro_f1,
            100.0 * paper.weighted_precision,
            100.0 * paper.accuracy,
            100.0 * paper.weighted_f1,
        ),
    );
}

/// Writing to a `String` does not fail.
fn line(text: &mut String, arguments: std::fmt::Arguments) {
    let _ = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(split: &str, names: &[&str]) -> Report {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut confusion = Confusion::new(names.len());
        confusion.add(0, 0);
        confusion.add(0, 1);
        confusion.add(1, 1);
        confusion.add(1, 1);
        Report::new(split, 2, &names, &confusion, 0.5)
    }

    /// Of as many utterances of each class as IEMOCAP's test set has, all of them right.
    fn of_iemocap(split: &str) -> Report {
        let names = paper::CLASSES.map(String::from);
        let mut confusion = Confusion::new(names.len());
        for (class, support) in paper::SUPPORTS.into_iter().enumerate() {
            (0..support).for_each(|_| confusion.add(class, class));
        }
        Report::new(split, 31, &names, &confusion, 0.5)
    }

    #[test]
    fn the_text_holds_the_table_and_the_matrix() {
        let text = report("test", &["yes", "no"]).text();
        let expected = "test: 4 utterances in 2 conversations, mean loss 0.5000

                  precision  recall      F1  support
yes                  100.00   50.00   66.67        2
no                    66.67  100.00   80.00        2
macro average         83.33   75.00   73.33        4
weighted average      83.33   75.00   73.33        4

accuracy 75.00   weighted F1 73.33   macro F1 73.33

confusion matrix (rows: true class, columns: predicted class)

                     yes      no
yes                    1       1
no                     0       2
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_papers_columns_line_up_beside_iemocaps() {
        let text = of_iemocap("test").text();
        let at_bar: Vec<Option<usize>> = text.lines().skip(2).take(10).map(|line| line.find('|')).collect();
        assert!(at_bar.iter().all(|bar| bar.is_some() && *bar == at_bar[0]), "{text}");
        assert!(text.contains("|   53.12   35.42   42.50\n"), "{text}");
        assert!(text.contains("|   66.05           65.37\n"), "{text}");
        assert!(text.contains("paper: accuracy 65.37   weighted F1 65.17   macro F1 63.76"), "{text}");
    }

    #[test]
    fn the_paper_is_beside_its_own_test_set_only() {
        assert!(of_iemocap("test").text().contains("paper"));
        assert!(!of_iemocap("validation").text().contains("paper"));
        // Other conversations with the same classes, the synthetic ones for example.
        assert!(!report("test", &paper::CLASSES).text().contains("paper"));
    }

    #[test]
    fn json_is_read_back_as_written() {
        let report = report("validation", &["yes", "no"]);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
