//! We, at the provider: the authorization request, the code's redemption, the refresh, and the way to sign out.

use openidconnect::core::CoreResponseType;
use openidconnect::{
    AuthenticationFlow, ClientId, ClientSecret, CsrfToken, IssuerUrl, JsonWebKeySet, Nonce, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, Scope,
};
use portcullis_config::limits::{IDP_CLAIMS_BYTES, IDP_GROUPS, IDP_SIGN_IN, REDIRECT_BYTES};
use portcullis_config::{IdentityProvider, Secret};
use portcullis_events::Time;
use serde_json::{Map, Value};
use url::Url;

use super::discovery::{Discovery, Document};
use super::http::Http;
use super::id_token::{Expected, Of};
use super::jws::{Unverified, verified_before};
use super::keys::Keys;
use super::logout_token::{self, Logout};
use super::profile::{profile, verified};
use super::renewal::{Evidence, Observed, RefreshError, Renewal};
use super::revocation::revoke;
use super::token_request::{CodeClient, redeem, refresh};
use super::{Because, ClaimFault, Endpoint, Identity, SignInError, json};
use crate::databroker::hand_over::SessionTokens;

/// Parameters of the authorization request that are ours; `idp_request_params` does not get at them.
const OURS: [&str; 11] = [
    "client_id",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
    "registration",
];

/// Claims that user info has no say in: they belong to the ID token.
const OF_THE_ID_TOKEN: [&str; 11] =
    ["iss", "sub", "aud", "azp", "exp", "iat", "nbf", "nonce", "at_hash", "c_hash", "sid"];

/// We, as a client of one provider.
pub(crate) struct RelyingParty {
    provider: IdentityProvider,
    redirect_uri: RedirectUrl,
    http: Http,
    patient: Http,
    discovery: Discovery,
    keys: Keys,
}

/// A code as it came back, with what it was asked for with.
pub(crate) struct Answer {
    /// The authorization code.
    pub(crate) code: String,
    /// The PKCE code verifier.
    pub(crate) verifier: String,
    /// The nonce.
    pub(crate) nonce: String,
    /// The issuer that the response names (RFC 9207).
    pub(crate) iss: Option<String>,
}

impl RelyingParty {
    /// A client whose callback lies at the authenticate host. Belongs to the thread that makes it.
    pub(crate) fn new(mut provider: IdentityProvider, authenticate_url: Url) -> Self {
        let mut callback = authenticate_url;
        callback.set_path("/oauth2/callback");
        callback.set_query(None);
        callback.set_fragment(None);
        provider.request_params.retain(|(name, _)| {
            let theirs = !OURS.contains(&name.as_str());
            if !theirs {
                tracing::warn!(parameter = %name, "idp_request_params cannot set a parameter of the protocol");
            }
            theirs
        });
        Self {
            redirect_uri: RedirectUrl::from_url(callback),
            http: Http::new(),
            patient: Http::patient(),
            discovery: Discovery::new(provider.issuer.clone()),
            keys: Keys::default(),
            provider,
        }
    }

    /// The issuer.
    pub(crate) fn issuer(&self) -> &str {
        &self.provider.issuer
    }

    /// Whether the provider can be used at all.
    ///
    /// # Errors
    /// [`SignInError`].
    pub(crate) async fn discover(&self, now: Time) -> Result<(), SignInError> {
        self.discovery.get(&self.http, now).await.map(drop)
    }

    /// The authorization URL of a new sign-in (OpenID Connect Core §3.1.2.1, RFC 7636 §4.3).
    ///
    /// # Errors
    /// [`SignInError`].
    pub(crate) async fn begin(
        &self,
        state: String,
        nonce: String,
        verifier: String,
        now: Time,
    ) -> Result<Url, SignInError> {
        // the library aborts on a verifier of another length (RFC 7636 §4.1)
        if !(43..=128).contains(&verifier.len()) {
            return Err(Because::Verifier.into());
        }
        let document = self.discovery.get(&self.http, now).await?;
        let client = self.client(&document)?;
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(verifier));
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        // the library asks for `openid` by itself
        let scopes = self.provider.scopes.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new);
        let mut request = client
            .authorize_url(flow, move || CsrfToken::new(state), move || Nonce::new(nonce))
            .add_scopes(scopes)
            .set_pkce_challenge(challenge);
        for (name, value) in &self.provider.request_params {
            request = request.add_extra_param(name, value);
        }
        let (url, _, _) = request.url();
        Ok(url)
    }

    /// Redeems a code and checks everything that comes back for it.
    ///
    /// # Errors
    /// [`SignInError`]; nothing of the answer is kept then.
    pub(crate) async fn redeem(&self, answer: Answer, now: Time) -> Result<Identity, SignInError> {
        let late = |_| SignInError::Unavailable("the provider took too long over a sign-in".into());
        tokio::time::timeout(IDP_SIGN_IN, self.redeem_all(answer, now)).await.map_err(late)?
    }

    async fn redeem_all(&self, answer: Answer, now: Time) -> Result<Identity, SignInError> {
        let document = self.discovery.get(&self.http, now).await?;
        // before the code goes anywhere: a response of another provider must not have its code redeemed here
        match &answer.iss {
            Some(iss) if *iss != self.provider.issuer => return Err(Because::ResponseIssuer.into()),
            None if document.names_itself => return Err(Because::NoResponseIssuer.into()),
            Some(_) | None => {}
        }
        let client = self.client(&document)?;
        let tokens = redeem(&client, &self.http, answer.code, answer.verifier, now).await?;
        let access = tokens.access.expose_str().unwrap_or_default();

        let token = Unverified::parse(tokens.id_token.expose_str().unwrap_or_default())?;
        let key = self.keys.find(&token, &document.keys, &self.http, now).await?;
        let expected = Expected {
            issuer: &self.provider.issuer,
            client_id: &self.provider.client_id,
            of: Of::SignIn { nonce: &answer.nonce },
            access_token: access,
            now,
        };
        let claims = token.verify(&key, &expected)?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let claims = match &document.user_info {
            Some(url) => merge(claims, self.user_info(url, access, &subject).await?),
            None => claims,
        };
        bounded(&claims)?;
        Ok(Identity { issuer: self.provider.issuer.clone(), subject, claims, tokens })
    }

    /// Presents a refresh token (OpenID Connect Core §12). The answer is believed as far as it is HTTP, JSON and tokens:
    /// what its ID token says is checked by [`Self::claims`], when the tokens are safe.
    ///
    /// # Errors
    /// [`RefreshError`].
    pub(crate) async fn refresh(&self, token: &Secret, now: Time) -> Result<Renewal, RefreshError> {
        // however old: a discovery document that cannot be had just now must not keep a token from being renewed
        let document = self.discovery.get_even_old(&self.http, now).await.map_err(RefreshError::NotSent)?;
        let client = self.client(&document).map_err(RefreshError::NotSent)?;
        refresh(&client, &self.patient, token, now).await
    }

    /// What the provider says of the person now: the ID token's claims and those of user info.
    ///
    /// # Errors
    /// [`SignInError`]; nothing is known better than before then. [`Because::OtherSubject`] where the renewed ID token is
    /// about somebody else.
    pub(crate) async fn claims(&self, evidence: &Evidence<'_>, now: Time) -> Result<Observed, SignInError> {
        let late = |_| SignInError::Unavailable("the provider took too long over a person's claims".into());
        tokio::time::timeout(IDP_SIGN_IN, self.claims_now(evidence, now)).await.map_err(late)?
    }

    async fn claims_now(&self, evidence: &Evidence<'_>, now: Time) -> Result<Observed, SignInError> {
        let document = self.discovery.get_even_old(&self.http, now).await?;
        let access = evidence.access.expose_str().unwrap_or_default();
        let before = verified_before(evidence.id_token.expose_str().unwrap_or_default()).ok_or(Because::Malformed)?;
        let (claims, renewed) = match evidence.renewed {
            None => (before, None),
            Some(renewed) => match self.renewed(renewed, &before, access, &document, now).await {
                Ok(claims) => (claims, Some(true)),
                Err(SignInError::Refused(Because::Claim { claim, fault: ClaimFault::Other })) if claim == "sub" => {
                    return Err(Because::OtherSubject.into());
                }
                Err(SignInError::Refused(because)) => {
                    tracing::warn!(issuer = self.issuer(), %because, "a renewed ID token is not believed");
                    (before, Some(false))
                }
                Err(error) => return Err(error),
            },
        };
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let claims = match &document.user_info {
            Some(url) => self.user_info(url, access, &subject).await.map(|user_info| merge(claims, user_info)),
            None => Ok(claims),
        };
        let claims = claims.and_then(|claims| bounded(&claims).map(|()| claims).map_err(SignInError::from));
        Ok(Observed { claims, renewed_is_believed: renewed })
    }

    async fn renewed(
        &self,
        renewed: &Secret,
        before: &Map<String, Value>,
        access_token: &str,
        document: &Document,
        now: Time,
    ) -> Result<Map<String, Value>, SignInError> {
        let token = Unverified::parse(renewed.expose_str().unwrap_or_default())?;
        let key = self.keys.find(&token, &document.keys, &self.http, now).await?;
        let text = |name: &str| before.get(name).and_then(Value::as_str);
        let expected = Expected {
            issuer: &self.provider.issuer,
            client_id: &self.provider.client_id,
            of: Of::Renewal { subject: text("sub").unwrap_or_default(), nonce: text("nonce") },
            access_token,
            now,
        };
        Ok(token.verify(&key, &expected)?)
    }

    /// User info (OpenID Connect Core §5.3), if it is about the same person.
    async fn user_info(&self, url: &Url, access: &str, subject: &str) -> Result<Map<String, Value>, SignInError> {
        let body = self.http.get(Endpoint::UserInfo, url.as_str(), Some(access)).await?;
        let claims = json::object(&body).ok_or(Because::Garbage(Endpoint::UserInfo))?;
        if claims.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(Because::OtherSubject.into());
        }
        Ok(claims)
    }

    /// Where a browser signs out at the provider (OpenID Connect RP-Initiated Logout §2); `None` where the provider
    /// offers no such place or cannot be asked.
    pub(crate) async fn end_session(&self, id_token_hint: Option<&str>, back_to: &Url, now: Time) -> Option<Url> {
        let document = self.discovery.get_even_old(&self.http, now).await.ok()?;
        let mut url = document.end_session.clone()?;
        // a hint that would make the URL too long is left out: the client id stands for it
        let hint = id_token_hint.filter(|hint| hint.len() <= REDIRECT_BYTES);
        url.query_pairs_mut()
            .extend_pairs(hint.map(|hint| ("id_token_hint", hint)))
            .append_pair("client_id", &self.provider.client_id)
            .append_pair("post_logout_redirect_uri", back_to.as_str());
        Some(url)
    }

    /// Checks a logout token (OpenID Connect Back-Channel Logout §2.6), but for whether it came before.
    ///
    /// # Errors
    /// [`SignInError`].
    pub(crate) async fn verify_logout(&self, token: &str, now: Time) -> Result<Logout, SignInError> {
        let token = Unverified::parse_typed(token, &logout_token::KINDS)?;
        let document = self.discovery.get(&self.http, now).await?;
        let key = self.keys.find(&token, &document.keys, &self.http, now).await?;
        let claims = token.signed_claims(&key)?;
        Ok(logout_token::read(&claims, &self.provider.issuer, &self.provider.client_id, now)?)
    }

    /// Gives a session's tokens back, if the provider takes them back (RFC 7009): the refresh token, with which the
    /// access tokens made from it go (§2.1), else the access token.
    ///
    /// # Errors
    /// [`SignInError`].
    pub(crate) async fn revoke(&self, tokens: &SessionTokens, now: Time) -> Result<(), SignInError> {
        let document = self.discovery.get_even_old(&self.http, now).await?;
        let Some(endpoint) = &document.revocation else { return Ok(()) };
        let (token, hint) = match &tokens.refresh {
            Some(refresh) => (refresh, "refresh_token"),
            None => (&tokens.access, "access_token"),
        };
        revoke(&self.http, endpoint, &self.provider, &document.client_authentication, token, hint).await
    }

    fn client(&self, document: &Document) -> Result<CodeClient, SignInError> {
        let bad = |what: &str| SignInError::Unavailable(format!("the configured {what} cannot be used"));
        let issuer = IssuerUrl::new(self.provider.issuer.clone()).map_err(|_| bad("issuer"))?;
        let client_id = ClientId::new(self.provider.client_id.clone());
        let mut client = CodeClient::new(client_id, issuer, JsonWebKeySet::default())
            .set_auth_uri(document.authorization.clone())
            .set_token_uri(document.token.clone())
            .set_redirect_uri(self.redirect_uri.clone())
            .set_auth_type(document.client_authentication.clone());
        if let Some(secret) = &self.provider.client_secret {
            let secret = secret.expose_str().ok_or_else(|| bad("client secret"))?;
            client = client.set_client_secret(ClientSecret::new(secret.to_owned()));
        }
        Ok(client)
    }
}

/// What a session can carry.
fn bounded(claims: &Map<String, Value>) -> Result<(), Because> {
    if serde_json::to_vec(claims).map_or(usize::MAX, |json| json.len()) > IDP_CLAIMS_BYTES {
        return Err(Because::TooMuch);
    }
    if profile(claims).groups.len() > IDP_GROUPS {
        return Err(Because::TooManyGroups);
    }
    Ok(())
}

/// The claims of both; user info is the later word, except on what the ID token alone can say. An address that either
/// calls not verified is not verified.
fn merge(mut claims: Map<String, Value>, user_info: Map<String, Value>) -> Map<String, Value> {
    let doubted = !verified(&claims) || !verified(&user_info);
    claims.extend(user_info.into_iter().filter(|(name, _)| !OF_THE_ID_TOKEN.contains(&name.as_str())));
    if doubted {
        claims.insert("email_verified".into(), Value::Bool(false));
    }
    claims
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(id_token: Value, user_info: Value) -> Value {
        Value::Object(merge(id_token.as_object().unwrap().clone(), user_info.as_object().unwrap().clone()))
    }

    #[test]
    fn user_info_is_the_later_word_but_not_on_the_protocol() {
        let id_token = json!({"iss": "i", "sub": "s", "aud": "c", "exp": 1, "name": "old"});
        let user_info =
            json!({"iss": "x", "sub": "s", "aud": "x", "exp": 9, "nonce": "x", "name": "new", "groups": ["g"]});
        let all = json!({"iss": "i", "sub": "s", "aud": "c", "exp": 1, "name": "new", "groups": ["g"]});
        assert_eq!(merged(id_token, user_info), all);
    }

    #[test]
    fn an_address_that_either_source_doubts_is_not_verified() {
        let doubted = |id_token, user_info| merged(id_token, user_info)["email_verified"] == json!(false);
        assert!(doubted(json!({"email_verified": false}), json!({"email_verified": true})));
        assert!(doubted(json!({"email_verified": true}), json!({"email_verified": "false"})));
        assert!(doubted(json!({"email": "a@b", "email_verified": false}), json!({"email": "c@d"})));
        assert!(!doubted(json!({"email_verified": true}), json!({})));
        assert!(!doubted(json!({}), json!({})));
    }
}
