//! How requests are read: paths, header names, and whom a header may name as the client.

use serde::{Deserialize, Serialize};

use crate::limits::TRUSTED_HOPS;
use crate::node::{Fields, Node};

/// What becomes of a request before anybody decides about it. Policy and upstream see the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// `normalize_path`: dot segments are removed and what need not be escaped is decoded (RFC 3986 §6.2.2).
    pub normalize_path: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// `path_with_escaped_slashes_action`.
    pub escaped_slashes: EscapedSlashes,
    /// `headers_with_underscores_action`.
    pub underscores: Underscores,
    /// `xff_num_trusted_hops`: how many proxies in front of us add to `X-Forwarded-For`; the outermost of them names
    /// the client. Without any, the client is whoever is connected.
    pub trusted_hops: usize,
    /// Not `skip_xff_append`: whoever is connected is added to `X-Forwarded-For`.
    pub append_forwarded_for: bool,
}

/// What becomes of a path with `%2F` or `%5C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EscapedSlashes {
    /// `reject_request`
    Reject,
    /// `keep_unchanged`
    Keep,
    /// `unescape_and_redirect`
    Redirect,
    /// `unescape_and_forward`
    Forward,
}

/// What becomes of a header with `_` in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Underscores {
    /// `reject_request`
    Reject,
    /// `allow`
    Allow,
    /// `drop_header`
    Drop,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            normalize_path: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Reject,
            underscores: Underscores::Reject,
            trusted_hops: 0,
            append_forwarded_for: true,
        }
    }
}

/// The keys of the top level; warns of what lets an upstream read another thing than was decided about.
pub fn decode(top: &Fields<'_>) -> Reading {
    let usual = Reading::default();
    let trusted_hops = top.get("xff_num_trusted_hops").as_ref().and_then(hops).unwrap_or(usual.trusted_hops);
    let skip = top.get("skip_xff_append");
    let append_forwarded_for = !skip.as_ref().and_then(Node::boolean).unwrap_or(false);
    if let Some(node) = skip.filter(|_| !append_forwarded_for && trusted_hops == 0) {
        let right = "set xff_num_trusted_hops to the number of proxies in front";
        node.warn("passes on whatever addresses a client writes into X-Forwarded-For", right);
    }
    Reading {
        normalize_path: switched(
            top,
            "normalize_path",
            "lets upstreams resolve `..` and escapes in paths by themselves",
        ),
        merge_slashes: switched(top, "merge_slashes", "lets upstreams merge slashes in paths by themselves"),
        escaped_slashes: escaped_slashes(top).unwrap_or(usual.escaped_slashes),
        underscores: underscores(top).unwrap_or(usual.underscores),
        trusted_hops,
        append_forwarded_for,
    }
}

/// A switch that is on, and should stay so.
fn switched(top: &Fields<'_>, name: &str, off: &str) -> bool {
    let Some(node) = top.get(name) else { return true };
    let is_on = node.boolean().unwrap_or(true);
    if !is_on {
        node.warn(&format!("{off}: rules about paths do not hold there"), "true, unless an upstream needs it");
    }
    is_on
}

fn escaped_slashes(top: &Fields<'_>) -> Option<EscapedSlashes> {
    let here = [
        ("reject_request", EscapedSlashes::Reject),
        ("keep_unchanged", EscapedSlashes::Keep),
        ("unescape_and_redirect", EscapedSlashes::Redirect),
        ("unescape_and_forward", EscapedSlashes::Forward),
    ];
    let node = top.get("path_with_escaped_slashes_action")?;
    let action = node.choice(&here, &[])?;
    if action == EscapedSlashes::Keep {
        node.warn(
            "lets upstreams read an escaped slash as a slash: rules about paths do not hold there",
            "reject_request or unescape_and_redirect, unless an upstream needs it",
        );
    }
    Some(action)
}

fn underscores(top: &Fields<'_>) -> Option<Underscores> {
    let here =
        [("reject_request", Underscores::Reject), ("allow", Underscores::Allow), ("drop_header", Underscores::Drop)];
    let node = top.get("headers_with_underscores_action")?;
    let action = node.choice(&here, &[])?;
    if action == Underscores::Allow {
        node.warn(
            "lets clients send headers that some upstreams take for others of the same name with hyphens",
            "drop_header or reject_request, unless an upstream needs it",
        );
    }
    Some(action)
}

fn hops(node: &Node<'_>) -> Option<usize> {
    let right = format!("a whole number from 0 to {TRUSTED_HOPS}");
    let text = node.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<usize>().ok().filter(|hops| digits && *hops <= TRUSTED_HOPS) {
        Some(hops) => Some(hops),
        None => node.refuse("is not a number of proxies", &right),
    }
}
