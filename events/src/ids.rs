//! Names of things on the log: opaque, never secret, never personal.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind")]
pub struct BadId;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// From 128 bits that the caller made.
            #[must_use]
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The 128 bits.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let id = Uuid::try_parse(text).map_err(|_| BadId)?;
                // one spelling only: two spellings would be two subjects
                if id.hyphenated().to_string() == text { Ok(Self(id)) } else { Err(BadId) }
            }
        }
    };
}

uuid_id! {
    /// A session: 122 random bits. Knowing it admits nobody; the sealed handle does.
    SessionId
}
uuid_id! {
    /// An event: a UUIDv7 made by its writer, also the log's de-duplication key.
    EventId
}
uuid_id! {
    /// One life of the log. A log with another epoch is another log.
    Epoch
}
uuid_id! {
    /// A person at an identity provider: a keyed hash of issuer and subject, which tells nothing by itself.
    PersonId
}

uuid_id! {
    /// A group of a source: a keyed hash of source and group, which tells nothing by itself.
    GroupId
}

uuid_id! {
    /// A logout that a provider asked for: a keyed hash of issuer and token id, which tells nothing by itself.
    LogoutId
}

uuid_id! {
    /// A session as its provider names it (`sid`): a keyed hash of issuer and name, which tells nothing by itself.
    ProviderSessionId
}

/// What kind of thing an aggregate is; the family of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AggregateKind {
    /// The log itself: its first event carries the epoch.
    Log,
    /// A session.
    Session,
    /// The tokens of a session.
    Token,
    /// The groups of a person.
    Group,
    /// A logout that a provider asked for.
    Logout,
}

impl AggregateKind {
    /// The token in subjects and type names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Session => "session",
            Self::Token => "token",
            Self::Group => "group",
            Self::Logout => "logout",
        }
    }
}

/// One thing that events are about: exactly one subject on the log, `portcullis.evt.<kind>.<id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregate {
    /// Its kind.
    pub kind: AggregateKind,
    /// Its id.
    pub id: Uuid,
}

/// What every subject of the log begins with.
pub const SUBJECT_PREFIX: &str = "portcullis.evt.";

impl Aggregate {
    /// The log itself.
    pub const LOG: Self = Self { kind: AggregateKind::Log, id: Uuid::nil() };

    /// A session.
    #[must_use]
    pub const fn session(id: SessionId) -> Self {
        Self { kind: AggregateKind::Session, id: id.uuid() }
    }

    /// The tokens of a session.
    #[must_use]
    pub const fn token(id: SessionId) -> Self {
        Self { kind: AggregateKind::Token, id: id.uuid() }
    }

    /// The groups of a person.
    #[must_use]
    pub const fn group(id: PersonId) -> Self {
        Self { kind: AggregateKind::Group, id: id.uuid() }
    }

    /// A logout that a provider asked for.
    #[must_use]
    pub const fn logout(id: LogoutId) -> Self {
        Self { kind: AggregateKind::Logout, id: id.uuid() }
    }

    /// The subject on the log.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{SUBJECT_PREFIX}{self}")
    }

    /// Reads a subject of the log.
    ///
    /// # Errors
    /// [`BadId`] for a subject that no aggregate has.
    pub fn from_subject(subject: &str) -> Result<Self, BadId> {
        subject.strip_prefix(SUBJECT_PREFIX).ok_or(BadId)?.parse()
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind.name(), self.id.hyphenated())
    }
}

impl FromStr for Aggregate {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let (kind, id) = text.split_once('.').ok_or(BadId)?;
        let kind = match kind {
            "log" => AggregateKind::Log,
            "session" => AggregateKind::Session,
            "token" => AggregateKind::Token,
            "group" => AggregateKind::Group,
            "logout" => AggregateKind::Logout,
            _ => return Err(BadId),
        };
        let id: EventId = id.parse()?;
        Ok(Self { kind, id: id.uuid() })
    }
}
