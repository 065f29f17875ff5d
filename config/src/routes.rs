//! One route after another: where it is reached, where it leads, and who may go there.

use aws_lc_rs::digest;
use http::HeaderName;

use crate::global::{flag, issuer_format};
use crate::keys::{self, ROUTE};
use crate::limits::ROUTE_ID_BYTES;
use crate::node::{Fields, Node};
use crate::policy::{Actions, Criterion, ListMatcher, ListTest, Policy, Rule, StringMatcher, StringTest};
use crate::upstreams::UpstreamDefaults;
use crate::{
    Action, From, GroupsFilter, IssuerFormat, PathMatcher, Route, Staleness, Timeouts, actions, bounds, groups,
    headers, pattern, rewrites, rules, staleness, timeouts, tunnels, upstreams, urls,
};

/// What routes take from the top level.
pub struct Defaults {
    pub insecure_server: bool,
    pub pass_identity_headers: bool,
    pub jwt_issuer_format: IssuerFormat,
    pub max_staleness: Staleness,
    pub timeouts: Timeouts,
    pub max_request_body: Option<u64>,
    pub groups_filter: GroupsFilter,
    /// The headers that claims fill.
    pub claims: Vec<HeaderName>,
    pub upstreams: UpstreamDefaults,
}

/// A route and where it stands.
pub struct Placed<'a> {
    pub route: Route,
    pub node: Node<'a>,
    pub from: Node<'a>,
    pub prefix: Option<Node<'a>>,
    /// Its `id`, where one is set.
    pub id: Option<Node<'a>>,
}

/// Every route of the file: `policy` (the old name of the list) and `routes` together, as in Pomerium.
pub fn decode<'a>(top: &Fields<'a>, defaults: &Defaults) -> Vec<Placed<'a>> {
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

fn route<'a>(node: Node<'a>, defaults: &Defaults) -> Option<Placed<'a>> {
    let fields = node.fields()?;
    keys::check(&fields, ROUTE);
    let from = fields.required("from", "the external URL, such as https://app.example.com");
    let is_tunnel = from.as_ref().is_some_and(tunnels::is_tunnel);
    let (external, action) = if is_tunnel {
        let sides = from.as_ref().and_then(|node| tunnels::from(node, defaults.insecure_server));
        let (external, named) = sides.unzip();
        (external, named.and_then(|named| tunnels::action(&fields, named)))
    } else {
        (from.as_ref().and_then(|node| urls::from(node, defaults.insecure_server)), actions::decode(&fields))
    };
    let matcher = if is_tunnel { Some(PathMatcher::Prefix("/".to_owned())) } else { matcher(&fields) };
    let set = |key: &str| fields.get(key);
    let text = |key: &str| fields.get(key).and_then(|node| node.text());
    let (name, stat_name) = (text("name"), text("stat_name"));
    let id = set("id").map(|node| own_id(&node));
    for key in ["description", "logo_url"] {
        if let Some(node) = set(key) {
            node.warn("shows nowhere, as this version has no list of routes", "leave it for later, or remove it");
        }
    }
    let regex_priority_order = actions::optional(&fields, "regex_priority_order", whole_number);
    let rewrites = rewrites::decode(&fields);
    let set_request_headers = set("set_request_headers").map(|node| headers::request(&node, &defaults.claims));
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
    let allow_websockets = flag(&fields, "allow_websockets", false);
    let pass_identity_headers = flag(&fields, "pass_identity_headers", defaults.pass_identity_headers);
    let jwt_issuer_format = issuer_format(&fields).unwrap_or(defaults.jwt_issuer_format);
    let max_staleness = staleness::decode(&fields).unwrap_or(defaults.max_staleness);
    let timeouts = timeouts::route(&fields, defaults.timeouts, allow_websockets || is_tunnel);
    let groups_filter = groups::decode(&fields, &defaults.groups_filter);
    let show_error_details = flag(&fields, "show_error_details", false);
    let upstreams = action.as_ref().and_then(|action| match action {
        Action::Forward(upstreams) => Some(upstreams.as_slice()),
        Action::Tunnel(_) | Action::Redirect(_) | Action::Response(_) => None,
    });
    let upstream = upstreams::options(&fields, upstreams, &defaults.upstreams);
    // nothing is decoded below: every problem was said, whichever value is absent
    let (external, action, matcher) = (external?, action?, matcher?);
    let id = match id {
        Some(id) => id?,
        None => made_id(&external, &matcher, &action),
    };
    let route = Route {
        id,
        name,
        stat_name,
        from: external,
        action,
        matcher,
        regex_priority_order: regex_priority_order?.unwrap_or_default(),
        rewrites: rewrites?,
        timeouts,
        bounds: bounds::route(&fields, defaults.max_request_body),
        set_request_headers: set_request_headers.unwrap_or_default(),
        remove_request_headers,
        set_response_headers,
        allow_websockets,
        tls_skip_verify,
        upstream,
        pass_identity_headers,
        jwt_issuer_format,
        groups_filter,
        show_error_details,
        max_staleness,
        policy,
    };
    Some(Placed { route, from: from?, prefix: fields.get("prefix"), id: fields.get("id"), node })
}

fn matcher(fields: &Fields<'_>) -> Option<PathMatcher> {
    let given = ["prefix", "path", "regex"].map(|name| (name, fields.get(name)));
    let mut given = given.into_iter().filter_map(|(name, node)| Some((name, node?)));
    let Some((name, node)) = given.next() else { return Some(PathMatcher::Prefix("/".to_owned())) };
    let matcher = match name {
        "prefix" => absolute_path(&node).map(PathMatcher::Prefix),
        "path" => absolute_path(&node).map(PathMatcher::Path),
        _ => pattern::whole(&node).map(PathMatcher::Regex),
    };
    let mut beside = given.peekable();
    let is_alone = beside.peek().is_none();
    for (_, node) in beside {
        node.wrong(&format!("is given beside {name}"), "keep one of prefix, path and regex");
    }
    matcher.filter(|_| is_alone)
}

/// `id`: what logs and metrics call the route.
fn own_id(node: &Node<'_>) -> Option<String> {
    let id = node.text()?;
    let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if is_plain && id.len() <= ROUTE_ID_BYTES {
        return Some(id);
    }
    node.refuse("is no id", &format!("letters, digits, -, _ and ., {ROUTE_ID_BYTES} at most"))
}

fn whole_number(node: &Node<'_>) -> Option<i64> {
    let number = node.text()?.parse().ok();
    number.or_else(|| node.refuse("is not a whole number", "such as 10"))
}

/// A path as requests have it after they were brought into canonical form: any other would never match.
pub fn absolute_path(node: &Node<'_>) -> Option<String> {
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
    let claims = fields.get("allowed_idp_claims");
    let is_limited = users.is_some() || domains.is_some() || claims.is_some();
    if let Some(node) = public.as_ref().filter(|_| anyone.is_some() || is_limited) {
        node.wrong("is given beside keys that let only some people in", "keep one of them");
    } else if let Some(node) = anyone.as_ref().filter(|_| is_limited) {
        node.wrong("is given beside allowed_users, allowed_domains or allowed_idp_claims", "keep one of them");
    }
    let preflight = flag(fields, "cors_allow_preflight", false);
    let mut either = Vec::new();
    either.extend(public.map(|_| Criterion::Accept));
    either.extend(preflight.then_some(Criterion::CorsPreflight));
    either.extend(anyone.map(|_| Criterion::AuthenticatedUser));
    either.extend(users.and_then(|node| names(&node)).map(Criterion::AllowedUsers));
    let domains = domains.and_then(|node| names(&node));
    either.extend(domains.map(|domains| Criterion::Domain(StringMatcher(vec![StringTest::In(domains)]))));
    either.extend(claims.into_iter().flat_map(|node| allowed_claims(&node)));
    either
}

/// `allowed_idp_claims`: a map of claims, each to the values of which it must have one.
fn allowed_claims(node: &Node<'_>) -> Vec<Criterion> {
    let mut either = Vec::new();
    for (claim, values) in node.fields().iter().flat_map(|fields| fields.entries()) {
        let Some(path) = rules::claim_path(&values, claim) else { continue };
        let nodes = values.items().unwrap_or_else(|| vec![values.clone()]);
        let values = nodes.iter().filter_map(rules::scalar);
        either.extend(
            values
                .map(|value| Criterion::Claim { path: path.clone(), matcher: ListMatcher(vec![ListTest::Has(value)]) }),
        );
    }
    either
}

fn names(node: &Node<'_>) -> Option<Vec<String>> {
    let names: Vec<String> = node.texts().into_iter().map(|(_, text)| text).collect();
    if names.is_empty() { None } else { Some(names) }
}

/// SHA-256 over what identifies a route, the first 16 hex digits; each part ends with a zero byte, which
/// none contains but perhaps the last.
fn made_id(from: &From, matcher: &PathMatcher, action: &Action) -> String {
    let (prefix, path, regex) = match matcher {
        PathMatcher::Prefix(prefix) => (prefix.as_str(), "", None),
        PathMatcher::Path(path) => ("", path.as_str(), None),
        PathMatcher::Regex(regex) => ("", "", Some(format!("regex:{}", regex.as_str()))),
    };
    let mut hash = digest::Context::new(&digest::SHA256);
    let parts = [from.to_string(), prefix.to_owned(), path.to_owned()].into_iter().chain(regex).chain(action.parts());
    for part in parts {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    hash.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
