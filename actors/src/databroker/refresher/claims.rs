//! A look at what the provider says of a person now: claims replaced whole, groups as differences.

use std::collections::BTreeMap;

use portcullis_events::{Aggregate, SessionId, group, session};
use serde_json::{Map, Value};

use super::schedule::Due;
use super::{InVault, Inner, count};
use crate::databroker::data_keys::{DataKey, DataKeyError};
use crate::databroker::journal::{Command, JournalError};
use crate::databroker::profile::{Profile, observed_groups};
use crate::databroker::tokens::Kept;
use crate::databroker::vault::{Revision, Shelf, VaultError};
use crate::databroker::view::SessionView;
use crate::idp::{Because, Endpoint, Evidence, Observed, SignInError};
use crate::keyring::KeyError;

/// Claims that are of a token, not of a person: they change with every token.
const OF_THE_TOKEN: [&str; 7] = ["exp", "iat", "nbf", "nonce", "at_hash", "c_hash", "jti"];

#[derive(Debug, thiserror::Error)]
enum ReplaceError {
    #[error(transparent)]
    DataKey(#[from] DataKeyError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Inner {
    /// Asks the provider, and records what is different. Asking twice is harmless, and so is not asking this time.
    pub(super) async fn observe(&self, due: &Due) {
        let Ok(found) = self.kept(due).await else { return };
        let Some(InVault { key, kept, revision }) = found else { return self.set_aside(due.session) };
        let evidence = Evidence {
            id_token: &kept.tokens.id_token,
            renewed: kept.renewed_id_token.as_ref(),
            access: &kept.tokens.access,
        };
        let observed = match self.tools.provider.claims(&evidence, self.now()).await {
            Ok(observed) => observed,
            Err(SignInError::Refused(Because::OtherSubject)) => {
                return self.revoke(due.session, "the identity provider renewed it for another person").await;
            }
            Err(error) => return self.unknown(due.session, &error),
        };
        match &observed.claims {
            Ok(claims) => self.replace(due, &key, claims).await,
            Err(SignInError::Refused(because)) if is_too_much(because) => {
                return self.revoke(due.session, "the identity provider says more than a session can carry").await;
            }
            Err(error) => self.unknown(due.session, error),
        }
        self.promote(due, &key, kept, revision, &observed).await;
    }

    /// A provider that cannot be asked, or says what is not to be believed, changes nothing.
    fn unknown(&self, id: SessionId, error: &SignInError) {
        tracing::warn!(session = %id, %error, "the claims of a session stay as they are");
    }

    async fn replace(&self, due: &Due, key: &DataKey, claims: &Map<String, Value>) {
        let Some(view) = self.tools.views.session(due.session) else { return };
        let claims = of_the_same_session(claims.clone(), &view.claims);
        if of_the_person(&view.claims) == of_the_person(&claims) {
            return;
        }
        match self.replace_all(&view, key, &claims).await {
            Ok(()) => {
                count(&self.tools.tally.claims_replaced);
                tracing::info!(session = %due.session, "the claims of a session were replaced");
            }
            // it ended meanwhile
            Err(ReplaceError::Journal(JournalError::Session(_))) => {}
            Err(error) => tracing::warn!(session = %due.session, %error, "new claims are not on the log"),
        }
    }

    /// The groups first: who was let go must not be let in because the rest failed.
    async fn replace_all(
        &self,
        view: &SessionView,
        key: &DataKey,
        claims: &Map<String, Value>,
    ) -> Result<(), ReplaceError> {
        let pseudonyms = self.tools.data_keys.pseudonyms().await?;
        let observe: group::Command = observed_groups(&pseudonyms, key, &view.idp, view.person, claims)?;
        self.append(Aggregate::group(view.person), Command::Group(observe)).await?;
        let profile = Profile { claims: claims.clone() }.seal(key, view.id)?;
        let replace = session::Command::ReplaceClaims(session::ClaimsReplaced { profile });
        Ok(self.append(Aggregate::session(view.id), Command::Session(replace)).await?)
    }

    /// A renewed ID token that was checked takes the old one's place, or goes.
    async fn promote(&self, due: &Due, key: &DataKey, mut kept: Kept, revision: Revision, observed: &Observed) {
        let Some((is_believed, renewed)) = observed.renewed_is_believed.zip(kept.renewed_id_token.take()) else {
            return;
        };
        if is_believed {
            kept.tokens.id_token = renewed;
        }
        let Ok(sealed) = kept.seal(key, due.session) else { return };
        match self.tools.vault.put(Shelf::Secret, &due.session.to_string(), revision, sealed).await {
            // a later refresh has been here, or the session has ended
            Ok(_) | Err(VaultError::Conflict) => {}
            Err(error) => tracing::warn!(session = %due.session, %error, "a renewed ID token is checked again later"),
        }
    }
}

/// Nobody could sign in with these. If they left everything as it was, whoever can make them grow would keep for good
/// what is taken away meanwhile.
const fn is_too_much(because: &Because) -> bool {
    matches!(because, Because::TooMuch | Because::TooManyGroups | Because::TooLarge(Endpoint::UserInfo))
}

/// A renewed ID token need not say which of the provider's sessions it is of (OpenID Connect Core §12.2), and is of the
/// same as the one before: by that name the provider ends it.
fn of_the_same_session(mut claims: Map<String, Value>, before: &Map<String, Value>) -> Map<String, Value> {
    if let (false, Some(sid)) = (claims.contains_key("sid"), before.get("sid")) {
        claims.insert("sid".into(), sid.clone());
    }
    claims
}

fn of_the_person(claims: &Map<String, Value>) -> BTreeMap<&str, &Value> {
    let claims = claims.iter().map(|(name, value)| (name.as_str(), value));
    claims.filter(|(name, _)| !OF_THE_TOKEN.contains(name)).collect()
}
