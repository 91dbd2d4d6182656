//! Two runs of `coin bench`, measurement by measurement.
//!
//! A measurement has changed where the medians differ by more than the noise: twice the deviation of their difference, as the
//! quartiles of both runs tell it, and never less than two in a hundred, or than a microsecond for each launch, which is what events
//! tell apart. What was timed fewer than three times is not judged.

use std::fmt::Write;
use std::path::Path;

use super::report::{Measurement, Report, seconds};
use super::statistics::Times;
use crate::error::{Error, Result};
use crate::model::config::Config;

/// Changes below this share of the time are not told.
const SHARE: f64 = 0.02;
/// Nor below this for each launch, in seconds.
const RESOLUTION: f64 = 1e-6;
/// The fewest repeats that have a spread.
const REPEATS: usize = 3;

/// What comparing said.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub text: String,
    /// Whether anything got slower beyond the noise.
    pub slower: bool,
}

/// Compares the files of two runs.
///
/// # Errors
/// When one is no report, or the runs did not compute the same.
pub fn compare_files(old: &Path, new: &Path) -> Result<Comparison> {
    let (first, second) = (Report::read(old)?, Report::read(new)?);
    compare(&first, &second)
        .map_err(|error| Error::input(format!("{} and {}: {error}", old.display(), new.display())))
}

/// The difference beyond which two times are not the same.
fn noise(old: Times, new: Times, launches: usize) -> f64 {
    let spread = 2.0 * old.deviation().hypot(new.deviation());
    spread.max(SHARE * old.median).max(RESOLUTION * launches.max(1) as f64)
}

fn compare(old: &Report, new: &Report) -> Result<Comparison> {
    comparable(old, new)?;
    let mut changed: Vec<(f64, String)> = Vec::new();
    let (mut slower, mut faster, mut same, mut unjudged, mut gone) = (0, 0, 0, 0, 0);
    for Measurement { of, times, launches, .. } in &old.measurements {
        let Some(now) = new.measurements.iter().find(|measurement| measurement.of == *of) else {
            gone += 1;
            continue;
        };
        if times.repeats < REPEATS || now.times.repeats < REPEATS {
            unjudged += 1;
            continue;
        }
        let difference = now.times.median - times.median;
        let noise = noise(*times, now.times, launches.unwrap_or(1));
        if difference.abs() <= noise {
            same += 1;
            continue;
        }
        let word = if difference > 0.0 { "slower" } else { "faster" };
        *(if difference > 0.0 { &mut slower } else { &mut faster }) += 1;
        let line = format!(
            "{word}  {:>9} -> {:>9}  {:>+7.1}%, noise {:.1}%  {of}",
            seconds(times.median),
            seconds(now.times.median),
            100.0 * difference / times.median,
            100.0 * noise / times.median
        );
        changed.push((difference, line));
    }
    let fresh = new.measurements.iter().filter(|now| old.measurements.iter().all(|m| m.of != now.of)).count();
    // What costs most comes first, what gains most last.
    changed.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut text = String::new();
    for (name, report) in [("old", old), ("new", new)] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: coin {}, {}, {}", report.version, report.date, device(report));
    }
    if device(old) != device(new) {
        text.push_str("the machines differ: what changed may be theirs\n");
    }
    for (ceiling, before, now) in [
        ("copies", old.ceilings.bytes, new.ceilings.bytes),
        ("multiply-adds", Some(old.ceilings.fma), Some(new.ceilings.fma)),
        ("tensor cores", old.ceilings.tensor, new.ceilings.tensor),
    ] {
        if let (Some(before), Some(now)) = (before, now)
            && (now / before - 1.0).abs() > 0.05
        {
            let change = 100.0 * (now / before - 1.0);
            let _ = writeln!(
                text,
                "the device itself changed: {change:+.1}% at {ceiling} (its clock, or its neighbours)"
            );
        }
    }
    for (_, line) in &changed {
        text.push_str(line);
        text.push('\n');
    }
    let _ = write!(text, "{slower} slower, {faster} faster, {same} the same within the noise");
    for (count, what) in [
        (unjudged, "timed too few times to judge"),
        (gone, "in the old file alone"),
        (fresh, "in the new file alone"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text.push('\n');
    Ok(Comparison { text, slower: slower > 0 })
}

/// What computed, in words.
fn device(report: &Report) -> String {
    let machine = &report.machine;
    match (&machine.card, machine.threads) {
        (Some(card), _) => {
            format!("{}, driver {}", card.name, card.driver.as_deref().unwrap_or("of unknown version"))
        }
        (None, threads) => format!("{}, {} threads", machine.processor, threads.unwrap_or(1)),
    }
}

/// Refuses runs whose work was not the same.
fn comparable(old: &Report, new: &Report) -> Result<()> {
    let differ = |what: &str, old: String, new: String| {
        Err(Error::input(format!(
            "they cannot be compared: {what} is {old} in the one and {new} in the other"
        )))
    };
    // Precision and passes are told of each measurement.
    let plain = |config: &Config| {
        let table = serde_json::to_value(Config {
            dtype: Config::default().dtype,
            adversarial: Config::default().adversarial,
            ..config.clone()
        });
        table.map_err(|error| Error::System(format!("cannot write as JSON: {error}")))
    };
    let (before, now) = (plain(&old.settings)?, plain(&new.settings)?);
    if let (Some(before), Some(now)) = (before.as_object(), now.as_object()) {
        for (key, value) in before {
            if now.get(key) != Some(value) {
                let other = now.get(key).map_or("not set".to_string(), ToString::to_string);
                return differ(key, value.to_string(), other);
            }
        }
    }
    let sizes = |report: &Report| {
        let data = &report.data;
        [
            ("the number of utterances", data.utterances),
            ("the number of conversations", data.conversations),
            ("the number of features", data.features),
            ("the number of classes", data.classes),
        ]
    };
    for ((what, before), (_, now)) in sizes(old).into_iter().zip(sizes(new)) {
        if before != now {
            return differ(what, before.to_string(), now.to_string());
        }
    }
    if old.machine.card.is_some() != new.machine.card.is_some() {
        let word =
            |report: &Report| if report.machine.card.is_some() { "a card" } else { "the CPU" }.to_string();
        return differ("the device", word(old), word(new));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_largest_of_three() {
        let times = |median: f64, half: f64| Times {
            median,
            low: median - half,
            high: median + half,
            p99: None,
            repeats: 10,
        };
        // Quartiles one apart from the median: 2 * sqrt(2) * 2 / 1.349.
        assert!((noise(times(10.0, 1.0), times(12.0, 1.0), 1) - 4.193).abs() < 1e-3);
        assert_eq!(noise(times(10.0, 0.0), times(12.0, 0.0), 1), 0.2);
        assert_eq!(noise(times(1e-5, 0.0), times(1e-5, 0.0), 3), 3e-6);
    }
}
