//! Owns   · the subscription to what authorize says to every proxy, and how far along the log that was.
//! Answers · nothing: workers hear it by way of [`Connections`].
//! Asks   · nobody.
//! If it dies · workers ask by themselves, a little later; the node stops in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, AsyncContext, Context, WrapFuture};
use futures_util::StreamExt;
use portcullis_config::limits::ROLE_PING;

use super::connections::{Connections, Scope};
use crate::authorize::check::Void;
use crate::remote::{Link, subjects};

/// The furthest position of the log that a word has named: an answer that knows less is too old.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<AtomicU64>);

impl Heard {
    /// The position.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn further(&self, position: u64) {
        self.0.fetch_max(position, Ordering::AcqRel);
    }
}

/// Whoever listens to authorize for all workers of a proxy apart.
pub struct Listener {
    link: Link,
    connections: Connections,
    heard: Heard,
}

impl Listener {
    /// Has `connections` reconsidered where authorize says so.
    #[must_use]
    pub const fn new(link: Link, connections: Connections, heard: Heard) -> Self {
        Self { link, connections, heard }
    }
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (link, connections, heard) = (self.link.clone(), self.connections.clone(), self.heard.clone());
        let listen = async move {
            loop {
                if let Some(mut words) = link.listen(subjects::VOID, None).await {
                    // what was said before is asked for
                    connections.reconsider(Scope::All);
                    while let Some(word) = words.next().await {
                        let void = link.heard(subjects::VOID, &word.payload);
                        if let Some(void) = void.and_then(|void| serde_json::from_slice::<Void>(&void).ok()) {
                            tell(&void, &connections, &heard);
                        }
                    }
                }
                tokio::time::sleep(ROLE_PING).await;
            }
        };
        ctx.spawn(listen.into_actor(self));
    }
}

/// The position first: whoever is told asks for it.
fn tell(void: &Void, connections: &Connections, heard: &Heard) {
    heard.further(void.position);
    if void.all {
        connections.reconsider(Scope::All);
    }
    for session in &void.sessions {
        connections.reconsider(Scope::Session(*session));
    }
}
