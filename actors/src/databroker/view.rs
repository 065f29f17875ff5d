//! What the log says now, published for the request path: read without a lock, written by the replica alone.

use std::sync::Arc;

use portcullis_config::limits::ENDED_BACKLOG;
use portcullis_events::{PersonId, SessionId, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::broadcast;

use super::activity::{Activity, Idle};
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

/// The published views of a node.
#[derive(Debug)]
pub struct Views {
    sessions: papaya::HashMap<SessionId, Arc<SessionView>>,
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

    /// The sessions in the view that are as `wanted`, in no order. Looks at all of them: not for the request path.
    #[must_use]
    pub fn find(&self, wanted: impl Fn(&SessionView) -> bool) -> Vec<Arc<SessionView>> {
        self.sessions.pin().values().filter(|view| wanted(view)).map(Arc::clone).collect()
    }

    /// A session was in use on this node. Costs a comparison where that was noted a moment ago.
    pub fn touch(&self, session: &SessionView, now: Time) {
        if session.activity.touch(now) {
            self.owed.pin().insert(session.id, ());
        }
    }

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

    /// Every session that ends or becomes another from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<SessionChanged> {
        self.changes.subscribe()
    }

    /// Publishes a session that the log last saw in use at `last_seen`. What this node knows of its use is kept.
    pub(super) fn open(&self, mut session: SessionView, last_seen: Time) {
        let sessions = self.sessions.pin();
        session.activity = match sessions.get(&session.id) {
            Some(before) => Arc::clone(&before.activity),
            None => Arc::new(Activity::since(last_seen, self.idle)),
        };
        session.activity.recorded(last_seen);
        let id = session.id;
        if sessions.insert(id, Arc::new(session)).is_some() {
            // nobody listening is no fault
            let _ = self.changes.send(SessionChanged { session: id });
        }
    }

    /// The log says that a session was in use; false if it is not in the view.
    pub(super) fn seen(&self, id: SessionId, at: Time, seq: u64) -> bool {
        let sessions = self.sessions.pin();
        let Some(before) = sessions.get(&id) else { return false };
        before.activity.recorded(at);
        let mut view = (**before).clone();
        view.seq = seq;
        sessions.insert(id, Arc::new(view));
        true
    }

    /// The sessions that the log is to be told of now, each with when it was last in use. They are forgotten here: one
    /// whose telling fails is owed again by [`Views::owe`].
    pub(super) fn due(&self, now: Time) -> Vec<(SessionId, Time)> {
        let Some(idle) = self.idle else { return Vec::new() };
        let owed = self.owed.pin();
        let mut due = Vec::new();
        for id in owed.keys() {
            let Some(view) = self.session(*id) else {
                owed.remove(id);
                continue;
            };
            if view.activity.is_due(now, idle) {
                // in this order: a use that comes in between is owed again
                owed.remove(id);
                due.push((*id, view.activity.settle()));
            }
        }
        due
    }

    /// The log was not told: the session is owed again.
    pub(super) fn owe(&self, id: SessionId) {
        if let Some(view) = self.session(id) {
            view.activity.owe();
            self.owed.pin().insert(id, ());
        }
    }

    pub(super) fn end(&self, session: SessionId) {
        if self.sessions.pin().remove(&session).is_some() {
            // nobody listening is no fault
            let _ = self.changes.send(SessionChanged { session });
        }
    }

    /// Forgets sessions whose own end has passed or that lay idle; they were refused already.
    pub(super) fn sweep(&self, now: Time) {
        let sessions = self.sessions.pin();
        let over: Vec<_> = sessions.iter().filter(|(_, view)| !view.is_open(now)).map(|(id, _)| *id).collect();
        for id in over {
            self.end(id);
        }
    }
}

#[cfg(test)]
impl Views {
    /// Opens a session without a log, for the tests of other components.
    pub(crate) fn begin(&self, session: SessionView) {
        let last_seen = session.issued_at;
        self.open(session, last_seen);
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
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    fn alice(issued_at: Time) -> SessionView {
        SessionView {
            id: SessionId::new(Uuid::from_u128(1)),
            person: PersonId::new(Uuid::from_u128(7)),
            idp: "idp".into(),
            user: "alice".into(),
            email: None,
            name: None,
            claims: Map::new(),
            groups: Vec::new(),
            issued_at,
            expires_at: issued_at.plus(Duration::from_secs(3600)),
            seq: 1,
            activity: Arc::default(),
        }
    }

    const BEGAN: Time = Time::from_secs(1000);

    fn at(secs: u64) -> Time {
        BEGAN.plus(Duration::from_secs(secs))
    }

    fn idle_after_a_minute() -> (Views, SessionId) {
        let views = Views::with_idle_timeout(Some(Duration::from_secs(60)));
        views.begin(alice(BEGAN));
        (views, alice(BEGAN).id)
    }

    #[test]
    fn what_is_owed_to_the_log_is_told_once_in_a_while_and_again_after_a_failure() {
        let (views, id) = idle_after_a_minute();
        for second in 1..15 {
            views.touch(&views.session(id).unwrap(), at(second));
        }
        assert_eq!(views.due(at(14)), []);
        assert_eq!(views.due(at(15)), [(id, at(14))]);
        assert_eq!(views.due(at(15)), [], "it is under way");
        views.owe(id);
        assert_eq!(views.due(at(16)), [(id, at(14))]);
        assert!(views.seen(id, at(14), 2));
        views.touch(&views.session(id).unwrap(), at(17));
        assert_eq!(views.due(at(28)), []);
        assert_eq!(views.due(at(29)), [(id, at(17))]);
    }

    #[test]
    fn what_this_node_knows_of_a_sessions_use_outlives_a_new_view_of_it() {
        let (views, id) = idle_after_a_minute();
        let before = views.session(id).unwrap();
        views.touch(&before, at(50));
        views.open(SessionView { seq: 9, ..alice(BEGAN) }, at(15));
        // whoever holds the old view touches the same session
        views.touch(&before, at(55));
        let view = views.session(id).unwrap();
        assert_eq!((view.seq, view.activity.last()), (9, at(55)));
        assert!(views.seen(id, at(56), 10));
        assert_eq!(views.session(id).unwrap().seq, 10);
    }

    #[test]
    fn an_idle_session_is_swept_and_whoever_listens_is_told() {
        let (views, id) = idle_after_a_minute();
        let mut ended = views.changes();
        views.touch(&views.session(id).unwrap(), at(10));
        views.sweep(at(69));
        assert!(views.session(id).is_some());
        views.sweep(at(70));
        assert!(views.session(id).is_none());
        assert_eq!(ended.try_recv().unwrap().session, id);
        assert_eq!(views.due(at(100)), [], "nothing is owed of what is over");
        assert!(!views.seen(id, at(71), 2));
    }

    #[test]
    fn without_a_bound_on_idleness_nothing_is_owed() {
        let views = Views::default();
        views.begin(alice(BEGAN));
        let view = views.session(alice(BEGAN).id).unwrap();
        views.touch(&view, at(100));
        assert_eq!(views.due(at(3000)), []);
        assert!(view.is_open(at(3599)));
    }
}
