//! One connection to an upstream: HTTP/1.1 for one exchange at a time, or HTTP/2 for many.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_actors::metrics::Counted;
use portcullis_actors::proxy::upstreams::cluster::Cluster;
use portcullis_actors::proxy::upstreams::member::{Member, Speaks};
use portcullis_config::limits::{H2_PING, UPSTREAM_HEADERS, UPSTREAM_STREAMS, UPSTREAM_WINDOWS};
use tokio::sync::OwnedSemaphorePermit;

use super::body::RequestBody;
use super::bounded::{Allowance, Bounded};
use super::http1::Connection;
pub use super::line::ConnectError;
use super::line::Line;

/// What a connection takes up as long as it is there.
pub struct Taken {
    /// Its part of the count of all.
    _counted: Counted,
    /// Its part of what the cluster may have open.
    _permit: OwnedSemaphorePermit,
}

impl Taken {
    /// One more of each.
    pub const fn new(counted: Counted, permit: OwnedSemaphorePermit) -> Self {
        Self { _counted: counted, _permit: permit }
    }
}

/// A connection for many exchanges. It closes when the pool and every exchange have let go of it.
pub struct Shared {
    sender: http2::SendRequest<RequestBody>,
    allowance: Allowance,
    under_way: Cell<usize>,
    most: Rc<Cell<usize>>,
    _taken: Taken,
}

impl Shared {
    /// Where requests go in.
    pub fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.sender.clone()
    }

    /// What may come while nothing but answers is waited for.
    pub fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// Whether nothing more can be sent: it broke, or the upstream has said that it goes away (GOAWAY).
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether one more exchange may begin: the upstream has a bound, and so have we.
    pub fn has_room(&self) -> bool {
        self.under_way.get() < self.most.get().min(UPSTREAM_STREAMS)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way.get() == 0
    }

    /// Whether some exchange on it has more than its answer's head to wait for: what comes may be a body.
    pub fn has_answered(&self) -> bool {
        self.under_way.get() > self.allowance.waiting().saturating_add(1)
    }

    pub(super) fn enter(&self) {
        self.under_way.set(self.under_way.get().saturating_add(1));
    }

    pub(super) fn leave(&self) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
    }
}

/// What was opened.
pub enum Opened {
    /// HTTP/1.1.
    Single(Connection),
    /// HTTP/2.
    Shared(Rc<Shared>),
}

/// Runs what a connection needs on this worker.
#[derive(Clone)]
pub(super) struct Here;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        actix_rt::spawn(future);
    }
}

/// Connects. A connection for many exchanges is driven on this worker until it closes.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(cluster: &Cluster, member: &Member, taken: Taken) -> Result<Opened, ConnectError> {
    let line = Line::to(cluster, member).await?;
    let is_h2c = cluster.upstream(member).is_some_and(|upstream| upstream.h2c);
    let is_h2 = !cluster.settings.http1 && (is_h2c || line.is_h2());
    member.found(if is_h2 { Speaks::Http2 } else { Speaks::Http1 });
    if is_h2 { shared(line, taken).await } else { Ok(Opened::Single(Connection::new(line, taken))) }
}

async fn shared(line: Line, taken: Taken) -> Result<Opened, ConnectError> {
    let allowance = Allowance::unsettled();
    let io = TokioIo::new(Bounded::new(line, allowance.clone()));
    let (stream, connection) = UPSTREAM_WINDOWS;
    let mut builder = http2::Builder::new(Here);
    builder
        .initial_max_send_streams(0)
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING)
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .max_header_list_size(u32::try_from(UPSTREAM_HEADERS.0).unwrap_or(u32::MAX));
    let (sender, mut connection) = builder.handshake(io).await.map_err(|error| ConnectError::Http(Arc::new(error)))?;
    // how many streams it takes is the first thing that an upstream says (RFC 9113 §3.4)
    while connection.current_max_send_streams() == 0 {
        allowance.came().await.map_err(|error| ConnectError::Io(Arc::new(error)))?;
    }
    allowance.settle();
    let most = Rc::new(Cell::new(connection.current_max_send_streams()));
    let known = Rc::clone(&most);
    actix_rt::spawn(async move {
        let driven = std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            known.set(connection.current_max_send_streams());
            polled
        });
        if let Err(error) = driven.await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Opened::Shared(Rc::new(Shared { sender, allowance, under_way: Cell::new(0), most, _taken: taken })))
}
