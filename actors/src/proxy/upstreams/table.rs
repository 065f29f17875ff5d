//! The clusters of all routes in force; those of routes that did not change go on as they are.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_config::{Config, Route};

use super::cluster::{Cluster, Settings};
use super::tls::Configurations;
use crate::metrics::UpstreamMetrics;

/// The clusters, in the order of the routes.
#[derive(Default)]
pub struct Table {
    clusters: Vec<Arc<Cluster>>,
    by_id: HashMap<String, usize>,
}

impl Table {
    /// The table of a configuration. What `before` has under the same id with the same settings is taken over with all
    /// that is known and open.
    #[must_use]
    pub fn new(config: &Config, before: Option<&Self>, metrics: &Arc<UpstreamMetrics>) -> Self {
        let mut made = Configurations::default();
        let mut table = Self::default();
        for route in &config.routes {
            let settings = settings(route);
            let known = before.and_then(|before| before.find(&route.id)).filter(|known| known.settings == settings);
            let cluster = known.map_or_else(|| Cluster::new(settings, &mut made, metrics), Arc::clone);
            table.by_id.entry(route.id.clone()).or_insert(table.clusters.len());
            table.clusters.push(cluster);
        }
        table
    }

    /// The cluster of a route, by the route's place in the configuration.
    #[must_use]
    pub fn of(&self, index: usize) -> Option<&Arc<Cluster>> {
        self.clusters.get(index)
    }

    /// All of them.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter()
    }

    fn find(&self, id: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(*self.by_id.get(id)?)
    }
}

fn settings(route: &Route) -> Settings {
    Settings {
        to: route.upstreams().to_vec(),
        options: route.upstream.clone(),
        skip_verify: route.tls_skip_verify,
        http1: route.allow_websockets,
    }
}
