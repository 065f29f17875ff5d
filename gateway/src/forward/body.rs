//! Bodies on their way through: never collected, never decoded, counted as they pass.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, SET_COOKIE, TRAILER};
use http::{HeaderMap, HeaderName};
use portcullis_actors::proxy::leash::{Bounds, Cut, Leash};
use portcullis_actors::request::hygiene::{Managed, remove_lookalikes};
use portcullis_config::RouteTimeouts;

use super::budget::Share;
use super::http1::Connection;
use super::pool::Lease;
use super::remove_hop_by_hop;
use crate::client_body::ClientBody;
use crate::open::Ticket;
use crate::telemetry::AccessRecord;

/// Any fault of a body; it ends the connection it is read from or written to.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub struct AnswerBody {
    source: Source,
    held: Option<(Ticket, Share)>,
    is_stream: bool,
    record: Option<AccessRecord>,
}

enum Source {
    Own(Option<Bytes>),
    /// On a connection that it has for itself.
    Single(Option<(Lease, Activity)>),
    /// By a stream of HTTP/2.
    Stream {
        incoming: Incoming,
        exchange: Option<(Lease, Activity)>,
    },
}

impl AnswerBody {
    /// A body of our own.
    pub fn own(bytes: Bytes) -> Self {
        Self {
            source: Source::Own(Some(bytes).filter(|bytes| !bytes.is_empty())),
            held: None,
            is_stream: false,
            record: None,
        }
    }

    /// An upstream's body: what comes of a stream, or by the connection of `lease`. The connection goes back to the pool
    /// once the body was read to its end and the request's own body was sent to its end, and never otherwise: an upstream
    /// may answer before it has the whole request, and the rest of one client's upload is nothing that another's request
    /// may wait behind.
    pub fn upstream(incoming: Option<Incoming>, lease: Lease, request: Activity) -> Self {
        let exchange = Some((lease, request));
        Self {
            source: match incoming {
                Some(incoming) => Source::Stream { incoming, exchange },
                None => Source::Single(exchange),
            },
            held: None,
            is_stream: false,
            record: None,
        }
    }

    /// Keeps its place as long as it is on its way, and ends when that is lost.
    pub fn held(mut self, ticket: Ticket, share: Share) -> Self {
        self.held = Some((ticket, share));
        self
    }

    /// Writes this record when the body has passed or was given up.
    pub fn recorded(mut self, record: AccessRecord) -> Self {
        self.record = Some(record);
        self
    }

    /// It did not reach the client whole.
    pub fn cut_short(&mut self) {
        if let Some(record) = &mut self.record {
            record.cut_short();
        }
    }

    /// Whether what holds it has let go of it.
    pub fn is_cut(&self) -> bool {
        self.leash().is_some_and(|leash| leash.why().is_some())
    }

    /// What holds it.
    fn leash(&self) -> Option<&Leash> {
        self.held.as_ref().map(|(ticket, _)| &**ticket.leash())
    }

    /// The upstream has nothing to send just now: where it has not said how long the body is, this is a stream.
    fn wait(&mut self) {
        if let (false, Some((ticket, _))) = (self.is_stream, &self.held)
            && self.size_hint().exact().is_none()
        {
            ticket.last();
            self.is_stream = true;
        }
    }

    const fn exchange(&mut self) -> Option<&mut Option<(Lease, Activity)>> {
        match &mut self.source {
            Source::Own(_) => None,
            Source::Single(exchange) | Source::Stream { exchange, .. } => Some(exchange),
        }
    }

    fn settle(&mut self) {
        if let Some((lease, request)) = self.exchange().and_then(Option::take)
            && request.is_sent()
        {
            lease.give_back();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(leash) = this.leash() {
            leash.take();
            // whoever drives this hears it as well, and drops it; but not before its next turn
            if let Some(why) = leash.why() {
                return Poll::Ready(Some(Err(why.detail().into())));
            }
        }
        let polled = match &mut this.source {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Single(exchange) => {
                single(exchange).map_or(Poll::Ready(None), |connection| connection.poll_body(cx))
            }
            Source::Stream { incoming, .. } => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
        };
        let polled = polled.map(|frame| frame.map(|frame| frame.map(without_foreign_trailers)));
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(leash) = this.leash() {
                    leash.give(Instant::now());
                }
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.add_bytes(data.len());
                }
                if this.is_end_stream() {
                    this.settle();
                }
            }
            Poll::Ready(None) => this.settle(),
            Poll::Ready(Some(Err(_))) => {
                if let Some(record) = &mut this.record {
                    record.cut_short();
                }
            }
            Poll::Pending => this.wait(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Single(exchange) => single(exchange).is_none_or(Connection::is_answered),
            Source::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, length)),
            Source::Single(exchange) => single(exchange).map_or(SizeHint::with_exact(0), Connection::left),
            Source::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.settle();
        }
        // the client has left before the end
        if self.exchange().is_some_and(|exchange| exchange.is_some())
            && let Some(record) = &mut self.record
        {
            record.cut_short();
        }
    }
}

/// The connection of an exchange that is not over.
fn single(exchange: &Option<(Lease, Activity)>) -> Option<&Connection> {
    exchange.as_ref().and_then(|(lease, _)| lease.single())
}

/// RFC 9110 §6.5.1: trailers that frame, route, sign in or describe the content come too late, and nobody looked at them.
fn without_foreign_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            remove_foreign(&mut trailers);
            Frame::trailers(trailers)
        }
        // into_trailers gives back what is none
        Err(frame) => frame,
    }
}

fn remove_foreign(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    for name in [SET_COOKIE, CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, HOST, TRAILER] {
        trailers.remove(name);
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The body of a request on its way to an upstream.
pub struct RequestBody {
    incoming: Option<ClientBody>,
    most: u64,
    activity: Activity,
    screen: Option<Screen>,
}

/// What becomes of a request's trailers: headers that nobody looked at before.
pub struct Screen {
    /// The names that only we may set.
    pub managed: Rc<Managed>,
    /// The names that the request has, or must not have.
    pub taken: Vec<HeaderName>,
}

impl Screen {
    /// What of them the upstream gets; `None` where nothing is left.
    fn passed(&self, mut trailers: HeaderMap) -> Option<HeaderMap> {
        remove_foreign(&mut trailers);
        for name in &self.taken {
            trailers.remove(name);
        }
        remove_lookalikes(&mut trailers, self.taken.iter());
        Some(self.managed.trailers_for_upstream(trailers)).filter(|trailers| !trailers.is_empty())
    }
}

impl RequestBody {
    /// Passes the client's body on as it comes, up to `most` bytes.
    pub fn passing(incoming: ClientBody, most: Option<u64>) -> Self {
        let incoming = Some(incoming).filter(|incoming| !incoming.is_end_stream());
        Self { incoming, most: most.unwrap_or(u64::MAX), activity: Activity::default(), screen: None }
    }

    /// No body.
    pub fn none() -> Self {
        Self { incoming: None, most: 0, activity: Activity::default(), screen: None }
    }

    /// Keeps to these timeouts: the wait for the answer by itself, the time after that by `leash`.
    pub fn bounded(mut self, timeouts: RouteTimeouts, leash: &Rc<Leash>) -> Self {
        let bounds = Some(Bounded { timeouts, began: Instant::now(), leash: Rc::clone(leash) });
        self.activity = Activity(Rc::new(Moved { bounds, ..Moved::default() }));
        self
    }

    /// Passes trailers on that this lets through; without it none.
    pub fn screened(mut self, screen: Screen) -> Self {
        self.screen = Some(screen);
        self
    }

    /// Whether there is nothing to send: such a request can be sent again.
    pub fn is_empty(&self) -> bool {
        self.incoming.is_none()
    }

    /// What is known of the body while it is being sent.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }
}

/// When a body last moved: an upstream is late only if it is silent while the client is.
#[derive(Clone, Default)]
pub struct Activity(Rc<Moved>);

#[derive(Default)]
struct Moved {
    at: Cell<Option<Instant>>,
    bytes: Cell<usize>,
    awaited: Cell<bool>,
    broke: Cell<bool>,
    too_large: Cell<bool>,
    sent: Cell<bool>,
    /// Nobody waits for its end any more.
    abandoned: Cell<bool>,
    /// Whoever sends it, while it waits for the client.
    sender: RefCell<Option<Waker>>,
    bounds: Option<Bounded>,
}

/// How long an exchange may take.
struct Bounded {
    timeouts: RouteTimeouts,
    began: Instant,
    leash: Rc<Leash>,
}

/// Who was waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The client: the upstream would have taken more of the body than came.
    Client,
    /// The upstream.
    Upstream,
}

impl Activity {
    /// Whether the client's body broke off.
    pub fn broke(&self) -> bool {
        self.0.broke.get()
    }

    /// Whether more of the body came than may.
    pub fn is_too_large(&self) -> bool {
        self.0.too_large.get()
    }

    /// Whether nothing more of the body will be sent.
    pub fn is_sent(&self) -> bool {
        self.0.sent.get()
    }

    /// Sends nothing more of it, and breaks it off where it is.
    pub fn abandon(&self) {
        self.0.abandoned.set(true);
        let sender = self.0.sender.borrow_mut().take();
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    /// How long nothing may move before the answer begins.
    pub fn silence(&self) -> Option<Duration> {
        let timeouts = self.0.bounds.as_ref()?.timeouts;
        [timeouts.answer.begins, timeouts.idle].into_iter().flatten().min()
    }

    /// The answer has begun, or the connection `has_switched`: what is left of the time that it has is for the leash.
    pub fn answered(&self, has_switched: bool) {
        let Some(Bounded { timeouts, began, leash }) = &self.0.bounds else { return };
        let now = Instant::now();
        // the answer's time begins with the end of the request
        let asked = if self.is_sent() { self.0.at.get().unwrap_or(*began) } else { now };
        let answer = timeouts.answer.ends.filter(|_| !has_switched).map(|bound| (asked + bound, Cut::AnswerLate));
        let whole = timeouts.write.map(|bound| (*began + bound, Cut::Lasting));
        let ends = [answer, whole].into_iter().flatten().min_by_key(|(end, _)| *end);
        let upload = timeouts.read.filter(|_| !self.is_sent()).map(|bound| *began + bound);
        leash.bind(Bounds { ends, upload, idle: timeouts.idle }, now);
    }

    /// Waits for `outcome` as long as it comes within `bound` of the last movement of the body, the body no slower than
    /// `floor` (`UPLOAD_FLOOR`: so many bytes in such a time, while they were waited for), and within what `timeout_read`
    /// and `timeout_write` allow.
    ///
    /// # Errors
    /// [`Late`].
    pub async fn within<F: Future>(
        &self,
        bound: Option<Duration>,
        floor: (usize, Duration),
        outcome: F,
    ) -> Result<F::Output, Late> {
        let (least, interval) = floor;
        let began = Instant::now();
        let mut measured = (began, 0);
        let mut outcome = std::pin::pin!(outcome);
        let silent_at = || bound.map(|bound| self.0.at.get().unwrap_or(began) + bound);
        let whole = |bound: fn(&RouteTimeouts) -> Option<Duration>| {
            self.0.bounds.as_ref().and_then(|bounds| Some(bounds.began + bound(&bounds.timeouts)?))
        };
        let (upload, end) = (whole(|timeouts| timeouts.read), whole(|timeouts| timeouts.write));
        loop {
            let of_body = if self.is_sent() { None } else { Some(measured.0 + interval) };
            let upload = upload.filter(|_| !self.is_sent());
            let Some(deadline) = [silent_at(), of_body, upload, end].into_iter().flatten().min() else {
                return Ok(outcome.await);
            };
            if let Ok(output) = tokio::time::timeout_at(deadline.into(), outcome.as_mut()).await {
                return Ok(output);
            }
            let is_passed = |at: Option<Instant>| at.is_some_and(|at| at <= deadline);
            if is_passed(end) {
                // whoever holds a body back is not held against the upstream
                return Err(if self.0.awaited.get() { Late::Client } else { Late::Upstream });
            }
            if is_passed(silent_at()) {
                return Err(if self.0.awaited.get() { Late::Client } else { Late::Upstream });
            }
            if is_passed(upload) && !self.is_sent() {
                return Err(Late::Client);
            }
            if measured.0 + interval <= deadline {
                let came = self.0.bytes.get().saturating_sub(measured.1);
                if self.0.awaited.get() && came < least {
                    return Err(Late::Client);
                }
                measured = (deadline, self.0.bytes.get());
            }
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // whoever sends it lets go of it at its end; before its end only together with the connection
        self.activity.0.sent.set(true);
        self.activity.0.awaited.set(false);
        if let Some(bounds) = &self.activity.0.bounds {
            bounds.leash.uploaded();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        if this.activity.0.abandoned.get() {
            return Poll::Ready(Some(Err("the exchange is over".into())));
        }
        let polled = Pin::new(incoming).poll_frame(cx);
        let moved = &this.activity.0;
        moved.awaited.set(polled.is_pending());
        match &polled {
            Poll::Ready(Some(Err(_))) => moved.broke.set(true),
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref);
                moved.bytes.set(moved.bytes.get().saturating_add(data.map_or(0, Bytes::len)));
                let now = Instant::now();
                moved.at.set(Some(now));
                if let Some(bounds) = &moved.bounds {
                    bounds.leash.moves(now);
                }
                if u64::try_from(moved.bytes.get()).is_ok_and(|bytes| bytes > this.most) {
                    moved.too_large.set(true);
                    return Poll::Ready(Some(Err("the body is larger than it may be".into())));
                }
            }
            Poll::Pending => {
                let mut sender = moved.sender.borrow_mut();
                if sender.as_ref().is_none_or(|sender| !sender.will_wake(cx.waker())) {
                    *sender = Some(cx.waker().clone());
                }
            }
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {
                this.incoming = None;
                let trailers = frame.into_trailers().ok().zip(this.screen.as_ref());
                let passed = trailers.and_then(|(trailers, screen)| screen.passed(trailers));
                Poll::Ready(passed.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use http::HeaderValue;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    /// A body of which so many bytes have come, and which is or is not waited for.
    fn activity(bytes: usize, awaited: bool) -> Activity {
        let activity = Activity::default();
        activity.0.bytes.set(bytes);
        activity.0.awaited.set(awaited);
        activity
    }

    #[actix_rt::test]
    async fn whoever_was_waited_for_is_the_one_who_is_late() {
        let silent = async |awaited| activity(0, awaited).within(Some(SHORT), (1, LONG), pending::<()>()).await;
        assert_eq!(silent(true).await, Err(Late::Client));
        assert_eq!(silent(false).await, Err(Late::Upstream));
        assert_eq!(activity(0, true).within(Some(SHORT), (1, LONG), ready(7)).await, Ok(7));
    }

    #[actix_rt::test]
    async fn a_body_that_trickles_is_given_up_and_one_that_nobody_takes_is_not() {
        let trickle = async |came, awaited| {
            let activity = activity(came, awaited);
            let within = activity.within(Some(LONG), (1024, SHORT), pending::<()>());
            tokio::time::timeout(SHORT * 3, within).await.ok()
        };
        assert_eq!(trickle(1023, true).await, Some(Err(Late::Client)));
        assert_eq!(trickle(1023, false).await, None);
        // once the body has been sent, only the upstream is waited for
        let sent = activity(0, true);
        sent.0.sent.set(true);
        assert!(
            tokio::time::timeout(SHORT * 3, sent.within(Some(LONG), (1024, SHORT), pending::<()>())).await.is_err()
        );
    }

    #[test]
    fn trailers_that_sign_in_frame_or_describe_are_left_out() {
        let mut trailers = HeaderMap::new();
        for name in ["set-cookie", "connection", "x-named", "keep-alive", "content-length", "host", "trailer", "x-sum"]
        {
            trailers.insert(name, HeaderValue::from_static("x-named"));
        }
        let kept = without_foreign_trailers(Frame::trailers(trailers)).into_trailers().unwrap();
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["x-sum"]);
        let data = without_foreign_trailers(Frame::data(Bytes::from_static(b"data")));
        assert_eq!(data.into_data().unwrap(), "data");
    }
}
