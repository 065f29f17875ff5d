//! The databroker of one node: its actors on a log and a vault, with keys that all nodes of a test share.

use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr};
use portcullis_actors::databroker::broker::{Broker, Tools};
use portcullis_actors::databroker::data_keys::DataKeys;
use portcullis_actors::databroker::journal::Journal;
use portcullis_actors::databroker::log::Log;
use portcullis_actors::databroker::replica::Replica;
use portcullis_actors::databroker::revocations::Revocations;
use portcullis_actors::databroker::vault::Vault;
use portcullis_actors::databroker::view::Views;
use portcullis_actors::keyring::{Keyring, Purpose};
use portcullis_config::{IdentityProvider, Secret};

/// The keys of every node.
pub fn keyring() -> Keyring {
    Keyring::new(vec![Secret::new(vec![7; 32])]).unwrap()
}

/// No client goes there: tokens that are given back at a sign-out are a word into the wind.
fn nowhere() -> IdentityProvider {
    let issuer = "nowhere://127.0.0.1".to_owned();
    IdentityProvider {
        url: issuer.parse().unwrap(),
        issuer,
        client_id: "us".into(),
        client_secret: None,
        scopes: vec!["openid".into()],
        request_params: vec![],
    }
}

/// Starts the actors of the node `source`.
pub fn start(
    log: Arc<dyn Log>,
    vault: Arc<dyn Vault>,
    views: &Arc<Views>,
    keyring: &Keyring,
    source: &str,
) -> (Rc<DataKeys>, Addr<Replica>, Addr<Journal>, Addr<Broker>) {
    let data_keys = Rc::new(DataKeys::new(Arc::clone(&vault), keyring.sealer(Purpose::DataKey).unwrap()));
    let replica = Replica::new(Arc::clone(&log), Rc::clone(&data_keys), Arc::clone(views), source.into()).start();
    let journal = Journal::new(Arc::clone(&log), replica.clone(), Arc::clone(views), source.into()).start();
    let broker = Broker::new(Tools {
        log,
        vault,
        data_keys: Rc::clone(&data_keys),
        views: Arc::clone(views),
        journal: journal.clone(),
        hand_overs: keyring.sealer(Purpose::HandOver).unwrap(),
        id_token_hints: keyring.sealer(Purpose::IdTokenHint).unwrap(),
        revocations: Revocations::new(nowhere(), "https://authenticate.example.com".parse().unwrap()),
    })
    .start();
    (data_keys, replica, journal, broker)
}
