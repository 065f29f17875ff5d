//! A whole shelf of the vault, read at once: all of it in one piece of memory, which is given back whole.

use super::{Revision, Sealed};

/// Keys and values of a shelf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// Each key and its value, one after another.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    begins: usize,
    key: usize,
    value: usize,
    revision: Revision,
}

impl Values {
    /// Adds one.
    pub fn push(&mut self, key: &str, revision: Revision, value: &[u8]) {
        let begins = self.bytes.len();
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(value);
        self.entries.push(Entry { begins, key: key.len(), value: value.len(), revision });
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every key with its revision and value, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Revision, &[u8])> {
        self.entries.iter().filter_map(|entry| {
            let rest = self.bytes.get(entry.begins..)?;
            let (key, rest) = rest.split_at_checked(entry.key)?;
            Some((std::str::from_utf8(key).ok()?, entry.revision, rest.get(..entry.value)?))
        })
    }
}

impl FromIterator<(String, Sealed)> for Values {
    fn from_iter<I: IntoIterator<Item = (String, Sealed)>>(all: I) -> Self {
        let mut values = Self::default();
        all.into_iter().for_each(|(key, sealed)| values.push(&key, sealed.revision, &sealed.value));
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_comes_back_in_its_order() {
        let mut values = Values::default();
        let all = [("a", Revision(3), &b"first"[..]), ("bc", Revision(1), b""), ("", Revision(2), b"third")];
        all.iter().for_each(|(key, revision, value)| values.push(key, *revision, value));
        assert!(values.iter().eq(all));
        assert_eq!((values.len(), values.is_empty()), (3, false));
    }
}
