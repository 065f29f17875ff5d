//! The load generator: keeps requests under way, or begins them at a fixed rate, checks every answer, and reads the
//! proxy's CPU time at both ends. It runs in a process of its own, so that its work is nobody's but its own.

mod hold;
mod lane;
mod pace;
mod wire;

use std::cell::{Cell, RefCell};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use crate::cpu;
use crate::statistics::percentile;
use lane::Lane;
use pace::Pace;

/// How long an answer may take before the run has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// What to ask for. Its host is asked for at `gate`.
    pub url: String,
    /// The proxy.
    pub gate: SocketAddr,
    /// Whose certificates to trust, in PEM.
    pub authority: String,
    /// What is done over and over.
    pub work: Work,
    /// `Cookie` headers, used in turn.
    pub cookies: Vec<String>,
    /// How many are under way at any time; at a fixed rate, at most.
    pub under_way: u32,
    /// How many begin each second, whether the ones before were answered or not; else each begins as another ends.
    pub rate: Option<u32>,
    /// How long it is done before it counts, in milliseconds.
    pub warm_up: u64,
    /// How long it counts, in milliseconds.
    pub length: u64,
    /// The proxy's processes, for their CPU time.
    pub processes: Vec<u32>,
}

/// What is done over and over, and what a right answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A GET on an HTTP/1.1 connection that is kept; an answer of so many bytes.
    Get(usize),
    /// A POST of so many bytes on an HTTP/1.1 connection that is kept.
    Post(usize),
    /// A GET on one of the streams of an HTTP/2 connection that is kept; an answer of so many bytes.
    Stream(usize),
    /// A full TLS 1.3 handshake, a GET, the end of the connection; an answer of so many bytes.
    Connect(usize),
    /// A text of so many bytes on an open WebSocket, and the same back.
    Message(usize),
    /// Nothing: connections are opened, used once (an answer of so many bytes), and held until stdin ends.
    Hold(usize),
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
    /// Half of the answers took no longer, in microseconds; at a fixed rate, counted from when each was due.
    pub p50_us: f64,
    /// 99 of 100 answers took no longer.
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

/// Starts a process of its own that does `task`. Its stdin stays open.
///
/// # Errors
/// It does not start.
pub fn begin_apart(task: &Task) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--load")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    // the session goes by stdin: arguments are for everybody to see
    writeln!(child.stdin.as_mut().context("no stdin")?, "{}", serde_json::to_string(task)?)?;
    Ok(child)
}

/// Has a process of its own do `task`.
///
/// # Errors
/// An answer was wrong or did not come.
pub fn run_apart(task: &Task) -> Result<Outcome> {
    let child = begin_apart(task)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the load generator failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Does the task on stdin and writes the outcome to stdout.
///
/// # Errors
/// An answer was wrong or did not come.
pub async fn obey() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text)?;
    let task: Task = serde_json::from_str(&text)?;
    if matches!(task.work, Work::Hold(_)) {
        return LocalSet::new().run_until(hold::open(&task)).await;
    }
    let outcome = run(&task).await?;
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
    let opened = Lane::open(task).await?;
    let pace = task.rate.map(|rate| Rc::new(Pace::begin(rate)));
    let mut lanes = JoinSet::new();
    for lane in opened {
        lanes.spawn_local(drive(lane, Rc::clone(&tally), pace.clone()));
    }
    pause(task.warm_up, &mut lanes).await?;
    let (began, before) = (Instant::now(), cpu::spent(&task.processes)?);
    tally.counting.set(true);
    pause(task.length, &mut lanes).await?;
    tally.counting.set(false);
    let (seconds, after) = (began.elapsed().as_secs_f64(), cpu::spent(&task.processes)?);
    tally.ended.set(true);
    if let Some(pace) = &pace {
        pace.end();
    }
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

/// Does the work of one lane until the end, at its own pace or at the one that is set for all of them.
async fn drive(mut lane: Lane, tally: Rc<Tally>, pace: Option<Rc<Pace>>) -> Result<()> {
    while !tally.ended.get() {
        let began = match &pace {
            None => Instant::now(),
            Some(pace) => match pace.due().await {
                Some(due) => due,
                None => break,
            },
        };
        timeout(PATIENCE, lane.work()).await.context("no answer")??;
        tally.answers.set(tally.answers.get() + 1);
        if tally.counting.get() {
            tally.took.borrow_mut().push(u32::try_from(began.elapsed().as_micros())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use portcullis_harness::certificate::Authority;
    use portcullis_harness::upstream::Upstream;
    use url::Url;

    use super::*;

    fn task(upstream: &Upstream, path: &str, work: Work) -> Task {
        let url = Url::parse(&upstream.url()).unwrap().join(path).unwrap();
        Task {
            gate: url.socket_addrs(|| None).unwrap()[0],
            url: url.into(),
            authority: Authority::new().unwrap().pem().to_owned(),
            work,
            cookies: vec!["a=b".to_owned()],
            under_way: 3,
            rate: None,
            warm_up: 60_000,
            length: 60_000,
            processes: vec![std::process::id()],
        }
    }

    #[tokio::test]
    async fn an_answer_of_another_length_ends_the_run() {
        let upstream = Upstream::start().unwrap();
        let wrong = run(&task(&upstream, "/shown", Work::Get(1))).await.unwrap_err();
        assert!(wrong.to_string().contains("200") && wrong.to_string().contains("and not 1"), "{wrong:#}");
    }

    #[tokio::test]
    async fn a_refusal_ends_the_run() {
        let upstream = Upstream::start().unwrap();
        let wrong = run(&task(&upstream, "/status?code=403", Work::Get(0))).await.unwrap_err();
        assert!(wrong.to_string().contains("403"), "{wrong:#}");
    }

    #[tokio::test]
    async fn right_answers_are_counted_and_timed() {
        let upstream = Upstream::start().unwrap();
        for (path, work) in [
            ("/status?code=200", Work::Get("as it was asked".len())),
            ("/upload", Work::Post(5)),
            ("/ws", Work::Message(9)),
        ] {
            let task = Task { warm_up: 1, length: 100, ..task(&upstream, path, work) };
            let outcome = run(&task).await.unwrap();
            assert!(outcome.counted > 0 && outcome.answers >= outcome.counted, "{outcome:?}");
            assert!(outcome.p50_us > 0.0 && outcome.p99_us >= outcome.p50_us, "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn at_a_fixed_rate_what_waits_for_a_slow_answer_counts_from_when_it_was_due() {
        let upstream = Upstream::start().unwrap();
        // one lane and an answer that takes far longer than what lies between two of them
        let task = Task {
            under_way: 1,
            rate: Some(10_000),
            warm_up: 1,
            length: 300,
            ..task(&upstream, "/upload", Work::Post(4_000_000))
        };
        let outcome = run(&task).await.unwrap();
        let alone = outcome.seconds * 1e6 / f64::from(outcome.counted);
        assert!(outcome.p99_us > alone * 1.5 || outcome.counted < 3, "{outcome:?}");
    }
}
