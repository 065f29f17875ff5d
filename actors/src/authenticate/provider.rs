//! Owns   · what is known of one identity provider: its discovery document and its keys, each for a while.
//! Answers · [`Begin`], [`Redeem`], [`EndSession`], [`VerifyLogout`].
//! Asks   · nobody here; the provider, over HTTP.
//! If it dies · sign-ins fail until its successor has asked the provider again; nobody who is signed in notices.

use std::rc::Rc;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use portcullis_config::IdentityProvider;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::ask::Ask;
use crate::clock;
use crate::idp::{Answer, Identity, Logout, RelyingParty, SignInError};

/// The authorization URL of a new sign-in.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Url, SignInError>")]
pub struct Begin {
    /// `state`.
    pub state: String,
    /// `nonce`.
    pub nonce: String,
    /// The PKCE code verifier (RFC 7636): 43 to 128 characters.
    pub verifier: String,
}

/// Turn an authorization code into an identity.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Identity, SignInError>")]
pub struct Redeem {
    /// The authorization code.
    pub code: String,
    /// The PKCE code verifier.
    pub verifier: String,
    /// The nonce that the ID token must carry.
    pub nonce: String,
    /// The issuer that the response named (RFC 9207).
    pub iss: Option<String>,
}

/// Where the provider's own sign-out lies, if it has one.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Option<Url>")]
pub struct EndSession {
    /// The raw ID token.
    pub id_token_hint: Option<String>,
    /// Where the provider sends the browser afterwards.
    pub post_logout_redirect_uri: Url,
}

/// Check a logout token.
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Logout, SignInError>")]
pub struct VerifyLogout {
    /// The token, as it came.
    pub token: String,
}

impl Ask for Begin {
    type Answer = Result<Url, SignInError>;
}

impl Ask for Redeem {
    type Answer = Result<Identity, SignInError>;
}

impl Ask for EndSession {
    type Answer = Option<Url>;
}

impl Ask for VerifyLogout {
    type Answer = Result<Logout, SignInError>;
}

/// The relying party's side of one identity provider.
pub struct Provider {
    party: Rc<RelyingParty>,
}

impl Provider {
    /// A client of `config` whose callback is `/oauth2/callback` on the authenticate host. Make it on the thread that it
    /// runs on.
    #[must_use]
    pub fn new(config: IdentityProvider, authenticate_url: Url) -> Self {
        Self { party: Rc::new(RelyingParty::new(config, authenticate_url)) }
    }
}

impl Actor for Provider {
    type Context = Context<Self>;

    /// Asks for the discovery document, so that what is wrong with it is in the log before anybody signs in.
    fn started(&mut self, ctx: &mut Self::Context) {
        let party = Rc::clone(&self.party);
        let discover = async move {
            if let Err(error) = party.discover(clock::now()).await {
                warn(&party, &error);
            }
        };
        ctx.spawn(discover.into_actor(self));
    }
}

impl Handler<Begin> for Provider {
    type Result = ResponseFuture<Result<Url, SignInError>>;

    fn handle(&mut self, Begin { state, nonce, verifier }: Begin, _: &mut Self::Context) -> Self::Result {
        let party = Rc::clone(&self.party);
        Box::pin(async move {
            party.begin(state, nonce, verifier, clock::now()).await.inspect_err(|error| warn(&party, error))
        })
    }
}

impl Handler<Redeem> for Provider {
    type Result = ResponseFuture<Result<Identity, SignInError>>;

    fn handle(&mut self, redeem: Redeem, _: &mut Self::Context) -> Self::Result {
        let party = Rc::clone(&self.party);
        let Redeem { code, verifier, nonce, iss } = redeem;
        let answer = Answer { code, verifier, nonce, iss };
        Box::pin(async move { party.redeem(answer, clock::now()).await.inspect_err(|error| warn(&party, error)) })
    }
}

impl Handler<EndSession> for Provider {
    type Result = ResponseFuture<Option<Url>>;

    fn handle(&mut self, end: EndSession, _: &mut Self::Context) -> Self::Result {
        let party = Rc::clone(&self.party);
        Box::pin(async move {
            let hint = end.id_token_hint.as_deref();
            party.end_session(hint, &end.post_logout_redirect_uri, clock::now()).await
        })
    }
}

impl Handler<VerifyLogout> for Provider {
    type Result = ResponseFuture<Result<Logout, SignInError>>;

    fn handle(&mut self, VerifyLogout { token }: VerifyLogout, _: &mut Self::Context) -> Self::Result {
        let party = Rc::clone(&self.party);
        Box::pin(async move { party.verify_logout(&token, clock::now()).await })
    }
}

/// What went wrong belongs in the log; pages never show it.
fn warn(party: &RelyingParty, error: &SignInError) {
    tracing::warn!(issuer = party.issuer(), %error, "the identity provider cannot be used for a sign-in");
}
