//! Values by prefix: all that stand under a beginning of a text are found in time that does not grow with their number.

use std::collections::BTreeMap;

/// Values by prefix, each once.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    /// In order.
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    prefix: Vec<u8>,
    value: T,
    /// The longest of the others that this one begins with.
    shorter: Option<usize>,
}

impl<T> Prefixes<T> {
    pub(super) fn new(values: BTreeMap<Vec<u8>, T>) -> Self {
        let mut entries: Vec<Entry<T>> = Vec::with_capacity(values.len());
        for (prefix, value) in values {
            // whatever begins this one stands before it, and begins the one just before it as well
            let mut shorter = entries.len().checked_sub(1);
            while let Some(entry) = shorter.and_then(|index| entries.get(index)) {
                if prefix.starts_with(&entry.prefix) {
                    break;
                }
                shorter = entry.shorter;
            }
            entries.push(Entry { prefix, value, shorter });
        }
        Self { entries }
    }

    /// What stands under the beginnings of a text, the longest first.
    pub(super) fn of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a T> {
        // between the longest beginning and the text itself lie only prefixes that begin with the former
        let mut next = self.entries.partition_point(|entry| entry.prefix.as_slice() <= text).checked_sub(1);
        std::iter::from_fn(move || {
            loop {
                let entry = self.entries.get(next?)?;
                next = entry.shorter;
                if text.starts_with(&entry.prefix) {
                    return Some(&entry.value);
                }
            }
        })
    }

    /// Every value, those of shorter prefixes before those of the longer ones that begin with them, with the value of the
    /// next shorter.
    pub(super) fn settle(&mut self, mut settle: impl FnMut(&mut T, Option<&T>)) {
        for index in 0..self.entries.len() {
            let (before, rest) = self.entries.split_at_mut(index);
            if let Some(entry) = rest.first_mut() {
                let shorter = entry.shorter.and_then(|shorter| before.get(shorter));
                settle(&mut entry.value, shorter.map(|shorter| &shorter.value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_beginnings_of_a_text_are_found_longest_first(
            prefixes in prop::collection::btree_set("[ab/]{0,5}", 0..20),
            text in "[ab/]{0,8}",
        ) {
            let table = Prefixes::new(prefixes.iter().map(|prefix| (prefix.clone().into_bytes(), prefix)).collect());
            let mut expected: Vec<_> = prefixes.iter().filter(|prefix| text.starts_with(prefix.as_str())).collect();
            expected.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            prop_assert_eq!(table.of(text.as_bytes()).copied().collect::<Vec<_>>(), expected);
        }
    }
}
