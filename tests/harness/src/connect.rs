//! Connections of a test's clients: every `*.localhost` leads to the gateway, by TLS where the URL says so.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection, with or without TLS.
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects to the host of `url`. `gate` is where `*.localhost` lives; else its port on 127.0.0.1.
    ///
    /// # Errors
    /// Nobody listens there, or the certificate is not one for that host.
    pub async fn open(url: &Url, gate: Option<SocketAddr>, tls: &Arc<ClientConfig>) -> Result<Self> {
        let host = url.host_str().context("no host in the URL")?;
        let tcp = timeout(CONNECT, dial(url, host, gate)).await.with_context(|| format!("{host}: no connection"))??;
        tcp.set_nodelay(true)?;
        if url.scheme() != "https" {
            return Ok(Self::Plain(tcp));
        }
        let name = ServerName::try_from(host.to_owned())?;
        let handshake = TlsConnector::from(Arc::clone(tls)).connect(name, tcp);
        let stream = timeout(CONNECT, handshake).await.with_context(|| format!("{host}: no TLS"))??;
        Ok(Self::Tls(Box::new(stream)))
    }

    /// Whether HTTP/2 was agreed on.
    #[must_use]
    pub fn is_h2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Sends bytes as they are and reads what comes back, until the other side closes, says nothing more for
    /// `patience` after it has begun, or has said nothing at all in ten times as long.
    ///
    /// # Errors
    /// None: a connection that is cut is an answer.
    pub async fn exchange(mut self, bytes: &[u8], patience: Duration) -> RawAnswer {
        let mut answer = RawAnswer { bytes: Vec::new(), closed: false };
        // the other side may refuse before it has read everything
        let _ = self.write_all(bytes).await;
        let _ = self.flush().await;
        let mut until = Instant::now() + patience * 10;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match timeout_at(until, self.read(&mut buffer)).await {
                Err(_) => return answer,
                Ok(Ok(0) | Err(_)) => {
                    answer.closed = true;
                    return answer;
                }
                Ok(Ok(read)) => {
                    answer.bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
                    until = Instant::now() + patience;
                }
            }
        }
    }
}

async fn dial(url: &Url, host: &str, gate: Option<SocketAddr>) -> Result<TcpStream> {
    let port = url.port_or_known_default().ok_or_else(|| anyhow!("no port in {url}"))?;
    let stream = if host == "localhost" || host.ends_with(".localhost") {
        TcpStream::connect(gate.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))).await
    } else {
        TcpStream::connect((host.trim_matches(['[', ']']), port)).await
    };
    stream.with_context(|| format!("{host}:{port}: no connection"))
}

/// What came back on a raw connection.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Whether the other side closed.
    pub closed: bool,
}

impl RawAnswer {
    /// It as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The status codes of the answers in it, in order: whatever looks like a status line, wherever it begins.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        let after = text.split("HTTP/1.").skip(1);
        after.filter_map(|rest| rest.get(1..)?.strip_prefix(' ')?.get(..3)?.parse().ok()).collect()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
