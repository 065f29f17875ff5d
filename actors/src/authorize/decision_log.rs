//! Owns   · stdout: the request log of the process, decisions and accesses, in whole lines.
//! Answers · [`Lines`]: a batch of lines, written in order of arrival.
//! Asks   · nobody.
//! If it dies · lines are lost and counted; no request is refused or delayed for it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, Addr, Context, Handler, Message, Recipient};
use portcullis_config::limits::LINE_BATCHES;

/// Whole lines, each ending in a line feed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Lines(pub Vec<u8>);

/// The writer of the request log.
pub struct DecisionLog<W> {
    out: W,
    lost: Arc<AtomicU64>,
}

impl<W: Write + Unpin + 'static> DecisionLog<W> {
    /// A log that writes to `out`, which may block: it runs on an arbiter of its own.
    pub fn new(out: W, lost: Arc<AtomicU64>) -> Self {
        Self { out, lost }
    }
}

impl<W: Write + Unpin + 'static> Actor for DecisionLog<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(LINE_BATCHES);
    }
}

impl<W: Write + Unpin + 'static> Handler<Lines> for DecisionLog<W> {
    type Result = ();

    fn handle(&mut self, Lines(lines): Lines, _: &mut Self::Context) {
        let written = self.out.write_all(&lines).and_then(|()| self.out.flush());
        let missed = self.lost.swap(0, Ordering::AcqRel);
        if missed > 0 {
            tracing::warn!(batches = missed, "the request log could not keep up: batches of lines were lost");
        }
        if let Err(error) = written {
            tracing::warn!(%error, "the request log cannot be written");
        }
    }
}

/// Where workers hand their lines: never waits, counts what finds no room.
#[derive(Clone)]
pub struct LineSink {
    to: Recipient<Lines>,
    lost: Arc<AtomicU64>,
}

impl LineSink {
    /// The way to a log.
    pub fn new<W: Write + Unpin + 'static>(log: &Addr<DecisionLog<W>>, lost: Arc<AtomicU64>) -> Self {
        Self { to: log.clone().recipient(), lost }
    }

    /// Hands over a batch.
    pub fn write(&self, lines: Lines) {
        if self.to.try_send(lines).is_err() {
            self.lost.fetch_add(1, Ordering::AcqRel);
        }
    }
}
