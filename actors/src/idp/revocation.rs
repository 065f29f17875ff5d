//! Giving a token back (RFC 7009): the request, and what its answer means.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use openidconnect::AuthType;
use portcullis_config::{IdentityProvider, Secret};
use url::{Url, form_urlencoded};

use super::http::Http;
use super::{Because, Endpoint, SignInError};

/// Has the provider revoke a token; `hint` is its `token_type_hint` (RFC 7009 §2.1).
///
/// # Errors
/// [`SignInError`]. A token that the provider does not know is none (§2.2).
pub(super) async fn revoke(
    http: &Http,
    endpoint: &Url,
    provider: &IdentityProvider,
    authentication: &AuthType,
    token: &Secret,
    hint: &str,
) -> Result<(), SignInError> {
    let bad = |what: &str| SignInError::Unavailable(format!("the {what} cannot be used"));
    let token = token.expose_str().ok_or_else(|| bad("token"))?;
    let secret = provider.client_secret.as_ref().map(|secret| secret.expose_str().ok_or_else(|| bad("client secret")));
    let secret = secret.transpose()?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("token", token).append_pair("token_type_hint", hint);
    let mut request = http::Request::post(endpoint.as_str())
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    match (secret, authentication) {
        (Some(secret), AuthType::BasicAuth) => {
            request = request.header(AUTHORIZATION, basic(&provider.client_id, secret));
        }
        (secret, _) => {
            form.append_pair("client_id", &provider.client_id);
            form.extend_pairs(secret.map(|secret| ("client_secret", secret)));
        }
    }
    let request = request.body(form.finish().into_bytes()).map_err(|_| Because::Garbage(Endpoint::Revocation))?;
    let answer = http.call(Endpoint::Revocation, request).await?;
    match answer.status() {
        http::StatusCode::OK => Ok(()),
        status => Err(Because::Status { endpoint: Endpoint::Revocation, status: status.as_u16() }.into()),
    }
}

/// Client id and secret are form-encoded first (RFC 6749 §2.3.1).
fn basic(client_id: &str, secret: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(client_id), encoded(secret))))
}

#[cfg(test)]
mod tests {
    use portcullis_events::Time;
    use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, Mischief, ScriptedIdp, Seen};

    use super::super::relying_party::RelyingParty;
    use super::*;
    use crate::databroker::hand_over::SessionTokens;

    const NOW: Time = Time::from_secs(1_800_000_000);

    fn party(idp: &ScriptedIdp, secret: Option<&str>) -> RelyingParty {
        let config = IdentityProvider {
            url: Url::parse(&idp.issuer()).unwrap(),
            issuer: idp.issuer(),
            client_id: CLIENT_ID.into(),
            client_secret: secret.map(Secret::new),
            scopes: vec!["openid".into()],
            request_params: vec![],
        };
        RelyingParty::new(config, Url::parse("https://authenticate.example").unwrap())
    }

    fn tokens(refresh: Option<&str>) -> SessionTokens {
        SessionTokens {
            access: Secret::new("the access token"),
            refresh: refresh.map(Secret::new),
            id_token: Secret::new("the ID token"),
            access_expires_at: None,
        }
    }

    fn given_back(idp: &ScriptedIdp) -> Seen {
        idp.requests().into_iter().find(|seen| seen.path == "/revoke").unwrap()
    }

    #[actix::test]
    async fn the_refresh_token_is_given_back_or_else_the_access_token() {
        for (refresh, token, hint) in [
            (Some("the refresh token"), "the refresh token", "refresh_token"),
            (None, "the access token", "access_token"),
        ] {
            let idp = ScriptedIdp::start();
            assert_eq!(party(&idp, Some(CLIENT_SECRET)).revoke(&tokens(refresh), NOW).await, Ok(()));
            let seen = given_back(&idp);
            assert_eq!(
                (seen.form("token").as_deref(), seen.form("token_type_hint").as_deref()),
                (Some(token), Some(hint))
            );
        }
    }

    #[actix::test]
    async fn the_client_shows_who_it_is_as_at_the_token_endpoint() {
        let idp = ScriptedIdp::start();
        idp.set(Mischief::ClientSecretPostOnly);
        assert_eq!(party(&idp, Some(CLIENT_SECRET)).revoke(&tokens(None), NOW).await, Ok(()));
        assert_eq!(given_back(&idp).header("authorization"), None);
        // one that cannot is refused, and the refusal holds no token
        idp.set(Mischief::None);
        let refused = party(&idp, Some("another secret")).revoke(&tokens(None), NOW).await;
        assert_eq!(refused, Err(Because::Status { endpoint: Endpoint::Revocation, status: 401 }.into()));
        let public = ScriptedIdp::start();
        assert!(party(&public, None).revoke(&tokens(None), NOW).await.is_err());
        assert_eq!(given_back(&public).form("client_id").as_deref(), Some(CLIENT_ID));
        assert_eq!(given_back(&public).form("client_secret"), None);
    }

    #[actix::test]
    async fn a_provider_that_takes_nothing_back_is_sent_nothing() {
        let idp = ScriptedIdp::start();
        idp.set(Mischief::NoRevocationEndpoint);
        assert_eq!(party(&idp, Some(CLIENT_SECRET)).revoke(&tokens(Some("refresh")), NOW).await, Ok(()));
        assert!(idp.requests().iter().all(|seen| seen.path != "/revoke"));
    }
}
