//! The proof that a request may pass, and its only maker.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use portcullis_config::limits::RECONSIDER;
use portcullis_config::{Route, Staleness};
use portcullis_events::{SessionId, Time};

use super::check::{Checked, KnownSession, OneAgain, StillHeld};
use super::decision::{Decision, RefusalKind};
use super::policies::Policies;
use crate::authenticate::Caller;
use crate::authenticate::identify::CannotSay;
use crate::databroker::view::Views;
use crate::request::Canonical;
use crate::request::described::Described;

/// One request that may go to one route, for whoever is behind it. It is made by [`authorize`], or by [`admit`] from what
/// authorize in another process said; it is spent by forwarding and cannot be copied.
#[must_use]
pub struct Permit {
    request: Rc<Canonical>,
    route: Arc<Route>,
    behind: Behind,
}

/// Who is behind a request.
#[derive(Clone)]
enum Behind {
    /// Identified here.
    Caller(Option<Caller>),
    /// Identified in another process.
    Told(Told),
}

/// What authorize in another process said.
#[derive(Clone)]
struct Told {
    session: Option<KnownSession>,
    described: Rc<Described>,
    identity: Rc<[(HeaderName, HeaderValue)]>,
    claims_headers: Rc<[HeaderName]>,
    vouched_at: Time,
}

impl Told {
    /// Whether what was known of the session, if there is one, may still be believed on a route.
    fn is_in_time(&self, route: &Route, now: Time) -> bool {
        self.session
            .is_none_or(|session| now < session.expires_at && route.max_staleness.allows(now.since(self.vouched_at)))
    }
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
    (decision, decision.outcome().map(|()| Permit { request, route, behind: Behind::Caller(caller) }))
}

/// What was said is not about this request, or not about this route: nothing is permitted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It names another request.
    #[error("the answer is about another request")]
    Request,
    /// It names another route.
    #[error("the answer is about another route")]
    Route,
    /// It carries an identity header that is no header.
    #[error("the answer has a header that is none")]
    Header,
    /// It names somebody to the upstream, and no session.
    #[error("the answer contradicts itself")]
    Contradiction,
    /// What it was made from is too old by now for the route, or the session has ended.
    #[error("the answer came too late")]
    Late,
}

/// Turns the answer of authorize in another process into a permit for the very request and route that it was asked
/// about. `asked_at` is when it was asked: what it knew is no younger; `now`, when the permit is made. The answer itself must have been believed
/// already: that it is authorize's, and the one to this question, is proved by how it came ([`crate::remote::envelope`]).
///
/// # Errors
/// [`Mismatch`].
pub fn admit(
    request: Rc<Canonical>,
    described: Rc<Described>,
    route: Arc<Route>,
    checked: &Checked,
    (asked_at, now): (Time, Time),
) -> Result<(Decision, Result<Permit, RefusalKind>), Mismatch> {
    if checked.request != described.hash() || *described != Described::of(&request) {
        return Err(Mismatch::Request);
    }
    if checked.route != route.id {
        return Err(Mismatch::Route);
    }
    let identity = checked.identity.iter().map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)));
    let identity: Option<Vec<(HeaderName, HeaderValue)>> = identity.collect();
    let identity = identity.ok_or(Mismatch::Header)?;
    let claims_headers = checked.claims_headers.iter().map(|name| name.parse().ok()).collect::<Option<Vec<_>>>();
    let claims_headers = claims_headers.ok_or(Mismatch::Header)?;
    if checked.session.is_none() && !identity.is_empty() {
        return Err(Mismatch::Contradiction);
    }
    let told = Told {
        session: checked.session,
        described,
        identity: identity.into(),
        claims_headers: claims_headers.into(),
        vouched_at: asked_at.minus(checked.log.age()),
    };
    let outcome = checked.decision.outcome();
    if outcome.is_ok() && !told.is_in_time(&route, now) {
        return Err(Mismatch::Late);
    }
    Ok((checked.decision, outcome.map(|()| Permit { request, route, behind: Behind::Told(told) })))
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

    /// Whom an assertion is made for: the route's host as it was configured, and the request's own only where that is a
    /// wildcard which stands for it.
    #[must_use]
    pub fn audience(&self) -> &str {
        let (from, host) = (&self.route.from, self.request.host());
        if from.takes_host(host) { host } else { &from.host }
    }

    /// Who is behind it, where that was found out in this process.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        match &self.behind {
            Behind::Caller(caller) => caller.as_ref(),
            Behind::Told(_) => None,
        }
    }

    /// The session behind it.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.behind.session()
    }

    /// The identity headers that came with it from another process.
    #[must_use]
    pub fn told(&self) -> Option<&[(HeaderName, HeaderValue)]> {
        match &self.behind {
            Behind::Caller(_) => None,
            Behind::Told(told) => Some(&told.identity),
        }
    }

    /// The headers that only the gateway may set by the file of the process that decided, if that is another.
    #[must_use]
    pub fn claims_headers_told(&self) -> &[HeaderName] {
        match &self.behind {
            Behind::Caller(_) => &[],
            Behind::Told(told) => &told.claims_headers,
        }
    }
}

impl Behind {
    fn session(&self) -> Option<SessionId> {
        match self {
            Self::Caller(caller) => caller.as_ref().map(|caller| caller.session().id),
            Self::Told(told) => told.session.map(|session| session.id),
        }
    }
}

impl Permit {
    /// What stays of it when it is spent.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let (request, route) = (Rc::clone(&self.request), Arc::clone(&self.route));
        let (behind, asked_at) = (self.behind.clone(), None);
        Standing { request, route, behind, asked_at, is_void: false }
    }
}

/// What a spent permit leaves behind: enough to ask whether it would be given again.
#[derive(Clone)]
pub struct Standing {
    request: Rc<Canonical>,
    route: Arc<Route>,
    behind: Behind,
    /// When authorize in another process was last asked; `None`: it is to be asked as soon as can be.
    asked_at: Option<Time>,
    /// It said no.
    is_void: bool,
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
        self.behind.session()
    }

    /// When that session ends by itself, as far as it was last looked at.
    #[must_use]
    pub fn ends_at(&self) -> Option<Time> {
        match &self.behind {
            Behind::Caller(caller) => caller.as_ref().map(|caller| caller.session().expires_at),
            Behind::Told(told) => told.session.map(|session| session.expires_at),
        }
    }

    /// Whether the permit would be given again at `now`: the request still leads to the same route, which is at `index`
    /// now; its session is open, if it had one; and the policy says yes to who is behind it now. Where authorize runs in
    /// another process: it has not said no since, and what it knew then is not too old for the route.
    #[must_use]
    pub fn holds(&mut self, policies: &Policies, index: usize, route: &Route, views: &Views, now: Time) -> bool {
        let same = route.id == self.route.id && policies.belongs_to(index, &route.id);
        if !same || (self.request.is_websocket() && !route.allow_websockets) {
            return false;
        }
        match &mut self.behind {
            Behind::Caller(caller) => {
                if let Some(before) = caller {
                    let Some(again) = before.again(views, now) else { return false };
                    *caller = Some(again);
                }
                policies.decide(index, &self.request, caller.as_ref()).outcome().is_ok()
            }
            Behind::Told(told) => {
                told.is_in_time(route, now) && !self.is_void && told.described.has_the_certificate_of(&self.request)
            }
        }
    }

    /// What authorize in another process is to be asked about this permit, if that is due at `now`: within the route's
    /// bound, in case a word was lost.
    #[must_use]
    pub fn due(&mut self, now: Time) -> Option<OneAgain> {
        let Behind::Told(told) = &self.behind else { return None };
        let pause = match self.route.max_staleness {
            Staleness::Within(bound) => RECONSIDER.min(bound / 3),
            Staleness::Unbounded => RECONSIDER,
        };
        if self.is_void || self.asked_at.is_some_and(|asked_at| now.since(asked_at) < pause && now >= asked_at) {
            return None;
        }
        self.asked_at = Some(now);
        Some(OneAgain {
            request: (*told.described).clone(),
            route: self.route.id.clone(),
            session: told.session.map(|session| session.id),
        })
    }

    /// Authorize in another process is to be asked as soon as can be.
    pub const fn doubt(&mut self) {
        self.asked_at = None;
    }

    /// What it said when it was asked at `asked_at`; no answer changes nothing, and time goes on.
    pub fn hear(&mut self, said: &Result<StillHeld, CannotSay>, asked_at: Time) {
        let Behind::Told(told) = &mut self.behind else { return };
        match said {
            Ok(StillHeld { holds: false, .. }) => self.is_void = true,
            Ok(StillHeld { age, .. }) => told.vouched_at = told.vouched_at.max(asked_at.minus(*age)),
            Err(_) => {}
        }
    }
}
