//! A connection to an upstream in HTTP/1.1: one exchange at a time, driven by whoever waits for its answer.
//!
//! What an upstream sends before the head of its answer is bounded (`UPSTREAM_HEAD_BYTES`): interim answers (1xx) have no
//! number, and would keep a worker busy for as long as an answer may take.

mod head;
mod upload;

use std::cell::{RefCell, RefMut};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use hyper::body::{Frame, SizeHint};
use portcullis_config::limits::{CLIENT_READ, UPSTREAM_HEAD_BYTES, UPSTREAM_HEADERS};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::task::AbortHandle;

use head::{Coming, Head};
pub use upload::Coding;
use upload::{Unsent, Upload};

use super::body::{BodyError, RequestBody};
use super::connect::Taken;
use super::line::Line;
use crate::h1::{Duplex, Read, Switched, content, length};

/// What is said of a head that is larger than it may be.
const TOO_LARGE: &str = "the head of the answer is too large";
/// Bytes that are read at once, until it shows that more come.
const ROOM: usize = 8 * 1024;

/// A connection. Dropped, it closes at once, whatever was under way on it.
pub struct Connection {
    flight: Rc<RefCell<Flight>>,
    sending: Option<Sending>,
    taken: Taken,
}

/// Sends what is left of a request whose answer has begun.
struct Sending(AbortHandle);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no answer.
pub enum Fault {
    /// Nothing of the request has left: its body comes back.
    Unsent(RequestBody),
    /// The connection broke before anything came.
    Broken(BodyError),
    /// What came is no answer.
    Garbled(BodyError),
}

struct Flight {
    line: Line,
    /// What has come and was not yet taken.
    read: BytesMut,
    /// Up to where the end of a head was looked for.
    looked: usize,
    /// How much is read at once.
    room: usize,
    upload: Upload,
    coming: Coming,
    /// The answer to a HEAD is awaited.
    bodiless: bool,
    /// Bytes that may still come before the answer.
    allowed: usize,
    persistent: bool,
    /// Who waits for more of the answer while the request is still being sent.
    reader: Option<Waker>,
}

impl Connection {
    /// One that nothing was sent on.
    pub fn new(line: Line, taken: Taken) -> Self {
        let flight = Flight {
            line,
            read: BytesMut::new(),
            looked: 0,
            room: ROOM,
            upload: Upload::idle(),
            coming: Coming::Nothing,
            bodiless: false,
            allowed: 0,
            persistent: true,
            reader: None,
        };
        Self { flight: Rc::new(RefCell::new(flight)), sending: None, taken }
    }

    // held within one poll, and never while anything else is asked that could come back here
    fn flight(&self) -> RefMut<'_, Flight> {
        self.flight.borrow_mut()
    }

    /// Begins an exchange: `head` writes the head of the request.
    pub fn begin(&self, bodiless: bool, body: RequestBody, head: impl FnOnce(&mut Vec<u8>, Coding)) {
        let mut flight = self.flight();
        flight.upload.begin(body, head);
        (flight.bodiless, flight.allowed) = (bodiless, UPSTREAM_HEAD_BYTES);
        // until the answer has come to its end, nothing else may follow
        flight.coming = Coming::Broken;
    }

    /// Sends the request, and reads the head of its answer.
    ///
    /// # Errors
    /// [`Fault`]; the connection is of no use any more.
    pub fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<Parts, Fault>> {
        self.flight().poll_answer(cx)
    }

    /// What is left of the request goes on while the answer is passed on: an upstream may answer before it has all of it.
    pub fn send_on(&mut self) {
        if self.flight().upload.is_sent() {
            return;
        }
        let flight = Rc::clone(&self.flight);
        let sending = actix_rt::spawn(std::future::poll_fn(move |cx| flight.borrow_mut().poll_send_on(cx)));
        self.sending = Some(Sending(sending.abort_handle()));
    }

    /// What comes next of the answer's body.
    pub fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.flight().poll_body(cx)
    }

    /// Whether nothing more of the answer comes.
    pub fn is_answered(&self) -> bool {
        matches!(self.flight.borrow().coming, Coming::Nothing)
    }

    /// How much of the answer's body is still to come.
    pub fn left(&self) -> SizeHint {
        match self.flight.borrow().coming {
            Coming::Nothing | Coming::Switch => SizeHint::with_exact(0),
            Coming::Length(left) => SizeHint::with_exact(left),
            Coming::Chunked(_) | Coming::UntilClose | Coming::Broken => SizeHint::default(),
        }
    }

    /// Whether another exchange may follow: the last one is complete both ways, and nothing came that nobody asked for.
    pub fn is_reusable(&self) -> bool {
        let flight = self.flight.borrow();
        flight.persistent
            && matches!(flight.coming, Coming::Nothing)
            && flight.read.is_empty()
            && flight.upload.is_sent()
    }

    /// Whether the upstream has closed it meanwhile, or has said something unasked. Asks nothing of the network but what
    /// the runtime knows already.
    pub fn is_closed(&self) -> bool {
        if !self.is_reusable() {
            return true;
        }
        let mut space = [0; 1];
        let mut flight = self.flight();
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut flight.line).poll_read(&mut cx, &mut ReadBuf::new(&mut space)).is_ready()
    }

    /// Leaves it to whoever takes it over after a switch of protocols: its stream, and what it still takes up.
    pub fn leave(self) -> Option<(Box<dyn Duplex>, Taken)> {
        let flight = Rc::into_inner(self.flight)?.into_inner();
        Some((Box::new(Switched::new(flight.read.freeze(), Box::new(flight.line))), self.taken))
    }
}

impl Flight {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Parts, Fault>> {
        if !self.upload.is_sent() {
            match self.upload.poll(&mut self.line, cx) {
                Poll::Ready(Err(Unsent::Body(error))) => return Poll::Ready(Err(Fault::Broken(error))),
                Poll::Ready(Err(Unsent::Line(error))) => {
                    if let Some(body) = self.upload.take_back() {
                        return Poll::Ready(Err(Fault::Unsent(body)));
                    }
                    tracing::debug!(%error, "an upstream takes no more of a request");
                    // it may have answered before it closed
                    self.upload.abandon();
                    self.persistent = false;
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        loop {
            match self.take_head() {
                Ok(Some(parts)) => return Poll::Ready(Ok(parts)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(Fault::Garbled(error))),
            }
            let error = match ready!(self.poll_fill(cx)) {
                Ok(1..) => continue,
                Ok(0) => "the connection ended before the answer".into(),
                Err(error) => BodyError::from(error),
            };
            let nothing_came = self.read.is_empty() && self.allowed == UPSTREAM_HEAD_BYTES;
            return Poll::Ready(Err(if nothing_came { Fault::Broken(error) } else { Fault::Garbled(error) }));
        }
    }

    /// The head of the answer once it is whole; interim answers are passed over.
    fn take_head(&mut self) -> Result<Option<Parts>, BodyError> {
        while let Some(end) = head::end(&self.read, &mut self.looked) {
            self.looked = 0;
            if end > UPSTREAM_HEADERS.0 {
                return Err(TOO_LARGE.into());
            }
            self.allowed = self.allowed.checked_sub(end).ok_or("too much came before the answer")?;
            let Head { parts, coming, persistent } = Head::read(&self.read.split_to(end).freeze(), self.bodiless)?;
            if parts.status.is_informational() && !matches!(coming, Coming::Switch) {
                continue;
            }
            self.persistent &= persistent;
            self.coming = coming;
            return Ok(Some(parts));
        }
        let most = self.allowed.min(UPSTREAM_HEADERS.0);
        if self.read.len() > most { Err(TOO_LARGE.into()) } else { Ok(None) }
    }

    fn poll_send_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(unsent) = ready!(self.upload.poll(&mut self.line, cx)) {
            self.upload.abandon();
            self.persistent = false;
            match unsent {
                // half a request must not pass for a whole one: the connection ends
                Unsent::Body(error) => {
                    tracing::debug!(%error, "a request broke off after its answer had begun");
                    self.coming = Coming::Broken;
                    if let Some(reader) = self.reader.take() {
                        reader.wake();
                    }
                }
                Unsent::Line(error) => tracing::debug!(%error, "an upstream takes no more of a request"),
            }
        }
        Poll::Ready(())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.next_piece() {
                Ok(Some(piece)) => return Poll::Ready(piece.map(Ok)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(self.broken(error)))),
            }
            let Poll::Ready(read) = self.poll_fill(cx) else {
                if !self.upload.is_sent() {
                    self.reader = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            match read {
                Ok(1..) => {}
                Ok(0) if matches!(self.coming, Coming::UntilClose) => self.coming = Coming::Nothing,
                Ok(0) => return Poll::Ready(Some(Err(self.broken("the answer broke off".into())))),
                Err(error) => return Poll::Ready(Some(Err(self.broken(error.into())))),
            }
        }
    }

    fn broken(&mut self, error: BodyError) -> BodyError {
        self.coming = Coming::Broken;
        self.persistent = false;
        error
    }

    /// What has come of the body: `None` where more must come first, `Some(None)` at its end.
    #[expect(clippy::option_option, reason = "the end of a body is not the lack of more")]
    fn next_piece(&mut self) -> Result<Option<Option<Frame<Bytes>>>, BodyError> {
        let (piece, ended) = match &mut self.coming {
            Coming::Nothing | Coming::Switch => (Some(None), false),
            Coming::Broken => return Err("the answer broke off".into()),
            Coming::Length(_) | Coming::Chunked(_) | Coming::UntilClose if self.read.is_empty() => (None, false),
            Coming::Length(left) => {
                let data = content(&mut self.read, *left);
                *left = left.saturating_sub(length(&data));
                (Some(Some(Frame::data(data))), *left == 0)
            }
            Coming::Chunked(chunks) => match chunks.next(&mut self.read)? {
                Read::Data(data) => (Some(Some(Frame::data(data))), false),
                Read::End(trailers) if trailers.is_empty() => (Some(None), true),
                Read::End(trailers) => (Some(Some(Frame::trailers(trailers))), true),
                Read::More => (None, false),
            },
            Coming::UntilClose => (Some(Some(Frame::data(self.read.split().freeze()))), false),
        };
        if ended {
            self.coming = Coming::Nothing;
        }
        Ok(piece)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < self.room / 2 {
            self.read.reserve(self.room);
        }
        let read = ready!(pin!(self.line.read_buf(&mut self.read)).poll(cx))?;
        if read >= self.room {
            self.room = (self.room * 2).min(CLIENT_READ);
        }
        Poll::Ready(Ok(read))
    }
}

#[cfg(test)]
mod tests;
