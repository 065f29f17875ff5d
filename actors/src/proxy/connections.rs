//! Owns   · the list of what is open for longer than a request: by session, with the means to cut it.
//! Answers · nothing yet: it listens to the views, and workers register through [`Connections::admit`].
//! Asks   · nobody.
//! If it dies · its tickets are cut: what nobody can end does not stay open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::{Actor, AsyncContext, Context, WrapFuture};
use portcullis_events::SessionId;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use crate::databroker::view::Views;

/// What is open on this node.
#[derive(Clone, Default)]
pub struct Connections {
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    stopped: bool,
    by_id: HashMap<u64, Entry>,
}

struct Entry {
    session: Option<SessionId>,
    cut: watch::Sender<bool>,
}

/// The right to stay open. Dropped, it is forgotten; cut, its holder closes.
pub struct Ticket {
    id: u64,
    cut: watch::Receiver<bool>,
    open: Arc<Mutex<Open>>,
}

impl Connections {
    /// Registers something long-lived. `None` once the node stops, or where the session has ended: read after it was
    /// registered, so that an end in between is not missed.
    #[must_use]
    pub fn admit(&self, session: Option<SessionId>, views: &Views) -> Option<Ticket> {
        let ticket = {
            let mut open = lock(&self.open);
            if open.stopped {
                return None;
            }
            let id = open.next;
            open.next += 1;
            let (cut, receiver) = watch::channel(false);
            open.by_id.insert(id, Entry { session, cut });
            Ticket { id, cut: receiver, open: Arc::clone(&self.open) }
        };
        let still_open = session.is_none_or(|session| views.session(session).is_some());
        still_open.then_some(ticket)
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.open).by_id.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts everything and admits nothing more.
    pub fn stop(&self) {
        let mut open = lock(&self.open);
        open.stopped = true;
        for entry in open.by_id.values() {
            entry.cut.send_replace(true);
        }
    }

    fn cut_if(&self, ended: impl Fn(SessionId) -> bool) {
        for entry in lock(&self.open).by_id.values() {
            if entry.session.is_some_and(&ended) {
                entry.cut.send_replace(true);
            }
        }
    }
}

impl Ticket {
    /// Waits until it must be closed.
    pub async fn cut(mut self) {
        // an error means that the list is gone: closed as well
        let _ = self.cut.wait_for(|cut| *cut).await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.open).by_id.remove(&self.id);
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The actor that cuts what belongs to sessions that end.
pub struct Cutter {
    connections: Connections,
    views: Arc<Views>,
}

impl Cutter {
    /// Cuts in `connections` what ends in `views`.
    #[must_use]
    pub fn new(connections: Connections, views: Arc<Views>) -> Self {
        Self { connections, views }
    }
}

impl Actor for Cutter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (connections, views) = (self.connections.clone(), Arc::clone(&self.views));
        let mut ended = views.ended();
        let listen = async move {
            loop {
                match ended.recv().await {
                    Ok(end) => connections.cut_if(|session| session == end.session),
                    // too many at once to be told of each: look at all
                    Err(RecvError::Lagged(_)) => connections.cut_if(|session| views.session(session).is_none()),
                    Err(RecvError::Closed) => return,
                }
            }
        };
        ctx.spawn(listen.into_actor(self));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.connections.stop();
    }
}

#[cfg(test)]
mod tests;
