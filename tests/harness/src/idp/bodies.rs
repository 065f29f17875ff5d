//! Answers that are no answers, or more than one.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The connection is closed without an answer.
#[derive(Debug)]
pub(super) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed on purpose")
    }
}

impl std::error::Error for Closed {}

/// A body that never comes.
pub(super) struct Stalls;

impl Body for Stalls {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// A body of unknown length, this many bytes of blanks.
pub(super) struct Blanks(pub(super) usize);

impl Body for Blanks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const CHUNK: &[u8] = &[b' '; 16 * 1024];
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 = self.0.saturating_sub(CHUNK.len());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(CHUNK)))))
    }
}

/// A connection on which everything that was said is said once more before it closes.
pub(super) struct Twice<S> {
    stream: S,
    is_twice: bool,
    said: Vec<u8>,
}

impl<S> Twice<S> {
    /// Says everything twice if it `is_twice`.
    pub(super) const fn new(stream: S, is_twice: bool) -> Self {
        Self { stream, is_twice, said: Vec::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Twice<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Twice<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let (Poll::Ready(Ok(wrote)), true) = (&wrote, self.is_twice) {
            self.said.extend(buf.iter().take(*wrote));
        }
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.said.is_empty() {
            let said = std::mem::take(&mut self.said);
            match Pin::new(&mut self.stream).poll_write(cx, &said) {
                Poll::Ready(Ok(wrote)) => self.said = said.into_iter().skip(wrote).collect(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.said = said;
                    return Poll::Pending;
                }
            }
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
