//! How a replica begins: with a snapshot that fits the log, or with the log's first event.

use std::rc::Rc;

use portcullis_config::limits::AWAY_PAUSE;
use portcullis_events::{Aggregate, Context as Cause, Envelope, Epoch, Event, EventId, Fold, log};
use uuid::Uuid;

use super::{Inner, Keys};
use crate::clock;
use crate::databroker::log::{AppendError, Expected, NewRecord};

impl Inner {
    /// Reads the data keys while the log is read.
    pub(super) fn load_keys(self: &Rc<Self>) -> Keys {
        let this = Rc::clone(self);
        actix_rt::spawn(async move { this.until_answered(|| this.data_keys.load_all()).await })
    }

    /// Where the tail begins: behind what a snapshot says, if there is one, else at the beginning.
    pub(super) async fn begin(&self) -> Result<u64, String> {
        let newest = match &self.snapshots {
            Some(snapshots) => snapshots.newest().await,
            None => None,
        };
        let Some(fold) = newest else {
            self.create_log().await;
            return Ok(0);
        };
        let applied = fold.applied();
        self.compare(&fold).await?;
        if let Some(epoch) = fold.epoch() {
            self.views.progress.set_epoch(epoch);
        }
        self.views.progress.set_applied(applied);
        *self.fold.borrow_mut() = fold;
        tracing::info!(applied, "begins with a snapshot");
        // the record that the snapshot ends with is read once more, to be compared
        Ok(applied.saturating_sub(1))
    }

    /// Whether the log is the one that a snapshot was taken of, and goes as far. Where it is not, revocations may have
    /// been lost: nobody is served, nothing is changed, and somebody has to look.
    async fn compare(&self, fold: &Fold) -> Result<(), String> {
        loop {
            match self.standing_of_log().await {
                Ok((last, _)) if last < fold.applied() => {
                    let seq = fold.applied();
                    return Err(format!("the log ends at {last}, behind a snapshot of it at {seq}: it went backwards"));
                }
                Ok((_, Some(epoch))) if Some(epoch) != fold.epoch() => {
                    return Err(format!("the log has the epoch {epoch}, and the snapshot is of another log"));
                }
                Ok(_) => return Ok(()),
                Err(why) => {
                    tracing::warn!(%why, "waiting for the log");
                    self.views.progress.away(why);
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
            }
        }
    }

    /// The last sequence and the epoch, according to the log's authority.
    async fn standing_of_log(&self) -> Result<(u64, Option<Epoch>), String> {
        let head = self.log.head().await.map_err(|error| error.to_string())?;
        let first = self.log.last(Aggregate::LOG).await.map_err(|error| error.to_string())?;
        let epoch = first.and_then(|record| Envelope::decode(&record.body).ok()).map(|envelope| envelope.epoch);
        Ok((head.last, epoch))
    }

    /// An empty log gets its first event; of several nodes one wins, and all read the winner's.
    async fn create_log(&self) {
        loop {
            let outcome = match self.log.head().await {
                Ok(head) if head.last > 0 => return,
                Ok(_) if !self.may_begin => Err("the log is empty: databroker has not begun it yet".into()),
                Ok(_) => self.append_creation().await,
                Err(error) => Err(error.to_string()),
            };
            match outcome {
                Ok(()) => return,
                Err(why) => {
                    tracing::warn!(%why, "waiting for the log");
                    self.views.progress.away(why);
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
            }
        }
    }

    async fn append_creation(&self) -> Result<(), String> {
        let epoch = Epoch::new(Uuid::new_v4());
        let envelope = Envelope {
            id: EventId::new(Uuid::now_v7()),
            source: self.source.clone(),
            aggregate: Aggregate::LOG,
            time: clock::now(),
            context: Cause { actor: "databroker".into(), cause: None, traceparent: None },
            epoch,
            prev: None,
            event: Event::Log(log::Event::Created(log::Created { epoch })),
        };
        let body = envelope.encode().map_err(|error| error.to_string())?;
        let record = NewRecord { aggregate: Aggregate::LOG, expected: Expected::NoStream, id: envelope.id, body };
        match self.log.append(record).await {
            Ok(_) | Err(AppendError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}
