//! The routes and the policy in force: one value, replaced as a whole, so that a request never sees half of a change.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_actors::authorize::authorizer::Compiled;
use portcullis_actors::metrics::UpstreamMetrics;
use portcullis_actors::proxy::routes::RouteTable;
use portcullis_actors::proxy::upstreams::table::Table;
use tokio::sync::watch;

use crate::rates::Rates;

/// What is in force since the last change: who may go where, and what it was compiled from (the configuration that the
/// process started with, with the routes of the last one read).
pub struct Rules {
    /// What was compiled; its revision names this state in decisions.
    pub compiled: Arc<Compiled>,
    /// Where requests go.
    pub routes: RouteTable,
    /// What each of them may be asked for, by its place.
    rates: Vec<Option<Arc<Rates>>>,
    /// The upstreams of the routes.
    pub upstreams: Arc<Table>,
}

impl Deref for Rules {
    type Target = Compiled;

    fn deref(&self) -> &Compiled {
        &self.compiled
    }
}

/// The place where rules are published.
pub struct InForce {
    rules: ArcSwap<Rules>,
    tables: watch::Sender<Arc<Table>>,
    metrics: Arc<UpstreamMetrics>,
}

impl InForce {
    /// Publishes the rules that the process starts with.
    pub fn new(compiled: Compiled, metrics: &Arc<UpstreamMetrics>) -> Arc<Self> {
        let rules = Rules::of(compiled, None, metrics);
        let tables = watch::Sender::new(Arc::clone(&rules.upstreams));
        Arc::new(Self { rules: ArcSwap::from_pointee(rules), tables, metrics: Arc::clone(metrics) })
    }

    /// The rules of this moment. A request takes them once and is decided on nothing else.
    pub fn now(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Puts other rules in their place. Upstreams that did not change go on as they are.
    pub fn publish(&self, compiled: Compiled) {
        let rules = Rules::of(compiled, Some(&self.now()), &self.metrics);
        let table = Arc::clone(&rules.upstreams);
        self.rules.store(Arc::new(rules));
        self.tables.send_replace(table);
    }

    /// The upstreams in force, and those that come.
    pub fn tables(&self) -> watch::Receiver<Arc<Table>> {
        self.tables.subscribe()
    }
}

impl Rules {
    fn of(compiled: Compiled, before: Option<&Self>, metrics: &Arc<UpstreamMetrics>) -> Self {
        let rated = before.map_or(&[][..], |before| &before.rates);
        let rates = compiled.config.routes.iter().map(|route| Rates::of(route, rated)).collect();
        let upstreams = Table::new(&compiled.config, before.map(|before| &*before.upstreams), metrics);
        Self {
            routes: RouteTable::new(&compiled.config),
            rates,
            upstreams: Arc::new(upstreams),
            compiled: Arc::new(compiled),
        }
    }

    /// The counters of a route, where it limits anything.
    pub fn rates(&self, index: usize) -> Option<&Rates> {
        self.rates.get(index)?.as_deref()
    }

    /// Forgets callers who have their whole share again.
    pub fn sweep(&self) {
        self.rates.iter().flatten().for_each(|rates| rates.sweep());
    }
}
