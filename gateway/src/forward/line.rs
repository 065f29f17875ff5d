//! The way to an upstream: TCP or a socket of this machine, with TLS or without.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use portcullis_actors::proxy::upstreams::cluster::{Cluster, Refused};
use portcullis_actors::proxy::upstreams::member::{Address, Member};
use portcullis_actors::proxy::upstreams::names;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::socket::{self, Impatient};

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// Nothing came in time.
    #[error("connecting took too long")]
    Late,
    /// The address cannot be reached or refused.
    #[error("cannot connect: {0}")]
    Io(Arc<io::Error>),
    /// The upstream's certificate is not valid for its name, or TLS failed otherwise.
    #[error("TLS: {0}")]
    Tls(Arc<io::Error>),
    /// The upstream does not speak HTTP.
    #[error("HTTP: {0}")]
    Http(Arc<hyper::Error>),
    /// The route's limits are reached.
    #[error("too many requests wait for a connection")]
    Refused(Refused),
    /// TLS cannot be set up.
    #[error("TLS is not set up")]
    Terms,
    /// The connection that several requests waited for did not come about; whoever opened it has said why.
    #[error("the connection that was being opened did not come about")]
    Shared,
}

/// A connected stream.
pub enum Line {
    /// TCP.
    Tcp(Impatient<TcpStream>),
    /// TCP with TLS.
    TcpTls(Box<TlsStream<Impatient<TcpStream>>>),
    /// A socket.
    Socket(Impatient<UnixStream>),
    /// A socket with TLS.
    SocketTls(Box<TlsStream<Impatient<UnixStream>>>),
}

impl Line {
    /// Connects to a member, as its cluster says. Bounded by the caller.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn to(cluster: &Cluster, member: &Member) -> Result<Self, ConnectError> {
        let wants_tls = cluster.upstream(member).is_some_and(portcullis_config::Upstream::is_tls);
        let tls = match cluster.tls(member) {
            Some(tls) => Some((TlsConnector::from(Arc::clone(&tls.config)), tls.name.clone())),
            None if wants_tls => return Err(ConnectError::Terms),
            None => None,
        };
        let failed = |error| ConnectError::Tls(Arc::new(error));
        if let Address::Socket(path) = &member.address {
            let socket = Impatient::new(UnixStream::connect(path).await.map_err(io)?);
            return match tls {
                None => Ok(Self::Socket(socket)),
                Some((tls, name)) => Ok(Self::SocketTls(Box::new(tls.connect(name, socket).await.map_err(failed)?))),
            };
        }
        let tcp = socket::ready(tcp(cluster, &member.address).await?);
        match tls {
            None => Ok(Self::Tcp(tcp)),
            Some((tls, name)) => Ok(Self::TcpTls(Box::new(tls.connect(name, tcp).await.map_err(failed)?))),
        }
    }

    /// Whether HTTP/2 was agreed upon (ALPN).
    pub fn is_h2(&self) -> bool {
        let protocol = match self {
            Self::TcpTls(tls) => tls.get_ref().1.alpn_protocol(),
            Self::SocketTls(tls) => tls.get_ref().1.alpn_protocol(),
            Self::Tcp(_) | Self::Socket(_) => None,
        };
        protocol == Some(b"h2")
    }
}

fn io(error: io::Error) -> ConnectError {
    ConnectError::Io(Arc::new(error))
}

async fn tcp(cluster: &Cluster, address: &Address) -> Result<TcpStream, ConnectError> {
    let (host, port) = match address {
        Address::Ip(address) => return TcpStream::connect(address).await.map_err(io),
        Address::Name(host, port) => (host, *port),
        Address::Socket(_) => return Err(io(io::ErrorKind::Unsupported.into())),
    };
    // its first look-up has not ended: this one serves the same
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for ip in names::at_once(host, &cluster.settings.options.dns).await {
        match TcpStream::connect(SocketAddr::new(ip, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(io(last))
}

macro_rules! each {
    ($self:expr, $stream:ident => $does:expr) => {
        match $self {
            Line::Tcp($stream) => $does,
            Line::TcpTls($stream) => $does,
            Line::Socket($stream) => $does,
            Line::SocketTls($stream) => $does,
        }
    };
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
