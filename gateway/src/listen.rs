//! Connections from their first byte: the PROXY header, TLS, HTTP/1.1 or HTTP/2, each on the worker that it was handed to.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_actors::proxy::leash::Leash;
use portcullis_actors::request::certificate::ClientCertificate;
use portcullis_config::Codec;
use portcullis_config::limits::{
    CROWD_LIFE, H2_PENDING_RESETS, H2_PING, H2_STREAMS, HANDSHAKE_TIMEOUT, HEAD_TIMEOUT, LINGER, PREFACE_PAUSE,
    REQUEST_HEAD_BYTES,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::accept::{self, Accepting, Arrival};
use crate::client_body::ClientBody;
use crate::crowd::{Crowd, TooMany};
use crate::serve::{bound_of, never_understood, serve};
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
    /// Who is connected.
    pub open: Crowd,
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
    let Arrival { stream, mut peer, mut entered, load: _load } = arrival;
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    if speech.proxy_protocol {
        peer = match proxy_protocol::take(&mut stream, peer).await {
            Ok(client) => client,
            Err(error) => return tracing::debug!(%peer, %error, "a connection was refused"),
        };
    }
    match entered.comes_from(peer.ip()) {
        Ok(None) => greet(stream, peer, None, worker, speech).await,
        // whoever is one too many is told so, and not for long
        Ok(Some(too_many)) => {
            worker.log.tally().bound(bound_of(too_many));
            let greeting = greet(stream, peer, Some(too_many), worker, speech);
            let _ = tokio::time::timeout(CROWD_LIFE, greeting).await;
        }
        Err(too_many) => worker.log.tally().bound(bound_of(too_many)),
    }
}

/// TLS and the version of HTTP, where they are to be found out.
async fn greet(stream: TcpStream, peer: SocketAddr, too_many: Option<TooMany>, worker: Rc<Worker>, speech: Speech) {
    let Some(tls) = &speech.tls else {
        let is_h2 = match speech.codec {
            Codec::Http1 => false,
            Codec::Http2 => true,
            Codec::Auto => match begins_as_h2(&stream, speech.stage.clone()).await {
                Some(is_h2) => is_h2,
                None => return,
            },
        };
        let facts = Facts { peer, https: false, too_many, certificate: None, server_name: None };
        return speak(socket::ready(stream), is_h2, facts, worker, speech.stage).await;
    };
    let state = tls.now();
    let handshake = TlsAcceptor::from(Arc::clone(&state.acceptor)).accept(socket::ready(stream));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => {
            let connection = stream.get_ref().1;
            let mut facts = Facts { peer, https: true, too_many, certificate: None, server_name: None };
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
    /// It is one too many: whatever it asks, it is told so.
    pub too_many: Option<TooMany>,
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
    /// Held by whatever runs.
    running: Rc<()>,
}

impl OnThisWorker {
    /// Waits until nothing has run for `bound`, and nothing was begun, as `begun` counts.
    async fn idle(running: Rc<()>, begun: Rc<Cell<u64>>, bound: Option<Duration>) {
        let Some(bound) = bound else { return std::future::pending().await };
        // whoever builds the connection holds it, and so does this
        let at_rest = Rc::strong_count(&running);
        let (mut since, mut seen) = (Instant::now(), begun.get());
        while since.elapsed() < bound {
            tokio::time::sleep((bound / 8).max(Duration::from_millis(10))).await;
            if Rc::strong_count(&running) > at_rest || begun.get() != seen {
                (since, seen) = (Instant::now(), begun.get());
            }
        }
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisWorker
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let running = Rc::clone(&self.running);
        match self.next.take() {
            None => drop(actix_rt::spawn(async move {
                let _running = running;
                future.await;
            })),
            Some(leash) => drop(actix_rt::spawn(async move {
                let _running = running;
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
    if !is_h2 {
        return h1::speak(stream, facts, worker, stage).await;
    }
    let (peer, unread) = (facts.peer, facts.clone());
    let executor = OnThisWorker::default();
    let (streams, serving) = (Rc::clone(&executor.next), Rc::clone(&worker));
    let (running, begun) = (Rc::clone(&executor.running), Rc::new(Cell::new(0_u64)));
    let (counted, bound) = (Rc::clone(&begun), worker.blueprint.config.timeouts.idle);
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, leash) = (Rc::clone(&serving), Rc::new(Leash::default()));
        counted.set(counted.get().wrapping_add(1));
        // a stream ends alone
        streams.replace(Some(Rc::clone(&leash)));
        let (request, facts) = (request.map(ClientBody::H2), facts.clone());
        async move { Ok::<_, std::convert::Infallible>(serve(request, facts, worker, leash).await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(H2_STREAMS)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS)
        .max_local_error_reset_streams(H2_PENDING_RESETS)
        .max_header_list_size(u32::try_from(REQUEST_HEAD_BYTES).unwrap_or(u32::MAX));
    let gate = h2::Gate::new(stream, move |why| never_understood(&worker, &unread, Instant::now(), why));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(gate), service));
    let mut draining = stage.clone();
    let ended = async {
        tokio::select! {
            () = reached(&mut draining, Stage::Draining) => {}
            () = OnThisWorker::idle(running, begun, bound) => {}
        }
    };
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = ended => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = connection => outcome,
                () = reached(&mut stage, Stage::Cut) => Ok(()),
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "a client connection ended");
    }
}
