//! What must be true of every run, checked while it goes on and when all has healed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portcullis_actors::databroker::replica::{Read, State};
use portcullis_actors::databroker::vault::Shelf;
use portcullis_config::Staleness;
use portcullis_config::limits::HEAD_STALE;
use portcullis_events::{
    Aggregate, AggregateKind, Context, Envelope, Event, EventId, Fold, LogoutId, PersonId, SessionId, Time, session,
    token,
};
use uuid::Uuid;

use crate::node::{Life, Node};
use crate::time;
use crate::world::{Kept, World};

/// The bounds within which a node's word is put to the test: the strictest that an installation may ask for, and the
/// one of readiness.
const BOUNDS: [Duration; 2] = [Duration::from_secs(2), HEAD_STALE];
/// Two clocks that each cut off their microseconds.
const ROUNDING: i64 = 2;

/// What the log says of a session, read by somebody who reads nothing but the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// Where it began, and when it ends by itself.
    pub begun: Option<(u64, Time)>,
    /// Where it ended.
    pub ended: Option<u64>,
}

/// The auditor of a run.
pub struct Audit {
    world: Arc<World>,
    book: RefCell<Book>,
}

#[derive(Default)]
struct Book {
    read: Vec<Kept>,
    sessions: BTreeMap<SessionId, Told>,
    ids: BTreeSet<EventId>,
    /// Sessions whose tokens were left in doubt.
    lost: BTreeSet<Uuid>,
    /// Sessions whose opening was acknowledged to the person.
    opened: BTreeMap<SessionId, u64>,
    end_asked: BTreeSet<SessionId>,
    ended: BTreeSet<SessionId>,
    broken: Vec<String>,
}

impl Audit {
    /// An auditor that has seen nothing yet.
    pub fn new(world: Arc<World>) -> Self {
        Self { world, book: RefCell::default() }
    }

    /// A promise was broken.
    pub fn broken(&self, what: String) {
        self.world.note(0, &format!("BROKEN: {what}"));
        self.book.borrow_mut().broken.push(what);
    }

    /// The first promise that was broken.
    pub fn verdict(&self) -> Option<String> {
        self.world.reused().or_else(|| self.book.borrow().broken.first().cloned())
    }

    /// What the log says of a session now.
    pub fn told(&self, id: SessionId) -> Told {
        self.read();
        self.book.borrow().sessions.get(&id).copied().unwrap_or_default()
    }

    /// Whether the session's opening was acknowledged.
    pub fn was_opened(&self, id: SessionId) -> bool {
        self.book.borrow().opened.contains_key(&id)
    }

    /// Whether somebody asked for its end.
    pub fn was_asked_to_end(&self, id: SessionId) -> bool {
        self.book.borrow().end_asked.contains(&id)
    }

    /// Whether its end was acknowledged.
    pub fn was_ended(&self, id: SessionId) -> bool {
        self.book.borrow().ended.contains(&id)
    }

    /// Somebody asks for the end of a session.
    pub fn end_asked(&self, id: SessionId) {
        self.book.borrow_mut().end_asked.insert(id);
    }

    /// A node acknowledged that a session is open: it is on the log, there, and this node knows it.
    pub fn opened(&self, node: &Node, life: &Life, id: SessionId, position: u64) {
        life.inside(|| self.opened_inside(node, life, id, position));
    }

    fn opened_inside(&self, node: &Node, life: &Life, id: SessionId, position: u64) {
        self.check_inside(node, life);
        let told = self.told(id);
        self.book.borrow_mut().opened.insert(id, position);
        let Some((begun, expires_at)) = told.begun else {
            return self.broken(format!("session {id} was acknowledged at {position} and is not on the log"));
        };
        if begun != position {
            self.broken(format!("session {id} was acknowledged at {position} and began at {begun}"));
        }
        let applied = life.views.progress.applied();
        if applied < position && life.views.progress.stopped().is_none() {
            self.broken(format!("n{} acknowledged {position} and has read up to {applied}", node.number));
        }
        let is_over = told.ended.is_some_and(|ended| ended <= applied) || expires_at <= life.now();
        if life.views.progress.vouches(life.now(), Staleness::Unbounded) && !is_over && life.views.session(id).is_none()
        {
            self.broken(format!("n{} acknowledged session {id} and does not know it", node.number));
        }
    }

    /// A node, or the log, acknowledged that a session is over. `was_open`: before it was asked to, its opening had been
    /// acknowledged.
    pub fn ended(&self, id: SessionId, was_open: bool, life: Option<&Life>) {
        if !was_open {
            return;
        }
        if self.told(id).ended.is_none() {
            return self.broken(format!("the end of session {id} was acknowledged and is not on the log"));
        }
        self.book.borrow_mut().ended.insert(id);
        if life.is_some_and(|life| life.views.session(id).is_some()) {
            self.broken(format!("the end of session {id} was acknowledged by a node that still admits it"));
        }
    }

    /// Reads what is new on the log.
    fn read(&self) {
        let seen = self.book.borrow().read.len();
        for kept in self.world.since(seen) {
            let wrong = self.book.borrow_mut().enter(kept);
            if let Some(what) = wrong {
                self.broken(what);
            }
        }
    }

    /// What a node shows now is what the log says up to where the node has come, and its word on freshness holds.
    pub fn check(&self, node: &Node, life: &Life) {
        life.inside(|| self.check_inside(node, life));
    }

    fn check_inside(&self, node: &Node, life: &Life) {
        self.read();
        let (progress, now) = (&life.views.progress, life.now());
        let applied = progress.applied();
        if let Some(why) = progress.stopped() {
            return self.broken(format!("n{} stopped: {why}", node.number));
        }
        if !progress.vouches(now, Staleness::Unbounded) {
            return;
        }
        let book = self.book.borrow();
        let mut broken = Vec::new();
        for (id, told) in &book.sessions {
            let Some((begun, expires_at)) = told.begun else { continue };
            let is_open = begun <= applied && told.ended.is_none_or(|ended| ended > applied);
            let is_shown = life.views.session(*id).is_some();
            // one that ended by itself may be in the view until it is swept: it is refused by its own time
            if is_shown != is_open && (expires_at > now || !is_open) {
                let what = if is_shown { "admits" } else { "refuses" };
                broken.push(format!("n{} has read up to {applied} and {what} session {id} ({told:?})", node.number));
            }
        }
        for bound in BOUNDS.into_iter().filter(|bound| progress.vouches(now, Staleness::Within(*bound))) {
            let before = time::elapsed() - i64::try_from(bound.as_millis()).unwrap() - ROUNDING;
            let unread = book.read.iter().find(|kept| kept.at < before && kept.record.seq > applied);
            if let Some(unread) = unread {
                let (number, seq) = (node.number, unread.record.seq);
                broken.push(format!("n{number} vouches within {bound:?} and has not read {seq}, older than that"));
            }
        }
        drop(book);
        broken.into_iter().for_each(|what| self.broken(what));
    }

    /// When all has healed: the log is whole, every node holds what it says, and every open session has its tokens.
    pub async fn settle(&self, nodes: &[Rc<Node>]) {
        self.read();
        let mut fold = Fold::default();
        let mut aggregates = BTreeSet::new();
        for kept in self.world.since(0) {
            match fold.apply(kept.record.seq, &kept.record.subject, &kept.record.body) {
                Ok(envelope) => drop(aggregates.insert(envelope.aggregate)),
                Err(error) => return self.broken(format!("the log at {}: {error}", kept.record.seq)),
            }
        }
        for node in nodes {
            let Some(life) = node.life() else { continue };
            self.check(node, &life);
            let standing = life.inside(|| life.views.progress.standing(life.now()));
            if !standing.is_ready() || life.views.progress.applied() != fold.applied() {
                self.broken(format!("n{} did not heal: {standing}", node.number));
            }
            for aggregate in &aggregates {
                match life.replica.send(Read(*aggregate)).await {
                    Ok(known) if known.tip == fold.tip(*aggregate) && known.state == state(&fold, *aggregate) => {}
                    known => self.broken(format!("n{} holds of {aggregate}: {known:?}", node.number)),
                }
            }
        }
        let views: BTreeSet<_> = nodes.iter().filter_map(|node| node.life()).map(|life| self.picture(&life)).collect();
        if views.len() > 1 {
            self.broken(format!("the nodes show different things: {views:?}"));
        }
        for (id, record) in fold.sessions() {
            let state = record.state();
            let has_tokens = self.world.value(Shelf::Secret, &id.to_string()).is_some();
            if matches!(state, session::State::Open(_)) && !has_tokens {
                self.broken(format!("session {id} is open and has no tokens"));
            }
            if matches!(state, session::State::Open(_)) && self.was_ended(id) {
                self.broken(format!("session {id} is open and its end was acknowledged"));
            }
        }
    }

    /// All that a node shows, as text, without what is over by any node's clock.
    fn picture(&self, life: &Life) -> String {
        let now = time::off_by(crate::SKEWS.iter().copied().max().unwrap_or(0)).plus(crate::TICK);
        let book = self.book.borrow();
        let views = book.sessions.keys().filter_map(|id| life.views.session(*id));
        let views: Vec<_> = views.filter(|view| view.expires_at > now).collect();
        format!("{:?} {views:?}", life.views.progress.epoch())
    }
}

impl Book {
    /// Enters a record; says what is wrong with it.
    fn enter(&mut self, kept: Kept) -> Option<String> {
        let (seq, is_new) = (kept.record.seq, self.ids.insert(kept.id));
        let envelope = Envelope::decode(&kept.record.body);
        self.read.push(kept);
        if !is_new {
            return Some(format!("the event at {seq} is on the log twice"));
        }
        let Ok(Envelope { aggregate, event, context: Context { actor, .. }, .. }) = envelope else { return None };
        let event = match event {
            Event::Session(event) => event,
            Event::Token(token::Event::LeftInDoubt(_)) => {
                self.lost.insert(aggregate.id);
                return None;
            }
            Event::Token(_) | Event::Log(_) | Event::Group(_) | Event::Logout(_) => return None,
        };
        let told = self.sessions.entry(SessionId::new(aggregate.id)).or_default();
        match event {
            session::Event::SignedIn(_) if told.begun.is_some() => {
                return Some(format!("{aggregate} began again at {seq}"));
            }
            session::Event::SignedIn(signed_in) => told.begun = Some((seq, signed_in.expires_at)),
            session::Event::Seen(_) | session::Event::ClaimsReplaced(_) => {}
            session::Event::Revoked(_) if actor == "databroker" && !self.lost.contains(&aggregate.id) => {
                return Some(format!("{aggregate} was ended for its tokens at {seq}, and they were not lost"));
            }
            session::Event::SignedOut(_) | session::Event::Revoked(_) => {
                told.ended.get_or_insert(seq);
            }
        }
        None
    }
}

fn state(fold: &Fold, aggregate: Aggregate) -> State {
    match aggregate.kind {
        AggregateKind::Log => State::Log,
        AggregateKind::Session => State::Session(fold.session(SessionId::new(aggregate.id))),
        AggregateKind::Token => State::Token(fold.token(SessionId::new(aggregate.id))),
        AggregateKind::Group => State::Group(fold.group(PersonId::new(aggregate.id))),
        AggregateKind::Logout => State::Logout(fold.logout(LogoutId::new(aggregate.id))),
    }
}
