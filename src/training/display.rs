//! What a run shows while it trains, on standard error: bars on a terminal, a line for each epoch elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::{EpochRecord, Progress};
use crate::model::StepLoss;
use crate::model::config::Config;

pub struct Display {
    mode: Mode,
}

enum Mode {
    Quiet,
    Lines,
    Bar(ProgressBar),
}

/// How fast the epoch under way is, as far as this process made it.
pub struct Pace {
    began: Instant,
    /// When its last training step ended.
    trained: Instant,
}

impl Pace {
    pub fn begin() -> Self {
        let now = Instant::now();
        Pace { began: now, trained: now }
    }

    /// The device is done with all steps so far.
    pub fn trained(&mut self) {
        self.trained = Instant::now();
    }

    /// Seconds since the epoch began.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Of `utterances` trained on.
    pub fn utterances_per_second(&self, utterances: usize) -> f64 {
        let seconds = self.trained.duration_since(self.began).as_secs_f64();
        if seconds > 0.0 { utterances as f64 / seconds } else { 0.0 }
    }
}

impl Display {
    pub fn new(quiet: bool) -> Self {
        let mode = if quiet {
            Mode::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is fixed: it parses, or the bar stays a plain one. A narrow terminal cuts the message.
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} [{bar:20}] {pos}/{len}  {eta} left  {wide_msg}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            Mode::Bar(bar)
        } else {
            Mode::Lines
        };
        Display { mode }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.mode {
            Mode::Quiet => {}
            // A terminal that has gone away is no reason to stop training.
            Mode::Lines => drop(writeln!(std::io::stderr(), "{text}")),
            Mode::Bar(bar) => bar.println(text),
        }
    }

    /// An epoch over `utterances`, of which `done` were trained on before; `what` tells of whom.
    pub fn begin_epoch(&self, what: String, done: u64, utterances: u64) {
        if let Mode::Bar(bar) = &self.mode {
            bar.set_length(utterances);
            bar.set_position(done);
            bar.reset_eta();
            bar.reset_elapsed();
            bar.set_prefix(what);
        }
    }

    /// After a step over `utterances`; `rate` is in utterances a second, `one` the run where there is one only.
    pub fn step(&self, utterances: usize, rate: f64, one: Option<&Progress>) {
        if let Mode::Bar(bar) = &self.mode {
            let best = one.and_then(|progress| progress.stopping.best).map_or_else(String::new, |best| {
                format!("  best validation {:.4} (epoch {})", best.loss, best.epoch)
            });
            // A card's losses are not known before the epoch's end.
            let losses = one.map(|progress| progress.losses).filter(|losses| losses.utterances > 0);
            let losses = losses.map_or_else(String::new, |sums| losses_text(sums.mean()) + "  ");
            bar.set_message(format!("{losses}{rate:.0} utterances/s{best}"));
            bar.inc(utterances as u64);
        }
    }

    /// `label` tells of which run.
    pub fn end_epoch(&self, label: &str, record: &EpochRecord, config: &Config) {
        let loss = StepLoss { clean: record.loss_clean, adversarial: record.loss_adversarial };
        let left = record.time.seconds * config.epochs.saturating_sub(record.epoch) as f64;
        let left = FormattedDuration(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX));
        self.line(&format!(
            "{label}epoch {}/{}  {}  validation {:.4}{}  accuracy {:.2}  weighted F1 {:.2}  {:.0} utterances/s  at most \
             {left} left",
            record.epoch,
            config.epochs,
            losses_text(loss),
            record.validation_loss,
            if record.best { " (best)" } else { "" },
            100.0 * record.validation_accuracy,
            100.0 * record.validation_weighted_f1,
            record.time.utterances_per_second,
        ));
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Mode::Bar(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

fn losses_text(loss: StepLoss) -> String {
    match loss.adversarial {
        Some(adversarial) => format!("loss {:.4} + {adversarial:.4}", loss.clean),
        None => format!("loss {:.4}", loss.clean),
    }
}
