//! What an exchange is held by: whoever drives its connection or stream is woken when it must end, whatever it waits for.

use std::cell::Cell;
use std::time::{Duration, Instant};

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
    /// Nothing of it has moved for too long.
    Idle,
    /// Its answer did not end in time.
    AnswerLate,
    /// The client's own body did not end in time.
    UploadLate,
    /// It has been open for as long as anything may.
    Lasting,
}

impl Cut {
    /// What the access line says.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::PermitLost => "permit_lost",
            Self::Stopping => "stopping",
            Self::Stalled => "client_stalled",
            Self::Idle => "idle_timeout",
            Self::AnswerLate => "upstream_timeout",
            Self::UploadLate => "request_body_timeout",
            Self::Lasting => "max_duration",
        }
    }
}

/// How long an exchange may go on once its answer has begun.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// When it must have ended, and why.
    pub ends: Option<(Instant, Cut)>,
    /// When the client's body must have ended.
    pub upload: Option<Instant>,
    /// So long nothing may move.
    pub idle: Option<Duration>,
}

/// Held by the driver of a client's connection (HTTP/1.1) or stream (HTTP/2) and by the exchange on it. A driver may
/// sit in a write that its client never takes, where nobody asks for the body: so the word goes to the driver itself.
#[derive(Debug, Default)]
pub struct Leash {
    cut: Cell<Option<Cut>>,
    word: Notify,
    given: Cell<Option<Instant>>,
    bounds: Cell<Bounds>,
    moved: Cell<Option<Instant>>,
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
        self.moves(at);
    }

    /// From `now` on these bounds hold for what it holds.
    pub fn bind(&self, bounds: Bounds, now: Instant) {
        self.bounds.set(bounds);
        self.moves(now);
    }

    /// What it held has ended: the next one has bounds of its own.
    pub fn unbind(&self) {
        self.bounds.set(Bounds::default());
    }

    /// Something moved.
    pub fn moves(&self, at: Instant) {
        self.moved.set(Some(at));
    }

    /// The client's body has ended.
    pub fn uploaded(&self) {
        self.bounds.set(Bounds { upload: None, ..self.bounds.get() });
    }

    /// Which bound is passed at `now`.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Option<Cut> {
        let Bounds { ends, upload, idle } = self.bounds.get();
        let is_idle = |(bound, moved)| now.saturating_duration_since(moved) >= bound;
        match ends {
            Some((end, why)) if end <= now => Some(why),
            _ if upload.is_some_and(|end| end <= now) => Some(Cut::UploadLate),
            _ if idle.zip(self.moved.get()).is_some_and(is_idle) => Some(Cut::Idle),
            _ => None,
        }
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
