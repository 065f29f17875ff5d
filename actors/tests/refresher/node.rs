//! A databroker of one node with a refresher, and a clock that is wound by hand.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Addr};
use futures_util::StreamExt;
use portcullis_actors::clock;
use portcullis_actors::databroker::broker::{Broker, Open, SessionStanding, StandingOf};
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::hand_over::{HandOver, SessionTokens, SignedInIdentity};
use portcullis_actors::databroker::journal::Journal;
use portcullis_actors::databroker::log::Tailed;
use portcullis_actors::databroker::neighbours::Neighbours;
use portcullis_actors::databroker::refresher::spool::Spool;
use portcullis_actors::databroker::refresher::{Look, Pace, Refresher, Tally, Tools};
use portcullis_actors::databroker::replica::{Read, Replica, State};
use portcullis_actors::databroker::store::Store;
use portcullis_actors::databroker::vault::Shelf;
use portcullis_actors::databroker::view::Views;
use portcullis_actors::idp::{Identity, Renewals};
use portcullis_actors::keyring::Purpose;
use portcullis_config::Secret;
use portcullis_events::{Aggregate, Envelope, Event, SessionId, Time, token};
use uuid::Uuid;

use super::ground::{self, keyring};

pub const IDP: &str = "idp-1";
const HOST: &str = "app.example.com";
const SOON: Duration = Duration::from_secs(10);

/// A clock that stands still until it is wound.
#[derive(Clone)]
pub struct Clock(Rc<Cell<Time>>);

impl Clock {
    pub fn new() -> Self {
        Self(Rc::new(Cell::new(clock::now())))
    }

    pub fn wind(&self, seconds: u64) {
        self.0.set(self.0.get().plus(Duration::from_secs(seconds)));
    }

    /// Sets it to what all other clocks say.
    pub fn set(&self) {
        self.0.set(clock::now());
    }

    pub fn now(&self) -> Time {
        self.0.get()
    }
}

pub struct Node {
    pub store: Store,
    pub views: Arc<Views>,
    pub tally: Arc<Tally>,
    pub clock: Clock,
    pub replica: Addr<Replica>,
    pub journal: Addr<Journal>,
    broker: Addr<Broker>,
    refresher: Option<Addr<Refresher>>,
    provider: Rc<dyn Renewals>,
    pub data_keys: Rc<DataKeys>,
    nodes: Arc<Neighbours>,
    /// Of the refreshers that take another's place.
    pub spool: Option<Spool>,
}

impl Node {
    pub async fn start(store: Store, provider: Rc<dyn Renewals>, clock: Clock) -> Self {
        Self::among(store, provider, clock, Neighbours::of("a".into())).await
    }

    pub async fn among(store: Store, provider: Rc<dyn Renewals>, clock: Clock, nodes: Arc<Neighbours>) -> Self {
        let views = Arc::new(Views::default());
        let (log, vault) = (Arc::clone(&store.log), Arc::clone(&store.vault));
        let (data_keys, replica, journal, broker) = ground::start(log, vault, &views, &keyring(), "/test");
        assert!(views.progress.reaches(1, SOON).await, "the log has no beginning");
        while !views.progress.standing(clock::now()).is_ready() {
            tokio::task::yield_now().await;
        }
        let mut node = Self {
            store,
            views,
            tally: Arc::default(),
            clock,
            replica,
            journal,
            broker,
            refresher: None,
            provider,
            data_keys,
            nodes,
            spool: None,
        };
        node.replace_refresher();
        node
    }

    /// Another refresher takes the place of one that died; the first, of none.
    pub fn replace_refresher(&mut self) {
        let tools = Tools {
            vault: Arc::clone(&self.store.vault),
            data_keys: Rc::clone(&self.data_keys),
            views: Arc::clone(&self.views),
            journal: self.journal.clone(),
            replica: self.replica.clone(),
            provider: Rc::clone(&self.provider),
            idp: IDP.into(),
            nodes: Arc::clone(&self.nodes),
            clock: wound(&self.clock),
            tally: Arc::clone(&self.tally),
            pace: Pace::Told,
            spool: self.spool.clone(),
        };
        self.refresher = Some(Refresher::new(tools).start());
    }

    /// A session with these tokens, as a sign-in makes it.
    pub async fn sign_in(&self, identity: Identity) -> SessionId {
        let (session, now) = (SessionId::new(Uuid::new_v4()), clock::now());
        let identity = SignedInIdentity {
            idp: IDP.into(),
            issuer: identity.issuer,
            subject: identity.subject,
            claims: identity.claims,
            tokens: identity.tokens,
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(14 * 3600)),
        };
        let valid_until = now.plus(Duration::from_secs(60));
        let hand_over = HandOver { session, valid_until, identity: Some(identity) };
        let hand_over = hand_over.seal(&keyring().sealer(Purpose::HandOver).unwrap(), HOST).unwrap();
        let open = Open { hand_over, host: HOST.into(), request_id: "request-1".into() };
        self.broker.send(open).await.unwrap().unwrap();
        session
    }

    /// Winds the clock and lets the refresher look.
    pub async fn after(&self, seconds: u64) {
        self.clock.wind(seconds);
        self.look().await;
    }

    pub async fn look(&self) {
        self.refresher.as_ref().unwrap().send(Look).await.unwrap();
    }

    pub async fn tokens(&self, id: SessionId) -> token::Held {
        held(self.known_tokens(id).await)
    }

    pub async fn known_tokens(&self, id: SessionId) -> token::State {
        let known = self.replica.send(Read(Aggregate::token(id))).await.unwrap();
        let state = match known.state {
            State::Token(state) => Some(state),
            _ => None,
        };
        state.unwrap()
    }

    /// What the log says of a session's tokens, of an ended one too: a replica forgets those.
    pub async fn told(&self, id: SessionId) -> token::Held {
        let head = self.store.log.head().await.unwrap().last;
        let mut tail = self.store.log.tail(0);
        let (mut state, mut seq) = (token::State::Absent, 0);
        while seq < head {
            let Tailed::Record(record) = tail.next().await.unwrap().unwrap() else { continue };
            seq = record.seq;
            let envelope = Envelope::decode(&record.body).unwrap();
            if let Event::Token(event) = &envelope.event
                && envelope.aggregate == Aggregate::token(id)
            {
                state = token::evolve(state, event);
            }
        }
        held(state)
    }

    pub async fn standing(&self, id: SessionId) -> SessionStanding {
        self.broker.send(StandingOf { session: id }).await.unwrap().unwrap()
    }

    pub async fn is_open(&self, id: SessionId) -> bool {
        let is_open = self.views.session(id).is_some();
        assert_eq!(matches!(self.standing(id).await, SessionStanding::Open { .. }), is_open);
        is_open
    }

    /// The sealed tokens, to be compared: a new seal is another value.
    pub async fn sealed(&self, id: SessionId) -> Option<Vec<u8>> {
        self.store.vault.get(Shelf::Secret, &id.to_string()).await.unwrap().map(|sealed| sealed.value)
    }

    /// Waits until nobody works any more but those who died over it: not even the refreshers that were replaced.
    pub async fn is_left_to_the_dead(&self, dead: impl Fn() -> usize) {
        while counted(&self.tally.under_way) > u64::try_from(dead()).unwrap() {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the views hold everything that is on the log.
    pub async fn catches_up(&self) {
        let head = self.store.log.head().await.unwrap().last;
        assert!(self.views.progress.reaches(head, SOON).await);
    }
}

fn wound(clock: &Clock) -> Rc<dyn Fn() -> Time> {
    let clock = clock.clone();
    Rc::new(move || clock.now())
}

pub fn counted(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// An identity that no provider vouched for.
pub fn identity(subject: &str, refresh: &str, access_expires_at: Time) -> Identity {
    let claims = serde_json::json!({"sub": subject, "email": format!("{subject}@example.com"), "groups": ["staff"]});
    Identity {
        issuer: "https://id.example.com".into(),
        subject: subject.into(),
        claims: claims.as_object().unwrap().clone(),
        tokens: SessionTokens {
            access: Secret::new("canary-access"),
            refresh: Some(Secret::new(refresh)),
            id_token: Secret::new("canary-id-token"),
            access_expires_at: Some(access_expires_at),
        },
    }
}

fn held(state: token::State) -> token::Held {
    let held = match state {
        token::State::Held(held) => Some(held),
        token::State::Absent => None,
    };
    held.unwrap()
}
