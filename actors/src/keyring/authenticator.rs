//! Proof of who wrote a long stream of bytes: HMAC-SHA256 (RFC 2104), made and checked while the bytes go by.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

/// Makes and checks tags for one purpose.
pub struct Authenticator {
    keys: Vec<hmac::Key>,
}

/// A tag in the making.
pub struct Running(Vec<hmac::Context>);

impl Authenticator {
    pub(super) fn new(keys: &[[u8; 32]]) -> Self {
        Self { keys: keys.iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect() }
    }

    /// Begins with a stream of bytes.
    #[must_use]
    pub fn begin(&self) -> Running {
        Running(self.keys.iter().map(hmac::Context::with_key).collect())
    }
}

impl Running {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|context| context.update(bytes));
    }

    /// The tag of the newest key over all the bytes, 32 of them.
    #[must_use]
    pub fn tag(self) -> Vec<u8> {
        self.0.into_iter().next().map(|context| context.sign().as_ref().to_vec()).unwrap_or_default()
    }

    /// Whether this is the tag of any of the keys over all the bytes.
    #[must_use]
    pub fn verifies(self, tag: &[u8]) -> bool {
        self.0.into_iter().any(|context| verify_slices_are_equal(context.sign().as_ref(), tag).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::Secret;

    use super::super::{Keyring, Purpose};
    use super::*;

    fn running(secrets: &[u8], bytes: &[&[u8]]) -> Running {
        let ring = Keyring::new(secrets.iter().map(|byte| Secret::new(vec![*byte; 32])).collect()).unwrap();
        let mut running = ring.authenticator(Purpose::Snapshot).unwrap().begin();
        bytes.iter().for_each(|bytes| running.update(bytes));
        running
    }

    #[test]
    fn a_tag_holds_for_its_bytes_and_its_secrets_alone() {
        let tag = running(&[1], &[b"one", b"two"]).tag();
        assert_eq!(tag.len(), 32);
        assert!(running(&[1], &[b"onetwo"]).verifies(&tag));
        assert!(running(&[2, 1], &[b"onetwo"]).verifies(&tag), "an older secret still counts");
        assert!(!running(&[2], &[b"onetwo"]).verifies(&tag));
        assert!(!running(&[1], &[b"onetw"]).verifies(&tag));
        assert!(!running(&[1], &[b"onetwo"]).verifies(&tag[..31]));
        assert!(!running(&[1], &[b"onetwo"]).verifies(b""));
    }
}
