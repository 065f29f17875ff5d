//! The routes and the policy in force: one value, replaced as a whole, so that a request never sees half of a change.

use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_actors::authorize::Policies;
use portcullis_actors::authorize::authorizer::{Compiled, Revision};
use portcullis_actors::proxy::routes::RouteTable;
use portcullis_config::Config;

/// What is in force since the last change.
pub struct Rules {
    /// Names this state in decisions.
    pub revision: Revision,
    /// What it was made from: the configuration that the process started with, with the routes of the last one read.
    pub config: Arc<Config>,
    /// Where requests go.
    pub routes: RouteTable,
    /// Who may go there.
    pub policies: Policies,
}

/// The place where rules are published.
pub struct InForce(ArcSwap<Rules>);

impl InForce {
    /// Publishes the rules that the process starts with.
    pub fn new(compiled: Compiled) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Rules::of(compiled))))
    }

    /// The rules of this moment. A request takes them once and is decided on nothing else.
    pub fn now(&self) -> Arc<Rules> {
        self.0.load_full()
    }

    /// Puts other rules in their place.
    pub fn publish(&self, compiled: Compiled) {
        self.0.store(Arc::new(Rules::of(compiled)));
    }
}

impl Rules {
    fn of(Compiled { revision, config, policies }: Compiled) -> Self {
        Self { revision, routes: RouteTable::new(&config), policies, config }
    }
}
