//! Two nodes on one server that hear of each other: each session is renewed by one of them, without a race.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portcullis_actors::databroker::neighbours::Neighbours;
use portcullis_actors::databroker::store::{self, Store};
use portcullis_config::limits::REFRESH_TAKEOVER;
use portcullis_config::{NatsStorage, Storage};
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::node::{Clock, Node, counted, identity};
use super::rotating::{LIFE, Mortal, Rotating, Seen};

const SESSIONS: usize = 40;
const SOON: Duration = Duration::from_secs(60);

struct Member {
    node: Node,
    neighbours: Arc<Neighbours>,
    beats: JoinHandle<()>,
}

impl Member {
    async fn join(server: &NatsServer, provider: &Rc<Rotating>, clock: &Clock) -> Self {
        let storage = Storage::Nats(NatsStorage::at(vec![server.url()]));
        let store = store::open(&storage, std::path::Path::new("/nonexistent")).await.unwrap();
        let vault = Mortal::new(Arc::clone(&store.vault));
        let seen = Rc::new(Seen { provider: Rc::clone(provider), vault: Arc::clone(&vault) });
        let neighbours = Neighbours::of(Uuid::new_v4().to_string());
        let beats = actix_rt::spawn(Arc::clone(&neighbours).meet(store.meeting.clone().unwrap(), || true));
        let store = Store { vault, ..store };
        let node = Node::among(store, seen, clock.clone(), Arc::clone(&neighbours)).await;
        Self { node, neighbours, beats }
    }

    async fn knows(&self, others: usize) {
        let look = async || Ok((self.neighbours.now().others() == others).then_some(()));
        eventually("the other nodes are known", SOON, look).await.unwrap();
    }

    fn began(&self) -> u64 {
        counted(&self.node.tally.started)
    }

    fn races(&self) -> u64 {
        self.node.views.metrics.appends.conflict.get()
    }
}

#[actix_rt::test]
async fn of_two_nodes_one_renews_each_session_and_the_other_when_it_is_gone() {
    let server = NatsServer::start().unwrap();
    let (clock, provider) = (Clock::new(), Rotating::with(&[]));
    let a = Member::join(&server, &provider, &clock).await;
    let b = Member::join(&server, &provider, &clock).await;
    a.knows(1).await;
    b.knows(1).await;
    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let person = format!("person-{n}");
        let token = provider.give(&person);
        sessions.push(a.node.sign_in(identity(&person, &token, clock.now().plus(LIFE))).await);
    }
    let before = a.races() + b.races();
    for round in 1..=3 {
        for member in [&a, &b] {
            member.node.catches_up().await;
            member.knows(1).await;
        }
        clock.wind(240);
        futures_util::future::join(a.node.look(), b.node.look()).await;
        assert_eq!(provider.calls(), round * SESSIONS, "one call for each session");
    }
    assert_eq!(a.races() + b.races(), before, "nobody lost a race");
    assert!(a.began() > 0 && b.began() > 0, "the work is shared: {} and {}", a.began(), b.began());
    assert_eq!(a.began() + b.began(), u64::try_from(3 * SESSIONS).unwrap());

    // one of them dies without a word
    let b_did = b.began();
    b.beats.abort();
    a.node.catches_up().await;
    clock.wind(240);
    a.node.look().await;
    assert!(provider.calls() < 4 * SESSIONS, "what is the other's is left to it for a while");
    a.knows(0).await;
    clock.wind(REFRESH_TAKEOVER.as_secs());
    a.node.look().await;
    assert_eq!((provider.calls(), provider.reuses()), (4 * SESSIONS, 0));
    assert_eq!(b.began(), b_did);
    for id in sessions {
        assert_eq!(a.node.tokens(id).await.stored.generation, 5);
    }
}
