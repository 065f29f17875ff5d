//! A scripted upstream: shows what it received, and streams, echoes, hangs or drops by path.
//!
//! | path | what it does |
//! |---|---|
//! | `/sse` | server-sent events: `hello` at once, then whatever [`Upstream::emit`] is given |
//! | `/ws` | a WebSocket that echoes texts |
//! | `/hold` | answers once [`Upstream::release`] is called |
//! | `/hang` | never answers |
//! | `/drop` | closes the connection instead of answering |
//! | `/half` | begins an answer and closes the connection in its middle |
//! | `/download?bytes=N` | N bytes of [`crate::pattern`], as fast as they are taken |
//! | `/upload` | takes everything, then says how much it was and its SHA-256 |
//! | `/mirror` | sends back the body while it arrives |
//! | `/trailers` | an answer with trailers |
//! | `/status?code=N` | that status |
//! | `/cookies` | sets cookies, one of them named like ours |
//! | anything else | the request as JSON |

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::open::Count;
use crate::pattern::{hex, send_pattern};
use crate::stage::{self, Playing};

/// Pieces that wait for a slow reader.
const PIECES: usize = 4;

/// How long a test waits for something to arrive or to end here.
const PATIENCE: Duration = Duration::from_secs(20);

type Reply = Response<BoxBody<Bytes, Broken>>;
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// The running upstream, on a thread of its own. Gone when dropped.
pub struct Upstream {
    address: SocketAddr,
    stage: Arc<Stage>,
    _stop: Playing,
}

struct Stage {
    requests: Mutex<Vec<Recorded>>,
    arrived: watch::Sender<usize>,
    events: broadcast::Sender<String>,
    released: watch::Sender<bool>,
    open: Count,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its method.
    pub method: String,
    /// Its target, as it was written.
    pub target: String,
    /// Its header lines in order; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Recorded {
    /// All values of a header.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a header that stands once; `None` where it is absent or doubled.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        match self.all(name).as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }
}

impl Upstream {
    /// Starts it on a port of 127.0.0.1.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stage = Arc::new(Stage {
            requests: Mutex::default(),
            arrived: watch::channel(0).0,
            events: broadcast::channel(1024).0,
            released: watch::channel(false).0,
            open: Count::default(),
        });
        let playing = Arc::clone(&stage);
        let stop = stage::play(move || accept(listener, playing))?;
        Ok(Self { address, stage, _stop: stop })
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.stage.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last request.
    ///
    /// # Errors
    /// There was none.
    pub fn last(&self) -> Result<Recorded> {
        self.requests().pop().context("the upstream has received nothing")
    }

    /// Waits until `count` requests have arrived in all.
    ///
    /// # Errors
    /// They have not in time.
    pub async fn has_received(&self, count: usize) -> Result<()> {
        let mut arrived = self.stage.arrived.subscribe();
        let waiting = timeout(PATIENCE, arrived.wait_for(|arrived| *arrived >= count));
        waiting.await.with_context(|| format!("fewer than {count} requests arrived"))??;
        Ok(())
    }

    /// Sends an event to everybody who listens at `/sse`.
    pub fn emit(&self, data: &str) {
        // nobody may be listening
        let _ = self.stage.events.send(data.to_owned());
    }

    /// Lets the requests at `/hold` be answered, those to come as well.
    pub fn release(&self) {
        self.stage.released.send_replace(true);
    }

    /// Waits until exactly `count` exchanges (`/sse`, `/ws`, `/download`, `/upload`, `/hang`) are open here.
    ///
    /// # Errors
    /// There are more or fewer for too long.
    pub async fn has_open(&self, count: usize) -> Result<()> {
        self.stage.open.is(count, PATIENCE).await
    }
}

async fn accept(listener: std::net::TcpListener, stage: Arc<Stage>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let stage = Arc::clone(&stage);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&stage)));
            let connection = hyper::server::conn::http1::Builder::new()
                .max_headers(500)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            // an error is what `/drop` and `/half` are for
            let _ = connection.await;
        });
    }
}

async fn answer(request: Request<Incoming>, stage: Arc<Stage>) -> Result<Reply, Broken> {
    let recorded = record(&request);
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    stage.requests.lock().unwrap_or_else(PoisonError::into_inner).push(recorded.clone());
    stage.arrived.send_modify(|arrived| *arrived += 1);
    match path.as_str() {
        "/sse" => Ok(events(&stage)),
        "/ws" => web_socket(request, &stage),
        "/hold" => {
            stage.released.subscribe().wait_for(|released| *released).await?;
            Ok(show(&recorded, &Bytes::new()))
        }
        "/hang" => {
            let _open = stage.open.one();
            std::future::pending().await
        }
        "/drop" => Err("dropped, as it was asked".into()),
        "/half" => Ok(half()),
        "/download" => Ok(download(number(&query, "bytes")?, &stage)),
        "/upload" => {
            let _open = stage.open.one();
            upload(request).await
        }
        "/mirror" => Ok(Response::new(request.into_body().map_err(Into::into).boxed())),
        "/trailers" => Ok(trailers()),
        "/status" => {
            let status = StatusCode::from_u16(u16::try_from(number(&query, "code")?)?)?;
            let mut reply = Response::new(full("as it was asked"));
            *reply.status_mut() = status;
            Ok(reply)
        }
        "/cookies" => Ok(cookies()),
        _ => {
            let body = request.into_body().collect().await?.to_bytes();
            Ok(show(&recorded, &body))
        }
    }
}

fn record(request: &Request<Incoming>) -> Recorded {
    let text = |value: &HeaderValue| value.as_bytes().iter().copied().map(char::from).collect::<String>();
    Recorded {
        method: request.method().to_string(),
        target: request.uri().to_string(),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
    }
}

fn show(recorded: &Recorded, body: &Bytes) -> Reply {
    let seen = json!({
        "method": recorded.method,
        "target": recorded.target,
        "headers": recorded.headers,
        "body": STANDARD.encode(body),
    });
    reply("application/json", full(seen.to_string()))
}

fn events(stage: &Arc<Stage>) -> Reply {
    let (mut sender, body) = Channel::<Bytes, Broken>::new(PIECES);
    let mut coming = stage.events.subscribe();
    let open = stage.open.one();
    tokio::task::spawn_local(async move {
        let _open = open;
        let event = |data: &str| Bytes::from(format!("data: {data}\n\n"));
        if sender.send_data(event("hello")).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                data = coming.recv() => match data {
                    Ok(data) if sender.send_data(event(&data)).await.is_ok() => {}
                    Ok(_) | Err(_) => return,
                },
                () = closed(&mut sender) => return,
            }
        }
    });
    reply("text/event-stream", body.boxed())
}

/// Waits until nobody reads the body any more: a comment cannot be sent.
async fn closed(sender: &mut Sender<Bytes, Broken>) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if sender.send_data(Bytes::from_static(b":\n\n")).await.is_err() {
            return;
        }
    }
}

fn web_socket(mut request: Request<Incoming>, stage: &Arc<Stage>) -> Result<Reply, Broken> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        let mut reply = Response::new(full("a WebSocket is spoken here"));
        *reply.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return Ok(reply);
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    let open = stage.open.one();
    tokio::task::spawn_local(async move {
        let _open = open;
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(Message::text(message.to_text().unwrap_or_default())).await.is_err() {
                return;
            }
        }
    });
    let mut reply = Response::new(Empty::new().map_err(|never| match never {}).boxed());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept)?);
    Ok(reply)
}

/// Promises more than it sends: hyper closes the connection where the body breaks off.
fn half() -> Reply {
    let (mut sender, body) = Channel::<Bytes, Broken>::new(PIECES);
    tokio::task::spawn_local(async move {
        let _ = sender.send_data(Bytes::from_static(b"half of an ans")).await;
        sender.abort("as it was asked".into());
    });
    let mut reply = reply("text/plain", body.boxed());
    reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("1000"));
    reply
}

fn download(bytes: u64, stage: &Arc<Stage>) -> Reply {
    let (mut sender, body) = Channel::<Bytes, Broken>::new(PIECES);
    let open = stage.open.one();
    tokio::task::spawn_local(async move {
        let _open = open;
        send_pattern(&mut sender, bytes).await;
    });
    reply("application/octet-stream", body.boxed())
}

async fn upload(request: Request<Incoming>) -> Result<Reply, Broken> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut bytes = 0;
    let mut trailers = None;
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                bytes += data.len();
                context.update(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let trailers: Vec<Value> = trailers
        .iter()
        .flat_map(HeaderMap::iter)
        .map(|(name, value)| json!([name.as_str(), value.to_str().unwrap_or_default()]))
        .collect();
    let seen = json!({ "bytes": bytes, "sha256": hex(context.finish().as_ref()), "trailers": trailers });
    Ok(reply("application/json", full(seen.to_string())))
}

fn trailers() -> Reply {
    let (mut sender, body) = Channel::<Bytes, Broken>::new(PIECES);
    tokio::task::spawn_local(async move {
        let _ = sender.send_data(Bytes::from_static(b"a body")).await;
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))]);
        let _ = sender.send_trailers(trailers).await;
    });
    let mut reply = reply("text/plain", body.boxed());
    reply.headers_mut().insert(http::header::TRAILER, HeaderValue::from_static("x-sum"));
    reply
}

fn cookies() -> Reply {
    let mut reply = reply("text/plain", full("cookies"));
    for cookie in ["theirs=1; Path=/", "_pomerium=forged; Path=/", "_pomerium_other=2; Path=/"] {
        reply.headers_mut().append(http::header::SET_COOKIE, HeaderValue::from_static(cookie));
    }
    reply
}

fn reply(kind: &'static str, body: BoxBody<Bytes, Broken>) -> Reply {
    let mut reply = Response::new(body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, Broken> {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

fn number(query: &str, name: &str) -> Result<u64, Broken> {
    let value = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name);
    let (_, value) = value.ok_or_else(|| anyhow!("no {name} in the query"))?;
    Ok(value.parse()?)
}
