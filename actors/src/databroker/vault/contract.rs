//! What every vault promises, as tests that each backend runs on fresh ground.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use portcullis_config::limits::VALUE_BYTES;

use super::{Revision, Sealed, Shelf, Values, Vault, VaultError};

/// Where a vault stands: something that can crash, and whose files can be searched.
pub(super) trait Ground: Sized {
    /// An empty vault.
    async fn fresh() -> Self;

    /// The vault.
    fn vault(&self) -> Arc<dyn Vault>;

    /// Loses everything that a crash loses, and comes back.
    async fn crash(&mut self);

    /// The directory under which all of its files lie.
    fn files(&self) -> &Path;
}

/// Every promise as a test on one ground.
macro_rules! contract {
    ($ground:ty) => {
        contract!($ground:
            an_empty_vault_has_nothing,
            a_value_is_kept_under_its_shelf_and_key,
            a_put_with_another_revision_changes_nothing,
            of_many_puts_with_one_revision_one_wins,
            what_was_acknowledged_survives_a_crash,
            a_deleted_value_is_gone_and_its_key_is_free,
            a_revision_from_before_a_delete_is_never_right_again,
            what_was_deleted_or_replaced_is_in_no_file,
            a_scan_finds_every_key_with_its_last_value,
            a_value_that_is_too_large_is_refused,
        );
    };
    ($ground:ty: $($promise:ident),+ $(,)?) => {
        $(#[actix::test]
        async fn $promise() {
            crate::databroker::vault::contract::$promise(<$ground as crate::databroker::vault::contract::Ground>::fresh().await).await;
        })+
    };
}
pub(super) use contract;

const KEY: &str = "00000000-0000-4000-8000-000000000001";

fn key(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

pub(super) async fn an_empty_vault_has_nothing(ground: impl Ground) {
    let vault = ground.vault();
    assert_eq!(vault.get(Shelf::Secret, KEY).await, Ok(None));
    assert_eq!(vault.scan(Shelf::Secret).await, Ok(Values::default()));
    assert_eq!(vault.delete(Shelf::Secret, KEY).await, Ok(()));
}

pub(super) async fn a_value_is_kept_under_its_shelf_and_key(ground: impl Ground) {
    let vault = ground.vault();
    let first = vault.put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    assert!(first > Revision::NONE);
    let second = vault.put(Shelf::Secret, KEY, first, b"second".to_vec()).await.unwrap();
    assert!(second > first);
    let found = vault.get(Shelf::Secret, KEY).await.unwrap();
    assert_eq!(found, Some(Sealed { revision: second, value: b"second".to_vec() }));
    assert_eq!(vault.get(Shelf::DataKey, KEY).await, Ok(None));
    assert_eq!(vault.get(Shelf::Secret, &key(2)).await, Ok(None));
    vault.put(Shelf::DataKey, KEY, Revision::NONE, Vec::new()).await.unwrap();
    assert_eq!(vault.get(Shelf::DataKey, KEY).await.unwrap().map(|found| found.value), Some(Vec::new()));
}

pub(super) async fn a_put_with_another_revision_changes_nothing(ground: impl Ground) {
    let vault = ground.vault();
    let absent = vault.put(Shelf::Secret, KEY, Revision(7), b"x".to_vec()).await;
    assert_eq!(absent, Err(VaultError::Conflict));
    let first = vault.put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    for wrong in [Revision::NONE, Revision(first.0 + 1)] {
        assert_eq!(vault.put(Shelf::Secret, KEY, wrong, b"x".to_vec()).await, Err(VaultError::Conflict), "{wrong:?}");
    }
    assert_eq!(vault.get(Shelf::Secret, KEY).await.unwrap().map(|found| found.value), Some(b"first".to_vec()));
}

pub(super) async fn of_many_puts_with_one_revision_one_wins(ground: impl Ground) {
    let vault = ground.vault();
    let mut revision = Revision::NONE;
    for _ in 0..5 {
        let puts = (0..6_u8).map(|writer| vault.put(Shelf::DataKey, KEY, revision, vec![writer]));
        let outcomes = join_all(puts).await;
        let won: Vec<_> = outcomes.iter().flatten().collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|error| *error == VaultError::Conflict));
        let winner = outcomes.iter().position(Result::is_ok).unwrap();
        revision = *won[0];
        let found = vault.get(Shelf::DataKey, KEY).await.unwrap();
        assert_eq!(found, Some(Sealed { revision, value: vec![u8::try_from(winner).unwrap()] }));
    }
}

pub(super) async fn what_was_acknowledged_survives_a_crash(mut ground: impl Ground) {
    let revision = ground.vault().put(Shelf::Secret, KEY, Revision::NONE, b"kept".to_vec()).await.unwrap();
    ground.vault().put(Shelf::Secret, &key(2), Revision::NONE, b"deleted".to_vec()).await.unwrap();
    ground.vault().delete(Shelf::Secret, &key(2)).await.unwrap();
    ground.crash().await;
    let vault = ground.vault();
    let found = vault.get(Shelf::Secret, KEY).await.unwrap();
    assert_eq!(found, Some(Sealed { revision, value: b"kept".to_vec() }));
    assert_eq!(vault.get(Shelf::Secret, &key(2)).await, Ok(None));
    assert!(vault.put(Shelf::Secret, KEY, revision, b"newer".to_vec()).await.unwrap() > revision);
}

pub(super) async fn a_deleted_value_is_gone_and_its_key_is_free(ground: impl Ground) {
    let vault = ground.vault();
    vault.put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    vault.delete(Shelf::Secret, KEY).await.unwrap();
    assert_eq!(vault.get(Shelf::Secret, KEY).await, Ok(None));
    assert_eq!(vault.delete(Shelf::Secret, KEY).await, Ok(()));
    vault.put(Shelf::Secret, KEY, Revision::NONE, b"second".to_vec()).await.unwrap();
    assert_eq!(vault.get(Shelf::Secret, KEY).await.unwrap().map(|found| found.value), Some(b"second".to_vec()));
}

pub(super) async fn a_revision_from_before_a_delete_is_never_right_again(ground: impl Ground) {
    let vault = ground.vault();
    let before = vault.put(Shelf::Secret, KEY, Revision::NONE, b"first".to_vec()).await.unwrap();
    vault.delete(Shelf::Secret, KEY).await.unwrap();
    assert_eq!(vault.put(Shelf::Secret, KEY, before, b"x".to_vec()).await, Err(VaultError::Conflict));
    let after = vault.put(Shelf::Secret, KEY, Revision::NONE, b"second".to_vec()).await.unwrap();
    assert!(after > before);
    assert_eq!(vault.put(Shelf::Secret, KEY, before, b"x".to_vec()).await, Err(VaultError::Conflict));
}

pub(super) async fn what_was_deleted_or_replaced_is_in_no_file(ground: impl Ground) {
    let vault = ground.vault();
    let kept = vault.put(Shelf::Secret, &key(2), Revision::NONE, mark("kept")).await;
    assert!(kept.is_ok());
    let mut revision = Revision::NONE;
    for value in ["first", "second", "third"] {
        revision = vault.put(Shelf::Secret, KEY, revision, mark(value)).await.unwrap();
    }
    assert!(holds(ground.files(), &mark("third")), "the search finds nothing at all");
    vault.delete(Shelf::Secret, KEY).await.unwrap();
    for value in ["first", "second", "third"] {
        assert!(!holds(ground.files(), &mark(value)), "{value} is still there");
    }
    assert!(holds(ground.files(), &mark("kept")));
}

fn mark(name: &str) -> Vec<u8> {
    format!("<<{name} value that must not stay>>").repeat(20).into_bytes()
}

/// Whether some file under a directory holds the first bytes of a value.
fn holds(dir: &Path, value: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return holds(&path, value);
        }
        // a server may take a file away under our hands
        fs::read(path).is_ok_and(|bytes| bytes.windows(24).any(|window| window == &value[..24]))
    })
}

pub(super) async fn a_scan_finds_every_key_with_its_last_value(ground: impl Ground) {
    const KEYS: usize = 300;
    let vault = ground.vault();
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    let revisions = join_all(keys.iter().map(|key| vault.put(Shelf::DataKey, key, Revision::NONE, vec![1]))).await;
    let newer = vault.put(Shelf::DataKey, &key(7), *revisions[7].as_ref().unwrap(), vec![2]).await.unwrap();
    vault.delete(Shelf::DataKey, &key(8)).await.unwrap();
    vault.put(Shelf::Secret, &key(8), Revision::NONE, vec![3]).await.unwrap();
    let all = vault.scan(Shelf::DataKey).await.unwrap();
    let mut all: Vec<_> =
        all.iter().map(|(key, revision, value)| (key.to_owned(), Sealed { revision, value: value.to_vec() })).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let wanted: Vec<_> = (0..KEYS)
        .filter(|number| *number != 8)
        .map(|number| match number {
            7 => (key(7), Sealed { revision: newer, value: vec![2] }),
            _ => (key(number), Sealed { revision: *revisions[number].as_ref().unwrap(), value: vec![1] }),
        })
        .collect();
    assert_eq!(all, wanted);
    let mut keys = vault.keys(Shelf::DataKey).await.unwrap();
    keys.sort();
    let wanted: Vec<_> = wanted.into_iter().map(|(key, sealed)| (key, sealed.revision)).collect();
    assert_eq!(keys, wanted);
    assert_eq!(vault.check().await, Ok(()));
}

pub(super) async fn a_value_that_is_too_large_is_refused(ground: impl Ground) {
    let vault = ground.vault();
    let large = vault.put(Shelf::Secret, KEY, Revision::NONE, vec![0; VALUE_BYTES + 1]).await;
    assert!(matches!(large, Err(VaultError::Refused(_))), "{large:?}");
    vault.put(Shelf::Secret, KEY, Revision::NONE, vec![0; VALUE_BYTES]).await.unwrap();
    assert_eq!(vault.get(Shelf::Secret, KEY).await.unwrap().map(|found| found.value.len()), Some(VALUE_BYTES));
}
