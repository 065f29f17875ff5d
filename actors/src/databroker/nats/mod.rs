//! The connection to NATS, and questions to JetStream with an answer, a refusal by code, or silence.

mod append;
mod consumers;
mod objections;
mod options;
#[cfg(test)]
pub mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::response::Response;
use async_nats::{Client, Event, HeaderMap, Request, RequestErrorKind, Subscriber};
use bytes::Bytes;
use portcullis_config::NatsStorage;
use portcullis_config::limits::{RECONNECT_PAUSE, SERVER_PATIENCE, SERVER_PING, STORE_REQUEST};
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use append::{Write, WriteError};
pub use consumers::{Consumers, Reading};
pub use objections::Objections;
pub use options::BadOption;
pub use stream::{Find, Stored, Stream, StreamError, quorum};

/// Why a question has no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answered; whether it was done is unknown.
    #[error("{0}")]
    Away(String),
    /// The server does not let us ask; nothing was done.
    #[error("{0}")]
    Denied(String),
    /// JetStream says no, by one of its codes.
    #[error("{description} ({code})")]
    Refused {
        /// The class, as in HTTP.
        status: usize,
        /// JetStream's own code.
        code: u64,
        /// Its words.
        description: String,
    },
}

/// Why a question has no answer at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens to the subject; nothing was done.
    #[error("{0}")]
    Nobody(String),
    /// Nobody answered; whether it was done is unknown.
    #[error("{0}")]
    Away(String),
    /// The server does not let us ask or listen; nothing was done.
    #[error("{0}")]
    Denied(String),
    /// The server takes nothing so large; nothing was done.
    #[error("nats: the message is too large for the server")]
    TooLarge,
}

impl From<NoAnswer> for CallError {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Nobody(why) | NoAnswer::Away(why) => Self::Away(why),
            NoAnswer::Denied(why) => Self::Denied(why),
            NoAnswer::TooLarge => Self::Refused { status: 400, code: 0, description: error.to_string() },
        }
    }
}

/// Where JetStream answers in an account that keeps streams.
const API: &str = "$JS.API";

/// What a process with every component is called in the subject of its answers.
const EVERYTHING: &str = "all";

/// How long after its arrival a server's denial may take from the connection to whoever waits for it.
const DENIAL_TOLD: Duration = Duration::from_millis(50);

/// A connection that is made again for ever.
#[derive(Debug, Clone)]
pub struct Nats {
    client: Client,
    objections: Objections,
    has_choice: bool,
    /// Where JetStream answers.
    api: Arc<str>,
}

impl Nats {
    /// Connects. Servers that are away, or that want nothing to do with us, do not keep the process from starting.
    ///
    /// # Errors
    /// [`BadOption`].
    pub async fn connect(storage: &NatsStorage) -> Result<Self, BadOption> {
        Self::connect_as(storage, EVERYTHING).await
    }

    /// As [`Self::connect`], for a process that runs these components alone: answers reach it below
    /// `_INBOX.portcullis.<components>.`, so that no other component may read them.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_as(storage: &NatsStorage, components: &str) -> Result<Self, BadOption> {
        let objections = Objections::default();
        let noted = objections.clone();
        let client = options::options(storage)?
            .name("portcullis")
            // answers to us reach us alone where an account's users may subscribe to their own prefix only
            .custom_inbox_prefix(format!("_INBOX.portcullis.{components}.{}", Uuid::new_v4().simple()))
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_pause)
            .connection_timeout(STORE_REQUEST)
            .request_timeout(Some(STORE_REQUEST))
            .ping_interval(SERVER_PING)
            .event_callback(move |event| {
                noted.note(&event);
                async move { report(&event) }
            })
            .connect(options::addresses(&storage.servers)?)
            .await
            .map_err(|error| BadOption::Address(error.kind().to_string()))?;
        // a server that is there is reached before we go on; one that is not, later
        let _ = tokio::time::timeout(STORE_REQUEST, client.flush()).await;
        let api = storage.api_prefix.as_deref().unwrap_or(API).into();
        Ok(Self { client, objections, has_choice: storage.servers.len() > 1, api })
    }

    /// Leaves a server that is connected and of no use, if there are others. Which one is next is a matter of luck, so
    /// that it may be the same again: then it is left again.
    pub async fn go_elsewhere(&self) {
        if !self.has_choice || !self.is_connected() {
            return;
        }
        let left = self.client.server_info().server_id;
        for _ in 0..SERVER_PATIENCE {
            tracing::warn!("the nats server is of no use: another one is tried");
            // a client that has no room for this either finds out by itself that its server is silent
            match tokio::time::timeout(STORE_REQUEST, self.reconnect()).await {
                Ok(Some(server)) if server == left => {}
                Ok(Some(_) | None) | Err(_) => return,
            }
        }
    }

    /// The id of the server that a new connection leads to.
    async fn reconnect(&self) -> Option<String> {
        let known = self.client.server_info();
        self.client.force_reconnect().await.ok()?;
        loop {
            let now = self.client.server_info();
            // a server numbers its connections
            if (&now.server_id, now.client_id) != (&known.server_id, known.client_id) {
                return Some(now.server_id);
            }
            tokio::time::sleep(RECONNECT_PAUSE.0).await;
        }
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The client, for what has no answer.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Where JetStream answers, in an account that keeps streams or in one that imports this.
    pub fn api(&self) -> &str {
        &self.api
    }

    /// A context of the client's library whose questions may take so long.
    pub fn jetstream(&self, within: Duration) -> Context {
        ContextBuilder::new().api_prefix(self.api()).timeout(within).build(self.client.clone())
    }

    /// What its servers object to.
    pub const fn objections(&self) -> &Objections {
        &self.objections
    }

    /// Asks, and waits for the answer for so long.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
        within: Duration,
    ) -> Result<T, CallError> {
        let answer = self.ask(subject, headers, payload, within).await?;
        match serde_json::from_slice(&answer) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(CallError::Refused {
                status: error.code(),
                code: error.error_code().0,
                description: error.to_string(),
            }),
            Err(_) => Err(CallError::Away("nats: an answer that cannot be read".into())),
        }
    }

    /// Asks, and waits for the answer for so long, whatever it says.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn ask(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, NoAnswer> {
        let away = |why: &str| NoAnswer::Away(format!("nats: {why}"));
        // else the question would wait in the client and be asked, with many like it, after a reconnect
        self.connected()?;
        let mut request = Request::new().payload(payload).timeout(Some(within));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let denied = self.objections.to(subject);
        // the request's own timeout does not begin before there is room in the client
        let asked = tokio::time::timeout(within, self.client.send_request(subject.to_owned(), request));
        let answer = tokio::select! {
            answer = asked => answer,
            denial = denied => return Err(NoAnswer::Denied(format!("nats: {denial}"))),
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) if error.kind() == RequestErrorKind::MaxPayloadExceeded => Err(NoAnswer::TooLarge),
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                Err(NoAnswer::Nobody(format!("nats: {}", self.with_denial(&error.kind().to_string()))))
            }
            Ok(Err(error)) => Err(away(&self.with_denial(&error.kind().to_string()))),
            Err(_) => Err(away(&self.with_denial("no answer in time"))),
        }
    }

    /// Subscribes, in a group whose members take turns or for oneself, and makes sure that the server lets us.
    ///
    /// # Errors
    /// What the server says, or that it is away.
    pub async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscriber, NoAnswer> {
        let away = |why: &str| NoAnswer::Away(format!("nats: {why}"));
        self.connected()?;
        let denied = self.objections.to(subject);
        let subscribed = match group {
            Some(group) => self.client.queue_subscribe(subject.to_owned(), group.to_owned()).await,
            None => self.client.subscribe(subject.to_owned()).await,
        };
        let subscriber = subscribed.map_err(|error| away(&error.to_string()))?;
        self.undenied(denied).await.map(|()| subscriber)
    }

    fn connected(&self) -> Result<(), NoAnswer> {
        if self.client.connection_state() == State::Connected {
            return Ok(());
        }
        let why = self.objections.unconnected().map_or_else(String::new, |why| format!(": {why}"));
        Err(NoAnswer::Away(format!("nats: not connected{why}")))
    }

    /// Waits until the server has seen what was sent, and whether it denies it.
    async fn undenied(&self, denied: impl Future<Output = String>) -> Result<(), NoAnswer> {
        let settled = async {
            self.client.flush().await.map_err(|error| NoAnswer::Away(format!("nats: {error}")))?;
            // the server's word comes before its answer to the flush, and is told by another way
            tokio::time::sleep(DENIAL_TOLD).await;
            Ok(())
        };
        tokio::select! {
            biased;
            denial = denied => Err(NoAnswer::Denied(format!("nats: {denial}"))),
            settled = settled => settled,
        }
    }

    /// Whether we may publish to a subject: tried with an empty message, which nobody takes for anything.
    ///
    /// # Errors
    /// [`NoAnswer::Denied`] where we may not; [`NoAnswer::Away`] where nobody can tell.
    pub async fn may_publish(&self, subject: &str) -> Result<(), NoAnswer> {
        self.connected()?;
        let denied = self.objections.to(subject);
        let published = self.client.publish(subject.to_owned(), Bytes::new()).await;
        published.map_err(|error| NoAnswer::Away(format!("nats: {error}")))?;
        self.undenied(denied).await
    }
}

impl Nats {
    /// A subscription that is denied leaves every question without an answer: that may be why.
    fn with_denial(&self, why: &str) -> String {
        self.objections.lately().map_or_else(|| why.to_owned(), |denial| format!("{why}: {denial}"))
    }
}

fn reconnect_pause(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts).unwrap_or(u32::MAX).min(16);
    jittered((RECONNECT_PAUSE.0 * 2_u32.saturating_pow(doublings)).min(RECONNECT_PAUSE.1))
}

/// Between 0.8 and 1.0 of it, so that nodes do not act in step.
pub fn jittered(duration: Duration) -> Duration {
    let [random, ..] = *Uuid::new_v4().as_bytes();
    duration.mul_f64(1.0 - 0.2 * f64::from(random) / 255.0)
}

fn report(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to nats"),
        Event::Disconnected => tracing::warn!("the connection to nats is lost"),
        // a denied permission shows here and nowhere else: the question itself goes unanswered
        Event::ServerError(error) => tracing::warn!(%error, "nats objects"),
        Event::ClientError(error) => tracing::warn!(%error, "nats cannot be reached"),
        Event::SlowConsumer(subscription) => tracing::warn!(subscription, "messages from nats were dropped"),
        Event::LameDuckMode | Event::Draining | Event::Closed => tracing::info!(%event, "nats"),
    }
}
