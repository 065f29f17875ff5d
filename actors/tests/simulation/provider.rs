//! The identity provider of a simulation: its refresh tokens rotate, and it is called over a wire of its own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use portcullis_actors::idp::{Evidence, Observed, RefreshError, Renewal, Renewals, SignInError};
use portcullis_config::Secret;
use portcullis_events::{SessionId, Time};

use crate::world::World;

/// How long access tokens live: several generations come and go within a run.
pub const LIFE: Duration = Duration::from_secs(8);

/// The provider as one node reaches it.
pub struct SimProvider {
    /// The shared ground.
    pub world: Arc<World>,
    /// Which node.
    pub node: usize,
}

/// The refresh token that comes with a session's sign-in.
pub fn first_token(session: SessionId) -> String {
    format!("{session}/1")
}

fn unavailable() -> SignInError {
    SignInError::Unavailable("so it was dealt".into())
}

#[async_trait(?Send)]
impl Renewals for SimProvider {
    async fn refresh(&self, token: &Secret, now: Time) -> Result<Renewal, RefreshError> {
        let world = &self.world;
        tokio::time::sleep(world.span(40)).await;
        if world.fault(8) {
            world.note(self.node, "the provider is not reached");
            return Err(RefreshError::NotSent(unavailable()));
        }
        if world.fault(5) {
            world.note(self.node, "the provider has trouble");
            return Err(RefreshError::Unavailable(unavailable(), None));
        }
        let next = world.present(self.node, token.expose_str().unwrap());
        let late = if world.fault(25) { 8_000 } else { 200 };
        tokio::time::sleep(world.span(late)).await;
        if world.fault(6) {
            world.note(self.node, "the provider's answer is lost");
            return Err(RefreshError::Lost(unavailable()));
        }
        let Some(next) = next else { return Err(RefreshError::InvalidGrant) };
        Ok(Renewal {
            access: Secret::new("access-token"),
            refresh: Some(Secret::new(next)),
            id_token: None,
            access_expires_at: Some(now.plus(LIFE)),
        })
    }

    async fn claims(&self, _: &Evidence<'_>, _: Time) -> Result<Observed, SignInError> {
        Err(unavailable())
    }
}
