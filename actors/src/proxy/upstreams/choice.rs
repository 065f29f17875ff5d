//! Which of several: pure arithmetic on weights, keys and loads.

use aws_lc_rs::digest;
use portcullis_config::upstreams::Balancing;

/// Something to choose from.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What places it on a ring or in a table, wherever else it stands.
    pub name: String,
    /// Its share, from 1.
    pub weight: u32,
}

/// How one of several candidates is chosen. Answers are their places in the list that it was made from.
#[derive(Debug)]
pub struct Choice {
    /// Weights added up.
    ends: Vec<u64>,
    equal: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    RoundRobin,
    LeastRequest,
    Random,
    Ring(Vec<(u64, usize)>),
    Maglev(Vec<usize>),
}

/// Points on a ring of a candidate with the greatest weight, at most; half as many at least.
const POINTS: u64 = 1024;
/// Places in a Maglev table: a prime, as in Envoy.
const TABLE: usize = 65_537;
/// 2^64 divided by the golden ratio: its multiples, taken in order, divide a circle more evenly than any others.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Choice {
    /// A choice among these.
    #[must_use]
    pub fn of(balancing: Balancing, candidates: &[Candidate]) -> Self {
        let mut total = 0_u64;
        let ends: Vec<u64> = candidates
            .iter()
            .map(|candidate| {
                total = total.saturating_add(u64::from(candidate.weight));
                total
            })
            .collect();
        let equal = candidates.windows(2).all(|two| matches!(two, [one, other] if one.weight == other.weight));
        let kind = match balancing {
            Balancing::RoundRobin => Kind::RoundRobin,
            Balancing::LeastRequest => Kind::LeastRequest,
            Balancing::Random => Kind::Random,
            Balancing::RingHash => Kind::Ring(ring(candidates)),
            Balancing::Maglev => Kind::Maglev(table(candidates)),
        };
        Self { ends, equal, kind }
    }

    /// How many there are.
    #[must_use]
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// One of them. `turn` counts choices; `key` says for whom; `load` says how busy one is.
    pub fn pick(&self, turn: u64, key: u64, load: impl Fn(usize) -> u32) -> Option<usize> {
        let count = u64::try_from(self.len()).ok().filter(|count| *count > 0)?;
        match &self.kind {
            Kind::RoundRobin if self.equal => usize::try_from(turn.checked_rem(count)?).ok(),
            Kind::RoundRobin => self.at(turn.wrapping_mul(GOLDEN)),
            Kind::Random => self.at(mixed(turn)),
            Kind::LeastRequest => {
                let (one, other) = (self.at(mixed(turn))?, self.at(mixed(turn ^ GOLDEN))?);
                // the one with less under way for its weight
                let burden =
                    |index: usize, by: usize| u64::from(load(index)).saturating_add(1).saturating_mul(self.weight(by));
                Some(if burden(other, one) < burden(one, other) { other } else { one })
            }
            Kind::Ring(points) => {
                let next = points.partition_point(|(point, _)| *point < key);
                points.get(next).or_else(|| points.first()).map(|(_, index)| *index)
            }
            Kind::Maglev(table) => {
                table.get(usize::try_from(key.checked_rem(u64::try_from(table.len()).ok()?)?).ok()?).copied()
            }
        }
    }

    /// By a place on the circle of all weights, as a part of 2^64.
    fn at(&self, place: u64) -> Option<usize> {
        let total = self.ends.last()?;
        let place = u64::try_from((u128::from(place) * u128::from(*total)) >> 64).ok()?;
        Some(self.ends.partition_point(|end| *end <= place))
    }

    fn weight(&self, index: usize) -> u64 {
        let before = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(index).copied().unwrap_or(0).saturating_sub(before)
    }
}

/// A number that looks like none of its neighbours (the finalizer of SplitMix64).
#[must_use]
pub const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The key of whoever is called this.
#[must_use]
pub fn key(name: &[u8]) -> u64 {
    numbers(name).first().copied().unwrap_or_default()
}

/// Four numbers from one hash.
fn numbers(text: &[u8]) -> Vec<u64> {
    let hash = digest::digest(&digest::SHA256, text);
    let read = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).map(u64::from_be_bytes).unwrap_or_default();
    hash.as_ref().chunks(8).map(read).collect()
}

/// How many points one has must not depend on who else is there, or all would move when one leaves: the measure is a
/// power of two, which changes with the greatest weight alone, and then seldom.
fn ring(candidates: &[Candidate]) -> Vec<(u64, usize)> {
    let greatest = candidates.iter().map(|candidate| candidate.weight).max().unwrap_or(1);
    let measure = u64::from(greatest).next_power_of_two();
    let mut points = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let share = u64::from(candidate.weight).saturating_mul(POINTS).div_ceil(measure);
        // four at a time
        for turn in 0..share.div_ceil(4) {
            let point = |point| (point, index);
            points.extend(numbers(format!("{}#{turn}", candidate.name).as_bytes()).into_iter().map(point));
        }
    }
    points.sort_unstable();
    points
}

/// "Maglev: A Fast and Reliable Software Network Load Balancer", §3.4, with weights: whoever has a smaller one waits for
/// its next turn as much longer.
fn table(candidates: &[Candidate]) -> Vec<usize> {
    struct Seat {
        offset: usize,
        skip: usize,
        next: usize,
        credit: u64,
        weight: u64,
    }
    let size = u64::try_from(TABLE).unwrap_or(u64::MAX);
    let within = |number: u64, size: u64| usize::try_from(number.checked_rem(size).unwrap_or(0)).unwrap_or(0);
    let most = candidates.iter().map(|candidate| u64::from(candidate.weight)).max().unwrap_or(1);
    let mut seats: Vec<Seat> = candidates
        .iter()
        .map(|candidate| {
            let numbers = numbers(candidate.name.as_bytes());
            let (offset, skip) = (numbers.first().copied().unwrap_or(0), numbers.get(1).copied().unwrap_or(0));
            let weight = u64::from(candidate.weight);
            Seat { offset: within(offset, size), skip: within(skip, size - 1) + 1, next: 0, credit: 0, weight }
        })
        .collect();
    let mut places: Vec<Option<usize>> = vec![None; TABLE];
    let mut filled = 0;
    while filled < TABLE && !seats.is_empty() {
        for (index, seat) in seats.iter_mut().enumerate() {
            seat.credit += seat.weight;
            if seat.credit < most {
                continue;
            }
            seat.credit -= most;
            while let Some(place) = places.get_mut((seat.offset + seat.next * seat.skip) % TABLE) {
                seat.next += 1;
                if place.is_none() {
                    *place = Some(index);
                    filled += 1;
                    break;
                }
            }
            if filled == TABLE {
                break;
            }
        }
    }
    places.into_iter().flatten().collect()
}
