//! The rules of the language, one by one.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_config::policy::{Actions, Criterion, ListMatcher, ListTest, Rule, StringMatcher, StringTest};
use serde_json::json;

use super::super::policies::Policies;
use super::super::{Decision, Reason, RefusalKind, authorize};
use super::people::*;
use crate::databroker::view::SessionView;

fn email(text: &str) -> Criterion {
    Criterion::Email(is(text))
}

/// What a policy says of `GET /`: outcome, allow, deny, and the reasons of both.
fn of(rules: impl IntoIterator<Item = Rule>, person: Option<SessionView>) -> (u16, bool, bool, Vec<&'static str>) {
    let caller = person.map(caller);
    let decision = decide(&policy(rules), &request("GET", "/", "203.0.113.9", false), caller.as_ref());
    let reasons = decision.allow_reasons().names().chain(decision.deny_reasons().names()).collect();
    (status(decision.outcome()), decision.allow(), decision.deny(), reasons)
}

#[test]
fn a_route_without_a_rule_denies_everyone() {
    assert_eq!(of([], None), (403, false, false, vec![]));
    assert_eq!(of([], Some(alice())), (403, false, false, vec![]));
    assert_eq!(of([Rule::default(), allow(Actions::default())], Some(alice())), (403, false, false, vec![]));
}

#[test]
fn an_operator_without_members_is_never_true() {
    for empty in [and([]), or([]), not([]), nor([])] {
        assert_eq!(of([allow(empty.clone())], Some(alice())), (403, false, false, vec![]));
        let rules = [allow(or([Criterion::Accept])), deny(empty)];
        assert_eq!(of(rules, None), (200, true, false, vec!["accept"]));
    }
}

#[test]
fn deny_beats_allow_wherever_it_stands() {
    let open = || allow(or([Criterion::Accept]));
    let shut = || deny(or([Criterion::Reject]));
    for rules in [vec![open(), shut()], vec![shut(), open()], vec![open(), shut(), open()]] {
        assert_eq!(of(rules, Some(alice())), (403, true, true, vec!["accept", "reject"]));
    }
    let both = Rule { allow: Some(or([Criterion::Accept])), deny: Some(or([Criterion::Reject])) };
    assert_eq!(of([both], None).0, 403);
}

#[test]
fn rules_and_operators_are_alternatives() {
    let rules = [allow(or([email("x@example.com")])), allow(or([Criterion::User(is("alice"))]))];
    assert_eq!(of(rules, Some(alice())), (200, true, false, vec!["user-ok"]));
    let actions = Actions { and: vec![email("x@example.com")], or: vec![Criterion::Accept], ..Actions::default() };
    assert_eq!(of([allow(actions)], Some(alice())), (200, true, false, vec!["accept"]));
}

#[test]
fn not_is_true_when_every_member_is_false_and_nor_when_one_is() {
    let members = || [email("alice@example.com"), email("x@example.com")];
    assert_eq!(of([allow(not(members()))], Some(alice())), (403, false, false, vec!["email-ok"]));
    assert_eq!(of([allow(nor(members()))], Some(alice())), (200, true, false, vec!["email-unauthorized"]));
    assert_eq!(of([allow(not(members()))], Some(bob())).0, 200);
    assert_eq!(of([allow(nor([email("alice@example.com")]))], Some(alice())).0, 403);
}

#[test]
fn not_and_nor_never_let_in_somebody_unknown() {
    for actions in [not([email("x@example.com")]), nor([email("x@example.com")]), nor([Criterion::AuthenticatedUser])] {
        assert_eq!(of([allow(actions)], None), (401, true, false, vec!["user-unauthenticated"]));
    }
}

#[test]
fn a_public_route_stays_public_beside_rules_about_people() {
    let rules = [allow(or([Criterion::Accept])), allow(and([email("alice@example.com")]))];
    assert_eq!(of(rules, None), (200, true, false, vec!["accept"]));
}

#[test]
fn a_deny_about_people_makes_somebody_unknown_sign_in_first() {
    let rules = [allow(or([Criterion::Accept])), deny(or([email("mallory@example.com")]))];
    assert_eq!(of(rules.clone(), None), (401, true, false, vec!["accept", "user-unauthenticated"]));
    assert_eq!(of(rules, Some(alice())).0, 200);
}

#[test]
fn somebody_unknown_is_asked_to_sign_in_by_every_criterion_about_people() {
    for criterion in [
        Criterion::AuthenticatedUser,
        Criterion::User(is("")),
        email(""),
        Criterion::Domain(is("")),
        Criterion::Groups(ListMatcher(vec![ListTest::Exclude(json!("x"))])),
        claim(&["x"], ListMatcher(vec![ListTest::Exclude(json!("x"))])),
        Criterion::AllowedUsers(vec![String::new()]),
    ] {
        let seen = of([allow(or([criterion.clone()]))], None);
        assert_eq!(seen, (401, false, false, vec!["user-unauthenticated"]), "{criterion:?}");
    }
}

#[test]
fn a_domain_admits_the_exact_one_alone() {
    let allowed = |email: &str| {
        let person = SessionView { email: Some(email.into()), ..session("x") };
        of([allow(or([Criterion::Domain(is("example.com"))]))], Some(person)).0
    };
    assert_eq!((allowed("alice@example.com"), allowed("ALICE@EXAMPLE.COM")), (200, 200));
    for foreign in [
        "alice@ex\u{430}mple.com",
        "alice@example.com.evil.example",
        "alice@evil.example,bob@example.com",
        "alice@evil.example@example.com",
        "alice@sub.example.com",
        "alice@example.com.",
        "alice@example.com\n",
        "example.com",
        "@example.com",
    ] {
        assert_eq!(allowed(foreign), 403, "{foreign:?}");
    }
}

#[test]
fn a_denied_domain_is_denied_in_any_spelling_of_either_side() {
    let person = || Some(SessionView { email: Some("m@Evil.example".into()), ..session("m") });
    for domain in ["evil.example", "EVIL.example"] {
        let rules = [allow(or([Criterion::Accept])), deny(or([Criterion::Domain(is(domain))]))];
        assert_eq!(of(rules, person()).0, 403);
    }
}

#[test]
fn an_email_that_is_not_verified_counts_nowhere() {
    let unverified = || Some(carol());
    for criterion in [
        email("alice@example.com"),
        Criterion::Domain(is("example.com")),
        Criterion::AllowedUsers(vec!["alice@example.com".into()]),
        claim(&["email"], has(json!("alice@example.com"))),
    ] {
        assert_eq!(of([allow(or([criterion.clone()]))], unverified()).0, 403, "{criterion:?}");
    }
}

#[test]
fn a_groups_claim_that_is_no_list_is_no_group() {
    let rules = || [allow(or([Criterion::Groups(has(json!("admins")))]))];
    assert_eq!(of(rules(), Some(alice())).0, 200);
    assert_eq!(of(rules(), Some(mallory())), (403, false, false, vec!["groups-unauthorized"]));
}

#[test]
fn an_allowed_user_is_known_by_id_or_by_address() {
    let rules = |user: &str| [allow(or([Criterion::AllowedUsers(vec![user.into()])]))];
    assert_eq!(of(rules("alice"), Some(alice())), (200, true, false, vec!["user-ok"]));
    assert_eq!(of(rules("alice@example.com"), Some(alice())), (200, true, false, vec!["email-ok"]));
    let neither = vec!["email-unauthorized", "user-unauthorized"];
    assert_eq!(of(rules("Alice"), Some(alice())), (403, false, false, neither));
}

#[test]
fn the_tests_of_one_matcher_hold_together() {
    let both = StringMatcher(vec![StringTest::StartsWith("al".into()), StringTest::Not("alice".into())]);
    assert_eq!(of([allow(or([Criterion::User(both)]))], Some(alice())).0, 403);
}

#[test]
fn an_index_without_a_route_is_not_found() {
    let policies = Policies::of(&[]);
    let decision = policies.decide(0, &request("GET", "/", "203.0.113.9", false), None);
    assert!(decision.deny() && !decision.allow() && decision.deny_reasons().contains(Reason::RouteNotFound));
    assert_eq!(decision.outcome(), Err(RefusalKind::NotFound));
}

fn authorized(index: usize, id: &str) -> (Decision, bool) {
    let open = route(policy([allow(or([Criterion::Accept]))]));
    let policies = Policies::of(std::slice::from_ref(&open));
    let route = Arc::new(portcullis_config::Route { id: id.into(), ..open });
    let request = Rc::new(request("GET", "/", "203.0.113.9", false));
    let (decision, permit) = authorize(&policies, index, Arc::clone(&route), Rc::clone(&request), None);
    if let Ok(permit) = &permit {
        assert!(std::ptr::eq(permit.request(), &raw const *request) && std::ptr::eq(permit.route(), &raw const *route));
        assert!(permit.caller().is_none());
    }
    (decision, permit.is_ok())
}

#[test]
fn a_permit_is_made_for_the_route_that_the_policy_was_written_for_and_no_other() {
    assert!(authorized(0, "0123456789abcdef").1);
    for (index, id) in [(1, "0123456789abcdef"), (0, "fedcba9876543210")] {
        let (decision, permitted) = authorized(index, id);
        assert_eq!((decision.outcome(), permitted), (Err(RefusalKind::NotFound), false));
    }
}
