//! A real, certified OpenID provider (`oidc-provider` from npm) with four people: alice, bob, carol and dora.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::Process;

/// How long Node may take to start.
const START: Duration = Duration::from_secs(30);

/// The running provider. Killed when dropped.
pub struct OidcProvider {
    process: Process,
    issuer: String,
}

impl OidcProvider {
    /// The only client's id.
    pub const CLIENT_ID: &'static str = "portcullis";
    /// The only client's secret.
    pub const CLIENT_SECRET: &'static str = "a secret that only a test knows: 0123456789";

    /// Starts it for a gateway whose authenticate component is at `authenticate` (scheme and host).
    ///
    /// # Errors
    /// Node or the packages are missing (`tests/run` installs them), or it does not start.
    pub async fn start(authenticate: &str) -> Result<Self> {
        Self::start_with(authenticate, Duration::from_secs(300)).await
    }

    /// As [`Self::start`], with access tokens that live for so long.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(authenticate: &str, access_token_life: Duration) -> Result<Self> {
        let tests = tests_dir();
        ensure!(tests.join("node_modules/oidc-provider").is_dir(), "oidc-provider is not installed: tests/run does it");
        let options = json!({
            "redirectUris": [format!("{authenticate}/oauth2/callback")],
            "postLogoutRedirectUris": [format!("{authenticate}/.pomerium/signed_out")],
            "clientId": Self::CLIENT_ID,
            "clientSecret": Self::CLIENT_SECRET,
            "accessTokenLife": access_token_life.as_secs(),
        });
        let mut command = Command::new("node");
        command.arg(tests.join("oidc/provider.mjs")).arg(options.to_string());
        let process = Process::start("oidc-provider", command)?;
        let issuer = process.stdout().find(START, |line| field(line, "ready")).await;
        let issuer = issuer.with_context(|| format!("oidc-provider does not start:\n{}", process.stderr().text()))?;
        Ok(Self { process, issuer })
    }

    /// Its issuer, without a slash at the end.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The requests it got so far, each as `METHOD /path`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.process.stdout().all().iter().filter_map(|line| field(line, "request")).collect()
    }

    /// The tokens it gave out so far: secrets that must turn up nowhere.
    #[must_use]
    pub fn issued(&self) -> Vec<String> {
        self.process.stdout().all().iter().filter_map(|line| field(line, "issued")).collect()
    }

    /// What it complained about.
    #[must_use]
    pub fn complaints(&self) -> String {
        self.process.stderr().text()
    }

    /// Ends it: from now on it is down.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill_9()
    }

    /// Stops its answers without closing its sockets: from now on it is slow, until [`Self::thaw`].
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.signal("STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.signal("CONT")
    }
}

fn field(line: &str, name: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    Some(line.get(name)?.as_str()?.to_owned())
}

/// The folder `tests/` of the workspace.
pub(crate) fn tests_dir() -> PathBuf {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    harness.parent().unwrap_or(harness).to_owned()
}
