//! The assertion: what a signed token tells an upstream of a session, and the ones that are still good.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

use http::{HeaderName, HeaderValue};
use portcullis_config::limits::{ASSERTION_CACHE, ASSERTION_LIFE, ASSERTION_REUSE};
use portcullis_config::{GroupsFilter, IssuerFormat, Route};
use portcullis_events::{SessionId, Time};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::claim;
use crate::databroker::view::SessionView;

/// What an assertion says beside its times and its own id. A claim of the provider never takes the place of one of these.
const OURS: [&str; 11] = ["iss", "aud", "sub", "user", "email", "name", "groups", "sid", "jti", "iat", "exp"];

/// What an assertion for a route's host says of a session, without what differs from one assertion to the next (`jti`,
/// `iat`, `exp`). E-mail address and name are absent where the provider gave none; `groups` is always a list, of those
/// that the filter keeps.
#[must_use]
pub fn claims(
    session: &SessionView,
    host: &str,
    format: IssuerFormat,
    filter: &GroupsFilter,
    claims_headers: &[(HeaderName, String)],
) -> Map<String, Value> {
    let groups: Vec<&str> = session.groups.iter().map(|group| &**group).filter(|group| filter.keeps(group)).collect();
    let issuer = match format {
        IssuerFormat::HostOnly => host.to_owned(),
        IssuerFormat::Uri => format!("https://{host}/"),
    };
    let known = [
        ("iss", Some(issuer.into())),
        ("aud", Some(host.into())),
        ("sub", Some(session.user.as_str().into())),
        ("user", Some(session.user.as_str().into())),
        ("email", session.email.as_deref().map(Value::from)),
        ("name", session.name.as_deref().map(Value::from)),
        ("groups", Some(groups.into())),
        ("sid", Some(session.id.to_string().into())),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let asked_for = claims_headers.iter().filter(|(_, name)| !OURS.contains(&name.as_str()));
    let asked_for =
        asked_for.filter_map(|(_, name)| Some((name.clone(), claim::named(&session.claims, name)?.clone())));
    known.chain(asked_for).collect()
}

/// How many groups of a session the assertions of a route leave out.
#[must_use]
pub fn removed_groups(session: &SessionView, route: &Route) -> usize {
    if route.groups_filter.is_open() || !route.needs_assertion() {
        return 0;
    }
    session.groups.iter().filter(|group| !route.groups_filter.keeps(group)).count()
}

/// When an assertion made at `now` ends: after its life, and never after its session.
pub(super) fn expiry(session: &SessionView, now: Time) -> Time {
    now.plus(ASSERTION_LIFE).min(session.expires_at)
}

/// Adds what belongs to one assertion alone.
pub(super) fn stamp(claims: &mut Map<String, Value>, id: Uuid, now: Time, expiry: Time) {
    claims.insert("jti".into(), id.to_string().into());
    claims.insert("iat".into(), now.secs().into());
    claims.insert("exp".into(), expiry.secs().into());
}

/// Everything an assertion was made from. The list of claims is the process's own and never changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) session: &'a SessionView,
    pub(super) host: &'a str,
    pub(super) format: IssuerFormat,
    pub(super) filter: &'a GroupsFilter,
    pub(super) key_id: &'a str,
}

/// The headers made from an assertion, as they go to the upstream.
pub(super) type Headers = Rc<[(HeaderName, HeaderValue)]>;

/// The identity headers that a worker made lately. Signing costs more than everything else of a request together.
///
/// Bounded: the oldest make room, and those that are no longer good go first.
#[derive(Debug, Default)]
pub struct AssertionCache {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    hasher: RandomState,
    kept: HashMap<u64, Kept>,
    /// What was kept, in that order: hash and number.
    order: VecDeque<(u64, u64)>,
    number: u64,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    session: SessionId,
    seq: u64,
    host: Box<str>,
    format: IssuerFormat,
    filter: GroupsFilter,
    key_id: Box<str>,
    made_at: Time,
    good_until: Time,
    headers: Headers,
}

impl AssertionCache {
    /// What was made from the same and is still good.
    pub(super) fn get(&self, source: Source<'_>, now: Time) -> Option<Headers> {
        let state = self.state.borrow();
        let kept = state.kept.get(&state.hash(source))?;
        kept.serves(source, now).then(|| Rc::clone(&kept.headers))
    }

    /// Keeps what was made at `now` and ends at `expiry`.
    pub(super) fn put(&self, source: Source<'_>, now: Time, expiry: Time, headers: Headers) {
        let mut state = self.state.borrow_mut();
        state.make_room(now);
        let hash = state.hash(source);
        let number = state.number;
        state.number = number.wrapping_add(1);
        state.order.push_back((hash, number));
        state.kept.insert(hash, Kept::new(number, source, now, expiry, headers));
    }
}

impl State {
    fn hash(&self, source: Source<'_>) -> u64 {
        // the key that signs, the form of the issuer and the filter hardly ever change: they are compared, not hashed
        self.hasher.hash_one((source.session.id, source.host))
    }

    /// Two leave for each that comes, so that what is no longer good does not stay; at the bound, the oldest must.
    fn make_room(&mut self, now: Time) {
        for _ in 0..2 {
            let Some((hash, number)) = self.order.front().copied() else { return };
            let kept = self.kept.get(&hash).filter(|kept| kept.number == number);
            if self.order.len() < ASSERTION_CACHE && kept.is_some_and(|kept| now <= kept.good_until) {
                return;
            }
            if kept.is_some() {
                self.kept.remove(&hash);
            }
            self.order.pop_front();
        }
    }
}

impl Kept {
    fn new(number: u64, source: Source<'_>, now: Time, expiry: Time, headers: Headers) -> Self {
        // one that ends with its session could not be made to last longer: it is good to its end
        let ends_early = expiry < now.plus(ASSERTION_LIFE);
        Self {
            number,
            session: source.session.id,
            seq: source.session.seq,
            host: source.host.into(),
            format: source.format,
            filter: source.filter.clone(),
            key_id: source.key_id.into(),
            made_at: now,
            good_until: if ends_early { expiry } else { expiry.minus(ASSERTION_REUSE) },
            headers,
        }
    }

    fn serves(&self, source: Source<'_>, now: Time) -> bool {
        self.session == source.session.id
            && self.seq == source.session.seq
            && *self.host == *source.host
            && self.format == source.format
            && self.filter == *source.filter
            && *self.key_id == *source.key_id
            && (self.made_at..=self.good_until).contains(&now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::people::{NOW, alice, session};
    use super::*;

    fn source<'a>(session: &'a SessionView, host: &'a str) -> Source<'a> {
        Source { session, host, format: IssuerFormat::HostOnly, filter: open(), key_id: "key" }
    }

    fn open() -> &'static GroupsFilter {
        static OPEN: std::sync::OnceLock<GroupsFilter> = std::sync::OnceLock::new();
        OPEN.get_or_init(GroupsFilter::default)
    }

    fn made() -> Headers {
        Rc::new([])
    }

    fn keep(cache: &AssertionCache, source: Source<'_>, now: Time) {
        cache.put(source, now, expiry(source.session, now), made());
    }

    #[test]
    fn an_assertion_is_reused_while_it_has_life_left() {
        let (cache, alice) = (AssertionCache::default(), alice());
        let source = source(&alice, "app.example.com");
        keep(&cache, source, NOW);
        let last = NOW.plus(ASSERTION_LIFE).minus(ASSERTION_REUSE);
        assert!(cache.get(source, NOW).is_some() && cache.get(source, last).is_some());
        assert!(cache.get(source, last.plus(Duration::from_millis(1))).is_none());
        assert!(cache.get(source, NOW.minus(Duration::from_millis(1))).is_none());
    }

    #[test]
    fn an_assertion_never_outlives_its_session_and_is_reused_to_its_end() {
        let (cache, mut alice) = (AssertionCache::default(), alice());
        alice.expires_at = NOW.plus(Duration::from_secs(30));
        assert_eq!(expiry(&alice, NOW), alice.expires_at);
        let source = source(&alice, "app.example.com");
        keep(&cache, source, NOW);
        assert!(cache.get(source, NOW.plus(Duration::from_secs(29))).is_some());
    }

    #[test]
    fn an_assertion_serves_nothing_but_what_it_was_made_from() {
        let (cache, first) = (AssertionCache::default(), alice());
        let own = source(&first, "app.example.com");
        keep(&cache, own, NOW);
        let mut changed = first.clone();
        changed.seq += 1;
        let mut other = first.clone();
        other.id = SessionId::new(Uuid::from_u128(77));
        for foreign in [
            source(&changed, "app.example.com"),
            source(&other, "app.example.com"),
            source(&first, "other.example.com"),
            Source { format: IssuerFormat::Uri, ..own },
            Source { filter: &GroupsFilter::of(["dev"]), ..own },
            Source { key_id: "another", ..own },
        ] {
            assert!(cache.get(foreign, NOW).is_none(), "{foreign:?}");
        }
        assert!(cache.get(own, NOW).is_some());
    }

    #[test]
    fn the_cache_holds_no_more_than_its_bound_and_lets_the_oldest_go() {
        let cache = AssertionCache::default();
        let mut one = session("one");
        for number in 0..u128::try_from(ASSERTION_CACHE).unwrap() + 10 {
            one.id = SessionId::new(Uuid::from_u128(number));
            keep(&cache, source(&one, "app.example.com"), NOW);
        }
        assert!(cache.get(source(&one, "app.example.com"), NOW).is_some());
        one.id = SessionId::new(Uuid::from_u128(0));
        assert!(cache.get(source(&one, "app.example.com"), NOW).is_none());
        let state = cache.state.borrow();
        assert!(state.order.len() <= ASSERTION_CACHE && state.kept.len() <= ASSERTION_CACHE);
    }

    #[test]
    fn what_is_no_longer_good_leaves_as_others_come() {
        let cache = AssertionCache::default();
        let mut one = session("one");
        let mut keep_at = |numbers: std::ops::Range<u128>, now| {
            for number in numbers {
                one.id = SessionId::new(Uuid::from_u128(number));
                keep(&cache, source(&one, "app.example.com"), now);
            }
        };
        keep_at(0..100, NOW);
        keep_at(100..150, NOW.plus(ASSERTION_LIFE));
        assert_eq!(cache.state.borrow().kept.len(), 50);
    }

    #[test]
    fn a_session_that_is_kept_again_and_again_takes_the_room_of_one() {
        let (cache, alice) = (AssertionCache::default(), alice());
        let source = source(&alice, "app.example.com");
        for _ in 0..100 {
            keep(&cache, source, NOW);
        }
        let state = cache.state.borrow();
        assert!(state.kept.len() == 1 && state.order.len() <= 2, "{}", state.order.len());
    }
}
