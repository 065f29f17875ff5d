//! What nobody needs leaves the vault: tokens of sessions that were revoked, ended or never began, and forgotten keys.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use portcullis_actors::clock;
use portcullis_actors::databroker::caretaker::{Caretaker, Sweep, Tools};
use portcullis_actors::databroker::journal::{Append, Command};
use portcullis_actors::databroker::neighbours::Neighbours;
use portcullis_actors::databroker::revocations::Revocations;
use portcullis_actors::databroker::store;
use portcullis_actors::databroker::vault::{Revision, Shelf};
use portcullis_actors::idp::RenewalClient;
use portcullis_config::Storage;
use portcullis_config::limits::VAULT_ORPHANED;
use portcullis_events::{Aggregate, Context as Cause, SessionId, Time, session};
use portcullis_harness::idp::ScriptedIdp;
use portcullis_harness::process::eventually;
use uuid::Uuid;

use super::node::{Clock, Node, identity};
use super::provider::authenticate;
use super::registration;

const SOON: Duration = Duration::from_secs(60);

struct World {
    idp: ScriptedIdp,
    node: Node,
    caretaker: Addr<Caretaker>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let idp = ScriptedIdp::start();
        let dir = tempfile::tempdir().unwrap();
        let store = store::open(&Storage::File(None), dir.path()).await.unwrap();
        let client = Rc::new(RenewalClient::new(registration::at(&idp), authenticate()));
        let node = Node::start(store, client, Clock::new()).await;
        let caretaker = Caretaker::new(Tools {
            log: Arc::clone(&node.store.log),
            vault: Arc::clone(&node.store.vault),
            data_keys: Rc::clone(&node.data_keys),
            views: Arc::clone(&node.views),
            replica: node.replica.clone(),
            nodes: Neighbours::of("a".into()),
            revocations: Revocations::new(registration::at(&idp), authenticate()),
        });
        Self { idp, node, caretaker: caretaker.start(), _dir: dir }
    }

    async fn sign_in(&self, person: &str) -> SessionId {
        self.node.sign_in(identity(person, &format!("refresh-of-{person}"), clock::now().plus(SOON))).await
    }

    async fn end(&self, id: SessionId, command: session::Command) {
        let cause = Cause { actor: "test".into(), cause: None, traceparent: None };
        let append = Append { aggregate: Aggregate::session(id), command: Command::Session(command), cause };
        self.node.journal.send(append).await.unwrap().unwrap();
    }

    async fn sweep(&self, now: Time) -> usize {
        self.caretaker.send(Sweep { now }).await.unwrap()
    }

    fn given_back(&self) -> Vec<String> {
        let seen = self.idp.requests().into_iter().filter(|seen| seen.path == "/revoke");
        seen.filter_map(|seen| seen.form("token")).collect()
    }
}

#[actix_rt::test]
async fn the_tokens_of_a_revoked_session_go_back_to_their_provider_and_leave_the_vault() {
    let world = World::new().await;
    let (lost, kept) = (world.sign_in("alice").await, world.sign_in("bob").await);
    // as another program does: all that this node sees is the event
    world.end(lost, session::Command::Revoke { reason: "laptop lost".into() }).await;
    let look = async || Ok((!world.given_back().is_empty()).then_some(()));
    eventually("the token is given back", SOON, look).await.unwrap();
    assert_eq!(world.given_back(), ["refresh-of-alice"]);
    assert_eq!(world.node.sealed(lost).await, None);
    assert!(world.node.sealed(kept).await.is_some());
    assert_eq!(world.sweep(clock::now()).await, 0);
}

#[actix_rt::test]
async fn the_tokens_of_a_session_that_ended_are_swept_at_once_and_those_of_an_open_one_never() {
    let world = World::new().await;
    let (ended, open) = (world.sign_in("alice").await, world.sign_in("bob").await);
    // whoever signed out died over it
    world.end(ended, session::Command::SignOut).await;
    assert!(world.node.sealed(ended).await.is_some());
    assert_eq!(world.sweep(clock::now()).await, 1);
    assert_eq!(world.node.sealed(ended).await, None);
    assert_eq!(world.sweep(clock::now().plus(10 * VAULT_ORPHANED)).await, 0);
    assert!(world.node.sealed(open).await.is_some());
    // fourteen hours later it has ended by itself
    assert_eq!(world.sweep(clock::now().plus(Duration::from_secs(15 * 3600))).await, 1);
}

#[actix_rt::test]
async fn tokens_whose_session_never_began_are_swept_when_nobody_can_be_coming_for_them() {
    let world = World::new().await;
    let open = world.sign_in("alice").await;
    let orphan = SessionId::new(Uuid::new_v4());
    let vault = &world.node.store.vault;
    let key = orphan.to_string();
    let put = |revision| vault.put(Shelf::Secret, &key, revision, vec![1]);
    let first = put(Revision::NONE).await.unwrap();
    let (began, half) = (clock::now(), VAULT_ORPHANED / 2);
    assert_eq!(world.sweep(began).await, 0);
    assert_eq!(world.sweep(began.plus(half)).await, 0);
    // somebody was there: it counts from now
    put(first).await.unwrap();
    assert_eq!(world.sweep(began.plus(VAULT_ORPHANED)).await, 0);
    assert_eq!(world.sweep(began.plus(VAULT_ORPHANED + half)).await, 0);
    assert_eq!(world.sweep(began.plus(2 * VAULT_ORPHANED)).await, 1);
    assert_eq!(world.node.sealed(orphan).await, None);
    assert!(world.node.sealed(open).await.is_some());
}

#[actix_rt::test]
async fn a_data_key_that_the_vault_has_forgotten_is_forgotten_and_opens_and_seals_nothing_more() {
    let world = World::new().await;
    let other = world.sign_in("bob").await;
    let person = world.node.views.session(world.sign_in("alice").await).unwrap().person;
    let vault = &world.node.store.vault;
    vault.delete(Shelf::DataKey, &person.to_string()).await.unwrap();
    // whoever signs in now gets another key, swept or not
    let again = world.sign_in("alice").await;
    assert!(vault.get(Shelf::DataKey, &person.to_string()).await.unwrap().is_some());
    assert!(world.node.views.session(again).is_some());
    vault.delete(Shelf::DataKey, &person.to_string()).await.unwrap();
    assert!(world.node.data_keys.get(person).await.unwrap().is_some(), "nobody has looked");
    world.sweep(clock::now()).await;
    assert!(world.node.data_keys.get(person).await.unwrap().is_none());
    assert!(world.node.views.session(again).is_none());
    assert!(world.node.views.session(other).is_some());
}
