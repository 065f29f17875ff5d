//! Requests as they are read from a connection, in pieces of any size.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use super::body::Body;
use super::head::{Framing, Head, Refusal, Scan};
use super::wire::{Piece, Rest, Wire, close};

/// What came of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// `METHOD target`, then each field, the content and the trailers.
    pub requests: Vec<String>,
    pub end: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Between two requests.
    Whole,
    /// Within one.
    Early,
    /// A head was refused.
    Refused(Refusal),
    /// A body was badly framed.
    Broken,
    /// Another protocol follows.
    Switched,
}

/// Bytes that come in pieces of these sizes, and then no more.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    next: usize,
}

impl Pieces {
    pub(super) fn new(bytes: &[u8], sizes: &[usize]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, sizes: sizes.to_vec(), next: 0 }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = self.sizes[self.next % self.sizes.len()].max(1);
        self.next += 1;
        let end = (self.at + size).min(self.bytes.len()).min(self.at + buf.remaining());
        buf.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The next head, as a conversation reads it.
async fn head(wire: &Wire) -> Result<Head, Ended> {
    let mut scan = Scan::default();
    loop {
        match wire.take_head(&mut scan) {
            Ok(Some(head)) => return Ok(head),
            Ok(None) => {}
            Err(refusal) => return Err(Ended::Refused(refusal)),
        }
        let quiet = wire.is_quiet();
        if poll_fn(|cx| wire.poll_fill(cx)).await.unwrap() == 0 {
            return Err(if quiet { Ended::Whole } else { Ended::Early });
        }
    }
}

/// Reads everything that these bytes say.
pub(super) async fn seen(bytes: &[u8], sizes: &[usize]) -> Seen {
    let wire = Rc::new(Wire::new(Box::new(Pieces::new(bytes, sizes))));
    let mut requests = Vec::new();
    loop {
        let head = match head(&wire).await {
            Ok(head) => head,
            Err(end) => return Seen { requests, end },
        };
        let mut text = format!("{} {}", head.parts.method, head.parts.uri);
        for (name, value) in &head.parts.headers {
            text.push_str(&format!("|{name}={}", String::from_utf8_lossy(value.as_bytes())));
        }
        let turn = wire.begin(head.framing, head.expects);
        match Body::new(Rc::clone(&wire), turn).collect().await {
            Ok(body) => {
                let trailers = body.trailers().cloned();
                text.push_str(&format!("|{}", String::from_utf8_lossy(&body.to_bytes())));
                for (name, value) in trailers.iter().flatten() {
                    text.push_str(&format!("|{name}={}", String::from_utf8_lossy(value.as_bytes())));
                }
                requests.push(text);
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Seen { requests, end: Ended::Early },
            Err(_) => return Seen { requests, end: Ended::Broken },
        }
        if head.framing == Framing::Switch {
            return Seen { requests, end: Ended::Switched };
        }
    }
}

const SIZES: [usize; 5] = [1, 2, 7, 100, 8192];

async fn assert_read(text: &str, requests: &[&str], end: Ended) {
    for size in SIZES {
        let seen = seen(text.as_bytes(), &[size]).await;
        assert_eq!(
            (seen.requests.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), seen.end),
            (requests, end),
            "{text:?} in pieces of {size}"
        );
    }
}

/// Is refused at its only request, and nothing after it is read as one.
async fn assert_refused(text: &str, refusal: Refusal) {
    assert_read(text, &[], Ended::Refused(refusal)).await;
}

#[actix_rt::test]
async fn requests_that_read_in_one_way_are_read() {
    let host = "|host=a|";
    let get = format!("GET /{host}");
    let get = get.as_str();
    let switch = Ended::Switched;
    for (text, requests, end) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[get][..], Ended::Whole),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET / HTTP/1.1\r\nHost:\t a \t\r\n\r\n", &[get, get], Ended::Whole),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            &["POST /|host=a|content-length=3|abc", get],
            Ended::Whole,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            &["POST /|transfer-encoding=chunked|abc", get],
            Ended::Whole,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=\"y\"\r\na\r\n00B\r\n0123456789a\r\n0\r\nT: v\r\n\r\n",
            &["POST /|transfer-encoding=Chunked|a0123456789a|t=v"],
            Ended::Whole,
        ),
        (
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\u{0}anything\n",
            &["GET /|upgrade=websocket|connection=upgrade|"],
            switch,
        ),
        (
            "GET / HTTP/1.1\r\nUpgrade: h2c, WebSocket/13\r\n\r\n\u{0}anything\n",
            &["GET /|upgrade=h2c, WebSocket/13|"],
            switch,
        ),
        ("CONNECT a:22 HTTP/1.1\r\nHost: a\r\n\r\nSSH-2.0\r\n", &["CONNECT a:22|host=a|"], switch),
        // a protocol that nobody speaks here changes nothing
        (
            "POST / HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            &["POST /|upgrade=h2c|content-length=3|abc", get],
            Ended::Whole,
        ),
        (
            "POST / HTTP/1.1\r\nUpgrade: TLS/1.2, h2c\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            &["POST /|upgrade=TLS/1.2, h2c|transfer-encoding=chunked|a"],
            Ended::Whole,
        ),
        (
            "GET /?a HTTP/1.1\r\nUpgrade: xwebsocket\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            &["GET /?a|upgrade=xwebsocket|", get],
            Ended::Whole,
        ),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", &["POST /|content-length=0|"], Ended::Whole),
        ("GET http://a/b HTTP/1.0\r\nA: \u{e9}\r\n\r\n", &["GET http://a/b|a=\u{e9}|"], Ended::Whole),
        // what has not come is waited for
        ("GET / HTTP/1.1\r\nHost: a\r\n", &[], Ended::Early),
        ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", &[], Ended::Early),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: v\r\n", &[], Ended::Early),
    ] {
        assert_read(text, requests, end).await;
    }
}

#[actix_rt::test]
async fn requests_that_read_in_two_ways_are_refused() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    for text in [
        // bare line feeds, folded lines, spaces where none belong, control bytes
        "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
        "GET / HTTP/1.1\r\nA: b\nC: d\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\u{7f}\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n\u{e9}: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n".to_owned(),
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / http/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.12\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\r\n\r\n".to_owned(),
        "GET /\r\n".to_owned(),
        "\n".to_owned(),
        "\u{16}\u{3}\u{1}".to_owned(),
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        // lengths
        format!("{head}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        format!("{head}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
        format!("{head}Content-Length: 3, 3\r\n\r\nabc"),
        format!("{head}Content-Length: +3\r\n\r\nabc"),
        format!("{head}Content-Length: 0x3\r\n\r\nabc"),
        format!("{head}Content-Length: -1\r\n\r\nabc"),
        format!("{head}Content-Length:\r\n\r\nabc"),
        format!("{head}Content-Length: 99999999999999999999\r\n\r\nabc"),
        // length and coding, codings that are not ours
        format!("{head}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n"),
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        format!("{head}Upgrade: websocket\r\nContent-Length: 3\r\n\r\nabc"),
        format!("{head}Upgrade: h2c, websocket\r\nContent-Length: 3\r\n\r\nabc"),
        format!("{head}Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "CONNECT a:22 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
    ] {
        assert_refused(&text, Refusal::Malformed).await;
    }
    for text in ["GET / HTTP/2.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "GET / HTTP/0.9\r\n"] {
        assert_refused(text, Refusal::Version).await;
    }
    // after a protocol that nobody speaks here, framing goes on
    let text = format!("{head}Upgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_read(&text, &["POST /|host=a|upgrade=h2c|"], Ended::Refused(Refusal::Version)).await;
}

#[actix_rt::test]
async fn a_chunk_that_is_none_ends_the_body() {
    let long = format!("1;{}\r\na\r\n", "x".repeat(4000));
    for body in [
        "x\r\na\r\n0\r\n\r\n",
        "\r\n1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "1 ;a\r\na\r\n0\r\n\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        ";\r\na\r\n0\r\n\r\n",
        "10000000000000001\r\na\r\n0\r\n\r\n",
        "1;a\nb\r\na\r\n0\r\n\r\n",
        "1;a\rb\r\na\r\n0\r\n\r\n",
        "1;a=\0\r\na\r\n0\r\n\r\n",
        "1\r\na\r\n0\r\nA : b\r\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\nA_B: b\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "0\r\nnothing\r\n\r\n",
        "0\r\n\n",
        // extensions and trailers without end
        &format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(5000)),
        &format!("1;{}", "x".repeat(5000)),
        &format!("{}0\r\n\r\n", long.repeat(5)),
        &format!("0\r\n{}\r\n", format!("A: {}\r\n", "x".repeat(4000)).repeat(5)),
        &format!("0\r\n{}\r\n", "a: b\r\n".repeat(300)),
    ] {
        let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET / HTTP/1.1\r\n\r\n");
        assert_read(&text, &[], Ended::Broken).await;
    }
}

#[actix_rt::test]
async fn a_bad_request_after_a_good_one_is_refused_and_the_good_one_is_read() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\nHost: b\r\n\r\nGET /c HTTP/1.1\r\n\r\n";
    assert_read(text, &["GET /|host=a|"], Ended::Refused(Refusal::Malformed)).await;
}

#[actix_rt::test]
async fn a_head_has_bounds() {
    let many = |lines: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(lines));
    let long = |bytes: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(bytes));
    let endless = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(300_000));
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(bytes));
    for (text, end) in [
        (many(200), Ended::Whole),
        (many(201), Ended::Refused(Refusal::TooLarge)),
        (long(130_000), Ended::Whole),
        (long(132_000), Ended::Refused(Refusal::TooLarge)),
        (endless, Ended::Refused(Refusal::TooLarge)),
        (target(60_000), Ended::Whole),
        (target(70_000), Ended::Refused(Refusal::TargetTooLong)),
        (target(300_000), Ended::Refused(Refusal::TargetTooLong)),
    ] {
        for size in [1000, 8192] {
            assert_eq!(seen(text.as_bytes(), &[size]).await.end, end, "{} bytes", text.len());
        }
    }
}

#[actix_rt::test]
async fn what_the_head_says_of_the_connection_is_heard() {
    let of = async |text: &str| {
        let wire = Wire::new(Box::new(Pieces::new(text.as_bytes(), &[8192])));
        let head = head(&wire).await.unwrap();
        (head.persistent, head.expects, head.trailers)
    };
    let post = "POST / HTTP/1.1\r\nContent-Length: 1\r\n";
    assert_eq!(of("GET / HTTP/1.1\r\n\r\n").await, (true, false, false));
    assert_eq!(of("GET / HTTP/1.1\r\nConnection: a, Close\r\n\r\n").await, (false, false, false));
    assert_eq!(of("GET / HTTP/1.0\r\n\r\n").await, (false, false, false));
    assert_eq!(of("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nTE: trailers\r\n\r\n").await, (true, false, false));
    assert_eq!(of(&format!("{post}Expect: 100-Continue\r\nTE: trailers\r\n\r\n")).await, (true, true, true));
    assert_eq!(of("GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n").await, (true, false, false));
    assert!(!of("POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n").await.1);
}

/// A client, and a connection on which its request was begun.
async fn begun(text: &str) -> (DuplexStream, Rc<Wire>, Head, u64) {
    let (mut client, server) = tokio::io::duplex(1024 * 1024);
    client.write_all(text.as_bytes()).await.unwrap();
    let wire = Rc::new(Wire::new(Box::new(server)));
    let head = head(&wire).await.unwrap();
    let turn = wire.begin(head.framing, head.expects);
    (client, wire, head, turn)
}

async fn rest(wire: &Wire) -> Rest {
    poll_fn(|cx| Poll::Ready(wire.poll_rest(cx))).await
}

/// What can be read at once.
async fn said(client: &mut DuplexStream) -> String {
    let mut said = vec![0; 1024];
    let read = futures_util::FutureExt::now_or_never(client.read(&mut said));
    String::from_utf8_lossy(&said[..read.map_or(0, Result::unwrap)]).into_owned()
}

#[actix_rt::test]
async fn a_client_that_waits_is_told_to_go_on_when_its_body_is_asked_for() {
    let head = "POST / HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let (mut client, wire, _, turn) = begun(head).await;
    assert_eq!(said(&mut client).await, "");
    let mut body = Body::new(Rc::clone(&wire), turn);
    assert!(futures_util::FutureExt::now_or_never(body.frame()).is_none());
    assert_eq!(said(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "body");
    assert_eq!((said(&mut client).await, rest(&wire).await), (String::new(), Rest::None));

    // who sends at once need not be told, and who was not told before the answer is not told after it
    let (mut client, wire, _, turn) = begun(&format!("{head}body")).await;
    assert_eq!(Body::new(wire, turn).collect().await.unwrap().to_bytes(), "body");
    assert_eq!(said(&mut client).await, "");
    let (mut client, wire, _, turn) = begun(head).await;
    assert_eq!(rest(&wire).await, Rest::Unread);
    assert!(Body::new(wire, turn).collect().await.is_err());
    assert_eq!(said(&mut client).await, "");
}

#[actix_rt::test]
async fn a_body_that_nobody_reads_is_forgotten_if_it_has_come_and_is_not_much() {
    let post = |length: usize| format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    for (length, sent, expected) in
        [(10, 10, Rest::None), (50_000, 50_000, Rest::None), (10, 9, Rest::Unread), (500_000, 500_000, Rest::Unread)]
    {
        let (mut client, wire, _, turn) = begun(&post(length)).await;
        client.write_all(&vec![b'a'; sent]).await.unwrap();
        let body = Body::new(Rc::clone(&wire), turn);
        assert_eq!(rest(&wire).await, Rest::Coming, "somebody may still read it");
        drop(body);
        assert_eq!(rest(&wire).await, expected, "{sent} of {length}");
    }
}

#[actix_rt::test]
async fn a_body_that_is_held_on_to_takes_nothing_of_the_next_request() {
    let (mut client, wire, _, turn) = begun("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").await;
    let mut first = Body::new(Rc::clone(&wire), turn);
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\ndef").await.unwrap();
    let head = head(&wire).await.unwrap();
    let next = wire.begin(head.framing, head.expects);
    assert!(matches!(poll_fn(|cx| wire.poll_body(turn, cx)).await, Ok(Piece::End(None))));
    wire.abandon(turn);
    assert_eq!(rest(&wire).await, Rest::Coming);
    drop(first);
    assert_eq!(Body::new(wire, next).collect().await.unwrap().to_bytes(), "def");
}

#[actix_rt::test]
async fn a_client_that_goes_while_it_waits_is_noticed_and_what_it_sends_is_kept() {
    let (client, wire, ..) = begun("GET / HTTP/1.1\r\n\r\n").await;
    drop(client);
    poll_fn(|cx| wire.poll_gone(cx)).await;

    let (mut client, wire, ..) = begun("GET / HTTP/1.1\r\n\r\n").await;
    client.write_all(b"GET /next HTTP/1.1\r\n\r\n").await.unwrap();
    drop(client);
    // the next request stands before the end
    assert!(futures_util::FutureExt::now_or_never(poll_fn(|cx| wire.poll_gone(cx))).is_none());
    assert_eq!(head(&wire).await.unwrap().parts.uri, "/next");
}

#[actix_rt::test]
async fn a_body_that_breaks_off_wakes_whoever_reads_it() {
    let (_client, wire, _, turn) = begun("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n").await;
    let body = Body::new(Rc::clone(&wire), turn).collect();
    let ending = async {
        tokio::task::yield_now().await;
        wire.hang_up()
    };
    let (body, stream) = futures_util::future::join(body, ending).await;
    assert!(body.is_err() && stream.is_some());
}

#[actix_rt::test]
async fn a_connection_is_handed_over_with_what_came_early() {
    let (mut client, wire, _, turn) =
        begun("GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nearly").await;
    let taken = Body::new(Rc::clone(&wire), turn).switch().take_over().unwrap();
    assert!(wire.is_switching());
    wire.hand_over();
    let mut taken = taken.await.unwrap();
    client.write_all(b" late").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    taken.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "early late");
    assert!(Body::new(wire, turn).switch().take_over().is_none(), "it was handed over");
}

#[actix_rt::test]
async fn what_a_client_still_sends_is_read_before_its_connection_closes() {
    let (mut client, server) = tokio::io::duplex(64);
    let sending = async {
        client.write_all(&[b'a'; 1000]).await.unwrap();
        drop(client);
    };
    futures_util::future::join(close(Box::new(server), true), sending).await;
}

fn future_bytes<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_connection_is_small() {
    // what it holds beside this while it is idle is boxed and smaller still; 16 KB are for all of it and TLS
    let bytes = future_bytes(super::speak::<DuplexStream>);
    assert!(bytes < 4 * 1024, "{bytes} bytes");
}
