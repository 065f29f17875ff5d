//! The session handle: what a browser or a program holds. It names a session, and says where on the log it began.

use portcullis_events::{Epoch, SessionId, Time};
use uuid::Uuid;

use super::{KeyError, Sealer};

/// What a handle says. Sealed as 56 bytes: session, epoch, position, issue and expiry, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// The session.
    pub session: SessionId,
    /// The log it was opened on.
    pub epoch: Epoch,
    /// The position on that log which a node must have reached before it may say that there is no such session.
    pub position: u64,
    /// When it was made.
    pub issued_at: Time,
    /// When it ends; compared when it is read.
    pub expires_at: Time,
}

impl Handle {
    /// Seals it for one audience: a route's host, or the cookie's domain.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn seal(&self, sealer: &Sealer, audience: &str) -> Result<String, KeyError> {
        let mut plain = Vec::with_capacity(56);
        plain.extend_from_slice(self.session.uuid().as_bytes());
        plain.extend_from_slice(self.epoch.uuid().as_bytes());
        plain.extend_from_slice(&self.position.to_be_bytes());
        plain.extend_from_slice(&self.issued_at.millis().to_be_bytes());
        plain.extend_from_slice(&self.expires_at.millis().to_be_bytes());
        sealer.seal(audience, &plain)
    }

    /// Opens a handle that was sealed for this audience and has not ended at `now`. `None` for everything else.
    #[must_use]
    pub fn open(sealer: &Sealer, audience: &str, text: &str, now: Time) -> Option<Self> {
        let plain = sealer.open(audience, text)?;
        let (session, rest) = plain.split_first_chunk::<16>()?;
        let (epoch, rest) = rest.split_first_chunk::<16>()?;
        let (position, rest) = rest.split_first_chunk::<8>()?;
        let (issued_at, rest) = rest.split_first_chunk::<8>()?;
        let (expires_at, rest) = rest.split_first_chunk::<8>()?;
        let handle = Self {
            session: SessionId::new(Uuid::from_bytes(*session)),
            epoch: Epoch::new(Uuid::from_bytes(*epoch)),
            position: u64::from_be_bytes(*position),
            issued_at: Time::from_millis(i64::from_be_bytes(*issued_at)),
            expires_at: Time::from_millis(i64::from_be_bytes(*expires_at)),
        };
        (rest.is_empty() && now < handle.expires_at).then_some(handle)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::Secret;

    use super::super::{Keyring, Purpose};
    use super::*;

    #[test]
    fn a_handle_ends_by_itself_and_belongs_to_one_audience() {
        let sealer = Keyring::new(vec![Secret::new(vec![3; 32])]).unwrap().sealer(Purpose::Handle).unwrap();
        let handle = Handle {
            session: SessionId::new(Uuid::from_u128(1)),
            epoch: Epoch::new(Uuid::from_u128(2)),
            position: 3,
            issued_at: Time::from_secs(10),
            expires_at: Time::from_secs(20),
        };
        let text = handle.seal(&sealer, "app.localhost").unwrap();
        assert_eq!(Handle::open(&sealer, "app.localhost", &text, Time::from_secs(19)), Some(handle));
        assert_eq!(Handle::open(&sealer, "app.localhost", &text, Time::from_secs(20)), None);
        assert_eq!(Handle::open(&sealer, "b.localhost", &text, Time::from_secs(19)), None);
    }
}
