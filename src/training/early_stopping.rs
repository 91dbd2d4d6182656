//! When training stops: after so many epochs without a better validation loss.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub epoch: usize,
    pub loss: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EarlyStopping {
    pub best: Option<Best>,
}

impl EarlyStopping {
    /// Takes in an epoch's validation loss; whether it is the best so far. An equal loss is no better.
    pub fn record(&mut self, epoch: usize, loss: f64) -> bool {
        let better = self.best.is_none_or(|best| loss < best.loss);
        if better {
            self.best = Some(Best { epoch, loss });
        }
        better
    }

    /// Whether `patience` epochs have passed since the best one, `epochs` in all.
    pub fn exhausted(&self, epochs: usize, patience: usize) -> bool {
        self.best.is_some_and(|best| epochs.saturating_sub(best.epoch) >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_patience_epochs_after_the_best() {
        let mut stopping = EarlyStopping::default();
        assert!(!stopping.exhausted(0, 2));
        let losses = [1.0, 0.8, 0.9, 0.7, 0.7, 0.71];
        let better: Vec<bool> = (1..).zip(losses).map(|(epoch, loss)| stopping.record(epoch, loss)).collect();
        assert_eq!(better, [true, true, false, true, false, false]);
        assert_eq!(stopping.best, Some(Best { epoch: 4, loss: 0.7 }));
        assert!(!stopping.exhausted(5, 2));
        assert!(stopping.exhausted(6, 2));
    }
}
