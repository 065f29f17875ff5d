//! What a replica shows: every session that the log leaves open, published into the views.

use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use futures_util::future::join_all;
use portcullis_config::limits::{AWAY_PAUSE, FEW};
use portcullis_events::session::{self, Open, SignedIn};
use portcullis_events::{Envelope, Event, Fold, SessionId, SessionRecord, Time};

use super::Inner;
use crate::clock;
use crate::databroker::aside::aside;
use crate::databroker::data_keys::{DataKeyError, KnownKeys};
use crate::databroker::profile::Profile;
use crate::databroker::view::Views;

/// A look at every session, which several threads share.
#[derive(Clone)]
struct Look {
    fold: Fold,
    views: Arc<Views>,
    known: Arc<KnownKeys>,
    now: Time,
}

impl Look {
    /// Publishes the open sessions of some pieces; those whose person's key was not read are given back.
    fn publish(self, pieces: Range<usize>) -> Vec<(SessionId, SessionRecord)> {
        let idle = self.views.idle().map(|idle| idle.timeout);
        let mut unknown = Vec::new();
        for (id, record) in pieces.flat_map(|piece| self.fold.sessions_in(piece)) {
            match record.brief() {
                Some(brief) if brief.is_over(self.now, idle) => {}
                Some(brief) if self.known.has(brief.person) => self.views.open_sealed(id, record),
                Some(_) => unknown.push((id, record)),
                None => {}
            }
        }
        unknown
    }
}

impl Inner {
    /// Publishes every session that is open, its profile sealed as it is.
    pub(super) async fn project_all(&self) {
        let look = Look {
            fold: self.fold.borrow().clone(),
            views: Arc::clone(&self.views),
            known: self.data_keys.known(),
            now: clock::now(),
        };
        let sessions = look.fold.session_count();
        self.views.expect(sessions);
        let parts = if sessions <= FEW { 1 } else { available_parallelism().map_or(1, NonZero::get) };
        let pieces = Fold::PIECES.div_ceil(parts);
        let looks = (0..Fold::PIECES).step_by(pieces).map(|first| {
            let look = look.clone();
            aside(sessions, move || look.publish(first..(first + pieces).min(Fold::PIECES)))
        });
        let looks: Vec<_> = looks.collect();
        drop(look);
        // their keys were made while the others were read, or do not open
        for (id, record) in join_all(looks).await.into_iter().flatten().flatten() {
            if let session::State::Open(open) = record.state() {
                self.open(id, &open, record).await;
            }
        }
    }

    pub(super) async fn project(&self, envelope: &Envelope) {
        let Event::Session(event) = &envelope.event else { return };
        let id = SessionId::new(envelope.aggregate.id);
        let Some(record) = self.fold.borrow().session_record(id) else { return };
        if let session::Event::Seen(seen) = event
            && self.views.seen(id, seen.at, record.seq(), Some(record.clone()))
        {
            return;
        }
        match record.state() {
            // seen elsewhere after it was forgotten here, and too long ago
            session::State::Open(open) if open.is_over(clock::now(), self.idle_timeout()) => {}
            session::State::Open(open) => self.open(id, &open, record).await,
            session::State::Ended | session::State::Absent => {
                match event {
                    session::Event::Revoked(_) => self.views.revoke(id),
                    session::Event::SignedIn(_)
                    | session::Event::SignedOut(_)
                    | session::Event::Seen(_)
                    | session::Event::ClaimsReplaced(_) => self.views.end(id),
                }
                self.views.metrics.revocation_time.observe(clock::now().since(envelope.time));
            }
        }
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.views.idle().map(|idle| idle.timeout)
    }

    async fn open(&self, id: SessionId, open: &Open, record: SessionRecord) {
        let signed_in = &open.signed_in;
        let seq = record.seq();
        let mut profile = self.profile(id, signed_in).await;
        if profile.is_none() {
            // the key that is known here may have been deleted, and another made in its place
            self.data_keys.forget(signed_in.person);
            profile = self.profile(id, signed_in).await;
        }
        match profile {
            Some(profile) => self.views.open(profile.view(id, signed_in, seq), Some(record), open.last_seen),
            // nor does it go on as who it was before: a node that starts now would not know it at all
            None => {
                tracing::warn!(session = %id, seq, "the profile of a session does not open: it is shut");
                self.views.end(id);
            }
        }
    }

    async fn profile(&self, id: SessionId, signed_in: &SignedIn) -> Option<Profile> {
        let key = self.until_answered(|| self.data_keys.get(signed_in.person)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a sealed value cannot be opened");
            None
        });
        Profile::open(&*key?, id, &signed_in.profile)
    }

    /// Tries again while the vault is away; an error is one that trying again does not mend.
    pub(super) async fn until_answered<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, DataKeyError>
    where
        F: Future<Output = Result<T, DataKeyError>>,
    {
        loop {
            match attempt().await {
                Err(DataKeyError::Vault(error)) => {
                    tracing::warn!(%error, "waiting for the vault");
                    self.views.progress.away(error.to_string());
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }
}
