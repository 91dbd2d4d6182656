//! A request to stop, made by Ctrl-C or a termination signal and seen between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// What an interrupted program exits with, as shells expect.
pub const EXIT_CODE: u8 = 130;

/// Signals that come closer behind the first are one request.
const SAME_REQUEST: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first Ctrl-C (or SIGTERM, SIGHUP) is a request; a second one ends the program at once,
    /// which loses the steps since the last checkpoint and nothing else. What comes right behind the first is the same request:
    /// `timeout`, for one, signals a program and then its group.
    pub fn install() -> Result<Self> {
        let interrupt = Interrupt::default();
        let handle = interrupt.clone();
        let mut first: Option<Instant> = None;
        ctrlc::set_handler(move || match first {
            None => {
                first = Some(Instant::now());
                handle.request();
            }
            Some(first) if first.elapsed() < SAME_REQUEST => {}
            Some(_) => std::process::exit(i32::from(EXIT_CODE)),
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
