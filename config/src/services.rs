//! `services`: which of the four components a process runs, and what that asks of the rest of its file.

use std::fmt;

use crate::node::{Fields, Node};

/// The names, as Pomerium has them; `cache` is what databroker was called there.
const RIGHT: &str = "all, or some of proxy, authenticate, authorize, databroker";

/// The components that one process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Services {
    /// Takes requests, forwards them, serves our own pages.
    pub proxy: bool,
    /// Speaks to the identity provider.
    pub authenticate: bool,
    /// Decides.
    pub authorize: bool,
    /// Keeps the log and the vault.
    pub databroker: bool,
}

impl Services {
    /// Everything in one process.
    pub const ALL: Self = Self { proxy: true, authenticate: true, authorize: true, databroker: true };

    const NONE: Self = Self { proxy: false, authenticate: false, authorize: false, databroker: false };

    /// Whether every component is here.
    #[must_use]
    pub fn are_all(self) -> bool {
        self == Self::ALL
    }

    /// The components that are here, in alphabetical order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let named = [
            ("authenticate", self.authenticate),
            ("authorize", self.authorize),
            ("databroker", self.databroker),
            ("proxy", self.proxy),
        ];
        named.into_iter().filter_map(|(name, is_here)| is_here.then_some(name))
    }

    /// Whether this process speaks to an identity provider, or has to know sessions of which one they are.
    #[must_use]
    pub const fn know_the_provider(self) -> bool {
        self.authenticate || self.authorize || self.databroker
    }

    /// Whether this process makes or reads cookies of a sign-in.
    #[must_use]
    pub const fn hold_cookies(self) -> bool {
        self.proxy || self.authenticate
    }
}

/// `all`, or the names in alphabetical order with `-` between them.
impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_all() {
            return f.write_str("all");
        }
        for (index, name) in self.names().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { "-" })?;
        }
        Ok(())
    }
}

/// The key at the top level; what was reported counts for everything, so that nothing else is missed.
pub fn decode(top: &Fields<'_>) -> Services {
    let Some(node) = top.get("services") else { return Services::ALL };
    let services = listed(&node);
    let on_nats = top
        .get("databroker_storage_type")
        .is_some_and(|node| node.scalar().is_some_and(|storage| storage.text.eq_ignore_ascii_case("nats")));
    if !services.are_all() && !on_nats {
        node.wrong(
            "runs components apart, which find each other on NATS alone",
            "databroker_storage_type: nats, or services: all",
        );
    }
    services
}

fn listed(node: &Node<'_>) -> Services {
    let mut services = Services::NONE;
    let mut is_wrong = false;
    for (item, text) in node.texts() {
        match text.to_ascii_lowercase().as_str() {
            "all" => services = Services::ALL,
            "proxy" => services.proxy = true,
            "authenticate" => services.authenticate = true,
            "authorize" => services.authorize = true,
            "databroker" | "cache" => services.databroker = true,
            _ => {
                is_wrong = true;
                item.wrong("is not a known service", RIGHT);
            }
        }
    }
    if services == Services::NONE && !is_wrong {
        node.wrong("names no service", RIGHT);
    }
    if is_wrong || services == Services::NONE { Services::ALL } else { services }
}
