//! The circle of an event under thousands of faulty schedules: journal, replica, broker, refresher and vault of two or
//! three nodes over a log that loses, delays, repeats and cuts. One seed makes one schedule.
//!
//! Everything of a run lives on one thread with a paused clock, and every chance comes from the seed: the same seed
//! gives the same trace (event ids and keyed hashes, made anew each time, are not in it).
//! `SEED=17 cargo test -p portcullis-actors --test simulation no_schedule -- --nocapture` runs one schedule and prints
//! its trace; in place of `no_schedule` the name of a mutant's test shows how that one is caught.
//!
//! Not simulated: the backends' own code (their contract suites and the fault campaign run that), sockets, a clock that
//! jumps while a node runs, a disk that loses what it acknowledged.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod audit;
#[path = "../ground/databroker.rs"]
mod ground;
mod log;
mod mutant;
mod node;
mod people;
mod provider;
mod time;
mod vault;
mod world;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portcullis_actors::databroker::vault::{Revision, Shelf};
use portcullis_actors::keyring::Purpose;
use tokio::task::LocalSet;
use uuid::Uuid;

use audit::Audit;
use mutant::Mutant;
use node::Node;
use people::Wanted;
use world::World;

/// How many schedules a test run tries, unless `SCHEDULES` says otherwise.
const SCHEDULES: u64 = 2_000;
/// Within how many schedules each mutant is found.
const MUTANT_SCHEDULES: u64 = 300;
/// How far off a node's clock may be, in milliseconds.
const SKEWS: [i64; 5] = [0, 0, -1_500, 30_000, 300_000];
/// How long faults happen, in milliseconds.
const TROUBLE: u64 = 20_000;
/// What a cluster needs to heal: whoever waits for a lost answer has given it up by then.
const HEALING: Duration = Duration::from_secs(12);
/// What it needs to read the last events, and to hear that they were the last.
const SETTLING: Duration = Duration::from_secs(3);
/// A run that takes longer hangs.
const HANG: Duration = Duration::from_secs(1_800);

/// The nodes of a run and who watches them.
struct Cluster {
    world: Arc<World>,
    nodes: Vec<Node>,
    audit: Audit,
}

/// What came of a run.
struct Outcome {
    trace: Vec<String>,
    broken: Option<String>,
}

/// One schedule, from nothing to healed.
fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    on_own_time(seed, mutant, |cluster| async move {
        if tokio::time::timeout(HANG, cluster.live_through()).await.is_err() {
            cluster.audit.broken("the run hangs".into());
        }
    })
}

/// Runs a play on a cluster whose time is its own.
fn on_own_time<P: Future<Output = ()>>(
    seed: u64,
    mutant: Option<Mutant>,
    play: impl FnOnce(Rc<Cluster>) -> P,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        time::begin();
        let nodes = 2 + usize::from(!seed.is_multiple_of(3));
        let (world, kept_back) = World::new(seed, nodes, mutant);
        let network = Arc::clone(&world);
        let network = tokio::task::spawn_local(async move { network.deliver_late(kept_back).await });
        if !seed.is_multiple_of(4) {
            know_pseudonyms(&world);
        }
        let nodes = (0..nodes).map(|number| Node::new(number, Arc::clone(&world), world.one(&SKEWS))).collect();
        let cluster = Rc::new(Cluster { audit: Audit::new(Arc::clone(&world)), world, nodes });
        cluster.nodes.iter().for_each(Node::start);
        play(Rc::clone(&cluster)).await;
        network.abort();
        cluster.nodes.iter().for_each(Node::crash);
        Outcome { trace: cluster.world.trace(), broken: cluster.audit.verdict() }
    })
}

/// The key of pseudonyms is made by the first sign-in, at random, unless it is there: with one that is the same each
/// time groups are told in the same order.
fn know_pseudonyms(world: &World) {
    let key = Uuid::nil().to_string();
    let wrapped = ground::keyring().sealer(Purpose::DataKey).unwrap().seal(&key, &[9; 32]).unwrap();
    world.put_value(Shelf::DataKey, &key, Revision::NONE, wrapped.into_bytes()).unwrap();
}

impl Cluster {
    async fn live_through(self: &Rc<Self>) {
        let people: Vec<_> = (0..4).map(|number| tokio::task::spawn_local(Rc::clone(self).live(number))).collect();
        let trouble = tokio::task::spawn_local(Rc::clone(self).trouble());
        let watching = Rc::clone(self);
        let watch = tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(watching.world.span(600)).await;
                watching.look();
            }
        });
        trouble.await.unwrap();
        for person in people {
            person.await.unwrap();
        }
        self.world.calm();
        tokio::time::sleep(HEALING).await;
        self.rest().await;
        for (number, node) in (100..).zip(&self.nodes) {
            self.sign_in_at(node, &Wanted::new(self, number)).await;
        }
        tokio::time::sleep(SETTLING).await;
        watch.abort();
        self.audit.settle(&self.nodes).await;
    }

    /// Nobody refreshes any more, so that the log comes to an end.
    async fn rest(&self) {
        for life in self.nodes.iter().filter_map(Node::life) {
            life.rest().await;
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

    /// Nodes crash and come back, wires are cut and mended, tails stall.
    async fn trouble(self: Rc<Self>) {
        let until = tokio::time::Instant::now() + Duration::from_millis(TROUBLE);
        let everyone = u64::try_from(self.nodes.len()).unwrap();
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(self.world.span(6_000)).await;
            let node = &self.nodes[usize::try_from(self.world.pick(everyone)).unwrap()];
            let most = if self.world.pick(3) == 0 { 20_000 } else { 3_000 };
            match self.world.pick(5) {
                0 | 1 => {
                    node.crash();
                    tokio::time::sleep(self.world.span(3_000)).await;
                    node.start();
                }
                2 | 3 => {
                    self.world.cut(node.number, true);
                    tokio::time::sleep(self.world.span(most)).await;
                    self.world.cut(node.number, false);
                }
                _ => {
                    self.world.deafen(node.number, true);
                    tokio::time::sleep(self.world.span(most)).await;
                    self.world.deafen(node.number, false);
                }
            }
        }
    }
}

/// Runs schedules on every core until one breaks a promise; the smallest seed that did and what it broke.
fn first_broken(schedules: u64, mutant: Option<Mutant>) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), std::sync::Mutex::new(None));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= schedules || found.lock().unwrap().is_some() {
                return;
            }
            if let Some(broken) = run(seed, mutant).broken {
                let mut found = found.lock().unwrap();
                if found.as_ref().is_none_or(|(other, _)| seed < *other) {
                    *found = Some((seed, broken));
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    found.into_inner().unwrap()
}

/// A number that the environment asks for.
fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

#[test]
fn no_schedule_of_faults_breaks_a_promise() {
    if let Some(seed) = asked_for("SEED") {
        let outcome = run(seed, None);
        eprintln!("{}", outcome.trace.join("\n"));
        assert_eq!(outcome.broken, None, "seed {seed}");
        return;
    }
    if let Some((seed, broken)) = first_broken(asked_for("SCHEDULES").unwrap_or(SCHEDULES), None) {
        panic!(
            "{broken}\nagain: SEED={seed} cargo test -p portcullis-actors --test simulation no_schedule -- --nocapture"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..40 {
        let (first, second) = (run(seed, None).trace, run(seed, None).trace);
        let differs = first.iter().zip(&second).find(|(first, second)| first != second);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert!(first.len() > 60, "seed {seed}: hardly anything happened");
    }
}

/// A play without faults, except that the tail of node 1 stalls for a second while a session begins at node 0.
fn while_one_node_lags<P: Future<Output = ()>>(play: impl FnOnce(Rc<Cluster>, Wanted) -> P) {
    let outcome = on_own_time(1, None, |cluster| async move {
        cluster.world.calm();
        tokio::time::sleep(SETTLING).await;
        cluster.world.deafen(1, true);
        let wanted = Wanted::new(&cluster, 0);
        cluster.sign_in_at(&cluster.nodes[0], &wanted).await;
        let hears = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.world.deafen(1, false);
        };
        futures_util::future::join(play(Rc::clone(&cluster), wanted), hears).await;
        cluster.rest().await;
        tokio::time::sleep(SETTLING).await;
        cluster.audit.settle(&cluster.nodes).await;
    });
    assert_eq!(outcome.broken, None, "{}", outcome.trace.join("\n"));
}

#[test]
fn a_sign_out_at_a_node_that_has_not_read_the_sign_in_ends_the_session() {
    while_one_node_lags(|cluster, wanted| async move {
        cluster.sign_out_at(&cluster.nodes[1], &wanted).await;
        assert!(cluster.audit.was_ended(wanted.id));
    });
}

#[test]
fn a_second_host_at_a_node_that_lags_is_answered_when_the_node_knows_the_session() {
    while_one_node_lags(|cluster, wanted| async move {
        assert!(cluster.sign_in_elsewhere_at(&cluster.nodes[1], &wanted).await);
        assert!(cluster.nodes[1].life().unwrap().views.session(wanted.id).is_some());
    });
}

/// Some schedule breaks a promise, and the output says which: `<mutant>: seed <seed>: <what broke>`. The compare-and-append
/// is broken in seeds 0 and 2 (two mutants), the intent in 2, the contiguity check in 0 (two mutants). The named seed did when this was written; a schedule shifts with every change of the
/// actors, so that the others are tried as well.
fn is_caught(mutant: Mutant, named: u64) {
    if let Some(seed) = asked_for("SEED") {
        let outcome = run(seed, Some(mutant));
        eprintln!("{}", outcome.trace.join("\n"));
        assert_ne!(outcome.broken, None, "{mutant:?} lives through seed {seed}");
        return;
    }
    let named = run(named, Some(mutant)).broken.map(|broken| (named, broken));
    let caught = named.or_else(|| first_broken(MUTANT_SCHEDULES, Some(mutant)));
    let (seed, broken) = caught.unwrap_or_else(|| panic!("{mutant:?} lives"));
    eprintln!("{mutant:?}: seed {seed}: {broken}");
}

#[test]
fn an_append_in_two_steps_is_caught() {
    is_caught(Mutant::TwoSteps, 2);
}

#[test]
fn an_append_that_does_not_compare_is_caught() {
    is_caught(Mutant::IgnoresExpectation, 0);
}

#[test]
fn a_log_that_forgets_ids_is_caught() {
    is_caught(Mutant::ForgetsIds, 69);
}

#[test]
fn a_log_that_remembers_what_it_lost_is_caught() {
    is_caught(Mutant::RemembersTheLost, 0);
}

#[test]
fn an_authority_that_lags_is_caught() {
    is_caught(Mutant::LagsBehind, 0);
}

#[test]
fn a_tail_that_skips_holes_is_caught() {
    is_caught(Mutant::SkipsHoles, 0);
}

#[test]
fn a_tail_that_hides_holes_is_caught() {
    is_caught(Mutant::HidesHoles, 0);
}

#[test]
fn a_tail_that_dates_its_heads_late_is_caught() {
    is_caught(Mutant::DatesHeadsLate, 3);
}

#[test]
fn an_intent_that_is_not_on_the_log_is_caught() {
    is_caught(Mutant::LosesIntents, 2);
}

#[test]
fn a_vault_that_loses_what_it_acknowledged_is_caught() {
    is_caught(Mutant::LosesValues, 7);
}
