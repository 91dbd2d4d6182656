//! `coin gradcheck`

use std::fmt::Write;

use super::model::Computing;
use super::output;
use crate::error::{Error, Result};
use crate::metrics::report::counted;
use crate::model::StepLoss;
use crate::model::device::{Compute, Device};
use crate::model::gradcheck::{self, Agreement, Case, Report};

/// Check the gradient of the whole objective against central differences, in float64
///
/// Every parameter tensor and the input features, over configurations that between them reach every branch of the
/// model. A row stands for all tensors that its pattern names: elements checked, the largest derivative among them
/// and the worst relative error.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coin gradcheck
  coin gradcheck --configuration dropout --seed 7

Exits with 1 when a relative error is above the tolerance.")]
pub struct Arguments {
    /// Seed of the data, the parameters and the dropout masks
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Largest relative error that passes [default: 1e-6; of a card's gradient, which is in float32, 1e-3]
    #[arg(long, value_name = "X")]
    tolerance: Option<f64>,
    /// Check this configuration alone
    #[arg(long, value_name = "NAME")]
    configuration: Option<String>,
    /// List the configurations and check nothing
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    computing: Computing,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { seed, tolerance, .. } = arguments;
    let Compute { device, threads } = arguments.computing.get();
    let tolerance = tolerance.unwrap_or(if device == Device::Cpu { 1e-6 } else { 1e-3 });
    if !(tolerance > 0.0 && tolerance.is_finite()) {
        return Err(Error::input(format!("--tolerance is {tolerance}; it must be above 0")));
    }
    let cases = match &arguments.configuration {
        Some(name) => vec![gradcheck::case(name)?],
        None => gradcheck::cases(),
    };
    if arguments.list {
        let lines = cases.iter().map(|case| format!("{:18} {}\n", case.name, case.what));
        output::print(&lines.collect::<String>())?;
        return Ok(());
    }
    let mut summary = Summary::default();
    for case in &cases {
        let report = match device {
            Device::Cpu => case.check(seed, threads)?,
            Device::Cuda(index) => case.check_on_card(seed, threads, index)?,
        };
        output::print(&text(case, &report, tolerance))?;
        summary.add(case, &report, tolerance);
    }
    output::print(&summary.conclude(cases.len(), tolerance)?)?;
    Ok(())
}

#[derive(Debug, Default)]
struct Summary {
    derivatives: usize,
    worst: f64,
    /// Tensors that fail, each with its configuration.
    failed: Vec<String>,
}

impl Summary {
    fn add(&mut self, case: &Case, report: &Report, tolerance: f64) {
        for agreement in &report.tensors {
            self.derivatives += agreement.elements;
            // A NaN is lost here, and found below.
            self.worst = self.worst.max(agreement.worst.relative);
            if !agreement.within(tolerance) {
                self.failed.push(format!("{} of {}", agreement.tensor, case.name));
            }
        }
    }

    /// The last line, or the error when a tensor failed.
    fn conclude(&self, configurations: usize, tolerance: f64) -> Result<String> {
        let Self { derivatives, worst, failed } = self;
        if failed.is_empty() {
            return Ok(format!(
                "{derivatives} derivatives in {}: the worst relative error is {worst:.1e}, the tolerance {tolerance:.0e}\n",
                counted(configurations, "configuration")
            ));
        }
        let shown = failed.len().min(5);
        let more = match failed.len() - shown {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(Error::System(format!(
            "the gradient disagrees with central differences by more than {tolerance:.0e} in {}{more}",
            failed[..shown].join(", ")
        )))
    }
}

/// The table of one configuration.
fn text(case: &Case, report: &Report, tolerance: f64) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    let StepLoss { clean, adversarial } = report.loss;
    let adversarial = adversarial.map_or_else(String::new, |adversarial| format!(" + {adversarial:.4}"));
    line(format_args!("{}: {}", case.name, case.what));
    line(format_args!("  {}, loss {clean:.4}{adversarial}", counted(report.samples, "sample")));
    line(format_args!("  {:34} {:>8}  {:>8}  {:>8}", "tensor", "elements", "largest", "worst"));
    for (pattern, tensors) in groups(&report.tensors) {
        let elements: usize = tensors.iter().map(|tensor| tensor.elements).sum();
        let largest = tensors.iter().map(|tensor| tensor.largest).fold(0.0, f64::max);
        let failed: Vec<_> = tensors.iter().filter(|tensor| !tensor.within(tolerance)).collect();
        let worst = tensors.iter().map(|tensor| tensor.worst.relative);
        let worst = worst.fold(0.0, |most: f64, x| if x.is_nan() { x } else { most.max(x) });
        let verdict = if failed.is_empty() { "ok" } else { "FAIL" };
        line(format_args!("  {pattern:34} {elements:>8}  {largest:>8.1e}  {worst:>8.1e}  {verdict}"));
        for Agreement { tensor, worst, .. } in failed {
            line(format_args!(
                "    {tensor}, element {}: the gradient says {:e}, differences {:e}",
                worst.element, worst.analytic, worst.differences
            ));
        }
    }
    line(format_args!(""));
    text
}

/// Tensors that one formula yields (both roles, both directions, every stack) under a pattern of their names.
fn groups(tensors: &[Agreement]) -> Vec<(String, Vec<&Agreement>)> {
    let mut groups: Vec<(String, Vec<&Agreement>)> = Vec::new();
    for tensor in tensors {
        let pattern = pattern(&tensor.tensor);
        match groups.iter_mut().find(|(known, _)| *known == pattern) {
            Some((_, group)) => group.push(tensor),
            None => groups.push((pattern, vec![tensor])),
        }
    }
    groups
}

fn pattern(name: &str) -> String {
    let mut parts: Vec<String> = name.split('.').map(String::from).collect();
    if let ["speaker_gru" | "interaction" | "context", ..] = name.split('.').collect::<Vec<_>>()[..] {
        parts[1] = "*".to_string();
    }
    let mut pattern = parts.join(".");
    if name.contains("gru") || name.starts_with("interaction") {
        pattern = format!("{}*", pattern.trim_end_matches("_reverse"));
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gradcheck::Worst;

    fn report(relative: f64) -> Report {
        let agreement = |tensor: &str, relative| Agreement {
            tensor: tensor.to_string(),
            elements: 12,
            largest: 0.25,
            worst: Worst { element: 3, analytic: 0.5, differences: 0.25, relative },
        };
        Report {
            samples: 4,
            loss: StepLoss { clean: 1.5, adversarial: Some(1.75) },
            tensors: vec![
                agreement("context.0.gru.weight_ih_l0", 1e-9),
                agreement("context.0.gru.weight_ih_l0_reverse", relative),
                agreement("features", 2e-9),
            ],
        }
    }

    fn conclude(relative: f64) -> (String, Result<String>) {
        let (case, report) = (&gradcheck::cases()[0], report(relative));
        let mut summary = Summary::default();
        summary.add(case, &report, 1e-6);
        (text(case, &report, 1e-6), summary.conclude(1, 1e-6))
    }

    #[test]
    fn agreement_is_reported() {
        let (text, result) = conclude(3e-8);
        assert!(text.contains("context.*.gru.weight_ih_l0*"), "{text}");
        assert!(text.contains("      24    2.5e-1    3.0e-8  ok\n"), "{text}");
        let last =
            "36 derivatives in 1 configuration: the worst relative error is 3.0e-8, the tolerance 1e-6\n";
        assert_eq!(result.as_deref(), Ok(last));
        assert!(!text.contains("FAIL"));
    }

    #[test]
    fn a_disagreement_fails_and_names_its_element() {
        for relative in [2e-6, f64::NAN, f64::INFINITY] {
            let (text, result) = conclude(relative);
            let error = result.unwrap_err();
            assert_eq!(error.exit_code(), 1);
            let message = error.to_string();
            assert!(message.ends_with("in context.0.gru.weight_ih_l0_reverse of paper"), "{message}");
            let element =
                "context.0.gru.weight_ih_l0_reverse, element 3: the gradient says 5e-1, differences 2.5e-1";
            assert!(text.contains("FAIL\n") && text.contains(element), "{text}");
        }
    }

    #[test]
    fn a_pattern_stands_for_the_tensors_of_one_formula() {
        for (name, expected) in [
            ("speaker_gru.b.bias_hh_l0_reverse", "speaker_gru.*.bias_hh_l0*"),
            ("interaction.a.weight", "interaction.*.weight*"),
            ("context.3.key.weight", "context.*.key.weight"),
            ("classifier.bias", "classifier.bias"),
            ("features", "features"),
        ] {
            assert_eq!(pattern(name), expected);
        }
    }
}
