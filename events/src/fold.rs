//! The sum of a log: every event applied once, in order, or a reason why not.
//!
//! The same records, folded in any number of steps, give the same value on every node.

use std::collections::HashMap;

use crate::{
    Aggregate, DecodeError, Envelope, Epoch, Event, Hash, LogoutId, PersonId, SessionId, group, log, logout, session,
    token,
};

/// Where an aggregate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// The sequence of its last event.
    pub seq: u64,
    /// The hash of its last event.
    pub hash: Hash,
}

/// Why a record cannot be applied. The fold stays as it was: nothing after it may be applied either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The record is not the next one.
    #[error("sequence {found} follows {applied}")]
    NotNext {
        /// What was applied last.
        applied: u64,
        /// What came.
        found: u64,
    },
    /// The record is not an event of ours.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// The record lies under a subject that is not its own.
    #[error("the event belongs under another subject")]
    Misfiled,
    /// The event names another predecessor than the one that stands before it.
    #[error("the event does not carry the hash of its aggregate's previous event")]
    BrokenChain,
    /// The first event is not the log's creation, or a later one is.
    #[error("the log does not begin with its creation")]
    NoCreation,
    /// The event was written for another log.
    #[error("the event belongs to another log")]
    AnotherEpoch,
}

/// Everything the log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fold {
    applied: u64,
    epoch: Option<Epoch>,
    tips: HashMap<Aggregate, Tip>,
    sessions: HashMap<SessionId, session::State>,
    tokens: HashMap<SessionId, token::State>,
    groups: HashMap<PersonId, group::State>,
}

impl Fold {
    /// The last sequence that was applied; 0 at first.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// The log's epoch, once its first event was applied.
    #[must_use]
    pub const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Where an aggregate stands; `None` if it has no event.
    #[must_use]
    pub fn tip(&self, aggregate: Aggregate) -> Option<Tip> {
        self.tips.get(&aggregate).copied()
    }

    /// What a session is.
    #[must_use]
    pub fn session(&self, id: SessionId) -> session::State {
        self.sessions.get(&id).cloned().unwrap_or_default()
    }

    /// Every session, ended ones too, in no order.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &session::State)> {
        self.sessions.iter().map(|(id, state)| (*id, state))
    }

    /// What a session's tokens are.
    #[must_use]
    pub fn token(&self, id: SessionId) -> token::State {
        self.tokens.get(&id).cloned().unwrap_or_default()
    }

    /// The tokens of every session, of ended ones too, in no order.
    pub fn tokens(&self) -> impl Iterator<Item = (SessionId, &token::State)> {
        self.tokens.iter().map(|(id, state)| (*id, state))
    }

    /// A session as it stands, without a copy of it.
    #[must_use]
    pub fn session_ref(&self, id: SessionId) -> Option<&session::State> {
        self.sessions.get(&id)
    }

    /// What a person belongs to.
    #[must_use]
    pub fn group(&self, id: PersonId) -> group::State {
        self.groups.get(&id).cloned().unwrap_or_default()
    }

    /// What a logout is: that one was received is all there is to know, and its tip says it.
    #[must_use]
    pub fn logout(&self, id: LogoutId) -> logout::State {
        self.tip(Aggregate::logout(id)).map_or(logout::State::Absent, |_| logout::State::Received)
    }

    /// Applies the next record and says what it was.
    ///
    /// # Errors
    /// [`FoldError`]; nothing has changed then.
    pub fn apply(&mut self, seq: u64, subject: &str, body: &[u8]) -> Result<Envelope, FoldError> {
        if seq != self.applied + 1 {
            return Err(FoldError::NotNext { applied: self.applied, found: seq });
        }
        let envelope = Envelope::decode(body)?;
        if Aggregate::from_subject(subject) != Ok(envelope.aggregate) {
            return Err(FoldError::Misfiled);
        }
        if envelope.prev != self.tip(envelope.aggregate).map(|tip| tip.hash) {
            return Err(FoldError::BrokenChain);
        }
        match (&envelope.event, self.epoch) {
            (Event::Log(log::Event::Created(created)), None)
                if created.epoch == envelope.epoch && envelope.aggregate == Aggregate::LOG =>
            {
                self.epoch = Some(created.epoch);
            }
            (Event::Log(_), _) | (_, None) => return Err(FoldError::NoCreation),
            (_, Some(epoch)) if epoch != envelope.epoch => return Err(FoldError::AnotherEpoch),
            (_, Some(_)) => {}
        }
        self.evolve(&envelope);
        self.tips.insert(envelope.aggregate, Tip { seq, hash: Hash::of(body) });
        self.applied = seq;
        Ok(envelope)
    }

    fn evolve(&mut self, envelope: &Envelope) {
        let id = envelope.aggregate.id;
        match &envelope.event {
            Event::Log(_) | Event::Logout(_) => {}
            Event::Session(event) => {
                let state = self.sessions.entry(SessionId::new(id)).or_default();
                *state = session::evolve(std::mem::take(state), event);
            }
            Event::Token(event) => {
                let state = self.tokens.entry(SessionId::new(id)).or_default();
                *state = token::evolve(std::mem::take(state), event);
            }
            Event::Group(event) => {
                let state = self.groups.entry(PersonId::new(id)).or_default();
                *state = group::evolve(std::mem::take(state), event);
            }
        }
    }
}
