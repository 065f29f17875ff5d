//! Who is connected: how many clients in all and from each address, and who is one too many.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_config::Connections;
use portcullis_config::limits::{CROWD_MARGIN, FILES_RESERVED};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;

/// How many client connections there may be at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub total: usize,
    /// From one address.
    pub per_client: usize,
}

impl Room {
    /// What the configuration says, and else what the open files allow that the system gives this process: each client
    /// may need a connection to an upstream as well. The process takes as many files as it may have.
    pub fn of(asked: Connections) -> Self {
        let files = files();
        let total = asked.total.map_or_else(|| (files.saturating_sub(FILES_RESERVED) / 2).max(1), NonZeroUsize::get);
        if total > files.saturating_sub(FILES_RESERVED) {
            tracing::warn!(total, files, "max_connections is more than the files that this process may open");
        }
        Self { total, per_client: asked.per_client.map_or(total.div_ceil(2), NonZeroUsize::get) }
    }
}

/// The open files that this process may have, once it has asked for all of them.
fn files() -> usize {
    let given = getrlimit(Resource::Nofile);
    let most = Rlimit { current: given.maximum, maximum: given.maximum };
    let had = if setrlimit(Resource::Nofile, most).is_ok() { given.maximum } else { given.current };
    had.and_then(|files| usize::try_from(files).ok()).unwrap_or(1 << 20)
}

/// Why a connection is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// So many clients are connected.
    InAll,
    /// So many connections come from this address.
    FromOne,
}

/// Everybody who is connected.
#[derive(Clone)]
pub struct Crowd(Arc<Gathered>);

struct Gathered {
    room: Room,
    /// Whoever waits until nobody is left hears of it here.
    total: watch::Sender<usize>,
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

/// One client connection.
pub struct Entered {
    crowd: Crowd,
    client: IpAddr,
    /// It is to be told so, and then to leave.
    pub too_many: Option<TooMany>,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(room: Room) -> Self {
        Self(Arc::new(Gathered { room, total: watch::Sender::new(0), by_client: Mutex::default() }))
    }

    /// Counts a connection from `address`.
    ///
    /// # Errors
    /// [`TooMany`]: so many more than there is room for that it is not even told.
    pub fn enter(&self, address: IpAddr) -> Result<Entered, TooMany> {
        let Gathered { room, total, by_client } = &*self.0;
        let client = subscriber(address);
        let mut by_client = by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let (here, from_it) = (*total.borrow(), by_client.get(&client).copied().unwrap_or(0));
        for (why, count, most) in [(TooMany::InAll, here, room.total), (TooMany::FromOne, from_it, room.per_client)] {
            if count >= beyond(most) {
                return Err(why);
            }
        }
        by_client.insert(client, from_it + 1);
        drop(by_client);
        total.send_modify(|open| *open += 1);
        let too_many = if here >= room.total {
            Some(TooMany::InAll)
        } else {
            (from_it >= room.per_client).then_some(TooMany::FromOne)
        };
        Ok(Entered { crowd: self.clone(), client, too_many })
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        *self.0.total.borrow()
    }

    /// Waits until nobody is connected.
    pub async fn nobody(&self) {
        // the sender lives in this very value: waiting cannot fail
        let _ = self.0.total.subscribe().wait_for(|open| *open == 0).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Gathered { total, by_client, .. } = &*self.crowd.0;
        let mut by_client = by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_client.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_client.remove(&self.client);
            }
        }
        drop(by_client);
        total.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// Up to here those that are too many are told so.
const fn beyond(most: usize) -> usize {
    let (part, more) = CROWD_MARGIN;
    most.saturating_add(most / part).saturating_add(more)
}

/// Whom an address belongs to: an IPv6 subscriber has a /64 at least (RFC 6177 §2), and every address in it.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_is_one_too_many_is_told_so_and_after_many_more_not_even_that() {
        let crowd = Crowd::new(Room { total: 100, per_client: 16 });
        let one = address("192.0.2.1");
        let mut all: Vec<_> = (0..16).map(|_| crowd.enter(one).unwrap()).collect();
        assert!(all.iter().all(|entered| entered.too_many.is_none()));
        let told = (0..).map_while(|_| crowd.enter(one).ok()).collect::<Vec<_>>();
        assert_eq!(told.len(), beyond(16) - 16);
        assert!(told.iter().all(|entered| entered.too_many == Some(TooMany::FromOne)));
        assert_eq!(crowd.enter(one).err(), Some(TooMany::FromOne));
        // others are not concerned
        all.push(crowd.enter(address("192.0.2.2")).unwrap());
        assert_eq!(all.last().unwrap().too_many, None);
        drop((all, told));
        assert_eq!(crowd.count(), 0);
        assert!(crowd.0.by_client.lock().unwrap().is_empty(), "who has left is not remembered");
        assert!(crowd.enter(one).unwrap().too_many.is_none());
    }

    #[test]
    fn there_is_room_for_so_many_in_all() {
        let crowd = Crowd::new(Room { total: 16, per_client: 100 });
        let nth = |n: usize| address(&format!("198.51.100.{n}"));
        let all: Vec<_> = (0..).map_while(|n| crowd.enter(nth(n)).ok()).collect();
        assert_eq!(all.len(), beyond(16));
        assert_eq!(all.iter().filter(|entered| entered.too_many.is_none()).count(), 16);
        assert_eq!(crowd.enter(nth(200)).err(), Some(TooMany::InAll));
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client_however_many_addresses_it_has() {
        assert_eq!(subscriber(address("2001:db8:1:2:3:4:5:6")), subscriber(address("2001:db8:1:2:ffff::1")));
        assert_ne!(subscriber(address("2001:db8:1:2::1")), subscriber(address("2001:db8:1:3::1")));
        assert_eq!(subscriber(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }

    #[test]
    fn without_a_word_there_is_room_for_what_the_system_allows() {
        let room = Room::of(Connections::default());
        assert!(room.total > 0 && room.per_client > 0 && room.per_client <= room.total, "{room:?}");
        let asked = Connections { total: NonZeroUsize::new(10), per_client: NonZeroUsize::new(3) };
        assert_eq!(Room::of(asked), Room { total: 10, per_client: 3 });
    }
}
