//! The clocks of a simulation: the runtime's paused time, off by as much as a node's clock is off.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use portcullis_events::Time;
use tokio::time::Instant;

/// When every simulation begins, in milliseconds since the Unix epoch.
const BEGINNING: i64 = 1_800_000_000_000;

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
    static SKEW: Cell<i64> = const { Cell::new(0) };
}

/// Begins the time of a run on this thread.
pub fn begin() {
    portcullis_actors::clock::simulate(now);
    BEGUN.set(Some(Instant::now()));
}

/// Milliseconds since the run began.
pub fn elapsed() -> i64 {
    BEGUN.get().map_or(0, |begun| i64::try_from(begun.elapsed().as_millis()).unwrap())
}

/// A clock that is off by `skew` milliseconds.
pub fn off_by(skew: i64) -> Time {
    Time::from_millis(BEGINNING + elapsed() + skew)
}

fn now() -> Time {
    off_by(SKEW.get())
}

/// A future whose clock is off by some milliseconds.
pub struct Skewed<F> {
    /// The future.
    pub future: F,
    /// How far off.
    pub skew: i64,
}

impl<F: Future + Unpin> Future for Skewed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = SKEW.replace(self.skew);
        let polled = Pin::new(&mut self.future).poll(context);
        SKEW.set(before);
        polled
    }
}
