//! Sockets and connections: accept, TLS, HTTP/1.1 or HTTP/2, each on the worker that accepted it.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_actors::proxy::leash::Leash;
use portcullis_actors::request::certificate::ClientCertificate;
use portcullis_config::Codec;
use portcullis_config::limits::{
    H2_PENDING_RESETS, H2_PING, H2_STREAMS, HANDSHAKE_TIMEOUT, HEAD_TIMEOUT, LINGER, PREFACE_PAUSE, REQUEST_HEAD_BYTES,
    REQUEST_HEADERS,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::accept::{self, Accepting, Arrival};
use crate::metrics::tally::Misread;
use crate::serve::{never_understood, serve};
use crate::tls::{self, Tls};
use crate::worker::{Blueprint, Worker};
use crate::{h1, h2, proxy_protocol, socket};

/// How a node's connections are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not yet.
    Serving,
    /// After the request they are at.
    Draining,
    /// Now.
    Cut,
}

/// How a listener speaks, and how it is told to stop.
#[derive(Clone)]
pub struct Speech {
    /// TLS; plain HTTP without.
    pub tls: Option<Arc<Tls>>,
    /// The versions of HTTP.
    pub codec: Codec,
    /// Every connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// How far the node has come.
    pub stage: watch::Receiver<Stage>,
    /// How many clients are connected.
    pub open: Open,
}

/// Counts client connections, so that a node that drains knows when the last one is gone.
#[derive(Clone, Default)]
pub struct Open(Arc<watch::Sender<usize>>);

/// One client connection.
pub struct Entered(Open);

impl Open {
    /// Counts another one.
    pub fn enter(&self) -> Entered {
        self.0.send_modify(|open| *open += 1);
        Entered(self.clone())
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until there is room for another one.
    pub async fn fewer_than(&self, most: usize) {
        if self.count() >= most {
            // the sender lives in this very value: waiting cannot fail
            let _ = self.0.subscribe().wait_for(|open| *open < most).await;
        }
    }

    /// Waits until nobody is connected.
    pub async fn nobody(&self) {
        // the sender lives in this very value: waiting cannot fail
        let _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// Starts the workers of a listener.
///
/// # Errors
/// A worker cannot be built; the system refuses the socket.
pub async fn start(listener: TcpListener, speech: Speech, blueprint: Blueprint, workers: usize) -> Result<Accepting> {
    let ways = (speech.open.clone(), speech.stage.clone());
    accept::start(listener, ways, workers, move |mut arrivals, ready| {
        let (speech, blueprint) = (speech.clone(), blueprint.clone());
        actix_rt::spawn(async move {
            let worker = match Worker::build(blueprint).await {
                Ok(worker) => worker,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            while let Some(arrival) = arrivals.recv().await {
                actix_rt::spawn(enter(arrival, Rc::clone(&worker), speech.clone()));
            }
            // what is open still needs it
            std::future::pending::<()>().await;
            drop(worker);
        });
    })
    .await
}

/// A connection, from its first byte.
async fn enter(arrival: Arrival, worker: Rc<Worker>, speech: Speech) {
    let Arrival { stream, mut peer, entered: _entered, load: _load } = arrival;
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    if speech.proxy_protocol {
        peer = match proxy_protocol::take(&mut stream, peer).await {
            Ok(client) => client,
            Err(error) => return tracing::debug!(%peer, %error, "a connection was refused"),
        };
    }
    let Some(tls) = &speech.tls else {
        let is_h2 = match speech.codec {
            Codec::Http1 => false,
            Codec::Http2 => true,
            Codec::Auto => match begins_as_h2(&stream, speech.stage.clone()).await {
                Some(is_h2) => is_h2,
                None => return,
            },
        };
        let facts = Facts { peer, https: false, certificate: None, server_name: None };
        return speak(socket::ready(stream), is_h2, facts, worker, speech.stage).await;
    };
    let state = tls.now();
    let handshake = TlsAcceptor::from(Arc::clone(&state.acceptor)).accept(socket::ready(stream));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => {
            let connection = stream.get_ref().1;
            let mut facts = Facts { peer, https: true, certificate: None, server_name: None };
            if state.asks_for_certificates() {
                facts.certificate = tls.certificate_of(connection);
                facts.server_name = connection.server_name().map(|name| tls::plain_name(name).into());
                if !state.admits(facts.certificate.as_deref()) {
                    return tracing::debug!(%peer, "a client has no certificate that holds any more");
                }
            }
            let is_h2 = tls::is_h2(connection, speech.codec);
            speak(stream, is_h2, facts, worker, speech.stage).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}

/// Whether a plain connection begins with HTTP/2 (RFC 9113 §3.4); `None` where it says nothing in time, which is
/// short once the node drains. What is looked at stays in the socket.
async fn begins_as_h2(stream: &TcpStream, mut stage: watch::Receiver<Stage>) -> Option<bool> {
    let looking = async {
        let mut seen = [0; PREFACE.len()];
        loop {
            let length = stream.peek(&mut seen).await.ok().filter(|length| *length > 0)?;
            let seen = seen.get(..length)?;
            // no method of HTTP/1.1 begins so
            if seen == PREFACE || !PREFACE.starts_with(seen) {
                return Some(seen == PREFACE);
            }
            // what was seen already cannot be waited for; hardly anybody sends so few bytes at once
            tokio::time::sleep(PREFACE_PAUSE).await;
        }
    };
    // what was accepted is answered, though the node drains: its first bytes may be on their way
    let drained = async {
        reached(&mut stage, Stage::Draining).await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        looked = tokio::time::timeout(HEAD_TIMEOUT, looking) => looked.ok().flatten(),
        () = drained => None,
    }
}

/// What tells HTTP/2 from every request of HTTP/1.1.
const PREFACE: &[u8; 4] = b"PRI ";

/// What a request's connection says of it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The client, as far as the connection says.
    pub peer: SocketAddr,
    /// Whether it came by TLS.
    pub https: bool,
    /// The certificate that the client showed.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The host that it named in the TLS handshake, where clients are asked for a certificate.
    pub server_name: Option<Rc<str>>,
}

/// Runs on the current worker whatever a connection spawns.
#[derive(Clone, Default)]
struct OnThisWorker {
    /// The leash of the stream whose request was just handed to the service: what hyper spawns next drives it.
    next: Rc<RefCell<Option<Rc<Leash>>>>,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisWorker
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        match self.next.take() {
            None => drop(actix_rt::spawn(future)),
            Some(leash) => drop(actix_rt::spawn(async move {
                // dropped before its end, a stream is reset (RFC 9113 §5.4.2), whatever window it waits for
                tokio::select! {
                    _ = future => {}
                    _ = leash.is_cut() => {}
                }
            })),
        }
    }
}

/// Waits until the node has come this far.
pub async fn reached(stage: &mut watch::Receiver<Stage>, far: Stage) {
    // an error means that the node is gone
    let _ = stage.wait_for(|stage| *stage >= far).await;
}

async fn speak<T>(stream: T, is_h2: bool, facts: Facts, worker: Rc<Worker>, mut stage: watch::Receiver<Stage>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Instant::now();
    let executor = OnThisWorker::default();
    let (streams, whole) = (Rc::clone(&executor.next), Rc::new(Leash::default()));
    let (leash, serving) = (Rc::clone(&whole), Rc::clone(&worker));
    let (peer, misread) = (facts.peer, facts.clone());
    let service = service_fn(move |request| {
        let worker = Rc::clone(&serving);
        // a stream ends alone; over HTTP/1.1 the connection ends, which is at one request at a time
        let leash = if is_h2 { Rc::default() } else { Rc::clone(&leash) };
        if is_h2 {
            streams.replace(Some(Rc::clone(&leash)));
        }
        let facts = facts.clone();
        async move { Ok::<_, std::convert::Infallible>(serve(request, facts, worker, leash).await) }
    });
    let outcome = if is_h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .keep_alive_interval(H2_PING)
            .keep_alive_timeout(H2_PING)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS)
            .max_local_error_reset_streams(H2_PENDING_RESETS)
            .max_header_list_size(u32::try_from(REQUEST_HEAD_BYTES).unwrap_or(u32::MAX));
        let refusing = Rc::clone(&worker);
        let unread = misread.clone();
        let gate = h2::Gate::new(stream, move |why| never_understood(&refusing, &unread, Instant::now(), why));
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(gate), service));
        tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = reached(&mut stage, Stage::Draining) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    outcome = connection => outcome,
                    () = reached(&mut stage, Stage::Cut) => Ok(()),
                }
            }
        }
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(REQUEST_HEAD_BYTES)
            .max_headers(REQUEST_HEADERS);
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(h1::Gate::new(stream)), service).with_upgrades());
        tokio::select! {
            outcome = connection.as_mut() => outcome,
            _ = whole.is_cut() => Ok(()),
            () = reached(&mut stage, Stage::Draining) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    outcome = connection => outcome,
                    _ = whole.is_cut() => Ok(()),
                    () = reached(&mut stage, Stage::Cut) => Ok(()),
                }
            }
        }
    };
    if let Err(error) = outcome {
        if error.is_parse() {
            let why = if error.is_parse_too_large() { Misread::TooLarge } else { Misread::Malformed };
            never_understood(&worker, &misread, began, why);
        }
        tracing::debug!(%peer, %error, "a client connection ended");
    }
}
