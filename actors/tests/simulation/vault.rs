//! The vault of a simulation, over the same network.

use std::sync::Arc;

use async_trait::async_trait;
use portcullis_actors::databroker::vault::{Revision, Sealed, Shelf, Values, Vault, VaultError};
use portcullis_config::limits::STORE_REQUEST;

use crate::mutant::Mutant;
use crate::wire::{LOG, Wire};
use crate::world::World;

/// The vault as one node reaches it.
pub struct SimVault {
    /// The shared ground.
    pub world: Arc<World>,
    /// Which node.
    pub node: usize,
    /// Its socket.
    pub wire: Arc<Wire>,
}

impl SimVault {
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        act: impl Fn(&World) -> T + Send + Sync + 'static,
    ) -> Result<T, VaultError> {
        let node = self.node;
        let asked = self.wire.ask(LOG, STORE_REQUEST, move |world| {
            world.note(node, &format!("vault {what}"));
            act(world)
        });
        let answer = asked.await;
        if answer.is_none() {
            self.world.note(node, &format!("vault {what}: no answer"));
        }
        answer.ok_or_else(|| VaultError::Unavailable("no answer came".into()))
    }
}

#[async_trait]
impl Vault for SimVault {
    async fn get(&self, shelf: Shelf, key: &str) -> Result<Option<Sealed>, VaultError> {
        let key = key.to_owned();
        self.call("get", move |world| world.value(shelf, &key)).await
    }

    async fn put(&self, shelf: Shelf, key: &str, expected: Revision, value: Vec<u8>) -> Result<Revision, VaultError> {
        if self.world.is(Mutant::LosesValues) && self.world.fault(20) {
            return self.call("put", |_| Revision(u64::MAX)).await;
        }
        let key = key.to_owned();
        self.call("put", move |world| world.put_value(shelf, &key, expected, value.clone())).await?
    }

    async fn delete(&self, shelf: Shelf, key: &str) -> Result<(), VaultError> {
        let key = key.to_owned();
        self.call("delete", move |world| world.delete_value(shelf, &key)).await
    }

    async fn scan(&self, shelf: Shelf) -> Result<Values, VaultError> {
        self.call("scan", move |world| world.values(shelf).into_iter().collect()).await
    }
}
