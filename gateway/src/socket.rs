//! TCP sockets, a client's and an upstream's alike: answers leave at once, dead peers are noticed, and nobody keeps a
//! connection by taking nothing from it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use portcullis_config::limits::{TCP_PROBE, WRITE_STALL};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::passed_on::passed_on;

/// RFC 6761 §6.3: names under `localhost` are loopback, whatever the resolver says.
pub fn connect_host(host: &str) -> &str {
    if host == "localhost" || host.ends_with(".localhost") { "127.0.0.1" } else { host.trim_matches(['[', ']']) }
}

/// Makes a connected socket ready for use. A peer that went away without a word is found by probing.
pub fn ready(stream: TcpStream) -> Impatient<TcpStream> {
    let (time, interval, retries) = TCP_PROBE;
    let probes = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    // latency over batching: an answer is written whole. A socket that takes neither option works without
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&probes);
    Impatient::new(stream)
}

/// A stream that breaks when its peer takes nothing of what is being written for a while. Silence while there is
/// nothing to write is no fault.
pub struct Impatient<T> {
    stream: T,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<T> Impatient<T> {
    /// With as much patience as with every client and upstream.
    pub fn new(stream: T) -> Self {
        Self::with(stream, WRITE_STALL)
    }

    fn with(stream: T, patience: Duration) -> Self {
        Self { stream, patience, waiting: None }
    }

    /// What came of an attempt to write.
    fn written(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        std::task::ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Impatient<T> {
    passed_on!(poll_read);
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Impatient<T> {
    passed_on!(is_write_vectored, poll_flush, poll_shutdown);

    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[actix_rt::test]
    async fn who_takes_nothing_for_too_long_is_left() {
        let (here, there) = tokio::io::duplex(8);
        let mut here = Impatient::with(here, SHORT);
        let error = here.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(there);
    }

    #[actix_rt::test]
    async fn who_takes_slowly_is_waited_for() {
        let (here, mut there) = tokio::io::duplex(8);
        let mut here = Impatient::with(here, Duration::from_secs(20));
        let writing = here.write_all(&[0; 64]);
        let taking = async {
            let mut taken = [0; 64];
            there.read_exact(&mut taken).await
        };
        let (written, taken) = futures_util::future::join(writing, taking).await;
        assert!(written.is_ok() && taken.is_ok());
        assert!(here.waiting.is_none(), "the patience of one write counts for the next");
    }

    #[actix_rt::test]
    async fn every_socket_is_probed_and_never_waits_for_more_to_send() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let ready = ready(client);
        let socket = SockRef::from(&ready.stream);
        assert!(socket.keepalive().unwrap() && ready.stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), TCP_PROBE.0);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), TCP_PROBE.1);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), TCP_PROBE.2);
    }
}
