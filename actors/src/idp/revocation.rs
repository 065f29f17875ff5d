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
