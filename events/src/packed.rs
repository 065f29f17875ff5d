//! States as bytes: each field in its place and without its name. Integers are big-endian, lengths and counts take as
//! many bytes as they need (LEB128, the shortest spelling only).

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::record::Life;
use crate::session::{self, SignedIn};
use crate::token::{self, LeftInDoubt, RefreshStarted, Renewal, Stored};
use crate::{EventId, GroupId, PersonId, Sealed, Time, group, logout};

/// A state that has such a form. Its own end, if it has one, stands before it and is given back to it.
pub(crate) trait Packed: Default {
    /// When it ends by itself.
    fn ends(&self) -> Option<Time>;
    /// Writes all but its end.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads what [`Self::put`] wrote; `None` where it is something else.
    fn take(from: &mut Bytes<'_>, ends: Option<Time>) -> Option<Self>;
}

/// What was not read yet.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn time(&mut self) -> Option<Time> {
        self.array().map(|bytes| Time::from_millis(i64::from_be_bytes(bytes)))
    }

    fn uuid(&mut self) -> Option<Uuid> {
        self.array().map(Uuid::from_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            // nothing above the 64th bit, and no more bytes than it needs
            if (part << shift) >> shift != part || (byte == 0 && shift > 0) {
                return None;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn short(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        let [low, ..] = number.to_le_bytes();
        out.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    out.push(low);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put_number(out, u64::try_from(length).unwrap_or(u64::MAX));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_time(out: &mut Vec<u8>, time: Time) {
    out.extend(time.millis().to_be_bytes());
}

fn put_uuid(out: &mut Vec<u8>, id: Uuid) {
    out.extend_from_slice(id.as_bytes());
}

/// The bytes of what is sealed, where they give the text back letter for letter; else the text.
fn put_sealed(out: &mut Vec<u8>, sealed: &Sealed) {
    let decoded = URL_SAFE_NO_PAD.decode(sealed.as_str());
    out.push(u8::from(decoded.is_ok()));
    put_bytes(out, decoded.as_deref().unwrap_or(sealed.as_str().as_bytes()));
}

fn take_sealed(from: &mut Bytes<'_>) -> Option<Sealed> {
    match from.byte()? {
        0 => from.text().map(|text| Sealed::new(text.to_owned())),
        1 => from.bytes().map(|bytes| Sealed::new(URL_SAFE_NO_PAD.encode(bytes))),
        _ => None,
    }
}

const OVER: u8 = 1;
const OPEN: u8 = 2;
const HELD: u8 = 4;

/// `state`, and of an open session `person · last seen · issued · idp · profile`, and of its tokens what is held.
impl Packed for Life {
    fn ends(&self) -> Option<Time> {
        self.until()
    }

    fn put(&self, out: &mut Vec<u8>) {
        let held = match &self.token {
            token::State::Absent => 0,
            token::State::Held(_) => HELD,
        };
        match &self.session {
            session::State::Absent => out.push(held),
            session::State::Ended => out.push(OVER | held),
            session::State::Open(session::Open { signed_in, last_seen }) => {
                out.push(OPEN | held);
                put_uuid(out, signed_in.person.uuid());
                put_time(out, *last_seen);
                put_time(out, signed_in.issued_at);
                put_bytes(out, signed_in.idp.as_bytes());
                put_sealed(out, &signed_in.profile);
            }
        }
        if let token::State::Held(held) = &self.token {
            put_held(out, held);
        }
    }

    fn take(from: &mut Bytes<'_>, ends: Option<Time>) -> Option<Self> {
        let flags = from.byte()?;
        let session = match (flags & !HELD, ends) {
            (0, None) => session::State::Absent,
            (OVER, None) => session::State::Ended,
            (OPEN, Some(expires_at)) => {
                let person = PersonId::new(from.uuid()?);
                let (last_seen, issued_at) = (from.time()?, from.time()?);
                let (idp, profile) = (from.text()?.to_owned(), take_sealed(from)?);
                let signed_in = SignedIn { person, idp, profile, issued_at, expires_at, provider_session: None };
                session::State::Open(session::Open { signed_in, last_seen })
            }
            _ => return None,
        };
        let token = if flags & HELD == 0 { token::State::Absent } else { token::State::Held(take_held(from)?) };
        Some(Self { session, token })
    }
}

/// Whose an open session is, and when it was last seen; `None` of any other.
pub(crate) fn whose(from: &mut Bytes<'_>) -> Option<(PersonId, Time)> {
    let is_open = from.byte()? & !HELD == OPEN;
    let (person, last_seen) = (from.uuid()?, from.time()?);
    is_open.then_some((PersonId::new(person), last_seen))
}

const REFRESHABLE: u8 = 1;
const ACCESS_ENDS: u8 = 2;
const REFRESHED: u8 = 4;
const IDLE: u8 = 0;
const PAUSED: u8 = 8;
const STARTED: u8 = 16;
const IN_DOUBT: u8 = 24;
const SPENT: u8 = 32;
const RENEWAL: u8 = 0b0011_1000;

fn put_held(out: &mut Vec<u8>, held: &token::Held) {
    let token::Held { stored, refreshed_at, failures, renewal } = held;
    let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
    let kind = match renewal {
        Renewal::Idle(None) => IDLE,
        Renewal::Idle(Some(_)) => PAUSED,
        Renewal::Started(_) => STARTED,
        Renewal::InDoubt(_) => IN_DOUBT,
        Renewal::Over => SPENT,
    };
    out.push(
        flag(stored.refreshable, REFRESHABLE)
            | flag(stored.access_expires_at.is_some(), ACCESS_ENDS)
            | flag(refreshed_at.is_some(), REFRESHED)
            | kind,
    );
    put_number(out, stored.generation.into());
    put_number(out, (*failures).into());
    [stored.access_expires_at, *refreshed_at].into_iter().flatten().for_each(|time| put_time(out, time));
    match renewal {
        Renewal::Idle(until) => until.iter().for_each(|until| put_time(out, *until)),
        Renewal::Started(RefreshStarted { generation, attempt, deadline }) => {
            put_number(out, (*generation).into());
            put_uuid(out, attempt.uuid());
            put_time(out, *deadline);
        }
        Renewal::InDoubt(LeftInDoubt { generation, attempt }) => {
            put_number(out, (*generation).into());
            put_uuid(out, attempt.uuid());
        }
        Renewal::Over => {}
    }
}

fn take_held(from: &mut Bytes<'_>) -> Option<token::Held> {
    let flags = from.byte()?;
    let (generation, failures) = (from.short()?, from.short()?);
    let access_expires_at = if flags & ACCESS_ENDS == 0 { None } else { Some(from.time()?) };
    let refreshed_at = if flags & REFRESHED == 0 { None } else { Some(from.time()?) };
    let renewal = match flags & RENEWAL {
        IDLE => Renewal::Idle(None),
        PAUSED => Renewal::Idle(Some(from.time()?)),
        STARTED => {
            let (generation, attempt) = (from.short()?, EventId::new(from.uuid()?));
            Renewal::Started(RefreshStarted { generation, attempt, deadline: from.time()? })
        }
        IN_DOUBT => Renewal::InDoubt(LeftInDoubt { generation: from.short()?, attempt: EventId::new(from.uuid()?) }),
        SPENT => Renewal::Over,
        _ => return None,
    };
    if flags & !(REFRESHABLE | ACCESS_ENDS | REFRESHED | RENEWAL) != 0 {
        return None;
    }
    let stored = Stored { generation, access_expires_at, refreshable: flags & REFRESHABLE != 0 };
    Some(token::Held { stored, refreshed_at, failures, renewal })
}

/// `sources`, and of each `name · groups · group…`
impl Packed for group::State {
    fn ends(&self) -> Option<Time> {
        None
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_length(out, self.len());
        for (source, groups) in self {
            put_bytes(out, source.as_bytes());
            put_length(out, groups.len());
            groups.iter().for_each(|group| put_uuid(out, group.uuid()));
        }
    }

    fn take(from: &mut Bytes<'_>, _: Option<Time>) -> Option<Self> {
        let mut state = BTreeMap::new();
        for _ in 0..from.number()? {
            let source = from.text()?.to_owned();
            let mut groups = BTreeSet::new();
            for _ in 0..from.number()? {
                groups.insert(GroupId::new(from.uuid()?));
            }
            state.insert(source, groups);
        }
        Some(state)
    }
}

/// That it is kept says that it was received.
impl Packed for logout::State {
    fn ends(&self) -> Option<Time> {
        None
    }

    fn put(&self, _: &mut Vec<u8>) {}

    fn take(_: &mut Bytes<'_>, _: Option<Time>) -> Option<Self> {
        Some(Self::Received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out);
        out
    }

    #[test]
    fn a_number_takes_the_bytes_that_it_needs_and_has_one_spelling() {
        for (number, length) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)] {
            let bytes = packed(|out| put_number(out, number));
            assert_eq!((bytes.len(), Bytes(&bytes).number()), (length, Some(number)));
            assert_eq!(Bytes(&bytes[..length - 1]).number(), None, "cut short");
        }
        for wrong in [&[0x80, 0][..], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert_eq!(Bytes(wrong).number(), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_sealed_reads_back_letter_for_letter() {
        for text in ["c2VhbGVk", "not base64", "", "c2VhbGVkZ", "_-8"] {
            let sealed = Sealed::new(text.into());
            let bytes = packed(|out| put_sealed(out, &sealed));
            assert_eq!(take_sealed(&mut Bytes(&bytes)).as_ref(), Some(&sealed), "{text}");
        }
        assert_eq!(packed(|out| put_sealed(out, &Sealed::new("c2VhbGVk".into()))).len(), 1 + 1 + 6);
    }

    #[test]
    fn tokens_in_every_stage_of_their_renewal_read_back_as_they_were() {
        let attempt = EventId::new(Uuid::from_u128(5));
        let (soon, late) = (Time::from_secs(7), Time::from_secs(-7));
        let renewals = [
            Renewal::Idle(None),
            Renewal::Idle(Some(soon)),
            Renewal::Started(RefreshStarted { generation: 300, attempt, deadline: late }),
            Renewal::InDoubt(LeftInDoubt { generation: u32::MAX, attempt }),
            Renewal::Over,
        ];
        for renewal in renewals {
            for (access_expires_at, refreshed_at, refreshable) in [(None, Some(soon), true), (Some(late), None, false)]
            {
                let stored = Stored { generation: 300, access_expires_at, refreshable };
                let held = token::Held { stored, refreshed_at, failures: 1000, renewal };
                let bytes = packed(|out| put_held(out, &held));
                let mut from = Bytes(&bytes);
                assert_eq!((take_held(&mut from), from.0), (Some(held), &[][..]));
            }
        }
        assert_eq!(take_held(&mut Bytes(&[0b0010_1000, 1, 0])), None, "there is no such stage");
        assert_eq!(take_held(&mut Bytes(&[0b0100_0000, 1, 0])), None, "there is no such flag");
    }
}
