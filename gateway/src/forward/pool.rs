//! Idle upstream connections of one worker: no lock, nothing shared.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use portcullis_actors::metrics::Gauge;
use portcullis_config::limits::{UPSTREAM_IDLE, UPSTREAM_IDLE_CONNECTIONS};

use super::connect::{ConnectError, Connection, Endpoint, Trust, connect};

struct Idle {
    connection: Connection,
    since: Instant,
}

/// The pool of a worker.
pub struct Pool {
    trust: Trust,
    open: Arc<Gauge>,
    idle: RefCell<HashMap<Endpoint, VecDeque<Idle>>>,
}

/// A connection in use. Dropped, it closes; given back, it serves another request.
pub struct Lease {
    pool: Rc<Pool>,
    endpoint: Endpoint,
    connection: Connection,
    fresh: bool,
}

impl Pool {
    /// An empty pool, whose connections are counted in `open`.
    pub fn new(trust: Trust, open: Arc<Gauge>) -> Rc<Self> {
        Rc::new(Self { trust, open, idle: RefCell::default() })
    }

    /// A connection: the one that was used last, or a new one.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn lease(self: &Rc<Self>, endpoint: &Endpoint) -> Result<Lease, ConnectError> {
        while let Some(mut connection) = self.take_idle(endpoint) {
            // it has nothing left to send, so this takes no longer than its driver's next turn
            if connection.sender().ready().await.is_ok() {
                return Ok(self.leased(endpoint, connection, false));
            }
        }
        self.lease_fresh(endpoint).await
    }

    /// A new connection.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn lease_fresh(self: &Rc<Self>, endpoint: &Endpoint) -> Result<Lease, ConnectError> {
        let connection = connect(endpoint, &self.trust, &self.open).await?;
        Ok(self.leased(endpoint, connection, true))
    }

    fn leased(self: &Rc<Self>, endpoint: &Endpoint, connection: Connection, fresh: bool) -> Lease {
        Lease { pool: Rc::clone(self), endpoint: endpoint.clone(), connection, fresh }
    }

    fn take_idle(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut all = self.idle.borrow_mut();
        let idle = all.get_mut(endpoint)?;
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

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| !idle.connection.is_closed() && now.duration_since(idle.since) <= UPSTREAM_IDLE);
            !idle.is_empty()
        });
    }
}

impl Lease {
    /// The connection.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Leaves the connection to whoever took it over after a switch of protocols.
    pub fn leave(self) {
        self.connection.leave();
    }

    /// Whether it was opened for this request: its failing is the upstream's, not a stale connection's.
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Returns the connection after an exchange that is complete both ways.
    pub fn give_back(self) {
        if self.connection.is_closed() {
            return;
        }
        let mut all = self.pool.idle.borrow_mut();
        let idle = all.entry(self.endpoint).or_default();
        if idle.len() < UPSTREAM_IDLE_CONNECTIONS {
            idle.push_back(Idle { connection: self.connection, since: Instant::now() });
        }
    }
}
