//! The circle of an event: command, journal, log, replica, view, on a real embedded log.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Actor, Addr};
use portcullis_actors::clock;
use portcullis_actors::databroker::broker::{Broker, BrokerError, End, Open, Opened, SessionStanding, StandingOf};
use portcullis_actors::databroker::hand_over::{HandOver, SessionTokens, SignedInIdentity};
use portcullis_actors::databroker::journal::{Flush, Journal};
use portcullis_actors::databroker::log::{Expected, NewRecord};
use portcullis_actors::databroker::logout::{LogOut, LoggedOut, Logouts, Tools as LogoutTools};
use portcullis_actors::databroker::progress::Standing;
use portcullis_actors::databroker::store::{self, Store};
use portcullis_actors::databroker::vault::{Revision, Sealed, Shelf, Values, Vault, VaultError};
use portcullis_actors::databroker::view::Views;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_config::limits::CLOCK_LEEWAY;
use portcullis_config::{Secret, Staleness, Storage};
use portcullis_events::{
    Aggregate, Context, Envelope, Epoch, Event, EventId, Hash, Sealed as Profile, SessionId, session,
};
use serde_json::json;
use uuid::Uuid;

#[path = "ground/databroker.rs"]
mod ground;

use ground::keyring;

const HOST: &str = "app.example.com";
const SOON: Duration = Duration::from_secs(10);

/// A databroker of one node.
struct Node {
    store: Store,
    views: Arc<Views>,
    journal: Addr<Journal>,
    broker: Addr<Broker>,
    logouts: Addr<Logouts>,
}

impl Node {
    async fn start(dir: &Path) -> Self {
        let store = store::open(&Storage::File(Some(dir.to_path_buf())), dir).await.unwrap();
        Self::on(store).await.current().await
    }

    /// The same node, once it has read the log to its end.
    async fn current(self) -> Self {
        assert!(self.views.progress.becomes_current(SOON).await, "the log was not read to its end");
        self
    }

    /// A node on a store that another node may be using as well.
    async fn on(store: Store) -> Self {
        Self::with(store, &keyring()).await
    }

    /// A node with keys of its own.
    async fn with(store: Store, keyring: &Keyring) -> Self {
        Self::idle_after(store, keyring, None).await
    }

    /// A node whose sessions are over when idle for a while.
    async fn idle_after(store: Store, keyring: &Keyring, timeout: Option<Duration>) -> Self {
        let views = Arc::new(Views::with_idle_timeout(timeout));
        let (log, vault) = (Arc::clone(&store.log), Arc::clone(&store.vault));
        let (data_keys, _, journal, broker) = ground::start(log, vault, &views, keyring, "/test");
        let logouts = Logouts::new(LogoutTools {
            log: Arc::clone(&store.log),
            data_keys,
            views: Arc::clone(&views),
            journal: journal.clone(),
        })
        .start();
        assert!(views.progress.reaches(1, SOON).await, "the log has no beginning");
        Self { store, views, journal, broker, logouts }
    }

    async fn open(&self, hand_over: &str, host: &str) -> Result<Opened, BrokerError> {
        let open = Open { hand_over: hand_over.into(), host: host.into(), request_id: "request-1".into() };
        self.broker.send(open).await.unwrap()
    }

    async fn log_out(
        &self,
        subject: Option<&str>,
        sid: Option<&str>,
        token_id: &str,
    ) -> Result<LoggedOut, BrokerError> {
        let log_out = LogOut {
            idp: "idp-1".into(),
            issuer: "https://id.example.com".into(),
            subject: subject.map(str::to_owned),
            sid: sid.map(str::to_owned),
            token_id: token_id.into(),
            request_id: "request-2".into(),
        };
        self.logouts.send(log_out).await.unwrap()
    }

    async fn standing(&self, session: SessionId) -> SessionStanding {
        self.broker.send(StandingOf { session }).await.unwrap().unwrap()
    }

    /// Appends an event past the journal, as another program would.
    async fn append(&self, session: SessionId, event: Event) -> u64 {
        let envelope = self.envelope(session, event).await;
        self.append_raw(envelope.aggregate, envelope.id, envelope.encode().unwrap()).await
    }

    /// The next event of a session, as another program would write it.
    async fn envelope(&self, session: SessionId, event: Event) -> Envelope {
        let aggregate = Aggregate::session(session);
        let last = self.store.log.last(aggregate).await.unwrap();
        Envelope {
            id: EventId::new(Uuid::now_v7()),
            source: "/elsewhere".into(),
            aggregate,
            time: clock::now(),
            context: Context { actor: "admin".into(), cause: None, traceparent: None },
            epoch: self.views.progress.epoch().unwrap(),
            prev: last.as_ref().map(|last| Hash::of(&last.body)),
            event,
        }
    }

    async fn append_raw(&self, aggregate: Aggregate, id: EventId, body: Vec<u8>) -> u64 {
        let last = self.store.log.last(aggregate).await.unwrap();
        let expected = last.map_or(Expected::NoStream, |last| Expected::Seq(last.seq));
        self.store.log.append(NewRecord { aggregate, expected, id, body }).await.unwrap()
    }
}

fn hand_over(session: SessionId, groups: &[&str]) -> String {
    hand_over_of("sub-of-alice", "sid-1", session, groups)
}

/// An empty `sid` is none.
fn hand_over_of(subject: &str, sid: &str, session: SessionId, groups: &[&str]) -> String {
    let claims = json!({
        "sub": subject, "email": "alice@example.com", "name": "Alice", "groups": groups, "sid": sid,
    });
    let mut claims = claims.as_object().unwrap().clone();
    claims.retain(|_, value| value != "");
    let now = clock::now();
    let identity = SignedInIdentity {
        idp: "idp-1".into(),
        issuer: "https://id.example.com".into(),
        subject: subject.into(),
        claims,
        tokens: SessionTokens {
            access: Secret::new("canary-access-token"),
            refresh: Some(Secret::new("canary-refresh-token")),
            id_token: Secret::new("canary-id-token"),
            access_expires_at: Some(now.plus(Duration::from_secs(60))),
        },
        issued_at: now,
        expires_at: now.plus(Duration::from_secs(3600)),
    };
    seal(&HandOver { session, valid_until: now.plus(Duration::from_secs(60)), identity: Some(identity) })
}

fn seal(hand_over: &HandOver) -> String {
    hand_over.seal(&keyring().sealer(Purpose::HandOver).unwrap(), HOST).unwrap()
}

fn session() -> SessionId {
    SessionId::new(Uuid::new_v4())
}

#[actix_rt::test]
async fn a_session_is_in_the_views_when_its_opening_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    assert!(node.views.session(id).is_none());
    let opened = node.open(&hand_over(id, &["admins"]), HOST).await.unwrap();
    let view = node.views.session(id).unwrap();
    assert_eq!(
        (view.email.as_deref(), view.groups.as_slice()),
        (Some("alice@example.com"), &["admins".to_owned()][..])
    );
    assert_eq!(view.seq, opened.position);
    assert!(matches!(node.standing(id).await, SessionStanding::Open { .. }));
}

#[actix_rt::test]
async fn a_hand_over_delivered_twice_opens_one_session() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let sealed = hand_over(session(), &["a", "b"]);
    let (first, second) = futures_util::future::join(node.open(&sealed, HOST), node.open(&sealed, HOST)).await;
    assert_eq!(first.unwrap().position, second.unwrap().position);
    let head = node.store.log.head().await.unwrap().last;
    node.open(&sealed, HOST).await.unwrap();
    assert_eq!(node.store.log.head().await.unwrap().last, head, "the third delivery wrote something");
    // the log's creation, the tokens, the groups, the session
    assert_eq!(head, 4);
}

#[actix_rt::test]
async fn a_hand_over_that_comes_again_after_its_session_ended_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    let sealed = hand_over(id, &["a"]);
    node.open(&sealed, HOST).await.unwrap();
    node.broker.send(End { session: id, request_id: "r".into() }).await.unwrap().unwrap();
    let head = node.store.log.head().await.unwrap().last;
    assert!(matches!(node.open(&sealed, HOST).await, Err(BrokerError::Refused(_))));
    assert_eq!(node.store.log.head().await.unwrap().last, head, "something was written");
    assert!(node.store.vault.get(Shelf::Secret, &id.to_string()).await.unwrap().is_none(), "tokens were stored");
}

#[actix_rt::test]
async fn a_hand_over_is_refused_at_another_host_when_it_is_old_and_when_it_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let sealed = hand_over(session(), &[]);
    let old = seal(&HandOver { session: session(), valid_until: clock::now(), identity: None });
    for (text, host) in [(sealed.as_str(), "evil.example.com"), (&old, HOST), ("v1.x.y", HOST), ("", HOST)] {
        assert!(matches!(node.open(text, host).await, Err(BrokerError::Refused(_))), "{host}");
    }
    assert_eq!(node.store.log.head().await.unwrap().last, 1, "a refusal wrote something");
}

#[actix_rt::test]
async fn a_second_host_opens_no_session_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    let valid_until = clock::now().plus(Duration::from_secs(60));
    let again = seal(&HandOver { session: id, valid_until, identity: None });
    assert!(matches!(node.open(&again, HOST).await, Err(BrokerError::Refused(_))));
    let first = node.open(&hand_over(id, &[]), HOST).await.unwrap();
    assert_eq!(node.open(&again, HOST).await.unwrap().position, first.position);
    node.broker.send(End { session: id, request_id: "r".into() }).await.unwrap().unwrap();
    assert!(matches!(node.open(&again, HOST).await, Err(BrokerError::Refused(_))));
}

#[actix_rt::test]
async fn an_ended_session_is_out_of_the_views_and_its_tokens_out_of_the_vault() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    node.open(&hand_over(id, &[]), HOST).await.unwrap();
    let mut ended = node.views.changes();
    let end = End { session: id, request_id: "r".into() };
    assert!(node.broker.send(end.clone()).await.unwrap().unwrap().id_token_hint.is_some());
    assert_eq!(ended.recv().await.unwrap().session, id);
    assert!(node.views.session(id).is_none());
    assert_eq!(node.standing(id).await, SessionStanding::Shut);
    assert!(node.broker.send(end).await.unwrap().unwrap().id_token_hint.is_none());
}

#[actix_rt::test]
async fn a_revocation_that_another_program_appends_takes_effect() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    node.open(&hand_over(id, &[]), HOST).await.unwrap();
    let revoked = Event::Session(session::Event::Revoked(session::Revoked { reason: "laptop lost".into() }));
    let seq = node.append(id, revoked).await;
    assert!(node.views.progress.reaches(seq, SOON).await);
    assert!(node.views.session(id).is_none());
}

#[actix_rt::test]
async fn every_node_that_reads_the_log_knows_the_same_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let one = Node::start(dir.path()).await;
    let (kept, ended) = (session(), session());
    let opened = one.open(&hand_over(kept, &["admins"]), HOST).await.unwrap();
    one.open(&hand_over(ended, &["admins"]), HOST).await.unwrap();
    one.broker.send(End { session: ended, request_id: "r".into() }).await.unwrap().unwrap();
    let two = Node::on(one.store.clone()).await;
    let head = one.store.log.head().await.unwrap().last;
    assert!(two.views.progress.reaches(head, SOON).await);
    // caught up: a new session is projected as it comes, the old ones were projected at once
    let third = session();
    let seq = one.open(&hand_over(third, &[]), HOST).await.unwrap().position;
    assert!(two.views.progress.reaches(seq, SOON).await);
    for (id, known) in [(kept, true), (ended, false), (third, true)] {
        assert_eq!(one.views.session(id).is_some(), known);
        assert_eq!(two.views.session(id).as_deref(), one.views.session(id).as_deref());
    }
    assert_eq!(two.views.progress.epoch(), Some(opened.epoch));
}

#[actix_rt::test]
async fn an_event_that_cannot_be_read_stops_the_node_and_is_named() {
    type Spoil = fn(Envelope) -> Vec<u8>;
    fn text(envelope: Envelope) -> String {
        String::from_utf8(envelope.encode().unwrap()).unwrap()
    }
    let spoils: [(&str, Spoil); 4] = [
        ("unknown event type", |envelope| text(envelope).replace("session.revoked.v1", "session.promoted.v1").into()),
        ("not a cloudevent", |envelope| text(envelope)[..200].into()),
        ("previous event", |envelope| text(Envelope { prev: None, ..envelope }).into()),
        ("another log", |envelope| text(Envelope { epoch: Epoch::new(Uuid::from_u128(99)), ..envelope }).into()),
    ];
    for (why, spoil) in spoils {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(dir.path()).await;
        let id = session();
        node.open(&hand_over(id, &[]), HOST).await.unwrap();
        assert!(node.views.progress.vouches(clock::now(), Staleness::Within(SOON)));
        let revoked = Event::Session(session::Event::Revoked(session::Revoked { reason: "x".into() }));
        let envelope = node.envelope(id, revoked).await;
        let seq = node.append_raw(envelope.aggregate, envelope.id, spoil(envelope)).await;
        let told = stopped(&node).await;
        assert!(told.contains(why) && told.contains(&format!("sequence {seq}")), "{why}: {told}");
        assert!(!node.views.progress.vouches(clock::now(), Staleness::Within(SOON)), "{why}");
        assert_eq!(node.views.progress.applied(), seq - 1, "{why}");
    }
}

#[actix_rt::test]
async fn a_node_that_stopped_writes_nothing_and_says_so_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    node.open(&hand_over(id, &[]), HOST).await.unwrap();
    let seq = node.append_raw(Aggregate::session(session()), EventId::new(Uuid::now_v7()), b"{}".to_vec()).await;
    stopped(&node).await;
    let asked = tokio::time::Instant::now();
    let end = node.broker.send(End { session: id, request_id: "r".into() }).await.unwrap();
    for refused in [node.open(&hand_over(session(), &["a"]), HOST).await.map(|_| ()), end.map(|_| ())] {
        let Err(BrokerError::Unavailable(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains(&format!("sequence {seq}")), "{why}");
    }
    assert!(asked.elapsed() < SOON, "the answer was waited for");
    assert_eq!(node.store.log.head().await.unwrap().last, seq, "a log that cannot be read was written to");
}

#[actix_rt::test]
async fn a_node_with_another_shared_secret_stops_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    node.open(&hand_over(session(), &[]), HOST).await.unwrap();
    let another = Node::with(node.store.clone(), &Keyring::new(vec![Secret::new(vec![8; 32])]).unwrap()).await;
    let why = stopped(&another).await;
    assert!(why.contains("shared_secret"), "{why}");
}

/// A vault that can go away.
struct Remote {
    vault: Arc<dyn Vault>,
    is_away: AtomicBool,
}

impl Remote {
    fn reached(&self) -> Result<&dyn Vault, VaultError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(VaultError::Unavailable("away".into()));
        }
        Ok(&*self.vault)
    }
}

#[async_trait::async_trait]
impl Vault for Remote {
    async fn get(&self, shelf: Shelf, key: &str) -> Result<Option<Sealed>, VaultError> {
        self.reached()?.get(shelf, key).await
    }

    async fn put(&self, shelf: Shelf, key: &str, expected: Revision, value: Vec<u8>) -> Result<Revision, VaultError> {
        self.reached()?.put(shelf, key, expected, value).await
    }

    async fn delete(&self, shelf: Shelf, key: &str) -> Result<(), VaultError> {
        self.reached()?.delete(shelf, key).await
    }

    async fn scan(&self, shelf: Shelf) -> Result<Values, VaultError> {
        self.reached()?.scan(shelf).await
    }
}

#[actix_rt::test]
async fn a_vault_that_is_away_keeps_nobody_signed_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = store::open(&Storage::File(Some(dir.path().to_path_buf())), dir.path()).await.unwrap();
    let vault = Arc::new(Remote { vault: Arc::clone(&store.vault), is_away: AtomicBool::new(false) });
    let node = Node::on(Store { vault: vault.clone(), ..store }).await;
    let id = session();
    node.open(&hand_over(id, &[]), HOST).await.unwrap();
    vault.is_away.store(true, Ordering::Relaxed);
    node.broker.send(End { session: id, request_id: "r".into() }).await.unwrap().unwrap();
    assert!(node.views.session(id).is_none());
    assert_eq!(node.standing(id).await, SessionStanding::Shut);
}

#[actix_rt::test]
async fn a_node_that_waits_for_the_vault_says_so_and_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    node.open(&hand_over(session(), &[]), HOST).await.unwrap();
    let vault = Arc::new(Remote { vault: Arc::clone(&node.store.vault), is_away: AtomicBool::new(true) });
    let waiting = Node::on(Store { vault: vault.clone(), ..node.store.clone() }).await;
    eventually(&waiting, |standing| standing.to_string().contains("the vault did not answer")).await;
    vault.is_away.store(false, Ordering::Relaxed);
    eventually(&waiting, Standing::is_ready).await;
}

async fn eventually(node: &Node, is_so: impl Fn(&Standing) -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let standing = node.views.progress.standing(clock::now());
        if is_so(&standing) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{standing}");
        tokio::task::yield_now().await;
    }
}

/// Waits until the node says that it stopped, and why.
async fn stopped(node: &Node) -> String {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let standing = node.views.progress.standing(clock::now());
        if let Standing::Stopped { why } = standing {
            return why;
        }
        assert!(tokio::time::Instant::now() < deadline, "not stopped: {standing}");
        tokio::task::yield_now().await;
    }
}

#[actix_rt::test]
async fn a_session_whose_data_key_was_forgotten_is_over_and_the_person_signs_in_anew() {
    let dir = tempfile::tempdir().unwrap();
    let one = Node::start(dir.path()).await;
    let id = session();
    one.open(&hand_over(id, &[]), HOST).await.unwrap();
    let person = one.views.session(id).unwrap().person;
    one.store.vault.delete(Shelf::DataKey, &person.to_string()).await.unwrap();
    // a node that starts now cannot read who it was
    let two = Node::on(one.store.clone()).await;
    assert!(two.views.progress.reaches(one.store.log.head().await.unwrap().last, SOON).await);
    assert_eq!(two.standing(id).await, SessionStanding::Shut);
    let anew = session();
    two.open(&hand_over(anew, &[]), HOST).await.unwrap();
    assert!(two.views.session(anew).is_some());
}

#[actix_rt::test]
async fn a_session_whose_new_claims_do_not_open_is_shut_at_once_and_not_known_by_its_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    node.open(&hand_over(id, &["admins"]), HOST).await.unwrap();
    let mut changes = node.views.changes();
    let replaced = session::ClaimsReplaced { profile: Profile::new("sealed with another key".into()) };
    let seq = node.append(id, Event::Session(session::Event::ClaimsReplaced(replaced))).await;
    assert!(node.views.progress.reaches(seq, SOON).await);
    assert!(node.views.session(id).is_none(), "it goes on with claims that were replaced");
    assert_eq!(changes.try_recv().unwrap().session, id, "what is open is not told");
    assert_eq!(node.standing(id).await, SessionStanding::Shut);
}

#[actix_rt::test]
async fn many_sign_ins_at_once_are_each_acknowledged_and_each_on_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let ids: Vec<_> = (0..100).map(|_| session()).collect();
    let sealed: Vec<_> = ids.iter().map(|id| hand_over(*id, &["a", "b"])).collect();
    let opened = futures_util::future::join_all(sealed.iter().map(|sealed| node.open(sealed, HOST))).await;
    for (id, opened) in ids.iter().zip(opened) {
        let position = opened.unwrap().position;
        let last = node.store.log.last(Aggregate::session(*id)).await.unwrap().unwrap();
        assert_eq!(last.seq, position);
        assert!(node.views.session(*id).is_some());
    }
    node.journal.send(Flush).await.unwrap();
    // one person, so one difference of groups; the creation; tokens and session of each
    assert_eq!(node.store.log.head().await.unwrap().last, 1 + 1 + 200);
}

#[actix_rt::test]
async fn no_token_and_no_personal_data_stand_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    node.open(&hand_over(session(), &["canary-group"]), HOST).await.unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for canary in ["canary-", "alice@example.com", "sub-of-alice", "Alice"] {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{canary} stands in {}", path.display());
        }
        files += 1;
    }
    assert!(files >= 2, "nothing was looked at");
}

#[actix_rt::test]
async fn a_logout_of_a_person_ends_every_session_of_theirs_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let (first, second, other) = (session(), session(), session());
    node.open(&hand_over_of("alice", "sid-1", first, &[]), HOST).await.unwrap();
    node.open(&hand_over_of("alice", "sid-2", second, &[]), HOST).await.unwrap();
    node.open(&hand_over_of("bob", "sid-3", other, &[]), HOST).await.unwrap();
    assert_eq!(node.log_out(Some("alice"), None, "token-1").await, Ok(LoggedOut { sessions: 2 }));
    for ended in [first, second] {
        assert!(node.views.session(ended).is_none());
        assert_eq!(node.standing(ended).await, SessionStanding::Shut);
    }
    assert!(node.views.session(other).is_some());
    let last = node.store.log.last(Aggregate::session(first)).await.unwrap().unwrap();
    let revoked = Envelope::decode(&last.body).unwrap();
    assert_eq!(revoked.context.actor, "idp:idp-1");
    assert_eq!(revoked.context.cause.as_deref(), Some("request-2"));
    assert!(matches!(revoked.event, Event::Session(session::Event::Revoked(_))));
}

#[actix_rt::test]
async fn a_logout_of_a_session_ends_that_one_and_only_if_it_is_the_persons() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let (first, second) = (session(), session());
    node.open(&hand_over_of("alice", "sid-1", first, &[]), HOST).await.unwrap();
    node.open(&hand_over_of("alice", "sid-2", second, &[]), HOST).await.unwrap();
    assert_eq!(node.log_out(Some("bob"), Some("sid-1"), "token-1").await, Ok(LoggedOut { sessions: 0 }));
    assert_eq!(node.log_out(None, Some("sid-9"), "token-2").await, Ok(LoggedOut { sessions: 0 }));
    assert!(matches!(node.log_out(None, None, "token-3").await, Err(BrokerError::Refused(_))));
    assert!(node.views.session(first).is_some());
    assert_eq!(node.log_out(None, Some("sid-1"), "token-4").await, Ok(LoggedOut { sessions: 1 }));
    assert_eq!(node.log_out(Some("alice"), Some("sid-2"), "token-5").await, Ok(LoggedOut { sessions: 1 }));
    assert!(node.views.session(first).is_none() && node.views.session(second).is_none());
}

#[actix_rt::test]
async fn a_logout_of_a_person_and_a_session_ends_theirs_of_which_the_provider_never_said_which_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let (nameless, named, other) = (session(), session(), session());
    node.open(&hand_over_of("alice", "", nameless, &[]), HOST).await.unwrap();
    node.open(&hand_over_of("alice", "sid-2", named, &[]), HOST).await.unwrap();
    node.open(&hand_over_of("bob", "", other, &[]), HOST).await.unwrap();
    assert_eq!(node.log_out(None, Some("sid-1"), "token-1").await, Ok(LoggedOut { sessions: 0 }));
    assert_eq!(node.log_out(Some("alice"), Some("sid-1"), "token-2").await, Ok(LoggedOut { sessions: 1 }));
    assert!(node.views.session(nameless).is_none(), "it may be the one that ended");
    assert!(node.views.session(named).is_some() && node.views.session(other).is_some());
}

/// Until the clock shows another time than it does now.
async fn a_moment_passes() {
    let then = clock::now();
    let look = async || Ok((clock::now() > then).then_some(()));
    portcullis_harness::process::eventually("time passes", SOON, look).await.unwrap();
}

#[actix_rt::test]
async fn whoever_is_logged_out_while_they_sign_in_is_not_signed_in_and_may_sign_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let (by_person, by_session, other) = (session(), session(), session());
    // the provider has answered, and the browser has not come back yet
    let alice = hand_over_of("alice", "sid-1", by_person, &[]);
    let bob = hand_over_of("bob", "sid-2", by_session, &[]);
    let carol = hand_over_of("carol", "sid-3", other, &[]);
    a_moment_passes().await;
    assert_eq!(node.log_out(Some("alice"), None, "token-1").await, Ok(LoggedOut { sessions: 0 }));
    assert_eq!(node.log_out(None, Some("sid-2"), "token-2").await, Ok(LoggedOut { sessions: 0 }));
    for (late, id) in [(&alice, by_person), (&bob, by_session)] {
        // nor when it comes once more
        for _ in 0..2 {
            assert!(matches!(node.open(late, HOST).await, Err(BrokerError::Refused(_))));
            assert!(node.views.session(id).is_none());
            assert_eq!(node.standing(id).await, SessionStanding::Shut);
        }
    }
    node.open(&carol, HOST).await.unwrap();
    a_moment_passes().await;
    for (person, sid) in [("alice", "sid-1"), ("bob", "sid-2")] {
        let again = session();
        node.open(&hand_over_of(person, sid, again, &[]), HOST).await.unwrap();
        assert!(node.views.session(again).is_some(), "{person}");
    }
    // a node that starts now says the same
    let other_node = Node::on(node.store.clone()).await.current().await;
    assert!(other_node.views.session(by_person).is_none() && other_node.views.session(by_session).is_none());
    assert_eq!(other_node.views.sessions(), 3);
}

#[actix_rt::test]
async fn a_logout_is_taken_once_by_all_nodes_and_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    node.open(&hand_over(session(), &[]), HOST).await.unwrap();
    assert_eq!(node.log_out(Some("sub-of-alice"), None, "token-1").await, Ok(LoggedOut { sessions: 1 }));
    let again = session();
    node.open(&hand_over(again, &[]), HOST).await.unwrap();
    let other = Node::on(node.store.clone()).await.current().await;
    for node in [&node, &other] {
        assert!(matches!(node.log_out(Some("sub-of-alice"), None, "token-1").await, Err(BrokerError::Refused(_))));
        assert!(node.views.session(again).is_some(), "the old token ends no new session");
    }
    // a token id is unique for its provider alone: another one is another logout
    assert_eq!(other.log_out(Some("sub-of-alice"), None, "token-2").await, Ok(LoggedOut { sessions: 1 }));
    assert!(node.views.progress.reaches(other.views.progress.applied(), SOON).await);
    assert!(node.views.session(again).is_none());
}

#[actix_rt::test]
async fn a_session_that_was_seen_stands_open_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    let opened = node.open(&hand_over(id, &[]), HOST).await.unwrap();
    let at = clock::now().plus(Duration::from_secs(1));
    let seq = node.append(id, Event::Session(session::Event::Seen(session::Seen { at }))).await;
    assert_eq!(node.standing(id).await, SessionStanding::Open { expires_at: opened.expires_at });
    let view = node.views.session(id).unwrap();
    assert_eq!((view.seq, view.activity.last()), (seq, at));
    assert_eq!(node.open(&seal_again(id), HOST).await.unwrap().position, seq, "for another host of the same person");
    node.append(id, Event::Session(session::Event::SignedOut(session::SignedOut {}))).await;
    assert_eq!(node.standing(id).await, SessionStanding::Shut);
}

fn seal_again(session: SessionId) -> String {
    seal(&HandOver { session, valid_until: clock::now().plus(Duration::from_secs(60)), identity: None })
}

#[actix_rt::test]
async fn a_session_that_a_fast_clock_saw_is_idle_by_the_clock_of_every_other_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let id = session();
    node.open(&hand_over(id, &[]), HOST).await.unwrap();
    let timeout = Duration::from_secs(20);
    let running = Node::idle_after(node.store.clone(), &keyring(), Some(timeout)).await.current().await;
    let at = clock::now().plus(Duration::from_secs(3600));
    let seq = node.append(id, Event::Session(session::Event::Seen(session::Seen { at }))).await;
    assert!(running.views.progress.reaches(seq, SOON).await);
    let starting = Node::idle_after(node.store.clone(), &keyring(), Some(timeout)).await.current().await;
    for node in [running, starting] {
        let view = node.views.session(id).unwrap();
        assert!(view.is_open(clock::now()));
        assert!(!view.is_open(clock::now().plus(timeout)));
    }
}

#[actix_rt::test]
async fn a_session_that_lay_idle_is_over_on_a_node_that_starts_and_on_every_other() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let (id, seen) = (session(), session());
    node.open(&hand_over(id, &[]), HOST).await.unwrap();
    node.open(&hand_over(seen, &[]), HOST).await.unwrap();
    // as late as another node's clock is believed
    let at = clock::now().plus(CLOCK_LEEWAY);
    node.append(seen, Event::Session(session::Event::Seen(session::Seen { at }))).await;
    // a bound that has passed for whoever was not seen since
    let idle = Node::idle_after(node.store.clone(), &keyring(), Some(Duration::from_millis(1))).await;
    let idle = idle.current().await;
    assert!(idle.views.session(id).is_none());
    assert_eq!(idle.standing(id).await, SessionStanding::Shut);
    assert!(matches!(idle.open(&seal_again(id), HOST).await, Err(BrokerError::Refused(_))));
    assert!(matches!(idle.standing(seen).await, SessionStanding::Open { .. }));
    // nothing was written for it: it is over because time has passed
    assert!(node.views.session(id).is_some());
    // seen on another node after all: it is there again
    idle.append(id, Event::Session(session::Event::Seen(session::Seen { at }))).await;
    assert!(matches!(idle.standing(id).await, SessionStanding::Open { .. }));
}
