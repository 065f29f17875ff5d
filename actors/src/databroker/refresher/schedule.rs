//! What is owed to sessions because of their tokens, and when it is whose turn. Pure: time is an argument.

use std::time::Duration;

use actix::Message;
use aws_lc_rs::digest;
use portcullis_config::limits::{
    REFRESH_LEAD, REFRESH_LEAST, REFRESH_LOOK, REFRESH_PAUSE, REFRESH_SPREAD, REFRESH_TAKEOVER, USER_INFO_EVERY,
};
use portcullis_events::{PersonId, SessionId, Time, session, token};
use uuid::Uuid;

/// What is owed, and is this node's turn?
#[derive(Debug, Clone, Message)]
#[rtype(result = "Vec<Due>")]
pub struct WhatIsOwed {
    /// The provider that can be asked.
    pub idp: String,
    /// Who might do it.
    pub nodes: Nodes,
    /// When this node began: what fell due before is spread.
    pub began: Time,
    /// When it was looked last.
    pub looked: Time,
    /// The time.
    pub now: Time,
}

/// Something owed to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub person: PersonId,
    /// What.
    pub what: What,
}

/// What is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// By reason of the tokens' own state.
    Tokens(token::Owed),
    /// A look at what the provider says of the person.
    Claims,
}

/// The nodes that may refresh. Rendezvous hashing says which of them tries first, as a hint only: a node that is alone
/// with its opinion loses a race on the log, and nothing else.
#[derive(Debug, Clone)]
pub struct Nodes {
    me: String,
    others: Vec<String>,
}

impl Nodes {
    /// A node that knows of no other.
    #[must_use]
    pub const fn alone(me: String) -> Self {
        Self { me, others: Vec::new() }
    }

    /// A node among others.
    #[must_use]
    pub const fn among(me: String, others: Vec<String>) -> Self {
        Self { me, others }
    }

    /// How many others there are.
    #[must_use]
    pub const fn others(&self) -> usize {
        self.others.len()
    }

    /// Whether this node is the first for a session.
    #[must_use]
    pub fn is_first(&self, session: SessionId) -> bool {
        let mine = weight(&self.me, session);
        self.others.iter().all(|other| (weight(other, session), other) <= (mine, &self.me))
    }
}

/// Highest random weight: every node computes the same order for a session.
fn weight(node: &str, session: SessionId) -> [u8; 8] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(session.uuid().as_bytes());
    context.update(node.as_bytes());
    let mut weight = [0; 8];
    weight.iter_mut().zip(context.finish().as_ref()).for_each(|(byte, hashed)| *byte = *hashed);
    weight
}

impl WhatIsOwed {
    /// What is owed to a session, if it is this node's turn, and when it is to be looked at again; `None` where nothing
    /// will ever be owed unless something happens to it.
    pub(super) fn examine(
        &self,
        id: SessionId,
        tokens: &token::State,
        session: &session::State,
    ) -> Option<(Option<Due>, Time)> {
        let token::State::Held(held) = tokens else { return None };
        let session::State::Open(session::Open { signed_in, .. }) = session else { return None };
        if signed_in.expires_at <= self.now || signed_in.idp != self.idp {
            return None;
        }
        let mut next = self.next_claims(id);
        let what = if let Some(owed) = held.owed(signed_in.issued_at, REFRESH_LEAD, REFRESH_LEAST, self.now) {
            let turn = self.turn(id, since(&owed));
            let is_mine = turn <= self.now;
            // done by then, or tried again
            next = next.min(if is_mine { self.now.plus(REFRESH_LOOK / 2) } else { turn });
            is_mine.then_some(What::Tokens(owed))
        } else {
            next = held.due(signed_in.issued_at, REFRESH_LEAD, REFRESH_LEAST).map_or(next, |due| next.min(due));
            self.is_time_for_claims(id, held).then_some(What::Claims)
        };
        Some((what.map(|what| Due { session: id, person: signed_in.person, what }), next))
    }

    /// When something that fell due then is this node's to do.
    fn turn(&self, id: SessionId, due: Time) -> Time {
        let turn = if self.nodes.is_first(id) { due } else { due.plus(REFRESH_TAKEOVER) };
        if due < self.began { turn.max(self.began.plus(share(id.uuid(), REFRESH_SPREAD))) } else { turn }
    }

    /// Each session has its own moment in every interval, so that they are spread by themselves.
    fn is_time_for_claims(&self, id: SessionId, held: &token::Held) -> bool {
        let can_ask = held.stored.access_expires_at.is_none_or(|ends| self.now < ends);
        can_ask && self.nodes.is_first(id) && slot(id, self.looked) != slot(id, self.now)
    }

    /// The session's next moment.
    fn next_claims(&self, id: SessionId) -> Time {
        let begins = slot(id, self.now).saturating_add(1).saturating_mul(interval());
        Time::from_millis(begins).minus(share(id.uuid(), USER_INFO_EVERY))
    }
}

fn interval() -> i64 {
    i64::try_from(USER_INFO_EVERY.as_millis()).unwrap_or(i64::MAX)
}

/// The number of the interval that a time falls into, for a session.
fn slot(id: SessionId, at: Time) -> i64 {
    at.plus(share(id.uuid(), USER_INFO_EVERY)).millis().div_euclid(interval())
}

const fn since(owed: &token::Owed) -> Time {
    match owed {
        token::Owed::Refresh { due, .. } | token::Owed::End { due, .. } => *due,
        token::Owed::Settle { intent, .. } => intent.deadline,
    }
}

/// The share of a time that falls to an id, the same each time: evenly spread over ids.
#[must_use]
pub fn share(id: Uuid, of: Duration) -> Duration {
    let [.., high, low] = *id.as_bytes();
    of * u32::from(u16::from_be_bytes([high, low])) / 0x1_0000
}

/// When a refresh that failed is tried again: exponential, and somewhere in the second half of the pause, for each
/// session elsewhere.
#[must_use]
pub fn retry_at(now: Time, failures: u32, session: SessionId) -> Time {
    let (least, most) = REFRESH_PAUSE;
    let pause = least.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(most);
    now.plus(pause / 2 + share(session.uuid(), pause / 2))
}

/// A token bucket: so many at once, and so many a second after that.
#[derive(Debug)]
pub struct Bucket {
    rate: u32,
    size: u32,
    left: u32,
    at: Time,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn new((rate, size): (u32, u32), now: Time) -> Self {
        Self { rate, size, left: size, at: now }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Time) -> bool {
        let gained = now.since(self.at).as_millis().saturating_mul(u128::from(self.rate)) / 1000;
        if gained > 0 {
            self.left = self.left.saturating_add(u32::try_from(gained).unwrap_or(u32::MAX)).min(self.size);
            self.at = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u128) -> SessionId {
        // the low bits of a random id are random
        SessionId::new(Uuid::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)))
    }

    fn look(now: i64) -> WhatIsOwed {
        WhatIsOwed {
            idp: "idp".into(),
            nodes: Nodes::alone("a".into()),
            began: Time::from_secs(1000),
            looked: Time::from_secs(now - 5),
            now: Time::from_secs(now),
        }
    }

    #[test]
    fn every_session_has_one_first_node_and_all_nodes_agree_on_it() {
        let names = ["a", "b", "c"];
        let mut firsts = [0; 3];
        for n in 0..300 {
            let is_first = |me: &str| {
                let others = names.iter().filter(|name| **name != me).map(|name| (*name).to_owned()).collect();
                Nodes::among(me.into(), others).is_first(session(n))
            };
            let first: Vec<_> = (0..3).filter(|i| is_first(names[*i])).collect();
            assert_eq!(first.len(), 1);
            firsts[first[0]] += 1;
        }
        assert!(firsts.iter().all(|count| *count > 60), "{firsts:?}");
    }

    #[test]
    fn another_node_takes_over_after_a_while() {
        let id = (0..).map(session).find(|id| !Nodes::among("a".into(), vec!["b".into()]).is_first(*id)).unwrap();
        let nodes = Nodes::among("a".into(), vec!["b".into()]);
        let turn = |now| {
            WhatIsOwed { nodes: nodes.clone(), ..look(now) }.turn(id, Time::from_secs(2000)) <= Time::from_secs(now)
        };
        assert!(!turn(2019));
        assert!(turn(2020));
        assert_eq!(look(2000).turn(id, Time::from_secs(2000)), Time::from_secs(2000));
    }

    #[test]
    fn what_fell_due_while_a_node_was_away_is_spread_over_a_minute() {
        let turn = |now, n| look(now).turn(session(n), Time::from_secs(900)) <= Time::from_secs(now);
        let taken = |now| (0..10_000).filter(|n| turn(now, *n)).count();
        let by_then: Vec<_> = (1000..=1060).step_by(10).map(taken).collect();
        assert_eq!((by_then[0] < 50, by_then[6]), (true, 10_000));
        for pair in by_then.windows(2) {
            assert!((1400..1950).contains(&(pair[1] - pair[0])), "{by_then:?}");
        }
    }

    #[test]
    fn claims_are_looked_at_once_in_every_interval() {
        let stored = token::Stored { generation: 1, access_expires_at: None, refreshable: false };
        let held = token::Held { stored, refreshed_at: None, failures: 0, renewal: token::Renewal::Idle(None) };
        for n in 0..50 {
            let times = (0..3600).step_by(5).filter(|at| look(10_000 + at).is_time_for_claims(session(n), &held));
            assert_eq!(times.count(), 6, "an hour has six intervals");
        }
        let ended = token::Stored { access_expires_at: Some(Time::from_secs(9000)), ..stored };
        let held = token::Held { stored: ended, ..held };
        assert!((0..3600).all(|at| !look(10_000 + at).is_time_for_claims(session(1), &held)));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_no_two_sessions_have_the_same() {
        let pause = |failures, n| retry_at(Time::from_secs(0), failures, session(n)).since(Time::from_secs(0));
        for (failures, most) in [(0, 10), (1, 20), (2, 40), (5, 300), (1000, 300)] {
            let most = Duration::from_secs(most);
            let all: Vec<_> = (0..100).map(|n| pause(failures, n)).collect();
            assert!(all.iter().all(|pause| *pause >= most / 2 && *pause <= most), "{all:?}");
            assert!(all.iter().max() > all.iter().min());
        }
    }

    #[test]
    fn a_bucket_gives_so_many_at_once_and_so_many_a_second() {
        let mut bucket = Bucket::new((10, 20), Time::from_secs(0));
        let mut taken = |at| (0..100).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(Time::from_secs(0)), 20);
        assert_eq!(taken(Time::from_millis(99)), 0);
        assert_eq!(taken(Time::from_secs(1)), 10);
        assert_eq!(taken(Time::from_secs(3600)), 20);
    }
}
