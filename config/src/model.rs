//! A configuration that was understood: every value decoded, every default filled in, names as in Pomerium's file.

use std::cmp::Ordering;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;

use crate::policy::Policy;
use crate::upstreams::{Upstream, UpstreamOptions};
use crate::{
    Action, Connections, Downstream, GroupsFilter, HeaderText, Pattern, Problem, Rewrites, RouteBounds, RouteTimeouts,
    Secret, Services, Staleness, Timeouts, Tunnel,
};

/// The whole configuration of a process.
#[derive(Debug, Clone)]
pub struct Config {
    /// `services`: the components that this process runs; all of them by default.
    pub services: Services,
    /// `address`: where the gateway listens; `:443` by default.
    pub address: ListenAddress,
    /// `insecure_server`: speak plain HTTP on `address` (TLS is ended in front of us).
    pub insecure_server: bool,
    /// `certificates`, `certificate` and `certificate_file` with their keys, in file order; may be empty only with
    /// `insecure_server` and without the proxy.
    pub certificates: Vec<Certificate>,
    /// What lies between clients and their requests.
    pub downstream: Downstream,
    /// `authenticate_service_url`: scheme, host and port of the authenticate component.
    pub authenticate_service_url: Url,
    /// `shared_secret`: 32 bytes, or absent (then made once and kept in the data directory).
    pub shared_secret: Option<Secret>,
    /// `cookie_secret`: 32 bytes, or absent (as above).
    pub cookie_secret: Option<Secret>,
    /// `signing_key`: PEM of one or more P-256 private keys, decoded; absent means derived from `shared_secret`.
    pub signing_key: Option<Secret>,
    /// The `cookie_*` keys.
    pub cookie: Cookie,
    /// `session_idle_timeout` (ours): a session that nobody uses for this long is over; absent means never.
    pub session_idle_timeout: Option<Duration>,
    /// The `idp_*` keys; absent only in a process that runs nothing but the proxy.
    pub idp: Option<IdentityProvider>,
    /// `databroker_storage_type` with its connection string.
    pub storage: Storage,
    /// `jwt_claims_headers`: (header, claim) pairs.
    pub jwt_claims_headers: Vec<(HeaderName, String)>,
    /// `jwt_issuer_format`.
    pub jwt_issuer_format: IssuerFormat,
    /// `pass_identity_headers`: the default for routes.
    pub pass_identity_headers: bool,
    /// `signout_redirect_url`.
    pub signout_redirect_url: Option<Url>,
    /// `programmatic_redirect_domain_whitelist`: the hosts that the handle of a program's sign-in may be sent to;
    /// `localhost`, which stands for this very machine, by default.
    pub program_hosts: Vec<String>,
    /// `set_response_headers`: Pomerium's three by default; empty with `disable: true`.
    pub set_response_headers: Vec<(HeaderName, HeaderValue)>,
    /// `log_level`.
    pub log_level: LogLevel,
    /// `health_check_addr`: `127.0.0.1:28080` by default.
    pub health_check_addr: ListenAddress,
    /// `metrics_address`: where metrics are told; nowhere by default.
    pub metrics_address: Option<ListenAddress>,
    /// `metrics_basic_auth`: `user:password`, decoded; without it everybody who reaches the address may read them.
    pub metrics_basic_auth: Option<Secret>,
    /// `max_staleness` (ours): the default for routes, and what our own pages go by; 5 min by default.
    pub max_staleness: Staleness,
    /// `timeout_read`, `timeout_write`, `timeout_idle` and `default_upstream_timeout`, as far as no route is concerned:
    /// what holds for the requests of a route is in [`Route::timeouts`].
    pub timeouts: Timeouts,
    /// `max_connections` and `max_connections_per_client` (ours).
    pub connections: Connections,
    /// `max_request_body` (ours), the default for routes: bytes; unbounded by default.
    pub max_request_body: Option<u64>,
    /// `routes`, in the order in which they are tried (see `reference/03` §3.10 and [`Route::order`]).
    pub routes: Vec<Route>,
    /// What works but should not be left so, each with its place; said once at start.
    pub warnings: Vec<Problem>,
}

/// `host:port`, the host possibly empty (every interface).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// An IP address or name; `None` for every interface.
    pub host: Option<String>,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let Some(host) = &self.host else { return false };
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Some(host) => write!(f, "{host}:{}", self.port),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// A certificate towards clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// As files.
    Files(CertificatePair),
    /// As it stands in the configuration.
    InPlace {
        /// PEM chain, leaf first.
        chain: Secret,
        /// PEM private key.
        key: Secret,
    },
}

/// A certificate chain and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePair {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// How our cookies look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// `cookie_name`: `_pomerium` by default; authenticate appends `_authenticate`.
    pub name: String,
    /// `cookie_domain`: absent means host only. Without a leading dot.
    pub domain: Option<String>,
    /// `cookie_http_only`: true by default.
    pub http_only: bool,
    /// `cookie_expire`: life of cookie and session; 14 h by default.
    pub expire: Duration,
    /// `cookie_same_site`: absent by default.
    pub same_site: Option<SameSite>,
}

/// The `SameSite` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the attribute's values")]
pub enum SameSite {
    Lax,
    Strict,
    None,
}

/// The OpenID provider.
#[derive(Debug, Clone)]
pub struct IdentityProvider {
    /// `idp_provider_url`: the issuer, exactly as its discovery document must name it.
    pub url: Url,
    /// `idp_provider_url` as it was written: `url` may add a slash that the issuer does not have.
    pub issuer: String,
    /// `idp_client_id`.
    pub client_id: String,
    /// `idp_client_secret`; absent for a public client.
    pub client_secret: Option<Secret>,
    /// `idp_scopes`: `openid profile email offline_access` by default.
    pub scopes: Vec<String>,
    /// `idp_request_params`, added to the authorization request.
    pub request_params: Vec<(String, String)>,
}

/// Where the log lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// `file` (and the default): SQLite in this directory; `None` means the data directory.
    File(Option<PathBuf>),
    /// `memory`: SQLite in a directory that goes away with the process.
    Memory,
    /// `nats`: JetStream.
    Nats(NatsStorage),
}

/// JetStream on NATS servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsStorage {
    /// `nats://host:port` or `tls://host:port`; nothing secret in them.
    pub servers: Vec<Url>,
    /// Who we are to them; `None` where nobody asks.
    pub login: Option<NatsLogin>,
    /// TLS with each of them; `None`: system roots, and only where an address or the server asks for TLS.
    pub tls: Option<NatsTls>,
    /// `databroker_storage_replicas`: on how many servers the streams lie that we make; 1 by default.
    pub replicas: usize,
    /// `databroker_storage_api_prefix`: where JetStream answers in our account, if that is not `$JS.API`: an account that
    /// reads what another keeps imports its questions under a name of its own.
    pub api_prefix: Option<String>,
}

impl NatsStorage {
    /// Servers that ask for nothing.
    #[must_use]
    pub const fn at(servers: Vec<Url>) -> Self {
        Self { servers, login: None, tls: None, replicas: 1, api_prefix: None }
    }
}

/// How we say who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsLogin {
    /// By the user and password of the connection string.
    Password {
        /// The user.
        user: Secret,
        /// The password.
        password: Secret,
    },
    /// `databroker_storage_credentials_file`: its text, a JWT and the seed that belongs to it.
    Credentials(Secret),
    /// `databroker_storage_nkey_file`: the seed in it.
    Nkey(Secret),
}

/// How TLS is spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsTls {
    /// `databroker_storage_ca_file`: trusted instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// `databroker_storage_cert_file` and `databroker_storage_key_file`: our own.
    pub client: Option<CertificatePair>,
    /// `databroker_storage_tls_skip_verify`.
    pub skip_verify: bool,
}

/// The form of the assertion's `iss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerFormat {
    /// `app.example.com`
    HostOnly,
    /// `https://app.example.com/`
    Uri,
}

/// How much the process says on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the levels")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One route: an external address, where it leads, and who may go there.
#[derive(Debug, Clone)]
pub struct Route {
    /// `id`, or one that stays as long as the route's sides: SHA-256 over `from`, `prefix`, `path`, `regex` and what
    /// becomes of a request (`to`, `redirect` or `response`), 16 hex digits. No two routes have the same.
    pub id: String,
    /// `name`.
    pub name: Option<String>,
    /// `stat_name`: what metrics call it instead of `name`.
    pub stat_name: Option<String>,
    /// `from`: scheme and host; the port only if one was written and is not the scheme's own.
    pub from: From,
    /// `to`, `redirect` or `response`.
    pub action: Action,
    /// `prefix`, `path` or `regex`.
    pub matcher: PathMatcher,
    /// `regex_priority_order`: the greater is tried first; 0 by default.
    pub regex_priority_order: i64,
    /// `prefix_rewrite`, `regex_rewrite_…`, `host_…rewrite_…`, `preserve_host_header`, `rewrite_response_headers`.
    pub rewrites: Rewrites,
    /// `timeout` and `idle_timeout`, and what the top level says.
    pub timeouts: RouteTimeouts,
    /// `max_request_body` and `rate_limit` (ours).
    pub bounds: RouteBounds,
    /// `set_request_headers`.
    pub set_request_headers: Vec<(HeaderName, HeaderText)>,
    /// `remove_request_headers`.
    pub remove_request_headers: Vec<HeaderName>,
    /// `set_response_headers`: over the global ones of the same name.
    pub set_response_headers: Vec<(HeaderName, HeaderValue)>,
    /// `allow_websockets`.
    pub allow_websockets: bool,
    /// `tls_skip_verify`.
    pub tls_skip_verify: bool,
    /// How its upstreams are reached, chosen and watched.
    pub upstream: UpstreamOptions,
    /// `pass_identity_headers`, or the global default.
    pub pass_identity_headers: bool,
    /// `jwt_issuer_format`, or the global default.
    pub jwt_issuer_format: IssuerFormat,
    /// `jwt_groups_filter`, its own and the global one together.
    pub groups_filter: GroupsFilter,
    /// `show_error_details`: who is denied is told which criteria were not met.
    pub show_error_details: bool,
    /// `max_staleness` (ours), or the global one.
    pub max_staleness: Staleness,
    /// `policy` and the shorthand keys. No rule at all denies everyone.
    pub policy: Policy,
}

impl Route {
    /// The upstreams of a route that forwards.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        match &self.action {
            Action::Forward(upstreams) => upstreams,
            Action::Redirect(_) | Action::Response(_) | Action::Tunnel(_) => &[],
        }
    }

    /// What a route from `tcp+https://` does.
    #[must_use]
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match &self.action {
            Action::Tunnel(tunnel) => Some(tunnel),
            Action::Forward(_) | Action::Redirect(_) | Action::Response(_) => None,
        }
    }

    /// The order in which routes are tried: by `from` ascending, then `path`, `regex_priority_order`, `regex` and
    /// `prefix` descending, then id; so on one host an exact path comes before everything else, and a longer prefix before
    /// the shorter one it begins with.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        let [path, regex, prefix] = self.matcher.parts();
        let [other_path, other_regex, other_prefix] = other.matcher.parts();
        (self.from.to_string().cmp(&other.from.to_string()))
            .then_with(|| other_path.cmp(path))
            .then_with(|| other.regex_priority_order.cmp(&self.regex_priority_order))
            .then_with(|| other_regex.cmp(regex))
            .then_with(|| other_prefix.cmp(prefix))
            .then_with(|| self.id.cmp(&other.id))
    }

    /// Whether its upstream is told who is signed in, in whichever header.
    #[must_use]
    pub fn needs_assertion(&self) -> bool {
        self.pass_identity_headers || self.set_request_headers.iter().any(|(_, text)| text.has_assertion())
    }
}

/// The external side of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Lower-case A-label host, without a trailing dot; an IPv6 address in brackets. `*.example.com` stands for every
    /// host with one label before `.example.com`.
    pub host: String,
    /// The port, only where one was written that is not the scheme's own; else any port matches.
    pub port: Option<u16>,
}

impl From {
    /// What follows the one label of a wildcard: `.example.com`.
    #[must_use]
    pub fn wildcard(&self) -> Option<&str> {
        self.host.strip_prefix('*')
    }

    /// Whether a host (canonical, without a port) is this one, or one that the wildcard stands for.
    #[must_use]
    pub fn takes_host(&self, host: &str) -> bool {
        match self.wildcard() {
            Some(suffix) => host.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && !label.contains('.')),
            None => self.host == host,
        }
    }
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Which paths of a host a route takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatcher {
    /// `prefix`: a string prefix, as in Pomerium; `/` by default.
    Prefix(String),
    /// `path`: the whole path.
    Path(String),
    /// `regex`: must match the whole path.
    Regex(Pattern),
}

impl PathMatcher {
    /// `path`, `regex` and `prefix`, those that are not set empty: what routes are put in order by.
    pub(crate) fn parts(&self) -> [&str; 3] {
        match self {
            Self::Path(path) => [path, "", ""],
            Self::Regex(regex) => ["", regex.as_str(), ""],
            Self::Prefix(prefix) => ["", "", prefix],
        }
    }
}
