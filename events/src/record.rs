//! What is kept of an aggregate, in memory and in snapshots alike: tips and end in binary, the state in MessagePack.
//!
//! `flags · tip? · tip? · until? · state`; a tip is the sequence (8 bytes, big-endian) and the hash (32), `until` is in
//! milliseconds since the Unix epoch (8). The names of fields are written too, so that fields that are left out when
//! they are absent read back as they were.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Hash, Time, Tip, session, token};

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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

/// A state that is a record's; `until` is where a sweep looks without reading the state.
pub(crate) trait Stored: Serialize + DeserializeOwned + Default {
    fn ends(&self) -> Option<Time>;
}

impl Stored for Life {
    fn ends(&self) -> Option<Time> {
        self.until()
    }
}

impl Stored for crate::group::State {
    fn ends(&self) -> Option<Time> {
        None
    }
}

impl Stored for crate::logout::State {
    fn ends(&self) -> Option<Time> {
        None
    }
}

impl<S: Stored> Record<S> {
    /// The bytes; `None` where the state does not survive as MessagePack, which none of ours does not.
    pub(crate) fn pack(&self) -> Option<Arc<[u8]>> {
        let [first, second] = self.tips;
        let until = self.state.ends();
        let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
        let mut bytes = Vec::with_capacity(256);
        bytes
            .push(flag(first.is_some(), FIRST_TIP) | flag(second.is_some(), SECOND_TIP) | flag(until.is_some(), UNTIL));
        for tip in [first, second].into_iter().flatten() {
            bytes.extend(tip.seq.to_be_bytes());
            bytes.extend(tip.hash.bytes());
        }
        bytes.extend(until.into_iter().flat_map(|until| until.millis().to_be_bytes()));
        let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
        self.state.serialize(&mut serializer).ok()?;
        Some(bytes.into())
    }

    /// Reads the bytes; `None` where they are none of ours.
    pub(crate) fn unpack(bytes: &[u8]) -> Option<Self> {
        let Head { tips, until, rest } = head(bytes)?;
        let state: S = rmp_serde::from_slice(rest).ok()?;
        (state.ends() == until).then_some(Self { tips, state })
    }
}

struct Head<'a> {
    tips: [Option<Tip>; 2],
    until: Option<Time>,
    rest: &'a [u8],
}

fn head(bytes: &[u8]) -> Option<Head<'_>> {
    let (flags, mut rest) = bytes.split_first()?;
    let mut tip = |flag: u8| {
        if flags & flag == 0 {
            return Some(None);
        }
        let (seq, after) = rest.split_first_chunk::<8>()?;
        let (hash, after) = after.split_first_chunk::<32>()?;
        rest = after;
        Some(Some(Tip { seq: u64::from_be_bytes(*seq), hash: Hash::from_bytes(*hash) }))
    };
    let tips = [tip(FIRST_TIP)?, tip(SECOND_TIP)?];
    let mut until = None;
    if flags & UNTIL != 0 {
        let (millis, after) = rest.split_first_chunk::<8>()?;
        (until, rest) = (Some(Time::from_millis(i64::from_be_bytes(*millis))), after);
    }
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
    Record { tips: head.tips, state: Life::over() }.pack()
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
