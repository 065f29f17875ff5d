//! A logout token is believed exactly where the provider made it, for us, just now, and for nothing else.

#![expect(clippy::unwrap_used, reason = "a step that does not work fails its test")]
#![expect(clippy::disallowed_methods, reason = "a token's times are the provider's, whose clock is this one")]

use std::time::{SystemTime, UNIX_EPOCH};

use actix::{Actor, Addr};
use portcullis_actors::authenticate::provider::{Provider, VerifyLogout};
use portcullis_actors::idp::{Because, ClaimFault, Logout, SignInError};
use portcullis_harness::idp::{CLIENT_ID, Mischief, ScriptedIdp};
use serde_json::{Value, json};
use url::Url;

#[path = "ground/registration.rs"]
mod registration;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

fn provider(idp: &ScriptedIdp) -> Addr<Provider> {
    Provider::new(registration::at(idp), Url::parse("https://authenticate.example").unwrap()).start()
}

async fn verify(provider: &Addr<Provider>, token: String) -> Result<Logout, SignInError> {
    provider.send(VerifyLogout { token }).await.unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claim(claim: &'static str, fault: ClaimFault) -> Because {
    Because::Claim { claim: claim.into(), fault }
}

#[actix::test]
async fn a_logout_token_of_the_provider_is_believed() {
    let idp = ScriptedIdp::start();
    let provider = provider(&idp);
    for (header, claims) in [
        (json!({}), json!({})),
        (json!({"typ": "JWT"}), json!({"exp": null})),
        (json!({"typ": "application/logout+jwt"}), json!({"aud": [CLIENT_ID]})),
        (json!({"alg": "ES256", "kid": "ec"}), json!({"jti": "one"})),
    ] {
        let logout = verify(&provider, idp.logout_token(&header, &claims)).await.unwrap();
        assert_eq!(logout.issuer, idp.issuer());
        assert_eq!(logout.subject.as_deref(), Some("alice-0001"));
        assert_eq!(logout.sid.as_deref(), Some("sid-0001"));
        assert!(!logout.token_id.is_empty());
    }
    let by_person = verify(&provider, idp.logout_token(&json!({}), &json!({"sid": null}))).await.unwrap();
    assert_eq!(by_person.sid, None);
    let by_session = verify(&provider, idp.logout_token(&json!({}), &json!({"sub": null}))).await.unwrap();
    assert_eq!(by_session.subject, None);
}

#[actix::test]
async fn a_logout_token_with_anything_wrong_is_refused() {
    use ClaimFault::{Future, Malformed, Missing, Other, Past};
    let idp = ScriptedIdp::start();
    let provider = provider(&idp);
    let header = |change: Value, because| (idp.logout_token(&change, &json!({})), because);
    let claims = |change: Value, because| (idp.logout_token(&json!({}), &change), because);
    let good = idp.logout_token(&json!({}), &json!({}));
    let other = idp.logout_token(&json!({}), &json!({}));
    let moved = format!("{}.{}", good.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
    let evil = claims(json!({"iss": "https://evil.example"}), claim("iss", Other));
    for (token, because) in [
        header(json!({"alg": "none"}), Because::Algorithm),
        header(json!({"alg": "HS256"}), Because::Algorithm),
        header(json!({"kid": "made-up"}), Because::NoKey),
        header(json!({"alg": "ES256", "kid": "rsa"}), Because::NoKey),
        header(json!({"typ": "at+jwt"}), Because::Type),
        header(json!({"crit": ["exp"]}), Because::Critical),
        (moved, Because::Signature),
        (format!("{good}x"), Because::Signature),
        ("not a token".into(), Because::Malformed),
        evil,
        claims(json!({"iss": null}), claim("iss", Missing)),
        claims(json!({"aud": "somebody-else"}), claim("aud", Other)),
        claims(json!({"aud": [CLIENT_ID, "somebody-else"]}), claim("azp", Missing)),
        claims(json!({"iat": null}), claim("iat", Missing)),
        claims(json!({"iat": now() - 3600}), claim("iat", Past)),
        claims(json!({"iat": now() + 3600}), claim("iat", Future)),
        claims(json!({"exp": now() - 120}), claim("exp", Past)),
        claims(json!({"exp": "soon"}), claim("exp", Malformed)),
        claims(json!({"jti": null}), claim("jti", Missing)),
        claims(json!({"events": null}), claim("events", Missing)),
        claims(json!({"events": {"urn:another": {}}}), claim("events", Other)),
        claims(json!({"events": {EVENT: "yes"}}), claim("events", Other)),
        claims(json!({"nonce": "n"}), Because::Nonce),
        claims(json!({"sub": null, "sid": null}), claim("sub", Missing)),
        claims(json!({"sub": 7}), claim("sub", Malformed)),
        // an ID token is no logout token, however good it is
        (idp.id_token(), Because::Nonce),
    ] {
        assert_eq!(verify(&provider, token.clone()).await, Err(because.clone().into()), "{because}: {token}");
    }
}

#[actix::test]
async fn made_up_keys_have_the_key_set_fetched_no_more_than_once() {
    let idp = ScriptedIdp::start();
    let provider = provider(&idp);
    assert!(verify(&provider, idp.logout_token(&json!({}), &json!({}))).await.is_ok());
    for n in 0..100 {
        let token = idp.logout_token(&json!({"kid": format!("made-up-{n}")}), &json!({}));
        assert_eq!(verify(&provider, token).await, Err(Because::NoKey.into()));
    }
    let fetched = idp.requests().iter().filter(|seen| seen.path == "/jwks").count();
    assert!(fetched <= 2, "{fetched}");
}

#[actix::test]
async fn a_provider_whose_keys_cannot_be_had_logs_nobody_out() {
    let idp = ScriptedIdp::start();
    idp.set(Mischief::KeysDown);
    let answer = verify(&provider(&idp), idp.logout_token(&json!({}), &json!({}))).await;
    assert!(matches!(answer, Err(SignInError::Unavailable(_))), "{answer:?}");
}
