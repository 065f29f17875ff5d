//! One route after another: where it is reached, where it leads, and who may go there.

use aws_lc_rs::digest;

use crate::global::{flag, issuer_format};
use crate::keys::{self, ROUTE};
use crate::node::{Fields, Node};
use crate::policy::{Actions, Criterion, Policy, Rule, StringMatcher, StringTest};
use crate::upstreams::UpstreamDefaults;
use crate::{From, IssuerFormat, PathMatcher, Route, Staleness, Upstream, headers, rules, staleness, upstreams, urls};

/// What routes take from the top level.
#[derive(Clone, Copy)]
pub struct Defaults<'d> {
    pub insecure_server: bool,
    pub pass_identity_headers: bool,
    pub jwt_issuer_format: IssuerFormat,
    pub max_staleness: Staleness,
    pub upstreams: &'d UpstreamDefaults,
}

/// A route and where it stands.
pub struct Placed<'a> {
    pub route: Route,
    pub node: Node<'a>,
    pub from: Node<'a>,
    pub prefix: Option<Node<'a>>,
}

/// Every route of the file: `policy` (the old name of the list) and `routes` together, as in Pomerium.
pub fn decode<'a>(top: &Fields<'a>, defaults: Defaults<'_>) -> Vec<Placed<'a>> {
    let lists = top.entries().filter(|(name, _)| matches!(*name, "routes" | "policy"));
    let set = lists.filter(|(name, _)| top.get(name).is_some());
    let mut routes = Vec::new();
    for (_, list) in set {
        match list.items() {
            Some(items) => routes.extend(items.into_iter().filter_map(|node| route(node, defaults))),
            None => list.wrong("is not a list", "a list of routes, each with `from`, `to` and `policy`"),
        }
    }
    routes
}

fn route<'a>(node: Node<'a>, defaults: Defaults<'_>) -> Option<Placed<'a>> {
    let fields = node.fields()?;
    keys::check(&fields, ROUTE);
    let from = fields.required("from", "the external URL, such as https://app.example.com");
    let external = from.as_ref().and_then(|node| urls::from(node, defaults.insecure_server));
    let upstreams = to(&fields);
    let matcher = matcher(&fields);
    let name = fields.get("name").and_then(|node| node.text());
    let prefix_rewrite = fields.get("prefix_rewrite").and_then(|node| absolute_path(&node));
    let set = |key: &str| fields.get(key);
    let set_request_headers = set("set_request_headers").as_ref().map(headers::request).unwrap_or_default();
    let remove_request_headers = set("remove_request_headers").as_ref().map(headers::removed).unwrap_or_default();
    let set_response_headers = set("set_response_headers").as_ref().map(headers::response).unwrap_or_default();
    let tls_skip_verify = flag(&fields, "tls_skip_verify", false);
    if let Some(node) = set("tls_skip_verify").filter(|_| tls_skip_verify) {
        node.warn("lets anyone between here and the upstream read and change what passes", "remove it");
    }
    let policy = policy(&fields);
    if policy.rules.is_empty() {
        node.warn("has no policy, so that nobody may use it", "add policy");
    }
    let preserve_host_header = flag(&fields, "preserve_host_header", false);
    let allow_websockets = flag(&fields, "allow_websockets", false);
    let pass_identity_headers = flag(&fields, "pass_identity_headers", defaults.pass_identity_headers);
    let jwt_issuer_format = issuer_format(&fields).unwrap_or(defaults.jwt_issuer_format);
    let max_staleness = staleness::decode(&fields).unwrap_or(defaults.max_staleness);
    let upstream = upstreams::options(&fields, upstreams.as_deref(), defaults.upstreams);
    // nothing is decoded below: every problem was said, whichever value is absent
    let (external, upstreams, matcher) = (external?, upstreams?, matcher?);
    let route = Route {
        id: id(&external, &matcher, &upstreams),
        name,
        from: external,
        to: upstreams,
        matcher,
        prefix_rewrite,
        preserve_host_header,
        set_request_headers,
        remove_request_headers,
        set_response_headers,
        allow_websockets,
        tls_skip_verify,
        upstream,
        pass_identity_headers,
        jwt_issuer_format,
        max_staleness,
        policy,
    };
    Some(Placed { route, from: from?, prefix: fields.get("prefix"), node })
}

fn to(fields: &Fields<'_>) -> Option<Vec<Upstream>> {
    // a redirect or response stands in place of `to`, and was reported as not supported
    let has_other = fields.get("redirect").or_else(|| fields.get("response")).is_some();
    match fields.get("to") {
        Some(node) => upstreams::addresses(fields, &node),
        None if has_other => None,
        None => fields.required("to", "the internal URL, such as http://127.0.0.1:8080").and(None),
    }
}

fn matcher(fields: &Fields<'_>) -> Option<PathMatcher> {
    let (prefix, path) = (fields.get("prefix"), fields.get("path"));
    if let Some(path) = path.as_ref().filter(|_| prefix.is_some()) {
        path.wrong("is given beside prefix", "keep one of the two");
    }
    match (prefix.map(|node| absolute_path(&node)), path.map(|node| absolute_path(&node))) {
        (Some(prefix), None) => prefix.map(PathMatcher::Prefix),
        (None, Some(path)) => path.map(PathMatcher::Path),
        (Some(_), Some(_)) => None,
        (None, None) => Some(PathMatcher::Prefix("/".to_owned())),
    }
}

/// A path as requests have it after they were brought into canonical form: any other would never match.
fn absolute_path(node: &Node<'_>) -> Option<String> {
    let path = node.text()?;
    let right = "a path such as /admin/";
    let Some(rest) = path.strip_prefix('/') else {
        return node.refuse("does not begin with /", right);
    };
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
        return node.refuse("has a character that no path has", "percent-encode it; no query, no fragment");
    }
    let inner = rest.strip_suffix('/').unwrap_or(rest);
    let is_canonical = rest.is_empty() || inner.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    if !is_canonical {
        return node.refuse("has an empty or dot segment, which requests never have", right);
    }
    Some(path)
}

/// The shorthand keys as one rule, then the rules of `policy`.
fn policy(fields: &Fields<'_>) -> Policy {
    let mut rules = Vec::new();
    let either = shorthands(fields);
    if !either.is_empty() {
        rules.push(Rule { allow: Some(Actions { or: either, ..Actions::default() }), deny: None });
    }
    if let Some(node) = fields.get("policy") {
        rules.extend(rules::decode(&node));
    }
    Policy { rules }
}

fn shorthands(fields: &Fields<'_>) -> Vec<Criterion> {
    let public = fields.get("allow_public_unauthenticated_access").filter(|node| node.boolean() == Some(true));
    let anyone = fields.get("allow_any_authenticated_user").filter(|node| node.boolean() == Some(true));
    let users = fields.get("allowed_users");
    let domains = fields.get("allowed_domains");
    let is_limited = users.is_some() || domains.is_some();
    if let Some(node) = public.as_ref().filter(|_| anyone.is_some() || is_limited) {
        node.wrong("is given beside keys that let only some people in", "keep one of them");
    } else if let Some(node) = anyone.as_ref().filter(|_| is_limited) {
        node.wrong("is given beside allowed_users or allowed_domains", "keep one of them");
    }
    let preflight = flag(fields, "cors_allow_preflight", false);
    let mut either = Vec::new();
    either.extend(public.map(|_| Criterion::Accept));
    either.extend(preflight.then_some(Criterion::CorsPreflight));
    either.extend(anyone.map(|_| Criterion::AuthenticatedUser));
    either.extend(users.and_then(|node| names(&node)).map(Criterion::AllowedUsers));
    let domains = domains.and_then(|node| names(&node));
    either.extend(domains.map(|domains| Criterion::Domain(StringMatcher(vec![StringTest::In(domains)]))));
    either
}

fn names(node: &Node<'_>) -> Option<Vec<String>> {
    let names: Vec<String> = node.texts().into_iter().map(|(_, text)| text).collect();
    if names.is_empty() { None } else { Some(names) }
}

/// SHA-256 over what identifies a route, the first 16 hex digits; each part ends with a zero byte, which none contains.
fn id(from: &From, matcher: &PathMatcher, to: &[Upstream]) -> String {
    let (prefix, path) = match matcher {
        PathMatcher::Prefix(prefix) => (prefix.as_str(), ""),
        PathMatcher::Path(path) => ("", path.as_str()),
    };
    let mut hash = digest::Context::new(&digest::SHA256);
    let from = from.to_string();
    let to: Vec<String> = to.iter().map(Upstream::identity).collect();
    for part in [from.as_str(), prefix, path].into_iter().chain(to.iter().map(String::as_str)) {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    hash.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
