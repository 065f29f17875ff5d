//! One cluster of three servers for all tests of this process that want one; each has an account of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use portcullis_config::{NatsLogin, NatsStorage, Secret};
use portcullis_harness::nats_cluster::{NatsCluster, SERVERS};
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock};

use super::Nats;

/// It lives as long as a test stands on it.
static CLUSTER: Mutex<Weak<RwLock<NatsCluster>>> = Mutex::const_new(Weak::new());
static ACCOUNTS: AtomicUsize = AtomicUsize::new(0);

/// An account on the cluster that nobody else has.
pub struct Account {
    cluster: Arc<RwLock<NatsCluster>>,
    standing: Option<OwnedRwLockReadGuard<NatsCluster>>,
    number: usize,
}

impl Account {
    /// The next one.
    pub async fn next() -> Self {
        let mut shared = CLUSTER.lock().await;
        let cluster = match shared.upgrade() {
            Some(cluster) => cluster,
            None => Arc::new(RwLock::new(NatsCluster::start().await.unwrap())),
        };
        *shared = Arc::downgrade(&cluster);
        drop(shared);
        let standing = Some(Arc::clone(&cluster).read_owned().await);
        Self { cluster, standing, number: ACCOUNTS.fetch_add(1, Ordering::Relaxed) }
    }

    /// The cluster.
    pub fn cluster(&self) -> &NatsCluster {
        self.standing.as_ref().unwrap()
    }

    /// Another connection to the account.
    pub async fn connect(&self) -> Nats {
        let name = format!("a{}", self.number);
        let login = NatsLogin::Password { user: Secret::new(name.clone()), password: Secret::new(name) };
        let storage = NatsStorage { login: Some(login), replicas: SERVERS, ..NatsStorage::at(self.cluster().urls()) };
        Nats::connect(&storage).await.unwrap()
    }

    /// Kills all servers at once, when nobody else stands on them, and starts them again.
    pub async fn crash(&mut self) {
        self.standing = None;
        let mut cluster = Arc::clone(&self.cluster).write_owned().await;
        for number in 0..SERVERS {
            cluster.kill(number).unwrap();
        }
        for number in 0..SERVERS {
            cluster.restart(number).unwrap();
        }
        cluster.ready().await.unwrap();
        self.standing = Some(cluster.downgrade());
    }
}
