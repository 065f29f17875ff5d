//! Random choices that a seed repeats.

use std::cell::RefCell;
use std::time::Duration;

use fastrand::Rng;

/// Choices among nodes and times, shared by all who make them.
#[derive(Debug)]
pub struct Dice(RefCell<Rng>);

impl Dice {
    /// The choices of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(RefCell::new(Rng::with_seed(seed)))
    }

    /// A number below `bound`; 0 where that is 0.
    #[must_use]
    pub fn below(&self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.borrow_mut().usize(..bound) }
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
