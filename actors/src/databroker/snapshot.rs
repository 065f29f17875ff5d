//! Owns   · when a snapshot of the fold is due, and what was stored last.
//! Answers · [`StoreNow`]: at the orderly end of a node.
//! Asks   · the replica (a picture of its fold); files and the bucket of shared snapshots.
//! If it dies · nothing is lost: a node then reads more of the log when it starts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use portcullis_config::limits::{FORGET_AFTER, SNAPSHOT_AGE, SNAPSHOT_CHECK, SNAPSHOT_EVENTS};
use portcullis_events::Time;
use tokio::sync::Mutex;

use super::replica::{Picture, Replica};
use super::snapshots::Snapshots;
use super::view::Views;
use crate::clock;

/// Store a snapshot of where the node stands, unless nothing happened since the last one. It is kept here and not
/// shared. Answers whether there is one of where the node stands now.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct StoreNow;

/// Stores snapshots.
pub struct Snapshot {
    inner: Rc<Inner>,
}

struct Inner {
    replica: Addr<Replica>,
    views: Arc<Views>,
    snapshots: Arc<Snapshots>,
    last: RefCell<Last>,
    /// One at a time.
    turn: Mutex<()>,
}

/// What was stored last, or stood when the node started.
#[derive(Debug, Clone, Copy)]
struct Last {
    seq: u64,
    at: Time,
}

/// Whether a snapshot is due where so much was applied.
fn is_due(last: Last, applied: u64, now: Time) -> bool {
    let news = applied.saturating_sub(last.seq);
    news >= SNAPSHOT_EVENTS || (news > 0 && now.since(last.at) >= SNAPSHOT_AGE)
}

impl Snapshot {
    /// Stores pictures of a replica.
    #[must_use]
    pub fn new(replica: Addr<Replica>, views: Arc<Views>, snapshots: Arc<Snapshots>) -> Self {
        let last = RefCell::new(Last { seq: 0, at: clock::now() });
        Self { inner: Rc::new(Inner { replica, views, snapshots, last, turn: Mutex::default() }) }
    }
}

impl Actor for Snapshot {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if !self.inner.snapshots.have_a_place() {
            return;
        }
        ctx.run_interval(SNAPSHOT_CHECK, |this, ctx| {
            let inner = Rc::clone(&this.inner);
            ctx.spawn(async move { inner.look().await }.into_actor(this));
        });
    }
}

impl Handler<StoreNow> for Snapshot {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, _: StoreNow, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move {
            let _turn = inner.turn.lock().await;
            inner.store().await
        })
    }
}

impl Inner {
    async fn look(&self) {
        // one that takes longer than the time between two looks is not begun again
        let Ok(_turn) = self.turn.try_lock() else { return };
        let last = *self.last.borrow();
        if is_due(last, self.views.progress.applied(), clock::now()) && self.store().await {
            self.snapshots.share().await;
        }
    }

    async fn store(&self) -> bool {
        let Ok(Some(fold)) = self.replica.send(Picture).await else { return false };
        let at = clock::now();
        let known = self.last.borrow().seq.max(self.snapshots.begun_with());
        // another node may begin with it, whose clock is behind ours
        if fold.applied() > known && !self.snapshots.store(fold.clone(), at.minus(FORGET_AFTER)).await {
            return false;
        }
        *self.last.borrow_mut() = Last { seq: fold.applied(), at };
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_snapshot_is_due_after_many_events_or_after_some_time_with_any() {
        let last = Last { seq: 100, at: Time::from_secs(0) };
        let (soon, late) = (Time::from_secs(1), Time::from_secs(0).plus(SNAPSHOT_AGE));
        assert!(!is_due(last, 100, late), "nothing happened");
        assert!(!is_due(last, 101, late.minus(Duration::from_millis(1))));
        assert!(is_due(last, 101, late));
        assert!(!is_due(last, 99 + SNAPSHOT_EVENTS, soon));
        assert!(is_due(last, 100 + SNAPSHOT_EVENTS, soon));
    }
}
