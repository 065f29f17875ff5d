//! Sealing: AES-256-GCM-SIV (RFC 8452), which forgives a repeated nonce, with purpose and audience as associated data.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{KeyError, random};

/// What every sealed text begins with; the format's version.
const VERSION: &str = "v1";

struct Key {
    id: String,
    key: LessSafeKey,
}

/// Seals and opens for one purpose. Text form: `v1.<key id>.<base64url(nonce ‖ ciphertext ‖ tag)>`.
pub struct Sealer {
    purpose: &'static [u8],
    keys: Vec<Key>,
}

impl Sealer {
    pub(super) fn new(purpose: &'static [u8], keys: &[[u8; 32]]) -> Result<Self, KeyError> {
        let keys = keys.iter().map(Key::new).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { purpose, keys })
    }

    /// Seals `plain` for `audience`: only an open with the same audience succeeds.
    ///
    /// # Errors
    /// [`KeyError::Derive`] where the operating system gives no randomness.
    pub fn seal(&self, audience: &str, plain: &[u8]) -> Result<String, KeyError> {
        let key = self.keys.first().ok_or(KeyError::Empty)?;
        let sealed = key.seal(&self.associated(key, audience), plain)?;
        Ok(format!("{VERSION}.{}.{}", key.id, URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Opens what was sealed for `audience` with any key of the ring. `None` for everything else, whatever is wrong.
    #[must_use]
    pub fn open(&self, audience: &str, text: &str) -> Option<Vec<u8>> {
        let (version, rest) = text.split_once('.')?;
        let (id, sealed) = rest.split_once('.')?;
        let key = self.keys.iter().find(|key| key.id == id).filter(|_| version == VERSION)?;
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        key.open(&self.associated(key, audience), sealed)
    }

    fn associated(&self, key: &Key, audience: &str) -> Vec<u8> {
        let parts = [self.purpose, VERSION.as_bytes(), key.id.as_bytes(), audience.as_bytes()];
        parts.join(&0)
    }
}

impl Key {
    fn new(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let hash = digest::digest(&digest::SHA256, bytes);
        let id = URL_SAFE_NO_PAD.encode(hash.as_ref().iter().take(6).copied().collect::<Vec<_>>());
        Ok(Self { id, key: raw(bytes)? })
    }

    fn seal(&self, associated: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyError> {
        seal_with(&self.key, associated, plain)
    }

    fn open(&self, associated: &[u8], sealed: Vec<u8>) -> Option<Vec<u8>> {
        open_with(&self.key, associated, sealed)
    }
}

/// A key from its bytes.
pub(crate) fn raw(bytes: &[u8; 32]) -> Result<LessSafeKey, KeyError> {
    UnboundKey::new(&AES_256_GCM_SIV, bytes).map(LessSafeKey::new).map_err(|_| KeyError::Derive)
}

/// `nonce ‖ ciphertext ‖ tag`
pub(crate) fn seal_with(key: &LessSafeKey, associated: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyError> {
    let nonce: [u8; NONCE_LEN] = random()?;
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut sealed)
        .map_err(|_| KeyError::Derive)?;
    let mut whole = nonce.to_vec();
    whole.append(&mut sealed);
    Ok(whole)
}

/// The inverse of [`seal_with`]; `None` whatever is wrong.
pub(crate) fn open_with(key: &LessSafeKey, associated: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let nonce: [u8; NONCE_LEN] = sealed.get(..NONCE_LEN)?.try_into().ok()?;
    let rest = sealed.get_mut(NONCE_LEN..)?;
    let plain = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated), rest).ok()?;
    Some(plain.to_vec())
}

#[cfg(test)]
mod tests {
    use portcullis_config::Secret;

    use super::super::{Keyring, Purpose};

    fn ring(secrets: &[u8]) -> Keyring {
        Keyring::new(secrets.iter().map(|byte| Secret::new(vec![*byte; 32])).collect()).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_for_its_audience_and_purpose_alone() {
        let handle = ring(&[1]).sealer(Purpose::Handle).unwrap();
        let sealed = handle.seal("app.example.com", b"hello").unwrap();
        assert_eq!(handle.open("app.example.com", &sealed).as_deref(), Some(b"hello".as_slice()));
        assert_eq!(handle.open("other.example.com", &sealed), None);
        assert_eq!(ring(&[1]).sealer(Purpose::HandOver).unwrap().open("app.example.com", &sealed), None);
        assert_eq!(ring(&[2]).sealer(Purpose::Handle).unwrap().open("app.example.com", &sealed), None);
    }

    #[test]
    fn one_changed_character_anywhere_closes_it() {
        let handle = ring(&[1]).sealer(Purpose::Handle).unwrap();
        let sealed = handle.seal("a", b"hello").unwrap();
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(handle.open("a", &String::from_utf8(bytes).unwrap()), None, "at {at}");
        }
        for end in 0..sealed.len() {
            assert_eq!(handle.open("a", &sealed[..end]), None);
        }
    }

    #[test]
    fn an_older_secret_still_opens_and_the_newest_seals() {
        let old = ring(&[1]).sealer(Purpose::Handle).unwrap();
        let both = ring(&[2, 1]).sealer(Purpose::Handle).unwrap();
        assert!(both.open("a", &old.seal("a", b"x").unwrap()).is_some());
        assert!(old.open("a", &both.seal("a", b"x").unwrap()).is_none());
    }

    #[test]
    fn the_same_text_never_seals_alike() {
        let handle = ring(&[1]).sealer(Purpose::Handle).unwrap();
        assert_ne!(handle.seal("a", b"x").unwrap(), handle.seal("a", b"x").unwrap());
    }
}
