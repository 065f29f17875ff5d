//! Owns   · nothing: a logout is verified here and carried out by databroker.
//! Answers · [`Deliver`]: a logout token, from a provider.
//! Asks   · the provider (is the token good?) and databroker (end what it means).
//! If it dies · the provider hears that the logout failed; the same token is taken by its successor.

use std::rc::Rc;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use serde::{Deserialize, Serialize};

use super::provider::VerifyLogout;
use crate::ask::{Ask, AskError, Port};
use crate::databroker::broker::BrokerError;
use crate::databroker::logout::LogOut;
use crate::idp::SignInError;

/// Take a logout token (OpenID Connect Back-Channel Logout 1.0 §2.5).
#[derive(Clone, Serialize, Deserialize, Message)]
#[rtype(result = "Result<Delivered, LogoutFault>")]
pub struct Deliver {
    /// The token, as it came.
    pub logout_token: String,
    /// The request that carried it.
    pub request_id: String,
}

/// What it means has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// How many sessions that were.
    pub sessions: usize,
}

/// Why a logout did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LogoutFault {
    /// The token cannot be believed, or came before.
    #[error("refused: {0}")]
    Refused(String),
    /// The provider's keys, the log or the vault cannot be had; the same token may be sent again.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl Ask for Deliver {
    type Answer = Result<Delivered, LogoutFault>;
}

impl From<SignInError> for LogoutFault {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Refused(because) => Self::Refused(because.to_string()),
            SignInError::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl From<BrokerError> for LogoutFault {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Refused(why) => Self::Refused(why),
            BrokerError::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl From<AskError> for LogoutFault {
    fn from(error: AskError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What the back channel works with.
pub struct Tools {
    /// The id of the identity provider.
    pub idp: String,
    /// The provider.
    pub verify: Port<VerifyLogout>,
    /// databroker.
    pub log_out: Port<LogOut>,
}

/// Where a provider speaks to us without a browser.
pub struct BackChannel {
    tools: Rc<Tools>,
}

impl BackChannel {
    /// A back channel of one provider.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { tools: Rc::new(tools) }
    }
}

impl Actor for BackChannel {
    type Context = Context<Self>;
}

impl Handler<Deliver> for BackChannel {
    type Result = ResponseFuture<Result<Delivered, LogoutFault>>;

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) -> Self::Result {
        let tools = Rc::clone(&self.tools);
        Box::pin(async move { tools.deliver(deliver).await })
    }
}

impl Tools {
    async fn deliver(&self, deliver: Deliver) -> Result<Delivered, LogoutFault> {
        let logout = self.verify.ask(VerifyLogout { token: deliver.logout_token }).await??;
        let log_out = LogOut {
            idp: self.idp.clone(),
            issuer: logout.issuer,
            subject: logout.subject,
            sid: logout.sid,
            token_id: logout.token_id,
            request_id: deliver.request_id,
        };
        Ok(Delivered { sessions: self.log_out.ask(log_out).await??.sessions })
    }
}
