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

use super::activity::{Activity, Idle};
use super::data_keys::KnownKeys;
use super::profile::Profile;
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
    /// When the session was last in use, as far as this node knows; shared by all views of the session.
    pub activity: Arc<Activity>,
}

impl SessionView {
    /// Whether neither its own end has come nor it lay idle for too long.
    #[must_use]
    pub fn is_open(&self, now: Time) -> bool {
        now < self.expires_at && !self.activity.is_idle(now)
    }
}

/// What a change of the log means for what is open: sent to whoever keeps long-lived connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionChanged {
    /// The session.
    pub session: SessionId,
}

/// A session that is open.
#[derive(Debug)]
struct Held {
    /// What it is opened from; absent in tests that have no log.
    record: Option<SessionRecord>,
    expires_at: Time,
    /// Shared by all views of the session, and kept while its profile is closed.
    activity: Arc<Activity>,
    opened: ArcSwapOption<SessionView>,
    /// Whether somebody came with it since the last sweep.
    is_in_use: AtomicBool,
}

impl Held {
    /// Whether its own end has come or it lay idle for too long.
    fn is_over(&self, now: Time) -> bool {
        self.expires_at <= now || self.activity.is_idle(now)
    }
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
    /// What this node counts and measures.
    pub metrics: Metrics,
    /// The bound on idleness, if there is one.
    idle: Option<Idle>,
    /// Sessions that were in use here since the log was last told.
    owed: papaya::HashMap<SessionId, ()>,
    changes: broadcast::Sender<SessionChanged>,
}

impl Default for Views {
    fn default() -> Self {
        Self {
            sessions: papaya::HashMap::new(),
            opened: papaya::HashSet::new(),
            keys: OnceLock::new(),
            progress: Progress::default(),
            metrics: Metrics::default(),
            idle: None,
            owed: papaya::HashMap::new(),
            changes: broadcast::Sender::new(ENDED_BACKLOG),
        }
    }
}

impl Views {
    /// Views whose sessions are over when nobody used them for `timeout` (`session_idle_timeout`).
    #[must_use]
    pub fn with_idle_timeout(timeout: Option<std::time::Duration>) -> Self {
        Self { idle: timeout.map(Idle::after), ..Self::default() }
    }

    /// The bound on idleness, if there is one.
    #[must_use]
    pub const fn idle(&self) -> Option<Idle> {
        self.idle
    }

    /// The sessions in the view that are as `wanted`, in no order. Looks at all of them and opens their profiles for as
    /// long as that takes: not for the request path.
    #[must_use]
    pub fn find(&self, wanted: impl Fn(&SessionView) -> bool) -> Vec<Arc<SessionView>> {
        let sessions = self.sessions.pin();
        let views = sessions.iter().filter_map(|(id, held)| self.look(*id, held));
        views.filter(|view| wanted(view)).collect()
    }

    /// A session was in use on this node. Costs a comparison where that was noted a moment ago.
    pub fn touch(&self, session: &SessionView, now: Time) {
        if session.activity.touch(now) {
            self.owed.pin().insert(session.id, ());
        }
    }

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
        let view = Arc::new(self.unseal(id, &held)?);
        // where the session has ended meanwhile, this is no longer what the view holds
        held.opened.store(Some(Arc::clone(&view)));
        self.opened.pin().insert(id);
        Some(view)
    }

    /// The view of a session, which is left as closed as it is.
    fn look(&self, id: SessionId, held: &Held) -> Option<Arc<SessionView>> {
        held.opened.load_full().or_else(|| self.unseal(id, held).map(Arc::new))
    }

    fn unseal(&self, id: SessionId, held: &Held) -> Option<SessionView> {
        let record = held.record.as_ref()?;
        let session::State::Open(session::Open { signed_in, .. }) = record.state() else { return None };
        let key = self.keys.get()?.get(signed_in.person)?;
        let profile = Profile::open(&key, id, &signed_in.profile);
        if profile.is_none() {
            tracing::warn!(session = %id, seq = record.seq(), "the profile of a session does not open: it stays shut");
        }
        let activity = Arc::clone(&held.activity);
        Some(SessionView { activity, ..profile?.view(id, &signed_in, record.seq()) })
    }

    /// How many sessions are in the view.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Every session that ends or becomes another from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<SessionChanged> {
        self.changes.subscribe()
    }

    /// What sealed profiles are opened with.
    pub(super) fn open_with(&self, keys: Arc<KnownKeys>) {
        // once for each node; a second replica on the same views has the same keys
        let _ = self.keys.set(keys);
    }

    /// Publishes a session that the log last saw in use at `last_seen`. What this node knows of its use is kept.
    pub(super) fn open(&self, mut session: SessionView, record: Option<SessionRecord>, last_seen: Time) {
        let (id, expires_at) = (session.id, session.expires_at);
        let activity = self.activity(id, last_seen);
        session.activity = Arc::clone(&activity);
        let opened = ArcSwapOption::from_pointee(session);
        self.hold(id, Held { record, expires_at, activity, opened, is_in_use: AtomicBool::new(true) });
        self.opened.pin().insert(id);
    }

    /// Opens a session whose profile nobody has asked for yet.
    pub(super) fn open_sealed(&self, id: SessionId, record: SessionRecord, open: &session::Open) {
        let (record, expires_at) = (Some(record), open.signed_in.expires_at);
        let activity = self.activity(id, open.last_seen);
        let (opened, is_in_use) = (ArcSwapOption::empty(), AtomicBool::new(false));
        self.hold(id, Held { record, expires_at, activity, opened, is_in_use });
    }

    /// The use of a session that the log last saw in use at `last_seen`.
    fn activity(&self, id: SessionId, last_seen: Time) -> Arc<Activity> {
        let activity = match self.sessions.pin().get(&id) {
            Some(before) => Arc::clone(&before.activity),
            None => Arc::new(Activity::since(last_seen, self.idle)),
        };
        activity.recorded(last_seen);
        activity
    }

    fn hold(&self, id: SessionId, held: Held) {
        if self.sessions.pin().insert(id, Arc::new(held)).is_some() {
            // nobody listening is no fault
            let _ = self.changes.send(SessionChanged { session: id });
        }
    }

    /// The log says, as its event `seq`, that a session was in use; false if it is not in the view.
    pub(super) fn seen(&self, id: SessionId, at: Time, seq: u64, record: Option<SessionRecord>) -> bool {
        let sessions = self.sessions.pin();
        let Some(before) = sessions.get(&id) else { return false };
        before.activity.recorded(at);
        let opened = before.opened.load_full().map(|view| Arc::new(SessionView { seq, ..(*view).clone() }));
        let is_opened = opened.is_some();
        let held = Held {
            record,
            expires_at: before.expires_at,
            activity: Arc::clone(&before.activity),
            opened: ArcSwapOption::new(opened),
            is_in_use: AtomicBool::new(before.is_in_use.load(Ordering::Relaxed)),
        };
        sessions.insert(id, Arc::new(held));
        if is_opened {
            self.opened.pin().insert(id);
        }
        true
    }

    /// The sessions that the log is to be told of now, each with when it was last in use. They are forgotten here: one
    /// whose telling fails is owed again by [`Views::owe`].
    pub(super) fn due(&self, now: Time) -> Vec<(SessionId, Time)> {
        let Some(idle) = self.idle else { return Vec::new() };
        let (owed, sessions) = (self.owed.pin(), self.sessions.pin());
        let mut due = Vec::new();
        for id in owed.keys() {
            let Some(held) = sessions.get(id) else {
                owed.remove(id);
                continue;
            };
            if held.activity.is_due(now, idle) {
                // in this order: a use that comes in between is owed again
                owed.remove(id);
                due.push((*id, held.activity.settle()));
            }
        }
        due
    }

    /// The log was not told: the session is owed again.
    pub(super) fn owe(&self, id: SessionId) {
        if let Some(held) = self.sessions.pin().get(&id) {
            held.activity.owe();
            self.owed.pin().insert(id, ());
        }
    }

    pub(super) fn end(&self, session: SessionId) {
        if self.sessions.pin().remove(&session).is_some() {
            self.opened.pin().remove(&session);
            // nobody listening is no fault
            let _ = self.changes.send(SessionChanged { session });
        }
    }

    /// Forgets sessions whose own end has passed or that lay idle, which were refused already, and closes the profiles
    /// of those that nobody came with since the last sweep. May run beside the replica: an end is final.
    pub(super) fn sweep(&self, now: Time) {
        let sessions = self.sessions.pin();
        let over: Vec<_> = sessions.iter().filter(|(_, held)| held.is_over(now)).map(|(id, _)| *id).collect();
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
        let last_seen = session.issued_at;
        self.open(session, None, last_seen);
    }

    /// Ends one.
    pub(crate) fn finish(&self, session: SessionId) {
        self.end(session);
    }
}

#[cfg(test)]
mod tests;
