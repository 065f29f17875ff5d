//! TLS towards clients: what is in force for new handshakes, replaced as a whole while nobody is cut.
//!
//! What is done once, and not for each handshake: certificates are parsed, their names put into maps and their keys
//! loaded; one key for tickets is shared by all workers and changes by itself every six hours. A client gets one TLS 1.3
//! ticket. Nothing is compressed and nothing is kept for sessions on our side, as tickets hold it all. 0-RTT is never
//! taken.

mod certificates;
mod clients;

use std::fmt::Display;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_actors::clock;
use portcullis_actors::request::certificate::ClientCertificate;
use portcullis_config::limits::TLS_TICKETS;
use portcullis_config::{Codec, Config, Enforcement};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerConnection};

pub use certificates::Certificates;
use clients::{Clients, Live, Verifier};

/// A certificate or key that cannot be used; says which, and nothing of what is in it.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {wrong}")]
pub struct Unusable {
    place: String,
    wrong: String,
}

impl Unusable {
    fn new(place: impl Display, wrong: impl Display) -> Self {
        Self { place: place.to_string(), wrong: wrong.to_string() }
    }
}

/// The place where TLS is published.
pub struct Tls(ArcSwap<State>);

/// TLS as one configuration wants it.
pub struct State {
    /// For new handshakes.
    pub acceptor: Arc<ServerConfig>,
    /// What it shows to clients.
    pub certificates: Arc<Certificates>,
    /// How certificates of clients are judged.
    clients: Option<Arc<Clients>>,
    tickets: Arc<dyn ProducesTickets>,
}

impl Tls {
    /// TLS as a configuration wants it; `None` where this process has no listener, or speaks plain HTTP on it.
    ///
    /// # Errors
    /// As [`State::of`].
    pub fn for_listener(config: &Config) -> Result<Option<Arc<Self>>, Unusable> {
        if !config.services.proxy || config.insecure_server {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self(ArcSwap::from_pointee(State::of(config, None)?)))))
    }

    /// What is in force now.
    pub fn now(&self) -> Arc<State> {
        self.0.load_full()
    }

    /// What another configuration wants, ready to be in force.
    ///
    /// # Errors
    /// As [`State::of`].
    pub fn prepare(&self, config: &Config) -> Result<State, Unusable> {
        State::of(config, Some(&self.now()))
    }

    /// Brings it into force for new handshakes. Certificates that clients have shown are judged by it from now on.
    pub fn publish(&self, state: State) {
        self.0.store(Arc::new(state));
    }

    /// The certificate that a client has shown; `None` where it has not, or was not asked.
    pub fn certificate_of(self: &Arc<Self>, connection: &ServerConnection) -> Option<Arc<ClientCertificate>> {
        let chain = connection.peer_certificates()?;
        let chain: Vec<CertificateDer<'static>> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let details = clients::details(chain.first()?);
        Some(Arc::new(ClientCertificate::new(details, Live::new(Arc::clone(self), chain))))
    }
}

impl State {
    /// What a configuration wants. Tickets of `before` are taken as long as clients are judged as they were: a session
    /// that is resumed shows its certificate no second time.
    ///
    /// # Errors
    /// A file that cannot be read, holds no certificate or key, or a key that does not fit its certificate; an authority
    /// or a revocation list that is none.
    fn of(config: &Config, before: Option<&Self>) -> Result<Self, Unusable> {
        let certificates = Arc::new(Certificates::load(&config.certificates)?);
        let clients = config.downstream.mtls.as_ref().map(Clients::of).transpose()?.map(Arc::new);
        let same = |before: &&Self| before.clients.as_deref() == clients.as_deref();
        let tickets = match before.filter(same) {
            Some(before) => Arc::clone(&before.tickets),
            None => Ticketer::new().map_err(|error| Unusable::new("certificates", error))?,
        };
        let builder = ServerConfig::builder();
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::new(Verifier(Arc::clone(clients)))),
            None => builder.with_no_client_auth(),
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Certificates>::clone(&certificates);
        let mut acceptor = builder.with_cert_resolver(resolver);
        acceptor.alpn_protocols = config.downstream.codec.alpn();
        // 0-RTT data can be replayed by whoever saw it: never for authenticated requests (RFC 8446 §8)
        acceptor.max_early_data_size = 0;
        acceptor.ticketer = Arc::clone(&tickets);
        acceptor.send_tls13_tickets = TLS_TICKETS;
        acceptor.session_storage = Arc::new(NoServerSessionStorage {});
        certificates.warn(clock::now());
        Ok(Self { acceptor: Arc::new(acceptor), certificates, clients, tickets })
    }

    /// Whether clients are asked for a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.clients.is_some()
    }

    /// Whether a client may stay connected that has shown this certificate, or none. A session that is resumed was judged
    /// when it began, which may be long ago.
    pub fn admits(&self, certificate: Option<&ClientCertificate>) -> bool {
        match &self.clients {
            Some(clients) if clients.authority().enforcement == Enforcement::Reject => {
                certificate.is_some_and(ClientCertificate::holds)
            }
            Some(_) | None => true,
        }
    }
}

/// Whether a connection is HTTP/2. Without ALPN, a listener that speaks nothing else takes it for granted.
pub fn is_h2(connection: &ServerConnection, codec: Codec) -> bool {
    connection.alpn_protocol().map_or(codec == Codec::Http2, |protocol| protocol == b"h2")
}

/// A server name as hosts are compared: lower case, without the dot of the root.
pub fn plain_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
