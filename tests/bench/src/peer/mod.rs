//! Who is measured: the gateway, and whom it is compared with; each is started in front of the same upstream.

pub mod envoy;
pub mod haproxy;
pub mod nginx;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use portcullis_harness::gateway::{Gateway, free_port};
use portcullis_harness::process::{Process, eventually};
use serde::Serialize;

use crate::gateway;
use envoy::Envoy;
use nginx::Nginx;

/// How long a peer may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where programs of the system are when PATH does not name the place.
const USUAL: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// The whole pipeline: session, policy, assertion, identity headers, access and decision log.
    Portcullis,
    /// Passes on and writes its access log.
    Nginx,
    /// The same, its log lines gathered as portcullis gathers them.
    NginxBuffered,
    /// Passes on and writes its access log.
    Haproxy,
    /// Envoy, which asks a native gRPC service about each request; the service does the same work as portcullis.
    Envoy,
}

impl Peer {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 5] = [Self::Portcullis, Self::Nginx, Self::NginxBuffered, Self::Haproxy, Self::Envoy];

    /// What the report calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::Nginx => "nginx",
            Self::NginxBuffered => "nginx, buffered log",
            Self::Haproxy => "haproxy",
            Self::Envoy => "Envoy + ext_authz",
        }
    }

    /// Whether it lets nobody in without a session.
    pub const fn is_guarded(self) -> bool {
        matches!(self, Self::Portcullis | Self::Envoy)
    }
}

/// A request log.
#[derive(Debug, Clone)]
pub struct Log {
    /// The file.
    pub file: PathBuf,
    /// What every line of it has that stands for one request.
    pub mark: &'static str,
    /// Lines that must be there, for each hundred requests.
    pub least: usize,
}

/// A peer that runs.
pub struct Running {
    /// Which one.
    pub peer: Peer,
    /// Where it listens.
    pub gate: SocketAddr,
    /// Its processes; what they have started counts too.
    pub processes: Vec<u32>,
    /// Its request log.
    pub log: Log,
    /// What keeps it alive.
    pub kept: Kept,
}

/// What keeps a peer alive; dropped, it ends.
pub enum Kept {
    /// The gateway.
    Gateway(Gateway),
    /// nginx.
    Nginx(#[expect(dead_code, reason = "held for its end")] Nginx),
    /// haproxy.
    Haproxy(#[expect(dead_code, reason = "held for its end")] Process),
    /// Envoy and its service.
    Envoy(#[expect(dead_code, reason = "held for its end")] Envoy),
}

impl Running {
    /// Ends it in order.
    ///
    /// # Errors
    /// The gateway does not end.
    pub async fn stop(self) -> Result<()> {
        match self.kept {
            Kept::Gateway(gateway) => gateway::stop(gateway).await,
            Kept::Nginx(_) | Kept::Haproxy(_) | Kept::Envoy(_) => Ok(()),
        }
    }
}

/// A program of the system: the named one, else the one on PATH or in a usual place.
///
/// # Errors
/// There is none; the error says how to get it, or how to do without.
pub fn find(named: Option<&Path>, name: &str) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).chain(USUAL.map(PathBuf::from)).map(|dir| dir.join(name));
    on_path.into_iter().find(|file| file.is_file()).with_context(|| {
        format!(
            "no {name} to compare with: install it (Debian: `apt-get install {name}`), name it with --{name} FILE, or \
             leave it out: --peers names those that are measured"
        )
    })
}

/// A program whose stdout is appended to a file: the shell only puts the file in its place, and becomes the program.
fn logging_to(log: &Path, program: &Path) -> Result<Command> {
    std::fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "log=$1; shift; exec \"$0\" \"$@\" >>\"$log\""]).arg(program).arg(log);
    Ok(command)
}

/// Waits until somebody listens.
async fn listening(name: &str, address: SocketAddr, process: &Process) -> Result<()> {
    let listening = eventually("listening", PATIENCE, async || {
        Ok(tokio::net::TcpStream::connect(address).await.is_ok().then_some(()))
    });
    listening.await.with_context(|| format!("{name} on {address}:\n{}", process.stderr().text()))
}

/// For what must be told its port before it has it.
fn free_address() -> Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))
}
