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
    /// How many were there before it.
    before: usize,
    client: Option<IpAddr>,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(room: Room) -> Self {
        Self(Arc::new(Gathered { room, total: watch::Sender::new(0), by_client: Mutex::default() }))
    }

    /// Counts a connection.
    pub fn enter(&self) -> Entered {
        let mut before = 0;
        self.0.total.send_modify(|open| {
            before = *open;
            *open += 1;
        });
        Entered { crowd: self.clone(), before, client: None }
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

impl Entered {
    /// Counts it as one of the client at `address`; says whether it is one too many, and is to be told so.
    ///
    /// # Errors
    /// [`TooMany`]: so many more than there is room for that it is not even told.
    pub fn comes_from(&mut self, address: IpAddr) -> Result<Option<TooMany>, TooMany> {
        let Gathered { room, by_client, .. } = &*self.crowd.0;
        let client = subscriber(address);
        let mut by_client = by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = by_client.entry(client).or_default();
        let counts = [(TooMany::InAll, self.before, room.total), (TooMany::FromOne, *of_it, room.per_client)];
        *of_it += 1;
        self.client = Some(client);
        if let Some((why, ..)) = counts.iter().find(|(_, count, most)| *count >= beyond(*most)) {
            return Err(*why);
        }
        Ok(counts.iter().find(|(_, count, most)| count >= most).map(|(why, ..)| *why))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Gathered { total, by_client, .. } = &*self.crowd.0;
        if let Some(client) = self.client {
            let mut by_client = by_client.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = by_client.get_mut(&client) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    by_client.remove(&client);
                }
            }
        }
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

    /// Connections from these addresses, until one is not even told; each with what it is told.
    fn come(crowd: &Crowd, addresses: impl Iterator<Item = IpAddr>) -> Vec<(Entered, Option<TooMany>)> {
        let come = |address| {
            let mut entered = crowd.enter();
            let told = entered.comes_from(address).ok()?;
            Some((entered, told))
        };
        addresses.map_while(come).collect()
    }

    #[test]
    fn who_is_one_too_many_is_told_so_and_after_many_more_not_even_that() {
        let crowd = Crowd::new(Room { total: 100, per_client: 16 });
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let all = come(&crowd, std::iter::repeat(one));
        assert_eq!(all.len(), beyond(16));
        let expected = |nth| (nth >= 16).then_some(TooMany::FromOne);
        assert!(all.iter().enumerate().all(|(nth, (_, told))| *told == expected(nth)));
        assert_eq!(crowd.enter().comes_from(one), Err(TooMany::FromOne));
        // others are not concerned
        assert_eq!(crowd.enter().comes_from(other), Ok(None));
        drop(all);
        assert_eq!(crowd.count(), 0);
        assert!(crowd.0.by_client.lock().unwrap().is_empty(), "who has left is not remembered");
        assert_eq!(crowd.enter().comes_from(one), Ok(None));
    }

    #[test]
    fn there_is_room_for_so_many_in_all() {
        let crowd = Crowd::new(Room { total: 16, per_client: 100 });
        let all = come(&crowd, (0..).map(|nth: u8| address(&format!("198.51.100.{nth}"))));
        assert_eq!(all.len(), beyond(16));
        assert_eq!(all.iter().filter(|(_, told)| told.is_none()).count(), 16);
        assert_eq!(crowd.enter().comes_from(address("203.0.113.1")), Err(TooMany::InAll));
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
