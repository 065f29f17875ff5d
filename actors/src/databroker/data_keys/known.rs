//! The data keys that a node has read, in pieces that are replaced whole: whoever reads waits for nothing, and a key takes
//! the room of a key.

use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_events::PersonId;
use zeroize::Zeroizing;

use super::DataKey;
use crate::keyring::raw;

/// A key as it is used.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// Pieces; a power of two, by the first bits of the id: a new key copies those of one piece.
const PIECES: usize = 1 << 12;

/// Some keys, by person.
#[derive(Default)]
struct Piece(Box<[(PersonId, Key)]>);

impl Piece {
    fn find(&self, person: PersonId) -> Option<&Key> {
        let found = self.0.binary_search_by_key(&person, |(person, _)| *person).ok()?;
        self.0.get(found).map(|(_, key)| key)
    }

    /// These keys and others, which take the place of those they replace; sorted.
    fn with(&self, others: &[(PersonId, Key)]) -> Self {
        let is_replaced = |person: PersonId| others.binary_search_by_key(&person, |(person, _)| *person).is_ok();
        let kept = self.0.iter().filter(|(person, _)| !is_replaced(*person));
        let mut all = Vec::with_capacity(self.0.len() + others.len());
        all.extend(kept.chain(others).cloned());
        all.sort_by_key(|(person, _)| *person);
        Self(all.into_boxed_slice())
    }

    fn without(&self, person: PersonId) -> Self {
        Self(self.0.iter().filter(|(known, _)| *known != person).cloned().collect())
    }
}

/// The data keys that this node has read: whoever opens a sealed value with them waits for nothing.
pub struct KnownKeys(Vec<ArcSwap<Piece>>);

impl Default for KnownKeys {
    fn default() -> Self {
        let empty = Arc::new(Piece::default());
        Self((0..PIECES).map(|_| ArcSwap::new(Arc::clone(&empty))).collect())
    }
}

impl KnownKeys {
    /// A person's key, if it was read.
    #[must_use]
    pub fn get(&self, person: PersonId) -> Option<DataKey> {
        raw(self.piece(person)?.load().find(person)?).ok().map(DataKey)
    }

    /// Whether a person's key was read.
    #[must_use]
    pub fn has(&self, person: PersonId) -> bool {
        self.piece(person).is_some_and(|piece| piece.load().find(person).is_some())
    }

    pub(super) fn key(&self, person: PersonId) -> Option<Key> {
        self.piece(person)?.load().find(person).cloned()
    }

    pub(super) fn remember(&self, person: PersonId, key: Key) {
        let key = [(person, key)];
        if let Some(piece) = self.piece(person) {
            piece.rcu(|piece| piece.with(&key));
        }
    }

    /// Remembers many at once.
    pub(super) fn fill(&self, mut keys: Vec<(PersonId, Key)>) {
        keys.sort_by_key(|(person, _)| *person);
        keys.dedup_by_key(|(person, _)| *person);
        for some in keys.chunk_by(|(one, _), (other, _)| index(*one) == index(*other)) {
            if let Some(piece) = some.first().and_then(|(person, _)| self.piece(*person)) {
                piece.rcu(|piece| piece.with(some));
            }
        }
    }

    pub(super) fn forget(&self, person: PersonId) {
        if let Some(piece) = self.piece(person).filter(|piece| piece.load().find(person).is_some()) {
            piece.rcu(|piece| piece.without(person));
        }
    }

    /// Everybody whose key was read.
    pub(super) fn people(&self) -> Vec<PersonId> {
        let people = |piece: &ArcSwap<Piece>| piece.load().0.iter().map(|(person, _)| *person).collect::<Vec<_>>();
        self.0.iter().flat_map(people).collect()
    }

    fn piece(&self, person: PersonId) -> Option<&ArcSwap<Piece>> {
        self.0.get(index(person))
    }
}

/// The index is below the number of pieces.
fn index(person: PersonId) -> usize {
    let [first, second, ..] = *person.uuid().as_bytes();
    usize::from(u16::from_be_bytes([first, second]) >> 4)
}

impl std::fmt::Debug for KnownKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KnownKeys({})", self.0.iter().map(|piece| piece.load().0.len()).sum::<usize>())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn person(number: u128) -> PersonId {
        // some share a piece, others do not
        PersonId::new(Uuid::from_u128(number << 115 | number))
    }

    fn key(byte: u8) -> Key {
        Zeroizing::new([byte; 32])
    }

    #[test]
    fn keys_are_remembered_replaced_and_forgotten_each_by_itself() {
        let known = KnownKeys::default();
        known.fill((0..200).map(|number| (person(number), key(1))).collect());
        known.remember(person(7), key(2));
        known.remember(person(500), key(3));
        known.fill((100..300).map(|number| (person(number), key(4))).collect());
        known.forget(person(8));
        known.forget(person(9_999));
        let held = |number| known.key(person(number)).map(|key| key[0]);
        assert_eq!(
            [0, 7, 8, 99, 100, 299, 300, 500].map(held),
            [Some(1), Some(2), None, Some(1), Some(4), Some(4), None, Some(3)]
        );
        assert_eq!((known.people().len(), known.has(person(8)), known.has(person(9))), (300, false, true));
    }
}
