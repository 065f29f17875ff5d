//! A visitor: an HTTP client that behaves as a browser does, or as told, and shows everything it gets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;

use crate::certificate::{Identity, Trust};
use crate::connect::{RawAnswer, Stream};
use crate::cookies::Jar;

/// How long an answer, or the next piece of one, may take: longer than the gateway itself waits for an upstream.
const PATIENCE: Duration = Duration::from_secs(45);
/// What a browser says it takes.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// Somebody with a browser of their own. A clone is another tab of it: the cookies are the same.
#[derive(Clone)]
pub struct Visitor {
    h1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
    gate: Option<SocketAddr>,
    jar: Arc<Mutex<Jar>>,
    accept: HeaderValue,
    speaks_h2: bool,
}

impl Visitor {
    /// A fresh browser over HTTP/1.1.
    ///
    /// # Errors
    /// None is known.
    pub fn new(trust: &Trust) -> Result<Self> {
        Ok(Self {
            h1: trust.client(&[b"http/1.1"])?,
            h2: trust.client(&[b"h2"])?,
            gate: None,
            jar: Arc::default(),
            accept: HeaderValue::from_static(BROWSER),
            speaks_h2: false,
        })
    }

    /// The same with a client certificate, on connections that are new.
    ///
    /// # Errors
    /// None is known.
    pub fn showing(mut self, trust: &Trust, identity: &Identity) -> Result<Self> {
        self.h1 = trust.client_showing(&[b"http/1.1"], Some(identity))?;
        self.h2 = trust.client_showing(&[b"h2"], Some(identity))?;
        Ok(self)
    }

    /// From now on `*.localhost` is at this address, whatever port a URL names: what a load balancer does.
    #[must_use]
    pub fn through(mut self, gate: SocketAddr) -> Self {
        self.gate = Some(gate);
        self
    }

    /// The same over HTTP/2.
    #[must_use]
    pub fn over_h2(mut self) -> Self {
        self.speaks_h2 = true;
        self
    }

    /// The same with another `Accept`: not a browser.
    #[must_use]
    pub fn accepting(mut self, accept: &'static str) -> Self {
        self.accept = HeaderValue::from_static(accept);
        self
    }

    /// The cookies.
    pub fn cookies(&self) -> MutexGuard<'_, Jar> {
        self.jar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another browser that holds these cookies.
    #[must_use]
    pub fn holding(&self, cookies: Jar) -> Self {
        Self { jar: Arc::new(Mutex::new(cookies)), ..self.clone() }
    }

    /// A page. Redirects are shown, not followed.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        self.send(Request::get(url).body(Bytes::new())?).await
    }

    /// Posts a form from a page of `origin`.
    ///
    /// # Errors
    /// No answer.
    pub async fn post_form_from(&self, origin: &str, url: &str, fields: &[(String, String)]) -> Result<Answer> {
        let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = Request::post(url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ORIGIN, origin)
            .body(Bytes::from(body))?;
        self.send(request).await
    }

    /// Follows redirects from an answer, at most `most` of them, and shows the first answer that is none.
    ///
    /// # Errors
    /// There are more, or one that leads nowhere.
    pub async fn follow(&self, mut answer: Answer, most: usize) -> Result<Answer> {
        for _ in 0..most {
            let Some(next) = answer.redirect()? else { return Ok(answer) };
            answer = self.get(next.as_str()).await?;
        }
        if answer.status.is_redirection() {
            bail!("more than {most} redirects, the last one at {}", answer.url);
        }
        Ok(answer)
    }

    /// Sends a request and takes the whole answer. The URI is absolute; `Host`, `Cookie`, `Accept` and `User-Agent`
    /// are added unless they are there.
    ///
    /// # Errors
    /// No answer, or half of one.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Answer> {
        self.open(request.map(Full::new)).await?.collect().await
    }

    /// Sends a request and takes the head of the answer.
    ///
    /// # Errors
    /// No answer.
    pub async fn open<B>(&self, request: Request<B>) -> Result<Opened>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let url = Url::parse(&request.uri().to_string())?;
        let by_h2 = self.speaks_h2 && url.scheme() == "https";
        let tls = if by_h2 { &self.h2 } else { &self.h1 };
        let stream = Stream::open(&url, self.gate, tls).await?;
        anyhow::ensure!(stream.is_h2() == by_h2, "{url}: the server did not agree to HTTP/2");
        let request = self.complete(request, &url, by_h2)?;
        let mut connection = JoinSet::new();
        let response = timeout(PATIENCE, exchange(stream, by_h2, request, &mut connection))
            .await
            .with_context(|| format!("{url}: no answer within {PATIENCE:?}"))?
            .with_context(|| format!("{url}: no answer"))?;
        let (head, body) = response.into_parts();
        for line in head.headers.get_all(SET_COOKIE) {
            self.cookies().set(&url, line.to_str().context("a cookie that is not ASCII")?);
        }
        Ok(Opened {
            url,
            status: head.status,
            headers: head.headers,
            body,
            pending: BytesMut::new(),
            _connection: connection,
        })
    }

    /// Sends bytes as they are to the host of `url` over HTTP/1.1's ALPN, and shows what comes back.
    ///
    /// # Errors
    /// No connection.
    pub async fn raw(&self, url: &str, bytes: &[u8]) -> Result<RawAnswer> {
        let stream = Stream::open(&Url::parse(url)?, self.gate, &self.h1).await?;
        Ok(stream.exchange(bytes, Duration::from_millis(500)).await)
    }

    /// As [`Self::raw`], over HTTP/2's ALPN.
    ///
    /// # Errors
    /// No connection.
    pub async fn raw_h2(&self, url: &str, bytes: &[u8]) -> Result<RawAnswer> {
        let stream = Stream::open(&Url::parse(url)?, self.gate, &self.h2).await?;
        Ok(stream.exchange(bytes, Duration::from_millis(500)).await)
    }

    /// A connection to the host of `url` that speaks HTTP/1.1 once somebody does.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(&self, url: &Url) -> Result<Stream> {
        Stream::open(url, self.gate, &self.h1).await
    }

    /// One HTTP/2 connection to the host of `url`, for many requests at once.
    ///
    /// # Errors
    /// No connection.
    pub async fn streams(&self, url: &str) -> Result<Streams> {
        let stream = Stream::open(&Url::parse(url)?, self.gate, &self.h2).await?;
        // without TLS, by prior knowledge
        let agreed = stream.is_h2() || matches!(stream, Stream::Plain(_));
        anyhow::ensure!(agreed, "{url}: the server did not agree to HTTP/2");
        let (sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let mut connection = JoinSet::new();
        connection.spawn(async move { drop(driver.await) });
        Ok(Streams { visitor: self.clone(), sender, _connection: connection })
    }

    fn complete<B>(&self, request: Request<B>, url: &Url, by_h2: bool) -> Result<Request<B>> {
        let (mut head, body) = request.into_parts();
        let cookies = self.cookies().header(url);
        let mut add = |name, value: HeaderValue| {
            head.headers.entry(name).or_insert(value);
        };
        add(ACCEPT, self.accept.clone());
        add(USER_AGENT, HeaderValue::from_static("visitor"));
        if let Some(cookies) = cookies {
            add(COOKIE, HeaderValue::from_str(&cookies)?);
        }
        if !by_h2 {
            let authority = head.uri.authority().context("no host in the URL")?.as_str().to_owned();
            add(HOST, HeaderValue::from_str(&authority)?);
            let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
            head.uri = target.parse::<Uri>()?;
        }
        Ok(Request::from_parts(head, body))
    }
}

async fn exchange<B>(
    stream: Stream,
    by_h2: bool,
    request: Request<B>,
    connection: &mut JoinSet<()>,
) -> Result<http::Response<Incoming>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = TokioIo::new(stream);
    if by_h2 {
        let (mut sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        connection.spawn(async move { drop(driver.await) });
        sender.ready().await?;
        return Ok(sender.send_request(request).await?);
    }
    let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await?;
    connection.spawn(async move { drop(driver.await) });
    sender.ready().await?;
    Ok(sender.send_request(request).await?)
}

/// One HTTP/2 connection. Dropped, it is closed.
pub struct Streams {
    visitor: Visitor,
    sender: SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

impl Streams {
    /// Sends a request as it is and waits for the head of the answer.
    ///
    /// # Errors
    /// No answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<http::Response<Incoming>> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        Ok(timeout(PATIENCE, sender.send_request(request)).await.context("no answer")??)
    }

    /// Sends a GET and waits for the head of the answer; dropped before that, its stream is reset.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, url: &str) -> Result<http::Response<Incoming>> {
        self.send_as_visitor(Request::get(url).body(Full::default())?).await
    }

    /// Asks for a WebSocket (RFC 8441), which is open as long as its answer is held. To be called after an answer has come:
    /// a server says first that it knows of this.
    ///
    /// # Errors
    /// No answer.
    pub async fn websocket(&self, url: &str) -> Result<http::Response<Incoming>> {
        let request = Request::connect(url).header("sec-websocket-version", "13");
        self.send_as_visitor(request.extension(Protocol::from_static("websocket")).body(Full::default())?).await
    }

    async fn send_as_visitor(&self, request: Request<Full<Bytes>>) -> Result<http::Response<Incoming>> {
        let url = Url::parse(&request.uri().to_string())?;
        let request = self.visitor.complete(request, &url, true)?;
        self.send(request).await
    }
}

/// An answer whose body is still to come. Dropped, the connection is closed.
pub struct Opened {
    /// What was asked for.
    pub url: Url,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    pending: BytesMut,
    _connection: JoinSet<()>,
}

impl Opened {
    /// The rest of it.
    ///
    /// # Errors
    /// It was cut short.
    pub async fn collect(self) -> Result<Answer> {
        let Self { url, status, headers, body, pending, _connection } = self;
        let collected = timeout(PATIENCE * 2, body.collect())
            .await
            .with_context(|| format!("{url}: the answer does not end"))?
            .with_context(|| format!("{url}: the answer was cut short"))?;
        let trailers = collected.trailers().cloned();
        let body = [pending.freeze(), collected.to_bytes()].concat().into();
        Ok(Answer { url, status, headers, body, trailers })
    }

    /// The next bytes of the body; `None` at its proper end.
    ///
    /// # Errors
    /// The body was cut short, or nothing came for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.pending.is_empty() {
            return Ok(Some(self.pending.split().freeze()));
        }
        loop {
            let frame = timeout(PATIENCE, self.body.frame()).await.context("nothing more came")?;
            match frame {
                None => return Ok(None),
                Some(frame) => {
                    // an empty frame may carry the end of an HTTP/2 stream
                    match frame.context("the answer was cut short")?.into_data() {
                        Ok(data) if !data.is_empty() => return Ok(Some(data)),
                        Ok(_) | Err(_) => {}
                    }
                }
            }
        }
    }

    /// The next server-sent event's data (HTML, "Server-sent events"); `None` where the stream ends.
    ///
    /// # Errors
    /// The stream was cut short, or nothing came for too long.
    pub async fn event(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.pending.split_to(end + 2);
                let text = String::from_utf8_lossy(&block).into_owned();
                let data: Vec<&str> =
                    text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
                if !data.is_empty() {
                    return Ok(Some(data.join("\n")));
                }
                continue;
            }
            let held = self.pending.split();
            let Some(more) = self.chunk().await? else { return Ok(None) };
            self.pending.unsplit(held);
            self.pending.extend_from_slice(&more);
        }
    }

    /// Waits until the other side ends the body, properly or not.
    ///
    /// # Errors
    /// It does not within `deadline`.
    pub async fn ended(&mut self, deadline: Duration) -> Result<()> {
        let end = async { while matches!(self.chunk().await, Ok(Some(_))) {} };
        timeout(deadline, end).await.with_context(|| format!("{}: still open after {deadline:?}", self.url))
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What was asked for.
    pub url: Url,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is not JSON; the error holds it.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} {}: {}", self.status, self.url, self.text()))
    }

    /// A header, empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Where a redirect leads; `None` if the answer is no redirect.
    ///
    /// # Errors
    /// A redirect without a place to go.
    pub fn redirect(&self) -> Result<Option<Url>> {
        if !self.status.is_redirection() || self.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let location = self.headers.get(LOCATION).context("a redirect without Location")?.to_str()?;
        Ok(Some(self.url.join(location)?))
    }
}

/// A request with a method, without a body.
///
/// # Errors
/// The URL or the method is none.
pub fn request(method: &str, url: &str) -> Result<Request<Bytes>> {
    Ok(Request::builder().method(Method::from_bytes(method.as_bytes())?).uri(url).body(Bytes::new())?)
}
