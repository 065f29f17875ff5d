//! The file vault and the memory vault keep the contract.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::contract::{Ground, contract};
use super::*;

struct Disk {
    dir: TempDir,
    vault: Option<Arc<FileVault>>,
}

impl Ground for Disk {
    async fn fresh() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vault = Some(Arc::new(FileVault::open(dir.path()).unwrap()));
        Self { dir, vault }
    }

    fn vault(&self) -> Arc<dyn Vault> {
        self.vault.clone().unwrap()
    }

    /// The files as `kill -9` at this moment would leave them.
    async fn crash(&mut self) {
        let left = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), left.path().join(entry.file_name())).unwrap();
        }
        self.vault = None;
        self.vault = Some(Arc::new(FileVault::open(left.path()).unwrap()));
        self.dir = left;
    }

    fn files(&self) -> &Path {
        self.dir.path()
    }
}

mod file {
    use super::*;

    contract!(Disk);
}

struct Memory {
    dir: PathBuf,
    vault: Arc<FileVault>,
}

impl Ground for Memory {
    async fn fresh() -> Self {
        let scratch = Arc::new(Scratch::new().unwrap());
        Self { dir: scratch.path().to_owned(), vault: Arc::new(FileVault::temporary(&scratch).unwrap()) }
    }

    fn vault(&self) -> Arc<dyn Vault> {
        self.vault.clone()
    }

    async fn crash(&mut self) {
        panic!("a vault in memory does not survive its process");
    }

    fn files(&self) -> &Path {
        &self.dir
    }
}

mod memory {
    use super::*;

    contract!(Memory:
        a_value_is_kept_under_its_shelf_and_key,
        of_many_puts_with_one_revision_one_wins,
        a_deleted_value_is_gone_and_its_key_is_free,
        what_was_deleted_or_replaced_is_in_no_file,
    );
}
