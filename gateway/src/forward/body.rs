//! Bodies on their way through: never collected, never decoded, counted as they pass.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use portcullis_actors::databroker::view::Views;
use portcullis_actors::proxy::connections::Connections;
use portcullis_events::SessionId;

use super::pool::Lease;
use crate::telemetry::AccessRecord;

/// Any fault of a body; it ends the connection it is read from or written to.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub struct AnswerBody {
    source: Source,
    guard: Option<Guard>,
    record: Option<AccessRecord>,
}

/// Cuts a body that lasts: from the first time it has to be waited for, it is registered by its session.
pub struct Guard {
    connections: Connections,
    views: Arc<Views>,
    session: Option<SessionId>,
    cut: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Guard {
    /// A guard for a body that belongs to a session, or to nobody.
    pub fn new(connections: Connections, views: Arc<Views>, session: Option<SessionId>) -> Self {
        Self { connections, views, session, cut: None }
    }

    /// Whether the body lasts long enough to have been registered.
    const fn is_registered(&self) -> bool {
        self.cut.is_some()
    }

    /// Ready when the body must end.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.cut.is_none() {
            let Some(ticket) = self.connections.admit(self.session, &self.views) else { return Poll::Ready(()) };
            self.cut = Some(Box::pin(ticket.cut()));
        }
        self.cut.as_mut().map_or(Poll::Ready(()), |cut| cut.as_mut().poll(cx))
    }
}

enum Source {
    Own(Option<Bytes>),
    Upstream { incoming: Incoming, exchange: Option<(Lease, Activity)> },
}

impl AnswerBody {
    /// A body of our own.
    pub fn own(bytes: Bytes) -> Self {
        Self { source: Source::Own(Some(bytes).filter(|bytes| !bytes.is_empty())), guard: None, record: None }
    }

    /// An upstream's body. Its connection goes back to the pool once the body was read to its end and the request's own
    /// body was sent to its end, and never otherwise: an upstream may answer before it has the whole request, and the
    /// rest of one client's upload is nothing that another's request may wait behind.
    pub fn upstream(incoming: Incoming, lease: Lease, request: Activity) -> Self {
        Self { source: Source::Upstream { incoming, exchange: Some((lease, request)) }, guard: None, record: None }
    }

    /// Ends this body when its session does.
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// Writes this record when the body has passed or was given up.
    pub fn recorded(mut self, record: AccessRecord) -> Self {
        self.record = Some(record);
        self
    }

    /// What is read where the body is cut.
    fn cut(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(record) = &mut self.record {
            record.cut_short();
        }
        Poll::Ready(Some(Err("the session has ended, or the node stops".into())))
    }

    fn settle(&mut self) {
        if let Source::Upstream { exchange, .. } = &mut self.source
            && let Some((lease, request)) = exchange.take()
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
        // a body that never has to be waited for ends with its session all the same
        if this.guard.as_mut().is_some_and(|guard| guard.is_registered() && guard.poll_cut(cx).is_ready()) {
            return this.cut();
        }
        let polled = match &mut this.source {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Upstream { incoming, .. } => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
        };
        if polled.is_pending() && this.guard.as_mut().is_some_and(|guard| guard.poll_cut(cx).is_ready()) {
            return this.cut();
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
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
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Upstream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, length)),
            Source::Upstream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.settle();
        }
        // the client has left before the end
        if matches!(self.source, Source::Upstream { exchange: Some(_), .. })
            && let Some(record) = &mut self.record
        {
            record.cut_short();
        }
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The body of a request on its way to an upstream.
pub struct RequestBody {
    incoming: Option<Incoming>,
    activity: Activity,
}

impl RequestBody {
    /// Passes the client's body on as it comes.
    pub fn passing(incoming: Incoming) -> Self {
        Self { incoming: Some(incoming).filter(|incoming| !incoming.is_end_stream()), activity: Activity::default() }
    }

    /// No body.
    pub fn none() -> Self {
        Self { incoming: None, activity: Activity::default() }
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
    broke: Cell<bool>,
    sent: Cell<bool>,
}

impl Activity {
    /// Whether the client's body broke off.
    pub fn broke(&self) -> bool {
        self.0.broke.get()
    }

    /// Whether nothing more of the body will be sent.
    pub fn is_sent(&self) -> bool {
        self.0.sent.get()
    }

    /// Waits for `outcome` as long as it comes within `bound` of the last movement of the body.
    pub async fn within<F: Future>(&self, bound: Duration, outcome: F) -> Option<F::Output> {
        let began = Instant::now();
        let mut outcome = std::pin::pin!(outcome);
        loop {
            let deadline = self.0.at.get().unwrap_or(began) + bound;
            match tokio::time::timeout_at(deadline.into(), outcome.as_mut()).await {
                Ok(output) => return Some(output),
                Err(_) if self.0.at.get().is_some_and(|at| at + bound > deadline) => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // whoever sends it lets go of it at its end; before its end only together with the connection
        self.activity.0.sent.set(true);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let polled = Pin::new(incoming).poll_frame(cx).map_err(BodyError::from);
        match &polled {
            Poll::Ready(Some(Err(_))) => this.activity.0.broke.set(true),
            Poll::Ready(_) => this.activity.0.at.set(Some(Instant::now())),
            Poll::Pending => {}
        }
        match polled {
            // trailers are headers that nobody looked at: they do not reach the upstream
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {
                this.incoming = None;
                Poll::Ready(None)
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
