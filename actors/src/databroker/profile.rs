//! What a session's sealed profile says, and the view that is made from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_events::session::SignedIn;
use portcullis_events::{PersonId, Sealed, SessionId, group};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::data_keys::{DataKey, Pseudonyms};
use super::view::SessionView;
use crate::idp;
use crate::keyring::KeyError;

/// The personal part of a sign-in: JSON, sealed with the person's data key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Profile {
    /// All claims of the ID token and of user info.
    pub claims: Map<String, Value>,
}

impl Profile {
    /// Seals it for its session.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn seal(&self, key: &DataKey, session: SessionId) -> Result<Sealed, KeyError> {
        let plain = serde_json::to_vec(self).map_err(|_| KeyError::Derive)?;
        key.seal(&associated(session), &plain)
    }

    /// Opens a session's profile. `None` if the key is another or the seal was moved from another session.
    #[must_use]
    pub fn open(key: &DataKey, session: SessionId, sealed: &Sealed) -> Option<Self> {
        serde_json::from_slice(&key.open(&associated(session), sealed.as_str())?).ok()
    }

    /// The view of the session; its use is known to the views alone.
    #[must_use]
    pub fn view(self, id: SessionId, signed_in: &SignedIn, seq: u64) -> SessionView {
        let known = idp::profile(&self.claims);
        SessionView {
            id,
            person: signed_in.person,
            idp: signed_in.idp.clone(),
            user: known.user,
            email: known.email,
            name: known.name,
            claims: self.claims,
            groups: known.groups,
            issued_at: signed_in.issued_at,
            expires_at: signed_in.expires_at,
            seq,
            activity: Arc::default(),
        }
    }
}

/// The groups that a provider's claims name, each name sealed with the person's data key.
///
/// # Errors
/// [`KeyError`].
pub(super) fn observed_groups(
    pseudonyms: &Pseudonyms,
    key: &DataKey,
    idp: &str,
    person: PersonId,
    claims: &Map<String, Value>,
) -> Result<group::Command, KeyError> {
    let source = format!("claims:{idp}");
    let mut groups = BTreeMap::new();
    for name in idp::profile(claims).groups {
        let id = pseudonyms.group(&source, &name);
        groups.insert(id, key.seal(&format!("group/{person}/{id}"), name.as_bytes())?);
    }
    Ok(group::Command::Observe { source, groups })
}

fn associated(session: SessionId) -> String {
    format!("profile/{session}")
}
