//! One address that requests of a route go to, with what is known of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::outlier::Tally;

/// Where a member is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// At an address.
    Ip(SocketAddr),
    /// At whatever address its name has when it is connected to: it was not looked up yet.
    Name(String, u16),
    /// At a socket of this machine.
    Socket(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// What a member was found to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Nothing was said yet.
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What active checks say of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet: it is taken for healthy.
    Unknown,
    /// Healthy.
    Healthy,
    /// Not healthy.
    Unhealthy,
}

/// A member of a cluster.
#[derive(Debug)]
pub struct Member {
    /// Its number in this process.
    pub id: u64,
    /// Where it is.
    pub address: Address,
    /// Its place in `to`.
    pub upstream: usize,
    /// Its share.
    pub weight: u32,
    /// What its answers say of it.
    pub tally: Tally,
    active: AtomicU32,
    speaks: AtomicU8,
    health: AtomicU8,
    ejected: AtomicBool,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Member {
    /// A member of which nothing is known.
    #[must_use]
    pub fn new(address: Address, upstream: usize, weight: u32) -> Arc<Self> {
        Arc::new(Self {
            id: NUMBER.fetch_add(1, Ordering::Relaxed),
            address,
            upstream,
            weight,
            tally: Tally::default(),
            active: AtomicU32::new(0),
            speaks: AtomicU8::new(0),
            health: AtomicU8::new(0),
            ejected: AtomicBool::new(false),
        })
    }

    /// Requests under way.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// What it was found to speak.
    #[must_use]
    pub fn speaks(&self) -> Speaks {
        match self.speaks.load(Ordering::Relaxed) {
            1 => Speaks::Http1,
            2 => Speaks::Http2,
            _ => Speaks::Unknown,
        }
    }

    /// It was found to speak this.
    pub fn found(&self, speaks: Speaks) {
        let code = match speaks {
            Speaks::Unknown => 0,
            Speaks::Http1 => 1,
            Speaks::Http2 => 2,
        };
        self.speaks.store(code, Ordering::Relaxed);
    }

    /// What active checks say.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            1 => Health::Healthy,
            2 => Health::Unhealthy,
            _ => Health::Unknown,
        }
    }

    /// Whether it was found healthy; the answer is whether that is new.
    pub(super) fn checked(&self, healthy: bool) -> bool {
        let code = if healthy { 1 } else { 2 };
        let before = self.health.swap(code, Ordering::Relaxed);
        (before == 2) != (code == 2)
    }

    /// Whether it is ejected for its answers.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    pub(super) fn eject(&self, ejected: bool) {
        self.ejected.store(ejected, Ordering::Relaxed);
    }

    /// Whether requests go to it where there is a choice.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.health() != Health::Unhealthy && !self.is_ejected()
    }
}
