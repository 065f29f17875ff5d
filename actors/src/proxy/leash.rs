//! What an exchange is held by: whoever drives its connection or stream is woken when it must end, whatever it waits for.

use std::cell::Cell;
use std::time::Instant;

use tokio::sync::Notify;

/// Why something that was open was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Its permit would not be given any more.
    PermitLost,
    /// The node stops.
    Stopping,
    /// Its client has taken nothing for too long.
    Stalled,
}

impl Cut {
    /// What the access line says.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::PermitLost => "permit_lost",
            Self::Stopping => "stopping",
            Self::Stalled => "client_stalled",
        }
    }
}

/// Held by the driver of a client's connection (HTTP/1.1) or stream (HTTP/2) and by the exchange on it. A driver may
/// sit in a write that its client never takes, where nobody asks for the body: so the word goes to the driver itself.
#[derive(Debug, Default)]
pub struct Leash {
    cut: Cell<Option<Cut>>,
    word: Notify,
    given: Cell<Option<Instant>>,
}

impl Leash {
    /// Ends what it holds. The first reason stays.
    pub fn cut(&self, why: Cut) {
        if self.cut.get().is_none() {
            self.cut.set(Some(why));
            self.word.notify_waiters();
        }
    }

    /// Why it was cut, if it was.
    #[must_use]
    pub const fn why(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// Waits until it is cut.
    pub async fn is_cut(&self) -> Cut {
        loop {
            // nothing lies between the look and the wait: a leash never leaves its thread
            if let Some(why) = self.cut.get() {
                return why;
            }
            self.word.notified().await;
        }
    }

    /// A piece of the answer was handed over at `at`.
    pub fn give(&self, at: Instant) {
        self.given.set(Some(at));
    }

    /// More was asked for: what was handed over is on its way.
    pub fn take(&self) {
        self.given.set(None);
    }

    /// Since when a piece lies there that nobody takes.
    #[must_use]
    pub const fn lies_since(&self) -> Option<Instant> {
        self.given.get()
    }
}
