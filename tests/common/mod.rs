//! Runs trained into folders, and held against each other by what they left on disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coin::data::Corpus;
use coin::error::Result;
use coin::model::Engine;
use coin::model::config::Config;
use coin::training::checkpoint::Checkpoint;
use coin::training::display::Display;
use coin::training::interrupt::Interrupt;
use coin::training::progress::EpochRecord;
use coin::training::run_folder::RunFolder;
use coin::training::settings::Settings;
use coin::training::setup::Setup;
use coin::training::trainer::{Outcome, Queue, Run, Surroundings, train};

/// Trains runs, by configuration and folder, as many at once as the engine has room for, from where each stands; how each ended,
/// and an error where training did. `always_save`: after every step.
#[allow(dead_code, reason = "not in every test")]
pub fn together(
    engine: &mut dyn Engine,
    corpus: &Corpus,
    runs: &[(Config, PathBuf)],
    always_save: bool,
    interrupt: &Interrupt,
) -> Result<Vec<Outcome>> {
    struct Given<'a> {
        corpus: &'a Corpus,
        runs: std::iter::Enumerate<std::slice::Iter<'a, (Config, PathBuf)>>,
        ended: Vec<Option<Outcome>>,
    }
    impl<'a> Queue<'a> for Given<'a> {
        fn next(&mut self) -> Result<Option<Run<'a>>> {
            let Some((index, (config, path))) = self.runs.next() else { return Ok(None) };
            let folder = if RunFolder::exists(path) {
                RunFolder::open(path)?.0
            } else {
                let settings = Settings { config: config.clone(), ..Settings::default() };
                RunFolder::create(path, &settings)?
            };
            let setup = Setup::new(config.clone(), self.corpus, &self.corpus.fingerprint())?;
            Ok(Some(Run { index, dtype: setup.config.dtype, setup, folder, label: String::new() }))
        }

        fn ended(&mut self, run: Run<'a>, outcome: Outcome) -> Result<()> {
            self.ended[run.index] = Some(outcome);
            Ok(())
        }
    }
    let mut given =
        Given { corpus, runs: runs.iter().enumerate(), ended: runs.iter().map(|_| None).collect() };
    let cadence = always_save.then_some(Duration::ZERO);
    let surroundings = Surroundings { cadence, display: &Display::new(true), interrupt };
    train(engine, &mut given, surroundings)?;
    Ok(given.ended.into_iter().flatten().collect())
}

pub fn metrics(path: &Path) -> Vec<EpochRecord> {
    let text = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn without_times(mut records: Vec<EpochRecord>) -> Vec<EpochRecord> {
    for record in &mut records {
        record.time.seconds = 0.0;
        record.time.utterances_per_second = 0.0;
    }
    records
}

pub fn last(path: &Path) -> Checkpoint {
    let mut last = Checkpoint::read(&path.join("last.safetensors")).unwrap();
    let progress = &mut last.training.as_mut().unwrap().progress;
    progress.history = without_times(std::mem::take(&mut progress.history));
    last
}

/// Both runs left the same on disk: the same bytes but for the times.
pub fn assert_same_run(one: &Path, two: &Path) {
    assert_eq!(without_times(metrics(one)), without_times(metrics(two)));
    for name in ["best.safetensors", "report.json", "report.txt", "config.toml"] {
        assert!(
            std::fs::read(one.join(name)).unwrap() == std::fs::read(two.join(name)).unwrap(),
            "{name} differs"
        );
    }
    assert_eq!(last(one), last(two));
}
