//! One comparison after another: both proxies up, checked, measured in turns, down.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::COOKIE;
use portcullis_harness::certificate::{Authority, Certificate};
use portcullis_harness::client::{Answer, Visitor};
use portcullis_harness::idp::ScriptedIdp;
use portcullis_harness::process::eventually;
use portcullis_harness::world::APP;
use tempfile::TempDir;
use url::Url;

use crate::gateway::{self, Home};
use crate::load::{self, Outcome, Task};
use crate::nginx::{ANSWER_BYTES, IDENTITY, Nginx};
use crate::report::{Measured, Round};
use crate::row::Row;
use crate::{Options, say};

/// How long requests are sent in each turn before they count: connections are open and caches warm by then.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long log lines may take to their file.
const LINES: Duration = Duration::from_secs(5);

/// What stays up all the time: upstream and provider, and somebody signed in.
pub struct Stage {
    nginx: PathBuf,
    gateway: PathBuf,
    authority: Authority,
    certificate: Certificate,
    idp: ScriptedIdp,
    upstream: Nginx,
    cookie: String,
    dir: TempDir,
}

/// A proxy that can be measured.
struct Subject {
    gate: SocketAddr,
    process: u32,
    log: PathBuf,
    /// What every line of the log has that stands for one request.
    mark: &'static str,
}

impl Stage {
    /// Starts the upstream and the provider, and signs in.
    ///
    /// # Errors
    /// One of them does not start, or the sign-in fails.
    pub async fn set(nginx: PathBuf, gateway: PathBuf) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let certificate = authority.issue(dir.path(), "proxy", &["app.localhost", "authenticate.localhost"])?;
        let upstream = Nginx::upstream(&nginx, dir.path()).await?;
        let idp = ScriptedIdp::start();
        let mut stage = Self { nginx, gateway, authority, certificate, idp, upstream, cookie: String::new(), dir };
        stage.cookie = stage.home().session(&stage.authority).await.context("the sign-in")?;
        Ok(stage)
    }

    fn home(&self) -> Home<'_> {
        Home {
            binary: &self.gateway,
            dir: self.dir.path(),
            certificate: &self.certificate,
            idp: &self.idp,
            upstream: self.upstream.address,
        }
    }

    /// Measures one row.
    ///
    /// # Errors
    /// A proxy does not start, an answer is wrong, or a log line is missing.
    pub async fn measure(&self, row: Row, options: &Options) -> Result<Measured> {
        let (nginx_log, gateway_log) = (self.dir.path().join("nginx.log"), self.dir.path().join("portcullis.log"));
        let upstream = self.upstream.address;
        let nginx = Nginx::proxy(&self.nginx, self.dir.path(), row, upstream, &self.certificate, &nginx_log).await?;
        let gateway = self.home().start(row.tls(), &gateway_log).await?;
        let nginx_subject =
            Subject { gate: nginx.address, process: nginx.id(), log: nginx_log, mark: "portcullis-bench" };
        let gateway_subject = Subject {
            gate: gateway.address().await?,
            process: gateway.id(),
            log: gateway_log,
            mark: "\"message\":\"http-request\"",
        };
        self.check_identity(row, &gateway_subject).await?;
        let mut rounds = Vec::new();
        for round in 0..=options.rounds {
            let nginx = self.turn(row, options, &nginx_subject).await.context("nginx")?;
            let portcullis = self.turn(row, options, &gateway_subject).await.context("portcullis")?;
            if round == 0 {
                continue;
            }
            let round = Round { nginx, portcullis };
            say(&format!(
                "  nginx {:6.1} µs, portcullis {:6.1} µs a request\n",
                round.nginx.cpu_us(),
                round.portcullis.cpu_us()
            ))?;
            rounds.push(round);
        }
        gateway::stop(gateway).await?;
        Ok(Measured::new(row, rounds))
    }

    /// What is measured is the whole pipeline: nobody passes without a session, and the upstream learns who it is.
    async fn check_identity(&self, row: Row, subject: &Subject) -> Result<()> {
        let ask = async |path: &str, cookie: Option<&str>| -> Result<Answer> {
            let mut visitor =
                Visitor::new(&self.authority.trust()?)?.through(subject.gate).accepting("application/json");
            if row.h2() {
                visitor = visitor.over_h2();
            }
            let mut request = http::Request::get(self.url(row, path)?.as_str());
            if let Some(cookie) = cookie {
                request = request.header(COOKIE, cookie);
            }
            visitor.send(request.body(Bytes::new())?).await
        };
        let stranger = ask("/", None).await?;
        ensure!(stranger.status == 401, "without a session: {}", stranger.status);
        let known = ask(IDENTITY, Some(&self.cookie)).await?;
        let text = known.text();
        let (email, assertion) = text.split_once(' ').unwrap_or_default();
        let complete = email == "alice@example.com" && assertion.split('.').count() == 3;
        ensure!(known.status == 200 && complete, "the upstream does not learn who it is: {}", known.status);
        Ok(())
    }

    fn url(&self, row: Row, path: &str) -> Result<Url> {
        let mut url = Url::parse(APP)?.join(path)?;
        if !row.tls() {
            // from https to http is a change that a URL takes
            let _ = url.set_scheme("http");
        }
        Ok(url)
    }

    async fn turn(&self, row: Row, options: &Options, subject: &Subject) -> Result<Outcome> {
        File::options().write(true).open(&subject.log)?.set_len(0)?;
        let outcome = load::run_apart(&Task {
            url: self.url(row, "/")?.into(),
            gate: subject.gate,
            authority: self.authority.pem().to_owned(),
            h2: row.h2(),
            cookie: self.cookie.clone(),
            bytes: ANSWER_BYTES,
            under_way: options.connections,
            warm_up: u64::try_from(WARM_UP.as_millis())?,
            length: options.seconds * 1000,
            process: subject.process,
        })?;
        let asked = usize::try_from(outcome.answers)?;
        let written = eventually("every request in the log", LINES, async || {
            Ok((lines_with(&subject.log, subject.mark)? >= asked).then_some(()))
        });
        written.await?;
        Ok(outcome)
    }
}

fn lines_with(file: &Path, mark: &str) -> Result<usize> {
    let mut count = 0;
    for line in BufReader::new(File::open(file)?).lines() {
        count += usize::from(line?.contains(mark));
    }
    Ok(count)
}
