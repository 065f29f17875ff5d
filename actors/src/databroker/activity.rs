//! When a session was last in use: kept on the node that served it, told to the log now and then.
//!
//! The request path compares two numbers; it writes only when the session was not touched for a while.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use portcullis_config::limits::{CLOCK_LEEWAY, SEEN_LEAST, SEEN_PARTS};
use portcullis_events::Time;

/// How finely use is noted: in this part of the bound on idleness.
const GRAIN: u32 = 64;

/// The bound on idleness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// A session that nobody used for this long is over.
    pub timeout: Duration,
    /// How long after one note on the log the next may follow.
    pub apart: Duration,
}

impl Idle {
    /// Sessions are over when idle for `timeout`.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        Self { timeout, apart: (timeout / SEEN_PARTS).max(SEEN_LEAST) }
    }
}

/// When a session was in use, as far as this node believes it: a clock that is fast elsewhere keeps no session open here.
#[must_use]
pub(super) fn credible(at: Time, now: Time) -> Time {
    if is_credible(at, now) { at } else { now }
}

/// Whether a use may have been then: clocks differ a little.
pub(super) fn is_credible(at: Time, now: Time) -> bool {
    at <= now.plus(CLOCK_LEEWAY)
}

/// The use of one session, written by every worker that serves it.
#[derive(Debug)]
pub struct Activity {
    /// The last use that is known here, in milliseconds since the Unix epoch.
    last: AtomicI64,
    /// The last use that the log knows.
    recorded: AtomicI64,
    /// The log is to be told of a use.
    owed: AtomicBool,
    /// Somebody came with the session lately.
    came: AtomicBool,
    timeout: Option<Duration>,
}

impl Default for Activity {
    /// Of a session that is never idle.
    fn default() -> Self {
        Self::since(Time::from_millis(0), None)
    }
}

impl PartialEq for Activity {
    fn eq(&self, other: &Self) -> bool {
        (self.last(), self.timeout) == (other.last(), other.timeout)
    }
}

impl Activity {
    /// Of a session that was last in use then.
    #[must_use]
    pub fn since(last: Time, idle: Option<Idle>) -> Self {
        Self {
            last: AtomicI64::new(last.millis()),
            recorded: AtomicI64::new(last.millis()),
            owed: AtomicBool::new(false),
            came: AtomicBool::new(false),
            timeout: idle.map(|idle| idle.timeout),
        }
    }

    /// The last use that is known here.
    #[must_use]
    pub fn last(&self) -> Time {
        Time::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Whether nobody used the session for too long.
    #[must_use]
    pub fn is_idle(&self, now: Time) -> bool {
        self.timeout.is_some_and(|timeout| now >= self.last().plus(timeout))
    }

    /// Somebody comes with the session.
    pub(super) fn come(&self) {
        if !self.came.load(Ordering::Relaxed) {
            self.came.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody came with it since this was asked last.
    pub(super) fn has_come(&self) -> bool {
        self.came.swap(false, Ordering::Relaxed)
    }

    /// Notes a use; true if the log is to be told of it and nobody knows that yet.
    pub(super) fn touch(&self, now: Time) -> bool {
        let Some(timeout) = self.timeout else { return false };
        if now.since(self.last()) < timeout / GRAIN {
            return false;
        }
        self.last.fetch_max(now.millis(), Ordering::SeqCst);
        !self.owed.swap(true, Ordering::SeqCst)
    }

    /// Whether the log was last told long enough ago.
    pub(super) fn is_due(&self, now: Time, idle: Idle) -> bool {
        now.since(Time::from_millis(self.recorded.load(Ordering::Relaxed))) >= idle.apart
    }

    /// What the log is told; from now on the next use is owed.
    pub(super) fn settle(&self) -> Time {
        self.owed.store(false, Ordering::SeqCst);
        Time::from_millis(self.last.load(Ordering::SeqCst))
    }

    /// The log was not told.
    pub(super) fn owe(&self) {
        self.owed.store(true, Ordering::SeqCst);
    }

    /// The log knows of a use, here or on another node; it is heard of now.
    pub(super) fn recorded(&self, at: Time, now: Time) {
        let at = credible(at, now);
        self.recorded.fetch_max(at.millis(), Ordering::Relaxed);
        self.last.fetch_max(at.millis(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(secs: i64) -> Time {
        Time::from_secs(secs)
    }

    fn activity() -> Activity {
        Activity::since(at(1000), Some(Idle::after(MINUTE)))
    }

    #[test]
    fn a_session_is_idle_when_its_last_use_is_the_timeout_ago() {
        let activity = activity();
        assert!(!activity.is_idle(at(1059)));
        assert!(activity.is_idle(at(1060)));
        activity.touch(at(1059));
        assert!(!activity.is_idle(at(1118)));
        assert!(activity.is_idle(at(1119)));
        assert!(!Activity::since(at(0), None).is_idle(at(i64::MAX / 1000)));
    }

    #[test]
    fn a_use_on_another_node_counts_and_none_counts_backwards() {
        let activity = activity();
        activity.recorded(at(1050), at(1050));
        assert!(!activity.is_idle(at(1109)));
        activity.recorded(at(1010), at(1050));
        assert_eq!(activity.last(), at(1050));
    }

    #[test]
    fn a_clock_that_is_fast_elsewhere_keeps_no_session_open_here() {
        let fast = |ahead: Duration| {
            let activity = activity();
            activity.recorded(at(1010).plus(ahead), at(1010));
            activity.last()
        };
        assert_eq!(fast(CLOCK_LEEWAY), at(1010).plus(CLOCK_LEEWAY), "as clocks differ");
        assert_eq!(fast(CLOCK_LEEWAY + Duration::from_millis(1)), at(1010));
        let activity = activity();
        activity.recorded(at(5000), at(1010));
        assert!(!activity.is_idle(at(1069)));
        assert!(activity.is_idle(at(1070)));
    }

    #[test]
    fn many_uses_are_told_once() {
        let activity = activity();
        let idle = Idle::after(MINUTE);
        let told = (1001..1015).filter(|second| activity.touch(at(*second))).count();
        assert_eq!(told, 1);
        assert!(!activity.is_due(at(1014), idle));
        assert!(activity.is_due(at(1015), idle));
        assert_eq!(activity.settle(), at(1014));
        activity.recorded(at(1014), at(1014));
        assert!(activity.touch(at(1016)), "the next one is owed again");
        assert!(!activity.is_due(at(1028), idle));
    }

    #[test]
    fn without_a_timeout_nothing_is_noted() {
        let activity = Activity::default();
        assert!(!activity.touch(at(1000)));
        assert_eq!(activity.last(), at(0));
    }

    #[test]
    fn the_notes_of_a_short_timeout_stay_a_second_apart() {
        assert_eq!(Idle::after(Duration::from_secs(2)).apart, Duration::from_secs(1));
        assert_eq!(Idle::after(MINUTE).apart, Duration::from_secs(15));
    }
}
