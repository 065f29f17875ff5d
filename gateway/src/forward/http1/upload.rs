//! A request on its way out: its head and as much of its body as is there in one write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::Body;
use tokio::io::AsyncWrite;

use crate::forward::body::{BodyError, RequestBody};
use crate::forward::line::Line;
use crate::h1::{SMALL, TOGETHER, chunk, last_chunk, length};

/// How the body of a request is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// There is none.
    None,
    /// So many bytes are still to be sent.
    Length(u64),
    /// Chunks.
    Chunked,
}

impl Coding {
    /// That of a body.
    pub fn of(body: &RequestBody) -> Self {
        if body.is_empty() { Self::None } else { body.size_hint().exact().map_or(Self::Chunked, Self::Length) }
    }
}

/// Why a request is not sent to its end.
pub enum Unsent {
    /// Its body broke off, or must not be sent any further.
    Body(BodyError),
    /// The upstream takes nothing more.
    Line(io::Error),
}

/// What is being sent on one connection.
pub struct Upload {
    /// What is written next.
    out: Vec<u8>,
    written: usize,
    /// What is written after that, without being copied.
    piece: Bytes,
    body: Option<RequestBody>,
    coding: Coding,
    /// Something has been written that may still lie in the TLS layer.
    unflushed: bool,
    /// Something of the request has left, or something of its body was taken, which is then here and nowhere else.
    begun: bool,
}

impl Upload {
    /// Nothing to send.
    pub const fn idle() -> Self {
        Self {
            out: Vec::new(),
            written: 0,
            piece: Bytes::new(),
            body: None,
            coding: Coding::None,
            unflushed: false,
            begun: false,
        }
    }

    /// Begins a request: `head` writes its head.
    pub fn begin(&mut self, body: RequestBody, head: impl FnOnce(&mut Vec<u8>, Coding)) {
        self.coding = Coding::of(&body);
        self.clear();
        self.begun = false;
        head(&mut self.out, self.coding);
        self.body = Some(body).filter(|_| self.coding != Coding::None);
    }

    /// Whether all of it has been sent.
    pub fn is_sent(&self) -> bool {
        self.body.is_none() && self.is_empty() && !self.unflushed
    }

    /// Gives the body back, whole, if nothing of the request has left.
    pub fn take_back(&mut self) -> Option<RequestBody> {
        if self.begun { None } else { Some(self.body.take().unwrap_or_else(RequestBody::none)) }
    }

    /// Lets go of what was not sent.
    pub fn abandon(&mut self) {
        self.clear();
        (self.body, self.piece, self.unflushed) = (None, Bytes::new(), false);
    }

    fn clear(&mut self) {
        self.out.clear();
        self.written = 0;
        if self.out.capacity() > 2 * TOGETHER {
            self.out = Vec::new();
        }
    }

    fn is_empty(&self) -> bool {
        self.written >= self.out.len() && self.piece.is_empty()
    }

    /// Sends what there is. Ready once the request has been sent to its end.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn poll(&mut self, line: &mut Line, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            let waits = self.collect(cx).map_err(Unsent::Body)?;
            if self.is_empty() {
                if self.unflushed {
                    ready!(Pin::new(&mut *line).poll_flush(cx)).map_err(Unsent::Line)?;
                    self.unflushed = false;
                }
                return if waits { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            ready!(self.poll_write(line, cx)).map_err(Unsent::Line)?;
        }
    }

    /// Takes what has come of the body. Whether more of it is waited for.
    fn collect(&mut self, cx: &mut Context<'_>) -> Result<bool, BodyError> {
        while self.piece.is_empty() && self.out.len() < TOGETHER {
            let Some(body) = &mut self.body else { return Ok(false) };
            let frame = match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(frame) => frame.transpose()?,
            };
            self.begun = true;
            match frame.map(|frame| frame.into_data().map_err(|frame| frame.into_trailers())) {
                Some(Ok(data)) => self.data(data)?,
                Some(Err(Ok(trailers))) => self.end(Some(&trailers))?,
                Some(Err(Err(_))) => {}
                None => self.end(None)?,
            }
            if self.body.as_ref().is_some_and(Body::is_end_stream) {
                self.end(None)?;
            }
        }
        Ok(self.body.is_some())
    }

    fn data(&mut self, data: Bytes) -> Result<(), BodyError> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.coding {
            Coding::None => return Err("a body where there is none".into()),
            Coding::Length(left) => {
                // never more than was announced: the rest would be another request
                *left = left.checked_sub(length(&data)).ok_or("the body is longer than its length")?;
            }
            Coding::Chunked => chunk(&mut self.out, data.len()),
        }
        if data.len() > SMALL {
            self.piece = data;
            return Ok(());
        }
        self.out.extend_from_slice(&data);
        self.close_chunk();
        Ok(())
    }

    fn close_chunk(&mut self) {
        if self.coding == Coding::Chunked {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), BodyError> {
        match self.coding {
            Coding::Length(1..) => return Err("the body is shorter than its length".into()),
            // the CRLF of a piece that is still to be written comes first
            Coding::Chunked if !self.piece.is_empty() && trailers.is_none() => return Ok(()),
            Coding::Chunked => last_chunk(&mut self.out, trailers),
            Coding::None | Coding::Length(0) => {}
        }
        self.body = None;
        Ok(())
    }

    fn poll_write(&mut self, line: &mut Line, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let head = self.out.get(self.written..).unwrap_or_default();
            let line = Pin::new(&mut *line);
            let wrote = if self.piece.is_empty() {
                ready!(line.poll_write(cx, head))?
            } else {
                ready!(line.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(&self.piece)]))?
            };
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.begun, self.unflushed) = (true, true);
            let of_head = wrote.min(head.len());
            self.written += of_head;
            self.piece.advance(wrote - of_head);
            if wrote > of_head && self.piece.is_empty() {
                // what comes next of the body leaves together with the end of this chunk
                self.clear();
                self.close_chunk();
                return Poll::Ready(Ok(()));
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }
}
