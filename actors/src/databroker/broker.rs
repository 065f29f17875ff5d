//! Owns   · the way in to databroker: hand-overs opened, tokens sealed into the vault, sessions begun and ended.
//! Answers · [`Open`], [`End`], [`Ask standing`](StandingOf).
//! Asks   · the journal, the vault, and the log (what its authority says of a session).
//! If it dies · a half-done [`Open`] is finished by the same message sent again; nobody is admitted before its end.

use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture};
use portcullis_config::limits::COMMAND_DEADLINE;
use portcullis_events::{Aggregate, Context as Cause, Epoch, SessionId, Time, session, token};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data_keys::{DataKey, DataKeyError, DataKeys};
use super::hand_over::{HandOver, SessionTokens, SignedInIdentity};
use super::journal::{Append, Command, Journal, JournalError};
use super::log::Log;
use super::profile::{Profile, observed_groups};
use super::revocations::Revocations;
use super::standing;
use super::tokens::tokens_of;
use super::vault::{Revision, Shelf, Vault, VaultError};
use super::view::Views;
use crate::ask::Ask;
use crate::clock;
use crate::keyring::{KeyError, Sealer};

/// Begin the session that a hand-over speaks of, or make sure that it is open. Sent twice, it opens once.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Opened, BrokerError>")]
pub struct Open {
    /// The sealed hand-over.
    pub hand_over: String,
    /// The host whose callback carried it.
    pub host: String,
    /// The request that carried it.
    pub request_id: String,
}

/// The session is open, and this node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The session.
    pub session: SessionId,
    /// The log it is on.
    pub epoch: Epoch,
    /// Where on the log it is open: a node that has read this far knows it.
    pub position: u64,
    /// When it ends by itself.
    pub expires_at: Time,
}

/// End a session because its person asks to.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Ended, BrokerError>")]
pub struct End {
    /// The session.
    pub session: SessionId,
    /// The request that asks.
    pub request_id: String,
}

/// The session has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The raw ID token, sealed for authenticate, for the provider's own sign-out.
    pub id_token_hint: Option<String>,
}

/// A session was in use: the log is to be told.
#[derive(Clone, Copy, Serialize, Deserialize, Message)]
#[rtype(result = "Result<(), BrokerError>")]
pub struct Seen {
    /// The session.
    pub session: SessionId,
    /// When it was last in use.
    pub at: Time,
}

/// What is a session, according to the log's authority?
#[derive(Clone, Copy, Serialize, Deserialize, Message)]
#[rtype(result = "Result<SessionStanding, BrokerError>")]
pub struct StandingOf {
    /// The session.
    pub session: SessionId,
}

/// What a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionStanding {
    /// Open, until then at most.
    Open {
        /// When it ends by itself.
        expires_at: Time,
    },
    /// Ended, or never begun.
    Shut,
}

/// Why databroker did not do it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum BrokerError {
    /// The hand-over is forged, for another host, too old, or speaks of a session that is over.
    #[error("refused: {0}")]
    Refused(String),
    /// The log or the vault did not answer in time; the same may be tried again.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl Ask for Open {
    type Answer = Result<Opened, BrokerError>;
}

impl Ask for End {
    type Answer = Result<Ended, BrokerError>;
}

impl Ask for StandingOf {
    type Answer = Result<SessionStanding, BrokerError>;
}

impl Ask for Seen {
    type Answer = Result<(), BrokerError>;
}

impl From<JournalError> for BrokerError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Session(refusal) => Self::Refused(refusal.to_string()),
            JournalError::Token(refusal) => Self::Refused(refusal.to_string()),
            JournalError::Logout(refusal) => Self::Refused(refusal.to_string()),
            JournalError::Misplaced | JournalError::Busy | JournalError::Unavailable(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

impl From<VaultError> for BrokerError {
    fn from(error: VaultError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<DataKeyError> for BrokerError {
    fn from(error: DataKeyError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<KeyError> for BrokerError {
    fn from(error: KeyError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The front of databroker.
pub struct Broker {
    inner: Rc<Inner>,
}

/// What a broker works with.
pub struct Tools {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The vault.
    pub vault: Arc<dyn Vault>,
    /// The data keys in it.
    pub data_keys: Rc<DataKeys>,
    /// The views of this node.
    pub views: Arc<Views>,
    /// The journal.
    pub journal: Addr<Journal>,
    /// Opens what authenticate sealed ([`crate::keyring::Purpose::HandOver`]).
    pub hand_overs: Sealer,
    /// Seals ID tokens for authenticate ([`crate::keyring::Purpose::IdTokenHint`]).
    pub id_token_hints: Sealer,
    /// Where the tokens of ended sessions go.
    pub revocations: Revocations,
}

struct Inner {
    tools: Tools,
}

impl Broker {
    /// A broker.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { inner: Rc::new(Inner { tools }) }
    }
}

impl Actor for Broker {
    type Context = Context<Self>;
}

impl Handler<Open> for Broker {
    type Result = ResponseFuture<Result<Opened, BrokerError>>;

    fn handle(&mut self, open: Open, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.open(&open).await })
    }
}

impl Handler<End> for Broker {
    type Result = ResponseFuture<Result<Ended, BrokerError>>;

    fn handle(&mut self, end: End, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.end(&end).await })
    }
}

impl Handler<StandingOf> for Broker {
    type Result = ResponseFuture<Result<SessionStanding, BrokerError>>;

    fn handle(&mut self, ask: StandingOf, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.standing(ask.session).await })
    }
}

impl Handler<Seen> for Broker {
    type Result = ResponseFuture<Result<(), BrokerError>>;

    fn handle(&mut self, seen: Seen, _: &mut Self::Context) -> Self::Result {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move { inner.seen(seen).await })
    }
}

impl Inner {
    /// Without a bound on idleness nobody needs to know.
    async fn seen(&self, Seen { session, at }: Seen) -> Result<(), BrokerError> {
        let Some(idle) = self.tools.views.idle() else { return Ok(()) };
        let command = Command::Session(session::Command::See { at, apart: idle.apart });
        let cause = Cause { actor: "databroker".into(), cause: None, traceparent: None };
        self.append(Aggregate::session(session), command, &cause).await?;
        Ok(())
    }

    async fn open(&self, open: &Open) -> Result<Opened, BrokerError> {
        let hand_over = HandOver::open(&self.tools.hand_overs, &open.host, &open.hand_over, clock::now())
            .ok_or_else(|| BrokerError::Refused("the hand-over is not ours, or too old".into()))?;
        match &hand_over.identity {
            // the same once more: what was said at the sign-in may not hold any longer
            Some(_) if self.tools.views.session(hand_over.session).is_some() => {
                self.open_again(hand_over.session).await
            }
            Some(identity) => self.open_new(hand_over.session, identity, &open.request_id).await,
            None => self.open_again(hand_over.session).await,
        }
    }

    /// The tokens and the groups first, the session last: it is admitted only when all the rest is there.
    async fn open_new(
        &self,
        session: SessionId,
        identity: &SignedInIdentity,
        request_id: &str,
    ) -> Result<Opened, BrokerError> {
        if let Some(why) = self.tools.views.progress.stopped() {
            return Err(BrokerError::Unavailable(why.to_string()));
        }
        // its hand-over may come again, from the browser's history: nothing of it is stored any more
        if let Some((_, SessionStanding::Shut)) = self.leader(session).await? {
            return Err(BrokerError::Refused("the session is over".into()));
        }
        let pseudonyms = self.tools.data_keys.pseudonyms().await?;
        let person = pseudonyms.person(&identity.issuer, &identity.subject);
        let key = self.tools.data_keys.get_or_make(person).await?;
        let cause = Cause { actor: format!("person:{person}"), cause: Some(request_id.to_owned()), traceparent: None };

        self.store_tokens(session, &key, &identity.tokens).await?;
        let stored = token::Stored {
            generation: 1,
            access_expires_at: identity.tokens.access_expires_at,
            refreshable: identity.tokens.refresh.is_some(),
        };
        let tokens = self.append(Aggregate::token(session), Command::Token(token::Command::Store(stored)), &cause);

        let observe = observed_groups(&pseudonyms, key.as_ref(), &identity.idp, person, &identity.claims)?;
        let observe = Command::Group(observe);
        let groups = self.append(Aggregate::group(person), observe, &cause);
        let (tokens, groups) = futures_util::future::join(tokens, groups).await;
        tokens?;
        groups?;

        let named = identity.claims.get("sid").and_then(Value::as_str);
        let signed_in = session::SignedIn {
            person,
            idp: identity.idp.clone(),
            profile: Profile { claims: identity.claims.clone() }.seal(&key, session)?,
            issued_at: identity.issued_at,
            expires_at: identity.expires_at,
            provider_session: named.map(|sid| pseudonyms.provider_session(&identity.issuer, sid)),
        };
        self.sign_in(session, signed_in, &cause).await
    }

    async fn sign_in(
        &self,
        session: SessionId,
        signed_in: session::SignedIn,
        cause: &Cause,
    ) -> Result<Opened, BrokerError> {
        let expires_at = signed_in.expires_at;
        let command = Command::Session(session::Command::Open(signed_in));
        match self.append(Aggregate::session(session), command, cause).await {
            // the log has the last word: a logout may have overtaken the sign-in
            Ok(_) if self.tools.views.progress.caught_up() && self.tools.views.session(session).is_none() => {
                Err(BrokerError::Refused("the person was logged out while they signed in".into()))
            }
            Ok(position) => self.opened(session, position, expires_at),
            // the same hand-over again, from the same browser
            Err(JournalError::Session(session::Refusal::AlreadyOpen)) => self.open_again(session).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn open_again(&self, session: SessionId) -> Result<Opened, BrokerError> {
        match self.leader(session).await? {
            Some((position, SessionStanding::Open { expires_at })) => {
                // opened through another node: this one answers when it knows the session too
                if !self.tools.views.progress.reaches(position, COMMAND_DEADLINE).await {
                    return Err(BrokerError::Unavailable("the session was not read back".into()));
                }
                self.opened(session, position, expires_at)
            }
            Some((_, SessionStanding::Shut)) | None => Err(BrokerError::Refused("the session is over".into())),
        }
    }

    fn opened(&self, session: SessionId, position: u64, expires_at: Time) -> Result<Opened, BrokerError> {
        let epoch = self.tools.views.progress.epoch();
        let epoch = epoch.ok_or_else(|| BrokerError::Unavailable("the log has not been read yet".into()))?;
        Ok(Opened { session, epoch, position, expires_at })
    }

    async fn store_tokens(&self, id: SessionId, key: &DataKey, tokens: &SessionTokens) -> Result<(), BrokerError> {
        let plain = serde_json::to_vec(tokens).map_err(|error| BrokerError::Refused(error.to_string()))?;
        let sealed = key.seal(&tokens_of(id), &plain)?.as_str().as_bytes().to_vec();
        match self.tools.vault.put(Shelf::Secret, &id.to_string(), Revision::NONE, sealed).await {
            // the same hand-over again: what lies there came from the same sign-in, or from a later refresh
            Ok(_) | Err(VaultError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What ends a session is the event. A vault that is away keeps nobody signed in: it costs the provider's own
    /// sign-out its hint, or leaves sealed tokens that nobody asks for any more.
    async fn end(&self, end: &End) -> Result<Ended, BrokerError> {
        let tokens = self.tokens(end.session).await.unwrap_or_else(|error| {
            tracing::warn!(%error, session = %end.session, "no hint for the provider's sign-out");
            None
        });
        let id_token_hint = tokens.as_ref().map(|tokens| self.id_token_hint(tokens)).transpose()?;
        let cause = Cause { actor: "person".into(), cause: Some(end.request_id.clone()), traceparent: None };
        let command = Command::Session(session::Command::SignOut);
        match self.append(Aggregate::session(end.session), command, &cause).await {
            Ok(_) => {}
            // it never began, or begins just now: its tokens are its opening's
            Err(JournalError::Session(session::Refusal::Absent)) => return Ok(Ended { id_token_hint }),
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = self.tools.vault.delete(Shelf::Secret, &end.session.to_string()).await {
            tracing::warn!(%error, session = %end.session, "the tokens of an ended session stay in the vault");
        }
        if let Some(tokens) = tokens {
            self.tools.revocations.begin(end.session, tokens);
        }
        Ok(Ended { id_token_hint })
    }

    fn id_token_hint(&self, tokens: &SessionTokens) -> Result<String, KeyError> {
        self.tools.id_token_hints.seal("authenticate", tokens.id_token.expose())
    }

    async fn tokens(&self, session: SessionId) -> Result<Option<SessionTokens>, BrokerError> {
        let Some(view) = self.tools.views.session(session) else { return Ok(None) };
        let Some(sealed) = self.tools.vault.get(Shelf::Secret, &session.to_string()).await? else { return Ok(None) };
        let Some(key) = self.tools.data_keys.get(view.person).await? else { return Ok(None) };
        Ok(std::str::from_utf8(&sealed.value)
            .ok()
            .and_then(|sealed| key.open(&tokens_of(session), sealed))
            .and_then(|plain| serde_json::from_slice(&plain).ok()))
    }

    async fn standing(&self, session: SessionId) -> Result<SessionStanding, BrokerError> {
        Ok(self.leader(session).await?.map_or(SessionStanding::Shut, |(_, standing)| standing))
    }

    async fn leader(&self, session: SessionId) -> Result<Option<(u64, SessionStanding)>, BrokerError> {
        standing::of(session, self.tools.log.as_ref(), &self.tools.views).await
    }

    async fn append(&self, aggregate: Aggregate, command: Command, cause: &Cause) -> Result<u64, JournalError> {
        let append = Append { aggregate, command, cause: cause.clone() };
        let sent = self.tools.journal.send(append).await;
        sent.map_err(|_| JournalError::Unavailable("the journal has stopped".into()))?.map(|appended| appended.seq)
    }
}
