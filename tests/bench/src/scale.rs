//! What does not grow: CPU for each request with more routes, and with more open sessions. The same request, the same
//! path through the gateway, gateways side by side.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use portcullis_harness::gateway::Gateway;

use crate::figures::Table;
use crate::gateway::{self, Home};
use crate::load::{Task, Work};
use crate::memory::held_by;
use crate::peer::nginx::ANSWER_BYTES;
use crate::peer::{Log, Running};
use crate::row::{Row, Way};
use crate::stage::{self, Stage, measured};
use crate::{Options, people, say};

/// Routes of the policies.
const ROUTES: [usize; 3] = [1, 100, 10_000];
/// Sessions whose cookies are used in turn, however many there are.
const USED: usize = 100;
/// Sessions for each person in a large log.
const EACH: usize = 10;

/// Policies of more and more routes.
///
/// # Errors
/// A gateway does not start, or an answer is wrong.
pub async fn routes(stage: &Stage, options: &Options) -> Result<Table> {
    let note = "half of the others are of other hosts, half of the same host; the one that is asked for comes last";
    let subjects = ROUTES.map(|routes| format!("{routes} route{}", if routes == 1 { "" } else { "s" }));
    let mut table = Table::growing(Row::Routes.title(), note.to_owned(), subjects);
    let mut gateways = Vec::new();
    for (subject, routes) in ROUTES.into_iter().enumerate() {
        let home = stage.home(stage.kilobyte.address);
        let home = Home { dir: stage.dir.path().join(format!("routes-{routes}")), routes, ..home };
        // who is signed in there is signed in here
        copy(&stage.home(stage.kilobyte.address).state(), &home.state())?;
        let running = begin(&home).await.with_context(|| format!("{routes} routes"))?;
        table.add("idle without code, MB", 1, subject, held_by(&running.processes)? / 1e6);
        gateways.push((running, vec![stage.alice.clone()]));
    }
    in_turns(stage, options, &mut table, gateways).await
}

/// Few and many open sessions.
///
/// # Errors
/// A gateway does not start, or an answer is wrong.
pub async fn sessions(stage: &Stage, options: &Options) -> Result<Table> {
    let counts = [USED, options.sessions.max(2 * USED)];
    let note = format!("the sessions of {USED} people are used in turn; the others are open, {EACH} for each person");
    let mut table = Table::growing(Row::Sessions.title(), note, counts.map(|count| format!("{count} sessions")));
    let (mut gateways, mut idle) = (Vec::new(), Vec::new());
    for (subject, count) in counts.into_iter().enumerate() {
        let home = stage.home(stage.kilobyte.address);
        let home = Home { dir: stage.dir.path().join(format!("sessions-{count}")), ..home };
        let others = count - USED;
        if others > 0 {
            say(&format!("  writing a log with {others} open sessions\n"))?;
            people::write(&home.state(), others, others.div_ceil(EACH)).await?;
        }
        stage.idp.set_crowd();
        let gateway = home.start(true, &home.dir.join("sign-in.log")).await?;
        let mut cookies = Vec::new();
        for _ in 0..USED {
            let (status, cookie) = Home::sign_in(&gateway, &stage.authority).await?;
            ensure!(status == 200, "the sign-in ends with {status}");
            cookies.push(cookie);
        }
        gateway::stop(gateway).await?;
        let running = begin(&home).await.with_context(|| format!("{count} sessions"))?;
        let bytes = held_by(&running.processes)?;
        table.add("idle without code, MB", 1, subject, bytes / 1e6);
        idle.push(bytes);
        if let (Some(least), 1..) = (idle.first(), others) {
            let others = f64::from(u32::try_from(others)?);
            table.add("a session, bytes", 0, subject, (bytes - least) / others);
        }
        gateways.push((running, cookies));
    }
    in_turns(stage, options, &mut table, gateways).await
}

async fn in_turns(
    stage: &Stage,
    options: &Options,
    table: &mut Table,
    gateways: Vec<(Running, Vec<String>)>,
) -> Result<Table> {
    for round in 0..options.rounds {
        for place in 0..gateways.len() {
            let subject = (place + usize::try_from(round)?) % gateways.len();
            let (running, cookies) = gateways.get(subject).context("no such gateway")?;
            let task = stage.task(Way::Plain, "/", Work::Get(ANSWER_BYTES), options, running)?;
            let task = Task { cookies: cookies.clone(), ..task };
            let outcome = measured(&task, &running.log).await?;
            table.add("CPU, µs a request", 1, subject, outcome.cpu_us());
            table.add("requests a second", 0, subject, outcome.rate());
            let name = table.subjects.get(subject).map_or("", String::as_str);
            say(&format!("  {name:<20} {:6.1} µs a request\n", outcome.cpu_us()))?;
        }
    }
    for (running, _) in gateways {
        running.stop().await?;
    }
    Ok(table.clone())
}

async fn begin(home: &Home<'_>) -> Result<Running> {
    std::fs::create_dir_all(&home.dir)?;
    let log = Log { file: home.dir.join("requests.log"), mark: "\"message\":\"http-request\"", least: 100 };
    let gateway: Gateway = home.start(false, &log.file).await?;
    stage::running(gateway, log).await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
