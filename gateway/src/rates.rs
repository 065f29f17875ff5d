//! `rate_limit` of a route: how many requests each person and each address has left, on this node.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use portcullis_config::limits::RATE_CALLERS;
use portcullis_config::{Rate, RateLimit, Route};
use portcullis_events::PersonId;

use crate::crowd::subscriber;

/// The counters of one route. They outlive a reload that leaves the route and its limit as they are.
pub struct Rates<C: Clock = MonotonicClock> {
    route: String,
    limit: RateLimit,
    per_user: Option<Meter<PersonId, C>>,
    per_ip: Option<Meter<IpAddr, C>>,
}

impl Rates {
    /// Those of a route; the ones of before where nothing has changed. `None` where nothing is limited.
    pub fn of(route: &Route, before: &[Option<Arc<Self>>]) -> Option<Arc<Self>> {
        let limit = route.bounds.rate_limit;
        if limit.is_none() {
            return None;
        }
        let same = |rates: &&Arc<Self>| rates.route == route.id && rates.limit == limit;
        let kept = before.iter().flatten().find(same).map(Arc::clone);
        Some(kept.unwrap_or_else(|| Arc::new(Self::new(route.id.clone(), limit, MonotonicClock))))
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn new(route: String, limit: RateLimit, clock: C) -> Self {
        let per_user = limit.per_user.map(|rate| Meter::new(rate, clock.clone()));
        Self { route, limit, per_user, per_ip: limit.per_ip.map(|rate| Meter::new(rate, clock)) }
    }

    /// Counts a request from an address.
    ///
    /// # Errors
    /// One too many: how long until there is room for another.
    pub fn take_address(&self, address: IpAddr) -> Result<(), Duration> {
        self.per_ip.as_ref().map_or(Ok(()), |meter| meter.take(subscriber(address)))
    }

    /// Counts a request of somebody signed in.
    ///
    /// # Errors
    /// As above.
    pub fn take_person(&self, person: PersonId) -> Result<(), Duration> {
        self.per_user.as_ref().map_or(Ok(()), |meter| meter.take(person))
    }

    /// Forgets whoever has their whole share again.
    pub fn sweep(&self) {
        if let Some(meter) = &self.per_user {
            meter.limiter.retain_recent();
        }
        if let Some(meter) = &self.per_ip {
            meter.limiter.retain_recent();
        }
    }
}

/// What is known of each caller.
type Callers<K> = HashMapStateStore<Option<K>>;

/// One limit with its counters; `None` stands for all callers beyond [`RATE_CALLERS`].
struct Meter<K: Hash + Eq + Clone, C: Clock> {
    limiter: RateLimiter<Option<K>, Callers<K>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Meter<K, C> {
    fn new(rate: Rate, clock: C) -> Self {
        // a rate is never shorter than a nanosecond for each request
        let share = (rate.per / rate.requests.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(share).unwrap_or(Quota::per_second(rate.requests)).allow_burst(rate.requests);
        Self { limiter: RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()), clock }
    }

    fn take(&self, caller: K) -> Result<(), Duration> {
        let key = (self.limiter.len() < RATE_CALLERS).then_some(caller);
        self.limiter.check_key(&key).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;
    use uuid::Uuid;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn rate(requests: u32) -> Option<Rate> {
        Some(Rate { requests: NonZeroU32::new(requests).unwrap(), per: MINUTE })
    }

    fn person(number: u128) -> PersonId {
        PersonId::new(Uuid::from_u128(number))
    }

    #[test]
    fn a_share_is_spent_at_once_and_comes_back_bit_by_bit() {
        let clock = FakeRelativeClock::default();
        let limit = RateLimit { per_user: rate(6), per_ip: None };
        let rates = Rates::new("route".into(), limit, clock.clone());
        for _ in 0..6 {
            rates.take_person(person(1)).unwrap();
        }
        assert_eq!(rates.take_person(person(1)), Err(Duration::from_secs(10)));
        // nobody else is concerned, and no address
        rates.take_person(person(2)).unwrap();
        rates.take_address("192.0.2.1".parse().unwrap()).unwrap();
        clock.advance(Duration::from_secs(10));
        rates.take_person(person(1)).unwrap();
        assert!(rates.take_person(person(1)).is_err());
        clock.advance(MINUTE);
        assert_eq!((0..10).take_while(|_| rates.take_person(person(1)).is_ok()).count(), 6);
        clock.advance(MINUTE * 2);
        rates.sweep();
        assert!(rates.per_user.as_ref().unwrap().limiter.is_empty(), "who has everything again is not remembered");
    }

    #[test]
    fn callers_beyond_all_that_are_told_apart_share_one_share() {
        let clock = FakeRelativeClock::default();
        let limit = RateLimit { per_user: None, per_ip: rate(1) };
        let rates = Rates::new("route".into(), limit, clock);
        let address = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(n));
        for n in 0..u32::try_from(RATE_CALLERS).unwrap() {
            rates.take_address(address(n)).unwrap();
        }
        rates.take_address(address(u32::MAX)).unwrap();
        assert!(rates.take_address(address(u32::MAX - 1)).is_err());
        assert_eq!(rates.per_ip.as_ref().unwrap().limiter.len(), RATE_CALLERS + 1);
    }
}
