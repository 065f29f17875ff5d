//! Upstream connections of one worker: no lock, nothing shared with another.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Instant;

use portcullis_actors::metrics::Gauge;
use portcullis_actors::proxy::upstreams::cluster::{Cluster, Underway};
use portcullis_actors::proxy::upstreams::member::{Member, Speaks};
use portcullis_config::limits::{UPSTREAM_CONNECT, UPSTREAM_IDLE, UPSTREAM_IDLE_CONNECTIONS};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::body::Activity;
use super::connect::{ConnectError, Opened, Shared, Taken, connect};
use super::http1::Connection;
use crate::h1::Duplex;

struct Idle {
    connection: Connection,
    since: Instant,
}

/// The pool of a worker.
pub struct Pool {
    open: Arc<Gauge>,
    shelves: RefCell<HashMap<u64, Rc<Shelf>>>,
}

/// The connections to one member.
struct Shelf {
    member: Weak<Member>,
    cluster: Weak<Cluster>,
    idle: RefCell<VecDeque<Idle>>,
    shared: RefCell<Vec<(Rc<Shared>, Cell<Instant>)>>,
    opening: RefCell<Option<Rc<Opening>>>,
    /// Something became free.
    freed: Notify,
}

/// A connection that is being opened for everybody who waits.
#[derive(Default)]
struct Opening {
    done: Notify,
    failed: Cell<bool>,
}

/// Ends the wait of whoever waits for it.
struct Opens {
    shelf: Rc<Shelf>,
    opening: Rc<Opening>,
}

impl Drop for Opens {
    fn drop(&mut self) {
        self.shelf.opening.borrow_mut().take();
        self.opening.done.notify_waiters();
    }
}

/// A connection in use. Dropped, what was under way on it ends; given back, it serves another request.
pub struct Lease {
    shelf: Rc<Shelf>,
    way: Option<Way>,
    fresh: bool,
    /// The request as its cluster counts it.
    underway: Option<Underway>,
    /// What is still being sent.
    sending: Option<Activity>,
}

/// How an exchange goes.
pub enum Way {
    /// On a connection of its own.
    Single(Connection),
    /// As a stream among others.
    Stream(Rc<Shared>),
}

impl Pool {
    /// An empty pool, whose connections are counted in `open`.
    pub fn new(open: Arc<Gauge>) -> Rc<Self> {
        Rc::new(Self { open, shelves: RefCell::default() })
    }

    /// A connection to a member: one that is there, or a new one.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn lease(&self, cluster: &Arc<Cluster>, member: &Arc<Member>) -> Result<Lease, ConnectError> {
        let shelf = self.shelf(cluster, member);
        match shelf.ready(true) {
            Some(way) => Ok(Lease::of(&shelf, way, false)),
            None => self.open(cluster, member, shelf, true).await,
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn lease_fresh(&self, cluster: &Arc<Cluster>, member: &Arc<Member>) -> Result<Lease, ConnectError> {
        self.open(cluster, member, self.shelf(cluster, member), false).await
    }

    fn shelf(&self, cluster: &Arc<Cluster>, member: &Arc<Member>) -> Rc<Shelf> {
        let mut shelves = self.shelves.borrow_mut();
        Rc::clone(shelves.entry(member.id).or_insert_with(|| Rc::new(Shelf::of(cluster, member))))
    }

    async fn open(
        &self,
        cluster: &Arc<Cluster>,
        member: &Arc<Member>,
        shelf: Rc<Shelf>,
        kept: bool,
    ) -> Result<Lease, ConnectError> {
        let _pending = cluster.pend().map_err(ConnectError::Refused)?;
        let opening = self.opened(cluster, member, &shelf, kept);
        tokio::time::timeout(UPSTREAM_CONNECT, opening).await.map_err(|_| ConnectError::Late)?
    }

    async fn opened(
        &self,
        cluster: &Arc<Cluster>,
        member: &Arc<Member>,
        shelf: &Rc<Shelf>,
        kept: bool,
    ) -> Result<Lease, ConnectError> {
        loop {
            // one connection may turn out to serve everybody
            let together = !cluster.settings.http1
                && member.speaks() != Speaks::Http1
                && cluster.upstream(member).is_some_and(|upstream| upstream.h2c || upstream.is_tls());
            let under_way = shelf.opening.borrow().clone().filter(|_| together);
            if let Some(opening) = under_way {
                opening.done.notified().await;
                if opening.failed.get() {
                    return Err(ConnectError::Shared);
                }
            } else {
                // whoever comes from here on waits for this one
                let opens = together.then(|| shelf.opens());
                let Some(permit) = shelf.permit(cluster).await else {
                    drop(opens);
                    if let Some(way) = shelf.ready(kept) {
                        return Ok(Lease::of(shelf, way, false));
                    }
                    continue;
                };
                let opened = connect(cluster, member, Taken::new(self.open.enter(), permit)).await;
                if let (Some(opens), true) = (&opens, opened.is_err()) {
                    opens.opening.failed.set(true);
                }
                let way = match opened? {
                    Opened::Single(connection) => Way::Single(connection),
                    Opened::Shared(shared) => {
                        shelf.shared.borrow_mut().push((Rc::clone(&shared), Cell::new(Instant::now())));
                        Way::Stream(shared)
                    }
                };
                let lease = Lease::of(shelf, way, true);
                drop(opens);
                return Ok(lease);
            }
            if let Some(way) = shelf.ready(kept) {
                return Ok(Lease::of(shelf, way, !kept));
            }
        }
    }

    /// Closes connections that were idle for too long, and those to members that are gone.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.shelves.borrow_mut().retain(|_, shelf| shelf.sweep(now));
    }
}

impl Shelf {
    fn of(cluster: &Arc<Cluster>, member: &Arc<Member>) -> Self {
        Self {
            member: Arc::downgrade(member),
            cluster: Arc::downgrade(cluster),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: RefCell::default(),
            freed: Notify::new(),
        }
    }

    fn opens(self: &Rc<Self>) -> Opens {
        let opening = Rc::new(Opening::default());
        *self.opening.borrow_mut() = Some(Rc::clone(&opening));
        Opens { shelf: Rc::clone(self), opening }
    }

    /// What is there: a connection with room for one more stream, or the idle one that was used last.
    fn ready(&self, kept: bool) -> Option<Way> {
        if let Some(shared) = self.with_room() {
            return Some(Way::Stream(shared));
        }
        if kept { self.take_idle().map(Way::Single) } else { None }
    }

    fn with_room(&self) -> Option<Rc<Shared>> {
        let all = self.shared.borrow();
        all.iter().map(|(shared, _)| shared).find(|shared| !shared.is_closed() && shared.has_room()).map(Rc::clone)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while idle.front().is_some_and(|idle| now.duration_since(idle.since) > UPSTREAM_IDLE) {
            idle.pop_front();
        }
        loop {
            let newest = idle.pop_back()?;
            if !newest.connection.is_closed() {
                return Some(newest.connection);
            }
        }
    }

    /// Waits until the cluster may open one more connection; `None` where one that is there became free first.
    async fn permit(&self, cluster: &Arc<Cluster>) -> Option<OwnedSemaphorePermit> {
        let permits = cluster.connections();
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Some(permit);
        }
        tokio::select! {
            permit = Arc::clone(permits).acquire_owned() => permit.ok(),
            () = self.freed.notified() => None,
        }
    }

    /// Whether there is a reason to keep it.
    fn sweep(&self, now: Instant) -> bool {
        // on another worker somebody may wait for what is idle here
        let is_needed = self.cluster.upgrade().is_none_or(|cluster| cluster.is_starved());
        let is_gone = self.member.strong_count() == 0;
        let old = |since: Instant| is_gone || is_needed || now.duration_since(since) > UPSTREAM_IDLE;
        self.idle.borrow_mut().retain(|idle| !idle.connection.is_closed() && !old(idle.since));
        self.shared.borrow_mut().retain(|(shared, since)| {
            if !shared.is_idle() {
                since.set(now);
            }
            !(shared.is_closed() || shared.is_idle() && old(since.get()))
        });
        !self.idle.borrow().is_empty() || !self.shared.borrow().is_empty() || self.opening.borrow().is_some()
    }
}

impl Lease {
    fn of(shelf: &Rc<Shelf>, way: Way, fresh: bool) -> Self {
        if let Way::Stream(shared) = &way {
            shared.enter();
        }
        Self { shelf: Rc::clone(shelf), way: Some(way), fresh, underway: None, sending: None }
    }

    /// How the exchange goes; `None` only when it is over.
    pub const fn way(&mut self) -> Option<&mut Way> {
        self.way.as_mut()
    }

    /// The connection that the exchange has for itself.
    pub const fn single(&self) -> Option<&Connection> {
        match &self.way {
            Some(Way::Single(connection)) => Some(connection),
            Some(Way::Stream(_)) | None => None,
        }
    }

    /// Whether HTTP/2 is spoken.
    pub const fn is_h2(&self) -> bool {
        matches!(self.way, Some(Way::Stream(_)))
    }

    /// The request counts as under way as long as this is held, and what is still sent of it ends with this.
    pub fn carry(&mut self, underway: Underway, sending: Activity) {
        self.underway = Some(underway);
        self.sending = Some(sending);
    }

    /// Leaves the connection to whoever takes it over after a switch of protocols; `None` where it has others on it.
    pub fn leave(mut self) -> Option<(Box<dyn Duplex>, Taken)> {
        match self.way.take()? {
            Way::Single(connection) => connection.leave(),
            Way::Stream(shared) => {
                shared.leave();
                None
            }
        }
    }

    /// Whether it was opened for this request: its failing is the upstream's, not a stale connection's.
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Returns the connection after an exchange that is complete both ways.
    pub fn give_back(mut self) {
        match self.way.take() {
            // whoever waits for a connection gets its place, on whichever worker that is
            Some(Way::Single(_)) if self.underway.as_ref().is_some_and(|held| held.cluster().is_starved()) => {}
            Some(Way::Single(connection)) if connection.is_reusable() => {
                let mut idle = self.shelf.idle.borrow_mut();
                if idle.len() < UPSTREAM_IDLE_CONNECTIONS {
                    idle.push_back(Idle { connection, since: Instant::now() });
                }
                drop(idle);
                self.shelf.freed.notify_one();
            }
            Some(Way::Stream(shared)) => {
                shared.leave();
                self.shelf.freed.notify_one();
            }
            Some(Way::Single(_)) | None => {}
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Way::Stream(shared)) = self.way.take() {
            shared.leave();
            self.shelf.freed.notify_one();
            // nobody else closes a stream that is still being written
            if let Some(sending) = &self.sending {
                sending.abandon();
            }
        }
    }
}
