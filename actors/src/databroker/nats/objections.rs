//! What servers object to: they say so beside the question, which itself goes unanswered.

use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{Event, ServerError};
use portcullis_config::limits::OBJECTION_FRESH;
use tokio::sync::watch;
use tokio::time::Instant;

/// How a server begins when it denies us a subject.
const DENIAL: &str = "permissions violation";

/// The objections of the servers of one connection.
#[derive(Debug, Clone)]
pub struct Objections {
    denials: watch::Sender<Option<Denial>>,
    /// Why there is no connection; of no interest while there is one.
    unconnected: Arc<Mutex<Option<String>>>,
}

#[derive(Debug, Clone)]
struct Denial {
    text: String,
    at: Instant,
}

impl Default for Objections {
    fn default() -> Self {
        Self { denials: watch::Sender::new(None), unconnected: Arc::default() }
    }
}

impl Objections {
    /// Takes note of what the client reports.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::ServerError(ServerError::Other(text)) if is_denial(text) => {
                self.denials.send_replace(Some(Denial { text: plain(text), at: Instant::now() }));
            }
            Event::ServerError(error) => self.set_unconnected(Some(plain(&error.to_string()))),
            Event::ClientError(error) => self.set_unconnected(Some(plain(&error.to_string()))),
            Event::Connected => self.set_unconnected(None),
            _ => {}
        }
    }

    fn set_unconnected(&self, why: Option<String>) {
        *self.unconnected.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why there is no connection, if a reason is known.
    pub(super) fn unconnected(&self) -> Option<String> {
        self.unconnected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was denied to us lately, whatever it was.
    pub fn lately(&self) -> Option<String> {
        let denial = self.denials.borrow();
        denial.as_ref().filter(|denial| denial.at.elapsed() < OBJECTION_FRESH).map(|denial| denial.text.clone())
    }

    /// Waits until this subject is denied to us. Begin before the question is asked.
    pub(super) fn to(&self, subject: &str) -> impl Future<Output = String> + use<> {
        let mut denials = self.denials.subscribe();
        denials.mark_unchanged();
        let quoted = format!("\"{subject}\"");
        async move {
            loop {
                if denials.changed().await.is_err() {
                    return std::future::pending().await;
                }
                if let Some(denial) =
                    denials.borrow_and_update().as_ref().filter(|denial| denial.text.contains(&quoted))
                {
                    return denial.text.clone();
                }
            }
        }
    }
}

fn is_denial(text: &str) -> bool {
    text.get(..DENIAL.len()).is_some_and(|start| start.eq_ignore_ascii_case(DENIAL))
}

fn plain(text: &str) -> String {
    text.trim_start_matches("nats: ").to_owned()
}

#[cfg(test)]
mod tests {
    use async_nats::ClientError;
    use futures_util::FutureExt;

    use super::*;

    fn denied(subject: &str) -> Event {
        Event::ServerError(ServerError::Other(format!("Permissions Violation for Publish to \"{subject}\"")))
    }

    #[actix::test]
    async fn a_denial_reaches_whoever_asked_and_nobody_else() {
        let objections = Objections::default();
        objections.note(&denied("a.b"));
        let (asked, other) = (objections.to("a.b"), objections.to("a"));
        objections.note(&denied("a.b"));
        assert_eq!(asked.await, "Permissions Violation for Publish to \"a.b\"");
        assert!(other.now_or_never().is_none());
        assert_eq!(objections.lately().as_deref(), Some("Permissions Violation for Publish to \"a.b\""));
    }

    #[actix::test]
    async fn a_connection_refused_says_why_until_there_is_one() {
        let objections = Objections::default();
        objections.note(&Event::ServerError(ServerError::AuthorizationViolation));
        assert_eq!(objections.unconnected().as_deref(), Some("authorization violation"));
        objections.note(&Event::ClientError(ClientError::Other("TLS error".into())));
        assert_eq!(objections.unconnected().as_deref(), Some("TLS error"));
        objections.note(&Event::Connected);
        assert_eq!(objections.unconnected(), None);
        assert_eq!(objections.lately(), None);
    }
}
