//! The contract of the folds: in however many steps a log is folded, with snapshots in between or without, every node
//! comes to the same bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use portcullis_events::{
    Aggregate, Brief, Context, Envelope, Epoch, Event, EventId, Fold, FoldError, GroupId, Hash, LogoutId, PersonId,
    ProviderSessionId, SCHEMA, Sealed, SessionId, SnapshotError, Time, group, log, logout, session, token,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use uuid::Uuid;

/// Later than every session's end that the generator makes up to `expires_at < 50`.
const AT: Time = Time::from_secs(50);
const BEGIN: Time = Time::from_secs(0);
const ATTEMPT: EventId = EventId::new(Uuid::from_u128(5));

/// Something that is written on the log, sensible or not.
#[derive(Debug, Clone)]
enum Step {
    SignIn { session: u8, issued_at: u8, expires_at: u8, named: bool },
    SignOut { session: u8 },
    Revoke { session: u8 },
    StoreTokens { session: u8, generation: u8, access_expires_at: Option<u8> },
    See { session: u8, at: u8 },
    ReplaceClaims { session: u8 },
    StartRefresh { session: u8, generation: u8 },
    Refresh { session: u8, generation: u8 },
    FailRefresh { session: u8, generation: u8, retry_at: u8 },
    LeaveInDoubt { session: u8, generation: u8 },
    ReceiveLogout { logout: u8, person: Option<u8>, named: Option<u8> },
    Join { person: u8, source: bool, groups: BTreeSet<u8> },
    Leave { person: u8, source: bool, groups: BTreeSet<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..4_u8;
    let groups = || btree_set(0..6_u8, 1..4);
    prop_oneof![
        4 => (id.clone(), 0..4_u8, 1..100_u8, any::<bool>()).prop_map(|(session, issued_at, expires_at, named)| {
            Step::SignIn { session, issued_at, expires_at, named }
        }),
        1 => id.clone().prop_map(|session| Step::SignOut { session }),
        1 => id.clone().prop_map(|session| Step::Revoke { session }),
        3 => (id.clone(), 0..4_u8, any::<Option<u8>>()).prop_map(|(session, generation, access_expires_at)| {
            Step::StoreTokens { session, generation, access_expires_at }
        }),
        2 => (id.clone(), any::<u8>()).prop_map(|(session, at)| Step::See { session, at }),
        1 => id.clone().prop_map(|session| Step::ReplaceClaims { session }),
        1 => (id.clone(), 0..4_u8).prop_map(|(session, generation)| Step::StartRefresh { session, generation }),
        1 => (id.clone(), 0..4_u8).prop_map(|(session, generation)| Step::Refresh { session, generation }),
        1 => (id.clone(), 0..4_u8, any::<u8>()).prop_map(|(session, generation, retry_at)| {
            Step::FailRefresh { session, generation, retry_at }
        }),
        1 => (id.clone(), 0..4_u8).prop_map(|(session, generation)| Step::LeaveInDoubt { session, generation }),
        2 => (id.clone(), any::<bool>(), any::<bool>()).prop_map(|(logout, person, named)| Step::ReceiveLogout {
            logout, person: person.then_some(logout), named: named.then_some(logout),
        }),
        2 => (id.clone(), any::<bool>(), groups()).prop_map(|(person, source, groups)| {
            Step::Join { person, source, groups }
        }),
        1 => (id, any::<bool>(), groups()).prop_map(|(person, source, groups)| Step::Leave { person, source, groups }),
    ]
}

/// A record as a log keeps it.
#[derive(Debug, Clone)]
struct Record {
    subject: String,
    body: Vec<u8>,
}

fn uuid(kind: u8, id: u8) -> Uuid {
    // spread over the whole range, as random ids are
    Uuid::from_u128((u128::from(id) << 125) | (u128::from(kind) << 8) | u128::from(id))
}

fn session_id(id: u8) -> SessionId {
    SessionId::new(uuid(1, id))
}

fn secs(secs: u8) -> Time {
    Time::from_secs(secs.into())
}

fn group_ids(groups: &BTreeSet<u8>) -> impl Iterator<Item = GroupId> {
    groups.iter().map(|group| GroupId::new(uuid(3, *group)))
}

fn logout_id(id: u8) -> LogoutId {
    LogoutId::new(uuid(4, id))
}

fn provider_session(id: u8) -> ProviderSessionId {
    ProviderSessionId::new(uuid(5, id))
}

fn of_session(session: u8, event: session::Event) -> (Aggregate, Event) {
    (Aggregate::session(session_id(session)), Event::Session(event))
}

fn of_token(session: u8, event: token::Event) -> (Aggregate, Event) {
    (Aggregate::token(session_id(session)), Event::Token(event))
}

fn event(step: &Step) -> (Aggregate, Event) {
    let source = |ldap: bool| if ldap { "ldap" } else { "claims:idp" }.to_owned();
    let person = |id: u8| Aggregate::group(PersonId::new(uuid(2, id)));
    match step {
        Step::SignIn { session, issued_at, expires_at, named } => {
            let signed_in = session::SignedIn {
                person: PersonId::new(uuid(2, *session)),
                idp: "idp".into(),
                profile: Sealed::new("c2VhbGVkIHByb2ZpbGU".into()),
                issued_at: secs(*issued_at),
                expires_at: secs(*expires_at),
                provider_session: named.then(|| provider_session(*session)),
            };
            (Aggregate::session(session_id(*session)), Event::Session(session::Event::SignedIn(signed_in)))
        }
        Step::SignOut { session } => {
            (Aggregate::session(session_id(*session)), Event::Session(session::Event::SignedOut(session::SignedOut {})))
        }
        Step::Revoke { session } => (
            Aggregate::session(session_id(*session)),
            Event::Session(session::Event::Revoked(session::Revoked { reason: "left".into() })),
        ),
        Step::StoreTokens { session, generation, access_expires_at } => {
            let stored = token::Stored {
                generation: (*generation).into(),
                access_expires_at: access_expires_at.map(secs),
                refreshable: generation % 2 == 0,
            };
            (Aggregate::token(session_id(*session)), Event::Token(token::Event::Stored(stored)))
        }
        Step::See { session, at } => of_session(*session, session::Event::Seen(session::Seen { at: secs(*at) })),
        Step::ReplaceClaims { session } => {
            let profile = Sealed::new("bmV3".into());
            of_session(*session, session::Event::ClaimsReplaced(session::ClaimsReplaced { profile }))
        }
        Step::StartRefresh { session, generation } => {
            let generation = (*generation).into();
            let started = token::RefreshStarted { generation, attempt: ATTEMPT, deadline: AT };
            of_token(*session, token::Event::RefreshStarted(started))
        }
        Step::Refresh { session, generation } => {
            let generation = (*generation).into();
            let refreshed =
                token::Refreshed { generation, refreshed_at: BEGIN, access_expires_at: Some(AT), refreshable: true };
            of_token(*session, token::Event::Refreshed(refreshed))
        }
        Step::FailRefresh { session, generation, retry_at } => {
            let class = if *retry_at > 200 { token::FailureClass::InvalidGrant } else { token::FailureClass::NotSent };
            let generation = (*generation).into();
            let failed = token::RefreshFailed { generation, attempt: ATTEMPT, class, retry_at: secs(*retry_at) };
            of_token(*session, token::Event::RefreshFailed(failed))
        }
        Step::LeaveInDoubt { session, generation } => {
            let doubt = token::LeftInDoubt { generation: (*generation).into(), attempt: ATTEMPT };
            of_token(*session, token::Event::LeftInDoubt(doubt))
        }
        Step::ReceiveLogout { logout, person, named } => {
            let person = person.map(|person| PersonId::new(uuid(2, person)));
            let received = logout::Received { idp: "idp".into(), person, session: named.map(provider_session) };
            (Aggregate::logout(logout_id(*logout)), Event::Logout(logout::Event::Received(received)))
        }
        Step::Join { person: id, source: ldap, groups } => {
            let groups: BTreeMap<_, _> = group_ids(groups).map(|id| (id, Sealed::new("bmFtZQ".into()))).collect();
            (person(*id), Event::Group(group::Event::MemberAdded(group::MemberAdded { source: source(*ldap), groups })))
        }
        Step::Leave { person: id, source: ldap, groups } => {
            let removed = group::MemberRemoved { source: source(*ldap), groups: group_ids(groups).collect() };
            (person(*id), Event::Group(group::Event::MemberRemoved(removed)))
        }
    }
}

/// The log that these steps leave, its creation first.
fn log_of(steps: &[Step]) -> Vec<Record> {
    let epoch = Epoch::new(Uuid::from_u128(9));
    let created = (Aggregate::LOG, Event::Log(log::Event::Created(log::Created { epoch })));
    let mut last: BTreeMap<Aggregate, Hash> = BTreeMap::new();
    let mut records = Vec::new();
    for (seq, (aggregate, event)) in (1_u128..).zip(std::iter::once(created).chain(steps.iter().map(event))) {
        let envelope = Envelope {
            id: EventId::new(Uuid::from_u128(seq)),
            source: "/test".into(),
            aggregate,
            // each a second after the one before
            time: Time::from_secs(i64::try_from(seq).unwrap() - 1),
            context: Context { actor: "test".into(), cause: None, traceparent: None },
            epoch,
            prev: last.get(&aggregate).copied(),
            event,
        };
        let body = envelope.encode().unwrap();
        last.insert(aggregate, Hash::of(&body));
        records.push(Record { subject: aggregate.subject(), body });
    }
    records
}

fn apply(fold: &mut Fold, records: &[Record]) {
    for record in records {
        fold.apply(fold.applied() + 1, &record.subject, &record.body).unwrap();
    }
}

fn bytes(fold: &Fold, at: Time) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = fold.write(at, &mut |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok::<_, Ended>(())
    });
    written.unwrap();
    bytes
}

/// The bytes end before they should.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is cut short")]
struct Ended;

fn read(mut bytes: &[u8]) -> Result<Fold, SnapshotError<Ended>> {
    Fold::read(&mut |room: &mut [u8]| {
        let (piece, rest) = bytes.split_at_checked(room.len()).ok_or(Ended)?;
        room.copy_from_slice(piece);
        bytes = rest;
        Ok(())
    })
}

fn forget_all(fold: &mut Fold, at: Time) {
    for piece in 0..Fold::PIECES {
        fold.forget_expired(piece, at);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_prefix_folded_in_any_number_of_steps_gives_the_same_bytes(
        steps in vec(step(), 0..60), cut in any::<prop::sample::Index>(), pauses in vec(any::<bool>(), 61),
    ) {
        let records = log_of(&steps);
        let end = 1 + cut.index(records.len());
        let mut whole = Fold::default();
        apply(&mut whole, &records[..end]);
        let mut stepwise = Fold::default();
        for (record, pause) in records[..end].iter().zip(pauses) {
            apply(&mut stepwise, std::slice::from_ref(record));
            if pause {
                (0..Fold::PIECES).for_each(|piece| stepwise.settle(piece));
                // the node stops here, and another one starts from its snapshot
                stepwise = read(&bytes(&stepwise, BEGIN)).unwrap();
            }
        }
        prop_assert_eq!(&stepwise, &whole);
        prop_assert_eq!(bytes(&stepwise, BEGIN), bytes(&whole, BEGIN));
        prop_assert_eq!(stepwise.digest(BEGIN).unwrap(), Hash::of(&bytes(&whole, BEGIN)));
    }

    #[test]
    fn forgetting_what_has_expired_changes_nothing_that_is_seen_later(
        steps in vec(step(), 0..60), sweeps in vec(any::<bool>(), 61),
    ) {
        let (mut forgetful, mut whole) = (Fold::default(), Fold::default());
        for (record, sweep) in log_of(&steps).iter().zip(sweeps) {
            apply(&mut forgetful, std::slice::from_ref(record));
            apply(&mut whole, std::slice::from_ref(record));
            if sweep {
                forget_all(&mut forgetful, AT);
            }
            prop_assert_eq!(bytes(&forgetful, AT), bytes(&whole, AT));
            prop_assert_eq!(bytes(&read(&bytes(&forgetful, AT)).unwrap(), AT), bytes(&whole, AT));
        }
        for (id, record) in whole.sessions() {
            let is_over = record.open_until().is_none_or(|until| until <= AT);
            let seen = forgetful.session_record(id).unwrap();
            prop_assert_eq!(seen.seq(), record.seq());
            prop_assert!(is_over || seen.state() == record.state());
        }
    }

    #[test]
    fn what_ended_never_opens_again_whatever_follows_and_wherever_a_node_starts(
        steps in vec(step(), 0..60), after in vec(step(), 0..20), session in 0..4_u8,
    ) {
        let ended: Vec<_> = steps.iter().cloned().chain([Step::Revoke { session }]).collect();
        let all: Vec<_> = ended.iter().cloned().chain(after).collect();
        let records = log_of(&all);
        let mut fold = Fold::default();
        apply(&mut fold, &records[..=ended.len()]);
        let mut later = read(&bytes(&fold, AT)).unwrap();
        apply(&mut later, &records[ended.len() + 1..]);
        prop_assert_eq!(later.session(session_id(session)), session::State::Ended);
        prop_assert_eq!(later.token(session_id(session)), token::State::Absent);
    }

    #[test]
    fn a_damaged_or_shortened_snapshot_is_no_panic_and_no_other_fold(
        steps in vec(step(), 1..20), at in any::<prop::sample::Index>(), bit in 0..8_u8, end in any::<prop::sample::Index>(),
    ) {
        let mut fold = Fold::default();
        apply(&mut fold, &log_of(&steps));
        let good = bytes(&fold, BEGIN);
        prop_assert!(read(&good[..end.index(good.len())]).is_err());
        let mut bad = good.clone();
        bad[at.index(good.len())] ^= 1 << bit;
        // who wrote it is for others to prove; what is read is what is there
        if let Ok(other) = read(&bad) {
            prop_assert!(other != fold);
        }
    }
}

#[test]
fn a_chain_goes_on_behind_a_snapshot_and_a_broken_one_is_found() {
    let steps = [Step::SignIn { session: 1, issued_at: 0, expires_at: 10, named: false }, Step::SignOut { session: 1 }];
    let records = log_of(&steps);
    let mut fold = Fold::default();
    apply(&mut fold, &records[..2]);
    let mut later = read(&bytes(&fold, AT)).unwrap();
    assert_eq!(later.last(), Some(Hash::of(&records[1].body)));
    let forged = log_of(&[
        Step::SignIn { session: 1, issued_at: 0, expires_at: 20, named: false },
        Step::SignOut { session: 1 },
    ]);
    assert_eq!(later.apply(3, &forged[2].subject, &forged[2].body), Err(FoldError::BrokenChain));
    apply(&mut later, &records[2..]);
    assert_eq!(later.session(session_id(1)), session::State::Ended);
}

#[test]
fn a_logout_that_was_received_is_known_behind_a_snapshot() {
    let mut fold = Fold::default();
    apply(&mut fold, &log_of(&[Step::ReceiveLogout { logout: 1, person: None, named: None }]));
    let later = read(&bytes(&fold, AT)).unwrap();
    assert_eq!(later.logout(logout_id(1)), logout::State::Received);
    assert_eq!(later.logout(logout_id(2)), logout::State::Absent);
    assert_eq!(later.tip(Aggregate::logout(logout_id(1))), fold.tip(Aggregate::logout(logout_id(1))));
}

#[test]
fn a_snapshot_of_another_schema_is_told_apart_from_a_damaged_one() {
    let mut fold = Fold::default();
    apply(&mut fold, &log_of(&[]));
    let mut other = bytes(&fold, AT);
    other[20..24].copy_from_slice(&(SCHEMA + 1).to_be_bytes());
    assert!(matches!(read(&other), Err(SnapshotError::Schema(schema)) if schema == SCHEMA + 1));
    assert!(matches!(read(b"something else altogether"), Err(SnapshotError::Malformed(_))));
    assert_eq!(Fold::default().digest(AT), None);
}

/// A log with every kind of state in it.
fn every_state() -> Vec<Record> {
    let groups = BTreeSet::from([1, 5]);
    log_of(&[
        Step::SignIn { session: 0, issued_at: 0, expires_at: 90, named: false },
        Step::StoreTokens { session: 0, generation: 2, access_expires_at: Some(80) },
        Step::StartRefresh { session: 0, generation: 2 },
        Step::See { session: 0, at: 7 },
        Step::SignIn { session: 1, issued_at: 0, expires_at: 10, named: false },
        Step::StoreTokens { session: 2, generation: 1, access_expires_at: None },
        Step::Revoke { session: 3 },
        Step::Join { person: 1, source: true, groups: groups.clone() },
        Step::Join { person: 1, source: false, groups },
        Step::ReceiveLogout { logout: 2, person: Some(2), named: None },
        Step::ReceiveLogout { logout: 3, person: Some(3), named: Some(3) },
    ])
}

#[test]
fn the_bytes_of_this_schema_are_what_they_were() {
    let mut fold = Fold::default();
    apply(&mut fold, &every_state());
    let form = format!("{SCHEMA} {} {}", bytes(&fold, BEGIN).len(), fold.digest(BEGIN).unwrap());
    // a change of these bytes is another schema: raise it, and put here what it gives
    assert_eq!(form, "4 940 fiPPm74JXpExd__CcK9BMpefCW7VAFpg2VOhYYzjb40");
}

#[test]
fn what_is_asked_of_every_session_is_read_without_the_rest() {
    let mut fold = Fold::default();
    apply(&mut fold, &every_state());
    for (id, record) in fold.sessions() {
        let brief = record.brief();
        match record.state() {
            session::State::Open(open) => {
                let signed_in = &open.signed_in;
                let expected =
                    Brief { person: signed_in.person, expires_at: signed_in.expires_at, last_seen: open.last_seen };
                assert_eq!(brief, Some(expected), "{id}");
                assert_eq!(record.open_until(), Some(signed_in.expires_at));
                assert!(brief.unwrap().is_over(signed_in.expires_at, None));
            }
            session::State::Absent | session::State::Ended => assert_eq!(brief, None, "{id}"),
        }
    }
    assert_eq!(fold.session_count(), 4);
}

#[test]
fn a_sign_in_that_a_logout_overtook_begins_no_session_whatever_is_stored_in_between() {
    let sign_in = |session, issued_at, named| Step::SignIn { session, issued_at, expires_at: 90, named };
    let logout = |person, named| Step::ReceiveLogout { logout: 1, person, named };
    for (overtaken, steps) in [
        // the log is made in second 0, and what comes first is of second 1
        (true, [logout(Some(1), None), sign_in(1, 0, false)]),
        (true, [logout(Some(1), None), sign_in(1, 0, true)]),
        (false, [logout(Some(1), None), sign_in(1, 1, true)]),
        (false, [logout(Some(2), None), sign_in(1, 0, true)]),
        (true, [logout(None, Some(1)), sign_in(1, 0, true)]),
        (false, [logout(None, Some(1)), sign_in(1, 0, false)]),
        (false, [logout(None, Some(2)), sign_in(1, 0, true)]),
        (true, [logout(Some(1), Some(2)), sign_in(1, 0, false)]),
        (false, [logout(Some(1), Some(2)), sign_in(1, 0, true)]),
        // what is there already is ended by its own event
        (false, [sign_in(1, 0, false), logout(Some(1), None)]),
    ] {
        let records = log_of(&steps);
        let mut fold = Fold::default();
        for record in &records {
            apply(&mut fold, std::slice::from_ref(record));
            fold = read(&bytes(&fold, BEGIN)).unwrap();
        }
        let state = fold.session(session_id(1));
        assert_eq!(state == session::State::Ended, overtaken, "{steps:?}: {state:?}");
    }
}
