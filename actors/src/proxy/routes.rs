//! Where a request leads: one of our own pages, or the first route of its host that takes its path.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_config::policy::{Actions, Criterion, Policy};
use portcullis_config::{Config, PathMatcher, PathRewrite, Route};

use crate::request::Canonical;

#[cfg(test)]
pub(crate) mod tests;

/// The routes by host, in the order in which they are tried.
pub struct RouteTable {
    hosts: HashMap<String, Host>,
    authenticate: Option<String>,
}

#[derive(Default)]
struct Host {
    routes: Vec<Entry>,
    /// Something on this host depends on how a path is read.
    path_decides: bool,
}

struct Entry {
    index: usize,
    route: Arc<Route>,
    /// Its policy reads the path.
    policy_reads_path: bool,
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
        let mut hosts: HashMap<String, Host> = HashMap::new();
        for (index, route) in config.routes.iter().enumerate() {
            let host = hosts.entry(route.from.host.clone()).or_default();
            let policy_reads_path = reads_path(&route.policy);
            host.path_decides |= policy_reads_path || !takes_every_path(route) || !host.routes.is_empty();
            host.routes.push(Entry { index, route: Arc::new(route.clone()), policy_reads_path });
        }
        let authenticate = config.authenticate_service_url.host_str();
        let authenticate = authenticate.map(|host| host.strip_suffix('.').unwrap_or(host).to_owned());
        Self { hosts, authenticate }
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
        let host = self.hosts.get(request.host());
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
        self.hosts.contains_key(host)
    }

    /// Whether a route or the authenticate component has this host.
    #[must_use]
    pub fn knows_host(&self, host: &str) -> bool {
        self.is_route_host(host) || self.is_authenticate(host)
    }

    fn is_authenticate(&self, host: &str) -> bool {
        self.authenticate.as_deref() == Some(host)
    }
}

impl Host {
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
            if leads_elsewhere || entry.is_some_and(|entry| entry.policy_reads_path) {
                return Err(NotLocated::OddPath);
            }
        }
        let entry = entry.ok_or(NotLocated::NoRoute)?;
        Ok(Located::Route { index: entry.index, route: Arc::clone(&entry.route) })
    }

    fn first(&self, port: Option<u16>, path: &str) -> Option<&Entry> {
        self.routes.iter().find(|entry| {
            let from = &entry.route.from;
            (from.port.is_none() || from.port == port) && takes(&entry.route.matcher, path)
        })
    }
}

fn takes(matcher: &PathMatcher, path: &str) -> bool {
    match matcher {
        // `*` is no path
        PathMatcher::Prefix(prefix) => path.starts_with('/') && path.starts_with(prefix.as_str()),
        PathMatcher::Path(whole) => path == whole,
        PathMatcher::Regex(regex) => path.starts_with('/') && regex.is_match(path),
    }
}

/// Whether a route takes whatever comes and hands it on under no path of its own: out of a rewritten prefix or the
/// path of `to`, a path that is read in another way could lead.
fn takes_every_path(route: &Route) -> bool {
    let takes_all = match &route.matcher {
        PathMatcher::Prefix(prefix) => matches!(prefix.as_str(), "" | "/"),
        PathMatcher::Path(_) | PathMatcher::Regex(_) => false,
    };
    let keeps_path = match &route.rewrites.path {
        None => true,
        Some(PathRewrite::Prefix(rewrite)) => rewrite == "/",
        Some(PathRewrite::Regex(_)) => false,
    };
    takes_all && keeps_path && route.upstreams().iter().all(|upstream| matches!(upstream.url.path(), "" | "/"))
}

fn reads_path(policy: &Policy) -> bool {
    let in_actions = |actions: &Actions| {
        let criteria = [&actions.and, &actions.or, &actions.not, &actions.nor];
        criteria.into_iter().flatten().any(|criterion| matches!(criterion, Criterion::HttpPath(_)))
    };
    policy.rules.iter().flat_map(|rule| [&rule.allow, &rule.deny]).flatten().any(in_actions)
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
