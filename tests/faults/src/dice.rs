//! Random choices that a seed repeats.

use std::cell::Cell;
use std::time::Duration;

/// SplitMix64: short, and good enough to choose among nodes.
#[derive(Debug)]
pub struct Dice(Cell<u64>);

impl Dice {
    /// The choices of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    #[must_use]
    pub fn below(&self, bound: usize) -> usize {
        let drawn = u64::try_from(bound).ok().and_then(|bound| self.next().checked_rem(bound));
        drawn.and_then(|drawn| usize::try_from(drawn).ok()).unwrap_or(0)
    }

    /// One of these; `None` where there are none.
    pub fn pick<T: Copy>(&self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }

    /// True once in so many times.
    #[must_use]
    pub fn one_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A time from `least` to `most`.
    #[must_use]
    pub fn between(&self, least: Duration, most: Duration) -> Duration {
        let span = usize::try_from(most.saturating_sub(least).as_millis()).unwrap_or(usize::MAX);
        least + Duration::from_millis(u64::try_from(self.below(span)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices_and_another_one_others() {
        let drawn = |seed| {
            let dice = Dice::new(seed);
            (0..32).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        assert!(drawn(7).iter().all(|number| *number < 1000));
    }
}
