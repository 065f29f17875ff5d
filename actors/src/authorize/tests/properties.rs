//! Random policies against an evaluator written by the letter of the language's rules, and what must hold for all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portcullis_config::policy::{Actions, Criterion, ListMatcher, ListTest, Policy, Rule, StringMatcher, StringTest};
use proptest::prelude::*;
use serde_json::Value;

use super::super::RefusalKind;
use super::matrix::criteria;
use super::people::*;
use crate::authenticate::Caller;
use crate::databroker::view::SessionView;
use crate::request::Canonical;

type Naive = (bool, BTreeSet<&'static str>);

fn text(matcher: &StringMatcher, text: &str) -> bool {
    matcher.0.iter().all(|test| match test {
        StringTest::Is(wanted) => wanted == text,
        StringTest::Not(unwanted) => unwanted != text,
        StringTest::Contains(part) => text.contains(part),
        StringTest::StartsWith(start) => text.starts_with(start),
        StringTest::EndsWith(end) => text.ends_with(end),
        StringTest::In(wanted) => wanted.iter().any(|wanted| wanted == text),
        StringTest::NotIn(unwanted) => unwanted.iter().all(|unwanted| unwanted != text),
    })
}

fn list(matcher: &ListMatcher, values: &[Value]) -> bool {
    matcher.0.iter().all(|test| match test {
        ListTest::Has(value) => values.contains(value),
        ListTest::Is(value) => values.len() == 1 && values[0] == *value,
        ListTest::Exclude(value) => !values.contains(value),
    })
}

fn claim_values(session: &SessionView, path: &[String]) -> Vec<Value> {
    if path.join("/") == "https://example/com/team" {
        return session.claims.get("https://example.com/team").and_then(Value::as_array).cloned().unwrap_or_default();
    }
    if path == ["email"] && session.email.is_none() {
        return vec![];
    }
    let mut at = Value::Object(session.claims.clone());
    for level in path {
        at = at.as_object().and_then(|levels| levels.get(level)).cloned().unwrap_or(Value::Null);
    }
    match at {
        Value::Array(values) => values,
        Value::Null | Value::Object(_) => vec![],
        scalar => vec![scalar],
    }
}

fn domain(matcher: &StringMatcher, email: &str) -> bool {
    let parts: Vec<_> = email.split('@').collect();
    // the domains of the pool are all the same one
    let lower = StringMatcher(
        matcher
            .0
            .iter()
            .map(|test| match test {
                StringTest::Is(text) => StringTest::Is(text.to_lowercase()),
                other => other.clone(),
            })
            .collect(),
    );
    matches!(*parts, [_, domain] if text(&lower, &domain.to_lowercase()))
}

fn criterion(criterion: &Criterion, request: &Canonical, caller: Option<&Caller>) -> Naive {
    let verdict = |holds, ok, failed| (holds, BTreeSet::from([if holds { ok } else { failed }]));
    let person = |judge: &dyn Fn(&SessionView) -> Naive| match caller {
        Some(caller) => judge(caller.session()),
        None => (false, BTreeSet::from(["user-unauthenticated"])),
    };
    let email = |session: &SessionView| session.email.clone().unwrap_or_default();
    match criterion {
        Criterion::Accept => verdict(true, "accept", ""),
        Criterion::Reject => verdict(true, "reject", ""),
        Criterion::AuthenticatedUser => person(&|_| verdict(true, "user-ok", "")),
        Criterion::User(m) => person(&|s| verdict(text(m, &s.user), "user-ok", "user-unauthorized")),
        Criterion::Email(m) => person(&|s| verdict(text(m, &email(s)), "email-ok", "email-unauthorized")),
        Criterion::Domain(m) => person(&|s| verdict(domain(m, &email(s)), "domain-ok", "domain-unauthorized")),
        Criterion::Groups(m) => person(&|s| {
            let groups: Vec<Value> = s.groups.iter().map(|group| group.as_str().into()).collect();
            verdict(list(m, &groups), "groups-ok", "groups-unauthorized")
        }),
        Criterion::Claim { path, matcher } => {
            person(&|s| verdict(list(matcher, &claim_values(s, path)), "claim-ok", "claim-unauthorized"))
        }
        Criterion::HttpMethod(m) => {
            verdict(text(m, request.method().as_str()), "http-method-ok", "http-method-unauthorized")
        }
        Criterion::HttpPath(m) => verdict(text(m, request.path()), "http-path-ok", "http-path-unauthorized"),
        Criterion::SourceIp(networks) => {
            let client = match request.client() {
                IpAddr::V6(address) => address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4),
                v4 @ IpAddr::V4(_) => v4,
            };
            let inside = networks.iter().any(|network| network.contains(&client));
            verdict(inside, "source-ip-ok", "source-ip-unauthorized")
        }
        Criterion::CorsPreflight => {
            let headers = ["origin", "access-control-request-method"];
            let all = headers.iter().all(|name| request.headers().contains_key(*name));
            verdict(request.method() == "OPTIONS" && all, "cors-request", "non-cors-request")
        }
        Criterion::PomeriumRoutes => {
            let own = request.path() == "/.pomerium" || request.path().starts_with("/.pomerium/");
            verdict(own, "pomerium-route", "non-pomerium-route")
        }
        Criterion::ClientCertificate(m) => match request.certificate() {
            None => verdict(false, "", "client-certificate-required"),
            Some(shown) if !shown.holds() => verdict(false, "", "invalid-client-certificate"),
            Some(shown) => {
                let has = |hashes: &Option<Vec<String>>, hash| hashes.as_ref().is_none_or(|all| all.contains(hash));
                let one = |m: &Option<StringMatcher>, names: &[String]| {
                    m.as_ref().is_none_or(|m| names.iter().any(|name| text(m, name)))
                };
                let it = shown.details();
                let holds = has(&m.fingerprints, &it.fingerprint)
                    && has(&m.spki_hashes, &it.spki_hash)
                    && one(&m.dns, &it.dns)
                    && one(&m.email, &it.email)
                    && one(&m.uri, &it.uri);
                verdict(holds, "client-certificate-ok", "client-certificate-unauthorized")
            }
        },
        Criterion::InvalidClientCertificate => match request.certificate() {
            None => verdict(true, "client-certificate-required", ""),
            Some(shown) if !shown.holds() => verdict(true, "invalid-client-certificate", ""),
            Some(_) => verdict(false, "", "valid-client-certificate"),
        },
        Criterion::AllowedUsers(users) => person(&|s| {
            let user = verdict(users.contains(&s.user), "user-ok", "user-unauthorized");
            merge_or(vec![user, verdict(users.contains(&email(s)), "email-ok", "email-unauthorized")])
        }),
    }
}

fn reasons<'a>(verdicts: impl Iterator<Item = &'a Naive>) -> BTreeSet<&'static str> {
    verdicts.flat_map(|(_, reasons)| reasons.iter().copied()).collect()
}

/// `and`: all true → true with the union; otherwise false with the union of the false members only.
fn merge_and(verdicts: Vec<Naive>) -> Naive {
    if verdicts.iter().all(|(holds, _)| *holds) {
        (true, reasons(verdicts.iter()))
    } else {
        (false, reasons(verdicts.iter().filter(|(holds, _)| !holds)))
    }
}

/// `or`: any true → true with the reasons of the true members only; otherwise false with the union of all.
fn merge_or(verdicts: Vec<Naive>) -> Naive {
    if verdicts.iter().any(|(holds, _)| *holds) {
        (true, reasons(verdicts.iter().filter(|(holds, _)| *holds)))
    } else {
        (false, reasons(verdicts.iter()))
    }
}

fn actions(actions: &Actions, request: &Canonical, caller: Option<&Caller>) -> Naive {
    let members = |list: &[Criterion]| list.iter().map(|c| criterion(c, request, caller)).collect::<Vec<_>>();
    let flipped = |list: &[Criterion]| members(list).into_iter().map(|(holds, why)| (!holds, why)).collect();
    let mut alternatives = vec![];
    if !actions.and.is_empty() {
        alternatives.push(merge_and(members(&actions.and)));
    }
    if !actions.or.is_empty() {
        alternatives.push(merge_or(members(&actions.or)));
    }
    if !actions.not.is_empty() {
        alternatives.push(merge_and(flipped(&actions.not)));
    }
    if !actions.nor.is_empty() {
        alternatives.push(merge_or(flipped(&actions.nor)));
    }
    merge_or(alternatives)
}

fn naive(policy: &Policy, request: &Canonical, caller: Option<&Caller>) -> (Naive, Naive, u16) {
    let side = |side: fn(&Rule) -> &Option<Actions>| {
        merge_or(
            policy.rules.iter().filter_map(|rule| side(rule).as_ref()).map(|a| actions(a, request, caller)).collect(),
        )
    };
    let (allow, deny) = (side(|rule| &rule.allow), side(|rule| &rule.deny));
    let unknown = allow.1.contains("user-unauthenticated") || deny.1.contains("user-unauthenticated");
    let certificate = |side: &Naive| {
        ["client-certificate-required", "invalid-client-certificate"].iter().any(|reason| side.1.contains(reason))
    };
    let refused = |side: &Naive| if certificate(side) { 495 } else { 403 };
    let status = match (unknown, deny.0, allow.0) {
        _ if certificate(&deny) => 495,
        (true, _, _) => 401,
        (false, true, _) => refused(&deny),
        (false, false, false) => refused(&allow),
        (false, false, true) => 200,
    };
    (allow, deny, status)
}

fn members(certificates: bool) -> impl Strategy<Value = Vec<Criterion>> {
    let mut pool: Vec<Criterion> = criteria().into_iter().map(|(_, criterion)| criterion).collect();
    if certificates {
        pool.extend(certificate_criteria().into_iter().flat_map(|criterion| vec![criterion; 4]));
    }
    prop::collection::vec(prop::sample::select(pool), 0..4)
}

fn some_actions(certificates: bool) -> impl Strategy<Value = Actions> {
    let some = || members(certificates);
    (some(), some(), some(), some()).prop_map(|(and, or, not, nor)| Actions { and, or, not, nor })
}

fn some_policy() -> impl Strategy<Value = Policy> {
    any_policy(false)
}

fn any_policy(certificates: bool) -> impl Strategy<Value = Policy> {
    let rule = (prop::option::of(some_actions(certificates)), prop::option::of(some_actions(certificates)));
    let rules = prop::collection::vec(rule.prop_map(|(allow, deny)| Rule { allow, deny }), 0..4);
    rules.prop_map(|rules| Policy { rules })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn the_compiled_policy_says_what_the_letter_of_the_rules_says(
        policy in any_policy(true), person in 0..people().len(), at in 0..requests().len() + shown_requests().len()
    ) {
        let people = people();
        let requests: Vec<_> = requests().into_iter().map(|(_, request)| request).chain(shown_requests()).collect();
        let (request, caller) = (&requests[at], people[person].1.as_ref());
        let decision = decide(&policy, request, caller);
        let (allow, deny, expected) = naive(&policy, request, caller);
        prop_assert_eq!((decision.allow(), decision.allow_reasons().names().collect()), allow);
        prop_assert_eq!((decision.deny(), decision.deny_reasons().names().collect()), deny);
        prop_assert_eq!(status(decision.outcome()), expected);
    }

    #[test]
    fn nothing_is_allowed_beside_a_deny_that_is_true(
        policy in some_policy(), place in any::<prop::sample::Index>(), person in 0..people().len(), at in 0..requests().len()
    ) {
        let (people, requests) = (people(), requests());
        let (request, caller) = (&requests[at].1, people[person].1.as_ref());
        let mut policy = policy;
        policy.rules.insert(place.index(policy.rules.len() + 1), deny(or([Criterion::Reject])));
        let outcome = decide(&policy, request, caller).outcome();
        prop_assert!(matches!(outcome, Err(RefusalKind::Denied | RefusalKind::SignIn)), "{:?}", outcome);
    }

    #[test]
    fn somebody_unknown_gets_in_only_where_no_person_was_asked_for(policy in some_policy(), at in 0..requests().len()) {
        let decision = decide(&policy, &requests()[at].1, None);
        let asked = decision.allow_reasons().names().chain(decision.deny_reasons().names());
        let asked = asked.into_iter().any(|reason| reason == "user-unauthenticated");
        prop_assert_eq!(asked, decision.outcome() == Err(RefusalKind::SignIn));
        prop_assert!(decision.outcome().is_err() || (decision.allow() && !decision.deny() && !asked));
    }
}
