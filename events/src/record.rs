//! What is kept of an aggregate, in memory and in snapshots alike: tips and end first, then the state.
//!
//! `flags · tip? · tip? · until? · state`; a tip is the sequence (8 bytes, big-endian) and the hash (32), `until` is in
//! milliseconds since the Unix epoch (8). What is asked of every session stands in front, and is read without the rest.

use std::sync::Arc;
use std::time::Duration;

use crate::packed::{self, Bytes, Packed, put_time};
use crate::{Hash, PersonId, Time, Tip, session, token};

const FIRST_TIP: u8 = 1;
const SECOND_TIP: u8 = 2;
const UNTIL: u8 = 4;

/// A state with where its aggregates stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Record<S> {
    /// Where they stand: one aggregate, or a session and its tokens.
    pub(crate) tips: [Option<Tip>; 2],
    /// What they are.
    pub(crate) state: S,
}

/// A session and its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Life {
    pub(crate) session: session::State,
    pub(crate) token: token::State,
}

impl Life {
    /// When the session ends by itself, if it is open.
    pub(crate) const fn until(&self) -> Option<Time> {
        match &self.session {
            session::State::Open(open) => Some(open.signed_in.expires_at),
            session::State::Absent | session::State::Ended => None,
        }
    }

    /// What is over leaves nothing but that it is over.
    pub(crate) fn trimmed(self) -> Self {
        match self.session {
            session::State::Ended => Self::over(),
            session::State::Absent | session::State::Open(_) => self,
        }
    }

    pub(crate) const fn over() -> Self {
        Self { session: session::State::Ended, token: token::State::Absent }
    }
}

impl<S: Packed> Record<S> {
    /// The bytes.
    pub(crate) fn pack(&self) -> Arc<[u8]> {
        let [first, second] = self.tips;
        let until = self.state.ends();
        let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
        let mut bytes = Vec::with_capacity(768);
        bytes
            .push(flag(first.is_some(), FIRST_TIP) | flag(second.is_some(), SECOND_TIP) | flag(until.is_some(), UNTIL));
        for tip in [first, second].into_iter().flatten() {
            bytes.extend(tip.seq.to_be_bytes());
            bytes.extend(tip.hash.bytes());
        }
        until.iter().for_each(|until| put_time(&mut bytes, *until));
        self.state.put(&mut bytes);
        bytes.into()
    }

    /// Reads the bytes; `None` where they are none of ours.
    pub(crate) fn unpack(bytes: &[u8]) -> Option<Self> {
        let Head { tips, until, mut rest } = head(bytes)?;
        let state = S::take(&mut rest, until)?;
        (state.ends() == until && rest.0.is_empty()).then_some(Self { tips, state })
    }
}

struct Head<'a> {
    tips: [Option<Tip>; 2],
    until: Option<Time>,
    rest: Bytes<'a>,
}

fn head(bytes: &[u8]) -> Option<Head<'_>> {
    let (flags, rest) = bytes.split_first()?;
    let mut rest = Bytes(rest);
    let mut tip = |flag: u8| {
        if flags & flag == 0 {
            return Some(None);
        }
        let (seq, hash) = (u64::from_be_bytes(rest.array()?), Hash::from_bytes(rest.array()?));
        Some(Some(Tip { seq, hash }))
    };
    let tips = [tip(FIRST_TIP)?, tip(SECOND_TIP)?];
    let until = if flags & UNTIL == 0 { None } else { Some(rest.time()?) };
    (flags & !(FIRST_TIP | SECOND_TIP | UNTIL) == 0).then_some(Head { tips, until, rest })
}

/// Where the aggregates of a record stand.
pub(crate) fn tips(bytes: &[u8]) -> [Option<Tip>; 2] {
    head(bytes).map_or([None, None], |head| head.tips)
}

/// The record of a session that was open until before `at`, without what it leaves behind; `None` for any other.
pub(crate) fn expired(bytes: &[u8], at: Time) -> Option<Arc<[u8]>> {
    let head = head(bytes)?;
    head.until.filter(|until| *until <= at)?;
    Some(Record { tips: head.tips, state: Life::over() }.pack())
}

/// What is asked of every session that is open, read without the rest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brief {
    /// Whose it is.
    pub person: PersonId,
    /// When it ends by itself.
    pub expires_at: Time,
    /// When it was last in use, as far as the log knows.
    pub last_seen: Time,
}

impl Brief {
    /// Whether its own end has come, or it lay idle for `idle` (never, where there is no such bound).
    #[must_use]
    pub fn is_over(&self, now: Time, idle: Option<Duration>) -> bool {
        now >= self.expires_at || idle.is_some_and(|idle| now >= self.last_seen.plus(idle))
    }
}

/// A session as the fold keeps it: opened and read when somebody asks for it.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionRecord(pub(crate) Arc<[u8]>);

impl SessionRecord {
    /// What the session is. Bytes that cannot be read, which the fold never holds, are a session that is over.
    #[must_use]
    pub fn state(&self) -> session::State {
        Record::<Life>::unpack(&self.0).map_or(session::State::Ended, |record| record.state.session)
    }

    /// What the session is, and its tokens; of bytes that cannot be read, as in [`Self::state`].
    #[must_use]
    pub fn states(&self) -> (session::State, token::State) {
        let Life { session, token } = Record::unpack(&self.0).map_or(Life::over(), |record| record.state);
        (session, token)
    }

    /// Whether anything was ever said of the session's tokens.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        let [_, tip] = tips(&self.0);
        tip.is_some()
    }

    /// When the session ends by itself; `None` if it is not open.
    #[must_use]
    pub fn open_until(&self) -> Option<Time> {
        head(&self.0)?.until
    }

    /// What is asked of every session that is open; `None` of one that is not.
    #[must_use]
    pub fn brief(&self) -> Option<Brief> {
        let mut head = head(&self.0)?;
        let expires_at = head.until?;
        let (person, last_seen) = packed::whose(&mut head.rest)?;
        Some(Brief { person, expires_at, last_seen })
    }

    /// The sequence of the session's last event; 0 if it has none.
    #[must_use]
    pub fn seq(&self) -> u64 {
        let [tip, _] = tips(&self.0);
        tip.map_or(0, |tip| tip.seq)
    }
}

impl std::fmt::Debug for SessionRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionRecord(seq {}, {} bytes)", self.seq(), self.0.len())
    }
}
