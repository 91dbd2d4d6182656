//! The runs that settings ask for: seeds, and every combination of swept values.
//!
//! Only what a model has of its own beside others of its shape can be swept, so that the runs can be trained side by side.

use super::settings::{Layer, RunSettings, Settings, canonical};
use crate::error::{Error, Result};
use crate::model::config::Config;

/// What can be swept.
pub const SWEPT: [&str; 4] = ["epsilon", "dropout_keep", "learning_rate", "seed"];

/// Runs of one training at most.
const MOST: usize = 10_000;

/// One of the runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its folder's name in the folder of all; empty where it is the only one.
    pub name: String,
    /// What tells its combination of swept values from the others, seeds aside; empty without a sweep.
    pub combination: String,
    /// Of this run alone.
    pub settings: Settings,
}

/// All runs; of `seeds`, those of a combination one behind the other.
pub fn runs(settings: &Settings) -> Result<Vec<Planned>> {
    let mut runs = Vec::new();
    let seeds = settings.run.seeds as u64;
    for (values, config) in combinations(settings)? {
        let combination = named(values.iter().filter(|(key, _)| *key != "seed"));
        for seed in config.seed..config.seed + seeds {
            let mut values = values.clone();
            if seeds > 1 {
                values.push(("seed", seed.to_string()));
            }
            let name = match (settings.run.sweep.is_empty(), seeds) {
                (true, 1) => String::new(),
                (true, _) => format!("seed-{seed}"),
                (false, _) => named(values.iter()),
            };
            let run = RunSettings { seeds: 1, sweep: Vec::new(), at_once: None, ..settings.run.clone() };
            let config = Config { seed, ..config.clone() };
            runs.push(Planned { name, combination: combination.clone(), settings: Settings { run, config } });
        }
    }
    Ok(runs)
}

/// Refuses a sweep that cannot be made.
pub fn check(settings: &Settings) -> Result<()> {
    if settings.run.sweep.is_empty() { Ok(()) } else { combinations(settings).map(drop) }
}

fn named<'a>(values: impl Iterator<Item = &'a (&'static str, String)>) -> String {
    values.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Values by setting, in the order given, with the configuration that they make; the last setting changes first.
type Combination = (Vec<(&'static str, String)>, Config);

fn combinations(settings: &Settings) -> Result<Vec<Combination>> {
    let mut combinations: Vec<Combination> = vec![(Vec::new(), settings.config.clone())];
    for text in &settings.run.sweep {
        let wrong = |what: String| Error::input(format!("sweep {text}: {what}"));
        let (key, values) = text
            .split_once('=')
            .ok_or_else(|| wrong("write a setting and its values, as in epsilon=1,3,5".to_string()))?;
        let key = canonical(key.trim()).map_err(|error| wrong(error.to_string()))?;
        if !SWEPT.contains(&key) {
            return Err(wrong(format!(
                "{key} cannot be swept, only {} can: train the others one after the other",
                SWEPT.join(", ")
            )));
        }
        if key == "epsilon" && !settings.config.adversarial {
            return Err(wrong(
                "without the adversarial pass epsilon changes nothing, and all runs would be the same: set adversarial to \
                 true, or leave this sweep out"
                    .to_string(),
            ));
        }
        if key == "seed" && settings.run.seeds > 1 {
            return Err(wrong(format!("seeds is {} besides: give one of the two", settings.run.seeds)));
        }
        if combinations[0].0.iter().any(|(other, _)| *other == key) {
            return Err(wrong(format!("{key} is swept twice")));
        }
        let values: Vec<&str> = values.split(',').map(str::trim).collect();
        if combinations.len() * values.len() * settings.run.seeds > MOST {
            return Err(wrong(format!("more than {MOST} runs")));
        }
        let mut more = Vec::with_capacity(combinations.len() * values.len());
        for (before, config) in combinations {
            for value in &values {
                let mut layer = Layer::default();
                layer.set_text(key, value).map_err(|error| wrong(error.to_string()))?;
                let config = layer.over(&config).map_err(|error| wrong(error.to_string()))?;
                if config.seed > i64::MAX as u64 - settings.run.seeds as u64 {
                    return Err(wrong(format!("seed {} is too large", config.seed)));
                }
                let mut all = before.clone();
                all.push((key, written(key, &config)));
                if more.iter().any(|(others, _)| *others == all) {
                    return Err(wrong(format!("{value} is given twice")));
                }
                more.push((all, config));
            }
        }
        combinations = more;
    }
    Ok(combinations)
}

/// A swept setting's value as folders are named.
fn written(key: &str, config: &Config) -> String {
    let number = |value: f64| {
        // Without the sign of -0.
        let value = value + 0.0;
        match value == 0.0 || (1e-5..1e7).contains(&value.abs()) {
            true => value.to_string(),
            false => format!("{value:e}"),
        }
    };
    match key {
        "epsilon" => number(config.epsilon),
        "dropout_keep" => number(config.dropout_keep),
        "learning_rate" => number(config.learning_rate),
        _ => config.seed.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(sweep: &[&str], seeds: usize) -> Settings {
        let sweep = sweep.iter().map(ToString::to_string).collect();
        let run = RunSettings { seeds, sweep, at_once: Some(3), ..RunSettings::default() };
        Settings { run, ..Settings::default() }
    }

    fn names(sweep: &[&str], seeds: usize) -> Vec<String> {
        runs(&settings(sweep, seeds)).unwrap().into_iter().map(|run| run.name).collect()
    }

    #[test]
    fn runs_are_named_after_what_tells_them_apart() {
        assert_eq!(names(&[], 1), [""]);
        assert_eq!(names(&[], 3), ["seed-1", "seed-2", "seed-3"]);
        assert_eq!(names(&["eps=1,3.50"], 1), ["epsilon=1", "epsilon=3.5"]);
        assert_eq!(names(&["seed=7,2"], 1), ["seed=7", "seed=2"]);
        assert_eq!(
            names(&["epsilon=1,3", "dropout_keep= 0.3, 0.70"], 2),
            [
                "epsilon=1,dropout_keep=0.3,seed=1",
                "epsilon=1,dropout_keep=0.3,seed=2",
                "epsilon=1,dropout_keep=0.7,seed=1",
                "epsilon=1,dropout_keep=0.7,seed=2",
                "epsilon=3,dropout_keep=0.3,seed=1",
                "epsilon=3,dropout_keep=0.3,seed=2",
                "epsilon=3,dropout_keep=0.7,seed=1",
                "epsilon=3,dropout_keep=0.7,seed=2",
            ]
        );
    }

    #[test]
    fn a_run_has_its_own_settings_and_is_of_the_shape_of_all() {
        let all = settings(&["learning_rate=0.01,0.1", "epsilon=2"], 2);
        let runs = runs(&all).unwrap();
        let last = &runs[3];
        assert_eq!(last.combination, "learning_rate=0.1,epsilon=2");
        let Config { seed, learning_rate, epsilon, .. } = last.settings.config;
        assert_eq!((seed, learning_rate, epsilon), (2, 0.1, 2.0));
        assert_eq!(last.settings.run, RunSettings::default());
        assert!(runs.iter().all(|run| run.settings.config.same_shape(&all.config)));
    }

    #[test]
    fn what_would_train_the_same_run_again_is_refused() {
        let mut settings = settings(&["dropout_keep=0.5,0.7", "eps=1,3"], 1);
        assert_eq!(runs(&settings).unwrap().len(), 4);
        settings.config.adversarial = false;
        let error = check(&settings).unwrap_err();
        let expected = "sweep eps=1,3: without the adversarial pass epsilon changes nothing";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
        settings.run.sweep.pop();
        assert_eq!(runs(&settings).unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_swept_is_refused() {
        for (sweep, seeds, expected) in [
            (vec!["epsilon"], 1, "sweep epsilon: write a setting and its values, as in epsilon=1,3,5"),
            (vec!["stacks=1,2"], 1, "sweep stacks=1,2: stacks cannot be swept, only epsilon, dropout_keep,"),
            (vec!["colour=1"], 1, "sweep colour=1: unknown setting \"colour\""),
            (vec!["epsilon=1,x"], 1, "sweep epsilon=1,x: epsilon is a number, not \"x\""),
            (vec!["epsilon="], 1, "epsilon is a number, not \"\""),
            (vec!["dropout_keep=0.5,2"], 1, "dropout_keep is 2; it must be above 0, at most 1"),
            (vec!["epsilon=1,1.0"], 1, "1.0 is given twice"),
            (vec!["epsilon=1", "eps=2"], 1, "sweep eps=2: epsilon is swept twice"),
            (vec!["seed=1,2"], 2, "sweep seed=1,2: seeds is 2 besides: give one of the two"),
            (vec!["epsilon=1,2"], 6000, "more than 10000 runs"),
        ] {
            let error = check(&settings(&sweep, seeds)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
