//! What is open, and when it is cut.

use std::sync::Arc;
use std::task::Poll;

use actix::{Actor, ActorContext};
use portcullis_config::limits::ENDED_BACKLOG;
use portcullis_events::{PersonId, SessionId, Time};
use serde_json::Map;
use uuid::Uuid;

use super::{Connections, Cutter, Ticket};
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

/// Whether a ticket is cut, once the cutter has had its turns.
async fn is_cut(ticket: Ticket) -> bool {
    let mut cut = Box::pin(ticket.cut());
    for _ in 0..16 {
        let cut = futures_util::future::poll_fn(|context| Poll::Ready(cut.as_mut().poll(context).is_ready()));
        if cut.await {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[test]
fn only_what_belongs_to_an_open_session_is_admitted() {
    let (connections, views) = (Connections::default(), Views::default());
    let alice = signed_in(&views, 1);
    let ticket = connections.admit(Some(alice), &views);
    assert!(ticket.is_some());
    assert!(connections.admit(Some(session(2)), &views).is_none());
    assert!(connections.admit(None, &views).is_some());
    // what was refused or dropped is forgotten
    assert_eq!(connections.len(), 1);
    drop(ticket);
    assert!(connections.is_empty());
    views.finish(alice);
    assert!(connections.admit(Some(alice), &views).is_none());
    assert!(connections.is_empty());
}

#[actix::test]
async fn what_belongs_to_a_session_is_cut_when_it_ends_and_the_rest_stays_open() {
    let (connections, views) = (Connections::default(), Arc::new(Views::default()));
    let (alice, bob) = (signed_in(&views, 1), signed_in(&views, 2));
    let _cutter = Cutter::new(connections.clone(), Arc::clone(&views)).start();
    // the actor listens from its first turn on
    tokio::task::yield_now().await;
    let admit = |session| connections.admit(session, &views).unwrap();
    let (first, second, other, public) = (admit(Some(alice)), admit(Some(alice)), admit(Some(bob)), admit(None));
    views.finish(alice);
    assert!(is_cut(first).await && is_cut(second).await);
    assert!(!is_cut(other).await && !is_cut(public).await);
    assert!(connections.is_empty());
}

#[actix::test]
async fn more_endings_than_can_be_told_cut_all_that_ended() {
    let (connections, views) = (Connections::default(), Arc::new(Views::default()));
    let (alice, bob) = (signed_in(&views, 1), signed_in(&views, 2));
    let _cutter = Cutter::new(connections.clone(), Arc::clone(&views)).start();
    tokio::task::yield_now().await;
    let (ended, open) =
        (connections.admit(Some(alice), &views).unwrap(), connections.admit(Some(bob), &views).unwrap());
    views.finish(alice);
    for number in 0..u128::try_from(ENDED_BACKLOG).unwrap() + 1 {
        let id = signed_in(&views, 10 + number);
        views.finish(id);
    }
    assert!(is_cut(ended).await && !is_cut(open).await);
}

#[actix::test]
async fn a_node_that_stops_cuts_everything_and_admits_nothing_more() {
    let (connections, views) = (Connections::default(), Views::default());
    let alice = signed_in(&views, 1);
    let (signed_in, public) =
        (connections.admit(Some(alice), &views).unwrap(), connections.admit(None, &views).unwrap());
    connections.stop();
    assert!(is_cut(signed_in).await && is_cut(public).await);
    assert!(connections.admit(Some(alice), &views).is_none() && connections.admit(None, &views).is_none());
    assert!(connections.is_empty());
}

#[actix::test]
async fn the_end_of_the_cutter_cuts_everything() {
    let (connections, views) = (Connections::default(), Arc::new(Views::default()));
    let ticket = connections.admit(None, &views).unwrap();
    let _cutter = Cutter::create(|context| {
        context.stop();
        Cutter::new(connections.clone(), Arc::clone(&views))
    });
    assert!(is_cut(ticket).await);
    assert!(connections.admit(None, &views).is_none());
}
