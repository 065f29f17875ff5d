//! The tokens of a session: that there are some and whose turn it is to renew them, never what they are.
//!
//! A refresh token that rotates may be presented once. So whoever means to present generation n first puts the intent on
//! the log ([`RefreshStarted`]); the fold lets nobody start n again unless an answer said that n was not spent, or the
//! provider was never reached. What became of an intent without an outcome is in doubt, and stays unsent for ever.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{EventId, Time};

/// What may be asked of a session's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Record that the first tokens lie in the vault.
    Store(Stored),
    /// Claim the right to present a generation, at this time.
    Start {
        /// The intent.
        intent: RefreshStarted,
        /// When it is claimed.
        at: Time,
    },
    /// Record that the next generation lies in the vault.
    Complete(Refreshed),
    /// Record that the provider gave nothing, and why.
    Fail(RefreshFailed),
    /// Record that nobody knows whether the provider gave anything.
    LeaveInDoubt(LeftInDoubt),
}

/// What happened to a session's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Tokens were put into the vault.
    Stored(Stored),
    /// Somebody claimed the right to present a generation.
    RefreshStarted(RefreshStarted),
    /// The next generation was put into the vault.
    Refreshed(Refreshed),
    /// The provider gave nothing.
    RefreshFailed(RefreshFailed),
    /// Nobody knows whether the provider gave anything.
    LeftInDoubt(LeftInDoubt),
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

/// `portcullis.token.refresh_started.v1`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshStarted {
    /// The generation whose refresh token will be presented.
    pub generation: u32,
    /// Whose claim it is: made anew for each attempt.
    pub attempt: EventId,
    /// When an outcome is no longer waited for, in milliseconds since the Unix epoch.
    pub deadline: Time,
}

/// `portcullis.token.refreshed.v1`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The generation that lies in the vault now.
    pub generation: u32,
    /// When the provider was asked for it, in milliseconds since the Unix epoch.
    pub refreshed_at: Time,
    /// When the access token ends, in milliseconds since the Unix epoch, if the provider said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub access_expires_at: Option<Time>,
    /// Whether there is a refresh token.
    pub refreshable: bool,
}

/// `portcullis.token.refresh_failed.v1`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshFailed {
    /// The generation that was to be presented.
    pub generation: u32,
    /// The attempt that failed.
    pub attempt: EventId,
    /// Why.
    pub class: FailureClass,
    /// Not before then is it tried again, in milliseconds since the Unix epoch.
    pub retry_at: Time,
}

/// `portcullis.token.left_in_doubt.v1`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftInDoubt {
    /// The generation that may have been spent.
    pub generation: u32,
    /// The attempt that may have spent it.
    pub attempt: EventId,
}

/// Why a provider gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// It was not reached: the refresh token never left.
    NotSent,
    /// It answered that it has trouble (5xx) or too much to do (429): it gave nothing.
    Unavailable,
    /// It answered no, for a reason that is not the refresh token's (RFC 6749 §5.2), such as `invalid_client`.
    Rejected,
    /// It answered `invalid_grant`: it knows the refresh token no more.
    InvalidGrant,
}

/// What a session's tokens are now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// There never were any.
    #[default]
    Absent,
    /// The vault holds these.
    Held(Held),
}

/// Tokens in the vault, and how far their renewal has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What lies there.
    pub stored: Stored,
    /// When they were asked for; `None` for those of the sign-in.
    pub refreshed_at: Option<Time>,
    /// Refreshes of this generation that failed.
    pub failures: u32,
    /// How far the renewal has come.
    pub renewal: Renewal,
}

/// How far the renewal of a generation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewal {
    /// Nobody presents it; nobody may before this time, if there is one.
    Idle(Option<Time>),
    /// Somebody presents it.
    Started(RefreshStarted),
    /// It may have been spent.
    InDoubt(LeftInDoubt),
    /// The provider knows it no more.
    Over,
}

/// What is owed to a session because of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// A refresh of this generation.
    Refresh {
        /// The generation to present.
        generation: u32,
        /// The refreshes of it that failed.
        failures: u32,
        /// Since when it is due.
        due: Time,
    },
    /// The outcome of an attempt that is past its deadline.
    Settle {
        /// The attempt.
        intent: RefreshStarted,
        /// The refreshes of its generation that failed.
        failures: u32,
    },
    /// The session's end: its tokens are lost, and what they gave access to has ended.
    End {
        /// The generation that was lost.
        generation: u32,
        /// Since when it is due.
        due: Time,
    },
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only generation 1 can come first.
    #[error("the first tokens have generation 1")]
    NotFirst,
    /// There is no refresh token.
    #[error("there is no refresh token")]
    NotRefreshable,
    /// Another generation is held.
    #[error("another generation is held")]
    OtherGeneration,
    /// Somebody else presents it.
    #[error("the generation is being presented already")]
    AlreadyStarted,
    /// It failed lately.
    #[error("it is too early to try again")]
    TooEarly,
    /// It may have been spent.
    #[error("the generation may have been spent")]
    MaybeSpent,
    /// The provider knows it no more.
    #[error("the generation is over")]
    Over,
    /// There is no such attempt under way.
    #[error("there is no such attempt under way")]
    NoSuchAttempt,
}

/// What a command leads to. Recording the same outcome again leads to nothing.
///
/// # Errors
/// [`Refusal`].
pub fn decide(state: &State, command: &Command) -> Result<Option<Event>, Refusal> {
    let State::Held(held) = state else {
        return match command {
            Command::Store(stored) if stored.generation == 1 => Ok(Some(Event::Stored(*stored))),
            Command::Store(_) => Err(Refusal::NotFirst),
            Command::Start { .. } | Command::Complete(_) | Command::Fail(_) | Command::LeaveInDoubt(_) => {
                Err(Refusal::NotRefreshable)
            }
        };
    };
    match command {
        // the same sign-in told again, however late
        Command::Store(stored) if held.stored.generation >= stored.generation => Ok(None),
        Command::Store(_) => Err(Refusal::NotFirst),
        Command::Start { intent, at } => start(held, intent, *at),
        Command::Complete(refreshed) => complete(held, refreshed),
        Command::Fail(failed) => match held.renewal {
            Renewal::Started(intent) if intent.attempt == failed.attempt => Ok(Some(Event::RefreshFailed(*failed))),
            Renewal::Idle(_) | Renewal::Started(_) | Renewal::InDoubt(_) | Renewal::Over => Err(Refusal::NoSuchAttempt),
        },
        Command::LeaveInDoubt(doubt) => match held.renewal {
            Renewal::Started(intent) if intent.attempt == doubt.attempt => Ok(Some(Event::LeftInDoubt(*doubt))),
            Renewal::InDoubt(already) if already == *doubt => Ok(None),
            Renewal::Idle(_) | Renewal::Started(_) | Renewal::InDoubt(_) | Renewal::Over => Err(Refusal::NoSuchAttempt),
        },
    }
}

fn start(held: &Held, intent: &RefreshStarted, at: Time) -> Result<Option<Event>, Refusal> {
    if held.stored.generation != intent.generation {
        return Err(Refusal::OtherGeneration);
    }
    if !held.stored.refreshable {
        return Err(Refusal::NotRefreshable);
    }
    match held.renewal {
        Renewal::Idle(Some(retry_at)) if at < retry_at => Err(Refusal::TooEarly),
        Renewal::Idle(_) => Ok(Some(Event::RefreshStarted(*intent))),
        // its own claim, asked for again because the answer was lost
        Renewal::Started(mine) if mine == *intent => Ok(None),
        Renewal::Started(_) => Err(Refusal::AlreadyStarted),
        Renewal::InDoubt(_) => Err(Refusal::MaybeSpent),
        Renewal::Over => Err(Refusal::Over),
    }
}

/// An answer that turns up late ends the doubt: it lies in the vault, and nobody has asked again meanwhile.
fn complete(held: &Held, refreshed: &Refreshed) -> Result<Option<Event>, Refusal> {
    if held.stored.generation >= refreshed.generation {
        return Ok(None);
    }
    if held.stored.generation.checked_add(1) != Some(refreshed.generation) {
        return Err(Refusal::OtherGeneration);
    }
    match held.renewal {
        Renewal::Started(_) | Renewal::InDoubt(_) => Ok(Some(Event::Refreshed(*refreshed))),
        Renewal::Idle(_) | Renewal::Over => Err(Refusal::NoSuchAttempt),
    }
}

/// What a session's tokens are after an event. A generation never goes back.
#[must_use]
pub fn evolve(state: State, event: &Event) -> State {
    let State::Held(held) = state else {
        return match event {
            Event::Stored(stored) => State::Held(Held::fresh(*stored, None)),
            Event::RefreshStarted(_) | Event::Refreshed(_) | Event::RefreshFailed(_) | Event::LeftInDoubt(_) => {
                State::Absent
            }
        };
    };
    State::Held(held.after(event))
}

impl Held {
    const fn fresh(stored: Stored, refreshed_at: Option<Time>) -> Self {
        Self { stored, refreshed_at, failures: 0, renewal: Renewal::Idle(None) }
    }

    fn after(self, event: &Event) -> Self {
        let here = self.stored.generation;
        match event {
            Event::Stored(stored) if stored.generation > here => Self::fresh(*stored, None),
            Event::Refreshed(Refreshed { generation, refreshed_at, access_expires_at, refreshable })
                if *generation > here =>
            {
                let (generation, access_expires_at, refreshable) = (*generation, *access_expires_at, *refreshable);
                Self::fresh(Stored { generation, access_expires_at, refreshable }, Some(*refreshed_at))
            }
            Event::RefreshStarted(intent) if intent.generation == here => {
                Self { renewal: Renewal::Started(*intent), ..self }
            }
            Event::RefreshFailed(failed) if failed.generation == here => {
                let renewal = match failed.class {
                    FailureClass::NotSent | FailureClass::Unavailable | FailureClass::Rejected => {
                        Renewal::Idle(Some(failed.retry_at))
                    }
                    FailureClass::InvalidGrant => Renewal::Over,
                };
                Self { renewal, failures: self.failures.saturating_add(1), ..self }
            }
            Event::LeftInDoubt(doubt) if doubt.generation == here => Self { renewal: Renewal::InDoubt(*doubt), ..self },
            Event::Stored(_)
            | Event::Refreshed(_)
            | Event::RefreshStarted(_)
            | Event::RefreshFailed(_)
            | Event::LeftInDoubt(_) => self,
        }
    }

    /// When something is owed, if nothing happens before; a time long past where it is owed already. A refresh is due
    /// `lead` before the access token ends, and with a quarter of its life left if that is later, but never sooner than
    /// `least` after the one before: a token of a few seconds ends meanwhile, and the session goes on. `signed_in_at` is
    /// when the session began.
    #[must_use]
    pub fn due(&self, signed_in_at: Time, lead: Duration, least: Duration) -> Option<Time> {
        let Stored { access_expires_at, refreshable, .. } = self.stored;
        match self.renewal {
            Renewal::Idle(retry_at) => {
                let ends = access_expires_at.filter(|_| refreshable)?;
                let began = self.refreshed_at.unwrap_or(signed_in_at);
                let due = ends.minus(lead.min(ends.since(began) / 4)).max(began.plus(least));
                Some(due.max(retry_at.unwrap_or(Time::from_millis(i64::MIN))))
            }
            Renewal::Started(intent) => Some(intent.deadline),
            Renewal::InDoubt(_) => access_expires_at,
            Renewal::Over => Some(Time::from_millis(i64::MIN)),
        }
    }

    /// What is owed at `now`, as [`Self::due`] has it.
    #[must_use]
    pub fn owed(&self, signed_in_at: Time, lead: Duration, least: Duration, now: Time) -> Option<Owed> {
        let due = self.due(signed_in_at, lead, least).filter(|due| *due <= now)?;
        let (generation, failures) = (self.stored.generation, self.failures);
        Some(match self.renewal {
            Renewal::Idle(_) => Owed::Refresh { generation, failures, due },
            Renewal::Started(intent) => Owed::Settle { intent, failures },
            Renewal::InDoubt(_) => Owed::End { generation, due },
            Renewal::Over => Owed::End { generation, due: now },
        })
    }
}

#[cfg(test)]
mod tests;
