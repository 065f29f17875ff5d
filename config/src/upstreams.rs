//! How a route's upstreams are reached, chosen, watched and spared: the values, and their defaults as Envoy has them.

mod decode;
mod health;
mod outlier;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use http::Method;
use url::Url;

use crate::Secret;

pub use decode::{UpstreamDefaults, addresses, defaults, options};

/// One address of `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `http` or `https` with the host, the port and the path that is put before the request's; `localhost` where the
    /// upstream is a socket.
    pub url: Url,
    /// `unix:///path` and `https+unix:///path`: the socket.
    pub socket: Option<PathBuf>,
    /// `h2c`: HTTP/2 without TLS.
    pub h2c: bool,
    /// Its share of the requests, from 1.
    pub weight: u32,
}

impl Upstream {
    /// A server of weight 1 that speaks HTTP/1.1, or what TLS agrees upon.
    #[must_use]
    pub const fn at(url: Url) -> Self {
        Self { url, socket: None, h2c: false, weight: 1 }
    }

    /// What tells it from every other address, whatever its weight.
    #[must_use]
    pub fn identity(&self) -> String {
        match &self.socket {
            Some(socket) => format!("{}+unix://{}", self.url.scheme(), socket.display()),
            None if self.h2c => format!("h2c{}", self.url.as_str().trim_start_matches("http")),
            None => self.url.as_str().to_owned(),
        }
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }
}

/// What a route says of its upstreams, with what it takes from the top level filled in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UpstreamOptions {
    /// `load_balancing_policy`.
    pub balancing: Balancing,
    /// The `tls_*` keys of the upstream side, but for `tls_skip_verify`.
    pub tls: UpstreamTls,
    /// `health_checks`.
    pub health_checks: Vec<HealthCheck>,
    /// `outlier_detection`.
    pub outlier_detection: Option<OutlierDetection>,
    /// `healthy_panic_threshold`: with fewer healthy ones than this share (0 to 100), all are taken for healthy.
    pub healthy_panic_threshold: Percent,
    /// `circuit_breaker_thresholds`.
    pub thresholds: Thresholds,
    /// The `dns_*` keys.
    pub dns: Dns,
}

/// A share from 0 to 100; 50 where it is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

impl Default for Percent {
    fn default() -> Self {
        Self(50)
    }
}

/// How one of several is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balancing {
    /// One after another, by weight.
    #[default]
    RoundRobin,
    /// The less busy of two taken at random.
    LeastRequest,
    /// At random, by weight.
    Random,
    /// By session, on a ring.
    RingHash,
    /// By session, in a table.
    Maglev,
}

impl Balancing {
    /// Whether the session decides.
    #[must_use]
    pub const fn is_by_session(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// How TLS is spoken with upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// `tls_upstream_server_name` or `tls_server_name`: asked for and verified instead of the host of `to`.
    pub server_name: Option<String>,
    /// Who is trusted.
    pub authorities: Authorities,
    /// `tls_client_cert` and `tls_client_key`: our own.
    pub client: Option<ClientCertificate>,
}

/// Who signs the certificates of upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Authorities {
    /// The system's.
    #[default]
    System,
    /// `certificate_authority`: the system's and these.
    Besides(Pem),
    /// `tls_custom_ca`: these and nobody else.
    Only(Pem),
}

/// Certificates in PEM that were read and found good. Printed as their hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(Arc<[u8]>);

impl Pem {
    pub(crate) fn new(text: &[u8]) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pem(")?;
        for byte in digest::digest(&digest::SHA256, &self.0).as_ref().iter().take(8) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// A certificate of our own with its key, found to belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM chain, leaf first.
    pub chain: Pem,
    /// PEM private key.
    pub key: Secret,
}

/// Limits of one route's upstreams together; beyond them requests are refused with 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// `max_connections`
    pub connections: u32,
    /// `max_pending_requests`: requests that wait for a connection.
    pub pending_requests: u32,
    /// `max_requests`: requests under way.
    pub requests: u32,
    /// `max_retries`: second attempts under way.
    pub retries: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { connections: 1024, pending_requests: 1024, requests: 1024, retries: 3 }
    }
}

/// How names are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dns {
    /// `dns_lookup_family`
    pub family: Family,
    /// `dns_refresh_rate`
    pub refresh: Duration,
    /// `dns_failure_refresh_rate`: after a look-up that failed.
    pub failure_refresh: Duration,
    /// `dns_query_timeout`
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        let five = Duration::from_secs(5);
        Self { family: Family::V4Preferred, refresh: five, failure_refresh: five, timeout: five }
    }
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `V4_PREFERRED`: IPv6 only where there is no IPv4.
    V4Preferred,
    /// `AUTO`: IPv4 only where there is no IPv6.
    V6Preferred,
    /// `V4_ONLY`
    V4Only,
    /// `V6_ONLY`
    V6Only,
    /// `ALL`
    All,
}

/// One active check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Pause between two checks.
    pub interval: Duration,
    /// Pause between two checks of one that is not healthy.
    pub unhealthy_interval: Duration,
    /// At most so much is added to the pause, at random.
    pub interval_jitter: Duration,
    /// The first check waits up to this long.
    pub initial_jitter: Duration,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_threshold: u32,
    /// What is asked.
    pub probe: Probe,
}

/// What an active check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `http_health_check`
    Http {
        /// Path and query.
        path: String,
        /// `Host`; that of `to` where it is not said.
        host: Option<String>,
        /// The method.
        method: Method,
        /// Statuses that are good, each from one to before the other; 200 alone where none are said.
        expected: Vec<(u16, u16)>,
    },
    /// `tcp_health_check`
    Tcp {
        /// What is sent.
        send: Vec<u8>,
        /// What must come, one after another, perhaps with something between.
        receive: Vec<Vec<u8>>,
    },
    /// `grpc_health_check` (`grpc.health.v1.Health/Check`)
    Grpc {
        /// The service that is asked about; the server as a whole where it is empty.
        service: String,
        /// `:authority`; that of `to` where it is not said.
        authority: Option<String>,
    },
}

/// How upstreams are judged by their answers. Names, meanings and defaults are Envoy's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Envoy's, and are described there")]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_percent: u32,
    pub enforcing_consecutive_5xx: u32,
    pub enforcing_success_rate: u32,
    pub success_rate_minimum_hosts: u32,
    pub success_rate_request_volume: u32,
    pub success_rate_stdev_factor: u32,
    pub consecutive_gateway_failure: u32,
    pub enforcing_consecutive_gateway_failure: u32,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failure: u32,
    pub enforcing_consecutive_local_origin_failure: u32,
    pub enforcing_local_origin_success_rate: u32,
    pub failure_percentage_threshold: u32,
    pub enforcing_failure_percentage: u32,
    pub enforcing_failure_percentage_local_origin: u32,
    pub failure_percentage_minimum_hosts: u32,
    pub failure_percentage_request_volume: u32,
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    pub successful_active_health_check_uneject_host: bool,
    pub always_eject_one_host: bool,
}
