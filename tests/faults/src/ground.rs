//! What is broken: three NATS servers, three gateways each with ways of its own to them, a provider, an upstream.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use portcullis_harness::certificate::{Authority, Certificate};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::{Gateway, Launcher};
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, ScriptedIdp};
use portcullis_harness::nats_cluster::{NatsCluster, Ways};
use portcullis_harness::upstream::Upstream;
use portcullis_harness::world::{APP, AUTHENTICATE, Configuration};
use tempfile::TempDir;

use crate::clock::{self, Clock};
use crate::crowd::{BOUND, Gate};

/// How many gateways there are.
pub const NODES: usize = 3;
/// Bytes that each server may store in all: so few that they can be used up in a moment.
pub const STORE: usize = 48 * 1024 * 1024;
/// Seconds that an access token lives: several generations come and go while something is broken.
pub const ACCESS_LIFE: u64 = 16;

/// One node.
pub struct Node {
    /// The gateway.
    pub gateway: Gateway,
    /// Its ways to the servers.
    pub ways: Ways,
    /// Its clock.
    pub clock: Clock,
}

/// All of it.
pub struct Ground {
    /// The provider.
    pub idp: ScriptedIdp,
    /// The servers.
    pub nats: NatsCluster,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// How further gateways are started.
    pub launcher: Launcher,
    /// A directory for whatever is needed.
    pub dir: TempDir,
    authority: Authority,
    certificate: Certificate,
    upstream: Upstream,
}

impl Ground {
    /// Three nodes that are ready.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn new(binary: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let certificate = authority.issue(dir.path(), "gateway", &["authenticate.localhost", "app.localhost"])?;
        let nats = NatsCluster::start_with(&format!("max_file_store: {STORE}")).await?;
        let (idp, upstream, launcher) = (ScriptedIdp::start(), Upstream::start()?, Gateway::binary(binary));
        idp.set_access_life(ACCESS_LIFE);
        let mut ground = Self { idp, nats, nodes: Vec::new(), launcher, dir, authority, certificate, upstream };
        let library = clock::library(ground.dir.path())?;
        for number in 0..NODES {
            let ways = ground.nats.ways()?;
            let clock = Clock::right(ground.dir.path().join(format!("clock-{number}")), &library)?;
            let environment = clock.environment();
            let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
            let config = ground.config(&ways.connection_string());
            let mut gateway = ground.launcher.begin_with(&config, &environment).await?;
            gateway.ready().await?;
            ground.nodes.push(Node { gateway, ways, clock });
        }
        Ok(ground)
    }

    /// A configuration on servers.
    #[must_use]
    pub fn config(&self, string: &str) -> String {
        let mut config = self.embedded();
        config.on_nats(string).set("databroker_storage_replicas", "3");
        config.text()
    }

    /// A configuration on servers whose log is of this user's account.
    ///
    /// # Errors
    /// The file that holds the password cannot be written.
    pub fn config_of(&self, user: &str) -> Result<String> {
        let file = self.dir.path().join(format!("connection-{user}"));
        std::fs::write(&file, self.nats.connection_string_of(user))?;
        let mut config = self.embedded();
        config.on_nats("").remove("databroker_storage_connection_string");
        config.set("databroker_storage_connection_string_file", &format!("'{}'", file.display()));
        config.set("databroker_storage_replicas", "3");
        Ok(config.text())
    }

    /// A configuration on the embedded log.
    #[must_use]
    pub fn embedded(&self) -> Configuration {
        let mut config = Configuration::default();
        config.set("address", "127.0.0.1:0");
        config.set("health_check_addr", "127.0.0.1:0");
        config.set("certificate_file", &format!("'{}'", self.certificate.cert.display()));
        config.set("certificate_key_file", &format!("'{}'", self.certificate.key.display()));
        config.set("authenticate_service_url", AUTHENTICATE);
        config.set("idp_provider", "oidc");
        config.set("idp_provider_url", &self.idp.issuer());
        config.set("idp_client_id", CLIENT_ID);
        config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
        config.set("pass_identity_headers", "true");
        config.set("max_staleness", &format!("{}s", BOUND.as_secs()));
        config.route(APP, &self.upstream.url(), "allow_any_authenticated_user: true");
        config
    }

    /// A configuration for an administrator's commands, whose ways to the servers nobody cuts.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn for_commands(&self) -> Result<PathBuf> {
        let file = self.dir.path().join("commands.yaml");
        std::fs::write(&file, self.config(&self.nats.connection_string()))?;
        Ok(file)
    }

    /// Somebody with a fresh browser that leads nowhere yet.
    ///
    /// # Errors
    /// None is known.
    pub fn stranger(&self) -> Result<Visitor> {
        Visitor::new(&self.authority.trust()?)
    }

    /// Where people find the nodes.
    ///
    /// # Errors
    /// One does not listen.
    pub async fn gates(&self) -> Result<Vec<Gate>> {
        try_join_all(self.nodes.iter().map(async |node| {
            let gate = Gate::default();
            gate.address.set(Some(node.gateway.address().await?));
            anyhow::Ok(gate)
        }))
        .await
    }

    /// Writes down what each gateway has said since it was started last.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_logs(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        for (number, node) in self.nodes.iter().enumerate() {
            std::fs::write(dir.join(format!("node-{number}.log")), node.gateway.stderr().text())?;
        }
        Ok(())
    }

    /// A node.
    ///
    /// # Errors
    /// There is none of this number.
    pub fn node(&mut self, number: usize) -> Result<&mut Node> {
        self.nodes.get_mut(number).context("no such node")
    }
}
