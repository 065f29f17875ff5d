//! What happens to the nodes of a run and when: drawn from the seed before the run begins, done by turmoil.

use std::collections::VecDeque;
use std::time::Duration;

use turmoil::Sim;

use crate::WAY;
use crate::wire::{LOG, TAIL, host};
use crate::world::World;

/// How long something may begin to happen, in milliseconds.
const TROUBLE: u64 = 20_000;
/// The longest that a message takes to and from a node whose wire is slow.
const SLOW: Duration = Duration::from_secs(4);

/// Something that happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its host crashes.
    Crash,
    /// Its host starts again.
    Start,
    /// It reaches nobody.
    Cut,
    /// It reaches the authority again; what was sent meanwhile is lost.
    Join,
    /// What it sends and what it is sent is held, and nobody says so.
    Hold,
    /// What was held arrives at once.
    Release,
    /// The same for its tail alone: its calls are answered all the while.
    Stall,
    /// Its tail goes on.
    GoOn,
    /// Messages take long.
    Slow,
    /// They take as long as ever.
    Brisk,
}

impl Change {
    /// Makes it happen.
    pub fn happen(self, sim: &mut Sim<'_>, node: usize) {
        let node = host(node);
        let node = node.as_str();
        match self {
            Self::Crash => sim.crash(node),
            Self::Start => sim.bounce(node),
            Self::Cut => [LOG, TAIL].into_iter().for_each(|authority| sim.partition(node, authority)),
            Self::Join => [LOG, TAIL].into_iter().for_each(|authority| sim.repair(node, authority)),
            Self::Hold => [LOG, TAIL].into_iter().for_each(|authority| sim.hold(node, authority)),
            Self::Release => [LOG, TAIL].into_iter().for_each(|authority| sim.release(node, authority)),
            Self::Stall => sim.hold(node, TAIL),
            Self::GoOn => sim.release(node, TAIL),
            Self::Slow => sim.set_link_max_message_latency(node, LOG, SLOW),
            Self::Brisk => sim.set_link_max_message_latency(node, LOG, WAY),
        }
    }
}

/// A change, when it is due and to whom it happens.
pub struct Due {
    /// Since the run began.
    pub at: Duration,
    /// Which node.
    pub node: usize,
    /// What.
    pub change: Change,
}

/// The changes of a run, one after the other: whatever was broken is mended before the next is.
pub fn draw(world: &World, nodes: usize) -> VecDeque<Due> {
    let (mut at, mut changes) = (Duration::ZERO, VecDeque::new());
    while at < Duration::from_millis(TROUBLE) {
        at += world.span(6_000);
        let node = usize::try_from(world.pick(u64::try_from(nodes).unwrap())).unwrap();
        let most = if world.pick(3) == 0 { 20_000 } else { 3_000 };
        let (begins, ends, most) = match world.pick(7) {
            0 | 1 => (Change::Crash, Change::Start, 3_000),
            2 => (Change::Hold, Change::Release, most),
            3 => (Change::Stall, Change::GoOn, most),
            4 => (Change::Slow, Change::Brisk, most),
            _ => (Change::Cut, Change::Join, most),
        };
        changes.push_back(Due { at, node, change: begins });
        at += world.span(most);
        changes.push_back(Due { at, node, change: ends });
    }
    changes
}
