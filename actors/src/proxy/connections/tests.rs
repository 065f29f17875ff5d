//! What is said to the workers, and when.

use std::collections::HashSet;
use std::sync::Arc;

use actix::{Actor, ActorContext};
use portcullis_config::limits::ENDED_BACKLOG;
use portcullis_events::{PersonId, SessionId, Time};
use serde_json::Map;
use uuid::Uuid;

use super::{Connections, Cutter, Scope, Scopes};
use crate::databroker::view::{SessionView, Views};

fn session(number: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(number))
}

fn signed_in(views: &Views, number: u128) -> SessionId {
    let id = session(number);
    views.begin(SessionView {
        id,
        person: PersonId::new(Uuid::from_u128(7)),
        idp: "idp".to_owned(),
        user: "alice".to_owned(),
        email: None,
        name: None,
        claims: Map::new(),
        groups: Vec::new(),
        issued_at: Time::from_secs(0),
        expires_at: Time::from_secs(60),
        seq: 1,
        activity: Arc::default(),
    });
    id
}

fn sessions<const N: usize>(ids: [SessionId; N]) -> Scopes {
    Scopes::Sessions(HashSet::from(ids))
}

#[actix::test]
async fn a_session_that_ends_or_changes_is_looked_at_again_and_one_that_begins_is_not() {
    let (connections, views) = (Connections::default(), Arc::new(Views::default()));
    let _cutter = Cutter::new(connections.clone(), Arc::clone(&views)).start();
    // the actor listens from its first turn on
    tokio::task::yield_now().await;
    let mut words = connections.words();
    let (alice, bob) = (signed_in(&views, 1), signed_in(&views, 2));
    views.finish(alice);
    assert_eq!(words.next().await, sessions([alice]));
    signed_in(&views, 2);
    assert_eq!(words.next().await, sessions([bob]));
}

#[actix::test]
async fn what_was_said_meanwhile_is_heard_at_once() {
    let connections = Connections::default();
    let mut words = connections.words();
    for number in [1, 2, 1] {
        connections.reconsider(Scope::Session(session(number)));
    }
    assert_eq!(words.next().await, sessions([session(1), session(2)]));
    connections.reconsider(Scope::Session(session(3)));
    connections.reconsider(Scope::All);
    assert_eq!(words.next().await, Scopes::All);
}

#[actix::test]
async fn more_changes_than_can_be_told_mean_everything() {
    let (connections, views) = (Connections::default(), Arc::new(Views::default()));
    let mut behind = connections.words();
    let _cutter = Cutter::new(connections.clone(), Arc::clone(&views)).start();
    tokio::task::yield_now().await;
    for number in 0..u128::try_from(ENDED_BACKLOG).unwrap() + 1 {
        let id = signed_in(&views, number);
        views.finish(id);
    }
    // the cutter could not follow
    assert_eq!(behind.next().await, Scopes::All);
    // and neither could this worker
    for number in 0..u128::try_from(ENDED_BACKLOG).unwrap() + 1 {
        connections.reconsider(Scope::Session(session(number)));
    }
    assert_eq!(behind.next().await, Scopes::All);
}

#[actix::test]
async fn the_end_of_the_cutter_stops_everything() {
    let (connections, views) = (Connections::default(), Arc::new(Views::default()));
    let mut words = connections.words();
    let _cutter = Cutter::create(|context| {
        context.stop();
        Cutter::new(connections.clone(), Arc::clone(&views))
    });
    assert_eq!(words.next().await, Scopes::All);
    assert!(connections.is_stopped());
}
