//! What a node counts and measures of itself: plain atomics, read by whoever renders them.
//!
//! Every component that holds the views reaches them there ([`crate::databroker::view::Views::metrics`]). Nothing here
//! is on the path of a request: what is counted for each request is counted by its worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use portcullis_events::Time;

use crate::proxy::upstreams::cluster::Refused;

/// How often something happened.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Once more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// One of them; gone when it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<Gauge>);

impl Gauge {
    /// One more, for as long as what is returned lives.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }

    /// From now on this many.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Upper bounds of the buckets of [`Durations`], in microseconds; what takes longer is in none of them.
pub const BUCKETS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 60_000_000,
];

/// How long something took, in buckets.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BUCKETS.len()],
    longer: AtomicU64,
    micros: AtomicU64,
}

/// What was measured so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// How many fell into each bucket of [`BUCKETS`] and into none before it.
    pub buckets: [u64; BUCKETS.len()],
    /// How many took longer than the last bucket.
    pub longer: u64,
    /// All of them together, in microseconds.
    pub micros: u64,
}

impl Measured {
    /// Adds one measurement.
    pub fn observe(&mut self, took: Duration) {
        let micros = micros(took);
        match self.buckets.get_mut(bucket(micros)) {
            Some(count) => *count += 1,
            None => self.longer += 1,
        }
        self.micros = self.micros.saturating_add(micros);
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *ours += theirs;
        }
        self.longer += other.longer;
        self.micros = self.micros.saturating_add(other.micros);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum::<u64>() + self.longer
    }
}

impl Durations {
    /// Adds one measurement.
    pub fn observe(&self, took: Duration) {
        let micros = micros(took);
        self.buckets.get(bucket(micros)).unwrap_or(&self.longer).fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was measured so far.
    #[must_use]
    pub fn get(&self) -> Measured {
        let mut measured = Measured {
            longer: self.longer.load(Ordering::Relaxed),
            micros: self.micros.load(Ordering::Relaxed),
            ..Measured::default()
        };
        for (count, bucket) in measured.buckets.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        measured
    }
}

fn bucket(micros: u64) -> usize {
    BUCKETS.partition_point(|bound| *bound < micros)
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

macro_rules! outcomes {
    ($(#[$about:meta])* $outcomes:ident { $($(#[$doc:meta])* $field:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $outcomes {
            $($(#[$doc])* pub $field: Counter,)*
        }

        impl $outcomes {
            /// Every outcome by its name, with how often it was seen.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($name, self.$field.get()),)*].into_iter()
            }
        }
    };
}

outcomes! {
    /// What became of an append to the log.
    Appends {
        /// It is on the log.
        stored = "stored",
        /// Another event was first; the command is decided again.
        conflict = "conflict",
        /// The log did not answer in time: it may be there or not.
        unavailable = "unavailable",
        /// The log does not take it.
        refused = "refused",
    }
}

outcomes! {
    /// What became of a sign-in at its last step, the callback that opens the session, or at the step where it failed.
    SignIns {
        /// The session is open.
        completed = "completed",
        /// Refused: by the provider, or because a link, a code or a hand-over is not right.
        refused = "refused",
        /// The provider, the log or the vault did not answer.
        unavailable = "unavailable",
    }
}

outcomes! {
    /// What became of a token refresh.
    Refreshes {
        /// New tokens are in the vault.
        refreshed = "refreshed",
        /// The provider could not, or did not answer: it is tried again later.
        postponed = "postponed",
        /// The provider refused the refresh token for good (RFC 6749 §5.2, `invalid_grant`).
        refused = "refused",
        /// Nobody knows whether the provider took the token: its generation is never sent again.
        in_doubt = "in_doubt",
    }
}

outcomes! {
    /// What became of a configuration that was read again.
    Reloads {
        /// It is in force.
        applied = "applied",
        /// It is not valid, and the old one stays.
        refused = "refused",
    }
}

outcomes! {
    /// Requests that an upstream's cluster refused.
    ClusterRefusals {
        /// Nobody is healthy.
        none_healthy = "none_healthy",
        /// `max_requests`
        max_requests = "max_requests",
        /// `max_pending_requests`
        max_pending_requests = "max_pending_requests",
    }
}

outcomes! {
    /// Active checks of upstreams.
    Checks {
        /// It is well.
        passed = "passed",
        /// It is not.
        failed = "failed",
    }
}

/// What is counted of all upstreams together.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    /// Requests that were refused.
    pub refusals: ClusterRefusals,
    /// Active checks.
    pub checks: Checks,
    /// Ejections for bad answers.
    pub ejections: Counter,
    /// Second attempts.
    pub retries: Counter,
}

impl UpstreamMetrics {
    pub(crate) fn refused(&self, why: Refused) {
        match why {
            Refused::NoneHealthy => self.refusals.none_healthy.increment(),
            Refused::Requests => self.refusals.max_requests.increment(),
            Refused::Pending => self.refusals.max_pending_requests.increment(),
        }
    }

    pub(crate) fn checked(&self, well: bool) {
        if well { self.checks.passed.increment() } else { self.checks.failed.increment() }
    }
}

/// Everything that a node counts and measures outside the path of a request.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Appends to the log, by the journal.
    pub appends: Appends,
    /// How long the log took for an append that it acknowledged.
    pub append_time: Durations,
    /// How long it took from an acknowledgement until the event was in this node's views.
    pub read_back_time: Durations,
    /// How long the replica took to apply a record.
    pub apply_time: Durations,
    /// How long it took from the time in the event that ends a session until this node refuses it. Two clocks, where
    /// another node wrote the event.
    pub revocation_time: Durations,
    /// Sign-ins that came through this node.
    pub sign_ins: SignIns,
    /// Token refreshes by this node.
    pub refreshes: Refreshes,
    /// Connections to upstreams.
    pub upstream_connections: Arc<Gauge>,
    /// Upstreams.
    pub upstreams: Arc<UpstreamMetrics>,
    /// Configurations that were read again.
    pub reloads: Reloads,
    /// Whether the last configuration that was read came into force, as 1 or 0.
    pub last_reload_good: Gauge,
    /// When a configuration last came into force, in milliseconds since the Unix epoch.
    pub in_force_since: Gauge,
}

impl Metrics {
    /// A configuration came into force.
    pub fn reloaded(&self, at: Time) {
        self.reloads.applied.increment();
        self.in_force(at);
    }

    /// The configuration that the process starts with is in force.
    pub fn in_force(&self, at: Time) {
        self.last_reload_good.set(1);
        self.in_force_since.set(at.millis());
    }

    /// A configuration was not valid.
    pub fn reload_refused(&self) {
        self.reloads.refused.increment();
        self.last_reload_good.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let (durations, mut alone) = (Durations::default(), Measured::default());
        for micros in [0, 100, 101, 60_000_000, 60_000_001] {
            durations.observe(Duration::from_micros(micros));
            alone.observe(Duration::from_micros(micros));
        }
        let measured = durations.get();
        assert_eq!(measured, alone);
        assert_eq!((measured.buckets[0], measured.buckets[1], measured.buckets[15], measured.longer), (2, 1, 1, 1));
        assert_eq!((measured.count(), measured.micros), (5, 120_000_202));
    }

    #[test]
    fn buckets_ascend() {
        assert!(BUCKETS.is_sorted());
    }

    #[test]
    fn what_is_merged_counts_all() {
        let (mut one, mut other) = (Measured::default(), Measured::default());
        one.observe(Duration::from_millis(1));
        other.observe(Duration::from_millis(1));
        other.observe(Duration::from_secs(100));
        one.add(&other);
        assert_eq!((one.count(), one.buckets[3], one.longer, one.micros), (3, 2, 1, 100_002_000));
    }

    #[test]
    fn what_is_counted_is_gone_when_it_is_dropped() {
        let gauge = Arc::new(Gauge::default());
        let (one, another) = (gauge.enter(), gauge.enter());
        assert_eq!(gauge.get(), 2);
        drop(one);
        assert_eq!(gauge.get(), 1);
        drop(another);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_bad_configuration_leaves_the_time_of_the_good_one() {
        let metrics = Metrics::default();
        metrics.in_force(Time::from_secs(1));
        metrics.reloaded(Time::from_secs(2));
        metrics.reload_refused();
        assert_eq!((metrics.last_reload_good.get(), metrics.in_force_since.get()), (0, 2000));
        assert_eq!(metrics.reloads.all().collect::<Vec<_>>(), [("applied", 1), ("refused", 1)]);
    }
}
