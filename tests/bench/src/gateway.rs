//! The gateway under measurement: found or built, started with a route that needs a person of a group.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use portcullis_harness::certificate::{Authority, Certificate};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, ScriptedIdp};
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{APP, AUTHENTICATE, Configuration};
use url::Url;

use crate::nginx::ANSWER_BYTES;
use crate::say;

/// The session cookie's name, as configured.
const COOKIE: &str = "_pomerium";
/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(5);

/// The gateway to measure: the named one, else the one beside this program. Run by cargo, it is brought up to date
/// first, so that nothing stale is measured.
///
/// # Errors
/// There is none, or it cannot be built.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let binary = std::env::current_exe()?.with_file_name("portcullis");
    if let (Some(cargo), Some(target)) = (std::env::var_os("CARGO"), binary.parent().and_then(Path::parent)) {
        say("building the gateway: cargo build --release -p portcullis\n")?;
        let mut build = Command::new(cargo);
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        build.args(["build", "--release", "-p", "portcullis", "--target-dir"]).arg(target);
        ensure!(build.status()?.success(), "the gateway cannot be built");
    }
    if !binary.is_file() {
        bail!("no gateway at {}: cargo build --release -p portcullis, or --gateway FILE", binary.display());
    }
    Ok(binary)
}

/// What every start of it shares: the log of events and the secrets, so that one sign-in is enough.
pub struct Home<'a> {
    /// The binary.
    pub binary: &'a Path,
    /// Where it keeps everything.
    pub dir: &'a Path,
    /// Its certificate, where it speaks TLS.
    pub certificate: &'a Certificate,
    /// The provider.
    pub idp: &'a ScriptedIdp,
    /// The upstream.
    pub upstream: SocketAddr,
}

impl Home<'_> {
    /// Starts it; its request log is appended to `log`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&self, tls: bool, log: &Path) -> Result<Gateway> {
        let config = self.dir.join(if tls { "tls.yaml" } else { "plain.yaml" });
        std::fs::write(&config, self.configuration(tls))?;
        File::options().create(true).append(true).open(log)?;
        // the shell only puts the file in place of stdout: it becomes the gateway
        let shell = Gateway::binary("/bin/sh");
        let [binary, config, log, state] =
            [self.binary, &config, log, &self.dir.join("state")].map(|path| path.to_string_lossy().into_owned());
        let arguments = ["-c", "exec \"$0\" run -c \"$1\" >>\"$2\"", &binary, &config, &log];
        let mut gateway = shell.run_with(&arguments, &[("STATE_DIRECTORY", &state)]).await?;
        gateway.ready().await?;
        Ok(gateway)
    }

    fn configuration(&self, tls: bool) -> String {
        let mut config = Configuration::default();
        config.set("address", "127.0.0.1:0");
        config.set("health_check_addr", "127.0.0.1:0");
        if tls {
            config.set("certificate_file", &format!("'{}'", self.certificate.cert.display()));
            config.set("certificate_key_file", &format!("'{}'", self.certificate.key.display()));
        } else {
            config.set("insecure_server", "true");
        }
        config.set("authenticate_service_url", AUTHENTICATE);
        config.set("cookie_name", COOKIE);
        config.set("idp_provider", "oidc");
        config.set("idp_provider_url", &self.idp.issuer());
        config.set("idp_client_id", CLIENT_ID);
        config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
        config.set("pass_identity_headers", "true");
        config.set("jwt_claims_headers", "[email, groups, name]");
        let policy = "policy:\n- allow:\n    and:\n    - groups:\n        has: admins";
        config.route(APP, &format!("http://{}", self.upstream), policy);
        config.text()
    }

    /// Signs the provider's person in, over TLS as browsers do; the `Cookie` header of the session.
    ///
    /// # Errors
    /// The way does not lead to the upstream's answer.
    pub async fn session(&self, authority: &Authority) -> Result<String> {
        let gateway = self.start(true, &self.dir.join("sign-in.log")).await?;
        let visitor = Visitor::new(&authority.trust()?)?.through(gateway.address().await?);
        let answer = sign_in(&visitor, &format!("{APP}/"), "alice").await?;
        let arrived = answer.status == 200 && answer.body.len() == ANSWER_BYTES;
        ensure!(arrived, "the sign-in ends with {} at {}", answer.status, answer.url);
        let cookie = visitor.cookies().at(&Url::parse(APP)?, COOKIE).context("a sign-in without a session cookie")?;
        stop(gateway).await?;
        Ok(format!("{}={}", cookie.name, cookie.value))
    }
}

/// Ends it in order.
///
/// # Errors
/// It does not end.
pub async fn stop(mut gateway: Gateway) -> Result<()> {
    gateway.interrupt()?;
    gateway.wait_exit(STOP).await?;
    Ok(())
}
