//! Signed, expiring URLs between proxy and authenticate: HMAC-SHA256 over the whole URL up to its signature.
//!
//! The parameters are Pomerium's: `pomerium_issued` and `pomerium_expiry` in seconds since the Unix epoch, then
//! `pomerium_signature`, which is always the last. What is signed is text, byte for byte, so that there is nothing to
//! parse before the signature holds. A form carries the same text in its body.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::limits::{CLOCK_LEEWAY, SIGNED_URL_LIFE};
use portcullis_events::Time;
use url::Url;

const SIGNATURE: &str = "&pomerium_signature=";

/// Why a signed URL is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature, or it does not fit.
    #[error("the URL is not signed by us")]
    Forged,
    /// Its time is over, or has not begun.
    #[error("the URL has expired")]
    Expired,
}

/// Signs and verifies URLs.
pub struct UrlSigner {
    keys: Vec<hmac::Key>,
}

impl UrlSigner {
    pub(super) fn new(keys: &[[u8; 32]]) -> Self {
        Self { keys: keys.iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect() }
    }

    /// The URL with issue time, expiry and signature.
    #[must_use]
    pub fn sign(&self, mut url: Url, now: Time) -> Url {
        url.set_fragment(None);
        url.query_pairs_mut()
            .append_pair("pomerium_issued", &now.secs().to_string())
            .append_pair("pomerium_expiry", &now.plus(SIGNED_URL_LIFE).secs().to_string());
        if let Some(key) = self.keys.first() {
            let tag = URL_SAFE_NO_PAD.encode(hmac::sign(key, url.as_str().as_bytes()));
            url.query_pairs_mut().append_pair("pomerium_signature", &tag);
        }
        url
    }

    /// Verifies a URL as it arrived: `scheme://authority/path?query`.
    ///
    /// # Errors
    /// [`SignatureError`]. The two are told apart only after the signature held.
    pub fn verify(&self, url: &str, now: Time) -> Result<(), SignatureError> {
        let (signed, tag) = url.rsplit_once(SIGNATURE).ok_or(SignatureError::Forged)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| SignatureError::Forged)?;
        if !self.keys.iter().any(|key| hmac::verify(key, signed.as_bytes(), &tag).is_ok()) {
            return Err(SignatureError::Forged);
        }
        let seconds = |name: &str| signed.rsplit_once(name)?.1.split('&').next()?.parse().ok().map(Time::from_secs);
        let issued = seconds("&pomerium_issued=").or_else(|| seconds("?pomerium_issued="));
        let expiry = seconds("&pomerium_expiry=");
        match (issued, expiry) {
            (Some(issued), Some(expiry)) if now >= issued.minus(CLOCK_LEEWAY) && now < expiry => Ok(()),
            (Some(_), Some(_)) => Err(SignatureError::Expired),
            _ => Err(SignatureError::Forged),
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::Secret;

    use super::super::{Keyring, Purpose};
    use super::*;

    fn signer(byte: u8) -> UrlSigner {
        Keyring::new(vec![Secret::new(vec![byte; 32])]).unwrap().signer(Purpose::SignedUrl).unwrap()
    }

    const NOW: Time = Time::from_secs(1_000_000);

    fn signed() -> String {
        let url = Url::parse("https://auth.localhost:8443/.pomerium/sign_in?pomerium_redirect_uri=https%3A%2F%2Fa%2F")
            .unwrap();
        signer(1).sign(url, NOW).to_string()
    }

    #[test]
    fn a_signed_url_holds_for_five_minutes() {
        assert_eq!(signer(1).verify(&signed(), NOW), Ok(()));
        assert_eq!(signer(1).verify(&signed(), Time::from_secs(1_000_299)), Ok(()));
        assert_eq!(signer(1).verify(&signed(), Time::from_secs(1_000_300)), Err(SignatureError::Expired));
        assert_eq!(signer(1).verify(&signed(), Time::from_secs(999_000)), Err(SignatureError::Expired));
        assert_eq!(signer(2).verify(&signed(), NOW), Err(SignatureError::Forged));
    }

    #[test]
    fn a_url_with_one_byte_changed_added_or_removed_is_forged() {
        let url = signed();
        for at in 0..url.len() {
            let mut bytes = url.clone().into_bytes();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(
                signer(1).verify(&String::from_utf8(bytes).unwrap(), NOW),
                Err(SignatureError::Forged),
                "at {at}"
            );
        }
        assert_eq!(signer(1).verify(&format!("{url}&a=b"), NOW), Err(SignatureError::Forged));
        assert_eq!(signer(1).verify("https://auth.localhost/", NOW), Err(SignatureError::Forged));
        assert_eq!(signer(1).verify("", NOW), Err(SignatureError::Forged));
    }

    #[test]
    fn an_expiry_planted_in_another_parameter_is_not_read() {
        let url = Url::parse("https://a/?x=%26pomerium_expiry%3D9999999999&pomerium_expiry=9999999999").unwrap();
        let url = signer(1).sign(url, NOW).to_string();
        assert_eq!(signer(1).verify(&url, Time::from_secs(1_000_300)), Err(SignatureError::Expired));
    }
}
