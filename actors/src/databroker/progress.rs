//! How far a node has come along the log, and whether it may be trusted: read by everyone, written by the replica.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use portcullis_config::limits::HEAD_STALE;
use portcullis_events::{Epoch, Time};
use tokio::sync::watch;

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
    /// It was ready, and the authority has not been heard of since.
    Stale {
        /// When it was last heard of.
        since: Time,
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
            Self::Waiting { why } => write!(f, "waiting for the log: {why}"),
            Self::CatchingUp { applied, head } => write!(f, "catching up with the log: {applied} of {head}"),
            Self::Ready => f.write_str("ready"),
            Self::Stale { since } => write!(f, "the log was last heard of at {}", since.rfc3339()),
            Self::Stopped { why } => write!(f, "stopped: {why}"),
        }
    }
}

/// The progress of a replica.
#[derive(Debug)]
pub struct Progress {
    applied: watch::Sender<u64>,
    head: AtomicU64,
    heard_at: AtomicI64,
    caught_up: AtomicBool,
    epoch: ArcSwapOption<Epoch>,
    away: ArcSwapOption<String>,
    stopped: ArcSwapOption<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            applied: watch::Sender::new(0),
            head: AtomicU64::new(0),
            heard_at: AtomicI64::new(i64::MIN),
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
        *self.applied.borrow()
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

    /// Waits until the views hold `seq`; false if they do not within `deadline`.
    pub async fn reaches(&self, seq: u64, deadline: Duration) -> bool {
        if self.applied() >= seq {
            return true;
        }
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= seq);
        matches!(tokio::time::timeout(deadline, reached).await, Ok(Ok(_)))
    }

    /// What the node may say of itself at `now`.
    #[must_use]
    pub fn standing(&self, now: Time) -> Standing {
        if let Some(why) = self.stopped.load_full() {
            return Standing::Stopped { why: (*why).clone() };
        }
        let heard_at = Time::from_millis(self.heard_at.load(Ordering::Acquire));
        if !self.caught_up.load(Ordering::Acquire) {
            return match self.away.load_full() {
                Some(why) => Standing::Waiting { why: (*why).clone() },
                None => Standing::CatchingUp { applied: self.applied(), head: self.head() },
            };
        }
        if now.since(heard_at) > HEAD_STALE { Standing::Stale { since: heard_at } } else { Standing::Ready }
    }

    /// Whether a session in the views may be believed at `now`: the log was read to its end once, nothing is wrong
    /// with it, and its authority was heard of within `bound`.
    #[must_use]
    pub fn vouches(&self, now: Time, bound: Duration) -> bool {
        self.caught_up.load(Ordering::Acquire)
            && self.stopped.load().is_none()
            && now.since(Time::from_millis(self.heard_at.load(Ordering::Acquire))) <= bound
    }

    pub(super) fn caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(Some(Arc::new(epoch)));
    }

    pub(super) fn set_applied(&self, seq: u64) {
        self.applied.send_replace(seq);
    }

    /// The authority was heard of; `caught_up` if everything it knew then is in the views.
    pub(super) fn heard(&self, head: u64, at: Time, caught_up: bool) {
        self.head.store(head, Ordering::Release);
        self.heard_at.fetch_max(at.millis(), Ordering::AcqRel);
        self.away.store(None);
        if caught_up {
            self.caught_up.store(true, Ordering::Release);
        }
    }

    pub(super) fn away(&self, why: String) {
        self.away.store(Some(Arc::new(why)));
    }

    pub(super) fn stop(&self, why: String) {
        self.stopped.store(Some(Arc::new(why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(300);

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
        assert_eq!(progress.standing(Time::from_secs(111)), Standing::Stale { since: Time::from_secs(100) });
        assert!(progress.vouches(Time::from_secs(400), BOUND));
        assert!(!progress.vouches(Time::from_secs(401), BOUND));
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
