//! nginx: the one we compare with, and the upstream of both.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use portcullis_harness::certificate::Certificate;
use portcullis_harness::process::Process;

use super::{Kept, Log, Peer, Running, free_address, listening};
use crate::row::Way;

/// Bytes of the upstream's answer.
pub const ANSWER_BYTES: usize = 1024;
/// Where the upstream shows the identity headers it got.
pub const IDENTITY: &str = "/identity";
/// Where the upstream has [`LARGE_BYTES`].
pub const LARGE: &str = "/large";
/// Bytes of a large body.
pub const LARGE_BYTES: usize = 1_000_000;
/// How long nginx may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running nginx. Its workers end with it.
pub struct Nginx {
    process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// The upstream: the same kilobyte for every path but [`IDENTITY`] and [`LARGE`], no log.
    ///
    /// # Errors
    /// It does not start.
    pub async fn upstream(binary: &Path, dir: &Path) -> Result<Self> {
        let address = free_address()?;
        let body = "x".repeat(ANSWER_BYTES);
        let large = dir.join("large");
        std::fs::write(&large, "y".repeat(LARGE_BYTES))?;
        let large = large.display();
        let http = format!(
            "access_log off;
            server {{
                listen {address};
                location = {IDENTITY} {{
                    return 200 '$http_x_pomerium_claim_email $http_x_pomerium_jwt_assertion';
                }}
                location = {LARGE} {{ sendfile on; alias '{large}'; }}
                location / {{ return 200 '{body}'; }}
            }}"
        );
        Self::start(binary, dir, "upstream", address, &http).await
    }

    /// The one we compare with: passes everything to `upstream` over connections that it keeps, and writes its log,
    /// line by line or `gathered`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn proxy(
        binary: &Path,
        dir: &Path,
        way: Way,
        upstream: SocketAddr,
        certificate: &Certificate,
        gathered: bool,
    ) -> Result<Running> {
        let address = free_address()?;
        let name = if gathered { "nginx-buffered" } else { "nginx" };
        let log = dir.join(format!("{name}.log"));
        let mut http = String::new();
        let buffer = if gathered { " buffer=64k flush=100ms" } else { "" };
        writeln!(http, "access_log '{}' combined{buffer};", log.display())?;
        writeln!(http, "upstream kilobyte {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}")?;
        writeln!(http, "map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}")?;
        let speech = match way {
            Way::Plain => "",
            Way::Tls => " ssl",
            Way::H2 => " ssl http2",
        };
        writeln!(http, "server {{ listen {address}{speech};")?;
        if way.tls() {
            writeln!(http, "ssl_certificate '{}';", certificate.cert.display())?;
            writeln!(http, "ssl_certificate_key '{}';", certificate.key.display())?;
            writeln!(http, "ssl_protocols TLSv1.2 TLSv1.3;")?;
        }
        // bodies pass through, as everywhere else, and touch no disk
        writeln!(http, "client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;")?;
        // without the first two every request would open a connection of its own
        let kept = "proxy_http_version 1.1; proxy_set_header Connection $connection_upgrade; \
                    proxy_set_header Upgrade $http_upgrade;";
        writeln!(http, "location / {{ proxy_pass http://kilobyte; {kept} }} }}")?;
        let nginx = Self::start(binary, dir, name, address, &http).await?;
        Ok(Running {
            peer: if gathered { Peer::NginxBuffered } else { Peer::Nginx },
            gate: address,
            processes: vec![nginx.process.id()],
            log: Log { file: log, mark: "portcullis-bench", least: 100 },
            kept: Kept::Nginx(nginx),
        })
    }

    async fn start(binary: &Path, dir: &Path, name: &str, address: SocketAddr, http: &str) -> Result<Self> {
        let home = dir.join(name);
        std::fs::create_dir_all(&home)?;
        let config = home.join("nginx.conf");
        std::fs::write(&config, configuration(&home, http)?)?;
        let mut command = Command::new(binary);
        command.arg("-p").arg(&home).arg("-c").arg(&config).args(["-e", "stderr", "-g", "daemon off;"]);
        let nginx = Self { process: Process::start(name, command)?, address };
        listening(name, address, &nginx.process).await?;
        Ok(nginx)
    }
}

/// What both have in common: everything in `home`, a worker a core, connections kept for as long as they are used.
fn configuration(home: &Path, http: &str) -> Result<String> {
    let workers = std::thread::available_parallelism()?;
    let mut text = format!(
        "worker_processes {workers};
        pid '{home}/nginx.pid';
        error_log stderr warn;
        events {{ worker_connections 16384; }}
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
