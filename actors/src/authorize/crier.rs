//! Owns   · nothing: it passes on what changes in the views of this process and in what is in force.
//! Answers · [`CryAll`]: another configuration is in force.
//! Asks   · nobody; every proxy in another process hears it.
//! If it dies · proxies find out by asking; the node stops in order.

use std::collections::HashSet;
use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::check::{Mark, Void};
use crate::databroker::view::{SessionChanged, Views};
use crate::remote::{Link, subjects};

/// Tell every proxy that everything may be void.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CryAll;

/// Whoever tells proxies which permits may be void. It runs on the replica's thread: what it is told of was applied.
pub struct Crier {
    views: Arc<Views>,
    link: Link,
}

impl Crier {
    /// Tells of these views, on this link.
    #[must_use]
    pub const fn new(views: Arc<Views>, link: Link) -> Self {
        Self { views, link }
    }
}

impl Actor for Crier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (views, link) = (Arc::clone(&self.views), self.link.clone());
        let mut changes = views.changes();
        let tell = async move {
            while let Some(changed) = next(&mut changes).await {
                // the replica, on this very thread, names a record applied in the same breath as it tells of its change
                let at = Mark::of(&views.progress);
                let void = match changed {
                    Changed::Some(sessions) => Void { at, sessions: sessions.into_iter().collect(), all: false },
                    Changed::Anything => Void { at, sessions: Vec::new(), all: true },
                };
                cry(&link, &void).await;
            }
        };
        ctx.spawn(tell.into_actor(self));
    }
}

impl Handler<CryAll> for Crier {
    type Result = ();

    fn handle(&mut self, _: CryAll, ctx: &mut Self::Context) {
        let link = self.link.clone();
        let void = Void { at: Mark::of(&self.views.progress), sessions: Vec::new(), all: true };
        ctx.spawn(async move { cry(&link, &void).await }.into_actor(self));
    }
}

async fn cry(link: &Link, void: &Void) {
    if let Ok(message) = serde_json::to_vec(void) {
        link.say(subjects::VOID, &message).await;
    }
}

enum Changed {
    Some(HashSet<portcullis_events::SessionId>),
    Anything,
}

/// Sessions in one word: enough for a group that changes, and far below what a message may hold.
const TOGETHER: usize = 1024;

/// Waits for the next change, and takes those that are there with it.
async fn next(changes: &mut Receiver<SessionChanged>) -> Option<Changed> {
    let mut sessions = HashSet::new();
    match changes.recv().await {
        Ok(change) => sessions.insert(change.session),
        Err(RecvError::Lagged(_)) => return Some(Changed::Anything),
        Err(RecvError::Closed) => return None,
    };
    while sessions.len() < TOGETHER {
        match changes.try_recv() {
            Ok(change) => sessions.insert(change.session),
            Err(TryRecvError::Lagged(_)) => return Some(Changed::Anything),
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        };
    }
    Some(Changed::Some(sessions))
}
