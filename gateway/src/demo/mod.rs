//! `portcullis demo`: a gateway with a provider and an upstream of its own, on loopback, to look at.

mod certificate;
mod configuration;
mod files;
mod greeting;
mod page;
mod people;
mod provider;
mod upstream;

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use actix_web::dev::ServerHandle;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future;
use portcullis_actors::{clock, keyring};
use portcullis_config::Secret;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use self::configuration::Setting;
use self::greeting::Place;
use self::provider::{Client, Provider};
use crate::cli::DemoOptions;
use crate::state_dir;

/// The demo's peers, running, and what the gateway between them needs.
pub struct Demo {
    /// The configuration to run on.
    pub config_text: String,
    /// Where that is written: in the data directory.
    pub config_path: PathBuf,
    /// What to print when the gateway is ready.
    pub greeting: String,
    peers: [ServerHandle; 2],
    dir: Directory,
}

/// Starts the peers of a gateway that listens, or will, at `gateway`, and writes its configuration.
///
/// # Errors
/// A port that is in use, a directory that cannot be written; the error names what to change.
pub async fn prepare(options: &DemoOptions, gateway: SocketAddr) -> Result<Demo> {
    if gateway.port() == 0 {
        bail!("--address needs a port: the provider must know where the gateway will be");
    }
    let dir = Directory::open(options.data_dir.as_deref())?;
    let path = dir.path()?;
    for secret in ["shared_secret", "cookie_secret"] {
        state_dir::secret(&path, secret)?;
    }
    let certificates = certificate::ensure(&path, &configuration::hosts(), clock::now())?;
    let (kept, [for_provider, for_upstream]) = Kept::open(&path)?;
    let (issuer, upstream) = (format!("http://{}", for_provider.local_addr()?), for_upstream.local_addr()?);
    let client = Client::new(kept.client_id, Secret::new(kept.client_secret), gateway.port())?;

    let setting =
        Setting { gateway, dir: &path, certificates: &certificates, issuer: &issuer, client: &client, upstream };
    let config_text = configuration::text(&setting)?;
    let config_path = path.join("portcullis.yaml");
    files::replace(&config_path, &config_text, files::PRIVATE)?;
    if let Some(out) = &options.config_out {
        write_out(out, &config_text)?;
    }
    let greeting = greeting::text(&Place {
        gateway,
        issuer: &issuer,
        dir: &path,
        kept: matches!(dir, Directory::Kept(_)),
        ca: &certificates.ca,
        config: options.config_out.as_deref().unwrap_or(&config_path),
        peers_only: options.peers_only,
    })?;
    let peers = [
        provider::start(for_provider, Provider::new(issuer, client, &path)?)?,
        upstream::start(for_upstream, gateway, &certificates.ca)?,
    ];
    Ok(Demo { config_text, config_path, greeting, peers, dir })
}

/// `--peers-only`: the peers alone, until the process is told to stop.
///
/// # Errors
/// As [`prepare`].
pub async fn peers_only(options: &DemoOptions) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let demo = prepare(options, options.address).await?;
    std::io::stdout().write_all(demo.greeting.as_bytes())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    demo.stop().await
}

impl Demo {
    /// Stops the peers, whatever they are in the middle of; a directory of the moment goes.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub async fn stop(self) -> Result<()> {
        future::join_all(self.peers.iter().map(|peer| peer.stop(false))).await;
        self.dir.close()
    }
}

/// The data directory.
enum Directory {
    /// Asked for, and kept.
    Kept(PathBuf),
    /// Ours, and gone with us.
    Momentary(TempDir),
}

impl Directory {
    fn open(asked: Option<&Path>) -> Result<Self> {
        match asked {
            Some(dir) => {
                state_dir::ensure(dir).context("--data-dir")?;
                Ok(Self::Kept(dir.to_owned()))
            }
            None => {
                let mut builder = tempfile::Builder::new();
                let dir = builder.prefix("portcullis-demo-").permissions(Permissions::from_mode(0o700)).tempdir();
                Ok(Self::Momentary(dir.context("cannot make a directory for the moment; give one with --data-dir")?))
            }
        }
    }

    /// Absolute, so that the configuration means the same wherever it is read.
    fn path(&self) -> Result<PathBuf> {
        let dir = match self {
            Self::Kept(dir) => dir,
            Self::Momentary(dir) => dir.path(),
        };
        fs::canonicalize(dir).with_context(|| format!("cannot find {}", dir.display()))
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::Momentary(dir) => {
                let path = dir.path().to_owned();
                dir.close().with_context(|| format!("cannot remove {}", path.display()))
            }
        }
    }
}

/// What must be the same the next time, or nobody would stay signed in: `demo.json`.
#[derive(Serialize, Deserialize)]
struct Kept {
    provider_port: u16,
    upstream_port: u16,
    client_id: String,
    client_secret: String,
}

impl Kept {
    /// What was kept in this directory, with the listeners of provider and upstream; made if there is nothing.
    fn open(dir: &Path) -> Result<(Self, [TcpListener; 2])> {
        let path = dir.join("demo.json");
        if path.exists() {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let kept: Self = serde_json::from_str(&text).with_context(|| {
                format!("{} is not the demo's; remove it or give another --data-dir", path.display())
            })?;
            let listen = |peer: &str, port: u16| {
                TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
                    format!(
                        "the demo's {peer} cannot listen on 127.0.0.1:{port}, its port in {}; stop what uses the \
                         port, or give another --data-dir",
                        path.display()
                    )
                })
            };
            let listeners = [listen("provider", kept.provider_port)?, listen("upstream", kept.upstream_port)?];
            return Ok((kept, listeners));
        }
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1");
        let listeners = [listen()?, listen()?];
        let [provider, upstream] = &listeners;
        let secret: [u8; 32] = keyring::random()?;
        let kept = Self {
            provider_port: provider.local_addr()?.port(),
            upstream_port: upstream.local_addr()?.port(),
            client_id: "portcullis".to_owned(),
            client_secret: URL_SAFE_NO_PAD.encode(secret),
        };
        files::replace(&path, &format!("{}\n", serde_json::to_string_pretty(&kept)?), files::PRIVATE)?;
        Ok((kept, listeners))
    }
}

/// `--config-out` may be any file, `/dev/stdout` too: written in place.
fn write_out(path: &Path, text: &str) -> Result<()> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(files::PRIVATE).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("--config-out: cannot write {}", path.display()))
}

#[cfg(test)]
mod tests;
