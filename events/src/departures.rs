//! Who was logged out lately: a sign-in that was under way then begins no session, in whatever order the two reach the
//! log's writers. What is remembered has bounds, and follows from the log alone.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{PersonId, ProviderSessionId, Time};

/// A sign-in that began longer than this before a logout is not under way any more (its hand-over lives for minutes): that
/// it comes later all the same means that clocks are wrong, and a clock that is wrong locks nobody out for longer.
const UNDER_WAY: i64 = 60 * 60 * 1000;
/// Logouts that are remembered at most; the oldest go first.
const MOST: usize = 8192;

/// Whom a logout means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Departed {
    /// A person, wherever they are signed in.
    Person(PersonId),
    /// A person, as far as their provider gave the session no name.
    Unnamed(PersonId),
    /// One session of a provider.
    Session(ProviderSessionId),
}

impl Departed {
    /// Whom a logout means that names a person, a session of the provider, or both.
    pub(crate) fn of(
        person: Option<PersonId>,
        session: Option<ProviderSessionId>,
    ) -> impl Iterator<Item = Self> + Clone {
        let whole = person.filter(|_| session.is_none()).map(Self::Person);
        let unnamed = person.filter(|_| session.is_some()).map(Self::Unnamed);
        [whole, unnamed, session.map(Self::Session)].into_iter().flatten()
    }

    pub(crate) const fn parts(self) -> (u8, Uuid) {
        match self {
            Self::Person(person) => (0, person.uuid()),
            Self::Unnamed(person) => (1, person.uuid()),
            Self::Session(session) => (2, session.uuid()),
        }
    }

    pub(crate) const fn from_parts(kind: u8, id: Uuid) -> Option<Self> {
        match kind {
            0 => Some(Self::Person(PersonId::new(id))),
            1 => Some(Self::Unnamed(PersonId::new(id))),
            2 => Some(Self::Session(ProviderSessionId::new(id))),
            _ => None,
        }
    }
}

/// The last logout of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Departures(BTreeMap<Departed, Time>);

impl Departures {
    /// A logout, at this time.
    pub(crate) fn note(&mut self, departed: Departed, at: Time) {
        let last = self.0.entry(departed).or_insert(at);
        *last = at.max(*last);
        if self.0.len() > MOST {
            self.forget_the_older_half();
        }
    }

    /// Whether somebody was logged out after they began a sign-in that is under way.
    pub(crate) fn overtook(&self, person: PersonId, session: Option<ProviderSessionId>, began: Time) -> bool {
        let named = session.map_or(Departed::Unnamed(person), Departed::Session);
        [Departed::Person(person), named]
            .iter()
            .filter_map(|departed| self.0.get(departed))
            .any(|at| (1..=UNDER_WAY).contains(&at.millis().saturating_sub(began.millis())))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Departed, Time)> {
        self.0.iter().map(|(departed, at)| (*departed, *at))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes up what was written; false if it is not in order, or too much.
    pub(crate) fn restore(&mut self, departed: Departed, at: Time) -> bool {
        let is_next = self.0.last_key_value().is_none_or(|(last, _)| *last < departed) && self.0.len() < MOST;
        is_next && self.0.insert(departed, at).is_none()
    }

    fn forget_the_older_half(&mut self) {
        let mut by_age: Vec<_> = self.iter().map(|(departed, at)| (at, departed)).collect();
        by_age.sort_unstable();
        for (_, departed) in by_age.into_iter().take(MOST / 2) {
            self.0.remove(&departed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(number: u128) -> PersonId {
        PersonId::new(Uuid::from_u128(number))
    }

    fn named(number: u128) -> ProviderSessionId {
        ProviderSessionId::new(Uuid::from_u128(number))
    }

    fn at(secs: i64) -> Time {
        Time::from_secs(secs)
    }

    fn departures(of: Option<PersonId>, session: Option<ProviderSessionId>) -> Departures {
        let mut departures = Departures::default();
        Departed::of(of, session).for_each(|departed| departures.note(departed, at(100)));
        departures
    }

    #[test]
    fn a_logout_of_a_person_overtakes_every_sign_in_that_began_before_it_and_none_after() {
        let departures = departures(Some(person(1)), None);
        for session in [None, Some(named(7))] {
            assert!(departures.overtook(person(1), session, at(99)));
            assert!(!departures.overtook(person(1), session, at(100)));
            assert!(!departures.overtook(person(2), session, at(99)));
        }
    }

    #[test]
    fn a_logout_of_one_session_overtakes_that_one_whoever_it_belongs_to() {
        let departures = departures(None, Some(named(7)));
        assert!(departures.overtook(person(1), Some(named(7)), at(99)));
        assert!(!departures.overtook(person(1), Some(named(8)), at(99)));
        assert!(!departures.overtook(person(1), None, at(99)));
    }

    #[test]
    fn a_logout_of_a_person_and_a_session_overtakes_it_and_what_has_no_name() {
        let departures = departures(Some(person(1)), Some(named(7)));
        assert!(departures.overtook(person(1), Some(named(7)), at(99)));
        assert!(departures.overtook(person(1), None, at(99)));
        assert!(!departures.overtook(person(1), Some(named(8)), at(99)));
        assert!(!departures.overtook(person(2), None, at(99)));
    }

    #[test]
    fn a_logout_whose_time_is_far_ahead_locks_nobody_out() {
        let departures = departures(Some(person(1)), None);
        assert!(departures.overtook(person(1), None, at(100 - UNDER_WAY / 1000)));
        assert!(!departures.overtook(person(1), None, at(99 - UNDER_WAY / 1000)));
    }

    #[test]
    fn so_many_are_remembered_and_the_oldest_go() {
        let mut departures = Departures::default();
        for number in 0..=MOST {
            let number = u128::try_from(number).unwrap();
            departures.note(Departed::Person(person(number)), at(i64::try_from(number).unwrap()));
        }
        assert_eq!(departures.len(), MOST / 2 + 1);
        assert!(!departures.overtook(person(0), None, at(-1)));
        let last = i64::try_from(MOST).unwrap();
        assert!(departures.overtook(person(u128::try_from(last).unwrap()), None, at(last - 1)));
    }
}
