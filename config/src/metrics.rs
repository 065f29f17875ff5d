//! The `metrics_*` keys: where metrics are told, and to whom.

use base64::Engine;
use zeroize::Zeroizing;

use crate::keys::BASE64;
use crate::limits::BASIC_AUTH_BYTES;
use crate::node::{Fields, Node};
use crate::{ListenAddress, Secret, urls};

/// The address and the credentials, each where it is set.
pub fn decode(top: &Fields<'_>) -> (Option<ListenAddress>, Option<Secret>) {
    let (address, credentials) = (top.get("metrics_address"), top.get("metrics_basic_auth"));
    if let (None, Some(node)) = (&address, &credentials) {
        node.warn("has no meaning without metrics_address", "give both");
    }
    let listen = address.as_ref().and_then(urls::listen);
    if let (Some(node), Some(listen), None) = (&address, &listen, &credentials)
        && !listen.is_loopback()
    {
        node.warn("tells everybody who reaches it about routes and load", "add metrics_basic_auth");
    }
    (listen, credentials.as_ref().and_then(basic))
}

/// RFC 7617: `user:password`, in base64 as the header carries it.
fn basic(node: &Node<'_>) -> Option<Secret> {
    let right = "user:password in base64, as `printf %s user:password | base64` makes it";
    let text = Zeroizing::new(node.text()?);
    let Ok(decoded) = BASE64.decode(text.trim()).map(Zeroizing::new) else {
        return node.refuse("is not base64", right);
    };
    if decoded.len() > BASIC_AUTH_BYTES {
        return node.refuse("is too long", right);
    }
    match decoded.iter().position(|byte| *byte == b':') {
        None => node.refuse("holds no colon between user and password", right),
        Some(at) if at + 1 == decoded.len() => node.refuse("holds no password", right),
        Some(_) => Some(Secret::new(decoded.to_vec())),
    }
}
