//! When a tail speaks of the head: at once, and again as soon as everything that was known then has been yielded.

use portcullis_events::Time;

use super::{Head, Tailed};

/// The heads that a tail has heard of and not yet passed on.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// To be said now.
    fresh: Option<(Head, Time)>,
    /// To be said when its last record has been yielded. It stays until then: under steady appends each newer head
    /// would move the goal, and a reader would never learn that it had caught up with one.
    goal: Option<(Head, Time)>,
}

impl Heads {
    /// The authority was asked at this time by a tail that has yielded everything up to `seen`.
    pub(super) fn heard(&mut self, seen: u64, head: Head, at: Time) {
        self.fresh = Some((head, at));
        if seen < head.last && self.goal.is_none() {
            self.goal = Some((head, at));
        }
    }

    /// What is to be said by a tail that has yielded everything up to `seen`.
    pub(super) fn due(&mut self, seen: u64) -> Option<Tailed> {
        let due = self.fresh.take().or_else(|| self.goal.take_if(|(goal, _)| goal.last <= seen));
        due.map(|(head, at)| Tailed::Head { head, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time::from_secs(1);

    fn head(last: u64) -> Head {
        Head { last, first: 1 }
    }

    #[test]
    fn a_head_ahead_is_said_at_once_and_again_when_it_is_reached() {
        let mut heads = Heads::default();
        heads.heard(0, head(2), AT);
        assert_eq!(heads.due(0), Some(Tailed::Head { head: head(2), at: AT }));
        assert_eq!(heads.due(0), None);
        assert_eq!(heads.due(1), None);
        assert_eq!(heads.due(2), Some(Tailed::Head { head: head(2), at: AT }));
        assert_eq!(heads.due(2), None);
    }

    #[test]
    fn a_goal_does_not_move_while_the_log_grows() {
        let mut heads = Heads::default();
        heads.heard(0, head(2), AT);
        heads.heard(1, head(9), AT);
        assert_eq!(heads.due(1), Some(Tailed::Head { head: head(9), at: AT }));
        assert_eq!(heads.due(2), Some(Tailed::Head { head: head(2), at: AT }));
    }

    #[test]
    fn a_head_already_reached_is_said_once() {
        let mut heads = Heads::default();
        heads.heard(2, head(2), AT);
        assert!(heads.due(2).is_some());
        assert_eq!(heads.due(2), None);
    }
}
