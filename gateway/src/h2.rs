//! The seam of HTTP/2: frames are counted as they pass, and a client that sends nothing but control frames is left.
//!
//! PING, SETTINGS, PRIORITY, WINDOW_UPDATE and empty DATA cost their sender a few bytes and us a turn each, and may come
//! without end (CVE-2019-9512, -9515, -9518 and their like). They are paid for by what goes on beside them: requests,
//! and content either way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use portcullis_config::limits::H2_CONTROL_FRAMES;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// RFC 9113 §3.4: what a client says first.
const PREFACE: usize = 24;
/// RFC 9113 §4.1: length, type, flags, stream.
const HEAD: usize = 9;
/// RFC 9113 §6: the frames that carry something.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// A client's stream whose frames are counted.
pub struct Gate<T> {
    stream: T,
    coming: Frames,
    going: Frames,
    account: Account,
}

impl<T> Gate<T> {
    /// A gate before the preface of a connection.
    pub fn new(stream: T) -> Self {
        let coming = Frames { left: PREFACE, ..Frames::default() };
        Self { stream, coming, going: Frames::default(), account: Account::new(Instant::now()) }
    }

    fn sent(&mut self, bytes: &[u8]) {
        let account = &mut self.account;
        self.going.pass(bytes, |frame| {
            if frame.is_progress() {
                account.earn(frame.length);
            }
        });
    }
}

/// Reads the heads of frames as they pass.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes that are no head.
    left: usize,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
}

impl Frame {
    const fn of([high, middle, low, kind, flags, ..]: [u8; HEAD]) -> Self {
        let length = usize::from_be_bytes([0, 0, 0, 0, 0, high, middle, low]);
        Self { length, kind, flags }
    }

    /// Whether an exchange has come further by it.
    const fn is_progress(self) -> bool {
        match self.kind {
            DATA => self.length > 0 || self.flags & END_STREAM != 0,
            HEADERS => true,
            _ => false,
        }
    }
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            let (have, taken) = (self.have, (HEAD - self.have).min(bytes.len()));
            let (part, rest) = bytes.split_at(taken);
            if let Some(head) = self.head.get_mut(have..have + taken) {
                head.copy_from_slice(part);
            }
            (bytes, self.have) = (rest, have + taken);
            if self.have == HEAD {
                let frame = Frame::of(self.head);
                (self.have, self.left) = (0, frame.length);
                seen(frame);
            }
        }
    }
}

/// What control frames are paid from.
struct Account {
    spent: usize,
    since: Instant,
}

impl Account {
    const fn new(now: Instant) -> Self {
        Self { spent: 0, since: now }
    }

    /// An exchange has come further, by so many bytes. Clients answer content with window updates, some of them for
    /// every small piece of it and twice.
    const fn earn(&mut self, bytes: usize) {
        self.spent = self.spent.saturating_sub(8 + bytes / 128);
    }

    /// Pays for a control frame; false once there were too many.
    fn pay(&mut self, now: Instant) -> bool {
        let (most, interval) = H2_CONTROL_FRAMES;
        if now.saturating_duration_since(self.since) >= interval {
            *self = Self::new(now);
        }
        self.spent += 1;
        self.spent <= most
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gate<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let (account, now) = (&mut this.account, Instant::now());
        let mut within = true;
        this.coming.pass(buf.filled().get(before..).unwrap_or_default(), |frame| {
            if frame.is_progress() {
                account.earn(frame.length);
            } else {
                within &= account.pay(now);
            }
        });
        if within {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too many control frames")))
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gate<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.sent(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let here = slice.len().min(left);
            self.sent(slice.get(..here).unwrap_or_default());
            left -= here;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const MOST: usize = H2_CONTROL_FRAMES.0;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        // content that looks like frames
        frame.resize(HEAD + usize::from(length), 6);
        frame
    }

    fn gate() -> (DuplexStream, Gate<DuplexStream>) {
        let (mut client, server) = duplex(1024 * 1024);
        let written = client.write_all(&[b'P'; PREFACE]);
        futures_util::FutureExt::now_or_never(written).unwrap().unwrap();
        (client, Gate::new(server))
    }

    /// Whether a client may send these bytes, read in pieces of this length.
    async fn passes(client: &mut DuplexStream, gate: &mut Gate<DuplexStream>, bytes: &[u8], piece: usize) -> bool {
        client.write_all(bytes).await.unwrap();
        let mut left = bytes.len();
        let mut buffer = vec![0; piece];
        while left > 0 {
            let room = piece.min(left);
            match gate.read(&mut buffer[..room]).await {
                Ok(read) => left -= read,
                Err(_) => return false,
            }
        }
        true
    }

    #[actix_rt::test]
    async fn control_frames_without_end_and_without_anything_else_end_the_connection() {
        // PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION, an unknown one, empty DATA
        for (kind, length) in [(2, 5), (3, 4), (4, 0), (6, 8), (8, 4), (9, 0), (0xee, 3), (DATA, 0)] {
            for piece in [7, 4096] {
                let (mut client, mut gate) = gate();
                gate.read_exact(&mut [0; PREFACE]).await.unwrap();
                let most = frame(kind, 0, length).repeat(MOST);
                assert!(passes(&mut client, &mut gate, &most, piece).await, "{kind}");
                assert!(!passes(&mut client, &mut gate, &frame(kind, 0, length), piece).await, "{kind}");
            }
        }
    }

    #[actix_rt::test]
    async fn content_either_way_pays_for_the_control_frames_that_it_causes() {
        let (mut client, mut gate) = gate();
        gate.read_exact(&mut [0; PREFACE]).await.unwrap();
        let updates = frame(8, 0, 4).repeat(8);
        for _ in 0..MOST {
            // an event goes out, and is answered
            gate.write_all(&frame(DATA, 0, 20)).await.unwrap();
            assert!(passes(&mut client, &mut gate, &updates, 4096).await);
            // a request comes in
            assert!(passes(&mut client, &mut gate, &frame(HEADERS, END_STREAM, 30), 4096).await);
            assert!(passes(&mut client, &mut gate, &frame(DATA, END_STREAM, 0), 4096).await);
        }
        // what we must answer is no progress of anybody's
        for _ in 0..MOST {
            gate.write_all(&frame(6, 1, 8)).await.unwrap();
        }
        assert!(!passes(&mut client, &mut gate, &frame(6, 0, 8).repeat(MOST + 1), 4096).await);
    }

    #[test]
    fn a_client_that_pings_now_and_then_may_do_so_for_ever() {
        let now = Instant::now();
        let mut account = Account::new(now);
        for seconds in 0..u64::try_from(MOST).unwrap() * 10 {
            assert!(account.pay(now + Duration::from_secs(seconds)));
        }
    }
}
