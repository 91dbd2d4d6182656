//! `coin devices`

use std::fmt::Write;

use super::output::print;
use crate::device::cuda::card;
use crate::error::Result;

/// List the devices that a model can be computed on
///
/// Every one can be given to --device. A card needs NVIDIA's driver and compute capability 7.5 (Turing, 2018) or newer; no
/// CUDA has to be installed.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(Arguments {}: Arguments) -> Result<()> {
    let threads = super::model::threads(None);
    let mut text = format!("cpu      {threads} threads\n");
    // Why there is no card is an answer, not a failure.
    match card::built().and_then(|()| card::cards()) {
        Err(error) => writeln!(text, "cuda     none: {error}"),
        Ok(cards) if cards.is_empty() => writeln!(text, "cuda     none: the driver finds no card"),
        Ok(cards) => cards.iter().try_for_each(|card| {
            let (major, minor) = card.compute_capability;
            let gigabytes = |bytes: usize| bytes as f64 / 1e9;
            let (free, memory) = (gigabytes(card.free), gigabytes(card.memory));
            write!(
                text,
                "cuda:{:<3} {}, compute capability {major}.{minor}, {free:.1} GB free of {memory:.1}",
                card.index, card.name
            )?;
            match &card.refused {
                Some(reason) => writeln!(text, "; cannot be used: {reason}"),
                None => writeln!(text),
            }
        }),
    }
    // Writing to a string does not fail.
    .unwrap_or_default();
    print(&text).map(drop)
}
