//! The circle of an event under thousands of faulty schedules: journal, replica, broker, refresher and vault of two or
//! three nodes over a network and a log that lose, delay, repeat and cut. One seed makes one schedule.
//!
//! A run is a simulation by `turmoil`, on one thread: each node is a host with its actors, the log's authority is two more,
//! the people who use the nodes a last one. Turmoil steps them, in an order of its own, by its own time; it crashes and
//! starts the nodes; it loses, delays, holds and cuts what they send. Every chance comes from the seed: the same seed gives
//! the same trace (event ids and keyed hashes, made anew each time, are not in it).
//! `SEED=17 cargo test -p portcullis-actors --test simulation no_schedule -- --nocapture` runs one schedule and prints
//! its trace; in place of `no_schedule` the name of a mutant's test shows how that one is caught.
//!
//! Not simulated: the backends' own code (their contract suites and the fault campaign run that), the provider's sockets
//! (its answers are dealt by the seed), a clock that jumps while a node runs, a disk that loses what it acknowledged.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod audit;
mod authority;
mod cluster;
#[path = "../ground/databroker.rs"]
mod ground;
mod log;
mod mutant;
mod node;
mod people;
mod provider;
mod schedule;
mod time;
mod vault;
mod wire;
mod world;

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::{Cluster, calmly, run};
use mutant::Mutant;
use people::Wanted;
use wire::{TAIL, host};

/// How many schedules a test run tries, unless `SCHEDULES` says otherwise.
const SCHEDULES: u64 = 2_000;
/// Within how many schedules each mutant is found.
const MUTANT_SCHEDULES: u64 = 300;
/// How far off a node's clock may be, in milliseconds.
const SKEWS: [i64; 5] = [0, 0, -1_500, 30_000, 300_000];
/// How long each host runs before the next one does.
const TICK: Duration = Duration::from_millis(50);
/// The longest that a message takes.
const WAY: Duration = Duration::from_millis(250);
/// What a cluster needs to heal: whoever waits for a lost answer has given it up by then.
const HEALING: Duration = Duration::from_secs(12);
/// What it needs to read the last events, and to hear that they were the last.
const SETTLING: Duration = Duration::from_secs(3);
/// A run that takes longer hangs.
const HANG: Duration = Duration::from_secs(1_800);

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
fn while_one_node_lags<P: Future<Output = ()> + 'static>(play: impl FnOnce(Rc<Cluster>, Wanted) -> P + 'static) {
    let outcome = calmly(1, |cluster| async move {
        tokio::time::sleep(SETTLING).await;
        turmoil::hold(host(1), TAIL);
        let wanted = Wanted::new(&cluster, 0).lasting();
        cluster.sign_in_at(&cluster.nodes[0], &wanted).await;
        let hears = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            turmoil::release(host(1), TAIL);
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

/// Some schedule breaks a promise, and the output says which: `<mutant>: seed <seed>: <what broke>`. A broken
/// compare-and-append (two mutants), a lost intent and a broken contiguity check (two mutants) are each seen in seed 0. The
/// named seed did when this was written; a schedule shifts with every change of the actors, so that the others are tried
/// as well.
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
    is_caught(Mutant::TwoSteps, 0);
}

#[test]
fn an_append_that_does_not_compare_is_caught() {
    is_caught(Mutant::IgnoresExpectation, 0);
}

#[test]
fn a_log_that_forgets_ids_is_caught() {
    is_caught(Mutant::ForgetsIds, 10);
}

#[test]
fn a_log_that_remembers_what_it_lost_is_caught() {
    is_caught(Mutant::RemembersTheLost, 7);
}

#[test]
fn an_authority_that_lags_is_caught() {
    is_caught(Mutant::LagsBehind, 2);
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
    is_caught(Mutant::DatesHeadsLate, 8);
}

#[test]
fn an_intent_that_is_not_on_the_log_is_caught() {
    is_caught(Mutant::LosesIntents, 0);
}

#[test]
fn a_vault_that_loses_what_it_acknowledged_is_caught() {
    is_caught(Mutant::LosesValues, 1);
}
