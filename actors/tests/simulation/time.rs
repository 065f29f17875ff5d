//! The clocks of a simulation: turmoil's, off by as much as a host's clock is off.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use portcullis_events::Time;
use tokio::runtime::{Handle, Id};
use tokio::time::Instant;

/// When every simulation begins, in milliseconds since the Unix epoch.
const BEGINNING: i64 = 1_800_000_000_000;

thread_local! {
    static CLOCKS: RefCell<HashMap<Id, Clock>> = RefCell::default();
    static OUTSIDE: Cell<i64> = const { Cell::new(0) };
}

/// The clock of one life of a host: each has a runtime, and so a paused time, of its own.
#[derive(Clone, Copy)]
struct Clock {
    began: Instant,
    /// When it began, in milliseconds since the run did.
    at: i64,
    /// How far off it is, in milliseconds.
    skew: i64,
}

/// Begins the time of a run on this thread.
pub fn begin() {
    portcullis_actors::clock::simulate(now);
    CLOCKS.with_borrow_mut(HashMap::clear);
    outside(Duration::ZERO);
}

/// What time it is between two steps, where no host runs.
pub fn outside(elapsed: Duration) {
    OUTSIDE.set(millis(elapsed));
}

/// Sets the clock of the host that runs, for this life of it.
pub fn join(skew: i64) {
    let clock = Clock { began: Instant::now(), at: millis(turmoil::sim_elapsed().unwrap()), skew };
    CLOCKS.with_borrow_mut(|clocks| clocks.insert(Handle::current().id(), clock));
}

/// Milliseconds since the run began, where the host that runs, or whose runtime was entered, has come to.
pub fn elapsed() -> i64 {
    here().map_or(OUTSIDE.get(), |clock| clock.at + millis(clock.began.elapsed()))
}

/// A clock that is off by `skew` milliseconds.
pub fn off_by(skew: i64) -> Time {
    Time::from_millis(BEGINNING + elapsed() + skew)
}

fn now() -> Time {
    off_by(here().map_or(0, |clock| clock.skew))
}

fn here() -> Option<Clock> {
    let id = Handle::try_current().ok()?.id();
    CLOCKS.with_borrow(|clocks| clocks.get(&id).copied())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap()
}
