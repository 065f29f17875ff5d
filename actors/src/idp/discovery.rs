//! The discovery document (OpenID Connect Discovery §4): fetched once, checked, and believed for a while.

use std::borrow::Cow;
use std::rc::Rc;

use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType,
    CoreSubjectIdentifierType,
};
use openidconnect::{AdditionalProviderMetadata, AuthType, AuthUrl, ProviderMetadata, TokenUrl};
use portcullis_config::limits::{DISCOVERY_LIFE, DISCOVERY_RETRY};
use portcullis_events::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use url::Url;

use super::address::{may_be_issuer, may_call};
use super::http::Http;
use super::{Because, Endpoint, SignInError, json};

/// What a provider says of itself, as far as we use it; every address in it may be called.
#[derive(Debug, Clone)]
pub(super) struct Document {
    /// Where browsers are sent to sign in.
    pub(super) authorization: AuthUrl,
    /// Where codes are redeemed.
    pub(super) token: TokenUrl,
    /// Where the keys lie.
    pub(super) keys: Url,
    /// Where user info is had.
    pub(super) user_info: Option<Url>,
    /// Where browsers are sent to sign out.
    pub(super) end_session: Option<Url>,
    /// Where tokens are given back (RFC 7009).
    pub(super) revocation: Option<Url>,
    /// Authorization responses name their issuer (RFC 9207 §3).
    pub(super) names_itself: bool,
    /// How we show who we are at the token endpoint.
    pub(super) client_authentication: AuthType,
}

/// The discovery document of one issuer.
pub(super) struct Discovery {
    /// The issuer, as it was configured.
    issuer: String,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    document: Option<(Time, Rc<Document>)>,
    failed: Option<(Time, SignInError)>,
}

impl Discovery {
    /// Of an issuer, exactly as it was configured.
    pub(super) fn new(issuer: String) -> Self {
        Self { issuer, held: Mutex::default() }
    }

    /// The document, fetched if there is none or it is too old. The lock is held while fetching, so that there is one
    /// fetch at a time; a failure answers everybody who asks within [`DISCOVERY_RETRY`].
    ///
    /// # Errors
    /// [`SignInError`].
    pub(super) async fn get(&self, http: &Http, now: Time) -> Result<Rc<Document>, SignInError> {
        let mut held = self.held.lock().await;
        if let Some((at, document)) = &held.document
            && now.since(*at) < DISCOVERY_LIFE
        {
            return Ok(Rc::clone(document));
        }
        if let Some((at, error)) = &held.failed
            && now.since(*at) < DISCOVERY_RETRY
        {
            return Err(error.clone());
        }
        match self.fetch(http).await {
            Ok(document) => {
                let document = Rc::new(document);
                *held = Held { document: Some((now, Rc::clone(&document))), failed: None };
                Ok(document)
            }
            Err(error) => {
                held.failed = Some((now, error.clone()));
                Err(error)
            }
        }
    }

    /// The document, however old, before one is fetched.
    ///
    /// # Errors
    /// [`SignInError`].
    pub(super) async fn get_even_old(&self, http: &Http, now: Time) -> Result<Rc<Document>, SignInError> {
        let held = self.held.lock().await.document.as_ref().map(|(_, document)| Rc::clone(document));
        match held {
            Some(document) => Ok(document),
            None => self.get(http, now).await,
        }
    }

    async fn fetch(&self, http: &Http) -> Result<Document, SignInError> {
        let issuer = Url::parse(&self.issuer).ok().filter(may_be_issuer);
        let issuer = issuer.ok_or(Because::Address(Cow::Borrowed("issuer")))?;
        let address = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let body = http.get(Endpoint::Discovery, &address, None).await?;
        let document = json::object(&body).ok_or(Because::Garbage(Endpoint::Discovery))?;
        Ok(read(document, &self.issuer, &issuer)?)
    }
}

/// Metadata beyond OpenID Connect Discovery.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Beyond {
    /// OpenID Connect RP-Initiated Logout §2.1.
    end_session_endpoint: Option<Url>,
    /// RFC 8414 §2.
    revocation_endpoint: Option<Url>,
    /// RFC 9207 §3.
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for Beyond {}

type Metadata = ProviderMetadata<
    Beyond,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

fn read(document: Map<String, Value>, written: &str, issuer: &Url) -> Result<Document, Because> {
    if document.get("issuer").and_then(Value::as_str) != Some(written) {
        return Err(Because::OtherIssuer);
    }
    let document: Metadata =
        serde_json::from_value(Value::Object(document)).map_err(|_| Because::Garbage(Endpoint::Discovery))?;

    let check = |name: &'static str, url: &Url| {
        may_call(issuer, url).then(|| url.clone()).ok_or(Because::Address(Cow::Borrowed(name)))
    };
    let token = document.token_endpoint().ok_or(Because::Lacks(Cow::Borrowed("token_endpoint")))?;
    check("token_endpoint", token.url())?;
    check("authorization_endpoint", document.authorization_endpoint().url())?;
    let user_info = document.userinfo_endpoint().map(|url| check("userinfo_endpoint", url.url())).transpose()?;
    let beyond = document.additional_metadata();
    let end_session = beyond.end_session_endpoint.as_ref().map(|url| check("end_session_endpoint", url)).transpose()?;
    let revocation = beyond.revocation_endpoint.as_ref().map(|url| check("revocation_endpoint", url)).transpose()?;
    Ok(Document {
        authorization: document.authorization_endpoint().clone(),
        token: token.clone(),
        keys: check("jwks_uri", document.jwks_uri().url())?,
        user_info,
        end_session,
        revocation,
        names_itself: beyond.authorization_response_iss_parameter_supported,
        client_authentication: client_authentication(document.token_endpoint_auth_methods_supported()),
    })
}

/// `client_secret_basic`, which is the default (OpenID Connect Discovery §3), unless only `client_secret_post` is taken.
fn client_authentication(methods: Option<&Vec<CoreClientAuthMethod>>) -> AuthType {
    let takes = |method| methods.is_some_and(|methods| methods.contains(&method));
    let post = takes(CoreClientAuthMethod::ClientSecretPost) && !takes(CoreClientAuthMethod::ClientSecretBasic);
    if post { AuthType::RequestBody } else { AuthType::BasicAuth }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portcullis_harness::idp::{Mischief, ScriptedIdp};

    use super::*;

    #[test]
    fn a_secret_goes_into_the_body_only_where_nothing_else_is_taken() {
        use CoreClientAuthMethod::{ClientSecretBasic, ClientSecretPost, PrivateKeyJwt};
        let is_post =
            |methods: Option<Vec<_>>| matches!(client_authentication(methods.as_ref()), AuthType::RequestBody);
        assert!(is_post(Some(vec![ClientSecretPost])));
        assert!(is_post(Some(vec![PrivateKeyJwt, ClientSecretPost])));
        for basic in [None, Some(vec![]), Some(vec![ClientSecretPost, ClientSecretBasic]), Some(vec![PrivateKeyJwt])] {
            assert!(!is_post(basic));
        }
    }

    #[actix::test]
    async fn discovery_is_asked_once_however_many_wait_for_it() {
        let idp = ScriptedIdp::start();
        let (discovery, http) = (Discovery::new(idp.issuer()), Http::new());
        let now = Time::from_secs(1_800_000_000);
        let all = futures_util::future::join_all((0..20).map(|_| discovery.get(&http, now))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(idp.requests().len(), 1);
        assert!(discovery.get(&http, now.plus(DISCOVERY_LIFE)).await.is_ok());
        assert_eq!(idp.requests().len(), 2);
    }

    #[actix::test]
    async fn a_failed_discovery_is_tried_again_but_not_by_everybody_at_once() {
        let idp = ScriptedIdp::start();
        idp.set(Mischief::DiscoveryDown);
        let (discovery, http) = (Discovery::new(idp.issuer()), Http::new());
        let now = Time::from_secs(1_800_000_000);
        let all = futures_util::future::join_all((0..20).map(|_| discovery.get(&http, now))).await;
        assert!(all.iter().all(|one| matches!(one, Err(SignInError::Unavailable(_)))));
        assert_eq!(idp.requests().len(), 1);
        idp.set(Mischief::None);
        assert!(discovery.get(&http, now.plus(Duration::from_millis(1))).await.is_err());
        assert!(discovery.get(&http, now.plus(DISCOVERY_RETRY)).await.is_ok());
    }
}
