use std::future::poll_fn;
use std::sync::Arc;

use http::StatusCode;
use portcullis_actors::metrics::Gauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::*;
use crate::client_body::ClientBody;
use crate::socket::Impatient;

/// A connection, and the upstream's end of it.
fn connected() -> (Connection, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let taken = Taken::new(Arc::<Gauge>::default().enter(), permit);
    (Connection::new(Line::Socket(Impatient::new(here)), taken), there)
}

fn ask(connection: &Connection, bodiless: bool) {
    connection.begin(bodiless, RequestBody::none(), |out, _| out.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n"));
}

/// What comes at all comes sooner.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// Status, content, number of trailer fields.
type Whole = (StatusCode, Vec<u8>, usize);

async fn answer(connection: &Connection) -> Result<Whole, String> {
    let head = match poll_fn(|cx| connection.poll_answer(cx)).await {
        Ok(parts) => parts,
        Err(Fault::Unsent(_)) => return Err("unsent".to_owned()),
        Err(Fault::Broken(error) | Fault::Garbled(error)) => return Err(error.to_string()),
    };
    let (mut content, mut trailers) = (Vec::new(), 0);
    while let Some(frame) = poll_fn(|cx| connection.poll_body(cx)).await {
        match frame.map_err(|error| error.to_string())?.into_data() {
            Ok(data) => content.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap().len(),
        }
    }
    Ok((head.status, content, trailers))
}

/// What is made of an answer that comes in pieces of this size, after which the upstream closes.
async fn answered(sent: &[u8], step: usize, bodiless: bool) -> Result<Whole, String> {
    let (connection, mut upstream) = connected();
    ask(&connection, bodiless);
    let sending = async {
        // who closes with something unread resets the connection
        upstream.read_exact(&mut [0; 18]).await.unwrap();
        for piece in sent.chunks(step) {
            upstream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(upstream);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        answered = answer(&connection) => answered,
        () = sending => unreachable!("it never ends"),
    }
}

#[actix_rt::test]
async fn an_answer_is_the_same_however_it_comes() {
    let ok = |content: &str, trailers| Ok((StatusCode::OK, content.as_bytes().to_vec(), trailers));
    let broke = || Err("the answer broke off".to_owned());
    for (sent, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", ok("hello", 0)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", broke()),
        ("HTTP/1.1 200 OK\r\n\r\nhello", ok("hello", 0)),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4 \r\nhell\r\n1;x=y\r\no\r\n0\r\nx_y: z\r\n\r\n",
            ok("hello", 1),
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", broke()),
        (
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            ok("ok", 0),
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n", Err("the connection ended before the answer".to_owned())),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc", Err(head::Malformed.to_string())),
    ] {
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(answered(sent.as_bytes(), step, false).await, expected, "{sent:?} by {step}");
        }
    }
    let head = answered(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 4, true).await;
    assert_eq!(head, ok("", 0));
}

#[actix_rt::test]
async fn interim_answers_end_somewhere() {
    let flood = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(UPSTREAM_HEAD_BYTES / 20);
    assert_eq!(answered(&flood, 64 * 1024, false).await.unwrap_err(), "too much came before the answer");
    let endless = [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'a'; 2 * UPSTREAM_HEADERS.0]].concat();
    assert_eq!(answered(&endless, 64 * 1024, false).await.unwrap_err(), TOO_LARGE);
    let ended = [&endless[..UPSTREAM_HEADERS.0], b"\r\n\r\n"].concat();
    assert_eq!(answered(&ended, ended.len(), false).await.unwrap_err(), TOO_LARGE);
}

#[actix_rt::test]
async fn a_connection_serves_again_only_after_a_whole_exchange_and_nothing_else() {
    for (sent, after, again) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", "", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "", false),
        // an answer to what nobody has asked: the next request must not get it
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", "", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\n", false),
    ] {
        let (connection, mut upstream) = connected();
        assert!(!connection.is_closed(), "a new connection is of use");
        ask(&connection, false);
        assert!(!connection.is_reusable());
        upstream.write_all(sent.as_bytes()).await.unwrap();
        answer(&connection).await.unwrap();
        let mut asked = [0; 18];
        upstream.read_exact(&mut asked).await.unwrap();
        upstream.write_all(after.as_bytes()).await.unwrap();
        if again {
            assert!(!connection.is_closed(), "{sent:?}");
            drop(upstream);
        }
        // the runtime hears of it on one of its next turns
        let closed = async {
            while !connection.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(SOON, closed).await.is_ok(), "{sent:?} {after:?}");
    }
}

#[actix_rt::test]
async fn a_request_that_cannot_leave_comes_back() {
    let (connection, upstream) = connected();
    drop(upstream);
    ask(&connection, false);
    assert_eq!(answer(&connection).await.unwrap_err(), "unsent");
}

#[actix_rt::test]
async fn a_request_of_whose_body_something_was_taken_does_not_come_back_without_it() {
    for length in [5, 6] {
        let (connection, upstream) = connected();
        drop(upstream);
        let (mut client, stream) = tokio::io::duplex(64);
        client.write_all(b"hello").await.unwrap();
        let body = RequestBody::passing(ClientBody::H1(crate::h1::Body::coming(stream, length)), None);
        connection.begin(false, body, |out, _| out.extend_from_slice(b"POST / HTTP/1.1\r\n\r\n"));
        assert_ne!(answer(&connection).await.unwrap_err(), "unsent", "{length}");
    }
}

#[actix_rt::test]
async fn whether_anything_of_an_answer_has_come_is_told() {
    for (sent, garbled) in
        [("", false), ("HTTP/1.1 2", true), ("HTTP/1.1 100 Continue\r\n\r\n", true), ("?\r\n\r\n", true)]
    {
        let (connection, mut upstream) = connected();
        ask(&connection, false);
        upstream.write_all(sent.as_bytes()).await.unwrap();
        upstream.shutdown().await.unwrap();
        let fault = poll_fn(|cx| connection.poll_answer(cx)).await.err();
        assert_eq!(matches!(fault, Some(Fault::Garbled(_))), garbled, "{sent:?}");
        assert!(fault.is_some());
    }
}
