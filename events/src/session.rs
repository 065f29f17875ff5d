//! A session: from sign-in to its end.

use serde::{Deserialize, Serialize};

use crate::{PersonId, Sealed, Time};

/// What may be asked of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Begin it.
    Open(SignedIn),
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Nobody has heard of it.
    #[default]
    Absent,
    /// It is open, until its own end at the latest.
    Open(SignedIn),
    /// It ended, and stays so.
    Ended,
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
        (State::Open(_), Command::SignOut) => Ok(Some(Event::SignedOut(SignedOut {}))),
        (State::Open(_), Command::Revoke { reason }) => Ok(Some(Event::Revoked(Revoked { reason: reason.clone() }))),
        (State::Ended, Command::SignOut | Command::Revoke { .. }) => Ok(None),
        (State::Absent, Command::SignOut | Command::Revoke { .. }) => Err(Refusal::Absent),
    }
}

/// What a session is after an event. An end is final, in whatever order events come.
#[must_use]
pub fn evolve(state: State, event: &Event) -> State {
    match (state, event) {
        (State::Absent, Event::SignedIn(signed_in)) => State::Open(signed_in.clone()),
        (state @ (State::Open(_) | State::Ended), Event::SignedIn(_)) => state,
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
        }
    }

    const NOW: Time = Time::from_secs(150);

    #[test]
    fn a_session_opens_once() {
        let opened = decide(&State::Absent, &Command::Open(alice()), NOW).unwrap().unwrap();
        let state = evolve(State::Absent, &opened);
        assert_eq!(state, State::Open(alice()));
        assert_eq!(decide(&state, &Command::Open(alice()), NOW), Err(Refusal::AlreadyOpen));
    }

    #[test]
    fn an_ended_session_never_opens_again() {
        let ended = evolve(State::Open(alice()), &Event::SignedOut(SignedOut {}));
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
        let out = decide(&State::Open(alice()), &Command::SignOut, NOW).unwrap().unwrap();
        let ended = evolve(State::Open(alice()), &out);
        assert_eq!(decide(&ended, &Command::SignOut, NOW), Ok(None));
        assert_eq!(decide(&ended, &Command::Revoke { reason: "left".into() }, NOW), Ok(None));
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
