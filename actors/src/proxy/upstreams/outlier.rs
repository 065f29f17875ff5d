//! Who answers worse than it should: what is counted of a member's answers, and what Envoy makes of such counts.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portcullis_config::upstreams::OutlierDetection;

/// What came of a request, as far as the upstream is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status.
    Status(u16),
    /// It could not be reached, broke off, or did not answer in time.
    Failed,
}

/// What a count says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// `consecutive_5xx`
    ServerErrors,
    /// `consecutive_gateway_failure`
    GatewayErrors,
    /// `consecutive_local_origin_failure`
    LocalFailures,
}

/// Good ones and all of them.
#[derive(Debug, Default)]
struct Rate {
    good: AtomicU32,
    all: AtomicU32,
}

impl Rate {
    fn count(&self, good: bool) {
        self.all.fetch_add(1, Ordering::Relaxed);
        if good {
            self.good.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Counted {
        let all = self.all.swap(0, Ordering::Relaxed);
        Counted { good: self.good.swap(0, Ordering::Relaxed).min(all), all }
    }
}

/// What was counted within an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Good ones.
    pub good: u32,
    /// All of them.
    pub all: u32,
}

impl Counted {
    fn percent(self) -> f64 {
        if self.all == 0 { 100.0 } else { 100.0 * f64::from(self.good) / f64::from(self.all) }
    }
}

/// The counts of one member.
#[derive(Debug, Default)]
pub struct Tally {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    answers: Rate,
    local: Rate,
}

impl Tally {
    /// Counts an outcome; what it makes suspicious, if it does.
    pub fn count(&self, outcome: Outcome, rules: &OutlierDetection) -> Option<Suspicion> {
        let split = rules.split_external_local_origin_errors;
        let status = match outcome {
            Outcome::Failed if split => {
                self.local.count(false);
                let reached = row(&self.local_failures, true, rules.consecutive_local_origin_failure);
                return reached.then_some(Suspicion::LocalFailures);
            }
            Outcome::Failed => 503,
            Outcome::Status(status) => status,
        };
        if split {
            self.local.count(true);
            row(&self.local_failures, false, 0);
        }
        let (failed, by_gateway) = (status >= 500, matches!(status, 502..=504));
        self.answers.count(!failed);
        let gateway = row(&self.gateway_errors, by_gateway, rules.consecutive_gateway_failure);
        let server = row(&self.server_errors, failed, rules.consecutive_5xx);
        match (server, gateway) {
            (true, _) => Some(Suspicion::ServerErrors),
            (false, true) => Some(Suspicion::GatewayErrors),
            (false, false) => None,
        }
    }

    /// What was counted since this was asked last: of answers, and of attempts to get one.
    pub fn take(&self) -> (Counted, Counted) {
        (self.answers.take(), self.local.take())
    }

    /// It begins anew.
    pub fn forget(&self) {
        for count in [&self.server_errors, &self.gateway_errors, &self.local_failures] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// Counts failures in a row; whether so many were reached. What was reached once is said again after as many more.
fn row(count: &AtomicU32, failed: bool, threshold: u32) -> bool {
    if !failed {
        // read first: a good answer after a good one writes nothing
        if count.load(Ordering::Relaxed) != 0 {
            count.store(0, Ordering::Relaxed);
        }
        return false;
    }
    let reached = count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    threshold > 0 && reached.checked_rem(threshold) == Some(0)
}

/// How often of a hundred times a suspicion is acted upon.
#[must_use]
pub const fn enforcing(suspicion: Suspicion, rules: &OutlierDetection) -> u32 {
    match suspicion {
        Suspicion::ServerErrors => rules.enforcing_consecutive_5xx,
        Suspicion::GatewayErrors => rules.enforcing_consecutive_gateway_failure,
        Suspicion::LocalFailures => rules.enforcing_consecutive_local_origin_failure,
    }
}

/// Whether one more of `members` may be ejected.
#[must_use]
pub fn may_eject(rules: &OutlierDetection, ejected: usize, members: usize) -> bool {
    let percent = u32::try_from(ejected.saturating_add(1).saturating_mul(100).checked_div(members).unwrap_or(100));
    (ejected == 0 && rules.always_eject_one_host) || percent.is_ok_and(|percent| percent <= rules.max_ejection_percent)
}

/// How long an ejection lasts that is the nth in a row; `jitter` is from 0 to 1.
#[must_use]
pub fn lasts(rules: &OutlierDetection, times: u32, jitter: f64) -> Duration {
    let time = rules.base_ejection_time.saturating_mul(times.max(1)).min(rules.max_ejection_time);
    time.saturating_add(rules.max_ejection_time_jitter.mul_f64(jitter.clamp(0.0, 1.0)))
}

/// What the rates of an interval say against members, by their place in the list, with how often of a hundred times it
/// is acted upon. `local` judges attempts to get an answer, where they are judged apart.
#[must_use]
pub fn against(counts: &[Counted], rules: &OutlierDetection, local: bool) -> Vec<(usize, u32)> {
    let (deviation, failure) = if local {
        (rules.enforcing_local_origin_success_rate, rules.enforcing_failure_percentage_local_origin)
    } else {
        (rules.enforcing_success_rate, rules.enforcing_failure_percentage)
    };
    let with = |volume: u32| {
        let enough = move |(_, counted): &(usize, &Counted)| counted.all >= volume && counted.all > 0;
        counts.iter().enumerate().filter(enough).map(|(index, counted)| (index, counted.percent())).collect::<Vec<_>>()
    };
    let has = |rates: &[(usize, f64)], least: u32| u32::try_from(rates.len()).is_ok_and(|count| count >= least.max(1));
    let mut found = Vec::new();
    let rates = with(rules.success_rate_request_volume);
    if has(&rates, rules.success_rate_minimum_hosts) {
        let count = f64::from(u32::try_from(rates.len()).unwrap_or(u32::MAX));
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
        let least = mean - f64::from(rules.success_rate_stdev_factor) / 1000.0 * variance.sqrt();
        found.extend(rates.iter().filter(|(_, rate)| *rate < least).map(|(index, _)| (*index, deviation)));
    }
    let rates = with(rules.failure_percentage_request_volume);
    if has(&rates, rules.failure_percentage_minimum_hosts) {
        let most = f64::from(rules.failure_percentage_threshold);
        found.extend(rates.iter().filter(|(_, rate)| 100.0 - rate >= most).map(|(index, _)| (*index, failure)));
    }
    found
}
