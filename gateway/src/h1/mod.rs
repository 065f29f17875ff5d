//! The seam of HTTP/1.1: every byte of a client passes here before hyper sees it, and what could be framed in two ways
//! passes no further.
//!
//! hyper drops a `Content-Length` beside a `Transfer-Encoding`, merges equal duplicates and takes a bare LF for the end
//! of a line; behind it nobody could refuse them. A head that is not strictly RFC 9112 is cut before its last byte and
//! replaced by one that no parser takes, so that the answer is 400 and the connection closes; a broken chunk ends the
//! connection.

mod chunk;
mod head;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use portcullis_config::limits::LINGER;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use chunk::Chunks;
pub use head::is_for_websocket;
use head::{Framing, Head, Violation};

use crate::passed_on::passed_on;

/// What is read instead of a head that was refused: NUL is allowed nowhere in one.
const POISON: &[u8] = b"\0\r\n\r\n";

/// A client's stream whose framing was looked at.
pub struct Gate<T> {
    stream: T,
    state: State,
    lingering: Option<Pin<Box<Sleep>>>,
}

enum State {
    Head(Head),
    Length(u64),
    Chunked(Chunks),
    /// After a request for a WebSocket: whatever follows is not ours to frame. Unless the switch happens the connection
    /// closes after the answer.
    Switching,
    Poisoned,
    Broken,
}

impl<T> Gate<T> {
    /// A gate before the first request of a connection.
    pub fn new(stream: T) -> Self {
        Self { stream, state: State::Head(Head::default()), lingering: None }
    }
}

impl State {
    /// Looks at bytes that were read; says how many of them may pass.
    fn look(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self {
                Self::Head(head) => match head.take(rest) {
                    Ok((taken, None)) => at += taken,
                    Ok((taken, Some(framing))) => {
                        at += taken;
                        *self = Self::after(framing);
                    }
                    Err(Violation { at: passed }) => {
                        *self = Self::Poisoned;
                        return at + passed;
                    }
                },
                Self::Length(left) => {
                    let here = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(*left);
                    *left -= here;
                    at += usize::try_from(here).unwrap_or(rest.len());
                    if *left == 0 {
                        *self = Self::Head(Head::default());
                    }
                }
                Self::Chunked(chunks) => match chunks.take(rest) {
                    Ok((taken, false)) => at += taken,
                    Ok((taken, true)) => {
                        at += taken;
                        *self = Self::Head(Head::default());
                    }
                    Err(Violation { at: passed }) => {
                        *self = Self::Broken;
                        return at + passed;
                    }
                },
                Self::Switching => return bytes.len(),
                Self::Poisoned | Self::Broken => return at,
            }
        }
        at
    }

    /// Whether the client may still be sending what nobody reads.
    const fn is_unread(&self) -> bool {
        match self {
            Self::Length(_) | Self::Chunked(_) | Self::Poisoned | Self::Broken => true,
            // a tunnel reads for itself
            Self::Head(_) | Self::Switching => false,
        }
    }

    fn after(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Head(Head::default()),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::default()),
            Framing::Switch => Self::Switching,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gate<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.state {
            State::Poisoned => {
                // hyper's buffer has room for more than this, and stops reading at the first of it
                let room = buf.remaining().min(POISON.len());
                buf.put_slice(POISON.get(..room).unwrap_or_default());
                this.state = State::Broken;
                return Poll::Ready(Ok(()));
            }
            State::Broken => {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the request is badly framed")));
            }
            State::Head(_) | State::Length(_) | State::Chunked(_) | State::Switching => {}
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if read.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let passed = this.state.look(read);
        buf.set_filled(before + passed);
        if passed == 0 {
            // reading nothing would mean the end of the stream: read what stands in its place
            return self.poll_read(cx, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<T> {
    passed_on!(poll_write, poll_write_vectored, is_write_vectored, poll_flush);

    /// RFC 9112 §9.6: who closes while the client still sends makes the system throw away an answer that is on its way.
    /// So what comes is read and forgotten, until the client has closed as well or for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            std::task::ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.state.is_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut forgotten = [0; 8192];
        while lingering.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut forgotten);
            match std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
