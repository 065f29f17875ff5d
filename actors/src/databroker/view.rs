//! What the log says now, published for the request path: read without a lock, written by the replica alone.
//!
//! A session is held sealed, sharing its bytes with the fold; its profile is opened when somebody first comes with it,
//! and closed again when nobody does any more. Opening takes microseconds and waits for nothing.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use portcullis_config::limits::ENDED_BACKLOG;
use portcullis_events::{Brief, PersonId, SessionId, SessionRecord, Time, session};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::broadcast;

use super::activity::{Activity, Idle};
use super::data_keys::KnownKeys;
use super::profile::Profile;
use super::progress::Progress;
use crate::metrics::Metrics;

/// A session that is open, with what its person is known by. Ended sessions are not in the view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    #[serde(skip)]
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

/// A session that was revoked: its tokens are to go back to their provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// The session.
    pub session: SessionId,
    /// Whose it was.
    pub person: PersonId,
}

/// A session that is open. One whose profile nobody has asked for yet is its record and nothing else.
#[derive(Debug)]
struct Held {
    /// What it is opened from; absent in tests that have no log.
    record: Option<SessionRecord>,
    /// Made when somebody first comes with it; shared by all views of the session, and kept while its profile is closed.
    activity: OnceLock<Arc<Activity>>,
    opened: ArcSwapOption<SessionView>,
}

impl Held {
    /// Whether its own end has come or it lay idle for too long.
    fn is_over(&self, now: Time, idle: Option<Idle>) -> bool {
        if let Some(activity) = self.activity.get() {
            return activity.is_idle(now) || self.expires_at().is_some_and(|expires_at| expires_at <= now);
        }
        self.brief().is_some_and(|brief| brief.is_over(now, idle.map(|idle| idle.timeout)))
    }

    fn brief(&self) -> Option<Brief> {
        self.record.as_ref().and_then(SessionRecord::brief)
    }

    fn person(&self) -> Option<PersonId> {
        let known = self.brief().map(|brief| brief.person);
        known.or_else(|| self.opened.load().as_ref().map(|view| view.person))
    }

    fn expires_at(&self) -> Option<Time> {
        let record = self.record.as_ref().and_then(SessionRecord::open_until);
        record.or_else(|| self.opened.load().as_ref().map(|view| view.expires_at))
    }

    /// Its use: of one that nobody came with yet, what the log knows.
    fn activity(&self, idle: Option<Idle>) -> &Arc<Activity> {
        self.activity.get_or_init(|| self.begin_activity(idle))
    }

    fn begin_activity(&self, idle: Option<Idle>) -> Arc<Activity> {
        let last_seen = self.brief().map_or(Time::from_millis(0), |brief| brief.last_seen);
        Arc::new(Activity::since(last_seen, idle))
    }
}

/// The published views of a node.
#[derive(Debug)]
pub struct Views {
    sessions: papaya::HashMap<SessionId, Held>,
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
    revoked: broadcast::Sender<Revoked>,
    /// What is wrong with the vault.
    vault_trouble: ArcSwapOption<String>,
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
            revoked: broadcast::Sender::new(ENDED_BACKLOG),
            vault_trouble: ArcSwapOption::empty(),
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

    /// The sessions in the view that are as `wanted`, in no order: of one person, or of all. Looks at all of them, and
    /// opens the profiles of those it is about for as long as that takes: not for the request path.
    #[must_use]
    pub fn find(&self, of: Option<PersonId>, wanted: impl Fn(&SessionView) -> bool) -> Vec<Arc<SessionView>> {
        let is_theirs = |held: &Held| of.is_none_or(|person| held.brief().is_none_or(|brief| brief.person == person));
        let sessions = self.sessions.pin();
        let theirs = sessions.iter().filter(|(_, held)| is_theirs(held));
        let views = theirs.filter_map(|(id, held)| self.look(*id, held));
        views.filter(|view| of.is_none_or(|person| view.person == person) && wanted(view)).collect()
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
        let sessions = self.sessions.pin();
        let held = sessions.get(&id)?;
        if let Some(view) = held.opened.load_full() {
            view.activity.come();
            return Some(view);
        }
        let view = Arc::new(SessionView { activity: Arc::clone(held.activity(self.idle)), ..self.unseal(id, held)? });
        view.activity.come();
        // where the session has ended meanwhile, this is no longer what the view holds
        held.opened.store(Some(Arc::clone(&view)));
        self.opened.pin().insert(id);
        Some(view)
    }

    /// The view of a session, which is left as closed as it is.
    fn look(&self, id: SessionId, held: &Held) -> Option<Arc<SessionView>> {
        held.opened.load_full().or_else(|| {
            let activity = held.activity.get().map_or_else(|| held.begin_activity(self.idle), Arc::clone);
            Some(Arc::new(SessionView { activity, ..self.unseal(id, held)? }))
        })
    }

    fn unseal(&self, id: SessionId, held: &Held) -> Option<SessionView> {
        let record = held.record.as_ref()?;
        let session::State::Open(session::Open { signed_in, .. }) = record.state() else { return None };
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

    /// Every session that ends or becomes another from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<SessionChanged> {
        self.changes.subscribe()
    }

    /// Every session that the log says was revoked from now on, if it is in the view.
    #[must_use]
    pub fn revoked(&self) -> broadcast::Receiver<Revoked> {
        self.revoked.subscribe()
    }

    /// What is wrong with the vault, as far as is known: nobody can sign in then, and whoever has is served.
    #[must_use]
    pub fn vault_trouble(&self) -> Option<Arc<String>> {
        self.vault_trouble.load_full()
    }

    pub(super) fn set_vault_trouble(&self, why: Option<String>) {
        self.vault_trouble.store(why.map(Arc::new));
    }

    /// The log says that a session was revoked.
    pub(super) fn revoke(&self, id: SessionId) {
        let person = self.sessions.pin().get(&id).and_then(Held::person);
        if let Some(person) = person {
            // nobody listening is no fault
            let _ = self.revoked.send(Revoked { session: id, person });
        }
        self.end(id);
    }

    /// What sealed profiles are opened with.
    pub(super) fn open_with(&self, keys: Arc<KnownKeys>) {
        // once for each node; a second replica on the same views has the same keys
        let _ = self.keys.set(keys);
    }

    /// Publishes a session that the log last saw in use at `last_seen`. What this node knows of its use is kept.
    pub(super) fn open(&self, mut session: SessionView, record: Option<SessionRecord>, last_seen: Time) {
        let id = session.id;
        let activity = match self.sessions.pin().get(&id) {
            Some(before) => Arc::clone(before.activity(self.idle)),
            None => Arc::new(Activity::since(last_seen, self.idle)),
        };
        activity.recorded(last_seen);
        activity.come();
        session.activity = Arc::clone(&activity);
        self.hold(id, Held { record, activity: activity.into(), opened: ArcSwapOption::from_pointee(session) });
        self.opened.pin().insert(id);
    }

    /// Makes room for so many sessions.
    pub(super) fn expect(&self, sessions: usize) {
        self.sessions.pin().reserve(sessions);
    }

    /// Opens a session that was not in the view, whose profile nobody has asked for yet.
    pub(super) fn open_sealed(&self, id: SessionId, record: SessionRecord) {
        let held = Held { record: Some(record), activity: OnceLock::new(), opened: ArcSwapOption::empty() };
        self.hold(id, held);
    }

    fn hold(&self, id: SessionId, held: Held) {
        if self.sessions.pin().insert(id, held).is_some() {
            // nobody listening is no fault
            let _ = self.changes.send(SessionChanged { session: id });
        }
    }

    /// The log says, as its event `seq`, that a session was in use; false if it is not in the view.
    pub(super) fn seen(&self, id: SessionId, at: Time, seq: u64, record: Option<SessionRecord>) -> bool {
        let sessions = self.sessions.pin();
        let Some(before) = sessions.get(&id) else { return false };
        let activity = Arc::clone(before.activity(self.idle));
        activity.recorded(at);
        let opened = before.opened.load_full().map(|view| Arc::new(SessionView { seq, ..(*view).clone() }));
        let is_opened = opened.is_some();
        sessions.insert(id, Held { record, activity: activity.into(), opened: ArcSwapOption::new(opened) });
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
            let activity = held.activity(self.idle);
            if activity.is_due(now, idle) {
                // in this order: a use that comes in between is owed again
                owed.remove(id);
                due.push((*id, activity.settle()));
            }
        }
        due
    }

    /// The log was not told: the session is owed again.
    pub(super) fn owe(&self, id: SessionId) {
        if let Some(held) = self.sessions.pin().get(&id) {
            held.activity(self.idle).owe();
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
        let over: Vec<_> =
            sessions.iter().filter(|(_, held)| held.is_over(now, self.idle)).map(|(id, _)| *id).collect();
        for id in over {
            self.end(id);
        }
        let opened = self.opened.pin();
        for id in &opened {
            match sessions.get(id) {
                Some(held) if held.record.is_none() || held.activity(self.idle).has_come() => {}
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

    /// Has read the log to this position, which is its end, by `at`.
    pub(crate) fn read_to(&self, epoch: portcullis_events::Epoch, seq: u64, at: Time) {
        self.progress.set_epoch(epoch);
        self.progress.set_applied(seq);
        self.progress.heard(seq, at, true);
    }

    /// Ends one.
    pub(crate) fn finish(&self, session: SessionId) {
        self.end(session);
    }
}

#[cfg(test)]
mod tests;
