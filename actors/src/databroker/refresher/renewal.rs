//! One refresh: the intent on the log, the provider asked once, the answer sealed into the vault, the outcome on the log.

use portcullis_config::limits::{
    AWAY_PAUSE, REFRESH_DEADLINE, REFRESH_KEPT, REFRESH_PATIENCE, REFRESH_TIMEOUT, RETRY_AFTER_MOST,
};
use portcullis_events::{Aggregate, EventId, SessionId, Time, token};
use token::{FailureClass, LeftInDoubt, RefreshFailed, RefreshStarted};
use uuid::Uuid;

use super::schedule::{Due, retry_at};
use super::spool::Waiting;
use super::{InVault, Inner, NotNow, count};
use crate::databroker::data_keys::DataKey;
use crate::databroker::journal::JournalError;
use crate::databroker::replica::{Read, State};
use crate::databroker::tokens::Kept;
use crate::databroker::vault::{Revision, Shelf, VaultError};
use crate::idp::{RefreshError, Renewal};

/// What became of an answer that was to be sealed into the vault.
enum Stored {
    /// It lies there.
    Yes,
    /// The session's tokens were deleted: it has ended.
    Ended,
    /// It does not lie there, and will not.
    No,
}

impl Inner {
    pub(super) async fn refresh(&self, due: &Due, generation: u32, failures: u32) {
        let Ok(found) = self.kept(due).await else { return };
        let found = found.filter(|found| found.kept.generation == generation);
        let Some((found, presented)) = found.and_then(|found| found.kept.tokens.refresh.clone().map(|it| (found, it)))
        else {
            tracing::warn!(session = %due.session, generation, "the log and the vault differ");
            return self.set_aside(due.session);
        };
        let at = self.now();
        let attempt = EventId::new(Uuid::now_v7());
        let intent = RefreshStarted { generation, attempt, deadline: at.plus(REFRESH_DEADLINE) };
        if !self.claims(due.session, intent, at).await {
            return;
        }
        count(&self.tools.tally.started);
        let asked = self.now();
        // a claim that took so long to win may be settled by another before the answer is there
        if asked.plus(REFRESH_TIMEOUT) > intent.deadline {
            return self
                .failed(due.session, intent, failures, FailureClass::NotSent, Time::from_millis(i64::MIN))
                .await;
        }
        match self.tools.provider.refresh(&presented, asked).await {
            Ok(renewal) => self.answered(due, intent, &found, renewal, asked).await,
            Err(error) => self.unanswered(due, intent, failures, &error).await,
        }
    }

    /// Claims the right to present a generation. Only a definite yes is one.
    async fn claims(&self, id: SessionId, intent: RefreshStarted, at: Time) -> bool {
        match self.append_token(id, token::Command::Start { intent, at }).await {
            Ok(()) => true,
            // somebody else has it: their outcome comes by the log
            Err(JournalError::Token(_)) => false,
            Err(error) => {
                tracing::warn!(session = %id, %error, "a refresh was not begun");
                // the claim may stand on the log: if it does, it was not used
                self.remember_unspent(id, intent.attempt);
                false
            }
        }
    }

    /// The answer is sealed into the vault before anything else is done with it.
    async fn answered(&self, due: &Due, intent: RefreshStarted, found: &InVault, renewal: Renewal, asked: Time) {
        let next = found.kept.renewed(renewal, asked);
        match self.store(due, &found.key, &next, found.revision).await {
            Stored::Yes => {
                if self.complete(due.session, &next).await {
                    count(&self.tools.tally.refreshed);
                    self.tools.views.metrics.refreshes.refreshed.increment();
                    self.observe(due).await;
                }
            }
            Stored::Ended => tracing::info!(session = %due.session, "a session ended while its tokens were renewed"),
            Stored::No => self.doubt(due.session, intent).await,
        }
    }

    /// On this disk first, where the vault is elsewhere: it may be away, and we may die over it.
    async fn store(&self, due: &Due, key: &DataKey, next: &Kept, revision: Revision) -> Stored {
        let Ok(sealed) = next.seal(key, due.session) else { return Stored::No };
        let Some(spool) = &self.tools.spool else { return self.put(due, key, next, sealed, revision).await };
        let (session, person, generation) = (due.session, due.person, next.generation);
        let waiting = Waiting { session, person, generation, sealed: sealed.clone() };
        if let Err(error) = spool.keep(waiting.clone()).await {
            tracing::error!(%session, %error, "renewed tokens are in memory alone until the vault has them");
        }
        let stored = self.put(due, key, next, sealed, revision).await;
        match stored {
            Stored::Yes | Stored::Ended => spool.forget(&waiting).await,
            // tried again at every look, and after a restart
            Stored::No => {}
        }
        stored
    }

    async fn put(&self, due: &Due, key: &DataKey, next: &Kept, sealed: Vec<u8>, mut revision: Revision) -> Stored {
        let until = self.now().plus(REFRESH_KEPT);
        while self.now() < until {
            let put = self.tools.vault.put(Shelf::Secret, &due.session.to_string(), revision, sealed.clone()).await;
            match put {
                Ok(_) => return Stored::Yes,
                Err(VaultError::Refused(why)) => {
                    tracing::error!(session = %due.session, %why, "the vault does not take renewed tokens");
                    return Stored::No;
                }
                Err(VaultError::Unavailable(why)) => {
                    tracing::warn!(session = %due.session, %why, "renewed tokens wait for the vault");
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
                Err(VaultError::Conflict) => {}
            }
            // what lies there now: this answer, stored though nobody said so, or what was there before
            match self.tools.vault.get(Shelf::Secret, &due.session.to_string()).await {
                Ok(None) => return Stored::Ended,
                Ok(Some(found)) => match Kept::open(key, due.session, &found.value) {
                    Some(kept) if kept.generation >= next.generation => return Stored::Yes,
                    Some(_) | None => revision = found.revision,
                },
                Err(error) => tracing::warn!(session = %due.session, %error, "renewed tokens wait for the vault"),
            }
        }
        Stored::No
    }

    /// Tells the log what lies in the vault. Where it does not answer, whoever settles the attempt will find it.
    pub(super) async fn complete(&self, id: SessionId, kept: &Kept) -> bool {
        match self.append_token(id, token::Command::Complete(kept.refreshed(self.now()))).await {
            Ok(()) => true,
            // of a session that has ended the log knows no tokens
            Err(JournalError::Token(token::Refusal::NotRefreshable)) => false,
            Err(error) => {
                tracing::warn!(session = %id, %error, "renewed tokens are not on the log yet");
                false
            }
        }
    }

    async fn unanswered(&self, due: &Due, intent: RefreshStarted, failures: u32, error: &RefreshError) {
        tracing::warn!(session = %due.session, generation = intent.generation, %error, "a refresh failed");
        let class = match error {
            RefreshError::NotSent(_) => FailureClass::NotSent,
            RefreshError::Unavailable(..) => FailureClass::Unavailable,
            RefreshError::Rejected(_) => FailureClass::Rejected,
            RefreshError::InvalidGrant => FailureClass::InvalidGrant,
            RefreshError::Lost(_) => return self.doubt(due.session, intent).await,
        };
        let retry_at = match error {
            RefreshError::Unavailable(_, Some(after)) => self.now().plus((*after).min(RETRY_AFTER_MOST)),
            _ => Time::from_millis(i64::MIN),
        };
        self.failed(due.session, intent, failures, class, retry_at).await;
        if class == FailureClass::InvalidGrant {
            self.end(due, intent.generation).await;
        }
    }

    /// Nothing came of an attempt. It is tried again not before `earliest`.
    async fn failed(&self, id: SessionId, intent: RefreshStarted, failures: u32, class: FailureClass, earliest: Time) {
        let tally = &self.tools.tally;
        count(match class {
            FailureClass::NotSent => &tally.not_sent,
            FailureClass::Unavailable => &tally.unavailable,
            FailureClass::Rejected => &tally.rejected,
            FailureClass::InvalidGrant => &tally.invalid_grant,
        });
        let refreshes = &self.tools.views.metrics.refreshes;
        match class {
            FailureClass::InvalidGrant => refreshes.refused.increment(),
            FailureClass::NotSent | FailureClass::Unavailable | FailureClass::Rejected => {
                refreshes.postponed.increment()
            }
        }
        let RefreshStarted { generation, attempt, .. } = intent;
        let retry_at = retry_at(self.now(), failures, id).max(earliest);
        let failed = RefreshFailed { generation, attempt, class, retry_at };
        match self.append_token(id, token::Command::Fail(failed)).await {
            Ok(()) | Err(JournalError::Token(_)) => {
                self.unspent.borrow_mut().remove(&(id, attempt));
            }
            Err(error) => {
                tracing::warn!(session = %id, %error, "the failure of a refresh is not on the log");
                if class != FailureClass::InvalidGrant {
                    self.remember_unspent(id, attempt);
                }
            }
        }
    }

    async fn doubt(&self, id: SessionId, RefreshStarted { generation, attempt, .. }: RefreshStarted) {
        match self.append_token(id, token::Command::LeaveInDoubt(LeftInDoubt { generation, attempt })).await {
            Ok(()) => {
                count(&self.tools.tally.left_in_doubt);
                self.tools.views.metrics.refreshes.in_doubt.increment();
                tracing::warn!(session = %id, generation, "a generation is left in doubt and never presented again");
            }
            // its outcome is there, after all
            Err(JournalError::Token(_)) => {}
            Err(error) => tracing::warn!(session = %id, %error, "a doubt is not on the log"),
        }
    }

    /// An attempt without an outcome past its deadline: what it brought lies in the vault, or is lost.
    pub(super) async fn settle(&self, due: &Due, intent: RefreshStarted, failures: u32) {
        let key = (due.session, intent.attempt);
        if self.unspent.borrow().contains_key(&key) {
            return self
                .failed(due.session, intent, failures, FailureClass::NotSent, Time::from_millis(i64::MIN))
                .await;
        }
        // whoever wrote it may know that nobody was asked, and read the log again only just now, as we do
        let now = self.now();
        let since = *self.foreign.borrow_mut().entry(key).or_insert(now);
        if now.since(since) < REFRESH_PATIENCE {
            return;
        }
        match self.recover(due, intent.generation).await {
            Ok(false) => self.doubt(due.session, intent).await,
            Ok(true) => {}
            Err(NotNow) => return,
        }
        self.foreign.borrow_mut().remove(&key);
    }

    /// An attempt of ours that asked nobody. Its intent may stand on the log, or may yet come to stand there.
    fn remember_unspent(&self, id: SessionId, attempt: EventId) {
        self.unspent.borrow_mut().insert((id, attempt), self.now().plus(REFRESH_KEPT * 6));
    }

    /// Tells the log of our attempts that asked nobody, as soon as it says that their intents stand there: nobody else can
    /// know, and would leave them in doubt.
    pub(super) async fn own_up(&self, now: Time) {
        self.unspent.borrow_mut().retain(|_, until| *until > now);
        self.foreign.borrow_mut().retain(|_, since| now.since(*since) < REFRESH_KEPT);
        let unspent: Vec<_> = self.unspent.borrow().keys().copied().collect();
        for (id, attempt) in unspent {
            let Ok(known) = self.tools.replica.send(Read(Aggregate::token(id))).await else { return };
            let State::Token(token::State::Held(token::Held { failures, renewal, .. })) = known.state else { continue };
            if let token::Renewal::Started(intent) = renewal
                && intent.attempt == attempt
                && self.at_work.borrow_mut().insert(id)
            {
                count(&self.tools.tally.under_way);
                self.failed(id, intent, failures, FailureClass::NotSent, Time::from_millis(i64::MIN)).await;
                self.leave_off(id);
            }
        }
    }

    /// Completes from the vault what somebody left there; false if nothing is there.
    async fn recover(&self, due: &Due, generation: u32) -> Result<bool, NotNow> {
        let found = self.kept(due).await?;
        let Some(found) = found.filter(|found| found.kept.generation > generation) else { return Ok(false) };
        if self.complete(due.session, &found.kept).await {
            count(&self.tools.tally.recovered);
            tracing::info!(session = %due.session, generation = found.kept.generation, "renewed tokens were in the vault");
            self.observe(due).await;
        }
        Ok(true)
    }

    /// The end of a session whose tokens are lost, unless they turned up in the vault.
    pub(super) async fn end(&self, due: &Due, generation: u32) {
        if let Ok(false) = self.recover(due, generation).await {
            self.revoke(due.session, "the identity provider renews it no more").await;
        }
    }
}
