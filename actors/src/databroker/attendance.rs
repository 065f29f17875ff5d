//! Owns   · nothing: what the log is to be told of sessions in use is read from the views.
//! Answers · nothing: it looks by itself, and tells.
//! Asks   · the broker, in this process or another.
//! If it dies · a session in use is told of less often; on another node, or after a restart, it is over the sooner.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, WrapFuture};
use futures_util::StreamExt;
use portcullis_config::limits::{SEEN_IN_FLIGHT, SEEN_LOOK};
use portcullis_events::{SessionId, Time};

use super::activity::Idle;
use super::broker::Seen;
use super::view::Views;
use crate::ask::Port;
use crate::clock;

/// Who tells the log which sessions are in use: now and then, never for each request.
pub struct Attendance {
    inner: Rc<Inner>,
}

struct Inner {
    views: Arc<Views>,
    seen: Port<Seen>,
    /// One round at a time.
    under_way: Cell<bool>,
}

impl Attendance {
    /// Tells the broker what is due in the views.
    #[must_use]
    pub fn new(views: Arc<Views>, seen: Port<Seen>) -> Self {
        Self { inner: Rc::new(Inner { views, seen, under_way: Cell::new(false) }) }
    }
}

impl Actor for Attendance {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(idle) = self.inner.views.idle() else { return };
        ctx.run_interval(pause(idle), move |this, ctx| {
            if this.inner.under_way.replace(true) {
                return;
            }
            let inner = Rc::clone(&this.inner);
            let round = async move {
                inner.tell(clock::now()).await;
                inner.under_way.set(false);
            };
            ctx.spawn(round.into_actor(this));
        });
    }
}

/// Often enough that a note is late by a small part of the time between two.
fn pause(idle: Idle) -> Duration {
    (idle.apart / 8).clamp(SEEN_LOOK.0, SEEN_LOOK.1)
}

impl Inner {
    async fn tell(&self, now: Time) {
        let due = futures_util::stream::iter(self.views.due(now));
        let told = due.map(|(id, at)| self.tell_of(id, at)).buffer_unordered(SEEN_IN_FLIGHT);
        let failed = told.filter_map(|outcome| async move { outcome.err() }).collect::<Vec<_>>().await;
        if let Some(why) = failed.first() {
            tracing::warn!(%why, sessions = failed.len(), "the log was not told of sessions in use");
        }
    }

    async fn tell_of(&self, session: SessionId, at: Time) -> Result<(), String> {
        let id = session;
        let told = match self.seen.ask(Seen { session, at }).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.views.owe(id);
        Err(told)
    }
}
