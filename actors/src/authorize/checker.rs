//! Owns   · the assertions that it signed lately.
//! Answers · [`Check`], [`Again`], [`Who`] and [`Keys`]: a proxy in another process.
//! Asks   · nobody: it reads the views of this process, and what is in force.
//! If it dies · proxies ask another process, or refuse; the node stops in order.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, ResponseFuture};
use portcullis_config::Staleness;
use portcullis_config::limits::{CHECK_PATIENCE, READ_YOUR_WRITES};
use portcullis_events::Time;

use super::assertion::{AssertionCache, removed_groups};
use super::authorizer::Compiled;
use super::check::{
    Again, CannotCheck, Check, Checked, Handed, Keys, KnownSession, LogState, Mark, OneAgain, StillHeld, Who,
};
use super::{authorize, identity};
use crate::authenticate::Caller;
use crate::authenticate::identify::{CannotSay, Identifier, open_session, vouched};
use crate::clock;
use crate::databroker::view::{SessionView, Views};
use crate::keyring::Sealer;
use crate::keyring::assertion::AssertionKeys;

/// What requests of others are decided with.
pub struct Tools {
    /// The views of this process.
    pub views: Arc<Views>,
    /// What is in force now.
    pub in_force: Box<dyn Fn() -> Arc<Compiled>>,
    /// Opens handles.
    pub handles: Sealer,
    /// The id of the identity provider.
    pub idp: Arc<str>,
    /// The assertion's keys.
    pub keys: Arc<AssertionKeys>,
}

/// Decides for proxies in other processes.
pub struct Checker {
    inner: Rc<Inner>,
}

struct Inner {
    tools: Tools,
    assertions: AssertionCache,
}

impl Checker {
    /// A checker.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { inner: Rc::new(Inner { tools, assertions: AssertionCache::default() }) }
    }
}

impl Actor for Checker {
    type Context = Context<Self>;
}

impl Handler<Check> for Checker {
    type Result = ResponseFuture<Result<Checked, CannotCheck>>;

    fn handle(&mut self, check: Check, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.check(check).await })
    }
}

impl Handler<Again> for Checker {
    type Result = ResponseFuture<Vec<Result<StillHeld, CannotSay>>>;

    fn handle(&mut self, again: Again, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.again(&again).await })
    }
}

impl Handler<Who> for Checker {
    type Result = ResponseFuture<Result<Option<SessionView>, CannotSay>>;

    fn handle(&mut self, who: Who, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.who(&who).await })
    }
}

impl Handler<Keys> for Checker {
    type Result = String;

    fn handle(&mut self, _: Keys, _: &mut Self::Context) -> String {
        self.inner.tools.keys.jwks().to_owned()
    }
}

impl Inner {
    async fn check(&self, check: Check) -> Result<Checked, CannotCheck> {
        let now = clock::now();
        let rules = (self.tools.in_force)();
        let (index, route) = rules.route(&check.route).ok_or(CannotCheck::Route)?;
        let request = Rc::new(check.request.canonical().map_err(|_| CannotCheck::Request)?);
        // who asks has found the way: a host that is not the route's was found by another file
        if !route.from.takes_host(request.host()) {
            return Err(CannotCheck::Route);
        }
        let identified = match &check.presented {
            // another process may have read further, and said so
            Some(_) if !self.has_read(check.known, CHECK_PATIENCE).await => Err(CannotSay::Behind),
            Some(handed) => self.identify(handed, now, route.max_staleness, CHECK_PATIENCE).await,
            None => Ok(None),
        };
        let (caller, unknown) = match identified {
            Ok(caller) => (caller, None),
            Err(reason) => (None, Some(reason)),
        };
        let session = caller.as_ref().map(|caller| known(caller.session()));
        let removed_groups = caller.as_ref().map_or(0, |caller| removed_groups(caller.session(), route));
        let (decision, outcome) = authorize(&rules.policies, index, Arc::clone(route), request, caller);
        let identity = match outcome {
            Ok(permit) => {
                let (headers, keys) = (&rules.config.jwt_claims_headers, &self.tools.keys);
                identity::headers(&permit, headers, keys, &self.assertions, now).map_err(|error| {
                    tracing::error!(%error, "an assertion cannot be made");
                    CannotCheck::Assertion
                })?
            }
            Err(_) => Vec::new(),
        };
        let text = |value: &http::HeaderValue| value.to_str().map(str::to_owned).map_err(|_| CannotCheck::Assertion);
        let identity = identity.iter().map(|(name, value)| Ok((name.as_str().to_owned(), text(value)?)));
        Ok(Checked {
            request: check.request.hash(),
            route: route.id.clone(),
            decision,
            session,
            identity: identity.collect::<Result<_, _>>()?,
            claims_headers: rules.config.jwt_claims_headers.iter().map(|(name, _)| name.as_str().to_owned()).collect(),
            log: self.log(now),
            revision: rules.revision.clone(),
            unknown,
            removed_groups,
        })
    }

    async fn identify(
        &self,
        handed: &Handed,
        now: Time,
        bound: Staleness,
        patience: Duration,
    ) -> Result<Option<Caller>, CannotSay> {
        let Tools { handles, views, idp, .. } = &self.tools;
        let identifier = Identifier { handles, views, idp, patience };
        identifier.identify(&handed.audience, &handed.handle, now, bound).await
    }

    /// Whether these views hold what a word named, or do so within `patience`. A word about another log, which took the
    /// place of this one or lies behind it, says nothing of this one: the tail finds that out.
    async fn has_read(&self, known: Option<Mark>, patience: Duration) -> bool {
        let progress = &self.tools.views.progress;
        let Some(mark) = known.filter(|mark| progress.epoch() == Some(mark.epoch)) else { return true };
        progress.applied() >= mark.position || progress.reaches(mark.position, patience).await
    }

    async fn again(&self, again: &Again) -> Vec<Result<StillHeld, CannotSay>> {
        // another process may have read further, and said so
        if !self.has_read(again.known, READ_YOUR_WRITES).await {
            return again.permits.iter().map(|_| Err(CannotSay::Behind)).collect();
        }
        let (rules, now) = ((self.tools.in_force)(), clock::now());
        again.permits.iter().map(|permit| self.one_again(&rules, permit, now)).collect()
    }

    fn one_again(&self, rules: &Compiled, permit: &OneAgain, now: Time) -> Result<StillHeld, CannotSay> {
        let age = self.log(now).age();
        let void = Ok(StillHeld { holds: false, age });
        let Some((index, route)) = rules.route(&permit.route) else { return void };
        let Ok(request) = permit.request.canonical() else { return void };
        if request.is_websocket() && !route.allow_websockets {
            return void;
        }
        let caller = match permit.session {
            Some(session) => {
                vouched(&self.tools.views.progress, now, route.max_staleness)?;
                let view = self.tools.views.session(session).filter(|view| view.idp == *self.tools.idp);
                let Some(caller) = view.and_then(|view| Caller::of(view, now)) else { return void };
                Some(caller)
            }
            None => None,
        };
        let holds = rules.policies.decide(index, &request, caller.as_ref()).outcome().is_ok();
        Ok(StillHeld { holds, age })
    }

    async fn who(&self, who: &Who) -> Result<Option<SessionView>, CannotSay> {
        let now = clock::now();
        let bound = (self.tools.in_force)().config.max_staleness;
        match who {
            Who::Handed(handed) => {
                Ok(self.identify(handed, now, bound, READ_YOUR_WRITES).await?.map(|caller| caller.session().clone()))
            }
            Who::Session(session) => {
                let view = open_session(&self.tools.views, &self.tools.idp, *session, now, bound)?;
                Ok(view.map(|view| (*view).clone()))
            }
        }
    }

    fn log(&self, now: Time) -> LogState {
        LogState::of(&self.tools.views.progress, now)
    }
}

fn known(session: &SessionView) -> KnownSession {
    KnownSession { id: session.id, person: session.person, seq: session.seq, expires_at: session.expires_at }
}
