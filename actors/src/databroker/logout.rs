//! Owns   · nothing: which logouts were received stands on the log.
//! Answers · [`LogOut`]: a logout of a provider, verified by authenticate.
//! Asks   · the log (where it ends), and the journal.
//! If it dies · a half-done logout is finished by the same message sent again: what has ended stays so.

use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture};
use futures_util::{StreamExt, TryStreamExt};
use portcullis_config::limits::{LOGOUT_IN_FLIGHT, READ_YOUR_WRITES};
use portcullis_events::{Aggregate, Context as Cause, PersonId, SessionId, logout, session};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::broker::BrokerError;
use super::data_keys::DataKeys;
use super::journal::{Append, Command, Journal, JournalError};
use super::log::Log;
use super::view::{SessionView, Views};
use crate::ask::Ask;

/// End what a provider says has ended: the sessions of a person, or the one it knows by `sid`.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<LoggedOut, BrokerError>")]
pub struct LogOut {
    /// The id of the identity provider.
    pub idp: String,
    /// Its issuer.
    pub issuer: String,
    /// `sub`; at least one of this and `sid` is there.
    pub subject: Option<String>,
    /// `sid`: the provider's own name for one of its sessions.
    pub sid: Option<String>,
    /// `jti`: a logout is taken once.
    pub token_id: String,
    /// The request that carried it.
    pub request_id: String,
}

/// Every session that the logout meant has ended, and this node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedOut {
    /// How many there were.
    pub sessions: usize,
}

impl Ask for LogOut {
    type Answer = Result<LoggedOut, BrokerError>;
}

/// What logouts are carried out with.
pub struct Tools {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The data keys in it.
    pub data_keys: Rc<DataKeys>,
    /// The views of this node.
    pub views: Arc<Views>,
    /// The journal.
    pub journal: Addr<Journal>,
}

/// Where logouts of providers arrive.
pub struct Logouts {
    tools: Rc<Tools>,
}

impl Logouts {
    /// Carries out logouts.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { tools: Rc::new(tools) }
    }
}

impl Actor for Logouts {
    type Context = Context<Self>;
}

impl Handler<LogOut> for Logouts {
    type Result = ResponseFuture<Result<LoggedOut, BrokerError>>;

    fn handle(&mut self, log_out: LogOut, _: &mut Self::Context) -> Self::Result {
        let tools = Rc::clone(&self.tools);
        Box::pin(async move { tools.log_out(&log_out).await })
    }
}

impl Tools {
    /// The sessions first, then the memory of the logout: one that breaks off in between may be sent again. Whoever is
    /// signing in meanwhile gets no session after that; what began between the two is ended last.
    async fn log_out(&self, log_out: &LogOut) -> Result<LoggedOut, BrokerError> {
        let level = self.draw_level().await?;
        let pseudonyms = self.data_keys.pseudonyms().await?;
        let logout = Aggregate::logout(pseudonyms.logout(&log_out.issuer, &log_out.token_id));
        let before = self.log.last(logout).await.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        if before.is_some() {
            return Err(BrokerError::Refused(logout::Refusal::Known.to_string()));
        }
        let person = log_out.subject.as_deref().map(|subject| pseudonyms.person(&log_out.issuer, subject));
        let cause =
            Cause { actor: format!("idp:{}", log_out.idp), cause: Some(log_out.request_id.clone()), traceparent: None };
        let ended = self.end_all(log_out, person, 0, &cause).await?;
        let session = log_out.sid.as_deref().map(|sid| pseudonyms.provider_session(&log_out.issuer, sid));
        let received = logout::Received { idp: log_out.idp.clone(), person, session };
        self.append(logout, Command::Logout(logout::Command::Receive(received)), &cause).await?;
        let late = self.end_all(log_out, person, level, &cause).await?;
        Ok(LoggedOut { sessions: ended + late })
    }

    /// Ends what is meant of what has changed since a sequence, and says how many there were.
    async fn end_all(
        &self,
        log_out: &LogOut,
        person: Option<PersonId>,
        since: u64,
        cause: &Cause,
    ) -> Result<usize, BrokerError> {
        let meant = self.meant(log_out, person, since).await?;
        let ends = futures_util::stream::iter(meant.iter().map(|id| self.end(*id, cause)));
        ends.buffer_unordered(LOGOUT_IN_FLIGHT).try_collect::<()>().await?;
        Ok(meant.len())
    }

    /// Every session that the log's authority knows of is in the views: the one that is meant may be a moment old.
    /// How far the log went.
    async fn draw_level(&self) -> Result<u64, BrokerError> {
        let unavailable = |why: &str| BrokerError::Unavailable(why.to_owned());
        let progress = &self.views.progress;
        let head = self.log.head().await.map_err(|error| unavailable(&error.to_string()))?;
        if !progress.caught_up() || !progress.reaches(head.last, READ_YOUR_WRITES).await {
            return Err(unavailable("the log was not read to its end"));
        }
        match progress.stopped() {
            Some(why) => Err(unavailable(&why)),
            None => Ok(head.last),
        }
    }

    async fn meant(
        &self,
        log_out: &LogOut,
        person: Option<PersonId>,
        since: u64,
    ) -> Result<Vec<SessionId>, BrokerError> {
        let (views, idp, sid) = (Arc::clone(&self.views), log_out.idp.clone(), log_out.sid.clone());
        if person.is_none() && sid.is_none() {
            return Err(BrokerError::Refused("the logout names neither a person nor a session".into()));
        }
        // all sessions of the node are looked at: away from the thread that everything else here runs on
        let looked = tokio::task::spawn_blocking(move || {
            let found = views.find_since(since, person, |view| is_meant(view, &idp, person.is_some(), sid.as_deref()));
            found.iter().map(|view| view.id).collect::<Vec<_>>()
        });
        looked.await.map_err(|_| BrokerError::Unavailable("the node is stopping".into()))
    }

    async fn end(&self, id: SessionId, cause: &Cause) -> Result<(), BrokerError> {
        let reason = "logged out at the identity provider".to_owned();
        let command = Command::Session(session::Command::Revoke { reason });
        // its tokens are the caretaker's
        Ok(self.append(Aggregate::session(id), command, cause).await?)
    }

    async fn append(&self, aggregate: Aggregate, command: Command, cause: &Cause) -> Result<(), JournalError> {
        let append = Append { aggregate, command, cause: cause.clone() };
        let sent = self.journal.send(append).await;
        sent.map_err(|_| JournalError::Unavailable("the journal has stopped".into()))?.map(|_| ())
    }
}

/// Whoever is named must be the right one, each by each. A provider that names its session in logout tokens alone may
/// mean any of the person's that it never named.
fn is_meant(view: &SessionView, idp: &str, names_person: bool, sid: Option<&str>) -> bool {
    let known = view.claims.get("sid").and_then(Value::as_str);
    view.idp == idp && sid.is_none_or(|sid| known.map_or(names_person, |known| known == sid))
}
