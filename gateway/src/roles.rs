//! The components of this process among those of others: what they ask elsewhere, and what they answer.

use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr};
use actix_rt::{Arbiter, ArbiterHandle};
use anyhow::{Context, Result, anyhow};
use portcullis_actors::ask::Port;
use portcullis_actors::authenticate::back_channel::Deliver;
use portcullis_actors::authenticate::sign_in::{Arrive, Leave, Return};
use portcullis_actors::authorize::check::{self, Again, Check, Who};
use portcullis_actors::authorize::checker::{Checker, Tools as CheckerTools};
use portcullis_actors::authorize::crier::Crier;
use portcullis_actors::databroker::attendance::Attendance;
use portcullis_actors::databroker::broker::{End, Open, Seen, StandingOf};
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::lender::Lend;
use portcullis_actors::databroker::logout::LogOut;
use portcullis_actors::databroker::replica::Replica;
use portcullis_actors::databroker::store::Store;
use portcullis_actors::databroker::view::Views;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_actors::proxy::connections::Connections;
use portcullis_actors::proxy::listener::{Heard, Listener};
use portcullis_actors::remote::lookout::{Lookout, Ties};
use portcullis_actors::remote::served::Served;
use portcullis_actors::remote::{Link, subjects};
use portcullis_config::limits::{
    ASK_AGAIN_DEADLINE, ASKS_IN_FLIGHT, CHECK_DEADLINE, COMMAND_DEADLINE, HAND_OVER_DEADLINE, LEND_DEADLINE,
    LOGOUT_DEADLINE, ROLE_ATTEMPT, SIGN_IN_DEADLINE,
};
use portcullis_config::{Config, Services, Storage};
use tokio::sync::{mpsc, oneshot};

use crate::apart::Apart;
use crate::in_force::InForce;
use crate::node::{Keys, arbiter};

/// The ways into databroker, here or in another process.
#[derive(Clone)]
pub struct Broker {
    pub open: Port<Open>,
    pub end: Port<End>,
    pub standing: Port<StandingOf>,
    pub log_out: Port<LogOut>,
    pub seen: Port<Seen>,
    /// There is none where the log is not on NATS.
    pub lend: Option<Port<Lend>>,
}

/// The ways into authenticate, here or in another process.
#[derive(Clone)]
pub struct Authenticate {
    pub arrive: Port<Arrive>,
    pub returned: Port<Return>,
    pub leave: Port<Leave>,
    pub deliver: Port<Deliver>,
}

/// The link of a process that does not run every component.
///
/// # Errors
/// No key can be derived, or what the configuration says of the servers cannot be used.
pub async fn link(config: &Config, keyring: &Keyring) -> Result<Option<Link>> {
    let Storage::Nats(servers) = &config.storage else { return Ok(None) };
    if config.services.are_all() {
        return Ok(None);
    }
    let sealer = keyring.sealer(Purpose::Role)?;
    let link = Link::connect(servers, config.services, sealer).await;
    link.map(Some).context("databroker_storage_connection_string")
}

/// databroker in another process. Its commands may be sent again; a logout, which takes long, is sent again by the provider.
pub fn broker_on(link: &Link) -> Broker {
    let attempt = Some(ROLE_ATTEMPT);
    Broker {
        open: link.port(subjects::OPEN, ASKS_IN_FLIGHT, HAND_OVER_DEADLINE, attempt),
        end: link.port(subjects::END, ASKS_IN_FLIGHT, HAND_OVER_DEADLINE, attempt),
        standing: link.port(subjects::STANDING, ASKS_IN_FLIGHT, COMMAND_DEADLINE, attempt),
        log_out: link.port(subjects::LOG_OUT, ASKS_IN_FLIGHT, LOGOUT_DEADLINE, None),
        seen: link.port(subjects::SEEN, ASKS_IN_FLIGHT, COMMAND_DEADLINE, attempt),
        lend: Some(lent_on(link)),
    }
}

/// Consumers of databroker in another process. The tail waits for them, and asks the leader itself where there are none.
pub fn lent_on(link: &Link) -> Port<Lend> {
    link.port(subjects::LEND, ASKS_IN_FLIGHT, LEND_DEADLINE, None)
}

/// authenticate in another process. A code of a provider is redeemed once: a return is not sent again.
pub fn authenticate_on(link: &Link) -> Authenticate {
    Authenticate {
        arrive: link.port(subjects::ARRIVE, ASKS_IN_FLIGHT, SIGN_IN_DEADLINE, Some(ROLE_ATTEMPT * 2)),
        returned: link.port(subjects::RETURN, ASKS_IN_FLIGHT, SIGN_IN_DEADLINE, None),
        leave: link.port(subjects::LEAVE, ASKS_IN_FLIGHT, SIGN_IN_DEADLINE, Some(ROLE_ATTEMPT * 2)),
        deliver: link.port(subjects::DELIVER, ASKS_IN_FLIGHT, LOGOUT_DEADLINE, None),
    }
}

/// What others may ask of this process.
#[derive(Default)]
pub struct Offered {
    /// databroker, if it is here.
    pub broker: Option<Broker>,
    /// authenticate, if it is here.
    pub authenticate: Option<Authenticate>,
    /// authorize, if it is here.
    pub checker: Option<Addr<Checker>>,
}

/// Answers others: from now on, or, where the views of this process are asked, from when the log was read to its end.
pub fn serve(on: &ArbiterHandle, link: &Link, offered: Offered, views: Option<Arc<Views>>) -> Addr<Served> {
    let mut served = Served::new(link.clone());
    if let Some(Broker { open, end, standing, log_out, seen, lend }) = offered.broker {
        served = served
            .present("databroker")
            .line(subjects::OPEN, open)
            .line(subjects::END, end)
            .line(subjects::STANDING, standing)
            .line(subjects::LOG_OUT, log_out)
            .line(subjects::SEEN, seen);
        if let Some(lend) = lend {
            served = served.line(subjects::LEND, lend);
        }
    }
    if let Some(Authenticate { arrive, returned, leave, deliver }) = offered.authenticate {
        served = served
            .present("authenticate")
            .line(subjects::ARRIVE, arrive)
            .line(subjects::RETURN, returned)
            .line(subjects::LEAVE, leave)
            .line(subjects::DELIVER, deliver);
    }
    if let Some(checker) = offered.checker {
        served = served
            .present("authorize")
            .line::<Check>(subjects::CHECK, Port::new(checker.clone(), ASKS_IN_FLIGHT, CHECK_DEADLINE))
            .line::<Again>(subjects::AGAIN, Port::new(checker.clone(), ASKS_IN_FLIGHT, ASK_AGAIN_DEADLINE))
            .line::<Who>(subjects::WHO, Port::new(checker.clone(), ASKS_IN_FLIGHT, ASK_AGAIN_DEADLINE))
            .line::<check::Keys>(subjects::KEYS, Port::new(checker, ASKS_IN_FLIGHT, ASK_AGAIN_DEADLINE));
    }
    if let Some(views) = views {
        served = served.once_read(views);
    }
    Served::start_in_arbiter(on, move |_| served)
}

/// Looks after those whom this process asks.
pub fn look_out(on: &ArbiterHandle, link: &Link, here: Services) {
    let link = link.clone();
    Lookout::start_in_arbiter(on, move |_| Lookout::new(link, here));
}

/// What stands in the way of a process whose components need others; `None` where nothing does.
pub fn missing(ties: &Ties, here: Services) -> Option<String> {
    if let Some(denials) = ties.denials() {
        return Some(format!("a permission is missing: {denials}"));
    }
    let others = ties.others();
    let needed = [("authorize", here.proxy), ("databroker", here.authenticate)];
    needed.into_iter().filter(|(_, is_needed)| *is_needed).find_map(|(component, _)| {
        let wrong = others.get(component)?.as_ref()?;
        Some(format!("{component} does not answer: {wrong}"))
    })
}

/// authorize without databroker beside it: a replica that reads, and tells databroker elsewhere of sessions in use.
pub async fn start_replica(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    Store { log, vault, .. }: Store,
    views: &Arc<Views>,
    keys: &Keys,
    seen: Port<Seen>,
    link: Option<Link>,
) -> Result<Option<Addr<Crier>>> {
    let wrapping = keys.shared.sealer(Purpose::DataKey)?;
    let views = Arc::clone(views);
    let (made, making) = oneshot::channel();
    arbiter(arbiters, fall, "the replica").spawn(async move {
        let data_keys = Rc::new(DataKeys::new(vault, wrapping));
        let crier = link.map(|link| Crier::new(Arc::clone(&views), link).start());
        Replica::reading(log, data_keys, Arc::clone(&views)).start();
        Attendance::new(views, seen).start();
        let _ = made.send(crier);
    });
    making.await.map_err(|_| anyhow!("the replica did not start"))
}

/// Listens to authorize in other processes, and asks it.
pub fn start_listening(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    connections: &Connections,
    link: &Link,
) -> Apart {
    let heard = Heard::default();
    let listener = Listener::new(link.clone(), connections.clone(), heard.clone());
    let handle = arbiter(arbiters, fall, "the listener");
    Listener::start_in_arbiter(&handle, move |_| listener);
    Apart::on(link, heard)
}

/// What a checker works with, keys apart.
pub struct CheckerParts {
    pub views: Arc<Views>,
    pub rules: Arc<InForce>,
    pub idp: Arc<str>,
}

pub fn start_checker(
    arbiters: &mut Vec<Arbiter>,
    fall: &mpsc::Sender<&'static str>,
    keys: &Keys,
    CheckerParts { views, rules, idp }: CheckerParts,
) -> Result<Addr<Checker>> {
    let (handles, keys) = (keys.shared.sealer(Purpose::Handle)?, Arc::clone(&keys.assertion));
    let handle = arbiter(arbiters, fall, "the checker");
    let in_force = move || Arc::clone(&rules.now().compiled);
    let tools = move || CheckerTools { views, in_force: Box::new(in_force), handles, idp, keys };
    Ok(Checker::start_in_arbiter(&handle, move |_| Checker::new(tools())))
}
