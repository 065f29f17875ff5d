//! Which sessions are looked at next: an index by time, so that a look costs what is due and not what there is.
//!
//! An entry is a hint. What is owed is read from the fold when its time has come, and the session is entered again for
//! when something may be owed to it next; an entry that was overtaken by an event is found out then, and goes.

use std::cell::RefCell;
use std::collections::BTreeSet;

use portcullis_config::limits::{REFRESH_BATCH, REFRESH_STEP};
use portcullis_events::{Fold, SessionId, SessionRecord, Time};

use super::schedule::{Due, WhatIsOwed};

/// Before every other time.
const AT_ONCE: Time = Time::from_millis(i64::MIN);

/// Sessions by when something may be owed to them.
#[derive(Debug, Default)]
pub struct Agenda {
    entries: BTreeSet<(Time, SessionId)>,
    is_filled: bool,
}

impl Agenda {
    /// Something happened to a session or its tokens.
    pub fn touch(&mut self, id: SessionId) {
        // before the first look all of them are to be looked at
        if self.is_filled {
            self.entries.insert((AT_ONCE, id));
        }
    }

    /// Looks at the next sessions whose time has come, at so many at most; false if there are no more, or enough is owed.
    fn step(&mut self, look: &WhatIsOwed, fold: &Fold, owed: &mut Vec<Due>) -> bool {
        if !self.is_filled {
            self.entries = fold.sessions().map(|(id, _)| (AT_ONCE, id)).collect();
            self.is_filled = true;
        }
        for _ in 0..REFRESH_STEP {
            let is_next = owed.len() < REFRESH_BATCH && self.entries.first().is_some_and(|(at, _)| *at <= look.now);
            let Some((_, id)) = is_next.then(|| self.entries.pop_first()).flatten() else { return false };
            let Some(record) = fold.session_record(id).filter(SessionRecord::has_tokens) else { continue };
            let (session, tokens) = record.states();
            let Some((due, next)) = look.examine(id, &tokens, &session) else { continue };
            owed.extend(due);
            self.entries.insert((next, id));
        }
        true
    }
}

/// Everything that is owed and this node's turn, up to [`REFRESH_BATCH`]. Others get their turn between two
/// steps.
pub async fn gather(look: &WhatIsOwed, agenda: &RefCell<Agenda>, fold: &RefCell<Fold>) -> Vec<Due> {
    let mut owed = Vec::new();
    loop {
        let is_on = agenda.borrow_mut().step(look, &fold.borrow(), &mut owed);
        if !is_on {
            return owed;
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
