//! authorize in another process: how a proxy asks it for each request, for its own pages, and for what is open.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use portcullis_actors::ask::{AskError, Port};
use portcullis_actors::authenticate::identify::CannotSay;
use portcullis_actors::authorize::check::{Again, CannotCheck, Check, Checked, Handed, Keys, OneAgain, Who};
use portcullis_actors::authorize::{self, Decision, Mismatch, Permit, RefusalKind};
use portcullis_actors::clock;
use portcullis_actors::databroker::view::SessionView;
use portcullis_actors::proxy::connections::Scopes;
use portcullis_actors::proxy::listener::Heard;
use portcullis_actors::remote::{Link, subjects};
use portcullis_actors::request::Canonical;
use portcullis_actors::request::described::Described;
use portcullis_config::Route;
use portcullis_config::limits::{
    ASK_AGAIN_BATCH, ASK_AGAIN_DEADLINE, ASKS_IN_FLIGHT, CHECK_ATTEMPT, CHECK_DEADLINE, READ_YOUR_WRITES,
};

use crate::open::{Exchanges, Kept};

/// The ways to authorize in other processes.
#[derive(Clone)]
pub struct Apart {
    check: Port<Check>,
    again: Port<Again>,
    who: Port<Who>,
    keys: Port<Keys>,
    heard: Heard,
}

/// Why there is no decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoDecision {
    /// No answer that can be believed.
    #[error(transparent)]
    Unanswered(#[from] AskError),
    /// Authorize could not decide.
    #[error(transparent)]
    Undecided(#[from] CannotCheck),
    /// What it said is not about this request.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

impl Apart {
    /// The ways on a link.
    pub fn on(link: &Link, heard: Heard) -> Self {
        let (attempt, slow) = (Some(CHECK_ATTEMPT), ASK_AGAIN_DEADLINE);
        Self {
            check: link.port(subjects::CHECK, ASKS_IN_FLIGHT, CHECK_DEADLINE, attempt),
            again: link.port(subjects::AGAIN, ASKS_IN_FLIGHT, slow, Some(slow / 10)),
            who: link.port(subjects::WHO, ASKS_IN_FLIGHT, slow, Some(slow / 2)),
            keys: link.port(subjects::KEYS, ASKS_IN_FLIGHT, slow, Some(slow / 5)),
            heard,
        }
    }

    /// Has a request decided on.
    ///
    /// # Errors
    /// [`NoDecision`]; nothing is permitted then.
    pub async fn check(
        &self,
        request: &Rc<Canonical>,
        route: &Arc<Route>,
        presented: Option<Handed>,
    ) -> Result<(Checked, Decision, Result<Permit, RefusalKind>), NoDecision> {
        let began = Instant::now();
        let described = Rc::new(Described::of(request));
        loop {
            let asked_at = clock::now();
            let check = Check {
                request: (*described).clone(),
                route: route.id.clone(),
                presented: presented.clone(),
                known: self.heard.mark(),
            };
            let checked = match self.check.ask(check).await? {
                Ok(checked) => checked,
                Err(error) => return Err(error.into()),
            };
            // a session that was begun a moment ago has not reached whoever answered
            if checked.unknown == Some(CannotSay::Behind) && began.elapsed() < READ_YOUR_WRITES {
                continue;
            }
            let (request, described, route) = (Rc::clone(request), Rc::clone(&described), Arc::clone(route));
            match authorize::admit(request, described, route, &checked, (asked_at, clock::now())) {
                // on its way what it was made from became too old, only just: the next is younger
                Err(Mismatch::Late) if began.elapsed() < READ_YOUR_WRITES => {}
                admitted => {
                    let (decision, outcome) = admitted?;
                    return Ok((checked, decision, outcome));
                }
            }
        }
    }

    /// Whose session it is, and what is known of them.
    ///
    /// # Errors
    /// [`CannotSay`].
    pub async fn who(&self, who: Who) -> Result<Option<SessionView>, CannotSay> {
        self.who.ask(who).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "authorize does not say who is calling");
            Err(CannotSay::Unread)
        })
    }

    /// The public keys of assertions, as JSON; `None` where authorize does not answer.
    pub async fn keys(&self) -> Option<String> {
        self.keys.ask(Keys).await.ok()
    }

    /// Asks about everything open that is due; true if something may have to be cut.
    pub async fn ask_again(&self, open: &Exchanges) -> bool {
        let now = clock::now();
        let mut batches: Vec<(usize, Vec<(u64, OneAgain)>)> = Vec::new();
        open.each(&Scopes::All, |id, kept: &mut Kept| {
            let Some(one) = kept.0.due(now) else { return };
            let size = one.request.size();
            match batches.last_mut() {
                Some((bytes, batch)) if batch.len() < ASK_AGAIN_BATCH.0 && *bytes + size <= ASK_AGAIN_BATCH.1 => {
                    *bytes += size;
                    batch.push((id, one));
                }
                _ => batches.push((size, vec![(id, one)])),
            }
        });
        let mut is_lost = false;
        for (_, batch) in batches {
            let (ids, permits): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let said = self.again.ask(Again { known: self.heard.mark(), permits }).await;
            let said = said.ok().filter(|said| said.len() == ids.len());
            is_lost |= said.as_ref().is_none_or(|said| !said.iter().all(|one| one.is_ok_and(|one| one.holds)));
            for (at, id) in ids.into_iter().enumerate() {
                let one = said.as_ref().and_then(|said| said.get(at));
                open.tell(id, |kept| match one {
                    Some(one) => kept.0.hear(one, now),
                    None => kept.0.doubt(),
                });
            }
        }
        is_lost
    }
}
