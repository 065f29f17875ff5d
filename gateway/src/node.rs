//! One node: its actors started in order, its listeners, and its end in the reverse order.

use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actix::{Actor, Addr, Recipient};
use actix_rt::{Arbiter, ArbiterHandle};
use actix_server::ServerHandle;
use anyhow::{Context, Result, anyhow};
use portcullis_actors::ask::Port;
use portcullis_actors::authenticate::back_channel::{BackChannel, Deliver, Tools as BackChannelTools};
use portcullis_actors::authenticate::provider::{Begin, EndSession, Provider, Redeem, VerifyLogout};
use portcullis_actors::authenticate::provider_id;
use portcullis_actors::authenticate::sign_in::{Arrive, Leave, Return, SignIn, Tools as SignInTools};
use portcullis_actors::authorize::authorizer::{Authorizer, Compiled, Enforce};
use portcullis_actors::authorize::decision_log::{DecisionLog, LineSink};
use portcullis_actors::clock;
use portcullis_actors::databroker::attendance::Attendance;
use portcullis_actors::databroker::broker::{Broker, End, Open, StandingOf, Tools as BrokerTools};
use portcullis_actors::databroker::caretaker::{Caretaker, Tools as CaretakerTools};
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::journal::{Flush, Journal};
use portcullis_actors::databroker::logout::{LogOut, Logouts, Tools as LogoutTools};
use portcullis_actors::databroker::neighbours::Neighbours;
use portcullis_actors::databroker::refresher::spool::Spool;
use portcullis_actors::databroker::refresher::{Pace, Refresher, Rest, Tools as RefresherTools};
use portcullis_actors::databroker::replica::Replica;
use portcullis_actors::databroker::revocations::Revocations;
use portcullis_actors::databroker::snapshot::{Snapshot, StoreNow};
use portcullis_actors::databroker::snapshots::Snapshots;
use portcullis_actors::databroker::store::{self, Store};
use portcullis_actors::databroker::view::Views;
use portcullis_actors::idp::RenewalClient;
use portcullis_actors::keyring::assertion::AssertionKeys;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_actors::proxy::connections::{Connections, Cutter, Scope};
use portcullis_config::limits::{
    ASKS_IN_FLIGHT, CLOSE, COMMAND_DEADLINE, DRAIN, HAND_OVER_DEADLINE, IDP_SIGN_IN, IDP_TIMEOUT, LAST_LINES,
    LOGOUT_DEADLINE, SIGN_IN_DEADLINE, SNAPSHOT_CLOSE,
};
use portcullis_config::{Config, Secret, Storage};
use tokio::sync::{mpsc, oneshot, watch};

use crate::forward::Trust;
use crate::health::{self, Vitals};
use crate::in_force::InForce;
use crate::listen::{self, Speech, Stage};
use crate::metrics::tally::Totals;
use crate::metrics::{self, Measures};
use crate::reload::Reload;
use crate::state_dir;
use crate::tls;
use crate::worker::Blueprint;

/// A node that runs.
pub struct Node {
    vitals: Arc<Vitals>,
    stage: watch::Sender<Stage>,
    open: listen::Open,
    connections: Connections,
    journal: Addr<Journal>,
    refresher: Addr<Refresher>,
    neighbours: Arc<Neighbours>,
    snapshot: Addr<Snapshot>,
    gateway: ServerHandle,
    health: ServerHandle,
    metrics: Option<ServerHandle>,
    reload: Option<Reload>,
    arbiters: Vec<Arbiter>,
    fallen: mpsc::Receiver<&'static str>,
}

impl Node {
    /// Starts a node. `data_dir` keeps its log and the secrets that the configuration does not give.
    ///
    /// # Errors
    /// A listener, a certificate, a key or the store cannot be had. A log that is away is no error: the node waits.
    pub async fn start(config: Config, data_dir: &Path, listener: TcpListener) -> Result<Self> {
        let config = Arc::new(config);
        let tls = (!config.insecure_server).then(|| tls::server_config(&config.certificates)).transpose()?;
        let keys = Keys::of(&config, data_dir)?;
        let health_listener = listen::bind(&config.health_check_addr).context("health_check_addr")?;
        let metrics_listener =
            config.metrics_address.as_ref().map(listen::bind).transpose().context("metrics_address")?;
        let (address, health_address) = (listener.local_addr()?, health_listener.local_addr()?);
        let store = store::open(&config.storage, data_dir).await?;

        let views = Arc::new(Views::with_idle_timeout(config.session_idle_timeout));
        let in_force = InForce::new(Compiled::of(Arc::clone(&config)));
        views.metrics.in_force(clock::now());
        let vitals = Arc::new(Vitals {
            views: Arc::clone(&views),
            listening: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            in_force: Arc::clone(&in_force),
        });
        let health = health::start(health_listener, Arc::clone(&vitals))?;
        tracing::info!("health on http://{health_address}");

        // in the order of their start; they stop in the reverse order
        let (fall, fallen) = mpsc::channel(8);
        let mut arbiters = Vec::new();
        let lines = start_decision_log(&mut arbiters, &fall);
        let databroker = start_databroker(&mut arbiters, &fall, &config, store, &views, &keys, data_dir).await?;
        let authenticate = start_authenticate(&mut arbiters, &fall, &config, &keys, &databroker).await?;
        let connections = Connections::default();
        let authorizer = start_authorize(&mut arbiters, &fall, &in_force, &connections);
        start_proxy(&mut arbiters, &fall, &connections, &views);

        let (open, totals) = (listen::Open::default(), Totals::default());
        let measures = Measures {
            views: Arc::clone(&views),
            in_force: Arc::clone(&in_force),
            connections: connections.clone(),
            open: open.clone(),
            totals: totals.clone(),
        };
        let metrics = match metrics_listener {
            Some(listener) => {
                tracing::info!("metrics on http://{}", listener.local_addr()?);
                Some(metrics::start(listener, measures, config.metrics_basic_auth.clone())?)
            }
            None => None,
        };
        let reload = Some(Reload { started: Arc::clone(&config), authorizer, views: Arc::clone(&views) });

        let blueprint = Blueprint {
            idp: provider_id(&config.idp).into(),
            in_force,
            views,
            connections: connections.clone(),
            keyring: keys.shared,
            cookie_keyring: keys.cookie,
            assertion_keys: Arc::new(keys.assertion),
            trust: Trust::of_system()?,
            lines,
            totals,
            open: databroker.open,
            end: databroker.end,
            arrive: authenticate.arrive,
            returned: authenticate.returned,
            leave: authenticate.leave,
            deliver: authenticate.deliver,
            config,
        };
        let (stage, staged) = watch::channel(Stage::Serving);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let speech = Speech { tls, stage: staged, open: open.clone() };
        let gateway = listen::start(listener, speech, blueprint, workers)?;
        vitals.listening.store(true, Ordering::Release);
        tracing::info!("listening on {scheme}://{address}");
        let Databroker { journal, refresher, neighbours, snapshot, .. } = databroker;
        Ok(Self {
            vitals,
            stage,
            open,
            connections,
            journal,
            refresher,
            neighbours,
            snapshot,
            gateway,
            health,
            metrics,
            reload,
            arbiters,
            fallen,
        })
    }

    /// What it takes to bring another configuration into force; for one taker.
    pub fn reload(&mut self) -> Option<Reload> {
        self.reload.take()
    }

    /// Waits until a component falls that the node cannot do without; its name.
    pub async fn fallen(&mut self) -> &'static str {
        self.fallen.recv().await.unwrap_or("the node")
    }

    /// Stops in order: not ready, drained, journal flushed, then the actors, the last started first.
    pub async fn stop(mut self) {
        self.vitals.draining.store(true, Ordering::Release);
        // what falls due from now on is another node's at once
        self.neighbours.leave();
        let resting = self.refresher.send(Rest);
        // no new connections; those that are open end after the request they are at
        self.gateway.pause().await;
        self.stage.send_replace(Stage::Draining);
        if tokio::time::timeout(DRAIN, self.open.nobody()).await.is_err() {
            tracing::info!(open = self.connections.len(), "cutting what is still open");
            self.connections.stop();
            self.stage.send_replace(Stage::Cut);
            // the workers still hand over the access lines of what was cut: nobody waits for their threads
            actix_rt::time::sleep(LAST_LINES).await;
        }
        self.connections.stop();
        self.gateway.stop(false).await;
        let deadline = tokio::time::Instant::now() + CLOSE;
        // a refresh that is broken off is found in the vault later, or is in doubt
        let _ = tokio::time::timeout_at(deadline, resting).await;
        let _ = tokio::time::timeout_at(deadline, self.journal.send(Flush)).await;
        // what is not stored in time is read from the log at the next start
        let _ = tokio::time::timeout(SNAPSHOT_CLOSE, self.snapshot.send(StoreNow)).await;
        let deadline = tokio::time::Instant::now() + CLOSE;
        while let Some(arbiter) = self.arbiters.pop() {
            arbiter.stop();
            let (ended, end) = oneshot::channel();
            // a thread of its own, which the end of the process does not wait for: whoever reads stdout may stand still
            std::thread::spawn(move || {
                // a thread that panicked has said so already
                let _ = arbiter.join();
                let _ = ended.send(());
            });
            let _ = tokio::time::timeout_at(deadline, end).await;
        }
        if let Some(metrics) = self.metrics {
            metrics.stop(false).await;
        }
        self.health.stop(false).await;
    }
}

/// What the node seals and signs with.
struct Keys {
    shared: Keyring,
    cookie: Keyring,
    assertion: AssertionKeys,
}

impl Keys {
    fn of(config: &Config, data_dir: &Path) -> Result<Self> {
        let given = |secret: &Option<Secret>, name| match secret {
            Some(secret) => Ok(secret.clone()),
            None => state_dir::secret(data_dir, name),
        };
        let shared = Keyring::new(vec![given(&config.shared_secret, "shared_secret")?])?;
        let cookie = Keyring::new(vec![given(&config.cookie_secret, "cookie_secret")?])?;
        let assertion = match &config.signing_key {
            Some(pem) => AssertionKeys::from_pem(pem.expose()).context("signing_key")?,
            None => AssertionKeys::derived(&shared)?,
        };
        Ok(Self { shared, cookie, assertion })
    }
}

/// Says which component fell, when the thread it runs on unwinds.
struct Fall {
    name: &'static str,
    to: mpsc::Sender<&'static str>,
}

impl Drop for Fall {
    fn drop(&mut self) {
        // during an orderly stop nobody listens any more
        let _ = self.to.try_send(self.name);
    }
}

/// A thread of its own for a component.
fn arbiter(arbiters: &mut Vec<Arbiter>, fall: &mpsc::Sender<&'static str>, name: &'static str) -> ArbiterHandle {
    let arbiter = Arbiter::new();
    let fall = Fall { name, to: fall.clone() };
    arbiter.spawn(async move {
        let _fall = fall;
        std::future::pending::<()>().await;
    });
    let handle = arbiter.handle();
    arbiters.push(arbiter);
    handle
}

fn start_decision_log(arbiters: &mut Vec<Arbiter>, fall: &mpsc::Sender<&'static str>) -> LineSink {
    let lost = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&lost);
    let handle = arbiter(arbiters, fall, "the request log");
    let log = DecisionLog::start_in_arbiter(&handle, move |_| DecisionLog::new(std::io::stdout(), counted));
    LineSink::new(&log, lost)
}

/// The ways into databroker.
struct Databroker {
    open: Port<Open>,
    end: Port<End>,
    standing: Port<StandingOf>,
    log_out: Port<LogOut>,
    journal: Addr<Journal>,
    refresher: Addr<Refresher>,
    neighbours: Arc<Neighbours>,
    snapshot: Addr<Snapshot>,
}

async fn start_databroker(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    config: &Arc<Config>,
    Store { log, vault, meeting, snapshots }: Store,
    views: &Arc<Views>,
    keys: &Keys,
    data_dir: &Path,
) -> Result<Databroker> {
    let wrapping = keys.shared.sealer(Purpose::DataKey)?;
    let hand_overs = keys.shared.sealer(Purpose::HandOver)?;
    let id_token_hints = keys.shared.sealer(Purpose::IdTokenHint)?;
    let snapshots = Arc::new(Snapshots::new(snapshots, keys.shared.authenticator(Purpose::Snapshot)?));
    let (kept, standing_of) = (Arc::clone(&snapshots), Arc::clone(views));
    let (config, views) = (Arc::clone(config), Arc::clone(views));
    let (idp, authenticate_url) = (config.idp.clone(), config.authenticate_service_url.clone());
    let name = uuid::Uuid::new_v4().to_string();
    let source = format!("/portcullis/{name}");
    let neighbours = Neighbours::of(name);
    let others = Arc::clone(&neighbours);
    // a vault in a file lies on the same disk
    let spool = matches!(config.storage, Storage::Nats(_)).then(|| Spool::at(data_dir.join("answers")));
    let (made, making) = oneshot::channel();
    let storing = arbiter(arbiters, fall, "snapshots");
    arbiter(arbiters, fall, "databroker").spawn(async move {
        let data_keys = Rc::new(DataKeys::new(Arc::clone(&vault), wrapping));
        let (of_log, of_keys, of_views) = (Arc::clone(&log), Rc::clone(&data_keys), Arc::clone(&views));
        let replica = Replica::starting_from(snapshots, of_log, of_keys, of_views, source.clone()).start();
        let journal = Journal::new(Arc::clone(&log), replica.clone(), Arc::clone(&views), source.clone()).start();
        Attendance::new(Arc::clone(&views), journal.clone()).start();
        let logouts = Logouts::new(LogoutTools {
            log: Arc::clone(&log),
            data_keys: Rc::clone(&data_keys),
            views: Arc::clone(&views),
            journal: journal.clone(),
        });
        Caretaker::new(CaretakerTools {
            log: Arc::clone(&log),
            vault: Arc::clone(&vault),
            data_keys: Rc::clone(&data_keys),
            views: Arc::clone(&views),
            replica: replica.clone(),
            nodes: Arc::clone(&others),
            revocations: Revocations::new(idp.clone(), authenticate_url.clone()),
        })
        .start();
        if let Some(meeting) = meeting {
            let takes_part = Arc::clone(&views);
            actix_rt::spawn(Arc::clone(&others).meet(meeting, move || takes_part.progress.is_whole()));
        }
        let refresher = Refresher::new(RefresherTools {
            vault: Arc::clone(&vault),
            data_keys: Rc::clone(&data_keys),
            views: Arc::clone(&views),
            journal: journal.clone(),
            replica: replica.clone(),
            idp: provider_id(&idp),
            provider: Rc::new(RenewalClient::new(idp.clone(), authenticate_url.clone())),
            nodes: others,
            clock: Rc::new(clock::now),
            tally: Arc::default(),
            pace: Pace::Own,
            spool,
        })
        .start();
        let broker = Broker::new(BrokerTools {
            log,
            vault,
            data_keys,
            views,
            journal: journal.clone(),
            hand_overs,
            id_token_hints,
            revocations: Revocations::new(idp, authenticate_url),
        });
        let broker = broker.start();
        let snapshot = Snapshot::start_in_arbiter(&storing, move |_| Snapshot::new(replica, standing_of, kept));
        let _ = made.send(Databroker {
            open: Port::new(broker.clone(), ASKS_IN_FLIGHT, HAND_OVER_DEADLINE),
            end: Port::new(broker.clone(), ASKS_IN_FLIGHT, HAND_OVER_DEADLINE),
            standing: Port::new(broker, ASKS_IN_FLIGHT, COMMAND_DEADLINE),
            log_out: Port::new(logouts.start(), ASKS_IN_FLIGHT, HAND_OVER_DEADLINE),
            journal,
            refresher,
            neighbours,
            snapshot,
        });
    });
    making.await.map_err(|_| anyhow!("databroker did not start"))
}

/// The ways into authenticate.
struct Authenticate {
    arrive: Port<Arrive>,
    returned: Port<Return>,
    leave: Port<Leave>,
    deliver: Port<Deliver>,
}

async fn start_authenticate(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    config: &Arc<Config>,
    keys: &Keys,
    databroker: &Databroker,
) -> Result<Authenticate> {
    let (standing, log_out) = (databroker.standing.clone(), databroker.log_out.clone());
    let config = Arc::clone(config);
    let signer = keys.shared.signer(Purpose::SignedUrl)?;
    let keepsakes = keys.cookie.sealer(Purpose::SignIn)?;
    let handles = keys.shared.sealer(Purpose::Handle)?;
    let hand_overs = keys.shared.sealer(Purpose::HandOver)?;
    let id_token_hints = keys.shared.sealer(Purpose::IdTokenHint)?;
    let (made, making) = oneshot::channel();
    arbiter(arbiters, fall, "authenticate").spawn(async move {
        let provider = Provider::new(config.idp.clone(), config.authenticate_service_url.clone()).start();
        let back_channel = BackChannel::new(BackChannelTools {
            idp: provider_id(&config.idp),
            verify: Port::<VerifyLogout>::new(provider.clone(), ASKS_IN_FLIGHT, IDP_SIGN_IN),
            log_out,
        });
        let tools = SignInTools {
            url: config.authenticate_service_url.clone(),
            cookie: config.cookie.clone(),
            idp: provider_id(&config.idp),
            begin: Port::<Begin>::new(provider.clone(), ASKS_IN_FLIGHT, SIGN_IN_DEADLINE),
            redeem: Port::<Redeem>::new(provider.clone(), ASKS_IN_FLIGHT, SIGN_IN_DEADLINE),
            end_session: Port::<EndSession>::new(provider, ASKS_IN_FLIGHT, IDP_TIMEOUT),
            standing,
            signer,
            keepsakes,
            handles,
            hand_overs,
            id_token_hints,
        };
        let sign_in = SignIn::new(tools).start();
        let _ = made.send(Authenticate {
            arrive: Port::new(sign_in.clone(), ASKS_IN_FLIGHT, SIGN_IN_DEADLINE),
            returned: Port::new(sign_in.clone(), ASKS_IN_FLIGHT, SIGN_IN_DEADLINE),
            leave: Port::new(sign_in, ASKS_IN_FLIGHT, SIGN_IN_DEADLINE),
            deliver: Port::new(back_channel.start(), ASKS_IN_FLIGHT, LOGOUT_DEADLINE),
        });
    });
    making.await.map_err(|_| anyhow!("authenticate did not start"))
}

fn start_authorize(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    in_force: &Arc<InForce>,
    connections: &Connections,
) -> Recipient<Enforce> {
    let (in_force, connections) = (Arc::clone(in_force), connections.clone());
    let handle = arbiter(arbiters, fall, "authorize");
    let publish = move |compiled| {
        in_force.publish(compiled);
        // what is open was permitted by the rules of before
        connections.reconsider(Scope::All);
    };
    Authorizer::start_in_arbiter(&handle, move |_| Authorizer::new(publish)).recipient()
}

fn start_proxy(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    connections: &Connections,
    views: &Arc<Views>,
) {
    let (connections, views) = (connections.clone(), Arc::clone(views));
    let handle = arbiter(arbiters, fall, "proxy");
    Cutter::start_in_arbiter(&handle, move |_| Cutter::new(connections, views));
}
