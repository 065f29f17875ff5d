//! The decision line: what was decided, why, and on what state of the log and of the policy.

use portcullis_config::Route;

use super::Exchange;
use super::judgement::Judgement;

impl Exchange {
    /// Writes the line.
    pub(super) fn record(&self, judgement: &Judgement, route: &Route) {
        let Judgement { decision, session, log, revision, removed_groups, .. } = judgement;
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
            line.text("policy-revision", revision.as_str());
            if let Some((id, person, seq)) = *session {
                line.plain("session-id", id);
                line.plain("person", person);
                line.number("session-sequence", seq);
            }
            if *removed_groups > 0 {
                line.number("removed-groups-count", *removed_groups);
            }
            line.number("log-sequence", log.applied);
            line.number("log-lag", log.lag);
            // milliseconds; absent before the log was read to its end for the first time
            if let Some(age) = log.staleness {
                line.number("staleness", age);
            }
        });
    }
}
