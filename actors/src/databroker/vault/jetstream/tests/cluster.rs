//! The JetStream vault keeps the contract on three servers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis_harness::nats_cluster::SERVERS;
use portcullis_harness::process::eventually;

use super::super::super::contract::{Ground, contract};
use super::super::*;
use crate::databroker::nats::shared::Account;

/// Longer than three servers take to choose leaders, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Three {
    account: Account,
    vault: Arc<JetStreamVault>,
}

impl Three {
    /// Waits until both buckets are there and have their leaders.
    async fn answers(&self) {
        for shelf in [Shelf::Secret, Shelf::DataKey] {
            let look = async || Ok(self.vault.scan(shelf).await.is_ok().then_some(()));
            eventually("the vault answers", PATIENCE, look).await.unwrap();
        }
    }
}

impl Ground for Three {
    async fn fresh() -> Self {
        let account = Account::next().await;
        let vault = Arc::new(JetStreamVault::new(&account.connect().await, SERVERS));
        let three = Self { account, vault };
        three.answers().await;
        three
    }

    fn vault(&self) -> Arc<dyn Vault> {
        self.vault.clone()
    }

    async fn crash(&mut self) {
        self.account.crash().await;
        self.vault = Arc::new(JetStreamVault::new(&self.account.connect().await, SERVERS));
        self.answers().await;
    }

    fn files(&self) -> &Path {
        self.account.cluster().files()
    }
}

// all but one: what was deleted is overwritten in the streams' files, and stays in the servers' Raft logs until they
// are compacted
contract!(Three:
    an_empty_vault_has_nothing,
    a_value_is_kept_under_its_shelf_and_key,
    a_put_with_another_revision_changes_nothing,
    of_many_puts_with_one_revision_one_wins,
    what_was_acknowledged_survives_a_crash,
    a_deleted_value_is_gone_and_its_key_is_free,
    a_revision_from_before_a_delete_is_never_right_again,
    a_scan_finds_every_key_with_its_last_value,
    a_value_that_is_too_large_is_refused,
);
