//! What a run shows while it trains, on standard error: bars on a terminal, a line for each epoch elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::{EpochRecord, Progress};
use crate::model::StepLoss;
use crate::model::config::Config;

pub struct Display {
    mode: Mode,
    /// Before every line: which of several seeds it is about.
    label: String,
    epoch: Epoch,
}

enum Mode {
    Quiet,
    Lines,
    Bar(ProgressBar),
}

/// The epoch under way, as far as this process made it.
struct Epoch {
    began: Instant,
    utterances: usize,
    /// When its last training step ended.
    trained: Instant,
}

impl Epoch {
    fn begin() -> Self {
        let now = Instant::now();
        Epoch { began: now, utterances: 0, trained: now }
    }

    fn utterances_per_second(&self) -> f64 {
        let seconds = self.trained.duration_since(self.began).as_secs_f64();
        if seconds > 0.0 { self.utterances as f64 / seconds } else { 0.0 }
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
        Display { mode, label: String::new(), epoch: Epoch::begin() }
    }

    pub fn set_label(&mut self, label: String) {
        self.label = label;
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

    pub fn begin_epoch(&mut self, progress: &Progress, epochs: usize, utterances: usize) {
        self.epoch = Epoch::begin();
        if let Mode::Bar(bar) = &self.mode {
            bar.set_length(utterances as u64);
            bar.set_position(progress.losses.utterances);
            bar.reset_eta();
            bar.reset_elapsed();
            bar.set_prefix(format!("{}epoch {}/{epochs}", self.label, progress.epoch));
        }
    }

    /// After a step over `utterances`.
    pub fn step(&mut self, progress: &Progress, utterances: usize) {
        self.epoch.utterances += utterances;
        self.epoch.trained = Instant::now();
        if let Mode::Bar(bar) = &self.mode {
            let best = progress.stopping.best.map_or_else(String::new, |best| {
                format!("  best validation {:.4} (epoch {})", best.loss, best.epoch)
            });
            // A card's losses are not known before the epoch's end.
            let losses = match progress.losses.utterances {
                0 => String::new(),
                _ => losses(progress.losses.mean()) + "  ",
            };
            bar.set_message(format!("{losses}{:.0} utterances/s{best}", self.epoch.utterances_per_second()));
            bar.inc(utterances as u64);
        }
    }

    /// The device is done with all steps.
    pub fn trained(&mut self) {
        self.epoch.trained = Instant::now();
    }

    /// Seconds of the epoch so far, and utterances a second of its training.
    pub fn time(&self) -> (f64, f64) {
        (self.epoch.began.elapsed().as_secs_f64(), self.epoch.utterances_per_second())
    }

    pub fn end_epoch(&self, record: &EpochRecord, config: &Config) {
        let loss = StepLoss { clean: record.loss_clean, adversarial: record.loss_adversarial };
        let left = record.time.seconds * config.epochs.saturating_sub(record.epoch) as f64;
        let left = FormattedDuration(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX));
        self.line(&format!(
            "{}epoch {}/{}  {}  validation {:.4}{}  accuracy {:.2}  weighted F1 {:.2}  {:.0} utterances/s  at most \
             {left} left",
            self.label,
            record.epoch,
            config.epochs,
            losses(loss),
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

fn losses(loss: StepLoss) -> String {
    match loss.adversarial {
        Some(adversarial) => format!("loss {:.4} + {adversarial:.4}", loss.clean),
        None => format!("loss {:.4}", loss.clean),
    }
}
