//! The client of an OpenID provider.

use serde_json::{Map, Value};
/// stub
pub struct Profile {
    /// u
    pub user: String,
    /// e
    pub email: Option<String>,
    /// n
    pub name: Option<String>,
    /// g
    pub groups: Vec<String>,
}
/// stub
#[must_use]
pub fn profile(_: &Map<String, Value>) -> Profile {
    Profile { user: String::new(), email: None, name: None, groups: vec![] }
}
