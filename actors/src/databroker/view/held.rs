//! A session as the views hold it: its record, and what there is of it while somebody comes with it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use portcullis_events::{Brief, PersonId, SessionId, SessionRecord, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock;
use crate::databroker::activity::{Activity, Idle, credible};

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

/// A session that is open. One that nobody has come with yet is its record and nothing else.
#[derive(Debug)]
pub(super) struct Held {
    /// What it is opened from; absent in tests that have no log.
    pub(super) record: Option<SessionRecord>,
    /// What there is since somebody came with it.
    live: ArcSwapOption<Live>,
}

/// A session that somebody came with.
#[derive(Debug)]
struct Live {
    /// The same for as long as the session is held, and in all of its views.
    activity: Arc<Activity>,
    /// Its profile, while it is open.
    view: Option<Arc<SessionView>>,
}

impl Held {
    /// One whose profile nobody has asked for yet.
    pub(super) fn sealed(record: SessionRecord) -> Self {
        Self { record: Some(record), live: ArcSwapOption::empty() }
    }

    /// One that somebody came with, its profile open or closed.
    pub(super) fn live(record: Option<SessionRecord>, activity: Arc<Activity>, view: Option<Arc<SessionView>>) -> Self {
        Self { record, live: ArcSwapOption::from_pointee(Live { activity, view }) }
    }

    /// Its view, if its profile is open.
    pub(super) fn view(&self) -> Option<Arc<SessionView>> {
        self.live.load().as_ref().and_then(|live| live.view.clone())
    }

    /// Opens its profile; the view has the session's own [`Self::activity`].
    pub(super) fn open(&self, view: Arc<SessionView>) {
        let activity = Arc::clone(&view.activity);
        self.live.store(Some(Arc::new(Live { activity, view: Some(view) })));
    }

    /// Closes its profile.
    pub(super) fn close(&self) {
        if let Some(live) = self.live.load_full() {
            self.live.store(Some(Arc::new(Live { activity: Arc::clone(&live.activity), view: None })));
        }
    }

    /// Whether its own end has come or it lay idle for too long.
    pub(super) fn is_over(&self, now: Time, idle: Option<Idle>) -> bool {
        if let Some(live) = self.live.load().as_ref() {
            return live.activity.is_idle(now) || self.expires_at().is_some_and(|expires_at| expires_at <= now);
        }
        self.brief().is_some_and(|brief| brief.is_over(now, idle.map(|idle| idle.timeout)))
    }

    pub(super) fn brief(&self) -> Option<Brief> {
        self.record.as_ref().and_then(SessionRecord::brief)
    }

    pub(super) fn person(&self) -> Option<PersonId> {
        let known = self.brief().map(|brief| brief.person);
        known.or_else(|| self.view().map(|view| view.person))
    }

    fn expires_at(&self) -> Option<Time> {
        let record = self.record.as_ref().and_then(SessionRecord::open_until);
        record.or_else(|| self.view().map(|view| view.expires_at))
    }

    /// Its use, kept from now on: of one that nobody came with yet, what the log knows.
    pub(super) fn activity(&self, idle: Option<Idle>) -> Arc<Activity> {
        if let Some(live) = self.live.load().as_ref() {
            return Arc::clone(&live.activity);
        }
        let begun = Arc::new(Live { activity: self.begin_activity(idle), view: None });
        let before = self.live.compare_and_swap(&None::<Arc<Live>>, Some(Arc::clone(&begun)));
        // of two that come at once, one began it
        Arc::clone(&before.as_ref().unwrap_or(&begun).activity)
    }

    /// Its use, for a look that leaves nothing behind.
    pub(super) fn glance(&self, idle: Option<Idle>) -> Arc<Activity> {
        let known = self.live.load().as_ref().map(|live| Arc::clone(&live.activity));
        known.unwrap_or_else(|| self.begin_activity(idle))
    }

    fn begin_activity(&self, idle: Option<Idle>) -> Arc<Activity> {
        let last_seen = self.brief().map_or(Time::from_millis(0), |brief| brief.last_seen);
        Arc::new(Activity::since(credible(last_seen, clock::now()), idle))
    }
}
