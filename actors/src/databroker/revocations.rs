//! Tokens that are given back to their provider once nobody needs them any more (RFC 7009): best effort, in the
//! background, bounded.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_config::IdentityProvider;
use portcullis_config::limits::REVOCATIONS_IN_FLIGHT;
use portcullis_events::SessionId;
use tokio::sync::Semaphore;
use url::Url;

use super::hand_over::SessionTokens;
use crate::clock;
use crate::idp::RelyingParty;

/// The way back for tokens. Belongs to the thread that makes it.
pub struct Revocations {
    party: Rc<RelyingParty>,
    in_flight: Arc<Semaphore>,
}

impl Revocations {
    /// To this provider.
    #[must_use]
    pub fn new(config: IdentityProvider, authenticate_url: Url) -> Self {
        let party = Rc::new(RelyingParty::new(config, authenticate_url));
        Self { party, in_flight: Arc::new(Semaphore::new(REVOCATIONS_IN_FLIGHT)) }
    }

    /// Begins to give back the tokens of a session that has ended, and waits for nothing.
    pub fn begin(&self, session: SessionId, tokens: SessionTokens) {
        let Ok(slot) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            tracing::warn!(%session, "too many tokens are on their way back to the provider: these stay valid there");
            return;
        };
        let party = Rc::clone(&self.party);
        actix_rt::spawn(async move {
            let _slot = slot;
            if let Err(error) = party.revoke(&tokens, clock::now()).await {
                tracing::warn!(issuer = party.issuer(), %session, %error, "the provider did not revoke a token");
            }
        });
    }
}
