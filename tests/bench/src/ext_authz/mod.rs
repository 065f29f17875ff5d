//! A native `ext_authz` service for Envoy (gRPC), in a process of its own: the least that does the same work as the
//! gateway. One thread: a decision takes so little that more would only pass it around.

mod judge;
mod messages;

use std::cell::RefCell;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portcullis_actors::clock;
use portcullis_actors::keyring::Keyring;
use portcullis_config::Secret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

pub use judge::Known;
use judge::{Decision, Judge};
use messages::Check;

/// How long a decision may lie in memory before it is written, as in the gateway.
const WRITTEN: Duration = Duration::from_millis(100);

/// What the service is told.
#[derive(Serialize, Deserialize)]
pub struct Charge {
    /// The secret that handles are sealed with.
    pub secret: Vec<u8>,
    /// The session cookie's name.
    pub cookie: String,
    /// Whom it knows.
    pub sessions: Vec<Known>,
}

type Lines = Rc<RefCell<BufWriter<std::io::Stdout>>>;
type Said = StreamBody<stream::Iter<std::vec::IntoIter<hyper::Result<Frame<Bytes>>>>>;

/// Serves until it is killed. Says on stderr where; decisions go to stdout, a line each.
///
/// # Errors
/// The charge cannot be read, or no port can be had.
pub async fn serve(charge: &Path) -> Result<()> {
    LocalSet::new().run_until(accept(charge)).await
}

async fn accept(charge: &Path) -> Result<()> {
    let Charge { secret, cookie, sessions } = serde_json::from_slice(&std::fs::read(charge)?)?;
    let judge = Rc::new(Judge::new(&Keyring::new(vec![Secret::new(secret)])?, cookie, sessions)?);
    let lines: Lines = Rc::new(RefCell::new(BufWriter::with_capacity(64 * 1024, std::io::stdout())));
    let written = Rc::clone(&lines);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(WRITTEN).await;
            if written.borrow_mut().flush().is_err() {
                return;
            }
        }
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    writeln!(std::io::stderr(), "listening on {}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (judge, lines) = (Rc::clone(&judge), Rc::clone(&lines));
        let service = service_fn(move |request| answer(request, Rc::clone(&judge), Rc::clone(&lines)));
        tokio::task::spawn_local(http2::Builder::new(Local).serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: Request<Incoming>, judge: Rc<Judge>, lines: Lines) -> Result<Response<Said>> {
    let body = request.into_body().collect().await?.to_bytes();
    // gRPC over HTTP/2: a byte of flags and four of length before the message
    let check = body.get(5..).and_then(Check::read).context("no CheckRequest")?;
    let decision = judge.decide(&check, clock::now())?;
    write_down(&mut *lines.borrow_mut(), &check, &decision)?;
    let message = decision.verdict().write();
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len())?);
    framed.put_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = vec![Ok(Frame::data(framed.freeze())), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn write_down(out: &mut impl Write, check: &Check<'_>, decision: &Decision<'_>) -> Result<()> {
    let line = json!({
        "level": "info", "message": "authorize check", "time": clock::now().rfc3339(),
        "request-id": check.request_id, "method": check.method, "host": check.host,
        "path": check.path.split('?').next().unwrap_or_default(), "allow": decision.refused == 0,
        "user": decision.who.map(|known| known.user.as_str()), "email": decision.who.map(|known| known.email.as_str()),
        "session-id": decision.who.map(|known| known.session.to_string()),
    });
    Ok(writeln!(out, "{line}")?)
}

/// Tasks of a connection stay on its thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
