//! What lies in the vault for a session: its tokens and their generation, sealed with its person's data key.

use portcullis_config::Secret;
use portcullis_events::{SessionId, Time, token};
use serde::{Deserialize, Serialize};

use super::data_keys::DataKey;
use super::hand_over::{SessionTokens, optional_secret_text};
use crate::idp::Renewal;
use crate::keyring::KeyError;

/// The tokens of a session, as they were kept last.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The tokens; the ID token among them was believed.
    #[serde(flatten)]
    pub(super) tokens: SessionTokens,
    /// How many times the provider has given tokens. A sign-in writes none: it is the first.
    #[serde(default = "first")]
    pub(super) generation: u32,
    /// When they were asked for; absent at sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) renewed_at: Option<Time>,
    /// A raw ID token that came with them, and that nobody has checked.
    #[serde(with = "optional_secret_text", default, skip_serializing_if = "Option::is_none")]
    pub(super) renewed_id_token: Option<Secret>,
}

const fn first() -> u32 {
    1
}

impl Kept {
    /// Seals it for its session.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(super) fn seal(&self, key: &DataKey, session: SessionId) -> Result<Vec<u8>, KeyError> {
        let plain = serde_json::to_vec(self).map_err(|_| KeyError::Derive)?;
        Ok(key.seal(&tokens_of(session), &plain)?.as_str().as_bytes().to_vec())
    }

    /// Opens a session's. `None` if the key is another or the seal was moved from another session.
    pub(super) fn open(key: &DataKey, session: SessionId, sealed: &[u8]) -> Option<Self> {
        let plain = key.open(&tokens_of(session), std::str::from_utf8(sealed).ok()?)?;
        serde_json::from_slice(&plain).ok()
    }

    /// The next generation. Without a new refresh token the old one stays good (RFC 6749 §6).
    pub(super) fn renewed(&self, renewal: Renewal, at: Time) -> Self {
        Self {
            tokens: SessionTokens {
                access: renewal.access,
                refresh: renewal.refresh.or_else(|| self.tokens.refresh.clone()),
                id_token: self.tokens.id_token.clone(),
                access_expires_at: renewal.access_expires_at,
            },
            generation: self.generation.saturating_add(1),
            renewed_at: Some(at),
            renewed_id_token: renewal.id_token.or_else(|| self.renewed_id_token.clone()),
        }
    }

    /// What the log is told of it.
    pub(super) fn refreshed(&self, now: Time) -> token::Refreshed {
        token::Refreshed {
            generation: self.generation,
            refreshed_at: self.renewed_at.unwrap_or(now),
            access_expires_at: self.tokens.access_expires_at,
            refreshable: self.tokens.refresh.is_some(),
        }
    }
}

/// What a session's tokens are sealed as.
pub(super) fn tokens_of(session: SessionId) -> String {
    format!("tokens/{session}")
}
