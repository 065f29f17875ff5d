//! A client's connection that is HTTP no longer, and the way to it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::wire::{Duplex, Wire};
use crate::passed_on::passed_on;

/// The connection of one request, for whoever takes it over after the answer.
pub struct Switch {
    wire: Rc<Wire>,
    turn: u64,
}

impl Switch {
    pub(super) fn new(wire: Rc<Wire>, turn: u64) -> Self {
        Self { wire, turn }
    }

    /// Takes the connection over as soon as the answer to its request has been written: `101` to an upgrade, `2xx` to a
    /// CONNECT. To be called before there is an answer; `None` where the connection has ended.
    pub fn take_over(self) -> Option<oneshot::Receiver<Switched>> {
        self.wire.switch(self.turn)
    }
}

/// A connection that was taken over: first what the client sent with its request, then whatever it sends.
pub struct Switched {
    early: Bytes,
    stream: Box<dyn Duplex>,
}

impl Switched {
    /// With what was read of the other protocol already.
    pub fn new(early: Bytes, stream: Box<dyn Duplex>) -> Self {
        Self { early, stream }
    }
}

impl AsyncRead for Switched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let here = self.early.len().min(buf.remaining());
        buf.put_slice(self.early.get(..here).unwrap_or_default());
        self.early.advance(here);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    passed_on!(poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown);
}
