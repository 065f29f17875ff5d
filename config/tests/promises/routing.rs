//! Actions, matchers, rewrites, templates and timeouts of routes: what they give, and what is wrong with them where.

use std::time::Duration;

use http::StatusCode;
use portcullis_config::policy::Criterion;
use portcullis_config::{
    Action, Answer, GroupsFilter, HostRewrite, PathMatcher, PathRewrite, RedirectPath, Route, RouteTimeouts,
};

use crate::{problems, with};

const TO: &str = "to: http://u\n  ";

fn text(global: &str, keys: &str) -> String {
    format!("{global}routes:\n- from: https://a.example.com\n  allowed_users: [x]\n  {keys}\n")
}

fn under(global: &str, keys: &str) -> Route {
    match with(&text(global, keys)) {
        Ok(config) => config.routes[0].clone(),
        Err(problems) => panic!("{problems}"),
    }
}

fn one(keys: &str) -> Route {
    under("", &format!("{TO}{keys}"))
}

/// What is wrong with a route to an upstream, each as `key: wrong; right`, the place left out.
fn wrong(keys: &str) -> Vec<String> {
    let said = problems(&text("", &format!("{TO}{keys}")));
    said.into_iter().map(|line| line.split_once("routes[0].").map_or(line.clone(), |(_, rest)| rest.into())).collect()
}

#[test]
fn a_route_has_exactly_one_thing_to_do() {
    let action = |keys: &str| under("", keys).action;
    assert!(matches!(action("to: http://u"), Action::Forward(to) if to.len() == 1));
    let Action::Redirect(redirect) = action("redirect: {https_redirect: true, host_redirect: WWW.example.com}") else {
        panic!("it redirects")
    };
    assert_eq!((redirect.host.as_deref(), redirect.status), (Some("www.example.com"), StatusCode::MOVED_PERMANENTLY));
    assert_eq!((redirect.path, redirect.strip_query), (RedirectPath::Kept, false));
    let Action::Response(response) = action("response: {status: 503, body: later}") else { panic!("it answers") };
    assert_eq!((response.status.as_u16(), response.body.as_str()), (503, "later"));
    assert!(under("", "response: {status: 204}").upstreams().is_empty());

    for keys in [
        "",
        "redirect: {}",
        "redirect: {https_redirect: false}",
        "redirect: {response_code: 302}",
        "redirect: {host_redirect: a, response_code: 200}",
        "redirect: {host_redirect: a/b}",
        "redirect: {host_redirect: '*.a'}",
        "redirect: {port_redirect: 0}",
        "redirect: {port_redirect: 65536}",
        "redirect: {path_redirect: //evil.example}",
        "redirect: {path_redirect: 'https://evil.example'}",
        "redirect: {path_redirect: '/a b'}",
        "redirect: {prefix_rewrite: /../a}",
        "redirect: {path_redirect: /a, prefix_rewrite: /b}",
        "redirect: {https_redirect: true, scheme_redirect: http}",
        "redirect: {scheme_redirect: javascript}",
        "redirect: {host: a, host_redirect: b}",
        "response: {}",
        "response: {body: x}",
        "response: {status: 101}",
        "response: {status: 600}",
        "response: {status: 204, body: x}",
        "response: {status: 200, body: [x]}",
        "to: http://u\n  redirect: {host_redirect: a}",
        "to: http://u\n  response: {status: 200}",
        "redirect: {host_redirect: a}\n  response: {status: 200}",
    ] {
        assert_eq!(problems(&text("", keys)).len(), 1, "{keys}");
    }
    let long = "x".repeat(64 * 1024 + 1);
    assert_eq!(problems(&text("", &format!("response: {{status: 200, body: {long}}}"))).len(), 1);
}

#[test]
fn what_a_route_does_is_part_of_its_id_unless_it_has_one_of_its_own() {
    let sides = [
        "to: http://u",
        "to: http://u\n  regex: /a",
        "to: http://u\n  path: /a",
        "redirect: {host_redirect: a}",
        "redirect: {host_redirect: a, response_code: 302}",
        "response: {status: 200}",
        "response: {status: 200, body: x}",
    ];
    let ids: std::collections::HashSet<_> = sides.iter().map(|keys| under("", keys).id).collect();
    assert_eq!(ids.len(), sides.len());
    assert_eq!(one("id: shop-1.eu_west").id, "shop-1.eu_west");
    assert_eq!(one("stat_name: shop").stat_name.as_deref(), Some("shop"));
    for id in ["id: 'a b'", "id: a/b", &format!("id: {}", "x".repeat(65))] {
        assert_eq!(wrong(id).len(), 1, "{id}");
    }
    let twice = "routes:\n- {id: a, from: 'https://a', to: 'http://u', allowed_users: [x]}\n\
                 - {id: a, from: 'https://b', to: 'http://u', allowed_users: [x]}\n";
    let said = problems(twice);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("routes[1].id: is the id of routes[0] as well"), "{said:?}");
    let made =
        with("routes:\n- {from: 'https://b', to: 'http://u', allowed_users: [x]}\n").unwrap().routes[0].id.clone();
    let stolen = format!(
        "routes:\n- {{id: '{made}', from: 'https://a', to: 'http://u', allowed_users: [x]}}\n\
         - {{from: 'https://b', to: 'http://u', allowed_users: [x]}}\n"
    );
    let said = problems(&stolen);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("routes[0].id: is the id of routes[1] as well"), "{said:?}");
}

#[test]
fn an_expression_is_understood_or_refused_where_it_stands() {
    let route = one("regex: '/items/[0-9]+'\n  regex_priority_order: -7");
    assert_eq!(route.regex_priority_order, -7);
    assert!(
        matches!(&route.matcher, PathMatcher::Regex(regex) if regex.is_match("/items/1") && !regex.is_match("/items/"))
    );
    assert_eq!(
        wrong("regex: '/a('"),
        ["regex: is no regular expression: unclosed group; an expression as RE2 takes it, such as /items/[0-9]+"]
    );
    let large = format!("regex: '{}'", "(a{100}){100}".repeat(20));
    for keys in [
        large.as_str(),
        "regex: '(?=a)'",
        "regex: 'a)(b'",
        "regex: /a\n  path: /a",
        "regex: /a\n  prefix: /a",
        "regex: /a\n  regex_priority_order: high",
        "regex_priority_order: 1.5",
        "regex_rewrite_pattern: '['",
        "regex_rewrite_substitution: /a",
        "regex_rewrite_pattern: a\n  regex_rewrite_substitution: '\\1'",
        "regex_rewrite_pattern: a\n  prefix_rewrite: /a",
        "host_path_regex_rewrite_pattern: '('",
        "host_path_regex_rewrite_substitution: a",
    ] {
        assert_eq!(wrong(keys).len(), 1, "{keys}");
    }
    assert_eq!(wrong(&format!("regex: '{}'", "a".repeat(4097))).len(), 1);
    let rewrite = one("regex_rewrite_pattern: '^/a/(.*)$'\n  regex_rewrite_substitution: '/b/\\1'").rewrites.path;
    let Some(PathRewrite::Regex(replacement)) = rewrite else { panic!("it rewrites") };
    assert_eq!(replacement.of("/a/x"), "/b/x");
}

#[test]
fn a_route_chooses_the_host_in_one_way() {
    let host = |keys: &str| one(keys).rewrites.host;
    assert_eq!(host(""), HostRewrite::Upstream);
    assert_eq!(host("preserve_host_header: false\n  host_rewrite: a"), HostRewrite::Fixed("a".parse().unwrap()));
    assert_eq!(host("host_rewrite_header: X-A"), HostRewrite::Header("x-a".parse().unwrap()));
    assert!(matches!(host("host_path_regex_rewrite_pattern: a"), HostRewrite::Path(_)));
    for keys in [
        "preserve_host_header: true\n  host_rewrite: a",
        "host_rewrite: a\n  host_rewrite_header: b",
        "host_rewrite_header: a\n  host_path_regex_rewrite_pattern: b",
        "host_rewrite: 'a b'",
        "host_rewrite: http://a",
        "host_rewrite: a/b",
        "host_rewrite: a@b",
        "host_rewrite_header: 'a b'",
    ] {
        assert_eq!(wrong(keys).len(), 1, "{keys}");
    }
}

#[test]
fn headers_of_an_answer_are_rewritten_by_whole_rules() {
    let rules = one("rewrite_response_headers: [{header: Location, prefix: 'http://a', value: 'https://b'}]").rewrites;
    assert_eq!(rules.response_headers[0].header, "location");
    for keys in [
        "rewrite_response_headers: {header: a}",
        "rewrite_response_headers: [{prefix: a, value: b}]",
        "rewrite_response_headers: [{header: a, value: b}]",
        "rewrite_response_headers: [{header: Connection, prefix: a, value: b}]",
        "rewrite_response_headers: [{header: a, prefix: \"a\\nb\", value: b}]",
        "rewrite_response_headers: [{header: a, prefix: a, value: b, to: c}]",
    ] {
        assert_eq!(wrong(keys).len(), 1, "{keys}");
    }
}

#[test]
fn nobody_but_us_says_who_is_signed_in() {
    for name in ["X-Pomerium-Claim-Email", "x_pomerium_jwt_assertion", "X-Pomerium-Anything"] {
        assert_eq!(wrong(&format!("set_request_headers: {{{name}: x}}")).len(), 1, "{name}");
    }
    let claims = "jwt_claims_headers: {X-Mail: email}\n";
    for name in ["X-Mail", "x_mail"] {
        let said = problems(&text(claims, &format!("{TO}set_request_headers: {{{name}: x}}")));
        assert_eq!(said.len(), 1, "{name}");
    }
    assert_eq!(under(claims, &format!("{TO}set_request_headers: {{X-Mails: x}}")).set_request_headers.len(), 1);
    assert!(one("set_request_headers: {Authorization: 'Bearer ${pomerium.jwt}'}").needs_assertion());
    assert!(!one("set_request_headers: {Authorization: Basic}").needs_assertion());
}

#[test]
fn timeouts_are_the_routes_own_or_those_of_the_top_level() {
    let s = |seconds: u64| Some(Duration::from_secs(seconds));
    let within = |bound| Answer { begins: bound, ends: bound };
    assert_eq!(one("").timeouts, RouteTimeouts::default());
    assert_eq!(RouteTimeouts::default().answer, Answer { begins: s(30), ends: None });
    assert_eq!(RouteTimeouts::default().idle, s(300));
    let timeouts = one("timeout: 1m\n  idle_timeout: 0").timeouts;
    assert_eq!((timeouts.answer, timeouts.idle), (within(s(60)), None));
    assert_eq!(one("timeout: 0").timeouts.answer, Answer::UNBOUNDED);
    let global = "default_upstream_timeout: 5s\ntimeout_idle: 7s\ntimeout_read: 8s\ntimeout_write: 9s\n";
    let timeouts = under(global, TO).timeouts;
    assert_eq!(timeouts, RouteTimeouts { answer: within(s(5)), idle: s(7), read: s(8), write: s(9) });
    // what may switch to a WebSocket has no bounds but its own
    let timeouts = under(global, &format!("{TO}allow_websockets: true")).timeouts;
    assert_eq!((timeouts.answer, timeouts.idle), (Answer::UNBOUNDED, None));
    let timeouts = under(global, &format!("{TO}allow_websockets: true\n  timeout: 1s\n  idle_timeout: 2s")).timeouts;
    assert_eq!((timeouts.answer, timeouts.idle), (within(s(1)), s(2)));
    for keys in ["timeout: 30", "idle_timeout: soon", "timeout: -1s"] {
        assert_eq!(wrong(keys).len(), 1, "{keys}");
    }
    for key in ["timeout_read", "timeout_write", "timeout_idle", "default_upstream_timeout"] {
        assert_eq!(problems(&format!("{key}: 30\n")).len(), 1, "{key}");
    }
}

#[test]
fn groups_that_the_top_level_or_the_route_names_are_kept() {
    assert!(one("").groups_filter.is_open());
    let route = under("jwt_groups_filter: [a, b]\n", &format!("{TO}jwt_groups_filter: c"));
    assert_eq!(route.groups_filter, GroupsFilter::of(["a", "b", "c"]));
    assert!(route.groups_filter.keeps("c") && !route.groups_filter.keeps("d"));
    assert_eq!(under("jwt_groups_filter: [a]\n", TO).groups_filter, GroupsFilter::of(["a"]));
    assert!(one("jwt_groups_filter: []").groups_filter.is_open());
    assert_eq!(wrong("jwt_groups_filter: ['']").len(), 1);
}

#[test]
fn claims_that_let_in_are_alternatives() {
    let either = |keys: &str| one(keys).policy.rules[0].allow.clone().unwrap().or;
    let claims = either("allowed_idp_claims: {team/name: [a, 7], level: high}");
    let claims: Vec<_> = claims.iter().filter(|criterion| matches!(criterion, Criterion::Claim { .. })).collect();
    assert_eq!(claims.len(), 3);
    assert!(matches!(claims[0], Criterion::Claim { path, .. } if path.len() == 2));
    for keys in [
        "allowed_idp_claims: [a]",
        "allowed_idp_claims: {a: [[b]]}",
        "allowed_idp_claims: {a/b/c/d/e/f: x}",
        "allow_public_unauthenticated_access: true",
    ] {
        assert_eq!(wrong(keys).len(), 1, "{keys}");
    }
}

#[test]
fn what_a_list_of_routes_would_show_is_taken_and_warned_of() {
    let config = with(&text("", &format!("{TO}description: shop\n  logo_url: https://x/y.svg"))).unwrap();
    let said: Vec<_> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert!(said.contains(&"routes[0].description") && said.contains(&"routes[0].logo_url"), "{said:?}");
}
