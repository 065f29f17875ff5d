//! Events written through the ports, as the journal of a gateway writes them: the moment of the ack is known here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use portcullis_events::{Aggregate, Envelope, Event, Hash, PersonId, SessionId, session};
use uuid::Uuid;

use super::ground::Ground;
use crate::writer::{self, Author, claims};

/// Sign-ins under way: about what three gateways carry.
const UNDER_WAY: usize = 64;
const AUTHOR: Author = Author { source: "/portcullis/bench", actor: "bench" };
const GROUPS: [&str; 2] = ["staff", "admins"];

/// Writes beside the gateways.
pub struct Writer(writer::Writer);

/// A revocation that was written.
pub struct Revoked {
    /// How long the append took.
    pub took: Duration,
    /// When its ack was here.
    pub acked: Instant,
}

impl Writer {
    /// One on the log of these gateways.
    ///
    /// # Errors
    /// The log is away, or empty.
    pub async fn beside(ground: &Ground) -> Result<Self> {
        let store = ground.store().await?;
        let first = store.log.last(Aggregate::LOG).await?.context("an empty log")?;
        let epoch = Envelope::decode(&first.body)?.epoch;
        Ok(Self(writer::Writer::new(store, &Ground::keyring()?, epoch, AUTHOR)?))
    }

    /// Where the log ends.
    ///
    /// # Errors
    /// It is away.
    pub async fn head(&self) -> Result<u64> {
        Ok(self.0.store.log.head().await?.last)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The log does not take it.
    pub async fn revoke(&self, session: SessionId) -> Result<Revoked> {
        let aggregate = Aggregate::session(session);
        let last = self.0.store.log.last(aggregate).await?.context("a session that the log does not know")?;
        let event = Event::Session(session::Event::Revoked(session::Revoked { reason: "measured".into() }));
        let record = self.0.record(aggregate, Some((last.seq, Hash::of(&last.body))), event)?;
        let began = Instant::now();
        self.0.store.log.append(record).await?;
        let acked = Instant::now();
        Ok(Revoked { took: acked - began, acked })
    }

    /// So many events at the least, as sign-ins of new people make them.
    ///
    /// # Errors
    /// Log or vault do not take them.
    pub async fn write(&self, events: u32) -> Result<()> {
        let sign_ins = (0..usize::try_from(events.div_ceil(3))?).map(|number| self.sign_in(number));
        stream::iter(sign_ins).buffer_unordered(UNDER_WAY).try_collect().await
    }

    async fn sign_in(&self, number: usize) -> Result<()> {
        let person = PersonId::new(Uuid::new_v4());
        self.0.join(person, &GROUPS).await?;
        self.0.sign_in(person, claims(number, &GROUPS)).await
    }
}
