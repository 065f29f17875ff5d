//! HTTP/1.1 with clients: requests are read strictly, one after another, and answered in one write where that can be.
//!
//! A head that is not strictly RFC 9112, or that two readers could frame in two ways, is refused with a page of ours, and
//! the connection closes; a broken chunk ends the connection.

mod answer;
mod body;
mod chunk;
mod expiry;
mod head;
mod switch;
mod wire;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::header::CONNECTION;
use http::{HeaderMap, Request, Response};
use hyper::body::Body as _;
use portcullis_actors::proxy::leash::Leash;
use portcullis_config::limits::{HEAD_TIMEOUT, IDLE_FOR_EVER, LINGER};
use tokio::sync::watch;

use answer::{After, Asked, Coding};
pub use answer::{chunk, field, last_chunk};
pub use body::Body;
pub use chunk::{Chunks, Read, content, length};
use expiry::Expiry;
use head::{Framing, Head, Refusal, Scan};
pub use head::{is_for_websocket, length_of};
pub use switch::{Switch, Switched};
pub use wire::Duplex;
use wire::{Rest, Wire, close};

use crate::client_body::ClientBody;
use crate::forward::body::{AnswerBody, BodyError};
use crate::listen::{Facts, Stage, reached};
use crate::serve::{misread, serve};
use crate::worker::Worker;

/// Serves the requests of one connection until it ends, at the latest when the node does.
pub async fn speak<T: Duplex + 'static>(
    stream: T,
    facts: Facts,
    worker: Rc<Worker>,
    mut stage: watch::Receiver<Stage>,
) {
    let leash = Rc::new(Leash::default());
    let mut conversation = Conversation {
        wire: Rc::new(Wire::new(Box::new(stream))),
        facts,
        worker,
        leash: Rc::clone(&leash),
        stage: stage.clone(),
        expiry: Expiry::new(Instant::now() + HEAD_TIMEOUT),
        has_asked: false,
    };
    let ended = tokio::select! {
        biased;
        ended = conversation.run() => ended,
        _ = leash.is_cut() => End::Gone,
        () = reached(&mut stage, Stage::Cut) => End::Gone,
    };
    let Some(stream) = conversation.wire.hang_up() else { return };
    if ended != End::Gone {
        tokio::select! {
            biased;
            () = close(stream, ended == End::Unread) => {}
            () = reached(&mut stage, Stage::Cut) => {}
        }
    }
}

/// Waits until a connection that says nothing is to end because the node drains. Who has not asked yet gets a moment: what
/// was accepted last has its request on the way, and would see its connection close without an answer.
async fn drained(stage: &mut watch::Receiver<Stage>, has_asked: bool) {
    reached(stage, Stage::Draining).await;
    if !has_asked {
        tokio::time::sleep(LINGER).await;
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The other side has gone, or is cut off.
    Gone,
    /// There is nothing more to say.
    Said,
    /// The client may still be sending what nobody reads.
    Unread,
    /// Not here: somebody took it over.
    Switched,
}

struct Conversation {
    wire: Rc<Wire>,
    facts: Facts,
    worker: Rc<Worker>,
    /// What every request of the connection is held by: it is at one at a time.
    leash: Rc<Leash>,
    stage: watch::Receiver<Stage>,
    expiry: Expiry,
    /// There was a request.
    has_asked: bool,
}

impl Conversation {
    async fn run(&mut self) -> End {
        loop {
            let head = match self.head().await {
                Ok(head) => head,
                Err(Some(refusal)) => return self.refuse(refusal).await,
                Err(None) => return End::Said,
            };
            if let Some(end) = self.exchange(head).await {
                return end;
            }
            self.has_asked = true;
            let idle = self.worker.blueprint.config.timeouts.idle;
            self.expiry.set(Instant::now() + idle.unwrap_or(IDLE_FOR_EVER));
        }
    }

    /// The next request: none where the client has gone, says nothing for too long, or is no longer waited for.
    async fn head(&mut self) -> Result<Head, Option<Refusal>> {
        let (mut scan, mut begun) = (Scan::default(), false);
        loop {
            if let Some(head) = self.wire.take_head(&mut scan)? {
                return Ok(head);
            }
            let quiet = self.wire.is_quiet();
            if !quiet && !begun {
                begun = true;
                self.expiry.set(Instant::now() + HEAD_TIMEOUT);
            }
            tokio::select! {
                biased;
                read = poll_fn(|cx| self.wire.poll_fill(cx)) => if !matches!(read, Ok(1..)) {
                    return Err(None);
                },
                () = self.expiry.passed() => return Err((!quiet).then_some(Refusal::Late)),
                () = drained(&mut self.stage, self.has_asked), if quiet => return Err(None),
            }
        }
    }

    /// Answers a head that is no request; nothing more is read after it.
    async fn refuse(&mut self, refusal: Refusal) -> End {
        let response = misread(&self.worker, &self.facts, Instant::now(), refusal.misread(), refusal.status());
        self.wire.begin(Framing::Switch, false);
        match self.answer(response, Asked::UNKNOWN, false).await {
            Ok(_) => End::Unread,
            Err(Broken) => End::Gone,
        }
    }

    /// One request and its answer: nothing where another may follow.
    async fn exchange(&mut self, head: Head) -> Option<End> {
        let Head { parts, framing, persistent, expects, trailers } = head;
        let asked = Asked::of(&parts.method, parts.version, trailers);
        let turn = self.wire.begin(framing, expects);
        let body = ClientBody::H1(Body::new(Rc::clone(&self.wire), turn));
        let request = Request::from_parts(parts, body);
        let response = {
            // boxed, so that a connection that is idle holds no room for it
            let serving = serve(request, self.facts.clone(), Rc::clone(&self.worker), Rc::clone(&self.leash));
            let mut serving = Box::pin(serving);
            poll_fn(|cx| match serving.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending => self.wire.poll_gone(cx).map(|()| None),
            })
            .await
        };
        let Some(response) = response else { return Some(End::Gone) };
        let Ok(after) = self.answer(response, asked, persistent).await else { return Some(End::Gone) };
        match (after, poll_fn(|cx| Poll::Ready(self.wire.poll_rest(cx))).await) {
            (After::Switch, _) => {
                self.wire.hand_over();
                Some(End::Switched)
            }
            (After::Open, Rest::None) => None,
            (After::Close, Rest::None) if self.wire.is_quiet() => Some(End::Said),
            (After::Open | After::Close, _) => Some(End::Unread),
        }
    }

    /// Writes an answer whole.
    async fn answer(
        &mut self,
        response: Response<AnswerBody>,
        asked: Asked,
        persistent: bool,
    ) -> Result<After, Broken> {
        let (parts, body) = response.into_parts();
        let switching = self.wire.is_switching();
        let size = body.size_hint();
        let mut coding = Coding::of(asked, parts.status, &size, switching);
        let rest = poll_fn(|cx| Poll::Ready(self.wire.poll_rest(cx))).await;
        let closes = !persistent
            || rest == Rest::Unread
            || coding == Coding::UntilClose
            || parts.headers.get(CONNECTION).is_some_and(|connection| connection == "close")
            || *self.stage.borrow() >= Stage::Draining;
        let after = match (switching, closes) {
            (true, _) => After::Switch,
            (false, true) => After::Close,
            (false, false) => After::Open,
        };
        let mut out = Out(SCRATCH.take());
        answer::head(&mut out.0, &parts, asked, coding, size.exact(), after);
        drop(parts);
        let mut sending = Sending { wire: &self.wire, body, out, trailers: asked.trailers };
        match sending.run(&mut coding).await {
            Ok(()) => Ok(after),
            Err(error) => {
                sending.body.cut_short();
                tracing::debug!(peer = %self.facts.peer, %error, "a client connection broke");
                Err(Broken)
            }
        }
    }
}

/// The answer did not reach its end.
#[derive(Debug, Clone, Copy)]
struct Broken;

thread_local! {
    /// What answers are written in: connections that are idle have no memory for it.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What is about to be written.
struct Out(Vec<u8>);

impl Drop for Out {
    fn drop(&mut self) {
        let mut out = std::mem::take(&mut self.0);
        if out.capacity() <= 4 * TOGETHER {
            out.clear();
            SCRATCH.set(out);
        }
    }
}

/// Pieces of a body up to this size are copied, so that they leave together with what stands before them.
pub const SMALL: usize = 4 * 1024;
/// As much is collected before it is written.
pub const TOGETHER: usize = 16 * 1024;

/// An answer on its way.
struct Sending<'a> {
    wire: &'a Wire,
    body: AnswerBody,
    out: Out,
    trailers: bool,
}

/// What comes next of an answer.
enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// Nothing for now: what there is may leave.
    Wait,
}

impl Sending<'_> {
    async fn run(&mut self, coding: &mut Coding) -> Result<(), BodyError> {
        let mut trailing = None;
        while !self.is_ended(*coding) {
            let next = match self.next().await {
                Ok(next) => next,
                Err(error) => {
                    // what came before the fault is shown, so that nobody takes it for a request that was never answered
                    if !self.body.is_cut() {
                        self.write(Bytes::new()).await?;
                    }
                    return Err(error);
                }
            };
            match next {
                Next::Wait => self.write(Bytes::new()).await?,
                Next::Data(data) => self.data(answer::within(coding, data), *coding).await?,
                Next::Trailers(trailers) => trailing = Some(trailers).filter(|_| self.trailers),
                Next::End => break,
            }
        }
        match coding {
            // half an answer is never shown as a whole one
            Coding::Length(1..) => return Err("the answer is shorter than its length".into()),
            Coding::Chunked => last_chunk(&mut self.out.0, trailing.as_ref()),
            Coding::None | Coding::Length(0) | Coding::UntilClose => {}
        }
        self.write(Bytes::new()).await
    }

    fn is_ended(&self, coding: Coding) -> bool {
        coding == Coding::None || self.body.is_end_stream()
    }

    /// Waits for more, unless there is something to write meanwhile, or for the client to go.
    async fn next(&mut self) -> Result<Next, BodyError> {
        let (wire, body, idle) = (self.wire, &mut self.body, self.out.0.is_empty());
        poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(None) => Poll::Ready(Ok(Next::End)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
            Poll::Ready(Some(Ok(frame))) => {
                Poll::Ready(Ok(match frame.into_data().map_err(|frame| frame.into_trailers()) {
                    Ok(data) => Next::Data(data),
                    Err(Ok(trailers)) => Next::Trailers(trailers),
                    Err(Err(_)) => Next::Data(Bytes::new()),
                }))
            }
            Poll::Pending if !idle => Poll::Ready(Ok(Next::Wait)),
            Poll::Pending => wire.poll_gone(cx).map(|()| Err("the client has gone".into())),
        })
        .await
    }

    async fn data(&mut self, data: Bytes, coding: Coding) -> Result<(), BodyError> {
        if data.is_empty() {
            return Ok(());
        }
        let chunked = coding == Coding::Chunked;
        if chunked {
            chunk(&mut self.out.0, data.len());
        }
        let small = data.len() <= SMALL;
        if small {
            self.out.0.extend_from_slice(&data);
        } else {
            self.write(data).await?;
        }
        if chunked {
            self.out.0.extend_from_slice(b"\r\n");
        }
        if self.out.0.len() >= TOGETHER { self.write(Bytes::new()).await } else { Ok(()) }
    }

    /// Writes what was collected, and `data` after it.
    async fn write(&mut self, data: Bytes) -> Result<(), BodyError> {
        if self.out.0.is_empty() && data.is_empty() {
            return Ok(());
        }
        let wire = self.wire;
        let mut bytes = self.out.0.as_slice().chain(data);
        poll_fn(|cx| wire.poll_write(&mut bytes, cx)).await?;
        self.out.0.clear();
        Ok(())
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
