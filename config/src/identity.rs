//! The `cookie_*` and `idp_*` keys.

use std::time::Duration;

use crate::limits::{SEEN_LEAST, SEEN_PARTS};
use crate::node::{Fields, Node};
use crate::{Cookie, IdentityProvider, SameSite, Secret, files, global, urls};

/// Life of cookie and session where `cookie_expire` is absent.
const COOKIE_EXPIRE: Duration = Duration::from_secs(14 * 60 * 60);

/// Parameters of the authorization request that make the sign-in safe, or tie it to the answer: ours to write.
const OUR_PARAMETERS: &[&str] = &[
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// The `cookie_*` keys, with defaults where one is absent or was reported.
pub fn cookie(top: &Fields<'_>) -> Cookie {
    let http_only = global::flag(top, "cookie_http_only", true);
    if let Some(node) = top.get("cookie_http_only").filter(|_| !http_only) {
        node.warn("lets scripts of every page read the session cookie", "remove it");
    }
    let domain = top.get("cookie_domain").and_then(|node| urls::domain(&node).filter(|_| may_have_domain(&node, top)));
    Cookie {
        name: (top.get("cookie_name").and_then(|node| cookie_name(&node))).unwrap_or_else(|| "_pomerium".to_owned()),
        domain,
        http_only,
        expire: top.get("cookie_expire").and_then(|node| cookie_expire(&node)).unwrap_or(COOKIE_EXPIRE),
        same_site: top.get("cookie_same_site").and_then(|node| same_site(&node)),
    }
}

/// A cookie's name is a token (RFC 6265 §4.1.1, RFC 9110 §5.6.2).
fn cookie_name(node: &Node<'_>) -> Option<String> {
    let name = node.text()?;
    let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if !is_token {
        return node.refuse("is not a cookie name", "letters, digits, `_` and `-`");
    }
    Some(name)
}

/// A name that begins with `__Host-` promises that there is no domain (RFC 6265bis §4.1.3.2): browsers drop the cookie.
fn may_have_domain(domain: &Node<'_>, top: &Fields<'_>) -> bool {
    let name = top.get("cookie_name").and_then(|node| node.scalar().map(|name| name.text.to_ascii_lowercase()));
    let may = !name.is_some_and(|name| name.starts_with("__host-"));
    if !may {
        domain
            .wrong("goes with no cookie_name that begins with __Host-: browsers drop the cookie", "remove one of them");
    }
    may
}

fn cookie_expire(node: &Node<'_>) -> Option<Duration> {
    match node.duration()? {
        Duration::ZERO => node.refuse("is zero, so that every session would have ended", "such as 14h"),
        expire => Some(expire),
    }
}

/// `session_idle_timeout`: long enough that the notes on the log of who is in use stay apart.
pub fn idle_timeout(node: &Node<'_>) -> Option<Duration> {
    let timeout = node.duration()?;
    if timeout < SEEN_LEAST * SEEN_PARTS {
        return node.refuse("is too short a time to be idle for", "4s or longer, such as 30m; remove it for no bound");
    }
    Some(timeout)
}

fn same_site(node: &Node<'_>) -> Option<SameSite> {
    node.choice(&[("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)], &[])
}

/// The `idp_*` keys. `None` where something was reported; nothing at all may be set where none of them `is_needed`.
pub fn provider(top: &Fields<'_>, is_needed: bool) -> Option<Option<IdentityProvider>> {
    if !is_needed && !top.entries().any(|(name, _)| name.starts_with("idp_") && top.get(name).is_some()) {
        return Some(None);
    }
    let later =
        ["apple", "auth0", "azure", "cognito", "github", "gitlab", "google", "hosted", "okta", "onelogin", "ping"];
    if let Some(node) = top.required("idp_provider", "idp_provider: oidc") {
        node.choice(&[("oidc", ())], &later);
    }
    let issuer = top.required("idp_provider_url", "the issuer of the identity provider");
    let issuer = issuer.and_then(|node| urls::issuer(&node));
    let client_id = top.required("idp_client_id", "the client id that the identity provider gave");
    let client_id = client_id.and_then(|node| node.text());
    let client_secret = files::given(top, "idp_client_secret");
    let client_secret = client_secret.map(|given| Secret::new(given.text.as_bytes().to_vec()));
    let scopes = top.get("idp_scopes").map_or_else(default_scopes, |node| scopes(&node));
    let request_params = top.get("idp_request_params").map(|node| request_params(&node)).unwrap_or_default();
    let (url, issuer) = issuer?;
    Some(Some(IdentityProvider { url, issuer, client_id: client_id?, client_secret, scopes, request_params }))
}

fn default_scopes() -> Vec<String> {
    ["openid", "profile", "email", "offline_access"].map(str::to_owned).to_vec()
}

/// Scope tokens (RFC 6749 §3.3); without `openid` there is no ID token and so no sign-in.
fn scopes(node: &Node<'_>) -> Vec<String> {
    let mut scopes = Vec::new();
    for (item, text) in node.texts() {
        let is_scope = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
        if is_scope {
            scopes.push(text);
        } else {
            item.wrong("is not a scope", "one word; separate scopes by commas, or write a list");
        }
    }
    if !scopes.iter().any(|scope| scope == "openid") {
        node.wrong("lacks openid, without which there is no ID token", "add openid");
    }
    scopes
}

fn request_params(node: &Node<'_>) -> Vec<(String, String)> {
    let mut params = Vec::new();
    for (name, value) in node.fields().iter().flat_map(|fields| fields.entries()) {
        if OUR_PARAMETERS.contains(&name) {
            value.wrong("is a parameter that every sign-in sets itself", "remove it");
        } else if let Some(text) = value.text() {
            params.push((name.to_owned(), text));
        }
    }
    params
}
