//! The place that a permitted request takes among all that is open, and what its client may have there.

use http::StatusCode;
use portcullis_actors::authorize::Permit;
use portcullis_actors::clock;
use portcullis_actors::proxy::leash::Cut;

use super::Exchange;
use crate::answer::Answer;
use crate::forward::budget::Client;
use crate::open::{Kept, Ticket};

/// The client has too much under way.
pub(super) const TOO_MANY: Answer =
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, "Too many of your requests are under way. Try again in a moment.");

impl Exchange {
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
