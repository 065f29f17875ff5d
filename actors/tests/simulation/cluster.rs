//! The hosts of a run: the authority's two, the nodes, and the people who use them; and who steps turmoil through it.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis_actors::databroker::vault::{Revision, Shelf};
use portcullis_actors::keyring::Purpose;
use turmoil::{Builder, Sim};
use uuid::Uuid;

use crate::audit::Audit;
use crate::mutant::Mutant;
use crate::node::Node;
use crate::people::Wanted;
use crate::schedule::{self, Due};
use crate::wire::{LOG, TAIL, Wire, host};
use crate::world::World;
use crate::{HANG, HEALING, SETTLING, SKEWS, TICK, WAY, authority, ground, time};

/// How often a message breaks its link, and how often the next one mends it.
const BREAKS: f64 = 0.04;
const MENDS: f64 = 0.5;
/// How much a socket takes in before it loses something.
const CAPACITY: usize = 4_096;

/// The nodes of a run and who watches them.
pub struct Cluster {
    /// What all hosts share.
    pub world: Arc<World>,
    /// The nodes.
    pub nodes: Vec<Rc<Node>>,
    /// Who watches.
    pub audit: Audit,
    /// The socket of the people's own host.
    pub wire: OnceCell<Arc<Wire>>,
}

/// What came of a run.
pub struct Outcome {
    /// What happened, line by line.
    pub trace: Vec<String>,
    /// The first promise that was broken.
    pub broken: Option<String>,
}

/// One schedule, from nothing to healed.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    let (cluster, mut sim) = build(seed, mutant);
    let changes = schedule::draw(&cluster.world, cluster.nodes.len());
    let until = changes.back().map_or(Duration::ZERO, |due| due.at);
    cluster.populate(&mut sim, |cluster| cluster.live_through(until));
    cluster.step_through(sim, changes)
}

/// A play on a cluster to which nothing happens by chance.
pub fn calmly<P: Future<Output = ()> + 'static>(seed: u64, play: impl FnOnce(Rc<Cluster>) -> P) -> Outcome {
    let (cluster, mut sim) = build(seed, None);
    cluster.world.calm();
    cluster.populate(&mut sim, play);
    cluster.step_through(sim, VecDeque::new())
}

fn build<'a>(seed: u64, mutant: Option<Mutant>) -> (Rc<Cluster>, Sim<'a>) {
    time::begin();
    let world = World::new(seed, mutant);
    if !seed.is_multiple_of(4) {
        know_pseudonyms(&world);
    }
    let sim = Builder::new()
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH)
        .enable_random_order()
        .tick_duration(TICK)
        .simulation_duration(HANG)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(WAY)
        .fail_rate(BREAKS)
        .repair_rate(MENDS)
        .udp_capacity(CAPACITY)
        .build();
    let nodes = 2 + usize::from(!seed.is_multiple_of(3));
    let nodes = (0..nodes).map(|number| Rc::new(Node::new(number, Arc::clone(&world), world.one(&SKEWS)))).collect();
    let audit = Audit::new(Arc::clone(&world));
    (Rc::new(Cluster { world, nodes, audit, wire: OnceCell::new() }), sim)
}

/// The key of pseudonyms is made by the first sign-in, at random, unless it is there: with one that is the same each
/// time groups are told in the same order.
fn know_pseudonyms(world: &World) {
    let key = Uuid::nil().to_string();
    let wrapped = ground::keyring().sealer(Purpose::DataKey).unwrap().seal(&key, &[9; 32]).unwrap();
    world.put_value(Shelf::DataKey, &key, Revision::NONE, wrapped.into_bytes()).unwrap();
}

impl Cluster {
    fn populate<P: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        sim: &mut Sim<'_>,
        play: impl FnOnce(Rc<Self>) -> P,
    ) {
        let world = Arc::clone(&self.world);
        sim.host(LOG, move || authority::log(Arc::clone(&world)));
        let world = Arc::clone(&self.world);
        sim.host(TAIL, move || authority::tail(Arc::clone(&world)));
        for node in self.nodes.iter().cloned() {
            sim.host(host(node.number), move || Rc::clone(&node).live());
        }
        let (cluster, play) = (Rc::clone(self), play(Rc::clone(self)));
        sim.client("people", async move {
            time::join(0);
            let wire = Wire::open(Arc::clone(&cluster.world)).await?;
            cluster.wire.get_or_init(|| wire);
            play.await;
            Ok(())
        });
    }

    /// Steps until the people are through. Between two steps all hosts have come to the same time.
    fn step_through(self: &Rc<Self>, mut sim: Sim<'_>, mut changes: VecDeque<Due>) -> Outcome {
        let mut is_healed = false;
        let mut look_at = self.world.span(600);
        loop {
            let now = sim.elapsed();
            time::outside(now);
            while let Some(Due { node, change, .. }) = changes.pop_front_if(|due| due.at <= now) {
                change.happen(&mut sim, node);
                self.happened(node, change);
            }
            if self.world.is_calm() && !std::mem::replace(&mut is_healed, true) {
                self.heal(&mut sim);
            }
            if look_at <= now {
                self.look();
                look_at = now + self.world.span(600);
            }
            match sim.step() {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    self.audit.broken(format!("the run does not end: {error}"));
                    break;
                }
            }
        }
        Outcome { trace: self.world.trace(), broken: self.audit.verdict() }
    }

    fn happened(&self, node: usize, change: schedule::Change) {
        match change {
            schedule::Change::Crash => self.nodes[node].crashed(),
            schedule::Change::Start => {}
            change => self.world.note(node, &format!("{change:?}").to_lowercase()),
        }
    }

    /// Nothing gets lost any more.
    fn heal(&self, sim: &mut Sim<'_>) {
        sim.set_fail_rate(0.0);
        for node in self.nodes.iter().map(|node| host(node.number)).chain(["people".to_owned()]) {
            sim.repair(node.as_str(), LOG);
            sim.repair(node.as_str(), TAIL);
        }
    }

    /// Checks every node that runs.
    fn look(&self) {
        for node in &self.nodes {
            if let Some(life) = node.life() {
                self.audit.check(node, &life);
            }
        }
    }

    async fn live_through(self: Rc<Self>, until: Duration) {
        let people: Vec<_> = (0..4).map(|number| tokio::task::spawn_local(Rc::clone(&self).live(number))).collect();
        tokio::time::sleep(until).await;
        for person in people {
            person.await.unwrap();
        }
        self.world.calm();
        tokio::time::sleep(HEALING).await;
        self.rest().await;
        for (number, node) in (100..).zip(&self.nodes) {
            self.sign_in_at(node, &Wanted::new(&self, number)).await;
        }
        tokio::time::sleep(SETTLING).await;
        self.audit.settle(&self.nodes).await;
    }

    /// Nobody refreshes any more, so that the log comes to an end.
    pub async fn rest(&self) {
        for life in self.nodes.iter().filter_map(|node| node.life()) {
            life.rest().await;
        }
    }
}
