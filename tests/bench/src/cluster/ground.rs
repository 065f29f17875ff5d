//! What a measurement of a cluster stands on: servers, gateways, provider, upstream, and browsers at each gateway.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use portcullis_actors::clock;
use portcullis_actors::databroker::store::{self, Store};
use portcullis_actors::keyring::handle::Handle;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_config::{NatsStorage, Secret, Storage};
use portcullis_events::SessionId;
use portcullis_harness::certificate::{Authority, Trust};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET};
use portcullis_harness::nats_cluster::{NatsCluster, SERVERS};
use portcullis_harness::relay::Relay;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::upstream::Upstream;
use portcullis_harness::world::{APP, AUTHENTICATE, Configuration};
use tempfile::TempDir;
use url::Url;

use super::provider::Provider;

/// How many gateways there are.
pub const GATEWAYS: usize = 3;
/// The session cookie's name, as configured.
const COOKIE: &str = "_pomerium";
/// The secrets of the cluster: bytes of this value.
const SECRET: u8 = 7;
/// The same as the configuration spells them: 32 bytes in base64.
const SECRET_TEXT: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// A cluster that is ready.
pub struct Ground {
    /// The provider.
    pub provider: Provider,
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// The ways from the last gateway to the servers, if it has any of its own.
    pub relays: Vec<Relay>,
    gates: Vec<SocketAddr>,
    nats: NatsCluster,
    trust: Trust,
    _upstream: Upstream,
    _dir: TempDir,
}

/// How a cluster is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// How long access tokens live, in seconds.
    pub access_life: u64,
    /// Whether the last gateway reaches the servers through relays.
    pub relayed: bool,
}

/// A person who is signed in.
pub struct Person {
    /// Their browser.
    pub browser: Visitor,
    /// Their session.
    pub session: SessionId,
    /// How long the sign-in took.
    pub took: Duration,
}

impl Ground {
    /// Starts everything.
    ///
    /// # Errors
    /// A part does not start.
    pub async fn start(binary: &Path, setup: Setup) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let certificate = authority.issue(dir.path(), "gateway", &["app.localhost", "authenticate.localhost"])?;
        let provider = Provider::start(setup.access_life)?;
        let upstream = Upstream::start()?;
        let nats = NatsCluster::start().await?;
        let mut config = Configuration::default();
        config.set("address", "127.0.0.1:0");
        config.set("health_check_addr", "127.0.0.1:0");
        config.set("metrics_address", "127.0.0.1:0");
        config.set("certificate_file", &format!("'{}'", certificate.cert.display()));
        config.set("certificate_key_file", &format!("'{}'", certificate.key.display()));
        config.set("authenticate_service_url", AUTHENTICATE);
        config.set("cookie_name", COOKIE);
        config.set("idp_provider", "oidc");
        config.set("idp_provider_url", provider.issuer());
        config.set("idp_client_id", CLIENT_ID);
        config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
        let policy = "allow_websockets: true\npolicy:\n- allow:\n    and:\n    - groups:\n        has: admins";
        config.route(APP, &upstream.url(), policy);
        let relays = if setup.relayed { relays(&nats)? } else { Vec::new() };
        let launcher = Gateway::binary(binary);
        let start = async |number: usize| {
            let relayed: Vec<_> = relays.iter().map(|relay| format!("nats://{}", relay.address())).collect();
            let is_relayed = number + 1 == GATEWAYS && setup.relayed;
            let string = if is_relayed { relayed.join(",") } else { nats.connection_string() };
            let mut config = config.clone();
            config.on_nats(&string).set("databroker_storage_replicas", "3");
            config.set("shared_secret", SECRET_TEXT).set("cookie_secret", SECRET_TEXT);
            launcher.run(&config.text()).await
        };
        let gateways = try_join_all((0..GATEWAYS).map(start)).await?;
        let gates = try_join_all(gateways.iter().map(Gateway::address)).await?;
        let trust = authority.trust()?;
        Ok(Self { provider, gateways, relays, gates, nats, trust, _upstream: upstream, _dir: dir })
    }

    /// Log and vault, as a program beside the gateways reaches them.
    ///
    /// # Errors
    /// They are away.
    pub async fn store(&self) -> Result<Store> {
        let storage = Storage::Nats(NatsStorage { replicas: SERVERS, ..NatsStorage::at(self.nats.urls()) });
        Ok(store::open_beside(&storage, self._dir.path()).await?)
    }

    /// What derives the keys that the gateways have.
    ///
    /// # Errors
    /// None is known.
    pub fn keyring() -> Result<Keyring> {
        Ok(Keyring::new(vec![Secret::new(vec![SECRET; 32])])?)
    }

    /// The processes of the servers.
    pub fn servers(&self) -> Vec<u32> {
        (0..SERVERS).filter_map(|number| self.nats.id(number)).collect()
    }

    /// Every gateway's listener.
    pub fn gates(&self) -> impl Iterator<Item = SocketAddr> {
        self.gates.iter().copied()
    }

    /// So many people, so many at a time, each by another gateway than the one before, in the order of their arrival.
    ///
    /// # Errors
    /// Somebody is not let in.
    pub async fn sign_in(&self, people: u32, at_a_time: u32) -> Result<Vec<Person>> {
        let gates = self.gates.iter().copied().cycle().take(usize::try_from(people)?);
        let arrivals = stream::iter(gates).map(|gate| self.arrive(gate));
        arrivals.buffer_unordered(usize::try_from(at_a_time)?).try_collect().await
    }

    /// Somebody with a fresh browser, from the first request to the application's answer.
    async fn arrive(&self, gate: SocketAddr) -> Result<Person> {
        let browser = Visitor::new(&self.trust)?.through(gate);
        let began = Instant::now();
        let page = sign_in(&browser, &format!("{APP}/"), "anybody").await?;
        let took = began.elapsed();
        ensure!(page.status == 200, "the sign-in ends with {} at {}", page.status, page.url);
        let cookie = browser.cookies().at(&Url::parse(APP)?, COOKIE).context("a sign-in without a session cookie")?;
        let sealer = Self::keyring()?.sealer(Purpose::Handle)?;
        let handle = Handle::open(&sealer, "app.localhost", &cookie.value, clock::now()).context("another handle")?;
        Ok(Person { browser, session: handle.session, took })
    }
}

fn relays(nats: &NatsCluster) -> Result<Vec<Relay>> {
    let to = |url: &Url| Relay::to(SocketAddr::from(([127, 0, 0, 1], url.port().context("no port")?)));
    nats.urls().iter().map(to).collect()
}
