//! The usual surroundings of a gateway under test: certificates, a real provider, an upstream, and routes to it.
//!
//! Public URLs name no port (`https://app.localhost`): a visitor is led to whatever port a gateway has, so that every
//! port is the system's choice and two gateways share one configuration.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use crate::certificate::{Authority, Certificate};
use crate::client::Visitor;
use crate::gateway::{Gateway, Launcher};
use crate::oidc::OidcProvider;
use crate::raw_upstream::RawUpstream;
use crate::upstream::Upstream;

/// The application that everybody signed in may see.
pub const APP: &str = "https://app.localhost";
/// The application of the group `admins` (alice).
pub const ADMIN: &str = "https://admin.localhost";
/// Bob's own application.
pub const BOB: &str = "https://bob.localhost";
/// The application that needs no sign-in.
pub const PUBLIC: &str = "https://public.localhost";
/// The host of a route that a test adds.
pub const RAW: &str = "https://raw.localhost";
/// Where people sign in.
pub const AUTHENTICATE: &str = "https://authenticate.localhost";

/// Everything around a gateway.
pub struct World {
    /// Who signs certificates.
    pub authority: Authority,
    /// The upstream of every route.
    pub upstream: Upstream,
    /// The provider.
    pub provider: OidcProvider,
    /// How gateways are started.
    pub launcher: Launcher,
    certificate: Certificate,
    _dir: TempDir,
}

impl World {
    /// Sets it up for the gateway at `binary`.
    ///
    /// # Errors
    /// The provider cannot be started.
    pub async fn new(binary: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let hosts =
            ["authenticate", "app", "admin", "bob", "public", "raw", "*.wild"].map(|host| format!("{host}.localhost"));
        let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let certificate = authority.issue(dir.path(), "gateway", &names)?;
        Ok(Self {
            authority,
            upstream: Upstream::start()?,
            provider: OidcProvider::start(AUTHENTICATE).await?,
            launcher: Gateway::binary(binary),
            certificate,
            _dir: dir,
        })
    }

    /// A world whose public route [`RAW`] leads to an upstream that answers with the bytes it is given.
    ///
    /// # Errors
    /// As [`Self::new`], or the gateway does not start.
    pub async fn with_raw(binary: &str) -> Result<(Self, RawUpstream, Gateway, Visitor)> {
        let world = Self::new(binary).await?;
        let raw = RawUpstream::start()?;
        let mut config = world.config();
        config.route(RAW, &raw.url(), "allow_public_unauthenticated_access: true");
        let gateway = world.launcher.run(&config.text()).await?;
        let visitor = world.visitor(&gateway).await?;
        Ok((world, raw, gateway, visitor))
    }

    /// The usual configuration, on the embedded log.
    #[must_use]
    pub fn config(&self) -> Configuration {
        let mut config = Configuration::default();
        config.set("address", "127.0.0.1:0");
        config.set("health_check_addr", "127.0.0.1:0");
        config.set("certificate_file", &quoted(&self.certificate.cert));
        config.set("certificate_key_file", &quoted(&self.certificate.key));
        config.set("authenticate_service_url", AUTHENTICATE);
        config.set("idp_provider", "oidc");
        config.set("idp_provider_url", self.provider.issuer());
        config.set("idp_client_id", OidcProvider::CLIENT_ID);
        config.set("idp_client_secret", &format!("'{}'", OidcProvider::CLIENT_SECRET));
        config.set("pass_identity_headers", "true");
        config.set("jwt_claims_headers", "[email, groups, name]");
        let to = self.upstream.url();
        config.route(APP, &to, "allow_any_authenticated_user: true\nallow_websockets: true");
        config.route(ADMIN, &to, "policy:\n- allow:\n    and:\n    - groups:\n        has: admins");
        config.route(BOB, &to, "allowed_users: [bob@example.com]");
        config.route(PUBLIC, &to, "allow_public_unauthenticated_access: true\nallow_websockets: true");
        config
    }

    /// A ready gateway with the usual configuration.
    ///
    /// # Errors
    /// It does not start.
    pub async fn gateway(&self) -> Result<Gateway> {
        self.launcher.run(&self.config().text()).await
    }

    /// Somebody with a fresh browser, led to this gateway.
    ///
    /// # Errors
    /// The gateway does not listen.
    pub async fn visitor(&self, gateway: &Gateway) -> Result<Visitor> {
        Ok(Visitor::new(&self.authority.trust()?)?.through(gateway.address().await?))
    }
}

/// A configuration file in the making.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    keys: Vec<(String, String)>,
    routes: String,
}

impl Configuration {
    /// What every gateway needs where nobody signs in: ports of the system's choice, and a provider that is not there.
    #[must_use]
    pub fn without_sign_in() -> Self {
        let mut config = Self::default();
        config.set("address", "127.0.0.1:0");
        config.set("health_check_addr", "127.0.0.1:0");
        config.set("authenticate_service_url", AUTHENTICATE);
        config.set("idp_provider", "oidc");
        config.set("idp_provider_url", "http://127.0.0.1:9");
        config.set("idp_client_id", "nobody");
        config
    }

    /// Sets a top-level key to a YAML value.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.keys.retain(|(known, _)| known != key);
        self.keys.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Removes a top-level key.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.keys.retain(|(known, _)| known != key);
        self
    }

    /// Adds a route with further keys, a YAML mapping at the margin.
    pub fn route(&mut self, from: &str, to: &str, keys: &str) -> &mut Self {
        self.route_without_upstream(from, &format!("to: {to}\n{keys}"))
    }

    /// Adds a route without an upstream, with these keys.
    pub fn route_without_upstream(&mut self, from: &str, keys: &str) -> &mut Self {
        // writing to a string cannot fail
        let _ = writeln!(self.routes, "- from: {from}");
        for line in keys.lines() {
            let _ = writeln!(self.routes, "  {line}");
        }
        self
    }

    /// Puts the log on a NATS server; the secrets that this requires are those of the test.
    pub fn on_nats(&mut self, url: &str) -> &mut Self {
        self.set("databroker_storage_type", "nats");
        self.set("databroker_storage_connection_string", url);
        self.set("shared_secret", "c2hhcmVkIHNlY3JldCBvZiAzMiBieXRlcyBmb3IgdXM=");
        self.set("cookie_secret", "Y29va2llIHNlY3JldCBvZiAzMiBieXRlcyBmb3IgdXM=")
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.keys {
            let _ = writeln!(text, "{key}: {value}");
        }
        let _ = write!(text, "routes:\n{}", self.routes);
        text
    }
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}
