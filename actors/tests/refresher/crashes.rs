//! Whoever refreshes may die at any step: what it did is completed, or is in doubt and never done again.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_actors::databroker::store::{self, Store};
use portcullis_config::Storage;
use portcullis_config::limits::{REFRESH_DEADLINE, REFRESH_SPREAD};
use portcullis_events::{SessionId, token};

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
    let vault = Mortal::new(store.vault);
    let provider = Rotating::with(fates);
    let store = Store { log: store.log, vault: vault.clone(), snapshots: store.snapshots };
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

    /// The intent's deadline passes, and whoever takes its time after a start as well.
    async fn settles(&self) {
        self.node.look().await;
        assert!(matches!(self.node.tokens(self.session).await.renewal, token::Renewal::Started(_)), "too early");
        self.node.after((REFRESH_DEADLINE + REFRESH_SPREAD).as_secs()).await;
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
    use portcullis_actors::databroker::vault::Shelf;
    let world = world(&[]).await;
    // as at a sign-out: the vault first, for the refresher has read it by now
    let sealed = world.node.sealed(world.session).await;
    assert!(sealed.is_some());
    world.node.store.vault.delete(Shelf::Secret, &world.session.to_string()).await.unwrap();
    world.node.after(240).await;
    assert_eq!(world.node.sealed(world.session).await, None);
    assert_eq!(world.provider.calls(), 0);
}
