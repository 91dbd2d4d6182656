//! The loop: epochs of steps, validation after each, checkpoints on the way, the report at the end; of one run or of several
//! side by side.
//!
//! Runs side by side make their epochs together: each step of the engine is the next batch of every run, and a run with fewer
//! batches waits for the others at the epoch's end, where all are validated at once. When a run is over the next one takes its
//! place. What a run computes does not depend on those beside it; one that fails is told of, and the others go on.
//!
//! A run can be cut at any moment, by a signal or without warning, and resumed to the same bits: everything it
//! depends on is in `last.safetensors`, and what was written after that is written again. Within an epoch's end
//! the order is best weights, metrics, last checkpoint; a run cut between them makes the epoch's end once more.

use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, Training};
use super::display::{Display, Pace};
use super::evaluation::{NotFinite, evaluate_each};
use super::interrupt::Interrupt;
use super::progress::{EpochRecord, Progress, Time};
use super::report::RunReport;
use super::run_folder::RunFolder;
use super::setup::Setup;
use super::{batches, schedule};
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::metrics::report::Report;
use crate::model::config::{Config, Precision};
use crate::model::{Engine, Losses, Step};

/// A run to train: what it is, and where it is kept.
pub struct Run<'a> {
    /// Its number among all.
    pub index: usize,
    pub setup: Setup<'a>,
    /// What the engine computes it in; the checkpoints say what its settings do.
    pub dtype: Precision,
    pub folder: RunFolder,
    /// Before every line about it: which of several it is.
    pub label: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Finished(Box<RunReport>),
    /// Saved after `steps` steps of `epoch`.
    Interrupted {
        epoch: usize,
        steps: usize,
    },
    Failed(Error),
}

/// Where runs come from, and what becomes of them.
pub trait Queue<'a> {
    /// The next run to train; all are of the engine's shape, over the same conversations.
    ///
    /// # Errors
    /// Where training is to stop.
    fn next(&mut self) -> Result<Option<Run<'a>>>;

    /// # Errors
    /// Where training is to stop.
    fn ended(&mut self, run: Run<'a>, outcome: Outcome) -> Result<()>;
}

/// What training needs besides runs and the engine that trains them.
pub struct Surroundings<'a> {
    /// Time between two checkpoints within an epoch; `None`: at its end only.
    pub cadence: Option<Duration>,
    pub display: &'a Display,
    pub interrupt: &'a Interrupt,
}

/// Trains the runs of a queue, as many side by side as the engine has room for, each from where its folder's last checkpoint
/// stands, or from fresh parameters, to the end.
///
/// # Errors
/// Where the engine fails, and with it all runs.
pub fn train<'a>(
    engine: &mut dyn Engine,
    queue: &mut dyn Queue<'a>,
    surroundings: Surroundings,
) -> Result<()> {
    let slots = (0..engine.runs()).map(|_| None).collect();
    let mut trainer = Trainer { engine, queue, around: surroundings, slots };
    loop {
        trainer.fill()?;
        if trainer.live().next().is_none() {
            break;
        }
        let whole = if trainer.live().any(Live::is_over) { trainer.report()? } else { trainer.epoch()? };
        if !whole {
            trainer.interrupted()?;
            break;
        }
    }
    trainer.around.display.end();
    Ok(())
}

struct Trainer<'t, 'a> {
    engine: &'t mut dyn Engine,
    queue: &'t mut dyn Queue<'a>,
    around: Surroundings<'t>,
    /// By run of the engine.
    slots: Vec<Option<Live<'a>>>,
}

/// A run that is being trained.
struct Live<'a> {
    run: Run<'a>,
    /// Targets trained on, in the order of the corpus.
    train: Vec<u32>,
    validation: Vec<u32>,
    test: Vec<u32>,
    progress: Progress,
    /// When the last checkpoint was written.
    saved: Instant,
    /// Of the epoch under way.
    order: Vec<u32>,
    learning_rate: f64,
    /// Utterances that this process has trained on in it.
    trained: usize,
}

/// What is written of a run at once.
struct Files {
    best: Option<Checkpoint>,
    last: Checkpoint,
}

impl<'a> Trainer<'_, 'a> {
    fn live(&self) -> impl Iterator<Item = &Live<'a>> {
        self.slots.iter().flatten()
    }

    /// Does something for each run; one that fails is ended.
    fn each(
        &mut self,
        mut task: impl FnMut(&mut dyn Engine, usize, &mut Live<'a>) -> Result<()>,
    ) -> Result<()> {
        for slot in 0..self.slots.len() {
            let Some(live) = &mut self.slots[slot] else { continue };
            if let Err(error) = task(self.engine, slot, live) {
                self.end(slot, Outcome::Failed(error))?;
            }
        }
        Ok(())
    }

    fn end(&mut self, slot: usize, outcome: Outcome) -> Result<()> {
        self.slots[slot].take().map_or(Ok(()), |live| self.queue.ended(live.run, outcome))
    }

    /// Gives free places to the next runs.
    fn fill(&mut self) -> Result<()> {
        for slot in 0..self.slots.len() {
            while self.slots[slot].is_none() {
                let Some(run) = self.queue.next()? else { return Ok(()) };
                let mut live = Live::new(run);
                let taken = live.take_up(self.engine, slot);
                self.slots[slot] = Some(live);
                if let Err(error) = taken {
                    self.end(slot, Outcome::Failed(error))?;
                }
            }
        }
        Ok(())
    }

    /// The rest of the epochs under way; `false` when interrupted.
    fn epoch(&mut self) -> Result<bool> {
        let mut pace = Pace::begin();
        self.each(|engine, slot, live| live.begin_epoch(engine, slot))?;
        self.show_epoch();
        let mut trained = 0;
        loop {
            if self.around.interrupt.requested() {
                return Ok(false);
            }
            let steps: Vec<Option<Step>> =
                self.slots.iter().map(|live| live.as_ref().and_then(Live::next_step)).collect();
            let sizes: Vec<usize> =
                steps.iter().map(|step| step.map_or(0, |step| step.targets.len())).collect();
            if steps.iter().all(Option::is_none) {
                break;
            }
            self.engine.train_steps(&steps)?;
            pace.trained();
            let cadence = self.around.cadence;
            self.each(|engine, slot, live| {
                if sizes[slot] == 0 {
                    return Ok(());
                }
                live.progress.steps += 1;
                live.progress.updates += 1;
                live.trained += sizes[slot];
                live.collect(engine, slot, false)?;
                if cadence.is_some_and(|cadence| live.saved.elapsed() >= cadence) {
                    live.save(engine, slot)?;
                }
                Ok(())
            })?;
            let size = sizes.iter().sum();
            trained += size;
            let mut live = self.live();
            let one = live.next().filter(|_| live.next().is_none()).map(|live| &live.progress);
            self.around.display.step(size, pace.utterances_per_second(trained), one);
        }
        self.each(|engine, slot, live| live.collect(engine, slot, true))?;
        pace.trained();
        // Where the epoch's last update made the model diverge its outputs tell, before a loss in training does.
        let diverged = |live: &Live, broken: &NotFinite| {
            let Progress { epoch, updates, .. } = live.progress;
            live.diverged(&format!("{broken} at the end of epoch {epoch}, after update {updates}"))
        };
        let Some(validations) = self.evaluate(|live| &live.validation, diverged)? else {
            return Ok(false);
        };
        self.end_epoch(&pace, validations)?;
        Ok(true)
    }

    fn show_epoch(&self) {
        let mut live = self.live();
        let (Some(first), count) = (live.next(), 1 + live.count()) else { return };
        let what = match count {
            1 => first.run.label.clone(),
            _ => format!("{count} runs  "),
        };
        let epoch = self.live().map(|live| live.progress.epoch).min().unwrap_or(1);
        let done = self.live().map(|live| live.progress.losses.utterances).sum();
        let all = self.live().map(|live| live.order.len() as u64).sum();
        let epochs = first.run.setup.config.epochs;
        self.around.display.begin_epoch(format!("{what}epoch {epoch}/{epochs}"), done, all);
    }

    fn end_epoch(&mut self, pace: &Pace, validations: Vec<Option<Evaluation>>) -> Result<()> {
        let display = self.around.display;
        let mut files: Vec<Option<Files>> = validations.iter().map(|_| None).collect();
        self.each(|engine, slot, live| {
            let Some(validation) = &validations[slot] else { return Ok(()) };
            let best = live.end_epoch(pace, validation, display);
            files[slot] = Some(live.files(engine, slot, best)?);
            Ok(())
        })?;
        // Side by side: most of it is waiting for the disk.
        let mut written: Vec<Option<Result<()>>> = std::thread::scope(|scope| {
            let mut writers = Vec::with_capacity(files.len());
            for (live, files) in self.slots.iter().zip(&files) {
                let (Some(live), Some(files)) = (live, files) else {
                    writers.push(None);
                    continue;
                };
                let name = "coin-writer".to_string();
                writers.push(Some(
                    std::thread::Builder::new().name(name).spawn_scoped(scope, || live.write(files)),
                ));
            }
            let join = |writer: std::io::Result<std::thread::ScopedJoinHandle<Result<()>>>| match writer {
                Ok(writer) => writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => Err(Error::System(format!("cannot start a thread: {error}"))),
            };
            writers.into_iter().map(|writer| writer.map(join)).collect()
        });
        self.each(|_, slot, live| {
            live.saved = Instant::now();
            written[slot].take().unwrap_or(Ok(()))
        })
    }

    /// Validation and test of the best weights of the runs that are over; `false` when interrupted.
    fn report(&mut self) -> Result<bool> {
        self.each(|engine, slot, live| {
            if live.is_over() {
                engine.restore_run(slot, &live.run.folder.best()?.state())?;
            }
            Ok(())
        })?;
        let broken = |live: &Live, broken: &NotFinite| broken.error(live.run.setup.corpus);
        let Some(validations) =
            self.evaluate(|live| if live.is_over() { &live.validation } else { &[] }, broken)?
        else {
            return Ok(false);
        };
        let Some(tests) = self.evaluate(|live| if live.is_over() { &live.test } else { &[] }, broken)? else {
            return Ok(false);
        };
        let mut reports: Vec<Option<RunReport>> = validations.iter().map(|_| None).collect();
        self.each(|_, slot, live| {
            let (Some(validation), Some(test)) = (&validations[slot], &tests[slot]) else { return Ok(()) };
            if let Some(report) = live.report(validation, test) {
                live.run.folder.write_report(&report)?;
                reports[slot] = Some(report);
            }
            Ok(())
        })?;
        for (slot, report) in reports.into_iter().enumerate() {
            if let Some(report) = report {
                self.end(slot, Outcome::Finished(Box::new(report)))?;
            }
        }
        Ok(true)
    }

    /// Of each run, by the engine's; `None` when interrupted. A run whose output is not finite is ended with `error`.
    fn evaluate(
        &mut self,
        targets: impl for<'l> Fn(&'l Live<'a>) -> &'l [u32],
        error: impl Fn(&Live<'a>, &NotFinite) -> Error,
    ) -> Result<Option<Vec<Option<Evaluation>>>> {
        let Some(corpus) = self.live().next().map(|live| live.run.setup.corpus) else {
            return Ok(Some(self.slots.iter().map(|_| None).collect()));
        };
        let all: Vec<&[u32]> =
            self.slots.iter().map(|live| live.as_ref().map_or(&[][..], &targets)).collect();
        let found = evaluate_each(self.engine, corpus, &all, self.around.interrupt)?;
        let Some(found) = found else { return Ok(None) };
        let mut evaluations = Vec::with_capacity(found.len());
        for (slot, evaluation) in found.into_iter().enumerate() {
            let Some(live) = &self.slots[slot] else {
                evaluations.push(None);
                continue;
            };
            match evaluation {
                Ok(evaluation) => evaluations.push(Some(evaluation)),
                Err(broken) => {
                    let error = error(live, &broken);
                    self.end(slot, Outcome::Failed(error))?;
                    evaluations.push(None);
                }
            }
        }
        Ok(Some(evaluations))
    }

    /// Saves all runs where they stand.
    fn interrupted(&mut self) -> Result<()> {
        self.around.display.end();
        self.each(|engine, slot, live| {
            // The last checkpoint of one that is over is written; the engine has its best weights.
            if live.is_over() {
                return Ok(());
            }
            live.save(engine, slot)
        })?;
        for slot in 0..self.slots.len() {
            let Some(live) = &self.slots[slot] else { continue };
            let Progress { epoch, steps, .. } = live.progress;
            self.end(slot, Outcome::Interrupted { epoch, steps })?;
        }
        Ok(())
    }
}

impl<'a> Live<'a> {
    fn new(run: Run<'a>) -> Self {
        let setup = &run.setup;
        Live {
            train: setup.targets(&setup.partition.train),
            validation: setup.targets(&setup.partition.validation),
            test: setup.targets(&setup.partition.test),
            progress: Progress::start(),
            saved: Instant::now(),
            order: Vec::new(),
            learning_rate: 0.0,
            trained: 0,
            run,
        }
    }

    fn is_over(&self) -> bool {
        self.progress.over(&self.run.setup.config).is_some()
    }

    fn take_up(&mut self, engine: &mut dyn Engine, slot: usize) -> Result<()> {
        let Run { setup, dtype, folder, .. } = &self.run;
        let config = Config { dtype: *dtype, ..setup.config.clone() };
        engine.begin(slot, &config, &setup.origin.standardisation, setup.corpus)?;
        if let Some(last) = folder.last()? {
            self.check_same_run(&last)?;
            engine.restore_run(slot, &last.state())?;
            let training = last.training.map(|training| training.progress);
            self.progress = training.ok_or_else(|| {
                let path = folder.path();
                let why = format!("{}: its last checkpoint has no optimiser to go on with", path.display());
                Error::input(RunFolder::stuck(path, &why))
            })?;
        }
        folder.write_metrics(&self.progress.history)
    }

    fn check_same_run(&self, last: &Checkpoint) -> Result<()> {
        let Run { setup, folder, .. } = &self.run;
        let shown = folder.path().display();
        if last.config != setup.config {
            return Err(Error::input(format!(
                "{shown}: its checkpoint was trained under other settings than its config.toml says; put back \
                 what was changed there, or begin a new run"
            )));
        }
        last.check_fingerprint(folder.path(), &setup.corpus.source, &setup.origin.fingerprint)?;
        if last.origin != setup.origin {
            return Err(Error::input(format!(
                "{shown}: its checkpoint holds out other conversations or standardises features otherwise than \
                 this program does (it was written by another version): begin a new run"
            )));
        }
        Ok(())
    }

    fn begin_epoch(&mut self, engine: &mut dyn Engine, slot: usize) -> Result<()> {
        let config = &self.run.setup.config;
        self.learning_rate = schedule::learning_rate(config, self.progress.epoch);
        self.order = batches::order(&self.train, config.seed, self.progress.epoch);
        self.trained = 0;
        // A card adds up as it goes, so that a resumed run's sums have to go on from where they stood.
        engine.set_losses(slot, self.progress.losses)
    }

    /// `None` at the epoch's end.
    fn next_step(&self) -> Option<Step<'_>> {
        let Progress { steps, updates, .. } = self.progress;
        let targets = self.order.chunks(self.run.setup.config.batch_size).nth(steps)?;
        Some(Step { targets, number: updates, learning_rate: self.learning_rate })
    }

    /// Takes in the losses of the steps made; a card's are there only when it is waited for.
    fn collect(&mut self, engine: &mut dyn Engine, slot: usize, wait: bool) -> Result<()> {
        if let Some(losses) = engine.losses_of(slot, wait)? {
            self.check_finite(&losses)?;
            self.progress.losses = losses;
        }
        Ok(())
    }

    /// Takes in an epoch's end; whether it is the best so far.
    fn end_epoch(&mut self, pace: &Pace, validation: &Evaluation, display: &Display) -> bool {
        let Progress { epoch, updates, .. } = self.progress;
        let loss = self.progress.losses.mean();
        let figures = validation.figures();
        let best = self.progress.stopping.record(epoch, validation.loss);
        let record = EpochRecord {
            epoch,
            updates,
            learning_rate: self.learning_rate,
            loss_clean: loss.clean,
            loss_adversarial: loss.adversarial,
            validation_loss: validation.loss,
            validation_accuracy: figures.accuracy,
            validation_weighted_f1: figures.weighted_f1,
            validation_macro_f1: figures.macro_f1,
            best,
            time: Time {
                seconds: pace.seconds(),
                utterances_per_second: pace.utterances_per_second(self.trained),
            },
        };
        display.end_epoch(&self.run.label, &record, &self.run.setup.config);
        self.progress.history.push(record);
        self.progress.epoch += 1;
        self.progress.steps = 0;
        self.progress.losses = Losses::default();
        best
    }

    /// Saves the run within an epoch.
    fn save(&mut self, engine: &mut dyn Engine, slot: usize) -> Result<()> {
        self.collect(engine, slot, true)?;
        let files = self.files(engine, slot, false)?;
        self.write(&files)?;
        self.saved = Instant::now();
        Ok(())
    }

    /// What is to be written of a run as it stands; with `best` at the end of an epoch that is the best so far.
    fn files(&mut self, engine: &mut dyn Engine, slot: usize, best: bool) -> Result<Files> {
        let state = engine.state_of(slot)?;
        if let Some(broken) = state.parameters.iter().find(|tensor| !tensor.values.all_finite()) {
            let Progress { epoch, updates, .. } = self.progress;
            let name = &broken.name;
            return Err(
                self.diverged(&format!("{name} is not finite in epoch {epoch}, after update {updates}"))
            );
        }
        self.progress.scaling = state.scaling;
        let Setup { config, origin, .. } = &self.run.setup;
        let checkpoint = |parameters, training| Checkpoint {
            config: config.clone(),
            origin: origin.clone(),
            parameters,
            training,
        };
        let training = Training {
            first_moment: state.first_moment,
            second_moment: state.second_moment,
            progress: self.progress.clone(),
        };
        Ok(Files {
            best: best.then(|| checkpoint(state.parameters.clone(), None)),
            last: checkpoint(state.parameters, Some(training)),
        })
    }

    fn write(&self, Files { best, last }: &Files) -> Result<()> {
        let folder = &self.run.folder;
        if let Some(best) = best {
            folder.write_best(best)?;
        }
        folder.write_metrics(&self.progress.history)?;
        folder.write_last(last)
    }

    /// Of the best weights; `None` while the run is not over.
    fn report(&self, validation: &Evaluation, test: &Evaluation) -> Option<RunReport> {
        let Setup { config, corpus, partition, .. } = &self.run.setup;
        let (stopped, best) = (self.progress.over(config)?, self.progress.stopping.best?);
        let report = |split: &str, conversations: &[usize], evaluation: &Evaluation| {
            Report::new(split, conversations.len(), &corpus.classes, &evaluation.confusion, evaluation.loss)
        };
        Some(RunReport {
            seed: config.seed,
            best_epoch: best.epoch,
            epochs: self.progress.history.len(),
            stopped,
            validation: report("validation", &partition.validation, validation),
            test: (!self.test.is_empty()).then(|| report("test", &partition.test, test)),
        })
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
            self.run.folder.path().display(),
            match self.run.setup.config.dtype {
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
}
