//! A real NATS server with JetStream for one test: killed and started again at will, gone with its owner.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use url::Url;

/// A server on a port of its own, with a store of its own that every message is synced to.
#[derive(Debug)]
pub struct NatsServer {
    store: TempDir,
    port: u16,
    process: Option<Child>,
}

impl NatsServer {
    /// Starts one, and waits until it takes connections.
    ///
    /// # Errors
    /// There is no server to start (`tests/run` gets one), or it does not start.
    pub fn start() -> Result<Self> {
        let store = tempfile::tempdir()?;
        // -1: the server takes a free port
        let (process, port) = launch(store.path(), "-1")?;
        Ok(Self { store, port, process: Some(process) })
    }

    /// Where it takes connections.
    #[must_use]
    pub fn url(&self) -> Url {
        let mut url = Url::parse("nats://127.0.0.1").unwrap_or_else(|_| unreachable!("a constant"));
        let _ = url.set_port(Some(self.port));
        url
    }

    /// Where it keeps its files.
    #[must_use]
    pub fn store(&self) -> &Path {
        self.store.path()
    }

    /// Kills it as a crash would (SIGKILL).
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Kills it, if it runs, and starts it on the same store and port.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let (process, _) = launch(self.store.path(), &self.port.to_string())?;
        self.process = Some(process);
        Ok(())
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn launch(store: &Path, port: &str) -> Result<(Child, u16)> {
    let config = store.join("nats.conf");
    let files = store.join("jetstream");
    // a path as JSON is a path as the server's configuration language quotes it
    let files = serde_json::to_string(&files)?;
    fs::write(&config, format!("jetstream {{ store_dir: {files}, sync_interval: always }}\n"))?;
    let binary = binary()?;
    let mut process = Command::new(&binary)
        .args(["--addr", "127.0.0.1", "--port", port, "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start", binary.display()))?;
    let port = process.stderr.take().context("the server's log was not taken").and_then(until_ready);
    match port {
        Ok(port) => Ok((process, port)),
        Err(error) => {
            let _ = process.kill();
            let _ = process.wait();
            Err(error)
        }
    }
}

/// Reads the server's log until it says that it is ready, and says on which port; goes on reading beside us, since a
/// full pipe would stop the server.
fn until_ready(log: ChildStderr) -> Result<u16> {
    let mut lines = BufReader::new(log).lines();
    let mut port = None;
    let mut said = Vec::new();
    while let Some(line) = lines.next().transpose()? {
        if let Some((_, address)) = line.split_once("Listening for client connections on ") {
            port = address.rsplit(':').next().and_then(|port| port.trim().parse().ok());
        }
        if line.contains("Server is ready") {
            std::thread::spawn(move || lines.for_each(drop));
            return port.context("the server did not say on which port it listens");
        }
        said.push(line);
    }
    bail!("the server ended: {}", said.join("\n"))
}

fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("NATS_SERVER").filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fetched = workspace.join("target/tools/nats/bin/nats-server");
    if fetched.is_file() {
        return Ok(fetched);
    }
    bail!("no nats-server: run tests/run, which gets one, or name one in NATS_SERVER")
}
