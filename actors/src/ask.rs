//! How one component asks another: bounded work in flight, a deadline, and messages that could travel as bytes.
//!
//! A mailbox's capacity bounds nothing in actix (each clone of an address has a slot of its own), so a [`Port`]
//! carries its own bound. In builds with debug assertions every message and every answer goes through its JSON, so
//! that what works in one process works between two.

use std::sync::Arc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message, Recipient};
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// A message between components: a serde type with a serde answer.
pub trait Ask: Message<Result = Self::Answer> + Serialize + DeserializeOwned + Send + 'static {
    /// What comes back.
    type Answer: Serialize + DeserializeOwned + Send + 'static;
}

/// Why there is no answer. After [`AskError::Late`] the outcome is unknown: a command must be safe to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AskError {
    /// Too much is under way already; nothing was sent.
    #[error("too many questions under way")]
    Busy,
    /// No answer within the deadline; it may still be carried out.
    #[error("no answer within the deadline")]
    Late,
    /// The component has stopped.
    #[error("the component has stopped")]
    Gone,
    /// The message or its answer did not survive its bytes.
    #[error("the message does not survive its bytes")]
    Bytes,
    /// The component runs in another process, and none such can be reached; nothing was done.
    #[error("no process with this component can be reached")]
    Away,
    /// The servers in between do not let us ask; nothing was done.
    #[error("the servers do not permit the question")]
    Denied,
    /// What came back was not made by one of us for this very question.
    #[error("the answer is not from one of us")]
    Forged,
    /// The other process has another version, and does not know this form of a message.
    #[error("the other process speaks another version")]
    Version,
    /// The clocks of the two processes are too far apart to tell a question from an old one.
    #[error("the clocks of the two processes are too far apart")]
    Clocks,
}

/// The way to a component in another process: the bytes of a message go, the bytes of
/// `Result<M::Answer, AskError>` come.
#[async_trait]
pub trait Far: Send + Sync {
    /// Asks, for this long at most.
    ///
    /// # Errors
    /// [`AskError`].
    async fn ask(&self, message: Vec<u8>, within: Duration) -> Result<Vec<u8>, AskError>;
}

enum Way<M: Ask> {
    Here(Recipient<M>),
    There(Arc<dyn Far>),
}

impl<M: Ask> Clone for Way<M> {
    fn clone(&self) -> Self {
        match self {
            Self::Here(recipient) => Self::Here(recipient.clone()),
            Self::There(far) => Self::There(Arc::clone(far)),
        }
    }
}

/// The way to ask one kind of question of a component.
pub struct Port<M: Ask> {
    to: Way<M>,
    in_flight: Arc<Semaphore>,
    deadline: Duration,
}

impl<M: Ask> Clone for Port<M> {
    fn clone(&self) -> Self {
        Self { to: self.to.clone(), in_flight: Arc::clone(&self.in_flight), deadline: self.deadline }
    }
}

impl<M: Ask> Port<M> {
    /// A port to `address` with at most `bound` questions under way, each answered within `deadline`.
    pub fn new<A>(address: Addr<A>, bound: usize, deadline: Duration) -> Self
    where
        A: Actor + Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        Self { to: Way::Here(address.recipient()), in_flight: Arc::new(Semaphore::new(bound)), deadline }
    }

    /// The same to a component in another process.
    #[must_use]
    pub fn far(way: Arc<dyn Far>, bound: usize, deadline: Duration) -> Self {
        Self { to: Way::There(way), in_flight: Arc::new(Semaphore::new(bound)), deadline }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`AskError`]; after [`AskError::Late`] the outcome is unknown.
    pub async fn ask(&self, message: M) -> Result<M::Answer, AskError> {
        let _slot = self.in_flight.try_acquire().map_err(|_| AskError::Busy)?;
        match &self.to {
            Way::Here(recipient) => {
                let message = through_bytes(message)?;
                match tokio::time::timeout(self.deadline, recipient.send(message)).await {
                    Ok(Ok(answer)) => through_bytes(answer),
                    Ok(Err(_)) => Err(AskError::Gone),
                    Err(_) => Err(AskError::Late),
                }
            }
            Way::There(far) => {
                let message = serde_json::to_vec(&message).map_err(|_| AskError::Bytes)?;
                let asked = tokio::time::timeout(self.deadline, far.ask(message, self.deadline)).await;
                let answer = asked.map_err(|_| AskError::Late)??;
                serde_json::from_slice::<Result<M::Answer, AskError>>(&answer).map_err(|_| AskError::Bytes)?
            }
        }
    }
}

fn through_bytes<T: Serialize + DeserializeOwned>(value: T) -> Result<T, AskError> {
    if !cfg!(debug_assertions) {
        return Ok(value);
    }
    let bytes = serde_json::to_vec(&value).map_err(|_| AskError::Bytes)?;
    serde_json::from_slice(&bytes).map_err(|_| AskError::Bytes)
}
