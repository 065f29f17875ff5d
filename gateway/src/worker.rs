//! What one worker holds: everything the request path needs, nothing that another worker writes.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use portcullis_actors::ask::Port;
use portcullis_actors::authenticate::back_channel::Deliver;
use portcullis_actors::authenticate::sign_in::{Arrive, Leave, Return};
use portcullis_actors::authorize::assertion::AssertionCache;
use portcullis_actors::authorize::decision_log::LineSink;
use portcullis_actors::clock;
use portcullis_actors::databroker::broker::{End, Open};
use portcullis_actors::databroker::view::Views;
use portcullis_actors::keyring::assertion::AssertionKeys;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_actors::proxy::connections::{Connections, Scopes};
use portcullis_actors::request::hygiene::Managed;
use portcullis_config::Config;
use portcullis_config::limits::{ASK_AGAIN_LOOK, RECONSIDER};
use tokio::sync::Notify;

use crate::apart::Apart;
use crate::forward::Pool;
use crate::forward::budget::Budgets;
use crate::in_force::InForce;
use crate::metrics::tally::{Tally, Totals};
use crate::open::Exchanges;
use crate::pages::{Desk, Pages};
use crate::telemetry::RequestLog;

/// What every worker is made from: shared, read-only, or a way to ask.
#[derive(Clone)]
pub struct Blueprint {
    /// The configuration.
    pub config: Arc<Config>,
    /// Routes and policy in force.
    pub in_force: Arc<InForce>,
    /// The views of this node.
    pub views: Arc<Views>,
    /// What is open.
    pub connections: Connections,
    /// The keys.
    pub keyring: Keyring,
    /// The keys of the sign-in, from `cookie_secret`.
    pub cookie_keyring: Keyring,
    /// The assertion's keys.
    pub assertion_keys: Arc<AssertionKeys>,
    /// The id of the identity provider; empty where this process need not know it.
    pub idp: Arc<str>,
    /// authorize, where it runs in another process.
    pub apart: Option<Apart>,
    /// Where request lines go.
    pub lines: LineSink,
    /// Where what is counted goes.
    pub totals: Totals,
    /// databroker.
    pub open: Port<Open>,
    /// databroker.
    pub end: Port<End>,
    /// authenticate.
    pub arrive: Port<Arrive>,
    /// authenticate.
    pub returned: Port<Return>,
    /// authenticate.
    pub leave: Port<Leave>,
    /// authenticate.
    pub deliver: Port<Deliver>,
}

/// One worker.
pub struct Worker {
    /// What it was made from.
    pub blueprint: Blueprint,
    /// Its upstream connections.
    pub pool: Rc<Pool>,
    /// Its lines of the request log.
    pub log: Rc<RequestLog>,
    /// Our own pages.
    pub pages: Pages,
    /// What it shares with the pages.
    pub desk: Rc<Desk>,
    /// The assertions it signed lately.
    pub assertions: AssertionCache,
    /// The header names that only we may set.
    pub managed: Rc<Managed>,
    /// Whose turn it is among several places of a tunnel.
    pub turn: Cell<usize>,
    /// What it has open.
    pub exchanges: Rc<Exchanges>,
    /// What its clients have under way.
    pub budgets: Rc<Budgets>,
    /// Wakes whoever asks authorize in another process about what is open.
    in_doubt: Notify,
}

/// How often a worker hands over its log lines and what it counted, and looks after its connections.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

impl Worker {
    /// Builds a worker on the current thread.
    ///
    /// # Errors
    /// A key cannot be derived, or the pages cannot be built.
    pub async fn build(blueprint: Blueprint) -> Result<Rc<Self>> {
        let desk = Rc::new(Desk {
            handles: blueprint.keyring.sealer(Purpose::Handle)?,
            signer: blueprint.keyring.signer(Purpose::SignedUrl)?,
            forms: blueprint.cookie_keyring.sealer(Purpose::Form)?,
            blueprint: blueprint.clone(),
        });
        let worker = Rc::new(Self {
            pool: Pool::new(Arc::clone(&blueprint.views.metrics.upstream_connections)),
            log: RequestLog::new(blueprint.lines.clone(), Tally::new(blueprint.totals.clone())),
            pages: Pages::build(Rc::clone(&desk)).await?,
            desk,
            assertions: AssertionCache::default(),
            managed: Rc::new(Managed::of(&blueprint.config)),
            turn: Cell::new(0),
            exchanges: Exchanges::new(blueprint.connections.clone()),
            budgets: Rc::default(),
            in_doubt: Notify::new(),
            blueprint,
        });
        let mut words = worker.blueprint.connections.words();
        let kept = Rc::downgrade(&worker);
        actix_rt::spawn(async move {
            let (mut tick, mut round) = (tokio::time::interval(HOUSEKEEPING), tokio::time::interval(RECONSIDER));
            loop {
                tokio::select! {
                    scopes = words.next() => {
                        let Some(worker) = kept.upgrade() else { return };
                        worker.doubt(&scopes);
                        worker.reconsider(&scopes);
                    }
                    _ = round.tick() => {
                        let Some(worker) = kept.upgrade() else { return };
                        worker.reconsider(&Scopes::All);
                        worker.blueprint.in_force.now().sweep();
                    }
                    _ = tick.tick() => {
                        let Some(worker) = kept.upgrade() else { return };
                        worker.log.flush();
                        worker.log.tally().flush();
                        worker.pool.sweep();
                        worker.sweep();
                    }
                }
            }
        });
        if let Some(apart) = worker.blueprint.apart.clone() {
            actix_rt::spawn(ask_again(Rc::downgrade(&worker), apart));
        }
        Ok(worker)
    }

    /// Has authorize in another process asked about these at once.
    fn doubt(&self, scopes: &Scopes) {
        if self.blueprint.apart.is_some() {
            self.exchanges.each(scopes, |_, kept| kept.0.doubt());
            self.in_doubt.notify_one();
        }
    }

    /// Cuts what would not be permitted any more.
    fn reconsider(&self, scopes: &Scopes) {
        let (rules, now) = (self.blueprint.in_force.now(), clock::now());
        self.exchanges.reconsider(scopes, Instant::now(), |kept| kept.is_permitted(&rules, &self.blueprint.views, now));
    }

    /// Cuts what has had its time.
    fn sweep(&self) {
        let (rules, now) = (self.blueprint.in_force.now(), clock::now());
        self.exchanges.sweep(Instant::now(), now, |kept| kept.is_permitted(&rules, &self.blueprint.views, now));
    }
}

/// Asks authorize in another process about what is open: at once where something is in doubt, else when it is due.
async fn ask_again(worker: Weak<Worker>, apart: Apart) {
    loop {
        let Some(asking) = worker.upgrade() else { return };
        if apart.ask_again(&asking.exchanges).await {
            asking.reconsider(&Scopes::All);
        }
        // woken, or because it is time to look
        let _ = tokio::time::timeout(ASK_AGAIN_LOOK, asking.in_doubt.notified()).await;
    }
}
