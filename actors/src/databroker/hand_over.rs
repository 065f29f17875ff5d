//! What authenticate hands over to databroker: sealed, so that the proxy and the browser that carry it cannot read it.

use portcullis_config::Secret;
use portcullis_events::{SessionId, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::keyring::{KeyError, Sealer};

/// The outcome of a sign-in.
#[derive(Clone, Serialize, Deserialize)]
pub struct HandOver {
    /// The session that authenticate knows the browser by.
    pub session: SessionId,
    /// When this hand-over is too old to be used.
    pub valid_until: Time,
    /// What the provider said; absent when the session was opened before, for another host.
    pub identity: Option<SignedInIdentity>,
}

/// Who signed in, and with what tokens.
#[derive(Clone, Serialize, Deserialize)]
pub struct SignedInIdentity {
    /// The id of the identity provider.
    pub idp: String,
    /// The provider's issuer.
    pub issuer: String,
    /// The provider's `sub`.
    pub subject: String,
    /// All claims of the ID token and of user info.
    pub claims: Map<String, Value>,
    /// The tokens.
    pub tokens: SessionTokens,
    /// When the person signed in.
    pub issued_at: Time,
    /// When the session ends by itself.
    pub expires_at: Time,
}

/// The tokens of a session, as they lie in the vault.
#[derive(Clone, Serialize, Deserialize)]
pub struct SessionTokens {
    /// The access token.
    #[serde(with = "secret_text")]
    pub access: Secret,
    /// The refresh token, if the provider gave one.
    #[serde(with = "optional_secret_text", default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Secret>,
    /// The raw ID token.
    #[serde(with = "secret_text")]
    pub id_token: Secret,
    /// When the access token ends, if the provider said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_expires_at: Option<Time>,
}

impl HandOver {
    /// Seals it for the host whose callback will carry it.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn seal(&self, sealer: &Sealer, host: &str) -> Result<String, KeyError> {
        let plain = serde_json::to_vec(self).map_err(|_| KeyError::Derive)?;
        sealer.seal(host, &plain)
    }

    /// Opens one that was sealed for this host and is not too old at `now`.
    #[must_use]
    pub fn open(sealer: &Sealer, host: &str, text: &str, now: Time) -> Option<Self> {
        let hand_over: Self = serde_json::from_slice(&sealer.open(host, text)?).ok()?;
        (now < hand_over.valid_until).then_some(hand_over)
    }
}

/// Secrets as JSON text, for values that are sealed before they go anywhere.
pub(crate) mod secret_text {
    use portcullis_config::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose_str().ok_or_else(|| serde::ser::Error::custom("a token is not text"))?)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(|text| Secret::new(text.into_bytes()))
    }
}

/// As [`secret_text`], for what may be absent.
pub(crate) mod optional_secret_text {
    use portcullis_config::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => super::secret_text::serialize(secret, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(|text| Secret::new(text.into_bytes())))
    }
}
