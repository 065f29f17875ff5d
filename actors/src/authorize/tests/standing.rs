//! What was permitted, asked again: by the policy, the session and the groups of then.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portcullis_config::Route;
use portcullis_config::policy::{Criterion, Rule};
use serde_json::json;

use super::super::policies::Policies;
use super::super::{Standing, authorize};
use super::people::*;
use crate::databroker::view::{SessionView, Views};

fn admins() -> Route {
    route(policy([allow(and([Criterion::Groups(has(json!("admins")))]))]))
}

fn everybody() -> Route {
    route(policy([allow(or([Criterion::Accept]))]))
}

/// Somebody, or nobody, who was let in by a route's policy.
fn let_in(route: &Route, person: Option<SessionView>) -> Standing {
    let (route, request) = (Arc::new(route.clone()), Rc::new(request("GET", "/", "203.0.113.9", false)));
    let policies = Policies::of(std::slice::from_ref(&route));
    let (_, outcome) = authorize(&policies, 0, route, request, person.map(caller));
    outcome.unwrap().standing()
}

fn holds(standing: &Standing, route: &Route, views: &Views) -> bool {
    standing.clone().holds(&Policies::of(std::slice::from_ref(route)), 0, route, views, NOW)
}

fn signed_in(person: SessionView) -> Views {
    let views = Views::default();
    views.begin(person);
    views
}

#[test]
fn a_permit_holds_as_long_as_nothing_has_changed() {
    let standing = let_in(&admins(), Some(alice()));
    assert!(holds(&standing, &admins(), &signed_in(alice())));
    assert!(holds(&let_in(&everybody(), None), &everybody(), &Views::default()));
}

#[test]
fn a_permit_is_lost_with_its_session_even_where_none_is_needed() {
    for route in [admins(), everybody()] {
        let standing = let_in(&route, Some(alice()));
        assert!(!holds(&standing, &route, &Views::default()));
        let mut over = alice();
        over.expires_at = NOW;
        assert!(!holds(&standing, &route, &signed_in(over)));
    }
}

#[test]
fn a_permit_is_lost_with_the_group_it_came_from_and_not_with_another() {
    let standing = let_in(&admins(), Some(alice()));
    assert!(holds(&standing, &admins(), &signed_in(SessionView { groups: vec!["admins".into()], ..alice() })));
    assert!(!holds(&standing, &admins(), &signed_in(SessionView { groups: vec!["dev".into()], ..alice() })));
}

#[test]
fn a_session_that_was_prolonged_ends_later() {
    let mut standing = let_in(&admins(), Some(alice()));
    let prolonged = alice().expires_at.plus(Duration::from_secs(60));
    let views = signed_in(SessionView { expires_at: prolonged, ..alice() });
    assert!(standing.holds(&Policies::of(&[admins()]), 0, &admins(), &views, NOW));
    assert_eq!(standing.ends_at(), Some(prolonged));
}

#[test]
fn a_permit_is_lost_with_the_rule_the_route_or_the_place_it_came_from() {
    let standing = let_in(&admins(), Some(alice()));
    let views = signed_in(alice());
    let shut = route(policy([Rule::default()]));
    assert!(!holds(&standing, &shut, &views));
    // the same address leads somewhere else now
    let other = Route { id: "another".into(), ..everybody() };
    assert!(!holds(&standing, &other, &views));
    // a policy that was compiled from another route
    assert!(!standing.clone().holds(&Policies::of(&[other]), 0, &admins(), &views, NOW));
    assert!(!standing.clone().holds(&Policies::of(&[]), 0, &admins(), &views, NOW));
}
