//! Where routes are reached, where they lead, and the order in which they are tried.

use portcullis_config::{HeaderText, HostRewrite, PathMatcher, PathRewrite, Route};

use crate::{LEAST, problems, with};

fn route(keys: &str) -> String {
    format!("routes:\n- from: https://a.example.com\n  to: http://127.0.0.1:1\n  allowed_users: [x]\n  {keys}\n")
}

fn one(keys: &str) -> Route {
    match with(&route(keys)) {
        Ok(config) => config.routes[0].clone(),
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn every_key_of_a_route_gives_what_was_written() {
    let route = one("name: one\n  prefix: /a/\n  prefix_rewrite: /b/\n  preserve_host_header: true\n  \
                     set_request_headers: {X-Team: a, X-Price: '5$ $$x'}\n  remove_request_headers: [X-Gone]\n  \
                     set_response_headers: {X-Done: '1'}\n  allow_websockets: true\n  tls_skip_verify: false\n  \
                     pass_identity_headers: true\n  jwt_issuer_format: uri\n  max_staleness: strict");
    assert_eq!(route.name.as_deref(), Some("one"));
    assert_eq!(route.matcher, PathMatcher::Prefix("/a/".into()));
    assert_eq!(route.rewrites.path, Some(PathRewrite::Prefix("/b/".into())));
    assert_eq!(route.rewrites.host, HostRewrite::Preserve);
    assert!(route.allow_websockets && route.pass_identity_headers);
    let plain = |text| HeaderText::Plain(http::HeaderValue::from_static(text));
    let set: Vec<_> = route.set_request_headers.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    assert_eq!(set, [("x-team", plain("a")), ("x-price", plain("5$ $x"))]);
    assert_eq!(route.remove_request_headers, ["x-gone"]);
    assert_eq!(route.set_response_headers.len(), 1);
    assert_eq!(route.jwt_issuer_format, portcullis_config::IssuerFormat::Uri);
    assert_eq!(route.max_staleness, portcullis_config::Staleness::STRICT);
    assert_eq!(one("path: /x").matcher, PathMatcher::Path("/x".into()));
    assert_eq!(one("").matcher, PathMatcher::Prefix("/".into()));
}

#[test]
fn a_route_takes_defaults_from_the_top_level() {
    let config = with(&format!("pass_identity_headers: true\n{}", route(""))).unwrap();
    assert!(config.routes[0].pass_identity_headers);
    let config = with(&format!("pass_identity_headers: true\n{}", route("pass_identity_headers: false"))).unwrap();
    assert!(!config.routes[0].pass_identity_headers);
    let config = with(&format!("max_staleness: unbounded\n{}", route(""))).unwrap();
    assert_eq!(config.routes[0].max_staleness, portcullis_config::Staleness::Unbounded);
    let config = with(&format!("max_staleness: unbounded\n{}", route("max_staleness: 1m"))).unwrap();
    assert_eq!(config.routes[0].max_staleness.to_string(), "60s");
}

#[test]
fn from_is_a_host_in_one_spelling() {
    for (text, host, port) in [
        ("https://App.Example.COM", "app.example.com", None),
        ("https://app.example.com./", "app.example.com", None),
        ("https://app.example.com:443", "app.example.com", None),
        ("https://app.example.com:8443", "app.example.com", Some(8443)),
        ("http://app.example.com:80", "app.example.com", None),
        ("https://bücher.example", "xn--bcher-kva.example", None),
        ("https://[::1]:8443", "[::1]", Some(8443)),
        ("https://*.Example.com", "*.example.com", None),
        ("https://*.example.com:8443", "*.example.com", Some(8443)),
    ] {
        let routes = with(&route("").replace("https://a.example.com", text)).unwrap().routes;
        assert_eq!((routes[0].from.host.as_str(), routes[0].from.port), (host, port), "{text}");
    }
    for text in [
        "app.example.com",
        "https://",
        "https:app.example.com",
        "https://a.example.com/path",
        "https://a.example.com/?q",
        "https://user@a.example.com",
        "https://*",
        "https://a.*.example.com",
        "https://*.*.example.com",
        "https://a*.example.com",
        "https://*.127.0.0.1",
        "tcp+https://a.example.com:22",
        "ssh://a",
        "ftp://a",
        "'https://a\\b'",
        "'https://a b'",
        "https://a.example.com:0",
    ] {
        assert_eq!(problems(&route("").replace("https://a.example.com", text)).len(), 1, "{text}");
    }
    let tls = route("").replace("https://a", "http://a");
    let text = format!("{}certificate_file: /dev/null\n{tls}", LEAST.replace("insecure_server: true\n", ""));
    let said = portcullis_config::parse("f", &text, &|_| None).unwrap_err().to_string();
    assert!(said.contains("routes[0].from: is http, which only works with insecure_server: true"), "{said}");
}

#[test]
fn to_is_one_or_more_web_servers() {
    let routes = with(&route("").replace("http://127.0.0.1:1", "[http://a:1/base, https://b]")).unwrap().routes;
    let to: Vec<_> = routes[0].upstreams().iter().map(|upstream| upstream.url.as_str()).collect();
    assert_eq!(to, ["http://a:1/base", "https://b/"]);
    for text in ["tcp://a:1", "unix://run/a", "'http://a,b'", "http://u:p@a", "http://a?q", "a:1", "[]"] {
        assert_eq!(problems(&route("").replace("http://127.0.0.1:1", text)).len(), 1, "{text}");
    }
    let two = problems(&route("").replace("http://127.0.0.1:1", "[tcp://a, b]"));
    assert_eq!(two.len(), 2);
}

#[test]
fn a_path_that_no_request_has_is_refused() {
    for text in ["prefix: a", "path: a", "prefix: /a?b", "prefix: /a//b", "prefix: /../a", "path: /a/.", "prefix: //"] {
        assert_eq!(problems(&route(text)).len(), 1, "{text}");
    }
    assert_eq!(
        problems(&route("prefix: /a\n  path: /b")),
        ["6 routes[0].path: is given beside prefix; keep one of prefix, path and regex"]
    );
}

#[test]
fn headers_of_others_cannot_be_set() {
    for text in [
        "set_request_headers: {Host: x}",
        "set_request_headers: {cookie: x}",
        "set_request_headers: {X-Pomerium-JWT-Assertion: x}",
        "set_request_headers: {Connection: x}",
        "set_request_headers: {Content-Length: '1'}",
        "set_request_headers: {X-Token: '${pomerium.access_token}'}",
        "set_request_headers: {X-Token: $pomerium.id_token}",
        "set_request_headers: {X-A: \"a\\r\\nb\"}",
        "set_request_headers: {X-A: \"a\\0b\"}",
        "set_response_headers: {disable: true}",
        "remove_request_headers: ['a b']",
    ] {
        assert_eq!(problems(&route(text)).len(), 1, "{text}");
    }
}

#[test]
fn routes_are_tried_in_pomeriums_order() {
    let sides = [
        ("b.example.com", "prefix: /"),
        ("a.example.com", "prefix: /"),
        ("a.example.com", "prefix: /admin/"),
        ("a.example.com", "path: /"),
        ("a.example.com", "path: /z"),
        ("a.example.com", "prefix: /admin/x/"),
        ("a.example.com:8443", "prefix: /"),
        ("a.example.com", "regex: /a.*"),
        ("a.example.com", "regex: /b.*"),
        ("a.example.com", "regex: /c.*, regex_priority_order: -1"),
        ("a.example.com", "regex: /a+, regex_priority_order: 7"),
        ("a.example.com", "prefix: /first/, regex_priority_order: 9"),
        ("'*.example.com'", "prefix: /"),
    ];
    let list: String = (sides.iter())
        .map(|(host, path)| {
            format!("- {{from: 'https://{}', to: 'http://u', allowed_users: [x], {path}}}\n", host.trim_matches('\''))
        })
        .collect();
    let config = with(&format!("routes:\n{list}")).unwrap();
    let order: Vec<_> = (config.routes.iter())
        .map(|route| match &route.matcher {
            PathMatcher::Prefix(prefix) => format!("{} {prefix}", route.from),
            PathMatcher::Path(path) => format!("{} ={path}", route.from),
            PathMatcher::Regex(regex) => format!("{} ~{}", route.from, regex.as_str()),
        })
        .collect();
    assert_eq!(
        order,
        [
            "*.example.com /",
            "a.example.com =/z",
            "a.example.com =/",
            "a.example.com /first/",
            "a.example.com ~/a+",
            "a.example.com ~/b.*",
            "a.example.com ~/a.*",
            "a.example.com /admin/x/",
            "a.example.com /admin/",
            "a.example.com /",
            "a.example.com ~/c.*",
            "a.example.com:8443 /",
            "b.example.com /",
        ]
    );
}

#[test]
fn a_route_keeps_its_id_as_long_as_it_keeps_its_sides() {
    let id = one("").id;
    assert_eq!(id.len(), 16);
    assert_eq!(one("name: other").id, id);
    assert_ne!(one("prefix: /a/").id, id);
    assert_ne!(one("prefix: /a/").id, one("path: /a/").id);
    // written down: a change here moves every recorded decision to another route
    assert_eq!(id, "ca2f9d2b55876035");
}

#[test]
fn two_routes_with_the_same_side_are_a_problem() {
    let twice =
        format!("{}- {{from: https://A.example.com., prefix: /, to: http://b, allowed_users: [x]}}\n", route(""));
    let said = problems(&twice);
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("6 routes[1]: has the same from, prefix, path and regex as routes[0]"), "{said:?}");
}

#[test]
fn policy_is_the_old_name_of_routes() {
    assert_eq!(with(&route("").replace("routes:", "policy:")).unwrap().routes.len(), 1);
}

#[test]
fn surprises_among_routes_are_warned_of() {
    let text = "cookie_domain: example.com\nroutes:\n\
        - {from: https://a.example.com, to: http://u, allowed_users: [x]}\n\
        - {from: https://a.example.com, to: http://u, allowed_users: [x], prefix: /admin}\n\
        - {from: https://a.example.com, to: http://u, allowed_users: [x], prefix: /fine/}\n\
        - {from: https://a.example.org, to: https://u, allowed_users: [x], tls_skip_verify: true, prefix: /lone}\n\
        - {from: https://badexample.com, to: http://u}\n";
    let config = with(text).unwrap();
    let said: Vec<_> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    let expected = [
        "insecure_server",
        "routes[1].prefix",
        "routes[3].tls_skip_verify",
        "routes[3].from",
        "routes[4]",
        "routes[4].from",
    ];
    assert_eq!(said, expected);
}
