//! What the log says now, published for the request path: read without a lock, written by the replica alone.

use portcullis_events::{PersonId, SessionId, Time};
use serde_json::{Map, Value};

/// A session that is open, with what its person is known by. Ended sessions are not in the view.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionView {
    /// The session.
    pub id: SessionId,
    /// Whose it is.
    pub person: PersonId,
    /// The id of the identity provider it came from.
    pub idp: String,
    /// The user id: the provider's `sub`.
    pub user: String,
    /// The e-mail address, unless the provider says that it is not verified.
    pub email: Option<String>,
    /// The display name.
    pub name: Option<String>,
    /// All claims of the ID token and of user info.
    pub claims: Map<String, Value>,
    /// The `groups` claim; empty if there is none or it is not a list of texts.
    pub groups: Vec<String>,
    /// When the person signed in.
    pub issued_at: Time,
    /// When the session ends by itself; compared when it is read.
    pub expires_at: Time,
    /// The sequence of the last event that changed this view: part of every cache key made from it.
    pub seq: u64,
}
