//! How far a run has come. Together with parameters and moments this is all that a resumed run carries on with:
//! the order of an epoch is a function of seed and epoch, a dropout mask one of seed and step.

use serde::{Deserialize, Serialize};

use super::early_stopping::EarlyStopping;
use crate::model::config::Config;
use crate::model::{Losses, Scaling};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch under way, counted from 1.
    pub epoch: usize,
    /// Its steps already made.
    pub steps: usize,
    /// Updates made in all.
    pub updates: u64,
    /// Over the utterances of the epoch under way.
    pub losses: Losses,
    /// Of mixed precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    pub stopping: EarlyStopping,
    /// One record for each finished epoch.
    pub history: Vec<EpochRecord>,
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    pub epoch: usize,
    /// Updates made until its end.
    pub updates: u64,
    pub learning_rate: f64,
    /// Mean over the training utterances, each under the parameters of its step, with dropout.
    pub loss_clean: f64,
    pub loss_adversarial: Option<f64>,
    /// Mean clean cross-entropy over the held-out utterances, without dropout: what early stopping watches.
    pub validation_loss: f64,
    pub validation_accuracy: f64,
    pub validation_weighted_f1: f64,
    pub validation_macro_f1: f64,
    /// Whether its validation loss is the best so far.
    pub best: bool,
    /// The one field in which a resumed run differs from one never interrupted.
    pub time: Time,
}

/// Of the process that finished the epoch: the part of it that this process made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Training and validation.
    pub seconds: f64,
    /// Training alone.
    pub utterances_per_second: f64,
}

impl Progress {
    pub fn start() -> Self {
        Progress {
            epoch: 1,
            steps: 0,
            updates: 0,
            losses: Losses::default(),
            scaling: None,
            stopping: EarlyStopping::default(),
            history: Vec::new(),
        }
    }

    /// Why the run is over, once it is.
    pub fn over(&self, config: &Config) -> Option<Stop> {
        let epochs = self.history.len();
        if self.stopping.exhausted(epochs, config.patience) {
            Some(Stop::Patience)
        } else if epochs >= config.epochs {
            Some(Stop::Epochs)
        } else {
            None
        }
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// No better validation loss for `patience` epochs.
    Patience,
    /// All `epochs` were made.
    Epochs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StepLoss;

    #[test]
    fn the_mean_weighs_batches_by_their_size() {
        let mut losses = Losses::default();
        let loss = |clean, adversarial| StepLoss { clean, adversarial };
        losses.add(loss(1.0, Some(2.0)), 3);
        losses.add(loss(5.0, Some(6.0)), 1);
        assert_eq!(losses.mean(), loss(2.0, Some(3.0)));
        let mut clean = Losses::default();
        clean.add(loss(1.5, None), 2);
        assert_eq!(clean.mean(), loss(1.5, None));
    }

    #[test]
    fn a_run_is_over_by_patience_or_by_epochs() {
        let config = Config { epochs: 5, patience: 2, ..Config::default() };
        let record = EpochRecord {
            epoch: 0,
            updates: 0,
            learning_rate: 0.0,
            loss_clean: 0.0,
            loss_adversarial: None,
            validation_loss: 0.0,
            validation_accuracy: 0.0,
            validation_weighted_f1: 0.0,
            validation_macro_f1: 0.0,
            best: false,
            time: Time { seconds: 0.0, utterances_per_second: 0.0 },
        };
        let after = |losses: &[f64]| {
            let mut progress = Progress::start();
            for (epoch, &loss) in (1..).zip(losses) {
                progress.stopping.record(epoch, loss);
                progress.history.push(record.clone());
            }
            progress.over(&config)
        };
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[1.0, 2.0]), None);
        assert_eq!(after(&[1.0, 2.0, 2.0]), Some(Stop::Patience));
        assert_eq!(after(&[5.0, 4.0, 3.0, 2.0]), None);
        assert_eq!(after(&[5.0, 4.0, 3.0, 2.0, 1.0]), Some(Stop::Epochs));
    }

    #[test]
    fn json_keeps_every_bit() {
        let mut progress = Progress::start();
        let awkward =
            [0.1 + 0.2, 1.0 / 3.0, f64::MIN_POSITIVE / 3.0, 5e-324, 1.797e308, std::f64::consts::LN_2];
        for value in awkward {
            progress.losses.clean = value;
            progress.stopping.record(1, -value);
            let json = serde_json::to_string(&progress).unwrap();
            let back: Progress = serde_json::from_str(&json).unwrap();
            assert_eq!(back.losses.clean.to_bits(), value.to_bits());
            assert_eq!(back, progress);
        }
    }
}
