//! A request to stop, made by Ctrl-C or a termination signal and seen between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// What an interrupted program exits with, as shells expect.
pub const EXIT_CODE: u8 = 130;

#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first Ctrl-C (or SIGTERM, SIGHUP) is a request; a second one ends the program at once,
    /// which loses the steps since the last checkpoint and nothing else.
    pub fn install() -> Result<Self> {
        let interrupt = Interrupt::default();
        let handle = interrupt.clone();
        ctrlc::set_handler(move || {
            if handle.requested() {
                std::process::exit(i32::from(EXIT_CODE));
            }
            handle.request();
        })
        .map_err(|error| Error::System(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(interrupt)
    }

    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
