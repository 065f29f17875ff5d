//! A client's connection as its bytes come: what was read and not yet taken, and how the body is framed that is coming.
//!
//! Two tasks of one worker share it: the one that converses with the client, and the one that sends the body on to the
//! upstream as it comes. Only one of them reads at a time: the body, until it has ended.

use std::cell::{RefCell, RefMut};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use portcullis_config::limits::{CLIENT_READ, LINGER, UNREAD_BODY};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;

use super::chunk::{self, Chunks};
use super::head::{Framing, Head, Refusal, Scan};
use super::switch::Switched;

/// What a connection is made of.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Most bytes that are read of a head at once.
const HEAD_READ: usize = 8 * 1024;
/// RFC 9110 §15.2.1
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's connection.
pub struct Wire(RefCell<Inner>);

struct Inner {
    /// Gone once the connection has ended or was handed over.
    stream: Option<Box<dyn Duplex>>,
    /// What was read and not yet taken.
    read: BytesMut,
    /// How much is read of a body at once.
    room: usize,
    body: Coming,
    /// Counts requests: a body that is held on to is never taken for that of a later one.
    turn: u64,
    /// The body was let go of before its end.
    abandoned: bool,
    /// How much was read that nobody reads.
    forgotten: usize,
    /// The client went away within a body: it may still read an answer.
    gone: bool,
    /// The client waits for a word before it sends the body.
    expects: bool,
    /// What is still to be written of that word.
    word: &'static [u8],
    /// Who waits for more of the body.
    reader: Option<Waker>,
    /// Who waits for the body to end.
    ended: Option<Waker>,
    /// Where the connection goes when it is HTTP no longer.
    tunnel: Option<oneshot::Sender<Switched>>,
}

/// The body that is coming.
enum Coming {
    Nothing,
    Length(u64),
    Chunked(Chunks),
    /// What comes is not ours to frame.
    Switch,
    /// It broke off, was badly framed, or is not waited for: nothing that comes can be told apart any more.
    Broken,
}

/// A piece of a body.
pub enum Piece {
    /// Content.
    Data(Bytes),
    /// Its end.
    End(Option<HeaderMap>),
}

/// What is left of a body when its request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: another request may follow.
    None,
    /// Somebody still reads it.
    Coming,
    /// Nobody reads it.
    Unread,
}

impl Wire {
    /// A connection before its first request.
    pub fn new(stream: Box<dyn Duplex>) -> Self {
        Self(RefCell::new(Inner {
            stream: Some(stream),
            read: BytesMut::new(),
            room: HEAD_READ,
            body: Coming::Nothing,
            turn: 0,
            abandoned: false,
            forgotten: 0,
            gone: false,
            expects: false,
            word: &[],
            reader: None,
            ended: None,
            tunnel: None,
        }))
    }

    // held within one poll, and never while anything else is asked that could come back here
    fn inner(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }

    /// The head that was read, once it is whole.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take_head(&self, scan: &mut Scan) -> Result<Option<Head>, Refusal> {
        let mut inner = self.inner();
        let Some(found) = scan.look(&inner.read)? else { return Ok(None) };
        let mut head = inner.read.split_to(found.end);
        head.advance(found.start);
        drop(inner);
        Head::read(&head.freeze()).map(Some)
    }

    /// Whether nothing has come since the last request. The memory for it is let go of as well.
    pub fn is_quiet(&self) -> bool {
        let mut inner = self.inner();
        let quiet = inner.read.is_empty();
        if quiet {
            inner.read = BytesMut::new();
        }
        quiet
    }

    /// Reads more of a head: how many bytes, none at the end.
    pub fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inner().poll_fill(cx)
    }

    /// A request has come whose body is framed like this. The number it goes by.
    pub fn begin(&self, framing: Framing, expects: bool) -> u64 {
        let mut inner = self.inner();
        inner.body = match framing {
            Framing::None | Framing::Length(0) => Coming::Nothing,
            Framing::Length(length) => Coming::Length(length),
            Framing::Chunked => Coming::Chunked(Chunks::default()),
            Framing::Switch => Coming::Switch,
        };
        inner.turn += 1;
        (inner.abandoned, inner.forgotten, inner.expects, inner.room) = (false, 0, expects, HEAD_READ);
        inner.turn
    }

    /// Whether the client has gone while it waits for its answer. What it sends already is kept.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner();
        match inner.body {
            Coming::Nothing | Coming::Switch if inner.read.is_empty() => match ready!(inner.poll_fill(cx)) {
                Ok(0) | Err(_) => Poll::Ready(()),
                Ok(_) => Poll::Pending,
            },
            // whoever reads the body hears of it
            Coming::Length(_) | Coming::Chunked(_) if !inner.abandoned => {
                note(&mut inner.ended, cx);
                Poll::Pending
            }
            Coming::Length(_) | Coming::Chunked(_) | Coming::Broken => inner.poll_forget(cx),
            Coming::Nothing | Coming::Switch => Poll::Pending,
        }
    }

    /// What comes next of the body of this request.
    pub fn poll_body(&self, turn: u64, cx: &mut Context<'_>) -> Poll<io::Result<Piece>> {
        let mut inner = self.inner();
        if inner.turn != turn {
            return Poll::Ready(Ok(Piece::End(None)));
        }
        loop {
            if let Some(piece) = inner.next_piece()? {
                return Poll::Ready(Ok(piece));
            }
            // what of it does not leave now leaves with the next attempt
            let _ = inner.poll_word(cx)?;
            match inner.poll_fill_body(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(ended) => {
                    inner.gone = true;
                    let error = ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Err(inner.broken(error)));
                }
                Poll::Pending => {
                    note(&mut inner.reader, cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// How many bytes of this request's body are still to come, if that is known.
    pub fn left(&self, turn: u64) -> Option<u64> {
        let inner = self.0.borrow();
        match inner.body {
            Coming::Length(left) if inner.turn == turn => Some(left),
            Coming::Chunked(_) | Coming::Broken if inner.turn == turn => None,
            _ => Some(0),
        }
    }

    /// Nobody reads this request's body any more.
    pub fn abandon(&self, turn: u64) {
        let mut inner = self.inner();
        if inner.turn == turn {
            inner.abandoned = true;
            wake(&mut inner.ended);
        }
    }

    /// The connection goes there once the answer to this request has been written.
    pub fn switch(&self, turn: u64) -> Option<oneshot::Receiver<Switched>> {
        let mut inner = self.inner();
        let (sender, receiver) = oneshot::channel();
        let now = inner.turn == turn && inner.stream.is_some();
        inner.tunnel = Some(sender).filter(|_| now);
        now.then_some(receiver)
    }

    /// Whether the answer is the last thing of HTTP that is written.
    pub fn is_switching(&self) -> bool {
        self.0.borrow().tunnel.is_some()
    }

    /// Hands the connection over, with whatever was read already.
    pub fn hand_over(&self) {
        let mut inner = self.inner();
        if let (Some(tunnel), Some(stream)) = (inner.tunnel.take(), inner.stream.take()) {
            let early = std::mem::take(&mut inner.read).freeze();
            // whoever was to take it may have been cut meanwhile: it closes
            drop(tunnel.send(Switched::new(early, stream)));
        }
    }

    /// The answer begins: the client is no longer told to go on. What is left of the body is read and forgotten if it has
    /// come already and is not much.
    pub fn poll_rest(&self, cx: &mut Context<'_>) -> Rest {
        let mut inner = self.inner();
        if std::mem::take(&mut inner.expects) && inner.read.is_empty() {
            // who was never told to send may send or not
            inner.body = Coming::Broken;
        }
        loop {
            match inner.body {
                Coming::Nothing => return Rest::None,
                Coming::Switch | Coming::Broken => return Rest::Unread,
                Coming::Length(_) | Coming::Chunked(_) if !inner.abandoned => return Rest::Coming,
                Coming::Length(_) | Coming::Chunked(_) => {}
            }
            match inner.next_piece() {
                Ok(Some(Piece::Data(data))) => inner.forgotten += data.len(),
                Ok(Some(Piece::End(_))) => {}
                Ok(None) if inner.forgotten > UNREAD_BODY => return Rest::Unread,
                Ok(None) => match inner.poll_fill_body(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) | Poll::Pending => return Rest::Unread,
                },
                Err(_) => return Rest::Unread,
            }
        }
    }

    /// Writes all of this, and what stands before it.
    pub fn poll_write(&self, bytes: &mut impl Buf, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        while !inner.word.is_empty() {
            ready!(inner.poll_word(cx))?;
        }
        let Some(stream) = &mut inner.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        while bytes.has_remaining() {
            if ready!(pin!(stream.write_buf(bytes)).poll(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Pin::new(stream).poll_flush(cx)
    }

    /// Ends the connection. Whoever still reads a body hears that it broke off.
    pub fn hang_up(&self) -> Option<Box<dyn Duplex>> {
        let mut inner = self.inner();
        if !matches!(inner.body, Coming::Nothing) {
            inner.body = Coming::Broken;
        }
        inner.tunnel = None;
        wake(&mut inner.reader);
        inner.stream.take()
    }
}

/// Closes a connection with a word. RFC 9112 §9.6: who closes while the client still sends makes the system throw away an
/// answer that is on its way. So what comes then is read and forgotten, until the client has closed as well or for a
/// while.
pub async fn close(mut stream: Box<dyn Duplex>, unread: bool) {
    let closing = async {
        stream.shutdown().await?;
        while unread && poll_fn(|cx| poll_read(&mut stream, cx, |_| ())).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER, closing).await;
}

/// Reads by way of the stack: a connection that is idle holds no memory for what may come.
fn poll_read(stream: &mut Box<dyn Duplex>, cx: &mut Context<'_>, take: impl FnOnce(&[u8])) -> Poll<io::Result<usize>> {
    let mut space = [const { MaybeUninit::uninit() }; HEAD_READ];
    let mut buffer = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    take(buffer.filled());
    Poll::Ready(Ok(buffer.filled().len()))
}

impl Inner {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(0)) };
        poll_read(stream, cx, |bytes| self.read.extend_from_slice(bytes))
    }

    fn poll_fill_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(0)) };
        if self.read.capacity() - self.read.len() < self.room / 2 {
            self.read.reserve(self.room);
        }
        let read = ready!(pin!(stream.read_buf(&mut self.read)).poll(cx))?;
        if read >= self.room {
            self.room = (self.room * 2).min(CLIENT_READ);
        }
        Poll::Ready(Ok(read))
    }

    /// Waits for the end of what nobody reads, as long as it is not much: no other request comes after it.
    fn poll_forget(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.body = Coming::Broken;
        while !self.gone && self.forgotten <= UNREAD_BODY {
            self.read.clear();
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(read) => self.forgotten += read,
            }
        }
        Poll::Pending
    }

    /// What was read of the body and not yet taken.
    fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        let (piece, ended) = match &mut self.body {
            Coming::Nothing => (Some(Piece::End(None)), true),
            Coming::Length(_) | Coming::Chunked(_) if self.read.is_empty() => (None, false),
            Coming::Length(left) => {
                let data = chunk::content(&mut self.read, *left);
                *left = left.saturating_sub(chunk::length(&data));
                (Some(Piece::Data(data)), *left == 0)
            }
            Coming::Chunked(chunks) => match chunks.next(&mut self.read) {
                Ok(chunk::Read::Data(data)) => (Some(Piece::Data(data)), false),
                Ok(chunk::Read::End(trailers)) => (Some(Piece::End(Some(trailers))), true),
                Ok(chunk::Read::More) => (None, false),
                Err(error) => return Err(self.broken(io::Error::new(io::ErrorKind::InvalidData, error))),
            },
            Coming::Switch | Coming::Broken => return Err(io::ErrorKind::InvalidData.into()),
        };
        if piece.is_some() {
            // who sends without being told need not be told
            self.expects = false;
        }
        if ended {
            self.body = Coming::Nothing;
            wake(&mut self.ended);
        }
        Ok(piece)
    }

    /// Tells the client to go on, if it waits for that.
    fn poll_word(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.expects) {
            self.word = CONTINUE;
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        while !self.word.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, self.word))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.word = self.word.get(written..).unwrap_or_default();
            if self.word.is_empty() {
                return Pin::new(stream).poll_flush(cx);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn broken(&mut self, error: io::Error) -> io::Error {
        self.body = Coming::Broken;
        wake(&mut self.ended);
        error
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn note(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}
