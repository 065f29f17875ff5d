//! The people, requests and routes that the promises are about.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN};
use portcullis_config::policy::{
    Actions, CertificateMatcher, Criterion, ListMatcher, ListTest, Policy, Rule, StringMatcher, StringTest,
};
use portcullis_config::{
    Action, From, GroupsFilter, IssuerFormat, PathMatcher, Rewrites, Route, RouteBounds, RouteTimeouts, Staleness,
    Upstream,
};
use portcullis_events::{PersonId, SessionId, Time};
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::policies::Policies;
use super::super::{Decision, RefusalKind};
use crate::authenticate::Caller;
use crate::databroker::view::SessionView;
use crate::request::certificate::{CertificateDetails, ClientCertificate};
use crate::request::{Canonical, Peer};

pub(in super::super) const NOW: Time = Time::from_secs(1_795_000_000);

pub(in super::super) fn session(user: &str) -> SessionView {
    SessionView {
        id: SessionId::new(Uuid::from_u128(0xa11ce)),
        person: PersonId::new(Uuid::from_u128(0x9e5)),
        idp: "idp-1".into(),
        user: user.into(),
        email: None,
        name: None,
        claims: serde_json::Map::new(),
        groups: vec![],
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(14 * 60 * 60)),
        seq: 7,
        activity: Arc::default(),
    }
}

fn claims(claims: Value) -> serde_json::Map<String, Value> {
    claims.as_object().unwrap().clone()
}

/// An administrator, with everything a provider may say.
pub(in super::super) fn alice() -> SessionView {
    SessionView {
        email: Some("alice@example.com".into()),
        name: Some("Alice Liddell".into()),
        groups: vec!["admins".into(), "dev".into()],
        claims: claims(json!({
            "sub": "alice", "email": "alice@example.com", "groups": ["admins", "dev"],
            "department": "engineering", "level": 3, "on_call": true, "roles": ["owner", "editor"],
            "realm_access": { "roles": ["admin"] }, "https://example.com/team": ["blue"],
        })),
        ..session("alice")
    }
}

/// A developer whose provider writes addresses in capitals, and numbers as texts.
pub(super) fn bob() -> SessionView {
    SessionView {
        email: Some("BOB@Example.COM".into()),
        groups: vec!["dev".into()],
        claims: claims(json!({ "department": ["sales"], "level": "3", "on_call": "true", "roles": ["editor"] })),
        ..session("bob")
    }
}

/// Her address is not verified: the view has none, the claims still do.
pub(super) fn carol() -> SessionView {
    SessionView {
        claims: claims(json!({ "email": "alice@example.com", "email_verified": false, "department": null })),
        ..session("carol")
    }
}

/// Two addresses in one, and groups that are no list.
pub(super) fn mallory() -> SessionView {
    SessionView {
        email: Some("mallory@evil.example,alice@example.com".into()),
        claims: claims(json!({ "groups": "admins", "roles": { "owner": true }, "realm_access": ["roles", "admin"] })),
        ..session("mallory")
    }
}

pub(super) fn caller(session: SessionView) -> Caller {
    Caller::of(Arc::new(session), NOW).unwrap()
}

/// Everybody, and nobody.
pub(super) fn people() -> Vec<(&'static str, Option<Caller>)> {
    let known = [("alice", alice()), ("bob", bob()), ("carol", carol()), ("mallory", mallory())];
    let known = known.into_iter().map(|(name, session)| (name, Some(caller(session))));
    std::iter::once(("nobody", None)).chain(known).collect()
}

pub(super) fn request(method: &str, path: &str, client: &str, preflight: bool) -> Canonical {
    let mut request = Request::builder().method(method).uri(path).header(HOST, "app.example.com");
    if preflight {
        request = request.header(ORIGIN, "https://b.example.com").header(ACCESS_CONTROL_REQUEST_METHOD, "PUT");
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    Canonical::of(head, Peer { address: client.parse().unwrap(), https: true, certificate: None }).unwrap()
}

/// A request whose client has shown a certificate.
pub(super) fn shown(email: &str, holds: bool) -> Canonical {
    let details = CertificateDetails {
        fingerprint: "ab".repeat(32),
        spki_hash: "aGFzaA==".into(),
        dns: vec!["laptop.example.com".into(), "laptop".into()],
        email: vec![email.into()],
        uri: vec![],
    };
    let certificate = Some(Arc::new(ClientCertificate::new(details, holds)));
    let (head, ()) = Request::get("/").header(HOST, "app.example.com").body(()).unwrap().into_parts();
    Canonical::of(head, Peer { address: "203.0.113.9".parse().unwrap(), https: true, certificate }).unwrap()
}

/// Requests that differ in their certificates.
pub(super) fn shown_requests() -> Vec<Canonical> {
    let (alice, bob) = ("alice@example.com", "bob@example.com");
    vec![shown(alice, true), shown(alice, false), shown(bob, true), shown(bob, false)]
}

/// Criteria about certificates.
pub(super) fn certificate_criteria() -> Vec<Criterion> {
    let of = |matcher| Criterion::ClientCertificate(matcher);
    let email = |matcher| CertificateMatcher { email: Some(matcher), ..CertificateMatcher::default() };
    let fingerprints = |byte: &str| Some(vec![byte.repeat(32), "cd".repeat(32)]);
    vec![
        Criterion::InvalidClientCertificate,
        of(email(is("alice@example.com"))),
        of(CertificateMatcher { fingerprints: fingerprints("ab"), ..email(is("bob@example.com")) }),
        of(CertificateMatcher { fingerprints: fingerprints("ef"), ..CertificateMatcher::default() }),
        of(CertificateMatcher { spki_hashes: Some(vec!["aGFzaA==".into()]), ..CertificateMatcher::default() }),
        of(CertificateMatcher { dns: Some(is("laptop")), uri: None, ..CertificateMatcher::default() }),
        of(CertificateMatcher { uri: Some(is("urn:x")), ..CertificateMatcher::default() }),
    ]
}

/// Requests that the criteria tell apart.
pub(super) fn requests() -> Vec<(&'static str, Canonical)> {
    vec![
        ("GET /", request("GET", "/", "203.0.113.9", false)),
        ("POST /admin/users", request("POST", "/admin/users", "10.1.2.3", false)),
        ("OPTIONS /", request("OPTIONS", "/", "203.0.113.9", false)),
        ("preflight /", request("OPTIONS", "/", "::ffff:10.1.2.3", true)),
        ("GET with preflight headers", request("GET", "/", "203.0.113.9", true)),
        ("GET /.pomerium/user", request("GET", "/.pomerium/user", "2001:db8::1", false)),
        ("GET /.pomeriumx", request("GET", "/.pomeriumx", "203.0.113.9", false)),
    ]
}

pub(super) fn route(policy: Policy) -> Route {
    Route {
        id: "0123456789abcdef".into(),
        name: None,
        stat_name: None,
        from: From { host: "app.example.com".into(), port: None },
        action: Action::Forward(vec![Upstream::at("http://127.0.0.1:1/".parse().unwrap())]),
        matcher: PathMatcher::Prefix("/".into()),
        regex_priority_order: 0,
        rewrites: Rewrites::default(),
        timeouts: RouteTimeouts::default(),
        bounds: RouteBounds::default(),
        set_request_headers: vec![],
        remove_request_headers: vec![],
        set_response_headers: vec![],
        allow_websockets: false,
        tls_skip_verify: false,
        upstream: portcullis_config::UpstreamOptions::default(),
        pass_identity_headers: true,
        jwt_issuer_format: IssuerFormat::HostOnly,
        groups_filter: GroupsFilter::default(),
        show_error_details: false,
        max_staleness: Staleness::default(),
        policy,
    }
}

pub(super) fn decide(policy: &Policy, request: &Canonical, caller: Option<&Caller>) -> Decision {
    Policies::of(&[route(policy.clone())]).decide(0, request, caller)
}

pub(super) fn policy(rules: impl IntoIterator<Item = Rule>) -> Policy {
    Policy { rules: rules.into_iter().collect() }
}

pub(super) fn allow(actions: Actions) -> Rule {
    Rule { allow: Some(actions), deny: None }
}

pub(super) fn deny(actions: Actions) -> Rule {
    Rule { allow: None, deny: Some(actions) }
}

pub(super) fn and(and: impl IntoIterator<Item = Criterion>) -> Actions {
    Actions { and: and.into_iter().collect(), ..Actions::default() }
}

pub(super) fn or(or: impl IntoIterator<Item = Criterion>) -> Actions {
    Actions { or: or.into_iter().collect(), ..Actions::default() }
}

pub(super) fn not(not: impl IntoIterator<Item = Criterion>) -> Actions {
    Actions { not: not.into_iter().collect(), ..Actions::default() }
}

pub(super) fn nor(nor: impl IntoIterator<Item = Criterion>) -> Actions {
    Actions { nor: nor.into_iter().collect(), ..Actions::default() }
}

pub(super) fn is(text: &str) -> StringMatcher {
    StringMatcher(vec![StringTest::Is(text.into())])
}

pub(super) fn has(value: Value) -> ListMatcher {
    ListMatcher(vec![ListTest::Has(value)])
}

pub(super) fn claim(path: &[&str], matcher: ListMatcher) -> Criterion {
    Criterion::Claim { path: path.iter().map(|level| (*level).to_owned()).collect(), matcher }
}

/// An outcome as its status.
pub(super) fn status(outcome: Result<(), RefusalKind>) -> u16 {
    outcome.map_or_else(|refusal| refusal.status().as_u16(), |()| 200)
}
