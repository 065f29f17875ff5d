//! Who is calling and what they may: judged here, or by authorize in another process.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_actors::authenticate::identify::CannotSay;
use portcullis_actors::authorize::assertion::removed_groups;
use portcullis_actors::authorize::authorizer::Revision;
use portcullis_actors::authorize::check::LogState;
use portcullis_actors::authorize::{self, Decision, Permit, RefusalKind};
use portcullis_actors::request::Presented;
use portcullis_config::Route;
use portcullis_events::{PersonId, SessionId, Time};

use super::Exchange;
use crate::apart::{Apart, NoDecision};
use crate::in_force::Rules;

/// A decision, with what the log is to know of it.
pub(super) struct Judgement {
    /// What was decided, and why.
    pub(super) decision: Decision,
    /// What follows from it.
    pub(super) outcome: Result<Permit, RefusalKind>,
    /// The caller's session, person and sequence.
    pub(super) session: Option<(SessionId, PersonId, u64)>,
    /// Why it cannot be told who is calling.
    pub(super) unknown: Option<CannotSay>,
    /// The log that it was decided on.
    pub(super) log: LogState,
    /// The configuration that it was decided by.
    pub(super) revision: Revision,
    /// Groups that the assertion leaves out.
    pub(super) removed_groups: usize,
}

impl Exchange {
    /// By the views of this process.
    pub(super) async fn judge_here(
        &self,
        rules: &Rules,
        index: usize,
        route: &Arc<Route>,
        presented: Option<&Presented>,
        now: Time,
    ) -> Judgement {
        let identified = match presented {
            Some(presented) => self.worker.desk.identify(&self.request, presented, now, route.max_staleness).await,
            None => Ok(None),
        };
        // a node that cannot say who is calling treats the caller as nobody, and says so where somebody is needed
        let (caller, unknown) = match identified {
            Ok(caller) => (caller, None),
            Err(reason) => (None, Some(reason)),
        };
        let session =
            caller.as_ref().map(|caller| (caller.session().id, caller.session().person, caller.session().seq));
        let removed_groups = caller.as_ref().map_or(0, |caller| removed_groups(caller.session(), route));
        let (decision, outcome) =
            authorize::authorize(&rules.policies, index, Arc::clone(route), Rc::clone(&self.request), caller);
        let log = LogState::of(&self.worker.blueprint.views.progress, now);
        Judgement { decision, outcome, session, unknown, log, revision: rules.revision.clone(), removed_groups }
    }

    /// By authorize in another process.
    ///
    /// # Errors
    /// [`NoDecision`].
    pub(super) async fn judge_apart(
        &self,
        apart: &Apart,
        route: &Arc<Route>,
        presented: Option<&Presented>,
    ) -> Result<Judgement, NoDecision> {
        let handed = presented.map(|presented| self.worker.desk.handed(&self.request, presented));
        let (checked, decision, outcome) = apart.check(&self.request, route, handed).await?;
        Ok(Judgement {
            decision,
            outcome,
            session: checked.session().map(|session| (session.id, session.person, session.seq)),
            unknown: checked.unknown,
            log: checked.log(),
            removed_groups: checked.removed_groups,
            revision: checked.revision,
        })
    }
}
