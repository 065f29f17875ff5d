//! The ids of requests: random, and made from a store of randomness, because each asks the system for none that way.

use std::cell::RefCell;
use std::rc::Rc;

use aws_lc_rs::rand;
use uuid::fmt::Hyphenated;
use uuid::{Builder, Bytes, Uuid};

/// How many are made from what the system is asked for at once.
const STORE: usize = 64;

thread_local! {
    static RANDOM: RefCell<Vec<Bytes>> = const { RefCell::new(Vec::new()) };
}

/// A new one: a UUID of version 4.
pub fn next() -> Rc<str> {
    let mut text = [0; Hyphenated::LENGTH];
    Rc::from(&*random().hyphenated().encode_lower(&mut text))
}

fn random() -> Uuid {
    let bytes = RANDOM.with_borrow_mut(|store| {
        if store.is_empty() {
            let mut bytes = [0; STORE * size_of::<Bytes>()];
            rand::fill(&mut bytes).ok()?;
            store.extend(bytes.as_chunks().0);
        }
        store.pop()
    });
    bytes.map_or_else(Uuid::new_v4, |bytes| Builder::from_random_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_are_alike_and_each_is_a_random_uuid() {
        let ids: HashSet<_> = (0..10 * STORE).map(|_| next()).collect();
        assert_eq!(ids.len(), 10 * STORE);
        for id in ids {
            let uuid = Uuid::parse_str(&id).unwrap();
            assert_eq!((uuid.get_version_num(), uuid.hyphenated().to_string()), (4, id.to_string()));
        }
    }
}
