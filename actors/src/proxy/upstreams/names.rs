//! Names and their addresses: the system's resolver, bounded, asked once for all routes that name the same host.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use portcullis_config::upstreams::{Dns, Family};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Whoever knows the addresses of names.
#[async_trait(?Send)]
pub trait Resolver {
    /// Every address of a name; none where it has none or cannot be asked for.
    async fn addresses(&self, host: &str) -> Vec<IpAddr>;
}

/// The system's: its files, its name servers.
pub struct System;

#[async_trait(?Send)]
impl Resolver for System {
    async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        addresses(host).await
    }
}

/// What the system says of a name.
async fn addresses(host: &str) -> Vec<IpAddr> {
    match tokio::net::lookup_host((host, 0)).await {
        Ok(found) => {
            let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            found.sort_unstable();
            found.dedup();
            found
        }
        Err(error) => {
            tracing::debug!(host, %error, "a name cannot be looked up");
            Vec::new()
        }
    }
}

/// The addresses of a name that is connected to before its first look-up has ended.
pub async fn at_once(host: &str, dns: &Dns) -> Vec<IpAddr> {
    chosen(tokio::time::timeout(dns.timeout, addresses(host)).await.unwrap_or_default(), dns.family)
}

/// Those that a family means.
#[must_use]
pub fn chosen(addresses: Vec<IpAddr>, family: Family) -> Vec<IpAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    match family {
        Family::V4Only => v4,
        Family::V6Only => v6,
        Family::V4Preferred => {
            if v4.is_empty() {
                v6
            } else {
                v4
            }
        }
        Family::V6Preferred => {
            if v6.is_empty() {
                v4
            } else {
                v6
            }
        }
        Family::All => v4.into_iter().chain(v6).collect(),
    }
}

/// When a name was looked up, and what was found.
type Found = Rc<Mutex<Option<(Instant, Vec<IpAddr>)>>>;

/// A resolver whose answers serve everybody who asks within half of a refresh.
pub struct Remembered {
    resolver: Box<dyn Resolver>,
    found: RefCell<HashMap<String, Found>>,
}

impl Remembered {
    /// Remembers what this one says.
    #[must_use]
    pub fn new(resolver: Box<dyn Resolver>) -> Self {
        Self { resolver, found: RefCell::default() }
    }

    /// The addresses of a name, of the family that is meant; none where it cannot be looked up in time.
    pub async fn look_up(&self, host: &str, dns: &Dns) -> Vec<IpAddr> {
        let entry = Rc::clone(self.found.borrow_mut().entry(host.to_owned()).or_default());
        // whoever else asks meanwhile waits for the same answer
        let mut found = entry.lock().await;
        let fresh = |since: &Instant| since.elapsed() < dns.refresh.min(dns.failure_refresh) / 2;
        let addresses = match &*found {
            Some((since, addresses)) if fresh(since) => addresses.clone(),
            _ => {
                let asked = tokio::time::timeout(dns.timeout, self.resolver.addresses(host)).await;
                let addresses = asked.unwrap_or_default();
                *found = Some((Instant::now(), addresses.clone()));
                addresses
            }
        };
        drop(found);
        chosen(addresses, dns.family)
    }

    /// Forgets what nobody asks for any more.
    pub fn sweep(&self, older: Duration) {
        let keep = |found: &Found| {
            found.try_lock().is_ok_and(|found| found.as_ref().is_none_or(|(since, _)| since.elapsed() < older))
        };
        self.found.borrow_mut().retain(|_, found| Rc::strong_count(found) > 1 || keep(found));
    }
}
