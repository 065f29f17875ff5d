//! `jwt_groups_filter`, at the top level and in a route: which groups an assertion tells of.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::node::Fields;

/// The groups that an assertion may name, by id or name; without any, it names all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupsFilter(Option<Arc<BTreeSet<String>>>);

impl GroupsFilter {
    /// A filter that keeps these.
    pub fn of<'a>(groups: impl IntoIterator<Item = &'a str>) -> Self {
        Self(Some(Arc::new(groups.into_iter().map(str::to_owned).collect())))
    }

    /// Whether an assertion may name this group.
    #[must_use]
    pub fn keeps(&self, group: &str) -> bool {
        self.0.as_ref().is_none_or(|kept| kept.contains(group))
    }

    /// Whether it keeps everything.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.0.is_none()
    }
}

/// The key of a map, over what the level above keeps: a group is kept that either names.
pub fn decode(fields: &Fields<'_>, above: &GroupsFilter) -> GroupsFilter {
    let Some(node) = fields.get("jwt_groups_filter") else { return above.clone() };
    let named = node.texts().into_iter().map(|(_, group)| group);
    let inherited = above.0.iter().flat_map(|kept| kept.iter().cloned());
    let kept: BTreeSet<String> = named.chain(inherited).collect();
    // a list without members filters nothing, as in Pomerium
    GroupsFilter(Some(kept).filter(|kept| !kept.is_empty()).map(Arc::new))
}
