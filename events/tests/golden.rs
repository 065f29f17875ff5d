//! Every version of every event ever written, as it stands on logs: these files never change, new ones are added.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use portcullis_events::{
    Aggregate, Context, Envelope, Epoch, Event, EventId, Fold, FoldError, GroupId, Hash, LogoutId, PersonId, Sealed,
    SessionId, Time, group, log, logout, session, token,
};
use uuid::Uuid;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn session_id() -> SessionId {
    SessionId::new(id(0xa11ce))
}

fn person() -> PersonId {
    PersonId::new(id(0x9e5))
}

fn envelope(n: u128, aggregate: Aggregate, prev: Option<Hash>, event: Event) -> Envelope {
    Envelope {
        id: EventId::new(id(n)),
        source: "/portcullis/node-1".into(),
        aggregate,
        time: Time::from_millis(1_795_000_000_123),
        context: Context {
            actor: "databroker".into(),
            cause: Some("request-1".into()),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        },
        epoch: Epoch::new(id(0xe)),
        prev,
        event,
    }
}

fn signed_in() -> session::SignedIn {
    session::SignedIn {
        person: person(),
        idp: "idp-1".into(),
        profile: Sealed::new("c2VhbGVk".into()),
        issued_at: Time::from_secs(1_795_000_000),
        expires_at: Time::from_secs(1_795_050_400),
        provider_session: None,
    }
}

fn open() -> session::Open {
    session::Open { signed_in: signed_in(), last_seen: signed_in().issued_at }
}

fn all() -> BTreeMap<&'static str, Envelope> {
    let created = Event::Log(log::Event::Created(log::Created { epoch: Epoch::new(id(0xe)) }));
    let stored = token::Stored { generation: 1, access_expires_at: Some(Time::from_secs(9)), refreshable: true };
    let added = group::MemberAdded {
        source: "claims:idp-1".into(),
        groups: BTreeMap::from([(GroupId::new(id(5)), Sealed::new("bmFtZQ".into()))]),
    };
    let removed = group::MemberRemoved { source: "claims:idp-1".into(), groups: BTreeSet::from([GroupId::new(id(5))]) };
    let prev = Some(Hash::of(b"before"));
    let session = Aggregate::session(session_id());
    let token = |n, event| envelope(n, Aggregate::token(session_id()), prev, Event::Token(event));
    let attempt = EventId::new(id(0xa77));
    let started = token::RefreshStarted { generation: 1, attempt, deadline: Time::from_secs(45) };
    let failed = token::RefreshFailed {
        generation: 1,
        attempt,
        class: token::FailureClass::NotSent,
        retry_at: Time::from_secs(20),
    };
    let refreshed = token::Refreshed {
        generation: 2,
        refreshed_at: Time::from_secs(9),
        access_expires_at: Some(Time::from_secs(309)),
        refreshable: true,
    };
    let replaced = session::ClaimsReplaced { profile: Sealed::new("bmV3ZXI".into()) };
    BTreeMap::from([
        ("token.refresh_started.v1", token(8, token::Event::RefreshStarted(started))),
        ("token.refreshed.v1", token(9, token::Event::Refreshed(refreshed))),
        ("token.refresh_failed.v1", token(10, token::Event::RefreshFailed(failed))),
        ("token.left_in_doubt.v1", token(11, token::Event::LeftInDoubt(token::LeftInDoubt { generation: 1, attempt }))),
        (
            "session.claims_replaced.v1",
            envelope(12, session, prev, Event::Session(session::Event::ClaimsReplaced(replaced))),
        ),
        ("log.created.v1", envelope(1, Aggregate::LOG, None, created)),
        ("session.signed_in.v1", envelope(2, session, None, Event::Session(session::Event::SignedIn(signed_in())))),
        (
            "session.signed_out.v1",
            envelope(3, session, prev, Event::Session(session::Event::SignedOut(session::SignedOut {}))),
        ),
        (
            "session.revoked.v1",
            envelope(
                4,
                session,
                prev,
                Event::Session(session::Event::Revoked(session::Revoked { reason: "laptop lost".into() })),
            ),
        ),
        (
            "session.seen.v1",
            envelope(
                8,
                session,
                prev,
                Event::Session(session::Event::Seen(session::Seen { at: Time::from_secs(1_795_000_900) })),
            ),
        ),
        (
            "logout.received.v1",
            envelope(
                9,
                Aggregate::logout(LogoutId::new(id(0x106))),
                None,
                Event::Logout(logout::Event::Received(logout::Received {
                    idp: "idp-1".into(),
                    person: Some(person()),
                    session: None,
                })),
            ),
        ),
        (
            "token.stored.v1",
            envelope(5, Aggregate::token(session_id()), None, Event::Token(token::Event::Stored(stored))),
        ),
        (
            "group.member_added.v1",
            envelope(6, Aggregate::group(person()), None, Event::Group(group::Event::MemberAdded(added))),
        ),
        (
            "group.member_removed.v1",
            envelope(7, Aggregate::group(person()), prev, Event::Group(group::Event::MemberRemoved(removed))),
        ),
    ])
}

#[test]
fn every_event_ever_written_is_still_read_and_written_alike() {
    for (name, envelope) in all() {
        let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let written = String::from_utf8(envelope.encode().unwrap()).unwrap();
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|_| {
            // a new version: write its file once, and review it
            std::fs::create_dir_all(format!("{}/tests/golden", env!("CARGO_MANIFEST_DIR"))).unwrap();
            std::fs::write(&path, format!("{written}\n")).unwrap();
            panic!("{path} was missing and is written now; look at it, and run again")
        });
        assert_eq!(written, golden.trim_end(), "{name}");
        assert_eq!(Envelope::decode(golden.trim_end().as_bytes()).as_ref(), Ok(&envelope), "{name}");
    }
}

fn fold_of(envelopes: &[Envelope]) -> (Fold, Result<(), FoldError>) {
    let mut fold = Fold::default();
    for (seq, envelope) in (1..).zip(envelopes) {
        let body = envelope.encode().unwrap();
        if let Err(error) = fold.apply(seq, &envelope.aggregate.subject(), &body) {
            return (fold, Err(error));
        }
    }
    (fold, Ok(()))
}

fn created() -> Envelope {
    all().remove("log.created.v1").unwrap()
}

fn sign_in() -> Envelope {
    all().remove("session.signed_in.v1").unwrap()
}

#[test]
fn a_log_that_does_not_begin_with_its_creation_is_refused() {
    assert_eq!(fold_of(&[sign_in()]).1, Err(FoldError::NoCreation));
    assert_eq!(
        fold_of(&[created(), {
            let mut again = created();
            again.prev = Some(Hash::of(&created().encode().unwrap()));
            again
        }])
        .1,
        Err(FoldError::NoCreation)
    );
}

#[test]
fn an_event_of_another_log_is_refused() {
    let mut foreign = sign_in();
    foreign.epoch = Epoch::new(id(0xf));
    assert_eq!(fold_of(&[created(), foreign]).1, Err(FoldError::AnotherEpoch));
}

#[test]
fn an_event_with_a_broken_chain_changes_nothing() {
    let mut revoked = all().remove("session.revoked.v1").unwrap();
    let (fold, result) = fold_of(&[created(), sign_in(), revoked.clone()]);
    assert_eq!(result, Err(FoldError::BrokenChain));
    assert_eq!(fold.applied(), 2);
    assert_eq!(fold.session(session_id()), session::State::Open(open()));

    revoked.prev = Some(Hash::of(&sign_in().encode().unwrap()));
    let (fold, result) = fold_of(&[created(), sign_in(), revoked]);
    assert_eq!(result, Ok(()));
    assert_eq!(fold.session(session_id()), session::State::Ended);
}

#[test]
fn what_was_seen_and_received_is_in_the_fold() {
    let mut seen = all().remove("session.seen.v1").unwrap();
    seen.prev = Some(Hash::of(&sign_in().encode().unwrap()));
    let received = all().remove("logout.received.v1").unwrap();
    let (fold, result) = fold_of(&[created(), sign_in(), seen, received]);
    assert_eq!(result, Ok(()));
    let last_seen = Time::from_secs(1_795_000_900);
    assert_eq!(fold.session(session_id()), session::State::Open(session::Open { last_seen, ..open() }));
    assert_eq!(fold.logout(LogoutId::new(id(0x106))), logout::State::Received);
    assert_eq!(fold.logout(LogoutId::new(id(0x107))), logout::State::Absent);
}

#[test]
fn a_record_under_another_subject_is_refused() {
    let mut fold = Fold::default();
    fold.apply(1, &Aggregate::LOG.subject(), &created().encode().unwrap()).unwrap();
    let elsewhere = Aggregate::session(SessionId::new(id(0xb0b))).subject();
    assert_eq!(fold.apply(2, &elsewhere, &sign_in().encode().unwrap()), Err(FoldError::Misfiled));
}

#[test]
fn a_hole_is_refused() {
    let mut fold = Fold::default();
    fold.apply(1, &Aggregate::LOG.subject(), &created().encode().unwrap()).unwrap();
    let result = fold.apply(3, &sign_in().aggregate.subject(), &sign_in().encode().unwrap());
    assert_eq!(result, Err(FoldError::NotNext { applied: 1, found: 3 }));
}

#[test]
fn an_unknown_type_is_never_skipped() {
    let body = String::from_utf8(sign_in().encode().unwrap()).unwrap().replace("signed_in.v1", "blessed.v9");
    let error = Envelope::decode(body.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "unknown event type \"portcullis.session.blessed.v9\"");
}

#[test]
fn a_truncated_event_is_refused_without_being_quoted() {
    let body = sign_in().encode().unwrap();
    for end in 0..body.len() {
        let error = Envelope::decode(&body[..end]).unwrap_err().to_string();
        assert!(!error.contains("c2VhbGVk"), "{error}");
    }
}
