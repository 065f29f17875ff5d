//! The place that a permitted request takes among all that is open, and what its client may have there.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use portcullis_actors::authorize::Permit;
use portcullis_actors::clock;
use portcullis_actors::proxy::leash::Cut;
use portcullis_config::Route;

use super::Exchange;
use crate::answer::Answer;
use crate::crowd::TooMany;
use crate::forward::UpstreamFault;
use crate::forward::body::AnswerBody;
use crate::forward::budget::Client;
use crate::metrics::tally::Bound;
use crate::open::{Kept, Ticket};

/// The body is larger than its route takes.
pub(super) const TOO_LARGE: Answer = Answer::new(UpstreamFault::TooLarge.status(), UpstreamFault::TooLarge.message());

/// The caller has sent more than `rate_limit` allows, and is to wait for so long.
pub(super) fn too_often(wait: Duration) -> Answer {
    let said = "Too many requests in too short a time. Try again in a moment.";
    Answer::new(StatusCode::TOO_MANY_REQUESTS, said).with_wait(wait)
}

/// The connection is one too many.
pub(super) const fn crowded(too_many: TooMany) -> Answer {
    match too_many {
        TooMany::InAll => Answer::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many people are connected right now. Please try again in a moment.",
        ),
        TooMany::FromOne => {
            Answer::new(StatusCode::TOO_MANY_REQUESTS, "Too many connections from your address. Close some of them.")
        }
    }
}

/// What it is counted as.
pub const fn bound_of(too_many: TooMany) -> Bound {
    match too_many {
        TooMany::InAll => Bound::Connections,
        TooMany::FromOne => Bound::ConnectionsOfClient,
    }
}

/// The client has too much under way.
pub(super) const TOO_MANY: Answer =
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, "Too many of your requests are under way. Try again in a moment.");

impl Exchange {
    /// A refusal because of a bound, which is counted.
    pub(super) fn refuse_at(self, bound: Bound, answer: Answer, route: Arc<Route>) -> Response<AnswerBody> {
        self.worker.log.tally().bound(bound);
        self.refuse(answer, bound.name(), Some(route))
    }

    /// The upstream has not answered the handshake of a WebSocket as it should.
    pub(super) fn refuse_handshake(self, route: Arc<Route>) -> Response<AnswerBody> {
        let fault = UpstreamFault::Broken;
        let answer = Answer::new(fault.status(), "The application did not answer as a WebSocket.");
        self.refuse(answer, fault.detail(), Some(route))
    }

    /// Enters the request in what this worker has open.
    ///
    /// # Errors
    /// The node stops, or the permit was lost while the decision was being made.
    pub(super) fn admit(&self, permit: &Permit) -> Result<Ticket, Cut> {
        let blueprint = &self.worker.blueprint;
        let kept = Kept(permit.standing());
        let still =
            |kept: &mut Kept| kept.is_still_permitted(&blueprint.in_force.now(), &blueprint.views, clock::now());
        self.worker.exchanges.admit(kept, &self.leash, self.heard, still)
    }

    /// Whose budget the request comes from.
    pub(super) fn client(&self, permit: &Permit) -> Client {
        permit.session().map_or(Client::Address(self.request.client()), Client::Session)
    }
}
