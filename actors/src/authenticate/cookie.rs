//! Cookies that we set, as RFC 6265bis writes them.

use std::time::Duration;

use portcullis_config::{Cookie, SameSite};
use serde::{Deserialize, Serialize};

/// One `Set-Cookie`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCookie {
    name: String,
    value: String,
    attributes: String,
}

impl std::fmt::Debug for SetCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SetCookie({}=…; {})", self.name, self.attributes)
    }
}

impl std::fmt::Display for SetCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}; {}", self.name, self.value, self.attributes)
    }
}

impl SetCookie {
    /// The session cookie of a route host.
    #[must_use]
    pub fn session(settings: &Cookie, value: String, life: Duration) -> Self {
        Self::lasting(settings.name.clone(), value, settings, settings.domain.as_deref(), life)
    }

    /// The end of a route host's session cookie.
    #[must_use]
    pub fn no_session(settings: &Cookie) -> Self {
        Self::session(settings, String::new(), Duration::ZERO)
    }

    /// The session cookie of the authenticate host: never shared with a domain.
    #[must_use]
    pub fn authenticate(settings: &Cookie, value: String, life: Duration) -> Self {
        Self::lasting(authenticate_name(&settings.name), value, settings, None, life)
    }

    /// The end of the authenticate host's session cookie.
    #[must_use]
    pub fn no_authenticate(settings: &Cookie) -> Self {
        Self::authenticate(settings, String::new(), Duration::ZERO)
    }

    /// A short-lived cookie of one sign-in. `SameSite=None`, because a provider or a form may come back by `POST`;
    /// it proves only which browser it is.
    #[must_use]
    pub fn transient(name: String, value: String, life: Duration) -> Self {
        let attributes = format!("Path=/; Max-Age={}; Secure; HttpOnly; SameSite=None", life.as_secs());
        Self { name, value, attributes }
    }

    fn lasting(name: String, value: String, settings: &Cookie, domain: Option<&str>, life: Duration) -> Self {
        let mut attributes = format!("Path=/; Max-Age={}; Secure", life.as_secs());
        if let Some(domain) = domain {
            attributes.push_str("; Domain=");
            attributes.push_str(domain);
        }
        if settings.http_only {
            attributes.push_str("; HttpOnly");
        }
        match settings.same_site {
            Some(SameSite::Lax) => attributes.push_str("; SameSite=Lax"),
            Some(SameSite::Strict) => attributes.push_str("; SameSite=Strict"),
            Some(SameSite::None) => attributes.push_str("; SameSite=None"),
            None => {}
        }
        Self { name, value, attributes }
    }
}

/// The name of the authenticate host's session cookie.
#[must_use]
pub fn authenticate_name(cookie_name: &str) -> String {
    format!("{cookie_name}_authenticate")
}

/// What the names of start cookies begin with; what follows is a short hash of the cookie's value.
#[must_use]
pub fn start_prefix(cookie_name: &str) -> String {
    format!("__Host-{cookie_name}_start_")
}

/// What the names of state cookies begin with; what follows is a short hash of the `state`.
#[must_use]
pub fn state_prefix(cookie_name: &str) -> String {
    format!("__Host-{cookie_name}_pkce_")
}
