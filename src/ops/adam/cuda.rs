//! The card's Adam: `kernels/adam.cu`.

use crate::device::cuda::card::Shape;
use crate::device::cuda::memory::{Buffer, Plan};
use crate::device::work::Work;
use crate::ops::cuda::batch::Indices;
use crate::ops::cuda::{Counts, WORD, Worker, launch};

/// What Adam keeps on the card.
#[derive(Debug, Clone, Copy)]
pub struct Optimiser {
    /// In [`Layout`](crate::ops::parameters::Layout)'s order.
    pub first_moment: Buffer,
    pub second_moment: Buffer,
    /// `Adam` in `kernels/adam.cu`, 48 bytes: the number of updates, then what the kernels leave for each other.
    pub counter: Buffer,
    /// `LossScale` in `kernels/adam.cu`, 12 bytes: the scale, the steps since it changed, whether this one overflowed.
    pub loss_scale: Buffer,
}

/// The loss scale that mixed precision begins with: high, since a step too many is lost sooner than small gradients are found.
const FIRST_SCALE: f32 = 65_536.0;

impl Optimiser {
    /// For `count` parameters.
    pub fn new(plan: &mut Plan, count: usize) -> Optimiser {
        Optimiser {
            first_moment: plan.words(count),
            second_moment: plan.words(count),
            counter: plan.words(12),
            loss_scale: plan.words(3),
        }
    }

    /// What `counter` holds after so many updates that were not skipped.
    pub fn counter(updates: u64) -> [u32; 12] {
        let mut words = [0; 12];
        words[..2].copy_from_slice(&[updates as u32, (updates >> 32) as u32]);
        words
    }

    /// Updates that were not skipped.
    pub fn updates(counter: [u32; 2]) -> u64 {
        u64::from(counter[0]) | u64::from(counter[1]) << 32
    }

    /// What `loss_scale` holds; `None` at first.
    pub fn loss_scale(scale_and_good: Option<(f32, u32)>) -> [u32; 3] {
        let (scale, good) = scale_and_good.unwrap_or((FIRST_SCALE, 0));
        [scale.to_bits(), good, 0]
    }
}

/// Adam's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
}

impl Worker {
    /// One update from the gradient, with the header's learning rate. With a loss scale, a gradient that is not finite leaves
    /// everything as it was and halves the scale.
    pub fn adam(&mut self, layout: &Indices, rates: Rates, state: Optimiser) {
        let count = self.layout.len as u32;
        let by_four = Shape { grid: [count.div_ceil(1024), 1, self.places.runs], block: 256, shared: 0 };
        let alone = Shape { grid: [1, 1, self.places.runs], block: 1, shared: 0 };
        let (parameters, gradient) = (self.places.parameters.address, self.places.gradient.address);
        let (scale, run_stride) = (self.loss_scale(), self.places.run_stride);
        let header = layout.header.address;
        let Rates { beta1, beta2, epsilon } = rates;
        let words = |count: u32, of_each: usize| Work::moving(count as usize * of_each * WORD);
        let (check, update) = (move |_: &Counts| words(count, 1), move |_: &Counts| words(count, 7));
        let state_alone = |_: &Counts| Work::default();
        // SAFETY: parameters, moments and gradient have `count` scalars; the states are as large as the kernels' structs.
        unsafe {
            if scale != 0 {
                launch!(self, "gradient_finite", by_four, check, scale, gradient, header, count, run_stride);
            }
            launch!(
                self,
                "adam_begin",
                alone,
                state_alone,
                state.counter.address,
                scale,
                header,
                beta1,
                beta2,
                epsilon,
                run_stride,
            );
            launch!(
                self,
                "adam",
                by_four,
                update,
                parameters,
                state.first_moment.address,
                state.second_moment.address,
                gradient,
                state.counter.address,
                count,
                run_stride,
            );
            if scale != 0 {
                launch!(self, "loss_scale", alone, state_alone, scale, header, run_stride);
            }
        }
    }
}
