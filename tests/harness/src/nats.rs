//! A real NATS server with JetStream for one test: killed and started again at will, gone with its owner.

use std::fs;
use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;
use url::Url;

use crate::nats_process::{self, NatsProcess};

/// A server on a port of its own, with a store of its own that every message is synced to.
#[derive(Debug)]
pub struct NatsServer {
    store: TempDir,
    scheme: &'static str,
    port: u16,
    process: Option<NatsProcess>,
}

impl NatsServer {
    /// Starts one, and waits until it takes connections.
    ///
    /// # Errors
    /// There is no server to start (`tests/run` gets one), or it does not start.
    pub fn start() -> Result<Self> {
        Self::start_with("nats", "")
    }

    /// As [`Self::start`], reached by URLs of this scheme, with more in its configuration (in the server's language).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(scheme: &'static str, more: &str) -> Result<Self> {
        let store = tempfile::tempdir()?;
        // a path as JSON is a path as the server's configuration language quotes it
        let files = serde_json::to_string(&store.path().join("jetstream"))?;
        let config = format!("jetstream {{ store_dir: {files}, sync_interval: always }}\n{more}\n");
        fs::write(store.path().join("nats.conf"), config)?;
        let mut server = Self { store, scheme, port: 0, process: None };
        // -1: the server takes a free port
        server.launch("-1")?;
        Ok(server)
    }

    fn launch(&mut self, port: &str) -> Result<()> {
        let config = self.store.path().join("nats.conf");
        let mut command = nats_process::command()?;
        command.args(["--addr", "127.0.0.1", "--port", port, "--config"]).arg(&config);
        let process = NatsProcess::start(command, false)?;
        self.port = process.client_port();
        self.process = Some(process);
        Ok(())
    }

    /// Where it takes connections.
    #[must_use]
    pub fn url(&self) -> Url {
        nats_process::url(self.scheme, self.port)
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
        self.process.take().map_or(Ok(()), NatsProcess::kill)
    }

    /// Kills it, if it runs, and starts it on the same store and port.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.launch(&self.port.to_string())
    }
}
