//! The renewal of a session's tokens and claims at its provider, as a port: what databroker asks, and may be told.

use std::time::Duration;

use async_trait::async_trait;
use portcullis_config::{IdentityProvider, Secret};
use portcullis_events::Time;
use serde_json::{Map, Value};
use url::Url;

use super::{RelyingParty, SignInError};

/// What a provider gave for a refresh token.
pub struct Renewal {
    /// The access token.
    pub access: Secret,
    /// The next refresh token; without one, the old one stays good (RFC 6749 §6).
    pub refresh: Option<Secret>,
    /// The raw ID token, if one came along. Nobody has checked it.
    pub id_token: Option<Secret>,
    /// When the access token ends, if the provider said so.
    pub access_expires_at: Option<Time>,
}

/// Why there is no renewal. They differ in what may be done with the refresh token now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// It never left: it may be presented later.
    #[error("not sent: {0}")]
    NotSent(SignInError),
    /// The provider answered that it has trouble; it gave nothing: the token may be presented later, after the time that
    /// it asks for (`Retry-After`, RFC 9110 §10.2.3) if it does.
    #[error("{0}")]
    Unavailable(SignInError, Option<Duration>),
    /// The provider answered no, not because of the token: it may be presented later.
    #[error("rejected: {0}")]
    Rejected(super::Because),
    /// The provider knows the token no more.
    #[error("the token endpoint answered `invalid_grant`")]
    InvalidGrant,
    /// It left, and there is no answer to work with: it may have been spent, and is never presented again.
    #[error("lost: {0}")]
    Lost(SignInError),
}

/// What a person's claims are made from.
pub struct Evidence<'a> {
    /// The ID token that was believed last.
    pub id_token: &'a Secret,
    /// One that came with a refresh since, and was not checked.
    pub renewed: Option<&'a Secret>,
    /// The access token.
    pub access: &'a Secret,
}

/// What a provider says of a person now.
pub struct Observed {
    /// All claims, those of user info over those of the ID token; or why they are not known just now.
    pub claims: Result<Map<String, Value>, SignInError>,
    /// Whether the renewed ID token is to be believed; `None` where there was none.
    pub renewed_is_believed: Option<bool>,
}

/// A provider that tokens are renewed at.
#[async_trait(?Send)]
pub trait Renewals {
    /// Presents a refresh token, once; `now` is when the answer's life begins.
    ///
    /// # Errors
    /// [`RefreshError`].
    async fn refresh(&self, token: &Secret, now: Time) -> Result<Renewal, RefreshError>;

    /// What the provider says of the person now. Asking twice is harmless.
    ///
    /// # Errors
    /// [`SignInError`]; [`super::Because::OtherSubject`] where the renewed ID token is about somebody else.
    async fn claims(&self, evidence: &Evidence<'_>, now: Time) -> Result<Observed, SignInError>;
}

/// The provider of a configuration. Belongs to the thread that makes it.
pub struct RenewalClient(RelyingParty);

impl RenewalClient {
    /// A client of its own, with its own view of the provider's discovery document and keys.
    #[must_use]
    pub fn new(provider: IdentityProvider, authenticate_url: Url) -> Self {
        Self(RelyingParty::new(provider, authenticate_url))
    }
}

#[async_trait(?Send)]
impl Renewals for RenewalClient {
    async fn refresh(&self, token: &Secret, now: Time) -> Result<Renewal, RefreshError> {
        self.0.refresh(token, now).await
    }

    async fn claims(&self, evidence: &Evidence<'_>, now: Time) -> Result<Observed, SignInError> {
        self.0.claims(evidence, now).await
    }
}
