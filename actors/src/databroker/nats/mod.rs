//! The connection to NATS, and questions to JetStream with an answer, a refusal by code, or silence.

mod append;
mod stream;

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::response::Response;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Request, RequestErrorKind, ServerAddr};
use bytes::Bytes;
use portcullis_config::limits::{RECONNECT_PAUSE, SERVER_PING, STORE_REQUEST};
use serde::de::DeserializeOwned;
use url::Url;
use uuid::Uuid;

pub use append::{Write, WriteError};
pub use stream::{Find, Stored, Stream, StreamError};

/// An address that is not one of a NATS server; its text may hold a password and stays out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of a nats server")]
pub struct BadAddress(pub String);

/// Why a question has no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answered; whether it was done is unknown.
    #[error("{0}")]
    Away(String),
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

/// A connection that is made again for ever.
#[derive(Debug, Clone)]
pub struct Nats {
    client: Client,
}

impl Nats {
    /// Connects. A server that is away does not keep the process from starting.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub async fn connect(servers: &[Url]) -> Result<Self, BadAddress> {
        let bad = |url: &Url| BadAddress(format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default()));
        let addresses: Result<Vec<ServerAddr>, _> =
            servers.iter().map(|url| ServerAddr::from_url(url.clone()).map_err(|_| bad(url))).collect();
        let client = ConnectOptions::new()
            .name("portcullis")
            // answers to us reach us alone where an account's users may subscribe to their own prefix only
            .custom_inbox_prefix(format!("_INBOX.portcullis.{}", Uuid::new_v4().simple()))
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_pause)
            .connection_timeout(STORE_REQUEST)
            .request_timeout(Some(STORE_REQUEST))
            .ping_interval(SERVER_PING)
            .event_callback(|event| async move { report(&event) })
            .connect(addresses?)
            .await
            .map_err(|_| BadAddress(servers.first().map(|url| bad(url).0).unwrap_or_default()))?;
        // a server that is there is reached before we go on; one that is not, later
        let _ = tokio::time::timeout(STORE_REQUEST, client.flush()).await;
        Ok(Self { client })
    }

    /// The client, for what has no answer.
    pub const fn client(&self) -> &Client {
        &self.client
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
        let away = |why: &str| CallError::Away(format!("nats: {why}"));
        // else the question would wait in the client and be asked, with many like it, after a reconnect
        if self.client.connection_state() != State::Connected {
            return Err(away("not connected"));
        }
        let mut request = Request::new().payload(payload).timeout(Some(within));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        // the request's own timeout does not begin before there is room in the client
        let answer = tokio::time::timeout(within, self.client.send_request(subject.to_owned(), request)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
                return Err(CallError::Refused { status: 400, code: 0, description: error.kind().to_string() });
            }
            Ok(Err(error)) => return Err(away(&error.kind().to_string())),
            Err(_) => return Err(away("no answer in time")),
        };
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(CallError::Refused {
                status: error.code(),
                code: error.error_code().0,
                description: error.to_string(),
            }),
            Err(_) => Err(away("an answer that cannot be read")),
        }
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
