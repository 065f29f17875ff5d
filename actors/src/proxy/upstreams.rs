//! Owns   · who minds the upstreams of every route: look-ups of names, active checks, ejections.
//! Answers · nothing: it follows the tables that come into force, and publishes what each cluster chooses from.
//! Asks   · the resolver, and upstreams by way of a [`Prober`].
//! If it dies · what was found last stays; the node stops in order.

pub mod choice;
pub mod cluster;
pub mod member;
mod minder;
pub mod names;
pub mod outlier;
pub mod table;
pub mod tls;

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, WrapFuture};
use async_trait::async_trait;
use portcullis_config::upstreams::Probe;
use tokio::sync::watch;

use cluster::Cluster;
use member::Member;
use minder::Minder;
use names::{Remembered, Resolver};
use table::Table;

/// Whoever can ask an upstream whether it is well.
#[async_trait(?Send)]
pub trait Prober {
    /// Asks one member; why it is not well, if it is not. Bounded by its caller.
    ///
    /// # Errors
    /// A word for the log.
    async fn probe(&self, cluster: &Arc<Cluster>, member: &Arc<Member>, probe: &Probe) -> Result<(), String>;
}

/// The actor that minds upstreams.
pub struct Upstreams {
    tables: watch::Receiver<Arc<Table>>,
    tools: Rc<Tools>,
}

/// What minders work with.
pub(super) struct Tools {
    prober: Box<dyn Prober>,
    names: Remembered,
}

impl Upstreams {
    /// Minds whatever is in the tables that come.
    #[must_use]
    pub fn new(tables: watch::Receiver<Arc<Table>>, prober: Box<dyn Prober>, resolver: Box<dyn Resolver>) -> Self {
        Self { tables, tools: Rc::new(Tools { prober, names: Remembered::new(resolver) }) }
    }
}

impl Actor for Upstreams {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (mut tables, tools) = (self.tables.clone(), Rc::clone(&self.tools));
        let follow = async move {
            loop {
                let table = Arc::clone(&tables.borrow_and_update());
                for cluster in table.clusters() {
                    // each goes on until its cluster is gone: from the tables, and from whatever is under way
                    if let Some(minder) = Minder::of(cluster, &tools) {
                        actix_rt::spawn(minder.run());
                    }
                }
                drop(table);
                if tables.changed().await.is_err() {
                    return;
                }
            }
        };
        ctx.spawn(follow.into_actor(self));
    }
}
