//! `databroker_storage_type` and its connection string: where the log lives.

use std::path::PathBuf;

use url::Url;

use crate::Storage;
use crate::files::{self, Given};
use crate::node::{Fields, NOT_YET, Node};
use crate::urls::scheme;

/// The port of a NATS server.
const NATS_PORT: u16 = 4222;

const FILE_RIGHT: &str = "file:///var/lib/portcullis";
const NATS_RIGHT: &str = "nats://host:4222, more servers after commas";

#[derive(Clone, Copy)]
enum Kind {
    File,
    Memory,
    Nats,
}

/// Where the log lives. On `nats` the secrets that nodes share must be given.
pub fn decode(top: &Fields<'_>) -> Option<Storage> {
    let here = [("file", Kind::File), ("memory", Kind::Memory), ("nats", Kind::Nats)];
    let connection = files::given(top, "databroker_storage_connection_string");
    let has_connection = top.get("databroker_storage_connection_string").is_some()
        || top.get("databroker_storage_connection_string_file").is_some();
    let kind = top.get("databroker_storage_type").map_or(Some(Kind::File), |node| node.choice(&here, &["postgres"]))?;
    match kind {
        Kind::File => match connection {
            Some(Given { node, text }) => directory(&node, &text).map(|path| Storage::File(Some(path))),
            None => Some(Storage::File(None)),
        },
        Kind::Memory => {
            if let Some(Given { node, .. }) = connection {
                node.warn("has no meaning with databroker_storage_type: memory", "remove it");
            }
            Some(Storage::Memory)
        }
        Kind::Nats => {
            if !has_connection {
                top.missing("databroker_storage_connection_string", NATS_RIGHT);
            }
            for name in ["shared_secret", "cookie_secret"] {
                if top.get(name).is_none() && top.get(&format!("{name}_file")).is_none() {
                    top.missing(name, "the same 32 bytes in base64 on every node of the cluster");
                }
            }
            let Given { node, text } = connection?;
            servers(&node, &text).map(Storage::Nats)
        }
    }
}

/// `file:///dir`, or a plain path.
fn directory(node: &Node<'_>, text: &str) -> Option<PathBuf> {
    match scheme(text) {
        None => Some(PathBuf::from(text)),
        Some("file") => match Url::parse(text).ok().and_then(|url| url.to_file_path().ok()) {
            Some(path) => Some(path),
            None => node.refuse("is not the URL of a directory on this machine", FILE_RIGHT),
        },
        Some("postgres" | "postgresql") => node.refuse(NOT_YET, FILE_RIGHT),
        Some("nats") => node.refuse("is a NATS address", "add databroker_storage_type: nats"),
        Some(_) => node.refuse("is not a file address", FILE_RIGHT),
    }
}

/// `nats://host:port`, several separated by commas; after the first the scheme may be left out.
fn servers(node: &Node<'_>, text: &str) -> Option<Vec<Url>> {
    if scheme(text).is_none() {
        return node.refuse("does not begin with nats://", NATS_RIGHT);
    }
    text.split(',').map(|server| self::server(node, server.trim())).collect()
}

fn server(node: &Node<'_>, text: &str) -> Option<Url> {
    let text = match scheme(text) {
        Some("nats") => text.to_owned(),
        Some("tls" | "ws" | "wss") => return node.refuse(NOT_YET, NATS_RIGHT),
        Some(_) => return node.refuse("does not begin with nats://", NATS_RIGHT),
        None => format!("nats://{text}"),
    };
    let Ok(mut url) = Url::parse(&text) else {
        return node.refuse("has an address that is not a URL", NATS_RIGHT);
    };
    if !url.username().is_empty() || url.password().is_some() {
        return node.refuse("has a user name or password, which is not supported by this version", NATS_RIGHT);
    }
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    if !is_bare || url.host_str().is_none_or(str::is_empty) {
        return node.refuse("has an address with more or less than host and port", NATS_RIGHT);
    }
    if url.port().is_none() && url.set_port(Some(NATS_PORT)).is_err() {
        return node.refuse("has an address that takes no port", NATS_RIGHT);
    }
    Some(url)
}
