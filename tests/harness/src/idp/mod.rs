//! A scripted OpenID provider on loopback: correct by itself, and hostile in exactly one way when told to be.
//!
//! It runs on a thread of its own, so plain threads, actors and processes can use it alike.

#![expect(clippy::expect_used, reason = "a test's server that cannot work fails its test")]

mod bodies;
mod mischief;
mod server;
mod sign;
mod tls;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use url::Url;

pub use mischief::{Mischief, Refreshing};

/// The client id that the provider knows.
pub const CLIENT_ID: &str = "portcullis";
/// Its secret. It has characters that client authentication must encode (RFC 6749 §2.3.1).
pub const CLIENT_SECRET: &str = "scripted secret: 100% +/=&é";

/// Who is at the browser: signs in at once, whenever the browser comes.
#[derive(Debug, Clone)]
pub struct Person {
    /// `sub`.
    pub sub: String,
    /// `email`.
    pub email: String,
    /// `name`.
    pub name: String,
    /// `groups`.
    pub groups: Vec<String>,
    /// `email_verified`; `None` leaves it out.
    pub email_verified: Option<bool>,
    /// `sid` of the ID token: the provider's name for the session at this browser; empty leaves it out.
    pub sid: String,
}

impl Default for Person {
    /// `alice`.
    fn default() -> Self {
        Self {
            sub: "alice-0001".into(),
            email: "alice@example.com".into(),
            name: "Alice Example".into(),
            groups: vec!["staff".into(), "admins".into()],
            email_verified: Some(true),
            sid: "sid-0001".into(),
        }
    }
}

impl Person {
    /// One of many who have nothing in common but the group `admins`.
    #[must_use]
    pub fn numbered(number: u64) -> Self {
        Self {
            sub: format!("person-{number:08}"),
            email: format!("person.{number}@example.com"),
            name: format!("Person Number {number}"),
            sid: format!("sid-{number:08}"),
            ..Self::default()
        }
    }
}

/// A request that the provider saw.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, empty if there was none.
    pub query: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Seen {
    /// The first header of a name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The parameter of a form body.
    #[must_use]
    pub fn form(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.body.as_bytes()).find(|(have, _)| have == name).map(|(_, value)| value.into())
    }
}

/// The provider. Stops when it is dropped.
pub struct ScriptedIdp {
    issuer: String,
    certificate: Option<String>,
    shared: Shared,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Shared = Arc<Mutex<State>>;

struct State {
    issuer: String,
    person: Person,
    /// How many have come, if everybody who comes is somebody else.
    crowd: Option<u64>,
    mischief: Mischief,
    seen: Vec<Seen>,
    codes: Vec<Code>,
    refreshing: Refreshing,
    access_life: u64,
    grants: Vec<Grant>,
    refresh_delay: Duration,
    refreshes: usize,
    reuses: usize,
}

/// A refresh token that was given out.
#[derive(Debug, Clone)]
struct Grant {
    token: String,
    /// The sign-in it comes from.
    family: String,
    person: Person,
    is_spent: bool,
}

/// An authorization code that was given out and not redeemed.
#[derive(Debug, Clone)]
struct Code {
    code: String,
    client_id: String,
    redirect_uri: String,
    nonce: Option<String>,
    challenge: Option<String>,
    person: Person,
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScriptedIdp {
    /// Starts a correct provider on a free port.
    ///
    /// # Panics
    /// Where no port can be had.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a correct provider that speaks TLS as `localhost`, with the certificate in [`ScriptedIdp::certificate`].
    ///
    /// # Panics
    /// Where no port can be had.
    #[must_use]
    pub fn start_tls() -> Self {
        Self::start_with(Some(tls::certificate()))
    }

    fn start_with(certificate: Option<tls::Certificate>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let issuer = match &certificate {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let shared = Arc::new(Mutex::new(State {
            issuer: issuer.clone(),
            person: Person::default(),
            crowd: None,
            mischief: Mischief::None,
            seen: Vec::new(),
            codes: Vec::new(),
            refreshing: Refreshing::Rotates,
            access_life: 300,
            grants: Vec::new(),
            refresh_delay: Duration::ZERO,
            refreshes: 0,
            reuses: 0,
        }));
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&shared);
        let pem = certificate.as_ref().map(|certificate| certificate.pem.clone());
        let thread = std::thread::spawn(move || server::serve(listener, certificate, state, stopped));
        Self { issuer, certificate: pem, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Its self-signed certificate in PEM, if it speaks TLS: who trusts it (`SSL_CERT_FILE`) trusts the provider.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Its issuer, such as `http://127.0.0.1:40001`.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.issuer.clone()
    }

    /// From now on it misbehaves in this way, and in no other.
    pub fn set(&self, mischief: Mischief) {
        lock(&self.shared).mischief = mischief;
    }

    /// From now on it answers refresh tokens in this way.
    pub fn set_refreshing(&self, refreshing: Refreshing) {
        lock(&self.shared).refreshing = refreshing;
    }

    /// From now on its access tokens live for so many seconds.
    pub fn set_access_life(&self, seconds: u64) {
        lock(&self.shared).access_life = seconds;
    }

    /// From now on it takes so long to answer a refresh token.
    pub fn set_refresh_delay(&self, delay: Duration) {
        lock(&self.shared).refresh_delay = delay;
    }

    /// How often a refresh token was presented at all.
    #[must_use]
    pub fn refreshes(&self) -> usize {
        lock(&self.shared).refreshes
    }

    /// How often a refresh token was presented that had been spent.
    #[must_use]
    pub fn reuses(&self) -> usize {
        lock(&self.shared).reuses
    }

    /// From now on this person is at the browser, and is what user info and renewed ID tokens speak of.
    pub fn set_person(&self, person: Person) {
        lock(&self.shared).person = person;
    }

    /// From now on whoever comes to sign in is somebody else: [`Person::numbered`], from 1.
    pub fn set_crowd(&self) {
        lock(&self.shared).crowd = Some(0);
    }

    /// Every request so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.shared).seen.clone()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        lock(&self.shared).seen.clear();
    }

    /// A logout token about the person at the browser (OpenID Connect Back-Channel Logout 1.0 §2.4), signed with the
    /// provider's RSA key. `header` and `claims` change it; `null` takes a claim away.
    #[must_use]
    pub fn logout_token(&self, header: &serde_json::Value, claims: &serde_json::Value) -> String {
        let state = lock(&self.shared);
        sign::logout_token(&state.issuer, &state.person, header, claims)
    }

    /// An ID token about the person at the browser, as from a sign-in that nobody began.
    #[must_use]
    pub fn id_token(&self) -> String {
        let state = lock(&self.shared);
        sign::id_token(&state.issuer, &state.person, Some("nonce"), "access", state.mischief)
    }

    /// What a browser would be redirected to from this authorization URL, without a browser and without a request.
    ///
    /// # Errors
    /// What is wrong with the authorization request.
    pub fn authorize(&self, url: &Url) -> Result<Url, String> {
        server::authorize(&mut lock(&self.shared), url)
    }
}

impl Drop for ScriptedIdp {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // a panic on its thread was seen by its clients
            drop(thread.join());
        }
    }
}
