//! Owns   · the right to change what is in force: configurations compiled one after another, off the workers.
//! Answers · [`Enforce`]: a configuration is compiled and published; what it is called from now on.
//! Asks   · nobody; it hands what it compiled to the place where routes and policy are published together.
//! If it dies · what is in force stays in force; the node stops in order.

use std::collections::HashMap;
use std::sync::Arc;

use actix::{Actor, Context, Handler, Message};
use aws_lc_rs::digest;
use portcullis_config::{Config, Route};
use serde::{Deserialize, Serialize};

use super::policies::Policies;

/// Bring a configuration into force. It was read and found valid.
#[derive(Message)]
#[rtype(result = "Revision")]
pub struct Enforce(pub Arc<Config>);

/// Names a configuration in force: two nodes share it exactly when they decide alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Revision(Arc<str>);

impl From<String> for Revision {
    fn from(digits: String) -> Self {
        Self(digits.into())
    }
}

impl From<Revision> for String {
    fn from(Revision(digits): Revision) -> Self {
        (*digits).to_owned()
    }
}

/// A configuration with its policies, ready to be in force.
#[derive(Debug)]
pub struct Compiled {
    /// What it is called.
    pub revision: Revision,
    /// What it was compiled from.
    pub config: Arc<Config>,
    /// Who may go where.
    pub policies: Policies,
    /// The routes by their ids, each with its place among them.
    by_id: HashMap<String, (usize, Arc<Route>)>,
}

impl Revision {
    /// The revision of a configuration: 12 hex digits of a hash over what decides on requests, in which secrets are
    /// placeholders.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let reading = &config.downstream.reading;
        let text = format!("{:?}\n{reading:?}\n{:?}", config.authenticate_service_url.as_str(), config.routes);
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        Self(hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same as a number, of 48 bits.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from_str_radix(&self.0, 16).unwrap_or(0)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Compiled {
    /// Compiles a configuration.
    #[must_use]
    pub fn of(config: Arc<Config>) -> Self {
        let routes = config.routes.iter().enumerate();
        // of two with one id the first counts, as for whoever reads them in order
        let by_id = routes.rev().map(|(index, route)| (route.id.clone(), (index, Arc::new(route.clone())))).collect();
        Self { revision: Revision::of(&config), policies: Policies::compile(&config), config, by_id }
    }

    /// A route by its id, with its place among all of them.
    #[must_use]
    pub fn route(&self, id: &str) -> Option<(usize, &Arc<Route>)> {
        self.by_id.get(id).map(|(index, route)| (*index, route))
    }
}

/// The only one who changes what is in force. On an arbiter of its own: compiling ten thousand policies takes a while.
pub struct Authorizer<P> {
    publish: P,
}

impl<P: Fn(Compiled) + Unpin + 'static> Authorizer<P> {
    /// An authorizer that publishes by this function, as one value.
    pub const fn new(publish: P) -> Self {
        Self { publish }
    }
}

impl<P: Fn(Compiled) + Unpin + 'static> Actor for Authorizer<P> {
    type Context = Context<Self>;
}

impl<P: Fn(Compiled) + Unpin + 'static> Handler<Enforce> for Authorizer<P> {
    type Result = actix::MessageResult<Enforce>;

    fn handle(&mut self, Enforce(config): Enforce, _: &mut Self::Context) -> Self::Result {
        let compiled = Compiled::of(config);
        let revision = compiled.revision.clone();
        (self.publish)(compiled);
        actix::MessageResult(revision)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn config(routes: &str) -> Arc<Config> {
        let text = format!(
            "authenticate_service_url: https://auth.example.com\ninsecure_server: true\nidp_provider: oidc\n\
             idp_provider_url: https://idp.example.com\nidp_client_id: gate\nroutes:\n{routes}"
        );
        Arc::new(portcullis_config::parse("config.yaml", &text, &|_| None).unwrap())
    }

    const ONE: &str = "- {from: https://a.example.com, to: 'http://a', allow_any_authenticated_user: true}\n";
    const OTHER: &str = "- {from: https://a.example.com, to: 'http://a', allowed_users: [a@example.com]}\n";

    #[actix_rt::test]
    async fn what_was_asked_last_is_in_force_and_called_by_its_revision() {
        let published = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&published);
        let authorizer = Authorizer::new(move |compiled: Compiled| seen.borrow_mut().push(compiled.revision)).start();
        let mut answers = Vec::new();
        for routes in [ONE, OTHER, ONE] {
            answers.push(authorizer.send(Enforce(config(routes))).await.unwrap());
        }
        assert_eq!(*published.borrow(), answers);
        assert_eq!(answers[0], answers[2]);
        assert_ne!(answers[0], answers[1]);
    }

    #[test]
    fn whatever_a_route_decides_by_is_in_its_revision() {
        let base = Revision::of(&config(ONE));
        let strict = ONE.replace('}', ", max_staleness: strict}");
        let marked = ONE.replace('}', ", set_request_headers: {x: y}}");
        for changed in [strict.as_str(), marked.as_str(), OTHER, ""] {
            assert_ne!(Revision::of(&config(changed)), base, "{changed}");
        }
        assert_eq!(base.as_str().len(), 12);
        assert_eq!(format!("{:012x}", base.number()), base.as_str());
    }
}
