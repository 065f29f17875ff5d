//! A session: from sign-in to its end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{PersonId, ProviderSessionId, Sealed, Time};

/// What may be asked of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Begin it.
    Open(SignedIn),
    /// Note that it was in use, unless that was noted a moment ago.
    See {
        /// When it was last in use.
        at: Time,
        /// How long after one note the next may follow.
        apart: Duration,
    },
    /// Replace what is known of the person, whole.
    ReplaceClaims(ClaimsReplaced),
    /// End it, because the person asked to.
    SignOut,
    /// End it, because somebody or something else says so.
    Revoke {
        /// Why, in the words of the one who revokes.
        reason: String,
    },
}

/// What happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It began.
    SignedIn(SignedIn),
    /// It was in use: some of the requests that were served, never all.
    Seen(Seen),
    /// The provider says something else of the person than before.
    ClaimsReplaced(ClaimsReplaced),
    /// The person ended it.
    SignedOut(SignedOut),
    /// It was taken away.
    Revoked(Revoked),
}

/// `portcullis.session.signed_in.v1`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedIn {
    /// Whose session it is.
    pub person: PersonId,
    /// The id of the identity provider.
    pub idp: String,
    /// The claims, sealed with the person's data key.
    pub profile: Sealed,
    /// When the person signed in, in milliseconds since the Unix epoch.
    pub issued_at: Time,
    /// When the session ends by itself, in milliseconds since the Unix epoch.
    pub expires_at: Time,
    /// What the provider calls its own session (`sid`); absent where it does not say. Of no use once it has begun: not kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider_session: Option<ProviderSessionId>,
}

/// `portcullis.session.seen.v1`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When a node last served it, in milliseconds since the Unix epoch.
    pub at: Time,
}

/// `portcullis.session.claims_replaced.v1`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimsReplaced {
    /// All claims there are now, sealed with the person's data key: one that is not among them is gone.
    pub profile: Sealed,
}

/// `portcullis.session.signed_out.v1`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOut {}

/// `portcullis.session.revoked.v1`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Why.
    pub reason: String,
}

/// What a session is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// Nobody has heard of it.
    #[default]
    Absent,
    /// It is open, until its own end at the latest.
    Open(Open),
    /// It ended, and stays so.
    Ended,
}

/// A session that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// How it began.
    pub signed_in: SignedIn,
    /// When it was last in use, as far as the log knows.
    pub last_seen: Time,
}

impl Open {
    /// Whether its own end has come, or it lay idle for `idle` (never, where there is no such bound).
    #[must_use]
    pub fn is_over(&self, now: Time, idle: Option<Duration>) -> bool {
        now >= self.signed_in.expires_at || idle.is_some_and(|idle| now >= self.last_seen.plus(idle))
    }
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is open already.
    #[error("the session is open already")]
    AlreadyOpen,
    /// It has ended.
    #[error("the session has ended")]
    Ended,
    /// There is no such session.
    #[error("there is no such session")]
    Absent,
}

/// What a command leads to. Ending what has ended leads to nothing and is no refusal.
///
/// # Errors
/// [`Refusal`].
pub fn decide(state: &State, command: &Command, now: Time) -> Result<Option<Event>, Refusal> {
    match (state, command) {
        (State::Absent, Command::Open(signed_in)) if now < signed_in.expires_at => {
            Ok(Some(Event::SignedIn(signed_in.clone())))
        }
        (State::Absent | State::Ended, Command::Open(_)) => Err(Refusal::Ended),
        (State::Open(_), Command::Open(_)) => Err(Refusal::AlreadyOpen),
        (State::Open(open), Command::See { at, apart }) => {
            let is_news = *at > open.last_seen && now >= open.last_seen.plus(*apart);
            Ok(is_news.then_some(Event::Seen(Seen { at: *at })))
        }
        (State::Absent | State::Ended, Command::See { .. }) => Ok(None),
        (State::Open(_), Command::ReplaceClaims(replaced)) => Ok(Some(Event::ClaimsReplaced(replaced.clone()))),
        (State::Ended, Command::ReplaceClaims(_)) => Err(Refusal::Ended),
        (State::Open(_), Command::SignOut) => Ok(Some(Event::SignedOut(SignedOut {}))),
        (State::Open(_), Command::Revoke { reason }) => Ok(Some(Event::Revoked(Revoked { reason: reason.clone() }))),
        (State::Ended, Command::SignOut | Command::Revoke { .. }) => Ok(None),
        (State::Absent, Command::ReplaceClaims(_) | Command::SignOut | Command::Revoke { .. }) => Err(Refusal::Absent),
    }
}

/// What a session is after an event. An end is final, in whatever order events come.
#[must_use]
pub fn evolve(state: State, event: &Event) -> State {
    match (state, event) {
        (State::Absent, Event::SignedIn(signed_in)) => {
            let signed_in = SignedIn { provider_session: None, ..signed_in.clone() };
            State::Open(Open { last_seen: signed_in.issued_at, signed_in })
        }
        (State::Open(open), Event::Seen(seen)) => State::Open(Open { last_seen: open.last_seen.max(seen.at), ..open }),
        (state @ (State::Open(_) | State::Ended), Event::SignedIn(_)) => state,
        (state @ (State::Absent | State::Ended), Event::Seen(_)) => state,
        (State::Open(open), Event::ClaimsReplaced(replaced)) => {
            let signed_in = SignedIn { profile: replaced.profile.clone(), ..open.signed_in };
            State::Open(Open { signed_in, ..open })
        }
        (state @ (State::Absent | State::Ended), Event::ClaimsReplaced(_)) => state,
        (_, Event::SignedOut(_) | Event::Revoked(_)) => State::Ended,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn alice() -> SignedIn {
        SignedIn {
            person: PersonId::new(Uuid::from_u128(7)),
            idp: "idp".into(),
            profile: Sealed::new("sealed".into()),
            issued_at: Time::from_secs(100),
            expires_at: Time::from_secs(200),
            provider_session: None,
        }
    }

    fn open() -> State {
        State::Open(Open { signed_in: alice(), last_seen: Time::from_secs(100) })
    }

    const NOW: Time = Time::from_secs(150);

    #[test]
    fn a_session_opens_once() {
        let opened = decide(&State::Absent, &Command::Open(alice()), NOW).unwrap().unwrap();
        let state = evolve(State::Absent, &opened);
        assert_eq!(state, open());
        assert_eq!(decide(&state, &Command::Open(alice()), NOW), Err(Refusal::AlreadyOpen));
    }

    #[test]
    fn an_ended_session_never_opens_again() {
        let ended = evolve(open(), &Event::SignedOut(SignedOut {}));
        assert_eq!(ended, State::Ended);
        assert_eq!(decide(&ended, &Command::Open(alice()), NOW), Err(Refusal::Ended));
        assert_eq!(evolve(ended, &Event::SignedIn(alice())), State::Ended);
    }

    #[test]
    fn a_session_past_its_end_does_not_open() {
        assert_eq!(decide(&State::Absent, &Command::Open(alice()), Time::from_secs(200)), Err(Refusal::Ended));
    }

    #[test]
    fn ending_twice_is_ending_once() {
        let out = decide(&open(), &Command::SignOut, NOW).unwrap().unwrap();
        let ended = evolve(open(), &out);
        assert_eq!(decide(&ended, &Command::SignOut, NOW), Ok(None));
        assert_eq!(decide(&ended, &Command::Revoke { reason: "left".into() }, NOW), Ok(None));
    }

    #[test]
    fn being_in_use_is_noted_now_and_then_and_never_backwards() {
        let see = |state: &State, at, now| {
            let command = Command::See { at: Time::from_secs(at), apart: Duration::from_secs(10) };
            decide(state, &command, Time::from_secs(now)).unwrap()
        };
        assert_eq!(see(&open(), 105, 109), None);
        let seen = see(&open(), 105, 110).unwrap();
        assert_eq!(seen, Event::Seen(Seen { at: Time::from_secs(105) }));
        let state = evolve(open(), &seen);
        assert_eq!(see(&state, 105, 140), None, "nothing new");
        assert_eq!(evolve(state.clone(), &Event::Seen(Seen { at: Time::from_secs(101) })), state);
    }

    #[test]
    fn being_in_use_opens_nothing_and_keeps_nothing_open() {
        let seen = Event::Seen(Seen { at: NOW });
        for state in [State::Absent, State::Ended] {
            let command = Command::See { at: NOW, apart: Duration::ZERO };
            assert_eq!(decide(&state, &command, NOW), Ok(None));
            assert_eq!(evolve(state.clone(), &seen), state);
        }
        let seen = Event::Seen(Seen { at: Time::from_secs(199) });
        let State::Open(open) = evolve(open(), &seen) else { panic!("it is open") };
        assert!(open.is_over(Time::from_secs(200), None));
    }

    #[test]
    fn an_idle_session_is_over_where_idleness_has_a_bound() {
        let State::Open(open) = open() else { panic!("it is open") };
        let idle = Duration::from_secs(50);
        assert!(!open.is_over(Time::from_millis(149_999), Some(idle)));
        assert!(open.is_over(NOW, Some(idle)));
        assert!(!open.is_over(NOW, None));
    }

    #[test]
    fn claims_are_replaced_whole_while_the_session_is_open_and_never_after() {
        let replaced = ClaimsReplaced { profile: Sealed::new("newer".into()) };
        let command = Command::ReplaceClaims(replaced.clone());
        let event = decide(&open(), &command, NOW).unwrap().unwrap();
        let state = evolve(open(), &event);
        let State::Open(now) = state else { panic!("it is open") };
        assert_eq!(now.signed_in, SignedIn { profile: replaced.profile, ..alice() });
        assert_eq!(decide(&State::Ended, &command, NOW), Err(Refusal::Ended));
        assert_eq!(decide(&State::Absent, &command, NOW), Err(Refusal::Absent));
        assert_eq!(evolve(State::Ended, &event), State::Ended);
        assert_eq!(evolve(State::Absent, &event), State::Absent);
    }

    #[test]
    fn what_never_was_cannot_be_ended() {
        assert_eq!(decide(&State::Absent, &Command::SignOut, NOW), Err(Refusal::Absent));
    }

    #[test]
    fn a_revocation_that_comes_first_keeps_the_session_shut() {
        let state = evolve(State::Absent, &Event::Revoked(Revoked { reason: "early".into() }));
        assert_eq!(evolve(state, &Event::SignedIn(alice())), State::Ended);
    }
}
