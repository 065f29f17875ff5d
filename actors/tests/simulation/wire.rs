//! How a host reaches the authority: datagrams over turmoil's network, which loses, delays, holds and reorders them. A
//! datagram carries the number of a letter; what the letter says lies with the world.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis_actors::databroker::log::Record;
use tokio::sync::{mpsc, oneshot};
use turmoil::net::UdpSocket;

use crate::world::World;

/// The host of the authority's log and vault.
pub const LOG: &str = "log";
/// The host of the authority's heads and deliveries.
pub const TAIL: &str = "tail";
/// The port of every host.
const PORT: u16 = 4222;

/// What is said in a datagram.
#[derive(Clone)]
pub enum Letter {
    /// Something that the authority is to do; the datagram that comes back has the same number.
    Question(Question),
    /// What a tail is brought.
    Delivery(Vec<Record>),
}

/// A call of the authority.
#[derive(Clone)]
pub struct Question {
    /// Does it; whether it is answered.
    pub act: Arc<dyn Fn(&World) -> bool + Send + Sync>,
    /// Whether the network may also bring it long after, or twice.
    pub is_append: bool,
}

/// A host's socket.
pub struct Wire {
    world: Arc<World>,
    socket: UdpSocket,
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    tail: Mutex<Option<mpsc::UnboundedSender<Vec<Record>>>>,
}

impl Wire {
    /// Opens the socket of the host that runs, for this life of it.
    pub async fn open(world: Arc<World>) -> turmoil::Result<Arc<Self>> {
        let wire = Arc::new(Self { world, socket: bind().await?, waiting: Mutex::default(), tail: Mutex::default() });
        let reader = Arc::clone(&wire);
        tokio::task::spawn_local(async move {
            while let Ok((number, _)) = receive(&reader.socket).await {
                reader.received(number);
            }
        });
        Ok(wire)
    }

    fn received(&self, number: u64) {
        match self.world.letter(number) {
            // whoever gave up hears nothing
            Letter::Question(_) => drop(self.waiting.lock().unwrap().remove(&number).map(|asker| asker.send(()))),
            Letter::Delivery(records) => {
                drop(self.tail.lock().unwrap().as_ref().map(|tail| tail.send(records)));
            }
        }
    }

    /// What is delivered from now on.
    pub fn deliveries(&self) -> mpsc::UnboundedReceiver<Vec<Record>> {
        let (sender, deliveries) = mpsc::unbounded_channel();
        *self.tail.lock().unwrap() = Some(sender);
        deliveries
    }

    /// Asks a host of the authority; `None` where no answer came in time.
    pub async fn ask<T: Send + 'static>(
        &self,
        whom: &'static str,
        patience: Duration,
        answer: impl Fn(&World) -> T + Send + Sync + 'static,
    ) -> Option<T> {
        self.call(whom, patience, false, move |world| Some(answer(world))).await
    }

    /// The same for an append, which may come late or twice, and be stored without an answer.
    pub async fn append<T: Send + 'static>(
        &self,
        patience: Duration,
        answer: impl Fn(&World) -> Option<T> + Send + Sync + 'static,
    ) -> Option<T> {
        self.call(LOG, patience, true, answer).await
    }

    async fn call<T: Send + 'static>(
        &self,
        whom: &'static str,
        patience: Duration,
        is_append: bool,
        answer: impl Fn(&World) -> Option<T> + Send + Sync + 'static,
    ) -> Option<T> {
        let said = Arc::new(Mutex::new(None));
        let says = Arc::clone(&said);
        let act = move |world: &World| {
            let answer = answer(world);
            let is_answered = answer.is_some();
            let mut says = says.lock().unwrap();
            // the first answer is the one that travels
            if says.is_none() {
                *says = answer;
            }
            is_answered
        };
        let number = self.world.write(Letter::Question(Question { act: Arc::new(act), is_append }));
        let (asker, answered) = oneshot::channel();
        self.waiting.lock().unwrap().insert(number, asker);
        send(&self.socket, number, (whom, PORT)).await;
        tokio::time::timeout(patience, answered).await.ok()?.ok()?;
        said.lock().unwrap().take()
    }
}

/// The name of a node's host.
pub fn host(node: usize) -> String {
    format!("n{node}")
}

/// The socket of a host.
pub async fn bind() -> turmoil::Result<UdpSocket> {
    Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?)
}

/// The number of the next letter, and from where it comes.
pub async fn receive(socket: &UdpSocket) -> turmoil::Result<(u64, SocketAddr)> {
    let mut number = [0; 8];
    let (_, from) = socket.recv_from(&mut number).await?;
    Ok((u64::from_le_bytes(number), from))
}

/// Sends the number of a letter.
pub async fn send(socket: &UdpSocket, number: u64, to: impl turmoil::ToSocketAddrs) {
    socket.send_to(&number.to_le_bytes(), to).await.unwrap();
}

/// Sends the number of a letter to a node.
pub async fn send_to(socket: &UdpSocket, number: u64, node: usize) {
    send(socket, number, (host(node), PORT)).await;
}
