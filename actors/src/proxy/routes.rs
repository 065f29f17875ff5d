//! Where a request leads: one of our own pages, or the first route of its host that takes its path.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_config::policy::{Actions, Criterion, Policy};
use portcullis_config::{
    Action, Config, HostRewrite, PathMatcher, PathRewrite, Redirect, RedirectPath, Rewrites, Route,
};

use crate::request::Canonical;
use paths::{Paths, earlier};

mod paths;
mod prefixes;

#[cfg(test)]
pub(crate) mod tests;

/// The routes by host, in the order in which they are tried.
pub struct RouteTable {
    hosts: HashMap<String, Host>,
    /// By what follows the one label that may be anything: `.example.com`.
    wildcards: HashMap<String, Host>,
    authenticate: Option<String>,
}

struct Host {
    /// In the order in which they are tried.
    routes: Vec<Entry>,
    any_port: Paths,
    by_port: HashMap<u16, Paths>,
    /// Something on this host depends on how a path is read.
    path_decides: bool,
}

struct Entry {
    index: usize,
    route: Arc<Route>,
    /// Its policy or its rewrites read the path.
    reads_path: bool,
}

/// Where a request leads.
#[derive(Debug, Clone)]
pub enum Located {
    /// To one of our own pages; never forwarded.
    Own {
        /// Whether the host is the authenticate component's.
        at_authenticate: bool,
    },
    /// To a route.
    Route {
        /// Its place in [`Config::routes`].
        index: usize,
        /// The route.
        route: Arc<Route>,
    },
}

/// Why a request leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotLocated {
    /// No route and no component has this host.
    #[error("the host is not known")]
    UnknownHost,
    /// No route of the host takes this port and path.
    #[error("no route takes this path")]
    NoRoute,
    /// The path could be read in two ways on a host where it decides something.
    #[error("the path can be read in more than one way")]
    OddPath,
}

impl RouteTable {
    /// The table of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut by_host: HashMap<&str, Vec<Entry>> = HashMap::new();
        for (index, route) in config.routes.iter().enumerate() {
            let reads_path = policy_reads_path(&route.policy) || rewrites_read_path(&route.rewrites);
            let entry = Entry { index, route: Arc::new(route.clone()), reads_path };
            by_host.entry(route.from.host.as_str()).or_default().push(entry);
        }
        let (mut hosts, mut wildcards) = (HashMap::new(), HashMap::new());
        for (host, entries) in by_host {
            match host.strip_prefix('*') {
                Some(suffix) => wildcards.insert(suffix.to_owned(), Host::new(entries)),
                None => hosts.insert(host.to_owned(), Host::new(entries)),
            };
        }
        let authenticate = config.authenticate_service_url.host_str();
        let authenticate = authenticate.map(|host| host.strip_suffix('.').unwrap_or(host).to_owned());
        Self { hosts, wildcards, authenticate }
    }

    /// Where a request leads: a function of host, port and path.
    ///
    /// # Errors
    /// [`NotLocated`].
    pub fn locate(&self, request: &Canonical) -> Result<Located, NotLocated> {
        let path = request.path();
        let at_authenticate = self.is_authenticate(request.host());
        if is_health(path) {
            return Ok(Located::Own { at_authenticate });
        }
        let host = self.host(request.host());
        if host.is_none() && !at_authenticate {
            return Err(NotLocated::UnknownHost);
        }
        if is_own(path) || (at_authenticate && is_authenticate_own(path)) {
            return Ok(Located::Own { at_authenticate });
        }
        match host {
            Some(host) => host.locate(request),
            None => Ok(Located::Own { at_authenticate }),
        }
    }

    /// Whether a route has this host (canonical, without a port).
    #[must_use]
    pub fn is_route_host(&self, host: &str) -> bool {
        self.host(host).is_some()
    }

    /// Whether a route or the authenticate component has this host.
    #[must_use]
    pub fn knows_host(&self, host: &str) -> bool {
        self.is_route_host(host) || self.is_authenticate(host)
    }

    /// The routes of a host: its own, else those of the wildcard that stands for it. A host that has any of its own, or is
    /// the authenticate component's, has none of a wildcard.
    fn host(&self, host: &str) -> Option<&Host> {
        let of_wildcard = || {
            let suffix = host.get(host.find('.')?..)?;
            self.wildcards.get(suffix).filter(|_| !self.is_authenticate(host))
        };
        self.hosts.get(host).or_else(of_wildcard)
    }

    fn is_authenticate(&self, host: &str) -> bool {
        self.authenticate.as_deref() == Some(host)
    }
}

impl Host {
    fn new(routes: Vec<Entry>) -> Self {
        let decides = |entry: &Entry| entry.reads_path || !takes_every_path(&entry.route);
        let mut by_port: HashMap<Option<u16>, Vec<_>> = HashMap::new();
        for (place, entry) in routes.iter().enumerate() {
            by_port.entry(entry.route.from.port).or_default().push((place, &entry.route.matcher));
        }
        let any_port = Paths::new(by_port.remove(&None).unwrap_or_default());
        let by_port = by_port.into_iter().filter_map(|(port, places)| Some((port?, Paths::new(places)))).collect();
        Self { path_decides: routes.len() > 1 || routes.iter().any(decides), any_port, by_port, routes }
    }

    fn locate(&self, request: &Canonical) -> Result<Located, NotLocated> {
        if self.path_decides && request.is_odd() {
            return Err(NotLocated::OddPath);
        }
        let entry = self.first(request.port(), request.path());
        if self.path_decides
            && let Some(reading) = request.other_reading()
        {
            let index = |entry: Option<&Entry>| entry.map(|entry| entry.index);
            let leads_elsewhere = index(self.first(request.port(), &reading)) != index(entry);
            if leads_elsewhere || entry.is_some_and(|entry| entry.reads_path) {
                return Err(NotLocated::OddPath);
            }
        }
        let entry = entry.ok_or(NotLocated::NoRoute)?;
        Ok(Located::Route { index: entry.index, route: Arc::clone(&entry.route) })
    }

    fn first(&self, port: Option<u16>, path: &str) -> Option<&Entry> {
        let of_port = port.and_then(|port| self.by_port.get(&port)).and_then(|paths| paths.first(path));
        earlier(self.any_port.first(path), of_port).and_then(|place| self.routes.get(place))
    }
}

/// Whether a route takes whatever comes and hands it on under no path of its own: out of a rewritten prefix or the
/// path of `to`, a path that is read in another way could lead.
fn takes_every_path(route: &Route) -> bool {
    let takes_all = match &route.matcher {
        PathMatcher::Prefix(prefix) => matches!(prefix.as_str(), "" | "/"),
        PathMatcher::Path(_) | PathMatcher::Regex(_) => false,
    };
    let keeps = |rewrite: &str| rewrite == "/";
    let keeps_path = match (&route.action, &route.rewrites.path) {
        (Action::Forward(_), Some(PathRewrite::Prefix(rewrite))) => keeps(rewrite),
        (Action::Forward(_), Some(PathRewrite::Regex(_))) => false,
        (Action::Redirect(Redirect { path: RedirectPath::Prefix(rewrite), .. }), _) => keeps(rewrite),
        _ => true,
    };
    takes_all && keeps_path && route.upstreams().iter().all(|upstream| matches!(upstream.url.path(), "" | "/"))
}

fn policy_reads_path(policy: &Policy) -> bool {
    let in_actions = |actions: &Actions| {
        let criteria = [&actions.and, &actions.or, &actions.not, &actions.nor];
        criteria.into_iter().flatten().any(|criterion| matches!(criterion, Criterion::HttpPath(_)))
    };
    policy.rules.iter().flat_map(|rule| [&rule.allow, &rule.deny]).flatten().any(in_actions)
}

/// Whether what an expression finds in the path goes into where a request is sent.
fn rewrites_read_path(rewrites: &Rewrites) -> bool {
    matches!(rewrites.path, Some(PathRewrite::Regex(_))) || matches!(rewrites.host, HostRewrite::Path(_))
}

/// Answered on any host at all.
fn is_health(path: &str) -> bool {
    matches!(path, "/ping" | "/healthz")
}

/// Ours on every host that we know.
fn is_own(path: &str) -> bool {
    let is_below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    path == "/robots.txt" || is_below("/.pomerium") || is_below("/.well-known/pomerium")
}

/// Ours on the authenticate host, even where a route has that host too.
fn is_authenticate_own(path: &str) -> bool {
    matches!(path, "/" | "/oauth2/callback")
}
