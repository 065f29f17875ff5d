//! The log as it stands on the servers, read beside all gateways and folded: what really happened.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use portcullis_events::{Event, Fold, Hash, SessionId, session, token};
use portcullis_harness::nats_cluster::NatsCluster;
use portcullis_harness::process::eventually;

/// The name of the stream that is the log.
pub const STREAM: &str = "PORTCULLIS_EVT";
/// How long the log may take to be readable once nothing is broken any more.
const READABLE: Duration = Duration::from_secs(60);

/// Everything that was read.
#[derive(Default)]
pub struct Chronicle {
    /// The sum of it.
    pub fold: Fold,
    /// The hash of each record, in order.
    records: Vec<Hash>,
    /// Sessions of which a generation of tokens was left in doubt.
    pub doubted: BTreeSet<SessionId>,
    /// Generations that were left in doubt.
    pub doubts: usize,
}

impl Chronicle {
    /// Reads what has been added: the next sequence each time, in the chain of its aggregate.
    ///
    /// # Errors
    /// There is a hole, a broken chain, or what cannot be read.
    pub async fn read_on(&mut self, nats: &NatsCluster) -> Result<()> {
        let open = async || {
            let log = jetstream::new(nats.client().await?);
            let stream = log.get_stream(STREAM).await?;
            let state = stream.get_info().await?.state;
            Ok(Some((stream, state)))
        };
        let (stream, state) = eventually("the log can be read", READABLE, open).await?;
        ensure!(state.first_sequence == 1, "the log begins at {}", state.first_sequence);
        ensure!(state.messages == state.last_sequence, "the log has a hole: {state:?}");
        ensure!(state.last_sequence >= self.fold.applied(), "the log went back to {}", state.last_sequence);
        for seq in self.fold.applied() + 1..=state.last_sequence {
            let look = async || Ok(Some(stream.get_raw_message(seq).await?));
            let record = eventually("a record can be read", READABLE, look).await?;
            let read = self.fold.apply(seq, &record.subject, &record.payload);
            let envelope = read.with_context(|| format!("sequence {seq}"))?;
            self.records.push(Hash::of(&record.payload));
            if let Event::Token(token::Event::LeftInDoubt(_)) = &envelope.event {
                self.doubts += 1;
                self.doubted.insert(SessionId::new(envelope.aggregate.id));
            }
        }
        Ok(())
    }

    /// Whether the log as it is now begins with everything that was ever read of it.
    ///
    /// # Errors
    /// It does not.
    pub async fn still_stands(&self, nats: &NatsCluster) -> Result<()> {
        let mut again = Self::default();
        again.read_on(nats).await?;
        ensure!(again.records.starts_with(&self.records), "what stood on the log is not there any more");
        Ok(())
    }

    /// Intents to refresh the tokens of an open session of which nobody has said yet what came of them.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        let is_started = |state: &token::State| {
            matches!(state, token::State::Held(token::Held { renewal: token::Renewal::Started(_), .. }))
        };
        let states = self.fold.sessions().map(|(_, record)| record.states());
        states.filter(|(session, tokens)| is_started(tokens) && matches!(session, session::State::Open(_))).count()
    }

    /// The sessions that are open.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.fold.sessions().filter(|(_, record)| matches!(record.state(), session::State::Open(_))).count()
    }
}
