//! Who uses the cluster: people who sign in and out, and a program that revokes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portcullis_actors::clock;
use portcullis_actors::databroker::broker::{BrokerError, End, Open, SessionStanding, StandingOf};
use portcullis_actors::databroker::hand_over::{HandOver, SessionTokens, SignedInIdentity};
use portcullis_actors::databroker::log::{AppendError, Expected, Log, NewRecord};
use portcullis_actors::keyring::Purpose;
use portcullis_config::Secret;
use portcullis_events::{Aggregate, Context, Envelope, Event, EventId, Hash, SessionId, session};
use serde_json::json;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::ground::keyring;
use crate::log::SimLog;
use crate::node::{Life, Node};
use crate::provider::{LIFE, first_token};

/// The id of the provider that everybody comes from.
pub const IDP: &str = "idp-1";
const HOST: &str = "app.example.com";
/// How often somebody tries again.
const TRIES: usize = 6;

/// A session that somebody wants.
#[derive(Clone)]
pub struct Wanted {
    /// Its id.
    pub id: SessionId,
    person: u64,
    groups: Vec<&'static str>,
    life: Duration,
}

impl Wanted {
    /// A session of one of two people.
    pub fn new(cluster: &Cluster, number: u64) -> Self {
        let world = &cluster.world;
        let id = SessionId::new(Uuid::from_u128(0x5e55_0000_0000_4000_8000_0000_0000_0000 + u128::from(number)));
        let groups: &[&[&str]] = &[&[], &["a"], &["b"], &["a", "b"]];
        let life = Duration::from_secs(if world.pick(5) == 0 { 15 } else { 3600 });
        Self { id, person: world.pick(2), groups: world.one(groups).to_vec(), life }
    }

    /// The same, and it outlives the run by any node's clock.
    pub fn lasting(self) -> Self {
        Self { life: Duration::from_secs(3600), ..self }
    }

    fn hand_over(&self, is_first: bool) -> String {
        let (now, subject) = (clock::now(), format!("sub-{}", self.person));
        let claims = json!({ "sub": subject, "email": format!("{subject}@example.com"), "groups": self.groups });
        let identity = is_first.then(|| SignedInIdentity {
            idp: IDP.into(),
            issuer: "https://id.example.com".into(),
            subject,
            claims: claims.as_object().unwrap().clone(),
            tokens: SessionTokens {
                access: Secret::new("access-token"),
                refresh: Some(Secret::new(first_token(self.id))),
                id_token: Secret::new("id-token"),
                access_expires_at: Some(now.plus(LIFE)),
            },
            issued_at: now,
            expires_at: now.plus(self.life),
        });
        let valid_until = now.plus(Duration::from_secs(1200));
        let hand_over = HandOver { session: self.id, valid_until, identity };
        hand_over.seal(&keyring().sealer(Purpose::HandOver).unwrap(), HOST).unwrap()
    }
}

impl Cluster {
    /// A node that runs, after some time.
    async fn any(&self) -> (&Node, Life) {
        loop {
            let node = &self.nodes[usize::try_from(self.world.pick(u64::try_from(self.nodes.len()).unwrap())).unwrap()];
            if let Some(life) = node.life() {
                return (node, life);
            }
            tokio::time::sleep(self.world.span(500)).await;
        }
    }

    /// Signs in: the hand-over is delivered until it is answered for good, now and then to two nodes at once.
    pub async fn sign_in(&self, wanted: &Wanted) {
        let sealed = wanted.hand_over(true);
        if self.world.pick(3) == 0 {
            let (first, second) = (self.deliver(wanted, &sealed), self.deliver(wanted, &sealed));
            futures_util::future::join(first, second).await;
        } else {
            self.deliver(wanted, &sealed).await;
        }
    }

    /// The same person at another host: the session is there already.
    pub async fn sign_in_elsewhere(&self, wanted: &Wanted) {
        if self.audit.was_opened(wanted.id) {
            self.deliver(wanted, &wanted.hand_over(false)).await;
        }
    }

    async fn deliver(&self, wanted: &Wanted, sealed: &str) {
        for _ in 0..TRIES {
            let (node, life) = self.any().await;
            if self.open_at(node, &life, wanted, sealed).await {
                return;
            }
            tokio::time::sleep(self.world.span(1500)).await;
        }
    }

    /// Delivers a hand-over to a node once; whether it was answered for good.
    async fn open_at(&self, node: &Node, life: &Life, wanted: &Wanted, sealed: &str) -> bool {
        let open = Open { hand_over: sealed.to_owned(), host: HOST.into(), request_id: "request".into() };
        match life.ask(open).await {
            Some(Ok(opened)) => {
                self.world.note(node.number, &format!("opened {} at {}", wanted.id, opened.position));
                self.audit.opened(node, life, wanted.id, opened.position);
                true
            }
            Some(Err(BrokerError::Refused(why))) => {
                let is_over = self.audit.was_asked_to_end(wanted.id)
                    || self.audit.told(wanted.id).ended.is_some()
                    || self.audit.told(wanted.id).begun.is_some_and(|(_, expires_at)| expires_at <= life.now())
                    || wanted.life < Duration::from_secs(60);
                self.world.note(node.number, &format!("refused {}: {why}", wanted.id));
                if !is_over {
                    self.audit.broken(format!("n{} refused session {}: {why}", node.number, wanted.id));
                }
                true
            }
            Some(Err(BrokerError::Unavailable(why))) => {
                self.world.note(node.number, &format!("not opened {}: {why}", wanted.id));
                false
            }
            None => false,
        }
    }

    /// When all has healed a sign-in works at a node, at once.
    pub async fn sign_in_at(&self, node: &Node, wanted: &Wanted) {
        let Some(life) = node.life() else { return };
        if !self.open_at(node, &life, wanted, &wanted.hand_over(true)).await {
            self.audit.broken(format!("n{} does not sign in although all has healed", node.number));
        }
    }

    /// Signs out, and tries until it is acknowledged.
    pub async fn sign_out(&self, wanted: &Wanted) {
        let was_open = self.audit.was_opened(wanted.id);
        self.audit.end_asked(wanted.id);
        for _ in 0..TRIES {
            let (node, life) = self.any().await;
            if self.end_at(node, &life, wanted, was_open).await {
                return;
            }
            tokio::time::sleep(self.world.span(1500)).await;
        }
    }

    /// Signs out at one node, once.
    pub async fn sign_out_at(&self, node: &Node, wanted: &Wanted) {
        let Some(life) = node.life() else { return };
        let was_open = self.audit.was_opened(wanted.id);
        self.audit.end_asked(wanted.id);
        self.end_at(node, &life, wanted, was_open).await;
    }

    async fn end_at(&self, node: &Node, life: &Life, wanted: &Wanted, was_open: bool) -> bool {
        let end = End { session: wanted.id, request_id: "request".into() };
        let is_ended = matches!(life.ask(end).await, Some(Ok(_)));
        if is_ended {
            self.world.note(node.number, &format!("ended {}", wanted.id));
            self.audit.ended(wanted.id, was_open, Some(life));
        }
        is_ended
    }

    /// The same person at another host, at one node, once; whether it was answered for good.
    pub async fn sign_in_elsewhere_at(&self, node: &Node, wanted: &Wanted) -> bool {
        let Some(life) = node.life() else { return false };
        self.open_at(node, &life, wanted, &wanted.hand_over(false)).await
    }

    /// Asks a node what the authority says of a session.
    pub async fn ask_standing(&self, wanted: &Wanted) {
        let (was_opened, was_ended) = (self.audit.was_opened(wanted.id), self.audit.was_ended(wanted.id));
        let (node, life) = self.any().await;
        let Some(Ok(standing)) = life.ask(StandingOf { session: wanted.id }).await else { return };
        self.world.note(node.number, &format!("standing of {}: {standing:?}", wanted.id));
        let told = self.audit.told(wanted.id);
        let is_live = told.begun.is_some_and(|(_, expires_at)| expires_at > life.now());
        match standing {
            SessionStanding::Open { .. } if was_ended => {
                self.audit.broken(format!("n{} says that session {} is open: it ended", node.number, wanted.id));
            }
            SessionStanding::Shut
                if was_opened && is_live && told.ended.is_none() && !self.audit.was_asked_to_end(wanted.id) =>
            {
                self.audit.broken(format!("n{} says that session {} is shut: it is open", node.number, wanted.id));
            }
            SessionStanding::Open { .. } | SessionStanding::Shut => {}
        }
    }

    /// Revokes past every node, as another program does: by appending to the log.
    pub async fn revoke(&self, wanted: &Wanted) {
        let was_open = self.audit.was_opened(wanted.id);
        let node = self.nodes.len();
        let wire = Arc::clone(self.wire.get().unwrap());
        let log = SimLog { world: Arc::clone(&self.world), node, wire };
        let aggregate = Aggregate::session(wanted.id);
        self.audit.end_asked(wanted.id);
        for _ in 0..TRIES {
            let Ok(last) = log.last(aggregate).await else { continue };
            let Some(last) = last else { return };
            let Ok(before) = Envelope::decode(&last.body) else { return };
            if !matches!(before.event, Event::Session(session::Event::SignedIn(_))) {
                return self.audit.ended(wanted.id, was_open, None);
            }
            let id = EventId::new(Uuid::now_v7());
            let revoked = session::Event::Revoked(session::Revoked { reason: "laptop lost".into() });
            let envelope = Envelope {
                id,
                source: "/elsewhere".into(),
                aggregate,
                time: clock::now(),
                context: Context { actor: "admin".into(), cause: None, traceparent: None },
                epoch: before.epoch,
                prev: Some(Hash::of(&last.body)),
                event: Event::Session(revoked),
            };
            let body = envelope.encode().unwrap();
            match log.append(NewRecord { aggregate, expected: Expected::Seq(last.seq), id, body }).await {
                Ok(seq) => {
                    self.world.note(node, &format!("revoked {} at {seq}", wanted.id));
                    if self.world.last(aggregate).is_none_or(|kept| kept.id != id || kept.record.seq != seq) {
                        self.audit.broken(format!("a revocation was acknowledged at {seq} and is not there"));
                    }
                    return self.audit.ended(wanted.id, was_open, None);
                }
                Err(AppendError::Conflict { actual }) => {
                    if self.world.last(aggregate).is_some_and(|kept| kept.id == id) {
                        self.audit.broken(format!("a revocation lost the race against itself at {actual}"));
                    }
                }
                Err(AppendError::Unavailable(_) | AppendError::Refused(_)) => {}
            }
        }
    }

    /// What one person does in a run.
    pub async fn live(self: Rc<Self>, number: u64) {
        let wanted = Wanted::new(&self, number);
        self.pause(12_000).await;
        self.sign_in(&wanted).await;
        for _ in 0..3 {
            self.pause(4_000).await;
            match self.world.pick(6) {
                0 => self.sign_out(&wanted).await,
                1 => self.revoke(&wanted).await,
                2 => self.ask_standing(&wanted).await,
                3 => self.sign_in(&wanted).await,
                4 => {
                    let (out, again) = (self.sign_out(&wanted), self.sign_in_elsewhere(&wanted));
                    futures_util::future::join(out, again).await;
                }
                _ => self.sign_in_elsewhere(&wanted).await,
            }
        }
    }

    async fn pause(&self, most: u64) {
        tokio::time::sleep(self.world.span(most)).await;
    }
}
