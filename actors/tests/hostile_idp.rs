//! Whatever a provider does wrong, nobody is signed in by it, and it learns nothing that it should not.

#![expect(clippy::unwrap_used, reason = "a step that does not work fails its test")]

use actix::{Actor, Addr};
use portcullis_actors::authenticate::provider::{Begin, EndSession, Provider, Redeem};
use portcullis_actors::idp::{Because, ClaimFault, Endpoint, Identity, SignInError, profile};
use portcullis_config::IdentityProvider;
use portcullis_config::limits::{IDP_GROUPS, REDIRECT_BYTES};
use portcullis_harness::idp::{CLIENT_ID, Mischief, Person, ScriptedIdp};
use url::Url;

#[path = "ground/registration.rs"]
mod registration;

const STATE: &str = "state-of-this-sign-in";
const NONCE: &str = "nonce-of-this-sign-in";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

fn provider(config: IdentityProvider) -> Addr<Provider> {
    Provider::new(config, Url::parse("https://authenticate.example/ignored?x#y").unwrap()).start()
}

async fn begin(provider: &Addr<Provider>) -> Result<Url, SignInError> {
    let begin = Begin { state: STATE.into(), nonce: NONCE.into(), verifier: VERIFIER.into() };
    provider.send(begin).await.unwrap()
}

fn redemption(back: &Url) -> Redeem {
    let parameter = |name: &str| back.query_pairs().find(|(have, _)| have == name).map(|(_, value)| value.into_owned());
    assert_eq!(parameter("state").as_deref(), Some(STATE));
    Redeem { code: parameter("code").unwrap(), verifier: VERIFIER.into(), nonce: NONCE.into(), iss: parameter("iss") }
}

/// A whole sign-in at a provider that nobody asked before.
async fn sign_in(idp: &ScriptedIdp) -> Result<Identity, SignInError> {
    let provider = provider(registration::at(idp));
    let back = idp.authorize(&begin(&provider).await?).unwrap();
    provider.send(redemption(&back)).await.unwrap()
}

fn parameter(url: &Url, name: &str) -> Vec<String> {
    url.query_pairs().filter(|(have, _)| have == name).map(|(_, value)| value.into_owned()).collect()
}

#[derive(Debug)]
enum Outcome {
    In,
    Refused(Because),
    Unavailable,
}

/// What must come of each mischief. The match is exhaustive: a new mischief does not compile without an answer.
fn outcome(mischief: Mischief) -> Outcome {
    use ClaimFault::{Future, Malformed, Missing, Other, Past};
    use Outcome::{In, Refused, Unavailable};
    let claim = |claim: &'static str, fault| Refused(Because::Claim { claim: claim.into(), fault });
    let address = |name: &'static str| Refused(Because::Address(name.into()));
    let token = |name: &'static str| Refused(Because::Token(name.into()));
    match mischief {
        Mischief::None
        | Mischief::SignsWithEs256
        | Mischief::SignsWithoutKid
        | Mischief::AudienceOfOneInAList
        | Mischief::AudienceOfManyWithAzp
        | Mischief::ClientSecretPostOnly
        | Mischief::TokenTypeLowerCase
        | Mischief::NoUserInfoEndpoint
        | Mischief::NoRevocationEndpoint
        | Mischief::NoEmailVerified
        | Mischief::NamesItself
        | Mischief::KeysAmongOthers
        | Mischief::RevocationSlow => In,

        Mischief::AlgNone
        | Mischief::AlgNoneInOtherCase
        | Mischief::AlgMissing
        | Mischief::AlgHs256WithPublicKeyPem
        | Mischief::AlgHs256WithPublicKeyDer
        | Mischief::AlgHs256WithModulus
        | Mischief::AlgHs256WithClientSecret
        | Mischief::AlgHs256Empty
        | Mischief::KeysOct => Refused(Because::Algorithm),
        Mischief::AlgOfAnotherKey
        | Mischief::HeaderJwk
        | Mischief::HeaderJku
        | Mischief::HeaderX5u
        | Mischief::KidUnknown
        | Mischief::KidOfAPath
        | Mischief::KeysWeak
        | Mischief::KeysForEncryption
        | Mischief::KeysEmpty
        | Mischief::KeysTwice => Refused(Because::NoKey),
        Mischief::HeaderCrit => Refused(Because::Critical),
        Mischief::HeaderTyp => Refused(Because::Type),
        Mischief::SignatureBroken
        | Mischief::SignatureMissing
        | Mischief::SignatureOfAnotherToken
        | Mischief::Es256Zero
        | Mischief::Es256Der => Refused(Because::Signature),
        Mischief::KidOfANumber | Mischief::PayloadArray | Mischief::PayloadTwice | Mischief::PayloadString => {
            Refused(Because::Malformed)
        }

        Mischief::IssOther | Mischief::IssWithSlash => claim("iss", Other),
        Mischief::IssMissing => claim("iss", Missing),
        Mischief::IssInAList => claim("iss", Malformed),
        Mischief::AudOther | Mischief::AudPrefix => claim("aud", Other),
        Mischief::AudMissing => claim("aud", Missing),
        Mischief::AudMany => claim("azp", Missing),
        Mischief::AzpOther => claim("azp", Other),
        Mischief::NonceOther => claim("nonce", Other),
        Mischief::NonceMissing => claim("nonce", Missing),
        Mischief::ExpPast => claim("exp", Past),
        Mischief::ExpMissing => claim("exp", Missing),
        Mischief::ExpString | Mischief::ExpHuge => claim("exp", Malformed),
        Mischief::IatFuture => claim("iat", Future),
        Mischief::IatMissing => claim("iat", Missing),
        Mischief::IatString => claim("iat", Malformed),
        Mischief::IatOld => claim("iat", Past),
        Mischief::NbfFuture => claim("nbf", Future),
        Mischief::NbfString => claim("nbf", Malformed),
        Mischief::SubMissing => claim("sub", Missing),
        Mischief::SubEmpty | Mischief::SubNumber | Mischief::SubLong => claim("sub", Malformed),
        Mischief::AtHashOther => claim("at_hash", Other),
        Mischief::AtHashNumber => claim("at_hash", Malformed),

        Mischief::TokenRedirects | Mischief::TokenRedirects303 => Refused(Because::Redirect(Endpoint::Token)),
        Mischief::TokenRefuses => Refused(Because::Grant("invalid_grant".into())),
        Mischief::TokenHuge | Mischief::TokenHugeInChunks => Refused(Because::TooLarge(Endpoint::Token)),
        Mischief::TokenGzip => Refused(Because::Encoded(Endpoint::Token)),
        Mischief::TokenGarbage
        | Mischief::TokenHtml
        | Mischief::TokenNoAccessToken
        | Mischief::TokenExpiresInString
        | Mischief::TokenTwice
        | Mischief::TokenEmpty => Refused(Because::Garbage(Endpoint::Token)),
        Mischief::TokenMac => Refused(Because::TokenType),
        Mischief::TokenNoIdToken => token("id_token"),
        Mischief::TokenFails | Mischief::TokenBusy | Mischief::TokenCloses => Unavailable,

        Mischief::DiscoveryOtherIssuer | Mischief::DiscoveryIssuerWithSlash => Refused(Because::OtherIssuer),
        Mischief::DiscoveryKeysPlain
        | Mischief::DiscoveryKeysMetadata
        | Mischief::DiscoveryKeysFile
        | Mischief::DiscoveryKeysPrivate => address("jwks_uri"),
        Mischief::DiscoveryTokenPlain => address("token_endpoint"),
        Mischief::DiscoveryUserInfoMetadata => address("userinfo_endpoint"),
        Mischief::DiscoveryRevocationMetadata => address("revocation_endpoint"),
        Mischief::DiscoveryNoToken => Refused(Because::Lacks("token_endpoint".into())),
        Mischief::DiscoveryGarbage => Refused(Because::Garbage(Endpoint::Discovery)),
        Mischief::DiscoveryRedirects => Refused(Because::Redirect(Endpoint::Discovery)),
        Mischief::DiscoveryGzip => Refused(Because::Encoded(Endpoint::Discovery)),
        Mischief::DiscoveryHuge => Refused(Because::TooLarge(Endpoint::Discovery)),
        Mischief::DiscoveryDown => Unavailable,
        // these take a whole deadline: `idp/http.rs` tries them with a shorter one
        Mischief::TokenSlow | Mischief::DiscoverySlow | Mischief::DiscoveryStalls => Unavailable,

        Mischief::KeysGarbage | Mischief::KeysMany => Refused(Because::Garbage(Endpoint::Keys)),
        Mischief::KeysRedirect => Refused(Because::Redirect(Endpoint::Keys)),
        Mischief::KeysGzip => Refused(Because::Encoded(Endpoint::Keys)),
        Mischief::KeysDown => Unavailable,

        Mischief::UserInfoOther | Mischief::UserInfoNoSub => Refused(Because::OtherSubject),
        Mischief::UserInfoRefuses => Refused(Because::Status { endpoint: Endpoint::UserInfo, status: 403 }),
        Mischief::UserInfoJwt | Mischief::UserInfoArray | Mischief::UserInfoHugePage => {
            Refused(Because::Garbage(Endpoint::UserInfo))
        }
        Mischief::UserInfoRedirects => Refused(Because::Redirect(Endpoint::UserInfo)),
        Mischief::UserInfoHuge => Refused(Because::TooLarge(Endpoint::UserInfo)),
        Mischief::UserInfoLarge => Refused(Because::TooMuch),
        Mischief::UserInfoDown => Unavailable,

        Mischief::ResponseIssOther => Refused(Because::ResponseIssuer),
        Mischief::ResponseIssMissing => Refused(Because::NoResponseIssuer),
    }
}

#[actix::test]
async fn a_hostile_provider_signs_nobody_in() {
    let takes_a_whole_deadline = [Mischief::TokenSlow, Mischief::DiscoverySlow, Mischief::DiscoveryStalls];
    for mischief in Mischief::ALL.iter().copied().filter(|mischief| !takes_a_whole_deadline.contains(mischief)) {
        let idp = ScriptedIdp::start();
        idp.set(mischief);
        let got = sign_in(&idp).await;
        match (outcome(mischief), got) {
            (Outcome::In, Ok(identity)) => assert_eq!(identity.subject, "alice-0001", "{mischief:?}"),
            (Outcome::Refused(because), Err(error)) => assert_eq!(error, because.into(), "{mischief:?}"),
            (Outcome::Unavailable, Err(SignInError::Unavailable(_))) => {}
            (expected, got) => panic!(
                "{mischief:?}: expected {expected:?}, got {:?}",
                got.map(|_| "an identity").map_err(|error| error.to_string())
            ),
        }
        let known = ["/.well-known/openid-configuration", "/token", "/jwks", "/userinfo"];
        for seen in idp.requests() {
            assert!(known.contains(&seen.path.as_str()), "{mischief:?} had {} fetched", seen.path);
            assert_eq!(seen.header("accept-encoding"), Some("identity"), "{mischief:?}");
        }
    }
}

#[actix::test]
async fn an_honest_provider_signs_its_person_in() {
    let idp = ScriptedIdp::start();
    let identity = sign_in(&idp).await.map_err(|error| error.to_string()).unwrap();
    assert_eq!(identity.issuer, idp.issuer());
    let known = profile(&identity.claims);
    assert_eq!(known.user, "alice-0001");
    assert_eq!(known.email.as_deref(), Some("alice@example.com"));
    assert_eq!(known.name.as_deref(), Some("Alice Example"));
    assert_eq!(known.groups, ["staff", "admins"]);
    assert!(identity.tokens.refresh.is_some() && identity.tokens.access_expires_at.is_some());

    let requests = idp.requests();
    let paths: Vec<_> = requests.iter().map(|seen| seen.path.as_str()).collect();
    assert_eq!(paths, ["/.well-known/openid-configuration", "/token", "/jwks", "/userinfo"]);
    assert_eq!(requests[1].form("code_verifier").as_deref(), Some(VERIFIER));
    assert_eq!(requests[1].form("client_secret"), None);
    assert!(requests.iter().all(|seen| !seen.query.contains("access") && !seen.query.contains("code")));
}

#[actix::test]
async fn an_unverified_address_is_not_passed_on() {
    let idp = ScriptedIdp::start();
    idp.set_person(Person { email_verified: Some(false), ..Person::default() });
    let identity = sign_in(&idp).await.map_err(|error| error.to_string()).unwrap();
    assert_eq!(profile(&identity.claims).email, None);
    idp.set_person(Person { email: "alice@evil.example,bob@example.com".into(), ..Person::default() });
    let identity = sign_in(&idp).await.map_err(|error| error.to_string()).unwrap();
    assert_eq!(profile(&identity.claims).email, None);
}

#[actix::test]
async fn a_person_with_more_groups_than_a_session_carries_is_refused_and_not_told_to_try_again() {
    let idp = ScriptedIdp::start();
    let groups = |count| (0..count).map(|group| format!("g{group}")).collect::<Vec<_>>();
    idp.set_person(Person { groups: groups(IDP_GROUPS), ..Person::default() });
    assert!(sign_in(&idp).await.is_ok());
    idp.set_person(Person { groups: groups(IDP_GROUPS + 1), ..Person::default() });
    assert_eq!(sign_in(&idp).await.err(), Some(SignInError::Refused(Because::TooManyGroups)));
}

#[actix::test]
async fn made_up_key_ids_do_not_make_a_storm_of_key_fetches() {
    let idp = ScriptedIdp::start();
    let provider = provider(registration::at(&idp));
    for turn in 0..10 {
        // the honest ones in between do not open the way to another fetch
        let mischief = if turn % 2 == 0 { Mischief::None } else { Mischief::KidUnknown };
        idp.set(mischief);
        let back = idp.authorize(&begin(&provider).await.unwrap()).unwrap();
        let signed_in = provider.send(redemption(&back)).await.unwrap().is_ok();
        assert_eq!(signed_in, mischief == Mischief::None);
    }
    let fetched = |path: &str| idp.requests().iter().filter(|seen| seen.path == path).count();
    assert_eq!(fetched("/jwks"), 2);
    assert_eq!(fetched("/.well-known/openid-configuration"), 1);
}

#[actix::test]
async fn a_code_is_redeemed_once_and_only_with_its_verifier_and_nonce() {
    let idp = ScriptedIdp::start();
    let provider = provider(registration::at(&idp));
    let back = idp.authorize(&begin(&provider).await.unwrap()).unwrap();
    assert!(provider.send(redemption(&back)).await.unwrap().is_ok());
    let again = provider.send(redemption(&back)).await.unwrap();
    assert_eq!(again.err(), Some(Because::Grant("invalid_grant".into()).into()));

    let back = idp.authorize(&begin(&provider).await.unwrap()).unwrap();
    let stolen = Redeem { verifier: VERIFIER.replace('d', "e"), ..redemption(&back) };
    assert_eq!(provider.send(stolen).await.unwrap().err(), Some(Because::Grant("invalid_grant".into()).into()));

    let back = idp.authorize(&begin(&provider).await.unwrap()).unwrap();
    let injected = Redeem { nonce: "nonce-of-another-sign-in".into(), ..redemption(&back) };
    let because = Because::Claim { claim: "nonce".into(), fault: ClaimFault::Other };
    assert_eq!(provider.send(injected).await.unwrap().err(), Some(because.into()));
}

#[actix::test]
async fn a_response_of_another_issuer_has_its_code_redeemed_nowhere() {
    let idp = ScriptedIdp::start();
    for mischief in [Mischief::ResponseIssOther, Mischief::ResponseIssMissing] {
        idp.set(mischief);
        assert!(sign_in(&idp).await.is_err());
    }
    assert!(idp.requests().iter().all(|seen| seen.path != "/token"));
}

#[actix::test]
async fn the_authorization_request_carries_the_protocol_and_no_parameter_gets_at_it() {
    let idp = ScriptedIdp::start();
    let evil = [("state", "evil"), ("redirect_uri", "https://evil.example"), ("nonce", "evil"), ("scope", "evil")];
    let more =
        [("prompt", "select_account"), ("acr_values", "a b"), ("code_challenge_method", "plain"), ("request", "x")];
    let params = evil.iter().chain(&more).map(|(name, value)| (String::from(*name), String::from(*value))).collect();
    let provider = provider(IdentityProvider { request_params: params, ..registration::at(&idp) });
    let url = begin(&provider).await.unwrap();
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", CLIENT_ID),
        ("redirect_uri", "https://authenticate.example/oauth2/callback"),
        ("scope", "openid profile email"),
        ("state", STATE),
        ("nonce", NONCE),
        // RFC 7636 appendix B
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
        ("prompt", "select_account"),
        ("acr_values", "a b"),
    ] {
        assert_eq!(parameter(&url, name), [value], "{name}");
    }
    assert!(parameter(&url, "request").is_empty());

    let short = Begin { state: STATE.into(), nonce: NONCE.into(), verifier: "short".into() };
    assert_eq!(provider.send(short).await.unwrap(), Err(Because::Verifier.into()));
}

#[actix::test]
async fn a_public_client_has_no_secret_to_send() {
    let idp = ScriptedIdp::start();
    let provider = provider(IdentityProvider { client_secret: None, ..registration::at(&idp) });
    let back = idp.authorize(&begin(&provider).await.unwrap()).unwrap();
    // the scripted provider wants the secret; what matters is what it was sent
    assert!(provider.send(redemption(&back)).await.unwrap().is_err());
    let seen = idp.requests().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.form("client_id").as_deref(), Some(CLIENT_ID));
    assert_eq!(seen.form("client_secret"), None);
}

#[actix::test]
async fn signing_out_leads_to_the_provider_where_it_offers_that() {
    let idp = ScriptedIdp::start();
    let provider = provider(registration::at(&idp));
    let back_to = Url::parse("https://authenticate.example/.pomerium/signed_out").unwrap();
    let end = |hint: Option<String>| EndSession { id_token_hint: hint, post_logout_redirect_uri: back_to.clone() };
    let url = provider.send(end(Some("raw.id.token".into()))).await.unwrap().unwrap();
    assert!(url.as_str().starts_with(&format!("{}/end_session?", idp.issuer())));
    assert_eq!(parameter(&url, "id_token_hint"), ["raw.id.token"]);
    assert_eq!(parameter(&url, "client_id"), [CLIENT_ID]);
    assert_eq!(parameter(&url, "post_logout_redirect_uri"), [back_to.as_str()]);
    let url = provider.send(end(Some("x".repeat(REDIRECT_BYTES + 1)))).await.unwrap().unwrap();
    assert!(parameter(&url, "id_token_hint").is_empty());

    let gone = Provider::new(
        IdentityProvider { issuer: "http://127.0.0.1:1".into(), ..registration::at(&idp) },
        back_to.clone(),
    );
    assert_eq!(gone.start().send(end(None)).await.unwrap(), None);
}

#[actix::test]
async fn an_issuer_that_may_not_be_asked_is_not_asked() {
    for issuer in
        ["http://idp.example", "ftp://127.0.0.1", "https://u:p@127.0.0.1:1", "http://127.0.0.1:1/?x", "no url"]
    {
        let idp = ScriptedIdp::start();
        let provider = provider(IdentityProvider { issuer: issuer.into(), ..registration::at(&idp) });
        assert_eq!(begin(&provider).await, Err(Because::Address("issuer".into()).into()), "{issuer}");
    }
}

#[test]
fn what_went_wrong_is_said_without_a_word_of_the_providers_own() {
    let because = Because::Claim { claim: "aud".into(), fault: ClaimFault::Other };
    assert_eq!(
        SignInError::from(because).to_string(),
        "refused: the claim `aud` of the ID or logout token has another value than it must"
    );
}
