//! The connection of a process to the components in others, and the lines on it: one for each kind of question.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use async_trait::async_trait;
use portcullis_config::limits::ROLE_PAUSE;
use portcullis_config::{NatsStorage, Services};
use tokio::time::Instant;

use super::envelope;
use super::lookout::Ties;
use crate::ask::{Ask, AskError, Far, Port};
use crate::clock;
use crate::databroker::nats::{BadOption, Nats, NoAnswer};
use crate::keyring::Sealer;

/// Why there is no link. Servers that are away are no reason: they are waited for.
pub type LinkError = BadOption;

/// A connection to where the other components are, with the key that makes one of us.
#[derive(Clone)]
pub struct Link {
    nats: Nats,
    sealer: Arc<Sealer>,
    ties: Ties,
}

impl Link {
    /// Connects. `sealer` is that of [`crate::keyring::Purpose::Role`].
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn connect(storage: &NatsStorage, here: Services, sealer: Sealer) -> Result<Self, LinkError> {
        let nats = Nats::connect_as(storage, &here.to_string()).await?;
        Ok(Self { nats, sealer: Arc::new(sealer), ties: Ties::default() })
    }

    /// What is known of the others.
    #[must_use]
    pub const fn ties(&self) -> &Ties {
        &self.ties
    }

    /// A port to a component elsewhere. A question is sent once more whenever `attempt` has passed without an answer;
    /// with `None` it is sent once, and again only where nobody was there to take it.
    #[must_use]
    pub fn port<M: Ask>(
        &self,
        subject: &'static str,
        bound: usize,
        deadline: Duration,
        attempt: Option<Duration>,
    ) -> Port<M> {
        Port::far(Arc::new(Line { link: self.clone(), subject: subject.into(), attempt }), bound, deadline)
    }

    /// Says something to all who listen to a subject. Lost words are no fault: whoever listens asks by itself as well.
    pub async fn say(&self, subject: &str, message: &[u8]) {
        let said = match envelope::word(&self.sealer, subject, message, clock::now()) {
            Ok(payload) => self.nats.client().publish(subject.to_owned(), payload.into()).await.map_err(|_| ()),
            Err(_) => Err(()),
        };
        if said.is_err() {
            tracing::warn!(subject, "a word to the others was not sent");
        }
    }

    /// The message in a word that came; `None` for what is none of ours.
    #[must_use]
    pub fn heard(&self, subject: &str, payload: &[u8]) -> Option<Vec<u8>> {
        match envelope::open_word(&self.sealer, subject, payload, clock::now()) {
            Ok(message) => Some(message),
            // whoever tries whether it may write here says nothing
            Err(_) if payload.is_empty() => None,
            Err(error) => {
                tracing::warn!(subject, %error, "a word is not believed");
                None
            }
        }
    }

    pub(super) const fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    pub(super) const fn nats(&self) -> &Nats {
        &self.nats
    }

    /// Listens to a subject; `None` where that does not go yet, and is noted.
    pub async fn listen(&self, subject: &str, group: Option<&str>) -> Option<Subscriber> {
        match self.nats.subscribe(subject, group).await {
            Ok(subscriber) => {
                self.ties.permitted(subject);
                Some(subscriber)
            }
            Err(NoAnswer::Denied(why)) => {
                self.ties.denied(subject, why);
                None
            }
            Err(_) => None,
        }
    }
}

/// The way of one kind of question.
pub struct Line {
    link: Link,
    subject: String,
    attempt: Option<Duration>,
}

impl Line {
    /// The line on a link to a subject.
    #[must_use]
    pub const fn new(link: Link, subject: String, attempt: Option<Duration>) -> Self {
        Self { link, subject, attempt }
    }

    async fn once(&self, message: &[u8], within: Duration) -> Result<Vec<u8>, Outcome> {
        let sealer = &self.link.sealer;
        let (payload, asked) =
            envelope::question(sealer, &self.subject, message, clock::now()).map_err(Outcome::Last)?;
        match self.link.nats.ask(&self.subject, None, payload.into(), within).await {
            Ok(answer) => envelope::open_answer(sealer, &asked, &answer).map_err(Outcome::Last),
            Err(NoAnswer::Nobody(_)) => Err(Outcome::Nobody),
            Err(NoAnswer::Denied(why)) => {
                self.link.ties.denied(&self.subject, why);
                Err(Outcome::Last(AskError::Denied))
            }
            Err(NoAnswer::TooLarge) => Err(Outcome::Last(AskError::Bytes)),
            Err(NoAnswer::Away(_)) => Err(Outcome::Silence),
        }
    }
}

/// What one attempt came to, if not to an answer.
enum Outcome {
    /// Nobody has it: it may go once more.
    Nobody,
    /// Somebody may have it.
    Silence,
    /// Trying again does not help.
    Last(AskError),
}

#[async_trait]
impl Far for Line {
    async fn ask(&self, message: Vec<u8>, within: Duration) -> Result<Vec<u8>, AskError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = self.attempt.map_or(left, |attempt| attempt.min(left));
            let error = match self.once(&message, attempt).await {
                Ok(answer) => return Ok(answer),
                Err(Outcome::Last(error)) => return Err(error),
                Err(Outcome::Nobody) => AskError::Away,
                Err(Outcome::Silence) if self.attempt.is_none() => return Err(AskError::Late),
                Err(Outcome::Silence) => AskError::Late,
            };
            if Instant::now() + ROLE_PAUSE >= deadline {
                return Err(error);
            }
            tokio::time::sleep(ROLE_PAUSE).await;
        }
    }
}
