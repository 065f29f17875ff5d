//! What the log says now, published for the request path: read without a lock, written by the replica alone.

use std::sync::Arc;

use portcullis_config::limits::ENDED_BACKLOG;
use portcullis_events::{PersonId, SessionId, Time};
use serde_json::{Map, Value};
use tokio::sync::broadcast;

use super::progress::Progress;
use crate::metrics::Metrics;

/// A session that is open, with what its person is known by. Ended sessions are not in the view.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionView {
    /// The session.
    pub id: SessionId,
    /// Whose it is.
    pub person: PersonId,
    /// The id of the identity provider it came from.
    pub idp: String,
    /// The user id: the provider's `sub`.
    pub user: String,
    /// The e-mail address, unless the provider says that it is not verified.
    pub email: Option<String>,
    /// The display name.
    pub name: Option<String>,
    /// All claims of the ID token and of user info.
    pub claims: Map<String, Value>,
    /// The `groups` claim; empty if there is none or it is not a list of texts.
    pub groups: Vec<String>,
    /// When the person signed in.
    pub issued_at: Time,
    /// When the session ends by itself; compared when it is read.
    pub expires_at: Time,
    /// The sequence of the last event that changed this view: part of every cache key made from it.
    pub seq: u64,
}

/// What a change of the log means for what is open: sent to whoever keeps long-lived connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEnded {
    /// The session.
    pub session: SessionId,
}

/// The published views of a node.
#[derive(Debug)]
pub struct Views {
    sessions: papaya::HashMap<SessionId, Arc<SessionView>>,
    /// How far they have come.
    pub progress: Progress,
    /// What this node counts and measures.
    pub metrics: Metrics,
    ended: broadcast::Sender<SessionEnded>,
}

impl Default for Views {
    fn default() -> Self {
        Self {
            sessions: papaya::HashMap::new(),
            progress: Progress::default(),
            metrics: Metrics::default(),
            ended: broadcast::Sender::new(ENDED_BACKLOG),
        }
    }
}

impl Views {
    /// An open session. It may have passed its end: that is compared when it is used.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<Arc<SessionView>> {
        self.sessions.pin().get(&id).map(Arc::clone)
    }

    /// How many sessions are in the view.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Every session that ends from now on.
    #[must_use]
    pub fn ended(&self) -> broadcast::Receiver<SessionEnded> {
        self.ended.subscribe()
    }

    pub(super) fn open(&self, session: SessionView) {
        self.sessions.pin().insert(session.id, Arc::new(session));
    }

    pub(super) fn end(&self, session: SessionId) {
        if self.sessions.pin().remove(&session).is_some() {
            // nobody listening is no fault
            let _ = self.ended.send(SessionEnded { session });
        }
    }

    /// Forgets sessions whose own end has passed; they were refused already.
    pub(super) fn sweep(&self, now: Time) {
        let sessions = self.sessions.pin();
        let over: Vec<_> = sessions.iter().filter(|(_, view)| view.expires_at <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.end(id);
        }
    }
}

#[cfg(test)]
impl Views {
    /// Opens a session without a log, for the tests of other components.
    pub(crate) fn begin(&self, session: SessionView) {
        self.open(session);
    }

    /// Ends one.
    pub(crate) fn finish(&self, session: SessionId) {
        self.end(session);
    }
}
