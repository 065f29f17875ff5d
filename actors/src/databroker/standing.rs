//! What a session is according to the log's authority: read there, not in what this node happens to know.

use portcullis_config::limits::READ_YOUR_WRITES;
use portcullis_events::{Aggregate, Envelope, Event, SessionId, session};

use super::broker::{BrokerError, SessionStanding};
use super::log::Log;
use super::view::Views;
use crate::clock;

/// What the last event of a session says, and its position; `None` where the session has no event.
///
/// # Errors
/// [`BrokerError::Unavailable`].
pub(super) async fn of(
    session: SessionId,
    log: &dyn Log,
    views: &Views,
) -> Result<Option<(u64, SessionStanding)>, BrokerError> {
    let last = log.last(Aggregate::session(session)).await;
    let Some(record) = last.map_err(|error| BrokerError::Unavailable(error.to_string()))? else {
        return Ok(None);
    };
    let envelope = Envelope::decode(&record.body).map_err(|error| BrokerError::Unavailable(error.to_string()))?;
    let standing = match envelope.event {
        // nobody can be admitted by a session whose profile does not open any more: signing in anew helps
        Event::Session(session::Event::SignedIn(_)) if is_unreadable(session, record.seq, views) => {
            SessionStanding::Shut
        }
        Event::Session(session::Event::SignedIn(signed_in)) if is_fresh(session, &signed_in, views) => {
            SessionStanding::Open { expires_at: signed_in.expires_at }
        }
        // an ended session is seen no more, nor are its claims replaced; how it began and when it was in use, the views know
        Event::Session(session::Event::Seen(_) | session::Event::ClaimsReplaced(_)) => {
            viewed(session, record.seq, views).await?
        }
        Event::Session(_) | Event::Log(_) | Event::Token(_) | Event::Group(_) | Event::Logout(_) => {
            SessionStanding::Shut
        }
    };
    Ok(Some((record.seq, standing)))
}

/// Whether neither the session's own end has come nor it lay idle for too long.
fn is_fresh(session: SessionId, signed_in: &session::SignedIn, views: &Views) -> bool {
    let now = clock::now();
    match views.session(session) {
        Some(view) => view.is_open(now),
        None => {
            let open = session::Open { signed_in: signed_in.clone(), last_seen: signed_in.issued_at };
            !open.is_over(now, views.idle().map(|idle| idle.timeout))
        }
    }
}

/// What this node's views say of a session once they have come this far.
async fn viewed(session: SessionId, seq: u64, views: &Views) -> Result<SessionStanding, BrokerError> {
    if !views.progress.reaches(seq, READ_YOUR_WRITES).await || !views.progress.caught_up() {
        return Err(BrokerError::Unavailable("the session's last event has not arrived".into()));
    }
    let open = views.session(session).filter(|view| view.is_open(clock::now()));
    Ok(open.map_or(SessionStanding::Shut, |view| SessionStanding::Open { expires_at: view.expires_at }))
}

/// Whether this node read the session's beginning and has no view of it. While it catches up it has none of any.
fn is_unreadable(session: SessionId, seq: u64, views: &Views) -> bool {
    views.progress.caught_up() && views.progress.applied() >= seq && views.session(session).is_none()
}
