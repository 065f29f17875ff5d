//! The seam of HTTP/2: frames are looked at as they pass, and a client that sends nothing but control frames is left.
//!
//! PING, SETTINGS, PRIORITY, WINDOW_UPDATE and empty DATA cost their sender a few bytes and us a turn each, and may come
//! without end (CVE-2019-9512, -9515, -9518 and their like). They are paid for by what goes on beside them: requests,
//! and content either way. A head that the library refuses by itself reaches no service: what it says to the client of it
//! is seen here.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use portcullis_config::limits::{H2_CONTROL_FRAMES, H2_STREAMS};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::metrics::tally::Misread;
use crate::passed_on::passed_on;

/// RFC 9113 §3.4: what a client says first.
const PREFACE: usize = 24;
/// RFC 9113 §4.1: length, type, flags, stream.
const HEAD: usize = 9;
/// RFC 9113 §6.8: of what a frame carries, as much is read as it takes to find an error code.
const BODY: usize = 8;
/// RFC 9113 §6: the frames that carry something.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
/// RFC 9113 §6.4, §6.8 and §7: how a stream, and a connection, is said to have failed.
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
/// RFC 9113 §6.10: more of a head.
const CONTINUATION: u8 = 9;
const PROTOCOL_ERROR: u32 = 1;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;
/// An answer of ours has a request id; one with fewer bytes is the library's own, and all it ever answers is 431.
const LEAST_ANSWER: usize = 16;

/// A client's stream whose frames are counted.
pub struct Gate<T> {
    stream: T,
    coming: Frames,
    going: Frames,
    account: Account,
    heads: Heads,
    refused: Box<dyn FnMut(Misread)>,
}

impl<T> Gate<T> {
    /// A gate before the preface of a connection. `refused` is told of each head that the library refuses.
    pub fn new(stream: T, refused: impl FnMut(Misread) + 'static) -> Self {
        let coming = Frames { left: PREFACE, ..Frames::default() };
        let account = Account::new(Instant::now());
        Self { stream, coming, going: Frames::default(), account, heads: Heads::default(), refused: Box::new(refused) }
    }

    fn sent(&mut self, bytes: &[u8]) {
        let (account, heads, refused) = (&mut self.account, &mut self.heads, &mut self.refused);
        self.going.pass(bytes, |frame| {
            if frame.is_progress() {
                account.earn(frame.length);
            }
            if let Some(why) = heads.going(frame) {
                refused(why);
            }
        });
    }
}

/// The heads after which nothing has passed on their streams yet: what an error says then is said of the head.
#[derive(Default)]
struct Heads {
    waiting: VecDeque<u32>,
    last: u32,
    /// The kind of the frame that came last.
    kind: u8,
}

impl Heads {
    fn coming(&mut self, frame: Frame) {
        self.kind = frame.kind;
        match frame.kind {
            HEADERS if frame.stream > self.last => {
                self.last = frame.stream;
                let most = usize::try_from(H2_STREAMS).unwrap_or(usize::MAX);
                if self.waiting.len() == most {
                    self.waiting.pop_front();
                }
                self.waiting.push_back(frame.stream);
            }
            // a body, or trailers
            DATA | HEADERS => drop(self.take(frame.stream)),
            _ => {}
        }
    }

    fn going(&mut self, frame: Frame) -> Option<Misread> {
        match frame.kind {
            HEADERS => {
                let is_own = frame.flags & END_STREAM != 0 && frame.length < LEAST_ANSWER;
                self.take(frame.stream).filter(|()| is_own).map(|()| Misread::TooLarge)
            }
            RST_STREAM => {
                let is_malformed = frame.code == PROTOCOL_ERROR;
                self.take(frame.stream).filter(|()| is_malformed).map(|()| Misread::Malformed)
            }
            GOAWAY if frame.code == COMPRESSION_ERROR => Some(Misread::Compression),
            // of a head that does not end, not of any other flood
            GOAWAY if frame.code == ENHANCE_YOUR_CALM && self.kind == CONTINUATION => Some(Misread::TooLarge),
            _ => None,
        }
    }

    fn take(&mut self, stream: u32) -> Option<()> {
        let at = self.waiting.iter().rposition(|waiting| *waiting == stream)?;
        self.waiting.remove(at).map(drop)
    }
}

/// Reads the heads of frames as they pass.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD + BODY],
    have: usize,
    /// Bytes that nobody reads.
    left: usize,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    /// The error code, where there is one.
    code: u32,
}

impl Frame {
    /// A frame by its head, and by what it carries if that is wanted.
    const fn of([high, middle, low, kind, flags, s0, s1, s2, s3, body @ ..]: [u8; HEAD + BODY]) -> Self {
        let length = usize::from_be_bytes([0, 0, 0, 0, 0, high, middle, low]);
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        let code = match (kind, body) {
            (RST_STREAM, [a, b, c, d, ..]) | (GOAWAY, [_, _, _, _, a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        };
        Self { length, kind, flags, stream, code }
    }

    /// How much of what it carries is read.
    const fn body(self) -> usize {
        match self.kind {
            RST_STREAM | GOAWAY if self.length < BODY => self.length,
            RST_STREAM | GOAWAY => BODY,
            _ => 0,
        }
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
            let have = self.have;
            let wanted = if have < HEAD { HEAD } else { HEAD + Frame::of(self.head).body() };
            let taken = (wanted - have).min(bytes.len());
            let (part, rest) = bytes.split_at(taken);
            if let Some(head) = self.head.get_mut(have..have + taken) {
                head.copy_from_slice(part);
            }
            (bytes, self.have) = (rest, have + taken);
            if self.have >= HEAD {
                let frame = Frame::of(self.head);
                if self.have == HEAD + frame.body() {
                    self.left = frame.length - frame.body();
                    (self.have, self.head) = (0, [0; HEAD + BODY]);
                    seen(frame);
                }
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
        let (account, heads, now) = (&mut this.account, &mut this.heads, Instant::now());
        let mut within = true;
        this.coming.pass(buf.filled().get(before..).unwrap_or_default(), |frame| {
            heads.coming(frame);
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
    passed_on!(is_write_vectored, poll_flush, poll_shutdown);

    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.sent(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
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
        (client, Gate::new(server, |_| ()))
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
    fn an_error_is_of_the_head_where_nothing_else_has_passed_on_its_stream() {
        let frame = |kind, flags, stream, length, code: u32| {
            let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
            bytes.extend(if kind == GOAWAY { vec![0; 4] } else { Vec::new() });
            bytes.extend(code.to_be_bytes());
            bytes.resize(HEAD + usize::from(length), 0);
            bytes
        };
        let reset = |stream, code| frame(RST_STREAM, 0, stream, 4, code);
        let (head, answer) = (
            |stream| frame(HEADERS, END_STREAM, stream, 30, 0),
            |stream, length| frame(HEADERS, END_STREAM, stream, length, 0),
        );
        let cases = [
            (head(1), reset(1, PROTOCOL_ERROR), vec![Misread::Malformed]),
            (head(1), answer(1, 4), vec![Misread::TooLarge]),
            (head(1), [answer(1, 4), reset(1, PROTOCOL_ERROR)].concat(), vec![Misread::TooLarge]),
            (head(1), frame(GOAWAY, 0, 0, 8, COMPRESSION_ERROR), vec![Misread::Compression]),
            ([head(1), head(3)].concat(), reset(3, PROTOCOL_ERROR), vec![Misread::Malformed]),
            (frame(CONTINUATION, 0, 1, 9, 0), frame(GOAWAY, 0, 0, 8, ENHANCE_YOUR_CALM), vec![Misread::TooLarge]),
            // another flood, another stream, another code, an answer of ours, a body, trailers, a connection that ends well
            (frame(RST_STREAM, 0, 1, 4, 8), frame(GOAWAY, 0, 0, 8, ENHANCE_YOUR_CALM), vec![]),
            (head(1), reset(3, PROTOCOL_ERROR), vec![]),
            (head(1), reset(1, 7), vec![]),
            (head(1), [answer(1, 40), reset(1, PROTOCOL_ERROR)].concat(), vec![]),
            ([head(1), frame(DATA, 0, 1, 5, 0)].concat(), reset(1, PROTOCOL_ERROR), vec![]),
            ([head(1), head(1)].concat(), reset(1, PROTOCOL_ERROR), vec![]),
            (head(1), frame(GOAWAY, 0, 0, 8, 0), vec![]),
        ];
        for (at, (comes, goes, expected)) in cases.iter().enumerate() {
            for piece in [1, 5, 4096] {
                let (mut coming, mut going, mut heads) = (Frames::default(), Frames::default(), Heads::default());
                let mut refused = Vec::new();
                comes.chunks(piece).for_each(|bytes| coming.pass(bytes, |frame| heads.coming(frame)));
                goes.chunks(piece).for_each(|bytes| going.pass(bytes, |frame| refused.extend(heads.going(frame))));
                assert_eq!(&refused, expected, "case {at} in pieces of {piece}");
            }
        }
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
