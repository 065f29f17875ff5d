//! A logout that a provider or an administrator asked for: taken once, however often its token comes (OpenID Connect Back-Channel Logout 1.0).

use serde::{Deserialize, Serialize};

use crate::{PersonId, ProviderSessionId};

/// What may be asked of a logout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Remember that its token came.
    Receive(Received),
}

/// What happened to a logout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its token came, and what it asks for was done.
    Received(Received),
}

/// `portcullis.logout.received.v1`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The id of the identity provider that knows whom it names.
    pub idp: String,
    /// Whose sessions it ends; absent where it names one session and nobody.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub person: Option<PersonId>,
    /// The session that it names, as the provider knows it; absent where it names none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<ProviderSessionId>,
}

/// What a logout is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Nobody has heard of it.
    #[default]
    Absent,
    /// Its token came.
    Received,
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its token came before.
    #[error("the logout was received before")]
    Known,
}

/// What a command leads to.
///
/// # Errors
/// [`Refusal`].
pub fn decide(state: State, command: &Command) -> Result<Event, Refusal> {
    match (state, command) {
        (State::Absent, Command::Receive(received)) => Ok(Event::Received(received.clone())),
        (State::Received, Command::Receive(_)) => Err(Refusal::Known),
    }
}

/// What a logout is after an event.
#[must_use]
pub fn evolve(_: State, event: &Event) -> State {
    match event {
        Event::Received(_) => State::Received,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logout_is_received_once() {
        let received = Received { idp: "idp".into(), person: None, session: None };
        let event = decide(State::Absent, &Command::Receive(received.clone())).unwrap();
        let state = evolve(State::Absent, &event);
        assert_eq!(state, State::Received);
        assert_eq!(decide(state, &Command::Receive(received)), Err(Refusal::Known));
    }
}
