//! What the files and the bucket promise.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use portcullis_config::limits::SNAPSHOT_EVENTS;
use portcullis_config::{NatsStorage, Secret};
use portcullis_events::{Aggregate, Context, Envelope, Event, EventId, SessionId, log, session};
use portcullis_harness::nats::NatsServer;
use uuid::Uuid;

use super::*;
use crate::databroker::nats::Nats;
use crate::keyring::{Keyring, Purpose};

const AT: Time = Time::from_secs(1);

fn snapshots(dir: &Path, secrets: &[u8]) -> Snapshots {
    with(Places { own: Some(dir.into()), shared: None }, secrets)
}

fn with(places: Places, secrets: &[u8]) -> Snapshots {
    let ring = Keyring::new(secrets.iter().map(|byte| Secret::new(vec![*byte; 32])).collect()).unwrap();
    Snapshots::new(places, ring.authenticator(Purpose::Snapshot).unwrap())
}

/// A log of so many events.
fn fold(events: u64) -> Fold {
    let epoch = Epoch::new(Uuid::from_u128(9));
    let mut fold = Fold::default();
    for seq in 1..=events {
        let (aggregate, event) = if seq == 1 {
            (Aggregate::LOG, Event::Log(log::Event::Created(log::Created { epoch })))
        } else {
            let revoked = session::Revoked { reason: "left".into() };
            let id = SessionId::new(Uuid::from_u128(u128::from(seq) << 100));
            (Aggregate::session(id), Event::Session(session::Event::Revoked(revoked)))
        };
        let context = Context { actor: "test".into(), cause: None, traceparent: None };
        let id = EventId::new(Uuid::from_u128(seq.into()));
        let envelope = Envelope { id, source: "/test".into(), aggregate, time: AT, context, epoch, prev: None, event };
        fold.apply(seq, &aggregate.subject(), &envelope.encode().unwrap()).unwrap();
    }
    fold
}

fn paths(snapshots: &Snapshots) -> Vec<(u64, PathBuf)> {
    let all = snapshots.files.as_ref().unwrap().list();
    all.into_iter().map(|(name, path)| (name.seq, path)).collect()
}

fn sequences(snapshots: &Snapshots) -> Vec<u64> {
    paths(snapshots).into_iter().map(|(seq, _)| seq).collect()
}

#[actix_rt::test]
async fn the_newest_is_read_back_and_the_last_two_stay() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = snapshots(&dir.path().join("made"), &[1]);
    assert!(snapshots.newest().await.is_none());
    for events in [3, 5, 4, 9] {
        assert!(snapshots.store(fold(events), AT).await);
    }
    assert_eq!(sequences(&snapshots), [9, 5]);
    assert_eq!(snapshots.newest().await.as_ref(), Some(&fold(9)));
    assert_eq!(snapshots.begun_with(), 9);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("made")), 0o700);
    assert!(paths(&snapshots).iter().all(|(_, path)| mode(path) == 0o600));
    assert_eq!(std::fs::read_dir(dir.path().join("made")).unwrap().count(), 2, "nothing is left beside them");
}

#[actix_rt::test]
async fn a_snapshot_with_any_byte_changed_or_cut_is_not_used_and_the_one_before_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = snapshots(dir.path(), &[1]);
    assert!(snapshots.store(fold(2), AT).await);
    assert!(snapshots.store(fold(3), AT).await);
    let (_, path) = paths(&snapshots).into_iter().next().unwrap();
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(snapshots.newest().await.unwrap().applied(), 2, "byte {at}");
    }
    for end in [0, 1, good.len() / 2, good.len() - 33, good.len() - 32, good.len() - 1] {
        std::fs::write(&path, &good[..end]).unwrap();
        assert_eq!(snapshots.newest().await.unwrap().applied(), 2, "cut at {end}");
    }
    std::fs::write(&path, [good.as_slice(), b"x"].concat()).unwrap();
    assert_eq!(snapshots.newest().await.unwrap().applied(), 2, "longer by one");
    std::fs::write(&path, &good).unwrap();
    assert_eq!(snapshots.newest().await.unwrap().applied(), 3);
}

#[actix_rt::test]
async fn a_snapshot_under_the_name_of_another_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = snapshots(dir.path(), &[1]);
    assert!(snapshots.store(fold(2), AT).await);
    assert!(snapshots.store(fold(3), AT).await);
    let (name, path) = snapshots.files.as_ref().unwrap().list().into_iter().next().unwrap();
    std::fs::rename(path, dir.path().join(Name { seq: 9, ..name }.to_string())).unwrap();
    assert_eq!(snapshots.newest().await.unwrap().applied(), 2);
}

#[actix_rt::test]
async fn a_shared_snapshot_that_is_far_ahead_comes_before_a_nodes_own() {
    let server = NatsServer::start().unwrap();
    let shared = SharedSnapshots::new(&Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap(), 1);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = |dir: &Path| Places { own: Some(dir.into()), shared: Some(shared.clone()) };
    let (one, two) = (with(place(one.path()), &[1]), with(place(two.path()), &[1]));
    for (ahead, begins_with) in [(SNAPSHOT_EVENTS - 1, 3), (SNAPSHOT_EVENTS, 3 + SNAPSHOT_EVENTS)] {
        assert!(two.store(fold(3), AT).await);
        assert!(one.store(fold(3 + ahead), AT).await);
        let (name, path) = one.files.as_ref().unwrap().list().into_iter().next().unwrap();
        shared.put(name, &path).await.unwrap();
        assert_eq!(two.newest().await.unwrap().applied(), begins_with);
    }
}

#[actix_rt::test]
async fn a_snapshot_of_another_installation_is_not_used_and_one_of_an_older_secret_is() {
    let dir = tempfile::tempdir().unwrap();
    assert!(snapshots(dir.path(), &[1]).store(fold(3), AT).await);
    assert!(snapshots(dir.path(), &[2]).newest().await.is_none());
    assert!(snapshots(dir.path(), &[2, 1]).newest().await.is_some());
}

#[actix_rt::test]
async fn a_place_that_cannot_be_written_is_no_end_of_the_node() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let snapshots = snapshots(&file.path().join("beneath"), &[1]);
    assert!(!snapshots.store(fold(3), AT).await);
    assert!(snapshots.newest().await.is_none());
    assert!(!with(Places::default(), &[1]).store(fold(3), AT).await);
}

#[actix_rt::test]
async fn nodes_share_what_is_new_and_three_of_it_stay() {
    let server = NatsServer::start().unwrap();
    let shared = SharedSnapshots::new(&Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap(), 1);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = |dir: &Path| Places { own: Some(dir.into()), shared: Some(shared.clone()) };
    let (one, two) = (with(place(one.path()), &[1]), with(place(two.path()), &[1]));
    assert!(two.newest().await.is_none(), "there is no bucket yet");
    let epoch = Some(Epoch::new(Uuid::from_u128(9)));
    assert!(one.store(fold(3), AT).await);
    one.share().await;
    assert_eq!(shared.newest(epoch).await.unwrap().map(|name| name.seq), Some(3));
    assert_eq!(two.newest().await.as_ref(), Some(&fold(3)));
    assert_eq!(sequences(&two), [3]);
    // nearly as new: not worth it
    assert!(two.store(fold(4), AT).await);
    two.share().await;
    assert_eq!(shared.newest(epoch).await.unwrap().map(|name| name.seq), Some(3));
    assert_eq!(shared.newest(Some(Epoch::new(Uuid::from_u128(8)))).await.unwrap(), None);

    let (_, path) = paths(&one).into_iter().next().unwrap();
    for round in 1..=4 {
        let name = Name { seq: 3 + round * SNAPSHOT_EVENTS, epoch: Epoch::new(Uuid::from_u128(9)), schema: 1 };
        shared.put(name, &path).await.unwrap();
    }
    assert_eq!(shared.all().await.unwrap().len(), 3);
}

#[actix_rt::test]
async fn a_shared_snapshot_that_was_tampered_with_is_not_used() {
    let server = NatsServer::start().unwrap();
    let shared = SharedSnapshots::new(&Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap(), 1);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let writer = snapshots(one.path(), &[1]);
    assert!(writer.store(fold(3), AT).await);
    let (name, path) = writer.files.as_ref().unwrap().list().into_iter().next().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    shared.put(name, &path).await.unwrap();
    let reader = with(Places { own: Some(two.path().into()), shared: Some(shared) }, &[1]);
    assert!(reader.newest().await.is_none());
    assert_eq!(std::fs::read_dir(two.path()).unwrap().count(), 0, "nothing of it stays");
}
