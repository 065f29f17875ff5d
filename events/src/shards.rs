//! Records by id, in pieces that a copy shares with its original until one of the two changes them: a picture of a
//! million records is taken in microseconds, and the next change copies a thousandth of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

/// Pieces; a power of two, by the first bits of the id, so that their order is the order of ids.
const SHARDS: usize = 1 << 10;

type Shard = BTreeMap<Uuid, Arc<[u8]>>;

/// Records by id.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Shards(Vec<Arc<Shard>>);

impl Default for Shards {
    fn default() -> Self {
        Self(vec![Arc::default(); SHARDS])
    }
}

impl Shards {
    /// How many pieces there are.
    pub(crate) const COUNT: usize = SHARDS;

    pub(crate) fn get(&self, id: Uuid) -> Option<&Arc<[u8]>> {
        self.0.get(index(id))?.get(&id)
    }

    pub(crate) fn insert(&mut self, id: Uuid, record: Arc<[u8]>) {
        // the index is below the number of pieces
        if let Some(shard) = self.0.get_mut(index(id)) {
            Arc::make_mut(shard).insert(id, record);
        }
    }

    /// Adds records that are all of one piece and in order; what is built at once is packed closest.
    pub(crate) fn fill(&mut self, records: Vec<(Uuid, Arc<[u8]>)>) {
        let Some((first, _)) = records.first() else { return };
        if let Some(shard) = self.0.get_mut(index(*first)) {
            *shard = Arc::new(records.into_iter().collect());
        }
    }

    /// Builds one piece anew: what grew record by record has room between them.
    pub(crate) fn settle(&mut self, piece: usize) {
        // one that a copy shares is left as it is
        if let Some(shard) = self.0.get_mut(piece).and_then(Arc::get_mut) {
            *shard = std::mem::take(shard).into_iter().collect();
        }
    }

    /// Whether two ids lie in the same piece.
    pub(crate) fn are_together(one: Uuid, other: Uuid) -> bool {
        index(one) == index(other)
    }

    /// Every record, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Uuid, &Arc<[u8]>)> {
        self.0.iter().flat_map(|shard| shard.iter()).map(|(id, record)| (*id, record))
    }

    /// Every record of one piece, by id.
    pub(crate) fn piece(&self, piece: usize) -> impl Iterator<Item = (Uuid, &Arc<[u8]>)> {
        self.0.get(piece).into_iter().flat_map(|shard| shard.iter()).map(|(id, record)| (*id, record))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.len()).sum()
    }

    /// Replaces records of one piece where there is something to put in their place.
    pub(crate) fn replace(&mut self, piece: usize, replace: impl Fn(&[u8]) -> Option<Arc<[u8]>>) {
        let Some(shard) = self.0.get_mut(piece) else { return };
        let changed: Vec<_> = shard.iter().filter_map(|(id, record)| Some((*id, replace(record)?))).collect();
        if !changed.is_empty() {
            Arc::make_mut(shard).extend(changed);
        }
    }
}

fn index(id: Uuid) -> usize {
    let [first, second, ..] = *id.as_bytes();
    usize::from(u16::from_be_bytes([first, second]) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(byte: u8) -> Arc<[u8]> {
        Arc::from([byte])
    }

    #[test]
    fn records_come_in_the_order_of_their_ids() {
        let mut shards = Shards::default();
        let ids = [u128::MAX, 0, 1 << 127, 1 << 118, (1 << 118) - 1, 77];
        for id in ids {
            shards.insert(Uuid::from_u128(id), record(1));
        }
        let mut sorted = ids.map(Uuid::from_u128);
        sorted.sort();
        assert!(shards.iter().map(|(id, _)| id).eq(sorted));
        assert_eq!(shards.len(), ids.len());
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut shards = Shards::default();
        let id = Uuid::from_u128(7);
        shards.insert(id, record(1));
        let copy = shards.clone();
        shards.insert(id, record(2));
        assert_eq!((copy.get(id), shards.get(id)), (Some(&record(1)), Some(&record(2))));
    }
}
