//! What people were told: every sign-in and every revocation that was acknowledged, and what came of it afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use portcullis_events::SessionId;
use portcullis_harness::cookies::Jar;

/// What a person knows of their session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was opened, and the person was told so.
    Open,
    /// Somebody is ending it.
    Leaving,
    /// It was ended, and somebody was told so at this time.
    Revoked(Instant),
    /// Somebody wanted to end it, and was not told what came of it.
    Unsure,
}

/// A session that was acknowledged.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What its browser held when it was opened.
    pub cookies: Jar,
    /// What its person knows.
    pub standing: Standing,
}

/// The longest time in which something did not go well.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gap {
    since: Option<Instant>,
    last: Option<Instant>,
    /// The longest so far.
    pub longest: Duration,
}

impl Gap {
    /// It did not, and was wanted since then.
    pub fn goes_on(&mut self, since: Instant) {
        self.since.get_or_insert(since);
    }

    /// It went well now.
    pub fn ends(&mut self) {
        self.longest = self.longest.max(self.since.take().map_or(Duration::ZERO, |since| since.elapsed()));
        self.last = Some(Instant::now());
    }

    /// Whether it went well after `when`.
    #[must_use]
    pub fn ended_after(&self, when: Instant) -> bool {
        self.last.is_some_and(|last| last > when)
    }
}

/// What was counted since a fault began.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Sign-ins that were acknowledged, refused with "try again", and broken off.
    pub sign_ins: [usize; 3],
    /// Requests of people signed in that were served, refused with "try again", and not answered.
    pub requests: [usize; 3],
    /// Revocations that were acknowledged, and those that were not.
    pub revocations: [usize; 2],
    /// Sessions that a node with a wrong clock did not take.
    pub untimely: usize,
    /// How long after its acknowledged end a session was admitted at the latest.
    pub latest: Duration,
    /// The longest time in which somebody wanted to be let in and nobody was.
    pub sign_in_gap: Gap,
    /// The longest time in which each node was asked and served nobody.
    pub node_gaps: Vec<Gap>,
}

impl Tally {
    fn new(nodes: usize) -> Self {
        Self {
            sign_ins: [0; 3],
            requests: [0; 3],
            revocations: [0; 2],
            untimely: 0,
            latest: Duration::ZERO,
            sign_in_gap: Gap::default(),
            node_gaps: vec![Gap::default(); nodes],
        }
    }
}

/// All of it.
pub struct Ledger {
    /// The sessions.
    pub sessions: BTreeMap<SessionId, Kept>,
    /// What was counted since the fault began.
    pub tally: Tally,
    /// The first promise that was broken.
    pub broken: Option<String>,
    /// Sessions that a node knew nothing of though nobody had ended them, or was about to.
    pub denied: Vec<(SessionId, usize)>,
    nodes: usize,
}

impl Ledger {
    /// An empty one, of so many nodes.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self { sessions: BTreeMap::new(), tally: Tally::new(nodes), broken: None, denied: Vec::new(), nodes }
    }

    /// Counts from nothing again.
    pub fn begin(&mut self) {
        self.tally = Tally::new(self.nodes);
    }

    /// A promise was broken; the first one is kept.
    pub fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// The sessions that are as wanted.
    pub fn which(&self, wanted: impl Fn(&Kept) -> bool) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, kept)| wanted(kept)).map(|(id, _)| *id).collect()
    }

    /// The sessions that are open as far as people know.
    #[must_use]
    pub fn open(&self) -> Vec<SessionId> {
        self.which(|kept| kept.standing == Standing::Open)
    }

    /// Changes what is known of a session.
    pub fn stands(&mut self, id: SessionId, standing: Standing) {
        if let Some(kept) = self.sessions.get_mut(&id) {
            kept.standing = standing;
        }
    }
}
