//! The only place that reads the wall clock; everything else takes the time as an argument.

use std::sync::OnceLock;

use portcullis_events::Time;

static SIMULATED: OnceLock<fn() -> Time> = OnceLock::new();

/// The wall clock, in milliseconds since the Unix epoch.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Time {
    if let Some(simulated) = SIMULATED.get() {
        return simulated();
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Time::from_millis(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

/// Reads another clock than the wall's for the rest of the process: a simulation makes its own time. The first call
/// decides.
pub fn simulate(clock: fn() -> Time) {
    SIMULATED.get_or_init(|| clock);
}
