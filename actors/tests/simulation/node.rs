//! One node of a simulation: a host of turmoil, whose tasks and socket are gone all at once when it crashes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Handler, Message};
use portcullis_actors::clock;
use portcullis_actors::databroker::broker::Broker;
use portcullis_actors::databroker::log::Log;
use portcullis_actors::databroker::neighbours::Neighbours;
use portcullis_actors::databroker::refresher::{Pace, Refresher, Rest, Tools as RefresherTools};
use portcullis_actors::databroker::replica::Replica;
use portcullis_actors::databroker::vault::Vault;
use portcullis_actors::databroker::view::Views;
use portcullis_events::Time;
use tokio::runtime::Handle;

use crate::ground::{self, keyring};
use crate::log::SimLog;
use crate::people::IDP;
use crate::provider::SimProvider;
use crate::time;
use crate::vault::SimVault;
use crate::wire::Wire;
use crate::world::World;

/// The longest that a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node, running or not.
pub struct Node {
    /// Its number.
    pub number: usize,
    world: Arc<World>,
    /// How far off its clock is, in milliseconds.
    skew: i64,
    life: RefCell<Option<Life>>,
    lives: Cell<u32>,
}

/// One life of a node.
#[derive(Clone)]
pub struct Life {
    runtime: Handle,
    /// Its views.
    pub views: Arc<Views>,
    /// Its replica.
    pub replica: Addr<Replica>,
    broker: Addr<Broker>,
    refresher: Addr<Refresher>,
    skew: i64,
}

impl Node {
    /// A node that is not started yet.
    pub fn new(number: usize, world: Arc<World>, skew: i64) -> Self {
        Self { number, world, skew, life: RefCell::default(), lives: Cell::default() }
    }

    /// Its life, if it runs.
    pub fn life(&self) -> Option<Life> {
        self.life.borrow().clone()
    }

    /// What runs on its host: starts with nothing but what the log and the vault hold.
    pub async fn live(self: Rc<Self>) -> turmoil::Result {
        time::join(self.skew);
        let (world, node) = (Arc::clone(&self.world), self.number);
        let wire = Wire::open(Arc::clone(&world)).await?;
        let log: Arc<dyn Log> = Arc::new(SimLog { world: Arc::clone(&world), node, wire: Arc::clone(&wire) });
        let vault: Arc<dyn Vault> = Arc::new(SimVault { world: Arc::clone(&world), node, wire });
        let views = Arc::new(Views::default());
        let source = format!("/portcullis/{node}");

        let (data_keys, replica, journal, broker) = ground::start(log, Arc::clone(&vault), &views, &keyring(), &source);
        let refresher = Refresher::new(RefresherTools {
            vault,
            data_keys,
            views: Arc::clone(&views),
            journal,
            replica: replica.clone(),
            provider: Rc::new(SimProvider { world, node }),
            idp: IDP.into(),
            // nobody hears of anybody: all of them are after everything
            nodes: Neighbours::of(node.to_string()),
            clock: Rc::new(clock::now),
            tally: Arc::default(),
            pace: Pace::Own,
            spool: None,
        })
        .start();

        self.lives.set(self.lives.get() + 1);
        self.world.note(node, &format!("life {} begins", self.lives.get()));
        let runtime = Handle::current();
        self.life.replace(Some(Life { runtime, views, replica, broker, refresher, skew: self.skew }));
        std::future::pending().await
    }

    /// Its host crashed: every actor and every call of it is gone, wherever it waited.
    pub fn crashed(&self) {
        self.life.take();
        self.world.note(self.number, "crash");
    }
}

impl Life {
    /// Looks at it by its own clock: hosts run one after the other, each for a tick.
    pub fn inside<T>(&self, look: impl FnOnce() -> T) -> T {
        let _entered = self.runtime.enter();
        look()
    }

    /// What its own clock says.
    pub fn now(&self) -> Time {
        self.inside(|| time::off_by(self.skew))
    }

    /// Waits until it is through with every refresh; it begins no other one.
    pub async fn rest(&self) {
        // one that hangs is found out by what the nodes hold then
        let _ = tokio::time::timeout(PATIENCE, self.refresher.send(Rest)).await;
    }

    /// Asks its broker; `None` where no answer came, because it crashed or took too long.
    pub async fn ask<M>(&self, message: M) -> Option<M::Result>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Broker: Handler<M>,
    {
        tokio::time::timeout(PATIENCE, self.broker.send(message)).await.ok()?.ok()
    }
}
