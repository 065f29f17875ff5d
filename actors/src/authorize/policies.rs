//! The policies of all routes, compiled once: what is evaluated for each request.

use portcullis_config::policy::{self, Policy};
use portcullis_config::{Config, Route};

use super::criterion::Criterion;
use super::decision::{Decision, Verdict};
use crate::authenticate::Caller;
use crate::request::Canonical;

/// The policy of every route of a configuration, by the route's index.
#[derive(Debug)]
pub struct Policies(Vec<Compiled>);

/// The policy of one route: all of its rules in one allow set and one deny set.
#[derive(Debug)]
struct Compiled {
    route: Box<str>,
    allow: Vec<Block>,
    deny: Vec<Block>,
}

/// One operator with its members, of which there is at least one.
#[derive(Debug)]
struct Block {
    operator: Operator,
    members: Vec<Criterion>,
}

#[derive(Debug, Clone, Copy)]
enum Operator {
    And,
    Or,
    Not,
    Nor,
}

impl Policies {
    /// Compiles the policies of a configuration. Nothing can go wrong here: what cannot be a policy was refused when
    /// the configuration was read.
    #[must_use]
    pub fn compile(config: &Config) -> Self {
        Self::of(&config.routes)
    }

    pub(super) fn of(routes: &[Route]) -> Self {
        Self(routes.iter().map(|route| Compiled::new(&route.id, &route.policy)).collect())
    }

    /// Decides on a request to the route at `index`, for whoever is behind it. An index that no route has is denied.
    #[must_use]
    pub fn decide(&self, index: usize, request: &Canonical, caller: Option<&Caller>) -> Decision {
        self.0.get(index).map_or(Decision::NO_ROUTE, |policy| policy.decide(request, caller))
    }

    /// Whether the policy at `index` was compiled from the route with this id.
    pub(super) fn belongs_to(&self, index: usize, route: &str) -> bool {
        self.0.get(index).is_some_and(|policy| &*policy.route == route)
    }
}

impl Compiled {
    fn new(route: &str, policy: &Policy) -> Self {
        let blocks = |side: fn(&policy::Rule) -> Option<&policy::Actions>| {
            policy.rules.iter().filter_map(side).flat_map(Block::of).collect()
        };
        let (allow, deny) = (blocks(|rule| rule.allow.as_ref()), blocks(|rule| rule.deny.as_ref()));
        Self { route: route.into(), allow, deny }
    }

    fn decide(&self, request: &Canonical, caller: Option<&Caller>) -> Decision {
        let any = |blocks: &[Block]| Verdict::any(blocks.iter().map(|block| block.evaluate(request, caller)));
        Decision::new(any(&self.allow), any(&self.deny))
    }
}

impl Block {
    /// The operators of one action block are alternatives, so they stand beside those of all other rules. One without
    /// members is left out: it is never true, and has no reasons.
    fn of(actions: &policy::Actions) -> impl Iterator<Item = Self> {
        let operators = [
            (Operator::And, &actions.and),
            (Operator::Or, &actions.or),
            (Operator::Not, &actions.not),
            (Operator::Nor, &actions.nor),
        ];
        operators
            .into_iter()
            .filter(|(_, members)| !members.is_empty())
            .map(|(operator, members)| Self { operator, members: members.iter().map(Criterion::compile).collect() })
    }

    /// Every member is evaluated: the reasons of all are needed, and they choose the status.
    fn evaluate(&self, request: &Canonical, caller: Option<&Caller>) -> Verdict {
        let verdicts = self.members.iter().map(|member| member.evaluate(request, caller));
        match self.operator {
            Operator::And => Verdict::all(verdicts),
            Operator::Or => Verdict::any(verdicts),
            Operator::Not => Verdict::all(verdicts.map(Verdict::flipped)),
            Operator::Nor => Verdict::any(verdicts.map(Verdict::flipped)),
        }
    }
}
