//! Runs trained into folders, and held against each other by what they left on disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coin::data::Corpus;
use coin::data::standardise::Standardisation;
use coin::error::{Error, Result};
use coin::metrics::Evaluation;
use coin::model::config::Config;
use coin::model::{Engine, Losses, Objective, Piece, Predictions, State, Step};
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

/// The engine with something going wrong after a number of training steps.
#[allow(dead_code, reason = "not in every test")]
pub struct Tampered {
    pub engine: Box<dyn Engine>,
    pub steps: usize,
    pub at: usize,
    pub what: Event,
}

#[allow(dead_code, reason = "not in every test")]
pub enum Event {
    Interrupt(Interrupt),
    /// Of the engine's run of this number.
    Diverge(usize),
    Fail,
}

impl Engine for Tampered {
    fn runs(&self) -> usize {
        self.engine.runs()
    }

    fn begin(
        &mut self,
        run: usize,
        config: &Config,
        standardisation: &Standardisation,
        corpus: &Corpus,
    ) -> Result<()> {
        self.engine.begin(run, config, standardisation, corpus)
    }

    fn train_steps(&mut self, steps: &[Option<Step>]) -> Result<()> {
        self.engine.train_steps(steps)?;
        self.steps += 1;
        match &self.what {
            Event::Interrupt(interrupt) if self.steps == self.at => interrupt.request(),
            Event::Fail if self.steps == self.at => {
                return Err(Error::System("the plug was pulled".to_string()));
            }
            _ => {}
        }
        Ok(())
    }

    fn time_steps(&mut self, steps: &[Option<Step>]) -> Result<f64> {
        self.engine.time_steps(steps)
    }

    fn profile_steps(&mut self, steps: &[Option<Step>]) -> Result<Vec<Piece>> {
        self.engine.profile_steps(steps)
    }

    fn losses_of(&mut self, run: usize, wait: bool) -> Result<Option<Losses>> {
        let losses = self.engine.losses_of(run, wait)?;
        let diverge =
            matches!(self.what, Event::Diverge(diverging) if diverging == run) && self.steps == self.at;
        Ok(losses.map(|losses| match diverge {
            true => Losses { adversarial: Some(f64::NAN), ..losses },
            false => losses,
        }))
    }

    fn set_losses(&mut self, run: usize, losses: Losses) -> Result<()> {
        self.engine.set_losses(run, losses)
    }

    fn evaluate_each(
        &mut self,
        targets: &[&[u32]],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Vec<Evaluation>>> {
        self.engine.evaluate_each(targets, interrupted)
    }

    fn predict_each(&mut self, targets: &[&[u32]]) -> Result<Vec<Predictions>> {
        self.engine.predict_each(targets)
    }

    fn state_of(&mut self, run: usize) -> Result<State> {
        self.engine.state_of(run)
    }

    fn restore_run(&mut self, run: usize, state: &State) -> Result<()> {
        self.engine.restore_run(run, state)
    }

    fn objective(&mut self, targets: &[u32]) -> Result<Objective> {
        self.engine.objective(targets)
    }

    fn set_corpus(&mut self, corpus: &Corpus) -> Result<()> {
        self.engine.set_corpus(corpus)
    }

    fn flops(&self) -> f64 {
        self.engine.flops()
    }
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
