//! The provider as a client and a browser see it.

use actix_http::Request;
use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::header::{LOCATION, SET_COOKIE};
use actix_web::test::{self, TestRequest};
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;

const ISSUER: &str = "http://127.0.0.1:4000";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CALLBACK: &str = "https://authenticate.localhost:8443/oauth2/callback";
const SIGNED_OUT: &str = "https://authenticate.localhost:8443/.pomerium/signed_out";

fn provider() -> Arc<Provider> {
    let client = Client::new("gateway".to_owned(), Secret::new("s+e c:ret"), 8443).unwrap();
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let keys = Keys::new(Secret::new(vec![7; 32]), &pem).unwrap();
    Arc::new(Provider::with(ISSUER.to_owned(), client, keys))
}

/// Parameters in the place of the usual ones; by nothing: left out.
type Changes<'a> = &'a [(&'a str, &'a str)];

/// What came back, and the cookies that a browser has now.
struct Answer {
    status: u16,
    location: Option<Url>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn returned(&self, name: &str) -> Option<String> {
        let location = self.location.as_ref().unwrap();
        location.query_pairs().find(|(named, _)| named == name).map(|(_, value)| value.into_owned())
    }

    fn hidden(&self) -> &str {
        let (_, rest) = self.body.split_once("name=\"form\" value=\"").unwrap();
        rest.split_once('"').unwrap().0
    }
}

/// A browser with its cookies.
#[derive(Default)]
struct Browser(Vec<(String, String)>);

impl Browser {
    async fn send<S, B, E>(&mut self, app: &S, request: TestRequest) -> Answer
    where
        S: Service<Request, Response = ServiceResponse<B>, Error = E>,
        B: MessageBody,
        E: std::fmt::Debug,
    {
        let cookies: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.insert_header(("host", "127.0.0.1:4000")).insert_header(("cookie", cookies.join("; ")));
        let response = test::call_service(app, request.to_request()).await;
        for cookie in response.headers().get_all(SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("; HttpOnly; SameSite=Lax"));
            let (name, value) = cookie.split_once(';').unwrap().0.split_once('=').unwrap();
            self.0.retain(|(kept, _)| kept != name);
            if !value.is_empty() {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
        let location = response.headers().get(LOCATION).map(|to| Url::parse(to.to_str().unwrap()).unwrap());
        let status = response.status().as_u16();
        Answer { status, location, body: String::from_utf8(test::read_body(response).await.to_vec()).unwrap() }
    }

    fn has(&self, cookie: &str) -> bool {
        self.0.iter().any(|(name, _)| name == cookie)
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn post(path: &str, fields: &[(&str, &str)]) -> TestRequest {
    let kind = ("content-type", "application/x-www-form-urlencoded");
    TestRequest::post().uri(path).insert_header(kind).set_payload(form(fields))
}

/// An authorization request.
fn authorize(changes: Changes<'_>) -> TestRequest {
    let challenge = grants::challenge(VERIFIER);
    let usual = [
        ("client_id", "gateway"),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid profile email offline_access"),
        ("state", "st&te"),
        ("nonce", "n0nce"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let unchanged = usual.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    let fields: Vec<_> = unchanged.chain(changes).copied().filter(|(_, value)| !value.is_empty()).collect();
    TestRequest::get().uri(&format!("/authorize?{}", form(&fields)))
}

fn redeem(code: &str, changes: Changes<'_>) -> TestRequest {
    let usual = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
        ("client_id", "gateway"),
        ("client_secret", "s+e c:ret"),
    ];
    let unchanged = usual.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    let fields: Vec<_> = unchanged.chain(changes).copied().filter(|(_, value)| !value.is_empty()).collect();
    post("/token", &fields)
}

fn renew(token: &str) -> TestRequest {
    redeem(
        "",
        &[("grant_type", "refresh_token"), ("refresh_token", token), ("redirect_uri", ""), ("code_verifier", "")],
    )
}

async fn app(
    provider: &Arc<Provider>,
) -> impl Service<Request, Response = ServiceResponse, Error = actix_web::Error> + use<> {
    let provider = Arc::clone(provider);
    test::init_service(App::new().configure(|service| routes(service, provider))).await
}

macro_rules! sign_in {
    ($browser:expr, $app:expr, $name:expr) => {{
        let page = $browser.send($app, authorize(&[])).await;
        let fields = [("form", page.hidden()), ("username", $name), ("password", $name)];
        $browser.send($app, post("/sign_in", &fields)).await
    }};
}

fn claims_of(provider: &Provider, id_token: &str) -> Value {
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&["gateway"]);
    let jwks = provider.keys.published();
    let kid = jsonwebtoken::decode_header(id_token).unwrap().kid.unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
    jsonwebtoken::decode(id_token, &key, &validation).unwrap().claims
}

#[actix_web::test]
async fn a_sign_in_ends_with_tokens_that_say_who_it_is() {
    let provider = provider();
    let app = app(&provider).await;
    let mut browser = Browser::default();
    let back = sign_in!(browser, &app, "alice");
    assert_eq!(back.status, 303);
    assert!(back.location.as_ref().unwrap().as_str().starts_with(&format!("{CALLBACK}?")));
    assert_eq!(back.returned("state").as_deref(), Some("st&te"));
    assert_eq!(back.returned("iss").as_deref(), Some(ISSUER));

    let tokens = browser.send(&app, redeem(&back.returned("code").unwrap(), &[])).await.json();
    let claims = claims_of(&provider, tokens["id_token"].as_str().unwrap());
    assert_eq!(claims["sub"], "demo-alice");
    assert_eq!(claims["email"], "alice@example.com");
    assert_eq!(claims["email_verified"], true);
    assert_eq!(claims["name"], "Alice Archer");
    assert_eq!(claims["preferred_username"], "alice");
    assert_eq!(claims["groups"], json!(["admins", "engineering"]));
    assert_eq!(claims["nonce"], "n0nce");
    let access_token = tokens["access_token"].as_str().unwrap();
    assert_eq!(claims["at_hash"], keys::at_hash(access_token));
    assert!(claims["auth_time"].as_i64().unwrap() <= claims["iat"].as_i64().unwrap());

    let bearer = ("authorization", format!("Bearer {access_token}"));
    let user = browser.send(&app, TestRequest::get().uri("/userinfo").insert_header(bearer)).await.json();
    assert_eq!((&user["sub"], &user["groups"]), (&claims["sub"], &claims["groups"]));
    let nobody = ("authorization", "Bearer nonsense");
    assert_eq!(browser.send(&app, TestRequest::get().uri("/userinfo").insert_header(nobody)).await.status, 401);
}

#[actix_web::test]
async fn only_what_the_scopes_name_is_told_and_only_offline_access_lasts() {
    let provider = provider();
    let app = app(&provider).await;
    let mut browser = Browser::default();
    sign_in!(browser, &app, "bob");
    let back = browser.send(&app, authorize(&[("scope", "openid email nonsense")])).await;
    let tokens = browser.send(&app, redeem(&back.returned("code").unwrap(), &[])).await.json();
    let claims = claims_of(&provider, tokens["id_token"].as_str().unwrap());
    assert_eq!(claims["email"], "bob@example.com");
    assert!(claims.get("groups").is_none() && claims.get("name").is_none());
    assert_eq!(tokens["scope"], "openid email");
    assert!(tokens.get("refresh_token").is_none());
}

#[actix_web::test]
async fn a_second_authorization_needs_no_password_unless_it_is_asked_for() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    let nobody = browser.send(&app, authorize(&[("prompt", "none")])).await;
    assert_eq!(nobody.returned("error").as_deref(), Some("login_required"));
    sign_in!(browser, &app, "alice");
    assert!(browser.send(&app, authorize(&[])).await.returned("code").is_some());
    assert!(browser.send(&app, authorize(&[("prompt", "none")])).await.returned("code").is_some());
    assert!(browser.send(&app, authorize(&[("max_age", "600")])).await.returned("code").is_some());
    let again = browser.send(&app, authorize(&[("prompt", "login")])).await;
    assert!(again.body.contains("name=\"password\""));
}

#[actix_web::test]
async fn a_wrong_password_says_so_and_signs_nobody_in() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    let page = browser.send(&app, authorize(&[])).await;
    let fields = [("form", page.hidden()), ("username", "\"><b>alice"), ("password", "bob")];
    let answer = browser.send(&app, post("/sign_in", &fields)).await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("The user name or the password is wrong"));
    assert!(!answer.body.contains("<b>"));
    assert!(!browser.has(browser::LOGIN));
    // and the form still works
    let fields = [("form", answer.hidden()), ("username", "alice"), ("password", "alice")];
    assert_eq!(browser.send(&app, post("/sign_in", &fields)).await.status, 303);
}

#[actix_web::test]
async fn a_form_works_in_the_browser_it_was_made_for_alone() {
    let app = app(&provider()).await;
    let (mut browser, mut other) = (Browser::default(), Browser::default());
    let page = browser.send(&app, authorize(&[])).await;
    other.send(&app, authorize(&[])).await;
    let fields = [("form", page.hidden()), ("username", "alice"), ("password", "alice")];
    assert_eq!(other.send(&app, post("/sign_in", &fields)).await.status, 400);
    assert_eq!(Browser::default().send(&app, post("/sign_in", &fields)).await.status, 400);
    for header in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let request = post("/sign_in", &fields).insert_header(header);
        assert_eq!(browser.send(&app, request).await.status, 400, "{header:?}");
    }
    let own = post("/sign_in", &fields).insert_header(("origin", ISSUER));
    assert_eq!(browser.send(&app, own).await.status, 303);
}

#[actix_web::test]
async fn a_redirect_uri_that_differs_by_a_character_leads_nowhere() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    sign_in!(browser, &app, "alice");
    for uri in [
        "",
        "https://authenticate.localhost:8443/oauth2/callback/",
        "https://authenticate.localhost:8443/oauth2/callback?a=b",
        "https://authenticate.localhost:8443/OAuth2/callback",
        "https://authenticate.localhost:8443/oauth2/../oauth2/callback",
        "https://authenticate.localhost/oauth2/callback",
        "http://authenticate.localhost:8443/oauth2/callback",
        "https://evil.example/oauth2/callback",
    ] {
        let answer = browser.send(&app, authorize(&[("redirect_uri", uri)])).await;
        assert_eq!((answer.status, answer.location), (400, None), "{uri}");
    }
    let answer = browser.send(&app, authorize(&[("client_id", "other")])).await;
    assert_eq!((answer.status, answer.location), (400, None));
}

#[actix_web::test]
async fn an_authorization_without_s256_is_refused_at_the_client() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    sign_in!(browser, &app, "alice");
    let cases: [(Changes<'_>, &str); 8] = [
        (&[("code_challenge", "")], "invalid_request"),
        (&[("code_challenge_method", "")], "invalid_request"),
        (&[("code_challenge_method", "plain")], "invalid_request"),
        (&[("code_challenge", "short")], "invalid_request"),
        (&[("response_type", "token")], "unsupported_response_type"),
        (&[("scope", "profile")], "invalid_scope"),
        (&[("request", "eyJ")], "request_not_supported"),
        (&[("response_mode", "fragment")], "invalid_request"),
    ];
    for (changes, error) in cases {
        let answer = browser.send(&app, authorize(changes)).await;
        assert_eq!(answer.returned("error").as_deref(), Some(error), "{changes:?}");
        assert_eq!(answer.returned("iss").as_deref(), Some(ISSUER));
        assert_eq!(answer.returned("state").as_deref(), Some("st&te"));
        assert!(answer.returned("code").is_none());
    }
    let twice = authorize(&[]).uri(&format!("/authorize?client_id=gateway&client_id=gateway&redirect_uri={CALLBACK}"));
    assert_eq!(browser.send(&app, twice).await.status, 400);
}

#[actix_web::test]
async fn a_code_is_redeemed_once_by_the_client_it_was_made_for() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    sign_in!(browser, &app, "alice");
    let other = "a".repeat(43);
    let cases: [(Changes<'_>, u16, &str); 7] = [
        (&[("code_verifier", &other)], 400, "invalid_grant"),
        (&[("code_verifier", "")], 400, "invalid_request"),
        (&[("redirect_uri", "https://evil.example/")], 400, "invalid_grant"),
        (&[("client_secret", "wrong")], 401, "invalid_client"),
        (&[("client_secret", "")], 401, "invalid_client"),
        (&[("client_id", "other")], 401, "invalid_client"),
        (&[("grant_type", "password")], 400, "unsupported_grant_type"),
    ];
    for (changes, status, error) in cases {
        let code = browser.send(&app, authorize(&[])).await.returned("code").unwrap();
        let answer = browser.send(&app, redeem(&code, changes)).await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(error)), "{changes:?}");
    }
    let code = browser.send(&app, authorize(&[])).await.returned("code").unwrap();
    let first = browser.send(&app, redeem(&code, &[])).await.json();
    assert_eq!(browser.send(&app, redeem(&code, &[])).await.json()["error"], "invalid_grant");
    // and what came from it has ended
    let bearer = ("authorization", format!("Bearer {}", first["access_token"].as_str().unwrap()));
    assert_eq!(browser.send(&app, TestRequest::get().uri("/userinfo").insert_header(bearer)).await.status, 401);
    let renewed = browser.send(&app, renew(first["refresh_token"].as_str().unwrap())).await;
    assert_eq!(renewed.json()["error"], "invalid_grant");
}

#[actix_web::test]
async fn the_client_may_authenticate_by_header_but_not_twice() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    sign_in!(browser, &app, "alice");
    let basic = |credentials: &str| ("authorization", format!("Basic {}", STANDARD.encode(credentials)));
    let silent = [("client_id", ""), ("client_secret", "")];
    for (credentials, status) in [("gateway:s%2Be+c%3Aret", 200), ("gateway:s+e c:ret", 401), ("gateway", 401)] {
        let code = browser.send(&app, authorize(&[])).await.returned("code").unwrap();
        let request = redeem(&code, &silent).insert_header(basic(credentials));
        assert_eq!(browser.send(&app, request).await.status, status, "{credentials}");
    }
    let code = browser.send(&app, authorize(&[])).await.returned("code").unwrap();
    let both = redeem(&code, &[]).insert_header(basic("gateway:s%2Be+c%3Aret"));
    assert_eq!(browser.send(&app, both).await.json()["error"], "invalid_request");
}

#[actix_web::test]
async fn a_refresh_token_rotates_and_a_used_one_ends_all() {
    let provider = provider();
    let app = app(&provider).await;
    let mut browser = Browser::default();
    let code = sign_in!(browser, &app, "carol").returned("code").unwrap();
    let first = browser.send(&app, redeem(&code, &[])).await.json();
    let first_token = first["refresh_token"].as_str().unwrap();
    let second = browser.send(&app, renew(first_token)).await.json();
    let second_token = second["refresh_token"].as_str().unwrap();
    assert_ne!(first_token, second_token);
    let (was, is) = (&first["id_token"], &second["id_token"]);
    let (was, is) = (claims_of(&provider, was.as_str().unwrap()), claims_of(&provider, is.as_str().unwrap()));
    assert_eq!((&was["sub"], &was["auth_time"], &was["sid"]), (&is["sub"], &is["auth_time"], &is["sid"]));
    assert!(is.get("nonce").is_none());
    assert_eq!(browser.send(&app, renew(first_token)).await.json()["error"], "invalid_grant");
    assert_eq!(browser.send(&app, renew(second_token)).await.json()["error"], "invalid_grant");
}

#[actix_web::test]
async fn the_client_signs_out_whom_it_signed_in_and_returns_to_its_own_page() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    let code = sign_in!(browser, &app, "alice").returned("code").unwrap();
    let tokens = browser.send(&app, redeem(&code, &[])).await.json();
    let hint = tokens["id_token"].as_str().unwrap();
    let leave = |fields: &[(&str, &str)]| TestRequest::get().uri(&format!("/end_session?{}", form(fields)));

    let elsewhere = leave(&[("id_token_hint", hint), ("post_logout_redirect_uri", "https://evil.example/")]);
    let answer = browser.send(&app, elsewhere).await;
    assert_eq!((answer.status, answer.location), (400, None));
    assert!(browser.has(browser::LOGIN));

    let fields = [("id_token_hint", hint), ("post_logout_redirect_uri", SIGNED_OUT), ("state", "s")];
    let answer = browser.send(&app, leave(&fields)).await;
    assert_eq!(answer.location.unwrap().as_str(), format!("{SIGNED_OUT}?state=s"));
    assert!(!browser.has(browser::LOGIN));
    let renewed = browser.send(&app, renew(tokens["refresh_token"].as_str().unwrap())).await;
    assert_eq!(renewed.json()["error"], "invalid_grant");
}

#[actix_web::test]
async fn nobody_is_signed_out_by_a_mere_link() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    sign_in!(browser, &app, "alice");
    let uri = format!("/end_session?{}", form(&[("post_logout_redirect_uri", SIGNED_OUT)]));
    let question = browser.send(&app, TestRequest::get().uri(&uri)).await;
    assert!(browser.has(browser::LOGIN) && question.body.contains("Sign out?"));
    let forged = post("/end_session/confirm", &[("form", question.hidden())]);
    let forged = forged.insert_header(("sec-fetch-site", "cross-site"));
    assert_eq!(browser.send(&app, forged).await.status, 400);
    let confirmed = browser.send(&app, post("/end_session/confirm", &[("form", question.hidden())])).await;
    assert_eq!(confirmed.location.unwrap().as_str(), SIGNED_OUT);
    assert!(!browser.has(browser::LOGIN));
}

#[actix_web::test]
async fn discovery_describes_what_is_there() {
    let app = app(&provider()).await;
    let mut browser = Browser::default();
    let found = browser.send(&app, TestRequest::get().uri("/.well-known/openid-configuration")).await.json();
    assert_eq!(found["issuer"], ISSUER);
    assert_eq!(found["authorization_response_iss_parameter_supported"], true);
    let jwks = found["jwks_uri"].as_str().unwrap().strip_prefix(ISSUER).unwrap().to_owned();
    let keys = browser.send(&app, TestRequest::get().uri(&jwks)).await.json();
    assert_eq!((&keys["keys"][0]["alg"], &keys["keys"][0]["use"]), (&json!("ES256"), &json!("sig")));
    assert!(keys["keys"][0].get("d").is_none());
}

#[actix_web::test]
async fn a_name_that_is_not_ours_is_not_answered() {
    let app = app(&provider()).await;
    let request =
        TestRequest::get().uri("/.well-known/openid-configuration").insert_header(("host", "evil.example:4000"));
    assert_eq!(test::call_service(&app, request.to_request()).await.status(), 404);
}
