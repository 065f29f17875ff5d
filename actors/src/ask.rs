//! How one component asks another: bounded work in flight, a deadline, and messages that could travel as bytes.
//!
//! A mailbox's capacity bounds nothing in actix (each clone of an address has a slot of its own), so a [`Port`]
//! carries its own bound. In builds with debug assertions every message and every answer goes through its JSON, so
//! that what works in one process works between two.

use std::sync::Arc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message, Recipient};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

/// A message between components: a serde type with a serde answer.
pub trait Ask: Message<Result = Self::Answer> + Serialize + DeserializeOwned + Send + 'static {
    /// What comes back.
    type Answer: Serialize + DeserializeOwned + Send + 'static;
}

/// Why there is no answer. After [`AskError::Late`] the outcome is unknown: a command must be safe to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
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
}

/// The way to ask one kind of question of a component.
pub struct Port<M: Ask> {
    to: Recipient<M>,
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
        Self { to: address.recipient(), in_flight: Arc::new(Semaphore::new(bound)), deadline }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`AskError`]; after [`AskError::Late`] the outcome is unknown.
    pub async fn ask(&self, message: M) -> Result<M::Answer, AskError> {
        let _slot = self.in_flight.try_acquire().map_err(|_| AskError::Busy)?;
        let message = through_bytes(message)?;
        match tokio::time::timeout(self.deadline, self.to.send(message)).await {
            Ok(Ok(answer)) => through_bytes(answer),
            Ok(Err(_)) => Err(AskError::Gone),
            Err(_) => Err(AskError::Late),
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
