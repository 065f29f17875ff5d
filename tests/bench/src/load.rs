//! The load generator: keeps a number of requests under way for a while, checks every answer, and reads the proxy's
//! CPU time at both ends. It runs in a process of its own, so that its work is nobody's but its own.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{COOKIE, HOST, USER_AGENT};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_harness::certificate::Trust;
use portcullis_harness::connect::Stream;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};
use url::Url;

use crate::cpu;
use crate::statistics::percentile;

/// Requests under way on one HTTP/2 connection.
const STREAMS: u32 = 8;
/// How long an answer may take before the run has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// What to ask for. Its host is asked for at `gate`.
    pub url: String,
    /// The proxy.
    pub gate: SocketAddr,
    /// Whose certificates to trust, in PEM.
    pub authority: String,
    /// Speak HTTP/2.
    pub h2: bool,
    /// The `Cookie` header.
    pub cookie: String,
    /// Bytes of a right answer.
    pub bytes: usize,
    /// Requests under way at any time.
    pub under_way: u32,
    /// How long requests are sent before they count, in milliseconds.
    pub warm_up: u64,
    /// How long they count, in milliseconds.
    pub length: u64,
    /// The proxy's process, for its CPU time.
    pub process: u32,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Answers, all of them right, those of the warm-up too.
    pub answers: u32,
    /// Answers that count.
    pub counted: u32,
    /// How long they counted, in seconds.
    pub seconds: f64,
    /// CPU time of the proxy in that time, in seconds.
    pub cpu_seconds: f64,
    /// Half of the answers took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 answers took no longer, in microseconds.
    pub p99_us: f64,
}

impl Outcome {
    /// CPU time of the proxy for each request, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / f64::from(self.counted)
    }

    /// Requests a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.counted) / self.seconds
    }
}

/// Has a process of its own do `task`.
///
/// # Errors
/// An answer was wrong or did not come.
pub fn run_apart(task: &Task) -> Result<Outcome> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--load")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    // the session goes by stdin: arguments are for everybody to see
    serde_json::to_writer(child.stdin.take().context("no stdin")?, task)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the load generator failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Does the task on stdin and writes the outcome to stdout.
///
/// # Errors
/// An answer was wrong or did not come.
pub async fn obey() -> Result<()> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text)?;
    let outcome = run(&serde_json::from_slice(&text)?).await?;
    Ok(serde_json::to_writer(std::io::stdout(), &outcome)?)
}

/// Does a task.
///
/// # Errors
/// An answer was wrong or did not come.
pub async fn run(task: &Task) -> Result<Outcome> {
    LocalSet::new().run_until(keep_under_way(task)).await
}

#[derive(Default)]
struct Tally {
    answers: Cell<u32>,
    counting: Cell<bool>,
    ended: Cell<bool>,
    /// Microseconds that each counted answer took.
    took: RefCell<Vec<u32>>,
}

async fn keep_under_way(task: &Task) -> Result<Outcome> {
    let tally = Rc::new(Tally::default());
    let mut lanes = open(task, &tally).await?;
    pause(task.warm_up, &mut lanes).await?;
    let (began, before) = (Instant::now(), cpu::used(task.process)?);
    tally.counting.set(true);
    pause(task.length, &mut lanes).await?;
    tally.counting.set(false);
    let (seconds, after) = (began.elapsed().as_secs_f64(), cpu::used(task.process)?);
    tally.ended.set(true);
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    let mut took = tally.took.take();
    took.sort_unstable();
    ensure!(!took.is_empty(), "no answer in {seconds} s");
    Ok(Outcome {
        answers: tally.answers.get(),
        counted: u32::try_from(took.len())?,
        seconds,
        cpu_seconds: after.saturating_sub(before).as_secs_f64(),
        p50_us: percentile(&took, 50),
        p99_us: percentile(&took, 99),
    })
}

/// Waits, unless a lane fails first.
async fn pause(milliseconds: u64, lanes: &mut JoinSet<Result<()>>) -> Result<()> {
    tokio::select! {
        () = sleep(Duration::from_millis(milliseconds)) => Ok(()),
        failed = lanes.join_next() => {
            failed.context("no lane")???;
            bail!("a lane ended before its time")
        }
    }
}

/// A lane for each request under way; each asks as soon as it was answered.
async fn open(task: &Task, tally: &Rc<Tally>) -> Result<JoinSet<Result<()>>> {
    let tls = Trust::in_pem(task.authority.as_bytes())?.client(&[if task.h2 { b"h2" } else { b"http/1.1" }])?;
    let url = Url::parse(&task.url)?;
    let connect = || Stream::open(&url, Some(task.gate), &tls);
    let mut lanes = JoinSet::new();
    let mut drive = |sender| {
        lanes.spawn_local(lane(sender, Arc::new(task.clone()), Rc::clone(tally)));
    };
    if !task.h2 {
        for _ in 0..task.under_way {
            let (sender, connection) = http1::handshake(TokioIo::new(connect().await?)).await?;
            tokio::task::spawn_local(connection);
            drive(Sender::H1(sender));
        }
        return Ok(lanes);
    }
    let mut left = task.under_way;
    while left > 0 {
        let stream = connect().await?;
        ensure!(stream.is_h2(), "the proxy did not agree to HTTP/2");
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        for _ in 0..left.min(STREAMS) {
            drive(Sender::H2(sender.clone()));
        }
        left = left.saturating_sub(STREAMS);
    }
    Ok(lanes)
}

enum Sender {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::H2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

async fn lane(mut sender: Sender, task: Arc<Task>, tally: Rc<Tally>) -> Result<()> {
    let request = request(&task)?;
    while !tally.ended.get() {
        let began = Instant::now();
        let (status, bytes) = timeout(PATIENCE, ask(&mut sender, request.clone())).await.context("no answer")??;
        if status != StatusCode::OK || bytes != task.bytes {
            bail!("a wrong answer: {status}, {bytes} bytes and not {}", task.bytes);
        }
        tally.answers.set(tally.answers.get() + 1);
        if tally.counting.get() {
            tally.took.borrow_mut().push(u32::try_from(began.elapsed().as_micros())?);
        }
    }
    Ok(())
}

async fn ask(sender: &mut Sender, request: Request<Empty<Bytes>>) -> Result<(StatusCode, usize)> {
    let mut response = sender.send(request).await?;
    let mut bytes = 0;
    while let Some(frame) = response.body_mut().frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok((response.status(), bytes))
}

fn request(task: &Task) -> Result<Request<Empty<Bytes>>> {
    let url = Url::parse(&task.url)?;
    let mut request = Request::new(Empty::new());
    if task.h2 {
        *request.uri_mut() = url.as_str().parse()?;
        *request.version_mut() = Version::HTTP_2;
    } else {
        *request.uri_mut() = url[url::Position::BeforePath..].parse()?;
        request.headers_mut().insert(HOST, url[url::Position::BeforeHost..url::Position::AfterPort].parse()?);
    }
    request.headers_mut().insert(COOKIE, task.cookie.parse()?);
    request.headers_mut().insert(USER_AGENT, "portcullis-bench".parse()?);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use portcullis_harness::certificate::Authority;
    use portcullis_harness::upstream::Upstream;

    use super::*;

    fn task(upstream: &Upstream, path: &str, bytes: usize) -> Task {
        let url = Url::parse(&upstream.url()).unwrap().join(path).unwrap();
        Task {
            gate: url.socket_addrs(|| None).unwrap()[0],
            url: url.into(),
            authority: Authority::new().unwrap().pem().to_owned(),
            h2: false,
            cookie: "a=b".to_owned(),
            bytes,
            under_way: 3,
            warm_up: 60_000,
            length: 60_000,
            process: std::process::id(),
        }
    }

    #[tokio::test]
    async fn an_answer_of_another_length_ends_the_run() {
        let upstream = Upstream::start().unwrap();
        let wrong = run(&task(&upstream, "/download?bytes=1023", 1024)).await.unwrap_err();
        assert!(wrong.to_string().contains("1023 bytes and not 1024"), "{wrong:#}");
    }

    #[tokio::test]
    async fn right_answers_are_counted_and_timed() {
        let upstream = Upstream::start().unwrap();
        let outcome = run(&Task { warm_up: 1, length: 100, ..task(&upstream, "/download?bytes=1024", 1024) }).await;
        let outcome = outcome.unwrap();
        assert!(outcome.counted > 0 && outcome.answers >= outcome.counted, "{outcome:?}");
        assert!(outcome.p50_us > 0.0 && outcome.p99_us >= outcome.p50_us, "{outcome:?}");
    }
}
