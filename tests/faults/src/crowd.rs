//! People who never stop: they sign in, use what they signed in to, and leave, at whatever nodes there are.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use portcullis_events::SessionId;
use portcullis_harness::client::Visitor;
use portcullis_harness::cookies::Jar;
use portcullis_harness::gateway::Launcher;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::world::APP;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::assertions::Assertions;
use crate::dice::Dice;
use crate::ledger::{Kept, Ledger, Standing};

/// How long a node may go on admitting a session when it cannot hear of its end (`max_staleness`).
pub const BOUND: Duration = Duration::from_secs(5);
/// How far a proof of freshness may be off. A bound is counted from when the leader last heard more than half of the
/// replicas, not from its answer: a leader that was cut off gains nothing by answering on, whatever it answers. What is
/// left is the way of that sign of life: a follower that gave it may vote for another leader before it arrives. That is
/// milliseconds, but for a leader that stood still (SIGSTOP) and reads, when it goes on, what was sent to it before;
/// it hears of its successor in the same moment. The machine's load adds nothing: a request counts from when it was
/// sent, before it was decided on, and an end from when its acknowledgement was read, after it was given.
pub const PROOF: Duration = Duration::from_secs(1);
/// Sessions that there are at a time, as a rule.
pub const USUAL: usize = 24;

/// How many people use what they signed in to at each node at a time.
const USERS: usize = 3;
/// Between two sign-ins at a node, two departures there, two requests of one person.
const PACE: [Duration; 3] = [Duration::from_millis(900), Duration::from_millis(1500), Duration::from_millis(200)];
/// How long people wait for a whole sign-in or sign-out, and for a page.
const PATIENCE: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(5)];
/// One departure in so many is an administrator's command.
const BY_COMMAND: usize = 6;
/// For so long it is tried whether a revoked session still opens anything.
const GHOST: Duration = Duration::from_secs(40);
/// How long it may take until everybody stands still.
const STILL: Duration = Duration::from_secs(60);

/// Where a node is, as people see it.
#[derive(Debug, Default)]
pub struct Gate {
    /// Its address; `None` while nobody knows one.
    pub address: Cell<Option<SocketAddr>>,
    /// Its clock is wrong: it, and no other, may refuse whoever signed in elsewhere.
    pub is_untimely: Cell<bool>,
}

/// Everybody.
pub struct Crowd {
    /// The nodes.
    pub gates: Vec<Gate>,
    /// What they were told.
    pub ledger: RefCell<Ledger>,
    /// How many sessions there should be.
    pub wanted: Cell<usize>,
    stranger: Visitor,
    assertions: Assertions,
    launcher: Launcher,
    config: PathBuf,
    dice: Dice,
    is_going: Cell<bool>,
    at_work: Cell<usize>,
}

/// What somebody who is signed in is told.
enum Told {
    Served(String),
    Denied,
    TryAgain,
    Nothing,
    Strange(StatusCode),
}

impl Crowd {
    /// Nobody yet. `config` is a configuration that an administrator's commands run on.
    ///
    /// # Errors
    /// The first gate does not publish the keys of its assertions.
    pub async fn new(
        gates: Vec<Gate>,
        stranger: Visitor,
        launcher: Launcher,
        config: PathBuf,
        seed: u64,
    ) -> Result<Self> {
        let address = gates.first().and_then(|gate| gate.address.get()).context("no node")?;
        let there = stranger.clone().through(address);
        let key_set = there.get(&format!("{APP}/.well-known/pomerium/jwks.json")).await?;
        Ok(Self {
            ledger: RefCell::new(Ledger::new(gates.len())),
            gates,
            wanted: Cell::new(USUAL),
            stranger,
            assertions: Assertions::from_key_set(&key_set.text())?,
            launcher,
            config,
            dice: Dice::new(seed),
            is_going: Cell::new(false),
            at_work: Cell::new(0),
        })
    }

    /// Brings everybody to life; they do nothing until told to go on.
    pub fn live(self: &Rc<Self>) -> Vec<JoinHandle<()>> {
        let [coming, leaving, using] = PACE;
        let everywhere = 0..self.gates.len();
        // a node that answers nobody keeps those who wait for it, and no others
        let kinds = everywhere.flat_map(|number| {
            let users = [(Kind::User(number), using); USERS];
            [(Kind::Newcomer(number), coming), (Kind::Leaver(number), leaving)].into_iter().chain(users)
        });
        let live = |(kind, pace)| tokio::task::spawn_local(Rc::clone(self).again_and_again(kind, pace));
        kinds.map(live).collect()
    }

    async fn again_and_again(self: Rc<Self>, kind: Kind, pace: Duration) {
        loop {
            if self.is_going.get() {
                self.at_work.set(self.at_work.get() + 1);
                match kind {
                    Kind::Newcomer(number) => self.come(number).await,
                    Kind::Leaver(number) => self.leave(number).await,
                    Kind::User(number) => self.use_at(number).await,
                }
                self.at_work.set(self.at_work.get() - 1);
            }
            let is_hurried =
                matches!(kind, Kind::Newcomer(_)) && self.ledger.borrow().open().len() < self.wanted.get() / 2;
            sleep(if is_hurried { pace / 8 } else { pace }).await;
        }
    }

    /// Everybody goes on.
    pub fn go_on(&self) {
        self.is_going.set(true);
    }

    /// Everybody finishes what they are at, and stands still.
    ///
    /// # Errors
    /// Somebody does not come to an end.
    pub async fn stand_still(&self) -> Result<()> {
        self.is_going.set(false);
        eventually("people stand still", STILL, async || Ok((self.at_work.get() == 0).then_some(()))).await
    }

    fn address(&self, number: usize) -> Option<SocketAddr> {
        self.gates.get(number).and_then(|gate| gate.address.get())
    }

    async fn come(&self, number: usize) {
        if self.ledger.borrow().open().len() >= self.wanted.get() {
            return;
        }
        let Some(address) = self.address(number) else { return };
        let person = self.stranger.holding(Jar::default()).through(address);
        let [patience, _] = PATIENCE;
        let began = Instant::now();
        let page = timeout(patience, sign_in(&person, APP, "alice")).await;
        let mut ledger = self.ledger.borrow_mut();
        if !matches!(&page, Ok(Ok(page)) if page.status == StatusCode::OK) {
            ledger.tally.sign_in_gap.goes_on(began);
        }
        let [acknowledged, refused, broken_off] = &mut ledger.tally.sign_ins;
        match page {
            Ok(Ok(page)) if page.status == StatusCode::OK => {
                let session = match self.assertions.check(&page.text()) {
                    Ok(session) => session,
                    Err(error) => return ledger.breaks(format!("somebody new came with {error:#}")),
                };
                *acknowledged += 1;
                ledger.tally.sign_in_gap.ends();
                let cookies = person.cookies().clone();
                let kept = Kept { cookies, standing: Standing::Open };
                ledger.sessions.insert(session, kept);
            }
            Ok(Ok(page)) if page.status == StatusCode::SERVICE_UNAVAILABLE => *refused += 1,
            Ok(Ok(_) | Err(_)) | Err(_) => *broken_off += 1,
        }
    }

    async fn leave(&self, number: usize) {
        let open = self.ledger.borrow().open();
        if open.len() <= self.wanted.get() / 2 {
            return;
        }
        let Some((id, address)) = self.dice.pick(&open).zip(self.address(number)) else { return };
        let Some(cookies) = self.ledger.borrow().sessions.get(&id).map(|kept| kept.cookies.clone()) else { return };
        self.ledger.borrow_mut().stands(id, Standing::Leaving);
        let [patience, _] = PATIENCE;
        let ended = if self.dice.one_in(BY_COMMAND) {
            timeout(patience, self.revoke(id)).await
        } else {
            timeout(patience, signed_out(&self.stranger.holding(cookies).through(address))).await
        };
        let mut ledger = self.ledger.borrow_mut();
        let [acknowledged, unsure] = &mut ledger.tally.revocations;
        if matches!(ended, Ok(Ok(()))) {
            *acknowledged += 1;
            ledger.stands(id, Standing::Revoked(Instant::now()));
        } else {
            *unsure += 1;
            ledger.stands(id, Standing::Unsure);
        }
    }

    /// By an administrator's command, which goes to the log by itself.
    async fn revoke(&self, id: SessionId) -> Result<()> {
        let (id, config) = (id.to_string(), self.config.to_string_lossy().into_owned());
        let home = tempfile::tempdir()?;
        let state = home.path().to_string_lossy().into_owned();
        let arguments = ["sessions", "revoke", &id, "-c", &config];
        let outcome = self.launcher.outcome(&arguments, &[("STATE_DIRECTORY", &state)]).await?;
        ensure!(outcome.code == Some(0), "{}", outcome.stderr);
        Ok(())
    }

    async fn use_at(&self, number: usize) {
        let is_ghost = |kept: &Kept| matches!(kept.standing, Standing::Revoked(at) if at.elapsed() < GHOST);
        let from = match self.dice.one_in(3) {
            true => self.ledger.borrow().which(is_ghost),
            false => self.ledger.borrow().open(),
        };
        let Some(id) = self.dice.pick(&from) else { return };
        self.ask(number, id).await;
    }

    /// One request of a session at a node, judged; whether it was served.
    pub async fn ask(&self, number: usize, id: SessionId) -> bool {
        let Some(gate) = self.gates.get(number) else { return false };
        let cookies = self.ledger.borrow().sessions.get(&id).map(|kept| kept.cookies.clone());
        let Some(cookies) = cookies else { return false };
        let sent = Instant::now();
        let told = match gate.address.get() {
            Some(address) => self.told(&self.stranger.holding(cookies).through(address)).await,
            None => Told::Nothing,
        };
        let mut ledger = self.ledger.borrow_mut();
        let Some(kept) = ledger.sessions.get(&id).cloned() else { return false };
        if let Told::Served(echo) = &told
            && let Some(why) = self.assertions.check(echo).map_or_else(
                |error| Some(format!("{error:#}")),
                |found| (found != id).then(|| format!("the assertion is of {found}")),
            )
        {
            ledger.breaks(format!("a request of session {id} at node {number}: {why}"));
        }
        match (kept.standing, &told) {
            (Standing::Revoked(at), Told::Served(_)) => {
                // sent before it was acknowledged, it may have been decided on before
                let late = sent.saturating_duration_since(at);
                ledger.tally.latest = ledger.tally.latest.max(late);
                if late > BOUND + PROOF {
                    ledger.breaks(format!("node {number} admitted the revoked session {id} after {late:?}"));
                }
            }
            (Standing::Open, Told::Denied) if gate.is_untimely.get() => ledger.tally.untimely += 1,
            (Standing::Open, Told::Denied) => ledger.denied.push((id, number)),
            (_, Told::Strange(status)) => ledger.breaks(format!("node {number} answered {status}")),
            _ => {}
        }
        if kept.standing == Standing::Open {
            let tally = &mut ledger.tally;
            let ([served, refused, unanswered], gap) = (&mut tally.requests, tally.node_gaps.get_mut(number));
            match (&told, gap) {
                (Told::Served(_), Some(gap)) => gap.ends(),
                (Told::TryAgain | Told::Nothing, Some(gap)) => gap.goes_on(sent),
                (_, _) => {}
            }
            match told {
                Told::Served(_) => {
                    *served += 1;
                    return true;
                }
                Told::TryAgain => *refused += 1,
                Told::Nothing => *unanswered += 1,
                Told::Denied | Told::Strange(_) => {}
            }
        }
        false
    }

    /// Whether a revoked session is refused at a node, and by a plain no.
    pub async fn is_refused(&self, number: usize, id: SessionId) -> bool {
        let cookies = self.ledger.borrow().sessions.get(&id).map(|kept| kept.cookies.clone());
        let Some((cookies, address)) = cookies.zip(self.address(number)) else { return false };
        matches!(self.told(&self.stranger.holding(cookies).through(address)).await, Told::Denied)
    }

    async fn told(&self, person: &Visitor) -> Told {
        let [_, patience] = PATIENCE;
        let person = person.clone().accepting("application/json");
        let Ok(Ok(answer)) = timeout(patience, person.get(APP)).await else { return Told::Nothing };
        match answer.status {
            StatusCode::OK => Told::Served(answer.text()),
            StatusCode::UNAUTHORIZED => Told::Denied,
            StatusCode::SERVICE_UNAVAILABLE => Told::TryAgain,
            status => Told::Strange(status),
        }
    }
}

/// Signed out, and told so.
async fn signed_out(person: &Visitor) -> Result<()> {
    let page = sign_out(person, APP).await?;
    ensure!(page.status == StatusCode::OK, "{}", page.status);
    ensure!(person.cookies().named("_pomerium").is_empty(), "the cookie is still there");
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Newcomer(usize),
    Leaver(usize),
    User(usize),
}
