//! What the pages and the request path of one worker share: keys, and who is calling.

use std::borrow::Cow;

use http::StatusCode;
use portcullis_actors::authenticate::cookie::start_prefix;
use portcullis_actors::authenticate::identify::{CannotSay, Identifier, open_session};
use portcullis_actors::authenticate::start::{self, Departure};
use portcullis_actors::authenticate::{Caller, cookie};
use portcullis_actors::authorize::check::{Handed, Who};
use portcullis_actors::clock;
use portcullis_actors::databroker::broker::Opened;
use portcullis_actors::databroker::view::SessionView;
use portcullis_actors::keyring::handle::Handle;
use portcullis_actors::keyring::signed_url::UrlSigner;
use portcullis_actors::keyring::{KeyError, Sealer};
use portcullis_actors::request::{Canonical, Presented, cookies};
use portcullis_config::limits::READ_YOUR_WRITES;
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

    /// Whom a handle was made for that is presented to `host`: as [`Self::audience`] says, or for its host alone, as the
    /// handles of programs are.
    pub fn audience_of<'a>(&'a self, host: &'a str, presented: &Presented, now: Time) -> &'a str {
        let shared = self.audience(host);
        let is_for_host = host != shared && Handle::open(&self.handles, host, &presented.handle, now).is_some();
        if is_for_host { host } else { shared }
    }

    /// The handle of a session that was just opened; `None` where it cannot be sealed.
    pub fn handle(&self, audience: &str, opened: &Opened, now: Time) -> Option<String> {
        let handle = Handle {
            session: opened.session,
            epoch: opened.epoch,
            position: opened.position,
            issued_at: now,
            expires_at: opened.expires_at,
        };
        handle.seal(&self.handles, audience).ok()
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

    /// Who presented this to `host`, on views that are no older than `bound`.
    ///
    /// # Errors
    /// [`CannotSay`].
    pub async fn identify(
        &self,
        host: &str,
        presented: &Presented,
        now: Time,
        bound: Staleness,
    ) -> Result<Option<Caller>, CannotSay> {
        let blueprint = &self.blueprint;
        let (handles, views, idp) = (&self.handles, &blueprint.views, &blueprint.idp);
        let identifier = Identifier { handles, views, idp, patience: READ_YOUR_WRITES };
        identifier.identify(self.audience_of(host, presented, now), &presented.handle, now, bound).await
    }

    /// What is presented to `host`, for authorize in another process.
    pub fn handed(&self, host: &str, presented: &Presented) -> Handed {
        let audience = self.audience_of(host, presented, clock::now()).to_owned();
        Handed { audience, handle: presented.handle.clone() }
    }

    /// The session of who is calling one of our own pages, by whatever the request presents.
    ///
    /// # Errors
    /// [`CannotSay`].
    pub async fn caller(&self, request: &Canonical, now: Time) -> Result<Option<SessionView>, CannotSay> {
        let Some(presented) = Presented::of(request, &self.cookie().name) else { return Ok(None) };
        self.holder(self.audience_of(request.host(), &presented, now), &presented.handle, now).await
    }

    /// The session behind a handle that was made for `audience`.
    ///
    /// # Errors
    /// [`CannotSay`].
    pub async fn holder(&self, audience: &str, handle: &str, now: Time) -> Result<Option<SessionView>, CannotSay> {
        let Blueprint { views, in_force, idp, apart, .. } = &self.blueprint;
        if let Some(apart) = apart {
            return apart.who(Who::Handed(Handed { audience: audience.to_owned(), handle: handle.to_owned() })).await;
        }
        let bound = in_force.now().config.max_staleness;
        let identifier = Identifier { handles: &self.handles, views, idp, patience: READ_YOUR_WRITES };
        let caller = identifier.identify(audience, handle, now, bound).await?;
        Ok(caller.map(|caller| caller.session().clone()))
    }

    /// A session that is open, by its id: the authenticate host's own cookie is older than the session, and names no
    /// position on the log.
    ///
    /// # Errors
    /// [`CannotSay`].
    pub async fn open_session(&self, session: SessionId, now: Time) -> Result<Option<SessionView>, CannotSay> {
        let Blueprint { views, in_force, idp, apart, .. } = &self.blueprint;
        if let Some(apart) = apart {
            return apart.who(Who::Session(session)).await;
        }
        let view = open_session(views, idp, session, now, in_force.now().config.max_staleness)?;
        Ok(view.map(|view| (*view).clone()))
    }

    /// The public keys of assertions, as JSON; `None` where whoever signs does not answer.
    pub async fn assertion_keys(&self) -> Option<String> {
        match &self.blueprint.apart {
            Some(apart) => apart.keys().await,
            None => Some(self.blueprint.assertion_keys.jwks().to_owned()),
        }
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
        Handle::open(&self.handles, host, text, now).map(|handle| handle.session)
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
