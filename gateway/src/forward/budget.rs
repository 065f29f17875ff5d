//! What one client may have under way to one route: more of it waits, so that no client takes an upstream's connections
//! from all others.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portcullis_config::Route;
use portcullis_config::limits::{ADDRESS_BUDGET, SESSION_BUDGET};
use portcullis_events::SessionId;
use tokio::sync::Notify;

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// Somebody signed in, wherever they are.
    Session(SessionId),
    /// Whoever else is at this address; often more than one.
    Address(IpAddr),
}

impl Client {
    const fn budget(self) -> usize {
        match self {
            Self::Session(_) => SESSION_BUDGET,
            Self::Address(_) => ADDRESS_BUDGET,
        }
    }
}

/// What a share is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// A request and its answer.
    Exchange,
    /// A WebSocket or a tunnel: it has a connection to the upstream of its own, for as long as both sides like. These are
    /// counted apart, so that whoever has many open can still ask for something.
    Open,
}

/// A client, a route by its place in memory (it stays where it is as long as a share of it is held), and what for.
type Key = (Client, usize, Use);

/// The budgets of one worker.
#[derive(Default)]
pub struct Budgets {
    spent: RefCell<HashMap<Key, usize>>,
    freed: Notify,
}

/// A part of a budget, given back when it is dropped.
pub struct Share {
    key: Key,
    budgets: Rc<Budgets>,
    _route: Arc<Route>,
}

impl Budgets {
    /// Takes a share; waits for `patience` at most where nothing is left. `None`: nothing has become free.
    pub async fn share(
        self: &Rc<Self>,
        client: Client,
        route: &Arc<Route>,
        what_for: Use,
        patience: Duration,
    ) -> Option<Share> {
        if let Some(share) = self.take(client, route, what_for) {
            return Some(share);
        }
        let waiting = async {
            loop {
                self.freed.notified().await;
                if let Some(share) = self.take(client, route, what_for) {
                    return share;
                }
            }
        };
        tokio::time::timeout(patience, waiting).await.ok()
    }

    fn take(self: &Rc<Self>, client: Client, route: &Arc<Route>, what_for: Use) -> Option<Share> {
        let key = (client, Arc::as_ptr(route).addr(), what_for);
        let mut spent = self.spent.borrow_mut();
        let count = spent.entry(key).or_default();
        if *count >= client.budget() {
            return None;
        }
        *count += 1;
        Some(Share { key, budgets: Rc::clone(self), _route: Arc::clone(route) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut spent = self.budgets.spent.borrow_mut();
        if let Some(count) = spent.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                spent.remove(&self.key);
            }
        }
        self.budgets.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use portcullis_config::{
        Action, From, GroupsFilter, IssuerFormat, PathMatcher, Rewrites, RouteBounds, RouteTimeouts, Staleness,
        policy::Policy,
    };
    use uuid::Uuid;

    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    fn route() -> Arc<Route> {
        Arc::new(Route {
            id: "0123456789abcdef".into(),
            name: None,
            stat_name: None,
            from: From { host: "app.example.com".into(), port: None },
            action: Action::Forward(vec![]),
            matcher: PathMatcher::Prefix("/".into()),
            regex_priority_order: 0,
            rewrites: Rewrites::default(),
            timeouts: RouteTimeouts::default(),
            bounds: RouteBounds::default(),
            set_request_headers: vec![],
            remove_request_headers: vec![],
            set_response_headers: vec![],
            allow_websockets: false,
            tls_skip_verify: false,
            upstream: portcullis_config::UpstreamOptions::default(),
            pass_identity_headers: true,
            jwt_issuer_format: IssuerFormat::HostOnly,
            groups_filter: GroupsFilter::default(),
            show_error_details: false,
            max_staleness: Staleness::default(),
            policy: Policy { rules: vec![] },
        })
    }

    #[actix_rt::test]
    async fn who_has_spent_a_budget_waits_and_nobody_else_does() {
        let budgets = Rc::new(Budgets::default());
        let (here, there) = (route(), route());
        let [alice, bob] = [1, 2].map(|number| Client::Session(SessionId::new(Uuid::from_u128(number))));
        let nobody = Client::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut shares = Vec::new();
        for _ in 0..SESSION_BUDGET {
            shares.push(budgets.share(alice, &here, Use::Exchange, AT_ONCE).await.unwrap());
        }
        assert!(budgets.share(alice, &here, Use::Exchange, AT_ONCE).await.is_none());
        for (client, route) in [(alice, &there), (bob, &here), (nobody, &here)] {
            assert!(budgets.share(client, route, Use::Exchange, AT_ONCE).await.is_some());
        }
        assert!(budgets.share(alice, &here, Use::Open, AT_ONCE).await.is_some(), "what stays open is counted apart");
        // whoever waits is next
        let waiting = budgets.share(alice, &here, Use::Exchange, Duration::from_secs(20));
        let ending = async { drop(shares.pop()) };
        let (share, ()) = futures_util::future::join(waiting, ending).await;
        assert!(share.is_some());
        drop((share, shares));
        assert!(budgets.spent.borrow().is_empty(), "what is not spent is not remembered");
    }
}
