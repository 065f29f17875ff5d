//! What is opened when, and closed when.

mod idle;

use std::time::Duration;

use portcullis_config::Secret;
use portcullis_events::session::SignedIn;
use portcullis_events::{Aggregate, Context, Envelope, Epoch, Event, EventId, Fold, log};
use uuid::Uuid;

use super::*;
use crate::databroker::data_keys::DataKeys;
use crate::databroker::sqlite::Scratch;
use crate::databroker::vault::file::FileVault;
use crate::keyring::{Keyring, Purpose};

const NOW: Time = Time::from_secs(100);
const ID: SessionId = SessionId::new(Uuid::from_u128(7));
const PERSON: PersonId = PersonId::new(Uuid::from_u128(8));

async fn keys() -> DataKeys {
    let vault = FileVault::temporary(&Arc::new(Scratch::new().unwrap())).unwrap();
    let ring = Keyring::new(vec![Secret::new(vec![7; 32])]).unwrap();
    let keys = DataKeys::new(Arc::new(vault), ring.sealer(Purpose::DataKey).unwrap());
    keys.get_or_make(PERSON).await.unwrap();
    keys
}

/// The record of Alice's session, its profile sealed for the session `of`.
async fn record(keys: &DataKeys, of: SessionId) -> SessionRecord {
    let key = keys.get(PERSON).await.unwrap().unwrap();
    let claims = serde_json::json!({"sub": "alice"}).as_object().unwrap().clone();
    let profile = Profile { claims }.seal(&key, of).unwrap();
    let expires_at = NOW.plus(Duration::from_secs(60));
    let signed_in =
        SignedIn { person: PERSON, idp: "idp".into(), profile, issued_at: NOW, expires_at, provider_session: None };
    let epoch = Epoch::new(Uuid::from_u128(9));
    let events = [
        (Aggregate::LOG, Event::Log(log::Event::Created(log::Created { epoch }))),
        (Aggregate::session(ID), Event::Session(session::Event::SignedIn(signed_in))),
    ];
    let mut fold = Fold::default();
    for (seq, (aggregate, event)) in (1..).zip(events) {
        let context = Context { actor: "test".into(), cause: None, traceparent: None };
        let id = EventId::new(Uuid::from_u128(seq.into()));
        let envelope = Envelope { id, source: "/test".into(), aggregate, time: NOW, context, epoch, prev: None, event };
        fold.apply(seq, &aggregate.subject(), &envelope.encode().unwrap()).unwrap();
    }
    fold.session_record(ID).unwrap()
}

async fn views(of: SessionId) -> Views {
    let keys = keys().await;
    let views = Views::default();
    views.open_with(keys.known());
    let record = record(&keys, of).await;
    views.open_sealed(ID, record);
    views
}

fn is_opened(views: &Views) -> bool {
    let opened = views.sessions.pin().get(&ID).is_some_and(|held| held.view().is_some());
    assert_eq!(views.opened.pin().contains(&ID), opened);
    opened
}

#[actix_rt::test]
async fn a_profile_is_opened_for_whoever_comes_and_closed_when_nobody_does() {
    let views = views(ID).await;
    assert!(!is_opened(&views));
    let view = views.session(ID).unwrap();
    assert_eq!((view.user.as_str(), view.seq), ("alice", 2));
    assert!(is_opened(&views));
    assert!(Arc::ptr_eq(&view, &views.session(ID).unwrap()), "it is opened once");
    views.sweep(NOW);
    assert!(is_opened(&views), "somebody came since the last sweep");
    views.sweep(NOW);
    assert!(!is_opened(&views));
    assert_eq!(views.session(ID).as_deref(), Some(&*view), "it opens again");
}

#[actix_rt::test]
async fn what_ended_is_not_there_however_it_was_held() {
    let views = views(ID).await;
    let mut ended = views.changes();
    views.session(ID).unwrap();
    views.end(ID);
    assert!(views.session(ID).is_none() && views.sessions() == 0);
    assert_eq!(ended.try_recv(), Ok(SessionChanged { session: ID }));
    assert!(views.opened.is_empty());
}

#[actix_rt::test]
async fn a_session_past_its_end_is_swept_without_being_opened() {
    let views = views(ID).await;
    views.sweep(NOW.plus(Duration::from_secs(60)));
    assert_eq!(views.sessions(), 0);
}

#[actix_rt::test]
async fn a_profile_that_was_sealed_for_another_session_stays_shut() {
    let views = views(SessionId::new(Uuid::from_u128(1))).await;
    assert!(views.session(ID).is_none());
    assert_eq!(views.sessions(), 1);
}
