use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// What of these bytes passes the gate, read in pieces of `piece` bytes, and whether it then broke.
async fn passes(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut builder = tokio_test_reader(bytes, piece);
    let mut read = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match builder.read(&mut buffer).await {
            Ok(0) => return (read, false),
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(_) => return (read, true),
        }
    }
}

fn tokio_test_reader(bytes: &[u8], piece: usize) -> Gate<Pieces> {
    Gate::new(Pieces { bytes: bytes.to_vec(), at: 0, piece })
}

struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let end = (self.at + self.piece).min(self.bytes.len()).min(self.at + buf.remaining());
        buf.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

async fn assert_passes(text: &str) {
    for piece in [1, 2, 7, 8192] {
        let (read, broke) = passes(text.as_bytes(), piece).await;
        assert_eq!((String::from_utf8_lossy(&read).as_ref(), broke), (text, false), "in pieces of {piece}");
    }
}

async fn assert_refused(text: &str) {
    for piece in [1, 2, 7, 8192] {
        let (read, broke) = passes(text.as_bytes(), piece).await;
        assert!(broke, "passed in pieces of {piece}: {text:?}");
        assert!(read.len() < text.len() + POISON.len(), "nothing was held back of {text:?}");
    }
}

#[actix_rt::test]
async fn requests_that_read_in_one_way_pass_byte_for_byte() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=\"y\"\r\na\r\n0\r\nT: v\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\u{0}anything\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, WebSocket/13\r\n\r\n\u{0}anything\n",
        // a protocol that nobody speaks here changes nothing
        "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: TLS/1.2, h2c\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: xwebsocket\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    ] {
        assert_passes(text).await;
    }
}

#[actix_rt::test]
async fn requests_that_read_in_two_ways_do_not_pass() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    for text in [
        // bare line feeds, folded lines, spaces where none belong, control bytes
        "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
        "GET / HTTP/1.1\r\nA: b\nC: d\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n".to_owned(),
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\r\n\r\n".to_owned(),
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
        format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n"),
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        format!("{head}Upgrade: websocket\r\nContent-Length: 3\r\n\r\nabc"),
        format!("{head}Upgrade: h2c, websocket\r\nContent-Length: 3\r\n\r\nabc"),
        // after a protocol that nobody speaks here, framing goes on
        format!("{head}Upgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        // chunks
        format!("{head}Transfer-Encoding: chunked\r\n\r\nx\r\na\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\n"),
    ] {
        assert_refused(&text).await;
    }
}

#[actix_rt::test]
async fn a_bad_request_after_a_good_one_does_not_pass_and_the_good_one_does() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (read, broke) = passes(format!("{good}GET / HTTP/1.1\nHost: b\r\n\r\n").as_bytes(), 8192).await;
    assert!(broke);
    let read = String::from_utf8_lossy(&read).into_owned();
    assert!(read.starts_with(good) && read.ends_with("\0\r\n\r\n") && !read.contains("Host: b"), "{read:?}");
}

#[actix_rt::test]
async fn a_head_without_an_end_is_cut_at_its_bound() {
    let endless = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(300_000));
    let (read, broke) = passes(endless.as_bytes(), 8192).await;
    assert!(broke && read.len() < 150_000, "{}", read.len());
}

#[actix_rt::test]
async fn what_a_client_still_sends_is_read_before_its_connection_closes() {
    let (mut client, server) = tokio::io::duplex(64);
    let mut gate = Gate::new(server);
    client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
    assert!(gate.read(&mut [0; 64]).await.unwrap() > 0);
    let closing = async {
        gate.shutdown().await.unwrap();
        drop(gate);
    };
    let sending = async {
        client.write_all(&[b'a'; 1000]).await.unwrap();
        drop(client);
    };
    futures_util::future::join(closing, sending).await;
}
