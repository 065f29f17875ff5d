//! What workers count for each request: plain cells of the worker, added to the node's totals now and then.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_actors::metrics::Measured;
use portcullis_config::Route;
use portcullis_config::limits::METRIC_ROUTES;

/// Answers by the first digit of their status; 0 where the client left before there was one.
pub type Classes = [u64; 6];

/// What was decided on a request to a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decided {
    /// It may pass.
    Allowed,
    /// It may not.
    Denied,
    /// Somebody has to sign in first.
    SignIn,
    /// The node cannot say who is calling.
    Unavailable,
}

impl Decided {
    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::SignIn => "sign_in",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why a head became no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Misread {
    /// It is larger than any head may be.
    TooLarge,
    /// It is not HTTP, or could be read in more than one way.
    Malformed,
    /// It cannot be decompressed, or goes so far beyond any bound that nobody wants to (HTTP/2).
    Compression,
    /// It did not come to its end in time (HTTP/1.1).
    Late,
}

impl Misread {
    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Compression => "compression",
            Self::Late => "late",
        }
    }
}

/// Requests to one route.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RouteCounts {
    /// What the route is called.
    pub name: Option<String>,
    /// Its answers.
    pub classes: Classes,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// By the id of the route.
    pub routes: HashMap<String, RouteCounts>,
    /// Requests that no route took, our own pages among them.
    pub elsewhere: Classes,
    /// Requests to routes beyond those that are counted one by one.
    pub beyond: Classes,
    /// Decisions.
    pub decisions: HashMap<Decided, u64>,
    /// Heads that became no requests.
    pub misread: HashMap<Misread, u64>,
    /// From the first byte of a request to the last one of its answer; not those that became tunnels.
    pub durations: Measured,
}

impl Counts {
    fn answered(&mut self, route: Option<&Route>, status: u16, took: Duration) {
        let classes = match route {
            None => &mut self.elsewhere,
            Some(route) => match self.routes.get_mut(&route.id) {
                Some(counts) => &mut counts.classes,
                None => &mut self.begin(route).classes,
            },
        };
        // a status has three digits
        if let Some(count) = classes.get_mut(usize::from(status / 100)) {
            *count += 1;
        }
        if status != SWITCHED {
            self.durations.observe(took);
        }
    }

    fn begin(&mut self, route: &Route) -> &mut RouteCounts {
        self.routes.entry(route.id.clone()).or_insert_with(|| RouteCounts {
            name: route.stat_name.as_ref().or(route.name.as_ref()).cloned(),
            ..Default::default()
        })
    }

    /// Adds what another has counted, and leaves it empty.
    fn take(&mut self, other: &mut Self) {
        for (id, counts) in other.routes.drain() {
            let has_room = self.routes.len() < METRIC_ROUTES || self.routes.contains_key(&id);
            if has_room {
                let ours = self.routes.entry(id).or_default();
                ours.name = counts.name;
                add(&mut ours.classes, counts.classes);
            } else {
                add(&mut self.beyond, counts.classes);
            }
        }
        add(&mut self.elsewhere, std::mem::take(&mut other.elsewhere));
        for (decided, count) in other.decisions.drain() {
            *self.decisions.entry(decided).or_default() += count;
        }
        for (why, count) in other.misread.drain() {
            *self.misread.entry(why).or_default() += count;
        }
        self.durations.add(&std::mem::take(&mut other.durations));
    }
}

/// 101 Switching Protocols.
const SWITCHED: u16 = 101;

fn add(ours: &mut Classes, theirs: Classes) {
    for (ours, theirs) in ours.iter_mut().zip(theirs) {
        *ours += theirs;
    }
}

/// What all workers of a node have counted.
#[derive(Debug, Clone, Default)]
pub struct Totals(Arc<Mutex<Counts>>);

impl Totals {
    /// What was counted so far, up to what workers have not handed over yet.
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker counts.
#[derive(Debug)]
pub struct Tally {
    counts: RefCell<Counts>,
    totals: Totals,
}

impl Tally {
    /// A tally that is added to these totals.
    pub fn new(totals: Totals) -> Self {
        Self { counts: RefCell::default(), totals }
    }

    /// A request was answered.
    pub fn answered(&self, route: Option<&Route>, status: u16, took: Duration) {
        self.counts.borrow_mut().answered(route, status, took);
    }

    /// A request was decided on.
    pub fn decided(&self, decided: Decided) {
        *self.counts.borrow_mut().decisions.entry(decided).or_default() += 1;
    }

    /// A head became no request.
    pub fn misread(&self, why: Misread) {
        *self.counts.borrow_mut().misread.entry(why).or_default() += 1;
    }

    /// Hands over what was counted.
    pub fn flush(&self) {
        self.totals.counts().take(&mut self.counts.borrow_mut());
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str) -> Route {
        let text = format!(
            "authenticate_service_url: https://auth.example.com\ninsecure_server: true\nidp_provider: oidc\n\
             idp_provider_url: https://idp.example.com\nidp_client_id: gate\nroutes:\n\
             - {{name: {host}, from: 'https://{host}', to: 'http://u', allow_any_authenticated_user: true}}\n"
        );
        portcullis_config::parse("config.yaml", &text, &|_| None).unwrap().routes.remove(0)
    }

    #[test]
    fn what_workers_count_is_added_up_once() {
        let totals = Totals::default();
        let (one, other) = (Tally::new(totals.clone()), Tally::new(totals.clone()));
        let app = route("app.example.com");
        one.answered(Some(&app), 200, Duration::from_millis(1));
        one.answered(Some(&app), 0, Duration::from_millis(1));
        one.answered(None, 404, Duration::from_millis(1));
        one.decided(Decided::Allowed);
        one.misread(Misread::TooLarge);
        one.flush();
        one.flush();
        other.answered(Some(&app), 204, Duration::from_millis(1));
        other.answered(Some(&app), 101, Duration::from_secs(3600));
        other.decided(Decided::Allowed);
        other.misread(Misread::TooLarge);
        drop(other);
        let counts = totals.counts();
        let expected = RouteCounts { name: Some("app.example.com".into()), classes: [1, 1, 2, 0, 0, 0] };
        assert_eq!(counts.routes.get(&app.id), Some(&expected));
        assert_eq!(counts.elsewhere, [0, 0, 0, 0, 1, 0]);
        assert_eq!(counts.decisions.get(&Decided::Allowed), Some(&2));
        assert_eq!(counts.misread.get(&Misread::TooLarge), Some(&2));
        assert_eq!(counts.durations.count(), 4, "a tunnel is no request that took an hour");
    }

    #[test]
    fn routes_beyond_the_bound_are_counted_together() {
        let totals = Totals::default();
        {
            let mut counts = totals.counts();
            counts.routes.extend((0..METRIC_ROUTES).map(|n| (n.to_string(), RouteCounts::default())));
        }
        let tally = Tally::new(totals.clone());
        tally.answered(Some(&route("app.example.com")), 200, Duration::ZERO);
        tally.flush();
        assert_eq!(totals.counts().routes.len(), METRIC_ROUTES);
        assert_eq!(totals.counts().beyond, [0, 0, 1, 0, 0, 0]);
    }
}
