//! Which nodes share the work that any of them may do: each makes itself known by a beat, and whoever was not heard for
//! a while is gone. A hint only: who is mistaken about it loses a race on the log, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use portcullis_config::limits::{AWAY_PAUSE, NODE_BEAT, NODE_GONE, NODES};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::nats::Nats;
use super::refresher::schedule::Nodes;

/// The subject of a node's beat begins like this and ends with its name. No stream takes it.
const SUBJECT: &str = "portcullis.node.";
const HERE: &[u8] = b"here";
const LEAVING: &[u8] = b"leaving";
/// The longest name of a node that is listened to.
const NAME_BYTES: usize = 64;

/// Where nodes on the same store hear of each other.
#[derive(Debug, Clone)]
pub struct Meeting(Nats);

impl Meeting {
    /// On a connection.
    pub(super) const fn on(nats: Nats) -> Self {
        Self(nats)
    }

    async fn say(&self, me: &str, what: &'static [u8]) {
        // a word that waits for a connection is old when there is one
        if self.0.is_connected() {
            // the next beat says the same
            let _ = self.0.client().publish(format!("{SUBJECT}{me}"), Bytes::from_static(what)).await;
        }
    }
}

/// The nodes that were heard of lately.
#[derive(Debug)]
pub struct Neighbours {
    me: String,
    heard: Mutex<BTreeMap<String, Instant>>,
    leaving: Notify,
}

impl Neighbours {
    /// A node that has heard of no other. Its name is one token of a subject.
    #[must_use]
    pub fn of(me: String) -> Arc<Self> {
        Arc::new(Self { me, heard: Mutex::default(), leaving: Notify::new() })
    }

    /// Who they are now.
    #[must_use]
    pub fn now(&self) -> Nodes {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, at| at.elapsed() < NODE_GONE);
        Nodes::among(self.me.clone(), heard.keys().cloned().collect())
    }

    /// Tells the others that this node leaves: they need not find out.
    pub fn leave(&self) {
        self.leaving.notify_one();
    }

    /// Beats and listens until the node leaves. It is known to the others while it `takes_part`.
    pub async fn meet(self: Arc<Self>, meeting: Meeting, takes_part: impl Fn() -> bool) {
        loop {
            match meeting.0.client().subscribe(format!("{SUBJECT}*")).await {
                Ok(mut words) => {
                    let mut beat = interval(NODE_BEAT);
                    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    loop {
                        tokio::select! {
                            word = words.next() => match word {
                                // a newcomer hears of us at once
                                Some(word) if self.hear(&word.subject, &word.payload) => beat.reset_immediately(),
                                Some(_) => {}
                                None => break,
                            },
                            _ = beat.tick() => if takes_part() {
                                meeting.say(&self.me, HERE).await;
                            },
                            () = self.leaving.notified() => return meeting.say(&self.me, LEAVING).await,
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "other nodes are not heard"),
            }
            sleep(AWAY_PAUSE).await;
        }
    }

    /// Takes note of a word; whether it comes from a node that was not known.
    fn hear(&self, subject: &str, what: &[u8]) -> bool {
        let Some(name) = subject.strip_prefix(SUBJECT).filter(|name| name.len() <= NAME_BYTES && *name != self.me)
        else {
            return false;
        };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if what == LEAVING {
            heard.remove(name);
            return false;
        }
        if !heard.contains_key(name) && heard.len() >= NODES {
            return false;
        }
        heard.insert(name.to_owned(), Instant::now()).is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use portcullis_config::NatsStorage;
    use portcullis_harness::nats::NatsServer;
    use portcullis_harness::process::eventually;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    fn others(neighbours: &Neighbours) -> Vec<String> {
        let _ = neighbours.now();
        neighbours.heard.lock().unwrap().keys().cloned().collect()
    }

    async fn knows(neighbours: &Neighbours, wanted: &[&str]) {
        let look = async || Ok((others(neighbours) == wanted).then_some(()));
        eventually("the others are known", SOON, look).await.unwrap();
    }

    async fn begin(server: &NatsServer, name: &str) -> (Arc<Neighbours>, tokio::task::JoinHandle<()>) {
        let meeting = Meeting::on(Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap());
        let neighbours = Neighbours::of(name.into());
        let task = actix_rt::spawn(Arc::clone(&neighbours).meet(meeting, || true));
        (neighbours, task)
    }

    #[actix::test]
    async fn nodes_hear_of_each_other_and_of_one_that_leaves_or_dies() {
        let server = NatsServer::start().unwrap();
        let ((a, _a), (b, b_lives)) = (begin(&server, "a").await, begin(&server, "b").await);
        let (c, _c) = begin(&server, "c").await;
        knows(&a, &["b", "c"]).await;
        knows(&b, &["a", "c"]).await;
        knows(&c, &["a", "b"]).await;
        c.leave();
        knows(&a, &["b"]).await;
        b_lives.abort();
        knows(&a, &[]).await;
        // one that comes back is known again
        let (b, _b) = begin(&server, "b").await;
        knows(&a, &["b"]).await;
        knows(&b, &["a"]).await;
    }

    #[actix::test]
    async fn a_node_that_takes_no_part_listens_and_is_not_heard() {
        let server = NatsServer::start().unwrap();
        let (a, _a) = begin(&server, "a").await;
        let takes_part = Arc::new(AtomicBool::new(false));
        let meeting = Meeting::on(Nats::connect(&NatsStorage::at(vec![server.url()])).await.unwrap());
        let b = Neighbours::of("b".into());
        let fit = Arc::clone(&takes_part);
        let _b = actix_rt::spawn(Arc::clone(&b).meet(meeting, move || fit.load(Ordering::Acquire)));
        knows(&b, &["a"]).await;
        assert!(others(&a).is_empty());
        takes_part.store(true, Ordering::Release);
        knows(&a, &["b"]).await;
    }

    #[test]
    fn a_flood_of_names_is_bounded() {
        let neighbours = Neighbours::of("a".into());
        for n in 0..2 * NODES {
            neighbours.hear(&format!("{SUBJECT}{n}"), HERE);
        }
        neighbours.hear(&format!("{SUBJECT}{}", "x".repeat(NAME_BYTES + 1)), HERE);
        assert_eq!(others(&neighbours).len(), NODES);
        assert!(!neighbours.hear(&format!("{SUBJECT}a"), HERE), "that is us");
    }
}
