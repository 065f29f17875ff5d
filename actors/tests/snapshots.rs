//! A node begins with a snapshot and comes to the same views as one that read the whole log; or it refuses, and says why.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use futures_util::StreamExt;
use portcullis_actors::clock;
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::log::{Expected, Log, NewRecord, Tailed};
use portcullis_actors::databroker::profile::Profile;
use portcullis_actors::databroker::progress::Standing;
use portcullis_actors::databroker::replica::{Picture, Replica};
use portcullis_actors::databroker::snapshot::{Snapshot, StoreNow};
use portcullis_actors::databroker::snapshots::{Places, Snapshots};
use portcullis_actors::databroker::store::{self, Store};
use portcullis_actors::databroker::view::Views;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_config::{NatsStorage, Secret, Staleness, Storage};
use portcullis_events::{
    Aggregate, Context, Envelope, Epoch, Event, EventId, Fold, Hash, PersonId, SessionId, Time, group, log, session,
    token,
};
use portcullis_harness::nats::NatsServer;
use serde_json::json;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(10);

fn keyring() -> Keyring {
    Keyring::new(vec![Secret::new(vec![7; 32])]).unwrap()
}

/// A replica that may begin with a snapshot, and what stores them.
struct Node {
    store: Store,
    views: Arc<Views>,
    data_keys: Rc<DataKeys>,
    replica: Addr<Replica>,
    snapshot: Addr<Snapshot>,
    snapshots: Arc<Snapshots>,
}

impl Node {
    /// Starts on a store, and waits until it is ready or has stopped.
    async fn start(store: &Store) -> Self {
        Self::start_with(store, store.snapshots.clone()).await
    }

    async fn start_with(store: &Store, places: Places) -> Self {
        let store = store.clone();
        let views = Arc::new(Views::default());
        let data_keys = Rc::new(DataKeys::new(Arc::clone(&store.vault), keyring().sealer(Purpose::DataKey).unwrap()));
        let snapshots = Arc::new(Snapshots::new(places, keyring().authenticator(Purpose::Snapshot).unwrap()));
        let (of_log, of_keys, of_views) = (Arc::clone(&store.log), Rc::clone(&data_keys), Arc::clone(&views));
        let replica = Replica::starting_from(Arc::clone(&snapshots), of_log, of_keys, of_views, "/test".into()).start();
        let snapshot = Snapshot::new(replica.clone(), Arc::clone(&views), Arc::clone(&snapshots)).start();
        let node = Self { store, views, data_keys, replica, snapshot, snapshots };
        let head = node.store.log.head().await.unwrap().last.max(1);
        node.views.progress.reaches(head, SOON).await;
        while !matches!(node.standing(), Standing::Ready | Standing::Stopped { .. }) {
            tokio::task::yield_now().await;
        }
        node
    }

    fn standing(&self) -> Standing {
        self.views.progress.standing(clock::now())
    }

    fn refusal(&self) -> String {
        match self.standing() {
            Standing::Stopped { why } => why,
            other => other.to_string(),
        }
    }

    async fn fold(&self) -> Fold {
        self.replica.send(Picture).await.unwrap().unwrap()
    }

    async fn begin(&self, id: SessionId) -> u64 {
        let person = PersonId::new(id.uuid());
        let key = self.data_keys.get_or_make(person).await.unwrap();
        let claims = json!({"sub": id.to_string(), "email": "alice@example.com"}).as_object().unwrap().clone();
        let now = clock::now();
        let signed_in = session::SignedIn {
            person,
            idp: "idp".into(),
            profile: Profile { claims }.seal(&key, id).unwrap(),
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(3600)),
            provider_session: None,
        };
        self.append(Aggregate::session(id), Event::Session(session::Event::SignedIn(signed_in))).await
    }

    async fn revoke(&self, id: SessionId) -> u64 {
        let revoked = session::Revoked { reason: "left".into() };
        self.append(Aggregate::session(id), Event::Session(session::Event::Revoked(revoked))).await
    }

    async fn append(&self, aggregate: Aggregate, event: Event) -> u64 {
        let epoch = self.views.progress.epoch().unwrap();
        append(self.store.log.as_ref(), epoch, aggregate, event).await
    }

    async fn reaches(&self, seq: u64) {
        assert!(self.views.progress.reaches(seq, SOON).await, "{}", self.standing());
    }
}

async fn append(log: &dyn Log, epoch: Epoch, aggregate: Aggregate, event: Event) -> u64 {
    let last = log.last(aggregate).await.unwrap();
    let envelope = Envelope {
        id: EventId::new(Uuid::now_v7()),
        source: "/elsewhere".into(),
        aggregate,
        time: clock::now(),
        context: Context { actor: "test".into(), cause: None, traceparent: None },
        epoch,
        prev: last.as_ref().map(|last| Hash::of(&last.body)),
        event,
    };
    let expected = last.map_or(Expected::NoStream, |last| Expected::Seq(last.seq));
    log.append(NewRecord { aggregate, expected, id: envelope.id, body: envelope.encode().unwrap() }).await.unwrap()
}

/// An empty log becomes one with this epoch.
async fn create(log: &dyn Log, epoch: Epoch) {
    append(log, epoch, Aggregate::LOG, Event::Log(log::Event::Created(log::Created { epoch }))).await;
}

async fn in_files(dir: &Path) -> Store {
    store::open(&Storage::File(Some(dir.to_path_buf())), dir).await.unwrap()
}

fn id() -> SessionId {
    SessionId::new(Uuid::new_v4())
}

fn stored(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// What the log says, read from its beginning up to `seq`.
async fn replay(log: &dyn Log, seq: u64) -> Fold {
    let mut fold = Fold::default();
    let mut tail = log.tail(0);
    while fold.applied() < seq {
        if let Some(Ok(Tailed::Record(record))) = tail.next().await {
            fold.apply(record.seq, &record.subject, &record.body).unwrap();
        }
    }
    fold
}

#[actix_rt::test]
async fn a_node_begins_with_its_snapshot_and_reads_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = in_files(dir.path()).await;
    let first = Node::start(&store).await;
    assert_eq!(first.snapshots.begun_with(), 0);
    let (stays, goes, new) = (id(), id(), id());
    first.begin(stays).await;
    let seq = first.begin(goes).await;
    first.reaches(seq).await;
    assert!(first.snapshot.send(StoreNow).await.unwrap());
    // while no node looks
    first.revoke(goes).await;
    let head = first.begin(new).await;

    let second = Node::start(&store).await;
    assert_eq!(second.snapshots.begun_with(), seq);
    assert_eq!(second.standing(), Standing::Ready);
    assert_eq!(second.views.progress.applied(), head);
    assert!(second.views.session(goes).is_none());
    first.reaches(head).await;
    for session in [stays, new] {
        let view = second.views.session(session).unwrap();
        assert_eq!(view.email.as_deref(), Some("alice@example.com"));
        assert_eq!(first.views.session(session).as_deref(), Some(&*view));
    }
    assert_eq!(second.views.sessions(), 2);
}

#[actix_rt::test]
async fn replaying_the_log_reproduces_every_nodes_view_at_every_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let store = in_files(dir.path()).await;
    let mut nodes = vec![Node::start(&store).await];
    let ids = [id(), id(), id()];
    let mut ended = Vec::new();
    for round in 0..12_usize {
        let writer = nodes.first().unwrap();
        let session = *ids.get(round % 3).unwrap();
        let seq = match round {
            0..3 => writer.begin(session).await,
            3..6 => {
                let stored = token::Stored { generation: 1, access_expires_at: None, refreshable: round == 4 };
                writer.append(Aggregate::token(session), Event::Token(token::Event::Stored(stored))).await
            }
            6 => {
                let groups = [(portcullis_events::GroupId::new(Uuid::from_u128(1)), sealed())].into();
                let added = group::MemberAdded { source: "claims:idp".into(), groups };
                let person = PersonId::new(session.uuid());
                writer.append(Aggregate::group(person), Event::Group(group::Event::MemberAdded(added))).await
            }
            7 | 8 => {
                ended.push(session);
                writer.revoke(session).await
            }
            _ => writer.begin(id()).await,
        };
        for node in &nodes {
            node.reaches(seq).await;
        }
        let now = clock::now();
        let expected = replay(store.log.as_ref(), seq).await;
        for node in &nodes {
            let fold = node.fold().await;
            assert_eq!((fold.applied(), fold.digest(now).unwrap()), (seq, expected.digest(now).unwrap()));
            assert_eq!(fold, expected);
            for (begun, session) in ids.into_iter().enumerate() {
                let view = node.views.session(session);
                assert_eq!(view.is_some(), begun <= round && !ended.contains(&session), "round {round}");
                assert_eq!(view.as_deref(), nodes.first().unwrap().views.session(session).as_deref());
            }
        }
        if round % 4 == 3 {
            assert!(nodes.first().unwrap().snapshot.send(StoreNow).await.unwrap());
            let late = Node::start(&store).await;
            assert_eq!(late.snapshots.begun_with(), seq);
            nodes.push(late);
        }
    }
}

fn sealed() -> portcullis_events::Sealed {
    portcullis_events::Sealed::new("bmFtZQ".into())
}

#[actix_rt::test]
async fn a_session_that_ended_before_the_snapshot_never_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = in_files(dir.path()).await;
    let first = Node::start(&store).await;
    let (ended, unborn) = (id(), id());
    first.begin(ended).await;
    first.revoke(ended).await;
    let seq = first.revoke(unborn).await;
    first.reaches(seq).await;
    assert!(first.snapshot.send(StoreNow).await.unwrap());
    let second = Node::start(&store).await;
    assert_eq!(second.snapshots.begun_with(), seq);
    second.begin(ended).await;
    let seq = second.begin(unborn).await;
    second.reaches(seq).await;
    assert!(second.views.session(ended).is_none() && second.views.session(unborn).is_none());
}

/// A node that has stored a snapshot at sequence 3 of its log, and where that lies.
async fn with_snapshot(dir: &Path) -> (Node, Places) {
    let store = in_files(dir).await;
    let node = Node::start(&store).await;
    node.begin(id()).await;
    let seq = node.begin(id()).await;
    node.reaches(seq).await;
    assert!(node.snapshot.send(StoreNow).await.unwrap());
    let places = store.snapshots.clone();
    (node, places)
}

#[actix_rt::test]
async fn a_log_that_is_behind_its_snapshot_is_neither_served_from_nor_written_to() {
    let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_node, places) = with_snapshot(dir.path()).await;
    let before = stored(places.own.as_deref().unwrap());
    let restored = in_files(empty.path()).await;
    let node = Node::start_with(&restored, places.clone()).await;
    assert!(node.refusal().contains("the log ends at 0, behind a snapshot of it at 3"), "{}", node.refusal());
    assert!(!node.views.progress.vouches(clock::now(), Staleness::Within(SOON)));
    assert_eq!(restored.log.head().await.unwrap().last, 0, "nothing is made in the place of what was lost");
    assert!(!node.snapshot.send(StoreNow).await.unwrap());
    assert_eq!(stored(places.own.as_deref().unwrap()), before, "nothing is deleted");
}

#[actix_rt::test]
async fn a_log_of_another_epoch_is_not_served_from() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_node, places) = with_snapshot(dir.path()).await;
    let replaced = in_files(other.path()).await;
    let owner = Node::start_with(&replaced, Places::default()).await;
    for _ in 0..4 {
        owner.begin(id()).await;
    }
    let node = Node::start_with(&replaced, places).await;
    assert!(node.refusal().contains("the snapshot is of another log"), "{}", node.refusal());
}

#[actix_rt::test]
async fn a_log_with_another_history_is_not_served_from() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (node, places) = with_snapshot(dir.path()).await;
    // as an old copy of the log that went on without its end
    let forked = in_files(other.path()).await;
    create(forked.log.as_ref(), node.views.progress.epoch().unwrap()).await;
    let owner = Node::start_with(&forked, Places::default()).await;
    for _ in 0..4 {
        owner.begin(id()).await;
    }
    let node = Node::start_with(&forked, places).await;
    assert!(node.refusal().contains("sequence 3 is another event now"), "{}", node.refusal());
}

#[actix_rt::test]
async fn a_snapshot_that_is_damaged_or_deleted_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (node, places) = with_snapshot(dir.path()).await;
    let own = places.own.unwrap();
    let path = stored(&own).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = Node::start(&node.store).await;
    assert_eq!((damaged.snapshots.begun_with(), damaged.standing()), (0, Standing::Ready));
    assert_eq!(damaged.views.sessions(), 2);
    assert!(path.exists(), "it is left for somebody to look at");
    std::fs::remove_dir_all(&own).unwrap();
    let without = Node::start(&node.store).await;
    assert_eq!((without.snapshots.begun_with(), without.views.sessions()), (0, 2));
    assert_eq!(without.fold().await, node.fold().await);
}

#[actix_rt::test]
async fn a_node_without_files_of_its_own_begins_with_what_another_shared() {
    let server = NatsServer::start().unwrap();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = Storage::Nats(NatsStorage::at(vec![server.url()]));
    let store = store::open(&storage, one.path()).await.unwrap();
    let first = Node::start(&store).await;
    let session = id();
    let seq = first.begin(session).await;
    first.reaches(seq).await;
    assert!(first.snapshot.send(StoreNow).await.unwrap());
    first.snapshots.share().await;

    let elsewhere = store::open(&storage, two.path()).await.unwrap();
    let second = Node::start(&elsewhere).await;
    assert_eq!((second.snapshots.begun_with(), second.standing()), (seq, Standing::Ready));
    assert!(second.views.session(session).is_some());
    assert_eq!(stored(elsewhere.snapshots.own.as_deref().unwrap()).len(), 1, "it is its own from now on");
    // personal data stays sealed in what is shared
    for path in stored(elsewhere.snapshots.own.as_deref().unwrap()) {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        assert!(!text.contains("alice"));
    }
}

#[actix_rt::test]
async fn what_has_expired_long_ago_is_not_in_a_snapshot_and_stays_shut() {
    let dir = tempfile::tempdir().unwrap();
    let store = in_files(dir.path()).await;
    let node = Node::start(&store).await;
    let session = id();
    let over = session::SignedIn {
        person: PersonId::new(session.uuid()),
        idp: "idp".into(),
        profile: sealed(),
        issued_at: Time::from_secs(1),
        expires_at: Time::from_secs(2),
        provider_session: None,
    };
    let event = Event::Session(session::Event::SignedIn(over));
    let seq = node.append(Aggregate::session(session), event).await;
    node.reaches(seq).await;
    assert!(node.snapshot.send(StoreNow).await.unwrap());
    let later = Node::start(&store).await;
    assert_eq!(later.fold().await.session(session), session::State::Ended);
    assert_eq!(later.fold().await.tip(Aggregate::session(session)), node.fold().await.tip(Aggregate::session(session)));
}
