//! What an upstream is told, and what it can check.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use portcullis_config::limits::{ASSERTION_LIFE, ASSERTION_REUSE, CLAIM_HEADER_BYTES};
use portcullis_config::policy::Criterion;
use portcullis_config::{GroupsFilter, HeaderText, IssuerFormat, Route, Secret, TemplatePart};
use portcullis_events::Time;
use serde_json::{Value, json};

use super::super::assertion::{AssertionCache, claims, removed_groups};
use super::super::identity::headers;
use super::super::policies::Policies;
use super::super::{Permit, authorize};
use super::people::*;
use crate::databroker::view::SessionView;
use crate::keyring::Keyring;
use crate::keyring::assertion::AssertionKeys;

const ASSERTION: &str = "x-pomerium-jwt-assertion";

fn keys() -> AssertionKeys {
    AssertionKeys::derived(&Keyring::new(vec![Secret::new(vec![1; 32])]).unwrap()).unwrap()
}

fn open() -> Route {
    route(policy([allow(or([Criterion::Accept]))]))
}

fn permit(route: Route, person: Option<SessionView>) -> Permit {
    let policies = Policies::of(std::slice::from_ref(&route));
    let request = Rc::new(request("GET", "/", "203.0.113.9", false));
    authorize(&policies, 0, Arc::new(route), request, person.map(caller)).1.unwrap()
}

fn asked_for(names: &[&str]) -> Vec<(HeaderName, String)> {
    let header = |name: &&str| {
        let spelled: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        (format!("x-pomerium-claim-{spelled}").parse().unwrap(), (*name).to_owned())
    };
    names.iter().map(header).collect()
}

fn sent(permit: &Permit, names: &[&str], cache: &AssertionCache, now: Time) -> BTreeMap<String, String> {
    let headers = headers(permit, &asked_for(names), &keys(), cache, now).unwrap();
    let count = headers.len();
    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let map: BTreeMap<_, _> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    assert_eq!(map.len(), count, "a header stands twice");
    map
}

fn once(person: SessionView, names: &[&str]) -> BTreeMap<String, String> {
    sent(&permit(open(), Some(person)), names, &AssertionCache::default(), NOW)
}

/// Reads an assertion as an upstream does: against the published keys, for its own host.
fn verified(token: &str, host: &str, issuer: &str) -> jsonwebtoken::errors::Result<Value> {
    let set: JwkSet = serde_json::from_str(keys().jwks()).unwrap();
    let kid = jsonwebtoken::decode_header(token)?.kid.unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[host]);
    // the tests' clock stands still
    validation.validate_exp = false;
    Ok(decode(token, &DecodingKey::from_jwk(set.find(&kid).unwrap())?, &validation)?.claims)
}

#[test]
fn the_assertion_says_who_is_calling_and_verifies_against_the_published_keys() {
    let headers = once(alice(), &["department", "roles", "realm_access/roles"]);
    let claims = verified(&headers[ASSERTION], "app.example.com", "app.example.com").unwrap();
    let id = claims["jti"].as_str().unwrap();
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 4);
    let expected = json!({
        "iss": "app.example.com", "aud": "app.example.com", "jti": id,
        "iat": NOW.secs(), "exp": NOW.secs() + 300,
        "sub": "alice", "user": "alice", "email": "alice@example.com", "name": "Alice Liddell",
        "groups": ["admins", "dev"], "sid": alice().id.to_string(),
        "department": "engineering", "roles": ["owner", "editor"], "realm_access/roles": ["admin"],
    });
    assert_eq!(claims, expected);
}

#[test]
fn an_assertion_is_for_one_host_and_names_its_issuer_in_the_form_asked_for() {
    let plain = once(alice(), &[]);
    assert!(verified(&plain[ASSERTION], "other.example.com", "app.example.com").is_err());
    let route = Route { jwt_issuer_format: IssuerFormat::Uri, ..open() };
    let uri = sent(&permit(route, Some(alice())), &[], &AssertionCache::default(), NOW);
    assert!(verified(&uri[ASSERTION], "app.example.com", "https://app.example.com/").is_ok());
    assert!(verified(&uri[ASSERTION], "app.example.com", "app.example.com").is_err());
}

#[test]
fn nobody_has_no_identity_and_a_route_that_passes_none_gets_none() {
    let cache = AssertionCache::default();
    assert_eq!(sent(&permit(open(), None), &["email"], &cache, NOW), BTreeMap::new());
    let closed = Route { pass_identity_headers: false, ..open() };
    assert_eq!(sent(&permit(closed, Some(alice())), &["email"], &cache, NOW), BTreeMap::new());
}

#[test]
fn an_assertion_is_used_again_until_its_session_changes_or_its_life_runs_out() {
    let cache = AssertionCache::default();
    let at = |person: SessionView, now| sent(&permit(open(), Some(person)), &["groups"], &cache, now);
    let first = at(alice(), NOW);
    let soon = NOW.plus(ASSERTION_LIFE).minus(ASSERTION_REUSE);
    assert_eq!(at(alice(), soon), first);
    assert_ne!(at(alice(), soon.plus(Duration::from_secs(1)))[ASSERTION], first[ASSERTION]);
    let changed = at(SessionView { seq: 8, groups: vec!["dev".into()], ..alice() }, NOW);
    let claims = verified(&changed[ASSERTION], "app.example.com", "app.example.com").unwrap();
    assert_eq!((claims["groups"].clone(), changed["x-pomerium-claim-groups"].as_str()), (json!(["dev"]), "dev"));
}

#[test]
fn an_assertion_ends_no_later_than_its_session() {
    let ending = SessionView { expires_at: NOW.plus(Duration::from_millis(60_999)), ..alice() };
    let headers = once(ending, &[]);
    let claims = verified(&headers[ASSERTION], "app.example.com", "app.example.com").unwrap();
    assert_eq!(claims["exp"], NOW.secs() + 60);
}

#[test]
fn claims_that_were_asked_for_come_as_headers_of_their_own() {
    let headers = once(alice(), &["email", "groups", "level", "on_call", "realm_access/roles", "absent", "user"]);
    let claim = |name: &str| headers.get(&format!("x-pomerium-claim-{name}")).map(String::as_str);
    assert_eq!(claim("email"), Some("alice@example.com"));
    assert_eq!(claim("groups"), Some("admins,dev"));
    assert_eq!((claim("level"), claim("on-call"), claim("user")), (Some("3"), Some("true"), Some("alice")));
    assert_eq!((claim("realm-access-roles"), claim("absent")), (Some("admin"), None));
}

#[test]
fn the_routing_key_is_the_hash_of_the_session_id() {
    let key = |person| once(person, &[])["x-pomerium-routing-key"].clone();
    // printf 00000000-0000-0000-0000-0000000a11ce | sha256sum
    assert_eq!(key(alice()), "6cac92c4bdf671fca7e9ed7ebdcdcfdc18b97c89eb072fce71fe0cf1568f47e1");
}

#[test]
fn bytes_that_no_header_carries_are_left_out_and_stay_in_the_assertion() {
    let strange = ["a\r\nX-Injected: 1", "nul\0", "Zo\u{eb}", " admin", "tab\tbed", "\u{7f}"];
    for text in strange {
        let person = SessionView { email: Some(text.into()), groups: vec!["dev".into(), text.into()], ..session(text) };
        let headers = once(person, &["email", "user", "groups"]);
        let names: Vec<_> = headers.keys().map(String::as_str).collect();
        assert_eq!(names, ["x-pomerium-claim-groups", ASSERTION, "x-pomerium-routing-key"], "{text:?}");
        assert_eq!(headers["x-pomerium-claim-groups"], "dev");
        let claims = verified(&headers[ASSERTION], "app.example.com", "app.example.com").unwrap();
        assert_eq!(claims["email"], text);
    }
}

#[test]
fn a_claim_too_long_for_a_header_is_left_out() {
    let person = |length| SessionView { name: Some("x".repeat(length)), ..alice() };
    assert!(once(person(CLAIM_HEADER_BYTES), &["name"]).contains_key("x-pomerium-claim-name"));
    assert!(!once(person(CLAIM_HEADER_BYTES + 1), &["name"]).contains_key("x-pomerium-claim-name"));
}

#[test]
fn an_email_that_is_not_verified_is_passed_on_nowhere() {
    let headers = once(carol(), &["email"]);
    assert!(!headers.contains_key("x-pomerium-claim-email"));
    let claims = verified(&headers[ASSERTION], "app.example.com", "app.example.com").unwrap();
    assert_eq!((claims.get("email"), &claims["groups"]), (None, &json!([])));
}

#[test]
fn a_claim_of_the_provider_never_takes_the_place_of_ours() {
    let ours = ["iss", "aud", "sub", "user", "email", "name", "groups", "sid", "jti", "iat", "exp"];
    let forged = ours.iter().map(|name| ((*name).to_owned(), json!("forged"))).collect();
    let headers = once(SessionView { claims: forged, ..session("alice") }, &ours);
    let claims = verified(&headers[ASSERTION], "app.example.com", "app.example.com").unwrap();
    assert!(!claims.to_string().contains("forged"), "{claims}");
    assert!(headers.values().all(|value| value != "forged"));
}

#[test]
fn what_a_session_claims_has_no_time_and_no_id_of_its_own() {
    let claims = claims(
        &alice(),
        "app.example.com",
        IssuerFormat::HostOnly,
        &GroupsFilter::default(),
        &asked_for(&["department"]),
    );
    let names: Vec<_> = claims.keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "department", "email", "groups", "iss", "name", "sid", "sub", "user"]);
}

#[test]
fn an_assertion_of_a_wildcard_is_for_the_host_that_was_asked_and_never_for_one_that_it_does_not_stand_for() {
    for (from, audience) in [
        ("*.example.com", "app.example.com"),
        ("*.com", "*.com"),
        ("*.example.org", "*.example.org"),
        ("app.example.com", "app.example.com"),
        ("other.example.com", "other.example.com"),
    ] {
        let mut route = open();
        route.from.host = from.into();
        let sent = sent(&permit(route, Some(alice())), &[], &AssertionCache::default(), NOW);
        assert!(verified(&sent[ASSERTION], audience, audience).is_ok(), "{from}");
    }
}

#[test]
fn an_assertion_names_only_the_groups_of_its_routes_filter_and_is_not_shared_with_another() {
    let cache = AssertionCache::default();
    let groups = |filter: GroupsFilter| {
        let route = Route { groups_filter: filter, ..open() };
        assert_eq!(
            removed_groups(&alice(), &route),
            alice().groups.iter().filter(|g| !route.groups_filter.keeps(g)).count()
        );
        let sent = sent(&permit(route, Some(alice())), &["groups"], &cache, NOW);
        let claims = verified(&sent[ASSERTION], "app.example.com", "app.example.com").unwrap();
        (claims["groups"].clone(), sent.get("x-pomerium-claim-groups").cloned())
    };
    let all = json!(alice().groups.iter().map(|group| &**group).collect::<Vec<_>>());
    let first = alice().groups[0].to_string();
    for _ in 0..2 {
        assert_eq!(groups(GroupsFilter::default()).0, all);
        assert_eq!(groups(GroupsFilter::of([first.as_str(), "x"])), (json!([first]), Some(first.clone())));
        assert_eq!(groups(GroupsFilter::of(["x"])), (json!([]), None));
    }
}

#[test]
fn an_assertion_is_made_where_a_header_of_the_route_wants_it() {
    let wants = HeaderText::Template(vec![TemplatePart::Assertion]);
    let name = HeaderName::from_static("authorization");
    let silent = Route { pass_identity_headers: false, ..open() };
    let asking = Route { set_request_headers: vec![(name, wants)], ..silent.clone() };
    assert!(sent(&permit(silent, Some(alice())), &[], &AssertionCache::default(), NOW).is_empty());
    assert!(sent(&permit(asking.clone(), Some(alice())), &[], &AssertionCache::default(), NOW).contains_key(ASSERTION));
    assert!(sent(&permit(asking, None), &[], &AssertionCache::default(), NOW).is_empty());
}
