//! What a proxy apart asks of authorize: whether a request may pass, whether what is open still may, and who is calling.

use std::time::Duration;

use actix::Message;
use portcullis_events::{Epoch, PersonId, SessionId, Time};
use serde::{Deserialize, Serialize};

use super::authorizer::Revision;
use super::decision::Decision;
use crate::ask::Ask;
use crate::authenticate::identify::CannotSay;
use crate::databroker::progress::Progress;
use crate::databroker::view::SessionView;
use crate::request::described::{Described, RequestHash};

/// A place on a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which log: one that took its place has another.
    pub epoch: Epoch,
    /// The sequence.
    pub position: u64,
}

impl Mark {
    /// Where a process stands; `None` before it has read anything.
    #[must_use]
    pub fn of(progress: &Progress) -> Option<Self> {
        progress.epoch().map(|epoch| Self { epoch, position: progress.applied() })
    }
}

/// May this request pass to this route?
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Checked, CannotCheck>")]
pub struct Check {
    /// The request.
    pub request: Described,
    /// The id of the route that it leads to.
    pub route: String,
    /// The handle that it presents.
    pub presented: Option<Handed>,
    /// The furthest place that a word has named: whoever is not there does not say who is calling.
    pub known: Option<Mark>,
}

/// A handle, as it was presented. It has no `Debug`: it is a credential.
#[derive(Clone, Serialize, Deserialize)]
pub struct Handed {
    /// Whom it must have been made for.
    pub audience: String,
    /// The handle.
    pub handle: String,
}

/// What was decided on a request, and what it carries to its upstream. It permits nothing: [`super::admit`] does.
#[derive(Clone, Serialize, Deserialize)]
pub struct Checked {
    /// Which request.
    pub(super) request: RequestHash,
    /// Which route.
    pub(super) route: String,
    /// The decision.
    pub(super) decision: Decision,
    /// The session behind the request.
    pub(super) session: Option<KnownSession>,
    /// The identity headers, if it may pass.
    pub(super) identity: Vec<(String, String)>,
    /// The headers that `jwt_claims_headers` names where this was decided: no client may set them.
    pub(super) claims_headers: Vec<String>,
    /// The log that it was decided on.
    pub(super) log: LogState,
    /// The configuration that it was decided by.
    pub revision: Revision,
    /// Why it cannot be told who is calling, where that is so.
    pub unknown: Option<CannotSay>,
    /// Groups that `jwt_groups_filter` leaves out of the assertion.
    #[serde(default)]
    pub removed_groups: usize,
}

impl Checked {
    /// The session behind the request.
    #[must_use]
    pub const fn session(&self) -> Option<KnownSession> {
        self.session
    }

    /// The log that it was decided on.
    #[must_use]
    pub const fn log(&self) -> LogState {
        self.log
    }
}

/// A session, as far as a proxy has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownSession {
    /// The session.
    pub id: SessionId,
    /// Whose it is.
    pub person: PersonId,
    /// The sequence of its view.
    pub seq: u64,
    /// When it ends by itself.
    pub expires_at: Time,
}

/// How far along the log a decision was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// The last sequence in the views.
    pub applied: u64,
    /// Records that are known and not in the views.
    pub lag: u64,
    /// How old the views are, in milliseconds; absent before the log was read to its end for the first time.
    pub staleness: Option<u64>,
}

impl LogState {
    /// Where a process stands at `now`.
    #[must_use]
    pub fn of(progress: &Progress, now: Time) -> Self {
        let staleness = progress.staleness(now).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Self { applied: progress.applied(), lag: progress.lag(), staleness }
    }

    /// How old the views are; for ever where that is not known.
    #[must_use]
    pub fn age(self) -> Duration {
        // as long as a time can be taken back by
        self.staleness.map_or(NEVER, Duration::from_millis).min(NEVER)
    }
}

const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Why a request was not decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CannotCheck {
    /// Authorize has no such route: its file is not the proxy's, or not yet.
    #[error("authorize has no such route")]
    Route,
    /// The request is none.
    #[error("the request cannot be read")]
    Request,
    /// No proof of identity could be made.
    #[error("no assertion can be made")]
    Assertion,
}

/// Would these still pass, by what is known at this position of the log at least?
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Vec<Result<StillHeld, CannotSay>>")]
pub struct Again {
    /// The furthest place that a word has named.
    pub known: Option<Mark>,
    /// What was permitted.
    pub permits: Vec<OneAgain>,
}

/// One permit that was spent.
#[derive(Clone, Serialize, Deserialize)]
pub struct OneAgain {
    /// The request.
    pub request: Described,
    /// The route's id.
    pub route: String,
    /// The session behind it.
    pub session: Option<SessionId>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillHeld {
    /// Whether it would be given again.
    pub holds: bool,
    /// How old what is known is.
    pub age: Duration,
}

/// Whose is this session?
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Option<SessionView>, CannotSay>")]
pub enum Who {
    /// The one that a handle names.
    Handed(Handed),
    /// This one.
    Session(SessionId),
}

/// The public keys of assertions.
#[derive(Clone, Copy, Serialize, Deserialize, Message)]
#[rtype(result = "String")]
pub struct Keys;

impl Ask for Check {
    type Answer = Result<Checked, CannotCheck>;
}

impl Ask for Again {
    type Answer = Vec<Result<StillHeld, CannotSay>>;
}

impl Ask for Who {
    type Answer = Result<Option<SessionView>, CannotSay>;
}

impl Ask for Keys {
    type Answer = String;
}

/// authorize says to every proxy: by this position of the log, or by a new configuration, these may be void.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Void {
    /// Where on the log that is known.
    pub at: Option<Mark>,
    /// What belongs to these sessions.
    pub sessions: Vec<SessionId>,
    /// Everything.
    pub all: bool,
}
