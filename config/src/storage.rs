//! `databroker_storage_type` and its connection string: where the log lives.

use std::path::PathBuf;

use url::Url;

use crate::files::{self, Given};
use crate::nats;
use crate::node::{Fields, NOT_YET, Node};
use crate::urls::scheme;
use crate::{Services, Storage};

const FILE_RIGHT: &str = "file:///var/lib/portcullis";

#[derive(Clone, Copy)]
enum Kind {
    File,
    Memory,
    Nats,
}

/// Where the log lives. On `nats` the secrets that these components share with others must be given.
pub fn decode(top: &Fields<'_>, services: Services) -> Option<Storage> {
    let here = [("file", Kind::File), ("memory", Kind::Memory), ("nats", Kind::Nats)];
    let connection = files::given(top, "databroker_storage_connection_string");
    let has_connection = top.get("databroker_storage_connection_string").is_some()
        || top.get("databroker_storage_connection_string_file").is_some();
    let kind = top.get("databroker_storage_type").map_or(Some(Kind::File), |node| node.choice(&here, &["postgres"]))?;
    if !matches!(kind, Kind::Nats) {
        nats::refuse_all(top);
    }
    match kind {
        Kind::File => match connection {
            Some(Given { node, text, .. }) => directory(&node, &text).map(|path| Storage::File(Some(path))),
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
                top.missing("databroker_storage_connection_string", nats::RIGHT);
            }
            let shared = [("shared_secret", true), ("cookie_secret", services.hold_cookies())];
            for (name, _) in shared.into_iter().filter(|(_, is_needed)| *is_needed) {
                if top.get(name).is_none() && top.get(&format!("{name}_file")).is_none() {
                    top.missing(name, "the same 32 bytes in base64 on every node of the cluster");
                }
            }
            nats::decode(top, connection).map(Storage::Nats)
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
