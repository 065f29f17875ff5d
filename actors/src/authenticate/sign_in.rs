//! Owns   · nothing that outlives a message: a sign-in under way is sealed into its browser's cookie.
//! Answers · [`Arrive`] (a browser with a signed URL), [`Return`] (back from the provider), [`Leave`] (sign-out).
//! Asks   · the provider, and databroker (is the session of this browser still open?).
//! If it dies · sign-ins under way go on at its successor, on any node: their state travels with the browser.

use std::rc::Rc;

use actix::{Actor, Context, Handler, ResponseFuture};
use aws_lc_rs::constant_time;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::Cookie;
use portcullis_config::limits::{CLOCK_LEEWAY, REDIRECT_BYTES, SIGN_IN_LIFE, SIGNED_URL_LIFE};
use portcullis_events::{Epoch, SessionId, Time};
use url::Url;
use uuid::Uuid;

use super::cookie::SetCookie;
use super::keepsake::{self, Keepsake};
use super::program::Waiting;
use super::provider::{Begin, EndSession, Redeem};
use super::start::parameter;
pub use super::steps::{Arrive, Leave, Return, SignInFault, Step, Way};
use crate::ask::Port;
use crate::clock;
use crate::databroker::broker::{BrokerError, SessionStanding, StandingOf};
use crate::databroker::hand_over::{HandOver, SessionTokens, SignedInIdentity};
use crate::idp::Identity;
use crate::keyring::handle::Handle;
use crate::keyring::signed_url::UrlSigner;
use crate::keyring::{KeyError, Sealer, random};

/// What the sign-in works with.
pub struct Tools {
    /// The scheme, host and port of this component, as browsers know it.
    pub url: Url,
    /// How cookies look.
    pub cookie: Cookie,
    /// The id of the identity provider.
    pub idp: String,
    /// The provider.
    pub begin: Port<Begin>,
    /// The provider.
    pub redeem: Port<Redeem>,
    /// The provider.
    pub end_session: Port<EndSession>,
    /// databroker.
    pub standing: Port<StandingOf>,
    /// URLs between proxy and us.
    pub signer: UrlSigner,
    /// Keepsakes.
    pub keepsakes: Sealer,
    /// Handles.
    pub handles: Sealer,
    /// Hand-overs.
    pub hand_overs: Sealer,
    /// ID token hints.
    pub id_token_hints: Sealer,
}

/// The relying party.
pub struct SignIn {
    tools: Rc<Tools>,
}

impl SignIn {
    /// A relying party.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { tools: Rc::new(tools) }
    }
}

impl Actor for SignIn {
    type Context = Context<Self>;
}

impl Handler<Arrive> for SignIn {
    type Result = ResponseFuture<Result<Step, SignInFault>>;

    fn handle(&mut self, arrive: Arrive, _: &mut Self::Context) -> Self::Result {
        let tools = Rc::clone(&self.tools);
        Box::pin(async move { tools.arrive(&arrive, clock::now()).await })
    }
}

impl Handler<Return> for SignIn {
    type Result = ResponseFuture<Result<Step, SignInFault>>;

    fn handle(&mut self, returned: Return, _: &mut Self::Context) -> Self::Result {
        let tools = Rc::clone(&self.tools);
        Box::pin(async move { tools.returned(&returned, clock::now()).await })
    }
}

impl Handler<Leave> for SignIn {
    type Result = ResponseFuture<Option<Url>>;

    fn handle(&mut self, leave: Leave, _: &mut Self::Context) -> Self::Result {
        let tools = Rc::clone(&self.tools);
        Box::pin(async move { tools.leave(leave).await })
    }
}

impl Tools {
    async fn arrive(&self, arrive: &Arrive, now: Time) -> Result<Step, SignInFault> {
        let bad = |error: &dyn std::fmt::Display| SignInFault::BadRequest(error.to_string());
        self.signer.verify(&arrive.url, now).map_err(|error| bad(&error))?;
        let url = Url::parse(&arrive.url).map_err(|error| bad(&error))?;
        let redirect_uri = parameter(&url, "pomerium_redirect_uri").map_err(|error| bad(&error))?;
        let redirect_uri = Url::parse(&redirect_uri).map_err(|error| bad(&error))?;
        let waiting = Waiting::read(&url).map_err(|error| bad(&error))?;

        match self.open_session(arrive.handle.as_deref(), now).await? {
            Some(session) => {
                let way = self.to_proxy(&redirect_uri, &waiting, session, None, now)?;
                Ok(Step { way, cookies: Vec::new() })
            }
            None => self.to_provider(redirect_uri, waiting, &arrive.surplus, now).await,
        }
    }

    /// The session this browser already has here, if the log's authority says that it is open.
    async fn open_session(&self, handle: Option<&str>, now: Time) -> Result<Option<SessionId>, SignInFault> {
        let Some(handle) = handle.and_then(|text| Handle::open(&self.handles, self.host(), text, now)) else {
            return Ok(None);
        };
        match self.standing.ask(StandingOf { session: handle.session }).await? {
            Ok(SessionStanding::Open { .. }) => Ok(Some(handle.session)),
            Ok(SessionStanding::Shut) => Ok(None),
            Err(BrokerError::Refused(why) | BrokerError::Unavailable(why)) => Err(SignInFault::Unavailable(why)),
        }
    }

    async fn to_provider(
        &self,
        redirect_uri: Url,
        waiting: Waiting,
        surplus: &[String],
        now: Time,
    ) -> Result<Step, SignInFault> {
        let [state, nonce, verifier] = [random_text()?, random_text()?, random_text()?];
        let begin = Begin { state: state.clone(), nonce: nonce.clone(), verifier: verifier.clone() };
        let url = self.begin.ask(begin).await??;
        let idp = self.idp.clone();
        let keepsake = Keepsake { state: state.clone(), nonce, verifier, redirect_uri, waiting, idp, made_at: now };
        let plain = serde_json::to_vec(&keepsake).map_err(|_| KeyError::Derive)?;
        let sealed = self.keepsakes.seal(self.host(), &plain)?;
        let kept = keepsake::kept(&self.cookie.name, &state, &sealed);
        let mut cookies = kept.ok_or_else(|| SignInFault::BadRequest("the URL is too long to come back to".into()))?;
        cookies.extend(surplus.iter().cloned().map(keepsake::gone));
        Ok(Step { way: Way::Redirect(url), cookies })
    }

    async fn returned(&self, returned: &Return, now: Time) -> Result<Step, SignInFault> {
        let (keepsake, spent) = self.keepsake(returned, now)?;
        let redeem = Redeem {
            code: returned.code.clone(),
            verifier: keepsake.verifier,
            nonce: keepsake.nonce,
            iss: returned.iss.clone(),
        };
        let identity = self.redeem.ask(redeem).await??;

        let session = SessionId::new(Uuid::new_v4());
        let expires_at = now.plus(self.cookie.expire);
        let identity = self.signed_in(identity, now, expires_at);
        let way = self.to_proxy(&keepsake.redirect_uri, &keepsake.waiting, session, Some(identity), now)?;

        // of this host alone: it says nothing of the log, which only databroker knows
        let handle = Handle { session, epoch: Epoch::new(Uuid::nil()), position: 0, issued_at: now, expires_at };
        let handle = handle.seal(&self.handles, self.host())?;
        let mut cookies = vec![SetCookie::authenticate(&self.cookie, handle, self.cookie.expire)];
        cookies.extend(spent);
        Ok(Step { way, cookies })
    }

    /// The keepsake of this return, and the end of its cookies.
    fn keepsake(&self, returned: &Return, now: Time) -> Result<(Keepsake, Vec<SetCookie>), SignInFault> {
        let opened = returned.keepsakes.iter().find_map(|sealed| {
            let keepsake: Keepsake = serde_json::from_slice(&self.keepsakes.open(self.host(), sealed)?).ok()?;
            let same = constant_time::verify_slices_are_equal(keepsake.state.as_bytes(), returned.state.as_bytes());
            same.is_ok().then(|| (keepsake, keepsake::spent(&self.cookie.name, &returned.state, sealed)))
        });
        let (keepsake, spent) = opened.ok_or_else(|| {
            SignInFault::BadRequest("the sign-in was not begun in this browser, or it took too long".into())
        })?;
        let in_time = now < keepsake.made_at.plus(SIGN_IN_LIFE) && now >= keepsake.made_at.minus(CLOCK_LEEWAY);
        if !in_time {
            return Err(SignInFault::BadRequest("the sign-in took too long".into()));
        }
        if keepsake.idp != self.idp {
            return Err(SignInFault::BadRequest("the sign-in was begun at another provider".into()));
        }
        Ok((keepsake, spent))
    }

    fn signed_in(&self, identity: Identity, issued_at: Time, expires_at: Time) -> SignedInIdentity {
        let tokens = SessionTokens {
            access: identity.tokens.access,
            refresh: identity.tokens.refresh,
            id_token: identity.tokens.id_token,
            access_expires_at: identity.tokens.access_expires_at,
        };
        SignedInIdentity {
            idp: self.idp.clone(),
            issuer: identity.issuer,
            subject: identity.subject,
            claims: identity.claims,
            tokens,
            issued_at,
            expires_at,
        }
    }

    /// The callback at the host where the sign-in comes home, sealed for databroker and signed for the proxy.
    fn to_proxy(
        &self,
        redirect_uri: &Url,
        waiting: &Waiting,
        session: SessionId,
        identity: Option<SignedInIdentity>,
        now: Time,
    ) -> Result<Way, SignInFault> {
        let mut callback = waiting.callback(redirect_uri);
        let host = callback.host_str().ok_or_else(|| SignInFault::BadRequest("no host to return to".into()))?;
        let hand_over = HandOver { session, valid_until: now.plus(SIGNED_URL_LIFE), identity };
        let hand_over = hand_over.seal(&self.hand_overs, host)?;
        let (name, value) = waiting.mark();
        callback
            .query_pairs_mut()
            .append_pair("pomerium_redirect_uri", redirect_uri.as_str())
            .append_pair(name, value)
            .append_pair("pomerium_session_encrypted", &hand_over);
        let signed = self.signer.sign(callback, now);
        if signed.as_str().len() <= REDIRECT_BYTES {
            return Ok(Way::Redirect(signed));
        }
        let fields = signed.query_pairs().into_owned().collect();
        let mut action = signed;
        action.set_query(None);
        Ok(Way::Form { action, fields })
    }

    async fn leave(&self, leave: Leave) -> Option<Url> {
        let hint = leave.id_token_hint.and_then(|sealed| self.id_token_hints.open("authenticate", &sealed));
        let end = EndSession {
            id_token_hint: hint.and_then(|hint| String::from_utf8(hint).ok()),
            post_logout_redirect_uri: leave.post_logout_redirect_uri,
        };
        // a provider that is down keeps nobody signed in here
        self.end_session.ask(end).await.ok().flatten()
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

fn random_text() -> Result<String, KeyError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}
