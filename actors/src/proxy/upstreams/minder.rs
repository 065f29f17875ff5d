//! What is done for one cluster as long as it lives: its names looked up again, its members checked, ejected and let
//! back in. Whatever changes is published as a whole.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use portcullis_config::upstreams::{HealthCheck, OutlierDetection};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Tools;
use super::choice::mixed;
use super::cluster::{Cluster, Report, address};
use super::member::{Address, Health, Member};
use super::outlier::{against, enforcing, lasts, may_eject};

/// Minds one cluster.
pub(super) struct Minder {
    cluster: Weak<Cluster>,
    tools: Rc<Tools>,
    reports: mpsc::Receiver<Report>,
    /// Names by their places in `to`, each with its port.
    names: Vec<(usize, String, u16)>,
    known: HashMap<u64, Known>,
    checked: HashSet<u64>,
    random: u64,
}

/// What is known of a member besides what it knows itself.
#[derive(Default)]
struct Known {
    /// Failures (below zero) or successes in a row of each check.
    rows: HashMap<usize, i64>,
    /// Checks that say that it is not well.
    failing: HashSet<usize>,
    /// When its ejection ends.
    until: Option<Instant>,
    /// Ejections in a row.
    times: u32,
}

/// For ever, as far as a minder is concerned.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

impl Minder {
    /// Whoever minds a cluster; `None` where there is nothing to mind, or somebody does already.
    pub(super) fn of(cluster: &Arc<Cluster>, tools: &Rc<Tools>) -> Option<Self> {
        let settings = &cluster.settings;
        let named = settings.to.iter().enumerate().filter_map(|(place, to)| match address(to) {
            Address::Name(host, port) => Some((place, host, port)),
            Address::Ip(_) | Address::Socket(_) => None,
        });
        let names: Vec<_> = named.collect();
        if names.is_empty() && settings.options.health_checks.is_empty() && settings.options.outlier_detection.is_none()
        {
            return None;
        }
        Some(Self {
            reports: cluster.heard()?,
            cluster: Arc::downgrade(cluster),
            tools: Rc::clone(tools),
            names,
            known: HashMap::new(),
            checked: HashSet::new(),
            random: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
        })
    }

    /// Goes on until the cluster is gone.
    pub(super) async fn run(mut self) {
        let Some((dns, interval)) = self.cluster.upgrade().map(|cluster| {
            let options = &cluster.settings.options;
            (options.dns, options.outlier_detection.as_ref().map_or(LONG, |rules| rules.interval))
        }) else {
            return;
        };
        let mut look_up = Instant::now() + if self.names.is_empty() { LONG } else { Duration::ZERO };
        let mut judge = Instant::now() + interval;
        loop {
            let Some(cluster) = self.cluster.upgrade() else { return };
            self.check_new(&cluster);
            drop(cluster);
            tokio::select! {
                report = self.reports.recv() => {
                    let (Some(report), Some(cluster)) = (report, self.cluster.upgrade()) else { return };
                    self.hear(&cluster, report);
                }
                () = sleep_until(look_up) => {
                    let found = self.look_up(&dns).await;
                    let again = if found { dns.refresh } else { dns.failure_refresh };
                    look_up = Instant::now() + if self.names.is_empty() { LONG } else { again };
                    self.tools.names.sweep(dns.refresh.max(dns.failure_refresh).saturating_mul(4));
                }
                () = sleep_until(judge) => {
                    judge = Instant::now() + interval;
                    let Some(cluster) = self.cluster.upgrade() else { return };
                    self.judge(&cluster);
                }
            }
        }
    }

    /// Looks every name up and takes over what was found; a name that cannot be looked up keeps what it had.
    async fn look_up(&self, dns: &portcullis_config::upstreams::Dns) -> bool {
        let mut found = HashMap::new();
        for (place, host, port) in &self.names {
            let addresses = self.tools.names.look_up(host, dns).await;
            if !addresses.is_empty() {
                let addresses: Vec<_> =
                    addresses.into_iter().map(|ip| Address::Ip(SocketAddr::new(ip, *port))).collect();
                found.insert(*place, addresses);
            }
        }
        let Some(cluster) = self.cluster.upgrade() else { return true };
        let before = &cluster.view().members;
        let mut members: Vec<Arc<Member>> = Vec::new();
        for (place, to) in cluster.settings.to.iter().enumerate() {
            let of_place = || before.iter().filter(|member| member.upstream == place);
            match found.get(&place) {
                None => members.extend(of_place().map(Arc::clone)),
                Some(addresses) => members.extend(addresses.iter().map(|address| {
                    let known = of_place().find(|member| member.address == *address);
                    known.map_or_else(|| Member::new(address.clone(), place, to.weight), Arc::clone)
                })),
            }
        }
        let ids = |members: &[Arc<Member>]| members.iter().map(|member| member.id).collect::<Vec<_>>();
        if ids(&members) != ids(before) {
            tracing::info!(members = members.len(), "the addresses of an upstream have changed");
            // what is under way goes on where it is
            cluster.publish(members);
        }
        found.len() == self.names.len()
    }

    /// Begins the checks of members that have come, and forgets those that have gone.
    fn check_new(&mut self, cluster: &Arc<Cluster>) {
        let view = cluster.view();
        let here: HashSet<u64> = view.members.iter().map(|member| member.id).collect();
        self.known.retain(|id, _| here.contains(id));
        self.checked.retain(|id| here.contains(id));
        for member in &view.members {
            if !self.checked.insert(member.id) {
                continue;
            }
            for (place, check) in cluster.settings.options.health_checks.iter().enumerate() {
                self.random = mixed(self.random);
                let checks = Checks {
                    cluster: Arc::downgrade(cluster),
                    member: Arc::downgrade(member),
                    tools: Rc::clone(&self.tools),
                    check: check.clone(),
                    place,
                    random: self.random,
                };
                actix_rt::spawn(checks.run());
            }
        }
    }

    fn hear(&mut self, cluster: &Cluster, report: Report) {
        let (Report::Suspicious(id, _) | Report::Checked(id, ..)) = report;
        let Some(member) = cluster.view().members.iter().find(|member| member.id == id).map(Arc::clone) else { return };
        match report {
            Report::Suspicious(_, suspicion) => {
                if let Some(rules) = &cluster.settings.options.outlier_detection {
                    member.tally.forget();
                    self.eject(cluster, rules, &member, enforcing(suspicion, rules));
                }
            }
            Report::Checked(_, place, well) => self.checked(cluster, &member, place, well),
        }
    }

    fn checked(&mut self, cluster: &Cluster, member: &Arc<Member>, place: usize, well: bool) {
        let Some(check) = cluster.settings.options.health_checks.get(place) else { return };
        let known = self.known.entry(member.id).or_default();
        let row = known.rows.entry(place).or_default();
        *row = if well { (*row).max(0) + 1 } else { (*row).min(0) - 1 };
        // the first check decides at once, as in Envoy
        let first = member.health() == Health::Unknown && row.abs() == 1 && known.failing.is_empty();
        if well && (first || *row >= i64::from(check.healthy_threshold)) {
            known.failing.remove(&place);
        } else if !well && (first || -*row >= i64::from(check.unhealthy_threshold)) {
            known.failing.insert(place);
        }
        let healthy = known.failing.is_empty();
        let unejects = cluster.settings.options.outlier_detection.as_ref();
        let mut changed = member.checked(healthy);
        if changed {
            tracing::warn!(upstream = %member.address, healthy, "the health of an upstream has changed");
        }
        if well
            && healthy
            && member.is_ejected()
            && unejects.is_some_and(|rules| rules.successful_active_health_check_uneject_host)
        {
            known.until = None;
            member.eject(false);
            changed = true;
        }
        if changed {
            cluster.publish(cluster.view().members.clone());
        }
    }

    /// Ends what has lasted long enough, and looks at the rates of the interval.
    fn judge(&mut self, cluster: &Cluster) {
        let Some(rules) = &cluster.settings.options.outlier_detection else { return };
        let members = cluster.view().members.clone();
        let mut back = false;
        for member in &members {
            let known = self.known.entry(member.id).or_default();
            match known.until {
                Some(until) if until <= Instant::now() => {
                    known.until = None;
                    member.tally.forget();
                    member.eject(false);
                    back = true;
                    tracing::info!(upstream = %member.address, "an upstream is let back in");
                }
                Some(_) => {}
                None => known.times = known.times.saturating_sub(1),
            }
        }
        if back {
            cluster.publish(members.clone());
        }
        let (answers, local): (Vec<_>, Vec<_>) = members.iter().map(|member| member.tally.take()).unzip();
        let mut found = against(&answers, rules, false);
        if rules.split_external_local_origin_errors {
            found.extend(against(&local, rules, true));
        }
        for (index, enforcing) in found {
            if let Some(member) = members.get(index) {
                self.eject(cluster, rules, member, enforcing);
            }
        }
    }

    fn eject(&mut self, cluster: &Cluster, rules: &OutlierDetection, member: &Arc<Member>, enforcing: u32) {
        let members = cluster.view().members.clone();
        let ejected = members.iter().filter(|member| member.is_ejected()).count();
        self.random = mixed(self.random);
        let enforced = self.random.checked_rem(100).is_some_and(|drawn| drawn < u64::from(enforcing));
        if member.is_ejected() || !enforced || !may_eject(rules, ejected, members.len()) {
            return;
        }
        self.random = mixed(self.random);
        let known = self.known.entry(member.id).or_default();
        known.times = known.times.saturating_add(1);
        let time = lasts(rules, known.times, unit(self.random));
        known.until = Some(Instant::now() + time);
        member.eject(true);
        cluster.metrics().ejections.increment();
        tracing::warn!(upstream = %member.address, seconds = time.as_secs_f64(), "an upstream is ejected for its answers");
        cluster.publish(members);
    }
}

/// From 0 to 1.
fn unit(random: u64) -> f64 {
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// One check of one member, again and again.
struct Checks {
    cluster: Weak<Cluster>,
    member: Weak<Member>,
    tools: Rc<Tools>,
    check: HealthCheck,
    place: usize,
    random: u64,
}

impl Checks {
    async fn run(mut self) {
        let check = self.check.clone();
        let initial = self.up_to(check.initial_jitter);
        sleep(initial).await;
        loop {
            // a member that has left its cluster is held by what is under way alone
            let (Some(cluster), Some(member)) = (self.cluster.upgrade(), self.member.upgrade()) else { return };
            if !cluster.view().members.iter().any(|here| here.id == member.id) {
                return;
            }
            let probing = self.tools.prober.probe(&cluster, &member, &check.probe);
            let outcome = timeout(check.timeout, probing).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            let well = outcome.is_ok();
            if let Err(why) = outcome {
                tracing::debug!(upstream = %member.address, why, "a check has failed");
            }
            cluster.metrics().checked(well);
            let reports = cluster.reports();
            let pause = if member.health() == Health::Unhealthy { check.unhealthy_interval } else { check.interval };
            let (id, place) = (member.id, self.place);
            drop((cluster, member));
            if reports.send(Report::Checked(id, place, well)).await.is_err() {
                return;
            }
            drop(reports);
            let jitter = self.up_to(check.interval_jitter);
            sleep(pause.saturating_add(jitter)).await;
        }
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        self.random = mixed(self.random);
        most.mul_f64(unit(self.random))
    }
}
