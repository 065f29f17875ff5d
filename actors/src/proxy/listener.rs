//! Owns   · the subscription to what authorize says to every proxy, and how far along the log that was.
//! Answers · nothing: workers hear it by way of [`Connections`].
//! Asks   · nobody.
//! If it dies · workers ask by themselves, a little later; the node stops in order.

use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, WrapFuture};
use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use portcullis_config::limits::ROLE_PING;

use super::connections::{Connections, Scope};
use crate::authorize::check::{Mark, Void};
use crate::remote::{Link, subjects};

/// The furthest place on the log that a word has named: an answer that knows less is too old. Written by the listener
/// alone.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<ArcSwapOption<Mark>>);

impl Heard {
    /// The place.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        self.0.load().as_deref().copied()
    }

    /// A word names a place. On another log than before it counts from there: that one has been replaced.
    fn further(&self, mark: Mark) {
        let before = self.mark().filter(|before| before.epoch == mark.epoch);
        if before.is_none_or(|before| before.position < mark.position) {
            self.0.store(Some(Arc::new(mark)));
        }
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

/// The place first: whoever is told asks for it.
fn tell(void: &Void, connections: &Connections, heard: &Heard) {
    if let Some(mark) = void.at {
        heard.further(mark);
    }
    if void.all {
        connections.reconsider(Scope::All);
    }
    for session in &void.sessions {
        connections.reconsider(Scope::Session(*session));
    }
}

#[cfg(test)]
mod tests {
    use portcullis_events::Epoch;
    use uuid::Uuid;

    use super::*;

    fn mark(epoch: u128, position: u64) -> Mark {
        Mark { epoch: Epoch::new(Uuid::from_u128(epoch)), position }
    }

    #[test]
    fn the_furthest_place_counts_and_that_of_a_log_that_took_the_place_of_another() {
        let heard = Heard::default();
        assert_eq!(heard.mark(), None);
        for (word, then) in [
            (mark(1, 7), mark(1, 7)),
            (mark(1, 5), mark(1, 7)),
            (mark(1, 9), mark(1, 9)),
            (mark(2, 1), mark(2, 1)),
            (mark(2, 3), mark(2, 3)),
        ] {
            heard.further(word);
            assert_eq!(heard.mark(), Some(then), "after {word:?}");
        }
    }
}
