//! One of several upstreams: says its name and how it was spoken to, and counts who came.

use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::certificate::Certificate;
use crate::open::Count;
use crate::stage::{self, Playing};

/// How long a test waits for something to arrive or to end here.
const PATIENCE: Duration = Duration::from_secs(60);

/// How it is spoken to.
pub enum Spoken {
    /// HTTP/1.1 over TCP.
    Http1,
    /// HTTP/2 over TCP with so many streams, without TLS.
    H2c(u32),
    /// HTTP/1.1 or HTTP/2 over TLS.
    Tls(Arc<ServerConfig>),
}

/// TLS with a certificate that agrees upon one of `protocols`; with `authority` (PEM) only with clients that it signed.
///
/// # Errors
/// The certificate cannot be read.
pub fn tls(certificate: &Certificate, protocols: &[&[u8]], authority: Option<&str>) -> Result<Spoken> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match authority {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_file_iter(&certificate.cert)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&certificate.key)?)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Spoken::Tls(Arc::new(config)))
}

/// A running upstream, on a thread of its own. Gone when dropped, with its connections.
pub struct App {
    url: String,
    stage: Arc<Stage>,
    _stop: Playing,
}

struct Stage {
    name: String,
    status: AtomicU16,
    connections: AtomicUsize,
    requests: AtomicUsize,
    open: Count,
    released: watch::Sender<bool>,
    going: watch::Sender<usize>,
}

impl App {
    /// Starts it on a port of 127.0.0.1.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start(name: &str, spoken: Spoken) -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let scheme = match &spoken {
            Spoken::Http1 => "http",
            Spoken::H2c(_) => "h2c",
            Spoken::Tls(_) => "https",
        };
        let url = format!("{scheme}://{}", listener.local_addr()?);
        Self::playing(name, url, move |stage| async move {
            let listener = TcpListener::from_std(listener)?;
            let spoken = Rc::new(spoken);
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let (stage, spoken) = (Arc::clone(&stage), Rc::clone(&spoken));
                tokio::task::spawn_local(async move {
                    match &*spoken {
                        Spoken::Http1 => speak(stream, None, stage).await,
                        Spoken::H2c(streams) => speak(stream, Some(*streams), stage).await,
                        Spoken::Tls(config) => {
                            // a client that does not trust it is what some tests are about
                            let Ok(stream) = TlsAcceptor::from(Arc::clone(config)).accept(stream).await else { return };
                            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            speak(stream, is_h2.then_some(100), stage).await;
                        }
                    }
                });
            }
        })
    }

    /// Starts it on a socket of this machine, with HTTP/1.1.
    ///
    /// # Errors
    /// The system refuses.
    pub fn on_socket(name: &str, path: &Path) -> Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Self::playing(name, format!("unix://{}", path.display()), move |stage| async move {
            let listener = UnixListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::task::spawn_local(speak(stream, None, Arc::clone(&stage)));
            }
        })
    }

    fn playing<F, P>(name: &str, url: String, play: F) -> Result<Self>
    where
        F: FnOnce(Arc<Stage>) -> P + Send + 'static,
        P: Future<Output = Result<Infallible>>,
    {
        let stage = Arc::new(Stage {
            name: name.to_owned(),
            status: AtomicU16::new(200),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            open: Count::default(),
            released: watch::channel(false).0,
            going: watch::channel(0).0,
        });
        let playing = Arc::clone(&stage);
        let stop = stage::play(move || play(playing))?;
        Ok(Self { url, stage, _stop: stop })
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on it answers with this status.
    pub fn answers(&self, status: u16) {
        self.stage.status.store(status, Ordering::Relaxed);
    }

    /// Connections that were opened so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.stage.connections.load(Ordering::Relaxed)
    }

    /// Requests that came so far, but for those to `/health`.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.stage.requests.load(Ordering::Relaxed)
    }

    /// Lets the requests at `/hold` be answered, those to come as well.
    pub fn release(&self) {
        self.stage.released.send_replace(true);
    }

    /// Tells every connection that it goes away: GOAWAY, or the end after the answer.
    pub fn goes_away(&self) {
        self.stage.going.send_modify(|times| *times += 1);
    }

    /// Waits until exactly `count` requests to `/hold` or `/mirror` are open.
    ///
    /// # Errors
    /// There are more or fewer for too long.
    pub async fn has_open(&self, count: usize) -> Result<()> {
        self.stage.open.is(count, PATIENCE).await
    }
}

/// Runs what a connection needs on this thread.
#[derive(Clone)]
struct Here;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn speak<S>(stream: S, h2: Option<u32>, stage: Arc<Stage>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    stage.connections.fetch_add(1, Ordering::Relaxed);
    let mut going = stage.going.subscribe();
    let service = service_fn(move |request| answer(request, Arc::clone(&stage)));
    // whoever breaks a connection off has its reasons
    if let Some(streams) = h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(Here);
        let connection = builder.max_concurrent_streams(streams).serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        loop {
            tokio::select! {
                _ = connection.as_mut() => return,
                told = going.changed() => if told.is_ok() { connection.as_mut().graceful_shutdown() } else { return },
            }
        }
    }
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            told = going.changed() => if told.is_ok() { connection.as_mut().graceful_shutdown() } else { return },
        }
    }
}

type Reply = Response<BoxBody<Bytes, hyper::Error>>;

async fn answer(request: Request<Incoming>, stage: Arc<Stage>) -> Result<Reply, hyper::Error> {
    let path = request.uri().path().to_owned();
    if path != "/health" {
        stage.requests.fetch_add(1, Ordering::Relaxed);
    }
    if path == "/mirror" {
        let open = stage.open.one();
        let body = request.into_body().map_frame(move |frame| {
            let _open = &open;
            frame
        });
        return Ok(Response::new(body.boxed()));
    }
    if path == "/hold" {
        let _open = stage.open.one();
        // nobody but the test ends it
        let _ = stage.released.subscribe().wait_for(|released| *released).await;
    }
    let version = if request.version() == Version::HTTP_2 { "h2" } else { "h1" };
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let authority = request.uri().authority().map(ToString::to_string).or_else(|| header("host"));
    let assertion = header("x-pomerium-jwt-assertion").is_some();
    let seen = json!({
        "name": stage.name, "version": version, "authority": authority, "path": path, "assertion": assertion,
        "connection": header("connection"),
    });
    let mut reply = Response::new(Full::new(Bytes::from(seen.to_string())).map_err(|never| match never {}).boxed());
    *reply.status_mut() =
        StatusCode::from_u16(stage.status.load(Ordering::Relaxed)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok(reply)
}
