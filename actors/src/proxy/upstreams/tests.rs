//! Choices, ejections, and a minder that follows names, checks and answers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portcullis_config::upstreams::{Balancing, Family, OutlierDetection, Probe};

use super::choice::{Candidate, Choice, key};
use super::cluster::{Cluster, Refused};
use super::member::{Address, Member};
use super::minder::Minder;
use super::names::{Remembered, Resolver, chosen};
use super::outlier::{Counted, Outcome, Suspicion, Tally, against, lasts, may_eject};
use super::table::Table;
use super::{Prober, Tools};
use crate::metrics::UpstreamMetrics;

fn candidates(weights: &[u32]) -> Vec<Candidate> {
    weights
        .iter()
        .enumerate()
        .map(|(n, weight)| Candidate { name: format!("10.0.0.{n}:80"), weight: *weight })
        .collect()
}

fn counts(choice: &Choice, turns: u64, key: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut counts = vec![0; choice.len()];
    for turn in 0..turns {
        counts[choice.pick(turn, key(turn), |_| 0).unwrap()] += 1;
    }
    counts
}

#[test]
fn turns_are_given_by_weight_to_within_a_fiftieth_of_a_thousand() {
    for weights in [&[1, 1, 1][..], &[3, 1], &[7, 2, 1], &[1, 999_999], &[13, 8, 5, 3, 2, 1]] {
        let choice = Choice::of(Balancing::RoundRobin, &candidates(weights));
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts(&choice, 1000, |_| 0).into_iter().zip(weights) {
            let due = 1000.0 * f64::from(*weight) / f64::from(total);
            let off = (f64::from(u32::try_from(count).unwrap()) - due).abs();
            assert!(off <= 20.0, "{weights:?}: {count} for {due}");
        }
    }
    assert_eq!(counts(&Choice::of(Balancing::RoundRobin, &candidates(&[1, 1])), 7, |_| 0), [4, 3]);
}

#[test]
fn the_less_busy_of_two_is_taken_for_its_weight() {
    let choice = Choice::of(Balancing::LeastRequest, &candidates(&[1, 1, 1]));
    let busy = |index: usize| if index == 0 { 100 } else { 0 };
    let taken = (0..900).filter(|turn| choice.pick(*turn, 0, busy) == Some(0)).count();
    // only where luck drew it twice
    assert!((40..=160).contains(&taken), "{taken}");
    let random = counts(&Choice::of(Balancing::Random, &candidates(&[3, 1])), 4000, |_| 0);
    assert!((2850..=3150).contains(&random[0]), "{random:?}");
}

#[test]
fn a_session_stays_where_it_is_when_another_upstream_leaves() {
    let keys: Vec<u64> = (0..3000).map(|n| key(format!("session {n}").as_bytes())).collect();
    let all = candidates(&[1, 1, 1, 1]);
    let rest: Vec<_> = all.iter().filter(|one| one.name != all[2].name).cloned().collect();
    for (balancing, spared) in [(Balancing::RingHash, 0), (Balancing::Maglev, 150)] {
        let (before, after) = (Choice::of(balancing, &all), Choice::of(balancing, &rest));
        let name =
            |choice: &Choice, from: &[Candidate], key: u64| from[choice.pick(0, key, |_| 0).unwrap()].name.clone();
        let moved = keys.iter().filter(|key| {
            let was = name(&before, &all, **key);
            was != all[2].name && was != name(&after, &rest, **key)
        });
        assert!(moved.count() <= spared, "{balancing:?}");
        let mut shares: HashMap<String, u32> = HashMap::new();
        for key in &keys {
            *shares.entry(name(&before, &all, *key)).or_default() += 1;
            assert_eq!(before.pick(0, *key, |_| 0), before.pick(99, *key, |_| 0));
        }
        assert!(shares.values().all(|share| (600..=900).contains(share)), "{balancing:?}: {shares:?}");
        let heavy =
            counts(&Choice::of(balancing, &candidates(&[3, 1])), 3000, |turn| keys[usize::try_from(turn).unwrap()]);
        assert!((2050..=2450).contains(&heavy[0]), "{balancing:?}: {heavy:?}");
    }
}

#[test]
fn nobody_is_chosen_where_there_is_nobody() {
    for balancing in
        [Balancing::RoundRobin, Balancing::LeastRequest, Balancing::Random, Balancing::RingHash, Balancing::Maglev]
    {
        assert_eq!(Choice::of(balancing, &[]).pick(3, 5, |_| 0), None);
        assert_eq!(Choice::of(balancing, &candidates(&[1])).pick(3, 5, |_| 0), Some(0));
    }
}

fn rules(keys: &str) -> OutlierDetection {
    cluster(&format!("outlier_detection: {{{keys}}}")).settings.options.outlier_detection.clone().unwrap()
}

#[test]
fn bad_answers_in_a_row_make_suspicious_and_a_good_one_clears() {
    let rules = rules("consecutive_5xx: 3, consecutive_gateway_failure: 2");
    let tally = Tally::default();
    let see = |status| tally.count(Outcome::Status(status), &rules);
    assert_eq!([see(500), see(404), see(500), see(500)], [None; 4]);
    assert_eq!(see(500), Some(Suspicion::ServerErrors));
    assert_eq!([see(502), see(503)], [None, Some(Suspicion::GatewayErrors)]);
    assert_eq!(tally.count(Outcome::Failed, &rules), Some(Suspicion::ServerErrors));
    assert_eq!(tally.take().0, Counted { good: 1, all: 8 });
}

#[test]
fn failures_of_our_own_are_counted_apart_where_that_is_asked_for() {
    let rules =
        rules("consecutive_5xx: 1, split_external_local_origin_errors: true, consecutive_local_origin_failure: 2");
    let tally = Tally::default();
    assert_eq!(tally.count(Outcome::Failed, &rules), None);
    assert_eq!(tally.count(Outcome::Failed, &rules), Some(Suspicion::LocalFailures));
    assert_eq!(tally.count(Outcome::Status(500), &rules), Some(Suspicion::ServerErrors));
    assert_eq!(tally.take(), (Counted { good: 0, all: 1 }, Counted { good: 1, all: 3 }));
}

#[test]
fn rates_speak_against_who_is_far_below_the_others() {
    let defaults = rules("success_rate_stdev_factor: 1000, enforcing_failure_percentage: 40");
    let good = Counted { good: 100, all: 100 };
    let bad = Counted { good: 10, all: 100 };
    let few = Counted { good: 0, all: 49 };
    assert_eq!(against(&[good, good, good, good, bad], &defaults, false), [(4, 100), (4, 40)]);
    assert_eq!(against(&[good, good, good, bad], &defaults, false), [], "too few to compare");
    assert_eq!(against(&[good, good, good, good, few], &defaults, false), [], "too little seen");
    assert_eq!(against(&[], &defaults, true), []);
}

#[test]
fn an_ejection_is_bounded_in_number_and_time() {
    let defaults = rules("");
    assert!(!may_eject(&defaults, 0, 2) && may_eject(&defaults, 0, 10) && !may_eject(&defaults, 1, 10));
    let one = rules("always_eject_one_host: true");
    assert!(may_eject(&one, 0, 2) && !may_eject(&one, 1, 2));
    let seconds = |times, jitter| lasts(&rules("max_ejection_time_jitter: 10s"), times, jitter).as_secs();
    assert_eq!([seconds(1, 0.0), seconds(3, 0.5), seconds(1000, 1.0)], [30, 95, 310]);
}

#[test]
fn a_family_is_preferred_or_alone() {
    let [four, six]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    for (family, both, only) in [
        (Family::V4Preferred, vec![four], vec![six]),
        (Family::V6Preferred, vec![six], vec![six]),
        (Family::V4Only, vec![four], vec![]),
        (Family::V6Only, vec![six], vec![six]),
        (Family::All, vec![four, six], vec![six]),
    ] {
        assert_eq!(chosen(vec![six, four], family), both, "{family:?}");
        assert_eq!(chosen(vec![six], family), only, "{family:?}");
    }
}

fn config(to: &str, keys: &str) -> portcullis_config::Config {
    let text = format!(
        "authenticate_service_url: https://auth.example.com\ninsecure_server: true\nidp_provider: oidc\n\
         idp_provider_url: https://idp.example.com\nidp_client_id: gate\ndns_refresh_rate: 1s\nroutes:\n\
         - {{from: 'https://a.example.com', to: {to}, allow_any_authenticated_user: true, {keys}}}\n"
    );
    portcullis_config::parse("config.yaml", &text, &|_| None).unwrap()
}

fn table(to: &str, keys: &str, before: Option<&Table>) -> Table {
    Table::new(&config(to, keys), before, &Arc::new(UpstreamMetrics::default()))
}

fn cluster(keys: &str) -> Arc<Cluster> {
    Arc::clone(
        table("['http://127.0.0.1:1', 'http://127.0.0.2:1', 'http://127.0.0.3:1', 'http://127.0.0.4:1']", keys, None)
            .of(0)
            .unwrap(),
    )
}

#[test]
fn a_cluster_outlives_a_reload_that_does_not_concern_it() {
    let first = table("http://127.0.0.1:1", "name: a", None);
    let same = table("http://127.0.0.1:1", "name: b", Some(&first));
    let other = table("http://127.0.0.1:1", "load_balancing_policy: random", Some(&first));
    assert!(Arc::ptr_eq(first.of(0).unwrap(), same.of(0).unwrap()));
    assert!(!Arc::ptr_eq(first.of(0).unwrap(), other.of(0).unwrap()));
}

#[test]
fn what_is_over_a_limit_is_refused_and_what_ends_makes_room() {
    let cluster = cluster("circuit_breaker_thresholds: {max_requests: 2, max_pending_requests: 1, max_retries: 0}");
    let (one, _two) = (cluster.enter(0).unwrap(), cluster.enter(0).unwrap());
    assert_eq!(cluster.enter(0).unwrap_err(), Refused::Requests);
    drop(one);
    assert!(cluster.enter(0).is_ok());
    let pending = cluster.pend().ok().unwrap();
    assert_eq!(cluster.pend().err(), Some(Refused::Pending));
    drop(pending);
    assert!(cluster.pend().is_ok() && cluster.retry().is_none());
}

/// Answers as it is told.
#[derive(Clone, Default)]
struct Scripted {
    addresses: Rc<RefCell<Vec<IpAddr>>>,
    sick: Rc<RefCell<Vec<Address>>>,
}

#[async_trait(?Send)]
impl Resolver for Scripted {
    async fn addresses(&self, _: &str) -> Vec<IpAddr> {
        self.addresses.borrow().clone()
    }
}

#[async_trait(?Send)]
impl Prober for Scripted {
    async fn probe(&self, _: &Arc<Cluster>, member: &Arc<Member>, _: &Probe) -> Result<(), String> {
        if self.sick.borrow().contains(&member.address) { Err("sick".to_owned()) } else { Ok(()) }
    }
}

fn minded(cluster: &Arc<Cluster>) -> Scripted {
    let scripted = Scripted::default();
    let tools = Tools { prober: Box::new(scripted.clone()), names: Remembered::new(Box::new(scripted.clone())) };
    actix_rt::spawn(Minder::of(cluster, &Rc::new(tools)).expect("has something to mind").run());
    scripted
}

/// Time passes by itself as soon as nothing else goes on: nothing here waits for a clock.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.view().members.iter().map(|member| member.address.to_string()).collect()
}

#[actix_rt::test]
async fn the_addresses_of_a_name_are_followed_and_what_runs_stays() {
    tokio::time::pause();
    let cluster = Arc::clone(table("http://app.example.com:8080", "name: a", None).of(0).unwrap());
    assert_eq!(addresses(&cluster), ["app.example.com:8080"]);
    let scripted = minded(&cluster);
    let set =
        |texts: &[&str]| *scripted.addresses.borrow_mut() = texts.iter().map(|text| text.parse().unwrap()).collect();
    set(&["192.0.2.1", "192.0.2.2"]);
    until("both", || addresses(&cluster) == ["192.0.2.1:8080", "192.0.2.2:8080"]).await;
    let first = cluster.view().members[0].id;
    let running = cluster.enter(0).unwrap();
    set(&["192.0.2.1", "192.0.2.3"]);
    until("the second has moved", || addresses(&cluster) == ["192.0.2.1:8080", "192.0.2.3:8080"]).await;
    assert_eq!(cluster.view().members[0].id, first, "a member that stays is the same");
    assert!(running.member().active() == 1);
    // a name that cannot be looked up keeps what it had
    set(&[]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(addresses(&cluster).len(), 2);
}

const CHECKED: &str =
    "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 2, healthy_threshold: 2, tcp_health_check: {}}]";

#[actix_rt::test]
async fn who_fails_its_checks_gets_nothing_until_it_passes_them_again() {
    tokio::time::pause();
    let cluster = cluster(CHECKED);
    let scripted = minded(&cluster);
    let sick = cluster.view().members[1].clone();
    until("checked", || cluster.view().members.iter().all(|member| member.health() != super::member::Health::Unknown))
        .await;
    scripted.sick.borrow_mut().push(sick.address.clone());
    until("unhealthy", || !sick.is_available()).await;
    until("published", || (0..40).all(|_| cluster.enter(0).unwrap().member().id != sick.id)).await;
    scripted.sick.borrow_mut().clear();
    until("back", || (0..40).any(|_| cluster.enter(0).unwrap().member().id == sick.id)).await;
}

#[actix_rt::test]
async fn with_too_few_healthy_ones_all_are_taken_for_healthy_unless_that_is_turned_off() {
    tokio::time::pause();
    for (keys, served) in [(CHECKED.to_owned(), true), (format!("{CHECKED}, healthy_panic_threshold: 0"), false)] {
        let cluster = cluster(&keys);
        let scripted = minded(&cluster);
        scripted.sick.borrow_mut().extend(cluster.view().members.iter().map(|member| member.address.clone()));
        until("all unhealthy", || cluster.view().members.iter().all(|member| !member.is_available())).await;
        until("published", || cluster.enter(0).is_ok() == served).await;
        if !served {
            assert_eq!(cluster.enter(0).unwrap_err(), Refused::NoneHealthy);
        }
    }
}

#[actix_rt::test]
async fn who_answers_badly_is_ejected_and_let_back_in_after_its_time() {
    tokio::time::pause();
    let keys =
        "outlier_detection: {consecutive_5xx: 3, max_ejection_percent: 25, base_ejection_time: 30s, interval: 5s}";
    let cluster = cluster(keys);
    let _scripted = minded(&cluster);
    let members = cluster.view().members.clone();
    let fail = |member: &Member| (0..3).for_each(|_| cluster.saw(member, Outcome::Status(500)));
    fail(&members[0]);
    until("ejected", || members[0].is_ejected()).await;
    until("published", || (0..40).all(|_| cluster.enter(0).unwrap().member().id != members[0].id)).await;
    // one of four is the most
    fail(&members[1]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!members[1].is_ejected());
    until("back", || !members[0].is_ejected()).await;
}
