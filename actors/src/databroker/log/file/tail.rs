//! Following a log in a file: woken by commits of this process, looking each second for those of others.

use std::collections::VecDeque;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, LocalBoxStream, StreamExt};
use portcullis_config::limits::{HEAD_POLL, TAIL_BATCH, TAIL_BATCH_BYTES};
use portcullis_events::Time;
use rusqlite::{OptionalExtension, Transaction};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::heads::Heads;
use super::{Head, Record, TailFault, Tailed, head, record};
use crate::clock;
use crate::databroker::sqlite::{Fault, Reader, signed};

pub(super) fn follow(
    reader: Reader,
    committed: Option<watch::Receiver<()>>,
    after: u64,
) -> LocalBoxStream<'static, Result<Tailed, TailFault>> {
    let tail = Tail {
        reader,
        committed,
        seen: after,
        begun: false,
        seen_id: None,
        fetched: VecDeque::new(),
        ahead: None,
        drained: false,
        heads: Heads::default(),
        poll_at: Instant::now(),
    };
    stream::unfold(Some(tail), |tail| async {
        let mut tail = tail?;
        match tail.next().await {
            Ok(item) => Some((Ok(item), Some(tail))),
            Err(fault) => Some((Err(fault), None)),
        }
    })
    .boxed_local()
}

struct Tail {
    reader: Reader,
    committed: Option<watch::Receiver<()>>,
    /// Everything up to here was yielded.
    seen: u64,
    /// A first look was taken.
    begun: bool,
    /// The id of the record at `seen`: if it changes, the log is another one.
    seen_id: Option<String>,
    fetched: VecDeque<(Record, String)>,
    /// A look at what follows that, begun while it is yielded.
    ahead: Option<Look>,
    /// The last look found the log's end.
    drained: bool,
    heads: Heads,
    poll_at: Instant,
}

/// A look at the file that is under way.
struct Look {
    /// When it began.
    at: Time,
    now: Instant,
    glance: BoxFuture<'static, Result<Glance, Fault>>,
}

/// What one look at the file found.
struct Glance {
    head: Head,
    seen_id: Option<String>,
    fetched: VecDeque<(Record, String)>,
}

impl Tail {
    async fn next(&mut self) -> Result<Tailed, TailFault> {
        loop {
            if let Some(head) = self.heads.due(self.seen) {
                return Ok(head);
            }
            if let Some((record, id)) = self.fetched.pop_front() {
                if record.seq != self.seen + 1 {
                    return Err(TailFault::Hole { missing: self.seen + 1 });
                }
                (self.seen, self.seen_id) = (record.seq, Some(id));
                return Ok(Tailed::Record(record));
            }
            if self.drained {
                self.wait().await;
            }
            if let Some(away) = self.look().await? {
                return Ok(away);
            }
        }
    }

    /// Until something was committed here, or it is time to look for what was committed elsewhere.
    async fn wait(&mut self) {
        let poll = tokio::time::sleep_until(self.poll_at);
        let Some(committed) = &mut self.committed else { return poll.await };
        tokio::select! {
            () = poll => {}
            changed = committed.changed() => {
                // the log was closed here; the file may still grow
                if changed.is_err() {
                    self.committed = None;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<Option<Tailed>, TailFault> {
        let Look { at, now, glance } = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.begin_look(self.seen),
        };
        let glance = match glance.await {
            Ok(glance) => glance,
            Err(Fault::Passing(why) | Fault::Full(why)) => {
                self.drained = true;
                self.poll_at = now + HEAD_POLL;
                return Ok(Some(Tailed::Away(why)));
            }
            Err(Fault::Replaced(why)) => return Err(TailFault::Replaced(why)),
            Err(Fault::Broken(why)) => return Err(TailFault::Broken(why)),
        };
        self.judge(&glance)?;
        if now >= self.poll_at {
            self.heads.heard(self.seen, glance.head, at);
            self.poll_at = now + HEAD_POLL;
        }
        self.drained = glance.fetched.back().is_none_or(|(last, _)| last.seq >= glance.head.last);
        self.ahead = glance.fetched.back().filter(|_| !self.drained).map(|(last, _)| self.begin_look(last.seq));
        self.fetched = glance.fetched;
        Ok(None)
    }

    fn begin_look(&self, seen: u64) -> Look {
        let (at, now) = (clock::now(), Instant::now());
        Look { at, now, glance: self.reader.read(move |transaction| glance(transaction, seen)).boxed() }
    }

    /// Whether this is still the log that was seen so far.
    fn judge(&mut self, glance: &Glance) -> Result<(), TailFault> {
        let Glance { head, seen_id, .. } = glance;
        if !self.begun {
            self.begun = true;
            self.seen_id.clone_from(seen_id);
            if self.seen == 0 {
                // whoever has nothing yet begins with what is kept
                self.seen = head.first.saturating_sub(1);
            }
        }
        if head.last < self.seen {
            return Err(TailFault::Backwards { last: head.last, seen: self.seen });
        }
        if head.first > self.seen + 1 {
            return Err(TailFault::Hole { missing: self.seen + 1 });
        }
        match (&self.seen_id, seen_id) {
            (Some(_), None) => Err(TailFault::Hole { missing: self.seen }),
            (Some(then), Some(now)) if then != now => {
                Err(TailFault::Replaced(format!("sequence {} is another event now", self.seen)))
            }
            (Some(_) | None, _) => Ok(()),
        }
    }
}

fn glance(transaction: &Transaction<'_>, seen: u64) -> rusqlite::Result<Glance> {
    let seen_id = transaction
        .prepare_cached("SELECT id FROM event WHERE seq = ?1")?
        .query_row([signed(seen)], |row| row.get(0))
        .optional()?;
    let mut fetched = VecDeque::new();
    let mut bytes = 0;
    let mut rows =
        transaction.prepare_cached("SELECT seq, subject, body, id FROM event WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = rows.query((signed(seen), i64::try_from(TAIL_BATCH.1).unwrap_or(i64::MAX)))?;
    while bytes < TAIL_BATCH_BYTES
        && let Some(row) = rows.next()?
    {
        let record = record(row)?;
        bytes += record.body.len();
        fetched.push_back((record, row.get(3)?));
    }
    Ok(Glance { head: head(transaction)?, seen_id, fetched })
}
