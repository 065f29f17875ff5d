//! The decision line: what was decided, why, and on what state of the log and of the policy.

use portcullis_actors::authorize::Decision;
use portcullis_config::Route;
use portcullis_events::{PersonId, SessionId, Time};

use super::Exchange;
use crate::in_force::Rules;

impl Exchange {
    /// Writes the line; `session` is the caller's session, person and sequence.
    pub(super) fn record(
        &self,
        decision: &Decision,
        rules: &Rules,
        route: &Route,
        session: Option<(SessionId, PersonId, u64)>,
        now: Time,
    ) {
        let progress = &self.worker.blueprint.views.progress;
        self.worker.log.line("authorize check", |line| {
            line.text("request-id", &self.request_id);
            line.truth("allow", decision.allow());
            line.list(
                if decision.allow() { "allow-why-true" } else { "allow-why-false" },
                decision.allow_reasons().names(),
            );
            line.truth("deny", decision.deny());
            line.list(
                if decision.deny() { "deny-why-true" } else { "deny-why-false" },
                decision.deny_reasons().names(),
            );
            line.text("method", self.request.method().as_str());
            line.text("host", self.request.host());
            line.text("path", self.request.path());
            line.plain("ip", self.request.client());
            line.text("route-id", &route.id);
            line.text("policy-revision", rules.revision.as_str());
            if let Some((id, person, seq)) = session {
                line.plain("session-id", id);
                line.plain("person", person);
                line.number("session-sequence", seq);
            }
            line.number("log-sequence", progress.applied());
            line.number("log-lag", progress.lag());
            // milliseconds; absent before the log was read to its end for the first time
            if let Some(age) = progress.staleness(now) {
                line.number("staleness", u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            }
        });
    }
}
