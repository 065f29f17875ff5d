//! What a route changes on the way to its upstream and back: the path, the `Host`, and headers of the answer.

use http::{HeaderName, HeaderValue};

use crate::actions::optional;
use crate::headers;
use crate::keys::check_names;
use crate::node::{Fields, Node};
use crate::pattern::{self, Replacement};
use crate::routes::absolute_path;

/// What a route changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrites {
    /// The path; absent where it stays.
    pub path: Option<PathRewrite>,
    /// The `Host`.
    pub host: HostRewrite,
    /// `rewrite_response_headers`.
    pub response_headers: Vec<HeaderRewrite>,
}

/// How the path changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// `prefix_rewrite`: this in place of what the route matched.
    Prefix(String),
    /// `regex_rewrite_pattern` with `regex_rewrite_substitution`.
    Regex(Replacement),
}

/// Which `Host` the upstream is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostRewrite {
    /// The upstream's own, by default.
    #[default]
    Upstream,
    /// `preserve_host_header`: what the client said.
    Preserve,
    /// `host_rewrite`: this one.
    Fixed(HeaderValue),
    /// `host_rewrite_header`: what this header of the request says; where it is absent, what the client said.
    Header(HeaderName),
    /// `host_path_regex_rewrite_pattern` with its substitution, over the path.
    Path(Replacement),
}

/// One of `rewrite_response_headers`: values of `header` that begin with `prefix` begin with `value` instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRewrite {
    /// `header`.
    pub header: HeaderName,
    /// `prefix`.
    pub prefix: String,
    /// `value`.
    pub value: String,
}

/// Decodes the keys of a route; `None` where something was reported.
pub fn decode(fields: &Fields<'_>) -> Option<Rewrites> {
    let path = path(fields);
    let host = host(fields);
    let response_headers = optional(fields, "rewrite_response_headers", all_headers);
    Some(Rewrites { path: path?, host: host?, response_headers: response_headers?.unwrap_or_default() })
}

fn path(fields: &Fields<'_>) -> Option<Option<PathRewrite>> {
    let (prefix, regex) = (fields.get("prefix_rewrite"), fields.get("regex_rewrite_pattern"));
    let substitution = fields.get("regex_rewrite_substitution");
    if let (Some(_), Some(regex)) = (&prefix, &regex) {
        return regex.refuse("is given beside prefix_rewrite", "keep one of the two");
    }
    match (prefix, regex, substitution) {
        (_, None, Some(alone)) => alone.refuse("has no pattern beside it", "set regex_rewrite_pattern"),
        (Some(prefix), ..) => absolute_path(&prefix).map(PathRewrite::Prefix).map(Some),
        (None, Some(regex), substitution) => {
            pattern::replacement(&regex, substitution.as_ref()).map(PathRewrite::Regex).map(Some)
        }
        (None, None, None) => Some(None),
    }
}

fn host(fields: &Fields<'_>) -> Option<HostRewrite> {
    let preserve = fields.get("preserve_host_header").map(|node| (node.boolean(), node));
    let is_broken = matches!(preserve, Some((None, _)));
    let preserve = preserve.filter(|(value, _)| *value == Some(true)).map(|(_, node)| node);
    let [fixed, header, path, substitution] = [
        "host_rewrite",
        "host_rewrite_header",
        "host_path_regex_rewrite_pattern",
        "host_path_regex_rewrite_substitution",
    ]
    .map(|name| fields.get(name));
    let given: Vec<_> = [&preserve, &fixed, &header, &path].into_iter().flatten().collect();
    if let [first, second, ..] = given.as_slice() {
        let first = first.key().rsplit('.').next().unwrap_or_default();
        return second.refuse(&format!("is given beside {first}"), "keep one of them");
    }
    if let (Some(alone), None) = (&substitution, &path) {
        return alone.refuse("has no pattern beside it", "set host_path_regex_rewrite_pattern");
    }
    match (preserve, fixed, header, path) {
        _ if is_broken => None,
        (Some(_), ..) => Some(HostRewrite::Preserve),
        (_, Some(node), ..) => fixed_host(&node).map(HostRewrite::Fixed),
        (_, _, Some(node), _) => headers::name(&node, &node.text()?).map(HostRewrite::Header),
        (.., Some(node)) => pattern::replacement(&node, substitution.as_ref()).map(HostRewrite::Path),
        (None, None, None, None) => Some(HostRewrite::Upstream),
    }
}

/// A host with or without a port.
fn fixed_host(node: &Node<'_>) -> Option<HeaderValue> {
    let right = "a host, such as app.internal or app.internal:8080";
    let text = node.text()?;
    let parsed = url::Url::parse(&format!("http://{text}/")).ok();
    let is_host = !text.contains(|c: char| matches!(c, '/' | '\\' | '?' | '#' | '@' | '*') || c.is_whitespace());
    match parsed.filter(|url| is_host && url.host().is_some()) {
        // as it was written: some upstreams look at it letter by letter
        Some(_) if text.is_ascii() => HeaderValue::try_from(text).ok(),
        Some(_) | None => node.refuse("is not a host", right),
    }
}

fn all_headers(node: &Node<'_>) -> Option<Vec<HeaderRewrite>> {
    let right = "a list, each with header, prefix and value";
    let Some(items) = node.items() else { return node.refuse("is not a list", right) };
    let read: Vec<_> = items.iter().map(one_header).collect();
    read.into_iter().collect()
}

fn one_header(node: &Node<'_>) -> Option<HeaderRewrite> {
    let fields = node.fields()?;
    check_names(&fields, &["header", "prefix", "value"]);
    let header = fields.required("header", "the name of a header, such as Location");
    let header = header.and_then(|node| headers::response_name(&node, &node.text()?));
    let prefix = fields.required("prefix", "what values must begin with").and_then(|node| in_header(&node));
    let value = optional(&fields, "value", in_header);
    Some(HeaderRewrite { header: header?, prefix: prefix?, value: value?.unwrap_or_default() })
}

fn in_header(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    match HeaderValue::from_bytes(text.as_bytes()) {
        Ok(_) => Some(text),
        Err(_) => node.refuse("has a line end or a control character in it", "one line of text"),
    }
}
