//! One lane: a connection, or a part of one, on which one thing is done after another.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{COOKIE, USER_AGENT};
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_harness::certificate::Trust;
use portcullis_harness::client::Visitor;
use portcullis_harness::connect::Stream;
use portcullis_harness::websocket::WebSocket;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::AsyncWriteExt;
use url::Url;

use super::wire::Wire;
use super::{Task, Work};

/// Requests under way on one HTTP/2 connection.
const STREAMS: u32 = 8;
/// The marks that request logs are searched for.
const AGENT: &str = "portcullis-bench";

/// One lane.
pub struct Lane {
    over: Over,
    /// Which of the requests is the next.
    next: usize,
}

enum Over {
    Wire { wire: Wire, requests: Rc<[Vec<u8>]>, bytes: Option<usize> },
    Streams { sender: SendRequest<Empty<Bytes>>, requests: Rc<[Request<Empty<Bytes>>]>, bytes: usize },
    Fresh { to: Rc<To>, requests: Rc<[Vec<u8>]>, bytes: usize },
    Messages { socket: Box<WebSocket>, text: String },
}

/// Where connections go.
pub struct To {
    url: Url,
    task: Task,
    tls: Arc<ClientConfig>,
}

impl To {
    /// Where a task's connections go.
    ///
    /// # Errors
    /// The URL is none, or the authority is not in PEM.
    pub fn of(task: &Task) -> Result<Self> {
        let protocol: &[u8] = if matches!(task.work, Work::Stream(_)) { b"h2" } else { b"http/1.1" };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(task.authority.as_bytes()) {
            roots.add(certificate.context("not a certificate in PEM")?)?;
        }
        // one version and one group for everybody: who prefers others would do another work
        let provider = CryptoProvider { kx_groups: vec![X25519], ..aws_lc_rs::default_provider() };
        let mut tls = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.to_vec()];
        tls.resumption = Resumption::disabled();
        Ok(Self { url: Url::parse(&task.url)?, task: task.clone(), tls: Arc::new(tls) })
    }

    /// A connection.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(&self) -> Result<Stream> {
        Stream::open(&self.url, Some(self.task.gate), &self.tls).await
    }

    /// A request for each cookie, with a body of so many bytes.
    pub fn requests(&self, body: usize) -> Rc<[Vec<u8>]> {
        let target = &self.url[url::Position::BeforePath..];
        let host = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let request = |cookie: &String| {
            let (method, length) =
                if body == 0 { ("GET", String::new()) } else { ("POST", format!("Content-Length: {body}\r\n")) };
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nCookie: {cookie}\r\n{length}\r\n"
            );
            let mut bytes = head.into_bytes();
            bytes.resize(bytes.len() + body, b'z');
            bytes
        };
        self.task.cookies.iter().map(request).collect()
    }

    fn streams(&self) -> Result<Rc<[Request<Empty<Bytes>>]>> {
        let request = |cookie: &String| -> Result<_> {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = self.url.as_str().parse()?;
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().insert(COOKIE, cookie.parse()?);
            request.headers_mut().insert(USER_AGENT, AGENT.parse()?);
            Ok(request)
        };
        self.task.cookies.iter().map(request).collect()
    }
}

impl Lane {
    /// All lanes of a task, connected.
    ///
    /// # Errors
    /// A connection fails.
    pub async fn open(task: &Task) -> Result<Vec<Self>> {
        let to = Rc::new(To::of(task)?);
        let mut lanes = Vec::new();
        let mut add = |over| {
            let next = lanes.len();
            lanes.push(Self { over, next });
        };
        match task.work {
            Work::Get(_) | Work::Post(_) => {
                let (body, bytes) = match task.work {
                    Work::Post(body) => (body, None),
                    Work::Get(bytes) => (0, Some(bytes)),
                    _ => (0, None),
                };
                let requests = to.requests(body);
                for _ in 0..task.under_way {
                    let wire = Wire::new(to.connect().await?);
                    add(Over::Wire { wire, requests: Rc::clone(&requests), bytes });
                }
            }
            Work::Stream(bytes) => {
                let requests = to.streams()?;
                let mut left = task.under_way;
                while left > 0 {
                    let stream = to.connect().await?;
                    ensure!(stream.is_h2(), "the proxy did not agree to HTTP/2");
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                    tokio::task::spawn_local(connection);
                    for _ in 0..left.min(STREAMS) {
                        add(Over::Streams { sender: sender.clone(), requests: Rc::clone(&requests), bytes });
                    }
                    left = left.saturating_sub(STREAMS);
                }
            }
            Work::Connect(bytes) => {
                let requests = to.requests(0);
                for _ in 0..task.under_way {
                    add(Over::Fresh { to: Rc::clone(&to), requests: Rc::clone(&requests), bytes });
                }
            }
            Work::Message(bytes) => {
                let visitor = Visitor::new(&Trust::in_pem(task.authority.as_bytes())?)?.through(task.gate);
                for number in 0..task.under_way {
                    let cookie = task.cookies.get(usize::try_from(number)? % task.cookies.len().max(1));
                    visitor.cookies().set(&to.url, cookie.map_or("", String::as_str));
                    let socket = WebSocket::open(&visitor, &task.url).await?;
                    let socket = socket.map_err(|status| anyhow::anyhow!("no WebSocket: {status}"))?;
                    add(Over::Messages { socket: Box::new(socket), text: "m".repeat(bytes) });
                }
            }
            Work::Hold(_) => bail!("what is held does no work"),
        }
        Ok(lanes)
    }

    /// Does it once.
    ///
    /// # Errors
    /// The answer is wrong, or does not come.
    pub async fn work(&mut self) -> Result<()> {
        let number = self.next;
        self.next = number.wrapping_add(1);
        match &mut self.over {
            Over::Wire { wire, requests, bytes } => {
                let (status, got) = wire.exchange(nth(requests, number)?).await?;
                right(status, got, bytes.unwrap_or(got))
            }
            Over::Streams { sender, requests, bytes } => {
                sender.ready().await?;
                let mut response = sender.send_request(nth(requests, number)?.clone()).await?;
                let mut got = 0;
                while let Some(frame) = response.body_mut().frame().await {
                    got += frame?.data_ref().map_or(0, Bytes::len);
                }
                right(response.status().as_u16(), got, *bytes)
            }
            Over::Fresh { to, requests, bytes } => {
                let stream = to.connect().await?;
                ensure!(is_full_handshake(&stream), "not a full handshake");
                let mut wire = Wire::new(stream);
                let (status, got) = wire.exchange(nth(requests, number)?).await?;
                // an orderly end, with the alert that TLS asks for; the other side may have ended already
                let _ = wire.stream().shutdown().await;
                right(status, got, *bytes)
            }
            Over::Messages { socket, text } => {
                socket.say(text).await?;
                let heard = socket.hear().await?;
                ensure!(heard == *text, "another message came back");
                Ok(())
            }
        }
    }
}

fn is_full_handshake(stream: &Stream) -> bool {
    let Stream::Tls(stream) = stream else { return false };
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Full)
}

fn nth<T>(all: &[T], number: usize) -> Result<&T> {
    all.get(number.checked_rem(all.len()).context("no cookie")?).context("no request")
}

fn right(status: u16, got: usize, bytes: usize) -> Result<()> {
    ensure!(status == 200 && got == bytes, "a wrong answer: {status}, {got} bytes and not {bytes}");
    Ok(())
}
