//! One node: its actors started in order, its listeners, and its end in the reverse order.

use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actix::{Actor, Addr, Recipient};
use actix_rt::{Arbiter, ArbiterHandle};
use actix_web::dev::ServerHandle;
use anyhow::{Context, Result, anyhow};
use portcullis_actors::ask::Port;
use portcullis_actors::authenticate::back_channel::{BackChannel, Tools as BackChannelTools};
use portcullis_actors::authenticate::provider::{Begin, EndSession, Provider, Redeem, VerifyLogout};
use portcullis_actors::authenticate::provider_id;
use portcullis_actors::authenticate::sign_in::{SignIn, Tools as SignInTools};
use portcullis_actors::authorize::authorizer::{Authorizer, Compiled, Enforce};
use portcullis_actors::authorize::crier::{Crier, CryAll};
use portcullis_actors::authorize::decision_log::{DecisionLog, LineSink};
use portcullis_actors::clock;
use portcullis_actors::databroker;
use portcullis_actors::databroker::attendance::Attendance;
use portcullis_actors::databroker::broker::Tools as BrokerTools;
use portcullis_actors::databroker::caretaker::{Caretaker, Tools as CaretakerTools};
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::journal::{Flush, Journal};
use portcullis_actors::databroker::lender::Lender;
use portcullis_actors::databroker::logout::{Logouts, Tools as LogoutTools};
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
use portcullis_actors::proxy::upstreams::Upstreams;
use portcullis_actors::proxy::upstreams::names::System;
use portcullis_actors::remote::Link;
use portcullis_actors::remote::served::{Leave, Served};
use portcullis_config::limits::{
    ASKS_IN_FLIGHT, CLOSE, COMMAND_DEADLINE, DRAIN, HAND_OVER_DEADLINE, IDP_SIGN_IN, IDP_TIMEOUT, LAST_LINES,
    LOGOUT_DEADLINE, SIGN_IN_DEADLINE, SNAPSHOT_CLOSE,
};
use portcullis_config::{Config, Secret, Storage};
use tokio::sync::{mpsc, oneshot, watch};

use crate::accept::{self, Accepting};
use crate::crowd::{Crowd, Room};
use crate::forward::probe::Asking;
use crate::health::{self, Vitals};
use crate::in_force::InForce;
use crate::listen::{self, Speech, Stage};
use crate::metrics::tally::Totals;
use crate::metrics::{self, Measures};
use crate::redirect;
use crate::reload::Reload;
use crate::roles::{self, Authenticate, Broker, Offered};
use crate::state_dir;
use crate::tls::Tls;
use crate::worker::Blueprint;

/// A node that runs.
pub struct Node {
    vitals: Arc<Vitals>,
    stage: watch::Sender<Stage>,
    open: Crowd,
    connections: Connections,
    keeper: Option<Keeper>,
    gateways: Vec<Accepting>,
    served: Option<Addr<Served>>,
    health: ServerHandle,
    metrics: Option<ServerHandle>,
    reload: Option<Reload>,
    arbiters: Vec<Arbiter>,
    fallen: mpsc::Receiver<&'static str>,
}

impl Node {
    /// Starts a node. `listener` is there if the proxy is among its components. `data_dir` keeps its log and the secrets that the configuration does not give.
    ///
    /// # Errors
    /// A listener, a certificate, a key or the store cannot be had. A log that is away is no error: the node waits.
    pub async fn start(config: Config, data_dir: &Path, listener: Option<TcpListener>) -> Result<Self> {
        let config = Arc::new(config);
        let here = config.services;
        let tls = Tls::for_listener(&config)?;
        let keys = Keys::of(&config, data_dir)?;
        let health_listener = accept::bind_alone(&config.health_check_addr).context("health_check_addr")?;
        let metrics_listener =
            config.metrics_address.as_ref().map(accept::bind_alone).transpose().context("metrics_address")?;
        let redirect_listener = config.downstream.http_redirect_addr.as_ref().filter(|_| here.proxy);
        let redirect_listener = redirect_listener.map(accept::bind).transpose().context("http_redirect_addr")?;
        let downstream = config.downstream.clone();
        let health_address = health_listener.local_addr()?;
        let link = roles::link(&config, &keys.shared).await?;
        let lent = link.as_ref().map(roles::lent_on);
        let store = store::open_for(here, &config.storage, data_dir, lent).await?;

        let views = Arc::new(Views::with_idle_timeout(config.session_idle_timeout));
        let in_force = InForce::new(Compiled::of(Arc::clone(&config)), &views.metrics.upstreams);
        views.metrics.in_force(clock::now());
        let vitals = Arc::new(Vitals {
            views: Arc::clone(&views),
            listening: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            in_force: Arc::clone(&in_force),
            services: here,
            ties: link.as_ref().map(|link| link.ties().clone()),
        });
        let health = health::start(health_listener, Arc::clone(&vitals))?;
        tracing::info!("health on http://{health_address}");

        // in the order of their start; they stop in the reverse order
        let (fall, fallen) = mpsc::channel(8);
        let mut arbiters = Vec::new();
        let lines = start_decision_log(&mut arbiters, &fall);
        let elsewhere = |what| link.as_ref().with_context(|| format!("{what} is neither here nor on NATS"));
        let Databroker { broker, keeper, crier } = match store {
            Some(store) if here.databroker => {
                start_databroker(&mut arbiters, &fall, &config, store, &views, &keys, (data_dir, link.as_ref())).await?
            }
            Some(store) => {
                let broker = roles::broker_on(elsewhere("databroker")?);
                let (seen, link) = (broker.seen.clone(), link.clone());
                let crier = roles::start_replica(&mut arbiters, &fall, store, &views, &keys, seen, link).await?;
                Databroker { broker, keeper: None, crier }
            }
            None => {
                let broker = roles::broker_on(elsewhere("databroker")?);
                Databroker { broker, keeper: None, crier: None }
            }
        };
        let authenticate = if here.authenticate {
            start_authenticate(&mut arbiters, &fall, &config, &keys, &broker).await?
        } else {
            roles::authenticate_on(elsewhere("authenticate")?)
        };
        let connections = Connections::default();
        let authorizer = start_authorize(&mut arbiters, &fall, &in_force, &connections, crier);
        let apart = match (&link, here.proxy && !here.authorize) {
            (Some(link), true) => Some(roles::start_listening(&mut arbiters, &fall, &connections, link)),
            _ => None,
        };
        start_proxy(&mut arbiters, &fall, &connections, &views, here.proxy.then_some(&in_force));

        let mut served = None;
        if let Some(link) = &link {
            let handle = arbiter(&mut arbiters, &fall, "the role subjects");
            roles::look_out(&handle, link, here);
            let rules = Arc::clone(&in_force);
            let checker = here.authorize.then(|| {
                roles::start_checker(
                    &mut arbiters,
                    &fall,
                    &keys,
                    roles::CheckerParts { views: Arc::clone(&views), rules, idp: idp_id(&config) },
                )
            });
            let offered = Offered {
                broker: here.databroker.then(|| broker.clone()),
                authenticate: here.authenticate.then(|| authenticate.clone()),
                checker: checker.transpose()?,
            };
            served = Some(roles::serve(
                &handle,
                link,
                offered,
                (here.authorize || here.databroker).then(|| Arc::clone(&views)),
            ));
        }

        let room = Room::of(config.connections);
        let (open, totals) = (Crowd::new(room), Totals::default());
        let measures = Measures {
            views: Arc::clone(&views),
            in_force: Arc::clone(&in_force),
            connections: connections.clone(),
            open: open.clone(),
            totals: totals.clone(),
            tls: tls.clone(),
            ties: link.as_ref().map(|link| link.ties().clone()),
        };
        let metrics = match metrics_listener {
            Some(listener) => {
                tracing::info!("metrics on http://{}", listener.local_addr()?);
                Some(metrics::start(listener, measures, config.metrics_basic_auth.clone())?)
            }
            None => None,
        };
        let reload =
            Some(Reload { started: Arc::clone(&config), authorizer, views: Arc::clone(&views), tls: tls.clone() });

        let blueprint = Blueprint {
            idp: idp_id(&config),
            apart,
            in_force,
            views,
            connections: connections.clone(),
            keyring: keys.shared,
            cookie_keyring: keys.cookie,
            assertion_keys: keys.assertion,
            lines,
            totals,
            open: broker.open,
            end: broker.end,
            arrive: authenticate.arrive,
            returned: authenticate.returned,
            leave: authenticate.leave,
            deliver: authenticate.deliver,
            config,
        };
        let (stage, staged) = watch::channel(Stage::Serving);
        let mut gateways = Vec::new();
        if let Some(listener) = listener {
            let (scheme, address) = (if tls.is_some() { "https" } else { "http" }, listener.local_addr()?);
            let workers = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
            let (codec, proxy_protocol) = (downstream.codec, downstream.proxy_protocol);
            let speech = Speech { tls, codec, proxy_protocol, stage: staged.clone(), open: open.clone() };
            gateways.push(listen::start(listener, speech, blueprint, workers).await?);
            tracing::info!("listening on {scheme}://{address}");
        }
        if let Some(listener) = redirect_listener {
            tracing::info!("redirecting from http://{}", listener.local_addr()?);
            gateways.push(redirect::start(listener, room, staged, downstream.proxy_protocol).await?);
        }
        vitals.listening.store(true, Ordering::Release);
        Ok(Self {
            vitals,
            stage,
            open,
            connections,
            keeper,
            gateways,
            served,
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
        let resting = self.keeper.as_ref().map(|keeper| {
            keeper.neighbours.leave();
            keeper.refresher.send(Rest)
        });
        let leaving = self.served.as_ref().map(|served| tokio::time::timeout(DRAIN, served.send(Leave)));
        // no new connections; those that are open end after the request they are at
        self.stage.send_replace(Stage::Draining);
        for gateway in &mut self.gateways {
            // a worker that stands still takes nothing more
            let _ = tokio::time::timeout(DRAIN, gateway.closed()).await;
        }
        if tokio::time::timeout(DRAIN, self.open.nobody()).await.is_err() {
            tracing::info!(open = self.connections.len(), "cutting what is still open");
            self.connections.stop();
            self.stage.send_replace(Stage::Cut);
            // the workers still hand over the access lines of what was cut: nobody waits for their threads
            actix_rt::time::sleep(LAST_LINES).await;
        }
        self.connections.stop();
        for gateway in self.gateways {
            gateway.stop().await;
        }
        if let Some(leaving) = leaving {
            // a question that is not answered in this time is asked again elsewhere
            let _ = leaving.await;
        }
        let deadline = tokio::time::Instant::now() + CLOSE;
        // a refresh that is broken off is found in the vault later, or is in doubt
        if let Some(resting) = resting {
            let _ = tokio::time::timeout_at(deadline, resting).await;
        }
        if let Some(keeper) = &self.keeper {
            let _ = tokio::time::timeout_at(deadline, keeper.journal.send(Flush)).await;
            // what is not stored in time is read from the log at the next start
            let _ = tokio::time::timeout(SNAPSHOT_CLOSE, keeper.snapshot.send(StoreNow)).await;
        }
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
pub struct Keys {
    pub shared: Keyring,
    cookie: Keyring,
    pub assertion: Arc<AssertionKeys>,
}

impl Keys {
    fn of(config: &Config, data_dir: &Path) -> Result<Self> {
        let given = |secret: &Option<Secret>, name| match secret {
            Some(secret) => Ok(secret.clone()),
            None => state_dir::secret(data_dir, name),
        };
        let shared = Keyring::new(vec![given(&config.shared_secret, "shared_secret")?])?;
        let cookie = match &config.cookie_secret {
            // nothing is made with it
            None if !config.services.hold_cookies() => shared.clone(),
            secret => Keyring::new(vec![given(secret, "cookie_secret")?])?,
        };
        let assertion = match &config.signing_key {
            Some(pem) => AssertionKeys::from_pem(pem.expose()).context("signing_key")?,
            None => AssertionKeys::derived(&shared)?,
        };
        Ok(Self { shared, cookie, assertion: Arc::new(assertion) })
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
pub fn arbiter(arbiters: &mut Vec<Arbiter>, fall: &mpsc::Sender<&'static str>, name: &'static str) -> ArbiterHandle {
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

/// What has to be brought to rest before a process that keeps the log may end.
struct Keeper {
    journal: Addr<Journal>,
    refresher: Addr<Refresher>,
    neighbours: Arc<Neighbours>,
    snapshot: Addr<Snapshot>,
}

/// What a process has of databroker.
struct Databroker {
    broker: Broker,
    keeper: Option<Keeper>,
    /// Whoever tells proxies elsewhere what changes in the views of this process.
    crier: Option<Addr<Crier>>,
}

async fn start_databroker(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    config: &Arc<Config>,
    Store { log, vault, meeting, snapshots, shelves }: Store,
    views: &Arc<Views>,
    keys: &Keys,
    (data_dir, link): (&Path, Option<&Link>),
) -> Result<Databroker> {
    let wrapping = keys.shared.sealer(Purpose::DataKey)?;
    let hand_overs = keys.shared.sealer(Purpose::HandOver)?;
    let id_token_hints = keys.shared.sealer(Purpose::IdTokenHint)?;
    let snapshots = Arc::new(Snapshots::new(snapshots, keys.shared.authenticator(Purpose::Snapshot)?));
    let (kept, standing_of) = (Arc::clone(&snapshots), Arc::clone(views));
    let (config, views) = (Arc::clone(config), Arc::clone(views));
    let authenticate_url = config.authenticate_service_url.clone();
    let idp = config.idp.clone().context("idp_provider_url")?;
    let cries = link.filter(|_| config.services.authorize).cloned();
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
        let crier = cries.map(|link| Crier::new(Arc::clone(&views), link).start());
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
        let attended = Arc::clone(&views);
        let broker = databroker::broker::Broker::new(BrokerTools {
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
        let broker = Broker {
            open: Port::new(broker.clone(), ASKS_IN_FLIGHT, HAND_OVER_DEADLINE),
            end: Port::new(broker.clone(), ASKS_IN_FLIGHT, HAND_OVER_DEADLINE),
            standing: Port::new(broker.clone(), ASKS_IN_FLIGHT, COMMAND_DEADLINE),
            log_out: Port::new(logouts.start(), ASKS_IN_FLIGHT, HAND_OVER_DEADLINE),
            seen: Port::new(broker, ASKS_IN_FLIGHT, COMMAND_DEADLINE),
            lend: shelves.map(|shelves| Port::new(Lender::new(shelves).start(), ASKS_IN_FLIGHT, COMMAND_DEADLINE)),
        };
        Attendance::new(attended, broker.seen.clone()).start();
        let keeper = Keeper { journal, refresher, neighbours, snapshot };
        let _ = made.send(Databroker { broker, keeper: Some(keeper), crier });
    });
    making.await.map_err(|_| anyhow!("databroker did not start"))
}

async fn start_authenticate(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    config: &Arc<Config>,
    keys: &Keys,
    broker: &Broker,
) -> Result<Authenticate> {
    let (standing, log_out) = (broker.standing.clone(), broker.log_out.clone());
    let idp = config.idp.clone().context("idp_provider_url")?;
    let config = Arc::clone(config);
    let signer = keys.shared.signer(Purpose::SignedUrl)?;
    let keepsakes = keys.cookie.sealer(Purpose::SignIn)?;
    let handles = keys.shared.sealer(Purpose::Handle)?;
    let hand_overs = keys.shared.sealer(Purpose::HandOver)?;
    let id_token_hints = keys.shared.sealer(Purpose::IdTokenHint)?;
    let (made, making) = oneshot::channel();
    arbiter(arbiters, fall, "authenticate").spawn(async move {
        let provider = Provider::new(idp.clone(), config.authenticate_service_url.clone()).start();
        let back_channel = BackChannel::new(BackChannelTools {
            idp: provider_id(&idp),
            verify: Port::<VerifyLogout>::new(provider.clone(), ASKS_IN_FLIGHT, IDP_SIGN_IN),
            log_out,
        });
        let tools = SignInTools {
            url: config.authenticate_service_url.clone(),
            cookie: config.cookie.clone(),
            idp: provider_id(&idp),
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
    crier: Option<Addr<Crier>>,
) -> Recipient<Enforce> {
    let (in_force, connections) = (Arc::clone(in_force), connections.clone());
    let handle = arbiter(arbiters, fall, "authorize");
    let publish = move |compiled| {
        in_force.publish(compiled);
        // what is open was permitted by the rules of before
        connections.reconsider(Scope::All);
        if let Some(crier) = &crier {
            // what is not told is found out by asking
            let _ = crier.try_send(CryAll);
        }
    };
    Authorizer::start_in_arbiter(&handle, move |_| Authorizer::new(publish)).recipient()
}

/// The id of the provider that sessions come from.
fn idp_id(config: &Config) -> Arc<str> {
    config.idp.as_ref().map(provider_id).unwrap_or_default().into()
}

fn start_proxy(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    connections: &Connections,
    views: &Arc<Views>,
    in_force: Option<&Arc<InForce>>,
) {
    let (connections, views) = (connections.clone(), Arc::clone(views));
    let handle = arbiter(arbiters, fall, "proxy");
    if let Some(in_force) = in_force {
        let tables = in_force.tables();
        Upstreams::start_in_arbiter(&handle, move |_| Upstreams::new(tables, Box::new(Asking), Box::new(System)));
    }
    Cutter::start_in_arbiter(&handle, move |_| Cutter::new(connections, views));
}
