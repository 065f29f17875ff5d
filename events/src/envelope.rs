//! An event as it stands on the log: CloudEvents 1.0.2, structured JSON, hashed byte for byte.

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Aggregate, AggregateKind, Epoch, EventId, Time, group, log, logout, session, token};

/// SHA-256 of an event's bytes; base64url without padding where it is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of an encoded event.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, body);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        Self(hash)
    }

    /// A hash that was kept as its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// What happened, of whatever family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// To the log.
    Log(log::Event),
    /// To a session.
    Session(session::Event),
    /// To a session's tokens.
    Token(token::Event),
    /// To a person's groups.
    Group(group::Event),
    /// To a logout that a provider asked for.
    Logout(logout::Event),
}

/// Who did it, and why: what an event carries besides what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Who caused it: a component (`authenticate`), a person (`person:<id>`) or a command (`cli`).
    pub actor: String,
    /// The request or event that led to it.
    pub cause: Option<String>,
    /// W3C Trace Context of the request that led to it.
    pub traceparent: Option<String>,
}

/// A whole event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Made by the writer; the log stores it once.
    pub id: EventId,
    /// The node that wrote it, such as `/portcullis/<node>`.
    pub source: String,
    /// What it is about.
    pub aggregate: Aggregate,
    /// The writer's clock.
    pub time: Time,
    /// Who and why.
    pub context: Context,
    /// Which log it belongs to.
    pub epoch: Epoch,
    /// The hash of the aggregate's event before it; absent on its first.
    pub prev: Option<Hash>,
    /// What happened.
    pub event: Event,
}

/// Why bytes are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a CloudEvent in structured JSON.
    #[error("not a cloudevent: {0}")]
    Malformed(String),
    /// An event of a type that this version does not know.
    #[error("unknown event type {0:?}")]
    UnknownType(String),
    /// The type does not belong to the subject's family.
    #[error("event type {kind:?} does not belong on {subject:?}")]
    Misplaced {
        /// The type.
        kind: String,
        /// The subject.
        subject: String,
    },
}

/// The JSON form. Extension attributes have lower-case names (CloudEvents 1.0.2, Naming Conventions).
#[derive(Serialize, Deserialize)]
struct Wire<'a, D> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    id: EventId,
    source: String,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    subject: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    datacontenttype: Cow<'a, str>,
    actor: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    traceparent: Option<String>,
    epoch: Epoch,
    #[serde(skip_serializing_if = "Option::is_none", default, borrow)]
    prevhash: Option<Cow<'a, str>>,
    data: D,
}

impl Event {
    /// The CloudEvents `type`.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Log(log::Event::Created(_)) => "portcullis.log.created.v1",
            Self::Session(session::Event::SignedIn(_)) => "portcullis.session.signed_in.v1",
            Self::Session(session::Event::Seen(_)) => "portcullis.session.seen.v1",
            Self::Session(session::Event::SignedOut(_)) => "portcullis.session.signed_out.v1",
            Self::Session(session::Event::Revoked(_)) => "portcullis.session.revoked.v1",
            Self::Session(session::Event::ClaimsReplaced(_)) => "portcullis.session.claims_replaced.v1",
            Self::Token(token::Event::Stored(_)) => "portcullis.token.stored.v1",
            Self::Token(token::Event::RefreshStarted(_)) => "portcullis.token.refresh_started.v1",
            Self::Token(token::Event::Refreshed(_)) => "portcullis.token.refreshed.v1",
            Self::Token(token::Event::RefreshFailed(_)) => "portcullis.token.refresh_failed.v1",
            Self::Token(token::Event::LeftInDoubt(_)) => "portcullis.token.left_in_doubt.v1",
            Self::Group(group::Event::MemberAdded(_)) => "portcullis.group.member_added.v1",
            Self::Group(group::Event::MemberRemoved(_)) => "portcullis.group.member_removed.v1",
            Self::Logout(logout::Event::Received(_)) => "portcullis.logout.received.v1",
        }
    }

    /// The family it belongs to.
    #[must_use]
    pub const fn kind(&self) -> AggregateKind {
        match self {
            Self::Log(_) => AggregateKind::Log,
            Self::Session(_) => AggregateKind::Session,
            Self::Token(_) => AggregateKind::Token,
            Self::Group(_) => AggregateKind::Group,
            Self::Logout(_) => AggregateKind::Logout,
        }
    }

    fn data(&self) -> Result<Value, serde_json::Error> {
        match self {
            Self::Log(log::Event::Created(data)) => serde_json::to_value(data),
            Self::Session(session::Event::SignedIn(data)) => serde_json::to_value(data),
            Self::Session(session::Event::Seen(data)) => serde_json::to_value(data),
            Self::Session(session::Event::SignedOut(data)) => serde_json::to_value(data),
            Self::Session(session::Event::Revoked(data)) => serde_json::to_value(data),
            Self::Session(session::Event::ClaimsReplaced(data)) => serde_json::to_value(data),
            Self::Token(token::Event::Stored(data)) => serde_json::to_value(data),
            Self::Token(token::Event::RefreshStarted(data)) => serde_json::to_value(data),
            Self::Token(token::Event::Refreshed(data)) => serde_json::to_value(data),
            Self::Token(token::Event::RefreshFailed(data)) => serde_json::to_value(data),
            Self::Token(token::Event::LeftInDoubt(data)) => serde_json::to_value(data),
            Self::Group(group::Event::MemberAdded(data)) => serde_json::to_value(data),
            Self::Group(group::Event::MemberRemoved(data)) => serde_json::to_value(data),
            Self::Logout(logout::Event::Received(data)) => serde_json::to_value(data),
        }
    }

    fn from_wire(kind: &str, data: &RawValue) -> Result<Self, DecodeError> {
        fn read<T: serde::de::DeserializeOwned>(data: &RawValue) -> Result<T, DecodeError> {
            // the message may quote a value: it names the fault and nothing of the data
            serde_json::from_str(data.get()).map_err(|error| DecodeError::Malformed(category(&error).to_owned()))
        }
        Ok(match kind {
            "portcullis.log.created.v1" => Self::Log(log::Event::Created(read(data)?)),
            "portcullis.session.signed_in.v1" => Self::Session(session::Event::SignedIn(read(data)?)),
            "portcullis.session.seen.v1" => Self::Session(session::Event::Seen(read(data)?)),
            "portcullis.session.signed_out.v1" => Self::Session(session::Event::SignedOut(read(data)?)),
            "portcullis.session.revoked.v1" => Self::Session(session::Event::Revoked(read(data)?)),
            "portcullis.session.claims_replaced.v1" => Self::Session(session::Event::ClaimsReplaced(read(data)?)),
            "portcullis.token.stored.v1" => Self::Token(token::Event::Stored(read(data)?)),
            "portcullis.token.refresh_started.v1" => Self::Token(token::Event::RefreshStarted(read(data)?)),
            "portcullis.token.refreshed.v1" => Self::Token(token::Event::Refreshed(read(data)?)),
            "portcullis.token.refresh_failed.v1" => Self::Token(token::Event::RefreshFailed(read(data)?)),
            "portcullis.token.left_in_doubt.v1" => Self::Token(token::Event::LeftInDoubt(read(data)?)),
            "portcullis.group.member_added.v1" => Self::Group(group::Event::MemberAdded(read(data)?)),
            "portcullis.group.member_removed.v1" => Self::Group(group::Event::MemberRemoved(read(data)?)),
            "portcullis.logout.received.v1" => Self::Logout(logout::Event::Received(read(data)?)),
            _ => return Err(DecodeError::UnknownType(kind.chars().take(120).collect())),
        })
    }
}

fn category(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Io => "it cannot be read",
        serde_json::error::Category::Syntax => "it is not JSON",
        serde_json::error::Category::Data => "an attribute is missing or of another type",
        serde_json::error::Category::Eof => "it is cut short",
    }
}

impl Envelope {
    /// The bytes that go on the log.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] where the event does not survive as JSON, which none of ours does not.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let malformed = |error: serde_json::Error| DecodeError::Malformed(category(&error).to_owned());
        let wire = Wire {
            specversion: "1.0".into(),
            id: self.id,
            source: self.source.clone(),
            kind: self.event.type_name().into(),
            subject: self.aggregate.to_string().into(),
            time: self.time.rfc3339().into(),
            datacontenttype: "application/json".into(),
            actor: self.context.actor.clone(),
            cause: self.context.cause.clone(),
            traceparent: self.context.traceparent.clone(),
            epoch: self.epoch,
            prevhash: self.prev.map(|hash| hash.to_string().into()),
            data: self.event.data().map_err(malformed)?,
        };
        serde_json::to_vec(&wire).map_err(malformed)
    }

    /// Reads the bytes of the log.
    ///
    /// # Errors
    /// [`DecodeError`]; an attribute that is missing, of another type or of another version is one.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let malformed = |what: &str| DecodeError::Malformed(what.to_owned());
        let wire: Wire<'_, &RawValue> = serde_json::from_slice(body).map_err(|error| malformed(category(&error)))?;
        if wire.specversion != "1.0" {
            return Err(malformed("specversion is not 1.0"));
        }
        let event = Event::from_wire(&wire.kind, wire.data)?;
        let aggregate: Aggregate = wire.subject.parse().map_err(|_| malformed("subject is not an aggregate"))?;
        if aggregate.kind != event.kind() {
            return Err(DecodeError::Misplaced { kind: wire.kind.into_owned(), subject: wire.subject.into_owned() });
        }
        let prev = wire.prevhash.map(|text| parse_hash(&text).ok_or_else(|| malformed("prevhash is not a hash")));
        Ok(Self {
            id: wire.id,
            source: wire.source,
            aggregate,
            time: Time::parse_rfc3339(&wire.time).ok_or_else(|| malformed("time is not RFC 3339"))?,
            context: Context { actor: wire.actor, cause: wire.cause, traceparent: wire.traceparent },
            epoch: wire.epoch,
            prev: prev.transpose()?,
            event,
        })
    }
}

fn parse_hash(text: &str) -> Option<Hash> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(Hash(bytes.try_into().ok()?))
}
