//! nginx: the one we compare with, and the upstream of both.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use portcullis_harness::certificate::Certificate;
use portcullis_harness::gateway::free_port;
use portcullis_harness::process::{Process, eventually};

use crate::row::Row;

/// Bytes of the upstream's answer.
pub const ANSWER_BYTES: usize = 1024;
/// Where the upstream shows the identity headers it got.
pub const IDENTITY: &str = "/identity";
/// How long nginx may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where nginx is when PATH does not name the system's programs.
const USUAL: [&str; 2] = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"];

/// The nginx to use: the named one, else that of the system.
///
/// # Errors
/// There is none.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("nginx"));
    on_path
        .chain(USUAL.map(PathBuf::from))
        .find(|file| file.is_file())
        .context("no nginx to compare with: install it (Debian: `apt-get install nginx`) or name it with --nginx FILE")
}

/// A running nginx. Its workers end with it.
pub struct Nginx {
    process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// The upstream: the same kilobyte for every path but [`IDENTITY`], no log.
    ///
    /// # Errors
    /// It does not start.
    pub async fn upstream(binary: &Path, dir: &Path) -> Result<Self> {
        let address = free_address()?;
        let body = "x".repeat(ANSWER_BYTES);
        let http = format!(
            "access_log off;
            server {{
                listen {address};
                location = {IDENTITY} {{
                    return 200 '$http_x_pomerium_claim_email $http_x_pomerium_jwt_assertion';
                }}
                location / {{ return 200 '{body}'; }}
            }}"
        );
        Self::start(binary, dir, "upstream", address, &http).await
    }

    /// The one we compare with: passes everything to `upstream` over connections that it keeps, and writes `log`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn proxy(
        binary: &Path,
        dir: &Path,
        row: Row,
        upstream: SocketAddr,
        certificate: &Certificate,
        log: &Path,
    ) -> Result<Self> {
        let address = free_address()?;
        let mut http = String::new();
        let gathered = if row.buffered_log() { " buffer=64k flush=100ms" } else { "" };
        writeln!(http, "access_log '{}' combined{gathered};", log.display())?;
        writeln!(http, "upstream kilobyte {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}")?;
        let speech = match (row.tls(), row.h2()) {
            (false, _) => "",
            (true, false) => " ssl",
            (true, true) => " ssl http2",
        };
        writeln!(http, "server {{ listen {address}{speech};")?;
        if row.tls() {
            writeln!(http, "ssl_certificate '{}';", certificate.cert.display())?;
            writeln!(http, "ssl_certificate_key '{}';", certificate.key.display())?;
            writeln!(http, "ssl_protocols TLSv1.2 TLSv1.3;")?;
        }
        // without these two every request would open a connection of its own
        let kept = "proxy_http_version 1.1; proxy_set_header Connection '';";
        writeln!(http, "location / {{ proxy_pass http://kilobyte; {kept} }} }}")?;
        Self::start(binary, dir, "nginx", address, &http).await
    }

    async fn start(binary: &Path, dir: &Path, name: &str, address: SocketAddr, http: &str) -> Result<Self> {
        let home = dir.join(name);
        std::fs::create_dir_all(&home)?;
        let config = home.join("nginx.conf");
        std::fs::write(&config, configuration(&home, http)?)?;
        let mut command = Command::new(binary);
        command.arg("-p").arg(&home).arg("-c").arg(&config).args(["-e", "stderr", "-g", "daemon off;"]);
        let nginx = Self { process: Process::start(name, command)?, address };
        let listening = eventually("listening", PATIENCE, async || {
            Ok(tokio::net::TcpStream::connect(address).await.is_ok().then_some(()))
        });
        let listening = listening.await;
        listening.with_context(|| format!("{name} on {address}:\n{}", nginx.process.stderr().text()))?;
        Ok(nginx)
    }

    /// Its master process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// What both have in common: everything in `home`, a worker a core, connections kept for as long as they are used.
fn configuration(home: &Path, http: &str) -> Result<String> {
    let workers = std::thread::available_parallelism()?;
    let mut text = format!(
        "worker_processes {workers};
        pid '{home}/nginx.pid';
        error_log stderr warn;
        events {{ worker_connections 4096; }}
        http {{
            default_type text/plain;
            keepalive_requests 1000000000;
            keepalive_timeout 1h;
            {http}
        ",
        home = home.display()
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "{kind}_temp_path '{}/{kind}';", home.display())?;
    }
    text.push_str("}\n");
    Ok(text)
}

/// nginx must be told its port before it has it.
fn free_address() -> Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))
}

impl Drop for Nginx {
    /// A master that is killed leaves its workers behind: it is asked to end, and given the time to.
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        if self.process.signal("TERM").is_ok() {
            while matches!(self.process.is_running(), Ok(true)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
