//! The policy language as it may be written.

use portcullis_config::policy::{Actions, Criterion, ListMatcher, ListTest, Policy, Rule, StringMatcher, StringTest};
use serde_json::json;

use crate::with;

fn route(policy: &str) -> String {
    format!("routes:\n- from: https://a.example.com\n  to: http://127.0.0.1:1\n  {}\n", policy.replace('\n', "\n  "))
}

fn policy(text: &str) -> Policy {
    match with(&route(text)) {
        Ok(config) => config.routes[0].policy.clone(),
        Err(problems) => panic!("{problems}"),
    }
}

fn criterion(text: &str) -> Criterion {
    let policy = policy(&format!("policy: {{allow: {{and: [{text}]}}}}"));
    policy.rules[0].allow.as_ref().unwrap().and[0].clone()
}

/// The problems of one criterion, without place and path.
fn refused(text: &str) -> Vec<String> {
    let problems = with(&route(&format!("policy: {{allow: {{and: [{text}]}}}}"))).expect_err(text);
    problems.0.iter().map(|problem| format!("{}; {}", problem.wrong, problem.right)).collect()
}

fn is(text: &str) -> StringMatcher {
    StringMatcher(vec![StringTest::Is(text.to_owned())])
}

#[test]
fn a_document_is_a_rule_or_a_list_of_rules() {
    let one = "policy:\n  allow:\n    and:\n    - accept: true\n    or:\n    - user: a\n    not:\n    - user: b\n    nor:\n    - user: c\n  deny:\n    or:\n    - reject: true";
    let allow = Actions {
        and: vec![Criterion::Accept],
        or: vec![Criterion::User(is("a"))],
        not: vec![Criterion::User(is("b"))],
        nor: vec![Criterion::User(is("c"))],
    };
    let deny = Actions { or: vec![Criterion::Reject], ..Actions::default() };
    assert_eq!(policy(one).rules, [Rule { allow: Some(allow), deny: Some(deny) }]);
    let two = policy("policy:\n- allow: {or: [accept: true]}\n- deny: {or: [user: x]}");
    assert_eq!(two.rules.len(), 2);
    assert!(two.rules[0].deny.is_none() && two.rules[1].allow.is_none());
}

#[test]
fn every_criterion_is_understood() {
    for data in ["true", "{}", "", "null", "1", "yes"] {
        assert_eq!(criterion(&format!("{{accept: {data}}}")), Criterion::Accept, "{data}");
    }
    assert_eq!(criterion("{reject: true}"), Criterion::Reject);
    assert_eq!(criterion("{authenticated_user: true}"), Criterion::AuthenticatedUser);
    assert_eq!(criterion("{cors_preflight: true}"), Criterion::CorsPreflight);
    assert_eq!(criterion("{pomerium_routes: true}"), Criterion::PomeriumRoutes);
    assert_eq!(criterion("{user: {is: 12}}"), Criterion::User(is("12")));
    assert_eq!(criterion("{email: a@b}"), Criterion::Email(is("a@b")));
    assert_eq!(criterion("{domain: {is: b}}"), Criterion::Domain(is("b")));
    assert_eq!(criterion("{http_method: {is: GET}}"), Criterion::HttpMethod(is("GET")));
    assert_eq!(
        criterion("{http_path: {starts_with: /a, not: '', ends_with: z, contains: m, in: [a, b], not_in: [c]}}"),
        Criterion::HttpPath(StringMatcher(vec![
            StringTest::StartsWith("/a".into()),
            StringTest::Not(String::new()),
            StringTest::EndsWith("z".into()),
            StringTest::Contains("m".into()),
            StringTest::In(vec!["a".into(), "b".into()]),
            StringTest::NotIn(vec!["c".into()]),
        ]))
    );
    let has = |value| ListMatcher(vec![ListTest::Has(value)]);
    assert_eq!(criterion("{groups: admin}"), Criterion::Groups(has(json!("admin"))));
    assert_eq!(
        criterion("{groups: {has: 7, exclude: b, is: c}}"),
        Criterion::Groups(ListMatcher(vec![
            ListTest::Has(json!("7")),
            ListTest::Exclude(json!("b")),
            ListTest::Is(json!("c")),
        ]))
    );
    let claim = |path: &[&str], value| Criterion::Claim {
        path: path.iter().map(|level| (*level).to_owned()).collect(),
        matcher: has(value),
    };
    assert_eq!(criterion("{claim/admin: true}"), claim(&["admin"], json!(true)));
    assert_eq!(criterion("{claim/a/b.c: 1.5}"), claim(&["a", "b", "c"], json!(1.5)));
    assert_eq!(criterion("{claim/a: '1'}"), claim(&["a"], json!("1")));
    assert_eq!(criterion("{'claim/https://e.com/roles': x}"), claim(&["https://e.com/roles"], json!("x")));
    let nets = |texts: &[&str]| Criterion::SourceIp(texts.iter().map(|text| text.parse().unwrap()).collect());
    assert_eq!(criterion("{source_ip: 10.1.2.3/8}"), nets(&["10.0.0.0/8"]));
    assert_eq!(criterion("{source_ip: [192.0.2.1, '2001:db8::/32']}"), nets(&["192.0.2.1/32", "2001:db8::/32"]));
}

#[test]
fn an_unknown_criterion_is_an_error_with_its_place() {
    let problems =
        with(&route("policy:\n- allow:\n    and:\n    - emial: a@b\n    - device: {is: x}\n  dney: {}")).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "config.yaml:12: routes[0].policy[0].allow.and[0].emial: is not a known criterion; did you mean email\n\
         config.yaml:13: routes[0].policy[0].allow.and[1].device: not supported by this version as a criterion; remove it, or the route\n\
         config.yaml:14: routes[0].policy[0].dney: is not a known key; did you mean deny"
    );
}

#[test]
fn what_the_grammar_does_not_have_is_refused() {
    for text in [
        "{}",
        "{user: a, email: b}",
        "text",
        "[{accept: true}]",
        "{accept: false}",
        "{accept: {is: x}}",
        "{user: null}",
        "{user: true}",
        "{user: [a]}",
        "{user: {}}",
        "{user: {is: [a]}}",
        "{user: {in: a}}",
        "{user: {matches: a}}",
        "{user/name: a}",
        "{groups: [a, b]}",
        "{groups: {}}",
        "{groups: {contains: a}}",
        "{claim: a}",
        "{claim/: a}",
        "{claim/a//b: a}",
        "{claim/a.b.c.d.e.f: a}",
        "{claim/a: null}",
        "{claim/a: {has: [a]}}",
        "{source_ip: 10.0.0}",
        "{source_ip: []}",
        "{source_ip: 10.0.0.0/33}",
    ] {
        assert_eq!(refused(text).len(), 1, "{text}: {:?}", refused(text));
    }
    for text in ["policy: text", "policy: {allow: text}", "policy: {allow: {and: {accept: true}}}", "policy: {}"] {
        assert_eq!(with(&route(text)).expect_err(text).0.len(), 1, "{text}");
    }
}

#[test]
fn one_bad_criterion_leaves_no_rule_behind_that_says_less() {
    let problems = with(&route("policy: {allow: {and: [{user: a}, {nonsense: b}]}}")).unwrap_err();
    assert_eq!(problems.0.len(), 1);
}

#[test]
fn shorthand_keys_come_first_as_one_rule() {
    let both = policy(
        "allowed_users: [a, b@c]\nallowed_domains: d\ncors_allow_preflight: true\npolicy: {deny: {or: [user: x]}}",
    );
    let either = vec![
        Criterion::CorsPreflight,
        Criterion::AllowedUsers(vec!["a".into(), "b@c".into()]),
        Criterion::Domain(StringMatcher(vec![StringTest::In(vec!["d".into()])])),
    ];
    assert_eq!(both.rules[0], Rule { allow: Some(Actions { or: either, ..Actions::default() }), deny: None });
    assert_eq!(both.rules.len(), 2);
    let only = |criterion| Rule { allow: Some(Actions { or: vec![criterion], ..Actions::default() }), deny: None };
    assert_eq!(policy("allow_public_unauthenticated_access: true").rules, [only(Criterion::Accept)]);
    assert_eq!(policy("allow_any_authenticated_user: true").rules, [only(Criterion::AuthenticatedUser)]);
    assert_eq!(policy("allow_any_authenticated_user: false").rules, []);
}

#[test]
fn a_route_is_public_or_limited_and_not_both() {
    for text in [
        "allow_public_unauthenticated_access: true\nallow_any_authenticated_user: true",
        "allow_public_unauthenticated_access: true\nallowed_users: [a]",
        "allow_any_authenticated_user: true\nallowed_domains: [a]",
    ] {
        assert_eq!(with(&route(text)).expect_err(text).0.len(), 1, "{text}");
    }
}
