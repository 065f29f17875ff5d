//! How far a node has come along the log, and whether it may be trusted: read by everyone, written by the replica.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use portcullis_config::Staleness;
use portcullis_config::limits::{CLOCK_SET_BACK, FRESHENS, HEAD_STALE};
use portcullis_events::{Epoch, Time};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock;

/// What a node may say of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The log has not been reached yet.
    Waiting {
        /// What stands in the way.
        why: String,
    },
    /// The log is being read up to the head that was found at the start.
    CatchingUp {
        /// What was applied.
        applied: u64,
        /// The head.
        head: u64,
    },
    /// Everything that the log's authority knows was applied.
    Ready,
    /// It was ready, and has not been sure since that it knows what the authority knows.
    Stale {
        /// When it was last sure.
        since: Time,
        /// What stands in the way, if it is known.
        why: Option<String>,
    },
    /// The log cannot be followed any further: nobody with a session is served.
    Stopped {
        /// Why, with the sequence.
        why: String,
    },
}

impl Standing {
    /// Whether the node may be sent requests.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Waiting { why } => write!(f, "waiting: {why}"),
            Self::CatchingUp { applied, head } => write!(f, "catching up with the log: {applied} of {head}"),
            Self::Ready => f.write_str("ready"),
            Self::Stale { since, why: None } => write!(f, "the log was last read to its end at {}", since.rfc3339()),
            Self::Stale { since, why: Some(why) } => {
                write!(f, "the log was last read to its end at {}: {why}", since.rfc3339())
            }
            Self::Stopped { why } => write!(f, "stopped: {why}"),
        }
    }
}

/// The progress of a replica.
#[derive(Debug)]
pub struct Progress {
    /// The last sequence in the views: read for every request.
    applied: AtomicU64,
    /// Wakes those who wait for something here, in the order in which they came.
    changed: Notify,
    head: AtomicU64,
    /// When the authority knew nothing that is not in the views.
    current_at: AtomicI64,
    /// The same by a clock that nobody sets, in milliseconds since `began`.
    current_since: AtomicU64,
    began: Instant,
    caught_up: AtomicBool,
    epoch: ArcSwapOption<Epoch>,
    away: ArcSwapOption<String>,
    stopped: ArcSwapOption<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            applied: AtomicU64::new(0),
            changed: Notify::new(),
            head: AtomicU64::new(0),
            current_at: AtomicI64::new(i64::MIN),
            current_since: AtomicU64::new(0),
            began: Instant::now(),
            caught_up: AtomicBool::new(false),
            epoch: ArcSwapOption::empty(),
            away: ArcSwapOption::empty(),
            stopped: ArcSwapOption::empty(),
        }
    }
}

impl Progress {
    /// The last sequence whose effect is in the views.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// The log's last sequence, as far as is known.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire).max(self.applied())
    }

    /// The log's epoch, once its first event was applied.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch.load().as_deref().copied()
    }

    /// Why the log cannot be followed any further; `None` while it can.
    #[must_use]
    pub fn stopped(&self) -> Option<Arc<String>> {
        self.stopped.load_full()
    }

    /// Waits until the views hold `seq`; false if they do not within `deadline`, or never will.
    pub async fn reaches(&self, seq: u64, deadline: Duration) -> bool {
        let settled = self.becomes(|| self.applied() >= seq || self.stopped.load().is_some());
        // whether it was reached or given up, is read from the views
        let _ = tokio::time::timeout(deadline, settled).await;
        self.applied() >= seq
    }

    /// What the node may say of itself at `now`.
    #[must_use]
    pub fn standing(&self, now: Time) -> Standing {
        if let Some(why) = self.stopped.load_full() {
            return Standing::Stopped { why: (*why).clone() };
        }
        let current_at = Time::from_millis(self.current_at.load(Ordering::Acquire));
        if !self.caught_up.load(Ordering::Acquire) {
            return match self.away.load_full() {
                Some(why) => Standing::Waiting { why: (*why).clone() },
                None => Standing::CatchingUp { applied: self.applied(), head: self.head() },
            };
        }
        if self.staleness(now).is_none_or(|age| age > HEAD_STALE) {
            let why = self.away.load_full().map(|why| (*why).clone());
            return Standing::Stale { since: current_at, why };
        }
        Standing::Ready
    }

    /// Whether a session in the views may be believed at `now`: nothing is wrong with the log, and within `bound` it was
    /// read to where its authority said that it ends.
    #[must_use]
    pub fn vouches(&self, now: Time, bound: Staleness) -> bool {
        self.stopped.load().is_none() && self.staleness(now).is_some_and(|age| bound.allows(age))
    }

    /// Waits for the sign of life of the authority that makes the views fresh enough for `bound` again, where the last one
    /// became too old only just now: replicas of a stream may be silent for all of the strictest bound when nothing is
    /// wrong. False at once where it has been silent for longer.
    pub async fn freshens(&self, now: Time, bound: Staleness) -> bool {
        let began = Instant::now();
        let is_fresh = |within: Staleness| self.vouches(now.plus(began.elapsed()), within);
        let Staleness::Within(most) = bound else { return is_fresh(bound) };
        let late = Staleness::Within(most.saturating_add(FRESHENS));
        if !is_fresh(late) {
            return false;
        }
        let settled = self.becomes(|| is_fresh(bound) || !is_fresh(late));
        // whether it came or not, is read from when the authority was heard
        let _ = tokio::time::timeout(FRESHENS, settled).await;
        is_fresh(bound)
    }

    /// How long ago the authority knew nothing that is not in the views; `None` before that was so for the first time.
    /// Where the clock was set back to before that, nobody can tell: for ever, until the authority is heard again.
    #[must_use]
    pub fn staleness(&self, now: Time) -> Option<Duration> {
        self.staleness_by(now, self.began.elapsed())
    }

    /// The longer of the ages by two clocks: one that may be set, and one that may stand still while the machine sleeps.
    fn staleness_by(&self, now: Time, steady: Duration) -> Option<Duration> {
        let current_at = Time::from_millis(self.current_at.load(Ordering::Acquire));
        let since = Duration::from_millis(self.current_since.load(Ordering::Acquire));
        let age = if current_at.since(now) > CLOCK_SET_BACK { Duration::MAX } else { now.since(current_at) };
        self.caught_up.load(Ordering::Acquire).then_some(age.max(steady.saturating_sub(since)))
    }

    /// How many records the log's authority is known to have that are not in the views.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.head.load(Ordering::Acquire).saturating_sub(self.applied())
    }

    /// Waits until the log was read to its end for the first time; false if it is not within `deadline`, or never will.
    pub async fn becomes_current(&self, deadline: Duration) -> bool {
        let settled = self.becomes(|| self.caught_up() || self.stopped.load().is_some());
        // whether it was reached or given up, is read from the flags
        let _ = tokio::time::timeout(deadline, settled).await;
        self.is_whole()
    }

    /// Waits until it is so: looked at now and whenever something here changes.
    async fn becomes(&self, is_so: impl Fn() -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // a change from here on is not missed
            changed.as_mut().enable();
            if is_so() {
                return;
            }
            changed.await;
        }
    }

    /// Whether the log was read to its end once and can be followed since.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.caught_up() && self.stopped.load().is_none()
    }

    pub(super) fn caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(Some(Arc::new(epoch)));
    }

    pub(super) fn set_applied(&self, seq: u64) {
        // what comes, comes from a log that is not away
        if self.away.load().is_some() {
            self.away.store(None);
        }
        self.applied.store(seq, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// The authority was heard of; `caught_up` if everything it knew then is in the views. A head that was heard and
    /// not reached proves nothing: a revocation may lie before it.
    pub(super) fn heard(&self, head: u64, at: Time, caught_up: bool) {
        self.head.store(head, Ordering::Release);
        if caught_up {
            self.away.store(None);
            let since = self.began.elapsed().saturating_sub(clock::now().since(at));
            self.current_since.fetch_max(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::AcqRel);
            // a head may be said again, after a later one, when it is reached; one from long before is by another clock
            let before = Time::from_millis(self.current_at.load(Ordering::Acquire));
            let is_news = before < at || before.since(at) > HEAD_STALE;
            if is_news {
                self.current_at.store(at.millis(), Ordering::Release);
            }
            if !self.caught_up.swap(true, Ordering::AcqRel) || is_news {
                // whoever waits for it looks again
                self.changed.notify_waiters();
            }
        }
    }

    pub(super) fn away(&self, why: String) {
        self.away.store(Some(Arc::new(why)));
    }

    pub(super) fn stop(&self, why: String) {
        self.stopped.store(Some(Arc::new(why)));
        // whoever waits for a sequence waits in vain
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Staleness = Staleness::Within(Duration::from_secs(300));

    #[test]
    fn nobody_is_vouched_for_before_the_log_was_read_to_its_end() {
        let progress = Progress::default();
        assert!(!progress.vouches(Time::from_secs(100), BOUND));
        progress.heard(7, Time::from_secs(100), false);
        assert!(!progress.vouches(Time::from_secs(100), BOUND));
        assert_eq!(progress.standing(Time::from_secs(100)), Standing::CatchingUp { applied: 0, head: 7 });
        progress.heard(7, Time::from_secs(100), true);
        assert!(progress.vouches(Time::from_secs(100), BOUND));
        assert!(progress.standing(Time::from_secs(100)).is_ready());
    }

    #[test]
    fn silence_makes_a_node_stale_and_then_mute() {
        let progress = Progress::default();
        progress.heard(7, Time::from_secs(100), true);
        assert!(progress.standing(Time::from_secs(110)).is_ready());
        let since = Time::from_secs(100);
        assert_eq!(progress.standing(Time::from_secs(111)), Standing::Stale { since, why: None });
        progress.away("nobody answers".into());
        let why = Some("nobody answers".to_owned());
        assert_eq!(progress.standing(Time::from_secs(111)), Standing::Stale { since, why });
        assert!(progress.vouches(Time::from_secs(400), BOUND));
        assert!(!progress.vouches(Time::from_secs(401), BOUND));
    }

    #[test]
    fn a_head_that_is_not_reached_proves_no_freshness() {
        let progress = Progress::default();
        progress.heard(7, Time::from_secs(100), true);
        progress.heard(8, Time::from_secs(400), false);
        assert!(!progress.standing(Time::from_secs(400)).is_ready());
        assert!(!progress.vouches(Time::from_secs(401), BOUND), "sequence 8 may be a revocation");
        progress.heard(8, Time::from_secs(400), true);
        assert!(progress.standing(Time::from_secs(401)).is_ready());
    }

    #[test]
    fn a_bound_counts_from_when_the_authority_was_last_heard_and_an_unbounded_one_never_runs_out() {
        let progress = Progress::default();
        assert!(!progress.vouches(Time::from_secs(100), Staleness::Unbounded), "it was never read to its end");
        assert_eq!(progress.staleness(Time::from_secs(100)), None);
        progress.heard(7, Time::from_secs(100), true);
        assert!(progress.vouches(Time::from_secs(102), Staleness::STRICT));
        assert!(!progress.vouches(Time::from_millis(102_001), Staleness::STRICT));
        assert!(progress.vouches(Time::from_secs(1_000_000), Staleness::Unbounded));
        progress.heard(9, Time::from_secs(103), false);
        progress.set_applied(7);
        assert_eq!(progress.lag(), 2);
        assert_eq!(progress.staleness(Time::from_secs(104)), Some(Duration::from_secs(4)));
        progress.stop("sequence 8 is missing".into());
        assert!(!progress.vouches(Time::from_secs(103), Staleness::Unbounded), "a fault is no question of age");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nobody_younger() {
        let progress = Progress::default();
        progress.heard(7, Time::from_secs(1000), true);
        // five minutes back, and the authority is silent
        assert!(!progress.vouches(Time::from_secs(700), BOUND));
        assert!(!progress.standing(Time::from_secs(700)).is_ready());
        progress.heard(7, Time::from_secs(701), true);
        assert!(progress.vouches(Time::from_secs(702), Staleness::STRICT));
        assert!(!progress.vouches(Time::from_secs(704), Staleness::STRICT));
        // a head that was reached late is no step of the clock
        progress.heard(7, Time::from_secs(700), true);
        assert_eq!(progress.staleness(Time::from_secs(702)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_clock_that_is_set_back_within_a_bound_does_not_begin_it_anew() {
        let progress = Progress::default();
        progress.heard(7, Time::from_secs(1000), true);
        // 290 s later, by a clock that nobody sets, the wall's is set back to when the authority was last heard
        let steady = Duration::from_secs(290);
        assert_eq!(progress.staleness_by(Time::from_secs(1000), steady), Some(steady));
        // a steady clock may stand still while the machine sleeps: what the wall's says counts as well
        assert_eq!(progress.staleness_by(Time::from_secs(1500), steady), Some(Duration::from_secs(500)));
        // heard again just now, at a time that the clock that was set back has not reached yet
        progress.heard(7, clock::now(), true);
        let heard = progress.began.elapsed();
        progress.current_at.store(0, Ordering::Release);
        assert!(progress.staleness_by(Time::from_millis(0), heard + steady).is_some_and(|age| age >= steady));
        assert!(progress.staleness_by(Time::from_millis(0), heard).is_some_and(|age| age < steady));
    }

    #[actix_rt::test]
    async fn a_strict_bound_waits_a_moment_for_the_next_sign_of_life_and_not_for_a_log_that_is_away() {
        let progress = Progress::default();
        progress.heard(7, Time::from_secs(100), true);
        let just_now = Time::from_millis(102_001);
        assert!(!progress.vouches(just_now, Staleness::STRICT));
        let heard = async { progress.heard(7, Time::from_millis(101_900), true) };
        let (fresh, ()) = futures_util::future::join(progress.freshens(just_now, Staleness::STRICT), heard).await;
        assert!(fresh);
        // the same head again is no news, and nothing else comes
        assert!(!progress.freshens(Time::from_millis(103_901), Staleness::STRICT).await);
        let waiting = progress.freshens(Time::from_secs(110), Staleness::STRICT);
        assert_eq!(futures_util::FutureExt::now_or_never(waiting), Some(false), "it is away");
        assert!(!Progress::default().freshens(just_now, Staleness::STRICT).await, "it was never heard");
    }

    #[actix_rt::test]
    async fn nobody_waits_for_a_log_that_stopped() {
        let progress = Progress::default();
        progress.set_applied(7);
        let (reached, ()) = futures_util::future::join(progress.reaches(8, Duration::MAX), async {
            progress.stop("sequence 8 is missing".into());
        })
        .await;
        assert!(!reached);
        assert!(progress.reaches(7, Duration::MAX).await);
        assert!(!progress.reaches(8, Duration::MAX).await);
    }

    #[actix_rt::test]
    async fn whoever_waits_for_the_end_of_the_log_is_told_of_it() {
        let progress = Progress::default();
        let (current, ()) = futures_util::future::join(progress.becomes_current(Duration::MAX), async {
            progress.heard(7, Time::from_secs(100), true);
        })
        .await;
        assert!(current);
        progress.stop("sequence 8 is missing".into());
        assert!(!progress.becomes_current(Duration::MAX).await);
    }

    #[test]
    fn a_fault_of_the_log_makes_a_node_mute_at_once() {
        let progress = Progress::default();
        progress.heard(7, Time::from_secs(100), true);
        progress.stop("sequence 4 is missing".into());
        assert!(!progress.vouches(Time::from_secs(100), BOUND));
        assert!(!progress.standing(Time::from_secs(100)).is_ready());
    }
}
