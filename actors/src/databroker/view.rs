//! What the log says now, published for the request path: read without a lock, written by the replica alone.
//!
//! A session is held sealed, sharing its bytes with the fold; its profile is opened when somebody first comes with it,
//! and closed again when nobody does any more. Opening takes microseconds and waits for nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use portcullis_config::limits::ENDED_BACKLOG;
use portcullis_events::{PersonId, SessionId, SessionRecord, Time, session};
use serde_json::{Map, Value};
use tokio::sync::broadcast;

use super::data_keys::KnownKeys;
use super::profile::Profile;
use super::progress::Progress;

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

/// A session that is open.
#[derive(Debug)]
struct Held {
    /// What it is opened from; absent in tests that have no log.
    record: Option<SessionRecord>,
    expires_at: Time,
    opened: ArcSwapOption<SessionView>,
    /// Whether somebody came with it since the last sweep.
    is_in_use: AtomicBool,
}

/// The published views of a node.
#[derive(Debug)]
pub struct Views {
    sessions: papaya::HashMap<SessionId, Arc<Held>>,
    /// Those whose profile is open.
    opened: papaya::HashSet<SessionId>,
    keys: OnceLock<Arc<KnownKeys>>,
    /// How far they have come.
    pub progress: Progress,
    ended: broadcast::Sender<SessionEnded>,
}

impl Default for Views {
    fn default() -> Self {
        Self {
            sessions: papaya::HashMap::new(),
            opened: papaya::HashSet::new(),
            keys: OnceLock::new(),
            progress: Progress::default(),
            ended: broadcast::Sender::new(ENDED_BACKLOG),
        }
    }
}

impl Views {
    /// An open session. It may have passed its end: that is compared when it is used. `None` too if its profile does
    /// not open.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<Arc<SessionView>> {
        let held = Arc::clone(self.sessions.pin().get(&id)?);
        if !held.is_in_use.load(Ordering::Relaxed) {
            held.is_in_use.store(true, Ordering::Relaxed);
        }
        if let Some(view) = held.opened.load_full() {
            return Some(view);
        }
        let view = Arc::new(self.unseal(id, held.record.as_ref()?)?);
        // where the session has ended meanwhile, this is no longer what the view holds
        held.opened.store(Some(Arc::clone(&view)));
        self.opened.pin().insert(id);
        Some(view)
    }

    fn unseal(&self, id: SessionId, record: &SessionRecord) -> Option<SessionView> {
        let session::State::Open(signed_in) = record.state() else { return None };
        let key = self.keys.get()?.get(signed_in.person)?;
        let profile = Profile::open(&key, id, &signed_in.profile);
        if profile.is_none() {
            tracing::warn!(session = %id, seq = record.seq(), "the profile of a session does not open: it stays shut");
        }
        Some(profile?.view(id, &signed_in, record.seq()))
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

    /// What sealed profiles are opened with.
    pub(super) fn open_with(&self, keys: Arc<KnownKeys>) {
        // once for each node; a second replica on the same views has the same keys
        let _ = self.keys.set(keys);
    }

    pub(super) fn open(&self, session: SessionView, record: Option<SessionRecord>) {
        let (id, expires_at) = (session.id, session.expires_at);
        let opened = ArcSwapOption::from_pointee(session);
        self.hold(id, Held { record, expires_at, opened, is_in_use: AtomicBool::new(true) });
        self.opened.pin().insert(id);
    }

    /// Opens a session whose profile nobody has asked for yet.
    pub(super) fn open_sealed(&self, id: SessionId, record: SessionRecord, expires_at: Time) {
        let is_in_use = AtomicBool::new(false);
        self.hold(id, Held { record: Some(record), expires_at, opened: ArcSwapOption::empty(), is_in_use });
    }

    fn hold(&self, id: SessionId, held: Held) {
        self.sessions.pin().insert(id, Arc::new(held));
    }

    pub(super) fn end(&self, session: SessionId) {
        if self.sessions.pin().remove(&session).is_some() {
            self.opened.pin().remove(&session);
            // nobody listening is no fault
            let _ = self.ended.send(SessionEnded { session });
        }
    }

    /// Forgets sessions whose own end has passed, which were refused already, and closes the profiles of those that
    /// nobody came with since the last sweep. May run beside the replica: an end is final.
    pub(super) fn sweep(&self, now: Time) {
        let sessions = self.sessions.pin();
        let over: Vec<_> = sessions.iter().filter(|(_, held)| held.expires_at <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.end(id);
        }
        let opened = self.opened.pin();
        for id in &opened {
            match sessions.get(id) {
                Some(held) if held.record.is_none() || held.is_in_use.swap(false, Ordering::Relaxed) => {}
                Some(held) => {
                    held.opened.store(None);
                    opened.remove(id);
                }
                None => {
                    opened.remove(id);
                }
            }
        }
    }
}

#[cfg(test)]
impl Views {
    /// Opens a session without a log, for the tests of other components.
    pub(crate) fn begin(&self, session: SessionView) {
        self.open(session, None);
    }

    /// Ends one.
    pub(crate) fn finish(&self, session: SessionId) {
        self.end(session);
    }
}

#[cfg(test)]
mod tests;
