//! Who is calling: from the handle that a request presents to an open session, on this node's own views.

use std::time::Duration;

use std::sync::Arc;

use portcullis_config::Staleness;
use portcullis_events::{SessionId, Time};
use serde::{Deserialize, Serialize};

use super::Caller;
use crate::databroker::progress::Progress;
use crate::databroker::view::{SessionView, Views};
use crate::keyring::Sealer;
use crate::keyring::handle::Handle;

/// The node cannot say who is calling: nobody is let in, and it is worth trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CannotSay {
    /// The log has not been heard of for too long.
    #[error("the views are too old to be believed")]
    Stale,
    /// The log cannot be followed, or was not read to its end yet.
    #[error("the log has not been read")]
    Unread,
    /// The session was opened on another node, and its event has not arrived here.
    #[error("the session's event has not arrived")]
    Behind,
}

/// Whether a session in the views may be believed, and shown.
///
/// # Errors
/// [`CannotSay`].
pub fn vouched(progress: &Progress, now: Time, bound: Staleness) -> Result<(), CannotSay> {
    if progress.vouches(now, bound) {
        return Ok(());
    }
    let follows = progress.stopped().is_none() && progress.staleness(now).is_some();
    Err(if follows { CannotSay::Stale } else { CannotSay::Unread })
}

/// A session of a provider that is open, by its id, on views that are no older than `bound`: for whoever has proof of it
/// that names no position on the log.
///
/// # Errors
/// [`CannotSay`].
pub fn open_session(
    views: &Views,
    idp: &str,
    session: SessionId,
    now: Time,
    bound: Staleness,
) -> Result<Option<Arc<SessionView>>, CannotSay> {
    vouched(&views.progress, now, bound)?;
    Ok(views.session(session).filter(|view| view.is_open(now) && *view.idp == *idp))
}

/// What handles are opened with, and for whom.
pub struct Identifier<'a> {
    /// Opens handles.
    pub handles: &'a Sealer,
    /// The views of this node.
    pub views: &'a Views,
    /// The id of the identity provider of the route.
    pub idp: &'a str,
    /// How long the log position in a handle is waited for.
    pub patience: Duration,
}

impl Identifier<'_> {
    /// The caller behind a handle that was made for `audience`; `None` for a handle that is foreign, over, of another
    /// log or provider, or whose session has ended. `bound` is how old the views may be (`max_staleness`).
    ///
    /// # Errors
    /// [`CannotSay`]. Waits for the handle's log position where the session is not known yet, for a moment for a sign of the
    /// log's authority where the last one has just become too old, and for nothing else.
    pub async fn identify(
        &self,
        audience: &str,
        handle: &str,
        now: Time,
        bound: Staleness,
    ) -> Result<Option<Caller>, CannotSay> {
        let Some(handle) = Handle::open(self.handles, audience, handle, now) else { return Ok(None) };
        let progress = &self.views.progress;
        if let Err(why) = vouched(progress, now, bound)
            && !progress.freshens(now, bound).await
        {
            return Err(why);
        }
        if self.views.progress.epoch() != Some(handle.epoch) {
            return Ok(None);
        }
        if let Some(caller) = self.caller(&handle, now) {
            return Ok(Some(caller));
        }
        if self.views.progress.applied() >= handle.position {
            return Ok(None);
        }
        if !self.views.progress.reaches(handle.position, self.patience).await {
            return Err(CannotSay::Behind);
        }
        Ok(self.caller(&handle, now))
    }

    fn caller(&self, handle: &Handle, now: Time) -> Option<Caller> {
        let session = self.views.session(handle.session)?;
        (session.idp == self.idp).then_some(())?;
        let caller = Caller::of(session, now)?;
        self.views.touch(caller.session(), now);
        Some(caller)
    }
}
