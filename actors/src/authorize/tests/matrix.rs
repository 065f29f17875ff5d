//! The policy matrix: what every criterion and the typical policies say of everybody's requests, as a golden file.

use std::fmt::Write;

use portcullis_config::policy::{Actions, Criterion, ListMatcher, ListTest, Policy, Rule, StringMatcher, StringTest};
use serde_json::json;

use super::people::*;

fn text(test: StringTest) -> StringMatcher {
    StringMatcher(vec![test])
}

fn list(test: ListTest) -> ListMatcher {
    ListMatcher(vec![test])
}

/// Every criterion, as a policy would write it.
pub(super) fn criteria() -> Vec<(&'static str, Criterion)> {
    let email = |test| Criterion::Email(text(test));
    let networks = || ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap()).to_vec();
    vec![
        ("accept: true", Criterion::Accept),
        ("reject: true", Criterion::Reject),
        ("authenticated_user: true", Criterion::AuthenticatedUser),
        ("user: alice", Criterion::User(is("alice"))),
        ("user: {in: [bob, carol]}", Criterion::User(text(StringTest::In(vec!["bob".into(), "carol".into()])))),
        ("email: {is: alice@example.com}", email(StringTest::Is("alice@example.com".into()))),
        ("email: {not: alice@example.com}", email(StringTest::Not("alice@example.com".into()))),
        ("email: {contains: alice}", email(StringTest::Contains("alice".into()))),
        ("email: {starts_with: BOB}", email(StringTest::StartsWith("BOB".into()))),
        ("email: {ends_with: '@example.com'}", email(StringTest::EndsWith("@example.com".into()))),
        ("email: {not_in: [alice@example.com]}", email(StringTest::NotIn(vec!["alice@example.com".into()]))),
        ("domain: example.com", Criterion::Domain(is("example.com"))),
        ("domain: Example.COM", Criterion::Domain(is("Example.COM"))),
        ("domain: {not: example.com}", Criterion::Domain(text(StringTest::Not("example.com".into())))),
        ("groups: admins", Criterion::Groups(has(json!("admins")))),
        ("groups: {is: dev}", Criterion::Groups(list(ListTest::Is(json!("dev"))))),
        ("groups: {exclude: admins}", Criterion::Groups(list(ListTest::Exclude(json!("admins"))))),
        ("groups: 1", Criterion::Groups(has(json!(1)))),
        ("claim/department: engineering", claim(&["department"], has(json!("engineering")))),
        ("claim/department: {is: sales}", claim(&["department"], list(ListTest::Is(json!("sales"))))),
        ("claim/level: 3", claim(&["level"], has(json!(3)))),
        ("claim/level: '3'", claim(&["level"], has(json!("3")))),
        ("claim/on_call: true", claim(&["on_call"], has(json!(true)))),
        ("claim/roles: owner", claim(&["roles"], has(json!("owner")))),
        ("claim/roles: {exclude: owner}", claim(&["roles"], list(ListTest::Exclude(json!("owner"))))),
        ("claim/realm_access/roles: admin", claim(&["realm_access", "roles"], has(json!("admin")))),
        ("claim/https://example.com/team: blue", claim(&["https:", "", "example", "com", "team"], has(json!("blue")))),
        ("claim/groups: admins", claim(&["groups"], has(json!("admins")))),
        ("claim/email: alice@example.com", claim(&["email"], has(json!("alice@example.com")))),
        ("http_method: GET", Criterion::HttpMethod(is("GET"))),
        ("http_method: get", Criterion::HttpMethod(is("get"))),
        ("http_path: {starts_with: /admin}", Criterion::HttpPath(text(StringTest::StartsWith("/admin".into())))),
        ("source_ip: [10.0.0.0/8, 2001:db8::/32]", Criterion::SourceIp(networks())),
        ("cors_preflight: true", Criterion::CorsPreflight),
        ("pomerium_routes: true", Criterion::PomeriumRoutes),
        (
            "allowed_users: [bob, alice@example.com]",
            Criterion::AllowedUsers(vec!["bob".into(), "alice@example.com".into()]),
        ),
    ]
}

/// Policies as people write them.
fn policies() -> Vec<(&'static str, Policy)> {
    let admins = || Criterion::Groups(has(json!("admins")));
    let admin_path = || Criterion::HttpPath(text(StringTest::StartsWith("/admin".into())));
    let mixed = Actions { and: vec![admins(), admin_path()], nor: vec![admins()], ..Actions::default() };
    vec![
        ("no rules", policy([])),
        ("allow not email alice", policy([allow(not([Criterion::Email(is("alice@example.com"))]))])),
        (
            "allow nor email alice, group admins",
            policy([allow(nor([Criterion::Email(is("alice@example.com")), admins()]))]),
        ),
        ("allow everyone; deny reject", policy([allow(or([Criterion::Accept])), deny(or([Criterion::Reject]))])),
        (
            "allow everyone; deny email alice",
            policy([allow(or([Criterion::Accept])), deny(or([Criterion::Email(is("alice@example.com"))]))]),
        ),
        ("allow everyone; deny not group admins", policy([allow(or([Criterion::Accept])), deny(not([admins()]))])),
        ("allow signed in, or group admins; deny /admin", {
            let deny = Actions { and: vec![admin_path()], ..Actions::default() };
            policy([allow(or([Criterion::AuthenticatedUser])), Rule { allow: Some(and([admins()])), deny: Some(deny) }])
        }),
        (
            "allow preflight or domain example.com",
            policy([allow(or([Criterion::CorsPreflight, Criterion::Domain(is("example.com"))]))]),
        ),
        ("allow (admins on /admin) or not admins", policy([allow(mixed)])),
    ]
}

fn cell(policy: &Policy, person: usize, request: usize) -> String {
    let decision = decide(policy, &requests()[request].1, people()[person].1.as_ref());
    let side = |holds: bool, reasons: super::super::Reasons| {
        format!("{} ({})", if holds { "yes" } else { "no" }, reasons.names().collect::<Vec<_>>().join(", "))
    };
    let (allow, deny) = (decision.allow_reasons(), decision.deny_reasons());
    let status = status(decision.outcome());
    format!("{status}  allow {}  deny {}", side(decision.allow(), allow), side(decision.deny(), deny))
}

/// Lines for one policy: what is alike for everybody, or for all requests of a person, is said once.
fn rows(matrix: &mut String, title: &str, policy: &Policy) {
    writeln!(matrix, "\n{title}").unwrap();
    let of = |person| (0..requests().len()).map(|request| cell(policy, person, request)).collect::<Vec<_>>();
    let mut people: Vec<_> = people().iter().enumerate().map(|(person, (name, _))| (*name, of(person))).collect();
    if people.iter().all(|(_, cells)| *cells == people[0].1) {
        people.truncate(1);
        people[0].0 = "everybody";
    }
    for (name, cells) in people {
        if cells.iter().all(|cell| *cell == cells[0]) {
            writeln!(matrix, "  {name:<9} {:<26} {}", "*", cells[0]).unwrap();
            continue;
        }
        for ((request, _), cell) in requests().iter().zip(cells) {
            writeln!(matrix, "  {name:<9} {request:<26} {cell}").unwrap();
        }
    }
}

#[test]
fn the_policy_matrix_is_as_it_was_reviewed() {
    let mut matrix = "Who may what, by every criterion (in allow/or) and by typical policies.\n".to_owned();
    for (title, criterion) in criteria() {
        rows(&mut matrix, title, &policy([allow(or([criterion]))]));
    }
    for (title, policy) in policies() {
        rows(&mut matrix, title, &policy);
    }
    let path = format!("{}/tests/golden/policy-matrix.txt", env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|_| {
        // a new matrix: delete the file, run once, and review the difference
        std::fs::create_dir_all(format!("{}/tests/golden", env!("CARGO_MANIFEST_DIR"))).unwrap();
        std::fs::write(&path, &matrix).unwrap();
        panic!("{path} was missing and is written now; look at it, and run again")
    });
    for (number, (is, was)) in (1..).zip(matrix.lines().zip(golden.lines())) {
        assert_eq!(is, was, "line {number}");
    }
    assert_eq!(matrix.lines().count(), golden.lines().count());
}
