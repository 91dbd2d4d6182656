//! The loop: epochs of steps, validation after each, checkpoints on the way, the report at the end.
//!
//! A run can be cut at any moment, by a signal or without warning, and resumed to the same bits: everything it
//! depends on is in `last.safetensors`, and what was written after that is written again. Within an epoch's end
//! the order is best weights, metrics, last checkpoint; a run cut between them makes the epoch's end once more.

use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, Training};
use super::display::Display;
use super::evaluation::evaluate;
use super::interrupt::Interrupt;
use super::progress::{EpochRecord, Progress, Time};
use super::report::RunReport;
use super::run_folder::RunFolder;
use super::setup::Setup;
use super::{batches, schedule};
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::metrics::report::Report;
use crate::model::config::Precision;
use crate::model::{Engine, Losses};

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Finished(Box<RunReport>),
    /// Saved after `steps` steps of `epoch`.
    Interrupted {
        epoch: usize,
        steps: usize,
    },
}

/// What a run needs besides the engine it trains.
pub struct Surroundings<'a> {
    pub setup: &'a Setup<'a>,
    pub folder: &'a RunFolder,
    /// Time between two checkpoints within an epoch; `None`: at its end only.
    pub cadence: Option<Duration>,
    pub display: &'a mut Display,
    pub interrupt: &'a Interrupt,
}

/// Trains from where the folder's last checkpoint stands, or from the engine's fresh parameters, to the end.
pub fn train(engine: &mut dyn Engine, surroundings: Surroundings) -> Result<Outcome> {
    let setup = surroundings.setup;
    let mut trainer = Trainer {
        train: setup.targets(&setup.partition.train),
        validation: setup.targets(&setup.partition.validation),
        engine,
        around: surroundings,
        progress: Progress::start(),
        saved: Instant::now(),
    };
    trainer.take_up()?;
    while trainer.progress.over(&setup.config).is_none() {
        if !trainer.epoch()? {
            return trainer.interrupted();
        }
    }
    match trainer.report()? {
        Some(report) => Ok(Outcome::Finished(Box::new(report))),
        None => trainer.interrupted(),
    }
}

struct Trainer<'a> {
    engine: &'a mut dyn Engine,
    around: Surroundings<'a>,
    /// Targets trained on, in the order of the corpus.
    train: Vec<u32>,
    validation: Vec<u32>,
    progress: Progress,
    /// When the last checkpoint was written.
    saved: Instant,
}

impl Trainer<'_> {
    fn take_up(&mut self) -> Result<()> {
        if let Some(last) = self.around.folder.last()? {
            self.check_same_run(&last)?;
            self.engine.restore(&last.state())?;
            let training = last.training.map(|training| training.progress);
            self.progress = training.ok_or_else(|| {
                let folder = self.around.folder.path().display();
                Error::input(format!("{folder}: its last checkpoint has no optimiser to go on with"))
            })?;
        }
        self.around.folder.write_metrics(&self.progress.history)
    }

    fn check_same_run(&self, last: &Checkpoint) -> Result<()> {
        let folder = self.around.folder.path().display();
        let setup = self.around.setup;
        if last.config != setup.config {
            return Err(Error::input(format!(
                "{folder}: its checkpoint was trained under other settings than its config.toml says; put back \
                 what was changed there, or begin a new run"
            )));
        }
        last.check_fingerprint(self.around.folder.path(), &setup.corpus.source, &setup.origin.fingerprint)?;
        if last.origin != setup.origin {
            return Err(Error::input(format!(
                "{folder}: its checkpoint holds out other conversations or standardises features otherwise than \
                 this program does (it was written by another version): begin a new run"
            )));
        }
        Ok(())
    }

    /// The rest of the epoch under way; `false` when interrupted, which is saved.
    fn epoch(&mut self) -> Result<bool> {
        let config = &self.around.setup.config;
        let epoch = self.progress.epoch;
        let learning_rate = schedule::learning_rate(config, epoch);
        let order = batches::order(&self.train, config.seed, epoch);
        self.around.display.begin_epoch(&self.progress, config.epochs, order.len());
        for batch in order.chunks(config.batch_size).skip(self.progress.steps) {
            if self.around.interrupt.requested() {
                self.save()?;
                return Ok(false);
            }
            self.engine.train_step(batch, self.progress.updates, learning_rate)?;
            self.progress.steps += 1;
            self.progress.updates += 1;
            self.collect(false)?;
            self.around.display.step(&self.progress, batch.len());
            if self.around.cadence.is_some_and(|cadence| self.saved.elapsed() >= cadence) {
                self.save()?;
            }
        }
        self.collect(true)?;
        self.around.display.trained();
        let Some(validation) = self.evaluate(&self.validation.clone())? else {
            self.save()?;
            return Ok(false);
        };
        self.end_epoch(learning_rate, &validation)?;
        Ok(true)
    }

    /// Adds the losses of the steps made; a card's are there only when it is waited for.
    fn collect(&mut self, wait: bool) -> Result<()> {
        if let Some(losses) = self.engine.losses(wait)? {
            self.check_finite(&losses)?;
            self.progress.losses.join(losses);
        }
        Ok(())
    }

    fn end_epoch(&mut self, learning_rate: f64, validation: &Evaluation) -> Result<()> {
        let Progress { epoch, updates, .. } = self.progress;
        let loss = self.progress.losses.mean();
        let figures = validation.figures();
        let best = self.progress.stopping.record(epoch, validation.loss);
        let (seconds, utterances_per_second) = self.around.display.time();
        let record = EpochRecord {
            epoch,
            updates,
            learning_rate,
            loss_clean: loss.clean,
            loss_adversarial: loss.adversarial,
            validation_loss: validation.loss,
            validation_accuracy: figures.accuracy,
            validation_weighted_f1: figures.weighted_f1,
            validation_macro_f1: figures.macro_f1,
            best,
            time: Time { seconds, utterances_per_second },
        };
        self.around.display.end_epoch(&record, &self.around.setup.config);
        self.progress.history.push(record);
        self.progress.epoch += 1;
        self.progress.steps = 0;
        self.progress.losses = Losses::default();
        if best {
            let state = self.engine.state()?;
            self.around.folder.write_best(&Checkpoint {
                config: self.around.setup.config.clone(),
                origin: self.around.setup.origin.clone(),
                parameters: state.parameters,
                training: None,
            })?;
        }
        self.around.folder.write_metrics(&self.progress.history)?;
        self.save()
    }

    /// Validation and test of the best weights; `None` when interrupted.
    fn report(&mut self) -> Result<Option<RunReport>> {
        let Setup { config, corpus, partition, .. } = self.around.setup;
        let (Some(stopped), Some(best)) = (self.progress.over(config), self.progress.stopping.best) else {
            return Ok(None);
        };
        self.engine.restore(&self.around.folder.best()?.state())?;
        let Some(validation) = self.evaluate(&self.validation.clone())? else {
            return Ok(None);
        };
        let test = self.around.setup.targets(&partition.test);
        let Some(tested) = self.evaluate(&test)? else {
            return Ok(None);
        };
        self.around.display.end();
        let report = |split: &str, conversations: &[usize], evaluation: &Evaluation| {
            Report::new(split, conversations.len(), &corpus.classes, &evaluation.confusion, evaluation.loss)
        };
        let report = RunReport {
            seed: config.seed,
            best_epoch: best.epoch,
            epochs: self.progress.history.len(),
            stopped,
            validation: report("validation", &partition.validation, &validation),
            test: (!test.is_empty()).then(|| report("test", &partition.test, &tested)),
        };
        self.around.folder.write_report(&report)?;
        Ok(Some(report))
    }

    fn evaluate(&mut self, targets: &[u32]) -> Result<Option<Evaluation>> {
        evaluate(self.engine, self.around.setup.corpus, targets, self.around.interrupt)
    }

    /// Nothing is saved over a checkpoint once a loss or a parameter is not finite: the last one is from before it.
    fn check_finite(&self, losses: &Losses) -> Result<()> {
        let loss = losses.mean();
        let broken = [("clean", Some(loss.clean)), ("adversarial", loss.adversarial)];
        let broken =
            broken.iter().find_map(|(name, value)| value.filter(|v| !v.is_finite()).map(|v| (name, v)));
        let Some((name, value)) = broken else {
            return Ok(());
        };
        let Progress { epoch, steps, updates, .. } = self.progress;
        Err(self.diverged(&format!(
            "the {name} loss is {value} in epoch {epoch}, step {steps} (update {updates})"
        )))
    }

    fn diverged(&self, what: &str) -> Error {
        Error::input(format!(
            "training diverged: {what}. The checkpoints in {} are from before it. Try a lower \
             learning_rate, a lower epsilon or {}{}",
            self.around.folder.path().display(),
            match self.around.setup.config.dtype {
                Precision::Mixed => "dtype f32",
                _ => "dtype f64 (on the CPU)",
            },
            if self.progress.updates <= 1 {
                "; in the very first step, look at the features for extreme values"
            } else {
                ""
            }
        ))
    }

    fn save(&mut self) -> Result<()> {
        self.collect(true)?;
        let state = self.engine.state()?;
        if let Some(broken) = state.parameters.iter().find(|tensor| !tensor.values.all_finite()) {
            let Progress { epoch, updates, .. } = self.progress;
            let name = &broken.name;
            return Err(
                self.diverged(&format!("{name} is not finite in epoch {epoch}, after update {updates}"))
            );
        }
        self.progress.scaling = state.scaling;
        self.around.folder.write_last(&Checkpoint {
            config: self.around.setup.config.clone(),
            origin: self.around.setup.origin.clone(),
            parameters: state.parameters,
            training: Some(Training {
                first_moment: state.first_moment,
                second_moment: state.second_moment,
                progress: self.progress.clone(),
            }),
        })?;
        self.saved = Instant::now();
        Ok(())
    }

    fn interrupted(&self) -> Result<Outcome> {
        self.around.display.end();
        Ok(Outcome::Interrupted { epoch: self.progress.epoch, steps: self.progress.steps })
    }
}
