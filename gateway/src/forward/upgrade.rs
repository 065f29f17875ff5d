//! A connection that is no longer HTTP: bytes both ways until one side ends, the permit is lost, or the node stops.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use portcullis_actors::proxy::leash::{Cut, Leash};
use portcullis_actors::proxy::upstreams::cluster::Underway;
use portcullis_config::limits::{LAST_FRAME, TUNNEL_HALF_CLOSED, TUNNEL_SILENT};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;

use super::budget::Share;
use super::connect::Taken;
use super::frames::{Frames, close};
use crate::client_body::Switch;
use crate::h1::Duplex;
use crate::open::Ticket;
use crate::socket::Impatient;
use crate::telemetry::AccessRecord;

/// The upstream's half of a switched connection.
pub struct Tunnel {
    upstream: Box<dyn Duplex>,
    /// What goes through are frames of a WebSocket, not bytes that are nobody's but the client's.
    is_websocket: bool,
    share: Option<Share>,
    /// It goes on to count as a connection and as a request.
    held: Option<(Taken, Underway)>,
}

impl Tunnel {
    pub(super) fn to(upstream: Box<dyn Duplex>, taken: Taken, underway: Underway) -> Self {
        Self { upstream, is_websocket: true, share: None, held: Some((taken, underway)) }
    }

    /// To an upstream that is connected already.
    pub fn over(upstream: impl Duplex + 'static) -> Self {
        Self { upstream: Box::new(upstream), is_websocket: false, share: None, held: None }
    }

    /// With a part of its client's budget, for as long as it is open.
    #[must_use]
    pub fn held(self, share: Share) -> Self {
        Self { share: Some(share), ..self }
    }

    /// Joins it to the client's half on a task of this worker. A cut closes both, with a close frame to the client where
    /// one may stand and is taken; the access line is written at the end.
    pub fn join(self, client: Switch, ticket: Ticket, mut record: AccessRecord) {
        ticket.last();
        let client = client.take_over();
        actix_rt::spawn(async move {
            let leash = Rc::clone(ticket.leash());
            let Self { upstream, is_websocket, share, held: _held } = self;
            let client = tokio::select! {
                client = client => client,
                _ = leash.is_cut() => return,
            };
            let Ok(client) = client else {
                tracing::debug!("a connection did not switch");
                return;
            };
            let half = Rc::new(Notify::new());
            // a stream of HTTP/2 has no socket of its own that would lose patience
            let mut client = Side::new(Impatient::new(client), &half, &leash);
            let mut upstream = Side::new(upstream, &half, &leash);
            let alone = if is_websocket {
                Alone::For(TUNNEL_HALF_CLOSED)
            } else {
                client.frames = None;
                Alone::Silent(TUNNEL_SILENT)
            };
            let cut = tokio::select! {
                () = pass(&mut client, &mut upstream, alone) => None,
                why = leash.is_cut() => Some(why),
            };
            record.add_bytes(client.written);
            // what follows is a courtesy: the exchange has ended, and is written down as it did
            drop((upstream, ticket, record, share));
            if let Some(why) = cut {
                let _ = tokio::time::timeout(LAST_FRAME, client.say(why)).await;
            }
        });
    }
}

/// Passes bytes both ways until both sides have ended, one breaks off, or one outlives the other for too long.
async fn pass<C, U>(client: &mut Side<C>, upstream: &mut Side<U>, alone: Alone)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (half, leash) = (Rc::clone(&client.half), Rc::clone(&client.leash));
    let outlived = async {
        half.notified().await;
        match alone {
            Alone::For(time) => tokio::time::sleep(time).await,
            Alone::Silent(time) => loop {
                let until = leash.moved().unwrap_or_else(Instant::now) + time;
                if until <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(until.into()).await;
            },
        }
    };
    tokio::select! {
        // one side that breaks off ends the other: that is how most of them end
        _ = tokio::io::copy_bidirectional(client, upstream) => {}
        () = outlived => {}
    }
}

/// How long one side outlives the other.
#[derive(Debug, Clone, Copy)]
enum Alone {
    /// So long at most.
    For(Duration),
    /// Until it has said nothing for so long: who has said all may have asked for something that takes its time.
    Silent(Duration),
}

/// One side of a tunnel: what was written to it is counted, and its end is noticed.
struct Side<T> {
    stream: T,
    half: Rc<Notify>,
    leash: Rc<Leash>,
    /// Where a WebSocket stands, on the side whose frames are looked at.
    frames: Option<Frames>,
    written: usize,
}

impl<T: AsyncWrite + Unpin> Side<T> {
    fn new(stream: T, half: &Rc<Notify>, leash: &Rc<Leash>) -> Self {
        Self { stream, half: Rc::clone(half), leash: Rc::clone(leash), frames: Some(Frames::default()), written: 0 }
    }

    /// Says why it ends, and waits for the other side to end as well: who closes while something still comes makes the
    /// system throw away what is on its way (RFC 6455 §7.1.1).
    async fn say(&mut self, why: Cut) -> io::Result<()>
    where
        T: AsyncRead,
    {
        if self.frames.as_ref().is_some_and(Frames::is_between) {
            self.stream.write_all(&close(why)).await?;
        }
        self.stream.shutdown().await?;
        tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await.map(drop)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Side<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            self.half.notify_one();
        }
        self.leash.moves(Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Side<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.written = self.written.saturating_add(written);
        if let Some(frames) = &mut self.frames {
            frames.pass(bytes.get(..written).unwrap_or_default());
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    /// Both ends of a tunnel, and both of its sides.
    fn tunnel() -> (DuplexStream, Side<DuplexStream>, Side<DuplexStream>, DuplexStream) {
        let ((browser, client), (upstream, server)) = (duplex(64), duplex(64));
        let half = Rc::new(Notify::new());
        let leash = Rc::default();
        (browser, Side::new(client, &half, &leash), Side::new(upstream, &half, &leash), server)
    }

    #[actix_rt::test]
    async fn a_side_that_has_ended_may_still_hear_the_other_but_not_for_ever() {
        let (mut browser, mut client, mut upstream, mut server) = tunnel();
        let passing = pass(&mut client, &mut upstream, Alone::For(Duration::from_millis(20)));
        let talking = async {
            browser.shutdown().await.unwrap();
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
            server.write_all(b"last").await.unwrap();
            let mut heard = [0; 4];
            browser.read_exact(&mut heard).await.unwrap();
            heard
        };
        let ((), heard) = join(passing, talking).await;
        // the server never ends: the tunnel did
        assert_eq!(&heard, b"last");
        assert_eq!(client.written, 4);
    }

    #[actix_rt::test]
    async fn a_side_that_still_speaks_is_heard_to_its_end_and_one_that_says_nothing_is_not() {
        const SHORT: Duration = Duration::from_millis(60);
        let (mut browser, mut client, mut upstream, mut server) = tunnel();
        let passing = pass(&mut client, &mut upstream, Alone::Silent(SHORT));
        let talking = async {
            browser.shutdown().await.unwrap();
            let mut heard = [0; 1];
            // longer in all than the silence that would end it
            for _ in 0..8 {
                tokio::time::sleep(SHORT / 4).await;
                server.write_all(b"x").await.unwrap();
                browser.read_exact(&mut heard).await.unwrap();
            }
        };
        // the server never ends: the tunnel does, once it is silent
        let ((), ()) = join(passing, talking).await;
        assert_eq!(client.written, 8);
    }

    #[actix_rt::test]
    async fn a_tunnel_that_is_cut_says_why_between_two_frames_and_nothing_within_one() {
        for (passed, expected) in [(&b"\x81\x02ok"[..], &b"\x88\x02\x03\xf0"[..]), (b"\x81\x05ok", b"")] {
            let (mut browser, mut client, _upstream, _server) = tunnel();
            client.write_all(passed).await.unwrap();
            let hearing = async {
                // what is still on its way is forgotten
                browser.write_all(b"more").await.unwrap();
                let mut heard = Vec::new();
                browser.read_to_end(&mut heard).await.unwrap();
                drop(browser);
                heard
            };
            let (said, heard) = join(client.say(Cut::PermitLost), hearing).await;
            said.unwrap();
            assert_eq!(heard, [passed, expected].concat());
        }
    }
}
