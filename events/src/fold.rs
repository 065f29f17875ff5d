//! The sum of a log: every event applied once, in order, or a reason why not.
//!
//! The same records, folded in any number of steps, give the same value on every node. It is kept packed, an
//! aggregate in one piece of memory, and a clone of it is cheap.

use std::sync::Arc;

use uuid::Uuid;

use crate::departures::{Departed, Departures};
use crate::record::{self, Life, Record, SessionRecord};
use crate::shards::Shards;
use crate::{
    Aggregate, AggregateKind, DecodeError, Envelope, Epoch, Event, Hash, LogoutId, PersonId, SessionId, Time, group,
    log, logout, session, token,
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
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fold {
    pub(crate) applied: u64,
    pub(crate) epoch: Option<Epoch>,
    /// The hash of the record that was applied last.
    pub(crate) last: Option<Hash>,
    /// Where the log's own aggregate stands.
    pub(crate) log: Option<Tip>,
    /// Sessions with their tokens.
    pub(crate) lives: Shards,
    /// The groups of people.
    pub(crate) groups: Shards,
    /// The logouts that were asked for.
    pub(crate) logouts: Shards,
    /// Whom they meant, lately.
    pub(crate) departures: Departures,
}

impl Fold {
    /// Pieces that [`Self::forget_expired`] and [`Self::sessions_in`] go through one at a time.
    pub const PIECES: usize = Shards::COUNT;

    /// The last sequence that was applied; 0 at first.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// The hash of the record that was applied last: a log that has another one there is another log.
    #[must_use]
    pub const fn last(&self) -> Option<Hash> {
        self.last
    }

    /// The log's epoch, once its first event was applied.
    #[must_use]
    pub const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Where an aggregate stands; `None` if it has no event.
    #[must_use]
    pub fn tip(&self, aggregate: Aggregate) -> Option<Tip> {
        let tips = |records: &Shards| records.get(aggregate.id).map_or([None, None], |bytes| record::tips(bytes));
        match aggregate.kind {
            AggregateKind::Log => self.log.filter(|_| aggregate == Aggregate::LOG),
            AggregateKind::Session => tips(&self.lives)[0],
            AggregateKind::Token => tips(&self.lives)[1],
            AggregateKind::Group => tips(&self.groups)[0],
            AggregateKind::Logout => tips(&self.logouts)[0],
        }
    }

    /// What a session is.
    #[must_use]
    pub fn session(&self, id: SessionId) -> session::State {
        self.life(id.uuid()).state.session
    }

    /// How many sessions are kept, ended ones too.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.lives.len()
    }

    /// Every session, ended ones too, by id.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, SessionRecord)> {
        self.lives.iter().map(|(id, bytes)| (SessionId::new(id), SessionRecord(Arc::clone(bytes))))
    }

    /// Every session in one of the [`Self::PIECES`], ended ones too, by id.
    pub fn sessions_in(&self, piece: usize) -> impl Iterator<Item = (SessionId, SessionRecord)> {
        self.lives.piece(piece).map(|(id, bytes)| (SessionId::new(id), SessionRecord(Arc::clone(bytes))))
    }

    /// A session as it is kept; `None` if nothing is.
    #[must_use]
    pub fn session_record(&self, id: SessionId) -> Option<SessionRecord> {
        self.lives.get(id.uuid()).map(|bytes| SessionRecord(Arc::clone(bytes)))
    }

    /// What a session's tokens are. Of a session that has ended nothing is known of its tokens any more.
    #[must_use]
    pub fn token(&self, id: SessionId) -> token::State {
        self.life(id.uuid()).state.token
    }

    /// What a person belongs to.
    #[must_use]
    pub fn group(&self, id: PersonId) -> group::State {
        self.membership(id.uuid()).state
    }

    /// Forgets what sessions leave behind that ended by themselves before `at`, in one of the [`Self::PIECES`]. That
    /// they are over and where they stand stays: such a session never opens again, and the chain goes on.
    ///
    /// [`Self::write`] at the same time or a later one writes the same bytes before and after.
    pub fn forget_expired(&mut self, piece: usize, at: Time) {
        self.lives.replace(piece, |bytes| record::expired(bytes, at));
    }

    /// Packs one of the [`Self::PIECES`] closely, once very much was applied: it says the same as before, in less room.
    pub fn settle(&mut self, piece: usize) {
        [&mut self.lives, &mut self.groups, &mut self.logouts].into_iter().for_each(|records| records.settle(piece));
    }

    /// What a logout is: that one was received is all there is to know, and that it is kept says it.
    #[must_use]
    pub fn logout(&self, id: LogoutId) -> logout::State {
        self.logouts.get(id.uuid()).map_or(logout::State::Absent, |_| logout::State::Received)
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
        let tip = Tip { seq, hash: Hash::of(body) };
        self.evolve(&envelope, tip);
        (self.applied, self.last) = (seq, Some(tip.hash));
        Ok(envelope)
    }

    fn evolve(&mut self, envelope: &Envelope, tip: Tip) {
        let id = envelope.aggregate.id;
        match &envelope.event {
            Event::Log(_) => self.log = Some(tip),
            Event::Session(event) => {
                let Record { tips: [_, token], state } = self.life(id);
                let session = match event {
                    // whoever was logged out while they signed in is not signed in
                    session::Event::SignedIn(signed_in) if self.is_overtaken(signed_in) => session::State::Ended,
                    event => session::evolve(state.session, event),
                };
                let state = Life { session, ..state };
                self.lives.insert(id, Record { tips: [Some(tip), token], state: state.trimmed() }.pack());
            }
            Event::Token(event) => {
                let Record { tips: [session, _], state } = self.life(id);
                let state = Life { token: token::evolve(state.token, event), ..state };
                self.lives.insert(id, Record { tips: [session, Some(tip)], state: state.trimmed() }.pack());
            }
            Event::Group(event) => {
                let state = group::evolve(self.membership(id).state, event);
                self.groups.insert(id, Record { tips: [Some(tip), None], state }.pack());
            }
            Event::Logout(event) => {
                let logout::Event::Received(received) = event;
                for departed in Departed::of(received.person, received.session) {
                    self.departures.note(departed, envelope.time);
                }
                let state = logout::evolve(self.logout(LogoutId::new(id)), event);
                self.logouts.insert(id, Record { tips: [Some(tip), None], state }.pack());
            }
        }
    }

    fn is_overtaken(&self, signed_in: &session::SignedIn) -> bool {
        self.departures.overtook(signed_in.person, signed_in.provider_session, signed_in.issued_at)
    }

    fn life(&self, id: Uuid) -> Record<Life> {
        let Some(bytes) = self.lives.get(id) else { return Record::default() };
        // what cannot be read, which was never kept, must not open again
        Record::unpack(bytes).unwrap_or_else(|| Record { tips: record::tips(bytes), state: Life::over() })
    }

    fn membership(&self, id: Uuid) -> Record<group::State> {
        self.groups.get(id).and_then(|bytes| Record::unpack(bytes)).unwrap_or_default()
    }
}

impl std::fmt::Debug for Fold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fold")
            .field("applied", &self.applied)
            .field("epoch", &self.epoch)
            .field("last", &self.last)
            .field("lives", &self.lives.len())
            .field("groups", &self.groups.len())
            .field("logouts", &self.logouts.len())
            .field("departures", &self.departures.len())
            .finish_non_exhaustive()
    }
}
