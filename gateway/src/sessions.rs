//! `portcullis sessions`: what is open according to the log, and its end by command.
//!
//! Beside running gateways: a replica of its own, and the same compare-and-append that they use. Never shows a token.

pub mod print;

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr};
use anyhow::{Context, Result, anyhow, bail};
use portcullis_actors::authenticate::provider_id;
use portcullis_actors::clock;
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::journal::{Append, Command, Journal, JournalError};
use portcullis_actors::databroker::replica::{Read, Replica, State};
use portcullis_actors::databroker::store;
use portcullis_actors::databroker::view::{SessionView, Views};
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_config::Config;
use portcullis_config::limits::SESSIONS_DEADLINE;
use portcullis_events::{Aggregate, Context as Cause, LogoutId, PersonId, SessionId, logout, session};

use crate::cli::SessionsCommand;
use crate::state_dir;

/// The log has never heard of a session.
#[derive(Debug, thiserror::Error)]
#[error("there is no session {0}")]
pub struct NoSuchSession(SessionId);

/// Carries a command out and says what is to be printed.
///
/// # Errors
/// [`NoSuchSession`]; the log cannot be reached, read or written.
pub async fn carry_out(command: &SessionsCommand, config: &Config, data_dir: &Path) -> Result<String> {
    let reading = Reading::open(config, data_dir).await?;
    let json = command.options().json;
    match command {
        SessionsCommand::List { .. } => {
            let open = reading.open_sessions(|_| true);
            if json { print::list_json(&open) } else { Ok(print::table(&open)) }
        }
        SessionsCommand::Show { id, .. } => {
            let shown = reading.show(*id).await?;
            if json { print::shown_json(&shown) } else { Ok(print::shown(&shown)) }
        }
        SessionsCommand::Revoke { id, user, reason, .. } => {
            let revoked = match (id, user) {
                (Some(id), _) => reading.revoke(*id, reason).await?.then_some(*id).into_iter().collect(),
                (None, Some(user)) => reading.revoke_all(user, reason).await?,
                (None, None) => bail!("nobody was named"),
            };
            if json { print::revoked_json(&revoked) } else { Ok(print::revoked(&revoked)) }
        }
    }
}

/// A session that was asked for.
pub enum Shown {
    /// It is open.
    Open(Arc<SessionView>),
    /// It is over: signed out, revoked, past its end or idle for too long.
    Over(SessionId),
}

/// The log, read to its end once.
struct Reading {
    views: Arc<Views>,
    replica: Addr<Replica>,
    journal: Addr<Journal>,
    data_keys: Rc<DataKeys>,
    /// The id and the issuer of the identity provider, if one is configured.
    provider: Option<(String, String)>,
}

impl Reading {
    async fn open(config: &Config, data_dir: &Path) -> Result<Self> {
        let secret = match &config.shared_secret {
            Some(secret) => secret.clone(),
            None => state_dir::kept_secret(data_dir, "shared_secret")?,
        };
        let wrapping = Keyring::new(vec![secret])?.sealer(Purpose::DataKey)?;
        let store = store::open_beside(&config.storage, data_dir).await?;
        if store.log.head().await?.last == 0 {
            bail!("the log is empty: no gateway has written to it yet");
        }
        let views = Arc::new(Views::with_idle_timeout(config.session_idle_timeout));
        let data_keys = Rc::new(DataKeys::new(Arc::clone(&store.vault), wrapping));
        let source = format!("/portcullis/cli-{}", uuid::Uuid::new_v4());
        let keys = Rc::clone(&data_keys);
        let replica = Replica::new(Arc::clone(&store.log), keys, Arc::clone(&views), source.clone()).start();
        let journal = Journal::new(Arc::clone(&store.log), replica.clone(), Arc::clone(&views), source).start();
        if !views.progress.becomes_current(SESSIONS_DEADLINE).await {
            return Err(anyhow!("{}", views.progress.standing(clock::now()))).context("the log cannot be read");
        }
        let provider = config.idp.as_ref().map(|idp| (provider_id(idp), idp.issuer.clone()));
        Ok(Self { views, replica, journal, data_keys, provider })
    }

    /// The open sessions that are as `wanted`, the oldest first.
    fn open_sessions(&self, wanted: impl Fn(&SessionView) -> bool) -> Vec<Arc<SessionView>> {
        let now = clock::now();
        let mut open = self.views.find(None, |view| view.is_open(now) && wanted(view));
        open.sort_by_key(|view| (view.issued_at, view.id));
        open
    }

    async fn show(&self, id: SessionId) -> Result<Shown> {
        match self.views.session(id).filter(|view| view.is_open(clock::now())) {
            Some(view) => Ok(Shown::Open(view)),
            None => match self.state(id).await? {
                session::State::Absent => Err(NoSuchSession(id).into()),
                session::State::Open(_) | session::State::Ended => Ok(Shown::Over(id)),
            },
        }
    }

    async fn state(&self, id: SessionId) -> Result<session::State> {
        match self.replica.send(Read(Aggregate::session(id))).await?.state {
            State::Session(state) => Ok(state),
            State::Log | State::Token(_) | State::Group(_) | State::Logout(_) => bail!("{id} is no session"),
        }
    }

    /// Ends a session; false if it had ended before.
    async fn revoke(&self, id: SessionId, reason: &str) -> Result<bool> {
        let before = self.state(id).await?;
        let command = Command::Session(session::Command::Revoke { reason: reason.to_owned() });
        let cause = Cause { actor: "cli".into(), cause: None, traceparent: None };
        match self.journal.send(Append { aggregate: Aggregate::session(id), command, cause }).await? {
            Ok(_) => {}
            Err(JournalError::Session(session::Refusal::Absent)) => return Err(NoSuchSession(id).into()),
            Err(error) => return Err(error.into()),
        }
        // its tokens are given back by a node, now or when one runs again
        Ok(before != session::State::Ended)
    }

    /// Ends all sessions of a person, and the sign-ins that are under way: those of whoever has that user id, and of
    /// whoever is signed in with that address.
    async fn revoke_all(&self, user: &str, reason: &str) -> Result<Vec<SessionId>> {
        let is_theirs = |view: &SessionView| view.user == user || view.email.as_deref() == Some(user);
        let mut people: BTreeMap<PersonId, String> =
            self.open_sessions(is_theirs).iter().map(|view| (view.person, view.idp.clone())).collect();
        if let Some((idp, issuer)) = &self.provider {
            people.insert(self.data_keys.pseudonyms().await?.person(issuer, user), idp.clone());
        }
        for (person, idp) in people {
            self.log_out(person, idp).await.context("nothing was revoked")?;
        }
        // a session that began before that is among them, and none begins after
        let theirs = self.open_sessions(is_theirs);
        let mut revoked = Vec::new();
        for view in theirs {
            if self.revoke(view.id, reason).await.with_context(|| format!("{} were revoked", revoked.len()))? {
                revoked.push(view.id);
            }
        }
        Ok(revoked)
    }

    /// Whoever is signing in now is signed in no more when they have done.
    async fn log_out(&self, person: PersonId, idp: String) -> Result<()> {
        let received = logout::Received { idp, person: Some(person), session: None };
        let command = Command::Logout(logout::Command::Receive(received));
        let cause = Cause { actor: "cli".into(), cause: None, traceparent: None };
        let aggregate = Aggregate::logout(LogoutId::new(uuid::Uuid::new_v4()));
        self.journal.send(Append { aggregate, command, cause }).await??;
        Ok(())
    }
}
