//! The client of an OpenID provider: what it may say, and who a person is once everything it said was checked.
//!
//! Nothing here is believed because a library believes it: `id_token` checks the ID token by a list of its own,
//! `address` says what may be called at all, `http` bounds every answer.

mod address;
mod claims;
mod discovery;
mod http;
mod id_token;
mod json;
mod jws;
mod keys;
mod logout_token;
mod profile;
mod relying_party;
mod renewal;
mod revocation;
mod token_request;

pub use logout_token::Logout;
pub use profile::{Profile, profile};
pub(crate) use relying_party::{Answer, RelyingParty};
pub use renewal::{Evidence, Observed, RefreshError, Renewal, RenewalClient, Renewals};

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::databroker::hand_over::SessionTokens;

/// Who signed in, after everything was checked.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The issuer.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// All claims of the ID token and of user info.
    pub claims: Map<String, Value>,
    /// The tokens.
    pub tokens: SessionTokens,
}

/// Why there is no identity. Holds no token, code or other word of the provider's own, so that it may be logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SignInError {
    /// The answer cannot be believed; the same answer never will be.
    #[error("refused: {0}")]
    Refused(#[from] Because),
    /// There was no answer, or the provider says that it has trouble; the same may be tried again.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// What was wrong with what a provider said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Because {
    /// It sends us elsewhere; we never follow.
    #[error("the {0} answered with a redirect")]
    Redirect(Endpoint),
    /// Another status than 200.
    #[error("the {endpoint} answered with status {status}")]
    Status {
        /// Who answered.
        endpoint: Endpoint,
        /// The status.
        status: u16,
    },
    /// More than we read.
    #[error("the answer of the {0} is too large")]
    TooLarge(Endpoint),
    /// A content coding, though we asked for none: what it unpacks to has no bound.
    #[error("the answer of the {0} has a content coding")]
    Encoded(Endpoint),
    /// Not HTTP, not JSON, or JSON of another shape.
    #[error("the answer of the {0} is not what it should be")]
    Garbage(Endpoint),
    /// The discovery document is of another issuer than the one configured.
    #[error("the discovery document names another issuer")]
    OtherIssuer,
    /// A URL in the discovery document must not be called.
    #[error("the provider's {0} is not an address that may be called")]
    Address(Cow<'static, str>),
    /// The discovery document lacks what a sign-in needs.
    #[error("the provider has no {0}")]
    Lacks(Cow<'static, str>),
    /// The authorization response came from another issuer (RFC 9207).
    #[error("the authorization response names another issuer")]
    ResponseIssuer,
    /// The provider promised to name itself in the authorization response and did not (RFC 9207).
    #[error("the authorization response names no issuer")]
    NoResponseIssuer,
    /// The code verifier is not one of RFC 7636.
    #[error("the code verifier is malformed")]
    Verifier,
    /// The token endpoint said no (RFC 6749 §5.2): its error code.
    #[error("the token endpoint answered `{0}`")]
    Grant(String),
    /// The access token is not a bearer token.
    #[error("the access token is of another type than bearer")]
    TokenType,
    /// A token that is missing, too long or malformed: its parameter.
    #[error("no usable `{0}` in the answer of the token endpoint")]
    Token(Cow<'static, str>),
    /// The ID token is not a JWS in compact form over a JSON object, or says something twice.
    #[error("the ID or logout token is malformed")]
    Malformed,
    /// The ID token is signed in a way we do not allow, or not at all.
    #[error("the algorithm of the ID or logout token is not allowed")]
    Algorithm,
    /// The ID token demands something of its reader (RFC 7515 §4.1.11).
    #[error("the ID or logout token has a critical extension")]
    Critical,
    /// The token is made for another purpose (RFC 8725 §3.11).
    #[error("the ID or logout token is of another type")]
    Type,
    /// No key, or more than one, in the provider's key set fits the ID token.
    #[error("no key of the provider fits the ID or logout token")]
    NoKey,
    /// The signature does not hold.
    #[error("the signature of the ID or logout token does not hold")]
    Signature,
    /// A claim of the ID token is not as it must be.
    #[error("the claim `{claim}` of the ID or logout token {fault}")]
    Claim {
        /// Its name.
        claim: Cow<'static, str>,
        /// What is wrong.
        fault: ClaimFault,
    },
    /// A logout token that could be an ID token, or the other way round.
    #[error("a logout token has a nonce")]
    Nonce,
    /// User info is about somebody else.
    #[error("user info is about another subject than the ID token")]
    OtherSubject,
    /// The claims are more than a session can carry.
    #[error("the claims of the ID token and of user info are too large")]
    TooMuch,
    /// The person has more groups than a session can carry; the provider can be told to send fewer.
    #[error("the person has too many groups")]
    TooManyGroups,
}

/// What can be wrong with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ClaimFault {
    /// Not there.
    #[error("is missing")]
    Missing,
    /// Of another JSON type, or out of every range.
    #[error("is malformed")]
    Malformed,
    /// Not what we expect.
    #[error("has another value than it must")]
    Other,
    /// A time that has passed.
    #[error("is in the past")]
    Past,
    /// A time that has not come.
    #[error("is in the future")]
    Future,
}

/// Whom we called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[expect(missing_docs, reason = "the names are the endpoints'")]
pub enum Endpoint {
    #[error("discovery endpoint")]
    Discovery,
    #[error("key set endpoint")]
    Keys,
    #[error("token endpoint")]
    Token,
    #[error("user info endpoint")]
    UserInfo,
    #[error("revocation endpoint")]
    Revocation,
}
