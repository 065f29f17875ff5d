//! What the pages and the request path of one worker share: keys, and who is calling.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;
use portcullis_actors::authenticate::cookie::start_prefix;
use portcullis_actors::authenticate::identify::{CannotSay, Identifier, vouched};
use portcullis_actors::authenticate::start::{self, Departure};
use portcullis_actors::authenticate::{Caller, cookie};
use portcullis_actors::databroker::view::SessionView;
use portcullis_actors::keyring::signed_url::UrlSigner;
use portcullis_actors::keyring::{KeyError, Sealer};
use portcullis_actors::request::{Canonical, Presented, cookies};
use portcullis_config::{Cookie, Staleness};
use portcullis_events::{SessionId, Time};

use crate::answer::Answer;
use crate::worker::Blueprint;

/// The desk of one worker.
pub struct Desk {
    /// Handles.
    pub handles: Sealer,
    /// URLs between proxy and authenticate.
    pub signer: UrlSigner,
    /// Proof that a form is ours.
    pub forms: Sealer,
    /// What the worker was made from.
    pub blueprint: Blueprint,
}

/// The node cannot do what it should right now.
pub const UNAVAILABLE: Answer =
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, "This cannot be done right now. Please try again in a moment.");

/// The node cannot say who is calling.
pub const CANNOT_SAY: Answer = Answer::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "It cannot be told right now whether your session is still open. Please try again in a moment.",
);

/// Nobody with a session is let in: what is known of sessions is older than the route allows (`max_staleness`).
pub const STALE: Answer = Answer::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "This gateway has lost touch with the record of who is signed in, for longer than this application allows. \
     Signing in again does not help; please try again in a moment.",
);

/// What is said where it cannot be told who is calling.
pub const fn cannot_say(reason: CannotSay) -> Answer {
    match reason {
        CannotSay::Stale => STALE,
        CannotSay::Unread | CannotSay::Behind => CANNOT_SAY,
    }
}

impl Desk {
    /// Whom a handle for `host` is made for: the cookie's domain where it covers the host, else the host.
    pub fn audience<'a>(&'a self, host: &'a str) -> &'a str {
        match &self.cookie().domain {
            Some(domain) if covers(domain, host) => domain,
            Some(_) | None => host,
        }
    }

    /// How the session cookie of `host` looks: without a domain that the host is not in.
    pub fn cookie_for(&self, host: &str) -> Cow<'_, Cookie> {
        let settings = self.cookie();
        match &settings.domain {
            Some(domain) if !covers(domain, host) => Cow::Owned(Cookie { domain: None, ..settings.clone() }),
            Some(_) | None => Cow::Borrowed(settings),
        }
    }

    /// The `cookie_*` settings.
    pub fn cookie(&self) -> &Cookie {
        &self.blueprint.config.cookie
    }

    /// Who presented this, on views that are no older than `bound`.
    ///
    /// # Errors
    /// [`CannotSay`].
    pub async fn identify(
        &self,
        request: &Canonical,
        presented: &Presented,
        now: Time,
        bound: Staleness,
    ) -> Result<Option<Caller>, CannotSay> {
        let blueprint = &self.blueprint;
        let identifier = Identifier { handles: &self.handles, views: &blueprint.views, idp: &blueprint.idp };
        identifier.identify(self.audience(request.host()), &presented.handle, now, bound).await
    }

    /// Who is calling one of our own pages, by whatever the request presents.
    ///
    /// # Errors
    /// [`CannotSay`].
    pub async fn caller(&self, request: &Canonical, now: Time) -> Result<Option<Caller>, CannotSay> {
        let bound = self.blueprint.in_force.now().config.max_staleness;
        match Presented::of(request, &self.cookie().name) {
            Some(presented) => self.identify(request, &presented, now, bound).await,
            None => Ok(None),
        }
    }

    /// The session that the authenticate host's own cookie names, if it is open. That cookie is older than the session:
    /// it names no position on the log.
    ///
    /// # Errors
    /// [`CannotSay`].
    pub fn authenticate_view(&self, request: &Canonical, now: Time) -> Result<Option<Arc<SessionView>>, CannotSay> {
        let Some(session) = self.authenticate_session(request, now) else { return Ok(None) };
        let Blueprint { views, in_force, idp, .. } = &self.blueprint;
        vouched(&views.progress, now, in_force.now().config.max_staleness)?;
        Ok(views.session(session).filter(|view| view.is_open(now) && *view.idp == **idp))
    }

    /// The way to the sign-in page and back to `redirect_uri`.
    ///
    /// # Errors
    /// [`KeyError`] where the operating system gives no randomness.
    pub fn depart(&self, request: &Canonical, redirect_uri: &str, now: Time) -> Result<Departure, KeyError> {
        let prefix = start_prefix(&self.cookie().name);
        let held = cookies::pairs(request.headers()).find(|(name, _)| name.starts_with(&prefix));
        start::depart(
            &self.blueprint.config.authenticate_service_url,
            redirect_uri,
            &self.cookie().name,
            held.map(|(_, value)| value),
            &self.signer,
            now,
        )
    }

    /// The handle in the authenticate host's own cookie.
    pub fn authenticate_handle<'a>(&self, request: &'a Canonical) -> Option<&'a str> {
        cookies::single(request.headers(), &cookie::authenticate_name(&self.cookie().name))
    }

    /// The session that the authenticate host's own cookie names.
    pub fn authenticate_session(&self, request: &Canonical, now: Time) -> Option<SessionId> {
        let text = self.authenticate_handle(request)?;
        let host = self.blueprint.config.authenticate_service_url.host_str()?;
        portcullis_actors::keyring::handle::Handle::open(&self.handles, host, text, now).map(|handle| handle.session)
    }
}

fn covers(domain: &str, host: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_domain_covers_itself_and_what_is_below() {
        assert!(covers("example.com", "example.com"));
        assert!(covers("example.com", "app.example.com"));
        assert!(!covers("example.com", "badexample.com"));
        assert!(!covers("example.com", "example.com.evil"));
    }
}
