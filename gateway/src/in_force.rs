//! The routes and the policy in force: one value, replaced as a whole, so that a request never sees half of a change.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_actors::authorize::authorizer::Compiled;
use portcullis_actors::proxy::routes::RouteTable;

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
}

impl Deref for Rules {
    type Target = Compiled;

    fn deref(&self) -> &Compiled {
        &self.compiled
    }
}

/// The place where rules are published.
pub struct InForce(ArcSwap<Rules>);

impl InForce {
    /// Publishes the rules that the process starts with.
    pub fn new(compiled: Compiled) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Rules::of(compiled, &[]))))
    }

    /// The rules of this moment. A request takes them once and is decided on nothing else.
    pub fn now(&self) -> Arc<Rules> {
        self.0.load_full()
    }

    /// Puts other rules in their place.
    pub fn publish(&self, compiled: Compiled) {
        let before = self.now();
        self.0.store(Arc::new(Rules::of(compiled, &before.rates)));
    }
}

impl Rules {
    fn of(compiled: Compiled, before: &[Option<Arc<Rates>>]) -> Self {
        let rates = compiled.config.routes.iter().map(|route| Rates::of(route, before)).collect();
        Self { routes: RouteTable::new(&compiled.config), rates, compiled: Arc::new(compiled) }
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
