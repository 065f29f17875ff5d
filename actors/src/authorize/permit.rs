//! The proof that a request may pass, and its only maker.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_config::Route;

use super::decision::{Decision, RefusalKind};
use super::policies::Policies;
use crate::authenticate::Caller;
use crate::request::Canonical;

/// One request that may go to one route, for whoever is behind it. It is made by [`authorize`] alone, is spent by
/// forwarding and cannot be copied.
#[must_use]
pub struct Permit {
    request: Rc<Canonical>,
    route: Arc<Route>,
    caller: Option<Caller>,
}

/// Decides on a request to a route. The decision is for the log, whatever came of it.
///
/// `index` and `route` name the same route; where they do not, the request is refused: a policy never decides for a
/// route that it was not written for.
pub fn authorize(
    policies: &Policies,
    index: usize,
    route: Arc<Route>,
    request: Rc<Canonical>,
    caller: Option<Caller>,
) -> (Decision, Result<Permit, RefusalKind>) {
    let decision = if policies.belongs_to(index, &route.id) {
        policies.decide(index, &request, caller.as_ref())
    } else {
        Decision::NO_ROUTE
    };
    (decision, decision.outcome().map(|()| Permit { request, route, caller }))
}

impl Permit {
    /// The request.
    #[must_use]
    pub fn request(&self) -> &Canonical {
        &self.request
    }

    /// Where it may go.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Who is behind it.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }
}
