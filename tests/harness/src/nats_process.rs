//! One `nats-server` process: found, started, listened to until it is ready, signalled.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, Result, bail};
use url::Url;

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct NatsProcess {
    child: Child,
    ports: Ports,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    client: u16,
    routes: Option<u16>,
}

impl NatsProcess {
    /// Starts it, and waits until it takes connections: of clients, and of other servers too if it `is_clustered`.
    pub(crate) fn start(mut command: Command, is_clustered: bool) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("nats-server does not start")?;
        let log = child.stderr.take().context("the server's log was not taken");
        match log.and_then(|log| until_ready(log, is_clustered)) {
            Ok(ports) => Ok(Self { child, ports }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    pub(crate) const fn client_port(&self) -> u16 {
        self.ports.client
    }

    pub(crate) const fn route_port(&self) -> Option<u16> {
        self.ports.routes
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.signal("TERM")?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal by name, without `SIG`.
    pub(crate) fn signal(&mut self, signal: &str) -> Result<()> {
        let id = self.child.id().to_string();
        // the shell's own `kill`: there may be no other
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &id]).status()?;
        anyhow::ensure!(sent.success(), "cannot signal nats-server");
        Ok(())
    }
}

impl Drop for NatsProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that runs the server.
pub(crate) fn command() -> Result<Command> {
    Ok(Command::new(binary()?))
}

pub(crate) fn url(scheme: &str, port: u16) -> Url {
    let mut url = Url::parse(&format!("{scheme}://127.0.0.1")).unwrap_or_else(|_| unreachable!("a scheme and a host"));
    let _ = url.set_port(Some(port));
    url
}

/// Reads the server's log until it says that it is ready, and on which ports; goes on reading beside us, since a full
/// pipe would stop the server.
fn until_ready(log: ChildStderr, is_clustered: bool) -> Result<Ports> {
    let mut lines = BufReader::new(log).lines();
    let (mut client, mut routes, mut is_ready) = (None, None, false);
    let mut said = Vec::new();
    let port = |line: &str, before: &str| {
        let (_, address) = line.split_once(before)?;
        address.rsplit(':').next()?.trim().parse().ok()
    };
    while let Some(line) = lines.next().transpose()? {
        client = client.or_else(|| port(&line, "Listening for client connections on "));
        routes = routes.or_else(|| port(&line, "Listening for route connections on "));
        is_ready = is_ready || line.contains("Server is ready");
        if is_ready && (routes.is_some() || !is_clustered) {
            std::thread::spawn(move || lines.for_each(drop));
            let client = client.context("the server did not say on which port it listens")?;
            return Ok(Ports { client, routes });
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
