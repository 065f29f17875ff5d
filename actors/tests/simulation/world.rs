//! What all hosts share: the authority's records and values, the letters on their way, one source of chance, and the
//! trace.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use portcullis_actors::databroker::log::{AppendError, Expected, Head, NewRecord, Record};
use portcullis_actors::databroker::vault::{Revision, Sealed, Shelf, VaultError};
use portcullis_events::{Aggregate, EventId};
use tokio::sync::Notify;

use crate::mutant::Mutant;
use crate::time;
use crate::wire::Letter;

/// A record as the authority keeps it.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The record.
    pub record: Record,
    /// Its event id.
    pub id: EventId,
    /// When it was stored, in milliseconds since the run began.
    pub at: i64,
}

/// The shared ground of one run.
pub struct World {
    state: Mutex<State>,
    /// There is something to deliver.
    pub news: Notify,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
}

struct State {
    chance: Rng,
    is_calm: bool,
    letters: Vec<Letter>,
    /// Whose tails are served, and from which sequence on.
    followers: BTreeMap<usize, u64>,
    records: Vec<Kept>,
    ids: HashMap<EventId, u64>,
    tips: HashMap<Aggregate, u64>,
    values: BTreeMap<(Shelf, String), Sealed>,
    revision: u64,
    /// Refresh tokens that the provider has taken, each with who presented it first.
    spent: BTreeMap<String, usize>,
    reused: Option<String>,
    trace: Vec<String>,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Arc<Self> {
        let state = State {
            chance: Rng::with_seed(seed),
            is_calm: false,
            letters: Vec::new(),
            followers: BTreeMap::new(),
            records: Vec::new(),
            ids: HashMap::new(),
            tips: HashMap::new(),
            values: BTreeMap::new(),
            revision: 0,
            spent: BTreeMap::new(),
            reused: None,
            trace: Vec::new(),
        };
        Arc::new(Self { state: Mutex::new(state), news: Notify::new(), mutant })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether this is one of the mutants.
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// A number from 0 to `below - 1`.
    pub fn pick(&self, below: u64) -> u64 {
        self.state().chance.u64(..below)
    }

    /// One of a list.
    pub fn one<T: Copy>(&self, of: &[T]) -> T {
        of[usize::try_from(self.pick(u64::try_from(of.len()).unwrap())).unwrap()]
    }

    /// Whether something happens that happens so many times in a hundred. Faults end when it is calm.
    pub fn fault(&self, percent: u64) -> bool {
        let mut state = self.state();
        !state.is_calm && state.chance.u64(..100) < percent
    }

    /// From 1 to `most` milliseconds.
    pub fn span(&self, most: u64) -> Duration {
        Duration::from_millis(1 + self.pick(most))
    }

    /// No fault any more.
    pub fn calm(&self) {
        self.state().is_calm = true;
    }

    /// Whether there are no faults any more.
    pub fn is_calm(&self) -> bool {
        self.state().is_calm
    }

    /// Writes a letter; its number.
    pub fn write(&self, letter: Letter) -> u64 {
        let mut state = self.state();
        state.letters.push(letter);
        u64::try_from(state.letters.len()).unwrap() - 1
    }

    /// What a letter says. It may arrive twice, or when its sender is gone.
    pub fn letter(&self, number: u64) -> Letter {
        self.state().letters[usize::try_from(number).unwrap()].clone()
    }

    /// Brings a node everything from `next` on.
    pub fn follow(&self, node: usize, next: u64) {
        self.state().followers.insert(node, next);
        self.news.notify_one();
    }

    /// What is to be delivered, and to whom: some of it lost, some of it twice.
    pub fn due(&self) -> Vec<(usize, Vec<Record>)> {
        let last = self.head().last;
        let followers: Vec<_> = self.state().followers.iter().map(|(node, next)| (*node, *next)).collect();
        let behind = followers.into_iter().filter(|(_, next)| *next <= last);
        behind
            .map(|(node, next)| {
                self.state().followers.insert(node, last + 1);
                (node, self.delivery(next))
            })
            .collect()
    }

    fn delivery(&self, next: u64) -> Vec<Record> {
        let from = usize::try_from(next).unwrap() - 1;
        let mut records = Vec::new();
        for kept in self.since(from) {
            let times = if self.fault(8) { 0 } else { 1 + usize::from(self.fault(8)) };
            records.extend(std::iter::repeat_n(kept.record, times));
        }
        // a copy of something from long ago
        if from > 0 && self.fault(4) {
            records.extend(self.since(from - 1).first().map(|kept| kept.record.clone()));
        }
        records
    }

    /// Writes a line of the trace. It names nothing that is made anew in each process (event ids, keyed hashes).
    pub fn note(&self, node: usize, what: &str) {
        let line = format!("{:>7} ms  n{node}  {what}", time::elapsed());
        self.state().trace.push(line);
    }

    /// The trace so far.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// What the authority holds after so many records.
    pub fn since(&self, seen: usize) -> Vec<Kept> {
        self.state().records[seen..].to_vec()
    }

    /// Where the authority's log stands.
    pub fn head(&self) -> Head {
        Head { last: last(&self.state().records), first: 1 }
    }

    /// The last record of an aggregate, and its event id.
    pub fn last(&self, aggregate: Aggregate) -> Option<Kept> {
        let state = self.state();
        let seq = *state.tips.get(&aggregate)?;
        state.records.get(usize::try_from(seq).unwrap() - 1).cloned()
    }

    /// The last record of an aggregate as it was some milliseconds ago.
    pub fn last_before(&self, aggregate: Aggregate, lag: i64) -> Option<Kept> {
        let (subject, until) = (aggregate.subject(), time::elapsed() - lag);
        let state = self.state();
        let mut records = state.records.iter().rev();
        records.find(|kept| kept.record.subject == subject && kept.at <= until).cloned()
    }

    /// The authority's append, as one step: the id first, then the expectation.
    pub fn store(&self, node: usize, new: &NewRecord) -> Result<u64, AppendError> {
        if let Some(seq) = self.known(new.id) {
            self.note(node, &format!("{} stored already: {seq}", new.aggregate.kind.name()));
            return Ok(seq);
        }
        self.check(node, new)?;
        Ok(self.put_record(node, new))
    }

    fn known(&self, id: EventId) -> Option<u64> {
        if self.is(Mutant::ForgetsIds) { None } else { self.state().ids.get(&id).copied() }
    }

    /// Whether an append's expectation holds now.
    pub fn check(&self, node: usize, new: &NewRecord) -> Result<(), AppendError> {
        let actual = self.state().tips.get(&new.aggregate).copied().unwrap_or(0);
        let expected = match new.expected {
            Expected::NoStream => 0,
            Expected::Seq(seq) => seq,
        };
        if actual == expected {
            return Ok(());
        }
        self.note(node, &format!("{} expected {expected}, is {actual}", new.aggregate.kind.name()));
        Err(AppendError::Conflict { actual })
    }

    /// Stores without a question.
    pub fn put_record(&self, node: usize, new: &NewRecord) -> u64 {
        let mut state = self.state();
        let seq = last(&state.records) + 1;
        let record = Record { seq, subject: new.aggregate.subject(), body: new.body.clone() };
        state.records.push(Kept { record, id: new.id, at: time::elapsed() });
        state.ids.insert(new.id, seq);
        state.tips.insert(new.aggregate, seq);
        drop(state);
        self.note(node, &format!("{} stored: {seq}", new.aggregate.kind.name()));
        self.news.notify_one();
        seq
    }

    /// Remembers an id as if its event were stored (for a mutant).
    pub fn remember(&self, id: EventId) {
        let mut state = self.state();
        let seq = last(&state.records);
        state.ids.entry(id).or_insert(seq);
    }

    /// A value of the vault.
    pub fn value(&self, shelf: Shelf, key: &str) -> Option<Sealed> {
        self.state().values.get(&(shelf, key.to_owned())).cloned()
    }

    /// Every value of a shelf.
    pub fn values(&self, shelf: Shelf) -> Vec<(String, Sealed)> {
        let state = self.state();
        let values = state.values.iter().filter(|((on, _), _)| *on == shelf);
        values.map(|((_, key), sealed)| (key.clone(), sealed.clone())).collect()
    }

    /// The vault's put, as one step.
    pub fn put_value(
        &self,
        shelf: Shelf,
        key: &str,
        expected: Revision,
        value: Vec<u8>,
    ) -> Result<Revision, VaultError> {
        let mut state = self.state();
        let at = (shelf, key.to_owned());
        if state.values.get(&at).map_or(Revision::NONE, |sealed| sealed.revision) != expected {
            return Err(VaultError::Conflict);
        }
        state.revision += 1;
        let revision = Revision(state.revision);
        state.values.insert(at, Sealed { revision, value });
        Ok(revision)
    }

    /// The provider takes a refresh token, `<session>/<number>`, for the next; `None` for one that it took before.
    pub fn present(&self, node: usize, token: &str) -> Option<String> {
        let before = self.state().spent.get(token).copied();
        self.note(node, &format!("presents {token}"));
        if let Some(before) = before {
            let what = format!("n{node} presents the refresh token {token}, which n{before} presented already");
            self.note(node, &format!("BROKEN: {what}"));
            self.state().reused.get_or_insert(what);
            return None;
        }
        self.state().spent.insert(token.to_owned(), node);
        let (session, number) = token.rsplit_once('/').unwrap();
        Some(format!("{session}/{}", number.parse::<u32>().unwrap() + 1))
    }

    /// What the provider has to complain of.
    pub fn reused(&self) -> Option<String> {
        self.state().reused.clone()
    }

    /// The vault's delete.
    pub fn delete_value(&self, shelf: Shelf, key: &str) {
        self.state().values.remove(&(shelf, key.to_owned()));
    }
}

fn last(records: &[Kept]) -> u64 {
    records.last().map_or(0, |kept| kept.record.seq)
}
