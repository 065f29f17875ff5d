//! The provider's keys: one that signs ID tokens (ES256), one that seals what it will want to read again.

use std::path::Path;

use anyhow::{Context, Result};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use portcullis_actors::keyring::{Keyring, Purpose, Sealer};
use portcullis_config::Secret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::demo::files;

/// What a sealed text is. It opens as nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The cookie of a login.
    Login,
    /// The form of the sign-in page.
    SignInForm,
    /// The form of the sign-out page.
    SignOutForm,
    /// An access token.
    AccessToken,
    /// A refresh token.
    RefreshToken,
}

impl Kind {
    /// Bound to what else must be true of the one who brings it.
    fn audience(self, bound: &str) -> String {
        let kind = match self {
            Self::Login => "login",
            Self::SignInForm => "sign-in form",
            Self::SignOutForm => "sign-out form",
            Self::AccessToken => "access token",
            Self::RefreshToken => "refresh token",
        };
        format!("demo provider {kind} {bound}")
    }
}

/// What an ID token that comes back says.
#[derive(Debug, Deserialize)]
pub struct Hint {
    /// The login.
    pub sid: Uuid,
}

/// The keys.
pub struct Keys {
    sealer: Sealer,
    signing: EncodingKey,
    verifying: DecodingKey,
    jwk: Jwk,
}

impl Keys {
    /// Keys from a secret and a P-256 key in PEM (PKCS #8).
    ///
    /// # Errors
    /// They are none.
    pub fn new(secret: Secret, pem: &str) -> Result<Self> {
        let sealer = Keyring::new(vec![secret])?.sealer(Purpose::Form)?;
        let signing = EncodingKey::from_ec_pem(pem.as_bytes())?;
        let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::ES256)?;
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256)?);
        let verifying = DecodingKey::from_jwk(&jwk)?;
        Ok(Self { sealer, signing, verifying, jwk })
    }

    /// The keys in a data directory, made if they are not there.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn load(dir: &Path) -> Result<Self> {
        let secret = crate::state_dir::secret(dir, "provider_secret")?;
        let path = dir.join("provider.key");
        let pem = files::kept(&path, || Ok(rcgen::KeyPair::generate()?.serialize_pem()))?;
        Self::new(secret, &pem).with_context(|| format!("{}: no P-256 key", path.display()))
    }

    /// The public key, as published.
    pub fn published(&self) -> JwkSet {
        JwkSet { keys: vec![self.jwk.clone()] }
    }

    /// Signs claims as a JWT.
    ///
    /// # Errors
    /// The cryptographic library refuses.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid.clone_from(&self.jwk.common.key_id);
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }

    /// Reads an ID token that we signed for this client, however old.
    pub fn hint(&self, token: &str, issuer: &str, client_id: &str) -> Option<Hint> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[client_id]);
        validation.set_required_spec_claims(&["iss", "aud"]);
        jsonwebtoken::decode(token, &self.verifying, &validation).ok().map(|token| token.claims)
    }

    /// Seals a value that only `kind` with the same `bound` opens.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn seal(&self, kind: Kind, bound: &str, value: &impl Serialize) -> Result<String> {
        Ok(self.sealer.seal(&kind.audience(bound), &serde_json::to_vec(value)?)?)
    }

    /// Opens what [`Self::seal`] made.
    pub fn open<T: DeserializeOwned>(&self, kind: Kind, bound: &str, text: &str) -> Option<T> {
        let plain = self.sealer.open(&kind.audience(bound), text)?;
        serde_json::from_slice(&plain).ok()
    }
}

/// `at_hash`: the left half of the access token's hash (OpenID Core §3.1.3.6).
pub fn at_hash(access_token: &str) -> String {
    let hash = digest::digest(&digest::SHA256, access_token.as_bytes());
    URL_SAFE_NO_PAD.encode(hash.as_ref().iter().take(16).copied().collect::<Vec<_>>())
}
