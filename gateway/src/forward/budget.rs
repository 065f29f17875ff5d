//! What one client may have under way to one route: more of it waits, so that no client takes an upstream's connections
//! from all others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portcullis_config::Route;
use portcullis_config::limits::{ADDRESS_BUDGET, SESSION_BUDGET};
use portcullis_events::SessionId;
use tokio::sync::Notify;

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// Somebody signed in, wherever they are.
    Session(SessionId),
    /// Whoever else is at this address; often more than one.
    Address(IpAddr),
}

impl Client {
    const fn budget(self) -> usize {
        match self {
            Self::Session(_) => SESSION_BUDGET,
            Self::Address(_) => ADDRESS_BUDGET,
        }
    }
}

/// A client and a route, by its place in memory: it stays where it is as long as a share of it is held.
type Key = (Client, usize);

/// The budgets of one worker.
#[derive(Default)]
pub struct Budgets {
    spent: RefCell<HashMap<Key, usize>>,
    freed: Notify,
}

/// A part of a budget, given back when it is dropped.
pub struct Share {
    key: Key,
    budgets: Rc<Budgets>,
    _route: Arc<Route>,
}

impl Budgets {
    /// Takes a share; waits for `patience` at most where nothing is left. `None`: nothing has become free.
    pub async fn share(self: &Rc<Self>, client: Client, route: &Arc<Route>, patience: Duration) -> Option<Share> {
        if let Some(share) = self.take(client, route) {
            return Some(share);
        }
        let waiting = async {
            loop {
                self.freed.notified().await;
                if let Some(share) = self.take(client, route) {
                    return share;
                }
            }
        };
        tokio::time::timeout(patience, waiting).await.ok()
    }

    fn take(self: &Rc<Self>, client: Client, route: &Arc<Route>) -> Option<Share> {
        let key = (client, Arc::as_ptr(route).addr());
        let mut spent = self.spent.borrow_mut();
        let count = spent.entry(key).or_default();
        if *count >= client.budget() {
            return None;
        }
        *count += 1;
        Some(Share { key, budgets: Rc::clone(self), _route: Arc::clone(route) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut spent = self.budgets.spent.borrow_mut();
        if let Some(count) = spent.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                spent.remove(&self.key);
            }
        }
        self.budgets.freed.notify_waiters();
    }
}
