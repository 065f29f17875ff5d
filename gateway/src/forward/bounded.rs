//! What an upstream may send before its answer begins: a bounded number of bytes.
//!
//! Interim answers (1xx) have no number: an upstream that sends them without end would keep its worker busy with
//! nothing else, for as long as an answer may take.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use portcullis_config::limits::UPSTREAM_HEAD_BYTES;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::passed_on::passed_on;

/// How much may still come; shared by whoever waits for an answer and the stream it comes by. Where several exchanges
/// share the stream, it holds as long as all of them wait.
#[derive(Clone)]
pub struct Allowance(Arc<State>);

struct State {
    left: AtomicUsize,
    waiting: AtomicUsize,
    /// Somebody waits for the first words of the stream.
    unsettled: AtomicBool,
    ended: AtomicBool,
    came: Notify,
}

/// One exchange that waits for its answer.
pub struct Waiting(Allowance);

impl Default for Allowance {
    fn default() -> Self {
        Self(Arc::new(State {
            left: AtomicUsize::new(UPSTREAM_HEAD_BYTES),
            waiting: AtomicUsize::new(0),
            unsettled: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            came: Notify::new(),
        }))
    }
}

impl Allowance {
    /// One of a stream whose first words are waited for.
    pub fn unsettled() -> Self {
        let allowance = Self::default();
        allowance.0.unsettled.store(true, Ordering::Relaxed);
        allowance
    }

    /// Waits until something has come.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn came(&self) -> io::Result<()> {
        self.0.came.notified().await;
        if self.0.ended.load(Ordering::Relaxed) { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    /// Nobody waits for that any more.
    pub fn settle(&self) {
        self.0.unsettled.store(false, Ordering::Relaxed);
    }

    /// Bytes have come, or the end.
    fn comes(&self, ended: bool) {
        if self.0.unsettled.load(Ordering::Relaxed) {
            self.0.ended.fetch_or(ended, Ordering::Relaxed);
            self.0.came.notify_one();
        }
    }

    /// A request is being sent.
    pub fn begin(&self) {
        self.0.left.store(UPSTREAM_HEAD_BYTES, Ordering::Relaxed);
    }

    /// The answer has begun: its body may be of any length.
    pub fn lift(&self) {
        self.0.left.store(usize::MAX, Ordering::Relaxed);
    }

    /// One more request is being sent, among `others` whose answers have begun.
    pub fn begin_among(&self, others: bool) -> Waiting {
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        if others {
            self.lift()
        } else {
            self.begin()
        }
        Waiting(self.clone())
    }

    /// How many wait for their answers to begin.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let left = self.0.left.load(Ordering::Relaxed);
        if left == usize::MAX {
            return true;
        }
        let after = left.checked_sub(bytes);
        self.0.left.store(after.unwrap_or(0), Ordering::Relaxed);
        after.is_some()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Ordering::Relaxed);
        // an answer has begun, or nobody waits for it any more
        self.0.lift();
    }
}

/// A stream that breaks where more comes than is allowed.
pub struct Bounded<T> {
    stream: T,
    allowance: Allowance,
}

impl<T> Bounded<T> {
    /// Holds a stream to an allowance.
    pub fn new(stream: T, allowance: Allowance) -> Self {
        Self { stream, allowance }
    }
}

impl<T> Drop for Bounded<T> {
    fn drop(&mut self) {
        self.allowance.comes(true);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Bounded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.allowance.comes(polled.is_err() || buf.filled().len() == before);
        polled?;
        if self.allowance.take(buf.filled().len() - before) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too much came before the answer")))
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Bounded<T> {
    passed_on!(poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}
