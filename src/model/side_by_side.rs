//! Runs side by side on the CPU: an engine for each, which share the threads.
//!
//! A step of small models is too short to be shared out over threads, so the runs are: as many at a time as there are threads,
//! each on its part of them. What a run computes does not depend on its number of threads.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::config::Config;
use super::{Engine, Losses, Objective, Piece, Predictions, State, Step};
use crate::data::Corpus;
use crate::data::standardise::Standardisation;
use crate::device::cpu::pool::Pool;
use crate::error::{Error, Result};
use crate::metrics::Evaluation;

/// Runs that work at a time, and threads of each, where `runs` share `threads`.
pub(super) fn shares(threads: usize, runs: usize) -> (usize, usize) {
    let at_a_time = runs.min(threads).max(1);
    (at_a_time, threads / at_a_time)
}

pub struct SideBySide<E> {
    /// Each with the result of what it did last.
    runs: Vec<Mutex<(E, Result<()>)>>,
    pool: Pool,
}

impl<E: Engine> SideBySide<E> {
    /// `make` makes an engine of one run that works on so many threads.
    pub fn new(runs: usize, threads: usize, make: impl Fn(usize) -> Result<E>) -> Result<Self> {
        let (at_a_time, own) = shares(threads.max(1), runs);
        let pool = Pool::new(at_a_time)
            .map_err(|error| Error::System(format!("cannot start {at_a_time} threads: {error}")))?;
        let engine = |_| Ok(Mutex::new((make(own)?, Ok(()))));
        Ok(SideBySide { runs: (0..runs).map(engine).collect::<Result<_>>()?, pool })
    }

    fn run(&mut self, run: usize) -> &mut E {
        &mut self.runs[run].get_mut().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Does something with each engine, side by side; gives the first error.
    fn each(&mut self, task: impl Fn(usize, &mut E) -> Result<()> + Sync) -> Result<()> {
        let runs = &self.runs;
        self.pool.run(runs.len(), |run, _| {
            let (engine, result) = &mut *runs[run].lock().unwrap_or_else(PoisonError::into_inner);
            *result = task(run, engine);
        });
        self.runs.iter_mut().try_for_each(|run| {
            let (_, result) = run.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(result, Ok(()))
        })
    }

    /// As [`SideBySide::each`], with what came of it by run.
    fn gather<T: Default + Send>(
        &mut self,
        task: impl Fn(usize, &mut E) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let gathered: Vec<Mutex<T>> = self.runs.iter().map(|_| Mutex::default()).collect();
        self.each(|run, engine| {
            *gathered[run].lock().unwrap_or_else(PoisonError::into_inner) = task(run, engine)?;
            Ok(())
        })?;
        Ok(gathered.into_iter().map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }
}

impl<E: Engine> Engine for SideBySide<E> {
    fn runs(&self) -> usize {
        self.runs.len()
    }

    fn begin(
        &mut self,
        run: usize,
        config: &Config,
        standardisation: &Standardisation,
        corpus: &Corpus,
    ) -> Result<()> {
        self.run(run).begin(0, config, standardisation, corpus)
    }

    fn train_steps(&mut self, steps: &[Option<Step>]) -> Result<()> {
        self.each(|run, engine| engine.train_steps(&steps[run..=run]))
    }

    fn losses_of(&mut self, run: usize, wait: bool) -> Result<Option<Losses>> {
        self.run(run).losses_of(0, wait)
    }

    fn set_losses(&mut self, run: usize, losses: Losses) -> Result<()> {
        self.run(run).set_losses(0, losses)
    }

    fn evaluate_each(
        &mut self,
        targets: &[&[u32]],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Vec<Evaluation>>> {
        let evaluate = |run: usize, engine: &mut E| {
            Ok(engine.evaluate_each(&targets[run..=run], interrupted)?.and_then(|mut each| each.pop()))
        };
        Ok(self.gather(evaluate)?.into_iter().collect())
    }

    fn predict_each(&mut self, targets: &[&[u32]]) -> Result<Vec<Predictions>> {
        self.gather(|run, engine| Ok(engine.predict_each(&targets[run..=run])?.pop().unwrap_or_default()))
    }

    fn state_of(&mut self, run: usize) -> Result<State> {
        self.run(run).state()
    }

    fn restore_run(&mut self, run: usize, state: &State) -> Result<()> {
        self.run(run).restore(state)
    }

    fn objective(&mut self, targets: &[u32]) -> Result<Objective> {
        self.run(0).objective(targets)
    }

    fn set_corpus(&mut self, corpus: &Corpus) -> Result<()> {
        (0..self.runs.len()).try_for_each(|run| self.run(run).set_corpus(corpus))
    }

    fn time_steps(&mut self, steps: &[Option<Step>]) -> Result<f64> {
        let started = Instant::now();
        self.train_steps(steps)?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn profile_steps(&mut self, steps: &[Option<Step>]) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for run in 0..self.runs.len() {
            pieces.append(&mut self.run(run).profile_steps(&steps[run..=run])?);
        }
        Ok(pieces)
    }

    fn flops(&self) -> f64 {
        let flops = |run: &Mutex<(E, _)>| run.lock().unwrap_or_else(PoisonError::into_inner).0.flops();
        self.runs.iter().map(flops).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn threads_are_shared_out() {
        assert_eq!(shares(2, 1), (1, 2));
        assert_eq!(shares(2, 8), (2, 1));
        assert_eq!(shares(16, 3), (3, 5));
        assert_eq!(shares(1, 4), (1, 1));
    }
}
