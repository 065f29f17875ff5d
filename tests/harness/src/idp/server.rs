//! The scripted provider's endpoints.

use std::convert::Infallible;
use std::net::TcpListener;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use url::Url;
use uuid::Uuid;

use super::bodies::{Blanks, Closed, Stalls, Twice};
use super::sign::{encoded, id_token, key_set, user_info};
use super::tls::Certificate;
use super::{CLIENT_ID, CLIENT_SECRET, Code, Grant, Mischief, Person, Refreshing, Seen, Shared, State, lock};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Where hostile redirects lead; a request for it is a fault of the one that asks.
const STOLEN: &str = "/stolen";
/// More than any client should read.
const HUGE: usize = 8 * 1024 * 1024;

/// Serves until the sender of `stopped` is dropped.
pub(super) fn serve(
    listener: TcpListener,
    certificate: Option<Certificate>,
    shared: Shared,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async move {
        listener.set_nonblocking(true).expect("a socket that does not block");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        let accept = async {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Shared::clone(&shared);
                let acceptor = certificate.as_ref().map(|certificate| certificate.acceptor.clone());
                // a client that breaks off is its own business
                tokio::task::spawn_local(async move {
                    match acceptor {
                        None => serve_connection(stream, shared).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve_connection(stream, shared).await;
                            }
                        }
                    }
                });
            }
        };
        tokio::select! {
            () = accept => {}
            _ = stopped => {}
        }
    });
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Shared) {
    let is_twice = lock(&shared).refreshing == Refreshing::AnswersTwice;
    let stream = Twice::new(stream, is_twice);
    let service = service_fn(move |request| answer(Shared::clone(&shared), request));
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(shared: Shared, request: Request<Incoming>) -> Result<Answer, Closed> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), lossy(value.as_bytes()))).collect(),
        body: lossy(&body),
    };
    let (mischief, refreshing) = {
        let mut state = lock(&shared);
        state.seen.push(seen.clone());
        (state.mischief, state.refreshing)
    };
    if seen.path == "/token" && seen.form("grant_type").as_deref() == Some("refresh_token") {
        let delay = {
            let mut state = lock(&shared);
            state.refreshes += 1;
            state.refresh_delay
        };
        // the answer is on its way while the client may die
        let answered = |shared: Shared| async move {
            let answer = respond(&mut lock(&shared), &seen);
            tokio::time::sleep(delay).await;
            answer
        };
        return match refreshing {
            Refreshing::Hangs => std::future::pending().await,
            Refreshing::Dies => {
                drop(answered(shared).await);
                Err(Closed)
            }
            _ => Ok(answered(shared).await),
        };
    }
    match (seen.path.as_str(), mischief) {
        ("/.well-known/openid-configuration", Mischief::DiscoverySlow) => std::future::pending().await,
        ("/.well-known/openid-configuration", Mischief::DiscoveryStalls) => {
            let answer = Response::builder().header(header::CONTENT_TYPE, "application/json").body(Stalls.boxed());
            answer.map_err(|_| Closed)
        }
        ("/revoke", Mischief::RevocationSlow) => std::future::pending().await,
        ("/token", Mischief::TokenSlow) => std::future::pending().await,
        ("/token", Mischief::TokenCloses) => Err(Closed),
        ("/token", Mischief::TokenHugeInChunks) => {
            let answer =
                Response::builder().header(header::CONTENT_TYPE, "application/json").body(Blanks(HUGE).boxed());
            answer.map_err(|_| Closed)
        }
        _ => Ok(respond(&mut lock(&shared), &seen)),
    }
}

fn respond(state: &mut State, seen: &Seen) -> Answer {
    let mischief = state.mischief;
    match (seen.method.as_str(), seen.path.as_str()) {
        ("GET", "/.well-known/openid-configuration") => discovery(state),
        ("GET", "/jwks") => jwks(mischief),
        ("GET", "/authorize") => {
            let url = Url::parse(&format!("{}/authorize?{}", state.issuer, seen.query));
            match url.map_err(|error| error.to_string()).and_then(|url| authorize(state, &url)) {
                Ok(to) => redirect(StatusCode::FOUND, to.as_str()),
                Err(why) => text(StatusCode::BAD_REQUEST, "text/plain", why),
            }
        }
        ("POST", "/token") => token(state, seen),
        ("GET", "/userinfo") => info(state, seen),
        ("GET", "/end_session") => {
            let to = url::form_urlencoded::parse(seen.query.as_bytes())
                .find(|(name, _)| name == "post_logout_redirect_uri")
                .map(|(_, value)| value.into_owned());
            match to {
                Some(to) => redirect(StatusCode::FOUND, &to),
                None => text(StatusCode::OK, "text/plain", "signed out".into()),
            }
        }
        ("POST", "/revoke") => {
            let ours = client_is_ours(seen, mischief == Mischief::ClientSecretPostOnly);
            let status = if ours { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            text(status, "application/json", String::new())
        }
        (_, STOLEN | "/evil-jwks" | "/evil-x5u") => json_answer(&key_set(Mischief::None)),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "nothing here".into()),
    }
}

fn discovery(state: &State) -> Answer {
    let at = |path: &str| format!("{}{path}", state.issuer);
    let mut document = json!({
        "issuer": state.issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "userinfo_endpoint": at("/userinfo"),
        "jwks_uri": at("/jwks"),
        "end_session_endpoint": at("/end_session"),
        "revocation_endpoint": at("/revoke"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        // a client that takes its algorithms from here is lost
        "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
    });
    let port = state.issuer.rsplit(':').next().unwrap_or_default();
    let (name, value) = match state.mischief {
        Mischief::DiscoveryOtherIssuer => ("issuer", json!("https://evil.example")),
        Mischief::DiscoveryIssuerWithSlash => ("issuer", json!(format!("{}/", state.issuer))),
        Mischief::DiscoveryKeysPlain => ("jwks_uri", json!(format!("http://idp.example:{port}/jwks"))),
        Mischief::DiscoveryKeysMetadata => ("jwks_uri", json!("http://169.254.169.254/jwks")),
        Mischief::DiscoveryKeysFile => ("jwks_uri", json!("file:///etc/passwd")),
        Mischief::DiscoveryKeysPrivate => ("jwks_uri", json!("https://10.0.0.1/jwks")),
        Mischief::DiscoveryTokenPlain => ("token_endpoint", json!(format!("http://idp.example:{port}/token"))),
        Mischief::DiscoveryUserInfoMetadata => ("userinfo_endpoint", json!("https://169.254.169.254/latest")),
        Mischief::DiscoveryRevocationMetadata => ("revocation_endpoint", json!("https://169.254.169.254/revoke")),
        Mischief::DiscoveryNoToken => ("token_endpoint", Value::Null),
        Mischief::NoRevocationEndpoint => ("revocation_endpoint", Value::Null),
        Mischief::NoUserInfoEndpoint => ("userinfo_endpoint", Value::Null),
        Mischief::ClientSecretPostOnly => ("token_endpoint_auth_methods_supported", json!(["client_secret_post"])),
        Mischief::NamesItself | Mischief::ResponseIssOther | Mischief::ResponseIssMissing => {
            ("authorization_response_iss_parameter_supported", json!(true))
        }
        Mischief::DiscoveryGarbage => return text(StatusCode::OK, "application/json", "{\"issuer\":".into()),
        Mischief::DiscoveryRedirects => return redirect(StatusCode::FOUND, STOLEN),
        Mischief::DiscoveryDown => return text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "down".into()),
        Mischief::DiscoveryGzip => return gzip(document.to_string()),
        Mischief::DiscoveryHuge => return text(StatusCode::OK, "application/json", " ".repeat(HUGE)),
        _ => return json_answer(&document),
    };
    if let Some(document) = document.as_object_mut() {
        document.insert(name.into(), value);
        document.retain(|_, value| !value.is_null());
    }
    json_answer(&document)
}

fn jwks(mischief: Mischief) -> Answer {
    match mischief {
        Mischief::KeysGarbage => text(StatusCode::OK, "application/json", "[]".into()),
        Mischief::KeysDown => text(StatusCode::BAD_GATEWAY, "text/plain", "down".into()),
        Mischief::KeysRedirect => redirect(StatusCode::FOUND, STOLEN),
        Mischief::KeysGzip => gzip(key_set(mischief).to_string()),
        _ => json_answer(&key_set(mischief)),
    }
}

/// The authorization endpoint: the configured person signs in at once.
pub(super) fn authorize(state: &mut State, url: &Url) -> Result<Url, String> {
    let parameter = |name: &str| {
        let mut values = url.query_pairs().filter(|(have, _)| have == name).map(|(_, value)| value.into_owned());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(format!("{name} stands twice")),
        }
    };
    let needed = |name: &str| parameter(name)?.ok_or_else(|| format!("{name} is missing"));
    if needed("response_type")? != "code" || needed("client_id")? != CLIENT_ID {
        return Err("another response_type or client_id than ours".into());
    }
    if !needed("scope")?.split(' ').any(|scope| scope == "openid") {
        return Err("scope lacks openid".into());
    }
    let challenge = parameter("code_challenge")?;
    if challenge.is_some() && needed("code_challenge_method")? != "S256" {
        return Err("another code_challenge_method than S256".into());
    }
    let redirect_uri = needed("redirect_uri")?;
    let mut to = Url::parse(&redirect_uri).map_err(|error| error.to_string())?;
    let code = Code {
        code: Uuid::new_v4().to_string(),
        client_id: CLIENT_ID.into(),
        redirect_uri,
        nonce: parameter("nonce")?,
        challenge,
        person: arriving(state),
    };
    to.query_pairs_mut().append_pair("code", &code.code);
    if let Some(value) = parameter("state")? {
        to.query_pairs_mut().append_pair("state", &value);
    }
    match state.mischief {
        Mischief::ResponseIssMissing => {}
        Mischief::ResponseIssOther => drop(to.query_pairs_mut().append_pair("iss", "https://evil.example")),
        _ => drop(to.query_pairs_mut().append_pair("iss", &state.issuer)),
    }
    state.codes.push(code);
    Ok(to)
}

/// Who is at the browser.
fn arriving(state: &mut State) -> Person {
    match &mut state.crowd {
        Some(number) => {
            *number += 1;
            Person::numbered(*number)
        }
        None => state.person.clone(),
    }
}

fn token(state: &mut State, seen: &Seen) -> Answer {
    match state.mischief {
        Mischief::TokenRedirects => return redirect(StatusCode::TEMPORARY_REDIRECT, STOLEN),
        Mischief::TokenRedirects303 => return redirect(StatusCode::SEE_OTHER, STOLEN),
        Mischief::TokenRefuses => return refuse("invalid_grant"),
        Mischief::TokenFails => return text(StatusCode::INTERNAL_SERVER_ERROR, "text/html", "<h1>oops</h1>".into()),
        Mischief::TokenBusy => return text(StatusCode::TOO_MANY_REQUESTS, "application/json", "{}".into()),
        Mischief::TokenHuge => return text(StatusCode::OK, "application/json", " ".repeat(HUGE)),
        Mischief::TokenGarbage => return text(StatusCode::OK, "application/json", "{\"access_token\": \"a".into()),
        Mischief::TokenEmpty => return text(StatusCode::OK, "application/json", String::new()),
        _ => {}
    }
    if seen.form("grant_type").as_deref() == Some("refresh_token") {
        return refresh(state, seen);
    }
    let code = match redeemed(state, seen) {
        Ok(code) => code,
        Err(error) => return refuse(error),
    };
    // the access token names the person it is of
    let access = format!("access.{}.{}", encoded(&code.person.sub), Uuid::new_v4());
    let id_token = id_token(&state.issuer, &code.person, code.nonce.as_deref(), &access, state.mischief);
    let mut answer = json!({
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": state.access_life,
        "refresh_token": granted(state, Uuid::new_v4().to_string(), code.person),
        "id_token": id_token,
        "scope": "openid",
    });
    let (name, value) = match state.mischief {
        Mischief::TokenTypeLowerCase => ("token_type", json!("bearer")),
        Mischief::TokenMac => ("token_type", json!("mac")),
        Mischief::TokenNoIdToken => ("id_token", Value::Null),
        Mischief::TokenNoAccessToken => ("access_token", Value::Null),
        Mischief::TokenExpiresInString => ("expires_in", json!("300")),
        Mischief::TokenGzip => return gzip(answer.to_string()),
        Mischief::TokenHtml => return text(StatusCode::OK, "text/html", answer.to_string()),
        Mischief::TokenTwice => {
            let twice = answer.to_string().replacen('{', "{\"id_token\":\"x\",", 1);
            return text(StatusCode::OK, "application/json", twice);
        }
        _ => return json_answer(&answer),
    };
    if let Some(answer) = answer.as_object_mut() {
        answer.insert(name.into(), value);
        answer.retain(|_, value| !value.is_null());
    }
    json_answer(&answer)
}

/// A new refresh token.
fn granted(state: &mut State, family: String, person: Person) -> String {
    let token = format!("refresh.{}", Uuid::new_v4());
    state.grants.push(Grant { token: token.clone(), family, person, is_spent: false });
    token
}

fn refresh(state: &mut State, seen: &Seen) -> Answer {
    match state.refreshing {
        Refreshing::Down => return text(StatusCode::SERVICE_UNAVAILABLE, "text/html", "<h1>soon</h1>".into()),
        Refreshing::Busy(seconds) => return busy(seconds),
        Refreshing::DoesNotKnowUs => return refuse("invalid_client"),
        Refreshing::Refuses => return refuse("invalid_grant"),
        _ => {}
    }
    if !client_is_ours(seen, false) {
        return refuse("invalid_client");
    }
    let presented = seen.form("refresh_token").unwrap_or_default();
    // the newest first: most of the old ones are spent
    let Some(grant) = state.grants.iter_mut().rev().find(|grant| grant.token == presented) else {
        return refuse("invalid_grant");
    };
    let was_spent = std::mem::replace(&mut grant.is_spent, true);
    let Grant { family, person: before, .. } = grant.clone();
    if was_spent {
        state.reuses += 1;
        state.grants.retain(|grant| grant.family != family);
        return refuse("invalid_grant");
    }
    // the person as they are now, if they are at the browser still
    let now = if state.person.sub == before.sub { state.person.clone() } else { before };
    let person = match state.refreshing {
        Refreshing::OfAnotherPerson => Person { sub: "mallory-0666".into(), ..now.clone() },
        _ => now.clone(),
    };
    let mischief = match state.refreshing {
        Refreshing::Forges => Mischief::SignatureBroken,
        _ => state.mischief,
    };
    let access = format!("access.{}.{}", encoded(&now.sub), Uuid::new_v4());
    // a renewed ID token has no nonce (OpenID Connect Core §12.2)
    let id_token = match state.refreshing {
        Refreshing::RotatesWithoutIdToken => Value::Null,
        _ => json!(id_token(&state.issuer, &person, None, &access, mischief)),
    };
    let mut answer = json!({
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": state.access_life,
        "refresh_token": granted(state, family, now),
        "id_token": id_token,
    });
    answer.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    json_answer(&answer)
}

/// The code of a token request that is right in everything; a code is taken once, right or wrong.
fn redeemed(state: &mut State, seen: &Seen) -> Result<Code, &'static str> {
    let wanted = seen.form("code").ok_or("invalid_request")?;
    let found = state.codes.iter().position(|code| code.code == wanted).ok_or("invalid_grant")?;
    let code = state.codes.remove(found);
    let by_post = state.mischief == Mischief::ClientSecretPostOnly;
    if !client_is_ours(seen, by_post) {
        return Err("invalid_client");
    }
    if seen.form("grant_type").as_deref() != Some("authorization_code") || code.client_id != CLIENT_ID {
        return Err("invalid_request");
    }
    let verifier = seen.form("code_verifier").unwrap_or_default();
    let challenge = encoded(digest::digest(&digest::SHA256, verifier.as_bytes()));
    let proven = code.challenge.as_ref().is_none_or(|expected| *expected == challenge);
    if !proven || seen.form("redirect_uri").as_deref() != Some(&code.redirect_uri) {
        return Err("invalid_grant");
    }
    Ok(code)
}

fn client_is_ours(seen: &Seen, by_post: bool) -> bool {
    if by_post {
        let secret = seen.form("client_secret");
        return seen.form("client_id").as_deref() == Some(CLIENT_ID) && secret.as_deref() == Some(CLIENT_SECRET);
    }
    let form_encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let expected = STANDARD.encode(format!("{}:{}", form_encoded(CLIENT_ID), form_encoded(CLIENT_SECRET)));
    seen.header("authorization") == Some(&format!("Basic {expected}")) && seen.form("client_secret").is_none()
}

fn info(state: &State, seen: &Seen) -> Answer {
    let of = |person: &Person| format!("Bearer access.{}.", encoded(&person.sub));
    let bearer = seen.header("authorization").unwrap_or_default();
    let person = match state.crowd {
        // of a crowd the newest grant of this person says who they are
        Some(_) => state.grants.iter().rev().map(|grant| &grant.person).find(|person| bearer.starts_with(&of(person))),
        None => Some(&state.person).filter(|person| bearer.starts_with(&of(person))),
    };
    let Some(person) = person else {
        return text(StatusCode::UNAUTHORIZED, "text/plain", "no such access token".into());
    };
    let mut claims = user_info(person);
    let object = claims.as_object_mut().expect("an object");
    match state.mischief {
        Mischief::UserInfoOther => drop(object.insert("sub".into(), json!("bob-0002"))),
        Mischief::UserInfoNoSub => drop(object.remove("sub")),
        Mischief::NoEmailVerified => drop(object.remove("email_verified")),
        Mischief::UserInfoLarge => drop(object.insert("groups".into(), json!(vec!["group"; 16 * 1024]))),
        Mischief::UserInfoDown => return text(StatusCode::BAD_GATEWAY, "text/plain", "down".into()),
        Mischief::UserInfoRefuses => return text(StatusCode::FORBIDDEN, "application/json", "{}".into()),
        Mischief::UserInfoJwt => return text(StatusCode::OK, "application/jwt", "e30.e30.".into()),
        Mischief::UserInfoArray => return text(StatusCode::OK, "application/json", json!([claims]).to_string()),
        Mischief::UserInfoRedirects => return redirect(StatusCode::FOUND, STOLEN),
        Mischief::UserInfoHugePage => return text(StatusCode::OK, "text/html", " ".repeat(HUGE)),
        Mischief::UserInfoHuge => return text(StatusCode::OK, "application/json", " ".repeat(HUGE)),
        _ => {}
    }
    json_answer(&claims)
}

fn refuse(error: &str) -> Answer {
    text(StatusCode::BAD_REQUEST, "application/json", json!({"error": error}).to_string())
}

fn json_answer(value: &Value) -> Answer {
    text(StatusCode::OK, "application/json; charset=utf-8", value.to_string())
}

/// Says that it is packed. It is not, so that who unpacks it and who ignores the header both fall.
fn gzip(body: String) -> Answer {
    let mut answer = text(StatusCode::OK, "application/json", body);
    answer.headers_mut().insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    answer
}

fn redirect(status: StatusCode, to: &str) -> Answer {
    let answer = Response::builder().status(status).header(header::LOCATION, to);
    answer.body(Full::new(Bytes::new()).boxed()).expect("an answer")
}

fn text(status: StatusCode, kind: &str, body: String) -> Answer {
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
    answer.header(header::CACHE_CONTROL, "no-store").body(Full::new(Bytes::from(body)).boxed()).expect("an answer")
}

fn busy(seconds: u32) -> Answer {
    let mut answer = text(StatusCode::TOO_MANY_REQUESTS, "application/json", "{}".into());
    answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    answer
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
