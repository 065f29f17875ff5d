//! The body of a request as it comes: read from the connection when it is asked for, and no sooner.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::switch::Switch;
use super::wire::{Piece, Wire};

/// The body of one request.
pub struct Body {
    wire: Rc<Wire>,
    turn: u64,
    ended: bool,
}

impl Body {
    pub(super) fn new(wire: Rc<Wire>, turn: u64) -> Self {
        let ended = wire.left(turn) == Some(0);
        Self { wire, turn, ended }
    }

    /// The way to the connection itself.
    pub fn switch(&self) -> Switch {
        Switch::new(Rc::clone(&self.wire), self.turn)
    }
}

#[cfg(test)]
impl Body {
    /// The body of a request that comes by this stream: so many bytes.
    pub fn coming(stream: impl super::Duplex + 'static, length: u64) -> Self {
        let wire = Rc::new(Wire::new(Box::new(stream)));
        let turn = wire.begin(super::head::Framing::Length(length), false);
        Self::new(wire, turn)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.wire.poll_body(self.turn, cx));
        self.ended = match &piece {
            Ok(Piece::Data(_)) => self.wire.left(self.turn) == Some(0),
            Ok(Piece::End(_)) | Err(_) => true,
        };
        Poll::Ready(match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::End(trailers)) => {
                trailers.filter(|trailers| !trailers.is_empty()).map(|trailers| Ok(Frame::trailers(trailers)))
            }
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended {
            return SizeHint::with_exact(0);
        }
        self.wire.left(self.turn).map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.ended {
            self.wire.abandon(self.turn);
        }
    }
}
