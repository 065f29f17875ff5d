//! The steps of a browser's way through a sign-in and out of it: what each brings, and how it goes on.

use actix::Message;
use serde::{Deserialize, Serialize};
use url::Url;

use super::cookie::SetCookie;
use crate::ask::{Ask, AskError};
use crate::idp::SignInError;
use crate::keyring::KeyError;

/// A browser arrives with the URL that a proxy signed.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Step, SignInFault>")]
pub struct Arrive {
    /// The URL as it arrived.
    pub url: String,
    /// The value of the browser's session cookie on this host.
    pub handle: Option<String>,
    /// The state cookies that must go before there is another ([`super::keepsake::surplus`]).
    pub surplus: Vec<String>,
}

/// A browser returns from the provider.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Step, SignInFault>")]
pub struct Return {
    /// The authorization code.
    pub code: String,
    /// The state, as we made it.
    pub state: String,
    /// The issuer the response names (RFC 9207).
    pub iss: Option<String>,
    /// What the browser's state cookies keep for this state ([`super::keepsake::found`]).
    pub keepsakes: Vec<String>,
    /// The request.
    pub request_id: String,
}

/// A session has ended; where does the provider's own sign-out lie?
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Option<Url>")]
pub struct Leave {
    /// The raw ID token as databroker sealed it for us.
    pub id_token_hint: Option<String>,
    /// Where the provider sends the browser afterwards.
    pub post_logout_redirect_uri: Url,
}

/// Where the browser goes next, with the cookies it is given on the way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Where to.
    pub way: Way,
    /// Cookies to set.
    pub cookies: Vec<SetCookie>,
}

/// How the browser goes there.
#[derive(Clone, Serialize, Deserialize)]
pub enum Way {
    /// By redirect.
    Redirect(Url),
    /// By a form that submits itself: what it carries is too long for a URL.
    Form {
        /// Where it is posted.
        action: Url,
        /// Its fields, in order; the signature last.
        fields: Vec<(String, String)>,
    },
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Redirect(url) => write!(f, "Redirect({}…)", url.origin().ascii_serialization()),
            Self::Form { action, .. } => write!(f, "Form({}…)", action.origin().ascii_serialization()),
        }
    }
}

/// Why a sign-in does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SignInFault {
    /// The browser's request is forged, stale or malformed: our own signature or state does not hold.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The provider's answer cannot be believed.
    #[error("refused: {0}")]
    Refused(String),
    /// The provider or databroker did not answer; the same may be tried again.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl Ask for Arrive {
    type Answer = Result<Step, SignInFault>;
}

impl Ask for Return {
    type Answer = Result<Step, SignInFault>;
}

impl Ask for Leave {
    type Answer = Option<Url>;
}

impl From<KeyError> for SignInFault {
    fn from(error: KeyError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<AskError> for SignInFault {
    fn from(error: AskError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<SignInError> for SignInFault {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Refused(because) => Self::Refused(because.to_string()),
            SignInError::Unavailable(why) => Self::Unavailable(why),
        }
    }
}
