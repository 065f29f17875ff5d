//! Owns   · the word to every worker that something may have lost its permit, and the count of what is open.
//! Answers · nothing yet: it listens to the views, and workers listen to [`Connections::words`].
//! Asks   · nobody.
//! If it dies · everything is cut: what nobody can end does not stay open.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::{Actor, AsyncContext, Context, WrapFuture};
use portcullis_config::limits::ENDED_BACKLOG;
use portcullis_events::SessionId;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::databroker::view::Views;

/// What is open on this node, and how it is told to look again.
#[derive(Clone)]
pub struct Connections {
    shared: Arc<Shared>,
}

struct Shared {
    words: broadcast::Sender<Scope>,
    stopped: AtomicBool,
    open: Mutex<Vec<Arc<AtomicUsize>>>,
}

/// What is to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What belongs to this session: it has changed or ended.
    Session(SessionId),
    /// Everything: the rules have changed.
    All,
}

impl Default for Connections {
    fn default() -> Self {
        let shared = Shared {
            words: broadcast::Sender::new(ENDED_BACKLOG),
            stopped: AtomicBool::new(false),
            open: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Connections {
    /// Has every worker ask again whether what it has open is still permitted, by the rules and the views of now: call
    /// it after they were published.
    pub fn reconsider(&self, scope: Scope) {
        // a node without workers has nothing open
        let _ = self.shared.words.send(scope);
    }

    /// Everything that is to be looked at again from now on.
    #[must_use]
    pub fn words(&self) -> Words {
        Words(self.shared.words.subscribe())
    }

    /// How many requests, streams and tunnels are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts().iter().map(|open| open.load(Ordering::Relaxed)).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts everything and admits nothing more.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.reconsider(Scope::All);
    }

    /// Whether nothing may stay open.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// A count that one worker keeps for itself.
    pub(super) fn count(&self) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        self.counts().push(Arc::clone(&count));
        count
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Vec<Arc<AtomicUsize>>> {
        self.shared.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a worker hears.
pub struct Words(broadcast::Receiver<Scope>);

/// Several words at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    /// What belongs to these sessions.
    Sessions(HashSet<SessionId>),
    /// Everything.
    All,
}

impl Scopes {
    /// Whether what belongs to this session, or to nobody, is meant.
    #[must_use]
    pub fn contain(&self, session: Option<SessionId>) -> bool {
        match self {
            Self::Sessions(sessions) => session.is_some_and(|session| sessions.contains(&session)),
            Self::All => true,
        }
    }
}

impl Words {
    /// Waits for the next word, and takes all that are there with it: so that a thousand sessions that end at once cost
    /// one look. Too many to be told of each mean a look at everything, and so does the end of whoever says them.
    pub async fn next(&mut self) -> Scopes {
        let mut sessions = HashSet::new();
        match self.0.recv().await {
            Ok(Scope::Session(session)) => sessions.insert(session),
            Ok(Scope::All) | Err(RecvError::Lagged(_) | RecvError::Closed) => return Scopes::All,
        };
        loop {
            match self.0.try_recv() {
                Ok(Scope::Session(session)) => sessions.insert(session),
                Ok(Scope::All) | Err(TryRecvError::Lagged(_)) => return Scopes::All,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Scopes::Sessions(sessions),
            };
        }
    }
}

/// The actor that passes on what changes in the views.
pub struct Cutter {
    connections: Connections,
    views: Arc<Views>,
}

impl Cutter {
    /// Has `connections` reconsidered where `views` change.
    #[must_use]
    pub fn new(connections: Connections, views: Arc<Views>) -> Self {
        Self { connections, views }
    }
}

impl Actor for Cutter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let connections = self.connections.clone();
        let mut changes = self.views.changes();
        let listen = async move {
            loop {
                match changes.recv().await {
                    Ok(change) => connections.reconsider(Scope::Session(change.session)),
                    // too many at once to be told of each: look at all
                    Err(RecvError::Lagged(_)) => connections.reconsider(Scope::All),
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
