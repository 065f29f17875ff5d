//! gRPC peers that nobody here has written: the servers and clients of Python's `grpcio`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::certificate::Certificate;
use crate::process::Process;

/// How long a peer may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Gone when dropped.
pub struct GrpcServer {
    process: Process,
    port: u16,
}

impl GrpcServer {
    /// Starts one, with TLS where a certificate is given.
    ///
    /// # Errors
    /// `grpcio` is not there.
    pub async fn start(certificate: Option<&Certificate>) -> Result<Self> {
        let mut command = python("server.py")?;
        if let Some(certificate) = certificate {
            command.arg("--tls").arg(&certificate.cert).arg(&certificate.key);
        }
        let process = Process::start("the gRPC server", command)?;
        let port = process.stdout().find(PATIENCE, |line| line.strip_prefix("gRPC on ")?.parse().ok()).await;
        let port = port.with_context(|| process.stderr().text())?;
        Ok(Self { process, port })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Waits until it says this.
    ///
    /// # Errors
    /// It does not.
    pub async fn says(&self, what: &str) -> Result<()> {
        self.process.stdout().find(PATIENCE, |line| (line == what).then_some(())).await
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill_9()
    }
}

/// Makes calls through a gateway on `port`, and gives what the client says of each.
///
/// # Errors
/// `grpcio` is not there, or the client fails.
pub async fn calls(port: u16, host: &str, ca: &Path, cookie: &str, calls: &[&str]) -> Result<Vec<String>> {
    let mut command = python("client.py")?;
    command.arg(port.to_string()).arg(host).arg(ca).arg(cookie).args(calls);
    let mut process = Process::start("the gRPC client", command)?;
    let status = process.wait_exit(PATIENCE * 2).await?;
    let said = process.stdout().to_end(PATIENCE).await?;
    if !status.success() {
        bail!("{said:?}\n{}", process.stderr().to_end(PATIENCE).await?.join("\n"));
    }
    Ok(said)
}

fn python(script: &str) -> Result<Command> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let packages = match std::env::var_os("GRPCIO").filter(|named| !named.is_empty()) {
        Some(named) => PathBuf::from(named),
        None => tests.join("../target/tools/grpc"),
    };
    if !packages.join("grpc").is_dir() {
        bail!("no grpcio: run tests/run, which gets it, or name the directory it is installed in as GRPCIO");
    }
    let mut command = Command::new("python3");
    command.arg(tests.join("grpc").join(script)).env("PYTHONPATH", packages).env("GRPC_VERBOSITY", "ERROR");
    Ok(command)
}
