//! The campaign: one fault after another under people who never stop, and after each the promises.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::join_all;
use portcullis_events::{SessionId, session};
use portcullis_harness::agreement;
use portcullis_harness::process::eventually;
use tokio::time::sleep;

use crate::chronicle::Chronicle;
use crate::crowd::Crowd;
use crate::dice::Dice;
use crate::faults::{Fault, Scale};
use crate::ground::{Ground, NODES};
use crate::ledger::Standing;
use crate::report::Row;

/// How long people go about before anything breaks.
const PEACE: Duration = Duration::from_secs(2);
/// How long everything may take to be as before once nothing is broken any more.
const HEALED: Duration = Duration::from_secs(90);
/// How long an intent may wait for its outcome: the time it has, and the time until another node sees to it.
const UNSETTLED: Duration = Duration::from_secs(180);
/// How long one node may take to say what all say.
const SETTLED: Duration = Duration::from_secs(20);

/// Everything.
pub struct Campaign {
    /// What is broken.
    pub ground: Ground,
    /// Who suffers.
    pub crowd: Rc<Crowd>,
    /// What stands on the log.
    pub chronicle: Chronicle,
    /// What is broken first.
    pub dice: Dice,
    /// How much of it.
    pub scale: Scale,
}

impl Campaign {
    /// Sets everything up; nothing is broken.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn new(binary: &Path, seed: u64, scale: Scale) -> Result<Self> {
        let ground = Ground::new(binary).await?;
        let (gates, stranger) = (ground.gates().await?, ground.stranger()?);
        let crowd = Crowd::new(gates, stranger, ground.launcher.clone(), ground.for_commands()?, seed).await?;
        let (crowd, dice) = (Rc::new(crowd), Dice::new(seed));
        drop(crowd.live());
        Ok(Self { ground, crowd, chronicle: Chronicle::default(), dice, scale })
    }

    /// One fault, and what came of it.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub async fn run(&mut self, fault: Fault) -> Result<Row> {
        let (doubts, refreshes) = (self.chronicle.doubts, self.ground.idp.refreshes());
        self.crowd.ledger.borrow_mut().begin();
        self.crowd.go_on();
        sleep(PEACE).await;
        let note = fault.strike(self).await?;
        let healed = Instant::now();
        let recovered = eventually("everybody is served again", HEALED, async || Ok(self.serves_since(healed)));
        recovered.await?;
        let took = healed.elapsed();
        self.crowd.stand_still().await?;
        self.audit().await.context("after it")?;
        let tally = self.crowd.ledger.borrow().tally.clone();
        let refreshes = self.ground.idp.refreshes() - refreshes;
        Ok(Row { name: fault.to_string(), tally, took, doubts: self.chronicle.doubts - doubts, refreshes, note })
    }

    /// Somebody new was let in, and every node served somebody.
    fn serves_since(&self, when: Instant) -> Option<()> {
        let ledger = self.crowd.ledger.borrow();
        let tally = &ledger.tally;
        let serves = tally.node_gaps.iter().all(|gap| gap.ended_after(when));
        let is_full = ledger.open().len() >= self.crowd.wanted.get();
        let is_over = serves && (is_full || tally.sign_in_gap.ended_after(when));
        (is_over || ledger.broken.is_some()).then_some(())
    }

    /// Every promise, with nobody about.
    async fn audit(&mut self) -> Result<()> {
        let reuses = self.ground.idp.reuses();
        ensure!(reuses == 0, "{reuses} refresh tokens were presented twice");
        self.said()?;
        self.chronicle.read_on(&self.ground.nats).await.context("the log")?;
        self.lost()?;
        self.alike().await?;
        let (open, ended) = {
            let ledger = self.crowd.ledger.borrow();
            (ledger.open(), ledger.which(|kept| matches!(kept.standing, Standing::Revoked(_))))
        };
        for id in open {
            self.served_everywhere(id).await?;
        }
        let crowd = &self.crowd;
        for id in ended {
            let refused = join_all((0..NODES).map(|number| crowd.is_refused(number, id))).await;
            ensure!(refused.iter().all(|refused| *refused), "the revoked session {id} is not refused: {refused:?}");
        }
        // who was denied while that was asked belongs to this fault, not to the next
        self.chronicle.read_on(&self.ground.nats).await.context("the log")?;
        self.lost()?;
        self.said()?;
        // of what was settled nothing is asked again
        let mut ledger = self.crowd.ledger.borrow_mut();
        ledger.sessions.retain(|_, kept| kept.standing == Standing::Open);
        Ok(())
    }

    /// All nodes hold the same, and as many sessions as the log has at the very position that they stand at. Renewals go
    /// on meanwhile: it is asked until both stand at the same.
    async fn alike(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let nodes = self.ground.nodes.iter().map(|node| &node.gateway);
            let held = agreement::of(nodes, self.chronicle.fold.applied(), HEALED).await?;
            self.chronicle.read_on(&self.ground.nats).await.context("the log")?;
            if held.applied == self.chronicle.fold.applied() {
                let open = u64::try_from(self.chronicle.open_sessions())?;
                ensure!(held.sessions == open, "nodes hold {} sessions, the log has {open}", held.sessions);
                return Ok(());
            }
            ensure!(began.elapsed() < HEALED, "nodes and log never stand at the same position");
        }
    }

    fn said(&self) -> Result<()> {
        self.crowd.ledger.borrow_mut().broken.take().map_or(Ok(()), |what| bail!(what))
    }

    /// Nothing acknowledged is lost: what was opened is open, or its tokens were; what was ended has ended.
    fn lost(&mut self) -> Result<()> {
        let mut ledger = self.crowd.ledger.borrow_mut();
        let mut with_tokens = Vec::new();
        for (id, kept) in &ledger.sessions {
            let state = self.chronicle.fold.session(*id);
            match (kept.standing, &state) {
                (_, session::State::Absent) => bail!("session {id} was opened, and the log knows nothing of it"),
                (Standing::Open, session::State::Ended) if self.chronicle.doubted.contains(id) => with_tokens.push(*id),
                (Standing::Open, session::State::Ended) => bail!("session {id} has ended, and nobody ended it"),
                (Standing::Revoked(_), session::State::Open(_)) => bail!("session {id} was ended, and is open"),
                _ => {}
            }
        }
        for (id, number) in std::mem::take(&mut ledger.denied) {
            ensure!(self.chronicle.doubted.contains(&id), "node {number} knew nothing of the open session {id}");
        }
        with_tokens.iter().for_each(|id| drop(ledger.sessions.remove(id)));
        Ok(())
    }

    /// An open session is served by every node at once; one whose tokens were lost may end meanwhile.
    async fn served_everywhere(&mut self, id: SessionId) -> Result<()> {
        for number in 0..NODES {
            let crowd = &self.crowd;
            let look = async || Ok(crowd.ask(number, id).await.then_some(()));
            if eventually("an open session is served", SETTLED, look).await.is_err() {
                self.chronicle.read_on(&self.ground.nats).await?;
                self.lost()?;
                let is_known = self.crowd.ledger.borrow().sessions.contains_key(&id);
                ensure!(!is_known, "node {number} does not serve the open session {id}");
                return Ok(());
            }
        }
        Ok(())
    }

    /// The end: every intent is settled, or is said to be open where nobody waits for it; the promises once more; and the
    /// log still holds everything that ever stood on it.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub async fn conclude(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.scale == Scale::Full {
            self.chronicle.read_on(&self.ground.nats).await?;
            if self.chronicle.unsettled() == 0 {
                break;
            }
            // those of the last moments come and go
            ensure!(began.elapsed() < UNSETTLED, "{} intents are never settled", self.chronicle.unsettled());
            sleep(PEACE).await;
        }
        self.audit().await?;
        self.chronicle.still_stands(&self.ground.nats).await
    }

    /// A node is gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.gate(number, None);
        self.ground.node(number)?.gateway.kill_9()
    }

    /// These nodes are started again, and are ready.
    ///
    /// # Errors
    /// One is not.
    pub async fn start(&mut self, numbers: &[usize]) -> Result<()> {
        for number in numbers {
            let gateway = &mut self.ground.node(*number)?.gateway;
            gateway.relaunch().await?;
            gateway.ready().await?;
            let address = gateway.address().await?;
            self.gate(*number, Some(address));
        }
        Ok(())
    }

    fn gate(&self, number: usize, address: Option<std::net::SocketAddr>) {
        if let Some(gate) = self.crowd.gates.get(number) {
            gate.address.set(address);
        }
    }
}
