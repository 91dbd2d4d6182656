//! The learning rate: halved every [`Config::anneal_epochs`] epochs.

use crate::model::config::Config;

/// `lr0 * 2^-floor((epoch - 1) / anneal_epochs)`, epochs counted from 1.
pub fn learning_rate(config: &Config, epoch: usize) -> f64 {
    let halvings = epoch.saturating_sub(1) / config.anneal_epochs.max(1);
    config.learning_rate * 0.5f64.powi(i32::try_from(halvings).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halved_after_every_so_many_epochs() {
        let config = Config { learning_rate: 0.001, anneal_epochs: 60, ..Config::default() };
        let rates = [1, 60, 61, 120, 121].map(|epoch| learning_rate(&config, epoch));
        assert_eq!(rates, [0.001, 0.001, 0.0005, 0.0005, 0.00025]);
    }
}
