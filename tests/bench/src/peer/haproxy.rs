//! haproxy: a plain proxy with its access log.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use portcullis_harness::certificate::Certificate;
use portcullis_harness::process::Process;

use super::{Kept, Log, Peer, Running, free_address, listening, logging_to};
use crate::row::Way;

/// Starts it in front of `upstream`.
///
/// # Errors
/// It does not start.
pub async fn start(
    binary: &Path,
    dir: &Path,
    way: Way,
    upstream: SocketAddr,
    certificate: &Certificate,
) -> Result<Running> {
    let (address, home) = (free_address()?, dir.join("haproxy"));
    std::fs::create_dir_all(&home)?;
    // certificate and key in one file, as haproxy wants them
    let pem = home.join("proxy.pem");
    std::fs::write(&pem, [std::fs::read(&certificate.cert)?, std::fs::read(&certificate.key)?].concat())?;
    let speech = match way {
        Way::Plain => String::new(),
        Way::Tls => format!(" ssl crt {} alpn http/1.1", pem.display()),
        Way::H2 => format!(" ssl crt {} alpn h2", pem.display()),
    };
    let threads = std::thread::available_parallelism()?;
    let (config, log) = (home.join("haproxy.cfg"), home.join("access.log"));
    // its reckoning of descriptors assumes an upstream connection for each client, and would refuse to start
    let text = format!(
        "global
  nbthread {threads}
  log stdout format raw local0
  maxconn 12000
  no strict-limits
defaults
  mode http
  log global
  option httplog
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
  timeout http-keep-alive 1h
  http-reuse always
frontend bench
  bind {address}{speech}
  default_backend upstream
backend upstream
  server one {upstream}
"
    );
    std::fs::write(&config, text)?;
    let mut command = logging_to(&log, binary)?;
    command.arg("-db").arg("-f").arg(&config);
    let process = Process::start("haproxy", command)?;
    listening("haproxy", address, &process).await?;
    Ok(Running {
        peer: Peer::Haproxy,
        gate: address,
        processes: vec![process.id()],
        // a line is lost where two threads come to write at one time: it does not wait for its log
        log: Log { file: log, mark: " upstream/one ", least: 80 },
        kept: Kept::Haproxy(process),
    })
}
