//! How the scripted provider knows us.

use portcullis_config::{IdentityProvider, Secret};
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, ScriptedIdp};

/// Its client, as a configuration names it.
pub fn at(idp: &ScriptedIdp) -> IdentityProvider {
    IdentityProvider {
        url: idp.issuer().parse().unwrap(),
        issuer: idp.issuer(),
        client_id: CLIENT_ID.into(),
        client_secret: Some(Secret::new(CLIENT_SECRET)),
        scopes: ["openid", "profile", "email"].map(String::from).into(),
        request_params: vec![],
    }
}
