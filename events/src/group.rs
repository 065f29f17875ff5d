//! Who belongs to what: the groups of a person, as differences, one source apart from the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{GroupId, Sealed};

/// What may be asked of a person's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A source says that these, and no others, are the person's groups.
    Observe {
        /// The source, such as `claims:<idp id>`.
        source: String,
        /// All groups, each with its name sealed with the person's data key.
        groups: BTreeMap<GroupId, Sealed>,
    },
}

/// What happened to a person's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The person came to belong to groups.
    MemberAdded(MemberAdded),
    /// The person no longer belongs to groups.
    MemberRemoved(MemberRemoved),
}

/// `portcullis.group.member_added.v1`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAdded {
    /// The source that says so.
    pub source: String,
    /// The groups, each with its name sealed with the person's data key. Never empty.
    pub groups: BTreeMap<GroupId, Sealed>,
}

/// `portcullis.group.member_removed.v1`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRemoved {
    /// The source that says so.
    pub source: String,
    /// The groups. Never empty.
    pub groups: BTreeSet<GroupId>,
}

/// The groups of a person, by source.
pub type State = BTreeMap<String, BTreeSet<GroupId>>;

/// The differences between what is known and what a source says; none where there is none.
#[must_use]
pub fn decide(state: &State, command: &Command) -> Vec<Event> {
    let Command::Observe { source, groups } = command;
    let known = state.get(source);
    let is_known = |group: &GroupId| known.is_some_and(|known| known.contains(group));
    let added: BTreeMap<_, _> =
        groups.iter().filter(|(id, _)| !is_known(id)).map(|(id, name)| (*id, name.clone())).collect();
    let removed: BTreeSet<_> =
        known.into_iter().flatten().filter(|group| !groups.contains_key(group)).copied().collect();
    let mut events = Vec::new();
    if !added.is_empty() {
        events.push(Event::MemberAdded(MemberAdded { source: source.clone(), groups: added }));
    }
    if !removed.is_empty() {
        events.push(Event::MemberRemoved(MemberRemoved { source: source.clone(), groups: removed }));
    }
    events
}

/// The groups of a person after an event.
#[must_use]
pub fn evolve(mut state: State, event: &Event) -> State {
    match event {
        Event::MemberAdded(added) => {
            state.entry(added.source.clone()).or_default().extend(added.groups.keys());
        }
        Event::MemberRemoved(removed) => {
            if let Some(known) = state.get_mut(&removed.source) {
                known.retain(|group| !removed.groups.contains(group));
                if known.is_empty() {
                    state.remove(&removed.source);
                }
            }
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn observe(groups: &BTreeSet<u8>) -> Command {
        let groups = groups
            .iter()
            .map(|n| (GroupId::new(Uuid::from_u128(u128::from(*n))), Sealed::new(format!("sealed {n}"))))
            .collect();
        Command::Observe { source: "claims:a".into(), groups }
    }

    proptest! {
        #[test]
        fn after_the_differences_the_state_is_what_the_source_said(before: BTreeSet<u8>, after: BTreeSet<u8>) {
            let fold = |state: State, command: &Command| decide(&state, command).iter().fold(state, evolve);
            let state = fold(fold(State::new(), &observe(&before)), &observe(&after));
            prop_assert_eq!(decide(&state, &observe(&after)), vec![]);
            prop_assert_eq!(state.get("claims:a").map_or(0, BTreeSet::len), after.len());
        }
    }

    #[test]
    fn sources_do_not_touch_each_other() {
        let mut other = observe(&BTreeSet::from([1, 2]));
        let Command::Observe { source, .. } = &mut other;
        *source = "ldap".into();
        let state = decide(&State::new(), &other).iter().fold(State::new(), evolve);
        let state = decide(&state, &observe(&BTreeSet::new())).iter().fold(state, evolve);
        assert_eq!(state.get("ldap").map(BTreeSet::len), Some(2));
    }
}
