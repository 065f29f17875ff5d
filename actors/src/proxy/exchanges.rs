//! What one worker has open: every request on its way, every stream and every tunnel, each with the means to cut it.
//!
//! No lock and nothing shared: entering and leaving cost a request next to nothing, and the worker that has something
//! open is the one that asks whether it may stay.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use portcullis_config::limits::{CUT_GRACE, WRITE_STALL};
use portcullis_events::{SessionId, Time};

use super::connections::{Connections, Scopes};
use super::leash::{Cut, Leash};

/// What is known of something open.
pub trait Held {
    /// The session that it belongs to.
    fn session(&self) -> Option<SessionId>;
    /// When that session ends by itself.
    fn ends_at(&self) -> Option<Time>;
}

/// What a worker has open.
pub struct Exchanges<H> {
    connections: Connections,
    count: Arc<AtomicUsize>,
    heard: Cell<u64>,
    open: RefCell<Open<H>>,
}

struct Open<H> {
    next: u64,
    by_id: HashMap<u64, Entry<H>>,
}

struct Entry<H> {
    held: H,
    leash: Rc<Leash>,
    since: Instant,
    /// It will not end by itself soon.
    lasting: bool,
    /// Its permit is lost; it has until then.
    due: Option<Instant>,
}

/// The right to stay open. Dropped, it is forgotten.
pub struct Ticket<H> {
    id: u64,
    leash: Rc<Leash>,
    exchanges: Rc<Exchanges<H>>,
}

/// How many words a worker has heard: what was decided before one, and entered after it, is looked at once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard(u64);

impl<H: Held> Exchanges<H> {
    /// A worker with nothing open.
    #[must_use]
    pub fn new(connections: Connections) -> Rc<Self> {
        let open = RefCell::new(Open { next: 0, by_id: HashMap::new() });
        Rc::new(Self { count: connections.count(), connections, heard: Cell::new(0), open })
    }

    /// To be remembered before a decision is begun.
    #[must_use]
    pub const fn heard(&self) -> Heard {
        Heard(self.heard.get())
    }

    /// Enters what was decided on since `heard`.
    ///
    /// # Errors
    /// Once the node stops, and where `still`, asked because of a word in between, says no.
    pub fn admit(
        self: &Rc<Self>,
        mut held: H,
        leash: &Rc<Leash>,
        heard: Heard,
        still: impl FnOnce(&mut H) -> bool,
    ) -> Result<Ticket<H>, Cut> {
        if self.connections.is_stopped() {
            return Err(Cut::Stopping);
        }
        if heard != self.heard() && !still(&mut held) {
            return Err(Cut::PermitLost);
        }
        // whatever lay there was the answer before this one
        leash.take();
        let mut open = self.open.borrow_mut();
        let id = open.next;
        open.next += 1;
        let entry = Entry { held, leash: Rc::clone(leash), since: Instant::now(), lasting: false, due: None };
        open.by_id.insert(id, entry);
        self.count.store(open.by_id.len(), Ordering::Relaxed);
        Ok(Ticket { id, leash: Rc::clone(leash), exchanges: Rc::clone(self) })
    }

    /// Asks of everything in `scopes` whether it may stay, as `still` sees it, and cuts what may not: streams, tunnels
    /// and what has been open for longer than [`CUT_GRACE`] at once, the rest when it has been, unless it ends before.
    pub fn reconsider(&self, scopes: &Scopes, now: Instant, still: impl FnMut(&mut H) -> bool) {
        self.heard.set(self.heard.get().wrapping_add(1));
        self.look(now, |entry| scopes.contain(entry.held.session()), still);
    }

    /// Cuts what is due, what has passed its bounds, what its client has not taken for [`WRITE_STALL`], and what outlives
    /// its session at `time`.
    pub fn sweep(&self, now: Instant, time: Time, still: impl FnMut(&mut H) -> bool) {
        for entry in self.open.borrow().by_id.values() {
            if entry.due.is_some_and(|due| due <= now) {
                entry.leash.cut(Cut::PermitLost);
            }
            let stalled = |since| now.saturating_duration_since(since) >= WRITE_STALL;
            if entry.leash.lies_since().is_some_and(stalled) {
                entry.leash.cut(Cut::Stalled);
            }
            if let Some(why) = entry.leash.overdue(now) {
                entry.leash.cut(why);
            }
        }
        self.look(now, |entry| entry.held.ends_at().is_some_and(|end| end <= time), still);
    }

    /// Shows everything in `scopes`, each with the number it is known by here.
    pub fn each(&self, scopes: &Scopes, mut show: impl FnMut(u64, &mut H)) {
        for (id, entry) in &mut self.open.borrow_mut().by_id {
            if scopes.contain(entry.held.session()) {
                show(*id, &mut entry.held);
            }
        }
    }

    /// Tells something of what is known by a number, if it is still open.
    pub fn tell(&self, id: u64, tell: impl FnOnce(&mut H)) {
        if let Some(entry) = self.open.borrow_mut().by_id.get_mut(&id) {
            tell(&mut entry.held);
        }
    }

    fn look(&self, now: Instant, asked: impl Fn(&Entry<H>) -> bool, mut still: impl FnMut(&mut H) -> bool) {
        let stopped = self.connections.is_stopped();
        for entry in self.open.borrow_mut().by_id.values_mut() {
            if stopped {
                entry.leash.cut(Cut::Stopping);
            } else if entry.due.is_none() && asked(entry) && !still(&mut entry.held) {
                entry.lose(now);
            }
        }
    }
}

impl<H> Entry<H> {
    fn lose(&mut self, now: Instant) {
        let due = if self.lasting { now } else { self.since + CUT_GRACE };
        self.due = Some(due);
        if due <= now {
            self.leash.cut(Cut::PermitLost);
        }
    }
}

impl<H> Ticket<H> {
    /// What it is held by.
    #[must_use]
    pub const fn leash(&self) -> &Rc<Leash> {
        &self.leash
    }

    /// From now on it is a stream or a tunnel, and has no grace.
    pub fn last(&self) {
        if let Some(entry) = self.exchanges.open.borrow_mut().by_id.get_mut(&self.id) {
            entry.lasting = true;
            if entry.due.is_some() {
                entry.leash.cut(Cut::PermitLost);
            }
        }
    }
}

impl<H> Drop for Ticket<H> {
    fn drop(&mut self) {
        self.leash.unbind();
        let mut open = self.exchanges.open.borrow_mut();
        // whatever is held is let go of after the list is free again
        let _entry = open.by_id.remove(&self.id);
        self.exchanges.count.store(open.by_id.len(), Ordering::Relaxed);
        drop(open);
    }
}

#[cfg(test)]
mod tests;
