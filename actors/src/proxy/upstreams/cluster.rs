//! The upstreams of one route together: who is there, who is next, and how much may be under way.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use portcullis_config::limits::UPSTREAM_REPORTS;
use portcullis_config::upstreams::{Upstream, UpstreamOptions};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{Semaphore, mpsc};
use url::Host;

use super::choice::{Candidate, Choice};
use super::member::{Address, Member};
use super::outlier::{Outcome, Suspicion};
use super::tls::{Configurations, Terms};
use crate::metrics::UpstreamMetrics;

/// What a route says of its upstreams: with other settings it is another cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `to`
    pub to: Vec<Upstream>,
    /// The rest.
    pub options: UpstreamOptions,
    /// `tls_skip_verify`
    pub skip_verify: bool,
    /// HTTP/1.1 alone, as connections may become something else.
    pub http1: bool,
}

/// How TLS is spoken with the members of one address of `to`.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The configuration.
    pub config: Arc<ClientConfig>,
    /// Whose certificate it must be.
    pub name: ServerName<'static>,
}

/// What a member was seen to do, for whoever minds the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) enum Report {
    /// Its answers are suspicious.
    Suspicious(u64, Suspicion),
    /// An active check (by its place) has ended.
    Checked(u64, usize, bool),
}

/// The upstreams of a route.
pub struct Cluster {
    /// What was said.
    pub settings: Settings,
    view: ArcSwap<View>,
    turn: AtomicU64,
    tls: Vec<Option<Tls>>,
    connections: Arc<Semaphore>,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    reports: mpsc::Sender<Report>,
    /// For whoever minds it; taken once.
    heard: Mutex<Option<mpsc::Receiver<Report>>>,
    metrics: Arc<UpstreamMetrics>,
}

/// What is chosen from.
pub struct View {
    /// Everybody.
    pub members: Vec<Arc<Member>>,
    /// Those that requests go to.
    usable: Vec<Arc<Member>>,
    choice: Choice,
}

/// Why a request goes to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Nobody is healthy.
    NoneHealthy,
    /// `max_requests`
    Requests,
    /// `max_pending_requests`
    Pending,
}

/// A request under way to a member.
#[derive(Debug)]
pub struct Underway {
    cluster: Arc<Cluster>,
    member: Arc<Member>,
}

/// One of a bounded number, given back when it is dropped.
pub struct Slot {
    cluster: Arc<Cluster>,
    of: fn(&Cluster) -> &AtomicU32,
}

impl View {
    fn of(settings: &Settings, members: Vec<Arc<Member>>) -> Self {
        let mut usable: Vec<_> = members.iter().filter(|member| member.is_available()).map(Arc::clone).collect();
        let threshold = usize::try_from(settings.options.healthy_panic_threshold.0).unwrap_or(usize::MAX);
        if usable.len().saturating_mul(100) < threshold.saturating_mul(members.len()) {
            // so few can hardly be right, or would fall under the load of all
            usable.clone_from(&members);
        }
        let candidates: Vec<_> =
            usable.iter().map(|member| Candidate { name: member.address.to_string(), weight: member.weight }).collect();
        Self { choice: Choice::of(settings.options.balancing, &candidates), usable, members }
    }
}

impl Cluster {
    /// A cluster of which nothing is known but what was said.
    pub fn new(settings: Settings, made: &mut Configurations, metrics: &Arc<UpstreamMetrics>) -> Arc<Self> {
        let tls = settings.to.iter().map(|to| tls(&settings, to, made)).collect();
        let members = settings.to.iter().enumerate().map(|(place, to)| Member::new(address(to), place, to.weight));
        let view = View::of(&settings, members.collect());
        let most = usize::try_from(settings.options.thresholds.connections).unwrap_or(usize::MAX);
        let (reports, heard) = mpsc::channel(UPSTREAM_REPORTS);
        Arc::new(Self {
            view: ArcSwap::from_pointee(view),
            turn: AtomicU64::new(0),
            tls,
            connections: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            pending: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            reports,
            heard: Mutex::new(Some(heard)),
            metrics: Arc::clone(metrics),
            settings,
        })
    }

    /// Who is there now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Chooses from these from now on.
    pub(super) fn publish(&self, members: Vec<Arc<Member>>) {
        self.view.store(Arc::new(View::of(&self.settings, members)));
    }

    /// Chooses whom a request goes to, and counts it. `key` says for whom, where that matters.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn enter(self: &Arc<Self>, key: u64) -> Result<Underway, Refused> {
        let refuse = |why: Refused| {
            self.metrics.refused(why);
            Err(why)
        };
        let Some(member) = self.pick(key, &[]) else { return refuse(Refused::NoneHealthy) };
        if self.requests.fetch_add(1, Ordering::Relaxed) >= self.settings.options.thresholds.requests {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            return refuse(Refused::Requests);
        }
        member.enter();
        Ok(Underway { cluster: Arc::clone(self), member })
    }

    /// Another member for a request that never reached one: `tried` are their numbers.
    #[must_use]
    pub fn another(&self, key: u64, tried: &[u64], than: &Member) -> Option<Arc<Member>> {
        let path = |place: usize| self.settings.to.get(place).map(|to| to.url.path());
        self.pick(key, tried).filter(|member| path(member.upstream) == path(than.upstream))
    }

    fn pick(&self, key: u64, tried: &[u64]) -> Option<Arc<Member>> {
        let view = self.view.load();
        if tried.is_empty()
            && let [only] = view.usable.as_slice()
        {
            return Some(Arc::clone(only));
        }
        let load = |index: usize| view.usable.get(index).map_or(0, |member| member.active());
        let mut key = key;
        for _ in 0..=view.usable.len().saturating_mul(4) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let member = view.usable.get(view.choice.pick(turn, key, load)?)?;
            if !tried.contains(&member.id) {
                return Some(Arc::clone(member));
            }
            key = super::choice::mixed(key);
        }
        None
    }

    /// The place of a member in `to`.
    #[must_use]
    pub fn upstream(&self, member: &Member) -> Option<&Upstream> {
        self.settings.to.get(member.upstream)
    }

    /// How TLS is spoken with a member; `None` where it is not.
    #[must_use]
    pub fn tls(&self, member: &Member) -> Option<&Tls> {
        self.tls.get(member.upstream)?.as_ref()
    }

    /// Permits for connections.
    #[must_use]
    pub const fn connections(&self) -> &Arc<Semaphore> {
        &self.connections
    }

    /// Whether somebody waits for a connection while no more may be opened: one that is idle is better closed.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.connections.available_permits() == 0 && self.pending.load(Ordering::Relaxed) > 0
    }

    /// A place among requests that wait for a connection.
    ///
    /// # Errors
    /// There are too many.
    pub fn pend(self: &Arc<Self>) -> Result<Slot, Refused> {
        let most = self.settings.options.thresholds.pending_requests;
        self.slot(|cluster| &cluster.pending, most).ok_or_else(|| {
            self.metrics.refused(Refused::Pending);
            Refused::Pending
        })
    }

    /// A place among second attempts; `None` where there are too many.
    #[must_use]
    pub fn retry(self: &Arc<Self>) -> Option<Slot> {
        let slot = self.slot(|cluster| &cluster.retries, self.settings.options.thresholds.retries);
        if slot.is_some() {
            self.metrics.retries.increment();
        }
        slot
    }

    fn slot(self: &Arc<Self>, of: fn(&Self) -> &AtomicU32, most: u32) -> Option<Slot> {
        if of(self).fetch_add(1, Ordering::Relaxed) >= most {
            of(self).fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Slot { cluster: Arc::clone(self), of })
    }

    /// Counts what came of a request to a member.
    pub fn saw(&self, member: &Member, outcome: Outcome) {
        let Some(rules) = &self.settings.options.outlier_detection else { return };
        if let Some(suspicion) = member.tally.count(outcome, rules) {
            // a word that does not fit is said again by the next failures
            let _ = self.reports.try_send(Report::Suspicious(member.id, suspicion));
        }
    }

    pub(super) fn reports(&self) -> mpsc::Sender<Report> {
        self.reports.clone()
    }

    pub(super) const fn metrics(&self) -> &Arc<UpstreamMetrics> {
        &self.metrics
    }

    /// What its minder hears; for the first who asks.
    pub(super) fn heard(&self) -> Option<mpsc::Receiver<Report>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("to", &self.settings.to).finish_non_exhaustive()
    }
}

impl Underway {
    /// Whom it goes to.
    #[must_use]
    pub const fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Whose it is.
    #[must_use]
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// It goes to another one.
    pub fn moves(&mut self, to: Arc<Member>) {
        to.enter();
        self.member.leave();
        self.member = to;
    }

    /// What came of it.
    pub fn saw(&self, outcome: Outcome) {
        self.cluster.saw(&self.member, outcome);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.member.leave();
        self.cluster.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        (self.of)(&self.cluster).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where an address of `to` is before anything was looked up.
pub(super) fn address(to: &Upstream) -> Address {
    if let Some(socket) = &to.socket {
        return Address::Socket(socket.clone());
    }
    let port = to.url.port_or_known_default().unwrap_or(80);
    match to.url.host() {
        Some(Host::Ipv4(address)) => Address::Ip(SocketAddr::new(IpAddr::V4(address), port)),
        Some(Host::Ipv6(address)) => Address::Ip(SocketAddr::new(IpAddr::V6(address), port)),
        // RFC 6761 §6.3: names under `localhost` are loopback, whatever the resolver says
        Some(Host::Domain(name)) if name == "localhost" || name.ends_with(".localhost") => {
            Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
        }
        Some(Host::Domain(name)) => Address::Name(name.to_owned(), port),
        None => Address::Name(String::new(), port),
    }
}

fn tls(settings: &Settings, to: &Upstream, made: &mut Configurations) -> Option<Tls> {
    if !to.is_tls() {
        return None;
    }
    let options = &settings.options.tls;
    let terms = Terms {
        authorities: options.authorities.clone(),
        skip_verify: settings.skip_verify,
        client: options.client.clone(),
        h2: !settings.http1,
    };
    let name = options.server_name.as_deref().or_else(|| to.url.host_str()).unwrap_or_default();
    let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).ok()?;
    Some(Tls { config: made.of(&terms)?, name })
}
