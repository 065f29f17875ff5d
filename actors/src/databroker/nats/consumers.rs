//! Consumers that bring what a stream keeps: begun here, begun by databroker for a process that may begin none, or none.
//! Each is ephemeral, is pulled from, and is thrown away at the first doubt; one that is not used goes by itself.

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use portcullis_config::limits::TAIL_INACTIVE;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Stream;
use crate::ask::Port;
use crate::databroker::lender::Lend;

/// What a consumer brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// Every message after a sequence.
    After(u64),
    /// The last message on each subject.
    Newest,
    /// Every message, without what is in it.
    Keys,
}

/// Where a stream's consumers come from.
#[derive(Clone)]
pub enum Consumers {
    /// From us.
    Own,
    /// From databroker: our user may begin none.
    Lent(Port<Lend>),
    /// There are none: everything is asked of the leader.
    None,
}

impl std::fmt::Debug for Consumers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Lent(_) => "lent",
            Self::None => "none",
        })
    }
}

impl Stream {
    /// A consumer that brings this, from wherever our consumers come.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub async fn read(&self, reading: Reading) -> Result<PullConsumer, String> {
        match self.consumers() {
            Consumers::Own => {
                let begun = self.context().create_consumer_on_stream(self.wanted_for(reading), self.name()).await;
                begun.map_err(|error| error.to_string())
            }
            Consumers::Lent(databroker) => {
                let lent = databroker.ask(Lend { stream: self.name().to_owned(), reading }).await;
                let name = lent.map_err(|error| format!("databroker: {error}"))?.map_err(|error| error.to_string())?;
                let found = self.context().get_consumer_from_stream(name, self.name()).await;
                found.map_err(|error| error.to_string())
            }
            Consumers::None => Err("there are no consumers here".into()),
        }
    }

    fn wanted_for(&self, reading: Reading) -> pull::Config {
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: TAIL_INACTIVE,
            ..pull::Config::default()
        };
        let name = |what: &str| Some(format!("{what}-{}", Uuid::new_v4().simple()));
        match reading {
            Reading::After(seq) => {
                let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: seq.saturating_add(1) };
                pull::Config { name: name("tail"), deliver_policy, ..config }
            }
            Reading::Newest => pull::Config {
                name: name("scan"),
                deliver_policy: DeliverPolicy::LastPerSubject,
                filter_subject: self.subjects().to_owned(),
                ..config
            },
            Reading::Keys => pull::Config {
                name: name("scan"),
                deliver_policy: DeliverPolicy::All,
                headers_only: true,
                filter_subject: self.subjects().to_owned(),
                ..config
            },
        }
    }
}
