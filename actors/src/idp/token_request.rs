//! The token requests (RFC 6749 §4.1.3, §6) and what may come back for them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreTokenIntrospectionResponse,
};
use openidconnect::{
    AccessToken, AuthorizationCode, Client, EmptyAdditionalClaims, EndpointNotSet, EndpointSet, IdToken,
    OAuth2TokenResponse, PkceCodeVerifier, RefreshToken, RequestTokenError, Scope, StandardErrorResponse,
    TokenResponse, TokenType,
};
use portcullis_config::Secret;
use portcullis_config::limits::IDP_TOKEN_BYTES;
use portcullis_events::Time;
use serde::{Deserialize, Serialize};

use super::http::{Http, Missed, media_type};
use super::renewal::{RefreshError, Renewal};
use super::{Because, Endpoint, SignInError};
use crate::databroker::hand_over::SessionTokens;

/// Longest life of an access token that is believed: what an `i32` of seconds holds.
const LONGEST_LIFE: u64 = 0x7fff_ffff;

/// A client of the authorization and the token endpoint. It reads no ID token: [`TokenAnswer`] keeps it raw.
pub(super) type CodeClient<HasUrls = EndpointSet> = Client<
    EmptyAdditionalClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    TokenAnswer,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    HasUrls,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    HasUrls,
    EndpointNotSet,
>;

/// Redeems a code; `now` is when the answer's `expires_in` began.
///
/// # Errors
/// [`SignInError`].
pub(super) async fn redeem(
    client: &CodeClient,
    http: &Http,
    code: String,
    verifier: String,
    now: Time,
) -> Result<SessionTokens, SignInError> {
    let call = |request| async {
        let answer = http.call(Endpoint::Token, request).await?;
        match media_type(&answer).as_str() {
            "application/json" => Ok(answer),
            _ if answer.status() == http::StatusCode::OK => Err(Because::Garbage(Endpoint::Token).into()),
            _ => Err(Because::Status { endpoint: Endpoint::Token, status: answer.status().as_u16() }.into()),
        }
    };
    let request = client.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(PkceCodeVerifier::new(verifier));
    match request.request_async(&call).await {
        Ok(answer) => Ok(answer.check(now)?),
        Err(RequestTokenError::Request(error)) => Err(error),
        Err(RequestTokenError::ServerResponse(error)) => Err(Because::Grant(printable(error.error().as_ref())).into()),
        // what does not parse may hold tokens: not a word of it is passed on
        Err(RequestTokenError::Parse(..) | RequestTokenError::Other(_)) => {
            Err(Because::Garbage(Endpoint::Token).into())
        }
    }
}

/// Presents a refresh token, once; `now` is when the answer's `expires_in` began.
///
/// # Errors
/// [`RefreshError`].
pub(super) async fn refresh(
    client: &CodeClient,
    http: &Http,
    token: &Secret,
    now: Time,
) -> Result<Renewal, RefreshError> {
    let call = |request| async {
        let answer = http.attempt(Endpoint::Token, request).await?;
        let is_json = media_type(&answer) == "application/json";
        match answer.status() {
            status if is_json || status == http::StatusCode::OK => Ok(answer),
            status => Err(Missed::Refused(Because::Status { endpoint: Endpoint::Token, status: status.as_u16() })),
        }
    };
    let token = RefreshToken::new(token.expose_str().unwrap_or_default().to_owned());
    match client.exchange_refresh_token(&token).request_async(&call).await {
        Ok(answer) => answer.check_renewal(now).map_err(|because| RefreshError::Lost(because.into())),
        Err(RequestTokenError::Request(missed)) => Err(match missed {
            Missed::NotSent(error) => RefreshError::NotSent(error),
            Missed::Trouble(error, after) => RefreshError::Unavailable(error, after),
            Missed::Refused(because) => RefreshError::Rejected(because),
            Missed::Lost(error) => RefreshError::Lost(error),
        }),
        Err(RequestTokenError::ServerResponse(error)) if *error.error() == CoreErrorResponseType::InvalidGrant => {
            Err(RefreshError::InvalidGrant)
        }
        Err(RequestTokenError::ServerResponse(error)) => {
            Err(RefreshError::Rejected(Because::Grant(printable(error.error().as_ref()))))
        }
        // what does not parse may be an answer all the same, with tokens that are lost
        Err(RequestTokenError::Parse(..) | RequestTokenError::Other(_)) => {
            Err(RefreshError::Lost(Because::Garbage(Endpoint::Token).into()))
        }
    }
}

/// An error code is for the log: its own character set, and not too long.
fn printable(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).take(64).collect()
}

/// A successful answer (RFC 6749 §5.1, OpenID Connect Core §3.1.3.3).
#[derive(Serialize, Deserialize)]
pub(super) struct TokenAnswer {
    access_token: AccessToken,
    token_type: Kind,
    expires_in: Option<u64>,
    refresh_token: Option<RefreshToken>,
    id_token: Option<String>,
}

/// `token_type`, as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Kind(String);

impl TokenType for Kind {}

impl TokenAnswer {
    fn check(self, now: Time) -> Result<SessionTokens, Because> {
        let renewal = self.check_renewal(now)?;
        Ok(SessionTokens {
            access: renewal.access,
            refresh: renewal.refresh,
            id_token: renewal.id_token.ok_or(unusable("id_token"))?,
            access_expires_at: renewal.access_expires_at,
        })
    }

    /// As [`Self::check`], but an ID token need not be there (OpenID Connect Core §12.2).
    fn check_renewal(self, now: Time) -> Result<Renewal, Because> {
        if !self.token_type.0.eq_ignore_ascii_case("bearer") {
            return Err(Because::TokenType);
        }
        if self.expires_in.is_some_and(|seconds| seconds > LONGEST_LIFE) {
            return Err(unusable("expires_in"));
        }
        Ok(Renewal {
            access: token("access_token", self.access_token.secret())?,
            refresh: self.refresh_token.map(|text| token("refresh_token", text.secret())).transpose()?,
            id_token: self.id_token.map(|text| token("id_token", &text)).transpose()?,
            access_expires_at: self.expires_in.map(|seconds| now.plus(Duration::from_secs(seconds))),
        })
    }
}

fn token(name: &'static str, text: &str) -> Result<Secret, Because> {
    let is_usable = !text.is_empty() && text.len() <= IDP_TOKEN_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
    is_usable.then(|| Secret::new(text)).ok_or(unusable(name))
}

const fn unusable(name: &'static str) -> Because {
    Because::Token(Cow::Borrowed(name))
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenAnswer(…)")
    }
}

impl OAuth2TokenResponse for TokenAnswer {
    type TokenType = Kind;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &Kind {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

impl TokenResponse<EmptyAdditionalClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>
    for TokenAnswer
{
    /// Never: the raw token is checked by [`super::id_token`], and by nothing else.
    fn id_token(
        &self,
    ) -> Option<
        &IdToken<EmptyAdditionalClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>,
    > {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_code_brings_nothing_else_into_the_log() {
        assert_eq!(printable("invalid_grant"), "invalid_grant");
        assert_eq!(printable("a\u{1b}[2J\n{\"level\":\"x\"}\u{202e}"), "a2Jlevelx");
        assert_eq!(printable(&"x".repeat(1000)).len(), 64);
    }
}
