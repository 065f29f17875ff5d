//! What was left waiting for the vault: by an earlier life of this node, or by one that gave up.

use portcullis_events::SessionId;

use super::schedule::{Due, What};
use super::spool::Waiting;
use super::{Inner, count};
use crate::databroker::data_keys::DataKeyError;
use crate::databroker::tokens::Kept;
use crate::databroker::vault::{Revision, Shelf, VaultError};

/// Why an answer goes on waiting.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error(transparent)]
    DataKey(#[from] DataKeyError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl NotYet {
    /// Whether the next answer would fare no better.
    const fn is_for_all(&self) -> bool {
        matches!(
            self,
            Self::Vault(VaultError::Unavailable(_)) | Self::DataKey(DataKeyError::Vault(VaultError::Unavailable(_)))
        )
    }
}

impl Inner {
    /// Puts every answer that waits where it belongs, if the vault takes it now.
    pub(super) async fn deliver_waiting(&self) {
        let Some(spool) = &self.tools.spool else { return };
        let all = spool.all().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "answers that wait for the vault cannot be read");
            Vec::new()
        });
        for waiting in all {
            // one that is at work has its answer in hand
            if self.is_resting.get() || !self.at_work.borrow_mut().insert(waiting.session) {
                continue;
            }
            count(&self.tools.tally.under_way);
            let delivered = self.deliver(&waiting).await;
            self.leave_off(waiting.session);
            match delivered {
                Ok(()) => spool.forget(&waiting).await,
                Err(error) => {
                    tracing::warn!(session = %waiting.session, %error, "renewed tokens go on waiting for the vault");
                    if error.is_for_all() {
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn leave_off(&self, session: SessionId) {
        self.at_work.borrow_mut().remove(&session);
        self.tools.tally.under_way.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        self.ended.notify_waiters();
    }

    /// Delivers one answer; done where nobody needs it any more as well.
    async fn deliver(&self, waiting: &Waiting) -> Result<(), NotYet> {
        let (id, vault) = (waiting.session, &self.tools.vault);
        let Some(key) = self.tools.data_keys.get(waiting.person).await? else { return Ok(()) };
        let Some(next) = Kept::open(&key, id, &waiting.sealed).filter(|next| next.generation == waiting.generation)
        else {
            tracing::warn!(session = %id, "an answer that was written in part is of no use");
            return Ok(());
        };
        // a session that has ended has no tokens in the vault
        let Some(found) = vault.get(Shelf::Secret, &id.to_string()).await? else { return Ok(()) };
        let lies_there = Kept::open(&key, id, &found.value).map_or(0, |kept| kept.generation);
        if lies_there < next.generation {
            self.put_waiting(waiting, found.revision).await?;
        }
        if lies_there <= next.generation && self.complete(id, &next).await {
            count(&self.tools.tally.recovered);
            tracing::info!(session = %id, generation = next.generation, "renewed tokens had waited for the vault");
            self.observe(&Due { session: id, person: waiting.person, what: What::Claims }).await;
        }
        Ok(())
    }

    async fn put_waiting(&self, waiting: &Waiting, revision: Revision) -> Result<(), VaultError> {
        let (vault, key) = (&self.tools.vault, waiting.session.to_string());
        vault.put(Shelf::Secret, &key, revision, waiting.sealed.clone()).await.map(drop)
    }
}
