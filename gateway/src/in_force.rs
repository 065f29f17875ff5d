//! The routes and the policy in force: one value, replaced as a whole, so that a request never sees half of a change.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use portcullis_actors::authorize::Policies;
use portcullis_actors::proxy::routes::RouteTable;
use portcullis_config::Config;

/// What is in force since the last change.
pub struct Rules {
    /// Names this state in decisions.
    pub revision: String,
    /// Where requests go.
    pub routes: RouteTable,
    /// Who may go there.
    pub policies: Policies,
}

/// The place where rules are published.
pub struct InForce(ArcSwap<Rules>);

impl InForce {
    /// Publishes the rules of a configuration.
    pub fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Rules::of(config))))
    }

    /// The rules of this moment.
    pub fn now(&self) -> Arc<Rules> {
        self.0.load_full()
    }
}

impl Rules {
    fn of(config: &Config) -> Self {
        Self { revision: revision(config), routes: RouteTable::new(config), policies: Policies::compile(config) }
    }
}

/// Twelve digits that two nodes share exactly when they decide alike: secrets print as placeholders in what is hashed.
fn revision(config: &Config) -> String {
    let text = format!("{:?}\n{:?}", config.authenticate_service_url.as_str(), config.routes);
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
