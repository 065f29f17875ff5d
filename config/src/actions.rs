//! What a route does with a request that may pass: forward it, send the client elsewhere, or answer it itself.

use http::StatusCode;
use http::uri::{PathAndQuery, Scheme};

use crate::keys::check_names;
use crate::limits::DIRECT_RESPONSE_BYTES;
use crate::node::{Fields, Node};
use crate::routes::absolute_path;
use crate::{Tunnel, Upstream, upstreams};

/// What becomes of a permitted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `to`: at least one upstream.
    Forward(Vec<Upstream>),
    /// `redirect`.
    Redirect(Redirect),
    /// `response`.
    Response(DirectResponse),
    /// `to` of a route from `tcp+https://`.
    Tunnel(Tunnel),
}

/// `redirect`: where the client is sent. What is not set stays as the client asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `https_redirect` or `scheme_redirect`.
    pub scheme: Option<Scheme>,
    /// `host_redirect`: takes the place of host and port.
    pub host: Option<String>,
    /// `port_redirect`.
    pub port: Option<u16>,
    /// `path_redirect` or `prefix_rewrite`.
    pub path: RedirectPath,
    /// `strip_query`.
    pub strip_query: bool,
    /// `response_code`: 301, 302, 303, 307 or 308; 301 by default.
    pub status: StatusCode,
}

/// The path of a redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPath {
    /// As it was.
    Kept,
    /// `path_redirect`: this one; a query in it takes the place of the client's.
    Whole(PathAndQuery),
    /// `prefix_rewrite`: this in place of what the route matched.
    Prefix(String),
}

/// `response`: an answer that needs no upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// `status`: 200 to 599.
    pub status: StatusCode,
    /// `body`: text; empty by default.
    pub body: String,
}

impl Action {
    /// Parts that tell one action from another, for the id of a route; none of them contains a zero byte but perhaps the
    /// last.
    pub(crate) fn parts(&self) -> Vec<String> {
        match self {
            Self::Forward(upstreams) => upstreams.iter().map(Upstream::identity).collect(),
            Self::Redirect(redirect) => vec![format!("redirect:{redirect:?}")],
            Self::Response(DirectResponse { status, body }) => {
                vec![format!("response:{}", status.as_u16()), body.clone()]
            }
            Self::Tunnel(Tunnel { named, to }) => {
                let to = to.iter().map(|place| format!("tcp://{place}"));
                std::iter::once(format!("tunnel:{named}")).chain(to).collect()
            }
        }
    }
}

/// Exactly one of `to`, `redirect` and `response`.
pub fn decode(fields: &Fields<'_>) -> Option<Action> {
    let (to, redirect, response) = (fields.get("to"), fields.get("redirect"), fields.get("response"));
    let given = [&to, &redirect, &response].into_iter().flatten();
    for beside in given.skip(1) {
        beside.wrong("is given beside another of to, redirect and response", "keep one of them");
    }
    match (to, redirect, response) {
        (Some(to), None, None) => upstreams::addresses(fields, &to).map(Action::Forward),
        (None, Some(redirect), None) => sent_elsewhere(&redirect).map(Action::Redirect),
        (None, None, Some(response)) => answered(&response).map(Action::Response),
        (None, None, None) => {
            fields.required("to", "the internal URL, such as http://127.0.0.1:8080; or redirect, or response").and(None)
        }
        _ => None,
    }
}

fn sent_elsewhere(node: &Node<'_>) -> Option<Redirect> {
    let fields = node.fields()?;
    check_names(
        &fields,
        &[
            "https_redirect",
            "scheme_redirect",
            "host_redirect",
            "port_redirect",
            "path_redirect",
            "prefix_rewrite",
            "response_code",
            "strip_query",
        ],
    );
    alone(&fields, "scheme_redirect", "https_redirect");
    alone(&fields, "prefix_rewrite", "path_redirect");
    let https = flag(&fields, "https_redirect")?.then_some(Scheme::HTTPS);
    let scheme = optional(&fields, "scheme_redirect", |node| {
        node.choice(&[("https", true), ("http", false)], &[])
            .map(|https| if https { Scheme::HTTPS } else { Scheme::HTTP })
    })?;
    let host = optional(&fields, "host_redirect", host)?;
    let port = optional(&fields, "port_redirect", port)?;
    let whole = optional(&fields, "path_redirect", whole_path)?;
    let prefix = optional(&fields, "prefix_rewrite", absolute_path)?;
    let status = optional(&fields, "response_code", |node| {
        let codes: Vec<_> = CODES.iter().map(|code| (*code, *code)).collect();
        node.choice(&codes, &[]).and_then(|code| code.parse().ok())
    })?;
    let strip_query = flag(&fields, "strip_query")?;
    let redirect = Redirect {
        scheme: https.or(scheme),
        host,
        port,
        path: match (whole, prefix) {
            (Some(whole), _) => RedirectPath::Whole(whole),
            (None, Some(prefix)) => RedirectPath::Prefix(prefix),
            (None, None) => RedirectPath::Kept,
        },
        strip_query,
        status: status.unwrap_or(StatusCode::MOVED_PERMANENTLY),
    };
    let changes = redirect.scheme.is_some()
        || redirect.host.is_some()
        || redirect.port.is_some()
        || redirect.path != RedirectPath::Kept
        || redirect.strip_query;
    if !changes {
        return node.refuse("leads back to where it came from", "host_redirect, path_redirect or another of its keys");
    }
    Some(redirect)
}

/// The codes that Pomerium takes.
const CODES: [&str; 5] = ["301", "302", "303", "307", "308"];

fn answered(node: &Node<'_>) -> Option<DirectResponse> {
    let fields = node.fields()?;
    check_names(&fields, &["status", "body"]);
    let status = fields.required("status", "a status such as 200").and_then(|node| {
        let status = node.text().and_then(|text| text.parse::<StatusCode>().ok());
        let status = status.filter(|status| (200..=599).contains(&status.as_u16()));
        status.or_else(|| node.refuse("is no status of an answer", "200 to 599"))
    });
    let body = match fields.get("body") {
        None => Some(String::new()),
        Some(node) => node.text().and_then(|body| {
            if body.len() > DIRECT_RESPONSE_BYTES {
                return node.refuse("is too long", &format!("{DIRECT_RESPONSE_BYTES} bytes at most"));
            }
            let bodiless = status.is_some_and(|status| matches!(status.as_u16(), 204 | 205 | 304));
            if bodiless { node.refuse("stands with a status whose answers have none", "remove it") } else { Some(body) }
        }),
    };
    Some(DirectResponse { status: status?, body: body? })
}

fn host(node: &Node<'_>) -> Option<String> {
    let right = "a host, such as www.example.com";
    let text = node.text()?;
    match url::Host::parse(&text) {
        Ok(host) if !text.contains('*') => Some(host.to_string()),
        Ok(_) | Err(_) => node.refuse("is not a host", right),
    }
}

fn port(node: &Node<'_>) -> Option<u16> {
    let port = node.text()?.parse::<u16>().ok().filter(|port| *port != 0);
    port.or_else(|| node.refuse("is not a port", "1 to 65535"))
}

/// A path with or without a query.
fn whole_path(node: &Node<'_>) -> Option<PathAndQuery> {
    let right = "a path such as /new/ or /new?from=old";
    let text = node.text()?;
    let path = text.split('?').next().unwrap_or_default();
    // `//host` would be another place altogether
    if !path.starts_with('/') || path.starts_with("//") || text.contains(['\\', '#']) {
        return node.refuse("is not a path", right);
    }
    match text.parse::<PathAndQuery>() {
        Ok(path) => Some(path),
        Err(_) => node.refuse("has a character that no path has", right),
    }
}

/// Reports the second of two keys that exclude each other.
fn alone(fields: &Fields<'_>, second: &str, first: &str) {
    if let (Some(node), Some(_)) = (fields.get(second), fields.get(first)) {
        node.wrong(&format!("is given beside {first}"), "keep one of the two");
    }
}

/// A value that may be absent; `None` where it is wrong.
pub fn optional<T>(fields: &Fields<'_>, name: &str, read: impl FnOnce(&Node<'_>) -> Option<T>) -> Option<Option<T>> {
    fields.get(name).map_or(Some(None), |node| read(&node).map(Some))
}

fn flag(fields: &Fields<'_>, name: &str) -> Option<bool> {
    optional(fields, name, |node| node.boolean()).map(Option::unwrap_or_default)
}
