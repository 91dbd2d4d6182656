//! The order of the training targets: a pure function of the seed and the epoch, so that a resumed run finds its
//! place again.

use crate::random::{Stream, purpose};

/// `targets` in the order of `epoch`; batches are consecutive pieces of it, the last one shorter.
pub fn order(targets: &[u32], seed: u64, epoch: usize) -> Vec<u32> {
    let mut order = targets.to_vec();
    Stream::indexed(seed, purpose::SHUFFLE, epoch as u64).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_its_own_order_of_the_same_targets() {
        let targets: Vec<u32> = (10..60).collect();
        let first = order(&targets, 1, 1);
        assert_eq!(first, order(&targets, 1, 1));
        assert_ne!(first, order(&targets, 1, 2));
        assert_ne!(first, order(&targets, 2, 1));
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, targets);
    }
}
