//! The binary under test: started with a configuration or arguments, asked whether it is ready, killed, started again.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::process::{Lines, Process, eventually};

/// How long the gateway may take until it listens, and until it is ready.
const START: Duration = Duration::from_secs(30);
/// How long a command may take that ends by itself.
const COMMAND: Duration = Duration::from_secs(30);

/// Where the binary is; scenarios pass `env!("CARGO_BIN_EXE_portcullis")`.
#[derive(Debug, Clone)]
pub struct Launcher {
    binary: PathBuf,
}

/// A running gateway with a home of its own: configuration, data directory. Killed when dropped.
pub struct Gateway {
    process: Process,
    health: Option<SocketAddr>,
    launcher: Launcher,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    home: TempDir,
}

/// What a command that ended by itself has left.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Gateway {
    /// The gateway at this path.
    pub fn binary(path: impl Into<PathBuf>) -> Launcher {
        Launcher { binary: path.into() }
    }
}

impl Launcher {
    /// The program.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.binary
    }

    /// `portcullis run` with a configuration, ready.
    ///
    /// # Errors
    /// It does not start, or is not ready in time; the error holds what it said.
    pub async fn run(&self, config: &str) -> Result<Gateway> {
        let mut gateway = self.begin(config).await?;
        gateway.ready().await?;
        Ok(gateway)
    }

    /// `portcullis run` with a configuration, as far as its health listener.
    ///
    /// # Errors
    /// It does not start; the error holds what it said.
    pub async fn begin(&self, config: &str) -> Result<Gateway> {
        self.begin_with(config, &[]).await
    }

    /// As [`Self::begin`], with environment variables.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn begin_with(&self, config: &str, environment: &[(&str, &str)]) -> Result<Gateway> {
        let home = tempfile::tempdir()?;
        let file = home.path().join("config.yaml");
        std::fs::write(&file, config)?;
        let arguments = ["run", "-c", &file.to_string_lossy()].map(str::to_owned).to_vec();
        self.start(home, arguments, environment).await
    }

    /// The binary with these arguments and variables, for as long as it runs.
    ///
    /// # Errors
    /// It does not start; the error holds what it said.
    pub async fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Gateway> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.start(tempfile::tempdir()?, arguments, environment).await
    }

    /// A command that ends by itself: `validate`, `events`, or one that is refused.
    ///
    /// # Errors
    /// It does not end.
    pub async fn outcome(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Outcome> {
        let home = tempfile::tempdir()?;
        let mut process = Process::start("portcullis", self.command(home.path(), arguments, environment))?;
        let status = process.wait_exit(COMMAND).await?;
        let stdout = process.stdout().to_end(COMMAND).await?.join("\n");
        let stderr = process.stderr().to_end(COMMAND).await?.join("\n");
        Ok(Outcome { code: status.code(), stdout, stderr })
    }

    /// A command that goes on until it is dropped, such as `events --follow`.
    ///
    /// # Errors
    /// It does not start.
    pub fn follow(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Process> {
        // it needs a place to be at home no longer than it takes to read its variables
        let home = tempfile::tempdir()?;
        Process::start("portcullis", self.command(home.path(), arguments, environment))
    }

    async fn start(&self, home: TempDir, arguments: Vec<String>, environment: &[(&str, &str)]) -> Result<Gateway> {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let process = Process::start("portcullis", self.command(home.path(), &arguments, &environment))?;
        let mut gateway = Gateway { process, health: None, launcher: self.clone(), arguments, environment, home };
        gateway.find_health().await?;
        Ok(gateway)
    }

    /// Nothing of the test's own environment but the way to programs: variables are configuration.
    fn command<S: AsRef<str>>(&self, home: &Path, arguments: &[S], environment: &[(S, S)]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("STATE_DIRECTORY", home.join("state"))
            .envs(environment.iter().map(|(name, value)| (name.as_ref(), value.as_ref())));
        command
    }
}

impl Gateway {
    async fn find_health(&mut self) -> Result<()> {
        // what runs without a gateway (the demo's peers alone) has no health listener
        let line = |line: &str| address_after(line, "health on http://");
        if !self.arguments.iter().any(|argument| argument == "--peers-only") {
            self.health = Some(self.process.stderr().find(START, line).await.context("portcullis does not start")?);
        }
        Ok(())
    }

    /// Where it listens.
    ///
    /// # Errors
    /// It does not yet, and not within the time for a start.
    pub async fn address(&self) -> Result<SocketAddr> {
        let line = |line: &str| {
            address_after(line, "listening on https://").or_else(|| address_after(line, "listening on http://"))
        };
        self.process.stderr().find(START, line).await.context("portcullis does not listen")
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// It is not in time; the error holds what it said.
    pub async fn ready(&mut self) -> Result<()> {
        let outcome = eventually("ready", START, async || {
            let (status, body) = self.health("/readyz").await?;
            if status == 200 { Ok(Some(())) } else { bail!("{status} {body}") }
        });
        let outcome = outcome.await;
        outcome.with_context(|| format!("stderr:\n{}", self.process.stderr().text()))
    }

    /// Waits until it is not ready, and gives the reason it states.
    ///
    /// # Errors
    /// It stays ready.
    pub async fn unready(&self, deadline: Duration) -> Result<String> {
        let outcome = eventually("unready", deadline, async || {
            let (status, body) = self.health("/readyz").await?;
            let why = body.get("why").and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok((status == 503).then_some(why))
        });
        outcome.await
    }

    /// What its health listener says at `path`: status and body.
    ///
    /// # Errors
    /// It has none, or does not answer.
    pub async fn health(&self, path: &str) -> Result<(u16, Value)> {
        let address = self.health.context("no health listener")?;
        let (status, body) = get(address, path, "").await.context("the health listener")?;
        Ok((status, serde_json::from_str(&body).unwrap_or(Value::String(body))))
    }

    /// What its metrics listener says: status and body. `authorization` is sent as that header.
    ///
    /// # Errors
    /// It has none, or does not answer.
    pub async fn metrics(&self, authorization: Option<&str>) -> Result<(u16, String)> {
        let line = |line: &str| address_after(line, "metrics on http://");
        let address = self.process.stderr().find(START, line).await.context("no metrics listener")?;
        let header = authorization.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
        get(address, "/metrics", &header).await.context("the metrics listener")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it wrote to stdout: the request log, or what a command prints.
    #[must_use]
    pub fn stdout(&self) -> &Lines {
        self.process.stdout()
    }

    /// What it wrote to stderr: its own log.
    #[must_use]
    pub fn stderr(&self) -> &Lines {
        self.process.stderr()
    }

    /// Lines of the request log whose `message` is this one.
    #[must_use]
    pub fn request_log(&self, message: &str) -> Vec<Value> {
        let lines = self.process.stdout().all();
        let values = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        values.filter(|line| line.get("message").and_then(Value::as_str) == Some(message)).collect()
    }

    /// The log as `portcullis events` prints it, with the configuration this gateway runs on.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn events(&self) -> Result<Vec<Value>> {
        let outcome = self.command(&["events"]).await?;
        anyhow::ensure!(outcome.code == Some(0), "portcullis events: {outcome:?}");
        outcome.stdout.lines().map(|line| serde_json::from_str(line).context("not a JSON line")).collect()
    }

    /// A command that ends by itself, beside this gateway: with its configuration and its data directory.
    ///
    /// # Errors
    /// It does not end.
    pub async fn command(&self, arguments: &[&str]) -> Result<Outcome> {
        let config = self.config_file().to_string_lossy().into_owned();
        let state = self.state_dir().to_string_lossy().into_owned();
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-c", config.as_str()]).collect();
        self.launcher.outcome(&arguments, &[("STATE_DIRECTORY", state.as_str())]).await
    }

    /// The first `https` origin of this host name that it printed on stdout, as the demo does.
    ///
    /// # Errors
    /// It prints none in time.
    pub async fn printed_url(&self, host: &str) -> Result<Url> {
        let start = format!("https://{host}");
        let read = |line: &str| {
            let from = line.get(line.find(&start)?..)?;
            let end = from.find(|c: char| c.is_whitespace() || "\"')>,;".contains(c)).unwrap_or(from.len());
            Url::parse(from.get(..end)?).ok()?.join("/").ok()
        };
        self.process.stdout().find(START, read).await.with_context(|| format!("no address of {host} was printed"))
    }

    /// Its home; the data directory is in it.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its data directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// The configuration it was started with.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.home.path().join("config.yaml")
    }

    /// Puts another configuration in the place of the one it was started with, as one step.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn replace_config(&self, config: &str) -> Result<()> {
        let next = self.home.path().join("config.next");
        std::fs::write(&next, config)?;
        Ok(std::fs::rename(&next, self.config_file())?)
    }

    /// SIGSTOP: it stands still, and its connections stay.
    ///
    /// # Errors
    /// It has ended already.
    pub fn pause(&mut self) -> Result<()> {
        self.process.signal("STOP")
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It has ended already.
    pub fn resume(&mut self) -> Result<()> {
        self.process.signal("CONT")
    }

    /// SIGHUP: read the configuration again.
    ///
    /// # Errors
    /// It has ended already.
    pub fn hang_up(&mut self) -> Result<()> {
        self.process.signal("HUP")
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill_9(&mut self) -> Result<()> {
        self.process.kill_9()
    }

    /// Ctrl-C.
    ///
    /// # Errors
    /// It has ended already.
    pub fn interrupt(&mut self) -> Result<()> {
        self.process.interrupt()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It has not within `deadline`.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.process.wait_exit(deadline).await
    }

    /// Starts it again, ready, with the same arguments in the same home; kills it first if it still runs.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.restart_with(&self.arguments.clone()).await
    }

    /// As [`Self::restart`], with other arguments.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart_with(&mut self, arguments: &[String]) -> Result<()> {
        arguments.clone_into(&mut self.arguments);
        self.relaunch().await?;
        self.ready().await
    }

    /// As [`Self::restart`], as far as its health listener.
    ///
    /// # Errors
    /// It does not start.
    pub async fn relaunch(&mut self) -> Result<()> {
        self.process.kill_9()?;
        let command = self.launcher.command(self.home.path(), &self.arguments, &self.environment);
        self.process = Process::start("portcullis", command)?;
        self.find_health().await
    }
}

/// Status and body of an answer over plain HTTP. `headers` are whole lines.
async fn get(address: SocketAddr, path: &str, headers: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(Duration::from_secs(5), exchange).await.context("no answer")??;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
    Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
}

fn address_after(line: &str, words: &str) -> Option<SocketAddr> {
    let rest = line.get(line.find(words)? + words.len()..)?;
    let end = rest.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// A port that was free a moment ago, for what must know its port before it has it. Prefer 0 wherever that can be.
///
/// # Errors
/// The system has none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Whether any file below `dir` holds `needle`; the paths of those that do.
///
/// # Errors
/// A file cannot be read.
pub fn files_with(dir: &Path, needle: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        } else if path.is_file() {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if bytes.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                found.push(path);
            }
        }
    }
    Ok(found)
}
