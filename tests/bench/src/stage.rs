//! One comparison after another: the peers up, checked, measured in turns, down.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_actors::clock;
use portcullis_actors::keyring::handle::Handle;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_config::Secret;
use portcullis_harness::certificate::{Authority, Certificate};
use portcullis_harness::idp::{Person, ScriptedIdp};
use portcullis_harness::process::eventually;
use portcullis_harness::upstream::Upstream;
use portcullis_harness::world::APP;
use tempfile::TempDir;
use url::Url;

use crate::ext_authz::{Charge, Known};
use crate::figures::Table;
use crate::gateway::{self, COOKIE, Home};
use crate::load::{self, Outcome, Task, Work};
use crate::peer::nginx::{ANSWER_BYTES, LARGE, LARGE_BYTES, Nginx};
use crate::peer::{self, Kept, Log, Peer, Running};
use crate::people::SHARED_SECRET;
use crate::quota::Quota;
use crate::row::{Row, Way};
use crate::{Options, check, say};

/// How long requests are sent in each turn before they count: connections are open and caches warm by then.
const WARM_UP: Duration = Duration::from_millis(400);
/// How long log lines may take to their file.
const LINES: Duration = Duration::from_secs(15);
/// Bytes of a WebSocket's message.
const MESSAGE: usize = 128;
/// Large bodies under way.
const BODIES: u32 = 8;
/// How long a session of the service's lasts.
const LIFE: Duration = Duration::from_secs(12 * 60 * 60);

/// The programs.
pub struct Tools {
    /// The gateway.
    pub gateway: PathBuf,
    /// nginx; the upstream is one too.
    pub nginx: PathBuf,
    /// haproxy, if it is measured.
    pub haproxy: Option<PathBuf>,
    /// Envoy, if it is measured.
    pub envoy: Option<PathBuf>,
}

/// What stays up all the time: upstream and provider, and people who are signed in.
pub struct Stage {
    /// The programs.
    pub tools: Tools,
    /// Who signs certificates.
    pub authority: Authority,
    /// The certificate of everybody.
    pub certificate: Certificate,
    /// The provider.
    pub idp: ScriptedIdp,
    /// The upstream of most rows.
    pub kilobyte: Nginx,
    /// The upstream that echoes and takes large bodies.
    echo: Upstream,
    /// The keys of the house.
    pub keyring: Keyring,
    /// The `Cookie` header of somebody who may enter.
    pub alice: String,
    /// The same of somebody who may not.
    pub bob: String,
    /// What the service of Envoy is told.
    charge: PathBuf,
    /// Where everything is kept.
    pub dir: TempDir,
}

/// How a turn is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// As much as can be.
    Free,
    /// As much as can be, under the quota.
    Bounded,
    /// At a fixed rate.
    Paced,
}

impl Stage {
    /// Starts the upstreams and the provider, and signs people in.
    ///
    /// # Errors
    /// One of them does not start, or a sign-in fails.
    pub async fn set(tools: Tools) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let certificate = authority.issue(dir.path(), "proxy", &["app.localhost", "authenticate.localhost"])?;
        let kilobyte = Nginx::upstream(&tools.nginx, dir.path()).await?;
        let mut stage = Self {
            charge: dir.path().join("charge.json"),
            tools,
            authority,
            certificate,
            idp: ScriptedIdp::start(),
            kilobyte,
            echo: Upstream::start()?,
            keyring: Keyring::new(vec![Secret::new(STANDARD.decode(SHARED_SECRET)?)])?,
            alice: String::new(),
            bob: String::new(),
            dir,
        };
        stage.sign_in().await.context("the sign-in")?;
        Ok(stage)
    }

    async fn sign_in(&mut self) -> Result<()> {
        let alice = Person::default();
        let bob = Person {
            sub: "bob-0001".into(),
            email: "bob@example.com".into(),
            name: "Bob Example".into(),
            groups: vec!["staff".into()],
            sid: "sid-0002".into(),
            ..Person::default()
        };
        let mut sessions = Vec::new();
        let home = self.home(self.kilobyte.address);
        let gateway = home.start(true, &self.dir.path().join("sign-in.log")).await?;
        let (mut cookies, handles) = (Vec::new(), self.keyring.sealer(Purpose::Handle)?);
        for (person, wanted) in [(alice, 200), (bob, 403)] {
            self.idp.set_person(person.clone());
            let (status, cookie) = Home::sign_in(&gateway, &self.authority).await?;
            ensure!(status == wanted, "{}: {status} and not {wanted}", person.email);
            let (_, text) = cookie.split_once('=').context("a cookie without a value")?;
            let host = Url::parse(APP)?.host_str().unwrap_or_default().to_owned();
            let handle = Handle::open(&handles, &host, text, clock::now()).context("a cookie that is no handle")?;
            sessions.push(Known {
                session: handle.session,
                user: person.sub,
                email: person.email,
                name: person.name,
                groups: person.groups,
                expires_at: clock::now().plus(LIFE).millis(),
            });
            cookies.push(cookie);
        }
        gateway::stop(gateway).await?;
        let charge = Charge { secret: STANDARD.decode(SHARED_SECRET)?, cookie: COOKIE.to_owned(), sessions };
        std::fs::write(&self.charge, serde_json::to_vec(&charge)?)?;
        let mut cookies = cookies.into_iter();
        self.alice = cookies.next().context("nobody is signed in")?;
        self.bob = cookies.next().context("nobody is signed in")?;
        Ok(())
    }

    /// The gateway's home.
    pub fn home(&self, upstream: SocketAddr) -> Home<'_> {
        Home {
            binary: &self.tools.gateway,
            dir: self.dir.path().join("portcullis"),
            certificate: &self.certificate,
            idp: &self.idp,
            upstream,
            routes: 1,
        }
    }

    fn upstream(&self, row: Row) -> Result<SocketAddr> {
        if !matches!(row, Row::Websocket | Row::Upload) {
            return Ok(self.kilobyte.address);
        }
        let addresses = Url::parse(&self.echo.url())?.socket_addrs(|| None)?;
        addresses.first().copied().context("the upstream has no address")
    }

    /// Starts a peer.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&self, peer: Peer, way: Way, upstream: SocketAddr) -> Result<Running> {
        let (tools, dir, certificate) = (&self.tools, self.dir.path(), &self.certificate);
        let absent = || format!("no {} was found", peer.title());
        match peer {
            Peer::Portcullis => {
                let log = Log { file: dir.join("portcullis.log"), mark: "\"message\":\"http-request\"", least: 100 };
                let gateway = self.home(upstream).start(way.tls(), &log.file).await?;
                running(gateway, log).await
            }
            Peer::Nginx | Peer::NginxBuffered => {
                let gathered = peer == Peer::NginxBuffered;
                Nginx::proxy(&tools.nginx, dir, way, upstream, certificate, gathered).await
            }
            Peer::Haproxy => {
                let binary = tools.haproxy.as_deref().with_context(absent)?;
                peer::haproxy::start(binary, dir, way, upstream, certificate).await
            }
            Peer::Envoy => {
                let binary = tools.envoy.as_deref().with_context(absent)?;
                peer::envoy::start(binary, dir, way, upstream, certificate, &self.charge).await
            }
        }
    }

    /// Measures requests of a row, the peers in turns.
    ///
    /// # Errors
    /// A peer does not start, fails its check, gives a wrong answer, or leaves out a log line.
    pub async fn compare(&self, row: Row, options: &Options, quota: &Quota) -> Result<Table> {
        // how nginx gathers its lines is told apart where a request costs the least
        let peers = options.peers.iter().filter(|peer| **peer != Peer::NginxBuffered || row == Row::H1);
        let mut measured = Vec::new();
        for peer in peers.copied() {
            let started = self.start(peer, row.way(), self.upstream(row)?).await.with_context(|| peer.title())?;
            check::all(self, row, &started).await.with_context(|| format!("{} is not measured", peer.title()))?;
            measured.push(started);
        }
        let mut table =
            Table::new(row.title(), String::new(), measured.iter().map(|peer| peer.peer.title().to_owned()));
        let turns: &[Turn] = if row.in_depth() { &[Turn::Free, Turn::Bounded, Turn::Paced] } else { &[Turn::Free] };
        for round in 0..options.rounds {
            for turn in turns {
                // each begins a round in its turn, so that nobody always follows the same one
                for place in 0..measured.len() {
                    let subject = (place + usize::try_from(round)?) % measured.len();
                    let peer = measured.get(subject).context("no such peer")?;
                    if peer.peer == Peer::NginxBuffered && *turn != Turn::Free {
                        continue;
                    }
                    let outcome = self.turn(row, *turn, options, quota, peer).await;
                    let outcome = outcome.with_context(|| peer.peer.title())?;
                    self.enter(&mut table, row, *turn, options, subject, &outcome)?;
                }
            }
        }
        for peer in measured {
            peer.stop().await?;
        }
        Ok(table)
    }

    fn enter(
        &self,
        table: &mut Table,
        row: Row,
        turn: Turn,
        options: &Options,
        subject: usize,
        outcome: &Outcome,
    ) -> Result<()> {
        let unit = row.unit();
        match turn {
            Turn::Free => {
                table.add(&format!("CPU, µs a {unit}"), 1, subject, outcome.cpu_us());
                table.add(&format!("{} a second", row.units()), 0, subject, outcome.rate());
            }
            Turn::Bounded => table.add("under the quota, a second", 0, subject, outcome.rate()),
            Turn::Paced => {
                table.add(&format!("p50 at {} a second, µs", options.rate), 0, subject, outcome.p50_us);
                table.add(&format!("p99 at {} a second, µs", options.rate), 0, subject, outcome.p99_us);
            }
        }
        let name = table.subjects.get(subject).map_or("", String::as_str);
        say(&format!(
            "  {name:<20} {turn:?}: {:8.1} µs a {unit}, {:8.0} a second, p99 {:7.0} µs\n",
            outcome.cpu_us(),
            outcome.rate(),
            outcome.p99_us
        ))
    }

    async fn turn(&self, row: Row, turn: Turn, options: &Options, quota: &Quota, peer: &Running) -> Result<Outcome> {
        let (path, work, under_way) = match row {
            Row::TlsH2 => ("/", Work::Stream(ANSWER_BYTES), options.connections),
            Row::Connections => ("/", Work::Connect(ANSWER_BYTES), options.connections.div_ceil(2)),
            Row::Websocket => ("/ws", Work::Message(MESSAGE), options.connections),
            Row::Download => (LARGE, Work::Get(LARGE_BYTES), BODIES),
            Row::Upload => ("/upload", Work::Post(LARGE_BYTES), BODIES),
            _ => ("/", Work::Get(ANSWER_BYTES), options.connections),
        };
        let task = Task {
            under_way,
            rate: (turn == Turn::Paced).then_some(options.rate),
            ..self.task(row.way(), path, work, options, peer)?
        };
        if turn == Turn::Bounded {
            quota.put(&peer.processes)?;
        }
        // no browser's name is on a WebSocket's request; its path is in every log
        let log = if row == Row::Websocket { Log { mark: path, ..peer.log.clone() } } else { peer.log.clone() };
        let outcome = measured(&task, &log).await;
        if turn == Turn::Bounded {
            quota.release(&peer.processes)?;
        }
        outcome
    }

    /// A task of somebody who may enter.
    pub fn task(&self, way: Way, path: &str, work: Work, options: &Options, peer: &Running) -> Result<Task> {
        Ok(Task {
            url: url(way, path)?.into(),
            gate: peer.gate,
            authority: self.authority.pem().to_owned(),
            work,
            cookies: vec![self.alice.clone()],
            under_way: options.connections,
            rate: None,
            warm_up: u64::try_from(WARM_UP.as_millis())?,
            length: options.seconds * 1000,
            processes: peer.processes.clone(),
        })
    }
}

/// A gateway as a peer.
///
/// # Errors
/// It does not listen.
pub async fn running(gateway: portcullis_harness::gateway::Gateway, log: Log) -> Result<Running> {
    Ok(Running {
        peer: Peer::Portcullis,
        gate: gateway.address().await?,
        processes: vec![gateway.id()],
        log,
        kept: Kept::Gateway(gateway),
    })
}

/// Has a task done, and waits until the log has a line for everything: what is not written down costs nothing.
///
/// # Errors
/// An answer was wrong, or a line is missing.
pub async fn measured(task: &Task, log: &Log) -> Result<Outcome> {
    File::options().write(true).open(&log.file)?.set_len(0)?;
    let outcome = load::run_apart(task)?;
    // a WebSocket is one request, whatever is said on it
    let asked = if matches!(task.work, Work::Message(_)) { task.under_way } else { outcome.answers };
    let asked = (usize::try_from(asked)? * log.least).div_ceil(100);
    let written = eventually("every request in the log", LINES, async || {
        let lines = lines_with(&log.file, log.mark)?;
        if lines >= asked { Ok(Some(())) } else { bail!("{lines} lines of {asked}") }
    });
    written.await?;
    Ok(outcome)
}

/// Where the application is, as clients come to it.
///
/// # Errors
/// The path is none.
pub fn url(way: Way, path: &str) -> Result<Url> {
    let mut url = Url::parse(APP)?.join(path)?;
    if !way.tls() {
        // from https to http is a change that a URL takes
        let _ = url.set_scheme("http");
    }
    Ok(url)
}

fn lines_with(file: &Path, mark: &str) -> Result<usize> {
    let mut count = 0;
    for line in BufReader::new(File::open(file)?).lines() {
        count += usize::from(line?.contains(mark));
    }
    Ok(count)
}
