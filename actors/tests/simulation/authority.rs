//! The two hosts of the log's authority: one stores and answers, the other says where the log stands and delivers it.

use std::rc::Rc;
use std::sync::Arc;

use turmoil::net::UdpSocket;

use crate::time;
use crate::wire::{Letter, Question, bind, receive, send, send_to};
use crate::world::World;

/// The longest that the network keeps an append back before it arrives all the same, in milliseconds.
const LATE: u64 = 6_000;
/// The longest that the authority takes now and then to act, and to answer, in milliseconds.
const SLOW: u64 = 3_000;

/// The host of the log and of the vault.
pub async fn log(world: Arc<World>) -> turmoil::Result {
    time::join(0);
    let socket = Rc::new(bind().await?);
    loop {
        let (number, from) = receive(&socket).await?;
        tokio::task::spawn_local(answer(Arc::clone(&world), Rc::clone(&socket), number, from));
    }
}

/// The host of heads and deliveries.
pub async fn tail(world: Arc<World>) -> turmoil::Result {
    time::join(0);
    let socket = Rc::new(bind().await?);
    loop {
        tokio::select! {
            biased;
            received = receive(&socket) => {
                let (number, from) = received?;
                tokio::task::spawn_local(answer(Arc::clone(&world), Rc::clone(&socket), number, from));
            }
            () = world.news.notified() => {
                for (node, records) in world.due() {
                    send_to(&socket, world.write(Letter::Delivery(records)), node).await;
                }
            }
        }
    }
}

async fn answer(world: Arc<World>, socket: Rc<UdpSocket>, number: u64, from: std::net::SocketAddr) {
    let Letter::Question(Question { act, is_append }) = world.letter(number) else { return };
    if world.fault(3) {
        tokio::time::sleep(world.span(SLOW)).await;
    }
    if is_append && world.fault(4) {
        // nobody waits for the answer to the copy
        let (world, act) = (Arc::clone(&world), Arc::clone(&act));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(world.span(LATE)).await;
            act(&world);
        });
    }
    if is_append && world.fault(3) {
        tokio::time::sleep(world.span(LATE)).await;
    }
    if act(&world) {
        if world.fault(5) {
            tokio::time::sleep(world.span(SLOW)).await;
        }
        send(&socket, number, from).await;
    }
}
