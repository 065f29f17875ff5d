//! The proof that a request comes from a session that is open now.

use std::sync::Arc;

use portcullis_events::Time;

use crate::databroker::view::{SessionView, Views};

/// Somebody with an open session. Only this module makes one.
#[derive(Debug, Clone)]
pub struct Caller {
    session: Arc<SessionView>,
}

impl Caller {
    /// A caller, if the session has not ended at `now`.
    pub(crate) fn of(session: Arc<SessionView>, now: Time) -> Option<Self> {
        session.is_open(now).then_some(Self { session })
    }

    /// The same caller by what is known now; `None` once the session has ended.
    #[must_use]
    pub fn again(&self, views: &Views, now: Time) -> Option<Self> {
        views.session(self.session.id).and_then(|session| Self::of(session, now))
    }

    /// The session behind the request.
    #[must_use]
    pub fn session(&self) -> &SessionView {
        &self.session
    }
}
