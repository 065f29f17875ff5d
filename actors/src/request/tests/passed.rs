//! What goes on to the upstream, and where a handle is found.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::super::hygiene::{Managed, headers_for_upstream, query_for_upstream};
use super::super::{Presented, Source, cookies};
use super::{Head, Lines};
use crate::authenticate::cookie::{authenticate_name, start_prefix, state_prefix};
use crate::proxy::routes::tests::config;

const MANAGED: [&str; 30] = [
    "x-pomerium-jwt-assertion",
    "x-pomerium-claim-email",
    "x-pomerium-claim-groups",
    "x-pomerium-claim-anything",
    "x-pomerium-authorization",
    "x-pomerium-routing-key",
    "x-pomerium-request-id",
    "x-pomerium-",
    "x-email",
    "x-user-groups",
    "forwarded",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-uri",
    "x-forwarded-prefix",
    "x-forwarded-port",
    "x-forwarded-method",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-access-token",
    "x-forwarded-server",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-envoy-original-path",
    "x-envoy-internal",
    "x-request-id",
];

fn managed() -> Managed {
    let mut config = config(&[]);
    config.jwt_claims_headers = vec![
        (HeaderName::from_static("x-email"), "email".to_owned()),
        (HeaderName::from_static("x-user-groups"), "groups".to_owned()),
    ];
    Managed::of(&config)
}

fn passed(headers: &[(&str, &str)]) -> HeaderMap {
    headers_for_upstream(&Head::with(headers).accepted(), &managed(), "_pomerium")
}

fn spellings(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned(), name.to_uppercase()];
    all.extend(
        ['.', '~', '!', '#', '$', '%', '&', '\'', '*', '+', '^', '`', '|']
            .map(|mark| name.replace('-', &mark.to_string())),
    );
    all.extend(['.', '~'].map(|mark| name.replacen('-', &mark.to_string(), 1).to_uppercase()));
    all
}

#[test]
fn no_managed_name_survives_any_spelling() {
    for name in MANAGED {
        for spelling in spellings(name) {
            let spelling = spelling.as_str();
            for headers in [
                vec![(spelling, "evil")],
                vec![(spelling, "evil"), (spelling, "")],
                vec![(name, ""), (spelling, "evil")],
            ] {
                assert!(passed(&headers).is_empty(), "{headers:?}");
                // on its way to a WebSocket as well
                let mut upgrade = headers.clone();
                upgrade.extend([("upgrade", "websocket"), ("connection", "upgrade")]);
                assert!(passed(&upgrade).is_empty(), "{headers:?}");
            }
            assert!(managed().holds(&HeaderName::from_bytes(spelling.as_bytes()).unwrap()), "{spelling}");
            let mut trailers = HeaderMap::new();
            trailers.append(HeaderName::from_bytes(spelling.as_bytes()).unwrap(), HeaderValue::from_static("evil"));
            assert!(managed().trailers_for_upstream(trailers).is_empty(), "{spelling}");
        }
    }
}

#[test]
fn the_assertion_of_the_original_user_passes_in_its_exact_spelling() {
    assert_eq!(passed(&[("X-Pomerium-Jwt-Assertion-For", "jwt")]).get("x-pomerium-jwt-assertion-for").unwrap(), "jwt");
    assert!(passed(&[("X.Pomerium.Jwt.Assertion.For", "jwt")]).is_empty());
    assert!(passed(&[("X-Pomerium-Jwt-Assertion-Forged", "jwt")]).is_empty());
}

#[test]
fn what_is_not_ours_passes_byte_for_byte_and_in_order() {
    let headers = [
        ("accept", "text/html;q=0.9"),
        ("cookie", "a=1;  b=\"2\" ;c"),
        ("x-custom", "1"),
        ("x-custom", "2"),
        ("cookie", "d=4"),
        ("authorization", "Bearer abc"),
        ("content-length", "5"),
        ("content-type", "text/plain"),
        ("te", "trailers"),
        ("x-forward", "1"),
        ("x-pomeriumish", "1"),
        ("x-emails", "1"),
        ("range", "bytes=0-1"),
        ("x-http-method-override", "GET"),
    ];
    let passed = passed(&headers);
    assert_eq!(passed.len(), headers.len());
    for (name, _) in headers {
        let sent: Vec<_> = headers.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value).collect();
        assert_eq!(passed.get_all(name).iter().collect::<Vec<_>>(), sent, "{name}");
    }
    assert!(self::passed(&[("expect", "100-continue")]).is_empty());
}

#[test]
fn an_authorization_that_carries_a_handle_stays_here() {
    for value in [
        "Pomerium h",
        "pomerium h",
        "POMERIUM  h",
        "Pomerium",
        "Bearer Pomerium-h",
        "bearer pomerium-h",
        "BEARER \t POMERIUM-h",
        "Pomerium\th",
        " Pomerium h",
    ] {
        assert!(passed(&[("authorization", value)]).is_empty(), "{value}");
        let both = passed(&[("authorization", "Basic eDp5"), ("authorization", value)]);
        assert_eq!(both.get_all("authorization").iter().collect::<Vec<_>>(), ["Basic eDp5"], "{value}");
    }
    for value in ["Basic eDp5", "Bearer abc", "Bearer x.Pomerium-h", "Bearer", "Pomeriums h", ""] {
        assert!(passed(&[("authorization", value)]).contains_key("authorization"), "{value}");
    }
}

#[test]
fn our_cookies_stay_here_and_the_others_are_untouched() {
    for (came, left) in [
        ("_pomerium=h", None),
        (" _pomerium = h ", None),
        ("_pomerium", None),
        ("_pomerium=h; a=1", Some("a=1")),
        ("a=1; _pomerium=h", Some("a=1")),
        ("a=1; _pomerium=h;b=\"2\" ;  c", Some("a=1;b=\"2\" ;  c")),
        ("_pomerium=1; _pomerium=2", None),
        ("_pomerium_authenticate=h; x=y=z", Some("x=y=z")),
        ("__Host-_pomerium_start_abc=1; __Host-_pomerium_pkce_def=2; __Host-_pomerium_csrf=3; k=v", Some("k=v")),
        ("_pomerium_other=1", Some("_pomerium_other=1")),
        ("x_pomerium=1; _Pomerium=2", Some("x_pomerium=1; _Pomerium=2")),
        ("__Host-_pomerium_starting=1", Some("__Host-_pomerium_starting=1")),
    ] {
        let headers = passed(&[("cookie", came)]);
        assert_eq!(headers.get("cookie").map(|line| line.to_str().unwrap()), left, "{came}");
    }
    let lines = passed(&[("cookie", "_pomerium=h"), ("cookie", "a=1"), ("cookie", "b=2; _pomerium=h")]);
    assert_eq!(lines.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
}

#[test]
fn the_names_of_our_cookies_are_those_that_we_set() {
    for cookie_name in ["_pomerium", "__Host-gate", "s"] {
        let names = [
            cookie_name.to_owned(),
            authenticate_name(cookie_name),
            format!("{}x", start_prefix(cookie_name)),
            format!("{}x", state_prefix(cookie_name)),
        ];
        for name in names {
            let line = format!("{name}=1");
            let request = Head::with(&[("cookie", &line)]).accepted();
            assert!(headers_for_upstream(&request, &managed(), cookie_name).is_empty(), "{line}");
        }
    }
}

#[test]
fn a_handle_in_the_query_stays_here_however_it_is_escaped() {
    for (came, left) in [
        ("pomerium_session=h", None),
        ("a=1&pomerium_session=h&b=%zz", Some("a=1&b=%zz")),
        ("pomerium%5Fsession=h&a", Some("a")),
        ("%70omerium_sessio%6e=h&&a=+", Some("&a=+")),
        ("pomerium_session", None),
        ("pomerium_session=1&pomerium_session=2", None),
        ("a=pomerium_session=h", Some("a=pomerium_session=h")),
        ("pomerium_sessions=1&Pomerium_Session=2", Some("pomerium_sessions=1&Pomerium_Session=2")),
        ("", Some("")),
    ] {
        assert_eq!(query_for_upstream(Some(came)).as_deref(), left, "{came}");
    }
    assert_eq!(query_for_upstream(None), None);
}

#[test]
fn cookies_are_read_as_they_stand_and_two_of_a_name_count_for_none() {
    let mut headers = HeaderMap::new();
    headers.append("cookie", HeaderValue::from_static("a=1; b = two ;c=\"3\"; =x; y; a2=="));
    headers.append("cookie", HeaderValue::from_bytes(b"u=\xc3\xa9; bad=\xff; b2=4").unwrap());
    let pairs: Vec<_> = cookies::pairs(&headers).collect();
    assert_eq!(pairs, [("a", "1"), ("b", "two"), ("c", "\"3\""), ("a2", "="), ("u", "\u{e9}"), ("b2", "4")]);
    assert_eq!(cookies::single(&headers, "b"), Some("two"));
    assert_eq!(cookies::single(&headers, "B"), None);
    headers.append("cookie", HeaderValue::from_static("b=other"));
    assert_eq!(cookies::single(&headers, "b"), None);
}

#[test]
fn a_handle_is_found_where_it_is_presented_first() {
    type Found = Option<(&'static str, Source)>;
    let cookie = ("cookie", "_pomerium=c");
    let header = ("x-pomerium-authorization", "x");
    let authorization = ("authorization", "Pomerium a");
    let cases: &[(Lines<'_>, &str, Found)] = &[
        (&[], "/", None),
        (&[cookie, header, authorization], "/?pomerium_session=q", Some(("c", Source::Cookie))),
        (&[header, authorization], "/?pomerium_session=q", Some(("x", Source::Header))),
        (&[authorization], "/?pomerium_session=q", Some(("a", Source::Header))),
        (&[("authorization", "Bearer Pomerium-b")], "/?pomerium_session=q", Some(("b", Source::Header))),
        (&[("authorization", "Bearer b")], "/?pomerium_session=q", Some(("q", Source::Query))),
        (&[], "/?x&pomerium%5fsession=v1.%71", Some(("v1.q", Source::Query))),
        (&[], "/?pomerium_session=1&pomerium_session=2", None),
        (&[], "/?pomerium_session=", None),
        (&[("cookie", "_pomerium=1; _pomerium=2")], "/", None),
        (&[("cookie", "_pomerium=1"), ("cookie", "_pomerium=1")], "/?pomerium_session=q", Some(("q", Source::Query))),
        (&[("cookie", "_pomerium="), header], "/", Some(("x", Source::Header))),
        (&[header, header], "/", None),
        (&[authorization, authorization], "/", None),
        (&[("cookie", "_pomerium_authenticate=1")], "/", None),
    ];
    for (headers, target, expected) in cases {
        let mut head = Head::with(headers);
        head.target = target;
        let found = Presented::of(&head.accepted(), "_pomerium");
        let found = found.as_ref().map(|presented| (presented.handle.as_str(), presented.source));
        assert_eq!(found, *expected, "{headers:?} {target}");
    }
}

#[test]
fn wherever_a_handle_is_taken_from_it_is_taken_out() {
    let places: [(Lines<'_>, &str); 6] = [
        (&[("cookie", "_pomerium=canary; a=1")], "/?x"),
        (&[("x-pomerium-authorization", "canary")], "/?x"),
        (&[("authorization", "pomerium canary")], "/?x"),
        (&[("authorization", "Bearer Pomerium-canary")], "/?x"),
        (&[], "/?x&pomerium_session=canary"),
        (&[], "/?pomerium%5Fsession=%63anary"),
    ];
    for (headers, target) in places {
        let mut head = Head::with(headers);
        head.target = target;
        let request = head.accepted();
        assert_eq!(Presented::of(&request, "_pomerium").unwrap().handle, "canary");
        let headers = headers_for_upstream(&request, &managed(), "_pomerium");
        let query = query_for_upstream(request.query()).unwrap_or_default();
        assert!(!query.contains("anary"), "{target}");
        assert!(!headers.values().any(|value| value.to_str().unwrap().contains("canary")), "{target}");
    }
}

proptest! {
    #[test]
    fn whatever_a_back_end_could_take_for_a_managed_name_is_removed(
        name in prop::sample::select(MANAGED.to_vec()),
        marks in prop::collection::vec(prop::sample::select("-.~!#$%&'*+^`|".chars().collect::<Vec<_>>()), 8),
        upper in any::<u32>(),
    ) {
        let mut marks = marks.into_iter().cycle();
        let spelling: String = name.chars().enumerate().map(|(index, character)| match character {
            '-' => marks.next().unwrap(),
            _ if upper >> (index % 32) & 1 == 1 => character.to_ascii_uppercase(),
            _ => character,
        }).collect();
        prop_assert!(passed(&[(&spelling, "evil"), ("kept", "1")]).len() == 1);
    }

    #[test]
    fn a_request_that_was_cleaned_is_clean(
        names in prop::collection::hash_set("[a-zA-Z][a-zA-Z0-9.-]{0,12}", 0..8),
        cookie in "[a-z_= ;]{0,24}",
    ) {
        let reserved = HashSet::from(["host", "connection", "te", "upgrade", "content-length", "transfer-encoding"]);
        let mut headers: Vec<_> = names.iter().filter(|name| !reserved.contains(name.to_lowercase().as_str())).map(|name| (name.as_str(), "1")).collect();
        headers.push(("cookie", cookie.trim()));
        let once = passed(&headers);
        let again: Vec<_> = once.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        prop_assert_eq!(passed(&again), once);
    }
}
