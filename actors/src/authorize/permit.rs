//! The proof that a request may pass, and its only maker.

use std::rc::Rc;
use std::sync::Arc;

use portcullis_config::Route;
use portcullis_events::{SessionId, Time};

use super::decision::{Decision, RefusalKind};
use super::policies::Policies;
use crate::authenticate::Caller;
use crate::databroker::view::Views;
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

impl Permit {
    /// What stays of it when it is spent.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let (request, route) = (Rc::clone(&self.request), Arc::clone(&self.route));
        Standing { request, route, caller: self.caller.clone() }
    }
}

/// What a spent permit leaves behind: enough to ask whether it would be given again.
#[derive(Clone)]
pub struct Standing {
    request: Rc<Canonical>,
    route: Arc<Route>,
    caller: Option<Caller>,
}

impl Standing {
    /// The request.
    #[must_use]
    pub fn request(&self) -> &Canonical {
        &self.request
    }

    /// The session behind it.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.caller.as_ref().map(|caller| caller.session().id)
    }

    /// When that session ends by itself, as far as it was last looked at.
    #[must_use]
    pub fn ends_at(&self) -> Option<Time> {
        self.caller.as_ref().map(|caller| caller.session().expires_at)
    }

    /// Whether the permit would be given again at `now`: the request still leads to the same route, which is at `index`
    /// now; its session is open, if it had one; and the policy says yes to who is behind it now.
    #[must_use]
    pub fn holds(&mut self, policies: &Policies, index: usize, route: &Route, views: &Views, now: Time) -> bool {
        let same = route.id == self.route.id && policies.belongs_to(index, &route.id);
        if !same || (self.request.is_websocket() && !route.allow_websockets) {
            return false;
        }
        if let Some(caller) = &self.caller {
            let Some(again) = caller.again(views, now) else { return false };
            self.caller = Some(again);
        }
        policies.decide(index, &self.request, self.caller.as_ref()).outcome().is_ok()
    }
}
