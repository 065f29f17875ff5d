//! HTTP/1.1 with a client, byte by byte: where a request ends, where its answer ends, and what becomes of the connection.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use portcullis_harness::client::Visitor;
use portcullis_harness::connect::Stream;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::raw_upstream::After;
use portcullis_harness::world::{APP, PUBLIC, RAW, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// Far longer than anything here takes: a deadline, not a measure.
const SOON: Duration = Duration::from_secs(60);

async fn world() -> Result<(World, Gateway, Visitor)> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.set("metrics_address", "127.0.0.1:0");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    Ok((world, gateway, visitor))
}

/// A connection that is spoken on by hand.
struct Wire {
    stream: Stream,
    read: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    body: Vec<u8>,
    /// Whatever stands behind the last chunk.
    trailers: String,
}

impl Wire {
    async fn open(visitor: &Visitor, url: &str) -> Result<Self> {
        Ok(Self { stream: visitor.connect(&Url::parse(url)?).await?, read: Vec::new() })
    }

    async fn say(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> Result<bool> {
        let mut buffer = vec![0; 16 * 1024];
        let read = tokio::time::timeout(SOON, self.stream.read(&mut buffer)).await.context("nothing comes")?;
        let read = read.unwrap_or(0);
        self.read.extend_from_slice(buffer.get(..read).unwrap_or_default());
        Ok(read > 0)
    }

    async fn until(&mut self, end: &str) -> Result<String> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return Ok(String::from_utf8(std::mem::replace(&mut self.read, rest))?);
            }
            if !self.more().await? {
                bail!("ended before {end:?}: {:?}", String::from_utf8_lossy(&self.read));
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.read.len() < count {
            anyhow::ensure!(self.more().await?, "ended within a body");
        }
        let rest = self.read.split_off(count);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    /// The next answer, framed by what its head says.
    async fn answer(&mut self) -> Result<Answer> {
        let head = self.until("\r\n\r\n").await?.to_lowercase();
        let status: u16 = head.get(9..12).context("no status")?.parse()?;
        let (mut body, mut trailers) = (Vec::new(), String::new());
        if let Some((_, after)) = head.split_once("content-length: ") {
            let length = after.split("\r\n").next().context("no length")?.parse()?;
            body = if status == 304 { Vec::new() } else { self.bytes(length).await? };
        } else if head.contains("transfer-encoding: chunked") {
            loop {
                let size = usize::from_str_radix(self.until("\r\n").await?.trim(), 16)?;
                if size == 0 {
                    break;
                }
                body.extend(self.bytes(size).await?);
                assert_eq!(self.bytes(2).await?, b"\r\n");
            }
            loop {
                let line = self.until("\r\n").await?;
                trailers.push_str(&line);
                if line == "\r\n" {
                    break;
                }
            }
        }
        Ok(Answer { status, head, body, trailers })
    }

    /// Everything up to the end of the connection.
    async fn rest(&mut self) -> Result<String> {
        while self.more().await? {}
        Ok(String::from_utf8_lossy(&self.read).into_owned())
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: public.localhost\r\n\r\n";

#[tokio::test]
async fn every_kind_of_bad_head_is_answered_with_its_status_and_the_connection_closes() -> Result<()> {
    let (world, gateway, visitor) = world().await?;
    let host = "Host: public.localhost\r\n";
    let long = |count: usize| "a".repeat(count);
    let cases = [
        ("no HTTP", "\u{16}\u{3}\u{1}\u{2}".to_owned(), 400),
        ("HTTP/0.9", "GET /\r\n".to_owned(), 400),
        ("a bare LF", format!("GET / HTTP/1.1\n{host}\r\n"), 400),
        ("a bare CR", format!("GET / HTTP/1.1\r\n{host}A: b\rc\r\n\r\n"), 400),
        ("NUL", format!("GET / HTTP/1.1\r\n{host}A: b\0c\r\n\r\n"), 400),
        ("a folded line", format!("GET / HTTP/1.1\r\n{host}A: b\r\n c\r\n\r\n"), 400),
        ("a space before the colon", format!("GET / HTTP/1.1\r\n{host}A : b\r\n\r\n"), 400),
        ("two empty lines before", format!("\r\n\r\nGET / HTTP/1.1\r\n{host}\r\n"), 400),
        (
            "length and coding",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
            400,
        ),
        ("two lengths", format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 1\r\n\r\na"), 400),
        ("another coding", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n\r\n"), 400),
        ("a coding in HTTP/1.0", format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n"), 400),
        (
            "a WebSocket with a body",
            format!("GET / HTTP/1.1\r\n{host}Upgrade: websocket\r\nContent-Length: 1\r\n\r\na"),
            400,
        ),
        ("a target too long for a route", format!("GET /{} HTTP/1.1\r\n{host}\r\n", long(20_000)), 414),
        ("a target too long for anything", format!("GET /{} HTTP/1.1\r\n{host}\r\n", long(100_000)), 414),
        ("a line without an end", format!("GET /{}", long(140_000)), 414),
        ("a header too large", format!("GET / HTTP/1.1\r\n{host}A: {}\r\n\r\n", long(140_000)), 431),
        ("too many headers", format!("GET / HTTP/1.1\r\n{host}{}\r\n", "a: b\r\n".repeat(201)), 431),
        ("TRACE", format!("TRACE / HTTP/1.1\r\n{host}\r\n"), 501),
        (
            "CONNECT without a port",
            "CONNECT public.localhost HTTP/1.1\r\nHost: public.localhost\r\n\r\n".to_owned(),
            400,
        ),
        ("HTTP/2 in words", format!("GET / HTTP/2.0\r\n{host}\r\n"), 505),
        ("HTTP/1.2", format!("GET / HTTP/1.2\r\n{host}\r\n"), 505),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
    ];
    for (name, bytes, status) in &cases {
        let mut wire = Wire::open(&visitor, PUBLIC).await?;
        // what follows is read as nothing
        wire.say(&format!("{bytes}{GET}")).await?;
        let answer = wire.answer().await.with_context(|| (*name).to_owned())?;
        assert_eq!(answer.status, *status, "{name}: {answer:?}");
        assert!(answer.head.contains("\r\nconnection: close\r\n") && answer.head.contains("\r\ndate: "), "{answer:?}");
        assert!(answer.head.contains("\r\nx-request-id: "), "{name}: {answer:?}");
        assert!(String::from_utf8_lossy(&answer.body).contains(&status.to_string()), "{name}: {answer:?}");
        assert_eq!(wire.rest().await?, "", "{name}: something follows");
    }
    assert!(world.upstream.requests().is_empty(), "{:?}", world.upstream.requests());
    let lines = async || {
        let lines = gateway.request_log("http-request");
        Ok((lines.len() == cases.len()).then_some(lines))
    };
    for line in eventually("the access lines", SOON, lines).await? {
        assert_eq!(line["response-code-details"], "bad_request", "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up_and_counted() -> Result<()> {
    let (_world, gateway, visitor) = world().await?;
    let mut wire = Wire::open(&visitor, PUBLIC).await?;
    wire.say("GET / HTTP/1.1\r\nHost: pub").await?;
    let answer = wire.answer().await?;
    assert_eq!((answer.status, wire.rest().await?.as_str()), (408, ""));
    let counted = async || {
        let (_, metrics) = gateway.metrics(None).await?;
        Ok(metrics.contains("portcullis_refused_heads_total{outcome=\"late\"} 1\n").then_some(()))
    };
    eventually("a count", SOON, counted).await
}

#[tokio::test]
async fn requests_in_one_write_and_a_request_in_many_are_answered_in_their_order() -> Result<()> {
    let (world, _gateway, visitor) = world().await?;
    let mut wire = Wire::open(&visitor, PUBLIC).await?;
    let chunked = "Transfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\nT: v\r\n\r\n";
    let pipelined = format!(
        "POST /one HTTP/1.1\r\nHost: public.localhost\r\nContent-Length: 4\r\n\r\nbody\
         POST /two HTTP/1.1\r\nHost: public.localhost\r\n{chunked}{GET}"
    );
    wire.say(&pipelined).await?;
    for _ in 0..3 {
        assert_eq!(wire.answer().await?.status, 200);
    }
    for byte in pipelined.as_bytes() {
        wire.stream.write_all(std::slice::from_ref(byte)).await?;
    }
    wire.stream.flush().await?;
    for _ in 0..3 {
        assert_eq!(wire.answer().await?.status, 200);
    }
    let requests = world.upstream.requests();
    let targets: Vec<_> = requests.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(targets, ["/one", "/two", "/", "/one", "/two", "/"]);
    Ok(())
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on_only_where_its_body_is_wanted() -> Result<()> {
    let (_world, _gateway, visitor) = world().await?;
    let head = |host: &str| {
        format!("POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut wire = Wire::open(&visitor, PUBLIC).await?;
    wire.say(&head("public.localhost")).await?;
    assert_eq!(wire.answer().await?.status, 100);
    wire.say("body").await?;
    let answer = wire.answer().await?;
    assert_eq!(answer.status, 200);
    assert!(String::from_utf8_lossy(&answer.body).contains("\"bytes\":4"), "{answer:?}");
    // and once more on the same connection, without waiting
    wire.say(&format!("{}body{GET}", head("public.localhost"))).await?;
    for _ in 0..2 {
        assert_eq!(wire.answer().await?.status, 200);
    }

    let mut wire = Wire::open(&visitor, APP).await?;
    wire.say(&head("app.localhost")).await?;
    let answer = wire.answer().await?;
    assert_eq!(answer.status, 401);
    assert!(answer.head.contains("\r\nconnection: close\r\n"), "what comes now may be the body or not: {answer:?}");
    wire.say(&format!("GET /smuggled HTTP/1.1\r\nHost: public.localhost\r\n\r\n{GET}")).await?;
    assert_eq!(wire.rest().await?, "");
    Ok(())
}

#[tokio::test]
async fn a_small_body_that_nobody_wants_costs_no_connection() -> Result<()> {
    let (_world, _gateway, visitor) = world().await?;
    let mut wire = Wire::open(&visitor, APP).await?;
    for framed in ["Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"] {
        wire.say(&format!("POST / HTTP/1.1\r\nHost: app.localhost\r\n{framed}")).await?;
        let answer = wire.answer().await?;
        assert_eq!(answer.status, 401);
        assert!(!answer.head.contains("\r\nconnection: "), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_ended_is_the_last_one() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    raw.answer(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig", After::Stay);
    for framed in ["Content-Length: 500\r\n\r\nbegin", "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n"] {
        let mut wire = Wire::open(&visitor, RAW).await?;
        wire.say(&format!("POST / HTTP/1.1\r\nHost: raw.localhost\r\n{framed}")).await?;
        assert_eq!(wire.answer().await?.status, 413);
        assert_eq!(wire.rest().await?, "");
    }
    Ok(())
}

#[tokio::test]
async fn an_older_client_is_answered_as_it_understands() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    raw.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", After::Close);
    let mut wire = Wire::open(&visitor, RAW).await?;
    wire.say("GET / HTTP/1.0\r\nHost: raw.localhost\r\nConnection: keep-alive\r\n\r\n").await?;
    let whole = wire.rest().await?.to_lowercase();
    assert!(whole.starts_with("http/1.0 200 ok\r\n") && whole.ends_with("\r\n\r\nok"), "{whole}");
    assert!(!whole.contains("transfer-encoding") && whole.contains("connection: close"), "{whole}");

    raw.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", After::Close);
    let mut wire = Wire::open(&visitor, RAW).await?;
    for (kept, said) in [("Connection: keep-alive\r\n", "connection: keep-alive"), ("", "connection: close")] {
        wire.say(&format!("GET / HTTP/1.0\r\nHost: raw.localhost\r\n{kept}\r\n")).await?;
        let answer = wire.answer().await?;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
        assert!(answer.head.contains(said), "{answer:?}");
    }
    assert_eq!(wire.rest().await?, "");
    Ok(())
}

#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_head() -> Result<()> {
    let (_world, raw, _gateway, visitor) = World::with_raw(BINARY).await?;
    let mut wire = Wire::open(&visitor, RAW).await?;
    let host = "Host: raw.localhost\r\n\r\n";
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", Some("50")),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n", Some("50")),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
    ] {
        raw.answer(answer.as_bytes(), After::Close);
        wire.say(&format!("{method} / HTTP/1.1\r\n{host}")).await?;
        let head = wire.until("\r\n\r\n").await?.to_lowercase();
        let named = head.split_once("content-length: ").and_then(|(_, after)| after.split("\r\n").next());
        assert_eq!(named, length, "{method}: {head}");
        assert!(!head.contains("transfer-encoding") && !head.contains("connection"), "{head}");
    }
    // ours as well: the length of what is not sent
    wire.say("HEAD /nothing HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n").await?;
    let head = wire.until("\r\n\r\n").await?.to_lowercase();
    assert!(head.starts_with("http/1.1 404") && head.contains("content-length: "), "{head}");
    raw.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", After::Close);
    wire.say(&format!("GET / HTTP/1.1\r\n{host}")).await?;
    assert_eq!(wire.answer().await?.body, b"ok", "what follows is the next answer");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_goes_on_comes_in_chunks_and_its_trailers_only_to_who_reads_them() -> Result<()> {
    let (_world, _gateway, visitor) = world().await?;
    let mut wire = Wire::open(&visitor, PUBLIC).await?;
    for (te, trailers) in [("", "\r\n"), ("TE: trailers\r\n", "x-sum: 42\r\n\r\n")] {
        wire.say(&format!("GET /trailers HTTP/1.1\r\nHost: public.localhost\r\n{te}\r\n")).await?;
        let answer = wire.answer().await?;
        assert_eq!((answer.body.as_slice(), answer.trailers.as_str()), (&b"a body"[..], trailers));
    }
    Ok(())
}

#[tokio::test]
async fn a_stopping_gateway_closes_what_is_idle_and_says_so_to_who_waits() -> Result<()> {
    let (world, mut gateway, visitor) = world().await?;
    let (mut idle, mut waiting) = (Wire::open(&visitor, PUBLIC).await?, Wire::open(&visitor, PUBLIC).await?);
    idle.say(GET).await?;
    assert!(!idle.answer().await?.head.contains("\r\nconnection: "));
    let before = world.upstream.requests().len();
    waiting.say("GET /hold HTTP/1.1\r\nHost: public.localhost\r\n\r\n").await?;
    world.upstream.has_received(before + 1).await?;
    gateway.interrupt()?;
    // closed at once: the other one has not been answered yet
    assert_eq!(idle.rest().await?, "");
    world.upstream.release();
    let answer = waiting.answer().await?;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("\r\nconnection: close\r\n"), "{answer:?}");
    assert_eq!(waiting.rest().await?, "");
    assert_eq!(gateway.wait_exit(SOON).await?.code(), Some(0));
    Ok(())
}
