//! Writing to a subject if it stands where it is expected to: tried again with the same id until it is known what came
//! of it.

use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use async_nats::{HeaderMap, header};
use bytes::Bytes;
use portcullis_config::limits::{APPEND_ATTEMPT, APPEND_DEADLINE, APPEND_PAUSE};
use tokio::time::Instant;

use super::{CallError, Find, Stream, StreamError, jittered};

/// JetStream: wrong last sequence.
const WRONG_LAST: u64 = 10071;
/// JetStream: this message id is being stored just now (another attempt of ours), or another write to this subject is.
const IN_PROCESS: [u64; 2] = [10158, 10164];
/// JetStream: no room (resources, storage, memory, account, stream limits).
const FULL: [u64; 5] = [10023, 10047, 10028, 10002, 10077];
const SERVICE_UNAVAILABLE: usize = 503;
/// The name of no stream.
const NO_STREAM: &str = "PORTCULLIS_NONE";

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write<'a> {
    /// The exact subject.
    pub subject: &'a str,
    /// The last sequence on that subject; 0: it has none.
    pub expected: u64,
    /// The same for every attempt of the same write, and for no other write.
    pub id: &'a str,
}

/// Why it was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// The subject stands elsewhere (0: it has no message).
    Conflict {
        /// Its last sequence.
        actual: u64,
    },
    /// The deadline passed; it may have been stored.
    Away(String),
    /// JetStream refuses the message itself.
    Refused(String),
}

impl From<StreamError> for WriteError {
    fn from(error: StreamError) -> Self {
        Self::Away(error.to_string())
    }
}

/// What one attempt came to.
enum Attempt {
    Stored(u64),
    /// Not stored yet, as far as is known: the same once more.
    Again(String),
}

impl Stream {
    /// Writes, and answers with the sequence.
    ///
    /// # Errors
    /// [`WriteError`], at the latest when [`APPEND_DEADLINE`] has passed.
    pub async fn write(&self, write: Write<'_>, payload: Bytes) -> Result<u64, WriteError> {
        let deadline = Instant::now() + APPEND_DEADLINE;
        let mut pause = APPEND_PAUSE.0;
        loop {
            let why = match self.attempt(write, payload.clone()).await {
                Ok(Attempt::Stored(seq)) => return Ok(seq),
                Ok(Attempt::Again(why)) | Err(WriteError::Away(why)) => why,
                Err(error) => return Err(error),
            };
            let next = jittered(pause);
            if Instant::now() + next + APPEND_ATTEMPT > deadline {
                return Err(WriteError::Away(why));
            }
            tokio::time::sleep(next).await;
            pause = longer(pause);
        }
    }

    /// Whether we may write to a subject: tried with a message that the stream cannot take.
    ///
    /// # Errors
    /// [`StreamError::Away`] where we may not, or nobody answers.
    pub async fn may_write(&self, subject: &str) -> Result<(), StreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_STREAM, NO_STREAM);
        match self.nats().call::<PublishAck>(subject, Some(headers), Bytes::new(), APPEND_ATTEMPT).await {
            Ok(_) | Err(CallError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn attempt(&self, write: Write<'_>, payload: Bytes) -> Result<Attempt, WriteError> {
        self.ensure().await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, write.id);
        headers.insert(header::NATS_EXPECTED_STREAM, self.name());
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, write.expected.to_string());
        match self.nats().call::<PublishAck>(write.subject, Some(headers), payload, APPEND_ATTEMPT).await {
            Ok(ack) => Ok(Attempt::Stored(ack.sequence)),
            Err(CallError::Away(why)) => Ok(Attempt::Again(why)),
            Err(CallError::Denied(why)) => Err(WriteError::Refused(why)),
            Err(CallError::Refused { code: WRONG_LAST, .. }) => self.arbitrate(write).await,
            Err(error @ CallError::Refused { status, code, .. }) => {
                let passes = IN_PROCESS.contains(&code) || (status == SERVICE_UNAVAILABLE && !FULL.contains(&code));
                if passes { Ok(Attempt::Again(error.to_string())) } else { Err(WriteError::Refused(error.to_string())) }
            }
        }
    }

    /// The subject stands elsewhere: because an earlier attempt of this write was stored, or because somebody else was
    /// first. What follows the expected sequence on the subject tells, however much came after it.
    async fn arbitrate(&self, write: Write<'_>) -> Result<Attempt, WriteError> {
        let next = self.find(Find::Next(write.expected + 1, write.subject)).await?;
        if let Some(next) = next.filter(|next| next.id.as_deref() == Some(write.id)) {
            return Ok(Attempt::Stored(next.seq));
        }
        let actual = self.find(Find::Last(write.subject)).await?.map_or(0, |last| last.seq);
        if actual == write.expected {
            return Ok(Attempt::Again("the subject was not yet where it is expected to be".into()));
        }
        Err(WriteError::Conflict { actual })
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(APPEND_PAUSE.1)
}
