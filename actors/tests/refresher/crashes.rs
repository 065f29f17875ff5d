//! Whoever refreshes may die at any step: what it did is completed, or is in doubt and never done again.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::LocalBoxStream;
use portcullis_actors::databroker::log::{AppendError, Head, Log, NewRecord, Record, TailFault, Tailed, Unavailable};
use portcullis_actors::databroker::neighbours::Neighbours;
use portcullis_actors::databroker::refresher::spool::Spool;
use portcullis_actors::databroker::store::{self, Store};
use portcullis_actors::databroker::vault::Shelf;
use portcullis_config::Storage;
use portcullis_config::limits::{REFRESH_DEADLINE, REFRESH_PATIENCE, REFRESH_SPREAD, REFRESH_TAKEOVER};
use portcullis_events::{Aggregate, SessionId, token};
use portcullis_harness::process::eventually;

use super::node::{Clock, Node, counted, identity};
use super::rotating::{Fate, LIFE, Mortal, Rotating, Seen};

struct World {
    node: Node,
    provider: Rc<Rotating>,
    vault: Arc<Mortal>,
    session: SessionId,
    _dir: tempfile::TempDir,
}

/// A node with one session, and a provider that deals these fates.
async fn world(fates: &[Fate]) -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = store::open(&Storage::File(None), dir.path()).await.unwrap();
    let vault = Mortal::new(Arc::clone(&store.vault));
    let provider = Rotating::with(fates);
    let store = Store { vault: vault.clone(), ..store };
    let clock = Clock::new();
    let seen = Rc::new(Seen { provider: Rc::clone(&provider), vault: Arc::clone(&vault) });
    let node = Node::start(store, seen, clock.clone()).await;
    let session = node.sign_in(identity("alice", &provider.give("alice"), clock.now().plus(LIFE))).await;
    World { node, provider, vault, session, _dir: dir }
}

impl World {
    /// A refresh falls due, and the refresher dies over it; another takes its place.
    async fn dies(&mut self) {
        self.node.clock.wind(240);
        let look = self.node.look();
        tokio::select! {
            () = look => panic!("nobody died"),
            () = self.vault.death() => {}
        }
        self.node.replace_refresher();
        assert!(matches!(self.node.tokens(self.session).await.renewal, token::Renewal::Started(_)));
    }

    /// The intent's deadline passes, whoever takes its time after a start does, and whoever wrote it has had time to speak.
    async fn settles(&self) {
        self.node.look().await;
        assert!(matches!(self.node.tokens(self.session).await.renewal, token::Renewal::Started(_)), "too early");
        self.node.after((REFRESH_DEADLINE + REFRESH_SPREAD).as_secs()).await;
        assert!(matches!(self.node.tokens(self.session).await.renewal, token::Renewal::Started(_)), "at first sight");
        self.node.after(REFRESH_PATIENCE.as_secs()).await;
    }
}

#[actix_rt::test]
async fn an_answer_that_lies_in_the_vault_is_found_there_and_nobody_is_asked_again() {
    let mut world = world(&[Fate::DiesBeforeTheLog]).await;
    world.dies().await;
    world.settles().await;
    let held = world.node.tokens(world.session).await;
    assert_eq!((held.stored.generation, held.renewal), (2, token::Renewal::Idle(None)));
    assert_eq!((world.provider.calls(), counted(&world.node.tally.recovered)), (1, 1));
    // and the next one is got with it
    world.node.after(LIFE.as_secs()).await;
    assert_eq!(world.node.tokens(world.session).await.stored.generation, 3);
    assert_eq!((world.provider.calls(), world.provider.reuses()), (2, 0));
    assert!(world.node.is_open(world.session).await);
}

#[actix_rt::test]
async fn without_an_answer_in_the_vault_a_generation_is_in_doubt_and_the_session_ends_with_its_access_token() {
    for fate in [Fate::DiesBeforeTheCall, Fate::DiesBeforeTheAnswer, Fate::DiesBeforeTheVault] {
        let mut world = world(&[fate]).await;
        let calls = usize::from(fate != Fate::DiesBeforeTheCall);
        world.dies().await;
        assert!(world.node.is_open(world.session).await, "{fate:?}");
        world.settles().await;
        assert!(matches!(world.node.tokens(world.session).await.renewal, token::Renewal::InDoubt(_)), "{fate:?}");
        assert_eq!(counted(&world.node.tally.left_in_doubt), 1, "{fate:?}");
        world.node.look().await;
        assert!(!world.node.is_open(world.session).await, "{fate:?}: the access token has ended");
        assert_eq!(world.node.sealed(world.session).await, None, "{fate:?}");
        world.node.after(LIFE.as_secs()).await;
        assert_eq!((world.provider.calls(), world.provider.reuses()), (calls, 0), "{fate:?}");
    }
}

#[actix_rt::test]
async fn in_doubt_a_session_lives_until_its_access_token_ends() {
    let world = world(&[Fate::Lost]).await;
    world.node.after(240).await;
    assert!(matches!(world.node.tokens(world.session).await.renewal, token::Renewal::InDoubt(_)));
    world.node.after(59).await;
    assert!(world.node.is_open(world.session).await);
    world.node.after(1).await;
    assert!(!world.node.is_open(world.session).await);
    assert_eq!(world.provider.calls(), 1);
}

#[actix_rt::test]
async fn what_was_not_spent_is_tried_again_after_a_pause() {
    for fate in [Fate::NotSent, Fate::Unavailable] {
        let world = world(&[fate, fate]).await;
        for _ in 0..2 {
            world.node.after(240).await;
            world.node.after(1).await;
            assert_eq!(world.node.tokens(world.session).await.stored.generation, 1);
        }
        assert_eq!(world.node.tokens(world.session).await.failures, 2, "not at once");
        world.node.after(30).await;
        let held = world.node.tokens(world.session).await;
        assert_eq!((held.stored.generation, held.failures), (2, 0));
        assert!(world.node.is_open(world.session).await, "{fate:?}");
    }
}

#[actix_rt::test]
async fn a_session_that_ended_while_it_was_renewed_stays_ended_and_leaves_nothing_in_the_vault() {
    let world = world(&[]).await;
    // as at a sign-out: the vault first, for the refresher has read it by now
    let sealed = world.node.sealed(world.session).await;
    assert!(sealed.is_some());
    world.node.store.vault.delete(Shelf::Secret, &world.session.to_string()).await.unwrap();
    world.node.after(240).await;
    assert_eq!(world.node.sealed(world.session).await, None);
    assert_eq!(world.provider.calls(), 0);
}

/// A node whose answers wait on its disk, and the directory where they do.
async fn with_spool(fates: &[Fate]) -> (World, std::path::PathBuf) {
    let mut world = world(fates).await;
    let dir = world._dir.path().join("answers");
    world.node.spool = Some(Spool::at(dir.clone()));
    world.node.replace_refresher();
    (world, dir)
}

fn files(dir: &std::path::Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[actix_rt::test]
async fn an_answer_on_the_disk_is_found_after_a_crash_and_put_into_the_vault() {
    let (mut world, dir) = with_spool(&[Fate::DiesBeforeTheVault]).await;
    world.dies().await;
    let waiting = files(&dir);
    assert_eq!(waiting.len(), 1);
    let shows = |word: &str| waiting[0].windows(word.len()).any(|window| window == word.as_bytes());
    assert!(!shows("alice") && !shows("canary"), "it is sealed");
    world.node.look().await;
    let held = world.node.tokens(world.session).await;
    assert_eq!((held.stored.generation, held.renewal), (2, token::Renewal::Idle(None)));
    assert_eq!((world.provider.calls(), counted(&world.node.tally.recovered)), (1, 1));
    assert!(files(&dir).is_empty());
    world.node.after(LIFE.as_secs()).await;
    assert_eq!(world.node.tokens(world.session).await.stored.generation, 3);
    assert_eq!((world.provider.calls(), world.provider.reuses()), (2, 0));
    assert!(files(&dir).is_empty(), "nothing stays");
}

#[actix_rt::test]
async fn an_answer_outlives_a_vault_that_is_away_and_whoever_waits_for_it() {
    let (mut world, dir) = with_spool(&[]).await;
    world.vault.is_away.store(true, Ordering::Relaxed);
    world.node.clock.wind(240);
    let look = world.node.look();
    let waits = async {
        let kept = async || Ok((files(&dir).len() == 1).then_some(()));
        eventually("the answer is on the disk", Duration::from_secs(60), kept).await.unwrap();
    };
    tokio::select! {
        () = look => panic!("nobody waits"),
        () = waits => {}
    }
    world.node.replace_refresher();
    // others may give it up meanwhile, and the vault is still away
    world.node.after((REFRESH_DEADLINE + REFRESH_SPREAD).as_secs()).await;
    world.node.after(REFRESH_PATIENCE.as_secs()).await;
    assert!(matches!(world.node.tokens(world.session).await.renewal, token::Renewal::InDoubt(_)));
    assert_eq!(files(&dir).len(), 1);
    world.vault.is_away.store(false, Ordering::Relaxed);
    world.node.look().await;
    let held = world.node.tokens(world.session).await;
    assert_eq!((held.stored.generation, held.renewal), (2, token::Renewal::Idle(None)));
    assert_eq!((world.provider.calls(), world.provider.reuses()), (1, 0));
}

#[actix_rt::test]
async fn an_answer_of_a_session_that_ended_and_one_that_was_written_in_part_go_nowhere() {
    let (mut world, dir) = with_spool(&[Fate::DiesBeforeTheVault]).await;
    world.dies().await;
    let path = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    std::fs::write(dir.join("something-else"), b"x").unwrap();
    world.node.look().await;
    assert_eq!(world.node.tokens(world.session).await.stored.generation, 1);
    assert_eq!(files(&dir), [b"x"], "what is not ours is let alone");
    std::fs::write(&path, &whole).unwrap();
    world.node.store.vault.delete(Shelf::Secret, &world.session.to_string()).await.unwrap();
    world.node.look().await;
    assert_eq!((world.node.sealed(world.session).await, files(&dir).len()), (None, 1));
}

/// Stores what is appended, and says nothing of it: no answer comes through while it is silent.
struct Silent {
    log: Arc<dyn Log>,
    is_silent: AtomicBool,
}

impl Silent {
    fn is_heard(&self) -> Result<(), Unavailable> {
        if self.is_silent.load(Ordering::Relaxed) { Err(Unavailable("silence".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Log for Silent {
    async fn append(&self, record: NewRecord) -> Result<u64, AppendError> {
        let stored = self.log.append(record).await;
        self.is_heard().map_err(|Unavailable(why)| AppendError::Unavailable(why))?;
        stored
    }

    async fn head(&self) -> Result<Head, Unavailable> {
        self.is_heard()?;
        self.log.head().await
    }

    async fn last(&self, aggregate: Aggregate) -> Result<Option<Record>, Unavailable> {
        self.is_heard()?;
        self.log.last(aggregate).await
    }

    fn tail(&self, after: u64) -> LocalBoxStream<'static, Result<Tailed, TailFault>> {
        self.log.tail(after)
    }
}

#[actix_rt::test]
async fn an_intent_that_got_no_answer_is_owned_up_to_by_its_writer_before_another_node_leaves_it_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let store = store::open(&Storage::File(None), dir.path()).await.unwrap();
    let silent = Arc::new(Silent { log: Arc::clone(&store.log), is_silent: AtomicBool::new(false) });
    let (clock, provider) = (Clock::new(), Rotating::with(&[]));
    let node = async |log: Arc<dyn Log>| {
        let vault = Mortal::new(Arc::clone(&store.vault));
        let seen = Rc::new(Seen { provider: Rc::clone(&provider), vault: Arc::clone(&vault) });
        let store = Store { log, vault, ..store.clone() };
        // each believes that it is alone
        Node::among(store, seen, clock.clone(), Neighbours::of("me".into())).await
    };
    let (writer, other) = (node(silent.clone()).await, node(Arc::clone(&store.log)).await);
    let session = writer.sign_in(identity("alice", &provider.give("alice"), clock.now().plus(LIFE))).await;
    let renewal = async |node: &Node| {
        node.catches_up().await;
        node.tokens(session).await.renewal
    };

    // it stands on the log, and nobody was told; the provider was not asked
    silent.is_silent.store(true, Ordering::Relaxed);
    writer.after(240).await;
    assert!(matches!(renewal(&other).await, token::Renewal::Started(_)));
    assert_eq!(provider.calls(), 0);
    // the log was away for longer than the deadline: the other node sees it in the same moment as its writer
    clock.wind((REFRESH_DEADLINE + REFRESH_TAKEOVER + REFRESH_SPREAD).as_secs());
    other.look().await;
    assert!(matches!(renewal(&other).await, token::Renewal::Started(_)), "at first sight");
    silent.is_silent.store(false, Ordering::Relaxed);
    assert!(matches!(renewal(&writer).await, token::Renewal::Started(_)));
    writer.look().await;
    assert!(matches!(renewal(&writer).await, token::Renewal::Idle(Some(_))), "tried again later");
    assert!(matches!(renewal(&other).await, token::Renewal::Idle(Some(_))));
    other.after(REFRESH_PATIENCE.as_secs()).await;
    for node in [&writer, &other] {
        assert_eq!(counted(&node.tally.left_in_doubt), 0);
    }
}
