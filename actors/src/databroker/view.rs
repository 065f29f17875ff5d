//! What the log says now, published for the request path: read without a lock, written by the replica alone.
//!
//! A session is held sealed, sharing its bytes with the fold; its profile is opened when somebody first comes with it,
//! and closed again when nobody does any more. Opening takes microseconds and waits for nothing.

mod held;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use portcullis_config::limits::ENDED_BACKLOG;
use portcullis_events::{PersonId, SessionId, SessionRecord, Time, session};
use tokio::sync::broadcast;

use self::held::Held;
pub use self::held::SessionView;
use super::activity::{Activity, Idle, credible, is_credible};
use super::data_keys::KnownKeys;
use super::profile::Profile;
use super::progress::Progress;
use crate::clock;
use crate::metrics::Metrics;

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
        self.find_since(0, of, wanted)
    }

    /// As [`Self::find`], among those that something happened to after a sequence.
    #[must_use]
    pub fn find_since(
        &self,
        since: u64,
        of: Option<PersonId>,
        wanted: impl Fn(&SessionView) -> bool,
    ) -> Vec<Arc<SessionView>> {
        let is_theirs = |held: &Held| {
            held.record.as_ref().is_none_or(|record| record.seq() > since)
                && of.is_none_or(|person| held.brief().is_none_or(|brief| brief.person == person))
        };
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
        if let Some(view) = held.view() {
            view.activity.come();
            return Some(view);
        }
        let profile = self.unseal(id, held)?;
        let view = Arc::new(SessionView { activity: held.activity(self.idle), ..profile });
        view.activity.come();
        // where the session has ended meanwhile, this is no longer what the view holds
        held.open(Arc::clone(&view));
        self.opened.pin().insert(id);
        Some(view)
    }

    /// The view of a session, which is left as closed as it is.
    fn look(&self, id: SessionId, held: &Held) -> Option<Arc<SessionView>> {
        held.view()
            .or_else(|| Some(Arc::new(SessionView { activity: held.glance(self.idle), ..self.unseal(id, held)? })))
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
            Some(before) => before.activity(self.idle),
            None => Arc::new(Activity::since(credible(last_seen, clock::now()), self.idle)),
        };
        activity.recorded(last_seen, clock::now());
        activity.come();
        session.activity = Arc::clone(&activity);
        self.hold(id, Held::live(record, activity, Some(Arc::new(session))));
        self.opened.pin().insert(id);
    }

    /// Makes room for so many sessions.
    pub(super) fn expect(&self, sessions: usize) {
        self.sessions.pin().reserve(sessions);
    }

    /// Opens a session that was not in the view, whose profile nobody has asked for yet.
    pub(super) fn open_sealed(&self, id: SessionId, record: SessionRecord) {
        let last_seen = record.brief().map(|brief| brief.last_seen);
        let held = Held::sealed(record);
        if last_seen.is_some_and(|at| !is_credible(at, clock::now())) {
            // it was heard of now, and not whenever somebody comes
            held.activity(self.idle);
        }
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
        let activity = before.activity(self.idle);
        activity.recorded(at, clock::now());
        let opened = before.view().map(|view| Arc::new(SessionView { seq, ..(*view).clone() }));
        let is_opened = opened.is_some();
        sessions.insert(id, Held::live(record, activity, opened));
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

    /// The data keys of these people are gone: nobody is admitted by a profile that was opened with one.
    pub(super) fn shut(&self, people: &HashSet<PersonId>) {
        if people.is_empty() {
            return;
        }
        let sessions = self.sessions.pin();
        let theirs = |held: &Held| held.person().is_some_and(|person| people.contains(&person));
        let shut: Vec<_> = sessions.iter().filter(|(_, held)| theirs(held)).map(|(id, _)| *id).collect();
        for id in shut {
            tracing::warn!(session = %id, "the data key of a session's person is gone: it is shut");
            self.end(id);
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
                    held.close();
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
