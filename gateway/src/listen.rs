//! Sockets and connections: accept, TLS, HTTP/1.1 or HTTP/2, each on the worker that accepted it.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_server::{Server, ServerHandle};
use actix_service::{fn_factory, fn_service};
use anyhow::{Context, Result};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_actors::proxy::leash::Leash;
use portcullis_config::ListenAddress;
use portcullis_config::limits::{H2_PENDING_RESETS, H2_PING, H2_STREAMS, HANDSHAKE_TIMEOUT, REQUEST_HEAD_BYTES};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::client_body::ClientBody;
use crate::serve::{never_understood, serve};
use crate::socket;
use crate::worker::{Blueprint, Worker};
use crate::{h1, h2};

/// Binds an address; without a host, on every interface of both families.
///
/// # Errors
/// The address is in use, or not ours.
pub fn bind(address: &ListenAddress) -> Result<TcpListener> {
    let port = address.port;
    let bound = match &address.host {
        Some(host) => TcpListener::bind((host.as_str(), port)),
        None => TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))),
    };
    bound.with_context(|| format!("cannot listen on {address}"))
}

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
    pub tls: Option<Arc<ServerConfig>>,
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
    fn enter(&self) -> Entered {
        self.0.send_modify(|open| *open += 1);
        Entered(self.clone())
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        *self.0.borrow()
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

/// Starts the workers of a listener. They stop with the handle.
///
/// # Errors
/// The system refuses the socket.
pub fn start(listener: TcpListener, speech: Speech, blueprint: Blueprint, workers: usize) -> Result<ServerHandle> {
    let factory = move || {
        let (speech, blueprint) = (speech.clone(), blueprint.clone());
        fn_factory(move || {
            let (speech, blueprint) = (speech.clone(), blueprint.clone());
            async move {
                let worker = Worker::build(blueprint).await.map_err(|error| {
                    tracing::error!(%error, "a worker cannot start");
                })?;
                let service = fn_service(move |stream: TcpStream| {
                    let (worker, speech) = (Rc::clone(&worker), speech.clone());
                    async move {
                        accept(stream, worker, speech).await;
                        Ok::<_, ()>(())
                    }
                });
                Ok::<_, ()>(service)
            }
        })
    };
    let server = Server::build()
        .workers(workers)
        .backlog(4096)
        .disable_signals()
        .shutdown_timeout(0)
        .listen("gateway", listener, factory)?
        .run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(handle)
}

async fn accept(stream: TcpStream, worker: Rc<Worker>, speech: Speech) {
    let _open = speech.open.enter();
    let Ok(peer) = stream.peer_addr() else { return };
    let stream = socket::ready(stream);
    match &speech.tls {
        None => speak(stream, false, Facts { peer, https: false }, worker, speech.stage).await,
        Some(tls) => {
            let handshake = TlsAcceptor::from(Arc::clone(tls)).accept(stream);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(stream)) => {
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    speak(stream, h2, Facts { peer, https: true }, worker, speech.stage).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        }
    }
}

/// What a request's connection says of it.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The other end.
    pub peer: SocketAddr,
    /// Whether it came by TLS.
    pub https: bool,
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
pub(crate) async fn reached(stage: &mut watch::Receiver<Stage>, far: Stage) {
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
    let executor = OnThisWorker::default();
    let (streams, serving) = (Rc::clone(&executor.next), Rc::clone(&worker));
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, leash) = (Rc::clone(&serving), Rc::new(Leash::default()));
        // a stream ends alone
        streams.replace(Some(Rc::clone(&leash)));
        let request = request.map(ClientBody::H2);
        async move { Ok::<_, std::convert::Infallible>(serve(request, facts, worker, leash).await) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS)
        .max_local_error_reset_streams(H2_PENDING_RESETS)
        .max_header_list_size(u32::try_from(REQUEST_HEAD_BYTES).unwrap_or(u32::MAX));
    let gate = h2::Gate::new(stream, move |why| never_understood(&worker, facts, Instant::now(), why));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(gate), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = reached(&mut stage, Stage::Draining) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = connection => outcome,
                () = reached(&mut stage, Stage::Cut) => Ok(()),
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(peer = %facts.peer, %error, "a client connection ended");
    }
}
