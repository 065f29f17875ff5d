//! The gateway under measurement: found or built, started with a route that needs a person of a group, signed in at.

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
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{APP, AUTHENTICATE, Configuration};
use url::Url;

use crate::people::SHARED_SECRET;
use crate::say;

/// The session cookie's name, as configured.
pub const COOKIE: &str = "_pomerium";
/// How long a start may take: with many sessions, a log of them is read.
const READY: Duration = Duration::from_secs(300);
/// How long an orderly stop may take: with many sessions, a snapshot of them is written.
const STOP: Duration = Duration::from_secs(120);

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

/// A place for gateways that come one after another: log and secrets stay, so that one sign-in is enough.
pub struct Home<'a> {
    /// The binary.
    pub binary: &'a Path,
    /// Where it keeps everything.
    pub dir: PathBuf,
    /// Its certificate, where it speaks TLS.
    pub certificate: &'a Certificate,
    /// The provider.
    pub idp: &'a ScriptedIdp,
    /// The upstream.
    pub upstream: SocketAddr,
    /// Routes of the policy: the one that is asked for, which comes last, and others.
    pub routes: usize,
}

impl Home<'_> {
    /// Its data directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Starts it, ready; its request log is appended to `log`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&self, tls: bool, log: &Path) -> Result<Gateway> {
        std::fs::create_dir_all(&self.dir)?;
        let config = self.dir.join(if tls { "tls.yaml" } else { "plain.yaml" });
        std::fs::write(&config, self.configuration(tls))?;
        File::options().create(true).append(true).open(log)?;
        // the shell only puts the file in place of stdout: it becomes the gateway
        let shell = Gateway::binary("/bin/sh");
        let [binary, config, log, state] =
            [self.binary, &config, log, &self.state()].map(|path| path.to_string_lossy().into_owned());
        let arguments = ["-c", "exec \"$0\" run -c \"$1\" >>\"$2\"", &binary, &config, &log];
        let gateway = shell.run_with(&arguments, &[("STATE_DIRECTORY", &state)]).await?;
        let ready = eventually("ready", READY, async || {
            let (code, status) = gateway.health("/readyz").await?;
            if code == 200 { Ok(Some(())) } else { bail!("{code} {status}") }
        });
        ready.await.with_context(|| gateway.stderr().text())?;
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
        config.set("shared_secret", SHARED_SECRET);
        config.set("cookie_secret", SHARED_SECRET);
        config.set("cookie_name", COOKIE);
        config.set("idp_provider", "oidc");
        config.set("idp_provider_url", &self.idp.issuer());
        config.set("idp_client_id", CLIENT_ID);
        config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
        config.set("pass_identity_headers", "true");
        config.set("jwt_claims_headers", "[email, groups, name]");
        // all clients are at one address here
        config.set("max_connections_per_client", "1000000");
        config.set("max_connections", "1000000");
        let to = format!("http://{}", self.upstream);
        let policy = |group: &str| format!("policy:\n- allow:\n    and:\n    - groups:\n        has: {group}");
        // every other one is of the same host, so that neither hosts nor paths alone tell them apart
        for number in 1..self.routes {
            let group = policy(&format!("group-{number}"));
            if number % 2 == 0 {
                config.route(&format!("https://app-{number}.localhost"), &to, &group);
            } else {
                config.route(APP, &to, &format!("prefix: /part-{number}/\n{group}"));
            }
        }
        config.route(APP, &to, &format!("allow_websockets: true\n{}", policy("admins")));
        config.text()
    }

    /// Signs the provider's person in, over TLS as browsers do: the status that this ends with, and the `Cookie` header.
    ///
    /// # Errors
    /// The way does not lead to an answer, or leaves no session.
    pub async fn sign_in(gateway: &Gateway, authority: &Authority) -> Result<(u16, String)> {
        let visitor = Visitor::new(&authority.trust()?)?.through(gateway.address().await?);
        let answer = sign_in(&visitor, &format!("{APP}/"), "alice").await?;
        let cookie = visitor.cookies().at(&Url::parse(APP)?, COOKIE);
        let cookie = cookie.with_context(|| format!("no session: {} at {}", answer.status, answer.url))?;
        Ok((answer.status.as_u16(), format!("{}={}", cookie.name, cookie.value)))
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
