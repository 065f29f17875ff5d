//! Owns   · what is known of the components in other processes: who answers, and what the servers do not permit.
//! Answers · nothing: it looks by itself; [`Ties`] tell.
//! Asks   · each of the others, every second.
//! If it dies · what was known last stays known; the node stops in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::{Actor, AsyncContext, Context, WrapFuture};
use portcullis_config::Services;
use portcullis_config::limits::{ROLE_DENIED_PAUSE, ROLE_PING};
use tokio::time::Instant;

use super::{Line, Link, subjects};
use crate::ask::Far;
use crate::databroker::nats::NoAnswer;

/// What a process knows of the components in others.
#[derive(Clone, Default)]
pub struct Ties(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// The components that this process asks, and why one does not answer.
    others: BTreeMap<&'static str, Option<String>>,
    /// What the servers deny us, by subject.
    denied: BTreeMap<String, String>,
}

impl Ties {
    /// The components that this process asks, each with what is wrong with it.
    #[must_use]
    pub fn others(&self) -> BTreeMap<&'static str, Option<String>> {
        self.known().others.clone()
    }

    /// What the servers deny us: which subject, and their words. Nothing of it goes away by waiting.
    #[must_use]
    pub fn denials(&self) -> Option<String> {
        let known = self.known();
        let words: Vec<&str> = known.denied.values().map(String::as_str).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// Whether a component answered lately.
    #[must_use]
    pub fn answers(&self, component: &str) -> bool {
        self.known().others.get(component).is_some_and(Option::is_none)
    }

    pub(super) fn denied(&self, subject: &str, why: String) {
        if self.known().denied.insert(subject.to_owned(), why.clone()).is_none() {
            tracing::error!(subject, %why, "the user of this process lacks a permission");
        }
    }

    pub(super) fn permitted(&self, subject: &str) {
        self.known().denied.remove(subject);
    }

    fn expect(&self, component: &'static str) {
        self.known().others.insert(component, Some("nobody has answered yet".into()));
    }

    fn found(&self, component: &'static str, wrong: Option<String>) {
        let before = self.known().others.insert(component, wrong.clone());
        match (before.flatten(), wrong) {
            (None, Some(why)) => tracing::warn!(component, %why, "a component does not answer"),
            (Some(_), None) => tracing::info!(component, "a component answers"),
            _ => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever looks after the others.
pub struct Lookout {
    link: Link,
    others: Vec<(&'static str, Vec<&'static str>)>,
    said: Vec<&'static str>,
}

impl Lookout {
    /// Looks after every component that one of those `here` asks, and that is not here itself.
    #[must_use]
    pub fn new(link: Link, here: Services) -> Self {
        let mut others = BTreeMap::<&'static str, Vec<&'static str>>::new();
        for (other, asked) in here.names().flat_map(subjects::asked_by) {
            if here.names().all(|name| name != *other) {
                others.entry(other).or_default().extend(*asked);
            }
        }
        for other in others.keys() {
            link.ties().expect(other);
        }
        let said = here.names().flat_map(subjects::said_by).copied().collect();
        Self { link, others: others.into_iter().collect(), said }
    }
}

impl Actor for Lookout {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for subject in std::mem::take(&mut self.said) {
            ctx.spawn(try_out(self.link.clone(), subject).into_actor(self));
        }
        for (component, asked) in std::mem::take(&mut self.others) {
            ctx.spawn(look_after(self.link.clone(), component).into_actor(self));
            for subject in asked {
                ctx.spawn(try_out(self.link.clone(), subject).into_actor(self));
            }
        }
    }
}

/// Asks every second whether somebody is there.
async fn look_after(link: Link, component: &'static str) {
    let line = Line::new(link.clone(), subjects::ping(component), None);
    loop {
        let began = Instant::now();
        let wrong = line.ask(b"null".to_vec(), ROLE_PING).await.err();
        if wrong.is_none() {
            link.ties().permitted(&subjects::ping(component));
        }
        link.ties().found(component, wrong.map(|wrong| wrong.to_string()));
        tokio::time::sleep_until(began + ROLE_PING).await;
    }
}

/// Finds out, once, whether we may ask or say something: at the start, and not by the first person who needs it. What is denied is tried
/// again, so that a permission that is mended needs no restart.
async fn try_out(link: Link, subject: &'static str) {
    loop {
        match link.nats().may_publish(subject).await {
            Ok(()) => return link.ties().permitted(subject),
            Err(NoAnswer::Denied(why)) => link.ties().denied(subject, why),
            Err(_) => {}
        }
        tokio::time::sleep(ROLE_DENIED_PAUSE).await;
    }
}
