//! Which tokens in the vault belong to no open session: those of a session that has ended, at once; those of one that
//! never began, when they have lain there for longer than any hand-over takes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use actix::{Addr, Message};
use portcullis_config::limits::{VAULT_ORPHANED, VAULT_STEP};
use portcullis_events::{Fold, SessionId, Time, session};

use crate::databroker::replica::Replica;
use crate::databroker::vault::Revision;

/// What became of these sessions, as far as the log was read?
#[derive(Debug, Clone, Message)]
#[rtype(result = "Standings")]
pub struct WhatBecame {
    /// The sessions.
    pub sessions: Vec<SessionId>,
    /// The time.
    pub now: Time,
}

/// The sessions that are not open.
#[derive(Debug, Clone, Default, PartialEq, Eq, actix::MessageResponse)]
pub struct Standings {
    /// Those that have ended, by an event or long ago by themselves.
    pub ended: Vec<SessionId>,
    /// Those that never began.
    pub absent: Vec<SessionId>,
}

impl WhatBecame {
    /// The answer of a fold.
    #[must_use]
    pub fn answer(&self, fold: &Fold) -> Standings {
        let mut standings = Standings::default();
        for id in &self.sessions {
            match fold.session(*id) {
                // a clock that is off by less ends no session
                session::State::Open(open) if open.signed_in.expires_at.plus(VAULT_ORPHANED) > self.now => {}
                session::State::Open(_) | session::State::Ended => standings.ended.push(*id),
                session::State::Absent => standings.absent.push(*id),
            }
        }
        standings
    }
}

/// The sessions whose tokens nobody needs, each with whether it ever began. Tokens that were seen without a session for
/// the first time, or have changed since, are remembered in `seen`, and nothing else is.
pub(super) async fn over(
    replica: &Addr<Replica>,
    all: Vec<(SessionId, Revision)>,
    seen: &RefCell<BTreeMap<SessionId, (Revision, Time)>>,
    now: Time,
) -> Vec<(SessionId, bool)> {
    let (mut over, mut orphans) = (Vec::new(), BTreeMap::new());
    for step in all.chunks(VAULT_STEP) {
        let revisions: BTreeMap<_, _> = step.iter().copied().collect();
        let sessions = revisions.keys().copied().collect();
        let Ok(standings) = replica.send(WhatBecame { sessions, now }).await else { return Vec::new() };
        over.extend(standings.ended.into_iter().map(|id| (id, true)));
        for id in standings.absent {
            let Some(revision) = revisions.get(&id).copied() else { continue };
            let before = seen.borrow().get(&id).copied().filter(|(then, _)| *then == revision);
            let (_, since) = *orphans.entry(id).or_insert(before.unwrap_or((revision, now)));
            if since.plus(VAULT_ORPHANED) <= now {
                over.push((id, false));
            }
        }
    }
    seen.replace(orphans);
    over
}
