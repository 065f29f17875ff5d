//! The vault of a simulation: the same losses on the way there and back.

use std::sync::Arc;

use async_trait::async_trait;
use portcullis_actors::databroker::vault::{Revision, Sealed, Shelf, Values, Vault, VaultError};
use portcullis_config::limits::STORE_REQUEST;

use crate::mutant::Mutant;
use crate::world::World;

/// The vault as one node reaches it.
pub struct SimVault {
    /// The shared ground.
    pub world: Arc<World>,
    /// Which node.
    pub node: usize,
}

impl SimVault {
    async fn call<T>(&self, what: &str, act: impl FnOnce(&World) -> T) -> Result<T, VaultError> {
        self.world.way().await;
        if !self.world.reaches(self.node) || self.world.fault(3) {
            return self.lost(what, "call lost").await;
        }
        let answer = act(&self.world);
        self.world.note(self.node, &format!("vault {what}"));
        self.world.way().await;
        if !self.world.reaches(self.node) || self.world.fault(3) {
            return self.lost(what, "answer lost").await;
        }
        Ok(answer)
    }

    async fn lost<T>(&self, what: &str, which: &str) -> Result<T, VaultError> {
        self.world.note(self.node, &format!("vault {what}: {which}"));
        tokio::time::sleep(STORE_REQUEST).await;
        Err(VaultError::Unavailable(which.into()))
    }
}

#[async_trait]
impl Vault for SimVault {
    async fn get(&self, shelf: Shelf, key: &str) -> Result<Option<Sealed>, VaultError> {
        self.call("get", |world| world.value(shelf, key)).await
    }

    async fn put(&self, shelf: Shelf, key: &str, expected: Revision, value: Vec<u8>) -> Result<Revision, VaultError> {
        if self.world.is(Mutant::LosesValues) && self.world.fault(20) {
            return self.call("put", |_| Revision(u64::MAX)).await;
        }
        self.call("put", |world| world.put_value(shelf, key, expected, value)).await?
    }

    async fn delete(&self, shelf: Shelf, key: &str) -> Result<(), VaultError> {
        self.call("delete", |world| world.delete_value(shelf, key)).await
    }

    async fn scan(&self, shelf: Shelf) -> Result<Values, VaultError> {
        self.call("scan", |world| world.values(shelf).into_iter().collect()).await
    }
}
