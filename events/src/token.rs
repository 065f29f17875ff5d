//! The tokens of a session: that there are some, never what they are.

use serde::{Deserialize, Serialize};

use crate::Time;

/// What may be asked of a session's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Record that the first tokens lie in the vault.
    Store(Stored),
}

/// What happened to a session's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Tokens were put into the vault.
    Stored(Stored),
}

/// `portcullis.token.stored.v1`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// How many times the provider has given tokens for this session; 1 at sign-in.
    pub generation: u32,
    /// When the access token ends, in milliseconds since the Unix epoch, if the provider said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub access_expires_at: Option<Time>,
    /// Whether there is a refresh token.
    pub refreshable: bool,
}

/// What a session's tokens are now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// There never were any.
    #[default]
    Absent,
    /// The vault holds these.
    Held(Stored),
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only generation 1 can come first.
    #[error("the first tokens have generation 1")]
    NotFirst,
}

/// What a command leads to. Storing the same generation again leads to nothing.
///
/// # Errors
/// [`Refusal`].
pub fn decide(state: &State, command: &Command) -> Result<Option<Event>, Refusal> {
    match (state, command) {
        (State::Absent, Command::Store(stored)) if stored.generation == 1 => Ok(Some(Event::Stored(*stored))),
        (State::Held(held), Command::Store(stored)) if held.generation == stored.generation => Ok(None),
        (State::Absent | State::Held(_), Command::Store(_)) => Err(Refusal::NotFirst),
    }
}

/// What a session's tokens are after an event. A generation never goes back.
#[must_use]
pub fn evolve(state: State, event: &Event) -> State {
    let Event::Stored(stored) = event;
    match state {
        State::Held(held) if held.generation >= stored.generation => State::Held(held),
        State::Absent | State::Held(_) => State::Held(*stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(generation: u32) -> Stored {
        Stored { generation, access_expires_at: None, refreshable: true }
    }

    #[test]
    fn the_first_tokens_have_generation_one() {
        assert_eq!(decide(&State::Absent, &Command::Store(stored(2))), Err(Refusal::NotFirst));
        let event = decide(&State::Absent, &Command::Store(stored(1))).unwrap().unwrap();
        assert_eq!(evolve(State::Absent, &event), State::Held(stored(1)));
    }

    #[test]
    fn the_same_generation_is_stored_once() {
        assert_eq!(decide(&State::Held(stored(1)), &Command::Store(stored(1))), Ok(None));
    }

    #[test]
    fn a_generation_never_goes_back() {
        assert_eq!(evolve(State::Held(stored(3)), &Event::Stored(stored(2))), State::Held(stored(3)));
    }
}
