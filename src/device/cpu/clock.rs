//! A clock that says how long each of some numbered things took.

use std::time::Instant;

/// Time by number. Stopped, it costs a comparison.
#[derive(Debug, Clone)]
pub struct Clock<const COUNT: usize> {
    current: usize,
    /// When the current thing began; `None` while the clock is stopped.
    since: Option<Instant>,
    seconds: [f64; COUNT],
}

impl<const COUNT: usize> Default for Clock<COUNT> {
    fn default() -> Self {
        Clock { current: 0, since: None, seconds: [0.0; COUNT] }
    }
}

impl<const COUNT: usize> Clock<COUNT> {
    /// Begins to measure, with the first thing.
    pub fn start(&mut self) {
        *self = Clock { since: Some(Instant::now()), ..Clock::default() };
    }

    /// What follows is the thing numbered `next`. Returns the one until now.
    pub fn enter(&mut self, next: usize) -> usize {
        if let Some(since) = &mut self.since {
            let now = Instant::now();
            self.seconds[self.current] += now.duration_since(*since).as_secs_f64();
            *since = now;
        }
        std::mem::replace(&mut self.current, next)
    }

    /// Stops, and says how many seconds each took.
    pub fn stop(&mut self) -> [f64; COUNT] {
        self.enter(0);
        self.since = None;
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_goes_to_what_is_current() {
        let mut clock = Clock::<3>::default();
        assert_eq!(clock.enter(2), 0);
        assert_eq!(clock.enter(1), 2);
        assert_eq!(clock.stop(), [0.0; 3], "it was not started");
        clock.start();
        clock.enter(2);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(clock.enter(1), 2);
        let seconds = clock.stop();
        assert!(seconds[2] >= 0.02 && seconds[0] < 0.02 && seconds[1] < 0.02, "{seconds:?}");
        clock.start();
        assert!(clock.stop()[2] < 0.02, "it begins anew");
    }
}
