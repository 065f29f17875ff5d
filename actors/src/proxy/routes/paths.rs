//! The routes of one host by path: exact ones by hashing, prefixes and expressions by what a path begins with. It finds
//! what going through them in their order would find.

use std::collections::{BTreeMap, HashMap};

use portcullis_config::limits::PATTERN_SET_BYTES;
use portcullis_config::{PathMatcher, Pattern};
use regex::{RegexSet, RegexSetBuilder};

use super::prefixes::Prefixes;

/// So many expressions with the same beginning are tried all at once.
const AT_ONCE: usize = 4;

/// Places in an order, by the paths that lead there.
#[derive(Debug)]
pub(super) struct Paths {
    exact: HashMap<String, usize>,
    /// The first place of each prefix and of all that it begins with.
    prefixes: Prefixes<usize>,
    /// Expressions by what everything they match begins with.
    patterns: Prefixes<Patterns>,
}

impl Paths {
    /// Places with their matchers, in their order.
    pub(super) fn new<'a>(routes: impl IntoIterator<Item = (usize, &'a PathMatcher)>) -> Self {
        let mut exact = HashMap::new();
        let mut prefixes = BTreeMap::new();
        let mut patterns: BTreeMap<Vec<u8>, Vec<(usize, Pattern)>> = BTreeMap::new();
        for (place, matcher) in routes {
            match matcher {
                PathMatcher::Path(path) => drop(exact.entry(path.clone()).or_insert(place)),
                PathMatcher::Prefix(prefix) => drop(prefixes.entry(prefix.clone().into_bytes()).or_insert(place)),
                PathMatcher::Regex(pattern) => {
                    patterns.entry(pattern.beginning().to_vec()).or_default().push((place, pattern.clone()));
                }
            }
        }
        let mut prefixes = Prefixes::new(prefixes);
        prefixes.settle(|place, shorter| *place = shorter.map_or(*place, |shorter| *shorter.min(place)));
        let patterns = patterns.into_iter().map(|(beginning, members)| (beginning, Patterns::new(members)));
        Self { exact, prefixes, patterns: Prefixes::new(patterns.collect()) }
    }

    /// The first place that a path leads to.
    pub(super) fn first(&self, path: &str) -> Option<usize> {
        let exact = self.exact.get(path).copied();
        // `*` is no path
        if !path.starts_with('/') {
            return exact;
        }
        let prefix = self.prefixes.of(path.as_bytes()).next().copied();
        let mut first = earlier(exact, prefix);
        for patterns in self.patterns.of(path.as_bytes()) {
            first = earlier(patterns.first(path, first), first);
        }
        first
    }
}

/// Expressions in their order.
#[derive(Debug)]
struct Patterns {
    members: Vec<(usize, Pattern)>,
    /// All of them as one, where there are many and they fit.
    set: Option<RegexSet>,
}

impl Patterns {
    fn new(members: Vec<(usize, Pattern)>) -> Self {
        let as_one = || {
            let anchored = members.iter().map(|(_, pattern)| pattern.anchored());
            RegexSetBuilder::new(anchored).size_limit(PATTERN_SET_BYTES).build().ok()
        };
        let set = if members.len() < AT_ONCE { None } else { as_one() };
        Self { members, set }
    }

    /// The first that matches, if it comes before `limit`.
    fn first(&self, path: &str, limit: Option<usize>) -> Option<usize> {
        let comes_before = |place: usize| limit.is_none_or(|limit| place < limit);
        let (earliest, _) = self.members.first()?;
        if !comes_before(*earliest) {
            return None;
        }
        match &self.set {
            Some(set) => {
                let index = set.matches(path).iter().next()?;
                self.members.get(index).map(|(place, _)| *place).filter(|place| comes_before(*place))
            }
            None => {
                let mut tried = self.members.iter().take_while(|(place, _)| comes_before(*place));
                tried.find(|(_, pattern)| pattern.is_match(path)).map(|(place, _)| *place)
            }
        }
    }
}

/// The earlier of two places.
pub(super) fn earlier(one: Option<usize>, other: Option<usize>) -> Option<usize> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
